"""`hf-e2kd fidelity --verify`: a new measurement of a record's student, and the figures that hold."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from datasets import Dataset
from huggingface_hub import snapshot_download

from ..data import digits_on_textures, reviews_with_hints
from ..data.holding_out import hold_out
from ..experiments.evaluator import Columns, Side, evaluator
from ..experiments.reaching import absent, check_source
from ..experiments.sources import Classifier, check_pair, check_processor, load_classifier, load_split
from ..explainers import Explainer, build_explainer
from ..export import gives_gradcam, is_exported
from ..fidelity import FIDELITY_FILE, Control, DataRecord, Faithfulness, FidelityRecord, ModelRecord, measure_fidelity
from ..fidelity.describe import unstated_options
from ..fidelity.verify import Check, check_verifiable, verify
from ..hub.ids import is_hub_id

T = TypeVar("T", Faithfulness, Control)

GENERATORS: dict[str, Callable[..., Any]] = {
    "digits_on_textures": digits_on_textures,
    "reviews_with_hints": reviews_with_hints,
}
"""The embedded data sets, which a record names by their functions."""


@dataclass(frozen=True)
class Instead:
    """Replacements of a record's statements; None keeps the record's own.

    Args:
        processor: Model whose processor and classes an exported file takes that states none.
        explainer_options: Values of the explainer's options that the record doesn't state.
    """

    student: str | None = None
    student_revision: str | None = None
    teacher: str | None = None
    teacher_revision: str | None = None
    processor: str | None = None
    dataset: str | None = None
    dataset_config: str | None = None
    split: str | None = None
    image_column: str | None = None
    text_columns: Sequence[str] | None = None
    label_column: str | None = None
    group_column: Sequence[str] | None = None
    max_length: int | None = None
    explainer_options: Mapping[str, Any] = field(default_factory=dict)


def verified(
    source: str, instead: Instead, tolerance: float, output_dir: Path, trust_remote_code: bool = False
) -> list[Check]:
    """Measure a record's student again.

    Args:
        source: Id of the student on the Hub, or a folder.
        instead: Replacements of the record's statements.
        tolerance: Largest difference of two figures that agree.

    Raises:
        ValueError: the record states nothing that could be verified, what it names is nowhere, or the data are others.
        OSError: something isn't there, or the Hub can't be reached or refuses.
    """
    folder = record_folder(source, instead.student_revision)
    record = FidelityRecord.load(folder)
    check_verifiable(record)
    method, other = _explainers(record, instead.explainer_options)
    taught, teaching = _models(source, folder, record, instead, trust_remote_code)
    stated = record.data.columns
    columns = Columns(
        instead.image_column or stated.get("image") or "image",
        instead.text_columns or stated.get("texts") or ["text"],
        instead.label_column or stated.get("label") or "label",
    )
    trainer = evaluator(
        Side(taught.model, taught.processing_class),
        Side(teaching.model, teaching.processing_class),
        _data(folder, record.data, instead, taught.is_text, columns),
        columns,
        method,
        is_text=taught.is_text,
        target=record.target,
        comparison_grid=record.comparison_grid,
        iou_threshold=record.iou_threshold,
        teacher_explainer=other,
        batch_size=record.batch_size or 32,
        max_length=instead.max_length or stated.get("max_length"),
        output_dir=str(output_dir),
        # Of a file that gives logits alone, decisions were measured.
        explains=method.name != "gradcam" or (gives_gradcam(taught.model) and gives_gradcam(teaching.model)),
    )
    found = measure_fidelity(
        trainer,
        rows=record.data.samples,
        seed=record.seed,
        data=record.data,
        group_column=instead.group_column or (record.groups.columns if record.groups else None),
        chance=bool(record.chance),
        costs=False,
        explainers=[_held_out(each.explainer) for each in record.held_out],
        faithfulness=False if record.faithfulness is None else _rebuilt(Faithfulness, record.faithfulness.options),
        control=None if record.control is None else _rebuilt(Control, record.control.options),
    )
    return verify(record, found, tolerance)


def as_checks(checks: Sequence[Check]) -> str:
    """Render the checks for a reader."""
    width = max(len(check.name) for check in checks)
    marks = {True: "holds", False: "FAILS", None: "–"}
    lines = [f"{'':5} {'':{width}}  {'stated':>14} {'found':>14}"]
    for check in checks:
        lines.append(
            f"{marks[check.holds]:5} {check.name:<{width}}  {_short(check.stated):>14} {_short(check.found):>14}  "
            f"{check.reason or ''}".rstrip()
        )
    checked = [check.holds for check in checks if check.holds is not None]
    failed = checked.count(False)
    lines += ["", f"{failed} of {len(checked)} don't hold." if failed else f"All {len(checked)} hold."]
    return "\n".join(lines)


def record_folder(source: str, revision: str | None = None) -> Path:
    """Return the folder of the record on this machine."""
    check_source(source)
    if Path(source).is_dir():
        folder = Path(source)
    else:
        try:
            folder = Path(snapshot_download(source, revision=revision, allow_patterns=[FIDELITY_FILE]))
        except OSError as error:
            raise absent(source, error) from error
    if not (folder / FIDELITY_FILE).is_file():
        raise ValueError(
            f"'{source}' has no {FIDELITY_FILE}, so that it states no figures. Measure: hf-e2kd fidelity "
            "--teacher A --student B --dataset D."
        )
    return folder


def _explainers(record: FidelityRecord, given: Mapping[str, Any]) -> tuple[Explainer, Explainer | None]:
    """Build the student's and the teacher's explainers, with the given values of options that aren't stated."""
    unstated: set[str] = set()

    def built(stated: dict[str, Any]) -> Explainer:
        _require_stated(stated)
        names = unstated_options(stated)
        unstated.update(names)
        lacking = [name for name in names if name not in given]
        if lacking:
            raise ValueError(
                f"The record doesn't state {', '.join(lacking)} of its explainer '{stated['name']}': tensors and what "
                f"only its author may see aren't written down. Give {'it' if len(lacking) == 1 else 'them'} by "
                f"--explainer-options '{{\"{lacking[0]}\": …}}'; a tensor, which no command line holds, only by "
                "measuring anew in Python: ExplanationDistillTrainer(…, explainer=…).measure_fidelity()."
            )
        return build_explainer(stated["name"], **{**stated["options"], **{name: given[name] for name in names}})

    other = None if record.teacher_explainer is None else built(record.teacher_explainer)
    method = built(record.explainer)
    if set(given) - unstated:
        raise ValueError(
            f"The explainer's options {', '.join(sorted(set(given) - unstated))} are the record's to state, or none of "
            f"that method's. Those that it leaves open: {', '.join(sorted(unstated)) or 'none'}."
        )
    return method, other


def _require_stated(stated: dict[str, Any]) -> None:
    if not isinstance(stated.get("name"), str) or not isinstance(stated.get("options"), dict):
        raise ValueError(
            f"The record doesn't state by which explainer and options it was measured: {stated}. Measure anew: "
            "hf-e2kd fidelity --teacher A --student B --dataset D."
        )


def _held_out(stated: dict[str, Any]) -> Explainer:
    """Build a held-out explainer, all of whose options must be stated."""
    _require_stated(stated)
    if unstated_options(stated):
        raise ValueError(
            f"The record doesn't state {', '.join(unstated_options(stated))} of its held-out explainer "
            f"'{stated['name']}'. Measure anew in Python: trainer.measure_fidelity(explainers=[…])."
        )
    return build_explainer(stated["name"], **stated["options"])


def _rebuilt(kind: type[T], options: dict[str, Any]) -> T:
    """Build a `Faithfulness` or a `Control` with the options of a record."""
    try:
        return kind(**options)
    except TypeError as error:
        what = kind.__name__.lower()
        raise ValueError(f"The record's {what} was measured otherwise than by this version: {error}.") from error


def _models(
    source: str, folder: Path, record: FidelityRecord, instead: Instead, trust_remote_code: bool
) -> tuple[Classifier, Classifier]:
    """Load the student and the teacher."""
    if record.teacher is None:
        raise ValueError(
            "The record is of a student without a teacher at hand (its explanations were stored or annotated). Name "
            "the teacher and measure anew: hf-e2kd fidelity --teacher A --student B --dataset D."
        )
    lies_beside = not Path(source).is_dir() or any(folder.glob("*.safetensors"))
    if instead.student is None and lies_beside and not is_exported(record.student.path or ""):
        # It lies beside its record, whose revision would be that of the checkpoint that the student started from.
        student, revision = source, instead.student_revision
    else:
        student, revision = _place(record.student, folder, "student", instead.student, instead.student_revision)
    teacher, teacher_revision = _place(record.teacher, folder, "teacher", instead.teacher, instead.teacher_revision)
    check_processor(instead.processor, student, teacher)
    taught = load_classifier(student, revision, trust_remote_code, instead.processor)
    teaching = load_classifier(teacher, teacher_revision, trust_remote_code, instead.processor)
    check_pair(teaching, taught)
    return taught, teaching


def _place(
    model: ModelRecord, folder: Path, role: str, given: str | None, revision: str | None
) -> tuple[str, str | None]:
    """Return the source of a model and its revision; the user's take precedence over the record's."""
    if given is not None:
        return given, revision
    if model.id is not None:
        return _hub_id(model.id, role), revision or _revision(model.revision, role)
    if model.path is not None and (path := _below(folder, model.path, role)).exists():
        if path.suffix == ".pt2":
            raise ValueError(
                f"The record's {role} is the archive '{path}', and what torch reads in it may run code. Give it by "
                f"--{role} {os.path.relpath(path)}, if you trust it."
            )
        return str(path), None
    raise ValueError(
        f"The record's {role} ({model.name}) isn't published and isn't here. Give it by --{role} FOLDER, or its "
        f"exported file; its weights "
        f"must be {model.weights or 'unknown'}."
    )


def _data(folder: Path, stated: DataRecord, instead: Instead, is_text: bool, columns: Columns) -> Dataset:
    """Load the data set of the samples."""
    split: str | None
    if instead.dataset is None and stated.id in GENERATORS:
        split = instead.split or stated.split or "train"
        try:
            data = GENERATORS[stated.id](**(stated.arguments or {}))[split]
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"'{stated.id}' can't be made as the record states it: {error}. Name its split by --split."
            ) from error
    else:
        split = instead.split or stated.split
        place = instead.dataset or _data_place(stated, folder)
        # A copy on this machine is of the configuration that the record states.
        own_config = None if Path(place).exists() else stated.config
        data, split = load_split(
            place,
            is_text,
            split,
            instead.dataset_config or own_config,
            [*columns.inputs(is_text), *([instead.label_column] if instead.label_column else [])],
            revision=None if instead.dataset else _revision(stated.revision, "dataset"),
        )
    if len(data) != stated.rows and stated.part is not None:
        if not 0 < stated.part.share < 1 or not 0 <= stated.part.seed < 2**32:
            raise ValueError(f"The record's data are no part of a split: {stated.part}. Give them by --dataset.")
        data = hold_out(data, split, stated.part.share, stated.part.seed)[1]
    if len(data) != stated.rows:
        raise ValueError(
            f"The record is of data with {stated.rows} rows, and the split '{split}' of these has {len(data)}. Give "
            "the split that was measured by --split, or the data that were by --dataset."
        )
    return data


def _data_place(data: DataRecord, folder: Path) -> str:
    if data.id is not None:
        return _hub_id(data.id, "dataset")
    if data.path is not None and (path := _below(folder, data.path, "dataset")).exists():
        return str(path)
    raise ValueError(f"The record's data ({data.name}) isn't published and isn't here. Give it by --dataset FOLDER.")


def _hub_id(name: str, role: str) -> str:
    """Check an id that a record states; a record of somebody else mustn't name this machine's folders."""
    if not is_hub_id(name) or (role == "dataset" and _is_reader(name)):
        raise ValueError(
            f"The record's id of the {role}, {name!r}, is no id on the Hub, or stands for files of this machine. Give "
            f"it by --{role}, if you trust what is there."
        )
    return name


def _is_reader(name: str) -> bool:
    """Tell whether `datasets` reads files of the working directory by this name, as it does by "imagefolder"."""
    return name.isidentifier() and find_spec(f"datasets.packaged_modules.{name}") is not None


def _revision(revision: str | None, role: str) -> str | None:
    """Check a revision that a record states, which becomes the name of a file in the Hub's cache."""
    if revision is not None and (not re.fullmatch(r"\w[\w./-]*", revision, re.ASCII) or ".." in revision):
        raise ValueError(
            f"The record's revision of the {role}, {revision!r}, is no branch, tag or commit. Name the {role} by "
            f"--{role}, if you trust what is there."
        )
    return revision


def _below(folder: Path, path: str, role: str) -> Path:
    """The place of a record's folder, which must lie below the record's own: it may be somebody else's record."""
    place = (folder / path).resolve()
    if not place.is_relative_to(folder.resolve()):
        raise ValueError(
            f"The record's {role} lies at {path!r}, outside the record's own folder. Give it by --{role} "
            f"{os.path.relpath(place)}, if you trust what is there."
        )
    return place


def _short(value: float | str | None) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}" if isinstance(value, float) else str(value).removeprefix("sha256:")[:12]
