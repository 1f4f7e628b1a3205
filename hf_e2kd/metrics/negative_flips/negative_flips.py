"""Negative flips as an `evaluate` module."""

# `evaluate` reads these lines as text, so each imports one thing.
import torch

from hf_e2kd.metrics.citations import POSITIVE_CONGRUENT
from hf_e2kd.metrics.modules import CLASS, LOGITS, MetricModule, as_tensors
from hf_e2kd.metrics.negative_flips.function import agreement_where_teacher_errs, negative_flips


class NegativeFlips(MetricModule, citation=POSITIVE_CONGRUENT, columns={**LOGITS, "labels": CLASS}):
    """The share of samples that the teacher gets right and the student wrong; and whose mistakes it repeats.

    Args:
        predictions: the student's logits, a list of C numbers a sample.
        references: the teacher's logits, over the same classes in the same order.
        labels: the true classes; what is none of them, as −100, doesn't count.

    Returns:
        negative_flips: the share of samples that the teacher gets right and the student wrong, between 0 and 1.
        agreement_where_teacher_errs: of the samples that the teacher gets wrong, the share on which the student makes
            the same mistake; nan where it gets none wrong.
        teacher_errors: how many samples the teacher gets wrong.

    Example:
        >>> import evaluate
        >>> from hf_e2kd.metrics import metric_folder
        >>> metric = evaluate.load(metric_folder("negative_flips"))
        >>> student, teacher = [[0, 1], [1, 0], [0, 1], [1, 0]], [[1, 0], [1, 0], [0, 1], [0, 1]]
        >>> metric.compute(predictions=student, references=teacher, labels=[0, 0, 0, 0])
        {'negative_flips': 0.25, 'agreement_where_teacher_errs': 0.5, 'teacher_errors': 2}
    """

    def _compute(self, predictions, references, labels):
        sides = (*as_tensors(predictions, references), torch.tensor(labels))
        mistakes = agreement_where_teacher_errs(*sides)
        return {
            "negative_flips": negative_flips(*sides).nanmean().item(),
            "agreement_where_teacher_errs": mistakes.nanmean().item(),
            "teacher_errors": int((~mistakes.isnan()).sum()),
        }
