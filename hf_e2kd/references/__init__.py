"""References: the sources of the logits, maps and features that a student matches."""

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
