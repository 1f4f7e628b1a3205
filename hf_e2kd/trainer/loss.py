"""The loss of a training: references asked, the student run once, the terms summed and logged."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn
from transformers import Trainer

from ..alignment.inputs import ANNOTATION_COLUMNS
from ..alignment.labels import NO_LABEL
from ..alignment.words import mark_special_tokens, require_special_tokens
from ..architectures.discovery import forward_inputs
from ..explainers import Explainer, shared_noise
from ..references import Reference
from ..terms import ReferenceOutput, StepOutput
from ..terms.task import classification_loss, probability_mse
from .checks import refuse_missing_inputs, refuse_missing_labels, warn_of_unlabelled
from .finite import FiniteLosses
from .logged_means import LoggedMeans, ZeroMapWarning
from .noise import StepGenerator, draw_noise, draw_samples
from .relative_weights import is_measured, measure_factors, relative_weights
from .step import compare, empty_output, run_student, weighted_sum
from .term_setup import TermGradients


class LossMixin(Trainer):
    """Computes the weighted sum of the terms and logs each of them."""

    references: dict[str, Reference]
    explainer: Explainer
    _logged: LoggedMeans
    _zero_maps: ZeroMapWarning
    _finite: FiniteLosses
    _generators: StepGenerator
    _checked_a_batch: bool
    _weighed_step: int | None = None
    """Step whose first micro-batch with explanations was weighed."""
    runs_student = True
    """False for a stage that trains a term's parameters alone."""
    _term_gradients: TermGradients

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Return the weighted sum of the terms, a mean over the batch; `num_items_in_batch` is therefore not needed."""
        self.connect_again()
        terms, weights = self._named_terms(), self._weights(self._explanation_rise())
        weighed = {name for name, weight in weights.items() if weight > 0}
        if not self._checked_a_batch:
            refuse_missing_inputs(inputs, self.train_dataset, bool(self.args.remove_unused_columns))
            labelled = [name for name in terms if name in weighed and "labels" in terms[name].needs]
            refuse_missing_labels(self.accelerator, inputs, labelled, self.train_dataset)
            annotated = [name for name in terms if name in weighed and "annotation" in terms[name].needs]
            warn_of_unlabelled(self.accelerator, inputs, [*labelled, *annotated])
            self._checked_a_batch = True
        with_maps = any(terms[name].explains for name in weighed)
        with_maps = with_maps and self.state.global_step % self._setting("explanation_interval") == 0
        active = [terms[name] for name in weighed if with_maps or not terms[name].explains]
        asked = {term.reference for term in active}
        if with_maps and self._setting("explanation_fraction") < 1:
            chosen = draw_samples(self._setting("explanation_fraction"), inputs, self._generator())
            inputs = {**inputs, "explained": chosen}
        with shared_noise([*self._explainers(), *self.references.values()], self._noise(inputs) if with_maps else None):
            reference_outputs = self._ask(inputs, asked, with_maps)
            losses, logged, output = self._compare(model, inputs, reference_outputs, weights)
        if not losses:
            raise ValueError(
                "No term of the loss applies to this batch: it has no labels, or all weights are 0. Columns: "
                f"{sorted(inputs)}."
            )
        loss, figures = self._weigh(model, losses, weights, with_maps)
        self._logged.add({**logged, **figures})
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
            weights[name] = weight * rise if term.explains else weight
        return weights

    def _weigh(
        self, model: nn.Module, losses: Mapping[str, torch.Tensor], weights: Mapping[str, float], with_maps: bool
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the weighted sum of a micro-batch's losses, and what is measured for it, to be logged."""
        figures: dict[str, torch.Tensor] = {}
        weighing: Mapping[str, Any] = weights
        if with_maps and self._setting("explanation_weight_mode") == "relative":
            terms = {name: term for name, term in self._named_terms().items() if weights[name] > 0}
            step, every = self.state.global_step, self._setting("explanation_weight_interval")
            is_due = step % (self._setting("explanation_interval") * every) == 0
            if self._weighed_step != step and (is_due or not is_measured(terms.values())):
                figures = measure_factors(
                    terms, weights, losses, model.parameters(), lambda norms: self.accelerator.reduce(norms, "mean")
                )
            self._weighed_step = step
            weighing, logged = relative_weights({name: terms[name] for name in losses}, weights)
            figures |= logged
        return cast(torch.Tensor, weighted_sum(losses, weighing)), figures

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
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], StepOutput]:
        """Run the student once and compare it; return the terms' losses, the values to log, and its output."""
        terms = self._named_terms()
        views = {name: term.views(inputs) for name, term in terms.items() if weights[name] > 0}
        further = {name: {**view} for name, view in views.items() if view is not None}
        if self.runs_student:
            output, outputs = run_student(
                model,
                self.student,
                self.student_inputs(inputs),
                reference_outputs,
                sample_mask=inputs.get("explained"),
                with_features=bool(self._taps()),
                views={name: self.student_inputs(view) for name, view in further.items()},
            )
        else:
            output, outputs = empty_output(inputs), {name: empty_output(view) for name, view in further.items()}
        seen: dict[str, tuple[StepOutput, ReferenceOutput | None]] = {}
        for name, own in outputs.items():
            theirs = self._ask(further[name], {terms[name].reference}, with_maps=False)
            seen[name] = own, theirs.get(cast(str, terms[name].reference))
        losses, logged = compare(terms, weights, output, reference_outputs, inputs, seen)
        return losses, logged, output

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
        if self._setting("task_loss") == "mse":
            return probability_mse(self.student, model_output["logits"], labels)
        if self.compute_loss_func is not None:
            # As the stock `Trainer` counts them.
            count = (labels != NO_LABEL).sum().clamp(min=1)
            return self.compute_loss_func(model_output, labels, num_items_in_batch=count)
        # Its mean over no labels would be NaN.
        if self.label_smoother is not None and labels.ndim == 1 and (labels != NO_LABEL).any():
            return self.label_smoother({"logits": model_output["logits"]}, labels)
        return classification_loss(self.student, model_output["logits"], labels, self.args.label_smoothing_factor)

    # ---- Logging -----------------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, and add each term's mean over the micro-batches and processes since the last log."""
        if "grad_norm" in logs and not self.runs_student:
            logs["grad_norm"] = self._term_gradients.norm.item()
        if "loss" in logs:
            means = self._logged.means(self.accelerator)
            self._finite.check_means({**means, "loss": logs["loss"]}, self.state.global_step)
            logs.update(means)
        if "loss" in logs or "train_loss" in logs:
            # With the end of a training, what its last steps left unlogged ends too.
            self._logged.clear()
        self._zero_maps.check(logs)
        super().log(logs, start_time)
