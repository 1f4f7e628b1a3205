"""Gradient clipping relative to the norm of the weights."""

from typing import Any

from torch import nn
from transformers import TrainerCallback


class AdaptiveClipping(TrainerCallback):
    """Adaptive gradient clipping before each optimizer step, as B-cos networks are trained.

    The gradient of each filter or row is made no longer than `factor` times the weight's own norm, taken as at least
    `smallest`. Set `max_grad_norm=0`, so that the trainer doesn't clip the whole gradient beside it.

    References:
        Brock et al., "High-Performance Large-Scale Image Recognition Without Normalization", ICML 2021. The defaults
        are those of e²KD's official code.

    Raises:
        ValueError: at the start of the training, with fp16, whose gradients are still scaled when they are clipped.
    """

    def __init__(self, factor: float = 0.01, smallest: float = 1e-3):
        self.factor = factor
        self.smallest = smallest

    def on_train_begin(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        if args.mixed_precision == "fp16":  # by the argument fp16, or by `accelerate launch`
            raise ValueError("AdaptiveClipping can't tell the size of fp16's scaled gradients. Train in bf16 or fp32.")

    def on_pre_optimizer_step(
        self, args: Any, state: Any, control: Any, model: nn.Module | None = None, **keywords: Any
    ) -> None:
        assert model is not None
        from timm.utils.agc import adaptive_clip_grad

        adaptive_clip_grad(model.parameters(), self.factor, self.smallest)
