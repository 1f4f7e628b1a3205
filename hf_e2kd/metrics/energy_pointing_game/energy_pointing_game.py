"""The energy pointing game as an `evaluate` module."""

# `evaluate` reads these lines as text, so each imports one thing.
import datasets
import evaluate

from hf_e2kd.metrics.citations import MODEL_GUIDANCE, SCORE_CAM
from hf_e2kd.metrics.energy_pointing_game.function import energy_pointing_game
from hf_e2kd.metrics.inputs import column_to_tensor

_DESCRIPTION = "The mean share of an explanation's positive energy that lies inside the object's mask."

_INPUTS = """
Args:
    predictions: the maps, h rows of w numbers a sample, signed or not.
    references: the object's masks, H rows of W zeros and ones a sample.

Returns:
    energy_pointing_game: the mean share of positive energy inside the mask, between 0 and 1; a map without positive
        energy counts 0.

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
        grid = datasets.Sequence(datasets.Sequence(datasets.Value("float64")))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=SCORE_CAM + "\n" + MODEL_GUIDANCE,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": grid, "references": grid}),
        )

    def _compute(self, predictions, references):
        maps = column_to_tensor("predictions", predictions)
        masks = column_to_tensor("references", references)
        return {"energy_pointing_game": energy_pointing_game(maps, masks).mean().item()}
