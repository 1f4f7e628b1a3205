"""The card of a recipe's student, measured beside the students that it is compared with."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from ..cards.card import save_card
from ..fidelity import DataRecord, FidelityRecord, MetricValue
from ..trainer import ExplanationDistillTrainer
from .tasks import Task

PICTURE = "explanations.png"

TITLES = {"KD": "plain KD", "scratch": "no teacher"}
"""What the card calls the other students."""

_WORD_METRICS = ("word_accuracy", "word_auroc", "word_auprc")


def write_card(
    task: Task,
    trainer: ExplanationDistillTrainer,
    students: Mapping[str, nn.Module],
    run: Mapping[str, Any],
    folder: Path,
    repo_id: str | None = None,
) -> None:
    """Measures the e²KD student on the last evaluation and writes `fidelity.json`, the picture and the card beside it.

    Every process must call it.

    Args:
        trainer: Of the e²KD student.
        students: All students by arm.
        run: This seed's figures by side and evaluation: what words were scored against is taken from it.
        folder: Where the student was saved, in the folder of the pictures.
        repo_id: Where it will be published.
    """
    split, data = list(task.evaluations.items())[-1]
    record = trainer.measure_fidelity(
        data,
        split=split,
        samples=task.card_samples,
        seed=trainer.args.seed,
        compared={TITLES.get(arm, arm): model for arm, model in students.items() if arm != "e²KD"},
        data=task.data.get(split),
    )
    if not trainer.is_world_process_zero():
        return
    record = _with_words(record, run, split, min(task.card_samples, len(data)))
    if task.teacher_is_new and record.teacher is not None:
        record = replace(record, teacher=replace(record.teacher, path="../teacher"))
    if record.training is not None and "train" in task.data:
        record = replace(record, training=replace(record.training, data=task.data["train"]))
    record.save(folder)
    drawn = folder.parent / PICTURE
    if drawn.exists():
        shutil.copy(drawn, folder / PICTURE)
    save_card(
        record,
        folder,
        repo_id=repo_id,
        model_name=folder.absolute().parent.name,
        picture=PICTURE if drawn.exists() else None,
    )


def generated(function: str, arguments: Mapping[str, Any], splits: Mapping[str, str], license: str) -> dict[str, Any]:
    """Records of an embedded data set's splits.

    Args:
        function: Its name in `hf_e2kd.data`.
        arguments: Of the function.
        splits: By what they are called in a task, what they are called in the data set.
    """
    return {
        name: DataRecord(
            id=function, name=function.replace("_", " "), split=split, arguments=dict(arguments), license=license
        )
        for name, split in splits.items()
    }


def _with_words(record: FidelityRecord, run: Mapping[str, Any], split: str, samples: int) -> FidelityRecord:
    """The record with the figures of words that the recipe has measured on so many texts."""

    def figures(side: str, prefix: str = "") -> dict[str, MetricValue]:
        found = run[side][split]
        return {f"{prefix}{name}": MetricValue(found[name], samples=samples) for name in _WORD_METRICS if name in found}

    return replace(
        record,
        figures=record.figures | figures("e²KD") | figures("teacher", "teacher_"),
        compared={
            title: own | figures(next(arm for arm in run if TITLES.get(arm, arm) == title))
            for title, own in record.compared.items()
        },
    )
