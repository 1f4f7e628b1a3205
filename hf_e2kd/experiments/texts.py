"""Distillation of text classifiers: fine-tuned from real weights on labelled texts, or on the embedded reviews."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedConfig

from ..alignment.labels import class_names
from ..data.images import label_names
from ..data.labels import encode_labels, encode_new_labels, refuse_partly_labelled
from ..data.reviews import reviews_with_hints, train_tokenizer
from ..data.text import TextCollator, load_texts
from ..trainer.arguments import ExplanationDistillArguments
from .distillation import Distillation, announce, explainer_of, replace_arguments, train_on_labels, use_one_thread
from .experiment import Experiment
from .fitted_head import HEADS, fit_head
from .models import label_settings, load_text_classifier, load_trained, shallow_copy_of
from .reaching import loading
from .student_card import generated_data
from .words import WordStudy

_OF_THE_TEACHER = ("random", "teacher-layers")
"""Students that are made from their teacher; any other is a model's id or folder."""


@dataclass
class TextSources:
    """Models and data; without teacher and data set the embedded default."""

    teacher: str | None = field(
        default=None, metadata={"help": "Hub id or folder of the teacher, or of the model that is fine-tuned to be it."}
    )
    dataset: str | None = field(
        default=None,
        metadata={"help": "Hub id, folder of data files, one such file, or folder of the treebank's trees."},
    )
    dataset_config: str | None = field(default=None, metadata={"help": "The data set's configuration on the Hub."})
    teacher_revision: str | None = field(default=None, metadata={"help": "The teacher's revision on the Hub."})
    student_revision: str | None = field(default=None, metadata={"help": "The student's revision on the Hub."})
    finetune_teacher: bool = field(default=True, metadata={"help": "Train the teacher on the data's labels first."})
    teacher_head: str = field(default="own", metadata={"help": HEADS, "choices": ["own", "fit"]})
    teacher_epochs: float = field(
        default=3.0, metadata={"help": "Epochs of that training, unless --max_steps ends all trainings."}
    )
    teacher_learning_rate: float = field(default=5e-5, metadata={"help": "Learning rate of that training."})
    student_layers: int | None = field(
        default=None,
        metadata={"help": "Layers of a student that is like its teacher; half of the teacher's by default."},
    )
    student_init: str = field(
        default="random",
        metadata={"help": "'random', 'teacher-layers' (evenly spaced ones), or a student's Hub id or folder."},
    )
    train_split: str = field(default="train", metadata={"help": "Split to distil on."})
    eval_split: str = field(
        default="validation", metadata={"help": "Split to measure on; of a source with one split, a tenth of it."}
    )
    text_column: list[str] = field(
        default_factory=lambda: ["text"], metadata={"help": "Column of the texts; two, or twice, for pairs."}
    )
    label_column: str = field(default="label", metadata={"help": "Column of the labels."})
    max_length: int = field(default=128, metadata={"help": "Longest input in tokens."})
    explained_samples: int = field(default=300, metadata={"help": "Texts of each evaluation that are explained."})


@dataclass
class TextExperiment(Experiment):
    """Text classifiers. Without a download: a model by configuration, trained on the embedded reviews.

    Args:
        teacher: Configuration; vocabulary and classes are filled in.
        data: Arguments of `reviews_with_hints`.
        vocab_size: Size of the tokenizer's vocabulary, which is trained on the teacher's texts.
        teacher_training, student_training: Training arguments of either.
    """

    teacher: PreTrainedConfig
    data: Mapping[str, Any]
    vocab_size: int
    teacher_training: Mapping[str, Any]
    student_training: Mapping[str, Any]

    sources: ClassVar[type] = TextSources
    required: ClassVar[tuple[str, ...]] = ("teacher", "dataset")
    embedded_options: ClassVar[tuple[str, ...]] = (
        *("student_init", "student_layers", "text_column", "label_column", "max_length", "explained_samples"),
    )
    common_training: ClassVar[Mapping[str, Any]] = {
        "explainer": "integrated_gradients",
        "explanation_fraction": 0.4,
        # Every point of every text of an evaluation set would cost more than the training; a sample is explained.
        "evaluate_explanations": False,
        "task_weight": 0.5,
        "logits_weight": 0.5,
        "temperature": 4.0,
    }
    pretrained_training: ClassVar[Mapping[str, Any]] = {
        "learning_rate": 1e-4,
        "warmup_steps": 0.1,
        "num_train_epochs": 20,
        "weight_decay": 0.01,
        "per_device_train_batch_size": 32,
    }
    baselines: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "scratch": {"task_weight": 1.0, "logits_weight": 0.0, "explanation_weight": 0.0, "terms": None},
        "KD": {"explanation_weight": 0.0},
    }

    def load(self, sources: TextSources, args: ExplanationDistillArguments, seed: int) -> Distillation:
        """Load or make one seed's models and data."""
        return (
            load_text_sources(sources, args, seed) if sources.dataset else train_on_reviews(self, sources, args, seed)
        )


def load_text_sources(sources: TextSources, args: ExplanationDistillArguments, seed: int) -> Distillation:
    """Load teacher and data by Hub id or folder; fine-tune the teacher unless told otherwise."""
    assert sources.teacher and sources.dataset
    _look_up(sources.student_init, sources.student_revision)
    train, evaluation = load_texts(
        sources.dataset,
        sources.train_split,
        sources.eval_split,
        sources.text_column,
        sources.label_column,
        seed=seed,
        config=sources.dataset_config,
    )
    refuse_partly_labelled([train, evaluation], sources.label_column)
    if sources.teacher_head == "fit":
        train, evaluation = encode_new_labels([train, evaluation], sources.label_column)
        announce(args, f"Seed {seed}: fitting the teacher's head to the labels")
        teacher, tokenizer = fit_head(
            sources.teacher,
            train,
            column=sources.text_column,
            label_column=sources.label_column,
            max_length=sources.max_length,
            device=args.device,
            progress=args.process_index == 0 and not args.disable_tqdm,
            revision=sources.teacher_revision,
        )
        return _distillation(teacher, tokenizer, sources, args, train, {"evaluation": evaluation}, teacher_is_new=True)
    revision = sources.teacher_revision
    with loading(sources.teacher, revision=revision):
        tokenizer = AutoTokenizer.from_pretrained(sources.teacher, revision=revision)
    if not sources.finetune_teacher:
        teacher = load_trained(AutoModelForSequenceClassification, sources.teacher, revision=revision)
        known = class_names(teacher)
        train, evaluation = (encode_labels(data, sources.label_column, known) for data in (train, evaluation))
        return _distillation(teacher, tokenizer, sources, args, train, {"evaluation": evaluation})
    train, evaluation = encode_new_labels([train, evaluation], sources.label_column)
    names = label_names(train, sources.label_column)
    labels = train[sources.label_column]
    if not all(isinstance(label, int) for label in labels):
        raise ValueError(
            f"The column '{sources.label_column}' holds {labels[0]!r} where a class's number is expected. Encode it: "
            f"dataset.class_encode_column('{sources.label_column}')."
        )
    classes = len(names) if names else max(labels) + 1
    announce(args, f"Seed {seed}: fine-tuning the teacher")
    training = {
        "seed": seed,
        "num_train_epochs": sources.teacher_epochs,
        "learning_rate": sources.teacher_learning_rate,
    }
    teacher = train_on_labels(
        load_text_classifier(sources.teacher, names, classes, revision),
        replace_arguments(args, **training),
        train,
        tokenizer,
        _collator(sources, tokenizer),
    )
    return _distillation(teacher, tokenizer, sources, args, train, {"evaluation": evaluation}, teacher_is_new=True)


def train_on_reviews(
    experiment: TextExperiment, sources: TextSources, args: ExplanationDistillArguments, seed: int
) -> Distillation:
    """Write a seed's reviews and train its teacher, on hint words that say nothing of the class."""
    _look_up(sources.student_init, sources.student_revision)
    use_one_thread()
    arguments = {"seed": seed, **experiment.data}
    splits = reviews_with_hints(**arguments)
    tokenizer = train_tokenizer(splits["teacher_train"]["text"], experiment.vocab_size)
    names = label_names(splits["student_train"])
    assert names is not None
    config = copy.deepcopy(experiment.teacher)
    own = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    for setting, value in {**own, **label_settings(names, len(names))}.items():
        setattr(config, setting, value)
    announce(args, f"Seed {seed}: training the teacher")
    teacher = train_on_labels(
        AutoModelForSequenceClassification.from_config(config),
        replace_arguments(args, seed=seed, **experiment.teacher_training),
        splits["teacher_train"],
        tokenizer,
        _collator(sources, tokenizer),
    )
    evaluations = {"in_distribution": splits["test_id"], "out_of_distribution": splits["test_ood"]}
    made = _distillation(teacher, tokenizer, sources, args, splits["student_train"], evaluations, teacher_is_new=True)
    named = {"train": "student_train", "in_distribution": "test_id", "out_of_distribution": "test_ood"}
    made.data = {
        name: generated_data("reviews_with_hints", arguments, "apache-2.0", split) for name, split in named.items()
    }
    return made


def _look_up(student_init: str, revision: str | None) -> None:
    """Refuse a wrong name before the teacher is trained.

    Raises:
        ValueError: a revision of what is no id on the Hub.
        OSError: there is no such model.
    """
    if student_init not in _OF_THE_TEACHER:
        with loading(student_init, revision=revision):
            AutoConfig.from_pretrained(student_init, revision=revision)
    elif revision is not None:
        raise ValueError(
            f"A student by '{student_init}' is made from its teacher and has no revision '{revision}'. Leave "
            "student_revision out."
        )


def _distillation(
    teacher: nn.Module,
    teacher_tokenizer: Any,
    sources: TextSources,
    args: ExplanationDistillArguments,
    train: Any,
    evaluations: dict[str, Any],
    teacher_is_new: bool = False,
) -> Distillation:
    if sources.student_init in _OF_THE_TEACHER:
        layers = sources.student_layers or (teacher.config.num_hidden_layers + 1) // 2
        tokenizer, student = teacher_tokenizer, shallow_copy_of(teacher, layers, sources.student_init)
    else:
        revision = sources.student_revision
        tokenizer = AutoTokenizer.from_pretrained(sources.student_init, revision=revision)
        names = label_names(train, sources.label_column)
        # With the teacher's classes, whether each is decided for itself, or is a score.
        problem = teacher.config.problem_type if names is None else None
        student = load_text_classifier(
            sources.student_init, names or class_names(teacher), teacher.config.num_labels, revision, problem
        )
    study = WordStudy(
        teacher,
        teacher_tokenizer,
        tokenizer,
        evaluations,
        explainer_of(args),
        text_columns=sources.text_column,
        label_column=sources.label_column,
        samples=sources.explained_samples,
        batch_size=args.per_device_eval_batch_size,
        max_length=sources.max_length,
    )
    return Distillation(
        teacher,
        student,
        tokenizer,
        train,
        evaluations,
        study.picture,
        study.measure,
        _collator(sources, tokenizer, teacher_tokenizer),
        teacher_is_new,
        teacher_processor=teacher_tokenizer,
        card_samples=sources.explained_samples,
    )


def _collator(sources: TextSources, tokenizer: Any, teacher_tokenizer: Any = None) -> TextCollator:
    return TextCollator(
        tokenizer,
        teacher_tokenizer,
        text_columns=sources.text_column,
        label_column=sources.label_column,
        max_length=sources.max_length,
    )
