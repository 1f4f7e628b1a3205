"""Class-similarity entropy as a plain function of tensors."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ...alignment.precision import at_least_float32
from ..inputs import check_batch, check_same_length


def class_similarity_entropy(
    logits: Tensor, labels: Tensor, categories: Tensor | None = None, classes: Sequence[int] | None = None
) -> dict[str, Tensor]:
    """Measure the entropy of a model's output over all classes, and over those of the true class's category.

    entire = −Σ_c p_c log₂ p_c with p = softmax(z) over all classes; category: the same with the softmax over the
    classes of the true class's category alone, that is p renormalised there. More entropy within the category, without
    more over all classes, says that the model knows which classes are alike.

    References:
        Han et al., "On the Impact of Knowledge Distillation for Model Interpretability", ICML 2023, Tables 2 and 12,
        averaged over samples that all models classify correctly; select these before. The paper gives no formula, and
        its figures can't all come from this one (a category's entropy above the entire one at confident outputs), so
        only figures of one definition may be compared.

    Args:
        logits: Logits (B, C).
        labels: True classes (B,), from 0 to C − 1.
        categories: Category of each class, (C,) whole numbers, −1 for classes that have none; see
            `hf_e2kd.data.read_categories`. None takes all classes for one category.
        classes: Restrict the second entropy to these classes, such as two that are easily confused, in the place of a
            category; samples of other classes don't count.

    Returns:
        `entire` and `category`, (B,) in bits, at least float32; `category` is nan where the true class has no category,
        or isn't one of `classes`, and 0 in a category of one class.

    Raises:
        ValueError: a shape is wrong, there is one class alone, a logit isn't finite, a label is out of range,
            categories are of other classes, or classes are out of range or repeated.

    Example:
        >>> logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 9.0, 9.0]])
        >>> found = class_similarity_entropy(logits, torch.tensor([0, 3]), torch.tensor([0, 0, -1, -1]))
        >>> found["entire"].round(decimals=2), found["category"]
        (tensor([2., 1.]), tensor([1., nan]))
    """
    check_batch("logits", logits, "(B, C)")
    check_batch("labels", labels, "(B,)")
    check_same_length("logits", logits, "labels", labels)
    if logits.shape[1] == 1:
        raise ValueError("logits are of one class, whose entropy is always 0. Give those of all classes.")
    if logits.isinf().any():
        raise ValueError("logits hold infinite values, which have no entropy. Leave masked classes out of the logits.")
    _check_classes("labels", labels, logits.shape[1])
    logits, labels = at_least_float32(logits), labels.long()
    if classes is None:
        groups = _groups(logits, categories)
        alike = (groups[labels][:, None] == groups) & (groups[labels] >= 0)[:, None]
    else:
        chosen = torch.as_tensor(classes, device=logits.device)
        _check_classes("classes", chosen, logits.shape[1])
        if len(chosen.unique()) < max(len(chosen), 1):
            raise ValueError(f"classes is {list(classes)}. Give each class once, and at least one.")
        member = torch.zeros(logits.shape[1], dtype=torch.bool, device=logits.device).index_fill(0, chosen, True)
        alike = member & member[labels][:, None]
    # A sample without a category has nothing but masked logits, whose softmax is nan.
    return {"entire": _entropy(logits), "category": _entropy(logits.masked_fill(~alike, -math.inf))}


def _entropy(logits: Tensor) -> Tensor:
    """The entropy (B,) in bits of the softmax of (B, C)."""
    return torch.special.entr(logits.softmax(dim=1)).sum(dim=1) / math.log(2)


def _groups(logits: Tensor, categories: Tensor | None) -> Tensor:
    count = logits.shape[1]
    if categories is None:
        return torch.zeros(count, dtype=torch.int64, device=logits.device)
    if categories.shape != (count,) or categories.is_floating_point() or (categories < -1).any():
        raise ValueError(
            f"categories is of shape {tuple(categories.shape)} and type {categories.dtype}, for {count} classes. Give "
            f"({count},) whole numbers, −1 for classes without a category; hf_e2kd.data.read_categories makes them."
        )
    return categories.to(logits.device)


def _check_classes(name: str, values: Tensor, count: int) -> None:
    if values.is_floating_point() or ((values < 0) | (values >= count)).any():
        wrong = values[(values < 0) | (values >= count)].tolist() or values[:5].tolist()
        raise ValueError(f"{name} holds {wrong[:5]}. Give classes of the logits, whole numbers from 0 to {count - 1}.")
