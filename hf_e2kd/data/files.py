"""Files of samples, one or in a folder."""

import glob
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from datasets import DatasetDict, load_dataset, load_dataset_builder
from datasets.arrow_writer import SchemaInferenceError
from datasets.exceptions import DatasetsError

from ..logs import get_logger

logger = get_logger(__name__)

_CELLS: dict[str, Any] = {"keep_default_na": False, "na_values": ["", "nan", "NaN"]}
"""Options of the reader of CSV by which empty cells and NaN are missing; by default "None", "NA" and "null" are too."""

_READERS: dict[str, tuple[str, dict[str, Any]]] = {
    ".csv": ("csv", _CELLS),
    ".tsv": ("csv", {"sep": "\t", **_CELLS}),
    ".json": ("json", {}),
    ".jsonl": ("json", {}),
    ".parquet": ("parquet", {}),
    ".txt": ("text", {}),
}
"""The reader of `datasets` and its options, by a file's suffix."""


def is_data_file(path: str) -> bool:
    """True of a file with the suffix of a table or of lines of text."""
    return Path(path).suffix.lower() in _READERS and Path(path).is_file()


def load_data_file(path: str) -> DatasetDict:
    """The rows of a CSV, TSV, JSON, JSON Lines or Parquet file, or the lines of a text file, as the split "train".

    Raises:
        ValueError: the file is of another kind, holds no rows, or can't be read.
    """
    if not is_data_file(path):
        raise ValueError(
            f"'{path}' is no file of samples. Give a folder, or a file that ends in {', '.join(_READERS)}."
        )
    reader, options = _READERS[Path(path).suffix.lower()]
    if not Path(path).stat().st_size:
        raise ValueError(f"'{path}' is empty. Give a file with rows.")
    with _naming(path):
        # Else a bracket or a star in its name would stand for other files.
        return load_dataset(reader, data_files=glob.escape(path), **options)


def load_data_folder(folder: str) -> DatasetDict:
    """The splits of a folder of CSV, JSON, Parquet or text files, as `datasets` finds them; a warning names the others.

    Raises:
        ValueError: the folder's path has brackets or stars, by which other folders would be looked for; or a file holds
            no rows, or can't be read.
    """
    root = Path(folder).resolve()
    if glob.escape(str(root)) != str(root):
        raise ValueError(
            f"'{root}' has a character among [, * and ?, by which files are looked for. Rename the folder."
        )
    config = load_dataset_builder(folder).config
    used = {Path(file) for files in config.data_files.values() for file in files}
    kinds = {file.suffix for file in used}
    others = sorted(path.name for path in root.rglob("*") if path.suffix in kinds and path not in used)
    # A README.md may say which files are meant.
    if others and not (root / "README.md").is_file():
        logger.warning(
            f"'{folder}' is read as the splits {', '.join(map(str, config.data_files))} by its files' names. This "
            f"leaves out {', '.join(others[:5])}{', …' * (len(others) > 5)}. Name one file alone, or the others by "
            "their split."
        )
    with _naming(folder):
        # None but the reader of CSV has such an option.
        return load_dataset(folder, **(_CELLS if hasattr(config, "keep_default_na") else {}))


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Context in which a file or a folder is read: an error names it, and what is expected."""
    try:
        yield
    # The reader of JSON stops so at an empty file.
    except (DatasetsError, ValueError, StopIteration) as error:
        cause = error.__cause__ or error
        told = " ".join(str(cause).split()).rstrip(".")
        is_empty = not told or isinstance(cause, SchemaInferenceError) or "corresponds to no data" in told
        reason = "there are no rows" if is_empty else told
        raise ValueError(
            f"'{path}' can't be read: {reason}. Expected are rows below a line of columns' names (CSV, TSV), objects "
            "with the same keys (JSON), Parquet, or lines of text, in UTF-8; in a CSV file a text with a comma stands "
            "in double quotes."
        ) from error


def path_inside(folder: Path, name: str, source: str) -> Path:
    """The path of a file that a list or an annotation names, which must lie in its data set's folder.

    Args:
        folder: The data set's folder.
        name: Path in it.
        source: File that names it, and where, for the message.

    Raises:
        ValueError: the name is an absolute path or climbs out of the folder.
    """
    for path in (PurePosixPath(name), PureWindowsPath(name)):
        if path.anchor or ".." in path.parts:
            raise ValueError(
                f"{source} names the file {name!r}, outside the folder '{folder}'. Expected a path in it, without "
                "'..'; correct the name, or get the data anew from where you trust it."
            )
    if not PurePosixPath(name).parts or "\0" in name:
        raise ValueError(f"{source} names the file {name!r}, which no file can be called.")
    return folder / name
