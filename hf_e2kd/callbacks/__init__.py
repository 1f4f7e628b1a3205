"""Callbacks of the trainer: panels of explanations, Pareto checkpoints, adaptive clipping."""

from .clipping import AdaptiveClipping
from .panels import ExplanationPanels
from .pareto import ParetoCheckpoints

__all__ = ["AdaptiveClipping", "ExplanationPanels", "ParetoCheckpoints"]
