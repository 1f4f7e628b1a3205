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

    python recipes/papers/sst.py --dataset TREES --seeds 3
    python recipes/papers/sst.py --dataset TREES --teacher BASE --student_layers 3 --student_init teacher-layers \\
        --num_train_epochs 2 --use_cpu true
    python recipes/papers/sst.py --smoke
"""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _arms import METHODS, Arm, arm_arguments, parse_arm
from _common import parse_recipe, smoke_folder
from _generated import write_trees
from datasets import concatenate_datasets
from matplotlib.figure import Figure
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    set_seed,
)

from hf_e2kd.architectures.sharding import whole
from hf_e2kd.data import load_sst, train_tokenizer
from hf_e2kd.data.images import label_names
from hf_e2kd.data.text import TextCollator
from hf_e2kd.experiments.command_line import run_recipe
from hf_e2kd.experiments.distillation import (
    announce,
    explainer_of,
    replace_arguments,
    train_on_labels,
    use_one_thread,
)
from hf_e2kd.experiments.models import load_text_classifier, load_weights, shallow_copy_of
from hf_e2kd.experiments.results import collect_results, markdown_table, measured_metrics, write_results
from hf_e2kd.experiments.shared_runs import SETTLED, share_runs
from hf_e2kd.experiments.words import WordStudy
from hf_e2kd.fidelity.training import recorded_arguments
from hf_e2kd.trainer import ExplanationDistillTrainer
from hf_e2kd.trainer.arguments import ExplanationDistillArguments

STUDENTS = [name for name, method in METHODS.items() if not method.terms and method.taught_by != "self"]
"""Arms of texts."""

POOLED = "validation_and_test"
"""The data whose words are scored."""

METRICS = {
    "task_accuracy": "task accuracy",
    "word_accuracy": "word accuracy",
    "word_auroc": "word AUROC",
    "word_auprc": "word AUPRC",
    "explanation_similarity": "similarity",
}


@dataclass
class SstOptions:
    """Options of the data, the teacher and the students."""

    dataset: str | None = field(default=None, metadata={"help": "Folder of the trees: train.txt, dev.txt, test.txt."})
    teacher: str = field(
        default="google-bert/bert-base-uncased", metadata={"help": "Hub id or folder of the pretrained teacher."}
    )
    teacher_epochs: float = field(default=3.0, metadata={"help": "Epochs of its fine-tuning; 0: it is fine-tuned."})
    teacher_learning_rate: float = field(default=5e-5, metadata={"help": "Learning rate of that training."})
    student_layers: list[int] = field(
        default_factory=lambda: [3, 6], metadata={"help": "Numbers of layers of the students."}
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
    max_length: int = field(default=128, metadata={"help": "Longest input in tokens."})
    explained_samples: int | None = field(default=None, metadata={"help": "Explain so many sentences, not all."})
    pictures: int = field(default=4, metadata={"help": "Sentences in the picture, 0 for none."})
    seeds: int = field(default=1, metadata={"help": "Repeat with this many seeds, counted from --seed."})
    smoke: bool = field(default=False, metadata={"help": "Try everything out in seconds: a tiny model, few sentences."})

    def __post_init__(self) -> None:
        if self.dataset is None and not self.smoke:
            raise ValueError("Give --dataset, or --smoke to try the recipe out without any data.")
        for arm in self.arms:
            if arm.method.terms or arm.method.taught_by == "self" or {"teacher", "student"} & arm.settings.keys():
                raise ValueError(f"--students {arm.text} is of images. Of texts there are {', '.join(STUDENTS)}.")
        if self.seeds < 1 or min(self.student_layers, default=0) < 1:
            raise ValueError("--seeds and --student_layers are at least 1.")
        if self.pictures < 0:
            raise ValueError(f"--pictures can't be below 0, as {self.pictures} is.")

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
    if args.world_size > 1:
        raise ValueError("Start the recipe without a launcher, as often as there are processes: they share the runs.")
    output, start = Path(args.output_dir), time.monotonic()
    if options.smoke:
        use_one_thread()
        options.dataset, options.student_layers = str(write_trees(smoke_folder(args) / "trees")), [1, 2]
        options.teacher = str(_write_smoke_teacher(options.dataset, smoke_folder(args) / "bert"))
    study = SstStudy(options, args)
    seeds = range(args.seed, args.seed + options.seeds)
    found = study.run(seeds)
    runs = [{"seed": seed, **{name: figures[seed] for name, figures in found.items()}} for seed in seeds]
    results = collect_results(args, runs, start, recipe="sst", options=vars(options))
    write_results(results, output)
    table = markdown_table(results["summary"], METRICS)
    (output / "table.md").write_text(f"{table}\n", encoding="utf-8")
    draw_words(results["summary"][POOLED], output / "words.png")
    if options.pictures:
        study.picture(args.seed)
    print(f"\n{table}\n\nIn {output}: explanations-…, results.json, table.md, words.png")
    return results


class SstStudy:
    """A fine-tuned teacher and its students by layers, arm and seed, each in a folder of its own.

    Args:
        options: Options of the recipe.
        args: Training arguments.
    """

    def __init__(self, options: SstOptions, args: ExplanationDistillArguments):
        self.options, self.args = options, args
        self.folder = Path(args.output_dir) / "models"
        self.splits = load_sst(str(options.dataset))
        self.tokenizer = AutoTokenizer.from_pretrained(options.teacher)
        self.pooled = concatenate_datasets([self.splits["validation"], self.splits["test"]])
        self.collator = TextCollator(self.tokenizer, max_length=options.max_length)
        chosen = {name: value for name, value in vars(options).items() if name not in ("students", "seeds", "pictures")}
        training = recorded_arguments(args, [name for name in SETTLED if name != "seed"])
        stated = [{**chosen, "student_layers": None}, training]
        self.key = hashlib.sha256(json.dumps(stated, sort_keys=True, default=str).encode()).hexdigest()

    def run(self, seeds: range) -> dict[str, dict[int, dict[str, dict[str, float]]]]:
        """Train and measure what isn't there; give the figures by model, seed, split and metric."""
        first = seeds[0]
        taught = share_runs(self.folder, ["teacher"], self.key, lambda name: self._fine_tune(first))["teacher"]
        names = {
            f"{arm.file_name}-{layers}-{seed}": (arm, layers, seed)
            for seed in seeds
            for layers in self.options.student_layers
            for arm in self.options.arms
        }
        figures = share_runs(self.folder, list(names), self.key, lambda name: self._train(name, *names[name]))
        found: dict[str, Any] = {"teacher": dict.fromkeys(seeds, taught)}
        for name, (arm, layers, seed) in names.items():
            found.setdefault(f"{arm.label}, {layers} layers", {})[seed] = figures[name]
        return found

    def _fine_tune(self, seed: int) -> dict[str, Any]:
        names = label_names(self.splits["train"])
        assert names is not None
        set_seed(seed)
        model = load_text_classifier(self.options.teacher, names, len(names))
        if self.options.teacher_epochs:
            announce(self.args, "Fine-tuning the teacher")
            training = {
                "seed": seed,
                "num_train_epochs": self.options.teacher_epochs,
                "learning_rate": self.options.teacher_learning_rate,
            }
            args = replace_arguments(self.args, **training)
            model = train_on_labels(model, args, self.splits["train"], self.tokenizer, self.collator)
        return self._keep("teacher", model, model)

    def _train(self, name: str, arm: Arm, layers: int, seed: int) -> dict[str, Any]:
        announce(self.args, f"Seed {seed}: training the student {arm.label} of {layers} layers ({arm.method.about})")
        teacher = self.load("teacher")
        set_seed(seed)
        student = shallow_copy_of(teacher, layers, self.options.student_init)
        args = replace_arguments(self.args, seed=seed)
        taught_by = teacher if arm.method.taught_by else None
        args = replace_arguments(args, **arm_arguments(arm, self.options, args, student, taught_by))
        if taught_by is None:
            student = train_on_labels(student, args, self.splits["train"], self.tokenizer, self.collator)
        else:
            trainer = ExplanationDistillTrainer(
                student,
                args,
                train_dataset=self.splits["train"],
                processing_class=self.tokenizer,
                data_collator=self.collator,
                teacher_model=teacher,
            )
            trainer.train()
            student = whole(trainer.student)
        return self._keep(name, student, teacher)

    def _keep(self, name: str, model: nn.Module, teacher: nn.Module) -> dict[str, Any]:
        """Save a model, and measure its accuracy on each split and its words on both."""
        model.save_pretrained(self.folder / name)
        self.tokenizer.save_pretrained(self.folder / name)
        evaluation = ExplanationDistillTrainer(
            model,
            replace_arguments(self.args, task_weight=1.0, logits_weight=0.0, explanation_weight=0.0, terms=None),
            processing_class=self.tokenizer,
            data_collator=self.collator,
        )
        figures: dict[str, dict[str, float]] = {}
        for split, data in (("validation", self.splits["validation"]), ("test", self.splits["test"])):
            measured = evaluation.evaluate(data, metric_key_prefix=split)
            figures[split] = {"task_accuracy": measured_metrics(measured, f"{split}_")["accuracy"]}
        figures[POOLED] = self._words(teacher).measure(whole(evaluation.student), POOLED)
        return figures

    def _words(self, teacher: nn.Module) -> WordStudy:
        return WordStudy(
            teacher.to(self.args.device),
            self.tokenizer,
            self.tokenizer,
            {POOLED: self.pooled},
            explainer_of(self.args),
            samples=self.options.explained_samples or len(self.pooled),
            batch_size=self.args.per_device_eval_batch_size,
            max_length=self.options.max_length,
        )

    def load(self, name: str) -> Any:
        """Load a model that was trained here."""
        model = load_weights(AutoModelForSequenceClassification, str(self.folder / name))
        return model.to(self.args.device)

    def picture(self, seed: int) -> None:
        """Draw the words of some sentences as teacher and students read them, a picture a number of layers."""
        teacher = self.load("teacher")
        for layers in self.options.student_layers:
            students = {a.label: self.load(f"{a.file_name}-{layers}-{seed}") for a in self.options.arms}
            self._words(teacher).picture(students, self.options.pictures, self.folder)
            for suffix in ("html", "png"):
                drawn = self.folder / f"explanations.{suffix}"
                drawn.replace(Path(self.args.output_dir) / f"explanations-{layers}.{suffix}")


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

    def refuse_resume(args: ExplanationDistillArguments) -> None:
        if args.resume_from_checkpoint is not None:
            raise ValueError("finished models are found by themselves, and none is resumed in the middle.")

    return parse_recipe(SstOptions, "sst", description, refuse_resume, **training)


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
