"""Where the map to match comes from."""

from .annotation import AnnotationReference, annotated_masks
from .base import Reference, ReferenceOutput
from .stored import StoredReference, StoredTextCollator, StoreError
from .teacher import TeacherReference

__all__ = [
    "AnnotationReference",
    "Reference",
    "ReferenceOutput",
    "StoreError",
    "StoredReference",
    "StoredTextCollator",
    "TeacherReference",
    "annotated_masks",
]
