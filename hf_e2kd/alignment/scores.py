"""Models that give one score in place of classes: regressors and rerankers."""

from torch import nn

from .labels import LabelAlignment


def is_regression(model: nn.Module) -> bool:
    """Tell whether a model's configuration states `problem_type="regression"`."""
    return getattr(getattr(model, "config", None), "problem_type", None) == "regression"


def refuse_one_shared_class(alignment: LabelAlignment) -> None:
    """Refuse two models that share one class of several, whose softmax over the shared classes is always 1.

    Raises:
        ValueError: with the remedy.
    """
    if len(alignment.student) == 1 and (alignment.student_classes > 1 or alignment.teacher_classes > 1):
        raise ValueError(
            f"Teacher and student share one class alone, of the teacher's {alignment.teacher_classes} and the "
            f"student's {alignment.student_classes}, so they agree on every sample and nothing is distilled. Give both "
            "the same names in `id2label`, or, for a score, both one logit (num_labels=1)."
        )
