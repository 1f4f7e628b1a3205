# /// script
# requires-python = ">=3.10"
# dependencies = ["hf-e2kd"]
# [tool.uv.sources]
# hf-e2kd = { path = "../..", editable = true }
# ///
"""Distil a BERT's sentiment into few layers: do its words' attributions agree with the treebank's word labels?

Han et al. (ICML 2023, Tables 5 and 13): four classes without the neutral one, α = .5, T = 4, 20 epochs, 12 layers to 3
and to 6. Integrated Gradients of all correctly classified sentences of the validation and test data together; a word's
attribution is right where its sign says whether the word's own label agrees with the sentence's. The teacher is any
pretrained model, which is fine-tuned first; a student starts from random weights, as `--student_init` says. Each model
is trained once and kept: an interrupted command goes on, and the same command started several times shares the work.

e2KD:explainer=NAME is trained by another explainer than the one that all students are measured by. With
--held_out_sentences students are compared with their teacher by explainers that they weren't trained on, and by how far
their explanation names what decides. Texts aren't augmented, so that a --stored teacher teaches what a live one does;
of Integrated Gradients it holds the quadrature's scores, where a live one is explained at the student's random points.

    python recipes/papers/sst.py --dataset TREES --seeds 3
    python recipes/papers/sst.py --dataset TREES --teacher MINILM --student_layers 3 6x192 --held_out_sentences 300 \\
        --students scratch KD e2KD e2KD:explainer=lrp e2KD:explainer=attention_gradient
    python recipes/papers/sst.py --dataset TREES --teacher BASE --student_layers 3 --student_init teacher-layers \\
        --num_train_epochs 2 --use_cpu true
    python recipes/papers/sst.py --smoke
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import transformers
from _arms import METHODS, Arm, parse_arm
from _common import parse_recipe, refuse_launcher, smoke_folder
from _evidence import paired_table
from _generated import write_trees
from _sst import FAITHFULNESS, HELD_OUT, POOLED, SAMPLING, SstStudy, parse_size, size_label
from matplotlib.figure import Figure
from transformers import BertConfig, BertForSequenceClassification, set_seed

from hf_e2kd.data import load_sst, train_tokenizer
from hf_e2kd.experiments.command_line import run_recipe
from hf_e2kd.experiments.distillation import use_one_thread
from hf_e2kd.experiments.results import collect_results, markdown_table, write_results
from hf_e2kd.trainer.arguments import ExplanationDistillArguments
from hf_e2kd.version import __version__

STUDENTS = [name for name, method in METHODS.items() if not method.terms and method.taught_by != "self"]
"""Arms of texts."""

METRICS = {
    "task_accuracy": "task accuracy",
    "agreement": "agreement",
    "word_accuracy": "word accuracy",
    "word_auroc": "word AUROC",
    "word_auprc": "word AUPRC",
    "explanation_similarity": "similarity",
    **HELD_OUT,
    **FAITHFULNESS,
}
"""Figures with their headings."""


@dataclass
class SstOptions:
    """Options of the data, the teacher and the students."""

    dataset: str | None = field(default=None, metadata={"help": "Folder of the trees: train.txt, dev.txt, test.txt."})
    teacher: str = field(
        default="google-bert/bert-base-uncased", metadata={"help": "Hub id or folder of the pretrained teacher."}
    )
    teacher_epochs: float = field(default=3.0, metadata={"help": "Epochs of its fine-tuning; 0: it is fine-tuned."})
    teacher_learning_rate: float = field(default=5e-5, metadata={"help": "Learning rate of that training."})
    student_layers: list[str] = field(
        default_factory=lambda: ["3", "6"],
        metadata={"help": "Numbers of layers of the students; 6x192 is 6 layers of width 192, not the teacher's."},
    )
    student_init: str = field(
        default="random", metadata={"help": "Their start.", "choices": ["random", "teacher-layers"]}
    )
    students: list[str] = field(
        default_factory=lambda: ["scratch", "KD"],
        metadata={"help": f"Of {', '.join(STUDENTS)}, any number, or NAME:setting=value,…"},
    )
    alpha: float = field(default=0.5, metadata={"help": "α where logits teach: (1 − α)·labels + α·T²·logits (Eq. 1)."})
    smoothing: float = field(default=0.1, metadata={"help": "Share of each label that LS spreads over all classes."})
    stored: bool = field(
        default=False, metadata={"help": "Compute the teacher's logits and scores once, in float32, not in each step."}
    )
    max_length: int = field(default=128, metadata={"help": "Longest input in tokens."})
    explained_samples: int | None = field(default=None, metadata={"help": "Explain so many sentences, not all."})
    held_out_sentences: int = field(
        default=0,
        metadata={
            "help": f"Compare with the teacher by {', '.join(HELD_OUT)} too, and measure faithfulness, on so many."
        },
    )
    pictures: int = field(default=4, metadata={"help": "Sentences in the picture, 0 for none."})
    seeds: int = field(default=1, metadata={"help": "Repeat with this many seeds, counted from --seed."})
    smoke: bool = field(default=False, metadata={"help": "Try everything out in seconds: a tiny model, few sentences."})

    def __post_init__(self) -> None:
        if self.dataset is None and not self.smoke:
            raise ValueError("Give --dataset, or --smoke to try the recipe out without any data.")
        for arm in self.arms:
            if arm.method.terms or arm.method.taught_by == "self" or {"teacher", "student"} & arm.settings.keys():
                raise ValueError(f"--students {arm.text} is of images. Of texts there are {', '.join(STUDENTS)}.")
        if self.seeds < 1 or not self.student_layers:
            raise ValueError("--seeds and --student_layers are at least 1.")
        for size in self.student_layers:
            parse_size(size)
        for name in ("pictures", "held_out_sentences"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name} can't be below 0, as {getattr(self, name)} is.")

    @property
    def arms(self) -> list[Arm]:
        """The students' trainings."""
        return [parse_arm(text) for text in self.students]


def run_sst(description: str) -> dict[str, Any]:
    """Train and measure, and write `results.json`, `table.md`, `words.png`, and `explanations-N.png` and `.html`.

    Args:
        description: Text of `--help`.

    Returns:
        The content of `results.json`.
    """
    options, args = _parse(description)
    output, start = Path(args.output_dir), time.monotonic()
    if options.smoke:
        use_one_thread()
        options.dataset, options.student_layers = str(write_trees(smoke_folder(args) / "trees")), ["1", "2x8"]
        options.teacher = str(_write_smoke_teacher(options.dataset, smoke_folder(args) / "bert"))
    study = SstStudy(options, args)
    seeds = range(args.seed, args.seed + options.seeds)
    found = study.run(seeds)
    runs = [{"seed": seed, **{name: figures[seed] for name, figures in found.items()}} for seed in seeds]
    stated = {"recipe": "sst", "digest": study.key[:16], "options": vars(options)}
    stated[SAMPLING] = str(args.train_sampling_strategy)
    versions = {"transformers": transformers.__version__, "hf_e2kd": __version__}
    results = collect_results(args, runs, start, **stated, **versions)
    write_results(results, output)
    table = markdown_table(results["summary"], METRICS)
    (output / "table.md").write_text(f"{table}\n", encoding="utf-8")
    draw_words(results["summary"][POOLED], output / "words.png")
    if options.pictures:
        study.picture(args.seed)
    print(f"\n{table}\n\nIn {output}: explanations-…, results.json, table.md, words.png")
    return results


def size_table(results: Mapping[str, Any], part: str) -> str:
    """Write the students of a size as a table: means, spreads, and a paired difference from KD's.

    Args:
        results: Content of `results.json`.
        part: The size, as 3 or 6x192: figures of the test sentences and of the words; with `held_out_` before it the
            similarities by all explainers, and faithfulness.
    """
    size, held_out = part.removeprefix("held_out_"), part.startswith("held_out_")
    columns = {
        **{"task_accuracy": "accuracy", "agreement": "agreement", "explanation_similarity": "similarity"},
        **{"word_accuracy": "word accuracy", "word_auroc": "word AUROC", "word_auprc": "word AUPRC"},
        "training_cpu_seconds": "training, CPU s",
    }
    if held_out:
        explainer = results["arguments"]["explainer"].replace("_", " ").title()
        columns = {"explanation_similarity": explainer, **HELD_OUT, **FAITHFULNESS}
    rows, teacher = [], results["runs"][0]["teacher"]
    for run in results["runs"]:
        for label, splits in run.items():
            if label != "seed" and label.endswith(f", {size_label(size)}"):
                figures = splits["held_out"] if held_out else {**splits["test"], **splits[POOLED]}
                student = label.removesuffix(f", {size_label(size)}")
                rows.append({"student": student, "seed": run["seed"], **figures})
    taught = {} if held_out else {**teacher["test"], **teacher[POOLED]}
    return paired_table(rows, columns, "KD", "occlusion" if held_out else "agreement", taught)


def draw_words(summary: Mapping[str, Mapping[str, Mapping[str, float]]], path: Path) -> Figure:
    """Draw accuracy, AUROC and AUPRC of the words as groups of bars, with the seeds' spread (Tables 5 and 13)."""
    shown = [name for name in METRICS if name.startswith("word") and all(name in found for found in summary.values())]
    figure = Figure(figsize=(7, 3), layout="constrained")
    axis = figure.subplots()
    width = 0.8 / len(summary)
    for number, (label, found) in enumerate(summary.items()):
        places = [place + width * (number - (len(summary) - 1) / 2) for place in range(len(shown))]
        means, spreads = ([found[name][part] for name in shown] for part in ("mean", "std"))
        axis.bar(places, means, width, yerr=spreads if any(spreads) else None, label=label)
    axis.set_xticks(range(len(shown)), [METRICS[name] for name in shown])
    axis.set_ylim(0, 1)
    figure.legend(fontsize=8, loc="outside right upper")
    figure.savefig(path, dpi=150)
    return figure


def _parse(description: str) -> tuple[SstOptions, ExplanationDistillArguments]:
    training = {"num_train_epochs": 20, "learning_rate": 1e-4, "warmup_steps": 0.1, "weight_decay": 0.01}
    training |= {"per_device_train_batch_size": 32, "temperature": 4.0, "evaluate_explanations": False}
    training |= {"explainer": "integrated_gradients", "explanation_fraction": 0.4}

    def refuse(args: ExplanationDistillArguments) -> None:
        refuse_launcher(args)
        if args.resume_from_checkpoint is not None:
            raise ValueError("finished models are found by themselves, and none is resumed in the middle.")

    return parse_recipe(SstOptions, "sst", description, refuse, **training)


def _write_smoke_teacher(trees: str, folder: Path) -> Path:
    """Write a tiny BERT with random weights and a tokenizer of the trees' words."""
    texts = load_sst(trees)["train"]["text"]
    tokenizer = train_tokenizer(texts, 60)
    sizes = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}
    set_seed(0)
    BertForSequenceClassification(
        BertConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, num_labels=4, **sizes)
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


if __name__ == "__main__":
    run_recipe(run_sst, __doc__)
