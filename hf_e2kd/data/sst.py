"""The Stanford Sentiment Treebank with the polarity of each word, from its trees on disk."""

import re
from collections.abc import Sequence
from pathlib import Path

from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

FILES = {"train": "train.txt", "validation": "dev.txt", "test": "test.txt"}
"""The file of each split."""

SENTIMENTS = ("very negative", "negative", "neutral", "positive", "very positive")
"""The names of the treebank's labels 0–4."""

NEUTRAL = 2
"""The middle of the treebank's scale, for sentences and for words."""

ESCAPES = {
    **{"-LRB-": "(", "-RRB-": ")", "-LSB-": "[", "-RSB-": "]", "-LCB-": "{", "-RCB-": "}"},
    **{"``": '"', "''": '"', "`": "'"},
}
"""Words that the Penn treebank writes in another way. A slash or star inside a word stands behind a backslash."""

# A leaf as "(3 lovely)", the opening of an inner node as "(3 ", or a closing bracket. Only ASCII white space parts
# words: the treebank has words with a no-break space, as "2 1/2".
NODE = re.compile(r"\(([0-4])[ \t]+(?:([^() \t\r]+)[ \t]*\))?|(\))|[ \t\r]+")


def load_sst(folder: str | Path, neutral: bool = False) -> DatasetDict:
    """Load the treebank: sentences with their sentiment and the polarity of each word.

    References:
        Socher et al., "Recursive Deep Models for Semantic Compositionality Over a Sentiment Treebank", EMNLP 2013.
        The files are `trainDevTestTrees_PTB.zip` of https://nlp.stanford.edu/sentiment/.

    Args:
        folder: Folder of `train.txt`, `dev.txt` and `test.txt`, UTF-8, one tree a line: `(3 (2 It) (4 ...))`.
        neutral: Keep the sentences of label 2. Without them the classes are "very negative", "negative",
            "positive" and "very positive"; with them "neutral" stands in the middle.

    Returns:
        The splits `train`, `validation` and `test`. Columns:

        - `text`: the words joined by spaces, brackets and quotation marks as a tokenizer knows them
        - `label`: the sentence's class, a `ClassLabel`
        - `words`: the words
        - `spans`: [start, end) of each word in `text`, in characters
        - `word_labels`: each word's polarity, from 0 (very negative) over 2 (neutral) to 4

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a line is no tree, not UTF-8, or a file holds no tree; file, line and column are named.
    """
    folder = Path(folder)
    missing = [name for name in FILES.values() if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"'{folder}' has no {', '.join(missing)}. Give the folder with the treebank's {', '.join(FILES.values())}: "
            "unpack trainDevTestTrees_PTB.zip of https://nlp.stanford.edu/sentiment/."
        )
    return DatasetDict({split: _load_file(folder / name, neutral) for split, name in FILES.items()})


def parse_tree(line: str) -> tuple[int, list[str], list[int]]:
    """Read one tree: its root's label, and its leaves' words (escapes undone) and labels.

    Raises:
        ValueError: the line is no tree; the column, counted from 1, is named.

    Example:
        >>> parse_tree("(4 (2 It) (4 (2 's) (4 lovely)))")
        (4, ['It', "'s", 'lovely'], [2, 2, 4])
    """
    words: list[str] = []
    labels: list[int] = []
    root = None
    children: list[int] = []  # of each open node
    place = 0
    while place < len(line):
        found = NODE.match(line, place)
        if found is None:
            raise ValueError(
                f"column {place + 1}: expected '(' and a label 0–4, or ')', but found {line[place:][:20]!r}"
            )
        label, word, closing = found.groups()
        if label is not None:
            if root is not None and not children:
                raise ValueError(f"column {place + 1}: a second tree begins, but a line holds one")
            root = int(label) if root is None else root
            if children:
                children[-1] += 1
            if word is None:
                children.append(0)
            else:
                words.append(unescape(word))
                labels.append(int(label))
        elif closing is not None and (not children or children.pop() == 0):
            raise ValueError(f"column {place + 1}: ')' closes a node without a word, or none")
        place = found.end()
    if root is None:
        raise ValueError("column 1: the line holds no tree")
    if children:
        raise ValueError(f"column {len(line) + 1}: the line ends where {len(children)} ')' are missing")
    return root, words, labels


def unescape(word: str) -> str:
    r"""A word of the Penn treebank as it is written elsewhere.

    Example:
        >>> [unescape(word) for word in ["-LRB-", "``", r"writer\/director"]]
        ['(', '"', 'writer/director']
    """
    return ESCAPES.get(word) or word.replace("\\/", "/").replace("\\*", "*")


def join_words(words: Sequence[str]) -> tuple[str, list[list[int]]]:
    """The words joined by spaces, and the [start, end) of each in characters.

    Example:
        >>> join_words(["It", "'s"])
        ("It 's", [[0, 2], [3, 5]])
    """
    spans, end = [], -1
    for word in words:
        start = end + 1
        end = start + len(word)
        spans.append([start, end])
    return " ".join(words), spans


def word_features(classes: Sequence[str]) -> Features:
    """The columns of a data set of sentences with labelled words."""
    return Features(
        {
            "text": Value("string"),
            "label": ClassLabel(names=list(classes)),
            "words": List(Value("string")),
            "spans": List(List(Value("int64"), length=2)),
            "word_labels": List(Value("int64")),
        }
    )


def _load_file(path: Path, neutral: bool) -> Dataset:
    classes = [name for label, name in enumerate(SENTIMENTS) if neutral or label != NEUTRAL]
    features = word_features(classes)
    columns: dict[str, list] = {name: [] for name in features}
    # Split as bytes: `str.splitlines` would also cut at characters that stand inside sentences.
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            label, words, word_labels = parse_tree(line.decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}, line {number}: not UTF-8 ({error}). Convert the file to UTF-8.") from error
        except ValueError as error:
            raise ValueError(
                f"{path}, line {number}, {error}. A line is a tree such as '(3 (2 It) (4 works))'."
            ) from error
        if label == NEUTRAL and not neutral:
            continue
        text, spans = join_words(words)
        row = (text, classes.index(SENTIMENTS[label]), words, spans, word_labels)
        for column, value in zip(columns.values(), row, strict=True):
            column.append(value)
    if not columns["text"]:
        raise ValueError(f"{path} holds no {'' if neutral else 'positive or negative '}sentence. Is it the right file?")
    return Dataset.from_dict(columns, features=features)
