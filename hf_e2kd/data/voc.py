"""PASCAL VOC 2007 and 2012 from disk: images with their objects' classes and boxes."""

from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from datasets import Dataset, DatasetDict

from .annotated import AnnotatedImage, Box, Faulty, Outside, annotated_dataset, check_apart, check_folder, read_text
from .files import path_inside

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""VOC's 20 classes, in its order."""

LAYOUT = (
    "the folder 'VOCdevkit' (or the one that holds it), with 'VOC{year}/Annotations', 'VOC{year}/JPEGImages' and "
    "'VOC{year}/ImageSets/Main'"
)


class _DocumentTypeError(Exception):
    """An XML file holds a document type."""


def load_voc(
    folder: str | Path,
    year: int = 2012,
    splits: Sequence[str] | None = None,
    *,
    difficult: bool = True,
    outside: Outside = "clip",
    faulty: Faulty = "refuse",
    skip_undecodable: bool = False,
) -> DatasetDict:
    """Load PASCAL VOC in the layout of its development kit.

    The files count pixels from 1, and both corners belong to the box; here x0 and y0 are one less, so that
    [0, 0, width, height] is the whole image.

    References:
        Everingham et al., "The Pascal Visual Object Classes Challenge", 2010. Model guidance (Rao et al., 2023) uses
        2007, e²KD (Parchami-Araghi et al., 2024) 2012.

    Args:
        folder: `VOCdevkit`, the folder that holds it, or `VOC2012` itself.
        year: 2007 or 2012, or another whose folder has this layout.
        splits: Names of lists in `ImageSets/Main`, as ["trainval", "test"]. None takes `train` and `val`, and `test`
            where there is one. Lists that share images, as `trainval` and `val` do, are loaded by a call each.
        difficult: Keep objects that are hard to recognise, flagged in the column `difficult`, as e²KD's code
            does. Without them an image has neither their boxes nor the classes that no other object of it shows: such a
            class counts as a negative of the image, where VOC's own scoring leaves the image out for this class.
        outside, faulty, skip_undecodable: See `hf_e2kd.data.annotated.annotated_dataset`.

    Returns:
        A split for each list, `val` as `validation`. Columns: `id`, `image`, `labels`, `boxes`, `box_labels`,
        `difficult`; see `hf_e2kd.data.annotated`.

    Raises:
        FileNotFoundError: a folder, a list, an annotation or an image is missing; the path is named.
        ValueError: an annotation isn't VOC's XML, holds a document type (no entity is ever resolved) or another class,
            a list isn't UTF-8, an image stands in several lists, or an image or a box is faulty; file and object are
            named.
    """
    root = _root(Path(folder), year)
    layout = LAYOUT.format(year=year)
    check_folder(root, ["Annotations", "JPEGImages", "ImageSets/Main"], layout)
    lists = root / "ImageSets" / "Main"
    wanted = list(splits or ["train", "val", *(["test"] if (lists / "test.txt").is_file() else [])])
    check_folder(lists, [f"{split}.txt" for split in wanted], f"splits among its lists, in {layout}")
    ids = {split: _read_list(lists / f"{split}.txt") for split in wanted}
    check_apart(ids, "images", lists)
    return DatasetDict(
        {
            "validation" if split == "val" else split: _load_split(
                root, lists / f"{split}.txt", ids[split], difficult, outside, faulty, skip_undecodable
            )
            for split in wanted
        }
    )


def read_annotation(path: Path) -> tuple[tuple[int, int] | None, list[Box]]:
    """The size (width, height) that an annotation states, None where it states none, and its objects.

    Raises:
        ValueError: the file isn't VOC's XML, holds a document type or another class; file and object are named.
    """
    root = parse_xml(path)
    if root.tag != "annotation":
        raise ValueError(f"{path}: the root element is <{root.tag}>. Expected VOC's <annotation>.")
    width, height = root.findtext("size/width"), root.findtext("size/height")
    size = None if width is None or height is None else (_whole(path, "width", width), _whole(path, "height", height))
    # Some tools write 0 for an unknown size.
    return (size if size != (0, 0) else None), [
        _read_object(path, number, element) for number, element in enumerate(root.findall("object"), start=1)
    ]


def parse_xml(path: Path) -> Element:
    """The root of an XML file. A document type is refused, so that no entity, external or nested, is ever resolved.

    Raises:
        ValueError: the file holds a document type, is no XML, or of an encoding that can't be read; it is named.
    """
    builder = TreeBuilder()
    parser = expat.ParserCreate()

    def refuse(*_: object) -> None:
        raise _DocumentTypeError

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(path.read_bytes(), True)
    except _DocumentTypeError:
        raise ValueError(
            f"{path}, line {parser.CurrentLineNumber}: a document type (<!DOCTYPE …>), which VOC's annotations don't "
            "have and which may make a reader open other files. Remove it."
        ) from None
    except expat.ExpatError as error:
        raise ValueError(f"{path}: not XML ({error}). Download the annotation anew.") from error
    # expat reads Unicode and what has one byte a character.
    except (LookupError, ValueError) as error:
        raise ValueError(f"{path}: its encoding can't be read ({error}). Save it as UTF-8.") from error
    return builder.close()


def _root(folder: Path, year: int) -> Path:
    """The folder `VOC<year>`, wherever it stands; where it is expected if there is none."""
    for root in (folder, folder / f"VOC{year}", folder / "VOCdevkit" / f"VOC{year}"):
        if (root / "ImageSets").is_dir():
            return root
    return folder / f"VOC{year}"


def _read_list(path: Path) -> list[str]:
    """The ids of the images that a list names."""
    ids = [line.split()[0] for line in read_text(path).splitlines() if line.strip()]
    if not ids:
        raise ValueError(f"{path} names no image. Download it anew.")
    return ids


def _load_split(
    root: Path,
    listed: Path,
    ids: Sequence[str],
    difficult: bool,
    outside: Outside,
    faulty: Faulty,
    skip_undecodable: bool,
) -> Dataset:
    paths = [path_inside(root / "JPEGImages", f"{name}.jpg", str(listed)) for name in ids]
    check_folder(root / "Annotations", [f"{name}.xml" for name in ids], f"an annotation for each image of {listed}")
    images = []
    for name, image in zip(ids, paths, strict=True):
        path = root / "Annotations" / f"{name}.xml"
        size, boxes = read_annotation(path)
        boxes = [box for box in boxes if difficult or not box.difficult]
        images.append(AnnotatedImage(name, image, [box.label for box in boxes], boxes, size=size, source=str(path)))
    return annotated_dataset(
        images, CLASSES, difficult=True, outside=outside, faulty=faulty, skip_undecodable=skip_undecodable
    )


def _read_object(path: Path, number: int, element: Element) -> Box:
    name = (element.findtext("name") or "").strip()
    called = f"object {number} ({name or 'without a name'})"
    if name not in CLASSES:
        raise ValueError(f"{path}, {called}: not a class of VOC. Its classes: {', '.join(CLASSES)}.")
    corners = []
    for side in ("xmin", "ymin", "xmax", "ymax"):
        text = element.findtext(f"bndbox/{side}")
        if text is None:
            raise ValueError(f"{path}, {called}: its <bndbox> has no <{side}>. Expected xmin, ymin, xmax and ymax.")
        try:
            corners.append(float(text))
        except ValueError as error:
            raise ValueError(f"{path}, {called}: <{side}> is {text!r}. Expected a number of pixels.") from error
    x0, y0, x1, y1 = corners
    difficult = (element.findtext("difficult") or "0").strip() == "1"
    return Box((x0 - 1, y0 - 1, x1, y1), CLASSES.index(name), called, difficult)


def _whole(path: Path, side: str, text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise ValueError(f"{path}: <{side}> is {text!r}. Expected a whole number of pixels.") from error
