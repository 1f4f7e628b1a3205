import pytest
import torch
from torch.nn import functional as F

from hf_e2kd.metrics import explanation_similarity


def test_cosine_by_hand():
    student = torch.tensor([[[3.0, 0.0], [0.0, 4.0]]])
    teacher = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])

    values, valid = explanation_similarity(student, teacher)

    assert values.item() == pytest.approx(3 / 5)
    assert valid.tolist() == [True]


def test_opposite_signed_maps_score_minus_one():
    maps = torch.tensor([[[1.0, -2.0], [0.5, 0.0]]])

    assert explanation_similarity(-maps, maps)[0].item() == pytest.approx(-1)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_scale_does_not_count(scale):
    """Squares of such values leave float32's range, so a plain cosine would give 0 or nan."""
    maps = torch.tensor([[[1.0, 2.0], [0.0, 1.0]]])

    assert explanation_similarity(scale * maps, maps)[0].item() == pytest.approx(1)


def test_only_an_empty_teacher_is_left_out_and_an_empty_student_scores_zero():
    """Leaving out empty students would make a student whose maps vanish look perfect."""
    full, empty = torch.ones(2, 2), torch.zeros(2, 2)

    values, valid = explanation_similarity(torch.stack([empty, full, empty]), torch.stack([full, empty, empty]))

    assert values.tolist() == [0, 0, 0]
    assert valid.tolist() == [True, False, False]


def test_a_coarse_map_is_enlarged_to_the_finer_grid():
    # Bilinear, cell centres aligned: the row [0, 1] becomes [0, 1/4, 3/4, 1].
    coarse = torch.tensor([[[0.0, 1.0]]])
    fine = torch.tensor([[[0.0, 0.0, 0.0, 1.0]]])

    expected = 1 / (1 / 16 + 9 / 16 + 1) ** 0.5
    assert explanation_similarity(coarse, fine)[0].item() == pytest.approx(expected)
    assert explanation_similarity(fine, coarse)[0].item() == pytest.approx(expected)


def test_half_precision_is_compared_in_float32_and_double_stays_double():
    maps = torch.rand(2, 3, 3)

    assert explanation_similarity(maps.bfloat16(), maps.bfloat16())[0].dtype == torch.float32
    assert explanation_similarity(maps.double(), maps.double())[0].dtype == torch.float64


def test_channels_are_refused():
    with pytest.raises(ValueError, match=r"student_maps must have the axes \(B, h, w\).*\(2, 1, 3, 3\)"):
        explanation_similarity(torch.rand(2, 1, 3, 3), torch.rand(2, 3, 3))


@pytest.mark.parametrize(("value", "message"), [(float("nan"), "NaN in the samples"), (float("inf"), "infinite")])
def test_values_without_a_cosine_are_refused(value, message):
    broken = torch.ones(2, 3, 3)
    broken[1, 0, 0] = value

    with pytest.raises(ValueError, match=f"teacher_maps holds {message}"):
        explanation_similarity(torch.ones(2, 3, 3), broken)


def test_other_batch_length_is_refused():
    with pytest.raises(ValueError, match="same samples"):
        explanation_similarity(torch.ones(2, 3, 3), torch.ones(1, 3, 3))


@pytest.mark.parametrize(("own", "other"), [((5, 5), (5, 5)), ((4, 5), (7, 3)), ((16, 20), (16, 20))])
def test_at_a_size_equals_enlarged_maps(own, other):
    """Prevents: a similarity on the maps' own grid (.605) where the paper code finds .719 at the image size."""
    student, teacher = torch.rand(3, *own), torch.rand(3, *other)
    large = [F.interpolate(maps[:, None], (16, 20), mode="bilinear").flatten(1) for maps in (student, teacher)]

    found, valid = explanation_similarity(student, teacher, (16, 20))

    torch.testing.assert_close(found, F.cosine_similarity(*large))
    assert valid.all()
