"""Images and texts as people have them, made into what classifiers read."""

import struct
import warnings
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, ImageOps

from ..alignment.texts import check_text, length_limit

_SIXTEEN_BITS = 65535


def open_image(source: str | Path | bytes | Image.Image | IO[bytes]) -> Image.Image:
    """Open an image upright, as its EXIF orientation says, in RGB; of an animated one the first frame.

    Args:
        source: A file's path, its content, an open file, or an image of PIL.

    Raises:
        ValueError: it is damaged, no image, or has more pixels than PIL opens, which is twice
            `PIL.Image.MAX_IMAGE_PIXELS` and stated before anything is decoded.
        OSError: the file isn't there or can't be read.
    """
    name = _name(source)
    try:
        if isinstance(source, Image.Image):
            return as_rgb(ImageOps.exif_transpose(source))
        with Image.open(BytesIO(source) if isinstance(source, bytes) else source) as image:
            return as_rgb(ImageOps.exif_transpose(image))
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{name} is too large: {error} Make it smaller first, or raise PIL.Image.MAX_IMAGE_PIXELS in Python if you "
            "trust where it comes from; the limit is twice that."
        ) from error
    except Image.UnidentifiedImageError as error:
        raise ValueError(f"{name} is no image, or of a format that PIL doesn't know. Use PNG or JPEG.") from error
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    # What PIL raises of damaged files depends on their format.
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        raise ValueError(f"{name} can't be decoded: {error}. Is the file complete?") from error


def as_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode in RGB: what is transparent is white, and more than 8 bits are scaled, not clipped.

    16-bit images go from 0 to 65,535. Others of integers (mode I) do so if that holds them, or from 0 to 255; images
    of floats (F) from 0 to 1 or 255. Where none of this holds them, they go from their least value to their largest.

    Raises:
        ValueError: an image without pixels, of values that aren't finite, or of a mode that has no conversion.
    """
    if not image.width or not image.height:
        raise ValueError(f"An image of {image.width}×{image.height} pixels has nothing to show.")
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_eight_bits(image)).convert("RGB")
    if image.has_transparency_data:
        shown = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown).convert("RGB")
    return image.convert("RGB")


def cut_text(text: str, tokenizer: Any, max_length: int | None = None) -> str:
    """The part of a text that a model reads, with a warning where that isn't all of it; see `cut_texts`."""
    return cut_texts((text,), tokenizer, max_length)[0]


def cut_texts(texts: tuple[str, ...], tokenizer: Any, max_length: int | None = None) -> tuple[str, ...]:
    """The parts that a model reads of a text, or of a pair of texts, with a warning where these aren't all.

    Args:
        texts: One, or the two of a pair.
        tokenizer: A fast tokenizer.
        max_length: Longest input in tokens, special ones included; the tokenizer's own limit by default.
    """
    for text in texts:
        check_text(text, 0)
    limit = length_limit(tokenizer, max_length)
    encoding = tokenizer(*texts, truncation=limit is not None, max_length=limit).encodings[0]
    if not encoding.overflowing:
        return texts
    parts = []
    for number, text in enumerate(texts):
        offsets = zip(encoding.offsets, encoding.sequence_ids, strict=True)
        read = [offset for offset, part in offsets if part == number]
        parts.append(text[read[0][0] : read[-1][1]] if read else "")
    warnings.warn(
        f"A {'text' if len(texts) == 1 else 'pair'} of {sum(map(len, texts)):,} characters is longer than {limit} "
        f"tokens: the model reads only {sum(map(len, parts)):,} of these characters.",
        stacklevel=2,
    )
    return tuple(parts)


def _eight_bits(image: Image.Image) -> np.ndarray:
    """An image (H, W) of more than 8 bits as uint8."""
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("The image holds NaN or infinite values.")
    least, largest = values.min(), values.max()
    ranges = {"F": (1, 255), "I": (255, _SIXTEEN_BITS)}.get(image.mode, (_SIXTEEN_BITS,))
    full = next((full for full in ranges if least >= 0 and largest <= full), None)
    if full is None:
        values, full = values - least, (largest - least) or 1
    return np.rint(values * (255 / full)).astype(np.uint8)


def _name(source: str | Path | bytes | Image.Image | IO[bytes]) -> str:
    if isinstance(source, str | Path):
        return f"'{source}'"
    name = getattr(source, "filename", None) or getattr(source, "name", None)
    return f"'{name}'" if isinstance(name, str) and name else "The image"
