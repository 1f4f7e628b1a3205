"""Functions of one training step: the student's single forward pass, the terms' losses and their weighted sum."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ..alignment.inputs import first_tensor
from ..alignment.words import lay_out_tokens
from ..architectures import accepted_inputs
from ..architectures.discovery import in_own_precision, logits_of
from ..architectures.text import refuse_unfit_text
from ..explainers import ExplainedOutput
from ..terms.base import ReferenceOutput, StepOutput, Term
from ..terms.matching import concat_targets, mask_target


def run_student(
    model: nn.Module,
    student: nn.Module,
    inputs: Mapping[str, Any],
    reference_outputs: Mapping[str, ReferenceOutput],
    *,
    sample_mask: torch.Tensor | None = None,
    with_features: bool = False,
    views: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[StepOutput, dict[str, StepOutput]]:
    """Run a student once for all references and terms.

    Args:
        model: The student as it is called, with an explained forward where a reference has an explanation or features
            are read.
        student: The same without wrappers.
        inputs: Its inputs for the batch.
        reference_outputs: Outputs of the references, whose targets the student explains.
        sample_mask: Mask (B,) bool of the samples to explain; None for all.
        with_features: True to read the outputs of the tapped layers.
        views: Inputs of further rows by term, which join the batch and aren't explained.

    Returns:
        The output for the batch, and that for each term's further rows.
    """
    explained = [name for name, output in reference_outputs.items() if output.has_explanation]
    targets = [reference_outputs[name].target for name in explained]
    if sample_mask is not None:
        targets = [mask_target(target, sample_mask) for target in targets]
    # Several references' targets side by side, as (B, K): still one forward.
    target, places = concat_targets(targets) if targets else (None, [])
    rows = _rows(inputs)
    joined = in_own_precision(model, _join(inputs, views or {}))
    if target is not None and views:
        target = torch.cat([target, target.new_full((_rows(joined) - rows, *target.shape[1:]), -1)])
    if target is None:  # an explained forward looks at its texts itself
        refuse_unfit_text(student, joined)
    asked: dict[str, Any] = {} if target is None else {"explain_target": target}
    if with_features:
        asked["with_features"] = True
    outputs = model(**(joined if asked else accepted_inputs(student, joined)), **asked)
    if not (isinstance(outputs, Mapping) and "logits" in outputs):  # of a model of the user's own, or PP-LCNet
        outputs = ExplainedOutput(logits=logits_of(student, outputs))
    if target is not None and "pixel_values" not in inputs:
        outputs.maps, outputs.mask, _ = lay_out_tokens(outputs.maps, joined)
    whole = StepOutput(outputs["logits"], features=_features(outputs), model_output=outputs)
    batch = _part(whole, 0, rows) if views else whole
    if target is not None:
        own = _explanations(outputs, rows) if views else outputs
        each = [own if place is None else own.of_target(place) for place in places]
        batch = replace(batch, explanations=dict(zip(explained, each, strict=True)))
    start, further = rows, {}
    for name, view in (views or {}).items():
        further[name] = _part(whole, start, start + _rows(view))
        start += _rows(view)
    return batch, further


def empty_output(inputs: Mapping[str, Any]) -> StepOutput:
    """Return an output without classes, in the place of a student's that isn't run."""
    rows = first_tensor(inputs)
    return StepOutput(torch.zeros(len(rows), 0, device=rows.device))


def compare(
    terms: Mapping[str, Term],
    weights: Mapping[str, float],
    output: StepOutput,
    reference_outputs: Mapping[str, ReferenceOutput],
    inputs: Mapping[str, Any],
    views: Mapping[str, tuple[StepOutput, ReferenceOutput | None]] | None = None,
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Compute the terms' losses, means over the batch.

    Args:
        terms: The terms by name.
        weights: Their weights; a term of weight 0 isn't computed.
        output: The student's output.
        reference_outputs: The references' outputs.
        inputs: The batch as collated.
        views: Outputs of student and reference for the further rows of the terms that have some.

    Returns:
        The losses of the terms that apply to the batch, by the terms' names, without their weights; and the values to
        log by name: `loss_NAME` and what the terms log beside.
    """
    means, logged = dict[str, torch.Tensor](), dict[str, torch.Tensor]()
    for name, term in terms.items():
        if weights[name] <= 0:
            continue
        reference_output = None if term.reference is None else reference_outputs.get(term.reference)
        seen = output
        if views and name in views:
            view, theirs = views[name]
            seen = replace(output, view=view)
            reference_output = None if reference_output is None else replace(reference_output, view=theirs)
        if term.reference is not None and reference_output is None:
            continue
        if term.explains and term.reference not in output.explanations:
            continue  # a step without maps
        losses = term(seen, reference_output, inputs)
        if losses is None:
            continue
        means[name] = logged[f"loss_{name}"] = losses.mean()
        logged |= {f"{key}{term.suffix}": value for key, value in term.logged.items()}
    return means, logged


def weighted_sum(losses: Mapping[str, torch.Tensor], weights: Mapping[str, Any]) -> torch.Tensor | None:
    """Sum losses () by their weights, numbers or tensors (); None where there are no losses."""
    total = None
    for name, loss in losses.items():
        weighed = weights[name] * loss
        total = weighed if total is None else total + weighed
    return total


def _rows(inputs: Mapping[str, Any]) -> int:
    return len(first_tensor(inputs))


def _join(inputs: Mapping[str, Any], views: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Concatenate the batch and the further rows, which must have the batch's columns."""
    if not views:
        return dict(inputs)
    rows, joined = _rows(inputs), dict(inputs)
    for key, value in inputs.items():
        if isinstance(value, torch.Tensor) and value.ndim and len(value) == rows:
            lacking = [name for name, view in views.items() if key not in view]
            if lacking:
                raise ValueError(f"The further inputs of the term '{lacking[0]}' lack '{key}', which the batch has.")
            joined[key] = torch.cat([value, *(view[key] for view in views.values())])
    return joined


def _features(outputs: Any) -> dict[str, torch.Tensor]:
    return getattr(outputs, "features", None) or {}


def _part(output: StepOutput, start: int, end: int) -> StepOutput:
    """Select some rows of an output, without explanations."""
    logits = output.logits[start:end]
    features = {path: feature[start:end] for path, feature in output.features.items()}
    return StepOutput(logits, features=features, model_output=ExplainedOutput(logits=logits))


def _explanations(outputs: ExplainedOutput, rows: int) -> ExplainedOutput:
    """Select the first rows of an explained output."""

    def first(values: torch.Tensor | None) -> torch.Tensor | None:
        return None if values is None else values[:rows]

    return ExplainedOutput(first(outputs.logits), first(outputs.maps), first(outputs.mask), first(outputs.vectors))
