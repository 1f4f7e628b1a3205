"""Explanation similarity as an `evaluate` module."""

# `evaluate` reads these lines as text, so each imports one thing.
from hf_e2kd.metrics.citations import GOOD_TEACHERS_EXPLAIN
from hf_e2kd.metrics.explanation_similarity.function import explanation_similarity
from hf_e2kd.metrics.explanation_similarity.measures import TOP_SHARE
from hf_e2kd.metrics.modules import MAPS, MetricModule, as_tensors


class ExplanationSimilarity(MetricModule, citation=GOOD_TEACHERS_EXPLAIN, columns=MAPS):
    """The mean similarity of the student's and the teacher's explanation maps, by default their cosine.

    Args:
        predictions: the student's maps, h rows of w numbers a sample, signed or not.
        references: the teacher's maps, h' rows of w' numbers a sample, for the same class of the same image.
        size: rows and columns of the image, to which the maps are enlarged before they are compared, as in the official
            code; by default they are compared on the larger of both grids.
        measure: "cosine", "pearson", "spearman", "ssim" or "top_k".
        top_share: the share of the cells that count as highest for "top_k".

    Returns:
        explanation_similarity: the mean over the samples whose teacher's map is not all zero, between −1 and 1; nan if
            there is no such sample.
        zero_teacher_share: the share of samples left out because the teacher's map is all zero.
        zero_student_share: the share of samples whose student's map is all zero; they score 0.

    Example:
        >>> import evaluate
        >>> from hf_e2kd.metrics import metric_folder
        >>> metric = evaluate.load(metric_folder("explanation_similarity"))
        >>> student = [[[3.0, 0.0], [0.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]]]
        >>> teacher = [[[1.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 0.0]]]
        >>> metric.compute(predictions=student, references=teacher)
        {'explanation_similarity': 0.3, 'zero_teacher_share': 0.0, 'zero_student_share': 0.5}
    """

    def _compute(self, predictions, references, size=None, measure="cosine", top_share=TOP_SHARE):
        student, teacher = as_tensors(predictions, references)
        values, valid = explanation_similarity(student, teacher, size, measure, top_share)
        return {
            "explanation_similarity": values[valid].mean().item(),
            "zero_teacher_share": (~valid).double().mean().item(),
            "zero_student_share": (~student.flatten(1).any(dim=1)).double().mean().item(),
        }
