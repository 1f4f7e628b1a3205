"""The list of a data set's samples: compared by one explainer, summarised, put in an order and filtered."""

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from tqdm.auto import tqdm

from ..fidelity.chance import shuffle_nonzero
from .comparison import Comparison, Pair, first_synonym
from .settings import Viewing

T = TypeVar("T")
BATCH = 8  # samples that are explained at once


@dataclass(frozen=True)
class Listing:
    """Comparisons of a data set's samples, each on the teacher's top class.

    Args:
        explainer: Name of the method.
        comparisons: Comparisons, those that agree least first.
        left_out: Messages on the samples that are missing, with the reasons.
        chance: Mean similarity by chance, as in `Comparison`; None of a single image, or where all maps are empty.
    """

    explainer: str
    comparisons: list[Comparison]
    left_out: list[str]
    chance: float | None

    @property
    def positions(self) -> list[int]:
        """Positions of the samples in the data set, in the comparisons' order."""
        return [each.position for each in self.comparisons if each.position is not None]

    def small(self) -> "Listing":
        """Shrink images and maps to a list's size, as `Comparison.small`."""
        return replace(self, comparisons=[each.small() for each in self.comparisons])


def summary(comparisons: Sequence[Comparison]) -> dict[str, str]:
    """Sum up comparisons by one explainer in words, by name: agreement, accuracies and the explanations' similarity."""
    facts = {"Samples": f"{len(comparisons):,}"}
    if comparisons[0].student.score is None:
        facts["Same class"] = _share(each.agree for each in comparisons)
        judged = [each for each in comparisons if each.meant]
        if judged:
            facts["Teacher right"] = _share(bool(each.right("teacher")) for each in judged)
            facts["Student right"] = _share(bool(each.right("student")) for each in judged)
    similarities = [each.similarity for each in comparisons if each.similarity is not None]
    if similarities:
        mean, chance = sum(similarities) / len(similarities), comparisons[0].chance
        by_chance = "" if chance is None else f" (by chance {chance:.2f})"
        facts["Explanation similarity"] = f"{mean:.2f} on average{by_chance}"
    return facts


def browse(viewing: Viewing, explainer: str | None = None) -> Listing:
    """Compare all samples of the data set, with a progress bar in the terminal.

    Args:
        explainer: Name of one of the viewing's methods, by default the first.
    """
    with tqdm(desc="Comparing", unit="batch", disable=None) as bar:

        def show(done: int, total: int) -> None:
            bar.n, bar.total = done, total
            bar.refresh()

        batches = compare_batches(viewing, show, explainer)
        while True:
            try:
                next(batches)
            except StopIteration as ended:
                return ended.value


def compare_batches(
    viewing: Viewing, report: Callable[[int, int], T], explainer: str | None = None
) -> Generator[T, None, Listing]:
    """Compare all samples of the data set, with a pause before each batch, in which the caller may stop.

    Args:
        report: Makes what is yielded in a pause of the number of batches so far, and that of all.
        explainer: Name of one of the viewing's methods, by default the first.

    Returns:
        The list.
    """
    samples, name = viewing.samples, explainer or next(iter(viewing.explainers))
    assert samples is not None
    found: list[Comparison] = []
    left_out = []
    starts = range(0, len(samples.positions), BATCH)
    for done, start in enumerate(starts):
        yield report(done, len(starts))
        batch = {}
        for position in samples.positions[start : start + BATCH]:
            try:
                batch[position] = samples[position]
            except (ValueError, OSError) as error:
                left_out.append(f"Row {position} was left out: {error}")
        compared = viewing.pair.compare(list(batch.values()), viewing.explainers[name]) if batch else []
        found += [known(viewing, each, position) for position, each in zip(batch, compared, strict=True)]
    yield report(len(starts), len(starts))
    chance = chance_level(viewing.pair, found)
    listed = sorted((replace(each, chance=chance) for each in found), key=disagreement)
    return Listing(name, listed, left_out, chance)


def known(viewing: Viewing, comparison: Comparison, position: int) -> Comparison:
    """Add to a comparison of a sample its position and what the data set states of it."""
    assert viewing.samples is not None
    label = viewing.samples.label(position)
    return replace(
        comparison,
        position=position,
        file=viewing.samples.file(position),
        label=label,
        meant=frozenset() if label is None else viewing.pair.meant(label),
    )


def chance_level(pair: Pair, comparisons: Sequence[Comparison]) -> float | None:
    """Average the similarity of each student's map with the teacher's of the next image, or of shuffled words."""
    generator, values = torch.Generator().manual_seed(0), []
    for row, each in enumerate(comparisons):
        if pair.is_text:
            # Another text's words have no places in this one.
            other = shuffle_nonzero(each.teacher.map, generator)
        elif len(comparisons) == 1:
            return None
        else:
            other = comparisons[(row + 1) % len(comparisons)].teacher.map
        values.append(pair.similarity(each.student.map, other))
    shown = [value for value in values if value is not None]
    return sum(shown) / len(shown) if shown else None


def disagreement(comparison: Comparison) -> tuple[bool, float]:
    """Return the key that sorts comparisons: those that agree least come first."""
    # An empty map of the teacher's, which nothing is like or unlike, comes last.
    return comparison.agree, float("inf") if comparison.similarity is None else comparison.similarity


def _likeness(comparison: Comparison) -> float:
    return disagreement(comparison)[1]


def _unlikeness(comparison: Comparison) -> float:
    return float("inf") if comparison.similarity is None else -comparison.similarity


ORDERS: dict[str, Callable[[Comparison], Any]] = {
    "Disagreement": disagreement,
    "Similarity, lowest first": _likeness,
    "Similarity, highest first": _unlikeness,
    "Teacher's confidence, lowest first": lambda each: each.teacher.probabilities[0],
    "Student's confidence, lowest first": lambda each: each.student.probabilities[0],
    "Student's confidence, highest first": lambda each: -each.student.probabilities[0],
    "File name": lambda each: (each.file or "", each.position),
    "Row": lambda each: each.position,
}
FILTERS: dict[str, Callable[[Comparison], bool]] = {
    "All": lambda each: True,
    "Classes differ": lambda each: not each.agree,
    "Classes agree": lambda each: each.agree,
    "Teacher wrong": lambda each: each.right("teacher") is False,
    "Student wrong": lambda each: each.right("student") is False,
    "Student alone wrong": lambda each: each.right("student") is False and each.right("teacher") is True,
    "Both wrong": lambda each: each.right("student") is False and each.right("teacher") is False,
}
ANY_CLASS = "Any class"


def orders(listing: Listing, scores: bool) -> list[str]:
    """List the orders that suit the samples; a model of one score has no confidence."""
    named = any(each.file for each in listing.comparisons)
    return [name for name in ORDERS if (named or name != "File name") and not (scores and "confidence" in name)]


def filters(listing: Listing) -> list[str]:
    """List the filters that suit the samples; whether a class is wrong is known where there are labels."""
    judged = any(each.meant for each in listing.comparisons)
    return [name for name in FILTERS if judged or "wrong" not in name]


def classes_of(comparison: Comparison) -> set[str]:
    """Return the first synonyms of a sample's true class and of the classes that both models choose."""
    names = [comparison.teacher.names[0], comparison.student.names[0]]
    return {first_synonym(name) for name in ([*names, comparison.label] if comparison.label else names)}


def arrange(
    comparisons: Sequence[Comparison], order: str, kept: str, named: str = ANY_CLASS, words: str = ""
) -> list[Comparison]:
    """Select comparisons and put them in an order.

    Args:
        order: One of `ORDERS`.
        kept: One of `FILTERS`.
        named: Class that is the true one or chosen by a model.
        words: Part of the file's name or of the text, in any case.
    """
    wanted = words.strip().lower()
    shown = [
        each
        for each in comparisons
        if FILTERS[kept](each)
        and (named == ANY_CLASS or named in classes_of(each))
        and wanted in (each.sample if isinstance(each.sample, str) else each.file or "").lower()
    ]
    return sorted(shown, key=ORDERS[order])


def _share(values: Iterable[bool]) -> str:
    counted = list(values)
    return f"{sum(counted):,} of {len(counted):,} ({100 * sum(counted) / len(counted):.0f} %)"
