"""Titles and meanings of figures, chance levels, explainers and targets."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..fidelity.groups import WORST_GROUP, is_lower_better
from .escaping import one_line


@dataclass(frozen=True)
class Measure:
    """A kind of figure.

    Attributes:
        title: What it is called.
        meaning: What it is, as the end of a sentence; None of what this library doesn't know.
        teacher: The figure that stands in the teacher's column; None where the teacher has none of its own.
    """

    title: str
    meaning: str | None = None
    teacher: str | None = None


MEASURES = {
    "accuracy": Measure("Accuracy", "share of samples whose top class is their label", "teacher_accuracy"),
    "worst_class_accuracy": Measure("Accuracy, worst class", "the lowest among the classes with enough samples"),
    "f1": Measure("F1", "micro-averaged F1 of all decisions", "teacher_f1"),
    "map": Measure("mAP", "mean over the classes of their average precision", "teacher_map"),
    "agreement": Measure("Agreement", "share of samples on which student and teacher have the same top class"),
    "worst_class_agreement": Measure(
        "Agreement, worst class", "the lowest among the classes that the teacher predicts, with enough samples"
    ),
    "spearman": Measure("Spearman", "rank correlation of the student's and the teacher's scores"),
    "pearson": Measure("Pearson", "linear correlation of the student's and the teacher's scores"),
    "mae": Measure("Mean absolute error", "mean distance of the student's score from the teacher's: low is good"),
    "label_spearman": Measure("Spearman, labels", "rank correlation of scores and labels", "teacher_label_spearman"),
    "label_pearson": Measure("Pearson, labels", "linear correlation of scores and labels", "teacher_label_pearson"),
    "label_mae": Measure(
        "Mean absolute error, labels", "mean distance of score and label: low is good", "teacher_label_mae"
    ),
    "agreement_where_teacher_errs": Measure(
        "Agreement where the teacher errs",
        "share of the teacher's mistakes that the student makes too: high is faithful, not good",
    ),
    "negative_flips": Measure(
        "Negative flips", "share of samples that the teacher gets right and the student wrong: low is good"
    ),
    "kl": Measure("Divergence", "mean KL(teacher ‖ student) of the class probabilities, in nats: low is faithful"),
    "explanation_similarity": Measure(
        "Explanation similarity",
        "cosine of the student's and the teacher's explanation of the same class; 1 is the same up to scale",
    ),
    "deletion": Measure(
        "Deletion",
        "mean probability of the explained class while the pixels with the highest scores are taken out first: low is "
        "faithful to the model",
        "teacher_deletion",
    ),
    "insertion": Measure(
        "Insertion",
        "the same while they are put back into the blurred image: high is faithful to the model",
        "teacher_insertion",
    ),
    "comprehensiveness": Measure(
        "Comprehensiveness",
        "mean fall of the explained class's probability when the words with the highest scores are taken out: high is "
        "faithful to the model",
        "teacher_comprehensiveness",
    ),
    "sufficiency": Measure(
        "Sufficiency",
        "the same when these words alone are kept: low is faithful to the model",
        "teacher_sufficiency",
    ),
    "energy_pointing_game": Measure(
        "Energy in the object",
        "share of the explanation's positive energy that lies in the annotated object",
        "teacher_energy_pointing_game",
    ),
    "localization_iou": Measure(
        "IoU with the object",
        "overlap of the annotated object and the explanation's strong half",
        "teacher_localization_iou",
    ),
    "word_accuracy": Measure(
        "Word accuracy",
        "share of opinion words whose score has the sign that their polarity asks for",
        "teacher_word_accuracy",
    ),
    "word_auroc": Measure(
        "Word AUROC",
        "how well the scores tell words that speak for the sentence's class from those against it",
        "teacher_word_auroc",
    ),
    "word_auprc": Measure("Word AUPRC", "average precision of the same", "teacher_word_auprc"),
    "zero_student_maps": Measure(
        "Empty explanations", "share of samples whose explanation is zero everywhere: low is good", "zero_teacher_maps"
    ),
}

OF_PROBLEMS: Mapping[str, Mapping[str, Measure]] = {
    "multi_label_classification": {
        "agreement": Measure("Agreement", "share of decisions, class by class, that student and teacher make alike"),
    },
    "regression": {
        "explanation_similarity": Measure(
            "Explanation similarity",
            "cosine of the student's and the teacher's explanation of their scores; 1 is the same up to scale",
        ),
        "deletion": Measure(
            "Deletion",
            "mean of the model's score while the pixels that raise it most are taken out first: low is faithful to the "
            "model",
            "teacher_deletion",
        ),
        "comprehensiveness": Measure(
            "Comprehensiveness",
            "mean fall of the model's score when the words that raise it most are taken out: high is faithful to the "
            "model",
            "teacher_comprehensiveness",
        ),
    },
}
"""Figures that mean something else than of classes that exclude each other, by problem."""

CHANCE = {
    "image": {"shuffled": "another image's explanation", "untrained": "an untrained student"},
    "text": {"shuffled": "the teacher's scores in another order", "untrained": "an untrained student"},
}
"""Chance levels of the similarity, by modality."""

CONTROLS = {
    "sigma": "the teacher itself under noise of {}/255",
    "pixels": "the teacher itself, the image shifted by {} px",
    "appended": "the teacher itself, “{}” after the last word",
}
"""Control, by the option that says how large its change is."""

RANDOM_ORDER = {"image": "pixels in a random order", "text": "words in a random order"}
"""Chance level of the faithfulness, by modality."""

OF_EACH_EXPLAINER = ("explanation_similarity", "deletion", "insertion", "comprehensiveness", "sufficiency")
"""Figures that a card shows of held-out explainers too."""

TARGETS = {"teacher_top": "the class that the teacher predicts", "label": "the labelled class"}
"""The explained class, by its rule; a regressor has but one."""

EXPLAINERS = {
    "attention_gradient": "attention weighted by its gradient",
    "attention_rollout": "attention rollout",
    "bcos": "B-cos",
    "gradcam": "GradCAM",
    "hires_cam": "HiResCAM",
    "input_x_gradient": "Input × Gradient",
    "integrated_gradients": "Integrated Gradients",
    "layer_cam": "LayerCAM",
    "lrp": "relevance propagation",
    "gradient_shap": "Gradient SHAP",
    "kernel_shap": "KernelSHAP",
    "lime": "LIME",
    "occlusion": "occlusion",
    "rise": "RISE",
    "saliency": "saliency",
}


def control_title(options: Mapping[str, Any]) -> str:
    """Name a control by its options, as a record states them."""
    found = [phrase.format(options[size]) for size, phrase in CONTROLS.items() if size in options]
    return one_line(found[0] if found else f"the teacher itself, {options}")


def measure_named(name: str, problem: str | None = None) -> Measure:
    """Look a figure's title and meaning up by the name that a record has it under.

    Args:
        name: The figure's name.
        problem: Problem of the record.
    """
    known = {**MEASURES, **OF_PROBLEMS.get(problem or "", {})}
    of_all = known.get(name.removeprefix(WORST_GROUP))
    if name.startswith(WORST_GROUP) and of_all is not None:
        extreme = "highest" if is_lower_better(name) else "lowest"
        return Measure(f"{of_all.title}, worst group", f"the {extreme} among the groups with enough samples")
    return known.get(name) or Measure(one_line(name))
