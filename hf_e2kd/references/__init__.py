"""Where the map to match comes from."""

from .annotation import AnnotationReference, annotated_masks
from .base import Reference, ReferenceOutput
from .teacher import TeacherReference

__all__ = [
    "AnnotationReference",
    "Reference",
    "ReferenceOutput",
    "TeacherReference",
    "annotated_masks",
]
