"""The images or texts that a command line names."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image


def find_images(inputs: Sequence[str], texts: Sequence[str] | None, model: str) -> list[str]:
    """Paths of images, those in folders included, in order."""
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
    return paths


def find_texts(
    inputs: Sequence[str], texts: Sequence[str], seconds: Sequence[str], model: str
) -> list[tuple[str, ...]]:
    """The texts of the command line, and of standard input those lines that aren't blank; or pairs of texts.

    Args:
        seconds: The second text of each pair.
    """
    files = [given for given in inputs if given != "-"]
    if files:
        raise ValueError(
            f"'{model}' classifies texts, and '{files[0]}' is given as a file. Give --text \"…\", or the lines of a "
            f"file: hf-e2kd explain {model} - < FILE."
        )
    if seconds and (inputs or len(seconds) != len(texts)):
        raise ValueError(
            f"Pairs are given by as many --text as --text-pair, and by nothing else; here are {len(texts)} and "
            f"{len(seconds)}{' and standard input' if inputs else ''}."
        )
    found = [*texts, *(_lines() if inputs else ())]
    if not all(text.strip() for text in [*found, *seconds]) or not found:
        raise ValueError("There is nothing to explain in an empty text.")
    return list(zip(found, seconds, strict=True)) if seconds else [(text,) for text in found]


def _lines() -> Iterator[str]:
    return (line.rstrip("\r\n") for line in sys.stdin if line.strip())
