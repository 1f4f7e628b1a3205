"""Images with labelled concepts, from a folder in one of two layouts."""

import json
from pathlib import Path

from hf_e2kd.data import LabelledImages, load_broden
from hf_e2kd.data.concepts import ConceptImages
from hf_e2kd.data.files import path_inside


def find_concepts(folder: str) -> ConceptImages:
    """Load Broden, or COCO's images with masks of its things and stuff.

    Args:
        folder: Folder of Broden (`index.csv` and so on); or one with an `instances.json` that also names
            `semantic_classes` by number, and with a mask of these numbers, `semantic/<id of 12 digits>.png`, for some
            of its images.

    Raises:
        ValueError: the folder has neither layout, or the file names an image outside it.
    """
    root = Path(folder)
    if (root / "index.csv").is_file() or not (root / "instances.json").is_file():
        return load_broden(root)
    content = json.loads((root / "instances.json").read_text(encoding="utf-8"))
    names = {int(number): name for number, name in content.get("semantic_classes", {}).items()}
    rows = [
        {"image": path_inside(root, image["file_name"], f"{root / 'instances.json'}"), "mask": mask}
        for image in content["images"]
        if (mask := root / "semantic" / f"{image['id']:012d}.png").is_file()
    ]
    if not names or not rows:
        raise ValueError(f"{root} has no 'semantic_classes' in instances.json, or no masks in 'semantic'.")
    return LabelledImages(rows, {"semantic": ("mask", names)})
