"""The images or texts that a command line names."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from ..data.files import is_data_file, load_data_file


def find_images(inputs: Sequence[str], texts: Sequence[str] | None, model: str) -> list[str]:
    """List the paths of images, those in folders included, in order and each once."""
    if texts:
        raise ValueError(f"'{model}' classifies images: give files or folders, not --text.")
    suffixes = Image.registered_extensions()
    paths: list[str] = []
    for given in inputs:
        for path in map(Path, _lines() if given == "-" else [given]):
            if path.is_dir():
                inside = sorted(str(file) for file in path.rglob("*") if file.suffix.lower() in suffixes)
                if not inside:
                    raise ValueError(f"The folder '{path}' holds no image.")
                paths += inside
            else:
                paths.append(str(path))
    return list(dict.fromkeys(paths))


def find_texts(
    inputs: Sequence[str], texts: Sequence[str], seconds: Sequence[str], columns: Sequence[str], model: str
) -> list[tuple[str, ...]]:
    """Collect texts, or pairs, from the command line, from files, and from the non-blank lines of standard input or of
    a text file.

    Args:
        seconds: Second text of each pair.
        columns: Column of the texts in the files, or the two of pairs.
    """
    unknown = [given for given in inputs if given != "-" and not is_data_file(given)]
    if unknown:
        raise ValueError(
            f"'{model}' classifies texts, and '{unknown[0]}' is no file of them. Give --text \"…\", a file that ends "
            f"in .txt, .csv, .tsv, .json, .jsonl or .parquet, or the lines of any: hf-e2kd explain {model} - < FILE."
        )
    if seconds and (inputs or len(seconds) != len(texts)):
        raise ValueError(
            f"Pairs are given by as many --text as --text-pair, and by nothing else; here are {len(texts)} and "
            f"{len(seconds)}{' and standard input' if inputs else ''}."
        )
    found: list[tuple[str, ...]] = list(zip(texts, seconds, strict=True)) if seconds else [(text,) for text in texts]
    for given in inputs:
        found += [(line,) for line in _lines()] if given == "-" else _rows(given, columns)
    if not all(text.strip() for parts in found for text in parts) or not found:
        raise ValueError("There is nothing to explain in an empty text.")
    if len({len(parts) for parts in found}) > 1:
        raise ValueError("Some of the inputs are texts and some are pairs of texts. Explain them apart.")
    return found


def _rows(file: str, columns: Sequence[str]) -> list[tuple[str, ...]]:
    data = load_data_file(file)["train"]
    missing = [column for column in columns if column not in data.column_names]
    if missing:
        raise ValueError(
            f"'{file}' has no column '{missing[0]}'. Its columns: {', '.join(data.column_names)}. Name that "
            "of the texts by --text-column."
        )
    rows = list(zip(*(data[column] for column in columns), strict=True))
    if Path(file).suffix.lower() == ".txt":
        rows = [parts for parts in rows if parts[0].strip()]
    for number, parts in enumerate(rows):
        if faulty := [text for text in parts if not isinstance(text, str) or not text.strip()]:
            raise ValueError(
                f"Row {number} of '{file}', counted from 0 without the header, holds {faulty[0]!r} where a text is "
                "expected. Fill it in, or take the row out."
            )
    return rows


def _lines() -> Iterator[str]:
    return (line.rstrip("\r\n") for line in sys.stdin if line.strip())
