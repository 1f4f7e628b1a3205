"""A student and its references as a trainer sets them up, though other trainers of the same ones do so too."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import fields
from typing import Any, cast

from torch import nn
from transformers import Trainer, TrainingArguments

from ..architectures.functions import forget_preparation
from ..explainers import Explainer, install_explained_forward
from ..explainers.registry import require_gradients
from ..references import Reference
from ..terms import Term
from .arguments import ExplanationDistillArguments
from .relative_weights import add_factors
from .term_setup import attach_terms

DEFAULTS = {f.name: f.default for f in fields(ExplanationDistillArguments)}
OWN_ARGUMENTS = DEFAULTS.keys() - {f.name for f in fields(TrainingArguments)}
"""Arguments that distillation adds."""
READ_AT_EACH_USE = {
    *("task_weight", "logits_weight", "explanation_weight", "evaluate_explanations", "task_loss"),
    *("explanation_fraction", "explanation_interval", "explanation_warmup_ratio", "explanation_weight_interval"),
    *("iou_threshold", "group_column"),
}
"""Those that hold from the moment on when they are changed, as by a callback; terms are made by the others."""


class ConnectionMixin(Trainer):
    """Mixin: set the student and the references up, and again where another trainer or new arguments ask for it."""

    references: dict[str, Reference]
    explainer: Explainer
    student: nn.Module
    _connection: object = None
    """What marks the references that this trainer has set up last."""
    _explained_forward: Any = None
    """The student's forward as this trainer has installed it; None where it explains nothing."""
    _terms_set_up: bool
    _set_up_mark: object = None
    """What marks the terms that this trainer has set up, or another for its stage."""
    _connected_for: tuple[bool, bool] = (False, False)
    """Whether anything is explained, and whether in the training, as the student was set up."""
    _made_by: dict[str, Any]
    """The arguments by which the student was set up."""
    _equip: Any
    _explainer: Any
    _explainer_given: Any
    _named_terms: Any
    _taps: Any
    _weights: Any

    def _connect(self, student: nn.Module) -> None:
        """Install the student's explained forward, and set up references and terms for the student."""
        terms = self._named_terms()
        attach_terms(terms, student, self.references)
        if self.args.explanation_weight_mode == "relative":
            add_factors(terms, self._weights())
        taps = self._taps()
        self.explainer = self._explainer(self._explainer_given, student)
        explained = bool(self.references) and self.explains
        if explained:
            self.explainer = self.explainer.with_features(student, taps)
            if self.explainer.trainable:
                require_gradients(student, self.explainer.name, "student")
            compiled = bool(self.args.torch_compile)
            self.explainer.check(student, compiled=compiled, trained=self._trains_explanations)
        if explained or taps:
            install_explained_forward(student, self.explainer if explained else None, taps)
        self._explained_forward = student.forward if explained or taps else None
        self._connected_for = self.explains, self._trains_explanations
        self._connection = object()
        for reference in self.references.values():
            reference.setup(student, self.explainer if self.explains else None)
            reference.connection = self._connection
        for term in terms.values():
            term.connection = self._connection

    def connect_again(self) -> None:
        """Set up the student, references and terms anew, where another trainer of the same ones has done so since.

        Its explainer, layers and classes would be taken for this one's. So, too, where a weight that was 0 isn't any
        more.

        Raises:
            ValueError: a term's parameters or buffers are another trainer's by now.
        """
        student, terms = self.student, self._named_terms()
        self._refuse_terms_of_others(terms)
        forward = vars(student).get("_original_forward", student.forward)
        is_own = self._explained_forward is None or self._explained_forward == forward
        is_own = is_own and self._connected_for == (self.explains, self._trains_explanations)
        parts: list[Reference | Term] = [*self.references.values(), *terms.values()]
        if is_own and all(part.connection is self._connection for part in parts):
            return
        self._set_up_again(lambda: self._connect(student))

    def _refuse_terms_of_others(self, terms: Mapping[str, Term]) -> None:
        for name, term in terms.items():
            if self._terms_set_up and term.set_up_by is not self._set_up_mark and term.state_dict():
                raise ValueError(
                    f"The term '{name}' was given to another trainer too, whose parameters or statistics it has by "
                    "now: this trainer would go on with those. Give each trainer a term of its own, as by "
                    "copy.deepcopy(term) before the first is made."
                )

    def take_arguments(self) -> None:
        """Set the student up anew, where arguments were changed since: a training would go by those of the start.

        Raises:
            ValueError: `explanation_target` was changed, or a new value is refused.
        """
        changed = {name for name, value in self._made_by.items() if getattr(self.args, name) != value}
        if not changed:
            return
        if "explanation_target" in changed:
            raise ValueError(
                "explanation_target was changed after the trainer was made, whose references have theirs from the "
                "start. Make another trainer."
            )
        if isinstance(self.args, ExplanationDistillArguments):
            self.args.check()
        if changed <= READ_AT_EACH_USE:  # what the terms have learnt stays
            self._keep_arguments()
        else:
            self._set_up_again(lambda: self._equip(self.model))

    def _keep_arguments(self) -> None:
        """Keep the arguments by which the student is set up."""
        self._made_by = {name: deepcopy(getattr(self.args, name)) for name in OWN_ARGUMENTS}

    def _set_up_again(self, set_up: Any) -> None:
        """Set up a student that may be in use already, whose autocast wraps what is installed."""
        model, prepared = cast(nn.Module, self.model), bool(self.accelerator._models)
        forget_preparation(model)
        forget_preparation(self.student)
        set_up()
        if prepared and not (self.is_deepspeed_enabled or self.is_fsdp_enabled):
            self.accelerator.prepare_model(model, device_placement=False, evaluation_mode=True)
            self.accelerator._models.pop()  # which knew it
