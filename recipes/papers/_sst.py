"""A classifier of the Stanford Sentiment Treebank and its students: trainings, words, further explainers."""

import copy
import hashlib
import json
import time
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from _arms import Arm, arm_arguments
from _limited_data import further_figures
from datasets import concatenate_datasets
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed

from hf_e2kd.architectures.sharding import whole
from hf_e2kd.data import load_sst
from hf_e2kd.data.images import label_names
from hf_e2kd.data.text import TextCollator
from hf_e2kd.experiments.distillation import announce, explainer_of, replace_arguments, train_on_labels
from hf_e2kd.experiments.models import load_text_classifier, load_weights, shallow_copy_of
from hf_e2kd.experiments.results import measured_metrics
from hf_e2kd.experiments.shared_runs import SETTLED, share_runs
from hf_e2kd.experiments.words import WordStudy
from hf_e2kd.explainers import build_explainer
from hf_e2kd.fidelity import measure_fidelity
from hf_e2kd.fidelity.training import recorded_arguments
from hf_e2kd.store import StoredReference, StoredTextCollator
from hf_e2kd.trainer import ExplanationDistillTrainer
from hf_e2kd.trainer.arguments import ExplanationDistillArguments
from hf_e2kd.version import __version__

POOLED = "validation_and_test"
"""The data whose words are scored."""

HELD_OUT = {"attention_gradient": "attention gradient", "lrp": "LRP", "occlusion": "occlusion"}
"""Explainers beside that of the command, with the headings of their similarities."""

FAITHFULNESS = {"comprehensiveness": "comprehensiveness", "sufficiency": "sufficiency ↓"}
"""Figures of how far the student's explanation names what decides, with their headings."""

SAMPLING = "train_sampling_strategy"
"""The argument by which sentences of one length share a batch, which saves half of the padding's cost."""

NOT_OF_TRAINING = ("student_layers", "students", "seeds", "pictures", "held_out_sentences")
"""Options without an influence on a model that is named by its size, arm and seed."""


def parse_size(size: str) -> tuple[int, int | None]:
    """Read a student's number of layers and its width, None for the teacher's.

    Example:
        >>> parse_size("6x192"), parse_size("3")
        ((6, 192), (3, None))
    """
    layers, by, width = size.partition("x")
    if not layers.isdecimal() or not int(layers) or (by and not (width.isdecimal() and int(width))):
        raise ValueError(f"--student_layers are numbers of layers, or LAYERSxWIDTH as 6x192, not '{size}'.")
    return int(layers), int(width) if by else None


def size_label(size: str) -> str:
    """Name a size in tables.

    Example:
        >>> size_label("6x192")
        '6 layers, 192 wide'
    """
    layers, width = parse_size(size)
    return f"{layers} layers" if width is None else f"{layers} layers, {width} wide"


def make_student(teacher: nn.Module, size: str, init: str) -> nn.Module:
    """Make a student of the teacher's architecture with fewer layers, or with other widths.

    Args:
        teacher: Classifier of texts.
        size: Number of layers, or LAYERSxWIDTH; heads keep their width, and the feed-forward layers their proportion.
        init: `"random"`, or, at the teacher's width, `"teacher-layers"`.
    """
    layers, width = parse_size(size)
    if width is None:
        return shallow_copy_of(teacher, layers, init)
    config = copy.deepcopy(teacher.config)
    head = config.hidden_size // config.num_attention_heads
    if width % head or init != "random":
        raise ValueError(
            f"A student of width {width} needs --student_init random and whole heads, which are {head} wide: give a "
            f"multiple of {head}."
        )
    config.intermediate_size = config.intermediate_size * width // config.hidden_size
    config.hidden_size, config.num_attention_heads, config.num_hidden_layers = width, width // head, layers
    return AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)


class SstStudy:
    """A fine-tuned teacher and its students by layers, arm and seed, each in a folder of its own.

    Args:
        options: Options of the recipe.
        args: Training arguments.
    """

    def __init__(self, options: Any, args: ExplanationDistillArguments):
        self.options, self.args = options, args
        self.folder = Path(args.output_dir) / "models"
        self.splits = load_sst(str(options.dataset))
        self.tokenizer = AutoTokenizer.from_pretrained(options.teacher)
        self.pooled = concatenate_datasets([self.splits["validation"], self.splits["test"]])
        self.collator = TextCollator(self.tokenizer, max_length=options.max_length)
        chosen = {name: value for name, value in vars(options).items() if name not in NOT_OF_TRAINING}
        training = recorded_arguments(args, [*(name for name in SETTLED if name != "seed"), SAMPLING])
        stated = [chosen, training, __version__]
        self.key = hashlib.sha256(json.dumps(stated, sort_keys=True, default=str).encode()).hexdigest()

    def run(self, seeds: range) -> dict[str, dict[int, dict[str, dict[str, float]]]]:
        """Train and measure what isn't there; give the figures by model, seed, split and metric."""
        first = seeds[0]
        taught = share_runs(self.folder, ["teacher"], self.key, lambda name: self._fine_tune(first))["teacher"]
        names = {
            f"{arm.file_name}-{size}-{seed}": (arm, size, seed)
            for seed in seeds
            for size in self.options.student_layers
            for arm in self.options.arms
        }
        figures = share_runs(self.folder, list(names), self.key, lambda name: self._train(name, *names[name]))
        if count := self.options.held_out_sentences:
            folder = self.folder.parent / f"held_out-{count}"
            for name, further in share_runs(folder, list(names), self.key, self._further).items():
                figures[name]["held_out"] = further
        found: dict[str, Any] = {"teacher": dict.fromkeys(seeds, taught)}
        for name, (arm, size, seed) in names.items():
            found.setdefault(f"{arm.label}, {size_label(size)}", {})[seed] = figures[name]
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
        self._save("teacher", model)
        return self._measure(self.teacher)

    def _train(self, name: str, arm: Arm, size: str, seed: int) -> dict[str, Any]:
        announce(self.args, f"Seed {seed}: {arm.label}, {size_label(size)} ({arm.method.about})")
        start = time.process_time()
        set_seed(seed)
        student = make_student(self.teacher, size, self.options.student_init)
        args = replace_arguments(self.args, seed=seed)
        taught_by = self.teacher if arm.method.taught_by else None
        args = replace_arguments(args, **arm_arguments(arm, self.options, args, student, taught_by))
        if taught_by is None:
            student = train_on_labels(student, args, self.splits["train"], self.tokenizer, self.collator)
        else:
            student = self._distil(student, args)
        trained = time.process_time() - start
        self._save(name, student)
        figures = self._measure(student)
        figures[POOLED]["training_cpu_seconds"] = round(trained, 1)
        return figures

    def _distil(self, student: nn.Module, args: ExplanationDistillArguments) -> nn.Module:
        train, collator = self.splits["train"], self.collator
        taught: dict[str, Any] = {"teacher_model": self.teacher}
        if self.options.stored:
            reference = self._stored_teacher(args)
            train, collator = reference.attach(train), StoredTextCollator(self.collator)
            taught = {"references": {"teacher": reference}}
        trainer = ExplanationDistillTrainer(
            student, args, train_dataset=train, processing_class=self.tokenizer, data_collator=collator, **taught
        )
        trainer.train()
        return whole(trainer.student)

    def _stored_teacher(self, args: ExplanationDistillArguments) -> StoredReference:
        """The teacher's outputs on the training sentences, computed once for each explainer."""
        # Plain distillation reads logits alone, which are the same in all stores.
        explainer = explainer_of(args) if args.explanation_weight else build_explainer("saliency")
        return StoredReference.build(
            self.teacher,
            self.splits["train"],
            self.folder.parent / "stores" / explainer.name,
            explainer=explainer,
            processing_class=self.tokenizer,
            max_length=self.options.max_length,
            dtype="float32",
            progress=not self.args.disable_tqdm,
        )

    def _further(self, name: str) -> dict[str, float]:
        """Measure a student on some sentences by further explainers, and its explanation's faithfulness."""
        announce(self.args, f"{name}: by further explainers")
        trainer = self._measuring(self.load(name), evaluate_explanations=True)
        record = measure_fidelity(
            trainer,
            self.pooled,
            samples=self.options.held_out_sentences,
            explainers=list(HELD_OUT),
            faithfulness=True,
            chance=False,
            costs=False,
        )
        own = record.figures["explanation_similarity"].value
        return {"explanation_similarity": own, **further_figures(record, FAITHFULNESS)}

    def _measuring(self, model: nn.Module, **changes: Any) -> ExplanationDistillTrainer:
        """A trainer that measures a student beside the teacher, or the teacher by itself."""
        taught: dict[str, Any] = {"teacher_model": self.teacher}
        if model is self.teacher:
            taught = {}
            changes |= {"task_weight": 1.0, "logits_weight": 0.0, "explanation_weight": 0.0, "terms": None}
        args = replace_arguments(self.args, **changes)
        return ExplanationDistillTrainer(
            model, args, processing_class=self.tokenizer, data_collator=self.collator, **taught
        )

    def _save(self, name: str, model: nn.Module) -> None:
        model.save_pretrained(self.folder / name)
        self.tokenizer.save_pretrained(self.folder / name)

    def _measure(self, model: nn.Module) -> dict[str, Any]:
        """Measure a model's accuracy on each split and its words on both."""
        evaluation = self._measuring(model)
        figures: dict[str, dict[str, float]] = {}
        for split, data in (("validation", self.splits["validation"]), ("test", self.splits["test"])):
            measured = evaluation.evaluate(data, metric_key_prefix=split)
            found = measured_metrics(measured, f"{split}_")
            figures[split] = {"task_accuracy": found.pop("accuracy"), **found}
        figures[POOLED] = self.words.measure(whole(evaluation.student), POOLED)
        return figures

    @cached_property
    def teacher(self) -> Any:
        """The fine-tuned teacher."""
        return self.load("teacher")

    @cached_property
    def words(self) -> WordStudy:
        """The words of the sentences, which the teacher explains once for all students."""
        return WordStudy(
            self.teacher,
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
        for size in self.options.student_layers:
            students = {a.label: self.load(f"{a.file_name}-{size}-{seed}") for a in self.options.arms}
            self.words.picture(students, self.options.pictures, self.folder)
            for suffix in ("html", "png"):
                drawn = self.folder / f"explanations.{suffix}"
                drawn.replace(Path(self.args.output_dir) / f"explanations-{size}.{suffix}")
