"""Class-similarity entropy as an `evaluate` module."""

# `evaluate` reads these lines as text, so each imports one thing.
import torch

from hf_e2kd.metrics.citations import KD_INTERPRETABILITY
from hf_e2kd.metrics.class_similarity_entropy.function import class_similarity_entropy
from hf_e2kd.metrics.inputs import column_to_tensor
from hf_e2kd.metrics.modules import CLASS, NUMBERS, MetricModule


class ClassSimilarityEntropy(
    MetricModule, citation=KD_INTERPRETABILITY, columns={"predictions": NUMBERS, "references": CLASS}
):
    """The mean entropy of a model's outputs over all classes, and over those of the true class's category, in bits.

    Args:
        predictions: the logits, a list of C numbers a sample.
        references: the true classes.
        categories: the category of each of the C classes, −1 for none; without it all classes are one category.
        classes: restrict the second entropy to these classes, in the place of a category.

    Returns:
        entire_entropy: the mean over all samples.
        category_entropy: the mean over the samples whose class has a category; nan without any.
        samples_in_categories: how many these are.

    Example:
        >>> import evaluate
        >>> from hf_e2kd.metrics import metric_folder
        >>> metric = evaluate.load(metric_folder("class_similarity_entropy"))
        >>> metric.compute(predictions=[[1.0, 1.0, 1.0, 1.0]], references=[0], categories=[0, 0, 1, 1])
        {'entire_entropy': 2.0, 'category_entropy': 1.0, 'samples_in_categories': 1}
    """

    def _compute(self, predictions, references, categories=None, classes=None):
        found = class_similarity_entropy(
            column_to_tensor("predictions", predictions),
            torch.tensor(references),
            None if categories is None else torch.as_tensor(categories),
            classes,
        )
        return {
            "entire_entropy": found["entire"].mean().item(),
            "category_entropy": found["category"].nanmean().item(),
            "samples_in_categories": int((~found["category"].isnan()).sum()),
        }
