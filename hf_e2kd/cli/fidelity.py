"""`hf-e2kd fidelity`: how faithful one classifier is to another, and whether published figures hold."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..callbacks import ExplanationPanels
from ..cards.card import save_card
from ..experiments.evaluator import Columns, Side, evaluator
from ..experiments.sources import Classifier, check_pair, load_classifier, load_split
from ..explainers import Explainer, build_explainer
from ..export import gives_gradcam
from ..fidelity import FidelityRecord, MetricValue, ModelRecord, measure_fidelity
from ..fidelity.describe import describe_data
from ..hub.ids import is_hub_id
from .options import explainer_options_of, json_object
from .output import echo
from .verification import Instead, as_checks, verified

PICTURE = "explanations.png"


def fidelity(
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
    processor: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Model whose processor and classes a student's file takes that states none itself."
        ),
    ] = None,
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
    max_length: Annotated[int | None, typer.Option(min=1, help="Longest text in tokens.")] = None,
    batch_size: Annotated[int, typer.Option(min=2)] = 32,
    seed: Annotated[int, typer.Option(help="Draws the samples and all else that is random.")] = 0,
    chance: Annotated[bool, typer.Option(help="Measure what the similarity is for no good reason.")] = True,
    pictures: Annotated[int, typer.Option(min=0, help="Samples in the picture.")] = 6,
    card: Annotated[bool, typer.Option("--card", help="Write a model card of the student too.")] = False,
    output_dir: Annotated[Path, typer.Option(help="Where record, picture and card go.")] = Path("outputs/fidelity"),
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code from the models' repositories.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record, or the checks, as JSON.")] = False,
) -> None:
    """Measure how faithful a student is to a teacher, without training: any two classifiers of images or of texts.

    Agreement, explanation similarity with its chance levels, accuracy and more, each with a 95 % bootstrap interval.
    Processors, tokenizers and the order of labels may differ. With --verify a published student is measured again, on
    the samples that its record names, and the figures that hold are told from those that don't (exit code 1). Models,
    revisions, data, columns and the longest text that are given go before what the record states, which names no
    folder but those below its own; --explainer-options
    are then those that the record leaves open, such as paths.

    \b
    Examples:
      hf-e2kd fidelity --teacher microsoft/resnet-50 --student microsoft/resnet-18 \\
          --dataset ./photos --split validation --card
      hf-e2kd fidelity --teacher textattack/bert-base-uncased-SST-2 --student me/small-bert \\
          --dataset stanfordnlp/sst2 --text-columns sentence --samples 300
      hf-e2kd fidelity --teacher microsoft/resnet-50 --student student.onnx --dataset ./photos
      hf-e2kd fidelity --verify me/student
      hf-e2kd fidelity --verify outputs/distill_vit/student --teacher outputs/distill_vit/teacher
    """
    if verify_ is not None:
        if explainer is not None:
            raise typer.BadParameter("the record names its explainer; leave --explainer out with --verify.")
        instead = Instead(
            student=student,
            student_revision=student_revision,
            teacher=teacher,
            teacher_revision=teacher_revision,
            dataset=dataset,
            dataset_config=dataset_config,
            split=split,
            image_column=image_column,
            text_columns=text_columns,
            label_column=label_column,
            max_length=max_length,
            explainer_options=json_object(explainer_options),
        )
        checks = verified(verify_, instead, tolerance, output_dir, trust_remote_code)
        echo(json.dumps([vars(check) for check in checks]) if as_json else as_checks(checks))
        raise typer.Exit(1 if any(check.holds is False for check in checks) else 0)
    given = {"--student": student, "--teacher": teacher, "--dataset": dataset}
    missing = [name for name, value in given.items() if value is None]
    if missing:
        raise typer.BadParameter(f"Give {', '.join(missing)}, or --verify REPO_OR_DIR.")
    assert student is not None and teacher is not None and dataset is not None
    options = explainer_options_of(explainer, explainer_options)
    method = None if explainer is None else build_explainer(explainer, **options)
    taught = load_classifier(student, student_revision, trust_remote_code, processor)
    teaching = load_classifier(teacher, teacher_revision, trust_remote_code)
    check_pair(teaching, taught)
    # Of a file that gives logits alone, decisions are compared.
    explains = method is not None or (gives_gradcam(taught.model) and gives_gradcam(teaching.model))
    columns = Columns(image_column or "image", text_columns or ["text"], label_column or "label")
    data, split = load_split(dataset, taught.is_text, split, dataset_config, columns.inputs(taught.is_text))
    trainer = evaluator(
        Side(taught.model, taught.processing_class),
        Side(teaching.model, teaching.processing_class),
        data,
        columns,
        method or default_explainer(taught),
        is_text=taught.is_text,
        target=target,
        batch_size=batch_size,
        max_length=max_length,
        output_dir=str(output_dir),
        explains=explains,
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
    record = measure_fidelity(trainer, samples=samples, seed=seed, data=known, chance=chance)
    record = replace(
        record,
        student=_from(record.student, student, output_dir),
        teacher=None if record.teacher is None else _from(record.teacher, teacher, output_dir),
    )
    output_dir.mkdir(parents=True, exist_ok=True)
    record.save(output_dir)
    pictures = pictures if explains else 0
    if pictures:
        panels = ExplanationPanels(trainer, count=pictures)
        panels.draw().savefig(output_dir / PICTURE, dpi=150)
    if card:
        save_card(
            record, output_dir, repo_id=student if is_hub_id(student) else None, picture=PICTURE if pictures else None
        )
    echo(json.dumps(record.to_dict(), ensure_ascii=False) if as_json else as_table(record))
    if not as_json:
        echo(f"\nIn {output_dir}: {', '.join(sorted(path.name for path in output_dir.iterdir()))}")


def default_explainer(classifier: Classifier) -> Explainer:
    """Return the default explainer: GradCAM for images, Integrated Gradients for texts."""
    return build_explainer("integrated_gradients" if classifier.is_text else "gradcam")


def as_table(record: FidelityRecord) -> str:
    """Render the figures for a reader."""
    rows = [
        ("student", record.student.name),
        ("teacher", "–" if record.teacher is None else record.teacher.name),
        ("samples", f"{len(record.data.samples):,} of {record.data.rows or 0:,}, {record.data.name}"),
        ("explained by", str(record.explainer["name"])),
        ("", ""),
    ]
    for name, figure in record.figures.items():
        rows.append((_title(name, figure), _value(figure)))
        if name == "explanation_similarity":
            rows += [(f"  by chance: {kind}", _value(level)) for kind, level in record.chance.items()]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}".rstrip() for name, value in rows)


def _from(model: ModelRecord, source: str, output_dir: Path) -> ModelRecord:
    """Add to a model its source: its id, or its path relative to the record."""
    return replace(model, id=source if is_hub_id(source) else None, path=_path_from(source, output_dir))


def _path_from(source: str, folder: Path) -> str | None:
    """Return a relative path, if the user gave one; absolute ones tell where somebody keeps files."""
    if not Path(source).exists() or Path(source).is_absolute() or folder.is_absolute():
        return None
    return Path(os.path.relpath(source, folder)).as_posix()


def _title(name: str, figure: MetricValue) -> str:
    title = name.replace("_", " ")
    return f"{title} ({figure.detail})" if figure.detail else title


def _value(figure: MetricValue) -> str:
    interval = "" if figure.low is None else f"  [{figure.low:.3f}, {figure.high:.3f}]"
    return f"{figure.value:.3f}{interval}"
