"""Teachers and students that are trained once and kept: several processes share them, and a command goes on."""

import hashlib
import json
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _arms import Arm, teacher_source, teacher_sources
from _common import channels_last
from _interpretability import StudyOptions, Teacher, find_teacher, train_one
from datasets import Dataset
from torch import nn
from transformers import AutoModelForImageClassification

from hf_e2kd.experiments.distillation import replace_arguments
from hf_e2kd.experiments.models import is_architecture, load_weights
from hf_e2kd.experiments.shared_runs import SETTLED, share_runs
from hf_e2kd.fidelity.training import recorded_arguments
from hf_e2kd.store.key import weights_digest
from hf_e2kd.trainer.arguments import ExplanationDistillArguments


@dataclass
class TrainedArms:
    """Teachers and students in a folder, by seed.

    Args:
        options: Options of the study.
        args: Training arguments; the seed comes with each call.
        train: Training data.
        processor: Image processor of the networks, saved beside each.
        folder: Folder of the models.
        measure: Figures of a trained model, kept with it.
        not_of_training: Options without an influence on the models, which may differ from one command to the next.
    """

    options: StudyOptions
    args: ExplanationDistillArguments
    train: Dataset
    processor: Any
    folder: Path
    measure: Callable[[nn.Module], dict[str, Any]]
    not_of_training: Collection[str] = ()

    def __post_init__(self) -> None:
        if self.args.world_size > 1:
            raise ValueError(
                "Start the recipe without a launcher, as often as there are processes: they share the runs."
            )

    def run(self, arms: Sequence[Arm], seeds: Sequence[int]) -> dict[str, dict[str, Any]]:
        """Train what isn't there; give the figures of teachers and students by `name` and `teacher_name`.

        Raises:
            ValueError: the folder holds models of other settings.
        """
        teachers = {
            self.teacher_name(source, seed): (source, seed)
            for seed in seeds
            for source in teacher_sources(arms, self.options)
            if self.is_trained(source)
        }
        students = {self.name(arm, seed): (arm, seed) for seed in seeds for arm in arms}

        def train_teacher(name: str) -> dict[str, Any]:
            source, seed = teachers[name]
            seeded = replace_arguments(self.args, seed=seed)
            return self._keep(name, find_teacher(source, self.options, seeded, self.train, self.processor).model)

        def train_student(name: str) -> dict[str, Any]:
            arm, seed = students[name]
            source = teacher_source(arm, self.options)
            teacher = None if source is None else self.teacher(source, seed)
            seeded = replace_arguments(self.args, seed=seed)
            return self._keep(name, train_one(arm, teacher, self.options, seeded, self.train, self.processor))

        # The students need their teachers, so that these are waited for first.
        found = share_runs(self.folder, list(teachers), self._key(), _timed(train_teacher))
        # A teacher's folder may hold another one by now.
        given = [source for source in teacher_sources(arms, self.options) if not self.is_trained(source)]
        taught_by = [weights_digest(self.teacher(source, self.args.seed).model) for source in given]
        key = " ".join([self._key(), *taught_by])
        return found | share_runs(self.folder, list(students), key, _timed(train_student))

    def is_trained(self, source: str) -> bool:
        """Tell whether a teacher is trained here, or was before."""
        return self.options.smoke or is_architecture(source)

    def name(self, arm: Arm, seed: int) -> str:
        """Name a student's files."""
        return f"{arm.file_name}-{seed}"

    def teacher_name(self, source: str, seed: int) -> str:
        """Name a teacher's files."""
        return f"teacher-{Path(source).stem}-{hashlib.sha256(source.encode()).hexdigest()[:6]}-{seed}"

    def teacher(self, source: str, seed: int) -> Teacher:
        """Load a teacher."""
        if self.is_trained(source):
            return Teacher(self.load(self.teacher_name(source, seed)), self.processor)
        return find_teacher(source, self.options, self.args, self.train, self.processor)

    def load(self, name: str) -> Any:
        """Load a model that was trained here."""
        model = load_weights(AutoModelForImageClassification, str(self.folder / name))
        return channels_last(model.to(self.args.device))

    def _keep(self, name: str, model: nn.Module) -> dict[str, Any]:
        model.save_pretrained(self.folder / name)
        self.processor.save_pretrained(self.folder / name)
        return self.measure(model)

    def _key(self) -> str:
        """A digest of what the models depend on beside their names."""
        left_out = {"students", "seeds", *self.not_of_training}
        chosen = {name: value for name, value in vars(self.options).items() if name not in left_out}
        training = recorded_arguments(self.args, [name for name in SETTLED if name != "seed"])
        return hashlib.sha256(json.dumps([chosen, training], sort_keys=True, default=str).encode()).hexdigest()


def _timed(run: Callable[[str], dict[str, Any]]) -> Callable[[str], dict[str, Any]]:
    """Add the processor's time of a run to its figures, in seconds."""

    def timed(name: str) -> dict[str, Any]:
        start = time.process_time()
        return {**run(name), "cpu_seconds": round(time.process_time() - start, 1)}

    return timed
