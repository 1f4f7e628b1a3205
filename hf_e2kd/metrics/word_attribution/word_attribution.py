"""Word attribution as an `evaluate` module."""

# `evaluate` reads these lines as text, so each imports one thing.
import datasets

from hf_e2kd.metrics.citations import KD_INTERPRETABILITY
from hf_e2kd.metrics.modules import CLASS, NUMBERS, MetricModule
from hf_e2kd.metrics.word_attribution.function import SST_POLARITY, word_attribution


class WordAttribution(
    MetricModule,
    citation=KD_INTERPRETABILITY,
    columns={
        "predictions": NUMBERS,
        "references": datasets.Sequence(CLASS),
        "labels": CLASS,
        "predicted_labels": CLASS,
    },
):
    """Accuracy and ranking of words' attributions as predictions of whether a word agrees with its sentence.

    Args:
        predictions: the words' signed scores for the predicted class, a list a sample.
        references: the words' polarities, a list a sample: below 2 negative, 2 neutral (left out), above 2 positive.
        labels: the samples' true classes.
        predicted_labels: the samples' predicted classes; only correctly predicted samples count.
        class_polarity: −1, 0 or 1 for each class, in the labels' order; by default (−1, −1, 1, 1), as the Stanford
            Sentiment Treebank's classes without neutral are ordered.

    Returns:
        word_accuracy: the share of words whose score has the sign of their target, + where the word's polarity is the
            sentence's and − where it is not.
        word_auroc, word_auprc: the areas under the curves of the scores against the targets; nan without words of both
            targets.
        counted_words, counted_samples: how many words were counted, and in how many samples.

    Example:
        >>> import evaluate
        >>> from hf_e2kd.metrics import metric_folder
        >>> metric = evaluate.load(metric_folder("word_attribution"))
        >>> metric.compute(
        ...     predictions=[[0.1, 0.9, -0.3, 0.2], [0.4, -0.2, -0.1]],
        ...     references=[[2, 4, 1, 3], [1, 2, 3]],
        ...     labels=[3, 0],
        ...     predicted_labels=[3, 0],
        ... )
        {'word_accuracy': 1.0, 'word_auroc': 1.0, 'word_auprc': 1.0, 'counted_words': 5, 'counted_samples': 2}
    """

    def _compute(self, predictions, references, labels, predicted_labels, class_polarity=SST_POLARITY):
        return word_attribution(predictions, references, labels, predicted_labels, class_polarity=class_polarity)
