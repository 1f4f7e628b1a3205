"""The treebank's sentences: every word with its polarity and place, and faulty files named to the line."""

import pytest

from hf_e2kd.data import load_sst
from hf_e2kd.data.sst import parse_tree

TRAIN = r"""(4 (2 It) (4 (2 's) (4 (4 lovely) (2 .))))
(2 (2 A) (2 film))

(0 (1 (2 -LRB-) (1 (2 ``) (1 (1 dull) (2 '')))) (0 (2 writer\/director) (2 -RRB-)))
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "train.txt").write_text(TRAIN, encoding="utf-8")
    (tmp_path / "dev.txt").write_text("(1 (1 Weak) (2 .))\n", encoding="utf-8")
    (tmp_path / "test.txt").write_text("(3 (3 Good) (2 .))", encoding="utf-8")
    return tmp_path


def test_columns(folder):
    splits = load_sst(folder)

    assert {name: len(split) for name, split in splits.items()} == {"train": 2, "validation": 1, "test": 1}
    assert splits["train"].features["label"].names == ["very negative", "negative", "positive", "very positive"]
    assert splits["train"][0] == {
        "text": "It 's lovely .",
        "label": 3,
        "words": ["It", "'s", "lovely", "."],
        "spans": [[0, 2], [3, 5], [6, 12], [13, 14]],
        "word_labels": [2, 2, 4, 2],
    }
    assert splits["validation"]["label"][:] == [1]
    assert splits["test"]["label"][:] == [2]


def test_neutral_sentences_can_be_kept(folder):
    train = load_sst(folder, neutral=True)["train"]

    assert train.features["label"].names == ["very negative", "negative", "neutral", "positive", "very positive"]
    assert train["label"][:] == [4, 2, 0]


def test_escapes_become_what_tokenizers_know(folder):
    """A tokenizer would cut "-LRB-" into five pieces that it never saw together."""
    row = load_sst(folder)["train"][1]

    assert row["text"] == '( " dull " writer/director )'
    assert [row["text"][start:end] for start, end in row["spans"]] == row["words"]
    assert row["word_labels"] == [2, 2, 1, 2, 2, 2]


def test_stars_and_rare_brackets():
    _, words, _ = parse_tree(r"(2 (2 \*\*) (2 (2 -LSB-) (2 `)))")

    assert words == ["**", "[", "'"]


def test_other_white_space_stays_inside_words(folder):
    """The treebank writes "2 1/2" with a no-break space; a line separator would end a line too early."""
    (folder / "dev.txt").write_bytes("(3 (2 2\u00a01\\/2) (3 (3 st\u2028ars) (2 \u00e9)))\r\n".encode())

    row = load_sst(folder)["validation"][0]

    assert row["words"] == ["2\u00a01/2", "st\u2028ars", "é"]
    assert row["spans"] == [[0, 5], [6, 12], [13, 14]]


def test_a_single_word_is_a_tree():
    assert parse_tree("(3 Good)") == (3, ["Good"], [3])


def test_missing_files_are_listed(folder):
    (folder / "dev.txt").unlink()
    (folder / "test.txt").unlink()

    with pytest.raises(FileNotFoundError, match=r"has no dev.txt, test.txt. Give the folder with .*train.txt"):
        load_sst(folder)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("(3 (2 It) (4 works)", r"column 20: the line ends where 1 '\)' are missing"),
        ("(3 (2 It) (4 works)))", r"column 21: '\)' closes a node"),
        ("(7 (2 It) (4 works))", r"column 1: expected '\(' and a label 0–4, or '\)', but found '\(7"),
        ("(3 (2 It) works)", "column 11: expected .* but found 'works"),
        ("(3 )", r"column 4: '\)' closes a node without a word"),
        ("(3 It) (2 works)", "column 8: a second tree begins"),
        ("It works .", "column 1: expected"),
        (")", "column 1: .* or none"),
    ],
)
def test_malformed_lines_are_named(folder, line, message):
    (folder / "train.txt").write_text("(4 Good)\n" + line, encoding="utf-8")

    with pytest.raises(ValueError, match=r"train.txt, line 2, " + message):
        load_sst(folder)


def test_other_encodings_are_named(folder):
    (folder / "test.txt").write_bytes("(4 Good)\n(4 (2 caf\u00e9) (4 good))".encode("latin-1"))

    with pytest.raises(ValueError, match=r"test.txt, line 2: not UTF-8"):
        load_sst(folder)


@pytest.mark.parametrize("content", ["", "\n\n", "(2 Neutral)"])
def test_a_file_without_sentences_is_refused(folder, content):
    (folder / "dev.txt").write_text(content)

    with pytest.raises(ValueError, match="dev.txt holds no positive or negative sentence"):
        load_sst(folder)
