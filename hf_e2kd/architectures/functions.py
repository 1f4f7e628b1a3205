"""Classifiers that are no torch modules: exported graphs, quantised runtimes, remote services."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..alignment.inputs import first_tensor
from ..logs import get_logger
from .base import explained_part
from .refusals import integer_layer

logger = get_logger(__name__)


class FunctionModel(nn.Module):
    """Any callable that gives logits, as a module without parameters or gradients.

    Args:
        function: Function of a batch. It is called with the inputs that its signature names (all, where it has
            `**kwargs`), or with the images or tokens alone where it names neither `pixel_values` nor `input_ids`. It
            returns logits (B, classes): a tensor, an array, a tuple that begins with them, or a mapping with "logits".
        config: Configuration with the names of the classes (`id2label`), such as the exported model's; None for a
            model that is only compared or explained.
        runtime: Name of what runs it, as "ONNX Runtime 1.23", for records.
        precision: Number format of its weights, as "int8", for records.

    Example:

        >>> import torch
        >>> model = FunctionModel(lambda images: images.flatten(1)[:, :2].numpy(), runtime="numpy")
        >>> model(pixel_values=torch.ones(1, 3, 2, 2))["logits"]
        tensor([[1., 1.]])
    """

    def __init__(
        self,
        function: Callable[..., Any],
        config: Any = None,
        runtime: str | None = None,
        precision: str | None = None,
    ):
        super().__init__()
        # A list, because a module assigned as an attribute would become a part with parameters.
        self._function = [function]
        if config is not None:
            self.config = config
        self.runtime = runtime
        self.precision = precision
        parameters = inspect.signature(function).parameters
        self._takes_all = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
        self._names = frozenset(parameters)
        self.eval()

    @torch.no_grad()
    def forward(
        self, pixel_values: Any = None, input_ids: Any = None, attention_mask: Any = None, **others: Any
    ) -> dict[str, torch.Tensor]:
        (function,) = self._function
        # By name, so that a trainer keeps these columns of its data.
        named = {"pixel_values": pixel_values, "input_ids": input_ids, "attention_mask": attention_mask}
        inputs = {name: value for name, value in {**named, **others}.items() if value is not None}
        given = {name: value for name, value in inputs.items() if self._takes_all or name in self._names}
        alone = next((name for name in ("pixel_values", "input_ids") if name in inputs), None)
        outputs = function(**given) if alone is None or alone in given else function(inputs[alone])
        if isinstance(outputs, Mapping):
            outputs = outputs["logits"]
        elif isinstance(outputs, list | tuple):
            outputs = outputs[0]
        logits = torch.as_tensor(outputs, device=first_tensor(inputs).device)
        if logits.ndim != 2 or len(logits) != len(first_tensor(inputs)) or not logits.is_floating_point():
            raise ValueError(
                f"A function that is explained or measured returns logits (batch, classes) in floating point, not "
                f"{logits.dtype} of shape {tuple(logits.shape)} for a batch of {len(first_tensor(inputs))}."
            )
        return {"logits": logits}


def uncompiled(model: nn.Module) -> nn.Module:
    """Return the module that `torch.compile(model)` has wrapped, with a warning, and any other as it is.

    Compiled code passes over the hooks by which layers are read.
    """
    own = getattr(model, "_orig_mod", None)
    if not isinstance(own, nn.Module):
        return model
    logger.warning_once(
        f"{type(own).__name__} is run as it is, and not as torch.compile(model) has made it: explainers read its "
        "layers. In a training torch_compile=True compiles the student's explained step."
    )
    return own


def forget_preparation(model: nn.Module) -> None:
    """Remove an earlier trainer's autocast and mark, with which Accelerate would leave the model as it is."""
    forward = vars(model).pop("_original_forward", None)
    if forward is not None:
        model.forward = forward
    vars(model).pop("_is_accelerate_prepared", None)


@contextmanager
def without_autocast(model: Any) -> Iterator[None]:
    """Context in which a model runs by its own forward, without the autocast that a trainer has wrapped around it."""
    attributes = vars(model)
    if "_original_forward" not in attributes:
        yield
        return
    wrapped = attributes["forward"]
    attributes["forward"] = attributes["_original_forward"]
    try:
        yield
    finally:
        attributes["forward"] = wrapped


def without_adapter(model: nn.Module) -> nn.Module:
    """Return the model that PEFT has wrapped, whose layers hold the adapters, and any other as it is.

    It computes the same, and its class says which layers it has. Not so where an adapter puts tokens before each text,
    which the model inside isn't given: such a wrapper is given back.
    """
    if not hasattr(model, "get_base_model"):
        return model
    kinds = (getattr(model, "peft_config", None) or {}).values()
    return model if any(getattr(kind, "is_prompt_learning", False) for kind in kinds) else model.get_base_model()


def as_module(model: Any) -> nn.Module:
    """Return a torch module without torch.compile's and PEFT's wrappers, any other callable as a `FunctionModel`.

    Raises:
        ValueError: something that can't be called.
    """
    if isinstance(model, nn.Module):
        return without_adapter(uncompiled(model))
    if not callable(model) or isinstance(model, type):
        raise ValueError(
            f"The model must be a torch module, or a function of a batch that gives logits, not {type(model).__name__}."
        )
    return FunctionModel(model)


def is_differentiable(model: nn.Module) -> bool:
    """Tell whether a model's logits have gradients at its inputs and layers."""
    part = explained_part(model)
    whole = model if part is None else model.get_submodule(part)
    return not isinstance(whole, FunctionModel) and integer_layer(whole) is None
