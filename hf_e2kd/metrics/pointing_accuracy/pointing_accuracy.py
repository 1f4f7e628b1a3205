"""Pointing accuracy as an `evaluate` module."""

# `evaluate` reads these lines as text, so each imports one thing.
from hf_e2kd.metrics.modules import MAPS, MetricModule, as_tensors, means
from hf_e2kd.metrics.pointing_accuracy.function import pointing_accuracy

_CITATION = r"""@inproceedings{zhang2016top,
    title = {Top-Down Neural Attention by Excitation Backprop},
    author = {Zhang, Jianming and Lin, Zhe and Brandt, Jonathan and Shen, Xiaohui and Sclaroff, Stan},
    booktitle = {European Conference on Computer Vision},
    year = {2016}
}"""


class PointingAccuracy(MetricModule, citation=_CITATION, columns=MAPS):
    """The share of explanations whose largest value lies on the object.

    Args:
        predictions: the maps, h rows of w numbers a sample, signed or not.
        references: the object's masks, H rows of W zeros and ones a sample.
        tolerance: distance from the object that still counts, in pixels of the mask (0 by default).
        classes: the class that each map explains, in the samples' order; for the means by class.

    Returns:
        pointing_accuracy: the mean over the samples, between 0 and 1; a map without positive values counts 0.
        pointing_accuracy_per_class: with `classes`, the mean over each class's samples.

    Example:
        >>> import evaluate
        >>> from hf_e2kd.metrics import metric_folder
        >>> metric = evaluate.load(metric_folder("pointing_accuracy"))
        >>> metric.compute(predictions=[[[3.0, 1.0], [-5.0, 0.0]]], references=[[[1, 0], [1, 0]]])
        {'pointing_accuracy': 1.0}
    """

    def _compute(self, predictions, references, tolerance=0, classes=None):
        values = pointing_accuracy(*as_tensors(predictions, references), tolerance)
        return means("pointing_accuracy", values, classes)
