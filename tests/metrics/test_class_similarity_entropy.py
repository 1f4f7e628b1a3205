"""The entropy over all classes and within a category, by values worked out by hand."""

import math

import pytest
import torch

from hf_e2kd.metrics import class_similarity_entropy

# softmax: 1/2, 1/4, 1/8, 1/8.
LOGITS = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log() + 7


def bits(*shares: float) -> float:
    return -sum(share * math.log2(share) for share in shares)


def test_entropies_by_hand():
    categories = torch.tensor([3, 3, 0, 0])
    found = class_similarity_entropy(LOGITS.repeat(2, 1), torch.tensor([1, 2]), categories)
    assert found["entire"].tolist() == pytest.approx([1.75, 1.75])
    # Renormalised: 2/3 and 1/3, and 1/2 and 1/2.
    assert found["category"].tolist() == pytest.approx([bits(2 / 3, 1 / 3), 1.0])


def test_one_category_is_all_classes():
    found = class_similarity_entropy(LOGITS, torch.tensor([0]))
    assert torch.equal(found["entire"], found["category"])


def test_classes_without_a_category_do_not_count():
    """Prevents: all classes of no category taken for one that is alike."""
    found = class_similarity_entropy(LOGITS.repeat(3, 1), torch.tensor([0, 1, 2]), torch.tensor([-1, 5, -1, 5]))
    assert found["category"].isnan().tolist() == [True, False, True]
    assert found["category"][1].item() == pytest.approx(bits(2 / 3, 1 / 3))
    assert class_similarity_entropy(LOGITS, torch.tensor([2]), torch.tensor([0, 0, 1, 0]))["category"].item() == 0


def test_a_pair_of_classes():
    found = class_similarity_entropy(LOGITS.repeat(3, 1), torch.tensor([0, 2, 3]), classes=[2, 0])
    assert found["category"][:2].tolist() == pytest.approx([bits(4 / 5, 1 / 5)] * 2)
    assert found["category"][2].isnan() and found["entire"][2].item() == pytest.approx(1.75)


def test_confident_outputs_have_no_entropy():
    """Prevents: 0 · log 0, which is nan."""
    found = class_similarity_entropy(torch.tensor([[1e4, 0.0, -1e4]]), torch.tensor([0]), torch.tensor([0, 0, 1]))
    assert found["entire"].item() == found["category"].item() == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": torch.tensor([4])}, r"labels holds \[4\]. Give classes of the logits, whole numbers from 0 to 3"),
        ({"labels": torch.tensor([-100])}, r"labels holds \[-100\]"),
        ({"labels": torch.tensor([0.5])}, r"labels holds \[0.5\]"),
        ({"labels": torch.tensor([0, 1])}, "1 of the one and 2 of the other"),
        ({"categories": torch.tensor([0, 0, 1])}, r"shape \(3,\) and type torch.int64, for 4 classes"),
        ({"categories": torch.tensor([0, 0, 1, -2])}, "−1 for classes without a category"),
        ({"categories": torch.zeros(4)}, "type torch.float32"),
        ({"classes": [0, 4]}, r"classes holds \[4\]"),
        ({"classes": [1, 1]}, "Give each class once"),
        ({"logits": torch.tensor([[0.0, math.nan]])}, "logits holds NaN"),
        ({"logits": torch.tensor([[0.0, -math.inf]])}, "logits hold infinite values"),
    ],
)
def test_bad_inputs_say_what_is_expected(changes, message):
    with pytest.raises(ValueError, match=message):
        class_similarity_entropy(**{"logits": LOGITS, "labels": torch.tensor([0]), **changes})
