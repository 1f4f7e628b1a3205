"""What a trainer can be given to do beside training."""

from .clipping import AdaptiveClipping
from .panels import ExplanationPanels
from .pareto import ParetoCheckpoints

__all__ = ["AdaptiveClipping", "ExplanationPanels", "ParetoCheckpoints"]
