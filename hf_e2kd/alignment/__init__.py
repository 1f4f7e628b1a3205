"""Makes two different models comparable: their classes, and the grids of their maps."""

from .grids import resize_maps, sample_maps, to_common_grid
from .labels import LabelAlignment, align_labels, labels_belong_to

__all__ = ["LabelAlignment", "align_labels", "labels_belong_to", "resize_maps", "sample_maps", "to_common_grid"]
