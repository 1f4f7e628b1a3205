"""Superpixel overlap as an `evaluate` module."""

# `evaluate` reads these lines as text, so each imports one thing.
import datasets
import torch

from hf_e2kd.metrics.citations import X_DISTILLATION
from hf_e2kd.metrics.modules import LOGITS, MetricModule, as_tensors
from hf_e2kd.metrics.superpixel_overlap.function import superpixel_overlap


class SuperpixelOverlap(MetricModule, citation=X_DISTILLATION, columns={**LOGITS, "counted": datasets.Value("bool")}):
    """Share of the k most important superpixels that student and teacher have in common, with equal signs.

    Args:
        predictions: the sums of the student's map over each superpixel, K numbers a sample (0 of missing ones).
        references: the teacher's, over the same superpixels.
        counted: whether both models classify the sample correctly, a bool a sample; others don't count.
        k: the number of superpixels, 2 by default.

    Returns:
        superpixel_overlap: the mean over the counted samples, between 0 and 1; nan where there is none.
        counted_share: the share of the samples that count, and whose teacher's explanation isn't all zero.

    Example:
        >>> import evaluate
        >>> from hf_e2kd.metrics import metric_folder
        >>> metric = evaluate.load(metric_folder("superpixel_overlap"))
        >>> student, teacher = [[5, -4, 1], [1, 2, 0]], [[2, 3, 0], [1, 2, 0]]
        >>> metric.compute(predictions=student, references=teacher, counted=[True, False])
        {'superpixel_overlap': 0.5, 'counted_share': 0.5}
    """

    def _compute(self, predictions, references, counted, k=2):
        values = superpixel_overlap(*as_tensors(predictions, references), k, torch.tensor(counted))
        share = (~values.isnan()).double().mean().item()
        return {"superpixel_overlap": values.nanmean().item(), "counted_share": share}
