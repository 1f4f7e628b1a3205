"""Alignment of two different models: their classes, the grids of their maps, and the meaning of their masks."""

from .grids import enlarged_coordinates, enlargement_matrix, resize_maps, sample_maps, to_common_grid
from .labels import LabelAlignment, align_labels, labels_belong_to
from .masks import object_masks
from .precision import at_least_float32
from .superpixels import explanation_scale, slic_superpixels, stretched, superpixel_maps, superpixel_sums

__all__ = [
    "LabelAlignment",
    "align_labels",
    "at_least_float32",
    "enlarged_coordinates",
    "enlargement_matrix",
    "explanation_scale",
    "labels_belong_to",
    "object_masks",
    "resize_maps",
    "sample_maps",
    "slic_superpixels",
    "stretched",
    "superpixel_maps",
    "superpixel_sums",
    "to_common_grid",
]
