"""Terms in the training: set up, optimised with the student, saved and restored."""

from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import send_to_device
from torch import nn
from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput

from ..architectures.base import evaluating
from ..architectures.functions import forget_preparation
from ..data.first_samples import first_samples, keeping_random_state
from ..explainers.registry import require_gradients
from ..terms import Term
from .checkpoints import STEPS, full_disk_named
from .finite import DIVERGED, require_finite_weights
from .preemption import StoppedInStage
from .relative_weights import warn_of_unmeasured
from .stages import prepare_terms, train_stage
from .step import run_student
from .term_setup import TermGradients, add_parameters, check_parameters, load_terms, save_terms


class TermsMixin(Trainer):
    """Mixin: optimise and save the terms' parameters beside the student's, and run their stages before the training."""

    terms: nn.ModuleDict
    _terms_set_up = False
    _runs_stages = True
    _ran_stages: bool
    _term_gradients: TermGradients
    _weighed_step: int | None
    _steps_before: int
    _set_up_mark: object
    _set_up_for: Any = None
    """Training data that the trainer had when the terms were set up."""

    def _named_terms(self) -> dict[str, Term]:
        return {name: cast(Term, term) for name, term in self.terms.items()}

    def _taps(self) -> list[str]:
        """Paths of the student's layers that terms read."""
        return list(dict.fromkeys(path for term in self._named_terms().values() for path in term.taps))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self.set_up_terms()
        load_terms(self.terms, resume_from_checkpoint)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        load_terms(self.terms, self.state.best_model_checkpoint)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        # Before anything is written, and an older checkpoint makes room.
        require_finite_weights(self.model, "student", DIVERGED)
        output, step = self._get_output_dir(trial=trial), self.state.global_step
        with full_disk_named(output, step):
            if self.args.should_save:
                save_terms(self.terms, Path(output) / f"{PREFIX_CHECKPOINT_DIR}-{step}")
            super()._save_checkpoint(model, trial)

    def _inner_training_loop(
        self,
        batch_size: int | None = None,
        args: Any = None,
        resume_from_checkpoint: str | None = None,
        *arguments: Any,
        **keywords: Any,
    ) -> Any:
        # Explained without gradients it can be measured, and not trained.
        require_gradients(self.student, "train()", "student")
        self.set_up_terms()
        self._refuse_other_samples()
        # Those of a checkpoint's training are among the ones that it counts.
        before = 0 if resume_from_checkpoint else getattr(self.student, STEPS, 0)
        self._steps_before, last = before, self.state
        given = self.optimizer is not None and self.lr_scheduler is not None and not self._created_lr_scheduler
        self._refuse_scheduler(given and any(True for _ in self.terms.parameters()))
        if resume_from_checkpoint is None and self._runs_stages and not self._ran_stages:
            try:
                prepare_terms(self, self._named_terms().values())
            except StoppedInStage:
                return TrainOutput(global_step=0, training_loss=0.0, metrics={})
            # With auto_find_batch_size this loop may begin again.
            self._ran_stages = True
        self._weighed_step = None
        # And its first log is of its own batches.
        self._logged.clear()
        gradients = self._term_gradients = TermGradients(self.terms, self.accelerator)
        self.add_callback(gradients)
        try:
            trained = super()._inner_training_loop(batch_size, args, resume_from_checkpoint, *arguments, **keywords)
        finally:
            self.remove_callback(gradients)
            if self.state is not last:
                setattr(self.student, STEPS, before + self.state.global_step)
        warn_of_unmeasured(self._named_terms().values())
        return trained

    def _run_epoch(self, *arguments: Any, **keywords: Any) -> None:
        if self.state.global_step >= self.state.max_steps:
            # A training that has ended within an epoch is resumed: the parent would take one more step.
            self.control.should_training_stop = True
            return
        super()._run_epoch(*arguments, **keywords)

    def train_stage(self, term: Term, num_train_epochs: float, with_student: bool = True) -> None:
        """Train the student's layers below a term's taps, and the term's parameters, on that term alone.

        Without the student, the term's parameters alone: it isn't run, and its outputs are empty.

        A term calls it in its `prepare`. The stage's checkpoints lie in `stage-NAME` in the output folder; a training
        that is resumed goes on in its middle. It is trained by the optimizer that the arguments name, whatever object
        the trainer was given, and without its callbacks.
        """
        try:
            train_stage(self, term, num_train_epochs, self._resumes_stages, with_student)
        finally:
            # After an interruption too, so that the student can be evaluated.
            forget_preparation(self.student)
            self._connect(self.student)

    def adopt_terms(self) -> None:
        """Take the terms as another trainer has set them up, for a stage of its training."""
        self._terms_set_up, self._runs_stages = True, False
        for term in self._named_terms().values():
            # Those that the other trainer hasn't are without a state.
            self._set_up_mark = term.set_up_by or self._set_up_mark
        self.terms.to(self.args.device)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        own_scheduler = self.optimizer is not None and self.lr_scheduler is not None
        optimizer = super().create_optimizer(model)
        groups = len(optimizer.param_groups)
        add_parameters(optimizer, self.terms, self.args.weight_decay)
        self._refuse_scheduler(
            own_scheduler and len(optimizer.param_groups) > groups and not self._created_lr_scheduler
        )
        return optimizer

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Leave out the parameters that a term penalises itself, which weight decay would shrink twice."""
        weights = self._weights()
        penalised = [path for name, term in self._named_terms().items() if weights[name] > 0 for path in term.penalised]
        own = {id(self.student.get_parameter(path)) for path in penalised}
        # Among the parent's names are those of parameters that are None, as of torch's MultiheadAttention.
        left_out = {name for name, each in model.named_parameters(remove_duplicate=False) if id(each) in own}
        return [name for name in super().get_decay_parameter_names(model) if name not in left_out]

    def _refuse_other_samples(self) -> None:
        """Refuse training data in the place of those that a term keeps something of each sample of.

        Raises:
            ValueError: naming the term and the remedy.
        """
        known = [name for name, term in self._named_terms().items() if "ids" in term.needs]
        if known and self._set_up_for is not None and self._set_up_for is not self.train_dataset:
            raise ValueError(
                f"The term '{known[0]}' keeps something of each sample of the training data, known by its position, "
                "and train_dataset is another one than before. Make another trainer, with the same student, for it."
            )

    def _refuse_scheduler(self, is_given: bool) -> None:
        if is_given:
            raise ValueError(
                "A term has parameters of its own, for which a scheduler that was made before has no learning rate. "
                "Give `optimizers=(optimizer, None)`, or leave both to the trainer's arguments."
            )

    def set_up_terms(self, dataset: Any = None) -> None:
        """Create the terms' parameters for the shapes of the data, unless that is done.

        Args:
            dataset: Data to take the shapes from, where the trainer has none of its own.
        """
        if self._terms_set_up:
            return
        waiting = [term for term in self._named_terms().values() if type(term).setup is not Term.setup]
        if waiting:
            batch = self._prepare_inputs(self._first_batch(dataset))
            # The student isn't prepared yet: one that will be sharded, or is evaluated in half precision, isn't on the
            # training's device, and weights in half precision take images under autocast alone.
            inputs = send_to_device(self.student_inputs(batch), next(self.student.parameters()).device)
            with evaluating(self.student), torch.no_grad(), self.accelerator.autocast():
                reference_outputs = self._ask(batch, {term.reference for term in waiting}, with_maps=False)
                output, _ = run_student(self.student, self.student, inputs, reference_outputs, with_features=True)
            # Projections are the same on all processes and don't change the random numbers of the training.
            with torch.random.fork_rng():
                torch.manual_seed(self.args.seed)
                for term in waiting:
                    term.setup(output, reference_outputs[cast(str, term.reference)], batch, self.train_dataset)
        self.terms.to(self.args.device)
        check_parameters(self.terms, self._is_sharded())
        self._terms_set_up, self._set_up_for, self._set_up_mark = True, self.train_dataset, object()
        for term in self._named_terms().values():
            term.set_up_by = self._set_up_mark

    def _first_batch(self, dataset: Any = None) -> Any:
        data = self.eval_dataset if self.train_dataset is None else self.train_dataset
        data = dataset if data is None else data
        data = list(data.values())[-1] if isinstance(data, dict) else data
        with keeping_random_state(self.args.device):
            return self.collate(first_samples(data, 2), data)
