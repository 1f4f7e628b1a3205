"""`hf-e2kd fidelity`: how faithful one classifier is to another, and whether published figures hold."""

import json
import os
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Annotated, Literal

import typer
from torch import nn

from ..callbacks.panels import CARD_ROWS, CHOOSE_FROM, ExplanationPanels
from ..cards.card import CARD_FILE, save_card
from ..experiments.evaluator import Columns, Side, evaluator
from ..experiments.sources import check_pair, check_processor, choose_explainer, load_classifier, load_split
from ..export import gives_gradcam
from ..fidelity import FidelityRecord, ModelRecord, TrainingRecord, measure_fidelity
from ..fidelity.describe import describe_data, license_of
from ..hub.ids import is_hub_id, loaded_commit
from ..terms.matching import ComparisonGrid
from .fidelity_table import as_table
from .gate import (
    BaselineOption,
    Gate,
    JunitOption,
    MoreRequirements,
    OnOption,
    RequireOption,
    as_lines,
    exit_code,
)
from .options import ProcessorOption, explainer_options_of, is_given, json_object
from .output import echo, require_folder
from .verification import Instead, as_checks, verified

PICTURE = "explanations.png"
NOT_VERIFIED = (
    *("samples", "explainer", "target", "comparison_grid", "batch_size", "seed", "chance", "held_out"),
    *("faithfulness", "control", "pictures", "card"),
)
"""Options that --verify doesn't take: the record states them, or it writes nothing."""


def fidelity(
    context: typer.Context,
    more: MoreRequirements = None,
    student: Annotated[
        str | None, typer.Option(help="Hub id or folder of the model that is measured, or its exported file.")
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="Hub id or folder of the model that it should agree with.")
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help="Hub id, folder of images or data files, one such file, or saved by `save_to_disk`."),
    ] = None,
    verify_: Annotated[
        str | None,
        typer.Option(
            "--verify", metavar="REPO_OR_DIR", help="Measure a published student again and compare its fidelity.json."
        ),
    ] = None,
    tolerance: Annotated[float, typer.Option(min=0, help="How far verified figures may be apart.")] = 0.005,
    student_revision: Annotated[str | None, typer.Option(help="The student's revision on the Hub.")] = None,
    teacher_revision: Annotated[str | None, typer.Option(help="The teacher's revision on the Hub.")] = None,
    processor: ProcessorOption = None,
    dataset_config: Annotated[str | None, typer.Option(help="The data set's configuration on the Hub.")] = None,
    split: Annotated[
        str | None, typer.Option(help="Split of the data set [validation, or the only one].", show_default=False)
    ] = None,
    samples: Annotated[int, typer.Option(min=2, help="Samples that are drawn.")] = 1000,
    explainer: Annotated[
        str | None, typer.Option(help="Method; by default gradcam of images, integrated_gradients of texts.")
    ] = None,
    explainer_options: Annotated[
        str | None, typer.Option(metavar="JSON", help="The method's options.", show_default=False)
    ] = None,
    target: Annotated[
        Literal["teacher_top", "label"], typer.Option(help="Class to explain: the teacher's top, or the label.")
    ] = "teacher_top",
    comparison_grid: Annotated[
        ComparisonGrid,
        typer.Option(help="Size at which maps of images are compared: the student's image, or the larger map's own."),
    ] = "image",
    image_column: Annotated[str | None, typer.Option(help="Column of the images [image].", show_default=False)] = None,
    text_columns: Annotated[
        list[str] | None,
        typer.Option(
            "--text-columns", "--text-column", help="Column of the texts [text]; twice for pairs.", show_default=False
        ),
    ] = None,
    label_column: Annotated[
        str | None, typer.Option(help="Column of the labels [label]; it may be missing.", show_default=False)
    ] = None,
    group_column: Annotated[
        list[str] | None,
        typer.Option(help="Column that groups the samples; twice for pairs of values.", show_default=False),
    ] = None,
    max_length: Annotated[int | None, typer.Option(min=1, help="Longest text in tokens.")] = None,
    batch_size: Annotated[int, typer.Option(min=2)] = 32,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Draws the samples and all else that is random.")] = 0,
    chance: Annotated[bool, typer.Option(help="Measure what the similarity is for no good reason.")] = True,
    held_out: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METHOD",
            help="Measure the similarity by this method too, which the student was not trained on; may be repeated.",
            show_default=False,
        ),
    ] = None,
    faithfulness: Annotated[
        bool, typer.Option("--faithfulness", help="Also measure how far the explanations name what decides.")
    ] = False,
    control: Annotated[
        Literal["noise", "shift"] | None,
        typer.Option(
            help="Also compare the teacher with itself on inputs changed too little to matter: by noise, or by a shift "
            "of one pixel.",
            show_default=False,
        ),
    ] = None,
    pictures: Annotated[int, typer.Option(min=0, help="Samples in the picture.")] = CARD_ROWS,
    card: Annotated[bool, typer.Option("--card", help="Write a model card of the student too.")] = False,
    output_dir: Annotated[Path, typer.Option(help="Where record, picture and card go.")] = Path("outputs/fidelity"),
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code from the models' repositories.")
    ] = False,
    require: RequireOption = None,
    on: OnOption = "interval",
    baseline: BaselineOption = None,
    junit: JunitOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record, or the checks, as JSON.")] = False,
) -> None:
    """Measure how faithful a student is to a teacher, without training: any two classifiers of images or of texts.

    Agreement, explanation similarity with its chance levels, accuracy and more, each with a 95 % bootstrap interval.
    Processors, tokenizers and the order of labels may differ. With --verify a published student is measured again, on
    the samples that its record names, and the figures that hold are told from those that don't (exit code 1). Models,
    revisions, data, columns and the longest text that are given go before what the record states, which names no folder
    but those below its own; --explainer-options are then those that the record leaves open, such as paths. With
    --require or --baseline the exit code is 3 where a figure falls short.

    \b
    Examples:
      hf-e2kd fidelity --teacher microsoft/resnet-50 \\
          --student microsoft/resnet-18 --dataset ./photos --split validation \\
          --card
      hf-e2kd fidelity --teacher textattack/bert-base-uncased-SST-2 \\
          --student me/small-bert --dataset stanfordnlp/sst2 \\
          --text-columns sentence --samples 300
      hf-e2kd fidelity --teacher ./teacher --student ./student \\
          --dataset ./photos --group-column place \\
          --require "agreement>=.95" "worst_group_accuracy>=.7" --junit gate.xml
      hf-e2kd fidelity --teacher ./teacher --student ./student \\
          --dataset ./photos --held-out occlusion --faithfulness --control noise
      hf-e2kd fidelity --teacher microsoft/resnet-50 --student student.onnx \\
          --dataset ./photos
      hf-e2kd fidelity --verify me/student
      hf-e2kd fidelity --verify outputs/distill_vit/student \\
          --teacher outputs/distill_vit/teacher
    """
    gate = Gate.of(require, more, on, baseline, junit)
    if verify_ is not None:
        if gate:
            raise typer.BadParameter("--verify measures a record again; hf-e2kd gate RECORD tests requirements on it.")
        if given := [each for each in NOT_VERIFIED if is_given(context, each)]:
            named = ", ".join(f"--{each.replace('_', '-')}" for each in given)
            raise typer.BadParameter(
                f"--verify measures what the record states, and writes no files; leave {named} out with it."
            )
        instead = Instead(
            student=student,
            student_revision=student_revision,
            teacher=teacher,
            teacher_revision=teacher_revision,
            processor=processor,
            dataset=dataset,
            dataset_config=dataset_config,
            split=split,
            image_column=image_column,
            text_columns=text_columns,
            label_column=label_column,
            group_column=group_column,
            max_length=max_length,
            explainer_options=json_object(explainer_options),
        )
        checks = verified(verify_, instead, tolerance, output_dir, trust_remote_code)
        echo(json.dumps([vars(check) for check in checks]) if as_json else as_checks(checks))
        raise typer.Exit(1 if any(check.holds is False for check in checks) else 0)
    needed = {"--student": student, "--teacher": teacher, "--dataset": dataset}
    missing = [name for name, value in needed.items() if value is None]
    if missing:
        raise typer.BadParameter(f"Give {', '.join(missing)}, or --verify REPO_OR_DIR.")
    assert student is not None and teacher is not None and dataset is not None
    if is_given(context, "tolerance"):
        raise typer.BadParameter("--tolerance is of --verify alone: requirements and baselines have their own bounds.")
    require_folder(output_dir)
    check_processor(processor, student, teacher)
    options = explainer_options_of(explainer, explainer_options)
    taught = load_classifier(student, student_revision, trust_remote_code, processor)
    teaching = load_classifier(teacher, teacher_revision, trust_remote_code, processor)
    check_pair(teaching, taught)
    # Of a file that gives logits alone, decisions are compared.
    explains = explainer is not None or (gives_gradcam(taught.model) and gives_gradcam(teaching.model))
    columns = Columns(image_column or "image", text_columns or ["text"], label_column or "label")
    # The default column of labels may be missing, and not one that was named.
    read = [*columns.inputs(taught.is_text), *([label_column] if label_column else [])]
    data, split = load_split(dataset, taught.is_text, split, dataset_config, read)
    trainer = evaluator(
        Side(taught.model, taught.processing_class),
        Side(teaching.model, teaching.processing_class),
        data,
        columns,
        choose_explainer((taught, teaching), explainer, options),
        is_text=taught.is_text,
        target=target,
        comparison_grid=comparison_grid,
        batch_size=batch_size,
        max_length=max_length,
        output_dir=str(output_dir),
        explains=explains,
        source=dataset,
    )
    known = replace(
        describe_data(data, split=split),
        columns={
            "image": columns.image,
            "texts": list(columns.texts),
            "label": columns.label,
            "max_length": max_length,
        },
        path=_path_from(dataset, output_dir),
    )
    if is_hub_id(dataset):
        known = replace(known, id=dataset, name=dataset, config=dataset_config)
    record = measure_fidelity(
        trainer,
        samples=samples,
        seed=seed,
        data=known,
        group_column=group_column,
        chance=chance,
        explainers=held_out or (),
        faithfulness=faithfulness,
        control=control,
    )
    record = replace(
        record,
        student=_from(record.student, student, taught.model, output_dir),
        teacher=None if record.teacher is None else _from(record.teacher, teacher, teaching.model, output_dir),
    )
    record = replace(record, training=_training_of(record.student, output_dir))
    output_dir.mkdir(parents=True, exist_ok=True)
    record.save(output_dir)
    pictures = pictures if explains else 0
    # An earlier record's isn't this one's, and `hf-e2kd card` shows what is there.
    (output_dir / PICTURE).unlink(missing_ok=True)
    if pictures:
        panels = ExplanationPanels(trainer, count=pictures, choose_from=max(pictures, CHOOSE_FROM))
        panels.draw().savefig(output_dir / PICTURE, dpi=150)
    if card:
        save_card(record, output_dir, student=place_of(record), picture=PICTURE if pictures else None)
    elif (output_dir / CARD_FILE).exists():
        echo(
            f"{output_dir / CARD_FILE} was there before and doesn't state these figures. It is written anew by "
            f"hf-e2kd card {quote(str(output_dir))}, or by --card.",
            err=True,
        )
    echo(json.dumps(record.to_dict(), ensure_ascii=False) if as_json else as_table(record))
    if not as_json:
        echo(f"\nIn {output_dir}: {', '.join(sorted(path.name for path in output_dir.iterdir()))}")
    if gate:
        verdicts = gate.verdicts(record)
        # Beside JSON on standard output, which is the record.
        echo(f"\n{as_lines(verdicts)}", err=as_json)
        raise typer.Exit(exit_code(verdicts))


def place_of(record: FidelityRecord) -> str:
    """Return the id of a measured student, or its folder as seen from the record; STUDENT where neither is stated."""
    return record.student.id or record.student.path or "STUDENT"


def _from(described: ModelRecord, source: str, model: nn.Module, output_dir: Path) -> ModelRecord:
    """Add to a described model its source: its id, commit and licence, or its path relative to the record."""
    if not is_hub_id(source):
        return replace(described, id=None, path=_path_from(source, output_dir))
    commit = loaded_commit(getattr(model, "config", None))
    return replace(described, id=source, revision=commit, license=license_of(source), path=None)


def _training_of(student: ModelRecord, folder: Path) -> TrainingRecord | None:
    """Return how a student was trained, as its earlier record in the folder says, whose place the new one takes."""
    try:
        earlier = FidelityRecord.load(folder)
    except (OSError, ValueError):  # none, or a damaged one
        return None
    return earlier.training if earlier.student.weights == student.weights is not None else None


def _path_from(source: str, folder: Path) -> str | None:
    """Return a relative path, if the user gave one; absolute ones tell where somebody keeps files."""
    if not Path(source).exists() or Path(source).is_absolute() or folder.is_absolute():
        return None
    return Path(os.path.relpath(source, folder)).as_posix()
