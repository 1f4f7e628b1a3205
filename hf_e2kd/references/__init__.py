"""Where the map to match comes from."""

from .base import Reference, ReferenceOutput
from .store_files import StoreError
from .stored import StoredReference
from .stored_text import StoredTextCollator
from .teacher import TeacherReference

__all__ = ["Reference", "ReferenceOutput", "StoreError", "StoredReference", "StoredTextCollator", "TeacherReference"]
