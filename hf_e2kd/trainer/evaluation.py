"""Evaluation with fidelity metrics, in one pass of student and references."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.data_loader import IterableDatasetShard
from torch import nn
from transformers import Trainer
from transformers.trainer_utils import default_compute_objective, has_length

from ..alignment.inputs import first_tensor
from ..alignment.labels import data_labels, is_score, labels_belong_to
from ..callbacks.progress import doing
from ..data.groups import GROUP, GroupedDataset, group_columns
from ..fidelity import BatchMeasures, multi_label_metrics, sample_metrics
from ..fidelity.groups import group_metrics, means_by_group
from ..fidelity.scores import score_figures
from ..logs import get_logger
from ..metrics.running import RunningMeans, SampleValues
from ..store.joining import unattached
from ..terms import ReferenceOutput, StepOutput
from .checks import dataset_columns, refuse_missing_inputs
from .step import run_student, weighted_sum

logger = get_logger(__name__)

_MEASURED: dict[str, Any] = {
    # Every sample, in its order: evaluations leave out an incomplete last batch, and sort by length, as trainings do.
    **{"dataloader_drop_last": False, "train_sampling_strategy": "random"},
    # The student as it is saved.
    **{"bf16_full_eval": False, "fp16_full_eval": False},
    **{"eval_do_concat_batches": True, "batch_eval_metrics": False},
}
"""Arguments of an evaluation that keeps every sample's values, whatever those of other evaluations are."""


class EvaluationMixin(Trainer):
    """Mixin: fidelity metrics in `evaluate()` and `predict()`, and the outputs of single batches for panels."""

    _fidelity: RunningMeans | SampleValues | None = None
    _losses: RunningMeans | None = None
    """Losses of the samples, in several processes."""
    _batch_measures: BatchMeasures | None = None
    _labels_are_ours = True
    _grouped_by: tuple[str, ...] | None = None
    _evaluated: Any = None
    """Data set of the evaluation, until its first batch was looked at."""
    _evaluated_on: Sequence[tuple[dict[str, Any], Any]] = ()
    """Entries of the log by the evaluations at the last step, and the data of each."""
    _added: frozenset[str] = frozenset()
    """Names of the metrics that evaluations have added to those of the parent's and the user's own."""
    compute_metrics: Any
    preprocess_logits_for_metrics: Any

    @property
    def group_columns(self) -> tuple[str, ...]:
        """Columns by whose values an evaluation groups the samples."""
        return group_columns(self._setting("group_column")) if self._grouped_by is None else self._grouped_by

    def evaluate(self, *arguments: Any, group_column: str | Sequence[str] | None = None, **keywords: Any) -> Any:
        """Evaluate as `Trainer` does, with the fidelity metrics, and by group where columns are named.

        Args:
            group_column: Column, or several, by whose values the samples are grouped: `eval_accuracy/land`, and
                `eval_worst_group_accuracy` of the worst group with at least 10 samples. By default the argument
                `group_column`, with which `metric_for_best_model="worst_group_accuracy"` chooses a checkpoint.

        Raises:
            ValueError: a column that isn't there, or by which no samples can be grouped (`hf_e2kd.data.groups`).
        """
        given = arguments[0] if arguments else keywords.get("eval_dataset")
        first = len(self.state.log_history)
        with self._grouped(self.group_columns if group_column is None else group_columns(group_column)):
            metrics = super().evaluate(*arguments, **keywords)
        step, data = self.state.global_step, self.eval_dataset if given is None else given
        earlier = [each for each in self._evaluated_on if each[0].get("step") == step]
        self._evaluated_on = [*earlier, *((entry, data) for entry in self.state.log_history[first:])]
        return metrics

    def predict(
        self, test_dataset: Any, *arguments: Any, group_column: str | Sequence[str] | None = None, **keywords: Any
    ) -> Any:
        """Predict as `Trainer` does, with the fidelity metrics, and by group where columns are named.

        Args:
            test_dataset: Data, with labels or without.
            group_column: As in `evaluate`. By default the argument `group_column`, where the data has these columns.

        Raises:
            ValueError: a column that isn't there, or by which no samples can be grouped (`hf_e2kd.data.groups`).
        """
        columns = group_columns(group_column)
        if group_column is None and has_length(test_dataset):
            own = self.group_columns
            columns = own if set(own) <= set(dataset_columns(unattached(test_dataset))) else ()
        with self._grouped(columns):
            return super().predict(test_dataset, *arguments, **keywords)

    @contextmanager
    def _grouped(self, columns: Sequence[str]) -> Iterator[None]:
        """Context in which evaluations group their samples by columns."""
        before, own = self._grouped_by, self.group_columns
        if tuple(columns) != own:
            self._forget_dataloaders()
        self._grouped_by = tuple(columns)
        try:
            yield
        finally:
            if tuple(columns) != own:
                self._forget_dataloaders()
            self._grouped_by = before

    def _forget_dataloaders(self) -> None:
        """Forget the loaders with persistent workers, which know nothing of groups."""
        for name in ("_eval_dataloaders", "_loaded"):
            self.__dict__.pop(name, None)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Make the loader of a data set; workers that persist are those of the trainer's own `eval_dataset` alone."""
        persist, is_name = self.args.dataloader_persistent_workers, isinstance(eval_dataset, str)
        is_own = eval_dataset is None or is_name or eval_dataset is self.eval_dataset
        if persist and is_own:
            name, data = (eval_dataset, self.eval_dataset[eval_dataset]) if is_name else ("eval", self.eval_dataset)
            # Else the parent would give the loader of the data that the trainer had before.
            if self.__dict__.get("_loaded", {}).get(name, data) is not data:
                self._forget_dataloaders()
            self.__dict__.setdefault("_loaded", {})[name] = data
        # Else the parent would give the first such loader for any other data set too.
        self.args.dataloader_persistent_workers = persist and is_own
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.args.dataloader_persistent_workers = persist

    def collate(self, samples: Sequence[Any], dataset: Any) -> Any:
        """Make a batch of a data set's samples as an evaluation does, without unused columns."""
        labels = data_labels(dataset, self.student, self.data_collator.label_column)
        collator = self.data_collator.for_evaluation().with_labels(labels)
        return self._get_collator_with_removed_columns(collator, "evaluation")(samples)

    def explain_batch(
        self,
        inputs: Mapping[str, Any],
        reference_outputs: Mapping[str, ReferenceOutput] | None = None,
        model: nn.Module | None = None,
    ) -> tuple[StepOutput, dict[str, ReferenceOutput]]:
        """Explain a batch by the student and the references, without gradient.

        Args:
            inputs: The batch as collated, on the student's device.
            reference_outputs: Earlier outputs of the references for it; computed by default.
            model: Another student with an explained forward, in place of the trainer's.

        Returns:
            The student's output and the references'.
        """
        self.connect_again()
        own = self.model_wrapped if self.is_fsdp_enabled else self.student
        with torch.no_grad(), self._gathered(own):
            outputs = self._ask(inputs, set(self.references), True) if reference_outputs is None else reference_outputs
            # Wrapped by autocast alone: DDP's forward would wait for the other processes.
            with self.accelerator.autocast():
                output, _ = run_student(
                    own if model is None else model, self.student, self.student_inputs(inputs), outputs
                )
        return output, dict(outputs)

    def evaluation_loop(
        self, dataloader: Any, *arguments: Any, metric_key_prefix: str = "eval", **keywords: Any
    ) -> Any:
        """Run the parent's evaluation loop, and add the fidelity metrics to its own."""
        if self.is_fsdp_enabled and not self.accelerator._models:
            raise ValueError(
                "FSDP2 shards a student together with its optimizer. Call train() before evaluate() and predict(), or "
                "evaluate in one process or with DDP."
            )
        data = getattr(dataloader, "dataset", None)
        if isinstance(data, IterableDatasetShard):
            _warn_of_repeated_samples()
            data = data.dataset  # which states its classes
        self.connect_again()
        self.set_up_terms(data)
        scores = is_score(self.student)
        groups = data.groups if isinstance(data, GroupedDataset) else None
        # Correlations of scores take those of all samples, one number each; groups are told apart by sample.
        one_by_one = scores or groups is not None or self._batch_measures is not None
        meter = SampleValues if one_by_one else RunningMeans
        self._fidelity = meter(self.accelerator.gather_for_metrics)
        several = self.accelerator.num_processes > 1
        self._losses = RunningMeans(self.accelerator.gather_for_metrics) if several else None
        self._labels_are_ours = labels_belong_to(data, self.student, self.data_collator.label_column)
        if not self._labels_are_ours:
            logger.warning("The data's labels are not the student's classes: accuracy is not measured.")
        if self.references and self._setting("evaluate_explanations"):
            passes = [each.forward_passes for each in self._explainers() if each.forward_passes is not None]
            if passes:
                logger.info(f"Each sample takes {max(passes)} forward passes of a model that is explained.")
        self._evaluated = data
        with doing(self, str(keywords.get("description", arguments[0] if arguments else "Evaluation"))):
            output = super().evaluation_loop(dataloader, *arguments, metric_key_prefix=metric_key_prefix, **keywords)
        if self._losses is not None:
            # The parent takes each process's share of a batch for as large as the others'.
            found = self._losses.means().items()
            output.metrics.update({f"{metric_key_prefix}_{name}": mean for name, mean in found})
        means = self._fidelity.means()
        if isinstance(self._fidelity, SampleValues):
            means |= {name: figure.value for name, figure in score_figures(self._fidelity).items()}
            if groups is not None and self._batch_measures is None:
                pooled = self.compute_metrics is multi_label_metrics and output.predictions is not None
                outputs = (output.predictions, output.label_ids) if pooled else ()
                means |= dict(group_metrics(means_by_group(self._fidelity, groups.names, *outputs)))
        # A metric of the user's own `compute_metrics` stays.
        added = {f"{metric_key_prefix}_{name}": value for name, value in means.items()}
        added = {name: value for name, value in added.items() if name not in output.metrics}
        output.metrics.update(added)
        of_labels = ("f1", "map") if self.compute_metrics is multi_label_metrics else ()
        self._added = self._added.union(added, (f"{metric_key_prefix}_{name}" for name in of_labels))
        return output

    def hyperparameter_search(
        self,
        hp_space: Callable[[Any], Any] | None = None,
        compute_objective: Callable[[dict[str, float]], float] | None = None,
        n_trials: int = 20,
        direction: str | list[str] = "minimize",
        *arguments: Any,
        **keywords: Any,
    ) -> Any:
        """Search as `Trainer` does: without an objective, by the loss or the sum of `compute_metrics`' metrics.

        A search for λ needs an objective of its own, as the loss is smallest where nothing is weighed.

        Raises:
            ValueError: the loss is to be maximised.
        """
        is_loss = compute_objective is None and self.compute_metrics in (None, multi_label_metrics)
        if is_loss and direction == "maximize":
            raise ValueError(
                "Without compute_objective a search is by the loss, and direction='maximize' would choose the worst. "
                "Give an objective, as compute_objective=lambda metrics: metrics['eval_agreement']."
            )
        objective = compute_objective or self._objective
        return super().hyperparameter_search(hp_space, objective, n_trials, direction, *arguments, **keywords)

    def _objective(self, metrics: dict[str, float]) -> float:
        """Compute the default objective, to whose sum the metrics that we add would make the loss give way."""
        left_out = {name for name in metrics if name.endswith("_model_preparation_time")} | self._added
        return default_compute_objective({name: value for name, value in metrics.items() if name not in left_out})

    def collect_samples(
        self, dataset: Any, measures: BatchMeasures, group_columns: Sequence[str] = ()
    ) -> tuple[SampleValues, Any]:
        """Run an evaluation that keeps the values of every sample.

        Args:
            measures: Function that gives the values by name, (B,) or (B, K), of a batch; see `BatchMeasures`.
            group_columns: Columns that group the samples, whose numbers are then among the values (`GROUP`).

        Returns:
            The values, and the output of `evaluation_loop`.
        """
        with self._measuring(measures), self._grouped(group_columns):
            output = self.evaluation_loop(
                self.get_eval_dataloader(dataset),
                description="Fidelity",
                prediction_loss_only=not self.is_multi_label,
                metric_key_prefix="fidelity",
            )
        assert isinstance(self._fidelity, SampleValues)
        return self._fidelity, output

    @contextmanager
    def _measuring(self, measures: BatchMeasures) -> Iterator[None]:
        """Context in which evaluations give the logits and labels of all samples as they are, and their values."""
        args = {name: getattr(self.args, name) for name in _MEASURED}
        functions = self.compute_metrics, self.preprocess_logits_for_metrics
        try:
            self._batch_measures = measures
            for name, value in _MEASURED.items():
                setattr(self.args, name, value)
            self.compute_metrics = multi_label_metrics if self.is_multi_label else None
            self.preprocess_logits_for_metrics = None
            yield
        finally:
            self._batch_measures = None
            for name, value in args.items():
                setattr(self.args, name, value)
            self.compute_metrics, self.preprocess_logits_for_metrics = functions

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """Run student and references once for the loss, the logits and the fidelity metrics together."""
        inputs = self._prepare_inputs(inputs)
        groups = {name: inputs.pop(name) for name in (GROUP,) if name in inputs}
        self.terms.eval()
        refuse_missing_inputs(inputs, self._evaluated, bool(self.args.remove_unused_columns))
        if "labels" not in inputs:
            self._warn_of_missing_labels(inputs)
        self._evaluated = None
        with torch.no_grad(), self._gathered(model):
            # Labels of another label space enter neither the loss nor the metrics.
            scored = {key: value for key, value in inputs.items() if key != "labels" or self._labels_are_ours}
            # Sample values are wanted of explanations too.
            with_maps = bool(self._setting("evaluate_explanations")) or (
                self._batch_measures is not None and self.explains
            )
            reference_outputs = self._ask(scored, set(self.references), with_maps)
            losses, _, output = self._compare(model, scored, reference_outputs, self._weights())
            own = self._own_rows(scored)
            if own is not None:
                losses, _, _ = self._compare(
                    model, own, self._ask(own, set(self.references), with_maps), self._weights()
                )
            loss = weighted_sum(losses, self._weights())
            if self._losses is not None and loss is not None:
                self._losses.update({"loss": loss.expand(len(first_tensor(inputs)))})
            if self._batch_measures is not None:
                assert self._fidelity is not None

                def matched(other: nn.Module) -> StepOutput:
                    """Output of another student for this batch."""
                    with self.accelerator.autocast():
                        student_inputs = self.student_inputs(scored)
                        return run_student(other, self.student, student_inputs, reference_outputs)[0]

                # Of texts the special tokens are marked, as the references were given them.
                marked = {**scored, **self._shared(scored)}
                self._fidelity.update({**self._batch_measures(output, reference_outputs, marked, matched), **groups})
            elif self._fidelity is not None:
                metrics = sample_metrics(
                    output,
                    reference_outputs,
                    self.references,
                    scored,
                    self.is_multi_label,
                    self.iou_threshold,
                    self.comparison_grid,
                )
                self._fidelity.update({**metrics, **groups})
        # A `compute_metrics` of the user's own is given the labels as they are.
        labels = (scored if self.compute_metrics is multi_label_metrics else inputs).get("labels")
        own_loss = None if loss is None else loss.detach()
        return (own_loss, None, None) if prediction_loss_only else (own_loss, output.logits.detach(), labels)

    def _own_rows(self, inputs: Mapping[str, Any]) -> dict[str, Any] | None:
        """Select the rows of an evaluation's last batch that aren't repeats of others, by which processes fill it up.

        Returns:
            The rows, at least one, for the forward pass that all processes take; None where no process has repeats.
        """
        state, rows = self.accelerator.gradient_state, len(first_tensor(inputs))
        if self.accelerator.num_processes == 1 or not state.end_of_dataloader or state.remainder <= 0:
            return None
        # Of all processes' rows in their order, the first so many; `gather_for_metrics` leaves out the others.
        count = max(1, min(rows, state.remainder - self.accelerator.process_index * rows))
        return {
            name: value[:count] if isinstance(value, torch.Tensor | list) and len(value) == rows else value
            for name, value in inputs.items()
        }

    def _warn_of_missing_labels(self, inputs: Mapping[str, Any]) -> None:
        """Warn at an evaluation's first batch, where its data should have had labels."""
        columns = getattr(self._evaluated, "column_names", None) or []
        if self._evaluated is not None and (self._setting("task_weight") > 0 or {"label", "labels"} & set(columns)):
            logger.warning(
                "The evaluation's batches have no labels, so that its loss lacks the labels' term and no accuracy is "
                f"measured. They hold {sorted(inputs)}{f' of the columns {sorted(columns)}' if columns else ''}. Name "
                "the column of labels 'label' or 'labels', with the classes' numbers (dataset.class_encode_column)."
            )


def _warn_of_repeated_samples() -> None:
    """Warn of a stream that each process reads for itself: Accelerate doesn't know then how many samples it has."""
    logger.warning_once(
        "Each process reads the evaluation's stream for itself (dispatch_batches=False). Its last batches are filled "
        "up by the first samples, which count twice in every figure. Leave dispatch_batches unset, with "
        "accelerator_config={'split_batches': True} where texts differ in length, or evaluate in one process."
    )
