import pytest
import torch

from hf_e2kd.metrics import agreement, class_similarity_entropy, label_agreement, negative_flips


def test_equal_top_classes_agree_whatever_the_scale():
    student = torch.tensor([[0.1, 0.2, 0.0], [5.0, 4.0, 9.0], [1.0, 0.0, 0.0]])
    teacher = torch.tensor([[-9.0, 90.0, 1.0], [0.0, 1.0, 0.5], [2.0, 1.0, 1.0]])

    assert agreement(student, teacher).tolist() == [True, False, True]


def test_half_precision_and_masked_classes_are_read():
    student = torch.tensor([[0.0, 1.0, float("-inf")]], dtype=torch.bfloat16)

    assert agreement(student, student).tolist() == [True]


def test_labels_are_decided_by_the_sign():
    """Prevents: several labels compared by the largest logit alone, which may be of the same label on both sides."""
    student = torch.tensor([[3.0, 1.0, -1.0], [0.0, -2.0, -1.0]])
    teacher = torch.tensor([[9.0, -1.0, -2.0], [1.0, -5.0, 0.5]])
    assert agreement(student, teacher)[0]
    assert label_agreement(student, teacher).tolist() == [[True, False, True], [True, True, False]]


def test_other_label_space_is_refused():
    with pytest.raises(ValueError, match="3 classes and teacher_logits 2"):
        agreement(torch.zeros(1, 3), torch.zeros(1, 2))


def test_other_batch_length_is_refused():
    with pytest.raises(ValueError, match="2 of the one and 3 of the other"):
        agreement(torch.zeros(2, 3), torch.zeros(3, 3))


def test_labels_instead_of_logits_are_refused():
    with pytest.raises(ValueError, match=r"student_logits must have the axes \(B, C\)"):
        agreement(torch.zeros(4), torch.zeros(4))


def test_nan_names_its_samples():
    logits = torch.zeros(4, 2)
    logits[2, 1] = float("nan")

    with pytest.raises(ValueError, match=r"teacher_logits holds NaN in the samples \[2\]"):
        agreement(torch.zeros(4, 2), logits)


def test_one_class_is_refused():
    """Prevents: an agreement of 1.000 and no negative flips of scores, whose top class is always the same."""
    scores, labels = torch.tensor([[0.5], [-2.0]]), torch.zeros(2, dtype=torch.long)
    for compared in (agreement, lambda *logits: negative_flips(*logits, labels)):
        with pytest.raises(ValueError, match="of one class, which both models always choose. Compare scores by score_"):
            compared(scores, -scores)
    with pytest.raises(ValueError, match="of one class, whose entropy is always 0"):
        class_similarity_entropy(scores, labels)
    assert label_agreement(scores, -scores).tolist() == [[False], [False]]
