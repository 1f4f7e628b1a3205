"""Binary band scores as an `evaluate` module."""

# `evaluate` reads these lines as text, so each imports one thing.
from hf_e2kd.metrics.binary_band_scores.function import binary_band_scores
from hf_e2kd.metrics.citations import KD_INTERPRETABILITY, SYNTHESISED_TRUTH
from hf_e2kd.metrics.modules import MAPS, MetricModule, as_tensors


class BinaryBandScores(MetricModule, citation=SYNTHESISED_TRUTH + "\n" + KD_INTERPRETABILITY, columns=MAPS):
    """Attribution maps as detectors of the object, and of the part that tells its class, over all pixels.

    Args:
        predictions: the maps, H rows of W numbers a sample.
        references: the ground truth, H rows of W numbers a sample: 0 background, 1 localisation, 2 discriminative
            feature.

    Returns:
        object_…, discriminative_…: auroc, auprc, precision, recall, f1 (means over 100 thresholds), max_precision,
            max_recall and max_f1, between 0 and 1.
        samples_with_object: how many samples they rest on.

    Example:
        >>> import evaluate
        >>> from hf_e2kd.metrics import metric_folder
        >>> metric = evaluate.load(metric_folder("binary_band_scores"))
        >>> found = metric.compute(predictions=[[[1.0, 0.5, 0.2, 0.0]]], references=[[[2, 0, 1, 0]]])
        >>> found["object_auroc"], found["discriminative_auroc"]
        (0.75, 1.0)
    """

    def _compute(self, predictions, references):
        return binary_band_scores(*as_tensors(predictions, references))
