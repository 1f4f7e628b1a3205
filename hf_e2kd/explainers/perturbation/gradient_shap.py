"""Gradient SHAP (Lundberg & Lee, 2017; Erion et al., 2021) through captum: gradients on the way from a background."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from ...architectures import call_model
from ...architectures.functions import is_differentiable
from ...architectures.taps import untapped
from ..input_gradients import frozen_statistics
from .base import PerturbationExplainer, require_count
from .variants import BATCH_SIZE


class GradientShap(PerturbationExplainer):
    """Gradient SHAP: E_{b, α} [(x − b) · ∂z/∂x (b + α(x − b))], summed over the colours, of images.

    The background images b and the places α in (0, 1) between them and the image are random; the map's sum is about the
    logit's rise from its mean over the background. One forward and backward pass a sample, all of a batch together: for
    XDistillation the explanations of a whole training set, where KernelSHAP takes hundreds of passes an image. It takes
    gradients, and is for evaluations alone. Two models see the same random choices for the same batch.

    Args:
        background: Background images (N, channels, H, W), as the model gets them, a random sample of training images;
            None for one image of zeros, the mean colour where the processor normalises.
        samples: Number of random choices an image.
        seed: Seed of the choices.
        batch_size: Number of images in one forward pass, samples counted singly. Other choices are drawn with another.

    Raises:
        ValueError: a background of another shape; or captum isn't installed: `pip install 'hf-e2kd[perturbation]'`.

    References:
        Lundberg & Lee, "A Unified Approach to Interpreting Model Predictions", NeurIPS 2017; Erion et al., "Improving
        Performance of Deep Learning Models with Axiomatic Attribution Priors and Expected Gradients", 2021, Eq. 2.
    """

    name = "gradient_shap"
    # captum draws anew for each pass, so that the batch size changes which choices are made.
    without_effect: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        background: torch.Tensor | None = None,
        samples: int = 32,
        seed: int = 0,
        batch_size: int = 4 * BATCH_SIZE,
    ):
        super().__init__(batch_size=batch_size)
        require_count("samples", samples)
        if background is not None and (background.ndim != 4 or len(background) == 0):
            raise ValueError(
                "background must be images (N, channels, H, W), as the model gets them, N at least 1, not of the shape "
                f"{tuple(background.shape)}."
            )
        self.background = background
        self.samples = samples
        self.seed = seed

    @property
    def forward_passes(self) -> int:  # type: ignore[override]
        return 1 + self.samples

    def passes(self, inputs: Mapping[str, Any]) -> int:
        return len(inputs["pixel_values"]) * self.forward_passes

    def check(self, model: nn.Module, compiled: bool = False, trained: bool = True) -> None:
        super().check(model, compiled, trained)
        if find_spec("captum") is None:
            raise ValueError(f"'{self.name}' takes captum, which isn't installed: pip install 'hf-e2kd[perturbation]'.")
        if not is_differentiable(model):
            raise ValueError(
                f"'{self.name}' takes gradients, which {type(model).__name__} doesn't have. Take 'kernel_shap'."
            )
        if getattr(model, "main_input_name", None) == "input_ids":
            raise self._for_images()

    def image_scores(
        self, model: nn.Module, inputs: Mapping[str, Any], target: torch.Tensor, whole: torch.Tensor
    ) -> torch.Tensor:
        self.check(model, trained=False)
        from captum.attr import GradientShap as CaptumGradientShap

        pixels = inputs["pixel_values"]
        background = torch.zeros_like(pixels[:1]) if self.background is None else self.background.to(pixels)
        if background.shape[1:] != pixels.shape[1:]:
            raise ValueError(
                f"The background's images have the shape {tuple(background.shape[1:])}, and the images "
                f"{tuple(pixels.shape[1:])}. Take images as the model gets them."
            )
        explainer = CaptumGradientShap(lambda images: call_model(model, {**inputs, "pixel_values": images}))
        maps = whole.new_zeros(*target.shape, *pixels.shape[2:])
        at_once = max(1, self.batch_size // self.samples)
        # captum draws by numpy's global generator, and noise of no width by torch's.
        state = np.random.get_state()
        try:
            with torch.random.fork_rng(), torch.enable_grad(), untapped(), frozen_statistics(model):
                for column in range(target.shape[1]):
                    np.random.seed(self.seed)
                    for rows in torch.arange(len(pixels), device=pixels.device).split(at_once):
                        found = explainer.attribute(
                            pixels[rows],
                            background,
                            n_samples=self.samples,
                            target=target[rows, column].clamp(min=0),
                        )
                        maps[rows, column] = found.sum(dim=1).detach().to(maps)
        finally:
            np.random.set_state(state)
        return maps

    def text_scores(self, *_: Any) -> torch.Tensor:
        raise self._for_images()

    def _for_images(self) -> ValueError:
        return ValueError("'gradient_shap' explains images. Explain texts by 'kernel_shap' or 'integrated_gradients'.")

    def _untrainable(self) -> ValueError:
        return ValueError(
            f"'{self.name}' is for evaluations, so no training can match its maps. Train with 'integrated_gradients', "
            f"and measure with this one: trainer.measure_fidelity(explainers=['{self.name}'])."
        )
