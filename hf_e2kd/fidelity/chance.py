"""Similarities that explanations have for no good reason."""

import torch

from ..explainers import ExplainedOutput
from ..metrics import explanation_similarity
from ..references import ReferenceOutput
from ..terms.matching import comparable_values, flatten_targets
from .samples import as_map


def shuffled_similarity(
    explained: ExplainedOutput,
    reference_output: ReferenceOutput,
    size: tuple[int, int] | None,
    counted: int | None = None,
    seed: int = 0,
) -> torch.Tensor:
    """Compare the student's maps with the reference's of the batch's next sample, or, for texts, of shuffled words.

    Args:
        explained, reference_output: Explanations of the same targets (B,) or (B, K).
        size: Rows and columns at which maps of images are compared; None for their own grids.
        counted: Number of the batch's first samples that are measured; the others fill it up, and are nobody's next.
            None for all.
        seed: Seed of the words' orders, another one for each batch.

    Returns:
        (B,) or (B, K); NaN where there is nothing to compare.
    """
    target = reference_output.target
    counted = len(target) if counted is None else counted
    student, reference = comparable_values(*flatten_targets(explained, reference_output), size)
    if student.ndim == 2:
        # Another text's words have no places in this one; its own have, in another order.
        generator = torch.Generator().manual_seed(seed)
        shuffled = [shuffle_nonzero(row, generator) for row in reference.cpu()]
        reference = torch.stack(shuffled).to(reference.device)
    else:
        if counted < 2:
            return torch.full(target.shape, torch.nan, device=target.device)
        classes = 1 if target.ndim == 1 else target.shape[1]
        own, filling = reference[: counted * classes], reference[counted * classes :]
        reference = torch.cat([own.roll(classes, 0), filling])
    return similarity_by_target(student, reference, target)


def similarity_by_target(student: torch.Tensor, reference: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Compute the similarity of comparable values by the explained classes.

    Args:
        student, reference: Values of both sides, as `comparable_values` gives them for B·K targets.
        target: Explained classes (B,) or (B, K); −1 for none.

    Returns:
        (B,) or (B, K); NaN where there is nothing to compare.
    """
    similarity, valid = explanation_similarity(as_map(student), as_map(reference))
    values = torch.where(valid, similarity.float(), torch.nan).view(target.shape)
    return torch.where(target >= 0, values, torch.nan)


def shuffle_nonzero(scores: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Put the scores (words,) that aren't 0, of words and not of padding, in a random order."""
    places = scores.nonzero().flatten()
    shuffled = scores.clone()
    shuffled[places] = scores[places[torch.randperm(len(places), generator=generator)]]
    return shuffled
