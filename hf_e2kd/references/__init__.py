"""Where the map to match comes from."""

from .base import Reference, ReferenceOutput
from .stored import StoredReference, StoredTextCollator, StoreError
from .teacher import TeacherReference

__all__ = ["Reference", "ReferenceOutput", "StoreError", "StoredReference", "StoredTextCollator", "TeacherReference"]
