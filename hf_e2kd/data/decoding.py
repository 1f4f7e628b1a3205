"""Image files that can't be decoded: found before a training, and named in it."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from datasets import Dataset, Image
from PIL import Image as PILImage

ORIENTATION = 0x0112
"""The EXIF tag by which `datasets` turns an image as it decodes it."""

JPEG_END = b"\xff\xd9"
"""The marker at the end of a JPEG's data, where it can't stand by chance."""

TAIL = 64
"""In how many bytes of a file's end it is looked for, as some programs append a few."""


class NamedImage(Image):
    """`datasets.Image`, whose errors name the file. Saved and loaded again, it is a plain one."""

    def decode_example(self, value: Any, token_per_repo_id: dict[str, Any] | None = None) -> Any:
        try:
            return super().decode_example(value, token_per_repo_id)
        except FileNotFoundError:
            raise
        # Pillow raises many types on malformed files, SyntaxError and struct.error among them.
        except Exception as error:
            name = f"'{value['path']}'" if value["path"] else "An image of the data set"
            raise ValueError(
                f"{name} can't be decoded ({type(error).__name__}: {error}). Mend or remove it; "
                "hf_e2kd.data.undecodable_images finds all such rows, and the loaders leave them out with "
                "skip_undecodable=True, hf-e2kd distill and the recipes with --skip_undecodable true."
            ) from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Image) and (self.mode, self.decode) == (other.mode, other.decode)


def image_size(path: Path, decode: bool) -> tuple[int, int]:
    """Read the size (width, height) of an image as `datasets` decodes it, turned where its EXIF says so.

    Args:
        decode: Decode the whole image. Otherwise a JPEG that has a header and an end is believed; one
            without its end, and an image of another format, is decoded all the same.

    Raises:
        ValueError: it can't be decoded; the file is named, and what is wrong with it.
    """
    try:
        with path.open("rb") as file, PILImage.open(file) as image:
            if decode or image.format != "JPEG" or not _has_end(file):
                image.load()
            turned = image.getexif().get(ORIENTATION, 1) >= 5
            return (image.height, image.width) if turned else image.size
    # Pillow raises many types on malformed files, SyntaxError and struct.error among them.
    except Exception as error:
        raise ValueError(f"'{path}' ({type(error).__name__}: {error})") from error


def undecodable_images(dataset: Dataset, column: str = "image") -> list[int]:
    """The rows whose image can't be decoded, as of files that are cut off: decodes every image once, in threads.

    Example:
        >>> from datasets import Features
        >>> cells = [{"path": None, "bytes": b"no image"}]
        >>> undecodable_images(Dataset.from_dict({"image": cells}, features=Features({"image": Image()})))
        [0]
    """
    feature = dataset.features[column]

    def fails(cell: Any) -> bool:
        try:
            feature.decode_example(cell)
        # Pillow raises many types on malformed files, SyntaxError and struct.error among them.
        except Exception:
            return True
        return False

    cells: Iterable[Any] = dataset.with_format(None).cast_column(column, Image(decode=False))[column]
    with ThreadPoolExecutor(workers()) as pool:
        return [row for row, fault in enumerate(pool.map(fails, cells)) if fault]


def workers() -> int:
    """The number of threads that open or decode images."""
    return min(8, os.cpu_count() or 1)


def _has_end(file: IO[bytes]) -> bool:
    """Tell whether a JPEG isn't cut off; the file is left where it was."""
    place = file.tell()
    file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
    tail = file.read()
    file.seek(place)
    return JPEG_END in tail
