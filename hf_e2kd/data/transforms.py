"""From a data set's images to the batches of a student and a teacher."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from ..alignment.inputs import ImageView, image_view
from ..alignment.masks import object_masks
from .boxes import box_fault
from .decoding import NamedImage
from .explanation_map import ExplanationMapBesidePillow
from .joint_augment import AUTO_AUGMENTS
from .labels import refuse_lists_of_names, refuse_names, several_labels
from .opening import as_rgb, open_image


class DistillationTransform:
    """Make `pixel_values` for the student and, where its processor differs, `teacher_pixel_values` for the teacher.

    Both show the same augmented image, each at its own size and normalisation: without an augmentation the student's
    field of view; with one, the whole of what it returns. For `datasets.Dataset.set_transform`.

    Args:
        student_processor, teacher_processor: Image processors.
        augmentation: A transform of torchvision v2 on images (PIL), drawn once for both and for the mask; or one of
            albumentations, without boxes.
        record_view: Add a column `view_matrix` that says how the augmentation moved the image, with which a
            `StoredReference` finds the places of its maps: `ExplanationMap.matrix`, from what is shown to the student's
            field of view without augmentation. The augmentation may then be made of what `ExplanationMap` follows, of
            `JointAugment` and of whatever changes colours alone.
        classes: Number of classes, where a row's label is a list of them; they become zeros and ones. A vector of zeros
            and ones (or of shares) is one of floats or booleans, which stays.
        image_column, label_column, mask_column: Columns of the data set; a missing label or mask is left out. Where
            there is no `label_column`, the labels are a column `labels`, if that holds numbers. Left out too are
            missing `boxes` (N, 4), as x0, y0, x1, y1 in pixels of the image, which become pixels of `pixel_values`,
            and their `box_labels`. Boxes that an augmentation has moved out of the view go; collate the others by
            `AnnotatedCollator`. A mask is a grey image, or an array, of the image's size. What is above 127 is the
            object (`hf_e2kd.alignment.object_masks` reads 0 and 1, and floats, too); of None, nothing is. It becomes
            bool (H, W) at the size of `pixel_values`, by the nearest pixels.

    Raises:
        ValueError: with `record_view`, an augmentation of which it is known that an explanation map can't follow it. On
            a call: a missing image column; a mask of another size than its image's, or with values that say nothing; a
            box that isn't finite, has no area or is in shares of the image, named by its row's `id` where there is one;
            labels beyond the classes, or that may be numbers of classes or zeros and ones.
    """

    def __init__(
        self,
        student_processor: Any,
        teacher_processor: Any = None,
        augmentation: Callable[..., Any] | None = None,
        image_column: str = "image",
        label_column: str = "label",
        mask_column: str = "mask",
        record_view: bool = False,
        classes: int | None = None,
    ):
        self.student = image_view(student_processor)
        teacher = None if teacher_processor is None else image_view(teacher_processor)
        # A teacher with the same view needs no second tensor.
        self.teacher = None if teacher == self.student else teacher
        self.augmentation = augmentation
        self.record_view = record_view
        if record_view and augmentation is not None:
            _refuse_unrecorded(augmentation)
        self.classes = classes
        self.columns = (image_column, label_column, mask_column)
        # By which the names of a data set's classes are found: its samples have `labels` alone.
        self.label_column = label_column

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        image_column, _, mask_column = self.columns
        label_column = self._column_of_labels(batch)
        if image_column not in batch:
            raise ValueError(f"The data set has no column '{image_column}'. Its columns: {sorted(batch)}.")
        ids = batch.get("id")
        names = [f"sample {row}" if ids is None else f"id {ids[row]}" for row in range(len(batch[image_column]))]
        images = [_opened(image, name) for image, name in zip(batch[image_column], names, strict=True)]
        nothing = [None] * len(images)
        masks, boxes, labels = (batch.get(column) or nothing for column in (mask_column, "boxes", "box_labels"))
        if mask_column in batch:
            masks = [_read_mask(mask, image) for mask, image in zip(masks, images, strict=True)]
        if "boxes" in batch:
            boxes = [own or [] for own in boxes]
            for own, of_each, name in zip(boxes, labels, names, strict=True):
                _check_boxes(own, of_each, name)
        views: list[Any] = [self._view(*each) for each in zip(images, masks, boxes, labels, strict=True)]
        out: dict[str, list[Any]] = {"pixel_values": [_show(view["image"], self.student) for view in views]}
        if self.teacher is not None:
            out["teacher_pixel_values"] = [_show(view["image"], self.teacher) for view in views]
        if self.record_view:
            out["view_matrix"] = [view["place"].matrix for view in views]
        if label_column in batch:
            out["labels"] = [self._label(label) for label in batch[label_column]]
        if mask_column in batch:
            size = list(self.student.size)
            out["mask"] = [TF.resize(view["mask"].as_subclass(ObjectMask), size)[0].bool() for view in views]
        if "boxes" in batch:
            shown = [_boxes_in(view["boxes"], self.student.size) for view in views]
            out["boxes"] = [own for own, _ in shown]
            if "box_labels" in batch:
                out["box_labels"] = [view["box_labels"][kept] for view, (_, kept) in zip(views, shown, strict=True)]
        return out

    def _column_of_labels(self, batch: Mapping[str, Sequence[Any]]) -> str:
        """The column that was named; or else `labels`, as of a `TextCollator`, where that holds what becomes labels."""
        if self.label_column in batch:
            return self.label_column
        kinds = int | None if self.classes is None else int | list | None
        return "labels" if all(isinstance(label, kinds) for label in batch.get("labels", ())) else self.label_column

    def _label(self, label: Any) -> Any:
        """One class as it is, several as zeros and ones (classes,)."""
        refuse_names([label], self.columns[1])
        return several_labels(label, self.classes, self.columns[1]) if isinstance(label, Sequence) else label

    def _view(self, image: Image.Image, mask: Any, boxes: Any, box_labels: Any) -> dict[str, Any]:
        """The image that both models are shown, its mask (1, H, W), its boxes and its place in the student's field.

        Args:
            mask: (H, W) bool, which becomes 0 and 1: not all of torchvision's transforms take bool.
        """
        view: dict[str, Any] = {"image": image}
        if boxes is not None:
            corners = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
            view["boxes"] = tv_tensors.BoundingBoxes(corners, format="XYXY", canvas_size=(image.height, image.width))
            # Beside the boxes, so that an augmentation that removes some removes their classes.
            view["box_labels"] = torch.as_tensor(box_labels or [-1] * len(corners), dtype=torch.long)
        if mask is not None:
            view["mask"] = ObjectMask(mask[None].to(torch.uint8))
        top, left, height, width = box = self.student.crop_box(image.height, image.width)
        if self.record_view:
            field = ExplanationMapBesidePillow(torch.zeros(0, 0), (height, width))
            view["place"] = TF.crop(field, -top, -left, image.height, image.width)
        if self.augmentation is None:
            labels = {name: view.pop(name) for name in ("box_labels",) if name in view}
            return {name: TF.crop(value, *box) for name, value in view.items()} | labels
        if len(view) > 1 and _takes_images_alone(self.augmentation):
            others = " and ".join(name for name in ("mask", "boxes") if name in view)
            raise ValueError(
                f"{type(self.augmentation).__name__} of torchvision.transforms moves an image alone, and this one has "
                f"{others} to move with it. Take the transform of that name of torchvision.transforms.v2."
            )
        if _is_of_albumentations(self.augmentation):
            view = _albumentations(self.augmentation, view)
        elif "boxes" in view:  # by name, as SanitizeBoundingBoxes needs it
            if "mask" in view:
                _refuse_sanitizing(self.augmentation, "the image's mask for the masks of single boxes")
            view = self.augmentation(view)
        else:
            shown = self.augmentation(*view.values())
            view = {"image": shown} if len(view) == 1 else dict(zip(view, shown, strict=True))
        if not isinstance(view["image"], Image.Image):
            raise ValueError(
                f"The augmentation made {_kind(view['image'])} of a PIL image. It must give a PIL image again, as "
                "torchvision.transforms.v2 does, or be of albumentations and give bytes from 0 to 255; leave out "
                "ToTensor, ToImage, ToTensorV2 and Normalize, which are the processors'."
            )
        if self.record_view and view["place"].canvas_size != (view["image"].height, view["image"].width):
            raise ValueError(
                f"The augmentation made an image of {view['image'].height}×{view['image'].width} pixels, and told of "
                f"{view['place'].canvas_size}. Leave out the transform that moves images without torchvision's "
                "functionals, or set record_view to False, without stored explanations."
            )
        return view


class ObjectMask(tv_tensors.Mask):
    """A mask of zeros and ones: empty where its image is filled, whatever the colour, and resized as its image is.

    By torchvision's own resizing, a mask's pixel shows the upper left corner of what it covers, and not its middle: up
    to half a pixel of the smaller size, each time, to the right of its image and below it.
    """


@TF.register_kernel(TF.resize, ObjectMask)
def _resize_mask(inpt: ObjectMask, size: Any, max_size: int | None = None, **_: Any) -> ObjectMask:
    as_image = inpt.as_subclass(tv_tensors.Image)
    return TF.resize(as_image, size, InterpolationMode.NEAREST_EXACT, max_size).as_subclass(ObjectMask)


@TF.register_kernel(TF.resized_crop, ObjectMask)
def _resized_crop_mask(
    inpt: ObjectMask, top: int, left: int, height: int, width: int, size: Any, **_: Any
) -> ObjectMask:
    return _resize_mask(TF.crop(inpt, top, left, height, width), size)


def _leave_unfilled(functional: Callable[..., Any]) -> None:
    @TF.register_kernel(functional, ObjectMask)
    def kernel(inpt: ObjectMask, *arguments: Any, fill: Any = None, **options: Any) -> ObjectMask:
        return functional(inpt.as_subclass(tv_tensors.Mask), *arguments, **options).as_subclass(ObjectMask)


# A number would be a mask's value too, and a colour has more channels than a mask.
for _functional in (TF.affine, TF.elastic, TF.pad, TF.perspective, TF.rotate):
    _leave_unfilled(_functional)


def _opened(image: Any, name: str) -> Image.Image:
    """An image in RGB, decoded where `datasets.Image(decode=False)` has left a file's path or content."""
    if isinstance(image, Image.Image):
        return as_rgb(image)
    if isinstance(image, Mapping) and (image.get("bytes") or image.get("path")):
        return open_image(image.get("bytes") or Path(image["path"]))
    raise ValueError(
        f"The image of {name} is {'None' if image is None else _kind(image)}. Accepted are images of PIL and what "
        "`datasets.Image` holds, decoded or not; leave samples without an image out, and cast paths and arrays: "
        "dataset.cast_column('image', datasets.Image())."
    )


def _kind(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return f"{type(value).__module__.split('.')[0]}.{type(value).__name__}" + (f" {tuple(shape)}" if shape else "")


def _is_of_albumentations(augmentation: Any) -> bool:
    return any(kind.__module__.startswith("albumentations") for kind in type(augmentation).__mro__)


def _takes_images_alone(augmentation: Any) -> bool:
    """Tell whether a transform is one of torchvision's first version."""
    module = type(augmentation).__module__
    return module.startswith("torchvision.transforms.") and not module.startswith("torchvision.transforms.v2")


def _albumentations(augmentation: Callable[..., Any], view: Mapping[str, Any]) -> dict[str, Any]:
    """Apply albumentations to a view: it is called by name, on arrays (H, W, 3) and (H, W)."""
    others = sorted(view.keys() - {"image", "mask"})
    if others:
        raise ValueError(
            f"albumentations is given images and masks, and this view has {', '.join(others)} too. Use "
            "torchvision.transforms.v2 for boxes and for record_view=True."
        )
    arrays = {"image": np.asarray(view["image"])}
    if "mask" in view:
        arrays["mask"] = view["mask"][0].numpy()
    shown = augmentation(**arrays)
    made: dict[str, Any] = {"image": shown["image"]}
    if isinstance(shown["image"], np.ndarray) and shown["image"].dtype == np.uint8:
        made["image"] = Image.fromarray(shown["image"])
    if "mask" in view:
        made["mask"] = tv_tensors.Mask(torch.from_numpy(np.ascontiguousarray(shown["mask"]))[None])
    return made


def _refuse_unrecorded(augmentation: Any) -> None:
    """Look for transforms that would leave an explanation map where it is, or stop at it with an unclear error."""
    if not isinstance(augmentation, v2.Transform):
        raise ValueError(
            f"record_view=True needs an augmentation of torchvision.transforms.v2, and {type(augmentation).__name__} "
            f"is of {type(augmentation).__module__}."
        )
    if isinstance(augmentation, (*AUTO_AUGMENTS, v2.AugMix)):
        name = type(augmentation).__name__
        remedy = "Leave it out." if isinstance(augmentation, v2.AugMix) else f"Use JointAugment({name}(...))."
        raise ValueError(f"{name} transforms an image without telling how it was moved. {remedy}")
    _refuse_sanitizing(augmentation, "an explanation map for the masks of single boxes")
    for inner in getattr(augmentation, "transforms", ()):
        _refuse_unrecorded(inner)


def _refuse_sanitizing(augmentation: Any, mistake: str) -> None:
    if isinstance(augmentation, v2.SanitizeBoundingBoxes):
        raise ValueError(
            f"SanitizeBoundingBoxes takes {mistake}. Leave it out: boxes that have left the view go by themselves."
        )
    for inner in getattr(augmentation, "transforms", ()):
        _refuse_sanitizing(inner, mistake)


def _read_mask(mask: Any, image: Image.Image) -> torch.Tensor:
    """An image's mask (H, W), bool; all False where it is None."""
    size = (image.height, image.width)
    if mask is None:
        return torch.zeros(size, dtype=torch.bool)
    if isinstance(mask, Mapping):  # not decoded, as by `datasets.Image(decode=False)`
        mask = NamedImage().decode_example(mask)
    if isinstance(mask, str | Path):
        raise ValueError(
            f"The mask '{mask}' is a path. Let `datasets` open such files: dataset.cast_column('mask', "
            "datasets.Image())."
        )
    if isinstance(mask, Image.Image) and mask.mode not in ("1", "L"):
        raise ValueError(
            f"A mask is an image of mode {mask.mode}. Give a grey one, mask.convert('L'), or, where its values are "
            "class ids, one class's mask: np.asarray(mask) == id."
        )
    values = mask if isinstance(mask, torch.Tensor) else torch.from_numpy(np.array(mask))
    if tuple(values.shape) != size:
        raise ValueError(
            f"A mask of shape {tuple(values.shape)} doesn't fit its image of {image.height}×{image.width} pixels."
        )
    return object_masks(values)


def _check_boxes(boxes: Any, labels: Any, name: str) -> None:
    """Refuse boxes that would vanish, in the resizing or among the pixels, without a word, and labels of others.

    Rows of −1 are padding.
    """
    if labels:
        refuse_lists_of_names(labels, "box_labels")
        if len(labels) != len(boxes):
            raise ValueError(
                f"There are {len(boxes)} boxes of {name}, and {len(labels)} box_labels. Give one for each."
            )
    for number, box in enumerate(boxes):
        corners = [float(value) for value in box]
        fault = box_fault(corners)
        if fault and corners != [-1.0] * 4:
            raise ValueError(
                f"Box {number} of {name}, {corners} as x0, y0, x1, y1, {fault}. Mend it or leave it out, and convert "
                "boxes given as x, y, width, height."
            )
        if min(corners) >= 0 and max(corners) <= 1:
            raise ValueError(
                f"Box {number} of {name}, {corners} as x0, y0, x1, y1, lies within the image's first pixel. Give boxes "
                "in pixels: multiply shares of the image by its width and height."
            )


def _boxes_in(boxes: tv_tensors.BoundingBoxes, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """A view's boxes (N, 4) in pixels of the model's input, and which of all of them they are, (all,) bool."""
    resized = TF.clamp_bounding_boxes(TF.resize(boxes, list(size))).as_subclass(torch.Tensor)
    has_area = (resized[:, 2] > resized[:, 0]) & (resized[:, 3] > resized[:, 1])
    return resized[has_area], has_area


def _show(image: Image.Image, view: ImageView) -> torch.Tensor:
    if len(view.mean) == 1:
        image = image.convert("L")
    resized = TF.resize(image, list(view.size), view.interpolation)
    return view.normalise(TF.to_dtype(TF.pil_to_tensor(resized), torch.float32, scale=True))
