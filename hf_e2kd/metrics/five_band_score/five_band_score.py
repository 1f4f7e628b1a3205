"""Five-band scores as an `evaluate` module."""

# `evaluate` reads these lines as text, so each imports one thing.
from hf_e2kd.metrics.citations import KD_INTERPRETABILITY, SYNTHESISED_TRUTH
from hf_e2kd.metrics.five_band_score.function import five_band_score
from hf_e2kd.metrics.modules import MAPS, MetricModule, as_tensors


class FiveBandScore(MetricModule, citation=SYNTHESISED_TRUTH + "\n" + KD_INTERPRETABILITY, columns=MAPS):
    """Pixel accuracy, recall, precision and false positive rate of maps, cut into five bands, against a ground truth.

    Args:
        predictions: the signed maps, H rows of W numbers a sample.
        references: the ground truth, H rows of W numbers a sample: 0 background, 1 localisation, 2 discriminative
            feature.
        soft: move the cuts towards 0 in 56 steps; the figures are then lists.

    Returns:
        pixel_accuracy, recall, precision, false_positive_rate: the means over the samples in which they are defined.

    Example:
        >>> import evaluate
        >>> from hf_e2kd.metrics import metric_folder
        >>> metric = evaluate.load(metric_folder("five_band_score"))
        >>> metric.compute(predictions=[[[1.0, 0.5, -0.9, -0.8]]], references=[[[2, 1, 0, 0]]])
        {'pixel_accuracy': 0.5, 'recall': 1.0, 'precision': 0.5, 'false_positive_rate': 1.0}
    """

    def _compute(self, predictions, references, soft=False):
        scores = five_band_score(*as_tensors(predictions, references), soft=soft)
        return {name: values.nanmean(dim=0).tolist() for name, values in scores.items()}
