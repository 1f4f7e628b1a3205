"""Hooks that read one layer's output during a model's own forward, and checks of the forward's graph."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from ..architectures.taps import find_layer
from ..architectures.text import leaf_unless_connected

Move = Callable[[torch.Tensor], torch.Tensor]
"""A function that gives another value in the place of an activation."""


def unmoved(value: torch.Tensor) -> torch.Tensor:
    return value


@contextmanager
def captured_output(model: nn.Module, path: str, move: Move = unmoved) -> Iterator[list[torch.Tensor]]:
    """Collect the outputs of the layer at `path` while the context lasts; the hook goes after it, errors included.

    The model goes on with a copy, so that a following in-place operation can't change what was captured. A tensor
    without gradient (a frozen model's) is captured as a leaf that requires one. Within `torch.compile` a hook that is
    registered now captures nothing: decorate the caller with `torch.compiler.disable`.

    Args:
        move: Function of the output that gives what is captured, and what the model goes on with.

    Raises:
        ValueError: the model has no such layer.
    """
    captured: list[torch.Tensor] = []

    def keep(_module: nn.Module, _args: Any, output: Any) -> Any:
        feature = output[0] if isinstance(output, tuple) else output
        if isinstance(feature, dict):
            raise ValueError(
                f"The layer '{path}' gives a {type(feature).__name__}, not a tensor; name a layer inside it."
            )
        captured.append(leaf_unless_connected(move(feature)))
        copied = captured[-1].clone()
        return (copied, *output[1:]) if isinstance(output, tuple) else copied

    handle = find_layer(model, path).register_forward_hook(keep)
    try:
        yield captured
    finally:
        handle.remove()


@contextmanager
def captured_input(model: nn.Module, path: str, move: Move = unmoved) -> Iterator[list[torch.Tensor]]:
    """Collect what the layer at `path` is given, as `captured_output` does with its output.

    Raises:
        ValueError: the model has no such layer, or gives it no tensor first.
    """
    captured: list[torch.Tensor] = []

    def keep(_module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        feature = args[0] if args else kwargs.get("hidden_states")
        if not isinstance(feature, torch.Tensor):
            raise ValueError(f"The layer '{path}' is given no tensor first; name the layer in front of it.")
        captured.append(leaf_unless_connected(move(feature)))
        copied = captured[-1].clone()
        return ((copied, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": copied})

    handle = find_layer(model, path).register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield captured
    finally:
        handle.remove()


def refuse_single_derivatives(model: nn.Module, place: str, logits: torch.Tensor, value: torch.Tensor) -> None:
    """Refuse a model whose logits can't be differentiated twice, or only wrongly. It is looked at once a place.

    Some of torch's operations have no second derivative and say so late, in the loss's backward pass. A hand-written
    `torch.autograd.Function` says nothing: what its forward computes and keeps for its backward is a constant to the
    second derivative, which is then wrong.

    Args:
        place: Name of the value's place in the model.
        logits: Logits (B, classes), with their graph.
        value: Tensor with respect to which they will be differentiated.

    Raises:
        ValueError: names the operation.
    """
    seen = _DIFFERENTIATED.setdefault(model, set())
    if place in seen or not logits.requires_grad:
        return
    name = type(model).__name__
    for node in graph_nodes(logits, value):
        if _is_written_by_hand(node) and _keeps_constants(node):
            raise ValueError(
                f"{name} computes its logits by a hand-written torch.autograd.Function, {node.name()}, that keeps what "
                "its forward has computed, so its second derivative would silently be wrong. Explain another model, "
                "or, if it is right, set the attribute `twice_differentiable = True` on that class."
            )
    (gradient,) = torch.autograd.grad(logits.sum(), value, create_graph=True, allow_unused=True)
    if gradient is not None and any("NotImplemented" in node.name() for node in graph_nodes(gradient, value)):
        raise ValueError(
            f"{name} computes its logits by an operation without a second derivative in torch"
            f"{_named_by_torch(gradient, value)}, so this explanation can't be trained on. Replace the operation in "
            "the model, or explain an image model by 'gradcam' at a layer behind it."
        )
    seen.add(place)


# Places at which models were looked at and found differentiable.
_DIFFERENTIATED: WeakKeyDictionary[nn.Module, set[str]] = WeakKeyDictionary()


def graph_nodes(output: torch.Tensor, value: torch.Tensor) -> Iterator[Any]:
    """Collect every node of an output's graph, as far back as the value."""
    waiting: list[Any] = [output.grad_fn]
    seen: set[Any] = {None, value.grad_fn}
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            yield node
            waiting.extend(following for following, _ in node.next_functions)


def _is_written_by_hand(node: Any) -> bool:
    return isinstance(node, torch.autograd.function.BackwardCFunction)


def _keeps_constants(node: Any) -> bool:
    """Tell whether a hand-written function has kept numbers that are neither its inputs nor its outputs.

    Those two come with their graph. A constant input has none either, and can't be told apart.
    """
    if getattr(getattr(node, "_forward_cls", None), "twice_differentiable", False):
        return False
    kept = [saved for saved in node.saved_tensors if saved is not None]
    return any(saved.is_floating_point() and not saved.requires_grad for saved in kept)


def _named_by_torch(gradient: torch.Tensor, value: torch.Tensor) -> str:
    """Return the operation's name, which torch only gives in the error itself."""
    try:
        torch.autograd.grad(gradient.sum(), value, retain_graph=True, allow_unused=True)
    except RuntimeError as error:
        found = re.search(r"aten::(\w+?)(_backward)?\b", str(error))
        return f" ({found[1]})" if found else ""
    return ""
