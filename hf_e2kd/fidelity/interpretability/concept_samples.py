"""Images as a model sees them, with their labels cut to the same field of view."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from ...alignment.inputs import ImageView, image_view
from ...data.concepts import ConceptImages, nearest
from ...data.transforms import DistillationTransform


@dataclass(frozen=True)
class ConceptSample:
    """An image for the model, and its concepts.

    Args:
        pixel_values: (3, H, W).
        present: Places of the image's C concepts in the order of their numbers, (C,) int64.
        members: The pixels that bear each, (C, mask pixels) bool.
    """

    pixel_values: torch.Tensor
    present: torch.Tensor
    members: torch.Tensor


class ConceptSamples(Dataset):
    """Samples of `ConceptImages` for a model.

    Masks are cut to the model's field of view of the image and resized to one size by their nearest pixels, so that
    every image weighs the same. They may have another resolution than their images, but the same shape.

    Args:
        images: Images with labelled concepts.
        processor: Image processor of the model.
        mask_size: Rows and columns of the labels; by default half the model's input, as Broden's are.
        with_labels: False for the images alone.

    Raises:
        ValueError: there are no images or concepts. On reading: a mask doesn't have its image's shape, or a number that
            is no concept's.
    """

    def __init__(
        self, images: ConceptImages, processor: Any, mask_size: tuple[int, int] | None = None, with_labels: bool = True
    ):
        if not len(images) or not images.concepts:
            raise ValueError(
                f"There are {len(images)} images with {len(images.concepts)} concepts: nothing to dissect."
            )
        self.images, self.with_labels = images, with_labels
        self.view: ImageView = image_view(processor)
        self.transform = DistillationTransform(processor)
        height, width = self.view.size
        self.mask_size = mask_size or (max(1, height // 2), max(1, width // 2))
        self.numbers = sorted(images.concepts)
        # The place of each number; −1 where there is no such concept.
        self.places = np.full(self.numbers[-1] + 1, -1)
        self.places[self.numbers] = np.arange(len(self.numbers))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> ConceptSample:
        image = self.images.image(row)
        (pixel_values,) = self.transform({"image": [image]})["pixel_values"]
        if not self.with_labels:
            return ConceptSample(pixel_values, torch.empty(0), torch.empty(0))
        labels = self.images.labels(row)
        planes = labels.planes
        if len(planes):
            planes = self._cut(planes, image.height, image.width, row)
        counts = np.bincount(planes.ravel(), minlength=1) if planes.size else np.zeros(1, dtype=int)
        counts[0] = 0
        numbers = np.flatnonzero(counts)
        unknown = [number for number in (*numbers, *labels.whole) if not self._is_known(number)]
        if unknown:
            raise ValueError(
                f"The labels of {self.images.name(row)} have the number {unknown[0]}, which is no concept's. The "
                f"concepts have the numbers {self.numbers[0]} to {self.numbers[-1]}."
            )
        pixels = self.mask_size[0] * self.mask_size[1]
        members = np.zeros((len(numbers), pixels), dtype=bool)
        for plane in planes.reshape(len(planes), -1) if len(planes) else ():
            members |= plane == numbers[:, None]
        # A concept of the whole image may be in a mask too.
        whole = [number for number in dict.fromkeys(labels.whole) if number not in numbers]
        members[np.isin(numbers, labels.whole)] = True
        present = self.places[np.array([*numbers, *whole], dtype=int)]
        members = np.concatenate([members, np.ones((len(whole), pixels), dtype=bool)])
        # A pixel's concepts side by side in memory, as the tally reads them.
        members = np.ascontiguousarray(members.T).T
        return ConceptSample(pixel_values, torch.from_numpy(present), torch.from_numpy(members))

    def _is_known(self, number: int) -> bool:
        return 0 <= number < len(self.places) and self.places[number] >= 0

    def _cut(self, planes: np.ndarray, height: int, width: int, row: int) -> np.ndarray:
        """Planes (n, h, w) of an image of `height` × `width` pixels, cut and resized to (n, *mask_size)."""
        rows, columns = planes.shape[1:]
        # As exactly as two rounded sides allow.
        if abs(columns - width * rows / height) > 1 and abs(rows - height * columns / width) > 1:
            raise ValueError(
                f"The masks of {self.images.name(row)} have {rows}×{columns} pixels, and their image {height}×{width}, "
                "which is another shape. Give masks of the whole image, at any resolution."
            )
        top, left, high, wide = self.view.crop_box(height, width)
        down, across = rows / height, columns / width
        return nearest(planes, (top * down, left * across, high * down, wide * across), self.mask_size)


def collate(samples: list[ConceptSample]) -> tuple[torch.Tensor, list[ConceptSample]]:
    """Stack the images; labels stay as they are."""
    return torch.stack([sample.pixel_values for sample in samples]), samples
