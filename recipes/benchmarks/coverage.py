# /// script
# requires-python = ">=3.10"
# dependencies = ["hf-e2kd"]
# [tool.uv.sources]
# hf-e2kd = { path = "../..", editable = true }
# ///
"""Coverage of transformers' classifiers by the explainers: every class of the Auto mappings, tried.

    python recipes/benchmarks/coverage.py --output recipes/benchmarks/COVERAGE.md

Each class is built tiny and randomly initialised from its configuration, offline, and trained on for one backward pass
with every explainer as the loss. An explainer *works* on a class if the loss and its gradients are finite, the maps
vary from cell to cell, the gradient reaches the first layer and the last one, and the gradient agrees with finite
differences, in float64 where the model can. Integrated Gradients of a text must also be complete: 16 steps leave out
at most 2 % of the logit's rise from the baseline. Else the class is *refused*, by an error of ours that says why, it is
*incomplete*, or it *failed*.

With `--timm`, GradCAM and the default feature taps on one small model of every family of timm's instead; of the output
file, each of the two tables leaves the other as it is.
"""

import argparse
import copy
import inspect
import json
import logging as python_logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import timm
import torch
import transformers
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as IMAGE_CLASSES,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES as TEXT_CLASSES,
)
from transformers.utils import logging

from hf_e2kd.architectures import find_architecture
from hf_e2kd.architectures.taps import Taps, default_taps
from hf_e2kd.experiments import run_recipe
from hf_e2kd.explainers import Explanation
from hf_e2kd.explainers.base import Explainer
from hf_e2kd.explainers.gradcam import gradcam_map
from hf_e2kd.explainers.registry import available_explainers, build_explainer
from hf_e2kd.terms import explanation_loss
from hf_e2kd.testing import relative_error

TASKS = {"image": IMAGE_CLASSES, "text": TEXT_CLASSES}
EXPLAINERS = {
    "image": [
        "gradcam",
        "saliency",
        "input_x_gradient",
        "integrated_gradients",
        "attention_rollout",
        "attention_gradient",
        "lrp",
    ],
    "text": ["saliency", "input_x_gradient", "integrated_gradients", "attention_rollout", "attention_gradient", "lrp"],
}
CLASSES = 3
IMAGE_SIZE = 128
# Not a multiple of the windows and blocks below, so that models that pad their input do so.
TOKENS = 13

# --- Tiny configurations -------------------------------------------------------------------------------------------

# What the fields of a configuration are set to, wherever a configuration has them.
SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "emb_dim", "embedding_size", "d_latents"), 32),
    **dict.fromkeys(("projection_dim", "projection_size", "output_embedding_size", "input_embedding_size"), 32),
    **dict.fromkeys(("word_embed_proj_dim", "pooler_hidden_size", "prediction_head_size", "pooler_output_size"), 32),
    **dict.fromkeys(("intermediate_size", "d_ff", "dff", "ffn_dim", "hidden_dim", "d_inner", "n_inner"), 48),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "ffn_hidden_size", "feed_forward_size"), 48),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 24),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers"), 2),
    **dict.fromkeys(("encoder_layers", "decoder_layers", "num_self_attends_per_block"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("num_self_attention_heads", "num_cross_attention_heads", "linear_num_value_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "linear_num_key_heads", "num_kv_heads", "index_n_heads"), 2),
    **dict.fromkeys(("head_dim", "d_kv", "d_head", "kv_channels", "v_head_dim", "attention_head_size"), 8),
    **dict.fromkeys(("qk_nope_head_dim", "qk_rope_head_dim", "linear_key_head_dim", "linear_value_head_dim"), 8),
    **dict.fromkeys(("rotary_dim", "index_head_dim", "query_pre_attn_scalar", "global_head_dim"), 8),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "gated_norm_rank", "adapter_rank"), 8),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk"), 2),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace", "num_mem_blocks"), 1),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "index_topk"), 64),
    **dict.fromkeys(("vocab_size", "entity_vocab_size", "shape_vocab_size", "pronunciation_vocab_size"), 120),
    **dict.fromkeys(("entity_emb_size", "shape_embed_dim", "pronunciation_embed_dim", "num_hash_buckets"), 16),
    **dict.fromkeys(("mamba_d_state", "mamba_dt_rank", "num_latents", "num_landmarks"), 8),
    **dict.fromkeys(("sliding_window", "local_attention", "chunk_size"), 8),
    "image_size": IMAGE_SIZE,
    "input_size": IMAGE_SIZE,
    "patch_size": 16,
}
# The same for configurations of networks in stages, whose fields are lists of one entry a stage.
STAGES: dict[str, list[int]] = {
    **dict.fromkeys(("hidden_sizes", "embed_dims"), [8, 16, 24, 32]),
    **dict.fromkeys(("depths", "stage_num_blocks"), [1, 1, 1, 1]),
    "num_attention_heads": [1, 2, 2, 2],
    "num_heads": [1, 2, 2, 2],
    "embed_dim": [8, 16, 24, 32],
}

_SWIN = {"embed_dim": 8, "num_heads": [1, 2, 2, 2], "window_size": 2, "patch_size": 4}
_LATENT = {"num_key_value_heads": 4}
_LINEAR = {"layer_types": ["linear_attention", "full_attention"]}
_HYBRID = {"num_hidden_layers": 4, "layers_block_type": ["linear_attention", "hybrid"] * 2}
# What the rule can't guess, by model type.
EXCEPTIONS: dict[str, dict[str, Any]] = {
    "axk1": _LATENT,
    "axk2": _LATENT,
    "bit": {"num_groups": 4},
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": dict.fromkeys(
            ("sliding_attention", "full_attention"), {"rope_type": "default", "rope_theta": 10000.0}
        ),
    },
    "convnext": {"patch_size": 4},
    "convnextv2": {"patch_size": 4},
    "deepseek_v2": _LATENT,
    "deepseek_v3": _LATENT,
    "donut-swin": _SWIN,
    "efficientnet": {
        "width_coefficient": 0.25,
        "depth_coefficient": 0.1,
        "hidden_dim": 320,
        "in_channels": [32, 32],
        "out_channels": [32, 32],
        "kernel_sizes": [3, 3],
        "strides": [1, 2],
        "num_block_repeats": [1, 1],
        "expand_ratios": [1, 2],
    },
    "esmc": {"num_key_value_heads": 4},
    "focalnet": {"embed_dim": 8, "patch_size": 4},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 8},
    "hgnet_v2": {
        "stem_channels": [3, 8, 8],
        "stage_in_channels": [8, 8, 16, 16],
        "stage_mid_channels": [8, 8, 8, 8],
        "stage_out_channels": [8, 16, 16, 32],
        "stage_numb_of_layers": [2, 2, 2, 2],
    },
    "hiera": {"image_size": [IMAGE_SIZE, IMAGE_SIZE], "embed_dim": 8, "num_heads": [1, 2, 2, 2]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "layoutlmv2": {"coordinate_size": 6, "shape_size": 4},
    "layoutlmv3": {"coordinate_size": 6, "shape_size": 4},
    "levit": {
        "hidden_sizes": [16, 24, 32],
        "num_attention_heads": [2, 2, 2],
        "depths": [1, 1, 1],
        "key_dim": [8, 8, 8],
        "down_ops": [["Subsample", 8, 2, 2, 2, 2], ["Subsample", 8, 2, 2, 2, 2]],
        "patch_size": 16,
    },
    "lilt": {"hidden_size": 48},
    "longformer": {"attention_window": 4},
    "markuplm": {"max_depth": 4},
    "minicpm3": _LATENT,
    "mistral4": _LATENT | {"head_dim": 16},
    # Without norms, random weights saturate the tanh behind its pooler.
    "mobilebert": {"classifier_activation": False},
    "mobilenet_v1": {"depth_multiplier": 0.25},
    "mobilenet_v2": {"depth_multiplier": 0.1, "min_depth": 4, "output_stride": 16},
    "mobilevit": {"hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 8, 16, 16, 16, 32], "patch_size": 2},
    "mobilevitv2": {"width_multiplier": 0.1, "base_attn_unit_dims": [32, 32, 32], "patch_size": 2},
    "nystromformer": {"segment_means_seq_len": 16},
    "perceiver": {"d_model": 32, "num_cross_attention_heads": 1, "image_size": 16},
    "pp_lcnet": {"scale": 0.25, "class_expand": 32},
    "qwen3_5": {
        "vision_config": {"out_hidden_size": 32, "num_position_embeddings": 16, "depth": 2},
        "text_config": _LINEAR,
    },
    "qwen3_5_text": _LINEAR,
    "qwen3_next": _LINEAR,
    "reformer": {
        "axial_pos_shape": [4, 4],
        "axial_pos_embds_dim": [8, 24],
        "attn_layers": ["local", "lsh"],
        "local_attn_chunk_length": 4,
        "lsh_attn_chunk_length": 4,
        "num_buckets": 4,
    },
    "shieldgemma2": {
        "mm_tokens_per_image": 4,
        "image_token_index": 100,
        "yes_token_index": 20,
        "no_token_index": 21,
        "num_labels": 2,
    },
    "swin": _SWIN,
    "swinv2": _SWIN,
    "t5": {"decoder_start_token_id": 0},
    "textnet": {"hidden_sizes": [8, 8, 16, 16, 32], "stem_out_channels": 8},
    "timm_wrapper": {"architecture": "test_resnet", "num_labels": CLASSES},
    "xmod": {"default_language": "en_XX"},
    "zamba": _HYBRID,
    "zamba2": _HYBRID,
}


def tiny_config(model_type: str) -> Any:
    """A small configuration of a type of models."""
    return CONFIG_MAPPING[model_type](**_settings(CONFIG_MAPPING[model_type], EXCEPTIONS.get(model_type, {})))


def _settings(config_class: type, exceptions: Mapping[str, Any]) -> dict[str, Any]:
    """What a configuration is made of: the rule's values for the fields that it has, and the exceptions."""
    default = config_class()
    settings: dict[str, Any] = {}
    for name, value in default.to_dict().items():
        small = _shrunk(name, value)
        if small is not None:
            settings[name] = small
    settings["pad_token_id"] = settings.get("pad_token_id") or 0
    settings["num_labels"] = CLASSES
    subs = getattr(config_class, "sub_configs", {})
    for name in subs:
        own = getattr(default, name, None)
        if own is not None:
            settings[name] = _settings(type(own), exceptions.get(name, {})) | {"model_type": own.model_type}
    return settings | {
        name: value for name, value in exceptions.items() if name not in settings or not isinstance(value, dict)
    }


def _shrunk(name: str, value: Any) -> Any:
    """The small value of a field; None where it stays."""
    if isinstance(value, bool):
        return None
    if name.endswith("_token_id") and isinstance(value, int):
        return value if value < 8 else {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}.get(name, 3)
    if "drop" in name and isinstance(value, float | int):
        return type(value)(0)
    if "drop" in name and isinstance(value, list):
        return [0.0] * len(value)
    if isinstance(value, list) and name in STAGES:
        return STAGES[name][: len(value)]
    return SIZES[name] if name in SIZES and not isinstance(value, list) else None


@torch.no_grad()
def randomise(model: nn.Module) -> None:
    """Draws all weights anew: fresh ones hide mistakes, their biases and position tables being zero."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=1.5 * max(1, parameter[0].numel()) ** -0.5)
        elif parameter.mean() > 0:  # the factors of a norm
            parameter.uniform_(0.5, 1.5)
        else:
            parameter.normal_(std=0.2)
    for name, statistics in model.named_buffers():
        if name.endswith("running_mean"):
            statistics.normal_(std=0.2)
        elif name.endswith("running_var"):
            statistics.uniform_(0.5, 1.5)


def build(class_name: str, model_type: str, seed: int = 0) -> nn.Module:
    """A tiny model in training mode, without dropout."""
    torch.manual_seed(seed)
    model = getattr(transformers, class_name)(tiny_config(model_type))
    randomise(model)
    return model.train()


# --- Inputs --------------------------------------------------------------------------------------------------------

# Classes that take no other size, in pixels a side or in tokens.
IMAGE_SIZES = {"PerceiverForImageClassificationFourier": 224, "PerceiverForImageClassificationConvProcessing": 224}

TOKEN_COUNTS = {"NystromformerForSequenceClassification": 16, "ReformerForSequenceClassification": 16}
# Its own forward fails on padding, in transformers 5.23.
UNPADDED = ["NystromformerForSequenceClassification"]


def make_inputs(task: str, model: nn.Module) -> dict[str, torch.Tensor]:
    """A batch that the model takes."""
    generator = torch.Generator().manual_seed(1)
    parameters = inspect.signature(model.forward).parameters
    if task == "image" and "pixel_values" in parameters:
        inputs = _images(model, generator)
        return {**_tokens_about_images(model, generator), **inputs} if "input_ids" in parameters else inputs
    inputs = _tokens(model, generator)
    if "bbox" in parameters:
        corners = torch.randint(0, 500, (*inputs["input_ids"].shape, 2), generator=generator)
        inputs["bbox"] = torch.cat([corners, corners + 100], dim=-1)
    return inputs


def _images(model: nn.Module, generator: torch.Generator) -> dict[str, torch.Tensor]:
    size = IMAGE_SIZES.get(type(model).__name__, getattr(model.config, "image_size", None) or IMAGE_SIZE)
    size = size if isinstance(size, int) else IMAGE_SIZE
    if "spatial_shapes" in inspect.signature(model.forward).parameters:  # patches cut by the processor
        patch, side = model.config.vision_config.patch_size, 4
        return {
            "pixel_values": torch.randn(2, side * side, 3 * patch * patch, generator=generator),
            "pixel_attention_mask": torch.ones(2, side * side, dtype=torch.long),
            "spatial_shapes": torch.full((2, 2), side),
        }
    return {"pixel_values": torch.randn(1 if size > 128 else 4, 3, size, size, generator=generator)}


def _tokens_about_images(model: nn.Module, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """A prompt a picture, with the places at which a model of images and text puts the picture."""
    config = model.config
    inputs = {name: value[:1].repeat(4, 1) for name, value in _tokens(model, generator).items()}
    inputs["input_ids"][:, 2 : 2 + config.mm_tokens_per_image] = config.image_token_index
    return {**inputs, "token_type_ids": (inputs["input_ids"] == config.image_token_index).long()}


def _tokens(model: nn.Module, generator: torch.Generator) -> dict[str, torch.Tensor]:
    config = model.config.get_text_config()
    tokens = TOKEN_COUNTS.get(type(model).__name__, TOKENS)
    ids = torch.randint(10, getattr(config, "vocab_size", 100) - 20, (2, tokens), generator=generator)
    attention_mask = torch.ones_like(ids)
    padding = 0 if type(model).__name__ in UNPADDED else 3
    ids[1, tokens - padding :] = config.pad_token_id
    attention_mask[1, tokens - padding :] = 0
    eos = getattr(config, "eos_token_id", None)
    if isinstance(eos, int):  # some read the sentence at its end
        ids[0, -1] = ids[1, tokens - padding - 1] = eos
    return {"input_ids": ids, "attention_mask": attention_mask}


# --- One class with one explainer ----------------------------------------------------------------------------------


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
        return dict.fromkeys(explainers, Outcome("FAILED", f"building: {type(error).__name__}: {_first_line(error)}"))
    outcomes = {}
    for name in explainers:
        for model in models:
            outcomes[name] = try_explainer(copy.deepcopy(model), copy.deepcopy(model).double(), name, inputs)
            if outcomes[name].detail != TOO_EMPTY:
                break
        if task == "text" and name == "integrated_gradients" and outcomes[name].verdict == "works":
            outcomes[name] = judge_completeness(outcomes[name], completeness_error(calmed(models[0]), inputs))
    return outcomes


# --- Completeness ----------------------------------------------------------------------------------------------------

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
    except ValueError as error:
        return Outcome("refused" if _is_ours(error) else "FAILED", _reason(error, model))
    except Exception as error:  # anything else is a failure of ours to refuse
        return Outcome("FAILED", f"{type(error).__name__}: {_first_line(error)}")
    problem = what_is_wrong(explanation, loss, model, layers, name)
    if problem:
        return Outcome("FAILED", problem)
    try:
        error = gradient_error((double, model), explainer, inputs, target)
    except Exception as failure:  # in the second run as in the first
        return Outcome("FAILED", f"checking the gradient: {type(failure).__name__}: {_first_line(failure)}")
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


def _is_ours(error: BaseException) -> bool:
    """Whether our code raised the error, and not the model or torch below it."""
    frames = traceback.extract_tb(error.__traceback__)
    return "hf_e2kd" in Path(frames[-1].filename).parts


def _reason(error: BaseException, model: nn.Module) -> str:
    """An error's first sentence, without the names that differ from class to class."""
    sentence = re.split(r"(?<=[.:]) (?=[A-Z])", _first_line(error))[0]
    sentence = re.sub(r"the shapes \(.*", "other shapes.", sentence)
    name = type(model).__name__
    return sentence.replace(name, "The model" if sentence.startswith(name) else "the model")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0]


# --- timm's families -----------------------------------------------------------------------------------------------

# The smallest model of each module of timm.models that classifies.
TIMM = {
    "beit": "beit_base_patch16_224",
    "byoanet": "halonet_h1",
    "byobnet": "test_byobnet",
    "cait": "cait_xxs24_224",
    "coat": "coat_tiny",
    "convit": "convit_tiny",
    "convmixer": "convmixer_768_32",
    "convnext": "test_convnext",
    "cpubone": "cpubone_nano",
    "crossvit": "crossvit_tiny_240",
    "csatv2": "csatv2",
    "cspnet": "cs3darknet_focus_s",
    "cspnext": "cspnext_tiny",
    "davit": "davit_tiny",
    "deit": "deit_tiny_patch16_224",
    "densenet": "densenet121",
    "dla": "dla46x_c",
    "dpn": "dpn48b",
    "edgenext": "edgenext_xx_small",
    "efficientformer": "efficientformer_l1",
    "efficientformer_v2": "efficientformerv2_s0",
    "efficientnet": "test_efficientnet",
    "efficientvim": "efficientvim_m1",
    "efficientvit_mit": "efficientvit_b0",
    "efficientvit_msra": "efficientvit_m0",
    "eva": "eva02_tiny_patch14_224",
    "fasternet": "fasternet_t0",
    "fastvit": "fastvit_t8",
    "focalnet": "focalnet_tiny_srf",
    "gcvit": "gcvit_xxtiny",
    "ghostnet": "ghostnet_050",
    "hardcorenas": "hardcorenas_b",
    "hgnet": "hgnetv2_b0",
    "hiera": "hiera_tiny_224",
    "hieradet_sam2": "hieradet_small",
    "hrnet": "hrnet_w18_small",
    "iformer": "iformer_t",
    "inception_next": "inception_next_atto",
    "inception_resnet_v2": "ens_adv_inception_resnet_v2",
    "inception_v3": "adv_inception_v3",
    "inception_v4": "inception_v4",
    "lcnetv2": "lcnetv2_small",
    "levit": "levit_128s",
    "lowformer": "lowformer_b0",
    "mambaout": "test_mambaout",
    "maxxvit": "test_coatnet",
    "metaformer": "caformer_s18",
    "mlp_mixer": "gmlp_ti16_224",
    "mobilenetv3": "mobilenetv3_small_050",
    "mobilenetv5": "mobilenetv5_base",
    "mobilevit": "mobilevit_xxs",
    "mvitv2": "mvitv2_tiny",
    "naflexvit": "naflexvit_base_patch16_parfac_gap",
    "nasnet": "nasnetalarge",
    "nest": "jx_nest_tiny",
    "nextvit": "nextvit_small",
    "nfnet": "nfnet_l0",
    "pit": "pit_ti_224",
    "pnasnet": "pnasnet5large",
    "pvt_v2": "pvt_v2_b0",
    "rdnet": "rdnet_tiny",
    "regnet": "regnetx_002",
    "repghost": "repghostnet_050",
    "repvit": "repvit_m0_9",
    "res2net": "res2next50",
    "resnest": "resnest14d",
    "resnet": "resnet10t",
    "resnetv2": "resnetv2_18",
    "rexnet": "rexnet_100",
    "selecsls": "selecsls42",
    "senet": "legacy_seresnet18",
    "sequencer": "sequencer2d_s",
    "shvit": "shvit_s1",
    "sknet": "skresnet18",
    "starnet": "starnet_s050",
    "swiftformer": "swiftformer_xs",
    "swin_transformer": "swin_s3_tiny_224",
    "swin_transformer_v2": "swinv2_tiny_window16_256",
    "swin_transformer_v2_cr": "swinv2_cr_tiny_224",
    "tiny_vit": "tiny_vit_5m_224",
    "tnt": "tnt_s_legacy_patch16_224",
    "tresnet": "tresnet_m",
    "twins": "twins_svt_small",
    "vgg": "vgg11",
    "visformer": "visformer_tiny",
    "vision_transformer": "test_vit",
    "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224",
    "vision_transformer_relpos": "test_vit_relpos",
    "vision_transformer_sam": "samvit_base_patch16_224",
    "vitamin": "vitamin_small_224",
    "volo": "volo_d1_224",
    "vovnet": "ese_vovnet19b_slim_dw",
    "xception": "legacy_xception",
    "xception_aligned": "xception41p",
    "xcit": "xcit_nano_12_p16_224",
}
TIMM_SIZE = 128
# Sides of the images where a model takes none of 128 pixels, and says so by no statement of its own.
TIMM_SIZES = {"byoanet": 256}


def build_timm(family: str, seed: int = 0) -> nn.Module:
    """The smallest model of a family in training mode, without dropout."""
    torch.manual_seed(seed)
    model = timm.create_model(TIMM[family], num_classes=CLASSES)
    randomise(model)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model.train()


def timm_inputs(family: str, model: nn.Module) -> dict[str, torch.Tensor]:
    """Images of 128 pixels a side, or of the model's own size where it is fixed."""
    cfg = model.pretrained_cfg
    size = TIMM_SIZES.get(family, cfg["input_size"][1] if cfg["fixed_input_size"] else TIMM_SIZE)
    generator = torch.Generator().manual_seed(1)
    return {"pixel_values": torch.randn(2 if size > TIMM_SIZE else 4, 3, size, size, generator=generator)}


def try_timm(family: str) -> dict[str, Outcome]:
    """GradCAM as a training loss on a family of timm's, and its default taps."""
    for seed in range(SEEDS):
        model = build_timm(family, seed)
        inputs = timm_inputs(family, model)
        outcome = try_timm_gradcam(model, inputs)
        if outcome.detail != TOO_EMPTY:
            break
    return {"gradcam": outcome, "default taps": try_taps(model, inputs)}


def try_timm_gradcam(model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> Outcome:
    """One backward pass, compared with one whose layer is read by a hook in the model's own forward."""
    target = torch.arange(len(inputs["pixel_values"])) % CLASSES
    hooked = copy.deepcopy(model)
    try:
        with recorded_layers(model) as layers:
            explanation = explain(model, build_explainer("gradcam"), inputs, target)
            loss = loss_of(explanation)
            loss.backward()
    except ValueError as error:
        return Outcome("refused" if _is_ours(error) else "FAILED", _reason(error, model))
    except Exception as error:  # anything else is a failure of ours to refuse
        return Outcome("FAILED", f"{type(error).__name__}: {_first_line(error)}")
    classifier = [module for part in _parts(model.get_classifier()) for module in part.modules()]
    # A model of two branches has two, and the layer lies in one branch.
    reached = [layer for layer in layers if layer in classifier and has_gradient(layer)]
    problem = what_is_wrong(explanation, loss, model, [layers[0], *(reached or layers)], "gradcam")
    if problem:
        return Outcome("FAILED", problem)
    try:
        loss_of(explained_by_hook(hooked, inputs, target)).backward()
    except Exception as failure:
        return Outcome("FAILED", f"by the hook: {type(failure).__name__}: {_first_line(failure)}")
    found, expected = ({n: p.grad for n, p in m.named_parameters() if p.grad is not None} for m in (model, hooked))
    error = relative_error(found, expected)
    if not error < HOOK_TOLERANCE:
        return Outcome("FAILED", f"the gradient is off from the hook's by {error:.1g}", error)
    return Outcome("works", error=error)


HOOK_TOLERANCE = 1e-4


def _parts(classifier: Any) -> tuple[nn.Module, ...]:
    """A timm model's classifiers: distilled ones have two."""
    return classifier if isinstance(classifier, tuple) else (classifier,)


def explained_by_hook(model: nn.Module, inputs: Mapping[str, torch.Tensor], target: torch.Tensor) -> Explanation:
    """The explanation by `torch.autograd.grad` over the model's own forward pass."""
    architecture = find_architecture(model)
    path = None if architecture is None else architecture.target_path(model)
    if path != "forward_features":
        return explain(model, build_explainer("gradcam", target_layer=path), inputs, target)
    grid = architecture.split(copy.deepcopy(model), inputs).grid
    outputs = []

    def forward_features(*args: Any, **options: Any) -> torch.Tensor:
        outputs.append(type(model).forward_features(model, *args, **options))
        return outputs[-1]

    def forward_head(*args: Any, **options: Any) -> torch.Tensor:
        with sdpa_kernel(SDPBackend.MATH):  # fused kernels have no double backward
            return type(model).forward_head(model, *args, **options)

    model.forward_features, model.forward_head = forward_features, forward_head
    torch.manual_seed(0)
    logits = model(inputs["pixel_values"])
    one_hot = nn.functional.one_hot(target, CLASSES)
    (gradient,) = torch.autograd.grad((logits * one_hot).sum(), outputs[0], create_graph=True)
    return Explanation(logits, gradcam_map(grid.cells(outputs[0]), grid.cells(gradient)), target)


def try_taps(model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> Outcome:
    """The features of the layers that are tapped where none are named."""
    try:
        paths = default_taps(model)
        taps = Taps(model, paths)
        taps.start()
        with torch.no_grad():
            model(inputs["pixel_values"])
        features = taps.stop(inputs)
    except ValueError as error:
        return Outcome("refused" if _is_ours(error) else "FAILED", _reason(error, model))
    if not paths or not all(feature.isfinite().all() for feature in features.values()):
        return Outcome("FAILED", "no features" if not paths else "the features are not finite")
    return Outcome("works", f"{len(paths)}")


def run_timm(families: list[str] | None) -> dict[str, dict[str, Outcome]]:
    """Try every family of timm's, or some."""
    return {family: try_timm(family) for family in tqdm(TIMM) if families is None or family in families}


TIMM_TITLE = "## timm"


def timm_table(results: Mapping[str, Mapping[str, Outcome]], before: str = "") -> str:
    """The section of timm's families in Markdown.

    Args:
        before: The section as it was, whose rows stay where a family was not tried again.
    """
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in before.splitlines() if line.startswith("| ")}
    rows |= {family: timm_row(family, outcomes) for family, outcomes in results.items()}
    lines = [rows[family] for family in TIMM if family in rows]
    works = sum(" | ✓ | " in line for line in lines)
    text = f"""{TIMM_TITLE}

The smallest model of each of the {len(lines)} modules of timm {timm.__version__} that classify, with random weights;
GradCAM trains {works} of them. It *works* by the same conditions, its gradient being compared with that of a hook in
the model's own forward pass (to {HOOK_TOLERANCE}, relatively). Beside it stands how many layers the losses of features
tap where none are named, or why none. Written by
`python recipes/benchmarks/coverage.py --timm --output recipes/benchmarks/COVERAGE.md`; with `--only`, the rows of the
other modules stay.

| module | model | gradcam | default taps |
|---|---|---|---|
"""
    return text + "\n".join(lines) + "\n"


def timm_row(family: str, outcomes: Mapping[str, Outcome]) -> str:
    gradcam, taps = outcomes["gradcam"], outcomes["default taps"]
    cells = ["✓" if gradcam.verdict == "works" else _in_words(gradcam)]
    cells.append(taps.detail if taps.verdict == "works" else _in_words(taps))
    return f"| {family} | {TIMM[family]} | {' | '.join(cells)} |"


def _in_words(outcome: Outcome) -> str:
    return f"{outcome.verdict}: {outcome.detail}"


# --- The table -----------------------------------------------------------------------------------------------------

Results = dict[str, dict[str, dict[str, Outcome]]]
"""By task, then by `model_type ClassName`, then by explainer."""


def run(only: list[str] | None, explainers: list[str] | None) -> Results:
    """Tries every class, or those of some model types."""
    chosen = [
        (task, model_type, class_name)
        for task, classes in TASKS.items()
        for model_type, names in classes.items()
        for class_name in ((names,) if isinstance(names, str) else names)
        if only is None or model_type in only
    ]
    results: Results = {task: {} for task in TASKS}
    for task, model_type, class_name in tqdm(chosen):
        names = [name for name in EXPLAINERS[task] if name in available_explainers()]
        names = [name for name in names if explainers is None or name in explainers]
        results[task][f"{model_type} {class_name}"] = try_class(class_name, model_type, task, names)
    return results


def table(results: Results, command: str) -> str:
    """The results in Markdown."""
    reasons = sorted({o.detail for rows in results.values() for row in rows.values() for o in row.values() if o.detail})
    lines = [
        "# Which explainers can train which classifiers",
        "",
        " ".join(__doc__.split("\n\n")[2].split()),
        "",
        f"torch {torch.__version__.split('+')[0]}, transformers {transformers.__version__}. Written by `{command}`.",
        "",
        "| classes of | " + " | ".join(EXPLAINERS["image"]) + " |",
        "|---|" + "---|" * len(EXPLAINERS["image"]),
    ]
    for task, rows in results.items():
        lines.append(f"| {TITLES[task]} | " + " | ".join(total(rows, name) for name in EXPLAINERS["image"]) + " |")
    for task, rows in results.items():
        names = list(next(iter(rows.values()), {}))
        columns = [*names, COMPLETENESS] if task == "text" else names
        lines += ["", f"## {TITLES[task]}", "", "| type | class | " + " | ".join(columns) + " |"]
        lines.append("|---|---|" + "---|" * len(columns))
        for row, outcomes in rows.items():
            cells = [cell(outcomes[name], reasons) for name in names]
            if task == "text":
                error = outcomes["integrated_gradients"].completeness if "integrated_gradients" in outcomes else None
                cells.append("–" if error is None else f"{error:.2%}")
            lines.append("| " + " | ".join([*row.split(" "), *cells]) + " |")
    lines += ["", "## Reasons", ""]
    lines += [f"{number}. {reason}" for number, reason in enumerate(reasons, 1)]
    return "\n".join(lines) + "\n"


COMPLETENESS = "completeness error"
TITLES = {"image": "Image classification", "text": "Sequence classification"}


def total(rows: Mapping[str, Mapping[str, Outcome]], explainer: str) -> str:
    """How many classes an explainer works on; a dash where it was not tried."""
    outcomes = [row[explainer] for row in rows.values() if explainer in row]
    return f"{sum(o.verdict == 'works' for o in outcomes)} of {len(outcomes)}" if outcomes else "–"


def cell(outcome: Outcome, reasons: list[str]) -> str:
    if outcome.verdict == "works":
        return "✓"
    number = reasons.index(outcome.detail) + 1
    return f"FAILED {number}" if outcome.verdict == "FAILED" else str(number)


def document(results: Results, before: str, command: str) -> str:
    """A file's text with the tables of transformers' classes or of timm's families written anew."""
    ours, mark, timms = before.partition(TIMM_TITLE)
    if "timm" in results:
        return f"{ours.rstrip()}\n\n{timm_table(results['timm'], timms)}".lstrip()
    ours = table(results, command)
    return f"{ours.rstrip()}\n\n{mark}{timms}" if mark else ours


def quieten() -> None:
    warnings.filterwarnings("ignore")
    logging.set_verbosity_error()
    python_logging.getLogger("hf_e2kd").setLevel(python_logging.ERROR)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timm", action="store_true", help="try timm's families instead of transformers' classes")
    parser.add_argument("--only", type=lambda names: names.split(","), help="model types: vit,bert; modules of timm")
    parser.add_argument("--explainers", type=lambda names: names.split(","), help="gradcam,integrated_gradients")
    parser.add_argument("--output", type=Path, help="write the table there instead of printing it")
    parser.add_argument("--json", type=Path, help="write the outcomes there too, with the gradients' errors")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    quieten()
    torch.set_num_threads(options.threads)
    before = options.output.read_text(encoding="utf-8") if options.output and options.output.exists() else ""
    if options.timm:
        results: Results = {"timm": run_timm(options.only)}
    else:
        results = run(options.only, options.explainers)
    markdown = document(results, before, " ".join(["python", "recipes/benchmarks/coverage.py", *sys.argv[1:]]))
    if options.output:
        options.output.write_text(markdown, encoding="utf-8")
    else:
        print(markdown)
    if options.json:
        plain = {
            task: {row: {name: asdict(o) for name, o in outcomes.items()} for row, outcomes in rows.items()}
            for task, rows in results.items()
        }
        options.json.write_text(json.dumps(plain, indent=1), encoding="utf-8")
    failed = [o for rows in results.values() for row in rows.values() for o in row.values() if o.verdict == "FAILED"]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(run_recipe(main))
