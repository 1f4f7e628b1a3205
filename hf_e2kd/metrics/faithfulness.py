"""Figures of a class's probability while parts of the input are taken out, as plain functions of tensors."""

from torch import Tensor

from .inputs import check_batch, check_same_length


def curve_area(values: Tensor) -> Tensor:
    """Area below curves over equal steps from 0 to 1, by the trapezoid rule: of deletion, low is faithful.

    References:
        Petsiuk et al., "RISE", BMVC 2018, section 4.2: the areas of deletion and insertion.

    Args:
        values: `(B, steps + 1)` probabilities.

    Returns:
        `(B,)`.

    Raises:
        ValueError: fewer than two values a curve, or NaN.

    Example:
        >>> import torch
        >>> curve_area(torch.tensor([[1.0, 0.5, 0.0]]))
        tensor([0.5000])
    """
    check_batch("values", values, "(B, steps + 1)")
    if values.shape[1] < 2:
        raise ValueError(f"A curve has at least two values, not {values.shape[1]}.")
    return (values[:, 1:] + values[:, :-1]).mean(dim=1) / 2


def mean_drop(whole: Tensor, changed: Tensor) -> Tensor:
    """Mean fall of the probability over several changed inputs (AOPC).

    Comprehensiveness, where the words with the highest scores are taken out (high is faithful), and sufficiency, where
    they alone are kept (low is faithful).

    References:
        DeYoung et al., "ERASER: A Benchmark to Evaluate Rationalized NLP Models", ACL 2020, section 4.2.

    Args:
        whole: `(B,)` probabilities for the inputs as they are.
        changed: `(B, F)` probabilities for the inputs with F shares of their parts taken out.

    Returns:
        `(B,)`.

    Raises:
        ValueError: the batches differ in length, or a value is NaN.

    Example:
        >>> import torch
        >>> mean_drop(torch.tensor([0.75]), torch.tensor([[0.5, 0.0]]))
        tensor([0.5000])
    """
    check_batch("whole", whole, "(B,)")
    check_batch("changed", changed, "(B, F)")
    check_same_length("whole", whole, "changed", changed)
    return whole - changed.mean(dim=1)
