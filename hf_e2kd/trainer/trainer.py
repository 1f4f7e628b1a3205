"""A `Trainer` whose student matches its references' explanations as well as their logits."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields
from typing import Any

import torch
from torch import nn
from transformers.trainer_jit_checkpoint import JITCheckpointCallback
from transformers.trainer_utils import has_length
from transformers.utils import logging

from ..alignment.inputs import ANNOTATION_COLUMNS
from ..alignment.labels import is_multi_label, labels_belong_to
from ..alignment.words import lay_out_tokens, mark_special_tokens
from ..architectures import accepted_inputs, is_timm, wrap_timm
from ..data.collate import FiniteBatches
from ..explainers import Explainer, build_explainer, install_explained_forward, shared_noise
from ..fidelity import BatchMeasures, multi_label_metrics, sample_metrics
from ..hub import check_repo_id
from ..metrics.running import RunningMeans, SampleValues
from ..references import Reference, ReferenceOutput, TeacherReference
from ..store.joining import unattached
from ..terms.objective import Objective, TermMeans, classification_loss, concat_targets
from .arguments import ExplanationDistillArguments
from .checkpoints import forget_preparation, load_weights
from .compatibility import refuse_unsupported
from .noise import StepGenerator, draw_noise, draw_samples
from .preemption import checkpoint_on_sigterm, last_checkpoint
from .publishing import PublishingTrainer
from .sharding import gathered, name_blocks

logger = logging.get_logger(__name__)

_DEFAULTS = {f.name: f.default for f in fields(ExplanationDistillArguments)}


class ExplanationDistillTrainer(PublishingTrainer):
    """Distils a student from references that say where to look (e²KD, Parchami-Araghi et al., ECCV 2024).

    Everything that `transformers.Trainer` takes and does stays; with `task_weight=1` and the other weights at 0 it is
    the stock `Trainer`, loss by loss, wherever micro-batches are equal in size.

    Args:
        model: The student. A bare timm model is put into transformers' wrapper, so that what is saved loads with the
            Auto classes.
        args: `ExplanationDistillArguments`; plain `TrainingArguments` take their defaults.
        arguments, keywords: As for `Trainer`.
        teacher_model: The teacher; short for `references={"teacher": TeacherReference(teacher_model)}`.
        references: Sources of explanations by name, each matched with its own loss and weight in one forward pass of
            the student.
        explainer: How the student is explained: a name or an `Explainer`; overrides `args.explainer`.
        teacher_explainer: The same for `teacher_model`, where it differs.
        teacher_processing_class: The teacher's image processor or tokenizer, where it differs from `processing_class`.

    Metrics:
        `evaluate()` adds `eval_agreement`, `eval_explanation_similarity`, `eval_accuracy` and `eval_teacher_accuracy`
        where the labels are the student's, `eval_energy_pointing_game` and `eval_localization_iou` (and
        `eval_teacher_…`) where the data has a column `mask` (H, W) or `boxes` (N, 4), and the shares of all-zero maps.
        A multi-label student has `eval_f1` and `eval_map` in place of the accuracy. They take one forward pass of each
        model a sample, or as many as its explainer's `forward_passes`, and no memory that grows with the data set. A
        `compute_metrics` of your own keeps all logits, unless `batch_eval_metrics=True`.

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
    _signature_columns: Any
    compute_metrics: Any

    def __init__(
        self,
        model: nn.Module | None = None,
        args: Any = None,
        *arguments: Any,
        teacher_model: nn.Module | None = None,
        references: Mapping[str, Reference] | None = None,
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
        self.explainer = self._explainer(explainer)
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
            if isinstance(reference, TeacherReference) and reference.tokenizer is None:
                reference.tokenizer = getattr(collator, "teacher_tokenizer", None)
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
        refuse_unsupported(self.accelerator, self.args, [self.explainer] if matches_maps else [], shards_teacher)
        if self.explains:
            for reference in self.references.values():
                reference.check_processor(self.processing_class)
        if self.is_multi_label and self.compute_metrics is None and not self.args.batch_eval_metrics:
            self.compute_metrics = multi_label_metrics
        self.data_collator = FiniteBatches(self.data_collator)
        self._terms = TermMeans()
        self._fidelity: RunningMeans | SampleValues | None = None
        self._batch_measures: BatchMeasures | None = None
        self._chance = StepGenerator()
        self._labels_are_ours = True
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
        """The student without what wraps it: DDP, a compiled module, an adapter of PEFT."""
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    @property
    def is_multi_label(self) -> bool:
        """Whether the student decides each class for itself."""
        return is_multi_label(self.student)

    def call_model_init(self, trial: Any = None) -> nn.Module:
        return self._equip(super().call_model_init(trial))

    def _equip(self, model: nn.Module) -> nn.Module:
        """Makes a student ready: saveable, explained by its own forward, known to the references."""
        if any(reference.is_model(model) for reference in self.references.values()):
            raise ValueError("Teacher and student are the same object. Give the student its own copy of the weights.")
        if is_timm(model):
            model = wrap_timm(model)
        forget_preparation(model)
        self.base_model = getattr(getattr(model, "config", None), "_name_or_path", None)
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        # Anew for each trial of a hyperparameter search, which may have changed the arguments.
        self.explainer = self._explainer(self._explainer_given)
        if self.references and self.explains:
            self.explainer.check(base, compiled=bool(self.args.torch_compile))
            install_explained_forward(base, self.explainer)
        for reference in self.references.values():
            reference.setup(base, self.explainer if self.explains else None)
        return model

    def _explainer(self, explainer: str | Explainer | None) -> Explainer:
        if isinstance(explainer, Explainer):
            return explainer.with_tokenizer(self._tokenizer)
        chosen = explainer or self._setting("explainer")
        # Options belong to the method that they were written for.
        options = self._setting("explainer_options") if chosen == self._setting("explainer") else None
        return build_explainer(chosen, **(options or {})).with_tokenizer(self._tokenizer)

    @property
    def explains(self) -> bool:
        """Whether any explanation is ever made: plain distillation may be measured without one."""
        matched = any(self.explanation_weight_of(reference) > 0 for reference in self.references.values())
        return matched or self._setting("evaluate_explanations")

    def _setting(self, name: str) -> Any:
        """Read from the arguments at every use, because a hyperparameter search changes them."""
        return getattr(self.args, name, _DEFAULTS[name])

    def _set_signature_columns_if_needed(self) -> None:
        if self._signature_columns is None:
            super()._set_signature_columns_if_needed()
            columns = {column for reference in self.references.values() for column in reference.columns}
            collated = getattr(self.data_collator, "columns", ())
            extra = columns | {*ANNOTATION_COLUMNS, "teacher_pixel_values", *collated}
            if collated:
                # Sampling by length reads it; a collator that knows its own columns passes it over.
                extra.add(self.args.length_column_name)
            self._signature_columns = [*(self._signature_columns or []), *sorted(extra)]

    def _get_dataloader(self, dataset: Any, description: str, *arguments: Any, **keywords: Any) -> Any:
        if has_length(dataset) and len(dataset) == 0:
            raise ValueError(f"The data set for {description.lower()} is empty.")
        if keywords.get("is_training"):
            return super()._get_dataloader(dataset, description, *arguments, **keywords)
        collator = self.data_collator
        self.data_collator = collator.for_evaluation()
        try:
            return super()._get_dataloader(dataset, description, *arguments, **keywords)
        finally:
            self.data_collator = collator

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return super()._get_train_sampler(unattached(self.train_dataset if train_dataset is None else train_dataset))

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        return super()._get_eval_sampler(unattached(eval_dataset))

    # ---- Checkpoints and repeated calls ------------------------------------------------------------------------

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self._is_sharded() or not load_weights(self.model, resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        if self._is_sharded() or not load_weights(self.model, self.state.best_model_checkpoint):
            super()._load_best_model()

    def _is_sharded(self) -> bool:
        return self.is_deepspeed_enabled or self.is_fsdp_enabled

    def train(self, resume_from_checkpoint: str | bool | None = None, *arguments: Any, **keywords: Any) -> Any:
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_checkpoint(self.args.output_dir) or True
        # An evaluation before the first training marks the model as prepared, with which Accelerate would not wrap it
        # for several processes any more, and each would train a student of its own.
        wrapped = getattr(self.model_wrapped, "_orig_mod", self.model_wrapped)
        replicated = self.accelerator.num_processes > 1 and not self._is_sharded()
        if replicated and self.model is not None and wrapped is self.model:
            forget_preparation(self.model)
            self.model_wrapped = self.model
        if self.is_fsdp_enabled and self.model is not None:
            name_blocks(self.student, self.accelerator.state.fsdp_plugin)
        with checkpoint_on_sigterm(self) if self.args.enable_jit_checkpoint else nullcontext():
            return super().train(resume_from_checkpoint, *arguments, **keywords)

    def _gathered(self, model: nn.Module) -> AbstractContextManager[None]:
        """What a step needs where FSDP2 has sharded the student."""
        if not (self.is_fsdp_enabled and self.explains):
            return nullcontext()
        return gathered(model, self.student, self.explainer.target_layer_path(self.student))

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> None:
        # Our loss is a mean and needs no count; the parent's waits for ever where one rank's batches have no labels.
        return None

    def training_step(self, model: nn.Module, *arguments: Any, **keywords: Any) -> torch.Tensor:
        with self._gathered(model):
            return super().training_step(model, *arguments, **keywords)

    # ---- The objective -----------------------------------------------------------------------------------------

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The weighted sum of the terms, a mean over the batch; `num_items_in_batch` is therefore not needed."""
        rise = self._explanation_rise()
        weights = {name: rise * self.explanation_weight_of(reference) for name, reference in self.references.items()}
        every = self._setting("explanation_interval")
        matches_maps = any(weights.values()) and self.state.global_step % every == 0
        if matches_maps and self._setting("explanation_fraction") < 1:
            chosen = draw_samples(self._setting("explanation_fraction"), inputs, self._generator())
            inputs = {**inputs, "explained": chosen}
        with shared_noise(
            [*self._explainers(), *self.references.values()], self._noise(inputs) if matches_maps else None
        ):
            objective = self._objective(model, inputs, weights, with_maps=matches_maps)
        if not objective.terms:
            raise ValueError(
                "No term of the loss applies to this batch: it has no labels, or all weights are 0. Columns: "
                f"{sorted(inputs)}."
            )
        self._terms.add(objective.terms)
        return (objective.loss, {"logits": objective.logits}) if return_outputs else objective.loss

    def _explainers(self) -> list[Explainer]:
        return [self.explainer, *(own for reference in self.references.values() for own in reference.explainers())]

    def _noise(self, inputs: Mapping[str, Any]) -> torch.Tensor | None:
        """This process's random numbers (draws, B) of a micro-batch; None where nothing is drawn."""
        # What references draw (a class) stands behind what explainers draw (points), so that neither follows the other.
        num_draws = max(each.num_draws for each in self._explainers()) + max(
            each.num_draws for each in self.references.values()
        )
        return draw_noise(num_draws, inputs, self._generator()) if num_draws else None

    def _generator(self) -> torch.Generator:
        return self._chance.at(self.args.seed, self.state.global_step, self.args.process_index)

    def explanation_weight_of(self, reference: Reference) -> float:
        own = reference.explanation_weight
        return self._setting("explanation_weight") if own is None else own

    def _explanation_rise(self) -> float:
        """How far the warm-up of λ has come, from 0 to 1. An evaluation takes λ as it will be."""
        warmup = self._setting("explanation_warmup_ratio") * self.state.max_steps
        return min(1.0, self.state.global_step / warmup) if warmup > 0 else 1.0

    def logits_weight_of(self, reference: Reference) -> float:
        return self._setting("logits_weight") if reference.logits_weight is None else reference.logits_weight

    def _objective(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        weights: Mapping[str, float],
        with_maps: bool,
        all_references: bool = False,
    ) -> Objective:
        """One forward pass of the student for all references.

        Args:
            weights: λ by reference.
            with_maps: Whether to explain.
            all_references: Whether to ask the references whose weights are all 0 too, as an evaluation does.
        """
        shared = self._shared(inputs)
        with self.accelerator.autocast():
            reference_output = {
                name: reference(shared | {key: inputs[key] for key in reference.columns if key in inputs}, with_maps)
                for name, reference in self.references.items()
                if all_references or (with_maps and weights[name] > 0) or self.logits_weight_of(reference) > 0
            }
        return self._matched(model, inputs, reference_output, weights)

    def _shared(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The batch without the columns that one reference reads: these are neither the student's nor another's."""
        private = {column for reference in self.references.values() for column in reference.columns}
        shared = {key: value for key, value in inputs.items() if key in ANNOTATION_COLUMNS or key not in private}
        tokenizer = self.processing_class or self.data_collator.tokenizer
        return mark_special_tokens(shared, getattr(tokenizer, "tokenizer", tokenizer))

    def student_inputs(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """What of a batch is the student's to see."""
        shared = self._shared(inputs)
        return {
            key: value
            for key, value in shared.items()
            if key not in ANNOTATION_COLUMNS and not key.startswith("teacher_")
        }

    def _matched(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        reference_output: Mapping[str, ReferenceOutput],
        weights: Mapping[str, float],
    ) -> Objective:
        """The objective of a student that explains what the references have said.

        Args:
            model: The student, or another one with an explained forward.
        """
        labels, rows = inputs.get("labels"), inputs.get("explained")
        explained = [name for name, output in reference_output.items() if output.has_explanation]
        student_inputs = self.student_inputs(inputs)
        if explained:
            targets = [reference_output[name].target for name in explained]
            if rows is not None:
                targets = [each.masked_fill(~rows if each.ndim == 1 else ~rows[:, None], -1) for each in targets]
            # Several references' targets side by side, as (B, K): still one forward.
            target, places = concat_targets(targets)
            outputs = model(**student_inputs, explain_target=target)
            if "pixel_values" not in student_inputs:
                outputs.maps, outputs.mask, _ = lay_out_tokens(outputs.maps, student_inputs)
            each = [outputs if place is None else outputs.of_target(place) for place in places]
        else:
            outputs, each = model(**accepted_inputs(self.student, student_inputs)), []
        objective = Objective(
            outputs["logits"].new_zeros(()),
            {},
            outputs["logits"],
            dict(zip(explained, each, strict=True)),
            dict(reference_output),
        )
        if labels is not None and self._setting("task_weight") > 0:
            objective.add("loss_task", self._setting("task_weight"), self._task_loss(outputs, labels))
        for name, output in reference_output.items():
            reference = self.references[name]
            # With several references, each term bears its reference's name.
            suffix = "" if len(self.references) == 1 else f"_{name}"
            objective.add_logits(
                f"loss_logits{suffix}",
                self.logits_weight_of(reference),
                reference,
                output,
                self._setting("temperature"),
                multi_label=self.is_multi_label,
            )
            if name in objective.explained and weights[name] > 0:
                objective.terms[f"zero_map_share{suffix}"] = objective.add_explanation(
                    f"loss_explanation{suffix}",
                    weights[name],
                    objective.explained[name],
                    output,
                    reference.explanation_loss or self._setting("explanation_loss"),
                    rows,
                )
        return objective

    def _task_loss(self, outputs: Any, labels: torch.Tensor) -> torch.Tensor:
        """The student's own loss on the labels, as the stock `Trainer` chooses it, a mean over this batch."""
        if self.compute_loss_func is not None:
            return self.compute_loss_func(outputs, labels, num_items_in_batch=labels.numel())
        if self.label_smoother is not None:
            return self.label_smoother({"logits": outputs["logits"]}, labels)
        return classification_loss(self.student, outputs["logits"], labels)

    # ---- Logging -----------------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds each term's mean over the micro-batches and processes since the last log."""
        if "loss" in logs:
            logs.update(self._terms.means(self.accelerator))
        if "loss" in logs or "train_loss" in logs:
            # With the end of a training, what its last steps left unlogged ends too.
            self._terms.clear()
        super().log(logs, start_time)

    # ---- Evaluation --------------------------------------------------------------------------------------------

    def evaluation_loop(
        self, dataloader: Any, *arguments: Any, metric_key_prefix: str = "eval", **keywords: Any
    ) -> Any:
        """The parent's, with the fidelity metrics added before anyone reads them."""
        if self.is_fsdp_enabled and not self.accelerator._models:
            raise ValueError(
                "FSDP2 shards a student together with its optimizer. Call train() before evaluate() and predict(), or "
                "evaluate in one process or with DDP."
            )
        meter = RunningMeans if self._batch_measures is None else SampleValues
        self._fidelity = meter(self.accelerator.gather_for_metrics)
        self._labels_are_ours = labels_belong_to(
            getattr(dataloader, "dataset", None), self.student, self.data_collator.label_column
        )
        if not self._labels_are_ours:
            logger.warning("The data's labels are not the student's classes: accuracy is not measured.")
        if self.references and self._setting("evaluate_explanations"):
            passes = max(explainer.forward_passes for explainer in self._explainers())
            logger.info(f"Each sample takes {passes} forward passes of a model that is explained.")
        output = super().evaluation_loop(dataloader, *arguments, metric_key_prefix=metric_key_prefix, **keywords)
        for name, value in self._fidelity.means().items():
            # What the user's own `compute_metrics` measures stays.
            output.metrics.setdefault(f"{metric_key_prefix}_{name}", value)
        return output

    def collect_samples(self, dataset: Any, measures: BatchMeasures) -> tuple[SampleValues, Any]:
        """Runs an evaluation that keeps the values of every sample; `hf_e2kd.fidelity.measure` asks for it.

        Args:
            measures: Gives the values by name, (B,) or (B, K), from a batch's objective, its inputs, and a function
                that gives another student's objective of the same batch.

        Returns:
            The values, and what `evaluation_loop` returned.
        """
        self._batch_measures = measures
        try:
            output = self.evaluation_loop(
                self.get_eval_dataloader(dataset),
                description="Fidelity",
                prediction_loss_only=not self.is_multi_label,
                metric_key_prefix="fidelity",
            )
            assert isinstance(self._fidelity, SampleValues)
            return self._fidelity, output
        finally:
            self._batch_measures = None

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """One forward pass of student and references for the loss, the logits and the fidelity metrics together."""
        inputs = self._prepare_inputs(inputs)
        weights = {name: self.explanation_weight_of(reference) for name, reference in self.references.items()}
        with torch.no_grad(), self._gathered(model):
            # Labels of another label space enter neither the loss nor the metrics.
            scored = {key: value for key, value in inputs.items() if key != "labels" or self._labels_are_ours}
            # What is asked for sample by sample is asked for whole.
            collected = self._batch_measures is not None and self.explains
            measured = bool(self._setting("evaluate_explanations")) or collected
            objective = self._objective(model, scored, weights, with_maps=measured, all_references=True)
            if self._batch_measures is not None:
                assert self._fidelity is not None

                def matched(other: nn.Module) -> Objective:
                    """What another student says of this batch."""
                    with self.accelerator.autocast():
                        return self._matched(other, scored, objective.references, weights)

                self._fidelity.update(self._batch_measures(objective, scored, matched))
            elif self._fidelity is not None:
                threshold = self._setting("iou_threshold")
                metrics = sample_metrics(objective, self.references, scored, self.is_multi_label, threshold)
                self._fidelity.update(metrics)
        loss = objective.loss.detach() if objective.terms else None
        # A `compute_metrics` of the user's own is given the labels as they are.
        labels = (scored if self.compute_metrics is multi_label_metrics else inputs).get("labels")
        return (loss, None, None) if prediction_loss_only else (loss, objective.logits.detach(), labels)
