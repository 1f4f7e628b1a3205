"""The teacher, stored: what it said of a data set, computed once and read from files."""

from .errors import StoreError
from .reference import StoredReference
from .text import StoredTextCollator

__all__ = ["StoreError", "StoredReference", "StoredTextCollator"]
