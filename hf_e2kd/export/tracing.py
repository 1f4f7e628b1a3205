"""Models as `torch.export` programs: their logits, and GradCAM's map with the head's derivative written out.

Neither `torch.func.vjp` nor `torch.autograd.grad` can be exported. So the pass through the head and back is traced into
plain operations first, with nothing left of autograd: behind a pooled linear head that is the class's row of weights,
behind a ViT's last block its vector-Jacobian product. The head is the one that the architecture's `split` cuts off.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch._decomp import core_aten_decompositions
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ..architectures import Grid, call_model, find_architecture
from ..explainers.base import one_hots

TOP_CLASS = -1
"""The `target` that stands for a sample's top class."""

TRACED_SAMPLES = 3  # a size of 1 would be taken for one that never changes


def logits_program(model: nn.Module, inputs: Mapping[str, torch.Tensor], options: Mapping[str, Any]) -> ExportedProgram:
    """Export the logits of a model in evaluation mode, for any number of samples, and of tokens.

    Args:
        inputs: Example of the inputs, with at least two samples.
        options: Further keyword arguments of the model's forward.

    Raises:
        ValueError: the model can't be exported, with the reason.
    """
    batch = Dim("batch")
    shapes = {name: {0: batch} if name == "pixel_values" else {0: batch, 1: Dim.DYNAMIC} for name in inputs}
    try:
        with torch.no_grad():
            module = _LogitsOfImages(model, options) if "pixel_values" in inputs else _LogitsOfTexts(model)
            return torch.export.export(module, (), dict(inputs), dynamic_shapes=shapes)
    except ValueError:
        raise
    except Exception as error:
        raise _untraceable(model, error) from error


def gradcam_program(model: nn.Module, pixel_values: torch.Tensor, options: Mapping[str, Any]) -> ExportedProgram:
    """Export the logits and GradCAM's map, of the top class or of a given one, for any number of images.

    Args:
        model, pixel_values, options: Arguments of `gradcam_graph`.

    Returns:
        A program `(pixel_values, target (B,)) → (logits (B, classes), map (B, h, w))`; a `target` of −1 stands for the
        top class.

    Raises:
        ValueError: the model's target layer is read by a hook, or it can't be exported, with the reason.
    """
    traced = gradcam_graph(model, pixel_values, options)
    example = {"pixel_values": pixel_values, "target": _top(pixel_values)}
    batch = Dim("batch")
    try:
        with torch.no_grad():
            shapes = {name: {0: batch} for name in example}
            return torch.export.export(_Explained(traced), (), example, dynamic_shapes=shapes)
    except ValueError:
        raise
    except Exception as error:
        raise _untraceable(model, error) from error


def gradcam_graph(model: nn.Module, pixel_values: torch.Tensor, options: Mapping[str, Any]) -> GraphModule:
    """Trace the logits and GradCAM's map as plain operations, as `gradcam_program` exports them.

    Args:
        model: Model in evaluation mode without gradients of its parameters. It has explained a batch of this size
            before: what a model remembers of its first pass would otherwise be remembered of the traced one.
        pixel_values: Example (B, channels, H, W) with at least two images.
        options: Further inputs of the model's forward.

    Raises:
        ValueError: the model's target layer is read by a hook, or it can't be traced, with the reason.
    """
    explained = _explained(model, options)
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    trace = make_fx(explained, _decompositions(), tracing_mode="symbolic", _allow_non_fake_inputs=True)
    try:
        with torch.no_grad():
            return trace(*(_of_any_length(value, mode) for value in (pixel_values, _top(pixel_values))))
    except ValueError:
        raise
    except Exception as error:
        raise _untraceable(model, error) from error


def require_explainable(model: nn.Module) -> None:
    """Refuse a model whose map can't be exported.

    Raises:
        ValueError: with the reason, and the models that are supported.
    """
    if any(cls.__name__.endswith("ForSequenceClassification") for cls in type(model).__mro__):
        raise ValueError(
            f"{type(model).__name__} reads texts, whose explanations take the derivative of the whole model and aren't "
            "exported. Export its logits alone, without `explanation`."
        )
    if getattr(find_architecture(model), "split", None) is None:
        raise ValueError(
            f"The map of {type(model).__name__} is made through a hook, which no exported file has. Supported are "
            "models whose forward is known up to its target layer: of transformers ViT, DeiT, BEiT, DINOv2, Swin, "
            "ConvNeXt, ConvNeXt V2, ResNet, RegNet, MobileNetV2 and EfficientNet; of timm those with "
            "`forward_features` and `forward_head`; the papers' networks. Register the architecture with a `split` "
            "function (CONTRIBUTING.md, 'An architecture'), or export the logits alone, without `explanation`."
        )


class _LogitsOfImages(nn.Module):
    def __init__(self, model: nn.Module, options: Mapping[str, Any]):
        super().__init__()
        self.model, self.options = model, options

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return call_model(self.model, {"pixel_values": pixel_values, **self.options})


class _LogitsOfTexts(nn.Module):
    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None
    ) -> torch.Tensor:
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        return call_model(self.model, {name: value for name, value in given.items() if value is not None})


def _map(activation: torch.Tensor, gradient: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Compute `gradcam_map` as a product of matrices, for which channels that come first aren't moved."""
    weights = grid.cells(gradient).mean(dim=(1, 2))
    if grid.layout == "nchw":
        flat = (weights[:, None] @ activation.flatten(2))[:, 0]
    else:
        flat = (grid.cells(activation).flatten(1, 2) @ weights[:, :, None])[:, :, 0]
    return flat.unflatten(1, (grid.height, grid.width)).relu()


class _Linears(TorchFunctionMode):
    """Note the linear layers of a head, of which the last one may give the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func is F.linear:
            self.calls.append((output, args[0], args[1]))
        return output

    def before(self, logits: torch.Tensor, chosen: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return the tensor to differentiate, and the derivative of the chosen logits (B,) with respect to it.

        Before a linear classifier that is the class's row of weights, whose look-up costs nothing; the product of
        weights and one-hot vector would read all rows.
        """
        for output, features, weight in self.calls:
            if output is logits and features.ndim == 2:
                return features, [weight.index_select(0, chosen)]
        return logits, one_hots(chosen, logits)


class _Explained(nn.Module):
    """The traced function with names for its inputs."""

    def __init__(self, traced: nn.Module):
        super().__init__()
        self.traced = traced

    def forward(self, pixel_values: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.traced(pixel_values, target)


def _explained(model: nn.Module, options: Mapping[str, Any]) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    require_explainable(model)
    architecture = find_architecture(model)
    assert architecture is not None and architecture.split is not None
    cut = architecture.split

    def explained(pixel_values: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        split = cut(model, {"pixel_values": pixel_values, **options})
        # Contiguous, because pooling writes in place into strides of channels that come last.
        activation = split.activation.contiguous().requires_grad_()
        with torch.enable_grad(), _Linears() as linears:
            logits = split.head(activation)
        chosen = torch.where(target < 0, logits.argmax(1), target)
        differentiated, cotangents = linears.before(logits, chosen)
        (gradient,) = torch.autograd.grad(differentiated, activation, cotangents)
        return logits.detach(), _map(activation.detach(), gradient, split.grid)

    return explained


def _top(pixel_values: torch.Tensor) -> torch.Tensor:
    return torch.full((len(pixel_values),), TOP_CLASS)


def _of_any_length(value: torch.Tensor, mode: FakeTensorMode) -> torch.Tensor:
    """Make a stand-in without data, whose first axis may have any length."""
    sizes = [DimDynamic.DYNAMIC, *[DimDynamic.STATIC] * (value.ndim - 1)]
    return mode.from_tensor(value, symbolic_context=StatelessSymbolicContext(dynamic_sizes=sizes))


def _decompositions() -> dict[Any, Callable[..., Any]]:
    """List the operations to write out, among them derivatives that no runtime knows."""
    return {
        **core_aten_decompositions(),
        torch.ops.aten.convolution_backward.default: _convolution_backward,
        torch.ops.aten.avg_pool2d_backward.default: _avg_pool2d_backward,
    }


def _convolution_backward(
    gradient: torch.Tensor,
    inputs: torch.Tensor,
    weight: torch.Tensor,
    bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    output_mask: Sequence[bool],
) -> Any:
    """The derivative with respect to the input: the transposed convolution."""
    if transposed or list(output_mask) != [True, False, False]:
        return NotImplemented
    if set(weight.shape[2:]) == set(stride) == set(dilation) == {1} and not any(padding) and groups == 1:
        # Runtimes multiply matrices faster.
        return (gradient.movedim(1, -1) @ weight.flatten(1)).movedim(-1, 1), None, None
    # The rows that a stride leaves over at the end.
    left_over = [
        inputs.shape[2 + axis]
        - ((gradient.shape[2 + axis] - 1) * step - 2 * pad + gap * (weight.shape[2 + axis] - 1) + 1)
        for axis, (step, pad, gap) in enumerate(zip(stride, padding, dilation, strict=True))
    ]
    found = torch.ops.aten.convolution(gradient, weight, None, stride, padding, dilation, True, left_over, groups)
    return found, None, None


def _avg_pool2d_backward(
    gradient: torch.Tensor,
    inputs: torch.Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    *settings: Any,
) -> Any:
    """The derivative of a pooling of all cells to one."""
    sides = inputs.shape[2:]
    if (
        tuple(gradient.shape[2:]) != (1, 1)
        or any(padding)
        or any(k < n for k, n in zip(kernel_size, sides, strict=True))
    ):
        return NotImplemented
    return (gradient / (sides[0] * sides[1])).expand_as(inputs)


def _untraceable(model: nn.Module, error: Exception) -> ValueError:
    reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return ValueError(
        f"{type(model).__name__} can't be exported: its forward can't be written as one graph of operations for every "
        f"input, mostly because it decides by values of its input (control flow). {type(error).__name__}: "
        f"{reason[:300]}"
    )
