"""The energy pointing game as an `evaluate` module."""

# `evaluate` reads these lines as text, so each imports one thing.
import evaluate

from hf_e2kd.metrics.citations import MODEL_GUIDANCE, SCORE_CAM
from hf_e2kd.metrics.energy_pointing_game.function import energy_pointing_game
from hf_e2kd.metrics.modules import as_tensors, means, metric_info

_DESCRIPTION = "The mean share of an explanation's positive energy that lies inside the object's mask."

_INPUTS = """
Args:
    predictions: the maps, h rows of w numbers a sample, signed or not.
    references: the object's masks, H rows of W zeros and ones a sample.
    classes: the class that each map explains, in the samples' order; for the means by class.

Returns:
    energy_pointing_game: the mean share of positive energy inside the mask, between 0 and 1; a map without positive
        energy counts 0.
    energy_pointing_game_per_class: with `classes`, the mean over each class's samples.

Example:
    >>> import evaluate
    >>> from hf_e2kd.metrics import metric_folder
    >>> metric = evaluate.load(metric_folder("energy_pointing_game"))
    >>> metric.compute(predictions=[[[3.0, 1.0], [-5.0, 0.0]]], references=[[[1, 0], [1, 0]]])
    {'energy_pointing_game': 0.75}
"""


class EnergyPointingGame(evaluate.Metric):
    __doc__ = _DESCRIPTION + "\n" + _INPUTS

    def _info(self):
        return metric_info(_DESCRIPTION, SCORE_CAM + "\n" + MODEL_GUIDANCE, _INPUTS, axes=2)

    def _compute(self, predictions, references, classes=None):
        values = energy_pointing_game(*as_tensors(predictions, references))
        return means("energy_pointing_game", values, classes)
