"""F1 and mean average precision as an `evaluate` module."""

# `evaluate` reads these lines as text, so each imports one thing.
from hf_e2kd.metrics.citations import MODEL_GUIDANCE
from hf_e2kd.metrics.f1_map.function import f1_map
from hf_e2kd.metrics.modules import LOGITS, MetricModule, as_tensors


class F1Map(MetricModule, citation=MODEL_GUIDANCE, columns=LOGITS):
    """Micro-F1 and mean average precision, where an image may show several classes.

    Args:
        predictions: the logits, a list of C numbers a sample.
        references: the labels, a list of C zeros and ones a sample.

    Returns:
        f1: micro-F1, between 0 and 1; a class is predicted where its logit is at least 0.
        map: the mean of the average precisions, between 0 and 1.
        average_precision: one value a class; nan for a class without a positive sample, which the mean leaves out.

    Example:
        >>> import evaluate
        >>> from hf_e2kd.metrics import metric_folder
        >>> metric = evaluate.load(metric_folder("f1_map"))
        >>> metric.compute(predictions=[[2.0, -1.0, 0.0], [-3.0, 1.0, -1.0]], references=[[1, 0, 0], [0, 1, 0]])
        {'f1': 0.8, 'map': 1.0, 'average_precision': [1.0, 1.0, nan]}
    """

    def _compute(self, predictions, references):
        return f1_map(*as_tensors(predictions, references))
