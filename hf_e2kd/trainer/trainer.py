"""The `Trainer` of a student that matches its references' explanations as well as their logits."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields
from typing import Any, cast

import torch
from torch import nn
from transformers import Trainer
from transformers.trainer_jit_checkpoint import JITCheckpointCallback

from ..alignment.inputs import ANNOTATION_COLUMNS
from ..alignment.labels import is_multi_label, labels_belong_to
from ..alignment.own_processing import own_tokenizer
from ..alignment.words import mark_special_tokens, require_special_tokens
from ..architectures import is_timm, wrap_timm
from ..architectures.discovery import forward_inputs, return_mappings
from ..data.collate import FiniteBatches
from ..explainers import Explainer, build_explainer, install_explained_forward, shared_noise
from ..explainers.base import default_method
from ..fidelity import multi_label_metrics
from ..hub.ids import check_repo_id, loaded_from_hub
from ..references import Reference, TeacherReference
from ..terms import ReferenceOutput, StepOutput, Term
from ..terms.matching import ComparisonGrid
from ..terms.task import classification_loss
from .arguments import ExplanationDistillArguments
from .checkpoints import CheckpointsMixin, forget_preparation
from .checks import refuse_missing_inputs, refuse_missing_labels, refuse_shared_weights
from .compatibility import refuse_unsupported
from .evaluation import EvaluationMixin
from .finite import FiniteLosses, require_finite_weights
from .loading import LoadingMixin
from .logged_means import LoggedMeans, ZeroMapWarning
from .noise import StepGenerator, draw_noise, draw_samples
from .publishing import PublishingMixin
from .sharding import gathered
from .step import run_student, sum_terms
from .term_setup import attach_terms, build_terms
from .terms import TermsMixin

_DEFAULTS = {f.name: f.default for f in fields(ExplanationDistillArguments)}


class ExplanationDistillTrainer(PublishingMixin, EvaluationMixin, TermsMixin, LoadingMixin, CheckpointsMixin, Trainer):
    """`Trainer` that distils a student from the logits and explanations of its references (e²KD, ECCV 2024).

    Everything that `transformers.Trainer` takes and does stays; with `task_weight=1` and the other weights at 0 it is
    the stock `Trainer`, loss by loss, wherever micro-batches are equal in size.

    Args:
        model: The student. A bare timm model is put into transformers' wrapper, so that the saved model loads with
            the Auto classes.
        args: `ExplanationDistillArguments`; plain `TrainingArguments` take their defaults.
        arguments, keywords: Further arguments of `Trainer`.
        teacher_model: The teacher; short for `references={"teacher": TeacherReference(teacher_model)}`.
        references: Sources of explanations by name, each matched with its own loss and weight in one forward pass of
            the student.
        terms: Further terms of the loss, as `Hint(layers={…})`, beside those that `args.terms` names or in their place.
        explainer: Explainer of the student, a name or an `Explainer`; overrides `args.explainer`.
        teacher_explainer: The same for `teacher_model`, where it differs.
        teacher_processing_class: The teacher's image processor (or timm's `pretrained_cfg`) or tokenizer, where it
            differs from `processing_class`. Without it the teacher is shown what it states itself, with a warning.

    Metrics:
        `evaluate()` adds `eval_agreement`, `eval_explanation_similarity`, `eval_accuracy` and `eval_teacher_accuracy`
        where the labels are the student's, `eval_energy_pointing_game` and `eval_localization_iou` (and
        `eval_teacher_…`) where the data has a column `mask` (H, W) or `boxes` (N, 4), and the shares of all-zero maps.
        A multi-label student has `eval_f1` and `eval_map` in place of the accuracy; a student of one logit has
        `eval_spearman`, `eval_pearson` and `eval_mae` to the teacher's scores, and `eval_label_…` to the labels. They
        take one forward pass of each model a sample, or as many as its explainer's `forward_passes`, and no memory that
        grows with the data set but one number a sample of scores. A `compute_metrics` of your own keeps all logits,
        unless `batch_eval_metrics=True`.

    Raises:
        ValueError: nothing to distil from, or a set-up in which gradients would be wrong; the remedy is named.

    Example:

        trainer = ExplanationDistillTrainer(student, args, train_dataset=train, teacher_model=teacher)
        trainer.train()
    """

    # The loss is a mean over the batch: `training_step` divides it by the number of accumulated batches.
    loss_is_scaled_for_ga = False

    data_collator: Any
    model_wrapped: nn.Module
    compute_metrics: Any

    def __init__(
        self,
        model: nn.Module | None = None,
        args: Any = None,
        *arguments: Any,
        teacher_model: nn.Module | None = None,
        references: Mapping[str, Reference] | None = None,
        terms: Sequence[Term] = (),
        explainer: str | Explainer | None = None,
        teacher_explainer: str | Explainer | None = None,
        teacher_processing_class: Any = None,
        **keywords: Any,
    ):
        settings = ExplanationDistillArguments() if args is None else args
        if settings.hub_model_id is not None:
            check_repo_id(settings.hub_model_id)
        # Set before the parent's constructor, which calls `model_init`, and so `_equip`.
        self.args = settings
        # As far as they are known before the parent's constructor.
        collator = keywords.get("data_collator", arguments[0] if arguments else None)
        processor = keywords.get("processing_class", arguments[3] if len(arguments) > 3 else None)
        self._tokenizer = processor or getattr(collator, "tokenizer", None)
        self._explainer_given = explainer
        self._terms_given = list(terms)
        self.terms: nn.ModuleDict = nn.ModuleDict()
        self.references = dict(references or {})
        if teacher_model is not None:
            if "teacher" in self.references:
                raise ValueError("Give the teacher as `teacher_model` or as references['teacher'], not both.")
            self.references["teacher"] = TeacherReference(
                teacher_model,
                explainer=None if teacher_explainer is None else self._explainer(teacher_explainer),
                target=self._setting("explanation_target"),
                processing_class=teacher_processing_class,
                student_processing_class=processor,
            )
        elif teacher_explainer is not None or teacher_processing_class is not None:
            raise ValueError(
                "teacher_explainer and teacher_processing_class belong to a `teacher_model`; none was given."
            )
        for reference in self.references.values():
            if isinstance(reference, TeacherReference):
                reference.learn_batches(self._tokenizer, collator)
        if not self.references and (self._setting("logits_weight") > 0 or self._setting("explanation_weight") > 0):
            raise ValueError(
                "There is nothing to distil from: give a `teacher_model` or `references`, or set logits_weight and "
                "explanation_weight to 0."
            )
        super().__init__(model if model is None else self._equip(model), settings, *arguments, **keywords)
        if self.args.enable_jit_checkpoint:
            # Ours takes its place in `train`; with the end of its training it gives SIGTERM back.
            self.pop_callback(JITCheckpointCallback).on_train_end(self.args, self.state, self.control)
        matches_maps = any(self.explanation_weight_of(reference) > 0 for reference in self.references.values())
        shards_teacher = any(getattr(reference, "shard", False) for reference in self.references.values())
        refuse_unsupported(
            self.accelerator, self.args, [self.explainer] if matches_maps else [], shards_teacher, self._taps()
        )
        if self.explains:
            for reference in self.references.values():
                reference.check_processor(self.processing_class)
        if self.is_multi_label and self.compute_metrics is None and not self.args.batch_eval_metrics:
            self.compute_metrics = multi_label_metrics
        for reference in self.references.values():
            reference.check_collator(self.data_collator)
        self.data_collator = FiniteBatches(self.data_collator)
        self._logged, self._zero_maps, self._finite = LoggedMeans(), ZeroMapWarning(), FiniteLosses()
        self._generators = StepGenerator()
        reads_labels = any(reference.explains_labels for reference in self.references.values())
        if (self._setting("task_weight") > 0 or reads_labels) and not labels_belong_to(
            self.train_dataset, self.student, self.data_collator.label_column
        ):
            raise ValueError(
                "The training data's labels are not the student's classes. Set task_weight to 0 and explanation_target "
                "to 'teacher_top', or rename the classes in `id2label`."
            )

    # ---- Set-up ------------------------------------------------------------------------------------------------

    @property
    def student(self) -> nn.Module:
        """The student without its wrappers: DDP, a compiled module, an adapter of PEFT."""
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    @property
    def is_multi_label(self) -> bool:
        """True for a multi-label student, which decides each class for itself."""
        return is_multi_label(self.student)

    def call_model_init(self, trial: Any = None) -> nn.Module:
        return self._equip(super().call_model_init(trial))

    def _equip(self, model: nn.Module) -> nn.Module:
        """Prepare a student: make it saveable, explained by its own forward, and known to references and terms."""
        if any(reference.is_model(model) for reference in self.references.values()):
            raise ValueError("Teacher and student are the same object. Give the student its own copy of the weights.")
        for reference in self.references.values():
            if isinstance(reference, TeacherReference):
                refuse_shared_weights(model, reference.model)
                require_finite_weights(reference.model, "teacher", "Load or train it again.")
        require_finite_weights(model, "student", "Load it again, or initialise that layer.")
        if is_timm(model):
            model = wrap_timm(model)
        forget_preparation(model)
        return_mappings(model)
        # Now, before a folder of that name is gone or out of sight.
        self.base_model = loaded_from_hub(getattr(getattr(model, "config", None), "_name_or_path", None))
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        if self._tokenizer is None and getattr(base, "main_input_name", None) == "input_ids":
            self._tokenizer = own_tokenizer(base)
        # Anew for each trial of a hyperparameter search, which may have changed the arguments.
        built = build_terms(self._setting, self.references, self._terms_given, self._task_loss)
        self.terms = nn.ModuleDict(built)
        self._terms_set_up = self._checked_a_batch = False
        self._connect(base)
        return model

    def _connect(self, student: nn.Module) -> None:
        """Install the student's explained forward, and set up references and terms for the student."""
        attach_terms(self._named_terms(), student, self.references)
        taps = self._taps()
        self.explainer = self._explainer(self._explainer_given, student)
        explained = bool(self.references) and self.explains
        if explained:
            self.explainer = self.explainer.with_features(student, taps)
            self.explainer.check(student, compiled=bool(self.args.torch_compile))
        if explained or taps:
            install_explained_forward(student, self.explainer if explained else None, taps)
        for reference in self.references.values():
            reference.setup(student, self.explainer if self.explains else None)

    def _hp_search_setup(self, trial: Any) -> None:
        super()._hp_search_setup(trial)
        if trial is not None:
            # The trial's arguments are set after its student was made.
            self._equip(self.model)

    def _explainer(self, explainer: str | Explainer | None, model: nn.Module | None = None) -> Explainer:
        if isinstance(explainer, Explainer):
            return explainer.with_tokenizer(self._tokenizer)
        named = self._setting("explainer")
        chosen = explainer or named or default_method(cast(nn.Module, model))
        # Options belong to the method that they were written for.
        options = self._setting("explainer_options") if explainer in (None, named) else None
        return build_explainer(chosen, **(options or {})).with_tokenizer(self._tokenizer)

    @property
    def explains(self) -> bool:
        """True if any explanation is ever made: plain distillation may be measured without one."""
        matched = any(self.explanation_weight_of(reference) > 0 for reference in self.references.values())
        return matched or self._setting("evaluate_explanations")

    @property
    def comparison_grid(self) -> ComparisonGrid:
        """Grid on which maps of images are compared: "image" or "native"."""
        return self._setting("comparison_grid")

    def _setting(self, name: str) -> Any:
        """Read an argument, at every use, because a hyperparameter search changes them."""
        return getattr(self.args, name, _DEFAULTS[name])

    # ---- FSDP2 -------------------------------------------------------------------------------------------------

    def _gathered(self, model: nn.Module) -> AbstractContextManager[None]:
        """Context of a step where FSDP2 has sharded the student."""
        if not (self.is_fsdp_enabled and self.explains):
            return nullcontext()
        return gathered(model, self.student, self.explainer.target_layer_path(self.student))

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> None:
        # Our loss is a mean and needs no count; the parent's waits for ever where one rank's batches have no labels.
        return None

    def training_step(self, model: nn.Module, *arguments: Any, **keywords: Any) -> torch.Tensor:
        with self._gathered(model):
            loss = super().training_step(model, *arguments, **keywords)
        if self.args.logging_nan_inf_filter:
            # The training loop reads the loss now too; without its filter, at the next log.
            self._finite.check(loss, self.state.global_step)
        return loss

    # ---- The loss ----------------------------------------------------------------------------------------------

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Return the weighted sum of the terms, a mean over the batch; `num_items_in_batch` is therefore not needed."""
        terms, weights = self._named_terms(), self._weights(self._explanation_rise())
        weighed = {name for name, weight in weights.items() if weight > 0}
        if not self._checked_a_batch:
            refuse_missing_inputs(inputs, self.train_dataset, bool(self.args.remove_unused_columns))
            labelled = [name for name in terms if name in weighed and "labels" in terms[name].needs]
            refuse_missing_labels(self.accelerator, inputs, labelled, self.train_dataset)
            self._checked_a_batch = True
        with_maps = any(_explains(terms[name]) for name in weighed)
        with_maps = with_maps and self.state.global_step % self._setting("explanation_interval") == 0
        active = [terms[name] for name in weighed if with_maps or not _explains(terms[name])]
        asked = {term.reference for term in active}
        if with_maps and self._setting("explanation_fraction") < 1:
            chosen = draw_samples(self._setting("explanation_fraction"), inputs, self._generator())
            inputs = {**inputs, "explained": chosen}
        with shared_noise([*self._explainers(), *self.references.values()], self._noise(inputs) if with_maps else None):
            reference_outputs = self._ask(inputs, asked, with_maps)
            loss, logged, output = self._compare(model, inputs, reference_outputs, weights)
        if not logged:
            raise ValueError(
                "No term of the loss applies to this batch: it has no labels, or all weights are 0. Columns: "
                f"{sorted(inputs)}."
            )
        self._logged.add(logged)
        self._finite.watch(logged, output, reference_outputs)
        return (loss, {"logits": output.logits}) if return_outputs else loss

    def _explainers(self) -> list[Explainer]:
        return [self.explainer, *(own for reference in self.references.values() for own in reference.explainers())]

    def _noise(self, inputs: Mapping[str, Any]) -> torch.Tensor | None:
        """Draw this process's random numbers (rows, B) of a micro-batch; None where no choice is random."""
        # A reference's numbers (for a class) stand behind the explainers' (for points): neither follows the other.
        rows = max(each.num_draws for each in self._explainers())
        rows += max(each.num_draws for each in self.references.values())
        return draw_noise(rows, inputs, self._generator()) if rows else None

    def _generator(self) -> torch.Generator:
        return self._generators.at(self.args.seed, self.state.global_step, self.args.process_index)

    def _weights(self, rise: float = 1.0) -> dict[str, float]:
        """Return the terms' weights by name.

        Args:
            rise: Factor on those of explanations, during the warm-up of λ.
        """
        weights = {}
        for name, term in self._named_terms().items():
            weight = self._setting(cast(str, term.weight_argument)) if term.weight is None else term.weight
            weights[name] = weight * rise if _explains(term) else weight
        return weights

    def explanation_weight_of(self, reference: Reference) -> float:
        """Return the weight λ of a reference's explanations."""
        own = reference.explanation_weight
        return self._setting("explanation_weight") if own is None else own

    def logits_weight_of(self, reference: Reference) -> float:
        """Return the weight of a reference's logits."""
        return self._setting("logits_weight") if reference.logits_weight is None else reference.logits_weight

    def _explanation_rise(self) -> float:
        """Return the progress of the warm-up of λ, from 0 to 1; 1 in an evaluation."""
        warmup = self._setting("explanation_warmup_ratio") * self.state.max_steps
        return min(1.0, self.state.global_step / warmup) if warmup > 0 else 1.0

    def _ask(self, inputs: Mapping[str, Any], names: set[Any], with_maps: bool) -> dict[str, ReferenceOutput]:
        """Compute the outputs of some references for one batch."""
        shared = self._shared(inputs)
        with self.accelerator.autocast():
            return {
                name: reference(shared | {key: inputs[key] for key in reference.columns if key in inputs}, with_maps)
                for name, reference in self.references.items()
                if name in names
            }

    def _compare(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        reference_outputs: Mapping[str, ReferenceOutput],
        weights: Mapping[str, float],
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor], StepOutput]:
        """Run the student once and compare it; return the loss, the values to log, and the student's output."""
        terms = self._named_terms()
        views = {name: term.views(inputs) for name, term in terms.items() if weights[name] > 0}
        further = {name: {**view} for name, view in views.items() if view is not None}
        output, outputs = run_student(
            model,
            self.student,
            self.student_inputs(inputs),
            reference_outputs,
            sample_mask=inputs.get("explained"),
            with_features=bool(self._taps()),
            views={name: self.student_inputs(view) for name, view in further.items()},
        )
        seen: dict[str, tuple[StepOutput, ReferenceOutput | None]] = {}
        for name, own in outputs.items():
            theirs = self._ask(further[name], {terms[name].reference}, with_maps=False)
            seen[name] = own, theirs.get(cast(str, terms[name].reference))
        loss, logged = sum_terms(terms, weights, output, reference_outputs, inputs, seen)
        return loss, logged, output

    def _shared(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the batch without the columns of single references, which neither the student nor others read."""
        private = {column for reference in self.references.values() for column in reference.columns}
        private |= {column for term in self._named_terms().values() for column in term.columns}
        shared = {key: value for key, value in inputs.items() if key in ANNOTATION_COLUMNS or key not in private}
        tokenizer = self.processing_class or self._tokenizer
        marked = mark_special_tokens(shared, getattr(tokenizer, "tokenizer", tokenizer))
        if self.explains and self.references:
            require_special_tokens(marked, tokenizer)
        return marked

    def student_inputs(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the columns of a batch that the student is given."""
        shared = self._shared(inputs)
        own = {k: v for k, v in shared.items() if k not in ANNOTATION_COLUMNS and not k.startswith("teacher_")}
        return forward_inputs(self.student, own)

    def _task_loss(self, model_output: Any, labels: torch.Tensor) -> torch.Tensor:
        """Compute the student's own loss on the labels, as the stock `Trainer` chooses it, a mean over this batch."""
        if self.compute_loss_func is not None:
            return self.compute_loss_func(model_output, labels, num_items_in_batch=labels.numel())
        if self.label_smoother is not None and labels.ndim == 1:
            return self.label_smoother({"logits": model_output["logits"]}, labels)
        return classification_loss(self.student, model_output["logits"], labels, self.args.label_smoothing_factor)

    # ---- Logging -----------------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, and add each term's mean over the micro-batches and processes since the last log."""
        if "loss" in logs:
            means = self._logged.means(self.accelerator)
            self._finite.check_means({**means, "loss": logs["loss"]}, self.state.global_step)
            logs.update(means)
        if "loss" in logs or "train_loss" in logs:
            # With the end of a training, what its last steps left unlogged ends too.
            self._logged.clear()
        self._zero_maps.check(logs)
        super().log(logs, start_time)


def _explains(term: Term) -> bool:
    """Tell whether a term compares explanations."""
    return not term.needs.isdisjoint({"maps", "annotation"})
