# /// script
# requires-python = ">=3.10"
# dependencies = ["hf-e2kd"]
# [tool.uv.sources]
# hf-e2kd = { path = "../..", editable = true }
# ///
"""Students on few images a class (e²KD, Tables 1 and 2): all methods, and what the term's effect depends on.

One teacher, students that begin with the same weights and see the same batches, the figures of each on all test
images. --studies chooses what is compared:

    methods      labels alone, AT, CAT-KD, ReviewKD, CRD, KD, KD + AT, e²KD, and e²KD with CAT-KD, CRD or ReviewKD
    frozen       the teacher's stored outputs against the live teacher
    length       KD and e²KD by the number of epochs, from a sixth to twice as many
    temperature  KD and e²KD by temperature
    loss         e²KD by the loss between maps and the grid of their comparison
    weight       e²KD by λ

On CIFAR-10 the teacher is trained first, on all other training images; on Tiny ImageNet it is an ImageNet classifier.
Each student's figures are written as they come; started again, the same command goes on, and started twice it does
half of the work in each process. --continue_from takes over the students of an earlier results.json.

--student takes another network, such as a ViT of a convolutional teacher. With --train_images students learn on random
crops of images that have nothing to do with the teacher's task, from the teacher alone (e²KD's data-free distillation).

    python recipes/papers/limited_data.py --data cifar10 --folder CIFAR --studies methods length
    python recipes/papers/limited_data.py --data tiny_imagenet --folder TINY --teacher outputs/efficientnet-lite0
    python recipes/papers/limited_data.py --data tiny_imagenet --folder TINY --teacher outputs/efficientnet-lite0 \\
        --train_images COCO/images CLOTHING --students KD e²KD --num_train_epochs 100
    python recipes/papers/limited_data.py --smoke
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from _common import chosen_first, parse_recipe, refuse_launcher, unlabelled_images
from _evidence import (
    STUDY_TRAINING,
    paired_table,
    refuse_other,
    results_head,
    run_name,
    same_arm,
    settings_digest,
    write_evidence,
)
from _limited_arms import ARMS, STUDIES, Arm, arms_of
from _limited_data import FAITHFULNESS, FIGURES, HELD_OUT, SETTINGS, Study, divide, load_splits
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from hf_e2kd.choices import unknown_choice
from hf_e2kd.data import digits_on_textures
from hf_e2kd.experiments.command_line import run_recipe
from hf_e2kd.experiments.distillation import use_one_thread
from hf_e2kd.experiments.shared_runs import share_runs
from hf_e2kd.store.key import weights_digest
from hf_e2kd.trainer.arguments import ExplanationDistillArguments

DECIDING = ("data", "shots", "split", "smoke")
"""Options on which figures depend, beside the training arguments."""

TABLE = {**FIGURES, "training_cpu_seconds": "training, CPU s"}
"""Columns of a study's table."""

PARTS = {
    "front": (["labels", "KD", "e²KD", "ReviewKD", "ReviewKD + e²KD"], FIGURES),
    "front_frozen": (["KD, frozen", "e²KD, frozen"], FIGURES),
    "stored": (["KD, frozen", "e²KD, frozen"], TABLE),
    "beside_live": (["labels", "AT", "CAT-KD", "KD", "e²KD", "CAT-KD + e²KD", "KD, frozen", "e²KD, frozen"], TABLE),
    "held_out": (
        ["labels", "KD", "e²KD", "KD, frozen", "e²KD, frozen"],
        {"explanation_similarity": "GradCAM", **HELD_OUT, **FAITHFULNESS},
    ),
}
"""Students and columns of further tables: the front page's, frozen teachers', and that of what none was trained on."""


@dataclass
class Options:
    """Options of the data, the teacher and the students."""

    data: str = field(default="cifar10", metadata={"help": "Kind of the data.", "choices": list(SETTINGS)})
    folder: str | None = field(default=None, metadata={"help": "Folder of the data's files."})
    teacher: str | None = field(
        default=None, metadata={"help": "Hub id or folder of the teacher; on CIFAR-10 one is trained without."}
    )
    shots: int = field(default=50, metadata={"help": "Images a class to train on."})
    student: str | None = field(
        default=None, metadata={"help": "Network of the students, timm/NAME or .json, in the place of the data's own."}
    )
    train_images: list[str] = field(
        default_factory=list, metadata={"help": "Images to train on in the place of the data's: folders or Hub ids."}
    )
    studies: list[str] = field(
        default_factory=lambda: ["methods"], metadata={"help": f"Of {', '.join(STUDIES)}, any number."}
    )
    students: list[str] = field(default_factory=list, metadata={"help": "Only these of the studies' students."})
    seeds: list[int] = field(default_factory=lambda: [42, 43, 44], metadata={"help": "Seeds of the trainings."})
    split: str = field(default="test", metadata={"help": "Split to measure on.", "choices": ["validation", "test"]})
    held_out_images: int = field(
        default=0,
        metadata={"help": "Measure by Integrated Gradients, occlusion, deletion and insertion too, on so many images."},
    )
    held_out_students: list[str] = field(
        default_factory=lambda: ["labels", "KD", "e²KD"], metadata={"help": "Students that are measured by these."}
    )
    continue_from: str | None = field(
        default=None, metadata={"help": "A results.json of the same command, whose students are taken over."}
    )
    smoke: bool = field(default=False, metadata={"help": "Try everything out in seconds: made-up images, two steps."})

    def __post_init__(self) -> None:
        named = (("study", self.studies, STUDIES), ("student", [*self.students, *self.held_out_students], ARMS))
        for kind, chosen, known in named:
            for name in chosen:
                if name not in known:
                    raise ValueError(unknown_choice(kind, name, known))
        if self.folder is None and not self.smoke:
            raise ValueError("Give --folder, where the data's files lie, or --smoke to try the recipe out without any.")
        if self.teacher is None and SETTINGS[self.data].teacher is None and not self.smoke:
            raise ValueError(f"Give --teacher: none is trained on {self.data}.")
        if not self.arms or not self.seeds:
            raise ValueError("Give --studies whose --students there are, and --seeds.")
        labelled = [name for name, arm in self.arms.items() if arm.arguments.get("task_weight")]
        if self.train_images and labelled:
            raise ValueError(
                f"'{labelled[0]}' learns from labels, which --train_images don't have. Choose --students among "
                f"{', '.join(name for name in self.arms if name not in labelled)}."
            )
        for name in ("shots", "held_out_images"):
            if getattr(self, name) < (name == "shots"):
                raise ValueError(f"--{name} can't be {getattr(self, name)}.")

    @property
    def arms(self) -> dict[str, Arm]:
        """The students' trainings by name."""
        chosen = arms_of(self.studies)
        return {name: arm for name, arm in chosen.items() if not self.students or name in self.students}


def run_limited_data(description: str) -> dict[str, Any]:
    """Train the students that aren't there yet, measure them, and write `results.json` and `table.md`.

    Args:
        description: Text of `--help`.

    Returns:
        The content of `results.json`.
    """
    options, args = parse(description)
    if "length" in options.studies and args.max_steps > 0 and not options.smoke:
        raise ValueError(
            f"--studies length trains for parts and multiples of --num_train_epochs, and --max_steps {args.max_steps} "
            "would make all trainings as long. Leave --max_steps out."
        )
    if args.device.type == "cpu":
        use_one_thread()
    deciding = {name: value for name, value in asdict(options).items() if name in DECIDING}
    if options.student is not None:
        deciding["student"] = options.student
    if options.train_images:  # wherever these folders lie
        deciding["train_images"] = ["/".join(Path(each).parts[-2:]) for each in options.train_images]
    output, digest = Path(args.output_dir), settings_digest(deciding, args)
    setting = SETTINGS["cifar10" if options.smoke else options.data]
    splits = smoke_splits() if options.smoke else load_splits(options.data, str(options.folder), options.shots)
    if options.student is not None:
        setting = replace(setting, student=options.student)
    if options.train_images:
        splits["train"] = unlabelled_images(options.train_images)
    crops, start = bool(options.train_images), time.monotonic()
    study = Study(setting, splits, args, output, options.teacher, options.split, crops)
    # Another teacher's students would be mixed with this one's, wherever its folder lies.
    taught_by = None if options.teacher is None else weights_digest(study.teacher)
    earlier = read_earlier(options, digest, taught_by)
    key = " ".join(filter(None, (digest, taught_by)))
    teacher = share_runs(output / "runs", ["teacher"], key, lambda _: study.teacher_figures())["teacher"]
    rows = train_students(study, options, digest, earlier)
    known = {(row["student"], row["seed"]) for row in rows}
    results = {
        **results_head("limited_data", digest, deciding, args),
        "taught_by": taught_by,
        "teacher": teacher,
        "rows": rows + [row for key, row in earlier.items() if key not in known],
    }
    write_evidence(results, output / "results.json")
    shown = [*options.studies, *(["held_out"] if options.held_out_images else [])]
    tables = [f"## {name}\n\n{study_table(results, name)}\n" for name in shown]
    (output / "table.md").write_text("\n".join(tables), encoding="utf-8")
    if "length" in options.studies:
        draw_length(results["rows"], args.num_train_epochs, output / "length.png")
    print("\n".join(tables), f"In {output}: results.json, table.md; {round(time.monotonic() - start)} s.", sep="\n")
    return results


def train_students(
    study: Study, options: Options, digest: str, earlier: Mapping[tuple[str, int], dict[str, Any]]
) -> list[dict[str, Any]]:
    """Train and measure what isn't there yet.

    Args:
        study: The trainings.
        options: Options of the command line.
        digest: Digest of the settings.
        earlier: Rows of earlier students, which are taken over, by name and seed.

    Returns:
        Each student's name, seed, arguments and figures.
    """
    runs = {f"{run_name(name, ARMS[name])}-{seed}": (name, seed) for seed in options.seeds for name in options.arms}
    students, measured = study.folder / "students", study.folder / f"held_out-{options.held_out_images}"
    gone = [
        file
        for file, (name, seed) in runs.items()
        if options.held_out_images and name in options.held_out_students
        if (name, seed) in earlier and "held_out_images" not in earlier[name, seed]
        if not (students / file).is_dir() and not (measured / f"{file}.json").exists()
    ]
    if gone:
        raise ValueError(
            f"--held_out_images measures students' weights, and '{students}' lacks {', '.join(gone)}: --continue_from "
            "takes over figures alone. Copy these folders there, choose --held_out_students whose folders are there, "
            "or leave --continue_from out to train them anew."
        )

    def train(file: str) -> dict[str, Any]:
        name, seed = runs[file]
        if (name, seed) in earlier:
            return earlier[name, seed]
        print(f"Seed {seed}: {name}", flush=True)
        figures = study.run(ARMS[name], seed, students / file)
        return {"student": name, "seed": seed, "arm": asdict(ARMS[name]), **figures}

    def measure(file: str) -> dict[str, Any]:
        print("Seed {1}: {0}, by held-out explainers".format(*runs[file]), flush=True)
        figures = study.further(students / file, options.held_out_images)
        return {**figures, "held_out_images": options.held_out_images}

    found = share_runs(study.folder / "runs", list(runs), digest, train)
    # What was measured of a student beside its training stands in the earlier file alone.
    rows = {file: {**earlier.get(runs[file], {}), **row} for file, row in found.items()}
    if options.held_out_images:
        wanted = [file for file, row in rows.items() if row["student"] in options.held_out_students]
        wanted = [file for file in wanted if "held_out_images" not in rows[file]]
        for file, figures in share_runs(measured, wanted, digest, measure).items():
            rows[file] |= figures
    return list(rows.values())


def draw_length(rows: Sequence[Mapping[str, Any]], epochs: float, path: Path) -> Figure:
    """Draw agreement by the length of the training, means and standard deviations over seeds, and save it."""
    figure = Figure(figsize=(5.6, 3.4), layout="constrained")
    axis = figure.subplots()
    for name in ("KD", "e²KD"):
        lengths = {arm.epochs: student for student, arm in STUDIES["length"].items() if student.split(",")[0] == name}
        values = {
            length * epochs: [row["agreement"] for row in rows if row["student"] == student]
            for length, student in sorted(lengths.items())
        }
        values = {length: found for length, found in values.items() if found}
        spreads = [np.std(found, ddof=1) if len(found) > 1 else 0.0 for found in values.values()]
        means = [np.mean(found) for found in values.values()]
        axis.errorbar(list(values), means, spreads, label=name, marker="o", markersize=4, capsize=3)
    axis.set(xlabel="epochs of the training", ylabel="agreement with the teacher", xscale="log")
    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xticks([arm.epochs * epochs for arm in STUDIES["length"].values()])
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(path, dpi=150)
    return figure


def study_table(results: Mapping[str, Any], study: str) -> str:
    """Write a study's students as a table: means, spreads, and the paired difference from KD's.

    Args:
        results: Content of `results.json`.
        study: Name of the study, or one of `PARTS`.
    """
    names, columns = PARTS[study] if study in PARTS else (list(STUDIES[study]), TABLE)
    rows = [row for row in results["rows"] if row["student"] in names]
    if study == "held_out":  # of which the means have to be of the same students
        rows = [row for row in rows if "held_out_images" in row]
    rows.sort(key=lambda row: names.index(row["student"]))
    baseline = next((name for name in ("KD", "KD, frozen") if name in {row["student"] for row in rows}), "e²KD")
    compared = "occlusion" if study == "held_out" else "agreement"
    return paired_table(rows, columns, baseline, compared, results["teacher"])


def read_earlier(options: Options, digest: str, taught_by: str | None) -> dict[tuple[str, int], dict[str, Any]]:
    """Read the students of an earlier results.json, as far as they are trained as they would be now.

    Args:
        options: Options of the command line.
        digest: Digest of the settings.
        taught_by: Digest of the weights of a teacher that is given; None of one that is trained here.

    Raises:
        ValueError: the file is of other options, another version or another teacher.
    """
    if options.continue_from is None:
        return {}
    path = Path(options.continue_from)
    results = refuse_other(path, digest)
    if results.get("taught_by", taught_by) != taught_by:  # which older files don't state
        raise ValueError(f"'{path}' holds students of another teacher. Give that one, or leave the file out.")
    rows = (row for row in results["rows"] if row["student"] in ARMS)
    return {(row["student"], row["seed"]): row for row in rows if same_arm(row, ARMS[row["student"]])}


def smoke_splits() -> Any:
    """Make images of a trial run."""
    sizes = {"teacher_train": 200, "student_train": 0, "validation": 0, "test_id": 20, "test_ood": 0}
    digits = digits_on_textures(sizes, correlation=0.0)
    return divide(digits["teacher_train"], digits["test_id"], 3, 2)


def parse(description: str) -> tuple[Options, ExplanationDistillArguments]:
    """Read the command line."""
    data = chosen_first(data="cifar10").data  # an unknown one is refused where the whole line is read
    training = {**STUDY_TRAINING, **(SETTINGS[data].training if data in SETTINGS else {})}
    return parse_recipe(Options, "limited_data", description, refuse_launcher, **training)


if __name__ == "__main__":
    run_recipe(run_limited_data, __doc__)
