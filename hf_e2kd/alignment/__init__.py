"""Makes two different models comparable: their classes, the grids of their maps, and what their masks mean."""

from .grids import resize_maps, sample_maps, to_common_grid
from .labels import LabelAlignment, align_labels, labels_belong_to
from .masks import object_masks

__all__ = [
    "LabelAlignment",
    "align_labels",
    "labels_belong_to",
    "object_masks",
    "resize_maps",
    "sample_maps",
    "to_common_grid",
]
