"""The baseline against which a text is attributed at its word embeddings.

Where word embeddings go straight into a norm (ModernBERT, Bloom, Funnel, DeBERTa without positions in its input, and
every decoder whose blocks begin with an RMS norm), the logits hardly depend on how long the embeddings are, however
short: all of the way from zero to the text is passed within a few per cent of the path. Gradients along that path show
nothing of it, and x·∂z/∂x is zero up to rounding. Such models are found by measurement, and are attributed against the
embedding of a token that says nothing.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from .base import evaluating
from .discovery import accepted_inputs, call_model
from .taps import untapped
from .text import longest_text, moved_embeddings, reads_embeddings, word_embeddings

NEAR_ZERO = 0.05
"""Part of the path from zero to the text on which a model may pass at most `STEEP` of the way."""

STEEP = 0.5
"""Part of the logits' way from zero to the text that may be passed near zero: ten times as much as on a straight way.
Above it 16 steps from zero leave most of the rise out (`recipes/benchmarks/coverage.py`)."""

BASELINE_TOKENS = ("mask", "pad", "eos")
"""Tokens that say nothing of a text, the best first. The padding's embedding is often zero, and then passed over."""

_STEEP: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
_TOKENS: WeakKeyDictionary[nn.Module, dict[tuple[int, ...], int]] = WeakKeyDictionary()


def text_baseline(
    model: nn.Module, inputs: Mapping[str, Any], tokenizer_ids: Mapping[str, int | None]
) -> torch.Tensor | None:
    """Choose the baseline of texts at a model's word embeddings.

    Args:
        inputs: A batch, by which a model of an unknown family is measured the first time.
        tokenizer_ids: Ids of `BASELINE_TOKENS` in the model's tokenizer, where it is known.

    Returns:
        None for the zero vector; where the model is steep at zero, the embedding (1, 1, C) of the mask token, else of
        the padding, else of the text's end.

    Raises:
        ValueError: the model is steep at zero and none of these tokens is known, or all their embeddings are zero.
    """
    if not is_steep_at_zero(model, inputs):
        return None
    return token_embedding(model, _chosen_token(model, tokenizer_ids))


def token_embedding(model: nn.Module, token: int) -> torch.Tensor:
    """The embedding (1, 1, C) of a token, with its graph."""
    table = word_embeddings(model)
    return table(torch.tensor([[token]], device=table.weight.device))


def token_id(model: nn.Module, name: str, tokenizer_ids: Mapping[str, int | None]) -> int | None:
    """The id of a special token, as the model's configuration or else its tokenizer states it.

    Args:
        name: One of `BASELINE_TOKENS`.
    """
    config: Any = getattr(model, "config", None)
    text_config = config.get_text_config() if hasattr(config, "get_text_config") else config
    stated = getattr(text_config, f"{name}_token_id", None)
    # -1 says that there is none, as in Llama's first configurations.
    return stated if isinstance(stated, int) and stated >= 0 else tokenizer_ids.get(name)


def is_steep_at_zero(model: nn.Module, inputs: Mapping[str, Any] | None = None) -> bool:
    """Tell whether most of the logits' way from zero word embeddings to a text's lies next to zero.

    The word embeddings are scaled and the logits looked at, in three passes without gradient in evaluation mode, once
    a model; its mode, its hooks and the random generators are as before. A model of a family that is known to read
    nothing but its tokens is measured on fixed ones, any other on its first batch.

    Args:
        inputs: A batch with `input_ids` (B, T); None to measure known families alone, before training.

    Returns:
        True where it is; False too of a model that can't be measured yet.
    """
    known = _STEEP.get(model)
    if known is not None:
        return known
    if torch.compiler.is_compiling():
        raise ValueError(
            "A compiled model's baseline must be known before: call explainer.check(model, compiled=True), as the "
            "trainer does, before the compiled forward."
        )
    batch = _fixed_texts(model) if reads_embeddings(model) else inputs
    if batch is None:
        return False
    share = _share_near_zero(model, batch, call_model)
    if math.isnan(share):  # a classifier that begins at zero makes all logits one
        share = _share_near_zero(model, batch, _encode)
    _STEEP[model] = share > STEEP
    return _STEEP[model]


def refuse_zero_baseline(model: nn.Module, inputs: Mapping[str, Any] | None, baseline: torch.Tensor | None) -> None:
    """Refuse a baseline of zeros for a model that is steep there.

    Args:
        baseline: The chosen baseline, which broadcasts to the word embeddings; None for zero.

    Raises:
        ValueError: with the remedy.
    """
    if is_steep_at_zero(model, inputs) and (baseline is None or not baseline.any()):
        raise ValueError(
            f"The logits of {type(model).__name__} hardly depend on the length of its word embeddings, so that a path "
            'from zero shows nothing of what the text says. Leave out the baseline (`baselines="auto"`), or choose '
            "'mask' or the id of a token whose embedding isn't zero."
        )


def _chosen_token(model: nn.Module, tokenizer_ids: Mapping[str, int | None]) -> int:
    stated = [token_id(model, name, tokenizer_ids) for name in BASELINE_TOKENS]
    candidates = tuple(token for token in stated if token is not None)
    chosen = _TOKENS.setdefault(model, {})
    if candidates not in chosen:
        weight = word_embeddings(model).weight
        # A tokenizer may have been given a token that the model has no embedding of.
        told = [token for token in candidates if token < len(weight) and weight[token].any()]
        if not told:
            names = ", ".join(BASELINE_TOKENS)
            raise ValueError(
                f"The logits of {type(model).__name__} hardly depend on the length of its word embeddings, so a text "
                f"is explained against a token's embedding, and neither its configuration nor a tokenizer states one "
                f"of {names} whose embedding isn't zero. Give the tokenizer as processing_class (a teacher's as "
                "teacher_processing_class), or a token's id: IntegratedGradients(baselines=tokenizer.unk_token_id)."
            )
        chosen[candidates] = told[0]
    return chosen[candidates]


def _share_near_zero(
    model: nn.Module, inputs: Mapping[str, Any], read: Callable[[nn.Module, Mapping[str, Any]], torch.Tensor]
) -> float:
    """The part of the way from zero to the text that the first 5 % of the path pass; NaN where all is level.

    Args:
        read: Function of model and inputs that gives the output whose way it is.
    """

    def output(scale: float) -> torch.Tensor:
        with _seeded(inputs["input_ids"].device), moved_embeddings(model, inputs["input_ids"], lambda x: scale * x):
            return read(model, inputs).double()

    with torch.no_grad(), evaluating(model), untapped():
        at_zero = output(0.0)
        return ((output(NEAR_ZERO) - at_zero).norm() / (output(1.0) - at_zero).norm()).item()


def _encode(model: nn.Module, inputs: Mapping[str, Any]) -> torch.Tensor:
    """The last hidden states of a classifier of transformers; of others the logits."""
    base = getattr(model, "base_model", model)
    return call_model(model, inputs) if base is model else base(**accepted_inputs(base, inputs), return_dict=True)[0]


def _fixed_texts(model: nn.Module) -> dict[str, torch.Tensor]:
    """Two texts of tokens from all over the vocabulary."""
    weight = word_embeddings(model).weight
    tokens = min(8, longest_text(model) or 8)
    ids = torch.linspace(0, len(weight) - 1, 2 * tokens + 2)[1:-1].long().view(2, tokens).to(weight.device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@contextmanager
def _seeded(device: torch.device) -> Iterator[None]:
    """The same random numbers in each pass, for models that hash by random projections; the generators stay."""
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device], device_type=_accelerator(device)):
        torch.manual_seed(0)
        yield


def _accelerator(device: torch.device) -> str:
    return "cuda" if device.type == "cpu" else device.type
