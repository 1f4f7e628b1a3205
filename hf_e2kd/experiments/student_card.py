"""Card of an experiment's student, measured beside the students that it is compared with."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from ..cards.card import save_card
from ..fidelity import DataRecord, FidelityRecord, MetricValue
from ..trainer import ExplanationDistillTrainer
from .distillation import Distillation

PICTURE = "explanations.png"

TITLES = {"KD": "plain KD", "scratch": "no teacher"}
"""Names of the other students on the card."""

_WORD_METRICS = ("word_accuracy", "word_auroc", "word_auprc")


def write_card(
    distillation: Distillation,
    trainer: ExplanationDistillTrainer,
    students: Mapping[str, nn.Module],
    run: Mapping[str, Any],
    folder: Path,
    repo_id: str | None = None,
) -> None:
    """Measure the e²KD student on the last evaluation and write `fidelity.json`, the picture and the card beside it.

    Every process must call it.

    Args:
        distillation: Models and data.
        trainer: Trainer of the e²KD student.
        students: All students by variant.
        run: The seed's figures, model → split → metric; those of words go into the record.
        folder: Folder of the saved student, in the folder of the pictures.
        repo_id: Repository in which it will be published.
    """
    split, data = list(distillation.evaluations.items())[-1]
    record = trainer.measure_fidelity(
        data,
        split=split,
        samples=distillation.card_samples,
        seed=trainer.args.seed,
        compared={TITLES.get(variant, variant): model for variant, model in students.items() if variant != "e²KD"},
        data=distillation.data.get(split),
    )
    if not trainer.is_world_process_zero():
        return
    record = with_word_plots(record, run, split, min(distillation.card_samples, len(data)))
    if distillation.teacher_is_new and record.teacher is not None:
        record = replace(record, teacher=replace(record.teacher, path="../teacher"))
    if record.training is not None and "train" in distillation.data:
        record = replace(record, training=replace(record.training, data=distillation.data["train"]))
    record.save(folder)
    picture = folder.parent / PICTURE
    # An earlier student's isn't this one's, and `hf-e2kd card` and an upload take what is there.
    (folder / PICTURE).unlink(missing_ok=True)
    if picture.exists():
        shutil.copy(picture, folder / PICTURE)
    save_card(
        record,
        folder,
        repo_id=repo_id,
        # A published one bears its repository's name.
        model_name=None if repo_id else folder.absolute().parent.name,
        picture=PICTURE if picture.exists() else None,
    )


def generated_data(function: str, arguments: Mapping[str, Any], license: str, split: str) -> DataRecord:
    """Record a split of an embedded data set.

    Args:
        function: Name of the function in `hf_e2kd.data` that makes the data set.
        arguments: Its arguments.
        license: Licence of what the data set is made of.
        split: Name of the split.
    """
    return DataRecord(
        id=function, name=function.replace("_", " "), split=split, arguments=dict(arguments), license=license
    )


def with_word_plots(record: FidelityRecord, run: Mapping[str, Any], split: str, samples: int) -> FidelityRecord:
    """Add the figures of words to a record.

    Args:
        record: Record of the e²KD student.
        run: The seed's figures, model → split → metric.
        split: Split of the record.
        samples: Number of explained texts.
    """

    def figures(model: str, prefix: str = "") -> dict[str, MetricValue]:
        found = run[model][split]
        return {f"{prefix}{name}": MetricValue(found[name], samples=samples) for name in _WORD_METRICS if name in found}

    return replace(
        record,
        figures=record.figures | figures("e²KD") | figures("teacher", "teacher_"),
        compared={
            title: own | figures(next(model for model in run if TITLES.get(model, model) == title))
            for title, own in record.compared.items()
        },
    )
