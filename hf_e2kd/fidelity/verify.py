"""Comparison of a record with a new measurement, claim by claim."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .measure import drawn_rows
from .record import (
    ControlRecord,
    DataRecord,
    FaithfulnessRecord,
    FidelityRecord,
    GroupsRecord,
    HeldOutRecord,
    MetricValue,
)

MOST = 1_000_000
"""Largest number among a record's settings: more samples, points or tokens aren't measured."""
MOST_AT_ONCE = 4096
"""Largest batch of a measurement."""
MOST_PIXELS = 2**30
"""Most pixels of all generated images together."""

Figures = Mapping[str, Mapping[str, MetricValue]]
"""Figures by group and metric."""

Pair = tuple[str, Mapping[str, MetricValue], Mapping[str, MetricValue]]
"""(beginning of the checks' names, stated figures, measured ones)"""


@dataclass(frozen=True)
class Check:
    """A claim of a record beside its new measurement.

    Args:
        name: Name of the figure, or of another claim, such as a digest.
        stated, found: Figures, numbers or digests; `found` is None where it couldn't be measured.
        holds: True if they agree; None where nothing was checked.
        reason: Reason why they don't agree, or weren't checked.
    """

    name: str
    stated: float | str | None
    found: float | str | None
    holds: bool | None
    reason: str | None = None


def verify(stated: FidelityRecord, found: FidelityRecord, tolerance: float = 0.005) -> list[Check]:
    """Compare a record with a new measurement.

    Args:
        stated: Published record.
        found: Record of the new measurement, on the same samples.
        tolerance: Largest difference of two figures, or of the ends of their intervals. On the same device and
            versions they repeat to rounding.

    Returns:
        One check for each digest, for how the samples were drawn and for each figure of the student, of chance, of the
        control and of held-out explainers, by group too. Other students' figures and those of words are named, and not
        checked. Times are left out: they differ from machine to machine.

    Raises:
        ValueError: the record states nothing that could be verified.
    """
    check_verifiable(stated)
    checks = []
    for name in ("student", "teacher"):
        own, other = getattr(stated, name), getattr(found, name)
        if own is not None:
            checks.append(_same(f"{name}'s weights", own.weights, None if other is None else other.weights))
    checks += [
        _same("the samples", stated.data.fingerprint, found.data.fingerprint),
        _same("the samples' number", len(stated.data.samples), len(found.data.samples)),
        _drawn(stated.data),
    ]
    pairs: list[Pair] = [
        ("", stated.figures, found.figures),
        ("chance, ", stated.chance, found.chance),
    ]
    pairs += _by_group("", stated.groups, found.groups)
    anew = {str(each.explainer.get("name")): each for each in found.held_out}
    for held_out in stated.held_out:
        name = str(held_out.explainer.get("name"))
        measured = anew.get(name, HeldOutRecord(held_out.explainer, {}))
        pairs.append((f"{name}, ", held_out.figures, measured.figures))
        pairs.append((f"{name}, chance, ", held_out.chance, measured.chance))
        pairs += _by_group(f"{name}, ", held_out.groups, measured.groups)
    random_order, control = found.faithfulness or FaithfulnessRecord({}), found.control or ControlRecord({}, {})
    if stated.faithfulness is not None:
        pairs.append(("random order, ", stated.faithfulness.chance, random_order.chance))
        pairs += _beside("random order, ", stated.faithfulness.groups, random_order.groups)
    if stated.control is not None:
        pairs.append(("control, ", stated.control.figures, control.figures))
        pairs += _beside("control, ", stated.control.groups, control.groups)
    for prefix, claims, figures in pairs:
        for name, claim in claims.items():
            checks.append(_figure(f"{prefix}{name.replace('_', ' ')}", claim, figures.get(name), tolerance))
    for other in stated.compared:
        checks.append(Check(f"figures of {other}", None, None, None, "not checked: that student isn't published"))
    return checks


def _by_group(prefix: str, stated: GroupsRecord | None, found: GroupsRecord | None) -> list[Pair]:
    """Pair stated and measured figures by group, and their chance levels."""
    if stated is None:
        return []
    again = found or GroupsRecord([], {})
    levels = _beside(prefix, stated.chance, again.chance, "chance, ")
    return _beside(prefix, stated.figures, again.figures) + levels


def _beside(prefix: str, stated: Figures, found: Figures, suffix: str = "") -> list[Pair]:
    return [(f"{prefix}{group}, {suffix}", own, found.get(group, {})) for group, own in stated.items()]


def check_verifiable(record: FidelityRecord) -> None:
    """Refuse a record without figures that could be measured again.

    Raises:
        ValueError: it has no figures, or doesn't say of which samples.
    """
    rows, samples = record.data.rows, record.data.samples
    if not record.figures:
        problem = "it has no figures"
    elif not samples or rows is None:
        problem = "it doesn't say on which samples its figures were measured, or of how many rows these are"
    elif not all(isinstance(row, int) and 0 <= row < rows for row in samples):
        problem = f"some of its samples aren't among its {rows} rows"
    elif len(set(samples)) < len(samples):
        problem = f"{len(samples) - len(set(samples))} of its {len(samples)} samples repeat another"
    elif (large := _too_large(record)) is not None:
        problem = f"{large}, which no measurement takes"
    else:
        return
    raise ValueError(
        f"The record states nothing that could be verified: {problem}. Measure anew: hf-e2kd fidelity --teacher A "
        "--student B --dataset D."
    )


def _too_large(record: FidelityRecord) -> str | None:
    """A number that would fill the memory or take forever, by its place."""
    stated: dict[str, Any] = {"batch_size": record.batch_size, "arguments": record.data.arguments}
    stated |= {"max_length": record.data.columns.get("max_length"), "explainer": record.explainer.get("options")}
    stated["teacher_explainer"] = (record.teacher_explainer or {}).get("options")
    stated |= {f"held_out.{number}": each.explainer.get("options") for number, each in enumerate(record.held_out)}
    stated["faithfulness"] = None if record.faithfulness is None else record.faithfulness.options
    stated["control"] = None if record.control is None else record.control.options
    for place, value in stated.items():
        for number in _numbers(value):
            low, high = (1, MOST_AT_ONCE) if place == "batch_size" else (-MOST, MOST)
            if not low <= number <= high:
                return f"its {place} state {number}"
    arguments = record.data.arguments or {}
    images, side = sum(_numbers(arguments.get("sizes"))), max(_numbers(arguments.get("image_size")), default=1)
    if images * side**2 > MOST_PIXELS or side**2 > MOST_PIXELS // 10_000:
        return f"its arguments state {images or 'the usual number of'} images of {side}×{side} pixels"
    return None


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, Mapping):
        value = [*value.values()]
    if isinstance(value, list | tuple):
        for part in value:
            yield from _numbers(part)
    elif isinstance(value, int | float):
        yield value


def _same(name: str, stated: int | str | None, found: int | str | None) -> Check:
    if stated is None:
        return Check(name, None, found, None, "not stated")
    return Check(name, stated, found, stated == found, None if stated == found else "differs")


def _drawn(data: DataRecord) -> Check:
    """Check that the samples were not chosen: a seed drew them, or they are all rows of the data."""
    assert data.rows is not None
    name, samples = "the samples are those that the seed draws", data.samples
    if sorted(samples) == list(range(data.rows)):
        return Check(name, data.seed, data.seed, True)
    expected = None if data.seed is None else drawn_rows(data.rows, len(samples), data.seed)
    if expected is None:
        reason = "no seed is stated: they may have been picked"
    else:
        others = sum(one != other for one, other in zip(samples, expected, strict=True))
        reason = f"{others} of {len(samples)} are others: they may have been picked"
    holds = samples == expected
    return Check(name, data.seed, data.seed if holds else None, holds, None if holds else reason)


def _figure(name: str, stated: MetricValue, found: MetricValue | None, tolerance: float) -> Check:
    if found is None and "word" in name.split():
        # A recipe measures it, on words whose polarity its data knows.
        return Check(name, stated.value, None, None, "not checked: it takes the recipe that measured it")
    if found is None:
        reason = "not measured: a column may have another name (--label-column)"
        return Check(name, stated.value, None, False, reason)
    differing = "; ".join(_differences(stated, found, tolerance))
    return Check(name, stated.value, found.value, not differing, differing or None)


def _differences(stated: MetricValue, found: MetricValue, tolerance: float) -> Iterator[str]:
    """Name the parts of a figure that don't repeat."""
    if not _near(stated.value, found.value, tolerance):
        yield "value"
    # Records of an earlier version state none of a share that is 1 or 0 on all samples.
    without_width = stated.value == stated.low == stated.high in (0, 1)
    if not (without_width or _near(stated.low, found.low, tolerance) and _near(stated.high, found.high, tolerance)):
        yield f"interval {_interval(stated)} stated, {_interval(found)} found"
    if stated.samples != found.samples:
        yield f"{stated.samples} samples stated, {found.samples} found"
    if stated.detail != found.detail:
        yield f"of {stated.detail or 'all samples'} stated, of {found.detail or 'all samples'} found"


def _near(one: float | None, other: float | None, tolerance: float) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) <= tolerance


def _interval(figure: MetricValue) -> str:
    low, high = ("–" if end is None else f"{end:.4f}" for end in (figure.low, figure.high))
    return f"[{low}, {high}]"
