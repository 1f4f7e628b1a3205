"""The `Trainer` of a student that matches its references' explanations as well as their logits."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import Trainer
from transformers.trainer_jit_checkpoint import JITCheckpointCallback

from ..alignment.labels import data_labels, is_multi_label, is_score, labels_belong_to
from ..alignment.own_processing import own_tokenizer
from ..architectures import is_timm, wrap_timm
from ..architectures.discovery import return_mappings
from ..architectures.functions import forget_preparation, uncompiled
from ..architectures.refusals import refuse_missing_data, refuse_sentence_transformers
from ..architectures.sharding import whole
from ..callbacks.progress import describe_progress
from ..explainers import Explainer, GradCAM, build_explainer
from ..explainers.base import default_method
from ..fidelity import multi_label_metrics
from ..hub.ids import check_repo_id, loaded_from_hub
from ..logs import get_logger
from ..references import Reference, TeacherReference
from ..terms import Term
from ..terms.matching import ComparisonGrid
from .arguments import ExplanationDistillArguments
from .checkpoints import CheckpointsMixin
from .checks import (
    refuse_loaded_shards,
    refuse_metric_of_no_set,
    refuse_metric_without_terms,
    refuse_several_scores,
    refuse_shared_weights,
    refuse_virtual_tokens,
)
from .compatibility import refuse_unsupported
from .connection import DEFAULTS, ConnectionMixin
from .evaluation import EvaluationMixin
from .finite import FiniteLosses, require_finite_weights
from .loading import LoadingMixin
from .logged_means import LoggedMeans, ZeroMapWarning
from .loss import LossMixin
from .noise import StepGenerator
from .publishing import PublishingMixin
from .relative_weights import refuse_relative_weights
from .sharding import gathered
from .term_setup import build_terms
from .terms import TermsMixin

logger = get_logger(__name__)


class ExplanationDistillTrainer(
    PublishingMixin, EvaluationMixin, LossMixin, TermsMixin, LoadingMixin, ConnectionMixin, CheckpointsMixin, Trainer
):
    """`Trainer` that distils a student from the logits and explanations of its references (e²KD, ECCV 2024).

    Everything that `transformers.Trainer` takes and does stays; with `task_weight=1` and the other weights at 0 it is
    the stock `Trainer`, loss by loss, wherever micro-batches have equally many labels.

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

    model_wrapped: nn.Module
    compute_metrics: Any
    _unwrapped: tuple[nn.Module, nn.Module] | None = None

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
        for name, default in DEFAULTS.items():
            if not hasattr(settings, name):  # of plain TrainingArguments; records state it too
                setattr(settings, name, default)
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
        # Before a training makes one of the arguments'.
        self.optimizer_is_given = self.optimizer is not None or self.optimizer_cls_and_kwargs is not None
        describe_progress(self)
        if self.args.enable_jit_checkpoint:
            # Ours takes its place in `train`; with the end of its training it gives SIGTERM back.
            self.pop_callback(JITCheckpointCallback).on_train_end(self.args, self.state, self.control)
        as_they_are = self.preprocess_logits_for_metrics is None and not self.args.batch_eval_metrics
        if self.is_multi_label and self.compute_metrics is None and as_they_are:
            self.compute_metrics = multi_label_metrics
        # For a data loader of the user's own, too; ours takes the labels of each data set.
        labels = data_labels(self.train_dataset, self.student, self.data_collator.label_column)
        self.data_collator = self.data_collator.with_labels(labels)
        self._logged, self._zero_maps, self._finite = LoggedMeans(), ZeroMapWarning(), FiniteLosses()
        self._generators = StepGenerator()
        self._check_settings()

    # ---- Set-up ------------------------------------------------------------------------------------------------

    def _check_settings(self) -> None:
        """Refuse what the set-up can't follow: at the start, at each training and at a search's trial."""
        trained = [self.explainer] if self._trains_explanations else []
        shards_teacher = any(getattr(reference, "shard", False) for reference in self.references.values())
        refuse_unsupported(self.accelerator, self.args, trained, shards_teacher, self._taps())
        if trained and self._setting("explanation_weight_mode") == "relative":
            refuse_relative_weights(self.accelerator, self.args)
        if self.explains:
            for reference in self.references.values():
                reference.check_processor(self.processing_class)
        self._refuse_steps_without_loss()
        if self.compute_loss_func is not None and self._setting("task_loss") != "auto":
            raise ValueError("Give the loss on the labels as compute_loss_func or by task_loss='mse', not both.")
        if self.compute_loss_func is not None and self._setting("task_weight") == 0:
            logger.warning_once(
                "compute_loss_func is the loss on the labels, whose weight is 0: it is not called. Set task_weight to "
                "1, or leave compute_loss_func out."
            )
        if self.args.label_smoothing_factor and self._setting("task_weight") > 0 and is_score(self.student):
            raise ValueError(
                f"label_smoothing_factor spreads the truth over classes, and {type(self.student).__name__} gives one "
                "score, whose cross-entropy is always 0. Set it to 0."
            )
        refuse_metric_of_no_set(self.args, self.eval_dataset)
        if not self._setting("evaluate_explanations"):
            others = [name for name, weight in self._weights().items() if weight > 0 and not self.terms[name].explains]
            refuse_metric_without_terms(self.args, others)
        asked = self._setting("explanation_target")
        rules = {name: reference.target for name, reference in self.references.items() if hasattr(reference, "target")}
        if asked != "teacher_top" and rules and asked not in rules.values():
            raise ValueError(
                f"explanation_target is '{asked}', and the references explain another class: {rules}. It is for a "
                "`teacher_model`: leave it out, and give a reference, or a store when it is built, its own `target`."
            )
        reads_labels = any(reference.explains_labels for reference in self.references.values())
        if (self._setting("task_weight") > 0 or reads_labels) and not labels_belong_to(
            self.train_dataset, self.student, self.data_collator.label_column
        ):
            raise ValueError(
                "The training data's labels are not the student's classes. Set task_weight to 0 and explanation_target "
                "to 'teacher_top', or rename the classes in `id2label`."
            )

    def _refuse_steps_without_loss(self) -> None:
        weighed = [self._named_terms()[name] for name, weight in self._weights().items() if weight > 0]
        interval, warmup = self._setting("explanation_interval"), self._setting("explanation_warmup_ratio")
        if weighed and all(term.explains for term in weighed) and (interval > 1 or warmup > 0):
            raise ValueError(
                f"The loss has explanations alone, and explanation_interval={interval} with explanation_warmup_ratio="
                f"{warmup:g} leaves steps without them, and so without a loss. Set these to 1 and 0, or give "
                "logits_weight, task_weight or another term a weight."
            )

    @property
    def student(self) -> nn.Module:
        """The student without its wrappers: DDP, a compiled module, an adapter of PEFT."""
        # Each step asks for it several times, and unwrapping walks through all modules and looks for DeepSpeed on disk.
        if self._unwrapped is None or self._unwrapped[0] is not self.model:
            self._unwrapped = self.model, self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        model = self._unwrapped[1]
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    @property
    def is_multi_label(self) -> bool:
        """True for a multi-label student, which decides each class for itself."""
        return is_multi_label(self.student)

    def call_model_init(self, trial: Any = None) -> nn.Module:
        return self._equip(super().call_model_init(trial))

    def _equip(self, model: nn.Module) -> nn.Module:
        """Prepare a student: make it saveable, explained by its own forward, and known to references and terms."""
        if not isinstance(model, nn.Module):
            raise ValueError(
                f"The student must be a model, not {type(model).__name__}. Load it first, by "
                "AutoModelForImageClassification.from_pretrained or its like for texts."
            )
        model = uncompiled(model)
        if any(reference.is_model(model) for reference in self.references.values()):
            raise ValueError("Teacher and student are the same object. Give the student its own copy of the weights.")
        for reference in self.references.values():
            if isinstance(reference, TeacherReference):
                refuse_shared_weights(model, reference.model)
                require_finite_weights(reference.model, "teacher", "Load or train it again.")
        require_finite_weights(model, "student", "Load it again, or initialise that layer.")
        refuse_sentence_transformers(model, "student")
        refuse_missing_data(model, "student")
        if is_timm(model):
            model = wrap_timm(model)
        refuse_several_scores(model)
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
        if self._taps() or (self.references and self.explains):
            refuse_virtual_tokens(model)
            refuse_loaded_shards(base)
        self._keep_arguments()
        return model

    def _hp_search_setup(self, trial: Any) -> None:
        target = self._setting("explanation_target")
        super()._hp_search_setup(trial)
        if trial is None:
            return
        if isinstance(self.args, ExplanationDistillArguments):
            self.args.check()
        if self._setting("explanation_target") != target:
            raise ValueError(
                "A trial can't set explanation_target: the references have theirs from the start. Search once for each."
            )
        # The trial's arguments are set after its student was made.
        self._equip(self.model)
        self._check_settings()

    def _explainer(self, explainer: str | Explainer | None, model: nn.Module | None = None) -> Explainer:
        if isinstance(explainer, Explainer):
            return explainer.with_tokenizer(self._tokenizer)
        named = self._setting("explainer")
        chosen = explainer or named or default_method(cast(nn.Module, model))
        # Options belong to the method that they were written for.
        options = self._setting("explainer_options") if explainer in (None, named) else None
        return build_explainer(chosen, **(options or {})).with_tokenizer(self._tokenizer)

    def informed_explainer(self, explainer: str | Explainer) -> Explainer:
        """Return an explainer, by its name or as it is, that knows the student's tokenizer."""
        return self._explainer(explainer)

    @property
    def explains(self) -> bool:
        """True if any explanation is ever made: plain distillation may be measured without one."""
        return self._trains_explanations or self._setting("evaluate_explanations")

    @property
    def _trains_explanations(self) -> bool:
        terms = self._named_terms()
        return any(weight > 0 and terms[name].explains for name, weight in self._weights().items())

    @property
    def comparison_grid(self) -> ComparisonGrid:
        """Grid on which maps of images are compared: "image" or "native"."""
        return self._setting("comparison_grid")

    @property
    def iou_threshold(self) -> float:
        """Threshold of `localization_iou`."""
        return self._setting("iou_threshold")

    def _setting(self, name: str) -> Any:
        """Read an argument, at every use, because a hyperparameter search changes them."""
        return getattr(self.args, name)

    # ---- Export ------------------------------------------------------------------------------------------------

    def export(self, path: str | Path, explanation: bool = True, **options: Any) -> Path:
        """Export the student as an ONNX file (.onnx) or a `torch.export` archive (.pt2).

        Every process must call it; the first one writes.

        Args:
            path: File to write.
            explanation: True for GradCAM's map beside the logits; False for the logits alone.
            options: Further arguments of `hf_e2kd.export.export_model`.

        Returns:
            The path.

        Raises:
            ValueError: the student, or its map, can't be exported, with the reason.
            ImportError: a package of the extra `export` is missing.
        """
        if explanation and (type(self.explainer) is not GradCAM or self.explainer.target_layer is not None):
            other = " at another one" if isinstance(self.explainer, GradCAM) else ""
            raise ValueError(
                f"An exported map is GradCAM's at the architecture's own layer, and this student is explained by "
                f"'{self.explainer.name}'{other}. Export the logits alone: trainer.export(path, explanation=False)."
            )
        # Torch's exporter is imported where it is used.
        from ..export import export_model

        student = whole(self.student)
        if self.is_world_process_zero():
            export_model(student, path, explanation=explanation, **{"processing_class": self._tokenizer, **options})
        return Path(path)

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
        self.terms.train()
        with self._gathered(model):
            loss = super().training_step(model, *arguments, **keywords)
        if self.is_in_train and self.accelerator.sync_gradients:
            self._term_gradients.average()
        if self.args.logging_nan_inf_filter:
            # The training loop reads the loss now too; without its filter, at the next log.
            self._finite.check(loss, self.state.global_step)
        return loss
