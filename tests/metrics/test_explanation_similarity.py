import pytest
import torch
from skimage.metrics import structural_similarity
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


# ---- Other measures --------------------------------------------------------------------------------------------------

STUDENT = torch.tensor([[[1.0, 2.0, 2.0], [4.0, 0.0, 8.0]]])
TEACHER = torch.tensor([[[0.0, 1.0, 3.0], [3.0, 2.0, 9.0]]])


@pytest.mark.parametrize(
    ("measure", "expected"),
    [
        # Σ ab / √(Σ a² Σ b²)
        ("cosine", 92 / (89 * 104) ** 0.5),
        # the same of a − 17/6 and b − 3
        ("pearson", (92 - 17 * 18 / 6) / ((89 - 17**2 / 6) * (104 - 18**2 / 6)) ** 0.5),
        # ranks 2, 3.5, 3.5, 5, 1, 6 and 1, 2, 4.5, 4.5, 3, 6, about 3.5
        ("spearman", 12.75 / (17 * 17) ** 0.5),
        # the highest two of six, 8 and 4, and 9 and 3 (the first of two equal ones is the student's 2)
        ("top_k", 0.5),
    ],
)
def test_measures_by_hand(measure, expected):
    """Prevents: a correlation with the means left in, or ranks of ties in the order of the cells."""
    values, valid = explanation_similarity(STUDENT, TEACHER, measure=measure, top_share=0.3)
    assert values.item() == pytest.approx(expected, abs=1e-6) and valid.all()
    found = explanation_similarity(7 * STUDENT, TEACHER / 3, measure=measure, top_share=0.3)[0]
    assert found.item() == pytest.approx(expected, abs=1e-6)


def test_top_k_counts_the_common_cells():
    teacher = torch.tensor([[[4.0, 3.0], [2.0, 1.0]]])
    student = torch.tensor([[[1.0, 3.0], [4.0, 2.0]]])
    for share, expected in ((0.25, 0.0), (0.5, 0.5), (0.75, 2 / 3), (1.0, 1.0)):
        found = explanation_similarity(student, teacher, measure="top_k", top_share=share)[0]
        assert found.item() == pytest.approx(expected)


def test_ssim_of_one_window_is_its_formula():
    """Prevents: variances of a population for those of a sample, or constants of another range."""
    first, second = torch.rand(1, 7, 7, dtype=torch.float64), torch.rand(1, 7, 7, dtype=torch.float64)
    first[0, 0, 0] = second[0, 3, 3] = 1.0
    a, b = first.flatten(), second.flatten()
    c1, c2 = 0.02**2, 0.06**2
    covariance = ((a - a.mean()) * (b - b.mean())).sum() / 48
    expected = (2 * a.mean() * b.mean() + c1) * (2 * covariance + c2)
    expected /= (a.mean() ** 2 + b.mean() ** 2 + c1) * (a.var() + b.var() + c2)
    found = explanation_similarity(first, second, measure="ssim")[0]
    assert found.item() == pytest.approx(expected.item(), abs=1e-12)
    assert explanation_similarity(5 * first, first, measure="ssim")[0].item() == pytest.approx(1)


def test_ssim_is_that_of_scikit_image():
    """Against an independent implementation."""
    first, second = (torch.randn(3, 20, 14, dtype=torch.float64) for _ in range(2))
    first, second = (maps / maps.abs().amax((1, 2), keepdim=True) for maps in (first, second))
    expected = [structural_similarity(a.numpy(), b.numpy(), data_range=2) for a, b in zip(first, second, strict=True)]
    # scikit-image averages windows without those that reach beyond the edge, as we do.
    assert explanation_similarity(first, second, measure="ssim")[0].tolist() == pytest.approx(expected)


def test_maps_without_a_rank_or_a_direction():
    """Prevents: a correlation that is undefined, or of rounding errors, counted as agreement or as a teacher's map."""
    flat, empty, full = torch.ones(1, 3, 3), torch.zeros(1, 3, 3), torch.rand(1, 3, 3)
    for measure in ("pearson", "spearman"):
        assert explanation_similarity(full, flat, measure=measure)[1].tolist() == [False]
        values, valid = explanation_similarity(flat, full, measure=measure)
        assert values.tolist() == [0] and valid.tolist() == [True]
        rounded = flat / 49 * (1 + torch.finfo(torch.float32).eps * torch.randint(-2, 3, flat.shape))
        assert explanation_similarity(full, rounded, measure=measure)[1].tolist() == [False]
        assert explanation_similarity(rounded, full, measure=measure)[0].tolist() == [0]
    for measure in ("cosine", "pearson", "spearman", "ssim", "top_k"):
        values, valid = explanation_similarity(torch.cat([empty, full]), torch.cat([full, empty]), measure=measure)
        assert values.tolist() == [0, 0] and valid.tolist() == [True, False]


def test_measures_at_a_size_are_those_of_enlarged_maps():
    """Prevents: correlations over the small maps' cells where the image's were asked for."""
    student, teacher = torch.rand(2, 3, 4), torch.rand(2, 5, 5)
    large = [F.interpolate(maps[:, None], (10, 12), mode="bilinear")[:, 0] for maps in (student, teacher)]
    found = explanation_similarity(student, teacher, (10, 12), "pearson")[0]
    torch.testing.assert_close(found, explanation_similarity(*large, measure="pearson")[0])


def test_unknown_measures_are_refused():
    with pytest.raises(ValueError, match="Unknown measure 'kendall'. Available: cosine, pearson, spearman"):
        explanation_similarity(STUDENT, TEACHER, measure="kendall")
    with pytest.raises(ValueError, match="top_share is the share of cells that count"):
        explanation_similarity(STUDENT, TEACHER, measure="top_k", top_share=2)
