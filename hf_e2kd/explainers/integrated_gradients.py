"""Integrated Gradients (Sundararajan et al., 2017), differentiable."""

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from typing import Any

import numpy as np
import torch
from torch import nn

from ..alignment.precision import at_least_float32
from ..architectures.layers import LayerName
from ..architectures.text import reads_embeddings
from ..architectures.text_baseline import refuse_zero_baseline, text_baseline, token_embedding, token_id
from ..architectures.transposed import TransposeError
from ..choices import unknown_choice
from .base import Explanation, Target, resolve_target
from .input_gradients import BaselineExplainer, frozen_statistics, input_explanation, is_batched, rows_of, run_at
from .layer_gradients import check_layer
from .lrp import is_written_out
from .path_places import InputPlace, LayerPlace, OpenedPlace, refuse_unfit_baseline, to_baseline

STEPS_AT_ONCE, SAMPLES_AT_ONCE = 4, 128
"""Most steps along the path, and samples at these, in one forward pass, unless `internal_batch_size` says otherwise."""


class IntegratedGradients(BaselineExplainer):
    """Integrated Gradients: (x − b) · ∫₀¹ ∂z/∂x (b + α(x − b)) dα, summed over channels, signed.

    Of an image, x are the pixel values as the model gets them; of a text, the word embeddings before positions are
    added, which stay as they are all along the path.

    Training takes a cheap, unbiased estimate of the integral: gradients at `random_points` points of the path, drawn
    anew at each step, one in each of as many equal parts. Teacher and student draw the same ones. Everywhere else, in
    `explain` and in evaluations, the map is the quadrature's.

    Where `lrp` knows a model's blocks, the gradients at a layer and at a text's words are written out as a transposed
    pass, as those of `InputXGradient`; what leads to a layer then runs once for the input and once for its baseline.

    Args:
        n_steps: Number of gradients along the path. On a fine-tuned MiniLM 16 of the default rule reach a mean cosine
            of .9996 to 300 steps (`recipes/benchmarks/quadrature.py`).
        rule: Quadrature rule, one of `RULES`, which places the steps.
        baselines: b: `"auto"`, zero but where a text's logits hardly depend on the length of its word embeddings; there
            it is the mask token's embedding, else the padding's (`text_baseline`). Or `"zero"`, which is refused
            there; `"pad"` or `"mask"` (that token at every place of a text, as the model's configuration or else its
            tokenizer states it), a token's id, or a tensor that broadcasts to x.
        internal_batch_size: Number of samples in one forward pass along the path, steps × samples, as captum counts
            them, but at least one step of the whole batch. By default four steps, fewer of batches above 32: those of
            an evaluation fit into memory without gradients, and would not with those of four steps. More is faster on
            a GPU and takes more memory; the map is the same.
        random_points: Points of a training step.
        completeness: Return `completeness_error`: z(x) − z(b) − Σ map, before special tokens are masked. Costs one more
            forward pass.
        layer: Layer whose activation is x, b being its activation at the baseline of the input, which costs one more
            forward pass: `"input"` (the default), the pixels or words; the activation in front of a block (or stage),
            by its number, or of the `"last"`; or the output of the layer at a path.
    """

    name = "integrated_gradients"
    without_effect = ("internal_batch_size", "random_points", "completeness")

    def __init__(
        self,
        n_steps: int = 16,
        rule: str = "gauss_legendre",
        baselines: str | int | torch.Tensor = "auto",
        internal_batch_size: int | None = None,
        random_points: int = 1,
        completeness: bool = False,
        layer: LayerName | None = None,
    ):
        if rule not in RULES:
            raise ValueError(unknown_choice("rule", rule, sorted(RULES)))
        sizes = {"n_steps": n_steps, "random_points": random_points}
        if internal_batch_size is not None:
            sizes["internal_batch_size"] = internal_batch_size
        for name, value in sizes.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}.")
        if isinstance(baselines, str) and baselines not in _NAMED_BASELINES:
            raise ValueError(unknown_choice("baseline", baselines, [*_NAMED_BASELINES, "a token's id", "a tensor"]))
        if isinstance(baselines, bool) or not isinstance(baselines, str | int | torch.Tensor):
            raise ValueError(f"The baseline is a name, a token's id or a tensor, not {baselines!r}.")
        self.n_steps = n_steps
        self.rule = rule
        self.baselines = baselines
        self.internal_batch_size = internal_batch_size
        self.random_points = random_points
        self.completeness = completeness
        self.layer = None if layer == "input" else layer
        nodes, weights = RULES[rule](n_steps)
        self._nodes = torch.as_tensor(nodes, dtype=torch.float32)
        self._weights = torch.as_tensor(weights, dtype=torch.float32)
        self._by_hook = False

    def with_features(self, model: nn.Module, paths: Sequence[str]) -> "IntegratedGradients":
        """Return the explainer that runs the model's own blocks, where features are read."""
        if self._by_hook == bool(paths):
            return self
        fitting = copy(self)
        fitting._by_hook = bool(paths)
        return fitting

    def check(self, model: nn.Module, compiled: bool = False, trained: bool = True) -> None:
        super().check(model, compiled, trained)
        if self.baselines == "zero" and reads_embeddings(model):
            refuse_zero_baseline(model, None, None)
        check_layer(model, self.layer, compiled)

    @property
    def num_draws(self) -> int:  # type: ignore[override]
        return self.random_points

    @property
    def forward_passes(self) -> int:  # type: ignore[override]
        return 1 + self.n_steps + self.completeness + (self.layer is not None)

    def forward(self, model: nn.Module, inputs: Mapping[str, Any], target: Target) -> Explanation:
        if not self._by_hook and is_written_out(model, inputs, self.layer):
            try:
                return self._along_path(OpenedPlace(self.layer), model, inputs, target)
            except TransposeError:  # an adapter, an activation, a layer inside a block: for the model's own forward
                pass
        place = InputPlace() if self.layer is None else LayerPlace(self.layer)
        return self._along_path(place, model, inputs, target)

    def _along_path(
        self, place: InputPlace, model: nn.Module, inputs: Mapping[str, Any], target: Target
    ) -> Explanation:
        logits = place.run(model, inputs)
        target = resolve_target(target, logits)
        rows = _explained_rows(target)
        some = rows_of(inputs, rows, len(logits)) if len(rows) < len(logits) else inputs
        baseline = self._baseline(model, inputs)
        places, weights = self._places(rows, logits.device)
        most = self.internal_batch_size or min(SAMPLES_AT_ONCE, STEPS_AT_ONCE * len(rows))
        at_once = max(1, most // max(1, len(rows)))
        count = 1 if target.ndim == 1 else target.shape[1]
        scores: list[torch.Tensor] = [] if len(rows) else [place.nothing(logits, inputs)] * count
        # The steps on the path must leave no trace in the statistics of a model in training.
        with frozen_statistics(model):
            own = place.start(model, inputs, baseline, rows) if len(rows) else None
            for start in range(0, len(places) if len(rows) else 0, at_once):
                here = slice(start, start + at_once)
                part = _part_of_path(place, model, some, rows, target[rows], own, places[here], weights[here])
                scores = [x + y for x, y in zip(scores, part, strict=True)] if scores else part
            if 0 < len(rows) < len(logits):
                scores = [score.new_zeros(len(logits), *score.shape[1:]).index_copy(0, rows, score) for score in scores]
            explanation = input_explanation(logits, scores, target, inputs)
            if self.completeness:
                explanation.completeness_error = _completeness_error(model, inputs, baseline, logits, target, scores)
        return explanation

    def _places(self, rows: torch.Tensor, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the points' α (n, rows) and weights (n)."""
        if self.noise is None:
            return self._nodes.to(device)[:, None].expand(-1, len(rows)), self._weights.to(device)
        count = self.random_points
        within = self.noise[:count].to(device)[:, rows]
        places = (torch.arange(count, device=device)[:, None] + within) / count
        return places, torch.full((count,), 1 / count, device=device)

    def _baseline(self, model: nn.Module, inputs: Mapping[str, Any]) -> torch.Tensor | None:
        """The baseline, which broadcasts to x; None for zero."""
        if isinstance(self.baselines, torch.Tensor) and not torch.compiler.is_compiling():
            refuse_unfit_baseline(model, inputs, self.baselines)
        if inputs.get("pixel_values") is not None or inputs.get("input_ids") is None:
            if isinstance(self.baselines, torch.Tensor):
                return self.baselines
            if self.baselines in ("auto", "zero"):
                return None
            raise ValueError(f"The baseline {self.baselines!r} is a token; an image's is 'zero' or a tensor.")
        if isinstance(self.baselines, str) and self.baselines == "auto":
            return text_baseline(model, inputs, self._tokenizer_ids)
        baseline = self._chosen_baseline(model)
        if not torch.compiler.is_compiling():
            refuse_zero_baseline(model, inputs, baseline)
        return baseline

    def _chosen_baseline(self, model: nn.Module) -> torch.Tensor | None:
        """The baseline of a text that the option names."""
        if isinstance(self.baselines, torch.Tensor):
            return self.baselines
        if isinstance(self.baselines, int):
            return token_embedding(model, self.baselines)
        if self.baselines == "zero":
            return None
        token = token_id(model, self.baselines, self._tokenizer_ids)
        if token is None:
            name = f"{self.baselines}_token_id"
            raise ValueError(
                f"{type(model).__name__}'s configuration states no {name}, nor does a tokenizer that is known. "
                "Give the tokenizer as processing_class (a teacher's as teacher_processing_class), or the token's "
                f"id as the baseline: tokenizer.{name}."
            )
        return token_embedding(model, token)


_NAMED_BASELINES = ("auto", "zero", "pad", "mask")


def _part_of_path(
    place: InputPlace,
    model: nn.Module,
    inputs: Mapping[str, Any],
    rows: torch.Tensor,
    target: torch.Tensor,
    baseline: torch.Tensor | None,
    places: torch.Tensor,
    weights: torch.Tensor,
) -> list[torch.Tensor]:
    """Compute the contribution of the points α (n, B) to each target's map, (B, H, W) or (B, T), in one pass."""
    count, batch = places.shape
    whole: list[torch.Tensor] = []

    def move(value: torch.Tensor) -> torch.Tensor:
        alphas = places.reshape(-1, *[1] * (value.ndim - 1)).to(value.dtype)
        start = torch.zeros_like(value[:1]) if baseline is None else baseline.to(value)
        if start.ndim == value.ndim and len(start) > 1:  # each sample's own
            start = start.repeat(count, *[1] * (start.ndim - 1))
        whole.append((value - start)[:batch])
        return start + alphas * (value - start)

    repeated = target.repeat(count, *[1] * (target.ndim - 1))
    gradients = place.differentiate(model, _repeated(inputs, batch, count), rows, repeated, move)
    path = at_least_float32(whole[0])
    return [
        place.lay_out(path * torch.einsum("n,nb...->b...", weights.to(g.dtype), g.unflatten(0, (count, batch))), inputs)
        for g in gradients
    ]


def _explained_rows(target: torch.Tensor) -> torch.Tensor:
    """Select the samples with a target; others cost their logits alone. A compiled step's fixed shapes take all."""
    if torch.compiler.is_compiling():
        return torch.arange(len(target), device=target.device)
    return (target if target.ndim == 1 else target.amax(1)).ge(0).nonzero().flatten()


def _completeness_error(
    model: nn.Module,
    inputs: Mapping[str, Any],
    baseline: torch.Tensor | None,
    logits: torch.Tensor,
    target: torch.Tensor,
    scores: list[torch.Tensor],
) -> torch.Tensor:
    rise = (logits - run_at(model, inputs, to_baseline(baseline))[0]).detach().float()
    columns = target.unsqueeze(1) if target.ndim == 1 else target
    rises = rise.gather(1, columns.clamp(min=0)) * (columns >= 0)
    sums = torch.stack([score.detach().flatten(1).sum(1) for score in scores], 1)
    error = rises - sums
    return error if target.ndim == 2 else error[:, 0]


def _repeated(inputs: Mapping[str, Any], batch: int, count: int) -> dict[str, Any]:
    """Repeat every tensor of the batch `count` times."""
    return {
        key: value.repeat(count, *[1] * (value.ndim - 1)) if is_batched(value, batch) else value
        for key, value in inputs.items()
    }


def _gauss_legendre(count: int) -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return (nodes + 1) / 2, weights / 2


def _riemann_left(count: int) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(count) / count, np.full(count, 1 / count)


def _riemann_right(count: int) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(1, count + 1) / count, np.full(count, 1 / count)


def _riemann_middle(count: int) -> tuple[np.ndarray, np.ndarray]:
    return (np.arange(count) + 0.5) / count, np.full(count, 1 / count)


def _trapezoid(count: int) -> tuple[np.ndarray, np.ndarray]:
    weights = np.full(count, 1 / max(1, count - 1))
    weights[[0, -1]] /= 2 if count > 1 else 1
    return np.linspace(0, 1, count), weights


# How many points → α in [0, 1] and weights, which sum to 1.
RULES: dict[str, Callable[[int], tuple[np.ndarray, np.ndarray]]] = {
    "gauss_legendre": _gauss_legendre,
    "riemann_left": _riemann_left,
    "riemann_middle": _riemann_middle,
    "riemann_right": _riemann_right,
    "trapezoid": _trapezoid,
}
