"""Data of the studies of image classifiers that take any labelled images."""

from dataclasses import dataclass, field

from _common import find_images
from _interpretability import StudyOptions
from datasets import Dataset

from hf_e2kd.data.first_samples import first_of_each


@dataclass
class ImageStudyOptions(StudyOptions):
    """Options of the data."""

    dataset: str | None = field(
        default=None, metadata={"help": "The folder of Tiny ImageNet or ImageNet, a folder of images, or a Hub id."}
    )
    split: str = field(default="validation", metadata={"help": "Split to measure on."})
    image_size: int = field(default=224, metadata={"help": "Side at which the networks are shown the images."})
    images_per_class: int | None = field(default=None, metadata={"help": "Train on the first so many of each class."})
    seeds: int = field(default=1, metadata={"help": "Repeat with this many seeds, counted from --seed."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dataset is None and not self.smoke:
            raise ValueError("Give --dataset, or --smoke to try the recipe out without any data.")
        for name in ("image_size", "seeds", "images_per_class"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1, not {getattr(self, name)}.")


def load_splits(options: ImageStudyOptions) -> tuple[Dataset, Dataset]:
    """Load the data to train on and to measure on."""
    assert options.dataset is not None
    splits = find_images(options.dataset)
    for name in ("train", options.split):
        if name not in splits:
            raise ValueError(f"'{options.dataset}' has no split '{name}'. Its splits: {', '.join(splits)}.")
    train, test = (splits[name].select_columns(["image", "label"]) for name in ("train", options.split))
    return first_of_each(train, options.images_per_class), test
