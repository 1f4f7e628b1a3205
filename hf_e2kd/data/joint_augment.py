"""RandAugment and its like on an image with what belongs to it."""

from collections.abc import Callable
from copy import copy
from typing import Any

from torchvision import tv_tensors
from torchvision.transforms import v2

AUTO_AUGMENTS = (v2.RandAugment, v2.TrivialAugmentWide, v2.AutoAugment)
"""Transforms that draw among geometric and photometric operations, and move an image alone."""

GEOMETRIC = {"ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"}
PHOTOMETRIC = {
    *("Identity", "Brightness", "Color", "Contrast", "Sharpness"),
    *("Posterize", "Solarize", "AutoContrast", "Equalize", "Invert"),
}


class JointAugment(v2.Transform):
    """Make RandAugment, TrivialAugmentWide or AutoAugment move what belongs to an image with it.

    By themselves they refuse masks, boxes and explanation maps. Here their shears, translations and rotations act on
    these too, and what changes colours on the image alone.

    Args:
        augment: One of `AUTO_AUGMENTS`. (AugMix blends differently moved images, which no map can follow.)

    Example:
        >>> JointAugment(v2.RandAugment(num_ops=1)).augment.num_ops
        1
    """

    def __init__(self, augment: v2.Transform):
        super().__init__()
        if not isinstance(augment, AUTO_AUGMENTS):
            raise ValueError(
                f"JointAugment takes {', '.join(kind.__name__ for kind in AUTO_AUGMENTS)}, not "
                f"{type(augment).__name__}. Crops, flips, rotations and the like need no wrapper."
            )
        self.augment = augment

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        images = [value for value in flat_inputs if _is_image(value)]
        if len(images) != 1:
            raise ValueError(f"A sample has one image, not {len(images)}.")
        moves: list[Callable[[Any], Any]] = []
        augment, apply = copy(self.augment), self.augment._apply_image_or_video_transform

        def record(image: Any, operation: str, magnitude: float, **options: Any) -> Any:
            if operation in GEOMETRIC:
                # The image's fill, a colour, isn't theirs.
                options_of_others = {**options, "fill": {"others": None}}
                moves.append(lambda value: apply(value, operation, magnitude, **options_of_others))
            elif operation not in PHOTOMETRIC:
                raise ValueError(f"Whether '{operation}' of {type(augment).__name__} moves an image isn't known.")
            return apply(image, operation, magnitude, **options)

        # Each of torchvision's augmentations applies what it draws by this method.
        augment._apply_image_or_video_transform = record
        return {"image": augment(images[0]), "moves": moves}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if _is_image(inpt):
            return params["image"]
        for move in params["moves"]:
            inpt = move(inpt)
        return inpt


def _is_image(value: Any) -> bool:
    return not isinstance(value, tv_tensors.TVTensor) or isinstance(value, tv_tensors.Image | tv_tensors.Video)
