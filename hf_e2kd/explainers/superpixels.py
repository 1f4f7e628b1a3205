"""Any method's maps of images, summed over superpixels (XDistillation), as an explainer: to be stored, above all."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from ..alignment.superpixels import SUPERPIXELS, slic_superpixels, stretched, superpixel_maps
from ..architectures import call_model
from .base import Explainer, Explanation, Target
from .registry import as_explained, build_explainer


class SuperpixelExplainer(Explainer):
    """A method's maps of images, every pixel of which carries the sum over its superpixel.

    Superpixels are LIME's: those of the image stretched to the intensities 0 to 1. For evaluations and stores.

    Args:
        method: Method that makes the maps, an explainer or the name of one.
        superpixels: Superpixels of an image, 3 to 20; None for the method's maps as they are.
        output: `"logit"`, or `"probability"` to explain the class's probability; the logits are the model's anyway.
        workers: Number of threads that cut images.

    References:
        Alharbi et al., "Learning Interpretation with Explainable Knowledge Distillation", 2021, Sec. III-A1.

    Example:

        explainer = SuperpixelExplainer(GradientShap(background), output="probability")
        store = StoredReference.build(teacher, train, "explanations", explainer=explainer, processing_class=processor)
        maps = [sample["reference_map"] for sample in store.attach(train)]
    """

    name = "superpixels"
    trainable: ClassVar[bool] = False
    without_effect: ClassVar[tuple[str, ...]] = ("workers",)

    def __init__(
        self, method: str | Explainer, superpixels: int | None = SUPERPIXELS, output: str = "logit", workers: int = 1
    ):
        self.method = build_explainer(method) if isinstance(method, str) else method
        self.superpixels = superpixels
        self.output = output
        self.workers = workers

    @property
    def forward_passes(self) -> int | None:  # type: ignore[override]
        return self.method.forward_passes

    def check(self, model: nn.Module, compiled: bool = False, trained: bool = True) -> None:
        if trained:
            raise ValueError(
                f"Superpixels are for evaluations and stores. Train with the method itself: '{self.method.name}'."
            )
        self.method.check(model, compiled, trained)

    def forward(self, model: nn.Module, inputs: Mapping[str, Any], target: Target) -> Explanation:
        if torch.is_grad_enabled():
            self.check(model)
        if inputs.get("pixel_values") is None:
            raise ValueError(f"Superpixels are of `pixel_values`; given are {', '.join(sorted(inputs))}.")
        explanation = self.method(as_explained(model, self.output, self.method, inputs), inputs, target)
        logits = explanation.logits if self.output == "logit" else call_model(model, inputs)
        if self.superpixels is None:
            return Explanation(logits, explanation.maps, explanation.target)
        parts = slic_superpixels(stretched(inputs["pixel_values"]), self.superpixels, workers=self.workers)
        shape = explanation.target.shape
        of_each = parts.repeat_interleave(shape[1] if len(shape) == 2 else 1, dim=0)
        maps = superpixel_maps(explanation.maps.flatten(0, len(shape) - 1), of_each)
        return Explanation(logits, maps.unflatten(0, shape), explanation.target)
