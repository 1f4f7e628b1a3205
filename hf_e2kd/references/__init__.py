"""Where the map to match comes from."""

from ..terms.base import ReferenceOutput
from .annotation import AnnotationReference, annotated_masks
from .base import Reference
from .teacher import TeacherReference

__all__ = [
    "AnnotationReference",
    "Reference",
    "ReferenceOutput",
    "TeacherReference",
    "annotated_masks",
]
