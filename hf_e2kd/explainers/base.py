"""Interface of explainers, and the explanation of a batch."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import nn
from torch.nn import functional as F

from ..alignment.words import lay_out_tokens
from ..architectures.discovery import named_outputs

Target = torch.Tensor | Callable[[torch.Tensor], torch.Tensor] | None
"""Explained class: (B,) or (B, K) integers padded by −1, a function of the logits, or None (the top)."""


@dataclass
class Explanation:
    """Explanation of a batch: logits, explained classes and attribution maps.

    Args:
        logits: Logits (B, classes).
        maps: Attribution maps (B, *grid) in at least float32; (B, K, *grid) where `target` is (B, K).
        target: Explained classes (B,) or (B, K); −1 where there is none (its map is zero).
        mask: Mask (B, *grid) bool of the cells that count; None where all do.
        layout: Kind of the grid's cells: `"image"`, `"tokens"` or `"words"`.
        vectors: Vectors (B, [K,] channels, *grid) of methods that explain by a vector at every place; they are matched.
        completeness_error: Part (B,) or (B, K) of the logit's rise from the baseline that the map leaves out, where a
            method gives it on request.
        words: Words of the cells of a text's map, where the text is known; (B) lists.
    """

    logits: torch.Tensor
    maps: torch.Tensor
    target: torch.Tensor
    mask: torch.Tensor | None = None
    layout: Literal["image", "tokens", "words"] = "image"
    vectors: torch.Tensor | None = None
    completeness_error: torch.Tensor | None = None
    words: list[list[str]] | None = None

    def detach(self) -> "Explanation":
        """Return the same values without their graph."""
        tensors: dict[str, Any] = {
            key: value.detach() for key, value in vars(self).items() if isinstance(value, torch.Tensor)
        }
        return replace(self, **tensors)


class Stochastic:
    """A part of a training step that makes random choices, and none in an evaluation."""

    # How many random numbers it takes for each sample of a training step.
    num_draws: int = 0
    # Random numbers (num_draws, B) in [0, 1), set by `shared_noise` for a training step; None: no random choices.
    noise: torch.Tensor | None = None


class Explainer(Stochastic, ABC):
    """One explanation method; its options are the constructor's keyword arguments.

    Subclasses implement `forward`. They neither touch the model's training mode nor leave hooks behind, and they call
    the model once where the method allows it.
    """

    name: ClassVar[str]
    # Options that change how fast a map is made, or how it is made in training, and not the map itself.
    without_effect: ClassVar[tuple[str, ...]] = ()
    # Options that change what a map says, which have to be the same where maps of two models are compared.
    of_meaning: ClassVar[tuple[str, ...]] = ()
    # Whether maps carry the gradient of the model's parameters, so that a training can match them. Methods without
    # gradients explain any function that gives logits.
    trainable: ClassVar[bool] = True
    # Whether the method explains whatever a model gives in the place of logits, such as probabilities.
    explains_any_output: ClassVar[bool] = False
    # Forward passes of the model that an exact explanation takes for each sample, that of the logits included; None
    # where they depend on the input.
    forward_passes: int | None = 1

    @abstractmethod
    def forward(self, model: nn.Module, inputs: Mapping[str, Any], target: Target) -> Explanation:
        """Explain one batch. Logits and maps carry the gradient of the model's parameters where gradients are on.

        The maps of a text are its tokens' scores (B, [K,] T) with the layout `"tokens"`; they become words' afterwards.
        """

    def target_layer_path(self, model: nn.Module) -> str | None:
        """Return the path of the layer from which on training differentiates the model twice; None for its input."""
        return None

    def with_tokenizer(self, tokenizer: Any) -> "Explainer":
        """Return the explainer for a model with that tokenizer (None where unknown): itself, where it needs none."""
        return self

    def with_features(self, model: nn.Module, paths: Sequence[str]) -> "Explainer":
        """Return the explainer whose forward pass of a model calls the layers at these paths: itself, mostly."""
        return self

    def check(self, model: nn.Module, compiled: bool = False, trained: bool = True) -> None:
        """Refuse, before training, a model that would fail during it.

        Args:
            compiled: True where the model will run under `torch.compile`.
            trained: True where the maps will be differentiated, as a student's are; a teacher's aren't.

        Raises:
            ValueError: the method can't explain this model as it is, with the remedy.
        """

    def __call__(
        self, model: nn.Module, inputs: Mapping[str, Any], target: Target = None, create_graph: bool = False
    ) -> Explanation:
        """Explain one batch.

        Args:
            model: A classifier that gives logits (B, classes).
            inputs: The forward's keyword arguments, without labels.
            target: The classes to explain; None for each sample's top class.
            create_graph: Keep the graph, so that a loss of the maps can be differentiated.
        """
        with torch.set_grad_enabled(create_graph), named_outputs(model):
            explanation = self.forward(model, inputs, target)
            if explanation.layout == "tokens":
                maps, mask, layout = lay_out_tokens(explanation.maps, inputs)
                explanation = replace(explanation, maps=maps, mask=mask, layout=layout)
        return explanation if create_graph else explanation.detach()


def resolve_target(target: Target, logits: torch.Tensor) -> torch.Tensor:
    """Return the explained classes as a tensor (B,) or (B, K).

    Raises:
        ValueError: the classes don't fit the logits' shape.
    """
    if target is None:
        return logits.detach().argmax(dim=1)
    if callable(target):
        target = target(logits.detach())
    if target.ndim not in (1, 2) or target.shape[0] != logits.shape[0] or target.is_floating_point():
        raise ValueError(
            f"The target must be integers of shape (batch,) or (batch, K) for a batch of {logits.shape[0]}, not "
            f"{target.dtype} of shape {tuple(target.shape)}."
        )
    return target.to(logits.device)


@contextmanager
def shared_noise(stochastic: Iterable[Stochastic], noise: torch.Tensor | None) -> Iterator[None]:
    """Let explainers make the same random choices while the context lasts, as both sides of a training step must.

    Args:
        stochastic: Explainers and references that choose.
        noise: Random numbers (num_draws, B) in [0, 1), of which explainers take the first rows and references the last;
            None where nothing is left to chance. A tensor, because a compiled step would be compiled anew for each
            seed.
    """
    stochastic = list(stochastic)
    before = [each.noise for each in stochastic]
    try:
        for each in stochastic:
            each.noise = noise
        yield
    finally:
        for each, own in zip(stochastic, before, strict=True):
            each.noise = own


def one_hots(target: torch.Tensor, logits: torch.Tensor) -> list[torch.Tensor]:
    """Make for each of the K targets the cotangent (B, classes) that picks its logit; zero where it is −1."""
    columns = target.unsqueeze(1) if target.ndim == 1 else target
    chosen = F.one_hot(columns.clamp(min=0), logits.shape[1]).to(logits.dtype) * (columns >= 0).unsqueeze(-1)
    return list(chosen.unbind(1))


def default_method(model: nn.Module) -> str:
    """Return the name of the explainer that suits a model's inputs, images or texts."""
    return "gradcam" if getattr(model, "main_input_name", "pixel_values") == "pixel_values" else "integrated_gradients"
