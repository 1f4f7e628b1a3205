"""The table of what a student costs to run."""

from collections.abc import Callable

from ..fidelity.record import Cost, FidelityRecord
from .escaping import count


def costs_table(record: FidelityRecord) -> list[list[str]]:
    """Size, FLOPs and time of student and teacher, and their ratio; no rows where the student's aren't known.

    The ratio of the times is left out where their quartiles overlap, or aren't known, or come from different devices:
    another measurement might turn it round.
    """
    student, teacher = record.student.cost, None if record.teacher is None else record.teacher.cost
    if student is None:
        return []
    kinds: list[tuple[str, Callable[[Cost], str | None], str | None]] = [
        ("Parameters", lambda cost: count(cost.parameters), "parameters"),
        ("Size in memory", lambda cost: count(cost.bytes, "B"), "bytes"),
        (f"FLOPs per {record.modality}", lambda cost: None if cost.flops is None else count(cost.flops), "flops"),
        (f"Time per {record.modality}", _time, "seconds" if _times_differ(student, teacher) else None),
        ("Input", lambda cost: cost.input, None),
        ("Device", lambda cost: cost.device, None),
    ]
    rows = []
    for title, show, compared in kinds:
        values = [show(cost) for cost in (student, teacher) if cost is not None]
        if values[0] is None:
            continue
        row = [title, *("–" if value is None else value for value in values)]
        if teacher is not None:
            own, theirs = (getattr(cost, compared or "", None) for cost in (student, teacher))
            row.append(f"{own / theirs:.2f}" if own and theirs else "")
        rows.append(row)
    return rows


def _time(cost: Cost) -> str | None:
    if cost.seconds is None:
        return None
    median, low, high = (
        None if each is None else f"{1000 * each:.1f}" for each in (cost.seconds, cost.seconds_low, cost.seconds_high)
    )
    return f"{median} ms" if low is None or high is None else f"{median} ms ({low}–{high})"


def _times_differ(student: Cost, teacher: Cost | None) -> bool:
    """Tell whether the quartiles of two models' times on one device lie apart."""
    if teacher is None or student.device != teacher.device:
        return False
    low, high = student.seconds_low, student.seconds_high
    teacher_low, teacher_high = teacher.seconds_low, teacher.seconds_high
    if low is None or high is None or teacher_low is None or teacher_high is None:
        return False
    return high < teacher_low or teacher_high < low
