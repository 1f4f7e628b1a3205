"""Images of every kind that people have, and long texts."""

import struct
import warnings
import zlib
from io import BytesIO

import numpy as np
import pytest
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image
from transformers import ViTImageProcessor

from hf_e2kd.data.images import sample_names
from hf_e2kd.data.opening import as_rgb, cut_text, open_image
from hf_e2kd.data.transforms import DistillationTransform
from tests.tokenizers import KINDS, tokenizer

RAMP = np.linspace(0, 1, 12).reshape(3, 4)
GREY = np.rint(RAMP * 255)


def grey(image):
    assert image.mode == "RGB"
    channels = np.asarray(image).astype(float)
    assert (channels == channels[..., :1]).all()
    return channels[..., 0]


@pytest.mark.parametrize(
    ("values", "dtype", "suffix", "expected"),
    [
        (RAMP * 65535, np.uint16, "png", GREY),
        (RAMP * 65535, np.uint16, "tif", GREY),
        (RAMP * 1000, np.uint16, "png", np.rint(RAMP * 1000 / 257)),  # a dark one stays dark
        (RAMP * 65535, np.int32, "tif", GREY),
        (RAMP * 255, np.int32, "tif", np.floor(RAMP * 255)),
        (RAMP * 4e9 - 2e9, np.int32, "tif", GREY),
        (RAMP, np.float32, "tif", GREY),
        (RAMP * 255, np.float32, "tif", GREY),
        (RAMP * 6 - 3, np.float32, "tif", GREY),
        (np.full((2, 2), -7.0), np.float32, "tif", np.zeros((2, 2))),
    ],
)
def test_more_than_eight_bits(tmp_path, values, dtype, suffix, expected):
    """Prevents: a photograph of 16 bits clipped to white, as PIL's own conversion leaves it."""
    Image.fromarray(values.astype(dtype)).save(tmp_path / f"image.{suffix}")
    assert abs(grey(open_image(tmp_path / f"image.{suffix}")) - expected).max() <= 1


def encoded(image, kind="PNG", **options):
    stream = BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def palette():
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    return encoded(image, transparency=1)


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    image = Image.new("RGB", (32, 16), "white")
    image.paste("black", (0, 0, 16, 16))
    return encoded(image, "JPEG", exif=exif, quality=100)


def animated():
    frames = [Image.new("RGB", (3, 3), colour) for colour in ("red", "blue")]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


@pytest.mark.parametrize(
    ("content", "size", "corners"),
    [
        (encoded(Image.new("RGB", (1, 1), "red")), (1, 1), [(255, 0, 0)] * 2),
        (encoded(Image.new("1", (2, 2), 1)), (2, 2), [(255, 255, 255)] * 2),
        (encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF"), (8, 8), [(255, 0, 0)] * 2),
        (palette(), (2, 1), [(255, 0, 0), (255, 255, 255)]),
        (encoded(Image.new("RGBA", (2, 2), (0, 0, 0, 0))), (2, 2), [(255, 255, 255)] * 2),
        (encoded(Image.new("LA", (2, 2), (0, 255))), (2, 2), [(0, 0, 0)] * 2),
        (animated(), (3, 3), [(255, 0, 0)] * 2),
        (turned(), (16, 32), [(0, 0, 0), (255, 255, 255)]),
    ],
    ids=["one pixel", "bits", "CMYK", "palette", "transparent", "grey and opaque", "animated", "turned"],
)
def test_kinds(tmp_path, content, size, corners):
    """Prevents: an image that lies on its side, in wrong colours or black where it is transparent."""
    (tmp_path / "image").write_bytes(content)
    with open(tmp_path / "image", "rb") as file:
        for source in (content, tmp_path / "image", str(tmp_path / "image"), file, Image.open(BytesIO(content))):
            image = open_image(source)
            assert (image.mode, image.size) == ("RGB", size)
            assert [image.getpixel((0, 0)), image.getpixel((size[0] - 1, size[1] - 1))] == corners


def announced(width, height):
    """A PNG of a few bytes that says it had so many pixels."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


PHOTO = encoded(Image.effect_noise((64, 64), 50), "JPEG")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (announced(20000, 10000), r"photo.png' is too large: .*200000000 pixels.* limit of 178956970 .* smaller"),
        (PHOTO[: len(PHOTO) // 2], "photo.png' can't be decoded: .*truncated"),
        (announced(8, 8), "photo.png' can't be decoded"),
        (b"GIF89a", "photo.png' "),
        (b"<html>", "photo.png' is no image"),
        (b"", "photo.png' is no image"),
        (encoded(Image.fromarray(np.full((2, 2), np.nan, np.float32)), "TIFF"), "photo.png' .*NaN"),
    ],
)
def test_refusals(tmp_path, content, message):
    """Prevents: a machine without memory after an image from elsewhere, and errors that don't say which file it was."""
    (tmp_path / "photo.png").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        open_image(tmp_path / "photo.png")
    with pytest.raises(ValueError, match=r"^The image "):
        open_image(content)


def test_not_there(tmp_path):
    """Prevents: a file with a wrong name taken for a damaged one."""
    with pytest.raises(FileNotFoundError, match="nothing.png"):
        open_image(tmp_path / "nothing.png")
    with pytest.raises(ValueError, match="0×5 pixels"):
        as_rgb(Image.new("RGB", (0, 5)))


def test_images_of_a_data_set():
    """Prevents: a data set of X-rays, of 16 bits, on which every image is white."""
    transform = DistillationTransform(ViTImageProcessor(size={"height": 3, "width": 4}, do_normalize=False))
    pixels = transform({"image": [Image.fromarray((RAMP * 65535).astype(np.uint16))]})["pixel_values"][0]
    np.testing.assert_allclose(pixels, np.broadcast_to(RAMP, (3, 3, 4)), atol=3e-3)


def test_samples_are_named_by_their_files(tmp_path):
    """Prevents: a picture whose samples nobody finds in the folder, or one that shows where the folder lies."""
    for name in ("hat", "shoe"):
        Image.new("RGB", (4, 3)).save(tmp_path / f"{name}.png")
    cells = [str(tmp_path / "hat.png"), str(tmp_path / "shoe.png")]
    data = Dataset.from_dict({"photo": cells}).cast_column("photo", ImageFeature())
    shown = data.with_transform(DistillationTransform(ViTImageProcessor(), image_column="photo"))
    assert sample_names(shown, [1, 0]) == ["shoe.png", "hat.png"]
    without = Dataset.from_dict({"photo": [Image.new("RGB", (4, 3))]}, features=Features(photo=ImageFeature()))
    assert sample_names(without, [0]) == sample_names([{"pixel_values": None}], [0]) == ["sample 0"]


@pytest.mark.parametrize("kind", KINDS)
def test_long_texts(kind):
    """Prevents: a book of which the model silently reads the first page."""
    own = tokenizer(kind)
    text = "a wonderful film, " * 20_000
    with pytest.warns(UserWarning, match="longer than 20 tokens") as warned:
        part = cut_text(text, own, 20)
    assert text.startswith(part) and 20 < len(part) < 200
    assert f"the model reads only {len(part)} of these characters" in str(warned[0].message)
    read = own([part, text], truncation=True, max_length=20)["input_ids"]
    assert read[0] == read[1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cut_text(part, own, 20) == part


def test_text_cut_at_its_start():
    """Prevents: the other end of a text shown than the one that was read."""
    text = "the worst film " * 30 + "but a wonderful end"
    with pytest.warns(UserWarning, match="longer"):
        assert text.endswith(cut_text(text, tokenizer("wordpiece", truncation_side="left"), 12))
