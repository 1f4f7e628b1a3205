"""From a data set's images to the batches of a student and a teacher."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from ..alignment.inputs import ImageView, image_view


class DistillationTransform:
    """Makes `pixel_values` for the student and, where its processor differs, `teacher_pixel_values` for the teacher.

    Both show the same augmented image, each at its own size and normalisation: without an augmentation the student's
    field of view; with one, the whole of what it returns. For `datasets.Dataset.set_transform`.

    Args:
        student_processor, teacher_processor: Image processors.
        augmentation: A transform of torchvision v2 on images (PIL), drawn once for both and for the mask.
        image_column, label_column, mask_column: Columns of the data set; a missing label or mask is left out.
    """

    def __init__(
        self,
        student_processor: Any,
        teacher_processor: Any = None,
        augmentation: Callable[..., Any] | None = None,
        image_column: str = "image",
        label_column: str = "label",
        mask_column: str = "mask",
    ):
        self.student = image_view(student_processor)
        teacher = None if teacher_processor is None else image_view(teacher_processor)
        # A teacher with the same view needs no second tensor.
        self.teacher = None if teacher == self.student else teacher
        self.augmentation = augmentation
        self.columns = (image_column, label_column, mask_column)

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        image_column, label_column, mask_column = self.columns
        if image_column not in batch:
            raise ValueError(f"The data set has no column '{image_column}'. Its columns: {sorted(batch)}.")
        images = [image.convert("RGB") for image in batch[image_column]]
        masks = batch.get(mask_column) or [None] * len(images)
        views: list[Any] = [self._view(image, mask) for image, mask in zip(images, masks, strict=True)]
        out: dict[str, list[Any]] = {"pixel_values": [_show(image, self.student) for image, _ in views]}
        if self.teacher is not None:
            out["teacher_pixel_values"] = [_show(image, self.teacher) for image, _ in views]
        if label_column in batch:
            out["labels"] = list(batch[label_column])
        if mask_column in batch:
            size = list(self.student.size)
            out["mask"] = [TF.resize(mask, size, InterpolationMode.NEAREST)[0] for _, mask in views]
        return out

    def _view(self, image: Image.Image, mask: Any) -> tuple[Image.Image, torch.Tensor | None]:
        """The image that both models are shown, and its mask (1, H, W) beside it."""
        if mask is not None:
            mask = tv_tensors.Mask(torch.from_numpy(np.array(mask))[None])
            if tuple(mask.shape[1:]) != (image.height, image.width):
                raise ValueError(
                    f"A mask of shape {tuple(mask.shape[1:])} doesn't fit its image of "
                    f"{image.height}×{image.width} pixels."
                )
        if self.augmentation is not None:
            return (self.augmentation(image), None) if mask is None else self.augmentation(image, mask)
        box = self.student.crop_box(image.height, image.width)
        return TF.crop(image, *box), None if mask is None else TF.crop(mask, *box)


def _show(image: Image.Image, view: ImageView) -> torch.Tensor:
    resized = TF.resize(image, list(view.size), view.interpolation)
    return view.normalise(TF.to_dtype(TF.pil_to_tensor(resized), torch.float32, scale=True))
