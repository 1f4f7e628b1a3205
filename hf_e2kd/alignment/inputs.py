"""One image or text, as two different processors would show it to student and teacher."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as TF
from transformers import PreTrainedTokenizerBase

from ..logs import get_logger
from .own_processing import own_image_processor, own_tokenizer
from .texts import same_tokenizer

# Columns that describe a sample to the trainer and that no model's forward takes. `explained` (B,) bool says which
# samples are explained at this step; where it is missing, all are. `view_matrix` (B, R, 3) leads from the image as the
# augmentation left it to the image without augmentation, which stored maps are of.
ANNOTATION_COLUMNS = ("labels", "mask", "boxes", "box_labels", "explained", "view_matrix")

logger = get_logger(__name__)

TIMM_FRACTION = 0.875
"""The `crop_pct` that timm takes where a model states none."""


@dataclass(frozen=True)
class ImageView:
    """A model's view of an image: its size, its field of view and its normalisation.

    Args:
        size: Size (H, W) in pixels.
        mean, std: Per channel, of intensities in [0, 1].
        keeps_ratio: True where the image's shorter side is fitted and the longer one cropped; False where both are
            squashed.
        fraction: Share of the resized image's side that the centre crop keeps.
        interpolation: Filter of the resizing.
        resized: Size of the resized image, of which a crop of other proportions is kept: its shorter side, or (H, W)
            where both are squashed. None where `fraction` says all.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    keeps_ratio: bool
    fraction: float
    interpolation: InterpolationMode = InterpolationMode.BICUBIC
    resized: int | tuple[int, int] | None = None

    def __str__(self) -> str:
        size = f"{self.size[0]}×{self.size[1]} pixels"
        return f"{size}, mean {', '.join(f'{x:.3g}' for x in self.mean)}, std {', '.join(f'{x:.3g}' for x in self.std)}"

    def same_inputs(self, other: "ImageView") -> bool:
        """Tell whether one tensor serves both: of one size, normalised alike."""
        return (self.size, self.mean, self.std) == (other.size, other.mean, other.std)

    def same_field(self, other: "ImageView") -> bool:
        alike = (self.keeps_ratio, self.resized) == (other.keeps_ratio, other.resized)
        return alike and abs(self.fraction - other.fraction) < 0.02

    def crop_box(self, height: int, width: int) -> tuple[int, int, int, int]:
        """The field of view (top, left, height, width) in an image of `height` × `width` pixels."""
        if self.resized is not None:
            short = min(height, width)
            before = (short, short) if isinstance(self.resized, int) else (height, width)
            after = (self.resized, self.resized) if isinstance(self.resized, int) else self.resized
            rows, columns = self.size[0] * before[0] / after[0], self.size[1] * before[1] / after[1]
        elif not self.keeps_ratio:
            rows, columns = height * self.fraction, width * self.fraction
        else:
            side = min(height / self.size[0], width / self.size[1]) * self.fraction
            rows, columns = self.size[0] * side, self.size[1] * side
        rows, columns = max(1, round(rows)), max(1, round(columns))
        return (height - rows) // 2, (width - columns) // 2, rows, columns

    def normalise(self, intensities: torch.Tensor) -> torch.Tensor:
        """Normalise images (..., channels, H, W) in [0, 1] for the model."""
        return TF.normalize(intensities, list(self.mean), list(self.std))

    def resize(self, intensities: torch.Tensor) -> torch.Tensor:
        """Resize images (..., channels, H, W) in [0, 1] to the view's size, by its filter or the next to it."""
        if tuple(intensities.shape[-2:]) == self.size:
            return intensities
        name = self.interpolation.value
        chosen = InterpolationMode(_TENSOR_FILTERS.get(name, name))
        resized = TF.resize(intensities, list(self.size), chosen, antialias=True)
        # It overshoots at edges, where an image file ends at black and white.
        return resized.clamp(0, 1) if chosen is InterpolationMode.BICUBIC else resized

    def intensities(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Undo `normalise`."""
        shape = (-1, 1, 1)
        mean, std = (torch.tensor(x, device=pixel_values.device).view(shape) for x in (self.mean, self.std))
        return pixel_values.float() * std + mean

    def timm_settings(self) -> dict[str, Any]:
        """The view as `pretrained_cfg` of timm's wrapper states it, and `resized`, which timm doesn't know."""
        return {
            "input_size": [3, *self.size],
            "mean": list(self.mean),
            "std": list(self.std),
            "interpolation": self.interpolation.value,
            "crop_pct": self.fraction,
            "crop_mode": "center" if self.keeps_ratio else "squash",
            **({} if self.resized is None else {"resized": self.resized}),
        }


def image_view(processor: Any) -> ImageView:
    """Read an image processor's settings, those of timm's wrapper included.

    Args:
        processor: An image processor, or timm's `pretrained_cfg` (a dictionary).

    Raises:
        ValueError: the processor doesn't say what it does to an image, or does what an `ImageView` can't express.
    """
    timm = processor if isinstance(processor, Mapping) else getattr(processor, "data_config", None)
    if timm:
        return ImageView(
            tuple(timm["input_size"][1:]),
            tuple(timm["mean"]),
            tuple(timm["std"]),
            keeps_ratio=timm.get("crop_mode") != "squash",
            # Squashed images are cropped too.
            fraction=float(timm.get("crop_pct") or TIMM_FRACTION),
            interpolation=InterpolationMode(timm.get("interpolation", "bicubic")),
            resized=tuple(resized) if isinstance(resized := timm.get("resized"), list | tuple) else resized,
        )
    _refuse_inexpressible(processor)
    size: dict[str, int] = dict(getattr(processor, "size", None) or {})
    crop: dict[str, int] = (
        dict(getattr(processor, "crop_size", None) or {}) if getattr(processor, "do_center_crop", False) else {}
    )
    mean, std = _normalisation(processor)
    resample = getattr(processor, "resample", None)
    filters = {number: name for name, number in PIL_FILTERS.items()}
    interpolation = InterpolationMode(filters[2 if resample is None else int(resample)])
    if "shortest_edge" in size:
        edge = size["shortest_edge"]
        crop_pct = getattr(processor, "crop_pct", None)
        if crop_pct is not None:  # ConvNeXt: a centre crop below 384 pixels, squashed above
            return ImageView((edge, edge), mean, std, edge < 384, crop_pct if edge < 384 else 1.0, interpolation)
        cropped = (crop.get("height", edge), crop.get("width", edge))
        # LeViT's processor enlarges the shortest edge that it states.
        resized = edge * 256 / 224 if type(processor).__name__.startswith("Levit") else edge
        # Of a square crop the fraction of its side says all.
        beside = None if cropped[0] == cropped[1] else round(resized)
        return ImageView(cropped, mean, std, True, cropped[0] / resized, interpolation, beside)
    if type(processor).__name__.startswith("Perceiver") and crop:  # a square of the image is cropped, then resized
        shown = (size["height"], size["width"])
        return ImageView(shown, mean, std, True, size["height"] / crop["height"], interpolation)
    if "height" in size and "width" in size:
        whole = (size["height"], size["width"])
        cropped = (crop.get("height", whole[0]), crop.get("width", whole[1]))
        squashed = None if cropped[0] * whole[1] == cropped[1] * whole[0] else whole
        return ImageView(cropped, mean, std, False, cropped[0] / whole[0], interpolation, squashed)
    raise ValueError(
        f"{type(processor).__name__} states no size with 'height' and 'width' or 'shortest_edge' (it has {size}), "
        "so student and teacher can't be shown one view. Give the teacher's images in a column `teacher_pixel_values`."
    )


# What torchvision has of tensors: Pillow's nearest pixel is the exact one.
_TENSOR_FILTERS = {"nearest": "nearest-exact", "lanczos": "bicubic", "box": "bilinear", "hamming": "bilinear"}

# Pillow's numbers, which processors state, by torchvision's names.
PIL_FILTERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}


def _refuse_inexpressible(processor: Any) -> None:
    """Refuse settings that would silently show a model other intensities, or another size, than its processor does."""
    factor = getattr(processor, "rescale_factor", None)
    found = None
    if getattr(processor, "do_flip_channel_order", False):
        found = "do_flip_channel_order=True: it gives BGR images"
    elif type(processor).__name__.startswith("PPLCNet"):
        found = "no way but to give BGR images"
    elif not getattr(processor, "do_rescale", True):
        found = "do_rescale=False: its intensities are not in [0, 1]"
    elif factor is not None and abs(255 * factor - 1) > 1e-3:
        found = f"rescale_factor={factor} instead of 1/255: its intensities are not in [0, 1]"
    elif getattr(processor, "rescale_offset", False):
        found = "rescale_offset=True: its intensities begin at −1"
    elif not getattr(processor, "do_resize", True):
        found = "do_resize=False: its images have no fixed size"
    if found is not None:
        raise ValueError(
            f"{type(processor).__name__} has {found}, so student and teacher can't be shown one view through it. Make "
            "the images yourself, the student's in a column `pixel_values` and the teacher's in "
            "`teacher_pixel_values`, and give the trainer no `teacher_processing_class`."
        )


def _normalisation(processor: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if getattr(processor, "do_normalize", False):
        mean, std = tuple(processor.image_mean), tuple(processor.image_std)
    if getattr(processor, "include_top", False):  # EfficientNet divides by the deviation once more
        std = tuple(once * again for once, again in zip(std, processor.image_std, strict=True))
    return mean, std


class InputAdapter:
    """Give the teacher a batch that was made for the student.

    Args:
        teacher: Model that is given the batch.
        teacher_processor, student_processor: Image processors, or timm's `pretrained_cfg`; the student's images are
            resized and normalised for the teacher, so that both see the same augmented view. Or tokenizers, which must
            be the same where the batch has no columns of the teacher's own. Without the teacher's, what it states
            itself is taken, with a warning where that differs from the student's.

    Raises:
        ValueError: only the teacher's processor is known.
    """

    def __init__(self, teacher: nn.Module, teacher_processor: Any = None, student_processor: Any = None):
        if teacher_processor is not None and student_processor is None:
            raise ValueError(
                "teacher_processing_class was given without the student's processing_class. Give both, so that the "
                "student's inputs can be turned into the teacher's."
            )
        self.teacher = teacher
        self.student: nn.Module | None = None
        self.teacher_processor, self.student_processor = teacher_processor, student_processor
        self.views: tuple[ImageView, ImageView] | None = None
        self._views_known = False
        # None: nothing is known of the tokenizers yet.
        self.same_tokens: bool | None = None
        if isinstance(teacher_processor, PreTrainedTokenizerBase):
            self.same_tokens = same_tokenizer(student_processor, teacher_processor)
        elif teacher_processor is not None:
            self._set_views(image_view(student_processor), image_view(teacher_processor))

    def setup(self, student: nn.Module) -> None:
        """Take in the student, whose own statements count where no processor of it is given."""
        self.student = student

    def _set_views(self, student: ImageView, teacher: ImageView) -> None:
        self._views_known = True
        if not student.same_inputs(teacher):
            self.views = student, teacher
        if not student.same_field(teacher):
            logger.info("The teacher is shown the student's field of view, at the teacher's own size.")

    def _look_up_views(self) -> None:
        """Compare what the teacher states itself with the student's view, and take it."""
        if self._views_known:
            return
        self._views_known = True
        stated = own_image_processor(self.teacher)
        known = self.student_processor
        if known is None and self.student is not None:
            known = own_image_processor(self.student)
        if stated is None or known is None:
            return
        try:
            student, teacher = image_view(known), image_view(stated)
        except ValueError as error:
            logger.warning(f"The teacher is shown the student's images as they are. {error}")
            return
        if student.same_inputs(teacher):
            return
        if self.student_processor is None:
            logger.warning(
                "No processing_class says how the images were made, and the models state different ones: the teacher "
                f"{teacher}; the student {student}. Both are shown the same tensor. Give processing_class and "
                "teacher_processing_class, and the teacher's is made from the student's."
            )
            return
        logger.warning(
            f"No teacher_processing_class was given, so that the teacher is shown what it states itself: {teacher}; "
            f"the student's processing_class gives {student}. Where the teacher was trained on other images, give "
            "teacher_processing_class; processing_class itself, where it sees what the student sees."
        )
        self._set_views(student, teacher)

    def check_view(self, shown: ImageView) -> None:
        """Refuse images of which the teacher's can't be made, as they aren't normalised by the student's processor.

        Args:
            shown: View that the data's transform states.

        Raises:
            ValueError: naming both.
        """
        self._look_up_views()
        stated = self.views and self.views[0]
        if stated and (stated.mean, stated.std) != (shown.mean, shown.std):
            raise ValueError(
                f"The data's DistillationTransform shows {shown}, and the trainer's processing_class states {stated}, "
                "of which the teacher's images would be made. Give both the student's processor, or the transform the "
                "teacher's too: DistillationTransform(student_processor, teacher_processor)."
            )

    def teacher_view(self, has_own: bool) -> ImageView:
        """Look up the view of the images that the teacher is given.

        Args:
            has_own: True where the batch has images of the teacher's own.

        Raises:
            ValueError: no image processor is known, or it does what an `ImageView` can't express.
        """
        if self.views is not None:
            return self.views[1]
        known = [self.teacher_processor, None if has_own else self.student_processor, own_image_processor(self.teacher)]
        processor = next((each for each in known if each is not None), None)
        if processor is None:
            raise ValueError(
                "Nothing says how the teacher's images were normalised. Give the trainer the image processors as "
                "processing_class and teacher_processing_class."
            )
        return image_view(processor)

    def _look_up_tokenizers(self) -> None:
        """Compare the tokenizers that lie beside the models, and the sizes of the vocabularies where none does."""
        if self.same_tokens is not None or self.student is None:
            return
        own = self.student_processor or own_tokenizer(self.student)
        other = own_tokenizer(self.teacher)
        if isinstance(own, PreTrainedTokenizerBase) and other is not None:
            self.same_tokens = same_tokenizer(own, other)
            return
        sizes = [vocabulary_size(model) for model in (self.teacher, self.student)]
        self.same_tokens = None in sizes or sizes[0] == sizes[1]
        if self.same_tokens:
            logger.warning(
                "The teacher reads the student's token ids, and nothing says whether both have the same tokenizer. If "
                "they have, give it as processing_class and teacher_processing_class; otherwise make the batches by "
                "hf_e2kd.TextCollator(tokenizer, teacher_tokenizer)."
            )

    def _check_channels(self, pixel_values: torch.Tensor) -> None:
        expected, given = image_channels(self.teacher), pixel_values.shape[-3]
        if expected in (None, given):
            return
        raise ValueError(
            f"The student's images have {given} channel{'s' * (given > 1)}, and the teacher "
            f"({type(self.teacher).__name__}) takes {expected}. Give the teacher its own in a column "
            "`teacher_pixel_values`; hf_e2kd.data.DistillationTransform(student_processor, teacher_processor) makes "
            "both."
        )

    def __call__(self, own_inputs: Mapping[str, Any], student_inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The teacher's inputs: its own columns where the batch has them, else the student's, adapted.

        Args:
            own_inputs: The batch's `teacher_…` columns, without that prefix.
            student_inputs: The whole batch.

        Raises:
            ValueError: token ids of another vocabulary than the teacher's, or images of another number of channels.
        """
        if own_inputs:
            return dict(own_inputs)
        inputs = {
            key: value
            for key, value in student_inputs.items()
            if key not in ANNOTATION_COLUMNS and not key.startswith("teacher_")
        }
        if "input_ids" in inputs:
            self._look_up_tokenizers()
        if "pixel_values" in inputs:
            self._check_channels(inputs["pixel_values"])
            self._look_up_views()
        if "input_ids" in inputs and self.same_tokens is False:
            raise ValueError(
                f"The batch's token ids are the student's, and {type(self.teacher).__name__} has another vocabulary or "
                "padding token. Make the batches by hf_e2kd.TextCollator(tokenizer, teacher_tokenizer); where both "
                "tokenizers are the same in spite of the models' sizes, give them as processing_class and "
                "teacher_processing_class."
            )
        if self.views is not None:
            student, teacher = self.views
            intensities = student.intensities(inputs["pixel_values"])
            inputs["pixel_values"] = teacher.normalise(teacher.resize(intensities))
        return inputs


def vocabulary_size(model: nn.Module) -> int | None:
    """The number of tokens that a text model embeds, as far as its configuration says so."""
    return getattr(getattr(model, "config", None), "vocab_size", None)


def image_channels(model: nn.Module) -> int | None:
    """The number of channels that a model takes, as far as its configuration or timm's first layer says so."""
    bare = getattr(model, "timm_model", model)
    first = (getattr(bare, "pretrained_cfg", None) or {}).get("first_conv")
    if isinstance(first, str):
        return getattr(bare.get_submodule(first), "in_channels", None)
    return getattr(getattr(model, "config", None), "num_channels", None)


def teacher_inputs(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Select what a batch holds for the teacher alone, named without `teacher_`; nothing where it holds no such input.

    Other columns may be called so too, such as a `teacher_score` of the data.
    """
    own = {name.removeprefix("teacher_"): value for name, value in inputs.items() if name.startswith("teacher_")}
    return {} if own.keys().isdisjoint(("pixel_values", "input_ids")) else own


def first_tensor(inputs: Mapping[str, Any]) -> torch.Tensor:
    """The first tensor with a batch axis, whose length and device are the batch's."""
    return next(value for value in inputs.values() if isinstance(value, torch.Tensor) and value.ndim)
