"""The energy pointing game as an `evaluate` module."""

# `evaluate` reads these lines as text, so each imports one thing.
from hf_e2kd.metrics.citations import MODEL_GUIDANCE, SCORE_CAM
from hf_e2kd.metrics.energy_pointing_game.function import energy_pointing_game
from hf_e2kd.metrics.modules import MAPS, MetricModule, as_tensors, means


class EnergyPointingGame(MetricModule, citation=SCORE_CAM + "\n" + MODEL_GUIDANCE, columns=MAPS):
    """The mean share of an explanation's positive energy that lies inside the object's mask.

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
        >>> metric.compute(predictions=[[[3.0, 1.0], [-4.0, 0.0]]], references=[[[1, 0], [1, 0]]])
        {'energy_pointing_game': 0.75}
    """

    def _compute(self, predictions, references, classes=None):
        values = energy_pointing_game(*as_tensors(predictions, references))
        return means("energy_pointing_game", values, classes)
