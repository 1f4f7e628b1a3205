"""Explanation MSE as an `evaluate` module."""

# `evaluate` reads these lines as text, so each imports one thing.
import datasets
import torch

from hf_e2kd.metrics.citations import X_DISTILLATION
from hf_e2kd.metrics.explanation_mse.function import explanation_mse
from hf_e2kd.metrics.modules import MAPS, MetricModule, as_tensors


class ExplanationMSE(MetricModule, citation=X_DISTILLATION, columns={**MAPS, "counted": datasets.Value("bool")}):
    """Mean squared difference of student's and teacher's superpixel maps, over the samples that both classify alike.

    Args:
        predictions: the student's superpixel maps, H rows of W numbers a sample.
        references: the teacher's, on the same superpixels and in the same unit.
        counted: whether both models choose the same class, a bool a sample; others don't count.

    Returns:
        explanation_mse: the mean over the counted samples; nan where there is none.
        counted_share: the share of the samples that count.

    Example:
        >>> import evaluate
        >>> from hf_e2kd.metrics import metric_folder
        >>> metric = evaluate.load(metric_folder("explanation_mse"))
        >>> metric.compute(predictions=[[[1, 1]], [[0, 2]]], references=[[[0, 2]], [[0, 4]]], counted=[True, False])
        {'explanation_mse': 1.0, 'counted_share': 0.5}
    """

    def _compute(self, predictions, references, counted):
        counted = torch.tensor(counted)
        values = explanation_mse(*as_tensors(predictions, references), counted)
        return {"explanation_mse": values.nanmean().item(), "counted_share": counted.double().mean().item()}
