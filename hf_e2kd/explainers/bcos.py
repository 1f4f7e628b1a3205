"""Dynamic weights of B-cos networks (Böhle et al., CVPR 2022), differentiable."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..alignment.precision import at_least_float32
from ..architectures import call_model
from ..architectures.discovery import image_size
from ..models.bcos import AddInverse, dynamic_weights
from .base import Explainer, Explanation, Target, default_method, one_hots, resolve_target
from .hooks import captured_output
from .layer_gradients import lay_out_layer, layer_maps, unreached


class Bcos(Explainer):
    """Dynamic weights W(x): the linear map that a B-cos network applies to this image, for one class.

    The logit is W(x)·x plus a constant (the logit bias and, in transformers, the position embedding's share), with x
    the image and its inverse, six channels. `vectors` (B, 6, H, W) is W(x), which e²KD matches; `maps` (B, H, W) is
    each pixel's contribution W(x)⊙x, summed over the channels and signed.

    W(x) is the logit's gradient with the scalings held; a loss of it is differentiated through the scalings too, so
    that it trains all that W(x) is made of. The pass runs in full precision, under autocast as well, where the inner
    gradient would lose digits or underflow.

    Args:
        layer: Path of a layer whose activation is x instead; there are no `vectors` then, and the map is as fine as
            that layer (the depths of model guidance, Rao et al., ICCV 2023).
    """

    name = "bcos"

    def __init__(self, layer: str | None = None):
        self.layer = layer

    def check(self, model: nn.Module, compiled: bool = False, trained: bool = True) -> None:
        _input_layer(model)
        if compiled:
            raise ValueError(
                "torch_compile fixes the backward pass beforehand, whereas the dynamic weights of a B-cos network are "
                "a second kind of backward pass through the same forward. Train without torch_compile."
            )

    # Within a compiled region the hook on the input captures nothing, so this forward is run as it is.
    @torch.compiler.disable
    def forward(self, model: nn.Module, inputs: Mapping[str, Any], target: Target) -> Explanation:
        create_graph = torch.is_grad_enabled()
        path = self.layer or _input_layer(model)
        full_precision = torch.autocast(inputs["pixel_values"].device.type, enabled=False)
        with torch.enable_grad(), full_precision, captured_output(model, path) as captured:
            logits = call_model(model, inputs)
            if self.layer is not None:
                _, grid = lay_out_layer(model, path, captured, logits, image_size(model, inputs))
            channels = captured[-1]
            target = resolve_target(target, logits)
            with dynamic_weights():
                gradients = [
                    torch.autograd.grad(
                        (logits * chosen).sum(),
                        channels,
                        create_graph=create_graph,
                        retain_graph=True,
                        allow_unused=True,
                    )[0]
                    for chosen in one_hots(target, logits)
                ]
            if gradients[0] is None:
                raise unreached(model, path)
        if self.layer is not None:
            return Explanation(logits, layer_maps(channels, gradients, grid, target), target)
        vectors = torch.stack([at_least_float32(gradient) for gradient in gradients], 1)
        maps = (vectors * at_least_float32(channels).unsqueeze(1)).sum(2)
        if target.ndim == 1:
            vectors, maps = vectors[:, 0], maps[:, 0]
        return Explanation(logits, maps, target, vectors=vectors)


def _input_layer(model: nn.Module) -> str:
    """Return the path of the layer whose output is x.

    Raises:
        ValueError: the model is no B-cos network.
    """
    for name, module in model.named_modules():
        if isinstance(module, AddInverse):
            return name
    raise ValueError(
        f"{type(model).__name__} is no B-cos network, so it has no dynamic weights. B-cos networks are "
        "BcosResNetForImageClassification, BcosDenseNetForImageClassification and BcosViTForImageClassification of "
        f"hf_e2kd.models; explain others, such as this one, by '{default_method(model)}'."
    )
