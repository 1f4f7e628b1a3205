"""The arguments of a distillation, flat and readable from a command line."""

import json
from dataclasses import dataclass, field
from typing import Any, cast

from transformers import TrainingArguments

from ..choices import unknown_choice
from ..explainers import build_explainer
from ..fidelity.groups import LOWER_IS_BETTER, is_lower_better
from ..references.teacher import TARGET_RULES
from ..terms import available_explanation_losses, available_logits_losses, build_term
from ..terms.logits import read_loss_options
from ..terms.matching import COMPARISON_GRIDS
from ..terms.numbers import read_count, read_number, read_switch
from ..terms.task import TASK_LOSSES
from .relative_weights import MODES


@dataclass
class ExplanationDistillArguments(TrainingArguments):
    """`TrainingArguments` and what explanation-enhanced distillation adds.

    The loss is task_weight · cross-entropy + logits_weight · τ²KL + explanation_weight · explanation loss (e²KD, ECCV
    2024, where the task weight is 0) + the weighted terms that `terms` names. Each term with a weight is logged.

    Raises:
        ValueError: a value outside its range, or a name that isn't known; the valid ones are listed.
    """

    task_weight: float = field(default=0.0, metadata={"help": "Weight of the loss on the labels."})
    task_loss: str = field(
        default="auto",
        metadata={
            "help": "Loss on the labels: auto (cross-entropy, or what suits the student's labels) or mse (mean squared "
            "difference of the probabilities and the one-hot class).",
            "choices": list(TASK_LOSSES),
        },
    )
    logits_weight: float = field(default=1.0, metadata={"help": "Weight of the loss on the teacher's logits."})
    explanation_weight: float = field(
        default=1.0, metadata={"help": "Weight λ of the loss on the explanations; 0 computes none in training."}
    )
    logits_loss: str = field(
        default="auto",
        metadata={
            "help": "Loss between logits: kl, dist, dkd, hard, mse, margin_mse or a registered one; auto: kl, of "
            "scores mse."
        },
    )
    logits_loss_options: dict | str | None = field(
        default=None, metadata={"help": 'Options of the loss between logits as JSON, e.g. \'{"alpha": 1, "beta": 8}\'.'}
    )
    temperature: float = field(default=1.0, metadata={"help": "Temperature τ of the loss on the logits."})
    explainer: str | None = field(
        default=None,
        metadata={
            "help": "Explainer of teacher and student; by default gradcam of images, integrated_gradients of texts."
        },
    )
    explainer_options: dict | str | None = field(
        default=None, metadata={"help": 'Options of the explainer as JSON, e.g. \'{"target_layer": "layer3"}\'.'}
    )
    explanation_loss: str = field(
        default="cosine", metadata={"help": "Loss between maps: cosine, kl, l1, mse, pearson or a registered one."}
    )
    comparison_grid: str = field(
        default="image",
        metadata={
            "help": "Size at which maps of images are compared, in loss and metrics: image (enlarged to the student's "
            "image, as the paper does) or native (the larger of both maps' own grids).",
            "choices": list(COMPARISON_GRIDS),
        },
    )
    terms: dict | str | None = field(
        default=None,
        metadata={
            "help": "Further terms of the loss with their options, as JSON: "
            '\'{"hint": {"weight": 1.0, "layers": {"encoder.stages.3": "layer4"}}}\'.'
        },
    )
    explanation_target: str = field(
        default="teacher_top", metadata={"help": "The class that both sides explain: teacher_top or label."}
    )
    explanation_interval: int = field(
        default=1, metadata={"help": "Match explanations at every n-th optimizer step only, to save time."}
    )
    explanation_fraction: float = field(
        default=1.0,
        metadata={
            "help": "Match explanations of this share of each batch, drawn anew; saves time by Integrated Gradients."
        },
    )
    evaluate_explanations: bool = field(
        default=True,
        metadata={
            "help": "Measure explanations in evaluations; False for plain distillation of what has no map. Without "
            "them an evaluation's loss lacks their term."
        },
    )
    iou_threshold: float = field(
        default=0.5,
        metadata={"help": "From which share of a map's largest value a cell counts in evaluations' localisation IoU."},
    )
    group_column: list[str] | None = field(
        default=None,
        metadata={
            "help": "Column, or several, by whose values evaluations group the samples: every metric by group, and the "
            "worst group's as worst_group_accuracy and so on."
        },
    )
    explanation_warmup_ratio: float = field(
        default=0.0, metadata={"help": "Share of training over which λ rises linearly from 0."}
    )
    explanation_weight_mode: str = field(
        default="absolute",
        metadata={
            "help": "Meaning of λ: absolute (a factor on the loss) or relative (the norm of the explanations' gradient "
            "as a multiple of that of all other terms together).",
            "choices": list(MODES),
        },
    )
    explanation_weight_interval: int = field(
        default=10, metadata={"help": "Measure the gradients' norms of a relative λ at every n-th explained step."}
    )

    def __post_init__(self) -> None:
        own = cast(Any, self)
        if own.greater_is_better is None and _is_lower_better(own.metric_for_best_model):
            # transformers takes all but losses for better the larger.
            own.greater_is_better = False
        super().__post_init__()
        if own.greater_is_better and getattr(own.lr_scheduler_type, "value", "") in _FOLLOWING_A_METRIC:
            # Else they lower the learning rate while it rises.
            own.lr_scheduler_kwargs = {"mode": "max", **(own.lr_scheduler_kwargs or {})}
        self.check()

    def check(self) -> None:
        """Read and check what this class adds: at the start, and again when a search's trial has set some of it.

        Raises:
            ValueError: as the class does.
        """
        for name in ("logits_loss_options", "explainer_options", "terms"):
            setattr(self, name, _read_json(name, getattr(self, name)))
        if isinstance(self.group_column, str):
            self.group_column = [self.group_column]
        resumed = "resume_from_checkpoint"
        if str(getattr(self, resumed)).lower() == "false":  # as of a file of options; no checkpoint is called so
            setattr(self, resumed, None)
        # A hyperparameter search casts each value to the type that it finds: 1 would truncate 0.5 to 0.
        for name in ("explanation_warmup_ratio", "explanation_fraction", "iou_threshold"):
            setattr(self, name, read_number(name, getattr(self, name)))
        for name in ("task_weight", "logits_weight", "explanation_weight", "learning_rate", "weight_decay"):
            setattr(self, name, read_number(name, getattr(self, name), at_least=0))
        self.temperature = read_number("temperature", self.temperature, above=0)
        self.explanation_interval = read_count("explanation_interval", self.explanation_interval)
        self.explanation_weight_interval = read_count("explanation_weight_interval", self.explanation_weight_interval)
        self.evaluate_explanations = read_switch("evaluate_explanations", self.evaluate_explanations)
        if not 0 < self.explanation_fraction <= 1:
            raise ValueError(f"explanation_fraction must lie in (0, 1], not {self.explanation_fraction}.")
        if not 0 <= self.explanation_warmup_ratio <= 1:
            raise ValueError(f"explanation_warmup_ratio must lie in [0, 1], not {self.explanation_warmup_ratio}.")
        if not 0 <= self.iou_threshold < 1:
            raise ValueError(f"iou_threshold must lie in [0, 1), not {self.iou_threshold}.")
        if not 0 <= self.seed < 2**32:  # what NumPy takes
            raise ValueError(f"seed must lie in [0, 2**32), not {self.seed}.")
        _require_known("task_loss", self.task_loss, list(TASK_LOSSES))
        if self.task_loss == "mse" and self.label_smoothing_factor:
            raise ValueError(
                "label_smoothing_factor is of the cross-entropy. Set it to 0 for task_loss='mse', or take 'auto'."
            )
        _require_known("logits_loss", self.logits_loss, ["auto", *available_logits_losses()])
        if self.logits_loss != "auto":  # else the student's problem chooses, and its options are read then
            read_loss_options(self.logits_loss, cast(dict, self.logits_loss_options) or {})
        _require_known("explanation_loss", self.explanation_loss, available_explanation_losses())
        _require_known("comparison_grid", self.comparison_grid, list(COMPARISON_GRIDS))
        _require_known("explanation_weight_mode", self.explanation_weight_mode, list(MODES))
        _require_known("explanation_target", self.explanation_target, sorted(TARGET_RULES))
        if self.explainer is not None:  # else the student's inputs choose, and its options are read then
            build_explainer(self.explainer, **(cast(dict, self.explainer_options) or {}))
        for term, options in (cast(dict, self.terms) or {}).items():
            if not isinstance(options, dict):
                raise ValueError(f"The options of the term '{term}' must be a JSON object, not {options!r}.")
            build_term(term, **options)


_FOLLOWING_A_METRIC = ("reduce_lr_on_plateau", "greedy")
"""Schedulers of the learning rate that follow `metric_for_best_model`, and take it for better the lower."""


def _is_lower_better(metric: str | None) -> bool:
    """Tell whether lower values of an evaluation's metric are better, that of one of several data sets too."""
    figure = (metric or "").removeprefix("eval_").split("/")[0]
    return is_lower_better(figure) or figure.endswith(tuple(f"_{name}" for name in LOWER_IS_BETTER))


def _require_known(name: str, value: str, known: list[str]) -> None:
    if value not in known:
        raise ValueError(unknown_choice(name, str(value), known))


def _read_json(name: str, value: dict | str | None) -> dict | None:
    """Read an option that is an object, or JSON of one, as it comes from a command line."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"{name} is not JSON: {value!r} ({error}).") from error
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"{name} must be a JSON object, not {value!r}.")
    return value
