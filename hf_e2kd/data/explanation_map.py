"""Explanation maps that go through an image's random augmentation with it, by remembering where each place came from.

A stored map has few cells, and belongs to the image without augmentation. It isn't cropped or turned itself: of every
crop, flip or rotation, what is kept is an affine matrix from the places of the new view to those of the old one. The
loss then reads the map once, at the places of the student's own cells (`hf_e2kd.alignment.sample_maps`).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as TF

BORDERS = 16
"""Largest number of borders of filled corners and margins that are kept, two for each rotation or padding."""

# Of a row: the matrix, height and width of the canvas, height and width of the map; then the map.
_MATRIX = 3 * (2 + BORDERS)
_CANVAS, _GRID, _HEADER = slice(_MATRIX, _MATRIX + 2), slice(_MATRIX + 2, _MATRIX + 4), _MATRIX + 4
_ROUNDING = 1e-5

Canvas = tuple[int, int]
Step = Callable[..., tuple[Canvas, Sequence[Sequence[float]]]]
"""(old canvas, arguments of the transform) → new canvas, and the matrix (2, 3) from new to old pixels."""

ALLOWED: list[str] = []
"""The geometric transforms that an explanation map can follow."""


class ExplanationMap(tv_tensors.Mask):
    """Maps with their place in an image, for the transforms of torchvision v2.

    Crops, flips, resizes, rotations and affine maps that transform an image transform it too; photometric transforms
    leave it as it is; every other geometric transform, and MixUp and CutMix, refuse it. Everything is in the tensor's
    own numbers, (..., 58 + h·w), because attributes would be lost by `clone`, `to` and collating; what these return
    is read by `tensor.as_subclass(ExplanationMap)`.

    Args:
        maps: Maps (..., h, w), of the whole canvas; (0, 0) to record only how an image is moved.
        canvas_size: Size (height, width) in pixels of the image that is transformed with it.

    Example:
        >>> from torchvision.transforms import v2
        >>> image = tv_tensors.Image(torch.rand(3, 32, 32))
        >>> image, moved = v2.RandomHorizontalFlip(p=1.0)(image, ExplanationMap(torch.rand(4, 4), (32, 32)))
        >>> moved.matrix[:2]
        tensor([[-1.,  0.,  0.],
                [ 0.,  1.,  0.]])
    """

    def __new__(cls, maps: torch.Tensor, canvas_size: Sequence[int]) -> "ExplanationMap":
        if maps.ndim < 2:
            raise ValueError(f"An explanation map has the shape (..., height, width), not {tuple(maps.shape)}.")
        header = torch.zeros(_HEADER, device=maps.device)
        header[[0, 4]] = 1
        header[_CANVAS], header[_GRID] = torch.tensor(canvas_size).to(header), torch.tensor(maps.shape[-2:]).to(header)
        values = maps.as_subclass(torch.Tensor).to(header.dtype).flatten(-2)
        return torch.cat([header.expand(*maps.shape[:-2], -1), values], dim=-1).as_subclass(cls)

    @property
    def maps(self) -> torch.Tensor:
        """Maps (..., h, w), as they were given."""
        return self._numbers[..., _HEADER:].unflatten(-1, _whole(self._numbers[..., _GRID]))

    @property
    def matrix(self) -> torch.Tensor:
        """Matrix (..., 2 + BORDERS, 3) of the places (x, y, 1) in the canvas as it is now.

        The first two rows lead to (x, y) in the canvas that the maps are of. Each further one is a border: where
        |row · (x, y, 1)| is above 1, a rotation or a padding has filled the image. Rows of zeros are unused. Places go
        from −1 to 1 between the edges of a canvas, x to the right and y down.
        """
        return self._numbers[..., :_MATRIX].unflatten(-1, (-1, 3))

    @property
    def canvas_size(self) -> Canvas:
        """Size (height, width) in pixels of the canvas as it is now."""
        return _whole(self._numbers[..., _CANVAS])

    @property
    def _numbers(self) -> torch.Tensor:
        return self.as_subclass(torch.Tensor)

    def moved(self, canvas: Canvas, pixels: Sequence[Sequence[float]]) -> "ExplanationMap":
        """The same maps in another canvas.

        Args:
            canvas: Its height and width.
            pixels: (2, 3), from (x, y, 1) in pixels of the new canvas to (x, y) in pixels of this one; the pixel in
                column 0 spans x from 0 to 1.

        Raises:
            ValueError: the image was filled at its edges too often.
        """
        step = _step(self.canvas_size, canvas, pixels)
        numbers = self._numbers.cpu().numpy().copy()
        for row in numbers.reshape(-1, numbers.shape[-1]):
            row[:_MATRIX] = _composed(row[:_MATRIX].reshape(-1, 3).astype(np.float64), step).ravel()
            row[_CANVAS] = canvas
        return torch.from_numpy(numbers).to(self.device).as_subclass(type(self))


class ExplanationMapBesidePillow(ExplanationMap):
    """The same beside an image of Pillow, which rounds the size of a canvas that a rotation enlarges in its own way."""


def _step(old: Canvas, new: Canvas, pixels: Sequence[Sequence[float]]) -> np.ndarray:
    """From places of the new canvas to those of the old one, as a matrix (3, 3)."""
    (height, width), (new_height, new_width) = old, new
    # In plain numbers: a product of arrays so small takes longer, and this runs some times an image.
    rows = []
    for (a, b, c), size in zip(pixels, (width, height), strict=True):
        x, y = a * new_width, b * new_height
        rows.append((x / size, y / size, (x + y + 2 * c) / size - 1))
    return np.array([*rows, (0, 0, 1)])


def _composed(matrix: np.ndarray, step: np.ndarray) -> np.ndarray:
    """A matrix (2 + BORDERS, 3) after one more step (3, 3) from new places to old ones."""
    rows = matrix @ step
    place, borders = rows[:2], np.concatenate([rows[2:], step[:2]])
    # A row's largest value in the view is the sum of its absolute numbers: what stays within 1 borders nothing. Nor do
    # the edges of the maps themselves, outside which nothing counts anyway.
    cutting = borders[np.abs(borders).sum(1) > 1 + _ROUNDING]
    kept = cutting[(np.abs(cutting[:, None] - place).max(2) >= _ROUNDING).all(1)]
    if len(kept) > BORDERS:
        raise ValueError(
            f"An explanation map can follow {BORDERS // 2} rotations, affine maps and paddings one after the other, "
            "and this augmentation has more."
        )
    composed = np.zeros_like(rows)
    composed[:2], composed[2 : 2 + len(kept)] = place, kept
    return composed


def _whole(numbers: torch.Tensor) -> Canvas:
    """Two whole numbers, the same in every row."""
    height, width = numbers.reshape(-1, 2)[0].tolist()
    return int(height), int(width)


def _square(matrix: Sequence[Sequence[float]]) -> np.ndarray:
    return np.array([*matrix, (0, 0, 1)], dtype=np.float64)


# ---- What an explanation map follows ---------------------------------------------------------------------------------


def _follow(functional: Callable[..., Any]) -> Callable[[Step], Step]:
    """Register how a canvas changes, by torchvision's name of the transform."""

    def register(step: Step) -> Step:
        @TF.register_kernel(functional, ExplanationMap)
        def kernel(inpt: ExplanationMap, *arguments: Any, **options: Any) -> ExplanationMap:
            return inpt.moved(*step(inpt.canvas_size, *arguments, **options))

        ALLOWED.append(functional.__name__)
        return step

    return register


@_follow(TF.horizontal_flip)
def _horizontal_flip(canvas: Canvas) -> Any:
    return canvas, [(-1, 0, canvas[1]), (0, 1, 0)]


@_follow(TF.vertical_flip)
def _vertical_flip(canvas: Canvas) -> Any:
    return canvas, [(1, 0, 0), (0, -1, canvas[0])]


@_follow(TF.crop)
def _crop(canvas: Canvas, top: int, left: int, height: int, width: int) -> Any:
    return (height, width), [(1, 0, left), (0, 1, top)]


@_follow(TF.center_crop)
def _center_crop(canvas: Canvas, output_size: Any) -> Any:
    sizes = [output_size] if isinstance(output_size, int) else list(output_size)
    height, width = sizes[0], sizes[-1]
    # torchvision rounds what it cuts off and what it adds differently.
    top, left = (
        round((own - new) / 2) if own >= new else -((new - own) // 2)
        for own, new in zip(canvas, (height, width), strict=True)
    )
    return _crop(canvas, top, left, height, width)


@_follow(TF.pad)
def _pad(canvas: Canvas, padding: Any, fill: Any = None, padding_mode: str = "constant") -> Any:
    sides = [padding] if isinstance(padding, int) else list(padding)
    # Given are all sides, or those to the left (right) and above (below), or left, top, right and bottom.
    left, top, right, bottom = sides * (4 // len(sides))
    return _crop(canvas, -top, -left, canvas[0] + top + bottom, canvas[1] + left + right)


@_follow(TF.resize)
def _resize(canvas: Canvas, size: Any, interpolation: Any = None, max_size: Any = None, antialias: Any = True) -> Any:
    if isinstance(size, int) or size is None or len(size) == 1:
        size = TF.resize(_no_boxes(canvas), size, max_size=max_size).canvas_size
    height, width = size
    return (height, width), [(canvas[1] / width, 0, 0), (0, canvas[0] / height, 0)]


@_follow(TF.resized_crop)
def _resized_crop(canvas: Canvas, top: int, left: int, height: int, width: int, size: Any, *_: Any, **__: Any) -> Any:
    resized, pixels = _resize((height, width), size)
    return resized, (_square([(1, 0, left), (0, 1, top)]) @ _square(pixels))[:2].tolist()


@_follow(TF.rotate)
def _rotate(
    canvas: Canvas,
    angle: float,
    interpolation: Any = None,
    expand: bool = False,
    center: Sequence[float] | None = None,
    fill: Any = None,
) -> Any:
    new = canvas
    if expand:
        # Asked of an image: torchvision rounds the canvas of boxes otherwise.
        height, width = TF.rotate(torch.zeros(1, *canvas), angle, expand=True, center=center).shape[1:]
        new = height, width
    return _rotated(canvas, new, angle, center)


@TF.register_kernel(TF.rotate, ExplanationMapBesidePillow)
def _rotate_beside_pillow(
    inpt: ExplanationMapBesidePillow, angle: float, *, expand: bool = False, center: Any = None, **_: Any
) -> ExplanationMap:
    canvas = height, width = inpt.canvas_size
    if expand:
        width, height = TF.rotate(Image.new("1", (width, height)), angle, expand=True, center=center).size
    return inpt.moved(*_rotated(canvas, (height, width), angle, center))


def _rotated(canvas: Canvas, new: Canvas, angle: float, center: Sequence[float] | None) -> Any:
    # By this name angles count anticlockwise, in `affine` clockwise.
    _, pixels = _affine(canvas, -angle, (0, 0), 1.0, (0, 0), center=center)
    # An enlarged canvas keeps its centre.
    centred = _square([(1, 0, (canvas[1] - new[1]) / 2), (0, 1, (canvas[0] - new[0]) / 2)])
    return new, (_square(pixels) @ centred)[:2].tolist()


@_follow(TF.affine)
def _affine(
    canvas: Canvas,
    angle: float,
    translate: Sequence[float],
    scale: float,
    shear: Any,
    interpolation: Any = None,
    fill: Any = None,
    center: Sequence[float] | None = None,
) -> Any:
    x, y = (canvas[1] / 2, canvas[0] / 2) if center is None else center
    shears = [shear, 0.0] if isinstance(shear, int | float) else list(shear)
    shear_x, shear_y = (math.tan(math.radians(degrees)) for degrees in (shears[0], shears[-1]))
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    turned = _square([(scale * cosine, -scale * sine, 0), (scale * sine, scale * cosine, 0)])
    sheared = _square([(1, 0, 0), (-shear_y, 1, 0)]) @ _square([(1, -shear_x, 0), (0, 1, 0)])
    there = _square([(1, 0, x + translate[0]), (0, 1, y + translate[1])])
    forward = there @ turned @ sheared @ _square([(1, 0, -x), (0, 1, -y)])
    return canvas, np.linalg.inv(forward)[:2].tolist()


def _no_boxes(canvas: Canvas) -> tv_tensors.BoundingBoxes:
    """Ask torchvision itself how large an image becomes."""
    return tv_tensors.BoundingBoxes(torch.zeros(1, 4), format="XYXY", canvas_size=canvas)


# ---- What it refuses, and what it passes over ------------------------------------------------------------------------


def _refuse(functional: Callable[..., Any]) -> None:
    @TF.register_kernel(functional, ExplanationMap)
    def kernel(inpt: ExplanationMap, *arguments: Any, **options: Any) -> ExplanationMap:
        raise ValueError(
            f"The transform '{functional.__name__}' moves an image in a way that a stored explanation can't follow, "
            f"which has one affine matrix. Leave it out, or train with a live teacher. Allowed: "
            f"{', '.join(sorted(ALLOWED))}, and everything that changes colours alone."
        )


for _functional in (TF.perspective, TF.elastic, TF.five_crop, TF.ten_crop):
    _refuse(_functional)


@TF.register_kernel(TF.to_dtype, ExplanationMap)
def _to_dtype(inpt: ExplanationMap, dtype: torch.dtype = torch.float32, scale: bool = False) -> ExplanationMap:
    return inpt


@TF.register_kernel(TF.get_size, ExplanationMap)
def _get_size(inpt: ExplanationMap) -> list[int]:
    return list(inpt.canvas_size)
