# /// script
# requires-python = ">=3.10"
# dependencies = ["hf-e2kd[search]"]
# [tool.uv.sources]
# hf-e2kd = { path = "../..", editable = true }
# ///
"""Find the weight λ of the explanation loss: accuracy, agreement and similarity over λ, as a Pareto front.

Without arguments: the embedded digits on textured backgrounds. The figures of the chosen λ are those it was chosen by;
measure it anew, on other data, before you report it.

    accelerate launch recipes/papers/search_weight.py
    accelerate launch recipes/papers/search_weight.py --weights 0.1 100 --sampler random --trials 20
    accelerate launch recipes/papers/search_weight.py --teacher microsoft/resnet-50 --student microsoft/resnet-18 \\
        --dataset ILSVRC/imagenet-1k --output_dir outputs/imagenet_search
    accelerate launch recipes/papers/search_weight.py --smoke
"""

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _common import SMOKE_SIZES, SMOKE_TRAINING, chosen_first
from transformers import set_seed

from hf_e2kd.alignment.labels import labels_belong_to
from hf_e2kd.cards.pareto_plot import pareto_plot
from hf_e2kd.experiments import Distillation, ImageExperiment, parse_experiment, run_recipe
from hf_e2kd.experiments.demos import RESNET_ON_DIGITS
from hf_e2kd.experiments.distillation import NOTHING_SAVED, replace_arguments
from hf_e2kd.experiments.images import ImageSources
from hf_e2kd.experiments.results import (
    METRICS,
    RECORDED,
    describe_machine,
    measured_metrics,
    recorded_arguments,
    write_results,
)
from hf_e2kd.metrics.pareto import pareto_front
from hf_e2kd.trainer import ExplanationDistillTrainer
from hf_e2kd.trainer.arguments import ExplanationDistillArguments

MEASURES = ("accuracy", "agreement", "explanation_similarity")
"""Measures of the front."""


@dataclass
class SearchSources(ImageSources):
    """Models and data; without them the embedded default."""

    smoke: bool = field(default=False, metadata={"help": "Try everything out in seconds: a few images, two steps."})


@dataclass
class Search:
    """Options of the λ to try."""

    weights: list[float] = field(
        default_factory=lambda: [0.0, 0.2, 1.0, 5.0, 10.0],
        metadata={"help": "The λ to try (grid), or the smallest and the largest (random)."},
    )
    sampler: str = field(
        default="grid", metadata={"help": "Try each, or draw between two.", "choices": ["grid", "random"]}
    )
    trials: int = field(default=10, metadata={"help": "How many λ are drawn at random."})
    evaluation: str | None = field(
        default=None,
        metadata={"help": "The evaluation whose figures count: in_distribution or out_of_distribution of the default."},
    )
    rounding: float = field(default=0.005, metadata={"help": "Differences below this step don't count; 0 for none."})

    def __post_init__(self) -> None:
        if not self.weights or min(self.weights) < 0:
            raise ValueError(f"--weights must be numbers of at least 0, not {self.weights}.")
        if self.sampler == "random" and (len(self.weights) != 2 or self.weights[0] >= self.weights[1]):
            raise ValueError(
                f"--sampler random draws between two --weights, a smaller and a larger, not {self.weights}."
            )
        if self.trials < 1:
            raise ValueError(f"--trials must be at least 1, not {self.trials}.")


class SearchExperiment(ImageExperiment):
    """An embedded setting that can be tried out."""

    sources = SearchSources

    def load(self, sources: Any, args: ExplanationDistillArguments, seed: int) -> Distillation:
        """Load or make one seed's models and data."""
        if sources.smoke and not sources.dataset:
            self.data, self.input_size = {**self.data, "sizes": SMOKE_SIZES}, None
        return super().load(sources, args, seed)


def run_search(experiment: SearchExperiment, name: str, description: str) -> dict[str, Any]:
    """Distil one student for each λ, and write `search.json`, `search.md` and `front.png`.

    Args:
        experiment: Models, data and training arguments.
        name: Name of the recipe; results go to `outputs/NAME` unless said otherwise.
        description: Text of `--help`.

    Returns:
        The content of `search.json`.
    """
    if chosen_first(smoke=False).smoke:
        experiment.student_training = {**experiment.student_training, **SMOKE_TRAINING}
    sources, search, args = parse_experiment(experiment, name, description, options=Search)
    set_seed(args.seed)
    start = time.monotonic()
    distillation = experiment.load(sources, args, args.seed)
    split = search.evaluation or list(distillation.evaluations)[-1]
    if split not in distillation.evaluations:
        raise ValueError(f"There is no evaluation '{split}'. Choose from: {', '.join(distillation.evaluations)}.")
    points = try_weights(distillation, args, search, split)
    if args.process_index != 0:
        return {}
    measures = [measure for measure in MEASURES if measure in points[0][split]]
    figures = [point[split] for point in points]
    front = pareto_front(figures, measures, search.rounding)
    arguments = recorded_arguments(args, RECORDED)
    # It is what the points differ in.
    del arguments["explanation_weight"]
    results = {
        "recipe": name,
        "sources": vars(sources) if sources.dataset else "embedded default",
        "search": vars(search),
        "evaluation": split,
        "arguments": arguments,
        **describe_machine(args.device),
        "seconds": round(time.monotonic() - start),
        "measures": measures,
        "points": points,
        "front": front,
    }
    output = Path(args.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    table = front_table(points, front, split, measures)
    write_results(results, output, "search.json")
    (output / "search.md").write_text(table + "\n", encoding="utf-8")
    pareto_plot(
        figures,
        front,
        measures[-1],
        measures[:-1],
        labels=[f"{point['explanation_weight']:g}" for point in points],
        names=METRICS,
        path=output / "front.png",
    )
    print(f"\n{split.replace('_', ' ').capitalize()}:\n\n{table}\n\nIn {output}: search.json, search.md, front.png")
    return results


def try_weights(
    distillation: Distillation, args: ExplanationDistillArguments, search: Search, split: str
) -> list[dict[str, Any]]:
    """Distil a student from the same start for each λ.

    Returns:
        For each, `explanation_weight` and the metrics of every evaluation by its name, by ascending λ.
    """
    import optuna

    points: list[dict[str, Any]] = []
    scored = (
        labels_belong_to(distillation.evaluations[split], distillation.student)
        and "labels" in distillation.evaluations[split][0]
    )
    measures = MEASURES if scored else MEASURES[1:]

    def objective(metrics: Mapping[str, float]) -> list[float]:
        point: dict[str, Any] = {"explanation_weight": trainer.args.explanation_weight}
        for name in distillation.evaluations:
            point[name] = measured_metrics(metrics, f"eval_{name}_")
        points.append(point)
        return [point[split][measure] for measure in measures]

    low, high = min(search.weights), max(search.weights)

    def space(trial: Any) -> dict[str, float]:
        if search.sampler == "grid":
            return {"explanation_weight": trial.suggest_categorical("explanation_weight", search.weights)}
        # Evenly over the orders of magnitude, where that is possible.
        return {"explanation_weight": trial.suggest_float("explanation_weight", low, high, log=low > 0)}

    grid = search.sampler == "grid"
    trainer = ExplanationDistillTrainer(
        None,
        # What is measured is the end of each training.
        replace_arguments(args, **NOTHING_SAVED),
        model_init=lambda: copy.deepcopy(distillation.student),
        train_dataset=distillation.train,
        eval_dataset=distillation.evaluations,
        processing_class=distillation.processor,
        teacher_model=distillation.teacher,
        data_collator=distillation.collator,
    )
    trainer.hyperparameter_search(
        hp_space=space,
        compute_objective=objective,
        n_trials=len(search.weights) if grid else search.trials,
        direction=["maximize"] * len(measures),
        backend="optuna",
        sampler=optuna.samplers.GridSampler({"explanation_weight": search.weights}, seed=args.seed)
        if grid
        else optuna.samplers.RandomSampler(seed=args.seed),
    )
    return sorted(points, key=lambda point: point["explanation_weight"])


def front_table(points: Sequence[Mapping[str, Any]], front: Sequence[int], split: str, measures: Sequence[str]) -> str:
    """Write one row a λ; those on the front are marked."""
    lines = [
        f"| λ | {' | '.join(METRICS[measure] for measure in measures)} | front |",
        f"|---|{'---|' * len(measures)}---|",
    ]
    for row, point in enumerate(points):
        cells = " | ".join(f"{point[split][measure]:.3f}" for measure in measures)
        lines.append(f"| {point['explanation_weight']:g} | {cells} | {'✓' if row in front else ''} |")
    return "\n".join(lines)


# As in distill_resnet.py, but for λ.
EXPERIMENT = SearchExperiment(**vars(RESNET_ON_DIGITS))

if __name__ == "__main__":
    run_recipe(run_search, EXPERIMENT, "search_weight", __doc__)
