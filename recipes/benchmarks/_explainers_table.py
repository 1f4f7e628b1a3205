"""The tables of `explainers.py`, as Markdown."""

import statistics
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from _explainers_text import YARDSTICKS

STUDENTS: dict[str, tuple[str, ...]] = {
    "agreement": ("agreement",),
    "accuracy": ("accuracy",),
    "similarity, IG": ("integrated_gradients", "explanation_similarity"),
    "similarity, lrp": ("lrp", "explanation_similarity"),
    "word AUROC, lrp": ("lrp", "word_auroc"),
}
"""Columns of the students' table, and where their figures stand."""


def markdown(runs: Mapping[str, Any], head: Mapping[str, Any], lost: float) -> str:
    """Write the tables of the explained teacher, of the students, and of the choice of λ.

    Args:
        runs: Figures by the names of their runs.
        head: The setting, the device and the versions that they were measured with.
        lost: Agreement that a λ may cost.
    """
    setting, students = head["setting"], _students(runs)
    seeds, searched = len(students["KD"]), runs["search/KD"]
    plain, costs = students["KD"][0], setting["cost_steps"]
    read = " and ".join(f"{row} (on {samples} of the texts)" for row, samples in YARDSTICKS.items())
    ladder = ", ".join(f"{weight:g}" for weight in setting["weights"])
    parts = [
        "# Explainers of texts",
        "Made by `python recipes/benchmarks/explainers.py --dataset TREES` from `recipes/results/explainers.json`; "
        f"TREES is the folder of the treebank's train.txt, dev.txt and test.txt. {head['device'].upper()}, "
        f"{setting['threads']} thread, torch {head['torch'].split('+')[0]}, transformers {head['transformers']}.",
        f"The teacher is {setting['model']}, fine-tuned on {setting['teacher_samples']} texts of {setting['dataset']} "
        f"for {setting['teacher_epochs']:g} epochs (seed 0); it classifies {_share(plain['teacher_accuracy'])} of "
        f"{plain['samples']} test texts rightly. Texts are cut off at {setting['max_length']} tokens.",
        "## The teacher, explained",
        "*Word AUROC*: how well the signed scores of opinion words agree with the words' own labels, in those of "
        f"{setting['word_samples']} test texts that are classified rightly; .5 is chance. *Comprehensiveness* (high is "
        "faithful) and *sufficiency* (low): fall of the class's probability without the highest tokens, and with them "
        f"alone; of {setting['explained_samples']} test texts, as the time. *Step*: CPU time of a training step over "
        f"plain distillation's ({_turns(costs)}; BERTs of 6 and 3 layers and MiniLM's width with random weights, 16 "
        "texts of 64 tokens), every text explained by both models; Integrated Gradients are then estimated from a few "
        "random points.",
        _table(
            ["explanation", "CPU ms a text", "word AUROC", "comprehensiveness", "sufficiency", "step"],
            _teacher_rows(runs),
        ),
        "## Students trained with an explainer",
        f"Students of {setting['student_layers']} layers, which begin as the teacher's; {setting['train_samples']} "
        f"texts, {setting['epochs']:g} epochs in batches of {setting['batch_size']}, T = {setting['temperature']:g}; "
        f"the teacher's logits and maps are stored before. Mean ± standard deviation of {seeds} seeds (of "
        "batches and dropout; one teacher); of one seed, all students see the same batches. Agreement and accuracy are "
        f"of {plain['samples']} test texts. Every student is read by {read}, whatever it was trained with: "
        "*similarity* is the mean cosine to the teacher's scores of the words. *CPU s*: of a training. "
        f"{_costly(runs)}",
        _table(["trained with", "λ", *STUDENTS, "CPU s"], _student_rows(runs, students)),
        "Differences to plain distillation, seed by seed:",
        _table(["trained with", *STUDENTS], _difference_rows(students)),
        "## The choice of λ",
        f"The largest λ of {ladder} that costs at most {lost:g} of agreement, from the middle up or down, by one "
        f"student each with seed {setting['search_seed']} on {searched['samples']} texts of the validation split; "
        f"plain distillation agrees in {_share(searched['agreement'])} of them. *Similarity*: by the explainer that is "
        f"trained with, on {setting['search_samples']} of them.",
        _table(["trained with", "λ", "agreement", "similarity", ""], _choice_rows(runs, lost)),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _turns(count: int) -> str:
    spread = "quartiles" if count >= 4 else "range"
    return f"median and {spread} of {count} turns"


def _students(runs: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Gather each training's figures of the seeds, plain distillation first."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name, figures in runs.items():
        kind, *row = name.split("/")
        if kind == "student":
            found.setdefault(row[0], []).append(figures)
    return found


def _teacher_rows(runs: Mapping[str, Any]) -> Iterable[list[str]]:
    for name, figures in runs.items():
        kind, row = name.split("/")[:2]
        if kind == "explanation":
            step = runs[f"step/{row}"]
            auroc = runs[f"words/{row}"].get("word_auroc")  # none where the data has no words' labels
            cells = [_share(value) for value in (auroc, figures["comprehensiveness"], figures["sufficiency"])]
            yield [row, f"{figures['ms_a_text']:.1f}", *cells, _ratio(step)]


def _costly(runs: Mapping[str, Any]) -> str:
    """Say which trainings explain a part of each batch, and what their step costs."""
    parts = []
    for name, step in runs.items():
        kind, row = name.split("/")[:2]
        if kind.startswith("step of") and f"choice/{row}" in runs:
            parts.append(
                f"With {row} {kind.removeprefix('step of ')} of each batch is explained (step {_ratio(step)})."
            )
    return " ".join([*parts, "The others explain all of it." if parts else ""]).strip()


def _student_rows(runs: Mapping[str, Any], students: Mapping[str, list[Any]]) -> Iterable[list[str]]:
    accuracy, auroc = students["KD"][0]["teacher_accuracy"], runs.get("words/lrp", {}).get("word_auroc")
    yield ["the teacher itself", "–", "–", _share(accuracy), "–", "–", _share(auroc), "–"]
    for row, seeds in students.items():
        weight = "–" if row == "KD" else f"{runs[f'choice/{row}']['weight']:g}"
        cells = [_spread([_at(figures, path) for figures in seeds], _share) for path in STUDENTS.values()]
        seconds = statistics.fmean(figures["training_seconds"] for figures in seeds)
        yield [row, weight, *cells, f"{seconds:.0f}"]


def _difference_rows(students: Mapping[str, list[Any]]) -> Iterable[list[str]]:
    for row, seeds in students.items():
        if row == "KD":
            continue
        cells = []
        for path in STUDENTS.values():
            pairs = [(_at(own, path), _at(plain, path)) for own, plain in zip(seeds, students["KD"], strict=True)]
            differences = [None if None in pair else pair[0] - pair[1] for pair in pairs]
            cells.append(_spread(differences, "{:+.3f}".format))
        yield [row, *cells]


def _choice_rows(runs: Mapping[str, Any], lost: float) -> Iterable[list[str]]:
    least = runs["search/KD"]["agreement"] - lost
    tried = [name.split("/") for name in runs if name.startswith("search/") and name != "search/KD"]
    for _, row, weight in sorted(tried, key=lambda parts: (parts[1], float(parts[2]))):
        figures, choice = runs[f"search/{row}/{weight}"], runs[f"choice/{row}"]
        said = "kept" if figures["agreement"] >= least else "too costly"
        if float(weight) == choice["weight"]:
            said = f"**chosen**{_EDGES[choice['edge']]}"
        yield [row, weight, _share(figures["agreement"]), _share(figures[row].get("explanation_similarity")), said]


_EDGES = {
    None: "",
    "all kept": ", the largest tried: a larger one may do",
    "none kept": ", though too costly: none is cheaper here",
}


def _at(figures: Mapping[str, Any], path: tuple[str, ...]) -> float | None:
    found: Any = figures
    for key in path:
        found = found.get(key, {})
    return found if isinstance(found, float) else None


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _spread(values: list[float | None], shown: Callable[[float], str]) -> str:
    """Write mean and standard deviation (n − 1); a dash where a seed has no figure."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return "–"
    mean = shown(statistics.fmean(known))
    return mean if len(known) == 1 else f"{mean} ± {statistics.stdev(known):.3f}"


def _ratio(step: Mapping[str, float]) -> str:
    return f"**{step['ratio']:.2f}** ({step['low']:.2f}–{step['high']:.2f})"


def _table(headings: list[str], rows: Iterable[list[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
