"""Weights of explanations relative to the norms of the gradients (`explanation_weight_mode="relative"`).

The size of a loss says little about its pull on the student: at a temperature of 1 the KL of a fine-tuned teacher's
small logits has gradients that are a fraction of those of any explanation, and λ = 1 then trains explanations alone.
Relative to the norms, λ is the ratio of the two pulls: 1 for as much of the explanations as of everything else.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn

from ..alignment.precision import at_least_float32
from ..logs import get_logger
from ..terms import Term
from .step import weighted_sum

logger = get_logger(__name__)

MODES = ("absolute", "relative")
FACTOR = "relative_factor"
"""Name of the buffer () that a weighed term of explanations has: ‖∇ others‖ / ‖∇ own‖; 0 until it was measured."""
LEAST_NORM = 1e-4
"""Norm of explanations' gradients, as a share of the others', below which no factor is measured.

Where maps match already, as those of a student that begins as its teacher's copy, what is left is rounding, about 1e-7,
even in bfloat16. Its factor would stand, millions high, when the next step's maps differ.
"""


def add_factors(terms: Mapping[str, Term], weights: Mapping[str, float]) -> None:
    """Give each weighed term of explanations its factor, a buffer that checkpoints hold; one that has it keeps it.

    Args:
        terms: The terms by name.
        weights: Their weights.

    Raises:
        ValueError: explanations are weighed, and nothing that they could be relative to.
    """
    weighed = {name: term for name, term in terms.items() if weights[name] > 0}
    explaining = [term for term in weighed.values() if term.explains]
    if explaining and len(explaining) == len(weighed):
        raise ValueError(
            "explanation_weight_mode='relative' takes λ relative to the gradients of the loss's other terms, and "
            "explanations are all that it has. Give logits_weight, task_weight or another term a weight, or set "
            "explanation_weight_mode='absolute'."
        )
    for term in explaining:
        if not hasattr(term, FACTOR):
            term.register_buffer(FACTOR, torch.zeros(()))


def refuse_relative_weights(accelerator: Accelerator, args: Any) -> None:
    """Refuse trainings in which the gradients of single terms can't be measured.

    Raises:
        ValueError: FSDP or DeepSpeed, fp16 or torch_compile.
    """
    remedy = "or set explanation_weight_mode='absolute'"
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        raise ValueError(
            "explanation_weight_mode='relative' measures gradients by the whole student, which FSDP and DeepSpeed "
            f"shard. Train with DDP or in one process, {remedy}."
        )
    if accelerator.mixed_precision == "fp16":
        raise ValueError(
            "explanation_weight_mode='relative' measures gradients without fp16's scaled loss, and they may underflow. "
            f"Train with bf16=True in place of fp16, {remedy}."
        )
    if args.torch_compile:
        raise ValueError(
            "explanation_weight_mode='relative' goes back through a step's graph several times, and a compiled one may "
            f"have reused its memory by then. Train without torch_compile, {remedy}."
        )


def relative_weights(
    terms: Mapping[str, Term], weights: Mapping[str, float]
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Multiply the weights of explanations by their factors.

    Args:
        terms: The terms that a batch has, by name.
        weights: Weights of these terms and maybe of others.

    Returns:
        The weights, and those of explanations by the name to log, as `explanation_weight`.
    """
    own: dict[str, Any] = {name: weights[name] for name in terms}
    logged = {}
    for name, term in terms.items():
        if hasattr(term, FACTOR):
            own[name] = logged[_logged_name(term, "weight")] = weights[name] * getattr(term, FACTOR)
    return own, logged


def measure_factors(
    terms: Mapping[str, Term],
    weights: Mapping[str, float],
    losses: Mapping[str, torch.Tensor],
    parameters: Iterable[nn.Parameter],
    mean_of_ranks: Callable[[torch.Tensor], torch.Tensor],
) -> dict[str, torch.Tensor]:
    """Measure the factors of explanations on a micro-batch: ‖∇ Σ w_i L_i‖ / ‖∇ L_explanation‖, i the other terms.

    Norms are over all parameters, and their squares are means over the ranks, so that the factors are the same on all.
    A factor stays as it was where nothing is there to measure: maps that are all-zero or match already, whose norm is
    below `LEAST_NORM` of the others', or a batch that the other terms don't apply to.

    Args:
        terms: The terms by name; all ranks name the same ones.
        weights: Their weights.
        losses: Losses () with their graph, which is retained, of the terms that this rank's micro-batch has.
        parameters: Parameters of the student.
        mean_of_ranks: Function that averages a tensor over the ranks; all of them call it.

    Returns:
        The norms to log, as `explanation_grad_norm` and `other_grad_norm`.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    device = next(iter(losses.values())).device
    measured = [term for term in terms.values() if hasattr(term, FACTOR)]
    others = {name: loss for name, loss in losses.items() if not terms[name].explains}
    own = {id(terms[name]): loss for name, loss in losses.items()}
    each = [weighted_sum(others, weights), *(own.get(id(term)) for term in measured)]
    other, *norms = mean_of_ranks(torch.stack([_squared_norm(loss, trained, device) for loss in each])).sqrt().unbind()
    for term, norm in zip(measured, norms, strict=True):
        factor = cast(torch.Tensor, getattr(term, FACTOR))
        factor.copy_(torch.where((other > 0) & (norm > LEAST_NORM * other), other / norm, factor))
    named = zip((_logged_name(term, "grad_norm") for term in measured), norms, strict=True)
    return {"other_grad_norm": other, **dict(named)}


def is_measured(terms: Iterable[Term]) -> bool:
    """Tell whether every term of explanations has a factor that was measured."""
    return all(getattr(term, FACTOR) > 0 for term in terms if hasattr(term, FACTOR))


def warn_of_unmeasured(terms: Iterable[Term]) -> None:
    """Warn of terms of explanations that a training has left out, as their factors were never measured."""
    for term in terms:
        if getattr(term, FACTOR, None) == 0:
            logger.warning(
                f"'{term.name}' had no part in this training: explanation_weight_mode='relative' found no gradient of "
                f"it above {LEAST_NORM:g} of the other terms'. Its maps are all-zero or the teacher's own already, no "
                "step explained anything, or the other terms have no gradient; the logs' explanation_grad_norm, "
                "other_grad_norm and zero_student_maps tell which."
            )


def _squared_norm(loss: torch.Tensor | None, parameters: list[nn.Parameter], device: torch.device) -> torch.Tensor:
    total = torch.zeros((), device=device)
    if loss is None or not loss.requires_grad:
        return total
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    for gradient in gradients:
        if gradient is not None:
            total = total + at_least_float32(gradient).square().sum().to(device)  # of a model on several devices
    return total


def _logged_name(term: Term, figure: str) -> str:
    return f"{term.log_name or term.name}_{figure}{term.suffix}"
