"""Trainings that stop at the first loss that is no number, before it reaches the weights or a checkpoint."""

import math
from collections.abc import Mapping
from typing import NoReturn

import torch
from torch import nn

from ..terms.base import ReferenceOutput, StepOutput

DIVERGED = "The last step drove it there: lower the learning rate or the weights of the loss; go on from a checkpoint."


class FiniteLosses:
    """Watches the losses of a training, and says which term and which side broke.

    Values stay on the device until one is asked for: the loss is read where the training loop reads it anyway.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget the last batch."""
        self._values: dict[str, torch.Tensor] = {}
        self._sides: dict[str, torch.Tensor] = {}

    def watch(
        self, logged: Mapping[str, torch.Tensor], output: StepOutput, references: Mapping[str, ReferenceOutput]
    ) -> None:
        """Keep the values of a batch, without their graph, until its loss is looked at."""
        self._values = {name: value.detach() for name, value in logged.items()}
        sides: dict[str, torch.Tensor | None] = {
            f"maps of the reference '{name}'": reference.maps for name, reference in references.items()
        }
        sides |= {f"logits of the reference '{name}'": reference.logits for name, reference in references.items()}
        sides |= {f"student's maps for '{name}'": maps.maps for name, maps in output.explanations.items()}
        sides |= {"student's logits": output.logits}
        self._sides = {name: values.detach() for name, values in sides.items() if values is not None}

    def check(self, loss: torch.Tensor, step: int) -> None:
        """Stop where the last batch's loss is NaN or infinite.

        Args:
            loss: Loss ().
            step: Number of the optimizer steps taken.

        Raises:
            ValueError: naming the terms and the sides, with the remedy.
        """
        if loss.isfinite():
            self.clear()
            return
        self._stop([name for name, value in self._values.items() if not value.isfinite().all()], step)

    def check_means(self, means: Mapping[str, float], step: int) -> None:
        """Stop where a mean to log, the weighted `loss` among them, is NaN or infinite; see `check`."""
        broken = [name for name, value in means.items() if not math.isfinite(value)]
        if broken:
            self._stop([name for name in broken if name != "loss"], step)

    def _stop(self, terms: list[str], step: int) -> NoReturn:
        sides = [name for name, value in self._sides.items() if not value.isfinite().all()]
        self.clear()
        what = f"of {', '.join(terms)}" if terms else "of the weighted sum, while each term by itself is finite"
        where = f"Not finite are the {' and the '.join(sides)}" if sides else "Logits and maps of both sides are finite"
        student = any(side.startswith("student") for side in sides)
        remedy = (
            "The student's weights were driven out of range: lower the learning rate or the weights of the loss, or "
            "leave fp16 for bf16."
            if student
            else "Load or train that side again, or leave half precision."
            if sides
            else "Lower the weights of the loss."
        )
        raise ValueError(
            f"The loss {what} is NaN or infinite after {step} steps, and the training stops before it reaches the "
            f"student's weights. {where}. {remedy} Checkpoints of earlier steps are as they were."
        )


def require_finite_weights(model: nn.Module, side: str, remedy: str) -> None:
    """Refuse a model with a weight that is NaN or infinite.

    Args:
        side: Name of the model in the error: "student" or "teacher".
        remedy: Sentence that says what to do.

    Raises:
        ValueError: naming the first such parameter.
    """
    for name, parameter in model.named_parameters():
        plain = type(parameter.data) is torch.Tensor and not parameter.is_meta
        if plain and parameter.dtype in _FLOATS and not parameter.isfinite().all():
            raise ValueError(f"The {side}'s weight '{name}' holds NaN or infinite values. {remedy}")


_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
