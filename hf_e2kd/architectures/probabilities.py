"""A classifier whose outputs are probabilities in the place of logits."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from ..alignment.labels import is_multi_label
from ..alignment.precision import at_least_float32
from .discovery import call_model


class ProbabilityModel(nn.Module):
    """An image classifier that gives probabilities where its model gives logits, to be explained.

    Args:
        model: Classifier of two classes or more; of several labels a sample, each has its own probability.
    """

    main_input_name = "pixel_values"
    # See `hf_e2kd.architectures.base.explained_part`.
    explained_part = "model"

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.config: Any = getattr(model, "config", None)
        self.training = model.training

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Turn logits (B, classes) to probabilities.

        Raises:
            ValueError: the logits are one score a sample.
        """
        logits = at_least_float32(logits)
        if is_multi_label(self.model):
            return logits.sigmoid()
        if logits.shape[1] == 1:
            raise ValueError(
                f"{type(self.model).__name__} gives one score a sample, which has no probability. Explain the score: "
                "output='logit'."
            )
        return logits.softmax(dim=1)

    def behind_part(self, inputs: Mapping[str, Any]) -> Callable[[torch.Tensor], torch.Tensor]:
        return self.probabilities

    def forward(self, pixel_values: torch.Tensor, **inputs: Any) -> dict[str, torch.Tensor]:
        return {"logits": self.probabilities(call_model(self.model, {**inputs, "pixel_values": pixel_values}))}
