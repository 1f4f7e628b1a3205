"""The base of the `evaluate` modules: what they tell of themselves, and their columns as tensors."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import evaluate
from torch import Tensor

from .inputs import column_to_tensor
from .localization import class_means

CLASS = datasets.Value("int64")
"""A column of one class a sample."""

NUMBER = datasets.Value("float64")
"""A column of one number a sample."""

NUMBERS = datasets.Sequence(NUMBER)
"""A column of one list of numbers a sample."""

LOGITS = {"predictions": NUMBERS, "references": NUMBERS}
"""The columns of a metric of two models' logits, or of logits and labels."""

MAPS = {"predictions": datasets.Sequence(NUMBERS), "references": datasets.Sequence(NUMBERS)}
"""The columns of a metric of maps, or of maps and masks: rows of numbers."""


# Abstract, because `evaluate` takes the first concrete metric that it finds in a module, imported ones included.
class MetricModule(evaluate.Metric, ABC):
    """A metric that `evaluate` loads, described by its docstring: one sentence, then its inputs.

    Args (of a subclass, as `class Agreement(MetricModule, citation=…, columns=LOGITS)`):
        citation: BibTeX of the metric's papers.
        columns: Type of each column by its name, `LOGITS` or `MAPS` among them.
    """

    papers: str
    columns: Mapping[str, Any]

    def __init_subclass__(cls, citation: str, columns: Mapping[str, Any]) -> None:
        cls.papers, cls.columns = citation, columns

    def _info(self) -> evaluate.MetricInfo:
        description, _, inputs = (inspect.getdoc(self) or "").partition("\n\n")
        return evaluate.MetricInfo(
            description=description,
            citation=self.papers,
            inputs_description=f"\n{inputs}\n",
            features=datasets.Features(self.columns),
        )

    @abstractmethod
    def _compute(self, *args: Any, **columns: Any) -> dict[str, Any]:
        """The metric of all samples, by the columns' names."""


def as_tensors(predictions: list, references: list) -> tuple[Tensor, Tensor]:
    """Convert both columns to float64 tensors (B, ...).

    Raises:
        ValueError: the samples of a column differ in shape.
    """
    return column_to_tensor("predictions", predictions), column_to_tensor("references", references)


def means(name: str, values: Tensor, classes: Sequence[int] | None = None) -> dict:
    """The mean of (B,) values by the metric's name and, with the samples' classes, that of each class."""
    per_class = {} if classes is None else {f"{name}_per_class": class_means(values, classes)}
    return {name: values.double().mean().item(), **per_class}
