"""Requirements on a record's figures, tested on the ends of their intervals, and against an earlier record."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..choices import did_you_mean
from .groups import NEITHER_GOOD_NOR_BAD, SMALLEST_GROUP, WORST_GROUP, is_lower_better
from .intervals import SHARES, exact_end
from .record import FidelityRecord, MetricValue

On = Literal["interval", "value"]
"""Tested number: the end of the interval on the requirement's far side, or the value itself."""

_REQUIREMENT = re.compile(r"\s*(?P<figure>[^<>=≤≥]+?)\s*(?P<relation>>=|<=|≥|≤)\s*(?P<bound>\S+)\s*")
_NOT_THE_STUDENTS = ("teacher_", "zero_teacher_")

AT_MOST_ONE = SHARES | {
    *("f1", "map", "explanation_similarity", "spearman", "pearson", "label_spearman", "label_pearson"),
    *("energy_pointing_game", "localization_iou", "word_accuracy", "word_auroc", "word_auprc", "zero_teacher_maps"),
}
"""Figures that are never above 1."""

_WITHOUT_GROUPS = "Groups are measured with --group-column."


@dataclass(frozen=True)
class Requirement:
    """A bound on a figure.

    Args:
        figure: Name of the figure, of a group's as `"accuracy/land"`, of a held-out explainer's as
            `"explanation_similarity/occlusion"`, by group `"explanation_similarity/occlusion/land"`.
        at_least: True for a lower bound, False for an upper one.
        bound: The bound, which itself is allowed.
    """

    figure: str
    at_least: bool
    bound: float

    def __str__(self) -> str:
        return f"{self.figure} {'>=' if self.at_least else '<='} {self.bound:g}"


@dataclass(frozen=True)
class Verdict:
    """A requirement beside what was measured.

    Args:
        requirement: The requirement in words.
        passes: True if it is met; None where nothing was tested.
        tested: The tested number; None where there is none.
        figure: The measured figure; None where it wasn't measured.
        reason: Reason why it isn't met, or wasn't tested.
    """

    requirement: str
    passes: bool | None
    tested: float | None = None
    figure: MetricValue | None = None
    reason: str | None = None


def parse_requirement(text: str) -> Requirement:
    """Parse a requirement, as `agreement>=.95` or `negative_flips<=.05`.

    Raises:
        ValueError: it is none, or its bound is no finite number.

    Example:
        >>> parse_requirement("worst_group_accuracy >= .7")
        Requirement(figure='worst_group_accuracy', at_least=True, bound=0.7)
    """
    match = _REQUIREMENT.fullmatch(text)
    try:
        bound = float(match["bound"]) if match else math.nan
    except ValueError:
        bound = math.nan
    if match is None or not math.isfinite(bound):
        raise ValueError(
            f"{text!r} is no requirement. Expected the name of a figure, >= or <=, and a number, in quotes: "
            '"agreement>=.95" or "negative_flips<=.05".'
        )
    return Requirement(match["figure"], match["relation"] in (">=", "≥"), bound)


def check_requirements(
    record: FidelityRecord, requirements: Sequence[Requirement], on: On = "interval"
) -> list[Verdict]:
    """Test requirements on a record's figures.

    Args:
        record: Record of the student.
        requirements: Requirements.
        on: "interval" tests the lower end of the figure's interval against a lower bound, and the upper end against an
            upper one, so that a student seldom passes by chance among the samples; "value" tests the value. Of a share
            that is 1 or 0 on all samples the exact interval is taken: 40 samples that all agree say no more than that
            .912 do. So it is of one with few exceptions, where the bootstrap says more.

    References:
        Clopper & Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial",
        Biometrika 1934 (the exact interval).

    Raises:
        ValueError: a figure that the record doesn't have; those that it has are listed. Or a bound beyond 1 on a figure
            that never is, which any student meets, or none.
    """
    verdicts = [_tested(requirement, _figure_named(record, requirement.figure), on) for requirement in requirements]
    for requirement in requirements:
        _refuse_percent(requirement)
    return verdicts


def check_baseline(record: FidelityRecord, baseline: FidelityRecord) -> list[Verdict]:
    """Test that no figure of the student falls below an earlier record's interval, or rises above it where low is good.

    Args:
        record: Record of the student.
        baseline: Earlier record, of it or of another student, measured in the same way.

    Returns:
        A verdict for each of the earlier record's figures, by group and held-out explainer too, but for those of the
        teacher.

    Raises:
        ValueError: the records are of different explanations or problems, so that their figures can't be compared; or
            the earlier one has no figures.
    """
    names = ("problem", "explainer", "teacher_explainer", "target", "comparison_grid")
    settings = [(name.replace("_", " "), getattr(baseline, name), getattr(record, name)) for name in names]
    if "localization_iou" in baseline.figures.keys() & record.figures.keys():
        settings.append(("IoU threshold", baseline.iou_threshold, record.iou_threshold))
    if baseline.faithfulness is not None and record.faithfulness is not None:
        settings.append(("faithfulness", baseline.faithfulness.options, record.faithfulness.options))
    anew = {each.explainer.get("name"): each.explainer for each in record.held_out}
    for held_out in baseline.held_out:
        stated = held_out.explainer
        settings.append(("held-out explainer", stated, anew.get(stated.get("name"), stated)))
    for title, stated, own in settings:
        if stated != own:
            raise ValueError(
                f"The earlier record's {title} is {stated!r:.200}, and this one's {own!r:.200}: their figures can't be "
                "compared. Measure both in the same way."
            )
    found = _all_figures(record)
    verdicts = [
        _compared(name, figure, found.get(name))
        for name, figure in _all_figures(baseline).items()
        if not name.startswith(_NOT_THE_STUDENTS) and name.split("/")[0] not in NEITHER_GOOD_NOR_BAD
    ]
    if not verdicts:
        raise ValueError("The earlier record has no figures of a student to compare with.")
    return verdicts


def same_samples(record: FidelityRecord, baseline: FidelityRecord) -> bool:
    """Tell whether two records state the same samples, as far as both state a digest of them."""
    own, stated = record.data.fingerprint, baseline.data.fingerprint
    return own is None or stated is None or own == stated


def _end(name: str, figure: MetricValue, lower: bool) -> float | None:
    """Return an end of a figure's 95 % interval; of a share at most the exact one of a share without counterexample."""
    end = figure.low if lower else figure.high
    is_share = name.split("/")[0].removeprefix(WORST_GROUP) in SHARES
    if is_share and figure.samples and end is not None:
        # Where there are one or two, the bootstrap's end may still be nearer to 1, or to 0, than where there is none.
        rest = exact_end(figure.samples)
        return min(end, rest) if lower else max(end, 1 - rest)
    return end


def _refuse_percent(requirement: Requirement) -> None:
    figure = requirement.figure.split("/")[0]
    for part in (WORST_GROUP, "worst_class_", "teacher_"):
        figure = figure.removeprefix(part)
    if figure in AT_MOST_ONE and abs(requirement.bound) > 1:
        raise ValueError(
            f"'{requirement}' can't be meant: {requirement.figure} is never above 1. Write the share, as "
            f"{requirement.figure}{'>=' if requirement.at_least else '<='}{requirement.bound / 100:g} for "
            f"{requirement.bound:g} %."
        )


def _tested(requirement: Requirement, figure: MetricValue, on: On) -> Verdict:
    number = figure.value if on == "value" else _end(requirement.figure, figure, requirement.at_least)
    if on == "interval" and figure.low is figure.high is None:
        reason = "it has no interval: --on value tests its value"
        return Verdict(str(requirement), False, None, figure, reason)
    if number is None or any(end is not None and math.isnan(end) for end in (figure.value, figure.low, figure.high)):
        return Verdict(str(requirement), False, None, figure, "its value or its interval is no number: measure again")
    passes = number >= requirement.bound if requirement.at_least else number <= requirement.bound
    return Verdict(str(requirement), passes, number, figure)


def _compared(name: str, stated: MetricValue, found: MetricValue | None) -> Verdict:
    at_least = not is_lower_better(name)
    bound = _end(name, stated, at_least)
    if bound is None:
        return Verdict(f"{name} as earlier", None, None, found, "the earlier record has no interval of it")
    if found is None:
        return Verdict(f"{name} as earlier", False, None, None, "not measured now")
    if math.isnan(bound):
        return Verdict(f"{name} as earlier", False, None, found, "the earlier interval is no number: measure it again")
    return _tested(Requirement(name, at_least, bound), found, "value")


def _all_figures(record: FidelityRecord) -> dict[str, MetricValue]:
    """Collect a record's figures by name; its group's and its held-out explainer's follow after slashes."""
    parts = [] if record.groups is None else [*record.groups.figures.items()]
    for held_out in record.held_out:
        method = str(held_out.explainer.get("name"))
        by_group = {} if held_out.groups is None else held_out.groups.figures
        parts += [(method, held_out.figures), *((f"{method}/{group}", own) for group, own in by_group.items())]
    return {**record.figures, **{f"{name}/{part}": figure for part, own in parts for name, figure in own.items()}}


def _figure_named(record: FidelityRecord, name: str) -> MetricValue:
    figures = _all_figures(record)
    if name in figures:
        return figures[name]
    further = next((each for each in figures if "/" in each), None)
    parts = [*(["group"] if record.groups else []), *(["held-out explainer"] if record.held_out else [])]
    by_part = f", and by {' and by '.join(parts)} as '{further}'" if further else ""
    hint = did_you_mean(name, figures)
    if name.startswith(WORST_GROUP):
        hint = f"No group has {SMALLEST_GROUP} samples of it." if record.groups else _WITHOUT_GROUPS
    raise ValueError(
        f"No figure '{name}' was measured. Measured: {', '.join(record.figures) or 'none'}{by_part}. {hint}".rstrip()
    )
