"""Folders of small generated images in the layouts of the papers' data, for trial runs.

Each image shows a disc, whose colour tells its class, on stripes, whose direction tells the scene.
"""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (40, 48)
"""Number of rows and columns of a generated image."""

WNIDS = ("n01440764", "n01443537", "n01484850")
SCENES = ("a/abbey", "a/apartment_building/outdoor", "b/bazaar/outdoor")


def draw_disc(colour: int, scene: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw an image (H, W, 3) and the disc's mask (H, W), both uint8."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    stripes = 80 + 60 * np.sin((columns if scene % 2 else rows) * (0.6 + 0.2 * scene) + rng.uniform(0, 6))
    image = np.repeat(stripes[..., None], 3, axis=2) + rng.normal(0, 8, (*SIZE, 3))
    top, left = rng.uniform(12, SIZE[0] - 12), rng.uniform(12, SIZE[1] - 12)
    disc = (rows - top) ** 2 + (columns - left) ** 2 < 9**2
    paint = np.full(3, 40.0)
    paint[colour % 3] = 230.0
    image[disc] = paint
    return image.clip(0, 255).astype(np.uint8), np.where(disc, 255, 0).astype(np.uint8)


def write_waterbirds(folder: Path, per_group: int = 3) -> Path:
    """Write Waterbirds as WILDS unpacks it, with masks in `segmentations` beside it.

    Returns:
        The folder of the images.
    """
    root, rng = folder / "waterbirds_v1.0", np.random.default_rng(0)
    rows: list[list[object]] = []
    for split in range(3):
        for bird in range(2):
            for place in range(2):
                for number in range(per_group):
                    name = f"00{bird + 1}.Bird/Bird_{split}_{bird}{place}_{number}"
                    image, mask = draw_disc(bird, place, rng)
                    _save(root / f"{name}.jpg", image)
                    _save(folder / "segmentations" / f"{name}.png", mask)
                    rows.append([len(rows) + 1, f"{name}.jpg", bird, split, place])
    with (root / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["img_id", "img_filename", "y", "split", "place"], *rows])
    return root


def write_imagenet(folder: Path, train: int = 6, validation: int = 3) -> Path:
    """Write three of ImageNet's classes, in `train` and `val` with a folder each, so many images a class."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", validation)):
        for label, wnid in enumerate(WNIDS):
            for number in range(count):
                _save(folder / split / wnid / f"{wnid}_{number}.JPEG", draw_disc(label, number, rng)[0])
    return folder


def write_sun397(folder: Path, per_class: int = 4) -> Path:
    """Write three scenes in SUN397's layout, with its first partition into halves."""
    rng = np.random.default_rng(1)
    lists: dict[str, list[str]] = {"Training_01.txt": [], "Testing_01.txt": []}
    for label, scene in enumerate(SCENES):
        for number in range(per_class):
            name = f"{scene}/sun_{number}.jpg"
            _save(folder / name, draw_disc(label + 1, label, rng)[0])
            lists["Training_01.txt" if number % 2 else "Testing_01.txt"].append(f"/{name}")
    for file, names in lists.items():
        (folder / file).write_text("\n".join(names) + "\n", encoding="utf-8")
    return folder


def write_broden(folder: Path, count: int = 12) -> Path:
    """Write so many images in the layout of Broden 1.0, with masks of half the images' sides.

    A disc is an object by its colour, its upper half a part; the stripes' direction is a scene of the whole image, and
    every other image has a texture.
    """
    rng = np.random.default_rng(2)
    labels = {
        "object": {1: "red disc", 2: "green disc", 3: "blue disc"},
        "part": {4: "cap"},
        "scene": {5: "flat-s", 6: "upright-s"},
        "texture": {7: "striped", 300: "unseen"},
    }
    rows = []
    for number in range(count):
        image, mask = draw_disc(number, number, rng)
        small = mask[::2, ::2] > 0
        top = small & (np.cumsum(small, axis=0) <= small.sum(axis=0) // 2)
        name, planes = f"made/{number}", {"object": small * (1 + number % 3), "part": top * 4}
        _save(folder / "images" / f"{name}.jpg", image)
        for category, plane in planes.items():
            colours = np.stack([plane % 256, plane // 256, 0 * plane], axis=2).astype(np.uint8)
            _save(folder / "images" / f"{name}_{category}.png", colours)
        files = [f"{name}_{category}.png" for category in planes]
        rows.append([f"{name}.jpg", "val" if number % 4 == 3 else "train", *SIZE, SIZE[0] // 2, SIZE[1] // 2, *files])
        rows[-1] += [str(5 + number % 2), "" if number % 2 else "7"]
    _write_csv(folder / "index.csv", ["image", "split", "ih", "iw", "sh", "sw", *labels], rows)
    _write_csv(
        folder / "category.csv", ["name", "first", "last", "count", "frequency"], [[c, 0, 0, 0, 0] for c in labels]
    )
    names = [(number, name, category) for category, own in labels.items() for number, name in own.items()]
    header = ["number", "name", "category", "frequency", "coverage", "syns"]
    _write_csv(folder / "label.csv", header, [[n, name, f"{category}(1)", 1, 1.0, ""] for n, name, category in names])
    for category, own in labels.items():
        entries = [[code, number, name, 1, 1.0] for code, (number, name) in enumerate(own.items(), start=1)]
        _write_csv(folder / f"c_{category}.csv", ["code", "number", "name", "frequency", "coverage"], entries)
    return folder


def write_trees(folder: Path, train: int = 48, others: int = 8) -> Path:
    """Write so many trees as the Stanford Sentiment Treebank's: a word against the sentence, and one that tells it."""
    rng = np.random.default_rng(3)
    words = {0: "awful", 1: "dull", 3: "good", 4: "superb"}
    folder.mkdir(parents=True, exist_ok=True)
    for name, count in (("train", train), ("dev", others), ("test", others)):
        lines = []
        for number in range(count):
            label, noun = list(words)[number % 4], ("plot", "film", "cast")[rng.integers(3)]
            said, told = f"({4 - label} {words[4 - label]})", f"({label} {words[label]})"
            lines.append(f"({label} (2 The) ({label} {said} ({label} (2 {noun}) ({label} (2 is) {told}))))")
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def _write_csv(path: Path, header: list[str], rows: list[list]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Every suffix of these layouts is Pillow's, "JPEG" in capitals too.
    Image.fromarray(pixels).save(path)
