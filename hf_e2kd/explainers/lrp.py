"""Layer-wise relevance propagation through transformers (Ali et al., 2022; Achtibat et al., 2024), differentiable."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..alignment.precision import at_least_float32
from ..architectures.discovery import accepted_inputs, image_size
from ..architectures.layers import LayerName
from ..architectures.sharding import blocks_gathered, is_sharded
from ..architectures.text import refuse_unfit_text
from ..architectures.transposed import (
    RULES,
    Opened,
    Rules,
    TransposeError,
    affine,
    find_family,
    open_forward,
    opened_blocks,
)
from ..choices import unknown_choice
from .attention_kernels import attention_kernel, is_checkpointed
from .base import Explainer, Explanation, Target, one_hots, resolve_target
from .input_gradients import gradient_scale, in_full_precision, over_channels


class LRP(Explainer):
    """Relevance propagation: Σ_c x_c · c̄_c, with c̄ the logit's cotangent at x by the rules of `rule`.

    The logit is handed back from layer to layer until the one that is explained. A linear layer's output is shared
    among its inputs by what each contributed, x · W; what norms and activations scale, they scale back. The pass is
    written out in plain operations over the forward's activations, so that training differentiates it once, as any
    other part of the forward; dropout in training acts on both by the same masks.

    Args:
        rule: `"cp"`, conservative propagation (Ali et al., ICML 2022): attention weights and norms' denominators are
            constants, so that the logit is shared out whole, but for what biases add. `"attn_lrp"` (Achtibat et al.,
            ICML 2024): weights have their share too, by their own derivative.
        layer: What is explained: `"input"` (the default), the word embeddings or the pixels; each token's activation in
            front of a block, by its number, or of the `"last"`; or a block's output, by its path. The later, the
            cheaper.
    """

    name = "lrp"
    of_meaning = ("rule",)

    def __init__(self, rule: str = "cp", layer: LayerName | None = None):
        if rule not in RULES:
            raise ValueError(unknown_choice("rule", rule, sorted(RULES)))
        self.rule = rule
        self.layer = None if layer == "input" else layer

    def with_features(self, model: nn.Module, paths: Sequence[str]) -> "LRP":
        blocks = opened_blocks(model, self.layer)
        opened = [path for path in paths if any(path == block or path.startswith(f"{block}.") for block in blocks)]
        if opened:
            raise ValueError(
                f"The explainer 'lrp' runs {', '.join(blocks)} in the open, where the layers {opened} "
                "can't be tapped. Compare features of earlier layers, or explain a later one, such as layer='last'."
            )
        return self

    def check(self, model: nn.Module, compiled: bool = False, trained: bool = True) -> None:
        for block in opened_blocks(model, self.layer).values():
            for module in block.modules():
                if isinstance(module, nn.Linear) or hasattr(module, "base_layer"):  # an adapter's
                    affine(module)
        kernel = attention_kernel(model)
        if "flash" in kernel or "flex" in kernel:
            raise TransposeError(
                f"The explainer 'lrp' gives masks that the attention kernel '{kernel}' doesn't take. Load the model "
                "with attn_implementation='sdpa' or 'eager'."
            )

    def forward(self, model: nn.Module, inputs: Mapping[str, Any], target: Target) -> Explanation:
        if torch.compiler.is_compiling():
            return self._explain(model, inputs, target)
        self.refuse(model, inputs)
        with blocks_gathered(model, opened_blocks(model, self.layer)):
            return self._explain(model, inputs, target)

    def _explain(self, model: nn.Module, inputs: Mapping[str, Any], target: Target) -> Explanation:
        return shares_by_rules(model, inputs, target, self.layer, RULES[self.rule])

    def refuse(self, model: nn.Module, inputs: Mapping[str, Any]) -> None:
        """Refuse a model as it is now, and a batch that doesn't fit it.

        Raises:
            TransposeError: the model's blocks can't be opened now, with the remedy.
            ValueError: the batch doesn't fit the model, in whatever way it is explained.
        """
        self.check(model)
        if is_checkpointed(model) or any(getattr(module, "grad_checkpointing", False) for module in model.modules()):
            raise TransposeError(
                f"The explainer 'lrp' runs {type(model).__name__}'s blocks in the open, where activation checkpointing "
                "doesn't act. Train without checkpointing."
            )
        if inputs.get("pixel_values") is not None:
            image_size(model, inputs)
        refuse_unfit_text(model, inputs)


def shares_by_rules(
    model: nn.Module, inputs: Mapping[str, Any], target: Target, layer: LayerName | None, rules: Rules
) -> Explanation:
    """Explain a batch by the product of an activation and the logit's cotangent there.

    Args:
        layer: As of `LRP`; None for the input.
        rules: Rules of the transposed pass; the derivative's give Input×Gradient.

    Raises:
        TransposeError: the model's blocks can't be opened.
    """
    inputs = accepted_inputs(model, inputs)
    opened = open_forward(model, inputs, layer, rules)
    logits, value = opened.logits, at_least_float32(opened.value)
    target = resolve_target(target, logits)
    shares = [value * cotangent for cotangent in pulled_back(opened, target)]
    is_image = inputs.get("pixel_values") is not None
    if opened.grid is not None:
        maps = [opened.grid.cells(share).sum(-1) for share in shares]
    elif layer is None:
        maps = [over_channels(share, inputs) for share in shares]
    else:
        maps = [share.sum(-1) for share in shares]
    stacked = torch.stack(maps, 1) if target.ndim == 2 else maps[0]
    return Explanation(logits, stacked, target, layout="image" if is_image else "tokens")


def pulled_back(opened: Opened, target: torch.Tensor) -> list[torch.Tensor]:
    """Compute for each of the K targets the cotangent of its logit, shaped like `opened.value`, in at least float32.

    Args:
        target: Explained classes (B,) or (B, K); the cotangent is zero where it is −1.
    """
    scale = gradient_scale(opened.logits, opened.value)
    return [in_full_precision(opened.pullback(each * scale), scale) for each in one_hots(target, opened.logits)]


def is_written_out(model: nn.Module, inputs: Mapping[str, Any], layer: LayerName | None) -> bool:
    """Tell whether a derivative from a layer on is better taken by a transposed pass, if that isn't refused.

    Args:
        layer: As of `LRP`; None for the input.
    """
    if torch.compiler.is_compiling() or is_sharded(model) or find_family(model) is None:
        return False
    # From pixels on, the pass takes a ViT as long as differentiating twice, and more memory.
    return layer is not None or inputs.get("pixel_values") is None
