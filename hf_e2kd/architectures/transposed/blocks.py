"""Transformer blocks with their transposes, put together of attention, a feed-forward part and norms."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from .attention import widened
from .operations import Affine, Pullback, Step, activation, factor, linear, norm
from .rules import Rules

Attend = Callable[[torch.Tensor, "int | None", Rules], Step]
Layer = Callable[[torch.Tensor, Rules], Step]


def post_norm_block(
    hidden: torch.Tensor,
    read: int | None,
    rules: Rules,
    attend: Attend,
    attention_norm: nn.Module,
    feed_forward: Layer,
    output_norm: nn.Module,
) -> Step:
    """Apply a block of BERT's kind, whose norms follow the sums: (B, tokens, C) → (B, read, C).

    Args:
        read: Number of tokens at the start that are read behind the block; None for all.
        attend: Attention up to the sum, its dropout included.
        feed_forward: The feed-forward part up to the sum, its dropout included.
    """
    mixed, pull_attention = attend(hidden, read, rules)
    middle, pull_attention_norm = norm(attention_norm, hidden[:, :read] + mixed, rules)
    added, pull_feed_forward = feed_forward(middle, rules)
    output, pull_output_norm = norm(output_norm, middle + added, rules)

    def pullback(cotangent: torch.Tensor) -> torch.Tensor:
        at_sum = pull_output_norm(cotangent)
        at_sum = pull_attention_norm(at_sum + pull_feed_forward(at_sum))
        return widened(at_sum, hidden.shape[1]) + pull_attention(at_sum)

    return output, pullback


def pre_norm_block(
    hidden: torch.Tensor,
    read: int | None,
    rules: Rules,
    attention_norm: nn.Module,
    attend: Attend,
    output_norm: nn.Module,
    feed_forward: Layer,
) -> Step:
    """Apply a block of a vision transformer's kind, whose norms come first: (B, tokens, C) → (B, read, C).

    Args:
        read, attend, feed_forward: As of `post_norm_block`.
    """
    normalised, pull_attention_norm = norm(attention_norm, hidden, rules)
    mixed, pull_attention = attend(normalised, read, rules)
    middle = hidden[:, :read] + mixed
    normalised, pull_output_norm = norm(output_norm, middle, rules)
    added, pull_feed_forward = feed_forward(normalised, rules)

    def pullback(cotangent: torch.Tensor) -> torch.Tensor:
        at_middle = cotangent + pull_output_norm(pull_feed_forward(cotangent))
        return widened(at_middle, hidden.shape[1]) + pull_attention_norm(pull_attention(at_middle))

    return middle + added, pullback


def chain(x: torch.Tensor, rules: Rules, layers: Sequence[Layer]) -> Step:
    """Apply layers one after the other."""
    pullbacks: list[Pullback] = []
    for layer in layers:
        x, pullback = layer(x, rules)
        pullbacks.append(pullback)

    def pull(cotangent: torch.Tensor) -> torch.Tensor:
        for pullback in reversed(pullbacks):
            cotangent = pullback(cotangent)
        return cotangent

    return x, pull


def by_linear(module: nn.Module) -> Layer:
    """Make a layer of a plain linear module."""
    return lambda x, rules: linear(module, x)


def by_factor(module: nn.Module) -> Layer:
    """Make a layer of a dropout, a stochastic depth or a layer scale."""
    return lambda x, rules: factor(module, x)


def by_norm(module: nn.Module) -> Layer:
    """Make a layer of a layer norm, or of an identity."""
    return lambda x, rules: norm(module, x, rules)


def by_activation(function: Any) -> Layer:
    """Make a layer of an activation: a module, a function or a name of transformers' configurations."""
    return lambda x, rules: activation(function, x, rules)


def by_gate(function: Any, gate: Affine, linear_part: Affine) -> Layer:
    """Make the product of an activation of one projection and another projection, as of gated linear units."""

    def layer(x: torch.Tensor, rules: Rules) -> Step:
        opening, pull_opening = activation(function, gate(x), rules)
        passing = linear_part(x)

        def pullback(cotangent: torch.Tensor) -> torch.Tensor:
            shared = cotangent * 0.5 if rules.uniform else cotangent
            back = linear_part.transposed(shared * opening)
            return back + gate.transposed(pull_opening(shared * passing)) if rules.through_weights else back

        return opening * passing, pullback

    return layer


def by_token(number: int) -> Layer:
    """Make the choice of one of the tokens (B, read, C)."""

    def layer(x: torch.Tensor, rules: Rules) -> Step:
        after = x.shape[1] - number - 1
        return x[:, number], lambda cotangent: F.pad(cotangent.unsqueeze(1), (0, 0, number, after))

    return layer


def by_mean(first: int, mask: torch.Tensor | None = None) -> Layer:
    """Make the mean over the tokens (B, N, C) from the `first` on, or over those of a mask (B, N)."""

    def layer(x: torch.Tensor, rules: Rules) -> Step:
        counted = torch.ones_like(x[..., :1]) if mask is None else mask.unsqueeze(-1).to(x.dtype)
        counted = counted * (torch.arange(x.shape[1], device=x.device) >= first).to(x.dtype)[:, None]
        weights = counted / counted.sum(1, keepdim=True)
        return (x * weights).sum(1), lambda cotangent: cotangent.unsqueeze(1) * weights

    return layer


def by_both(first: Layer, second: Layer, share: float | None = None) -> Layer:
    """Make two layers of the same input: their outputs side by side, or, with a share, a weighted sum of them."""

    def layer(x: torch.Tensor, rules: Rules) -> Step:
        one, pull_one = first(x, rules)
        other, pull_other = second(x, rules)
        if share is not None:
            return share * (one + other), lambda cotangent: pull_one(share * cotangent) + pull_other(share * cotangent)
        width = one.shape[-1]
        both = torch.cat([one, other], -1)
        return both, lambda cotangent: pull_one(cotangent[..., :width]) + pull_other(cotangent[..., width:])

    return layer


def in_turn(*layers: Layer) -> Layer:
    """Make one layer of several."""
    return lambda x, rules: chain(x, rules, layers)


def followed(attend: Attend, *layers: Layer) -> Attend:
    """Make an attention that ends with further layers, such as a dropout."""

    # In quotes, because torch 2.9 can't compile the annotation.
    def attend_further(x: torch.Tensor, read: "int | None", rules: Rules) -> Step:
        return chain(x, rules, [lambda value, _rules: attend(value, read, rules), *layers])

    return attend_further
