"""Protocols that train and measure models."""

from .side_by_side import run_side_by_side
from .tasks import EmbeddedSetting, Sources, Task

__all__ = ["EmbeddedSetting", "Sources", "Task", "run_side_by_side"]
