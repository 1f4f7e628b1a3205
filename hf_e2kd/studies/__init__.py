"""Protocols that train and measure models."""

from .images import EmbeddedSetting
from .side_by_side import run_side_by_side
from .texts import TextSetting

__all__ = ["EmbeddedSetting", "TextSetting", "run_side_by_side"]
