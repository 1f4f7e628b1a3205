"""The tiny models that `coverage.py` tries, of every type of configuration, and their inputs."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
import transformers
from torch import nn
from transformers import CONFIG_MAPPING

CLASSES = 3
IMAGE_SIZE = 128
# Not a multiple of the windows and blocks below, so that models that pad their input do so.
TOKENS = 13

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
