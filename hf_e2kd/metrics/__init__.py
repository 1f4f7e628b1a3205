"""Fidelity metrics: plain functions of tensors, and an `evaluate` module over each in the folder of its name.

`agreement`, `explanation_similarity`, `energy_pointing_game` and so on below are the **functions**. Each shares its
name with the folder it comes from, because `evaluate` requires a module's folder and script to bear the metric's name;
the functions are bound here, after their folders are imported, so the name always means the function.
Modules inside a folder are imported by their whole path, as `hf_e2kd.metrics.agreement.function`, which Python takes
from `sys.modules` and not from the attribute.
"""

from pathlib import Path

from ..choices import unknown_choice
from .agreement.function import agreement, label_agreement
from .binary_band_scores.function import binary_band_scores
from .class_similarity_entropy.function import class_similarity_entropy
from .energy_pointing_game.function import boxes_to_masks, energy_pointing_game
from .explanation_mse.function import explanation_mse
from .explanation_similarity.function import explanation_similarity
from .f1_map.function import f1_map
from .faithfulness import curve_area, mean_drop
from .five_band_score.function import five_band_score
from .localization import class_means
from .localization_iou.function import localization_iou
from .negative_flips.function import agreement_where_teacher_errs, negative_flips
from .pointing_accuracy.function import pointing_accuracy
from .score_correlations.function import score_correlations
from .superpixel_overlap.function import superpixel_overlap
from .word_attribution.function import word_attribution

__all__ = [
    "agreement",
    "agreement_where_teacher_errs",
    "binary_band_scores",
    "boxes_to_masks",
    "class_means",
    "class_similarity_entropy",
    "curve_area",
    "energy_pointing_game",
    "explanation_mse",
    "explanation_similarity",
    "f1_map",
    "five_band_score",
    "label_agreement",
    "localization_iou",
    "mean_drop",
    "metric_folder",
    "negative_flips",
    "pointing_accuracy",
    "score_correlations",
    "superpixel_overlap",
    "word_attribution",
]


def metric_folder(name: str) -> str:
    """The absolute folder of a metric, to be handed to `evaluate.load`.

    Args:
        name: "agreement", "binary_band_scores", "class_similarity_entropy", "energy_pointing_game",
            "explanation_mse", "explanation_similarity", "f1_map", "five_band_score", "localization_iou",
            "negative_flips", "pointing_accuracy", "score_correlations", "superpixel_overlap" or "word_attribution".

    Raises:
        ValueError: no metric has this name; the message lists those that exist.

    Example:
        >>> import evaluate
        >>> evaluate.load(metric_folder("agreement")).name
        'agreement'
    """
    scripts = Path(__file__).parent.glob("*/*.py")
    folders = {script.stem: script.parent for script in scripts if script.stem == script.parent.name}
    if name not in folders:
        raise ValueError(unknown_choice("metric", name, sorted(folders)))
    return str(folders[name])
