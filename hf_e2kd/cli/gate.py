"""`hf-e2kd gate`: requirements on the figures of a record, for a pipeline that publishes a student or doesn't."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated
from xml.etree import ElementTree

import typer

from ..cards.escaping import escape_controls
from ..fidelity import FidelityRecord
from ..fidelity.gate import On, Verdict, check_baseline, check_requirements, parse_requirement, same_samples
from .output import echo, require_folder
from .verification import record_folder

FELL_SHORT = 3
"""Exit code where a requirement isn't met."""

RequireOption = Annotated[
    list[str] | None,
    typer.Option(
        "--require",
        metavar="REQUIREMENT",
        help='A bound on a figure, as "agreement>=.95"; several follow each other.',
        show_default=False,
    ),
]
MoreRequirements = Annotated[list[str] | None, typer.Argument(hidden=True)]
OnOption = Annotated[
    On, typer.Option("--on", help="Test the interval's nearer end, or the value, against a requirement.")
]
BaselineOption = Annotated[
    str | None,
    typer.Option(
        "--baseline",
        metavar="RECORD",
        help="Earlier record (file, folder or Hub id) below whose intervals no figure may fall.",
        show_default=False,
    ),
]
JunitOption = Annotated[
    Path | None, typer.Option("--junit", metavar="FILE", help="Write the verdicts as JUnit XML.", show_default=False)
]


def gate(
    record: Annotated[str, typer.Argument(help="Hub id or folder with a fidelity.json, or such a file.")],
    more: MoreRequirements = None,
    require: RequireOption = None,
    on: OnOption = "interval",
    baseline: BaselineOption = None,
    junit: JunitOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdicts as JSON.")] = False,
) -> None:
    """Test requirements on a record's figures, without measuring; the exit code is 3 where one isn't met.

    A lower bound is tested on the lower end of the figure's 95 % interval, an upper one on the upper end. Any figure of
    the record can be named, the worst group's as worst_group_accuracy, one group's as accuracy/GROUP and a held-out
    method's as explanation_similarity/METHOD.

    \b
    Examples:
      hf-e2kd gate outputs/fidelity \\
          --require "agreement>=.95" "explanation_similarity>=.8"
      hf-e2kd gate me/student --require "worst_group_accuracy>=.7" \\
          --junit gate.xml
      hf-e2kd gate outputs/fidelity --baseline released.json
    """
    settings = Gate.of(require, more, on, baseline, junit)
    if not settings:
        raise typer.BadParameter('give --require "FIGURE>=NUMBER" or --baseline RECORD.')
    verdicts = settings.verdicts(load_record(record))
    echo(json.dumps([asdict(verdict) for verdict in verdicts]) if as_json else as_lines(verdicts))
    raise typer.Exit(exit_code(verdicts))


@dataclass(frozen=True)
class Gate:
    """Requirements of a command line, checked before anything is measured; false where there are none."""

    requirements: list
    on: On
    baseline: FidelityRecord | None
    junit: Path | None

    @classmethod
    def of(
        cls, require: Sequence[str] | None, more: Sequence[str] | None, on: On, baseline: str | None, junit: Path | None
    ) -> "Gate":
        """Read the options."""
        if more and not require:
            raise typer.BadParameter(f"unexpected {' '.join(map(repr, more))}. Requirements follow --require.")
        requirements = [parse_requirement(text) for text in [*(require or ()), *(more or ())]]
        if junit is not None and not (requirements or baseline):
            raise typer.BadParameter("--junit needs --require or --baseline, whose verdicts it holds.")
        if junit is not None and junit.is_dir():
            raise typer.BadParameter(f"'{junit}' is a folder, and --junit writes a file.")
        if junit is not None:
            require_folder(junit.parent)
        return cls(requirements, on, None if baseline is None else load_record(baseline), junit)

    def __bool__(self) -> bool:
        return bool(self.requirements) or self.baseline is not None

    def verdicts(self, record: FidelityRecord) -> list[Verdict]:
        """Test a record, and write the verdicts' file."""
        found = check_requirements(record, self.requirements, self.on)
        if self.baseline is not None:
            found += check_baseline(record, self.baseline)
            if not same_samples(record, self.baseline):
                echo("hf-e2kd: the earlier record is of other samples.", err=True)
        if self.junit is not None:
            self.junit.parent.mkdir(parents=True, exist_ok=True)
            self.junit.write_text(as_junit(found, record.student.name), encoding="utf-8")
        return found


def load_record(source: str) -> FidelityRecord:
    """Load a record by its file, its folder or the Hub id of a student."""
    return FidelityRecord.load(source if Path(source).is_file() else record_folder(source))


def exit_code(verdicts: Sequence[Verdict]) -> int:
    """Return 3 where a requirement isn't met, else 0."""
    return FELL_SHORT if any(verdict.passes is False for verdict in verdicts) else 0


def as_lines(verdicts: Sequence[Verdict]) -> str:
    """Render the verdicts for a reader, a line each."""
    width = max(len(verdict.requirement) for verdict in verdicts)
    marks = {True: "passes", False: "FAILS", None: "–"}
    return "\n".join(
        f"{marks[verdict.passes]:6} {verdict.requirement:<{width}}  {_measured(verdict)}".rstrip()
        for verdict in verdicts
    )


def as_junit(verdicts: Sequence[Verdict], student: str) -> str:
    """Write verdicts as a test suite of JUnit XML, a test case for each requirement."""
    outcomes = [verdict.passes for verdict in verdicts]
    counts = {"tests": len(outcomes), "failures": outcomes.count(False), "skipped": outcomes.count(None)}
    attributes = {"name": "hf-e2kd gate", **{name: str(count) for name, count in counts.items()}}
    suite = ElementTree.Element("testsuite", attributes)
    for verdict in verdicts:
        names = {"classname": escape_controls(student), "name": escape_controls(verdict.requirement)}
        case = ElementTree.SubElement(suite, "testcase", names)
        if verdict.passes is not True:
            kind = "skipped" if verdict.passes is None else "failure"
            ElementTree.SubElement(case, kind, message=escape_controls(_measured(verdict)))
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _measured(verdict: Verdict) -> str:
    figure, parts = verdict.figure, []
    if figure is not None:
        ends = "" if figure.low is None or figure.high is None else f" [{figure.low:.4f}, {figure.high:.4f}]"
        parts.append(f"{figure.value:.4f}{ends}{f' ({figure.detail})' if figure.detail else ''}")
    return ", ".join([*parts, *([verdict.reason] if verdict.reason else [])])
