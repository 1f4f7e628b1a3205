"""Fidelity of scores: of students with one logit, in the place of agreement and accuracy."""

import math
from collections.abc import Mapping

import numpy as np
import torch

from ..metrics import score_correlations
from ..metrics.running import SampleValues
from ..references import Reference, ReferenceOutput
from .record import MetricValue

SCORE, TEACHER_SCORE, LABEL_SCORE = "_score", "_teacher_score", "_label_score"
"""Columns of the samples' scores, which are no figures of their own."""


def sample_scores(
    scores: torch.Tensor,
    reference_outputs: Mapping[str, ReferenceOutput],
    references: Mapping[str, Reference],
    labels: torch.Tensor | None,
) -> dict[str, torch.Tensor]:
    """Scores and absolute errors by sample, (B,) each.

    Args:
        scores: (B, 1) logits of the student.
        reference_outputs: Outputs of the references by name.
        references: The references by name; with several, a value bears its reference's name.
        labels: (B,) or (B, 1) numbers; None where there are none.

    Returns:
        `mae` to the teacher's score, `label_mae` and `teacher_label_mae` to the label, and the scores themselves in the
        columns that `score_figures` reads.
    """
    own = scores[:, 0].float()
    values = {SCORE: own}
    truth = None if labels is None or labels.numel() != len(own) else labels.view(-1).float()
    if truth is not None:
        values |= {LABEL_SCORE: truth, "label_mae": (own - truth).abs()}
    for name, output in reference_outputs.items():
        if output.logits is None:
            continue
        suffix = "" if len(references) == 1 else f"_{name}"
        taught = output.logits[:, 0].float()
        values |= {f"{TEACHER_SCORE}{suffix}": taught, f"mae{suffix}": (own - taught).abs()}
        if truth is not None:
            values[f"teacher_label_mae{suffix}"] = (taught - truth).abs()
    return values


def score_figures(values: SampleValues, resamples: int = 0, seed: int = 0) -> dict[str, MetricValue]:
    """Correlations of all samples' scores, with intervals over the samples where these are resampled.

    Args:
        values: Values of `sample_scores`; another student's have a prefix that ends in a slash.
        resamples: Number of bootstrap resamples; 0 for none.

    Returns:
        By name: `pearson` and `spearman` with the teacher, `label_…` with the labels and `teacher_label_…` of the
        teacher. Undefined ones are left out.
    """
    names = set(values.names)
    found: dict[str, MetricValue] = {}
    for prefix in (name.removesuffix(SCORE) for name in values.names if name.split("/")[-1] == SCORE):
        student = f"{prefix}{SCORE}"
        found |= _correlated(values, student, f"{prefix}{LABEL_SCORE}", f"{prefix}label_", "", resamples, seed)
        for teacher in (name for name in names if name.startswith(f"{prefix}{TEACHER_SCORE}")):
            suffix = teacher.removeprefix(f"{prefix}{TEACHER_SCORE}")
            found |= _correlated(values, student, teacher, prefix, suffix, resamples, seed)
            if not prefix:
                found |= _correlated(values, teacher, LABEL_SCORE, "teacher_label_", suffix, resamples, seed)
    return found


def _correlated(
    values: SampleValues, first: str, second: str, prefix: str, suffix: str, resamples: int, seed: int
) -> dict[str, MetricValue]:
    if second not in values.names:
        return {}
    (one, counts), (other, other_counts) = values.of(first), values.of(second)
    kept = (counts > 0) & (other_counts > 0)
    pair = torch.as_tensor(np.stack([one[kept], other[kept]]))
    count, rng = pair.shape[1], np.random.default_rng(seed)
    drawn = [score_correlations(*pair[:, rng.integers(0, count, count)]) for _ in range(resamples)]
    figures = {}
    for name, value in score_correlations(*pair).items():
        if math.isnan(value):
            continue
        low, high = np.nanpercentile([each[name] for each in drawn], [2.5, 97.5]).tolist() if drawn else (None, None)
        figures[f"{prefix}{name}{suffix}"] = MetricValue(value, low, high, count)
    return figures
