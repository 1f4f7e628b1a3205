"""Tokens made beforehand of which nobody says what made them (faults A10 and A11)."""

import json

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedTokenizerFast,
    default_data_collator,
)

from hf_e2kd import ExplanationDistillTrainer, TextCollator
from tests.tokenizers import STUDENT, data, text_model, tokenizer
from tests.training import arguments


def trainer_of(folder, teacher, student=None, **keywords):
    student = text_model("bert") if student is None else student
    return ExplanationDistillTrainer(
        student, arguments(folder), teacher_model=teacher, explainer="saliency", **keywords
    )


def tokenized():
    return data(8).map(lambda row: STUDENT(row["text"]), remove_columns=["text", "comment"])


def saved(folder, own, seed=0):
    """A classifier loaded from a folder in which its tokenizer lies too."""
    text_model("bert", seed, own).save_pretrained(folder)
    own.save_pretrained(folder)
    return AutoModelForSequenceClassification.from_pretrained(folder)


def test_tokens_without_a_tokenizer_are_refused(tmp_path):
    """Prevents: [CLS] and [SEP] counted as words, which make any two models look alike."""
    trainer = trainer_of(
        tmp_path,
        teacher=text_model("bert", 1),
        data_collator=default_data_collator,
        train_dataset=Dataset.from_list([{"input_ids": [1, 5, 2], "attention_mask": [1, 1, 1], "labels": 0}] * 4),
    )
    with pytest.raises(ValueError, match=r"which of them are special.*processing_class.*special_tokens_mask"):
        trainer.train()


def test_special_tokens_are_read_from_the_students_own_files(tmp_path, caplog):
    """Prevents: special tokens that count although the tokenizer lies beside the student's weights."""
    batch = {k: torch.tensor([v]) for k, v in STUDENT("wonderful film").items()}
    trainer = trainer_of(
        tmp_path,
        student=saved(tmp_path / "student", STUDENT),
        teacher=saved(tmp_path / "teacher", tokenizer("wordpiece"), 1),
        data_collator=default_data_collator,
        train_dataset=Dataset.from_list([{k: v[0].tolist() for k, v in batch.items()}]),
    )
    mask = trainer.student_inputs(batch)["special_tokens_mask"]
    assert mask[0, [0, -1]].all()
    assert not mask[0, 1:-1].any()
    trainer.references["teacher"](trainer.student_inputs(batch))
    assert "same tokenizer" not in caplog.text


def test_two_tokenizers_of_equal_sizes_are_told_apart(tmp_path):
    """Prevents: a teacher that reads foreign ids because its vocabulary is as large as the student's."""
    swapped = json.loads(STUDENT.backend_tokenizer.to_str())
    vocabulary = swapped["model"]["vocab"]
    first, last = list(vocabulary)[10], list(vocabulary)[-1]
    vocabulary[first], vocabulary[last] = vocabulary[last], vocabulary[first]
    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(swapped)), pad_token="[PAD]")
    trainer = trainer_of(
        tmp_path,
        teacher=saved(tmp_path / "teacher", other, 1),
        data_collator=DataCollatorWithPadding(STUDENT),
        train_dataset=tokenized(),
        processing_class=STUDENT,
    )
    assert trainer.student.config.vocab_size == trainer.references["teacher"].model.config.vocab_size
    with pytest.raises(ValueError, match="has another vocabulary.*TextCollator"):
        trainer.train()


@pytest.mark.parametrize("known", [False, True])
def test_unknown_tokenizers_are_told_once(tmp_path, caplog, known):
    """Prevents: silence where nothing says whether both models read one vocabulary; a warning where it is known."""
    trainer_of(
        tmp_path,
        teacher=text_model("bert", 1),
        data_collator=TextCollator(STUDENT, tokenizer("wordpiece") if known else None, max_length=24),
        train_dataset=data(8),
    ).train()
    assert caplog.text.count("nothing says whether both have the same tokenizer") == (0 if known else 1)


# --- Samples grouped by length --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Dataset.from_list, list])
def test_texts_are_grouped_by_length_without_a_column(tmp_path, kind):
    """Prevents: "Can only automatically infer lengths" for texts that the collator tokenizes."""
    texts = kind([{"text": "a " * count, "label": 0} for count in range(1, 33)])
    trainer = ExplanationDistillTrainer(
        text_model("bert"),
        arguments(tmp_path, train_sampling_strategy="group_by_length"),
        train_dataset=texts,
        eval_dataset=texts,
        teacher_model=text_model("bert", 1),
        data_collator=TextCollator(STUDENT),
        explainer="saliency",
    )
    order = list(trainer._get_train_sampler())
    # transformers sorts two batches of 4 at a time, here.
    assert sorted(order) == list(range(32))
    drawn = [order[start : start + 8] for start in range(0, 32, 8)]
    assert all(places[1:] == sorted(places[1:], reverse=True) for places in drawn)
    assert trainer._get_eval_sampler(texts).lengths == [2 * count for count in range(1, 33)]
