"""From a data set's samples to the batches that a teacher is shown when a store is built."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import Dataset, IterableDataset
from transformers import default_data_collator

from ..alignment.inputs import image_view
from ..alignment.labels import transform_of, without_subsets
from ..data.first_samples import keeping_random_state
from ..data.transforms import DistillationTransform
from ..logs import get_logger
from .files import StoreError
from .ids import sample_id
from .key import stated_field
from .text import TextRows

logger = get_logger(__name__)

INPUTS = {"pixel_values", "input_ids", "teacher_pixel_values"}
"""Columns of which a teacher's samples hold one at least."""


class ModelInputs:
    """The default collator: the columns that the teacher's forward takes, and the labels.

    Args:
        teacher: The model.
        label_column: Column of the labels.
        processor: The teacher's image processor, which makes `pixel_values` of the images where the samples hold none.
        image_column: Column of the images.
    """

    def __init__(self, teacher: nn.Module, label_column: str, processor: Any = None, image_column: str = "image"):
        self.names = {*inspect.signature(teacher.forward).parameters, "pixel_values", "input_ids", "label", "labels"}
        self.label_column = label_column
        self.processor, self.image_column = processor, image_column
        # Made when it is needed: a processor that says too little may have made the samples' own `pixel_values`.
        self.transform: DistillationTransform | None = None

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        kept = []
        for sample in samples:
            if not isinstance(sample, Mapping):
                raise StoreError(
                    f"A sample is a {type(sample).__name__}; samples must be dictionaries, such as "
                    "{'pixel_values': image, 'labels': 3}."
                )
            if self.processor is not None and self.image_column in sample and not INPUTS & sample.keys():
                self.transform = self.transform or DistillationTransform(self.processor, image_column=self.image_column)
                made = self.transform({self.image_column: [sample[self.image_column]]})
                sample = {**sample, "pixel_values": made["pixel_values"][0]}
            own = {name: value for name, value in sample.items() if name in self.names or name.startswith("teacher_")}
            if self.label_column in sample:
                own["labels"] = sample[self.label_column]
            if "labels" in own:
                own.pop("label", None)
            if not INPUTS & own.keys():
                raise StoreError(
                    f"The samples have no 'pixel_values' for the teacher. Their columns: {sorted(sample)}. Give the "
                    "teacher's image processor or tokenizer as `processing_class` with `image_column` or "
                    "`text_columns`, or a `transform`."
                )
            kept.append(own)
        # Labels of some samples alone make no tensor, and the teacher's top class needs none.
        for column in ("labels", "label"):
            if any(own.get(column) is None for own in kept):
                kept = [{name: value for name, value in own.items() if name != column} for own in kept]
        return default_data_collator(kept)


class IndexedDataset(Dataset):
    """A data set whose samples come with their positions."""

    def __init__(self, dataset: Any):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: int) -> tuple[int, Any]:
        return row, self.dataset[row]

    def __getitems__(self, rows: Sequence[int]) -> list[tuple[int, Any]]:
        return list(zip(rows, samples_of(self.dataset, list(rows)), strict=True))


def samples_of(dataset: Any, rows: list[int]) -> list[Any]:
    """Samples by their positions, together where the data set can."""
    return dataset.__getitems__(rows) if hasattr(dataset, "__getitems__") else [dataset[row] for row in rows]


class Collate:
    """Collate samples with their positions to (ids, batch, rows of texts or None)."""

    def __init__(self, collate: Callable[..., Any], id_column: str | None):
        self.collate = collate
        self.id_column = id_column

    def __call__(self, indexed: Sequence[tuple[int, Any]]) -> tuple[list[Any], Any, TextRows | None]:
        samples = [sample for _, sample in indexed]
        if self.id_column is None:
            ids: list[Any] = [row for row, _ in indexed]
        else:
            ids = [sample_id(sample, self.id_column, row) for row, sample in indexed]
        batch = self.collate(samples)
        return (ids, *batch) if isinstance(batch, tuple) else (ids, batch, None)


def with_images(
    dataset: Any,
    processor: Any,
    transform: Callable[..., Any] | None,
    image_column: str,
    label_column: str,
    is_text: bool,
    classes: int | None = None,
) -> Any:
    """A data set whose samples are what the teacher takes.

    Args:
        classes: Number of the teacher's classes, for lists of classes' numbers that the data doesn't name.
    """
    if transform is not None:
        if not isinstance(dataset, datasets.Dataset):
            raise StoreError(
                f"`transform` is set on a datasets.Dataset, not on a {type(dataset).__name__}. Transform its samples "
                "beforehand, or give a `collator`."
            )
        return dataset.with_transform(transform)
    raw = isinstance(dataset, datasets.Dataset) and dataset.format["type"] is None
    if raw and processor is not None and not is_text and image_column in dataset.column_names:
        listed = _listed_classes(dataset.features.get(label_column), classes)
        return dataset.with_transform(
            DistillationTransform(processor, image_column=image_column, label_column=label_column, classes=listed)
        )
    return dataset


def _listed_classes(feature: Any, known: int | None) -> int | None:
    """Return the number of classes of labels that are lists of their numbers; None of other labels."""
    inner = getattr(feature, "feature", None)
    if isinstance(inner, datasets.ClassLabel):
        return inner.num_classes
    return known if isinstance(inner, datasets.Value) and "int" in inner.dtype else None


def distillation_transform(dataset: Any) -> DistillationTransform | None:
    """The transform of a `datasets.Dataset`, or one that a stream of `datasets` maps, if it is one of this package."""
    transform, step = transform_of(dataset), getattr(dataset, "_ex_iterable", None)
    # A stream is steps about each other, of which those of `map` know their function.
    while step is not None and not isinstance(transform, DistillationTransform):
        transform, step = getattr(step, "function", None), getattr(step, "ex_iterable", None)
    return transform if isinstance(transform, DistillationTransform) else None


def transform_key(transform: DistillationTransform) -> dict[str, Any]:
    """Describe the images that a transform shows the teacher, in the place of a processor's settings."""
    shown = transform.teacher or transform.student
    return {"type": type(transform).__name__, **shown.timm_settings(), **stated_field(transform.student)}


def refuse_another_view(transform: DistillationTransform, processor: Any) -> None:
    """Refuse a transform that shows the teacher other images than its processor makes, by which the store is known.

    Raises:
        StoreError: naming both.
    """
    shown = transform.teacher or transform.student
    try:
        stated = None if processor is None else image_view(processor)
    except ValueError:  # it doesn't say what it shows
        return
    if stated is not None and not shown.same_inputs(stated):
        raise StoreError(
            f"The data's DistillationTransform shows the teacher {shown}, and its processing_class makes {stated}. "
            "Build the store on the data without a transform, or give the transform the teacher's processor too: "
            "DistillationTransform(student_processor, teacher_processor)."
        )


def refuse_random_samples(dataset: Any) -> None:
    """Refuse data that is augmented at random: the stored map would belong to a view that is never seen again."""
    transform = distillation_transform(dataset)
    if transform is not None and transform.augmentation is not None:
        raise StoreError(
            "The data's DistillationTransform has an augmentation. Stored maps belong to the image without one: build "
            "the store with `DistillationTransform(processor)`, and augment in training with `record_view=True`."
        )
    # A stream may be one that can't be read twice.
    row = None if isinstance(dataset, IterableDataset | datasets.IterableDataset) else random_row(dataset)
    if row is not None:
        raise StoreError(
            f"Sample {row} is another one each time it is read. Stored maps belong to the image without "
            "augmentation: build the store on the data without it, and augment in training."
        )


def warn_of_augmentation(dataset: Any) -> None:
    """Warn of images that are augmented by something that doesn't say where in them the places of their maps are."""
    source = without_subsets(dataset)
    is_plain = isinstance(source, datasets.Dataset) and source.format["type"] != "custom"
    # A `DistillationTransform` is looked at when samples are read.
    if is_plain or distillation_transform(dataset) is not None:
        return
    with keeping_random_state(torch.device("cpu")):
        row = random_row(dataset)
        unsaid = row is not None and isinstance(dataset[row], Mapping) and "view_matrix" not in dataset[row]
    if unsaid:
        logger.warning(
            f"Sample {row} is another one each time it is read, and nothing says how its image is moved, where the "
            "stored maps stay. If more than colours change, augment by DistillationTransform(..., augmentation=..., "
            "record_view=True)."
        )


def refuse_unsaid_moves(transform: DistillationTransform | None) -> None:
    """Refuse augmented images of which nothing says where in them the places of their stored maps are."""
    if transform is not None and transform.augmentation is not None and not transform.record_view:
        raise StoreError(
            "The images are augmented, and nothing says where in them the places of the stored maps are. Set the "
            "data's transform to DistillationTransform(..., augmentation=..., record_view=True)."
        )


def random_row(dataset: Any) -> int | None:
    """Find one of a few samples that is another one each time it is read."""
    for row in sorted({share * len(dataset) // 4 for share in range(4)}) if len(dataset) else ():
        first = dataset[row]
        # A flip at even odds is the same once more as often as not.
        if not all(_same(first, dataset[row]) for _ in range(3)):
            return row
    return None


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
    if isinstance(one, Image.Image):
        return one.tobytes() == other.tobytes()
    if isinstance(one, torch.Tensor | np.ndarray):
        # NaN is itself, though it doesn't equal itself; it is refused later, by its sample.
        return one.shape == other.shape and bool(((one == other) | (one != one)).all())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(_same(a, b) for a, b in zip(one, other, strict=True))
    # Objects of unknown kinds are taken to be the same.
    return not isinstance(one, int | str | bytes) or one == other
