"""Teacher, data and measurements of `explainers.py`: explanations of the teacher, training steps, students."""

import statistics
import time
from argparse import Namespace
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import step_cost
import torch
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    set_seed,
)

from hf_e2kd import ExplanationDistillArguments, ExplanationDistillTrainer, StoredReference, TextCollator
from hf_e2kd.architectures import call_model
from hf_e2kd.data.images import label_names
from hf_e2kd.data.reviews import reviews_with_hints, train_tokenizer
from hf_e2kd.data.text import load_texts, text_lengths
from hf_e2kd.experiments.distillation import train_on_labels
from hf_e2kd.experiments.models import label_settings, load_text_classifier, shallow_copy_of
from hf_e2kd.experiments.words import WordStudy
from hf_e2kd.explainers import build_explainer
from hf_e2kd.fidelity.interpretability.faithfulness import Faithfulness
from hf_e2kd.store.text import StoredTextCollator

EXPLAINERS: dict[str, tuple[str, dict[str, Any]]] = {
    "integrated_gradients": ("integrated_gradients", {}),
    "integrated_gradients, last layer": ("integrated_gradients", {"layer": "last"}),
    "input_x_gradient": ("input_x_gradient", {}),
    "input_x_gradient, last layer": ("input_x_gradient", {"layer": "last"}),
    "attention_gradient": ("attention_gradient", {}),
    "attention_rollout": ("attention_rollout", {}),
    "lrp": ("lrp", {}),
    "lrp, last layer": ("lrp", {"layer": "last"}),
    "lrp, attn_lrp": ("lrp", {"rule": "attn_lrp"}),
    "lrp, attn_lrp, last layer": ("lrp", {"rule": "attn_lrp", "layer": "last"}),
    "saliency": ("saliency", {}),
}
"""The trainable explainers of texts and their options, by the names of the table's rows."""

YARDSTICKS = {"integrated_gradients": 50, "lrp": 250}
"""Explainers by which every student is read, whatever it was trained with, and the test texts of each."""

COSTLY = ("integrated_gradients", "attention_gradient")
"""Rows by which a training explains a part of each batch."""


@dataclass
class Options:
    """Options of the benchmark."""

    model: str = field(
        default="sentence-transformers/all-MiniLM-L6-v2",
        metadata={"help": "Hub id or folder of the encoder that is fine-tuned to be the teacher."},
    )
    dataset: str | None = field(
        default=None, metadata={"help": "Folder of the treebank's trees, Hub id, or folder or file of labelled texts."}
    )
    explained: list[str] = field(
        default_factory=lambda: list(EXPLAINERS), metadata={"help": "Rows by which the teacher is explained."}
    )
    trained: list[str] = field(
        default_factory=lambda: [
            *("lrp, last layer", "lrp", "integrated_gradients", "attention_gradient", "input_x_gradient, last layer"),
        ],
        metadata={"help": "Rows whose explainers students are trained with, besides plain distillation."},
    )
    weights: list[float] = field(
        default_factory=lambda: [0.03, 0.1, 0.3, 1.0, 3.0],
        metadata={"help": "λ to choose from, in rising order; the search begins in the middle."},
    )
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "Seeds of the table."})
    search_seed: int = field(default=100, metadata={"help": "Seed of the search for λ."})
    student_layers: int = field(default=3, metadata={"help": "Layers of the student, taken from the teacher."})
    train_samples: int = field(default=512, metadata={"help": "Texts that students are trained on."})
    teacher_samples: int = field(default=4000, metadata={"help": "Texts that the teacher is fine-tuned on."})
    eval_samples: int = field(default=1100, metadata={"help": "Texts of each evaluation, or all that there are."})
    explained_samples: int = field(default=100, metadata={"help": "Texts of the teacher's faithfulness and cost."})
    word_samples: int = field(default=250, metadata={"help": "Texts of the teacher whose words are scored."})
    search_samples: int = field(default=50, metadata={"help": "Texts that are explained in the search for λ."})
    epochs: float = field(default=6.0, metadata={"help": "Epochs of a student."})
    teacher_epochs: float = field(default=2.0, metadata={"help": "Epochs of the teacher."})
    learning_rate: float = field(default=1e-4, metadata={"help": "Learning rate of both."})
    temperature: float = field(default=1.0, metadata={"help": "Temperature of the loss on the logits."})
    fraction: float = field(
        default=0.4, metadata={"help": f"Share of each batch that {' and '.join(COSTLY)} explain; others explain all."}
    )
    batch_size: int = field(default=16, metadata={"help": "Texts of a training step."})
    max_length: int = field(default=32, metadata={"help": "Longest input in tokens."})
    cost_steps: int = field(default=3, metadata={"help": "Steps by which a training step's cost is measured."})
    threads: int = field(default=1, metadata={"help": "Threads of the CPU."})
    results: Path = field(
        default=Path(__file__).parents[1] / "results" / "explainers.json", metadata={"help": "File of the figures."}
    )
    table: Path = field(default=Path(__file__).parent / "EXPLAINERS.md", metadata={"help": "File of the tables."})
    output_dir: Path = field(default=Path("outputs/explainers"), metadata={"help": "Folder of the teacher."})
    smoke: bool = field(default=False, metadata={"help": "Try everything out in seconds, without a download."})

    def __post_init__(self) -> None:
        if self.smoke:
            vars(self).update(
                SMOKE, results=self.output_dir / "explainers.json", table=self.output_dir / "EXPLAINERS.md"
            )
        for option, names in (("explained", self.explained), ("trained", self.trained)):
            unknown = [name for name in names if name not in EXPLAINERS]
            if unknown:
                raise ValueError(f"--{option} names {unknown[0]!r}. Choose from: {', '.join(EXPLAINERS)}.")
        if not self.smoke and self.dataset is None:
            raise ValueError("Give the labelled texts by --dataset, or try everything out by --smoke.")
        if sorted(set(self.weights)) != self.weights:
            raise ValueError(f"--weights are in rising order, not {self.weights}.")


SMOKE: dict[str, Any] = {
    "explained": ["lrp, last layer"],
    "trained": ["lrp, last layer"],
    "weights": [0.1],
    "seeds": [0, 1],
    "batch_size": 4,
    "train_samples": 8,
    "eval_samples": 4,
    "explained_samples": 2,
    "word_samples": 2,
    "search_samples": 2,
    "epochs": 2.0,
    "cost_steps": 1,
}
"""Options of `--smoke`."""


class SameBatches(ExplanationDistillTrainer):
    """A trainer whose batches, grouped by length, depend on the seed alone, and not on what a step draws."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        sampler = super()._get_train_sampler(train_dataset)
        sampler.generator = torch.Generator().manual_seed(self.args.seed)
        return sampler


class Bench:
    """Teacher, tokenizer and data, and what is measured by them."""

    def __init__(self, options: Options):
        self.options = options
        set_seed(0)
        self.teacher, self.tokenizer, self.train, self.evaluations = (_made_up if options.smoke else _loaded)(options)
        self.collator = TextCollator(self.tokenizer, max_length=options.max_length)
        self.studies: dict[tuple[str, int], WordStudy] = {}
        self.answers: dict[str, torch.Tensor] = {}

    def study(self, row: str, samples: int) -> WordStudy:
        """Make the study of a row's explainer, which keeps the teacher's own explanations."""
        if (row, samples) not in self.studies:
            name, own = EXPLAINERS[row]
            explainer = build_explainer(name, **own).with_tokenizer(self.tokenizer)
            limits = {"samples": samples, "max_length": self.options.max_length}
            self.studies[row, samples] = WordStudy(
                self.teacher, self.tokenizer, self.tokenizer, self.evaluations, explainer, **limits
            )
        return self.studies[row, samples]

    def explained(self, row: str) -> dict[str, float]:
        """Explain the teacher: CPU time a text, and faithfulness."""
        name, own = EXPLAINERS[row]
        explainer, data = build_explainer(name, **own).with_tokenizer(self.tokenizer), self.evaluations["test"]
        count = min(self.options.explained_samples, len(data))
        found: dict[str, list[float]] = {}
        seconds = 0.0
        for start in range(0, count, 20):
            batch = self.collator([data[place] for place in range(start, min(start + 20, count))])
            del batch["labels"]
            begun = time.process_time()
            explanation = explainer(self.teacher, batch)
            seconds += time.process_time() - begun
            values = Faithfulness()(self.teacher, batch, explanation.maps, explanation.target)
            for name, each in values.items():
                found.setdefault(name, []).extend(each.tolist())
        return {"ms_a_text": 1000 * seconds / count, **{name: statistics.fmean(each) for name, each in found.items()}}

    def words(self, row: str) -> dict[str, float]:
        """Compare the scores of the teacher's words with the words' own labels."""
        return self.study(row, self.options.word_samples).measure(self.teacher, "test")

    def distilled(self, row: str | None, weight: float, seed: int, split: str) -> dict[str, Any]:
        """Distil a student, by plain distillation where there is no `row`, and measure it."""
        options = self.options
        own: dict[str, Any] = {"explanation_weight": weight}
        if row is not None:
            own["explainer"], own["explainer_options"] = EXPLAINERS[row]
            own["explanation_fraction"] = options.fraction if row in COSTLY else 1.0
        reference = self.stored(row or options.trained[0])  # whose logits are the same in all
        layers = min(options.student_layers, self.teacher.config.num_hidden_layers)
        set_seed(seed)
        trainer = SameBatches(
            shallow_copy_of(self.teacher, layers, "teacher-layers"),
            training_arguments(options, seed, **own),
            train_dataset=reference.attach(self.train),
            processing_class=self.tokenizer,
            data_collator=StoredTextCollator(self.collator),
            references={"teacher": reference},
        )
        begun = time.process_time()
        trainer.train()
        seconds = round(time.process_time() - begun, 1)
        student, data = trainer.student.eval(), self.evaluations[split]
        if split not in self.answers:
            self.answers[split] = self.classes(self.teacher, data)
        answers, theirs, labels = self.classes(student, data), self.answers[split], torch.tensor(data["label"])
        rates = {"agreement": answers == theirs, "accuracy": answers == labels, "teacher_accuracy": theirs == labels}
        read = YARDSTICKS if split == "test" else {row: options.search_samples} if row else {}
        return {
            "training_seconds": seconds,
            "samples": len(data),
            **{name: rate.double().mean().item() for name, rate in rates.items()},
            **{by: self.study(by, samples).measure(student, split) for by, samples in read.items()},
        }

    def stored(self, row: str) -> StoredReference:
        """Store the teacher's logits and maps of the students' texts, the first time."""
        name, own = EXPLAINERS[row]
        folder = self.options.output_dir / "stores" / row.replace(", ", "-").replace(" ", "_")
        return StoredReference.build(
            self.teacher,
            self.train,
            folder,
            explainer=build_explainer(name, **own),
            processing_class=self.tokenizer,
            max_length=self.options.max_length,
            progress=False,
        )

    @torch.no_grad()
    def classes(self, model: nn.Module, data: Any) -> torch.Tensor:
        """Classify texts, those of similar length together."""
        order = sorted(range(len(data)), key=text_lengths(data, ["text"]).__getitem__)
        answers = torch.empty(len(data), dtype=torch.long)
        for start in range(0, len(data), 64):
            rows = order[start : start + 64]
            batch = self.collator([data[row] for row in rows])
            del batch["labels"]
            answers[rows] = call_model(model, batch).argmax(1)
        return answers


def step_figures(row: str, options: Options, fraction: float = 1.0) -> dict[str, float]:
    """Measure a training step beside plain distillation's, in turns, as `step_cost.py` does."""
    name, own = EXPLAINERS[row]
    models = _small_berts if options.smoke else step_cost.berts
    step_cost.CASES[row] = step_cost.Case(models, name, text=True, options=own, share=fraction)
    given = Namespace(
        steps=options.cost_steps, warmup=1, batch_size=16, threads=options.threads, device="cpu", bf16=False,
        compile=False,
    )  # fmt: skip
    ratio = step_cost.measure(row, given)["ratios"]["time ratio"]
    return {"ratio": ratio.median, "low": ratio.low, "high": ratio.high}


def training_arguments(options: Options, seed: int, **changes: Any) -> ExplanationDistillArguments:
    """Make the arguments that all trainings share, with `changes`."""
    return ExplanationDistillArguments(
        str(options.output_dir / "trainer"),  # nothing is written
        seed=seed,
        **{
            "num_train_epochs": options.epochs,
            "learning_rate": options.learning_rate,
            "warmup_steps": 0.1,
            "weight_decay": 0.01,
            "temperature": options.temperature,
            "per_device_train_batch_size": options.batch_size,
            "train_sampling_strategy": "group_by_length",
            "evaluate_explanations": False,
            "save_strategy": "no",
            "logging_steps": 10_000,
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
            **changes,
        },
    )


def _loaded(options: Options) -> tuple[nn.Module, Any, Any, dict[str, Any]]:
    """Load the data and the teacher, which is fine-tuned the first time."""
    folder = options.output_dir / "teacher"
    train, validation = load_texts(options.dataset, "train", "validation", "text", "label")
    test = load_texts(options.dataset, "train", "test", "text", "label")[1]
    train = train.shuffle(seed=0)
    if not folder.is_dir():
        tokenizer = AutoTokenizer.from_pretrained(options.model)
        names = label_names(train, "label")
        model = load_text_classifier(options.model, names, len(names) if names else max(train["label"]) + 1)
        print("Fine-tuning the teacher", flush=True)
        own = {"per_device_train_batch_size": 32, "train_sampling_strategy": "random"}
        args = training_arguments(options, 0, num_train_epochs=options.teacher_epochs, **own)
        collator = TextCollator(tokenizer, max_length=options.max_length)
        model = train_on_labels(model, args, _some(train, options.teacher_samples), tokenizer, collator).eval()
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    teacher = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    own = train.select(range(max(0, len(train) - options.train_samples), len(train)))
    evaluations = {"validation": _some(validation, options.eval_samples), "test": _some(test, options.eval_samples)}
    return teacher, tokenizer, own, evaluations


def _made_up(options: Options) -> tuple[nn.Module, Any, Any, dict[str, Any]]:
    """Make a tiny teacher with random weights that reads the embedded reviews."""
    splits = reviews_with_hints(seed=0)
    tokenizer = train_tokenizer(splits["teacher_train"]["text"], 700)
    labels = label_settings(label_names(splits["student_train"]), 4)
    config = BertConfig(vocab_size=len(tokenizer), num_hidden_layers=4, **labels, **_SMALL)
    evaluations = {"validation": splits["test_id"], "test": splits["test_ood"]}
    evaluations = {name: _some(data, options.eval_samples) for name, data in evaluations.items()}
    own = _some(splits["student_train"], options.train_samples)
    return BertForSequenceClassification(config).eval(), tokenizer, own, evaluations


def _some(data: Any, count: int) -> Any:
    data = data.shuffle(seed=0)
    return data.select(range(min(count, len(data))))


_SMALL = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}


def _small_berts() -> tuple[nn.Module, nn.Module]:
    deep, shallow = (
        BertForSequenceClassification(BertConfig(num_hidden_layers=layers, num_labels=4, **_SMALL)) for layers in (4, 2)
    )
    return deep, shallow
