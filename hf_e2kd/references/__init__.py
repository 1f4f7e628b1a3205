"""Where the map to match comes from."""

from .base import Reference, ReferenceOutput
from .teacher import TeacherReference

__all__ = ["Reference", "ReferenceOutput", "TeacherReference"]
