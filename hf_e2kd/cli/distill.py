"""`hf-e2kd distill`: distillation of any models on any data, or of an embedded setting."""

import argparse
import difflib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import fields
from pathlib import Path
from shlex import quote
from typing import Annotated, Any, Literal

import typer
from datasets import load_dataset_builder
from transformers import (
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
)
from transformers.trainer_utils import SaveStrategy

from ..experiments.demos import BERT_ON_REVIEWS, DEMOS, VIT_ON_DIGITS
from ..experiments.distillation import Distillation, explainer_of
from ..experiments.estimate import estimate_students
from ..experiments.experiment import Comparison, parse_experiment
from ..experiments.images import ImageExperiment
from ..experiments.models import is_architecture
from ..experiments.reaching import FROM_SCRATCH, loading_data
from ..experiments.run import as_text, run_variants
from ..experiments.sources import check_same_modality, load_classifier, load_config, reads_text
from ..experiments.texts import TextExperiment
from ..explainers import GradCAM
from ..export import OPSET, export_model
from ..export.tracing import require_explainable
from ..export.writing import check_request
from ..trainer.arguments import ExplanationDistillArguments
from .checkpoints import find_checkpoint, interruption
from .output import echo, require_folder
from .plan import ask, is_attended, make_plan, rehearse

PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Settings of typer for this command: options that it doesn't know are those of the data and of the training."""

# For who wants one student, and may interrupt it; what is given comes after these.
_ONE_STUDENT = ("--compare", "false", "--save_strategy", "epoch", "--save_total_limit", "1")
_PARTS_OF_THE_TEACHER = ("random", "teacher-layers")
_USAGE = "hf-e2kd distill --teacher A --student B --dataset D [--OPTION VALUE]..."

Demo = Literal["vit", "resnet", "convnext", "bert"]


def distill(
    context: typer.Context,
    teacher: Annotated[str | None, typer.Option(help="Hub id or folder of a classifier of images or texts.")] = None,
    student: Annotated[
        str | None,
        typer.Option(
            help="Hub id or folder of what becomes the student; of texts also teacher-layers or random, for a teacher "
            "with fewer layers."
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help="Hub id, folder of images or data files, one such file, or folder saved by `save_to_disk`."),
    ] = None,
    finetune_teacher: Annotated[
        float | None,
        typer.Option(metavar="EPOCHS", min=0, help="Train the whole teacher on the data's labels first."),
    ] = None,
    teacher_head: Annotated[
        Literal["own", "fit"],
        typer.Option(
            help="The teacher's own classifier, or a new one for the data's classes, fitted by logistic regression on "
            "its frozen features."
        ),
    ] = "own",
    demo: Annotated[
        Demo | None,
        typer.Option(
            help="Distil a tiny model on embedded digits (vit, resnet, convnext) or reviews (bert), beside plain "
            "distillation and without a download."
        ),
    ] = None,
    export: Annotated[
        Literal["onnx", "pt2"] | None,
        typer.Option(help="Write the student as such a file too, with its GradCAM map if that is its explanation."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, say how long the training would take, and stop.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Start a training of more than a minute without asking.")
    ] = False,
    all_options: Annotated[
        bool, typer.Option("--all-options", help="List all options (with --demo bert those of texts), and stop.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as one JSON object.")] = False,
) -> None:
    """Distil a student that looks where its teacher looks, and measure both.

    All training arguments of transformers are options too (--learning_rate, --num_train_epochs, --bf16, --push_to_hub,
    …), and so are those of the distillation (--explainer, --explanation_weight, --temperature, …) and of the data
    (--train_split, --eval_split, --image_column, --text_column, --label_column, …); --all-options lists them.
    --compare true trains a student by plain distillation beside it.

    The plan and its duration are shown first, and at a terminal you are asked before more than a minute of training.

    \b
    Examples:
      hf-e2kd distill --demo vit
      hf-e2kd distill --demo resnet --seeds 3
      hf-e2kd distill --teacher nateraw/food \\
          --student WinKawaks/vit-tiny-patch16-224 --dataset ethz/food101 \\
          --num_train_epochs 5 --bf16 true --output_dir food101
      hf-e2kd distill --teacher textattack/bert-base-uncased-SST-2 \\
          --student teacher-layers --dataset stanfordnlp/sst2 \\
          --text_column sentence --dry-run
      hf-e2kd distill --teacher facebook/dinov2-small --teacher-head fit \\
          --student timm/mobilenetv3_small_075 --student_init random \\
          --dataset ./photos
      hf-e2kd distill --teacher … --student … --dataset … --push_to_hub true \\
          --hub_model_id me/student
      accelerate launch --num_processes 4 -m hf_e2kd.cli distill --teacher … \\
          --student … --dataset …
    """
    started = time.time()
    attended = is_attended()  # before training arguments write to the environment
    given, arguments = gather_columns(context.args), list[str]()
    experiment: ImageExperiment | TextExperiment
    if all_options:
        parse_experiment(DEMOS[demo or "vit"], "distill", "", arguments=["--help"], usage=_USAGE)
    if demo:
        if teacher or student or dataset or finetune_teacher is not None or teacher_head != "own":
            raise typer.BadParameter("a demo brings its own teacher, student and data set; leave others out.")
        experiment = DEMOS[demo]
        _check_options(experiment, given)
        own = {field.name for field in fields(experiment.sources)}
        if passed_over := [f"--{name}" for name in _names(given) if name in own - {*experiment.embedded_options}]:
            raise typer.BadParameter(
                f"a demo doesn't read {', '.join(passed_over)}, since its models and data are its own. Leave that out."
            )
    else:
        if not (teacher and student and dataset):
            raise typer.BadParameter(
                "give --teacher, --student and --dataset; or --demo vit, which distils on embedded images without any "
                "download (--demo bert: on texts)."
            )
        experiment, arguments = _read_sources(teacher, student, dataset, finetune_teacher, teacher_head, given)
    name = f"distill_{demo}" if demo else "distill"
    sources, comparison, args = parse_experiment(
        experiment, name, "", arguments=[*arguments, *given], prog="hf-e2kd distill", usage=_USAGE
    )
    require_folder(Path(args.output_dir))
    several = comparison.compare or comparison.seeds > 1
    # That none is to be resumed is None among the arguments too.
    says = "resume_from_checkpoint" in _names(given)
    find_checkpoint(args, begins_anew=says or several or demo is not None)
    if export is not None:
        check_request(Path(f"student.{export}"), OPSET)
    # A demo takes nothing of the user's, and who resumes has agreed before.
    asks = attended and not (yes or dry_run or demo or args.resume_from_checkpoint)
    # What a later answer couldn't undo: a teacher's training, and a repository on the Hub.
    asks_first = asks and (args.push_to_hub or getattr(sources, "finetune_teacher", False))
    if several and not (args.load_best_model_at_end or "save_strategy" in _names(given)):
        # Students of a comparison overwrite each other's checkpoints; their own best one each loads before that.
        args.save_strategy = SaveStrategy.NO
    # Results alone go to standard output; what a trainer logs is printed there too.
    with redirect_stdout(sys.stderr):
        try:

            def check(distillation: Distillation) -> None:
                _check_label_column(distillation, sources)
                if export is not None:
                    _check_export(distillation, args)

            if dry_run or asks_first:
                plan = rehearse(experiment, sources, comparison, args, check)
                if asks_first:
                    ask(plan)
            if not dry_run:

                def prepare(distillation: Distillation, variants: Mapping[str, Mapping[str, Any]]) -> None:
                    check(distillation)
                    if asks_first:  # it has been shown
                        return
                    parts = estimate_students(distillation, args, variants)
                    shown = make_plan(distillation, parts, comparison, args)
                    if asks:
                        ask(shown)
                    elif args.process_index == 0:
                        echo(shown.as_text(), err=True)

                def write_file(student: Path) -> None:
                    if export is not None and args.process_index == 0:
                        file = _export_student(student, args, export)
                        echo(f"The student is exported to {file}", err=True)

                results = run_variants(
                    experiment, name, sources, comparison, args, before=prepare, before_upload=write_file
                )
        except KeyboardInterrupt:
            if args.process_index == 0:
                # Beneath the progress bar.
                echo(f"\n{interruption(args, comparison, started)}", err=True)
            raise typer.Exit(130) from None
    if args.process_index != 0:
        return
    if export is not None and not dry_run:
        results = {**results, "exported": str(Path(args.output_dir) / "student" / f"student.{export}")}
    if dry_run:
        echo(json.dumps(plan.as_dict()) if as_json else plan.as_text())
    else:
        echo(
            json.dumps({"output_dir": args.output_dir, **results}, ensure_ascii=False)
            if as_json
            else as_text(results, args.output_dir)
        )


# --- The command line ------------------------------------------------------------------------------------------------


def _read_sources(
    teacher: str, student: str, dataset: str, finetune_teacher: float | None, teacher_head: str, given: Sequence[str]
) -> tuple[ImageExperiment | TextExperiment, list[str]]:
    """Choose the experiment of the teacher's modality, and say the sources in its options."""
    fits, finetunes = teacher_head == "fit", finetune_teacher is not None
    stated = _stated(given, "teacher_revision", "student_revision", "dataset_config")
    revision = stated["teacher_revision"]
    if fits and finetunes:
        raise typer.BadParameter("--finetune-teacher trains the teacher with its head; leave one of both out.")
    if finetunes and not finetune_teacher:
        raise typer.BadParameter("--finetune-teacher 0 would leave the new classifier random. Give a number above 0.")
    if fits or finetunes:
        is_text = type(load_config(teacher, revision)) in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    else:
        is_text = reads_text(load_config(teacher, revision), teacher)
    experiment: ImageExperiment | TextExperiment = BERT_ON_REVIEWS if is_text else VIT_ON_DIGITS
    _check_options(experiment, given)
    _check_passed_over(is_text, student, finetune_teacher, set(_names(given)))
    _check_dataset(dataset, stated["dataset_config"])
    if is_text or student not in _PARTS_OF_THE_TEACHER:
        _check_student(teacher, is_text, student, stated["student_revision"])
    else:
        raise ValueError(f"The teacher '{teacher}' classifies images: name its student by Hub id or folder.")
    if not (finetunes or fits):
        # That it has weights and a processor, before anything is trained.
        load_classifier(teacher, revision)
    arguments = [*_ONE_STUDENT, "--teacher", teacher, "--dataset", dataset, "--teacher_head", teacher_head]
    arguments += ["--finetune_teacher", str(finetunes).lower()]
    if finetunes:
        arguments += ["--teacher_epochs", str(finetune_teacher)]
    return experiment, [*arguments, "--student_init" if is_text else "--student", student]


def _check_passed_over(is_text: bool, student: str, finetune_teacher: float | None, given: set[str]) -> None:
    """Refuse options that another one leaves without an effect."""
    if is_text and "student_init" in given:
        raise typer.BadParameter(
            "of texts --student says what becomes the student: random or teacher-layers, or a model with its weights. "
            "Leave --student_init out."
        )
    if "student_layers" in given and student not in _PARTS_OF_THE_TEACHER:
        raise typer.BadParameter(
            f"the student '{student}' has its own number of layers, and --student_layers is of --student random and "
            "teacher-layers. Leave it out."
        )
    if finetune_teacher is not None and "teacher_epochs" in given:
        raise typer.BadParameter(
            "--finetune-teacher EPOCHS says how long the teacher is trained; leave --teacher_epochs out."
        )
    lonely = [f"--{name}" for name in ("teacher_epochs", "teacher_learning_rate") if name in given]
    if lonely and finetune_teacher is None and "finetune_teacher" not in given:
        raise typer.BadParameter(
            f"{' and '.join(lonely)} of a teacher that isn't trained: add --finetune-teacher EPOCHS."
        )


def _stated(given: Sequence[str], *names: str) -> dict[str, str | None]:
    """Read options of the data class of the sources before it is known which one."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in names:
        parser.add_argument(f"--{name}", f"--{name.replace('_', '-')}")
    return vars(parser.parse_known_args(given)[0])


def _check_dataset(source: str, config: str | None) -> None:
    with loading_data(source, config):
        if not Path(source).exists():
            load_dataset_builder(source, config)


def _check_student(teacher: str, teacher_is_text: bool, student: str, revision: str | None) -> None:
    """Check the modality of a student that is more than the name of an architecture."""
    if student in _PARTS_OF_THE_TEACHER or is_architecture(student):
        if revision is not None:
            raise typer.BadParameter(
                f"--student_revision {revision} is of a student's weights on the Hub, and '{student}' names none. "
                "Leave it out."
            )
        return
    of_texts = "--student random and teacher-layers need no model beside the teacher."
    kind = type(load_config(student, revision, remedy=of_texts if teacher_is_text else FROM_SCRATCH))
    if kind in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING or kind in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        is_text = kind not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
        check_same_modality(teacher, teacher_is_text, student, is_text)


def _check_options(experiment: ImageExperiment | TextExperiment, given: Sequence[str]) -> None:
    """Refuse unknown options by name; what `argparse` says of them is lost among two hundred known ones."""
    known = {
        field.name for kind in (experiment.sources, Comparison, ExplanationDistillArguments) for field in fields(kind)
    }
    for name in _names(given):
        if name in known or name.removeprefix("no_") in known:
            continue
        close = difflib.get_close_matches(name, known, n=3)
        hint = f"Did you mean {' or '.join(f'--{each}' for each in close)}?" if close else "--all-options lists them."
        raise typer.BadParameter(f"there is no option --{name}. {hint}")


def _names(given: Sequence[str]) -> list[str]:
    """List the options in a command line by name, with underscores."""
    return [word.split("=")[0][2:].replace("-", "_") for word in given if word.startswith("--")]


def gather_columns(given: Sequence[str]) -> list[str]:
    """Put the columns of a repeated --text_column into one option, as argparse would keep the last alone."""
    others, columns, taken = list[str](), list[str](), False
    for argument in given:
        name, equals, value = argument.partition("=")
        if argument.startswith("--"):
            taken = name.replace("-", "_") == "__text_column"
            if not taken:
                others.append(argument)
            elif equals:
                columns.append(value)
        else:
            (columns if taken else others).append(argument)
    return [*others, "--text_column", *columns] if columns else others


def _check_label_column(distillation: Distillation, sources: Any) -> None:
    columns = distillation.train.column_names
    default = next(field.default for field in fields(sources) if field.name == "label_column")
    if sources.label_column != default and sources.label_column not in columns:
        raise ValueError(f"The data set has no column '{sources.label_column}'. Its columns: {', '.join(columns)}.")


def _gives_map(args: ExplanationDistillArguments) -> bool:
    """Tell if the explanation is the one that an exported file can hold: GradCAM at the architecture's own layer."""
    explainer = explainer_of(args)
    return type(explainer) is GradCAM and explainer.target_layer is None


def _check_export(distillation: Distillation, args: ExplanationDistillArguments) -> None:
    """Refuse a student whose map can't be exported."""
    if not _gives_map(args):
        return
    try:
        require_explainable(distillation.student)
    except ValueError as error:
        raise ValueError(
            f"{error} Without --export the student is trained all the same, and hf-e2kd export "
            f"{quote(str(Path(args.output_dir) / 'student'))} OUT.onnx then writes its logits."
        ) from error


def _export_student(folder: Path, args: ExplanationDistillArguments, suffix: str) -> Path:
    """Write the saved student beside itself as an ONNX file or a torch.export archive."""
    saved = load_classifier(str(folder))
    file = folder / f"student.{suffix}"
    return export_model(saved.model, file, explanation=_gives_map(args), processing_class=saved.processing_class)
