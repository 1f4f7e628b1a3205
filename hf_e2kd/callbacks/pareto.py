"""Checkpoints of a Pareto front: those that no other one beats in every measure."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..metrics.pareto import pareto_front

PARETO_FILE = "pareto.json"


class ParetoCheckpoints(TrainerCallback):
    """Model selection by several measures (Rao et al., ICCV 2023): a front over all evaluations, and its checkpoints.

    After each evaluation a model that no earlier one beats is saved, and checkpoints that it beats are removed, those
    of an earlier training's front in the same folder too. The front and every evaluation's measures stand in
    `pareto.json` in the output folder; `hf_e2kd.cards.pareto_plot.pareto_plot` draws them.

    Args:
        maximise: Names of the measures, without the evaluation's prefix; all better the larger.
        rounding: Step to which they are rounded before they are compared; None for none.
        prefix: Prefix of the evaluation that counts: `"eval"`, or `"eval_NAME"` of a dictionary of data sets.

    Raises:
        ValueError: at the start of the training, settings that would save or remove other checkpoints; at an
            evaluation, a measure that it doesn't have, with those that it has.

    Example:

        args = ExplanationDistillArguments("guided", eval_strategy="epoch", save_strategy="no", …)
        trainer = ExplanationDistillTrainer(model, args, …, callbacks=[ParetoCheckpoints(["f1", "localization_iou"])])
    """

    def __init__(
        self,
        maximise: Sequence[str] = ("f1", "energy_pointing_game", "localization_iou"),
        rounding: float | None = 0.005,
        prefix: str = "eval",
    ):
        self.maximise = list(maximise)
        self.rounding = rounding
        self.prefix = prefix
        self.points: list[dict[str, float]] = []
        self._is_training = False
        self._replaced: set[int] = set()

    @property
    def front(self) -> list[dict[str, float]]:
        """List the evaluations on the front: their measures and `step`, in the order of the training."""
        return [self.points[number] for number in pareto_front(self.points, self.maximise, self.rounding)]

    def on_train_begin(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        if args.save_strategy != "no" or args.save_total_limit is not None or args.load_best_model_at_end:
            raise ValueError(
                "ParetoCheckpoints decides which checkpoints are saved and removed. Set save_strategy='no', and leave "
                "save_total_limit and load_best_model_at_end unset."
            )
        if args.eval_strategy == "no":
            raise ValueError("ParetoCheckpoints compares evaluations. Set eval_strategy='epoch' or 'steps'.")
        self._is_training = True
        path = Path(args.output_dir) / PARETO_FILE
        # A training that is resumed goes on with the evaluations before its checkpoint; one that begins replaces them,
        # and what was kept of them goes when there is a model to keep.
        written = json.loads(path.read_text(encoding="utf-8"))["points"] if path.is_file() else []
        self.points = [point for point in written if point["step"] <= state.global_step] if state.global_step else []
        self._replaced = {point["step"] for point in written} - {point["step"] for point in self.points}

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **keywords: Any) -> None:
        if not self._is_training or not any(name.startswith(f"{self.prefix}_") for name in metrics):
            return  # of the test data, or of another data set
        if not state.global_step:
            return  # of `eval_on_start`, after which no checkpoint is saved
        missing = [name for name in self.maximise if f"{self.prefix}_{name}" not in metrics]
        if missing:
            raise ValueError(
                f"The evaluation has no {', '.join(f'{self.prefix}_{name}' for name in missing)}. It has: "
                f"{', '.join(sorted(metrics))}."
            )
        measures = {name: metrics[f"{self.prefix}_{name}"] for name in self.maximise}
        self.points = [point for point in self.points if point["step"] != state.global_step]
        self.points.append({"step": state.global_step, **measures})
        control.should_save = self.points[-1] in self.front
        if not control.should_save:
            self._write(args, state)

    def on_save(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        if state.is_world_process_zero:
            kept = {point["step"] for point in self.front}
            for step in self._replaced.union(point["step"] for point in self.points) - kept:
                folder = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{step}"
                if folder.is_dir():
                    shutil.rmtree(folder)
        self._write(args, state)

    def on_train_end(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        self._is_training = False

    def _write(self, args: Any, state: Any) -> None:
        if state.is_world_process_zero:
            content = {"maximise": self.maximise, "rounding": self.rounding, "points": self.points, "front": self.front}
            Path(args.output_dir).mkdir(parents=True, exist_ok=True)
            (Path(args.output_dir) / PARETO_FILE).write_text(json.dumps(content, indent=2), encoding="utf-8")
