"""The localisation IoU as an `evaluate` module."""

# `evaluate` reads these lines as text, so each imports one thing.
from hf_e2kd.metrics.citations import MODEL_GUIDANCE
from hf_e2kd.metrics.localization_iou.function import localization_iou
from hf_e2kd.metrics.modules import MAPS, MetricModule, as_tensors, means


class LocalizationIou(MetricModule, citation=MODEL_GUIDANCE, columns=MAPS):
    """The mean intersection over union of an explanation's strong part with the object's mask.

    Args:
        predictions: the maps, h rows of w numbers a sample, signed or not.
        references: the object's masks, H rows of W zeros and ones a sample.
        threshold: number that a pixel of the map, stretched from 0 to 1, must exceed (.5 by default); or "mean",
            "median" or "top5" for each map's own.
        classes: the class that each map explains, in the samples' order; for the means by class.

    Returns:
        localization_iou: the mean over the samples, between 0 and 1; a map without positive values counts 0.
        localization_iou_per_class: with `classes`, the mean over each class's samples.

    Example:
        >>> import evaluate
        >>> from hf_e2kd.metrics import metric_folder
        >>> metric = evaluate.load(metric_folder("localization_iou"))
        >>> metric.compute(predictions=[[[3.0, 1.0], [-5.0, 0.0]]], references=[[[1, 0], [1, 0]]])
        {'localization_iou': 0.5}
    """

    def _compute(self, predictions, references, threshold=0.5, classes=None):
        values = localization_iou(*as_tensors(predictions, references), threshold)
        return means("localization_iou", values, classes)
