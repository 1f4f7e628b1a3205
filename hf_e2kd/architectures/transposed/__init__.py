"""Transformer blocks in the open: forward, and transposed by the derivative's rules or by those of relevance."""

from . import bert, deberta, distilbert, modernbert, timm, vit  # noqa: F401  (register the families)
from .families import Family, find_family, known_families, register_family
from .opened import Opened, open_forward, require_family
from .operations import affine
from .rules import DERIVATIVE, RULES, Rules

__all__ = [
    "DERIVATIVE",
    "RULES",
    "Family",
    "Opened",
    "Rules",
    "affine",
    "find_family",
    "known_families",
    "open_forward",
    "register_family",
    "require_family",
]
