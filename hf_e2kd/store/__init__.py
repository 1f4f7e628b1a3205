"""Stored references: a teacher's logits and maps of a data set, computed once and read from files."""

from .files import StoreError
from .reference import StoredReference
from .text import StoredTextCollator

__all__ = ["StoreError", "StoredReference", "StoredTextCollator"]
