"""Results of evidence: their file, which isn't mixed with another's, and tables with paired differences."""

import hashlib
import json
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import transformers
from scipy import stats

from hf_e2kd.experiments.results import describe_machine
from hf_e2kd.experiments.shared_runs import SETTLED
from hf_e2kd.fidelity.training import recorded_arguments
from hf_e2kd.store.files import write_text
from hf_e2kd.trainer.arguments import ExplanationDistillArguments
from hf_e2kd.version import __version__

STUDY_TRAINING: Mapping[str, Any] = {
    **{"weight_decay": 1e-4, "warmup_steps": 0.1, "explanation_weight": 5.0, "remove_unused_columns": False},
    **{"per_device_eval_batch_size": 250, "logging_strategy": "no"},
}
"""Training arguments of students in studies of evidence."""


def results_head(
    recipe: str, digest: str, options: Mapping[str, Any], args: ExplanationDistillArguments
) -> dict[str, Any]:
    """State what results were made by: recipe, options, training arguments, device and versions.

    Args:
        recipe: The recipe's name.
        digest: Digest of the settings.
        options: The recipe's options on which figures depend.
        args: Training arguments.
    """
    return {
        **{"recipe": recipe, "digest": digest, "options": dict(options), "arguments": shared_arguments(args)},
        **describe_machine(args.device),
        **{"transformers": transformers.__version__, "hf_e2kd": __version__},
    }


def write_evidence(results: Mapping[str, Any], path: Path) -> None:
    """Write results as JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(results, indent=1, ensure_ascii=False) + "\n")


def refuse_other(path: Path, digest: str) -> dict[str, Any]:
    """Read results that were made by the same options and version.

    Args:
        path: Their file.
        digest: Digest of the options and the version.

    Raises:
        ValueError: they were made by others, which would be mixed.
    """
    results = json.loads(path.read_text(encoding="utf-8"))
    if results.get("digest") != digest:
        raise ValueError(
            f"'{path}' holds results of other options, arguments or another version of the code "
            f"({results.get('digest')}, now {digest}), which aren't mixed. Give the options that it states, or leave "
            "it out to begin anew."
        )
    return results


def shared_arguments(args: ExplanationDistillArguments) -> dict[str, Any]:
    """Select the training arguments that all students of a study share: those that count, but for the seed."""
    return recorded_arguments(args, [name for name in SETTLED if name != "seed"])


def settings_digest(options: Mapping[str, Any], args: ExplanationDistillArguments) -> str:
    """Make a digest of what all students depend on; what one alone depends on stands in its row.

    Args:
        options: The recipe's options on which figures depend.
        args: Training arguments.
    """
    return _digest([options, shared_arguments(args), __version__], 16)


def run_name(name: str, arm: Any) -> str:
    """Name a training's files, otherwise where the training is another.

    Args:
        name: The student's name.
        arm: Data class of its training.

    Example:
        >>> from _limited_arms import Arm
        >>> run_name("KD", Arm())[:3]
        'KD-'
    """
    plain = "".join(letter if letter.isalnum() and letter.isascii() else "_" for letter in name)
    return f"{plain}-{_digest(asdict(arm), 6)}"


def same_arm(row: Mapping[str, Any], arm: Any) -> bool:
    """Tell whether a row of a results' file is of a student that would be trained alike now."""
    return row["arm"] == json.loads(json.dumps(asdict(arm)))


def _digest(content: Any, length: int) -> str:
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def paired_table(
    rows: Sequence[Mapping[str, Any]],
    columns: Mapping[str, str],
    baseline: str,
    compared: str | Sequence[str],
    teacher: Mapping[str, float],
    kind: str = "student",
) -> str:
    """Write students as a table: means ± standard deviations over seeds, and paired differences with their intervals.

    Args:
        rows: Figures with `student` (`kind`) and `seed`, in the table's order.
        columns: Figures with their headings, shown as far as there are some.
        baseline: Student from which the difference is taken, seed by seed.
        compared: Figure of which it is taken, or several.
        teacher: The teacher's figures.
        kind: Heading of the names, and the column that holds them.
    """
    by_student: dict[str, dict[int, Mapping[str, Any]]] = {}
    for row in rows:
        by_student.setdefault(row[kind], {})[row["seed"]] = row
    shown = [name for name in columns if any(name in row for row in rows)]
    differing = [compared] if isinstance(compared, str) else list(compared)
    of_baseline = [f"{columns[name]} − {baseline}'s" for name in differing]
    heads = [kind, "seeds", *(columns[name] for name in shown), *of_baseline]
    lines = [" | ".join(heads), "|".join(["---"] * len(heads))]
    if set(shown) & set(teacher):
        figures = [cell([teacher[name]] if name in teacher else []) for name in shown]
        lines.append(" | ".join(["teacher", "", *figures, *[""] * len(differing)]))
    for student, seeds in by_student.items():
        values = [[row[name] for row in seeds.values() if name in row] for name in shown]
        cells = [cell(each, places_of(name, each)) for name, each in zip(shown, values, strict=True)]
        changes = []
        for name in differing:
            pairs = [
                (row[name], by_student[baseline][seed][name])
                for seed, row in seeds.items()
                if student != baseline and name in row and seed in by_student.get(baseline, {})
            ]
            changes.append(difference(pairs, places_of(name, [value for pair in pairs for value in pair])))
        lines.append(" | ".join([student, str(len(seeds)), *cells, *changes]))
    return "\n".join(f"| {line} |" if "---" not in line else f"|{line}|" for line in lines)


def joined_runs(files: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Join the models of results of one recipe by seed; the teachers are those of the first file."""
    by_seed: dict[int, dict[str, Any]] = {run["seed"]: dict(run) for run in files[0]["runs"]}
    for run in (run for results in files[1:] for run in results["runs"]):
        own = by_seed.setdefault(run["seed"], {"seed": run["seed"]})
        own.update({model: splits for model, splits in run.items() if model not in {*own, "teacher"}})
    return {**files[0], "runs": [by_seed[seed] for seed in sorted(by_seed)]}


def runs_table(
    results: Mapping[str, Any], split: str, columns: Mapping[str, str], baseline: str, compared: str | Sequence[str]
) -> str:
    """Write the `runs` of a `results.json` as a table of `paired_table`.

    Args:
        results: Content of the file.
        split: Part of the data whose figures are shown.
        columns, baseline, compared: The arguments of `paired_table`.
    """
    rows = [
        {"model": model, "seed": run["seed"], **splits[split]}
        for run in results["runs"]
        for model, splits in run.items()
        if model != "seed" and split in splits
    ]
    rows.sort(key=lambda row: row["model"] != "teacher")
    return paired_table(rows, columns, baseline, compared, {}, kind="model")


def places_of(name: str, values: Sequence[float]) -> int:
    """Choose the places after the point: 0 for seconds and parameters, 2 for percent, 1 for counts' means, else 3."""
    if name.endswith(("seconds", "parameters")):
        return 0
    if name.endswith("percent"):
        return 2
    return 1 if values and all(isinstance(value, int) for value in values) else 3


def cell(values: Sequence[float], places: int = 3) -> str:
    """Write a mean and, of several values, their standard deviation (n − 1).

    Example:
        >>> cell([0.5, 0.7])
        '.600 ± .141'
    """
    if not values:
        return "–"
    # A count that is the same in all runs, such as that of parameters, has no spread.
    has_spread = len(values) > 1 if places else len(set(values)) > 1
    spread = f" ± {short(statistics.stdev(values), places)}" if has_spread else ""
    return f"{short(statistics.fmean(values), places)}{spread}"


def difference(pairs: Sequence[tuple[float, float]], places: int = 3) -> str:
    """Write the mean difference of pairs with its 95 % interval (Student's t).

    Example:
        >>> difference([(0.7, 0.6), (0.8, 0.6), (0.9, 0.6)])
        '+.200 [−.048, +.448]'
    """
    found = [first - second for first, second in pairs]
    if not found:
        return ""
    mean = statistics.fmean(found)
    if len(found) < 2:
        return short(mean, places, signed=True)
    half = float(stats.t.ppf(0.975, len(found) - 1)) * statistics.stdev(found) / len(found) ** 0.5
    return f"{short(mean, places, True)} [{short(mean - half, places, True)}, {short(mean + half, places, True)}]"


def short(value: float, places: int, signed: bool = False) -> str:
    """Write a number without a leading zero, with a minus sign.

    Example:
        >>> short(-0.25, 3), short(10.25, 1)
        ('−.250', '10.2')
    """
    text = f"{value:+.{places}f}" if signed else f"{value:.{places}f}"
    return re.sub(r"\b0\.", ".", text).replace("-", "−") if places else f"{value:,.0f}"
