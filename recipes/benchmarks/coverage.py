# /// script
# requires-python = ">=3.10"
# dependencies = ["hf-e2kd"]
# [tool.uv.sources]
# hf-e2kd = { path = "../..", editable = true }
# ///
"""Coverage of transformers' classifiers by the explainers: every class of the Auto mappings, tried.

    python recipes/benchmarks/coverage.py --output recipes/benchmarks/COVERAGE.md

Each class is built tiny and randomly initialised from its configuration, offline, and trained on for one backward pass
with every explainer as the loss. An explainer *works* on a class if the loss and its gradients are finite, the maps
vary from cell to cell, the gradient reaches the first layer and the last one, and the gradient agrees with finite
differences, in float64 where the model can. Integrated Gradients of a text must also be complete: 16 steps leave out
at most 2 % of the logit's rise from the baseline. Else the class is *refused*, by an error of ours that says why, it is
*incomplete*, or it *failed*.

With `--timm`, GradCAM and the default feature taps on one small model of every family of timm's instead; of the output
file, each of the two tables leaves the other as it is.
"""

import argparse
import json
import logging as python_logging
import os
import sys
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from _coverage_timm import TIMM_TITLE, run_timm, timm_table
from _coverage_trials import Outcome, try_class
from tqdm import tqdm
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as IMAGE_CLASSES,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES as TEXT_CLASSES,
)
from transformers.utils import logging

from hf_e2kd.experiments import run_recipe
from hf_e2kd.explainers.registry import available_explainers

TASKS = {"image": IMAGE_CLASSES, "text": TEXT_CLASSES}
EXPLAINERS = {
    "image": [
        "gradcam",
        "saliency",
        "input_x_gradient",
        "integrated_gradients",
        "attention_rollout",
        "attention_gradient",
        "lrp",
    ],
    "text": ["saliency", "input_x_gradient", "integrated_gradients", "attention_rollout", "attention_gradient", "lrp"],
}

Results = dict[str, dict[str, dict[str, Outcome]]]
"""By task, then by `model_type ClassName`, then by explainer."""


def run(only: list[str] | None, explainers: list[str] | None) -> Results:
    """Tries every class, or those of some model types."""
    chosen = [
        (task, model_type, class_name)
        for task, classes in TASKS.items()
        for model_type, names in classes.items()
        for class_name in ((names,) if isinstance(names, str) else names)
        if only is None or model_type in only
    ]
    results: Results = {task: {} for task in TASKS}
    for task, model_type, class_name in tqdm(chosen):
        names = [name for name in EXPLAINERS[task] if name in available_explainers()]
        names = [name for name in names if explainers is None or name in explainers]
        results[task][f"{model_type} {class_name}"] = try_class(class_name, model_type, task, names)
    return results


def table(results: Results, command: str) -> str:
    """The results in Markdown."""
    reasons = sorted({o.detail for rows in results.values() for row in rows.values() for o in row.values() if o.detail})
    lines = [
        "# Which explainers can train which classifiers",
        "",
        " ".join(__doc__.split("\n\n")[2].split()),
        "",
        f"torch {torch.__version__.split('+')[0]}, transformers {transformers.__version__}. Written by `{command}`.",
        "",
        "| classes of | " + " | ".join(EXPLAINERS["image"]) + " |",
        "|---|" + "---|" * len(EXPLAINERS["image"]),
    ]
    for task, rows in results.items():
        lines.append(f"| {TITLES[task]} | " + " | ".join(total(rows, name) for name in EXPLAINERS["image"]) + " |")
    for task, rows in results.items():
        names = list(next(iter(rows.values()), {}))
        columns = [*names, COMPLETENESS] if task == "text" else names
        lines += ["", f"## {TITLES[task]}", "", "| type | class | " + " | ".join(columns) + " |"]
        lines.append("|---|---|" + "---|" * len(columns))
        for row, outcomes in rows.items():
            cells = [cell(outcomes[name], reasons) for name in names]
            if task == "text":
                error = outcomes["integrated_gradients"].completeness if "integrated_gradients" in outcomes else None
                cells.append("–" if error is None else f"{error:.2%}")
            lines.append("| " + " | ".join([*row.split(" "), *cells]) + " |")
    lines += ["", "## Reasons", ""]
    lines += [f"{number}. {reason}" for number, reason in enumerate(reasons, 1)]
    return "\n".join(lines) + "\n"


COMPLETENESS = "completeness error"
TITLES = {"image": "Image classification", "text": "Sequence classification"}


def total(rows: Mapping[str, Mapping[str, Outcome]], explainer: str) -> str:
    """How many classes an explainer works on; a dash where it was not tried."""
    outcomes = [row[explainer] for row in rows.values() if explainer in row]
    return f"{sum(o.verdict == 'works' for o in outcomes)} of {len(outcomes)}" if outcomes else "–"


def cell(outcome: Outcome, reasons: list[str]) -> str:
    if outcome.verdict == "works":
        return "✓"
    number = reasons.index(outcome.detail) + 1
    return f"FAILED {number}" if outcome.verdict == "FAILED" else str(number)


def document(results: Results, before: str, command: str) -> str:
    """A file's text with the tables of transformers' classes or of timm's families written anew."""
    ours, mark, timms = before.partition(TIMM_TITLE)
    if "timm" in results:
        return f"{ours.rstrip()}\n\n{timm_table(results['timm'], timms)}".lstrip()
    ours = table(results, command)
    return f"{ours.rstrip()}\n\n{mark}{timms}" if mark else ours


def quieten() -> None:
    warnings.filterwarnings("ignore")
    logging.set_verbosity_error()
    python_logging.getLogger("hf_e2kd").setLevel(python_logging.ERROR)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timm", action="store_true", help="try timm's families instead of transformers' classes")
    parser.add_argument("--only", type=lambda names: names.split(","), help="model types: vit,bert; modules of timm")
    parser.add_argument("--explainers", type=lambda names: names.split(","), help="gradcam,integrated_gradients")
    parser.add_argument("--output", type=Path, help="write the table there instead of printing it")
    parser.add_argument("--json", type=Path, help="write the outcomes there too, with the gradients' errors")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    quieten()
    torch.set_num_threads(options.threads)
    before = options.output.read_text(encoding="utf-8") if options.output and options.output.exists() else ""
    if options.timm:
        results: Results = {"timm": run_timm(options.only)}
    else:
        results = run(options.only, options.explainers)
    markdown = document(results, before, " ".join(["python", "recipes/benchmarks/coverage.py", *sys.argv[1:]]))
    if options.output:
        options.output.write_text(markdown, encoding="utf-8")
    else:
        print(markdown)
    if options.json:
        plain = {
            task: {row: {name: asdict(o) for name, o in outcomes.items()} for row, outcomes in rows.items()}
            for task, rows in results.items()
        }
        options.json.write_text(json.dumps(plain, indent=1), encoding="utf-8")
    failed = [o for rows in results.values() for row in rows.values() for o in row.values() if o.verdict == "FAILED"]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(run_recipe(main))
