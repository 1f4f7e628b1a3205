# /// script
# requires-python = ">=3.10"
# dependencies = ["hf-e2kd"]
# [tool.uv.sources]
# hf-e2kd = { path = "../..", editable = true }
# ///
"""Which explainer for texts: cost, faithfulness, agreement with the words' own labels, and what training with it does.

    python recipes/benchmarks/explainers.py --dataset PATH_OF_THE_TREES
    python recipes/benchmarks/explainers.py --dataset PATH_OF_THE_TREES --trained lrp attention_gradient
    python recipes/benchmarks/explainers.py --smoke

A classifier is fine-tuned to be the teacher, explained by every method, and distilled into a student that begins as
some of its layers: by plain distillation, and with each of the `--trained` methods. λ is chosen on the validation split
with a seed of its own, and written down, before the seeds of the table are trained: the largest of a ladder that costs
at most .01 of agreement. Every figure goes to `--results` as it comes; the same command goes on where it was
interrupted, and a longer `--trained` adds to what is there. The tables are written to `--table`. Words are scored where
the data has `spans` and `word_labels`, as the Stanford Sentiment Treebank.
"""

import json
import os
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import step_cost
import torch
import transformers
from _explainers_table import markdown
from _explainers_text import COSTLY, Bench, Options, step_figures
from transformers import HfArgumentParser

from hf_e2kd.experiments.command_line import command_line, run_recipe
from hf_e2kd.experiments.results import describe_machine

LOST = 0.01
"""Agreement on the validation split that a λ may cost, against plain distillation with the same seed."""


class Results(dict[str, Any]):
    """Figures by the names of their runs, written to a JSON file as each comes.

    Args:
        path: The file; what it holds is kept.
        setting: What the figures depend on.
        machine: What they were measured on.

    Raises:
        ValueError: the file's figures are of another setting.
    """

    def __init__(self, path: Path, setting: Mapping[str, Any], machine: Mapping[str, Any]):
        super().__init__()
        self.path, self.head = path, {"setting": dict(setting), **machine}
        if path.is_file():
            found = json.loads(path.read_text(encoding="utf-8"))
            differing = [name for name, value in setting.items() if found["setting"].get(name) != value]
            if differing:
                raise ValueError(
                    f"{path} holds figures of another setting ({', '.join(differing)}). Name another file by --results "
                    "and another table by --table, or give the options that it was made with."
                )
            self.update(found["runs"])

    def fill(self, name: str, measure: Callable[..., Any], *arguments: Any) -> Any:
        """Return a run's figures, which are measured and written down where they aren't there yet."""
        if name not in self:
            print(name, flush=True)
            self[name] = measure(*arguments)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            half = self.path.with_suffix(".part")
            half.write_text(json.dumps({**self.head, "runs": self}, indent=1) + "\n", encoding="utf-8")
            os.replace(half, self.path)
        return self[name]


def setting_of(options: Options) -> dict[str, Any]:
    """Return what the figures depend on; results of another setting are not gone on with."""
    left_out = {"explained", "trained", "seeds", "results", "table", "output_dir", "smoke", "model", "dataset"}
    named = {"model": Path(options.model).name, "dataset": Path(options.dataset or "reviews").name}
    return named | {name: value for name, value in asdict(options).items() if name not in left_out}


def choose_weight(rungs: list[float], agreement_of: Callable[[float], float], least: float) -> dict[str, Any]:
    """Choose the largest λ of a ladder that keeps agreement, stepping up or down from its middle.

    Args:
        rungs: λ in rising order.
        agreement_of: Agreement of a student that was trained with a λ.
        least: Agreement that must be kept.

    Returns:
        The `weight`; the lowest rung where none keeps agreement. `edge` says that the search ended at an end of the
        ladder: "all kept" or "none kept".
    """
    place = len(rungs) // 2
    if agreement_of(rungs[place]) >= least:
        while place + 1 < len(rungs) and agreement_of(rungs[place + 1]) >= least:
            place += 1
        edge = "all kept" if place + 1 == len(rungs) else None
    else:
        place -= 1
        while place >= 0 and agreement_of(rungs[place]) < least:
            place -= 1
        edge = "none kept" if place < 0 else None
    return {"weight": rungs[max(place, 0)], "edge": edge}


def run(options: Options) -> Results:
    """Measure what isn't in the results yet, and write the tables."""
    step_cost.quieten(Namespace(threads=options.threads))
    machine = {**describe_machine(torch.device("cpu")), "transformers": transformers.__version__}
    results = Results(options.results, setting_of(options), machine)
    bench = Bench(options)
    for row in options.explained:
        results.fill(f"explanation/{row}", bench.explained, row)
    for row in options.explained:
        results.fill(f"words/{row}", bench.words, row)
    for row in options.explained:
        results.fill(f"step/{row}", step_figures, row, options)
    for row in set(COSTLY).intersection(options.trained):
        results.fill(f"step of {options.fraction:g}/{row}", step_figures, row, options, options.fraction)
    plain = results.fill("search/KD", bench.distilled, None, 0.0, options.search_seed, "validation")
    for seed in options.seeds:
        results.fill(f"student/KD/{seed}", bench.distilled, None, 0.0, seed, "test")
    for row in options.trained:

        def agreement_of(weight: float, row: str = row) -> float:
            name = f"search/{row}/{weight:g}"
            return results.fill(name, bench.distilled, row, weight, options.search_seed, "validation")["agreement"]

        chosen = results.fill(f"choice/{row}", choose_weight, options.weights, agreement_of, plain["agreement"] - LOST)
        for seed in options.seeds:
            results.fill(f"student/{row}/{seed}", bench.distilled, row, chosen["weight"], seed, "test")
    options.table.write_text(markdown(results, results.head, LOST), encoding="utf-8")
    return results


def main(arguments: list[str] | None = None) -> Results:
    parser = HfArgumentParser(Options, description=__doc__)
    try:
        (options,) = parser.parse_args_into_dataclasses(command_line(Options, arguments=arguments))
    except ValueError as error:
        parser.error(str(error))
    return run(options)


if __name__ == "__main__":
    run_recipe(main)
