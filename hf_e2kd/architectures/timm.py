"""timm models, bare or in transformers' wrapper."""

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .attention import timm_attention, vit_block
from .base import Architecture, Split, evaluating, require_inputs
from .grids import Grid, layer_grid, token_grid
from .refusals import refuse_dropped_patches

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer
    from transformers import TimmWrapperForImageClassification


FEATURES = "forward_features"
"""Target of models whose last feature map a function gives, and no layer of a known name."""


def is_timm(model: nn.Module) -> bool:
    """Tell whether the model is a bare timm classifier."""
    return all(hasattr(model, name) for name in ("forward_features", "forward_head", "pretrained_cfg"))


def timm_architecture(model: nn.Module) -> Architecture | None:
    """The entry of a timm model, bare or wrapped; None where its classifier reads tokens of an unknown block."""
    bare: Any = getattr(model, "timm_model", model)
    if not is_timm(bare) or _has_own_forward(bare):
        return None
    pool = getattr(bare, "global_pool", None)
    if pool != "token" and (pool != "" or getattr(bare, "num_prefix_tokens", 0) == 0):
        # Every place of the last feature map reaches the logits.
        return Architecture(FEATURES, _of_the_bare_model(_features_split))
    if has_plain_blocks(bare):
        prefix = "" if bare is model else "timm_model."
        return Architecture(f"{prefix}blocks.{len(bare.blocks) - 1}.norm1", _of_the_bare_model(_tokens_split))
    return None


def _has_own_forward(bare: nn.Module) -> bool:
    """Tell whether a user's subclass of a timm model has a forward of its own, beside timm's features and head."""
    if torch.compiler.is_compiling():  # `check` has looked before
        return False
    names = {"forward", "forward_features", "forward_head"}
    nearest = next((cls for cls in type(bare).__mro__ if not names.isdisjoint(vars(cls))), nn.Module)
    written = [name for name in sorted(names) if name in vars(nearest)]
    return written == ["forward"] and not nearest.__module__.startswith(("timm.", "torch."))


def has_plain_blocks(bare: nn.Module) -> bool:
    """Tell whether a timm model is a row of plain transformer blocks with softmax attention, without a pooling one."""
    # By name: torch 2.9 can't compile an import, and timm is imported where it is used alone.
    kinds = [cls.__name__ for cls in type(bare).__mro__ if cls.__module__ == "timm.models.vision_transformer"]
    if "VisionTransformer" not in kinds or getattr(bare, "attn_pool", None) is not None:
        return False
    last: Any = bare.blocks[-1]
    if type(last).__module__ != "timm.models.vision_transformer" or type(last).__name__ != "Block":
        return False
    is_attention = type(last.attn).__module__ == "timm.layers.attention" and type(last.attn).__name__ == "Attention"
    return is_attention and getattr(last.attn, "gate", None) is None


def _of_the_bare_model(
    split: Callable[[nn.Module, torch.Tensor], Split],
) -> Callable[[nn.Module, Mapping[str, Any]], Split]:
    def split_bare(model: nn.Module, inputs: Mapping[str, Any]) -> Split:
        bare: Any = getattr(model, "timm_model", model)
        refuse_dropped_patches(bare)
        weight = next(bare.parameters())
        return split(bare, require_inputs(inputs).to(weight.device, weight.dtype))

    return split_bare


def _features_split(bare: nn.Module, pixel_values: torch.Tensor) -> Split:
    features = bare.forward_features(pixel_values)
    if not isinstance(features, torch.Tensor) or features.ndim not in (3, 4):
        raise ValueError(
            f"`forward_features` of {type(bare).__name__} gives no single feature map. Name the layer to explain by "
            '`explainer_options={"target_layer": "path.of.the.layer"}`.'
        )
    if features.ndim == 4 and getattr(bare, "output_fmt", "NCHW") == "NHWC":
        grid = Grid(features.shape[1], features.shape[2], "nhwc")
    elif features.ndim == 4:
        grid = Grid(features.shape[2], features.shape[3])
    else:
        stated = layer_grid(bare, FEATURES, features, *pixel_values.shape[-2:])
        prefix = getattr(bare, "num_prefix_tokens", 0)
        if stated is not None and stated.prefix_tokens == prefix:
            grid = stated
        else:
            grid = Grid(*token_grid(features.shape[1] - prefix, *pixel_values.shape[-2:]), "tokens", prefix)

    def head(features: torch.Tensor) -> torch.Tensor:
        # Attention pooling is the one head that calls a fused kernel, and fused kernels have no double backward.
        with sdpa_kernel(SDPBackend.MATH):
            return bare.forward_head(features)

    return Split(features, head if getattr(bare, "attn_pool", None) is not None else bare.forward_head, grid)


def _tokens_split(bare: "VisionTransformer", pixel_values: torch.Tensor) -> Split:
    """A ViT whose classifier reads prefix tokens: cut at the last block's input norm."""
    prefix = bare.num_prefix_tokens
    rows, columns = bare.patch_embed.dynamic_feat_size(pixel_values.shape[-2:])
    hidden = bare.norm_pre(bare.patch_drop(bare._pos_embed(bare.patch_embed(pixel_values))))
    *blocks, last = bare.blocks
    for block in blocks:
        if bare.grad_checkpointing and not torch.jit.is_scripting():
            hidden = torch.utils.checkpoint.checkpoint(block, hidden, use_reentrant=False)
        else:
            hidden = block(hidden)

    def attention(tokens: torch.Tensor) -> torch.Tensor:
        return last.drop_path1(last.ls1(timm_attention(last.attn, tokens, prefix)))

    def feed_forward(tokens: torch.Tensor) -> torch.Tensor:
        return last.drop_path2(last.ls2(last.mlp(last.norm2(tokens))))

    block = vit_block(hidden, prefix, attention, feed_forward)
    return Split(
        last.norm1(hidden),
        lambda tokens: bare.forward_head(bare.norm(block(tokens))),
        Grid(rows, columns, "tokens", prefix),
    )


def wrap_timm(
    model: nn.Module, id2label: Mapping[int, str] | None = None, model_args: Mapping[str, Any] | None = None
) -> "TimmWrapperForImageClassification":
    """Put a bare timm classifier into transformers' wrapper, so that what is saved loads with the Auto classes.

    The model itself is shared, not copied.

    Args:
        model: From `timm.create_model`.
        id2label: Names of the classes.
        model_args: Arguments given to `timm.create_model` that change the network (`{"embed_dim": 192}`, say).

    Raises:
        ValueError: rebuilt by its name, the model has other weights or computes something else.
    """
    from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

    cfg = {key: value for key, value in model.pretrained_cfg.items() if value is not None and key != "num_classes"}
    labels = {} if id2label is None else {"id2label": dict(id2label), "label2id": {v: k for k, v in id2label.items()}}
    config = TimmWrapperConfig(
        architecture=cfg["architecture"],
        model_args=dict(model_args) if model_args else None,
        pretrained_cfg=cfg,
        **(labels or {"num_labels": model.num_classes}),
    )
    wrapper = TimmWrapperForImageClassification(config)
    rebuilt = {name: tuple(tensor.shape) for name, tensor in wrapper.timm_model.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if rebuilt != given:
        name = sorted(name for name in rebuilt.keys() | given.keys() if rebuilt.get(name) != given.get(name))[0]
        raise ValueError(
            f"timm builds '{cfg['architecture']}' with other weights than this model has ({name}: {rebuilt.get(name)} "
            f"instead of {given.get(name)}), so a saved student could not be loaded again. "
            f"{_remedy(model, wrapper.timm_model)}"
        )
    wrapper.timm_model.load_state_dict(model.state_dict())
    if not _same_function(model, wrapper.timm_model, (model_args or {}).get("img_size") or cfg["input_size"][1:]):
        raise ValueError(
            f"With these very weights, timm's '{cfg['architecture']}' gives other logits than this model, so a saved "
            f"student would silently change when it is loaded. {_remedy(model, wrapper.timm_model)}"
        )
    wrapper.timm_model = model
    wrapper.train(model.training)
    return wrapper


def _image_size(model: nn.Module) -> Any:
    """The image size that a model was built for; None where none of its layers states one."""
    return next((module.img_size for module in model.modules() if getattr(module, "img_size", None)), None)


def _channels(model: nn.Module) -> int:
    """The channels of a model's images."""
    return next(layer.in_channels for layer in model.modules() if isinstance(layer, nn.Conv2d))


# Where a model shows the arguments that it was created with.
_ARGUMENTS: dict[str, Callable[[Any], Any]] = {
    "img_size": _image_size,
    "patch_size": lambda model: model.patch_embed.patch_size,
    "in_chans": _channels,
    "embed_dim": lambda model: model.embed_dim,
    "depth": lambda model: len(model.blocks),
    "depths": lambda model: tuple(len(stage.blocks) for stage in getattr(model, "stages", None) or model.layers),
    "num_heads": lambda model: model.blocks[0].attn.num_heads,
    "reg_tokens": lambda model: model.num_reg_tokens,
    "global_pool": lambda model: getattr(model.global_pool, "pool_type", model.global_pool),
    "output_stride": lambda model: model.feature_info[-1]["reduction"],
}


def _remedy(model: nn.Module, rebuilt: nn.Module) -> str:
    """Name the arguments in which a model differs from what timm builds by its name."""
    found: dict[str, Any] = {}
    for name, read in _ARGUMENTS.items():
        try:
            own, other = read(model), read(rebuilt)
        except (AttributeError, IndexError, TypeError, StopIteration):  # this family doesn't show it
            continue
        if own != other:
            found[name] = own
    if found:
        return f"Give the arguments that it was created with: wrap_timm(model, model_args={found})."
    parameters = [each for cls in type(model).__mro__[:-1] for each in inspect.signature(cls).parameters.values()]
    known = dict.fromkeys(each.name for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD)
    return f"Give those arguments that it was created with as `model_args`, out of: {', '.join(known)}."


def _same_function(model: nn.Module, rebuilt: nn.Module, image_size: int | tuple[int, int]) -> bool:
    """Tell whether both give the same logits of a random image; a stride, say, changes no weight's shape.

    Args:
        image_size: Pixels a side, or height and width, of a model that doesn't state its own.
    """
    if (_image_size(model), _channels(model)) != (_image_size(rebuilt), _channels(rebuilt)):
        return False
    size = _image_size(model) or image_size
    size = (size, size) if isinstance(size, int) else size
    weight = next(model.parameters())
    image = torch.rand(1, _channels(model), *size, generator=torch.Generator().manual_seed(0))
    with evaluating(model), evaluating(rebuilt), torch.no_grad():
        logits = model(image.to(weight.device, weight.dtype)).float().cpu()
        return torch.allclose(rebuilt(image).float(), logits, rtol=1e-2, atol=1e-2 * logits.abs().max().item())
