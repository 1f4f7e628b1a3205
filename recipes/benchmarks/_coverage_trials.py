"""One class with one explainer, trained on for a backward pass and judged, as `coverage.py` says."""

import copy
import re
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from _coverage_models import CLASSES, build, make_inputs
from torch import nn

from hf_e2kd.explainers import Explanation
from hf_e2kd.explainers.base import Explainer
from hf_e2kd.explainers.registry import build_explainer
from hf_e2kd.terms import explanation_loss


@dataclass(frozen=True)
class Outcome:
    """What came of one class with one explainer.

    Args:
        verdict: "works", "refused", "incomplete", "not built" or "FAILED".
        detail: Why.
        error: Of the gradient's derivative along a random direction, relative.
        completeness: Error of Integrated Gradients of a text, as a part of the logit's rise.
    """

    verdict: str
    detail: str = ""
    error: float | None = None
    completeness: float | None = None


# Without its kernel transformers computes something else, and says nothing.
NEEDS_KERNEL = {"MraForSequenceClassification": "attention is computed by a CUDA kernel alone; without it, it is zero"}


def try_class(class_name: str, model_type: str, task: str, explainers: Iterable[str]) -> dict[str, Outcome]:
    """All explainers on one class."""
    if class_name in NEEDS_KERNEL:
        return dict.fromkeys(explainers, Outcome("not built", NEEDS_KERNEL[class_name]))
    try:
        models = [build(class_name, model_type, seed) for seed in range(SEEDS)]
        inputs = make_inputs(task, models[0])
    except ImportError as error:
        library = re.search(r"requires the (\S+) library", str(error))
        reason = f"transformers' class needs {library[1]}, which isn't installed" if library else _first_line(error)
        return dict.fromkeys(explainers, Outcome("not built", reason))
    except Exception as error:  # whatever a constructor raises is recorded
        return dict.fromkeys(explainers, failed(error, "building: "))
    outcomes = {}
    for name in explainers:
        for model in models:
            outcomes[name] = try_explainer(copy.deepcopy(model), copy.deepcopy(model).double(), name, inputs)
            if outcomes[name].detail != TOO_EMPTY:
                break
        if task == "text" and name == "integrated_gradients" and outcomes[name].verdict == "works":
            outcomes[name] = judge_completeness(outcomes[name], completeness_error(calmed(models[0]), inputs))
    return outcomes


MOST_LEFT_OUT = 0.02
INCOMPLETE = f"16 steps leave out more than {MOST_LEFT_OUT:.0%} of the logit's rise"


def calmed(model: nn.Module) -> nn.Module:
    """The model with a third of its weight matrices, as in a network that was trained: no attention saturates.

    The large weights by which gradients are judged make steps of a smooth path, in any model.
    """
    model = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 / 3 if parameter.ndim > 1 else 1)
    return model


def completeness_error(model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> float:
    """The part of the logits' rise that 16 steps of Integrated Gradients leave out, over the batch."""
    torch.manual_seed(0)
    target = torch.arange(len(inputs["input_ids"])) % CLASSES
    with torch.no_grad():
        # Every token's share, that of padding too: `forward` masks nothing.
        found = build_explainer("integrated_gradients", completeness=True).forward(model, inputs, target)
    error = found.completeness_error
    return (error.norm() / (found.maps.sum(1) + error).norm()).item()


def judge_completeness(outcome: Outcome, error: float) -> Outcome:
    """A class that works, with its error, or as incomplete."""
    if error <= MOST_LEFT_OUT:
        return replace(outcome, completeness=error)
    return replace(outcome, verdict="incomplete", detail=INCOMPLETE, completeness=error)


# GradCAM's ReLU may leave a map one positive cell, whose direction can't change, or none: other weights are tried.
TOO_EMPTY = "fewer than two cells of every map are positive"
SEEDS = 4


def try_explainer(model: nn.Module, double: nn.Module, name: str, inputs: Mapping[str, torch.Tensor]) -> Outcome:
    """One backward pass of an explanation loss, judged; `double` is the same model in float64."""
    explainer = build_explainer(name, **OPTIONS.get(name, {}))
    explainer.seed = 0
    # Of several classes: where all samples' logits of one class are summed, a batch norm before a linear head leaves
    # their sum, and so every gradient of it, constant.
    target = torch.arange(len(next(iter(inputs.values())))) % model.config.num_labels
    model.zero_grad()
    try:
        with recorded_layers(model) as layers:
            explainer.check(model)
            explanation = explain(model, explainer, inputs, target)
            loss = loss_of(explanation)
            loss.backward()
    except Exception as error:  # what isn't a refusal is a failure of ours to refuse
        return judge_error(error, model)
    problem = what_is_wrong(explanation, loss, model, layers, name)
    if problem:
        return Outcome("FAILED", problem)
    try:
        error = gradient_error((double, model), explainer, inputs, target)
    except Exception as failure:  # in the second run as in the first
        return failed(failure, "checking the gradient: ")
    if not error < TOLERANCE:
        return Outcome("FAILED", f"the gradient is off from finite differences by {error:.1g}", error)
    return Outcome("works", error=error)


# Few points: the maps need not be exact here.
OPTIONS: dict[str, dict[str, Any]] = {"integrated_gradients": {"n_steps": 2}}
TOLERANCE = 0.05


def explain(
    model: nn.Module, explainer: Explainer, inputs: Mapping[str, torch.Tensor], target: torch.Tensor
) -> Explanation:
    torch.manual_seed(0)  # of models that hash by random projections
    return explainer(model, inputs, target, create_graph=True)


def loss_of(explanation: Explanation) -> torch.Tensor:
    """The mean explanation loss against a fixed random reference."""
    reference = torch.rand(explanation.maps.shape, generator=torch.Generator().manual_seed(5))
    return explanation_loss(explanation.maps, reference, mask=explanation.mask)[0].mean()


@contextmanager
def recorded_layers(model: nn.Module) -> Iterator[list[nn.Module]]:
    """The layers with weights, in the order in which they are called."""
    layers: list[nn.Module] = []
    handles = [
        module.register_forward_hook(lambda module, _args, _output: layers.append(module))
        for module in model.modules()
        if isinstance(getattr(module, "weight", None), nn.Parameter) and module.weight.ndim > 1
    ]
    try:
        yield layers
    finally:
        for handle in handles:
            handle.remove()


def what_is_wrong(
    explanation: Explanation, loss: torch.Tensor, model: nn.Module, layers: list[nn.Module], name: str
) -> str | None:
    """What makes a loss useless for training; None where nothing does."""
    maps = explanation.maps.detach().flatten(1)
    if not (maps.isfinite().all() and loss.isfinite()):
        return "the maps are not finite"
    if name == "gradcam" and not ((maps > 0).sum(1) > 1).any():
        return TOO_EMPTY
    if maps.shape[1] < 2 or not (maps.amax(1) - maps.amin(1) > 1e-6 * maps.abs().amax()).any():
        return "the maps are constant"
    if loss == 0:
        return "the loss is zero"
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    if not all(gradient.isfinite().all() for gradient in gradients):
        return "the gradients are not finite"
    # The rollout of the attention reads neither the classifier nor what comes after the last attention.
    ends = layers[:1] if name == "attention_rollout" else [layers[0], layers[-1]]
    for layer in ends:
        if not has_gradient(layer):
            path = next(path for path, module in model.named_modules() if module is layer)
            return f"no gradient reaches the layer '{path}'"
    return None


def has_gradient(layer: nn.Module) -> bool:
    return layer.weight.grad is not None and bool(layer.weight.grad.any())


def gradient_error(
    models: Iterable[nn.Module], explainer: Explainer, inputs: Mapping[str, torch.Tensor], target: torch.Tensor
) -> float:
    """How far the gradient's derivative along a random direction is from finite differences, relatively.

    A custom backward function without a double backward gives gradients that are finite, reach everything, and are
    wrong.

    Args:
        models: The same model in float64 and in float32, which stands in where an operation has no float64.
    """
    for model in models:
        try:
            return _gradient_error(model, explainer, inputs, target)
        except RuntimeError as error:
            if "Double" not in str(error):
                raise
    raise ValueError("no precision to compute in")


def _gradient_error(
    model: nn.Module, explainer: Explainer, inputs: Mapping[str, torch.Tensor], target: torch.Tensor
) -> float:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    precision = parameters[0].dtype
    inputs = {name: value.to(precision) if value.is_floating_point() else value for name, value in inputs.items()}
    loss = loss_of(explain(model, explainer, inputs, target))
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    direction = _direction(model, parameters)
    changes = [(g * d).sum() for g, d in zip(gradients, direction, strict=True) if g is not None]
    expected = torch.stack(changes).sum().item()
    # What a derivative along such a direction is like, as a scale that can't be zero by chance.
    scales = [g.square().sum() * d.square().mean() for g, d in zip(gradients, direction, strict=True) if g is not None]
    scale = max(abs(expected), torch.stack(scales).sum().sqrt().item())
    errors = []
    for step in STEPS[precision]:
        with _moved(parameters, direction, step):
            ahead = loss_of(explain(model, explainer, inputs, target)).item()
        with _moved(parameters, direction, -step):
            behind = loss_of(explain(model, explainer, inputs, target)).item()
        errors.append(abs((ahead - behind) / (2 * step) - expected) / scale)
        if errors[-1] < TOLERANCE / 10:
            break
    return min(errors)


# Models that compute a part in float32 need the long steps, those with kinks the short.
STEPS = {torch.float64: (1e-7, 1e-9, 1e-5, 1e-4, 3e-5, 3e-4, 1e-3), torch.float32: (1e-3, 3e-3, 3e-4, 1e-2)}


def _direction(model: nn.Module, parameters: list[nn.Parameter]) -> list[torch.Tensor]:
    """A random change of each parameter, as large as the parameter."""
    generator = torch.Generator().manual_seed(2)
    direction = [
        torch.randn(p.shape, generator=generator, dtype=p.dtype) * p.detach().square().mean().sqrt() for p in parameters
    ]
    padding = {module.weight: module.padding_idx for module in model.modules() if isinstance(module, nn.Embedding)}
    for parameter, change in zip(parameters, direction, strict=True):
        if padding.get(parameter) is not None:  # torch gives this row no gradient, on purpose
            change[padding[parameter]] = 0
    return direction


@contextmanager
def _moved(parameters: list[nn.Parameter], direction: list[torch.Tensor], step: float) -> Iterator[None]:
    before = [parameter.detach().clone() for parameter in parameters]
    with torch.no_grad():
        for parameter, change in zip(parameters, direction, strict=True):
            parameter.add_(change, alpha=step)
    yield
    with torch.no_grad():
        for parameter, value in zip(parameters, before, strict=True):
            parameter.copy_(value)


def judge_error(error: Exception, model: nn.Module) -> Outcome:
    """A class as refused, where our own code raised a ValueError, else as failed."""
    if not isinstance(error, ValueError):
        return failed(error)
    frames = traceback.extract_tb(error.__traceback__)
    ours = "hf_e2kd" in Path(frames[-1].filename).parts
    return Outcome("refused" if ours else "FAILED", _reason(error, model))


def failed(error: Exception, doing: str = "") -> Outcome:
    """A class as failed, with the error's kind and first line."""
    return Outcome("FAILED", f"{doing}{type(error).__name__}: {_first_line(error)}")


def _reason(error: BaseException, model: nn.Module) -> str:
    """An error's first sentence, without the names that differ from class to class."""
    sentence = re.split(r"(?<=[.:]) (?=[A-Z])", _first_line(error))[0]
    sentence = re.sub(r"the shapes \(.*", "other shapes.", sentence)
    name = type(model).__name__
    return sentence.replace(name, "The model" if sentence.startswith(name) else "the model")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0]
