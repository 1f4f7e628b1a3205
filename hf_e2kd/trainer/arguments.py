"""The arguments of a distillation, flat and readable from a command line."""

import json
from dataclasses import dataclass, field

from transformers import TrainingArguments

from ..explainers import build_explainer
from ..references.teacher import TARGET_RULES
from ..terms import available_explanation_losses


@dataclass
class ExplanationDistillArguments(TrainingArguments):
    """`TrainingArguments` and what explanation-enhanced distillation adds.

    The objective is task_weight · cross-entropy + logits_weight · τ²KL + explanation_weight · explanation loss
    (e²KD, ECCV 2024, where the task weight is 0). Each term with a weight is logged.

    Raises:
        ValueError: a value outside its range, or a name that isn't known; the valid ones are listed.
    """

    task_weight: float = field(default=0.0, metadata={"help": "Weight of the loss on the labels."})
    logits_weight: float = field(default=1.0, metadata={"help": "Weight of the loss on the teacher's logits."})
    explanation_weight: float = field(
        default=1.0, metadata={"help": "Weight λ of the loss on the explanations; 0 computes none in training."}
    )
    temperature: float = field(default=1.0, metadata={"help": "Temperature τ of the loss on the logits."})
    explainer: str = field(
        default="gradcam",
        metadata={"help": "How teacher and student are explained, e.g. gradcam, integrated_gradients."},
    )
    explainer_options: dict | str | None = field(
        default=None, metadata={"help": 'Options of the explainer as JSON, e.g. \'{"target_layer": "layer3"}\'.'}
    )
    explanation_loss: str = field(
        default="cosine", metadata={"help": "Loss between maps: cosine, kl, l1, mse, pearson or a registered one."}
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
        metadata={"help": "Measure explanations in evaluations; False for plain distillation of what has no map."},
    )
    iou_threshold: float = field(
        default=0.5,
        metadata={"help": "From which share of a map's largest value a cell counts in evaluations' localisation IoU."},
    )
    explanation_warmup_ratio: float = field(
        default=0.0, metadata={"help": "Share of training over which λ rises linearly from 0."}
    )

    def __post_init__(self) -> None:
        if isinstance(self.explainer_options, str):
            try:
                self.explainer_options = json.loads(self.explainer_options)
            except json.JSONDecodeError as error:
                raise ValueError(f"explainer_options is not JSON: {self.explainer_options!r} ({error}).") from error
        if self.explainer_options is not None and not isinstance(self.explainer_options, dict):
            raise ValueError(f"explainer_options must be a JSON object, not {self.explainer_options!r}.")
        super().__post_init__()
        for name in ("task_weight", "logits_weight", "explanation_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, not {getattr(self, name)}.")
            # A hyperparameter search casts each value to the type that it finds: 1 would truncate 0.5 to 0.
            setattr(self, name, float(getattr(self, name)))
        for name in ("temperature", "explanation_warmup_ratio", "explanation_fraction", "iou_threshold"):
            setattr(self, name, float(getattr(self, name)))
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, not {self.temperature}.")
        if self.explanation_interval < 1:
            raise ValueError(f"explanation_interval must be at least 1, not {self.explanation_interval}.")
        if not 0 < self.explanation_fraction <= 1:
            raise ValueError(f"explanation_fraction must lie in (0, 1], not {self.explanation_fraction}.")
        if not 0 <= self.explanation_warmup_ratio <= 1:
            raise ValueError(f"explanation_warmup_ratio must lie in [0, 1], not {self.explanation_warmup_ratio}.")
        if not 0 <= self.iou_threshold < 1:
            raise ValueError(f"iou_threshold must lie in [0, 1), not {self.iou_threshold}.")
        _require_known("explanation_loss", self.explanation_loss, available_explanation_losses())
        _require_known("explanation_target", self.explanation_target, sorted(TARGET_RULES))
        build_explainer(self.explainer, **(self.explainer_options or {}))


def _require_known(name: str, value: str, known: list[str]) -> None:
    if value not in known:
        raise ValueError(f"Unknown {name} '{value}'. Available: {', '.join(known)}.")
