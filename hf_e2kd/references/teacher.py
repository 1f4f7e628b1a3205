"""The live teacher, which is run and explained on every batch."""

from collections.abc import Mapping, Sequence
from copy import copy
from itertools import islice
from typing import Any

import torch
from torch import nn

from ..alignment.inputs import InputAdapter, teacher_inputs
from ..alignment.labels import (
    LabelAlignment,
    align_labels,
    choose_positive,
    class_count,
    is_multi_label,
    is_score,
    list_positives,
    parts_of,
    transform_of,
)
from ..alignment.scores import refuse_one_shared_class
from ..architectures import call_model
from ..architectures.discovery import forward_inputs, in_own_precision, return_mappings
from ..architectures.functions import forget_preparation, uncompiled, without_adapter
from ..architectures.refusals import refuse_offloaded, refuse_sentence_transformers
from ..architectures.sharding import root_gathered, shard_frozen
from ..architectures.taps import Taps
from ..choices import unknown_choice
from ..data.transforms import DistillationTransform
from ..explainers import Explainer
from ..explainers.registry import require_gradients
from ..logs import get_logger
from ..terms.base import ReferenceOutput
from ..terms.matching import mask_target
from .base import Reference

logger = get_logger(__name__)


def _teacher_top(
    alignment: LabelAlignment, logits: torch.Tensor, labels: torch.Tensor | None, noise: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the teacher's top class among those it shares with the student (e²KD, Eq. 2)."""
    return alignment.teacher_logits(logits).argmax(dim=1)


def _label(
    alignment: LabelAlignment, logits: torch.Tensor, labels: torch.Tensor | None, noise: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the sample's label, or the teacher's top class where the label isn't shared or not known.

    Of several labels one is drawn at each training step, and an evaluation takes each of them.
    """
    top = _teacher_top(alignment, logits, labels)
    if labels is None:
        raise ValueError(
            "explanation_target='label' needs labels in every batch of a training; use 'teacher_top' without them."
        )
    if labels.ndim == 2:
        shown = alignment.student_logits(labels)
        if noise is None:
            listed = list_positives(shown)
            # Nothing is listed of a sample without a shared label.
            return torch.where((listed[:, :1] < 0) & (torch.arange(listed.shape[1]).to(top) == 0), top[:, None], listed)
        shared = choose_positive(shown, noise[-1])
    else:
        shared = alignment.student_to_shared(labels)
    return torch.where(shared >= 0, shared, top)


def _no_class(alignment: LabelAlignment, logits: torch.Tensor, *_: Any) -> torch.Tensor:
    return torch.full((len(logits),), -1, device=logits.device)


# (alignment, teacher's logits (B, teacher_classes), labels (B,) or (B, classes) or None, random numbers (1, B) or None)
# → (B,) or (B, K) positions among the shared classes; −1 where there is none
TARGET_RULES = {"teacher_top": _teacher_top, "label": _label}


class TeacherReference(Reference):
    """Reference of a live teacher: its logits, maps and features for the same batch.

    The teacher runs in evaluation mode without gradients of its parameters; only what the explainer needs is
    differentiated (by GradCAM its head). It is neither trained nor saved.

    Args:
        model: The teacher: a classifier of transformers, timm or your own.
        explainer: Explainer of the teacher; None takes the student's.
        target: Class that both sides explain: `"teacher_top"` or `"label"`, of which an evaluation without labels
            explains none.
        processing_class: The teacher's image processor (or timm's `pretrained_cfg`) or tokenizer, where it differs
            from the student's; without it, what the teacher states itself.
        student_processing_class: The student's, if `processing_class` is given.
        shard: True for a share of the teacher's blocks in each process. It takes a training by FSDP2, and the
            teacher stays sharded after it. By default each process holds the teacher whole.
        reference_options: `explanation_weight`, `explanation_loss`, `logits_weight`, as in `Reference`.

    Inputs:
        `teacher_pixel_values` where the batch has them (any column that begins with `teacher_` goes to the teacher
        alone); otherwise the student's `pixel_values`, resized and normalised as the teacher's processor says. Of a
        text, `teacher_input_ids` and the like with `teacher_word_ids`, as `TextCollator` gives them; otherwise the
        student's tokens, if both tokenizers are the same.
    """

    gives = frozenset({"logits", "maps", "features"})

    def __init__(
        self,
        model: nn.Module,
        explainer: Explainer | None = None,
        target: str = "teacher_top",
        processing_class: Any = None,
        student_processing_class: Any = None,
        shard: bool = False,
        **reference_options: Any,
    ):
        super().__init__(**reference_options)
        if not isinstance(model, nn.Module):
            raise ValueError(
                f"The teacher must be a model, not {type(model).__name__}. Load it first, by "
                "AutoModelForImageClassification.from_pretrained or its like for texts."
            )
        if target not in TARGET_RULES:
            raise ValueError(unknown_choice("explanation target", target, sorted(TARGET_RULES)))
        self._given = uncompiled(model)
        model = without_adapter(self._given)
        # The student of an earlier training in bf16 would stay in it.
        forget_preparation(model)
        refuse_sentence_transformers(model, "teacher")
        refuse_offloaded(model, "teacher")
        return_mappings(model)
        self.model = model
        if explainer is not None and student_processing_class is not None:
            explainer = explainer.with_tokenizer(student_processing_class)
        self.own_explainer = self.explainer = explainer
        # Of tokens of the teacher's own, which a collator of texts may make too.
        self.tokenizer = processing_class
        self.target = target
        self.shard = shard
        self.explains_labels = target == "label"
        self.multi_label = False
        self.scores = False
        self.num_draws = 1 if target == "label" else 0
        self.adapter = InputAdapter(model, processing_class, student_processing_class)
        self.alignment: LabelAlignment | None = None
        self.taps: Taps | None = None

    def learn_batches(self, processing_class: Any, collator: Any) -> None:
        """Take in how the student's batches are made.

        Args:
            processing_class: The student's image processor or tokenizer, if it is known.
            collator: Makes the batches; one of texts knows both tokenizers.
        """
        if self.tokenizer is None:
            self.tokenizer = getattr(collator, "teacher_tokenizer", None)
        if self.adapter.student_processor is None:
            self.adapter.student_processor = processing_class
        if self.adapter.same_tokens is None:
            self.adapter.same_tokens = getattr(collator, "same_tokens", None)

    def setup(self, student: nn.Module, explainer: Explainer | None) -> None:
        if class_count(self.model) is None:
            raise ValueError(
                f"The teacher, a {type(self.model).__name__}, doesn't say what it classifies: it has no `config` and "
                "no `num_classes`. Give a classifier of transformers or timm; or one of your own whose forward takes "
                "`pixel_values` or `input_ids` and returns logits, with teacher.config = "
                "PreTrainedConfig(id2label={0: 'cat', 1: 'dog'})."
            )
        self.alignment = align_labels(self.model, student)
        refuse_one_shared_class(self.alignment)
        self.scores = is_score(student)
        if self.scores and self.explains_labels:
            raise ValueError(
                "A score has no class that a label could name. Explain it by explanation_target='teacher_top', which "
                "is the score itself."
            )
        self.multi_label = is_multi_label(student)
        self._warn_of_another_problem()
        if self.shard and self.multi_label and self.explains_labels:
            raise ValueError(
                "A sharded teacher explains as many classes on each process, and these samples have several labels, "
                "not equally many. Take target='teacher_top', or shard=False."
            )
        self.adapter.setup(student)
        if explainer is not None:
            self.explainer = self.own_explainer or without_foreign_layer(explainer, self.model)
            self.explainer = self.explainer.with_features(self.model, () if self.taps is None else self.taps.paths)
            if self.explainer.trainable:
                require_gradients(self.model, self.explainer.name, "teacher")
            self.explainer.check(self.model, trained=False)
        self.model.requires_grad_(False).eval()

    def _warn_of_another_problem(self) -> None:
        """Warn of a teacher that states that its classes exclude each other, or that they don't, unlike the student."""
        stated = getattr(getattr(self.model, "config", None), "problem_type", None)
        unlike = "single_label_classification" if self.multi_label else "multi_label_classification"
        if stated != unlike or self.scores:
            return
        how, taken = ("by a sigmoid each", "several labels") if self.multi_label else ("by one softmax", "one label")
        logger.warning_once(
            f"The teacher's config.problem_type is '{stated}', and its logits are compared {how}, as those of a "
            f"student of {taken} a sample. Unless that is meant, set student.config.problem_type='{stated}' before."
        )

    def check_data(self, dataset: Any, explains: bool) -> None:
        for part in parts_of(dataset):
            transform = transform_of(part)
            if isinstance(transform, DistillationTransform) and transform.teacher is None:
                self.adapter.check_view(transform.student)

    def tapped_model(self) -> nn.Module:
        return self.model

    def tap(self, paths: Sequence[str]) -> None:
        if self.taps is not None:
            self.taps.remove()
        self.taps = Taps(self.model, paths) if paths else None

    def explainers(self) -> list[Explainer]:
        return [] if self.explainer is None else [self.explainer]

    def is_model(self, model: nn.Module) -> bool:
        return self._given is model

    def shared_logits(self, logits: torch.Tensor) -> torch.Tensor:
        return self._bound().teacher_logits(logits)

    def student_logits(self, logits: torch.Tensor) -> torch.Tensor:
        return self._bound().student_logits(logits)

    def to_student(self, shared: torch.Tensor) -> torch.Tensor:
        return self._bound().to_student(shared)

    def inputs_of(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Select the columns of a batch that the teacher sees, in its precision."""
        batch = forward_inputs(self.model, self.adapter(teacher_inputs(inputs), inputs))
        return in_own_precision(self.model, batch)

    def explainer_of(self, inputs: Mapping[str, Any]) -> Explainer:
        """Return the explainer, which knows the tokenizer of the tokens that the teacher reads of a batch."""
        assert self.explainer is not None
        if "teacher_input_ids" in inputs:
            return self.explainer.with_tokenizer(self.tokenizer)
        tokenizer = self.adapter.student_processor if "input_ids" in inputs else None
        return self.explainer.with_tokenizer(getattr(tokenizer, "tokenizer", tokenizer))

    @torch.no_grad()
    def __call__(self, inputs: Mapping[str, Any], with_maps: bool = True) -> ReferenceOutput:
        alignment, labels = self._bound(), inputs.get("labels")
        own, batch = teacher_inputs(inputs), self.inputs_of(inputs)
        baseline = getattr(self.explainer, "baselines", None)
        if with_maps and "input_ids" in own and self.own_explainer is None and isinstance(baseline, int):
            raise ValueError(
                f"The baseline {baseline} is a token of the student's and another one to the teacher's tokenizer. "
                "Give a teacher_explainer with the teacher's own id: IntegratedGradients(baselines=…)."
            )
        if with_maps and "input_ids" in own and "word_ids" not in own:
            raise ValueError(
                "The batch has token ids of the teacher's own and doesn't say which words they belong to "
                "(`word_ids`, `teacher_word_ids`). Make it by hf_e2kd.TextCollator(tokenizer, teacher_tokenizer)."
            )
        device = next(value.device for value in batch.values() if isinstance(value, torch.Tensor))
        if self.shard:
            shard_frozen(self.model, device)
        elif any(parameter.device != device for parameter in islice(self.model.parameters(), 1)):
            self.model.to(device)
        if self.scores:  # numbers, whatever their type
            labels = None
        if labels is not None and not self.multi_label and (labels.ndim != 1 or labels.is_floating_point()):
            labels = None
        # An evaluation of unlabelled data measures the rest.
        unknown = self.explains_labels and labels is None and self.noise is None
        with_maps, rule = with_maps and not unknown, _no_class if unknown else TARGET_RULES[self.target]
        chosen: list[torch.Tensor] = []

        def explained_class(logits: torch.Tensor) -> torch.Tensor:
            chosen.append(rule(alignment, logits, labels, self.noise))
            return mask_target(alignment.to_teacher(chosen[-1]), inputs.get("explained"))

        maps = mask = vectors = None
        if self.taps is not None:
            self.taps.start()
        with root_gathered(self.model):
            if with_maps:
                explanation = self.explainer_of(inputs)(self.model, batch, explained_class)
                logits, maps, mask = explanation.logits, explanation.maps, explanation.mask
                vectors = explanation.vectors
            else:
                logits = call_model(self.model, batch)
                explained_class(logits)
        return ReferenceOutput(
            target=mask_target(alignment.to_student(chosen[-1]), inputs.get("explained")),
            maps=maps,
            mask=mask,
            vectors=vectors,
            logits=alignment.teacher_logits(logits),
            shared_labels=None if labels is None or self.multi_label else alignment.student_to_shared(labels),
            # Explainers take gradients of the teacher's own graph, of which these would be a part.
            features={} if self.taps is None else {k: v.detach() for k, v in self.taps.stop(batch).items()},
        )

    def _bound(self) -> LabelAlignment:
        if self.alignment is None:
            raise RuntimeError("Give the reference to a trainer, or call `setup(student, explainer)`, before using it.")
        return self.alignment


def without_foreign_layer(
    explainer: Explainer, model: nn.Module, remedy: str = " Choose another one by teacher_explainer."
) -> Explainer:
    """Give another model the student's explainer, without its `target_layer` where that is no layer of the model.

    Args:
        remedy: End of the warning, which says how to choose another one.
    """
    layer = getattr(explainer, "target_layer", None)
    if layer is None or any(path == layer for path, _ in model.named_modules()):
        return explainer
    logger.warning_once(
        f"The target_layer '{layer}' is the student's: {type(model).__name__} has none of that name and is explained "
        f"at its own.{remedy}"
    )
    own = copy(explainer)
    own.target_layer = None  # type: ignore[attr-defined]
    return own
