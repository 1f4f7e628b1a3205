"""What the `evaluate` modules share.

`evaluate` takes the first subclass of its `Metric` that it finds in a module for the metric itself, imported ones too,
so these are functions and no base class.
"""

from collections.abc import Sequence

import datasets
import evaluate
from torch import Tensor

from .inputs import column_to_tensor
from .localization import class_means


def metric_info(
    description: str, citation: str, inputs: str, axes: int = 1, **labels: datasets.Value
) -> evaluate.MetricInfo:
    """What a module says of itself, where `predictions` and `references` are alike.

    Args:
        axes: Of a sample's numbers: 1 for a list (logits), 2 for rows (maps, masks).
        labels: Further columns.
    """
    numbers = datasets.Value("float64")
    for _ in range(axes):
        numbers = datasets.Sequence(numbers)
    return evaluate.MetricInfo(
        description=description,
        citation=citation,
        inputs_description=inputs,
        features=datasets.Features({"predictions": numbers, "references": numbers, **labels}),
    )


def as_tensors(predictions: list, references: list) -> tuple[Tensor, Tensor]:
    """Both columns as float64 tensors (B, ...).

    Raises:
        ValueError: the samples of a column differ in shape.
    """
    return column_to_tensor("predictions", predictions), column_to_tensor("references", references)


def means(name: str, values: Tensor, classes: Sequence[int] | None = None) -> dict:
    """The mean of (B,) values by the metric's name and, with the samples' classes, that of each class."""
    per_class = {} if classes is None else {f"{name}_per_class": class_means(values, classes)}
    return {name: values.double().mean().item(), **per_class}
