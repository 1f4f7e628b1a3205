"""Score correlations as an `evaluate` module."""

# `evaluate` reads these lines as text, so each imports one thing.
from hf_e2kd.metrics.modules import NUMBER, MetricModule, as_tensors
from hf_e2kd.metrics.score_correlations.function import score_correlations


class ScoreCorrelations(
    MetricModule,
    citation="",
    columns={"predictions": NUMBER, "references": NUMBER},
):
    """Pearson's and Spearman's correlation of two models' scores, and their mean absolute difference.

    Args:
        predictions: the student's scores, a number a sample.
        references: the teacher's scores of the same samples, or the labels.

    Returns:
        pearson: the linear correlation, from -1 to 1; nan for fewer than two samples and for a constant side.
        spearman: the correlation of the ranks, from -1 to 1; nan in the same cases.
        mae: the mean absolute difference of the scores, in their unit.

    Example:
        >>> import evaluate
        >>> from hf_e2kd.metrics import metric_folder
        >>> metric = evaluate.load(metric_folder("score_correlations"))
        >>> found = metric.compute(predictions=[1.0, 2.0, 4.0], references=[0.0, 3.0, 4.0])
        >>> {name: round(value, 3) for name, value in found.items()}
        {'pearson': 0.891, 'spearman': 1.0, 'mae': 0.667}
    """

    def _compute(self, predictions, references):
        scores, others = as_tensors(predictions, references)
        return {**score_correlations(scores, others), "mae": (scores - others).abs().mean().item()}
