"""Transformer blocks in the open: forward, and transposed by the derivative's rules or by those of relevance."""

from . import bert, deberta, distilbert, modernbert, timm, vit  # noqa: F401  (register the families)
from .families import Embedded, Family, find_family, known_families, register_family
from .opened import Opened, move_to, open_forward, opened_blocks, require_family, run_from, run_to
from .operations import affine
from .refusals import TransposeError
from .rules import DERIVATIVE, RULES, Rules

__all__ = [
    "DERIVATIVE",
    "RULES",
    "Embedded",
    "Family",
    "Opened",
    "Rules",
    "TransposeError",
    "affine",
    "find_family",
    "known_families",
    "move_to",
    "open_forward",
    "opened_blocks",
    "register_family",
    "require_family",
    "run_from",
    "run_to",
]
