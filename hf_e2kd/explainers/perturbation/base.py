"""Base of the methods that explain by changed inputs."""

from abc import abstractmethod
from collections.abc import Mapping
from copy import copy
from typing import Any, ClassVar

import torch
from torch import nn

from ...alignment.precision import at_least_float32
from ...architectures import call_model
from ...architectures.text_baseline import token_id
from ..base import Explainer, Explanation, Target, resolve_target
from .variants import BATCH_SIZE, kept_tokens, spread_over_tokens, text_units, with_pixels, without_tokens

WORDS = ("left_out", "mask")
"""Ways to take a word out of a text: as if it had not been written, or by the mask token in its place."""


class PerturbationExplainer(Explainer):
    """A method that changes the input and watches the logits: no gradients, any model that gives logits.

    Its maps have no gradient of the model's parameters, so that it measures and can't train.

    Args:
        words: Way to take a word out of a text: `"left_out"`, as if it had not been written, or `"mask"`, by the mask
            token in the place of each of its tokens.
        filling: Value of the pixels that are taken out of an image, as the model gets them: 0 is the mean colour where
            the processor normalises.
        batch_size: Number of changed inputs in one forward pass; the map is the same.
    """

    trainable: ClassVar[bool] = False
    explains_any_output: ClassVar[bool] = True
    without_effect: ClassVar[tuple[str, ...]] = ("batch_size",)
    _tokenizer_ids: Mapping[str, int | None] = {}

    def __init__(self, words: str = "left_out", filling: float = 0.0, batch_size: int = BATCH_SIZE):
        if words not in WORDS:
            raise ValueError(f"Unknown way to take words out '{words}'. Available: {', '.join(WORDS)}.")
        require_count("batch_size", batch_size)
        self.words = words
        self.filling = float(filling)
        self.batch_size = batch_size

    @abstractmethod
    def image_scores(
        self, model: nn.Module, inputs: Mapping[str, Any], target: torch.Tensor, whole: torch.Tensor
    ) -> torch.Tensor:
        """Compute the maps (B, K, h, w) of images.

        Args:
            target: Classes (B, K); the map of −1 has no meaning.
            whole: Their logits (B, K) for the images as they are.
        """

    @abstractmethod
    def text_scores(
        self, model: nn.Module, inputs: Mapping[str, Any], target: torch.Tensor, whole: torch.Tensor
    ) -> torch.Tensor:
        """Compute the scores (B, K, U) of texts' parts, which `text_units` numbers.

        Args:
            target, whole: As in `image_scores`.
        """

    @abstractmethod
    def passes(self, inputs: Mapping[str, Any]) -> int:
        """Return the number of inputs that the model is run on to explain one target of each sample of a batch."""

    def with_tokenizer(self, tokenizer: Any) -> Explainer:
        if tokenizer is None:
            return self
        informed = copy(self)
        names = ("mask", "pad")
        informed._tokenizer_ids = {name: getattr(tokenizer, f"{name}_token_id", None) for name in names}
        return informed

    def check(self, model: nn.Module, compiled: bool = False, trained: bool = True) -> None:
        if trained:
            raise self._untrainable()

    def forward(self, model: nn.Module, inputs: Mapping[str, Any], target: Target) -> Explanation:
        if torch.is_grad_enabled():
            raise self._untrainable()
        logits = call_model(model, inputs)
        target = resolve_target(target, logits)
        columns = target[:, None] if target.ndim == 1 else target
        whole = at_least_float32(logits).gather(1, columns.clamp(min=0))
        is_image = inputs.get("pixel_values") is not None
        if is_image:
            maps = self.image_scores(model, inputs, columns, whole)
        elif inputs.get("input_ids") is not None:
            units = text_units(inputs)
            if (units < 0).all():  # nothing to take out
                maps = whole.new_zeros(*whole.shape, units.shape[1])
            else:
                maps = spread_over_tokens(self.text_scores(model, inputs, columns, whole), units)
        else:
            raise ValueError(
                f"'{self.name}' changes `pixel_values` or `input_ids`; given are {', '.join(sorted(inputs))}."
            )
        maps = maps * (columns >= 0).view(*columns.shape, *[1] * (maps.ndim - 2))
        return Explanation(
            logits, maps if target.ndim == 2 else maps[:, 0], target, layout="image" if is_image else "tokens"
        )

    def image_without(self, inputs: Mapping[str, Any], keep: torch.Tensor) -> dict[str, Any]:
        """Take pixels out of images; `keep` (n, H, W) is the share of each that stays."""
        return with_pixels(inputs, keep, self.filling)

    def text_without(
        self, model: nn.Module, inputs: Mapping[str, Any], kept: torch.Tensor, before: bool
    ) -> dict[str, Any]:
        """Take parts out of texts.

        Args:
            kept: (n, U) bool, which parts stay.
            before: Whether the padding of the batch, of which these texts are some, stands before its texts
                (`is_padded_before`).
        """
        keep = kept_tokens(text_units(inputs), kept)
        if self.words == "mask":
            mask = token_id(model, "mask", self._tokenizer_ids)
            if mask is None:
                raise ValueError(
                    f"{type(model).__name__} has no mask token, as far as its configuration and tokenizer say. Leave "
                    'words out (words="left_out"), or give the tokenizer as processing_class.'
                )
            return {**inputs, "input_ids": inputs["input_ids"].where(keep, mask)}
        # Hidden by the attention mask; heads that look for a text's last token know the padding's id.
        padding = token_id(model, "pad", self._tokenizer_ids)
        return without_tokens(inputs, keep, 0 if padding is None else padding, before)

    def _untrainable(self) -> ValueError:
        return ValueError(
            f"'{self.name}' runs the model on changed inputs and takes no gradients, so no training can match its "
            "maps. Train with a method of gradients, such as 'gradcam' for images or 'integrated_gradients', and "
            f"measure with this one: trainer.measure_fidelity(explainers=['{self.name}'])."
        )


def require_count(name: str, value: Any, at_least: int = 1) -> None:
    """Refuse an option that is no whole number, or too small a one."""
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise ValueError(f"{name} must be a whole number of at least {at_least}, not {value!r}.")
