"""Similarity by explainers that a student was not trained on, and faithfulness of explanations, batch by batch."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm

from ..alignment.inputs import first_tensor
from ..architectures.base import evaluating
from ..architectures.discovery import in_own_precision
from ..architectures.functions import is_differentiable
from ..explainers import ExplainedOutput, Explainer
from ..explainers.perturbation import PerturbationExplainer
from ..explainers.registry import require_gradients
from ..references import Reference, ReferenceOutput, TeacherReference
from ..terms import StepOutput
from ..terms.matching import comparison_size
from .chance import shuffled_similarity
from .describe import describe_explainer
from .groups import GroupedFigures
from .interpretability.faithfulness import Faithfulness
from .prefixes import CHANCE, UNTRAINED, chance_levels, under_prefix, without_prefix
from .protocol import MeasuredTrainer
from .record import FaithfulnessRecord, HeldOutRecord, MetricValue
from .samples import sample_metrics

RANDOM = "random order/"
"""Prefix of the student's faithfulness for parts in a random order."""

_SIMILARITY = ("explanation_similarity", "zero_student_maps", "zero_teacher_maps")


class FurtherMeasures:
    """Values of a batch by held-out explainers, and of the faithfulness of all its explanations.

    Args:
        trainer: Trainer of the student.
        reference: Name of the reference that is measured; None for none.
        student: The student, whole.
        models: Other students, by the prefix of their values; the untrained one is among the chance levels.
        explainers: Held-out explainers.
        faithfulness: Measurement of faithfulness; None for none.
        samples: Number of samples, for the progress bar.

    Raises:
        ValueError: there is no live teacher to explain anew, or an explainer isn't held out or doesn't suit a model.
    """

    def __init__(
        self,
        trainer: MeasuredTrainer,
        reference: str | None,
        student: nn.Module,
        models: Mapping[str, nn.Module],
        explainers: Sequence[str | Explainer],
        faithfulness: Faithfulness | None,
        samples: int,
    ):
        teacher = trainer.references.get(reference or "")
        if not isinstance(teacher, TeacherReference):
            raise ValueError(
                "Held-out explainers and faithfulness explain the teacher's decisions anew, so they take a live "
                "teacher: give the trainer `teacher_model`."
            )
        assert reference is not None
        if teacher.shard:
            raise ValueError(
                "A sharded teacher is run equally often by each process, and these measurements aren't. Take "
                "TeacherReference(teacher, shard=False), or measure in one process."
            )
        self.trainer = trainer
        self.name, self.reference = reference, teacher
        self.student, self.models = student, models
        self.explainers = [trainer.informed_explainer(each) for each in explainers]
        self.faithfulness = faithfulness
        self.samples = samples
        self._progress: tqdm | None = None
        names = [trainer.explainer.name, *(each.name for each in self.explainers)]
        twice = [name for number, name in enumerate(names) if name in names[:number]]
        if twice:
            raise ValueError(
                f"The explainer '{twice[0]}' is {'the trained one' if twice[0] == names[0] else 'named twice'}: give "
                "each held-out method once, and methods that the student was not trained on."
            )
        for explainer in self.explainers:
            for model in (student, teacher.model):
                if explainer.trainable:
                    require_gradients(model, explainer.name)
                explainer.check(model, trained=False)

    def __call__(
        self,
        output: StepOutput,
        reference_output: ReferenceOutput,
        inputs: Mapping[str, Any],
        found: Mapping[str, StepOutput],
        counted: int | None = None,
        seed: int = 0,
    ) -> dict[str, torch.Tensor]:
        """Compute the values (B,) or (B, K) of one batch.

        Args:
            output, reference_output: Outputs of the student and the reference by the student's own explainer.
            inputs: The batch.
            found: Outputs of the other students, by their prefixes.
            counted: Number of the batch's first samples that are measured; None for all.
            seed: Seed of the random orders of pixels and words.

        Returns:
            Values by name: `deletion` and its like, `teacher_…`, `PREFIX…` of other students, `RANDOM…`; and after
            `held_out_prefix(number)` the same of a held-out explainer, with its similarity and chance levels.
        """
        progress = self._shown(inputs)
        values = self._faithful(output, reference_output, inputs, found, seed)
        for number, explainer in enumerate(self.explainers):
            own = self._held_out(explainer, reference_output, inputs, counted, seed)
            values |= {f"{held_out_prefix(number)}{name}": value for name, value in own.items()}
        progress.update(len(first_tensor(inputs)))
        return values

    def close(self) -> None:
        """End the progress bar."""
        if self._progress is not None:
            self._progress.close()

    def passes(self, inputs: Mapping[str, Any]) -> float:
        """Estimate the forward passes that each sample takes, by a batch."""
        count, models = len(first_tensor(inputs)), 2 + len(self.models)
        total = 0.0
        for explainer in self.explainers:
            if isinstance(explainer, PerturbationExplainer):
                total += models * explainer.passes(inputs) / count
            else:
                total += models * (explainer.forward_passes or 1)
        if self.faithfulness is not None:
            of_each = self.faithfulness.passes("pixel_values" in inputs)
            trained = models - (UNTRAINED in self.models)
            # The student's once more, for the random order.
            total += of_each * (1 + (1 + len(self.explainers)) * trained)
        return total

    def _shown(self, inputs: Mapping[str, Any]) -> tqdm:
        if self._progress is None:
            passes = round(self.passes(inputs))
            self._progress = tqdm(
                total=self.samples,
                desc=f"Held-out explainers and faithfulness, {passes:,} forward passes a sample",
                unit="sample",
                disable=self.trainer.args.disable_tqdm or self.trainer.args.process_index > 0,
            )
        return self._progress

    def _held_out(
        self,
        explainer: Explainer,
        reference_output: ReferenceOutput,
        inputs: Mapping[str, Any],
        counted: int | None,
        seed: int,
    ) -> dict[str, torch.Tensor]:
        with _explained_by(self.reference, explainer):
            theirs = self.reference(inputs)
        target = reference_output.target
        own = self._explain(self.student, explainer, inputs, target)
        found = {
            prefix: self._explain(model, explainer, inputs, target)
            for prefix, model in self.models.items()
            if not explainer.trainable or is_differentiable(model)
        }
        size = comparison_size(inputs, self.trainer.comparison_grid)
        values = self._similar(own, theirs, inputs)
        values[f"{CHANCE}shuffled"] = shuffled_similarity(own.explanations[self.name], theirs, size, counted, seed)
        for prefix, other in found.items():
            similar = self._similar(other, theirs, inputs)
            values |= {f"{prefix}{name}": value for name, value in similar.items() if name != "zero_teacher_maps"}
        return values | self._faithful(own, theirs, inputs, found)

    def _explain(
        self, model: nn.Module, explainer: Explainer, inputs: Mapping[str, Any], target: torch.Tensor
    ) -> StepOutput:
        with evaluating(model):
            found = explainer(model, in_own_precision(model, self.trainer.student_inputs(inputs)), target)
        explained = ExplainedOutput(found.logits, found.maps, found.mask, found.vectors)
        return StepOutput(found.logits, {self.name: explained})

    def _similar(
        self, output: StepOutput, reference_output: ReferenceOutput, inputs: Mapping[str, Any]
    ) -> dict[str, torch.Tensor]:
        reference: dict[str, Reference] = {self.name: self.reference}
        values = sample_metrics(
            output,
            {self.name: reference_output},
            reference,
            inputs,
            self.trainer.is_multi_label,
            grid=self.trainer.comparison_grid,
        )
        return {name: values[name] for name in _SIMILARITY}

    def _faithful(
        self,
        output: StepOutput,
        reference_output: ReferenceOutput,
        inputs: Mapping[str, Any],
        found: Mapping[str, StepOutput],
        seed: int | None = None,
    ) -> dict[str, torch.Tensor]:
        """Measure the faithfulness of explanations of the student, the teacher and the other students, and where there
        is a seed of parts in a random order."""
        if self.faithfulness is None or self.name not in output.explanations or reference_output.maps is None:
            return {}
        target, own_inputs = reference_output.target, self.trainer.student_inputs(inputs)
        maps = output.explanations[self.name].maps
        assert maps is not None and self.reference.alignment is not None
        values = self._of_targets(self.student, own_inputs, maps, target)
        alignment = self.reference.alignment
        theirs = alignment.to_teacher(alignment.student_to_shared(target))
        taught = self._of_targets(self.reference.model, self.reference.inputs_of(inputs), reference_output.maps, theirs)
        values |= {f"teacher_{name}": value for name, value in taught.items()}
        for prefix, other in found.items():
            if prefix != UNTRAINED and self.name in other.explanations:
                explained = other.explanations[self.name].maps
                assert explained is not None
                measured = self._of_targets(self.models[prefix], own_inputs, explained, target)
                values |= {f"{prefix}{name}": value for name, value in measured.items()}
        if seed is not None:
            draw = torch.Generator().manual_seed(seed)
            noise = torch.rand(maps.shape, generator=draw).to(maps)
            by_chance = self._of_targets(self.student, own_inputs, noise, target)
            values |= {f"{RANDOM}{name}": value for name, value in by_chance.items()}
        return values

    def _of_targets(
        self, model: nn.Module, inputs: Mapping[str, Any], maps: torch.Tensor, target: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Measure maps of one target (B, *grid) or of K (B, K, *grid)."""
        assert self.faithfulness is not None
        with evaluating(model):
            if target.ndim == 1:
                return self.faithfulness(model, inputs, maps, target)
            each = [self.faithfulness(model, inputs, maps[:, k], target[:, k]) for k in range(target.shape[1])]
        return {name: torch.stack([values[name] for values in each], dim=1) for name in each[0]}

    @property
    def prefixes(self) -> list[str]:
        """Prefixes of the held-out explainers' values."""
        return [held_out_prefix(number) for number in range(len(self.explainers))]

    def held_out_records(
        self,
        figures: Mapping[str, MetricValue],
        titles: Mapping[str, str],
        grouped: GroupedFigures | None = None,
        chance: bool = True,
    ) -> list[HeldOutRecord]:
        """Sort averaged values into the records of the held-out explainers.

        Args:
            figures: Averages of all values by name.
            titles: Names of the compared students by their prefixes.
            grouped: The same by group; None where the samples weren't grouped.
            chance: True to record the similarity's chance levels by group.
        """
        records = []
        for prefix, explainer in zip(self.prefixes, self.explainers, strict=True):
            own = under_prefix(figures, prefix)
            records.append(
                HeldOutRecord(
                    explainer=describe_explainer(explainer),
                    figures=without_prefix(own),
                    compared={title: without_prefix(own, other) for other, title in titles.items()},
                    chance=chance_levels(own),
                    groups=None if grouped is None else grouped.under(prefix).record(chance),
                )
            )
        return records

    def faithfulness_record(
        self, figures: Mapping[str, MetricValue], modality: str, grouped: GroupedFigures | None = None
    ) -> FaithfulnessRecord | None:
        """Record how faithfulness was measured, and what it is by chance, by group too; None where it wasn't."""
        if self.faithfulness is None:
            return None
        by_group = {} if grouped is None else grouped.named(RANDOM)
        return FaithfulnessRecord(self.faithfulness.options(modality), without_prefix(figures, RANDOM), by_group)


def held_out_prefix(number: int) -> str:
    """Prefix of the values of a held-out explainer."""
    return f"held out {number}/"


@contextmanager
def _explained_by(reference: TeacherReference, explainer: Explainer) -> Iterator[None]:
    """Context in which a teacher is explained by another method, and no features of it are read."""
    before = reference.explainer, reference.own_explainer, reference.taps
    reference.explainer = reference.own_explainer = explainer
    reference.taps = None
    try:
        yield
    finally:
        reference.explainer, reference.own_explainer, reference.taps = before
