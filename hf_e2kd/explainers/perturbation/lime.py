"""LIME (Ribeiro et al., 2016) through captum: a local linear model of an image's superpixels or a text's words."""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from ...alignment.superpixels import NO_SKIMAGE, SUPERPIXELS, slic_superpixels, stretched
from .coalitions import CoalitionExplainer
from .variants import BATCH_SIZE

KERNEL_WIDTH = 0.25
"""Width of the kernel by which coalitions near the whole image weigh more, as in the authors' code for images."""


class Lime(CoalitionExplainer):
    """LIME: weights of a ridge regression from an input's parts, there or not, to a logit, fitted by captum.

    An image's parts are its SLIC superpixels, as XDistillation takes them; a text's are its words, or its tokens
    without them. A pixel of the map carries its superpixel's weight over its number of pixels, so that the sum over a
    superpixel is its weight. Coalitions weigh by the cosine of their likeness to the whole input.

    Args:
        samples: Number of coalitions: more than there are parts, and for good estimates several times as many.
        superpixels: Superpixels of an image, 3 to 20; those of the image stretched to the intensities 0 to 1.
            Noise may stay in one piece, whose weight is then the logit's fall without it, in two passes.
        seed: Seed of the coalitions.
        words, filling, batch_size: As in `PerturbationExplainer`.

    Raises:
        ValueError: more parts than coalitions; or captum or scikit-image isn't installed: `pip install
            'hf-e2kd[perturbation,interpretability]'`.

    References:
        Ribeiro et al., ""Why Should I Trust You?": Explaining the Predictions of Any Classifier", KDD 2016; on SLIC's
        superpixels Alharbi et al., "Learning Interpretation with Explainable Knowledge Distillation", 2021, Sec. IV.
    """

    name = "lime"

    def __init__(
        self,
        samples: int = 256,
        superpixels: int = SUPERPIXELS,
        seed: int = 0,
        words: str = "left_out",
        filling: float = 0.0,
        batch_size: int = BATCH_SIZE,
    ):
        super().__init__(samples, seed, words, filling, batch_size)
        self.superpixels = superpixels

    def check(self, model: nn.Module, compiled: bool = False, trained: bool = True) -> None:
        super().check(model, compiled, trained)
        if getattr(model, "main_input_name", None) != "input_ids" and find_spec("skimage") is None:
            raise ValueError(NO_SKIMAGE)

    def estimator(self, values: Callable[[torch.Tensor], torch.Tensor]) -> Any:
        from captum._utils.models.linear_model import SkLearnRidge
        from captum.attr import Lime as CaptumLime
        from captum.attr._core.lime import get_exp_kernel_similarity_function

        nearness = get_exp_kernel_similarity_function("cosine", kernel_width=KERNEL_WIDTH)
        return CaptumLime(values, interpretable_model=SkLearnRidge(alpha=1.0), similarity_func=nearness)

    def image_scores(
        self, model: nn.Module, inputs: Mapping[str, Any], target: torch.Tensor, whole: torch.Tensor
    ) -> torch.Tensor:
        parts = slic_superpixels(stretched(inputs["pixel_values"]), self.superpixels)

        def without(some: dict[str, Any], rows: torch.Tensor, kept: torch.Tensor) -> dict[str, Any]:
            places = parts[rows]
            return self.image_without(some, kept.gather(1, places.flatten(1)).view(places.shape))

        counts = [int(each.max()) + 1 for each in parts]
        scores = self.coalition_scores(model, inputs, target, counts, without).to(whole)
        sizes = scores.new_zeros(len(parts), max(counts))
        places = parts.flatten(1)
        sizes.scatter_add_(1, places, torch.ones_like(places, dtype=sizes.dtype))
        shares = scores / sizes[:, None].clamp(min=1)
        found = shares.gather(2, places[:, None].expand(-1, scores.shape[1], -1))
        return found.view(*target.shape, *parts.shape[1:])
