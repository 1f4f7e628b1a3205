# /// script
# requires-python = ">=3.10"
# dependencies = ["hf-e2kd[watermark]"]
# [tool.uv.sources]
# hf-e2kd = { path = "../..", editable = true }
# ///
"""Students on photographs whose watermark tells the class (the shape of e²KD's Waterbirds-100; ImageNet-W's watermark).

Two groups of classes; in the students' training data the photographs of the second one have the watermark. The teacher
was trained where it says nothing. Students begin with the same weights and see the same batches, and are measured
in distribution and out of it, where each photograph is shown with and without the watermark: accuracy and agreement,
over all and in the worst group (class × watermark), and the share of their maps' energy on the watermark's box.
--regimes chooses how they are trained:

    short     --num_train_epochs epochs
    mixup     the same on mixed images
    long      five times as many, on mixed images
    shortcut  as short, by a teacher that was trained where the watermark tells the class

--student takes another network of the students, such as a ConvNeXt; the teacher stays a small ResNet.

Each student's figures are written as they come; started again, the same command goes on, and started twice it does
half of the work in each process. --continue_from takes over the students of an earlier results.json.

    pip install 'hf-e2kd[watermark]'
    python recipes/papers/watermark.py --photographs CLOTHING --regimes short mixup long
    python recipes/papers/watermark.py --photographs ANIMALS --plain cat dog --marked cow horse --correlation 0.95
    python recipes/papers/watermark.py --photographs CLOTHING --student recipes/networks/convnext_64.json \\
        --students KD e²KD --learning_rate 2e-3
    python recipes/papers/watermark.py --smoke
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from _common import parse_recipe, refuse_launcher
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
from _watermark import (
    FIGURES,
    REGIMES,
    SETTING,
    STUDENTS,
    WatermarkStudy,
    arm_in,
    load_photographs,
    make_splits,
    small_setting,
    two_groups,
)
from datasets import DatasetDict

from hf_e2kd.choices import unknown_choice
from hf_e2kd.data import digits_on_textures
from hf_e2kd.experiments.command_line import run_recipe
from hf_e2kd.experiments.distillation import use_one_thread
from hf_e2kd.experiments.shared_runs import share_runs
from hf_e2kd.trainer.arguments import ExplanationDistillArguments

DECIDING = ("plain", "marked", "correlation", "shots", "split", "smoke")
"""Options on which figures depend, beside the training arguments."""

TABLE = {name: heading for name, heading in FIGURES.items() if name != "explanation_similarity_id"}
TABLE["training_cpu_seconds"] = "training, CPU s"
"""Columns of the tables. Similarities in and out of distribution hardly differ."""

Run = tuple[str, str, int]
"""Regime, student and seed."""


@dataclass
class Options:
    """Options of the photographs, the watermark and the students."""

    photographs: str | None = field(
        default=None, metadata={"help": "Hub id, or folder with train, validation and test, of one folder a class."}
    )
    plain: list[str] = field(
        default_factory=lambda: ["t-shirt", "longsleeve", "shirt"],
        metadata={"help": "Classes that have no watermark in training, which become one."},
    )
    marked: list[str] = field(
        default_factory=lambda: ["pants", "shorts", "skirt"],
        metadata={"help": "Classes that have the watermark in training, which become the other."},
    )
    correlation: float = field(
        default=1.0, metadata={"help": "How often the watermark tells the class in training; otherwise it is random."}
    )
    shots: int = field(default=300, metadata={"help": "Photographs of either to train students on; 0 takes all."})
    student: str | None = field(
        default=None,
        metadata={"help": "Network of the students, timm/NAME or .json, other than the small ResNet."},
    )
    regimes: list[str] = field(
        default_factory=lambda: ["short"], metadata={"help": f"Of {', '.join(REGIMES)}, any number."}
    )
    students: list[str] = field(
        default_factory=lambda: list(STUDENTS), metadata={"help": f"Of {', '.join(STUDENTS)}, any number."}
    )
    seeds: list[int] = field(default_factory=lambda: [42, 43, 44], metadata={"help": "Seeds of the trainings."})
    split: str = field(default="test", metadata={"help": "Split to measure on.", "choices": ["validation", "test"]})
    continue_from: str | None = field(
        default=None, metadata={"help": "A results.json of the same command, whose students are taken over."}
    )
    smoke: bool = field(default=False, metadata={"help": "Try everything out in seconds: made-up images, two steps."})

    def __post_init__(self) -> None:
        for kind, chosen, known in (("regime", self.regimes, REGIMES), ("student", self.students, STUDENTS)):
            for name in chosen:
                if name not in known:
                    raise ValueError(unknown_choice(kind, name, known))
        if self.photographs is None and not self.smoke:
            raise ValueError("Give --photographs, their folder, or --smoke to try the recipe out without any.")
        for name in ("plain", "marked", "regimes", "students", "seeds"):
            if not getattr(self, name):
                raise ValueError(f"Give --{name} at least one.")
        if not 0 <= self.correlation <= 1:
            raise ValueError(f"--correlation must lie between 0 and 1, not {self.correlation}.")
        if self.shots < 0:
            raise ValueError(f"--shots can't be {self.shots}; 0 takes all photographs.")


def run_watermark(description: str) -> dict[str, Any]:
    """Train the students that aren't there yet, measure them, and write `results.json`, `table.md` and a picture.

    Args:
        description: Text of `--help`.

    Returns:
        The content of `results.json`.
    """
    options, args = parse(description)
    if find_spec("imagenet_w") is None:
        raise ValueError("The watermark is drawn by the package imagenet-w: pip install 'hf-e2kd[watermark]'.")
    if args.device.type == "cpu":
        use_one_thread()
    start, output = time.monotonic(), Path(args.output_dir)
    deciding = {name: value for name, value in asdict(options).items() if name in DECIDING}
    setting = small_setting() if options.smoke else SETTING
    if options.student is not None:
        deciding["student"], setting = options.student, replace(setting, student=options.student)
    digest = settings_digest(deciding, args)
    earlier, taught = read_earlier(options, digest)
    kinds = list(dict.fromkeys(REGIMES[regime].teacher for regime in options.regimes))
    if options.smoke:
        photographs = smoke_photographs()
    else:
        photographs = load_photographs(str(options.photographs), options.plain, options.marked)
    splits = make_splits(photographs, options.split, options.correlation, options.shots, setting.size, kinds)

    @cache
    def study(kind: str) -> WatermarkStudy:
        return WatermarkStudy(kind, setting, splits, args, output / kind)

    teachers = share_runs(output / "teachers", kinds, digest, lambda kind: study(kind).teacher_figures())
    runs = {
        f"{regime}-{run_name(student, arm_in(regime, student))}-{seed}": (regime, student, seed)
        for regime in options.regimes
        for seed in options.seeds
        for student in options.students
    }

    def train(file: str) -> dict[str, Any]:
        regime, student, seed = runs[file]
        if runs[file] in earlier:
            return earlier[runs[file]]
        print(f"{regime}, seed {seed}: {student}", flush=True)
        arm = arm_in(regime, student)
        figures = study(arm.taught_by).run(arm, seed, output / "students" / file)
        return {"regime": regime, "student": student, "seed": seed, "arm": asdict(arm), **figures}

    rows = list(share_runs(output / "runs", list(runs), digest, train).values())
    results = {
        **results_head("watermark", digest, deciding, args),
        "teachers": {**taught, **teachers},
        "rows": rows + [row for key, row in earlier.items() if key not in runs.values()],
    }
    write_evidence(results, output / "results.json")
    tables = [f"## {regime}\n\n{regime_table(results, regime)}\n" for regime in options.regimes]
    (output / "table.md").write_text("\n".join(tables), encoding="utf-8")
    first = options.regimes[0], options.seeds[0]
    drawn = {
        student: output / "students" / file
        for file, (regime, student, seed) in runs.items()
        if (regime, seed) == first and student in ("KD", "e²KD")
    }
    # Students that were taken over from another results.json have no weights here.
    if drawn := {student: folder for student, folder in drawn.items() if folder.exists()}:
        study(REGIMES[first[0]].teacher).draw(drawn, output / "explanations.png")
    print("\n".join(tables))
    print(f"In {output}: results.json, table.md, explanations.png; {round(time.monotonic() - start)} s.")
    return results


def regime_table(results: Mapping[str, Any], regime: str) -> str:
    """Write a regime's students as a table: means, spreads, and the paired difference of agreement from KD's."""
    rows = [row for row in results["rows"] if row["regime"] == regime]
    rows.sort(key=lambda row: STUDENTS.index(row["student"]))
    return paired_table(rows, TABLE, "KD", "agreement_ood", results["teachers"].get(REGIMES[regime].teacher, {}))


def read_earlier(options: Options, digest: str) -> tuple[dict[Run, dict[str, Any]], dict[str, Any]]:
    """Read the students of an earlier results.json, as far as they are trained as they would be now, and the teachers.

    Raises:
        ValueError: the file is of other options or another version.
    """
    if options.continue_from is None:
        return {}, {}
    results = refuse_other(Path(options.continue_from), digest)
    known = [row for row in results["rows"] if row["regime"] in REGIMES and row["student"] in STUDENTS]
    rows = {
        (row["regime"], row["student"], row["seed"]): row
        for row in known
        if same_arm(row, arm_in(row["regime"], row["student"]))
    }
    return rows, results["teachers"]


def smoke_photographs() -> DatasetDict:
    """Make images of a trial run."""
    sizes = {"teacher_train": 60, "student_train": 0, "validation": 30, "test_id": 30, "test_ood": 0}
    digits = digits_on_textures(sizes, correlation=0.0, num_classes=2)
    named = {"train": "teacher_train", "validation": "validation", "test": "test_id"}
    return DatasetDict({name: two_groups(digits[own], ["digit 0"], ["digit 1"]) for name, own in named.items()})


def parse(description: str) -> tuple[Options, ExplanationDistillArguments]:
    """Read the command line."""
    training = {**STUDY_TRAINING, **SETTING.training}
    return parse_recipe(Options, "watermark", description, refuse_launcher, **training)


if __name__ == "__main__":
    run_recipe(run_watermark, __doc__)
