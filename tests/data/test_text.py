"""Batches of texts for a student and a teacher."""

import pytest
import torch

from hf_e2kd import TextCollator
from hf_e2kd.alignment.texts import tokenize_texts
from hf_e2kd.data import AnnotatedCollator
from hf_e2kd.data.collate import FiniteBatches
from hf_e2kd.data.opening import cut_texts
from hf_e2kd.data.text import load_text_splits, load_texts
from hf_e2kd.store.text import SpanCollator
from tests.tokenizers import SlowTokenizer, tokenizer

SAMPLES = [
    {"text": "a wonderful film", "label": 1},
    {"text": "The film wasn't good at all", "label": 0},
    {"text": "", "label": 2},
]
STUDENT = {"input_ids", "attention_mask", "token_type_ids", "word_ids"}
TEACHER = {"teacher_input_ids", "teacher_attention_mask", "teacher_word_ids"}


def test_columns_for_two_tokenizers():
    """Prevents: a column missing, or padded to the other side's length."""
    batch = TextCollator(tokenizer("wordpiece"), tokenizer("byte_bpe"))(SAMPLES)
    assert batch.keys() == STUDENT | TEACHER | {"labels"}
    assert all(isinstance(column, torch.Tensor) and column.dtype == torch.long for column in batch.values())
    assert len({batch[name].shape for name in STUDENT}) == len({batch[name].shape for name in TEACHER}) == 1
    assert batch["input_ids"].shape != batch["teacher_input_ids"].shape
    assert batch["labels"].tolist() == [1, 0, 2]
    for ids, teachers in zip(batch["word_ids"].tolist(), batch["teacher_word_ids"].tolist(), strict=True):
        assert set(ids) == set(teachers)
    assert set(batch["word_ids"][2].tolist()) == {-1}


@pytest.mark.parametrize("teacher", [None, "same", "itself"])
def test_one_tokenizer_gives_no_columns_of_the_teachers(teacher):
    """Prevents: texts tokenized twice for nothing."""
    own = tokenizer("wordpiece")
    collator = TextCollator(own, {None: None, "same": tokenizer("wordpiece"), "itself": own}[teacher])
    assert collator.teacher_tokenizer is None
    assert collator(SAMPLES).keys() == STUDENT | {"labels"}


@pytest.mark.parametrize(
    ("own_limit", "teachers_limit", "settings", "lengths"),
    [
        (512, 6, {}, (9, 6)),
        (6, 512, {}, (6, 9)),
        (512, 512, {"teacher_max_length": 6}, (9, 6)),
        (512, 6, {"max_length": 8}, (8, 6)),
        (512, 512, {"max_length": 8, "teacher_max_length": 5}, (8, 5)),
    ],
)
def test_one_tokenizer_with_two_lengths(own_limit, teachers_limit, settings, lengths):
    """Prevents: a teacher with the student's tokenizer that is shown more tokens than it has positions for."""
    sides = [tokenizer("words", model_max_length=limit) for limit in (own_limit, teachers_limit)]
    batch = TextCollator(*sides, **settings)([{"text": "a wonderful and warm film at all"}])
    assert (batch["input_ids"].shape[1], batch["teacher_input_ids"].shape[1]) == lengths
    assert set(batch["word_ids"][0].tolist()) == set(batch["teacher_word_ids"][0].tolist())


@pytest.mark.parametrize(
    "settings", [{"truncation_side": "left"}, {"padding_side": "left"}, {"pad_token": "[SEP]"}], ids=str
)
def test_one_tokenizer_with_two_sides(settings):
    """Prevents: a teacher shown a text's beginning where its tokenizer keeps the end, or the student's padding, where a
    decoder looks for its own to find the text's end."""
    own, theirs = tokenizer("wordpiece", model_max_length=6), tokenizer("wordpiece", model_max_length=6, **settings)
    texts = [sample["text"] for sample in SAMPLES]
    for student, teacher in ((own, theirs), (theirs, own)):
        batch = TextCollator(student, teacher)(SAMPLES)
        expected = teacher(texts, truncation=True, max_length=6, padding=True, return_tensors="pt")
        assert torch.equal(batch["teacher_input_ids"], expected["input_ids"])


def test_one_length_is_both_sides():
    """Prevents: `max_length` that shortens the student's text alone."""
    collator = TextCollator(tokenizer("wordpiece"), tokenizer("byte_bpe"), max_length=6)
    batch = collator(SAMPLES)
    assert batch["input_ids"].shape[1] == batch["teacher_input_ids"].shape[1] == 6
    assert TextCollator(tokenizer("wordpiece"), tokenizer("wordpiece"), max_length=6).teacher_tokenizer is None


def test_pairs():
    """Prevents: a premise and a hypothesis made one text, or a column lost that the trainer drops."""
    collator = TextCollator(
        tokenizer("wordpiece"), tokenizer("byte_bpe"), text_columns=("premise", "hypothesis"), label_column="answer"
    )
    assert {"premise", "hypothesis", "answer"} <= set(collator.columns)
    batch = collator([{"premise": "a film", "hypothesis": "warm film", "answer": 1}])
    assert sorted(set(batch["word_ids"][0].tolist())) == [-1, 0, 1, 2, 3]
    assert set(batch["token_type_ids"][0].tolist()) == {0, 1}
    assert batch["labels"].tolist() == [1]


def test_token_types_that_the_students_tokenizer_does_not_give():
    """Prevents: a BERT that reads a pair as one text, because its DistilBERT student's own tokenizer, which cuts texts
    alike, gives no token types."""
    bert, distilbert = tokenizer("wordpiece"), tokenizer("wordpiece", model_input_names=["input_ids", "attention_mask"])
    rows = [{"premise": "a film", "hypothesis": "warm film"}, {"premise": "a warm film", "hypothesis": "film"}]
    collator = TextCollator(distilbert, bert, text_columns=("premise", "hypothesis"))
    batch, alone = collator(rows), TextCollator(bert, text_columns=("premise", "hypothesis"))(rows)
    assert torch.equal(batch["teacher_token_type_ids"], alone["token_type_ids"]) and alone["token_type_ids"].any()
    assert torch.equal(batch["teacher_input_ids"], batch["input_ids"]) and "token_type_ids" not in batch
    # Single texts, whose types are all zero, and a student that knows more, are tokenized once.
    assert TextCollator(distilbert, bert).teacher_tokenizer is None
    assert TextCollator(bert, distilbert, text_columns=("premise", "hypothesis")).teacher_tokenizer is None


@pytest.mark.parametrize(
    ("samples", "labels"),
    [
        ([{"text": "a", "labels": 3}, {"text": "b", "labels": 1}], [3, 1]),
        ([{"text": "a", "label": 0.5}, {"text": "b", "label": 1.5}], [0.5, 1.5]),
        ([{"text": "a", "label": None}, {"text": "b", "label": None}], None),
        ([{"text": "a"}, {"text": "b"}], None),
        (
            [{"text": "a", "label": torch.tensor([1.0, 0])}, {"text": "b", "label": torch.tensor([0, 1.0])}],
            [[1, 0], [0, 1]],
        ),
        ([{"text": "a", "label": 1}, {"text": "b", "label": 2.5}], [1, 2.5]),
    ],
)
def test_labels(samples, labels):
    """Prevents: labels lost under the other usual name, or asked for where distillation needs none; several labels a
    sample refused with "only one element tensors can be converted", where the data are in torch's format.
    """
    batch = TextCollator(tokenizer("wordpiece"))(samples)
    assert (batch["labels"].tolist() if "labels" in batch else None) == labels


@pytest.mark.parametrize("missing", [{"text": "b"}, {"text": "b", "label": None}])
def test_labels_of_some_samples_only_are_refused(missing):
    """Prevents: a batch whose labels are dropped because its first sample has none, or 'could not infer dtype'."""
    for samples, number in (([{"text": "a", "label": 1}, missing], 1), ([missing, {"text": "a", "label": 1}], 0)):
        with pytest.raises(ValueError, match=f"number {number}, have none. Mark these by -100"):
            TextCollator(tokenizer("wordpiece"))(samples)
        pixels = [
            {"pixel_values": torch.zeros(3, 2, 2), **({"label": s["label"]} if "label" in s else {})} for s in samples
        ]
        with pytest.raises(ValueError, match=f"number {number}, have none. Mark these by -100"):
            FiniteBatches(AnnotatedCollator())(pixels)


@pytest.mark.parametrize("text", [None, 3, ["a", "b"], float("nan")])
def test_what_is_no_text_is_refused(text):
    """Prevents: an error of the tokenizer's types, which doesn't name the column."""
    with pytest.raises(ValueError, match="column 'text' holds .* where a text is expected"):
        TextCollator(tokenizer("wordpiece"))([SAMPLES[0], {"text": text}])


def test_missing_columns_are_refused_with_those_there_are():
    """Prevents: a KeyError."""
    with pytest.raises(ValueError, match=r"no text column \['sentence'\]. Its columns: \['label', 'text'\]"):
        TextCollator(tokenizer("wordpiece"), text_columns="sentence")(SAMPLES)
    with pytest.raises(ValueError, match="one column or two of pairs, not 3"):
        TextCollator(tokenizer("wordpiece"), text_columns=("a", "b", "c"))


def test_the_teacher_must_be_shown_the_same_text():
    """Prevents: words of two different texts compared."""
    collator = TextCollator(tokenizer("wordpiece"), tokenizer("byte_bpe"), teacher_text_columns="original")
    collator([{"text": "a film", "original": "a film"}])
    with pytest.raises(ValueError, match="differs from the student's in sample 1 .*'A film'"):
        collator([{"text": "a", "original": "a"}, {"text": "a film", "original": "A film"}])
    assert "original" in collator.columns


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_tokenizers_without_offsets_or_padding_are_refused_at_once(side):
    """Prevents: an error after minutes of set-up, in a worker of the data loader."""
    for wrong, message in ((SlowTokenizer(), "slow tokenizer"), (tokenizer("byte_bpe", pad_token=None), "padding")):
        sides = (wrong, tokenizer("wordpiece")) if side == "student" else (tokenizer("wordpiece"), wrong)
        with pytest.raises(ValueError, match=message):
            TextCollator(*sides)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_length": 0}, "at least 1, not 0"),
        ({"teacher_max_length": 0}, "at least 1, not 0"),
        ({"max_length": 2}, "2 tokens leave no room for a text: .* adds 2 special"),
        ({"teacher_max_length": 1}, "1 tokens leave no room"),
        ({"max_length": 3, "text_columns": ("a", "b")}, "3 tokens leave no room .* adds 3 special"),
    ],
)
def test_lengths_without_room_are_refused(settings, message):
    """Prevents: lengths that the tokenizer silently ignores, because its special tokens alone are longer."""
    with pytest.raises(ValueError, match=message):
        TextCollator(tokenizer("wordpiece"), tokenizer("byte_bpe"), **settings)


def test_rows_without_a_text_are_named(tmp_path):
    """Prevents: a TypeError of `len` for an empty cell (fault B14)."""
    (tmp_path / "rows.csv").write_text("text,label\ngood,1\n,0\nbad,0\n,1\n")
    with pytest.raises(ValueError, match=r"'text' of '.*rows.csv' holds no text but None in rows 1, 3, counted from 0"):
        load_texts(str(tmp_path / "rows.csv"), "train", "validation", "text", "label")


@pytest.mark.parametrize("folder", [True, False])
def test_words_that_pandas_takes_for_missing_ones(folder, tmp_path):
    """Prevents: samples of the class "None" that silently have no label, and texts such as "null" that aren't there."""
    (tmp_path / "train.csv").write_text("text,label,score\nnull,None,1.5\nN/A,NA,\nfine,null,nan\n")
    rows = load_text_splits(str(tmp_path if folder else tmp_path / "train.csv"))["train"]
    assert rows["text"][:] == ["null", "N/A", "fine"] and rows["label"][:] == ["None", "NA", "null"]
    assert rows["score"][:] == [1.5, None, None]


def test_files_are_those_that_are_named(tmp_path, caplog):
    """Prevents: a bracket in a name that stands for another file, and files that are left out without a word."""
    for name, text in (("my [1].csv", "named"), ("my 1.csv", "other"), ("test drive.csv", "a split")):
        (tmp_path / name).write_text(f"text,label\n{text},1\n")
    assert load_text_splits(str(tmp_path / "my [1].csv"))["train"]["text"][:] == ["named"]
    assert list(load_text_splits(str(tmp_path))) == ["test"]
    assert "This leaves out my 1.csv, my [1].csv. Name one file alone" in caplog.text
    (tmp_path / "old [1]").mkdir()
    with pytest.raises(ValueError, match=r"has a character among \[, \* and \?.*Rename the folder"):
        load_text_splits(str(tmp_path / "old [1]"))


@pytest.mark.parametrize(("text", "said"), [(None, "is None, no text"), ("film \ud83d", "half of a character at 5")])
def test_no_text_and_half_a_character_are_named(text, said):
    """Prevents: a tokenizer's TypeError for what is no text, or a lone surrogate of broken JSON (fault B14)."""
    with pytest.raises(ValueError, match=f"Number 1 of the batch.*{said}.*Leave it out"):
        tokenize_texts([("good",), (text,)], (tokenizer("wordpiece"), None))


def test_half_a_character_in_other_places():
    """Prevents: the same TypeError on the ways to `hf-e2kd explain`, to the viewer and into a store."""
    own = tokenizer("wordpiece")
    with pytest.raises(ValueError, match="half of a character at 2"):
        cut_texts(("a \ud800",), own)
    with pytest.raises(ValueError, match="Number 1 of the batch.*half of a character at 2"):
        SpanCollator(own)([{"text": "a"}, {"text": "a \ud800"}])


def test_one_split_is_divided(tmp_path):
    """Prevents: a single file that has no split to measure on (fault B15)."""
    (tmp_path / "rows.csv").write_text("\n".join(["text,label,other", *(f"film {n},{n % 2},x{n}" for n in range(20))]))
    train, evaluation = load_texts(str(tmp_path / "rows.csv"), "train", "validation", ["text", "other"], "label")
    assert (len(train), len(evaluation)) == (18, 2)
    assert str(evaluation.split) == "train" and (evaluation.split.share, evaluation.split.seed) == (0.1, 0)
    assert len({*train["text"], *evaluation["text"]}) == 20
    assert train["length"][0] == len(train["text"][0]) + len(train["other"][0])


def test_one_of_several_splits_is_not_divided(tmp_path):
    """Prevents: a mistyped split in whose place a part of the training data is measured."""
    for name in ("train", "test"):
        (tmp_path / f"{name}.csv").write_text("text,label\ngood,1\n")
    with pytest.raises(ValueError, match="has no split 'validation'. Its splits: train, test"):
        load_texts(str(tmp_path), "train", "validation", "text", "label")
