"""Agreement as an `evaluate` module."""

# `evaluate` reads these lines as text, so each imports one thing.
from hf_e2kd.metrics.agreement.function import agreement, label_agreement
from hf_e2kd.metrics.citations import GOOD_TEACHERS_EXPLAIN
from hf_e2kd.metrics.modules import LOGITS, MetricModule, as_tensors, means


class Agreement(MetricModule, citation=GOOD_TEACHERS_EXPLAIN, columns=LOGITS):
    """The share of samples on which student and teacher choose the same class, or of labels decided alike.

    Args:
        predictions: the student's logits, a list of C numbers a sample.
        references: the teacher's logits, over the same classes in the same order.
        multi_label: true where each class is decided for itself, by the sign of its logit.

    Returns:
        agreement: the share of samples with equal argmax, between 0 and 1; of several labels, the share of equal
            decisions.
        agreement_per_label: with `multi_label`, the share of samples on which each label is decided alike, C numbers.

    Example:
        >>> import evaluate
        >>> from hf_e2kd.metrics import metric_folder
        >>> metric = evaluate.load(metric_folder("agreement"))
        >>> metric.compute(predictions=[[2.0, 1.0], [0.0, 3.0]], references=[[9.0, 0.0], [5.0, 4.0]])
        {'agreement': 0.5}
    """

    def _compute(self, predictions, references, multi_label=False):
        if not multi_label:
            return means("agreement", agreement(*as_tensors(predictions, references)))
        alike = label_agreement(*as_tensors(predictions, references)).double()
        return {"agreement": alike.mean().item(), "agreement_per_label": alike.mean(0).tolist()}
