"""Word-attribution quality as a plain function of ragged lists."""

import math
from collections.abc import Sequence

import numpy as np

SST_POLARITY = (-1, -1, 1, 1)
"""The polarity of the treebank's classes without neutral: very negative, negative, positive, very positive."""


def word_attribution(
    scores: Sequence[Sequence[float]],
    word_labels: Sequence[Sequence[int]],
    labels: Sequence[int],
    predictions: Sequence[int],
    *,
    class_polarity: Sequence[int] = SST_POLARITY,
    neutral: int = 2,
) -> dict[str, float]:
    """Accuracy and ranking of words' scores as predictions of whether a word agrees with its sentence's polarity.

    A word's target is whether its polarity is the sentence's. Its score is the signed attribution: above 0 for the
    sentence's class, below 0 against it. Counted are the words with a polarity in correctly predicted samples whose
    class has one, all in one pool.

    - accuracy: the share of words whose score has the target's sign; a score of 0 has neither, and is wrong.
    - AUROC, and AUPRC as average precision: scikit-learn's, of the scores against the targets.

    References:
        Han et al., "On the Impact of Knowledge Distillation for Model Interpretability", ICML 2023, on the Stanford
        Sentiment Treebank. That neutral words are left out and that a score of 0 is wrong are our decisions.

    Args:
        scores: one signed number a word, by sample, pieces of a word already summed. They explain the predicted
            class, which is the true one wherever a sample counts.
        word_labels: one polarity a word, by sample: below `neutral` negative, above it positive.
        labels: each sample's true class.
        predictions: each sample's predicted class.
        class_polarity: −1, 0 or 1 for each class, in the order of the labels: a negative one, one without polarity
            (its samples are left out), a positive one. The treebank's four classes by default; (−1, −1, 0, 1, 1) for
            all five, (−1, 1) for two.
        neutral: the label of words without polarity.

    Returns:
        `word_accuracy`, `word_auroc`, `word_auprc`: from 0 to 1. All nan where no word counts; the two areas are nan
        too where all counted words agree or all contradict, because a ranking needs both.
        `counted_words`, `counted_samples`: how many words were counted, and in how many samples they stand.

    Raises:
        ValueError: lengths differ, a score is not finite, or a class is outside `class_polarity`.

    Example:
        >>> result = word_attribution(
        ...     scores=[[0.1, 0.9, -0.3, 0.2], [0.4, -0.2, -0.1]],
        ...     word_labels=[[2, 4, 1, 3], [1, 2, 3]],
        ...     labels=[3, 0],
        ...     predictions=[3, 0],
        ... )
        >>> {name: round(value, 3) for name, value in result.items()}
        {'word_accuracy': 1.0, 'word_auroc': 1.0, 'word_auprc': 1.0, 'counted_words': 5, 'counted_samples': 2}
    """
    _check_lengths(scores=scores, word_labels=word_labels, labels=labels, predictions=predictions)
    polarity = np.asarray(class_polarity)
    if polarity.ndim != 1 or not np.isin(polarity, (-1, 0, 1)).all():
        raise ValueError(f"class_polarity is {class_polarity}. Give -1, 0 or 1 for each class, in the labels' order.")
    for name, classes in (("labels", labels), ("predictions", predictions)):
        unknown = sorted({int(value) for value in classes if not 0 <= int(value) < len(polarity)})
        if unknown:
            raise ValueError(
                f"{name} holds the classes {unknown[:8]}, but class_polarity names the classes 0 to "
                f"{len(polarity) - 1}. Give the polarity of each class, as (-1, -1, 0, 1, 1) for five."
            )

    kept_scores, targets, samples = [np.empty(0)], [np.empty(0, dtype=bool)], 0
    for number, (label, prediction) in enumerate(zip(labels, predictions, strict=True)):
        values, words = np.asarray(scores[number], dtype=np.float64), np.asarray(word_labels[number])
        if values.ndim != 1 or values.shape != words.shape:
            raise ValueError(
                f"Sample {number} has scores of shape {values.shape} and word_labels of shape {words.shape}. Give one "
                "number a word to both, pieces of words summed."
            )
        if not np.isfinite(values).all():
            raise ValueError(f"The scores of sample {number} hold NaN or infinite values; leave this sample out.")
        counted = words != neutral
        if label != prediction or polarity[label] == 0 or not counted.any():
            continue
        samples += 1
        kept_scores.append(values[counted])
        targets.append(np.sign(words[counted] - neutral) == polarity[label])
    return {**_figures(np.concatenate(kept_scores), np.concatenate(targets)), "counted_samples": samples}


def _figures(scores: np.ndarray, agrees: np.ndarray) -> dict[str, float]:
    from sklearn.metrics import average_precision_score, roc_auc_score

    accuracy = float((np.sign(scores) == np.where(agrees, 1, -1)).mean()) if len(scores) else math.nan
    # scikit-learn warns, or gives 0 or 1, where one of the two is missing.
    both = bool(agrees.any() and not agrees.all())
    return {
        "word_accuracy": accuracy,
        "word_auroc": float(roc_auc_score(agrees, scores)) if both else math.nan,
        "word_auprc": float(average_precision_score(agrees, scores)) if both else math.nan,
        "counted_words": len(scores),
    }


def _check_lengths(**columns: Sequence) -> None:
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{length} {name}" for name, length in lengths.items())
        raise ValueError(f"All inputs must describe the same samples, but there are {counts}.")
