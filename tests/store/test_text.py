"""Stored texts: scores of the teacher's tokens as maps over words."""

import datasets
import peft
import pytest
import torch
from torch import nn
from transformers import DataCollatorWithPadding

from hf_e2kd import TeacherReference, TextCollator
from hf_e2kd.store import StoredTextCollator, StoreError, writer
from tests.models import CLASSES
from tests.store.stores import STUDENT, TEACHER, TERMS, store, text_model, texts, train
from tests.training import relative_error


@pytest.mark.parametrize("pair", [False, True])
def test_texts_for_another_tokenizer(tmp_path, pair):
    """Prevents: scores summed to other words than with the teacher at hand; the student's tokenizer is not known
    when the store is built."""
    teacher, columns = text_model("roberta", TEACHER, 1), ("text", "second") if pair else "text"
    data = texts(pair=pair)
    options = {"processing_class": TEACHER, "text_columns": columns, "explainer": "saliency"}
    reference = store(teacher, data, tmp_path / "store", dtype="float32", **options)
    live = TeacherReference(teacher)
    settings = {"explainer": "saliency", "settings": {"max_steps": 3, "logging_steps": 1}}
    collator = TextCollator(STUDENT, text_columns=columns)
    found, steps, trainer = train(
        tmp_path,
        reference,
        reference.attach(data),
        text_model("bert", STUDENT).eval(),
        data_collator=StoredTextCollator(collator),
        **settings,
    )
    expected, live_steps, _ = train(
        tmp_path,
        live,
        data,
        text_model("bert", STUDENT).eval(),
        data_collator=TextCollator(STUDENT, TEACHER, text_columns=columns),
        **settings,
    )
    for name in TERMS:
        assert found[name] == pytest.approx(expected[name], rel=1e-4)
    for one, other in zip(steps, live_steps, strict=True):
        assert relative_error(one, other) < 1e-4
    batch = next(iter(trainer.get_train_dataloader()))
    assert {"word_ids", "reference_map", "reference_mask", "labels"} <= batch.keys()


@pytest.mark.parametrize("id_column", [None, "id"])
def test_texts_of_similar_length_share_a_batch(tmp_path, monkeypatch, id_column):
    """Prevents: most of the time spent on padding; rows in the batches' order instead of the data's; a shard's rows
    written before those that stand in front of them."""
    monkeypatch.setattr(writer, "_BATCH_BYTES", 1)
    teacher = text_model("bert", TEACHER, 1)
    words = ["good", "bad", "film", "plot", "dull"]
    data = [
        {"text": " ".join(words[place % 5] for place in range(number, number + length)), "label": 0, "id": f"n{number}"}
        for number, length in enumerate([1, 9, 2, 8, 1, 9, 30, 3, 7, 1])
    ]
    widths = []
    hook = teacher.register_forward_pre_hook(
        lambda module, args, kwargs: widths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    options = {"processing_class": TEACHER, "explainer": "saliency", "dtype": "float32", "id_column": id_column}
    together = store(teacher, data, tmp_path / "together", batch_size=2, rows_per_shard=6, **options)
    hook.remove()
    tokens = [len(TEACHER(row["text"], truncation=True)["input_ids"]) for row in data]
    # Of a shard of six texts and one of four, the two longest first.
    assert widths == [max(tokens[one], tokens[other]) for one, other in ((1, 5), (3, 2), (0, 4), (6, 8), (7, 9))]
    alone = store(teacher, data, tmp_path / "alone", batch_size=1, **options)
    for one, other in zip(together.attach(data), alone.attach(data), strict=True):
        assert one["reference_text_crc32"] == other["reference_text_crc32"]
        torch.testing.assert_close(one["reference_scores"], other["reference_scores"], rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(one["reference_logits"], other["reference_logits"])


def test_positives_of_texts(tmp_path):
    """Prevents: one target's scores read as the next one's, or a text without positives that ends the batch."""
    teacher = text_model("bert", TEACHER, 1)
    positives = [[1], [], [0, 3], [2]]
    data = [
        {"text": row["text"], "labels": torch.eye(CLASSES)[own].sum(0).tolist()}
        for row, own in zip(texts(4), positives, strict=True)
    ]
    options = {"processing_class": TEACHER, "explainer": "saliency", "dtype": "float32"}
    several = store(teacher, data, tmp_path / "several", target="positives", **options)
    batch = StoredTextCollator(TextCollator(STUDENT))(list(several.attach(data)))
    assert batch["reference_target"].tolist() == [[1, -1], [-1, -1], [0, 3], [2, -1]]
    assert batch["labels"].shape == (4, CLASSES)
    for number, wanted in enumerate((0, 3)):
        single = [{"text": row["text"], "labels": wanted} for row in data]
        one = store(teacher, single, tmp_path / f"single{wanted}", target="label", **options)
        expected = StoredTextCollator(TextCollator(STUDENT))(list(one.attach(single)))
        torch.testing.assert_close(batch["reference_map"][2, number], expected["reference_map"][2])
    assert not batch["reference_map"][1].any()


def test_texts_that_changed(tmp_path):
    """Prevents: scores laid on other words because the text, or the collator, isn't the one that was stored."""
    teacher, data = text_model("bert", TEACHER, 1), texts(4)
    reference = store(teacher, data, tmp_path / "store", processing_class=TEACHER)
    assert reference.description["key"]["explainer"]["name"] == "integrated_gradients"
    collator = StoredTextCollator(TextCollator(STUDENT))
    attached = reference.attach(data)
    batch = collator([attached[0], attached[1]])
    assert batch["reference_map"].shape == batch["reference_mask"].shape
    with pytest.raises(StoreError, match="is not the one that the teacher read"):
        collator([{**attached[0], "text": "Another text."}])
    with pytest.raises(StoreError, match="has no column 'reference_spans'"):
        collator([data[0]])
    with pytest.raises(StoreError, match="A stored teacher needs no tokenizer"):
        StoredTextCollator(TextCollator(STUDENT, TEACHER))
    reference.setup(text_model("bert", STUDENT), None)
    with pytest.raises(StoreError, match="make batches by StoredTextCollator"):
        reference({"input_ids": torch.zeros(2, 3)})
    with pytest.raises(ValueError, match=r"holds 'good' where a class's number is expected.*encode_labels"):
        store(teacher, [{**row, "label": "good"} for row in data], tmp_path / "names", processing_class=TEACHER)
    with pytest.raises(StoreError, match="The column 'sentence' holds nothing; the columns are"):
        store(teacher, data, tmp_path / "column", processing_class=TEACHER, text_columns="sentence")
    tokens = [{"input_ids": TEACHER(row["text"], truncation=True)["input_ids"]} for row in data]
    with pytest.raises(StoreError, match="give the teacher's tokenizer as `processing_class`, and no collator"):
        store(teacher, tokens, tmp_path / "tokens", collator=DataCollatorWithPadding(TEACHER), explainer="saliency")


@pytest.mark.parametrize("collator", [DataCollatorWithPadding(STUDENT), TextCollator(STUDENT), None])
def test_other_collators_are_refused_by_name(tmp_path, collator):
    """Prevents: "excessive nesting" for stored texts without their collator (fault B18)."""
    data = texts(4)
    reference = store(
        text_model("bert", TEACHER, 1), data, tmp_path / "s", processing_class=TEACHER, explainer="saliency"
    )
    with pytest.raises(StoreError, match=r"data_collator=StoredTextCollator\(TextCollator\(tokenizer\)\)"):
        train(
            tmp_path,
            reference,
            reference.attach(data),
            text_model("bert", STUDENT),
            data_collator=collator,
            explainer="saliency",
            processing_class=STUDENT,
        )


def test_evaluation_without_a_store_is_told_in_its_own_words():
    """Prevents: "Train on…" said of an evaluation (fault B18)."""
    with pytest.raises(StoreError, match=r"such as one to evaluate on.*`reference.attach\(dataset, folder=...\)`"):
        StoredTextCollator(TextCollator(STUDENT))([{"text": "a film", "label": 1}])


class Wrapper(nn.Module):
    """A teacher of the user's own, which hands on what it is given."""

    def __init__(self, model):
        super().__init__()
        self.model, self.config = model, model.config

    def forward(self, **inputs):
        return self.model(**inputs)


@pytest.mark.parametrize("kind", ["own", "adapter", "adapter of a task"])
def test_wrapped_teachers_are_given_masks_and_token_types(tmp_path, kind):
    """Prevents: padding that is attended to, and pairs read as one text, in silence, as the forward names neither."""
    words = [row["text"].split() for row in texts()]
    data = datasets.Dataset.from_list([{"text": " ".join(own[:2]), "second": " ".join(own[2:6])} for own in words])
    teacher = text_model("bert", STUDENT, 1)
    options = {"processing_class": STUDENT, "text_columns": ("text", "second"), "explainer": "saliency"}
    expected = store(teacher, data, tmp_path / "plain", dtype="float32", **options)
    if kind == "own":
        wrapped = Wrapper(teacher)
    else:  # before it is trained, an adapter changes nothing
        task = "SEQ_CLS" if kind == "adapter of a task" else None
        config = peft.LoraConfig(target_modules=["query"], task_type=task, modules_to_save=[])
        wrapped = peft.get_peft_model(teacher, config)
    found = store(wrapped.eval(), data, tmp_path / "wrapped", dtype="float32", **options)
    for row, plain in zip(found.attach(data), expected.attach(data), strict=True):
        torch.testing.assert_close(torch.tensor(row["reference_logits"]), torch.tensor(plain["reference_logits"]))
