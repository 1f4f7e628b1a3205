"""Registry of explainers by name."""

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from ..alignment.own_processing import own_tokenizer
from ..alignment.texts import length_limit, require_offsets_and_padding, tokenize_texts
from ..alignment.words import mark_special_tokens
from ..architectures.discovery import in_own_precision
from ..architectures.functions import FunctionModel, as_module
from ..architectures.probabilities import ProbabilityModel
from ..architectures.refusals import refuse_integer_arithmetic, refuse_missing_data, refuse_sentence_transformers
from ..choices import unknown_choice
from .attention_gradient import AttentionGradient
from .attention_rollout import AttentionRollout
from .base import Explainer, Explanation, Target, resolve_target
from .bcos import Bcos
from .gradcam import GradCAM
from .hires_cam import HiResCAM
from .input_x_gradient import InputXGradient
from .integrated_gradients import IntegratedGradients
from .layer_cam import LayerCAM
from .lrp import LRP
from .perturbation import GradientShap, KernelShap, Lime, Occlusion, Rise
from .saliency import Saliency

T = TypeVar("T")

_EXPLAINERS: dict[str, type[Explainer]] = {
    explainer.name: explainer
    for explainer in (
        AttentionGradient,
        AttentionRollout,
        Bcos,
        GradCAM,
        GradientShap,
        HiResCAM,
        InputXGradient,
        IntegratedGradients,
        LayerCAM,
        LRP,
        KernelShap,
        Lime,
        Occlusion,
        Rise,
        Saliency,
    )
}


def register_explainer(name: str, explainer: type[Explainer]) -> None:
    """Register a method by `name`, for `explain`, the arguments and the recipes.

    Args:
        explainer: A subclass of `Explainer`; the options of its constructor become the method's options.

    Raises:
        ValueError: something else than a subclass of `Explainer`.
    """
    if not (isinstance(explainer, type) and issubclass(explainer, Explainer)):
        raise ValueError(f"An explainer is registered by its class, a subclass of `Explainer`, not by {explainer!r}.")
    _EXPLAINERS[name] = explainer


def available_explainers(trainable: bool = False) -> list[str]:
    """List the names of the explanation methods.

    Args:
        trainable: True for those alone that a training can match.
    """
    return sorted(name for name, method in _EXPLAINERS.items() if method.trainable or not trainable)


def usable_explainers(*models: nn.Module) -> list[str]:
    """List the methods that can explain all of the models, as far as that is known before a batch is."""

    def allows(name: str) -> bool:
        try:
            explainer = build_explainer(name)
            for model in models:
                explainer.check(model, trained=False)
        except ValueError:
            return False
        return True

    return [name for name in available_explainers() if allows(name)]


def build_explainer(name: str, **options: Any) -> Explainer:
    """Build the explainer of that name with its options.

    Raises:
        ValueError: unknown name or option; the message lists the valid ones.
    """
    return construct("explainer", _EXPLAINERS, name, options)


def construct(kind: str, classes: Mapping[str, type[T]], name: str, options: Mapping[str, Any]) -> T:
    """Construct an instance of a registered class.

    Args:
        kind: Kind of the classes, for the errors: `"explainer"`.
        classes: The registered classes by name.
        options: Arguments of the constructor.

    Raises:
        ValueError: unknown name or option; the message lists the valid ones.
    """
    if name not in classes:
        raise ValueError(unknown_choice(kind, name, sorted(classes)))
    try:
        return classes[name](**options)
    except TypeError as error:
        valid = ", ".join(inspect.signature(classes[name]).parameters) or "none"
        raise ValueError(f"Options {options} don't fit the {kind} '{name}': {error}. Its options: {valid}.") from error


def explain(
    model: nn.Module | Callable[..., Any],
    inputs: Mapping[str, Any] | torch.Tensor | str | Sequence[str] | Sequence[tuple[str, str]],
    method: str | Explainer | None = None,
    target: Target | Sequence[int] | int = None,
    processing_class: Any = None,
    output: str = "logit",
    **options: Any,
) -> Explanation:
    """Explain a batch of a model's decisions.

    The model is explained in the mode it is in: call `model.eval()` first, or dropout and batch statistics act, with a
    warning.

    Args:
        model: A classifier, of transformers, timm or your own. Methods without gradients, such as `"occlusion"`,
            explain any function of a batch that gives logits (see `FunctionModel`).
        inputs: Inputs of its forward, as a processor or tokenizer gives it with `return_tensors="pt"`; or
            `pixel_values` (B, channels, H, W) alone; or, with `processing_class`, texts, or pairs of texts, such as
            premise and hypothesis.
        method: One of `available_explainers()`, or an explainer. By default images are explained by `"gradcam"`, texts
            by `"integrated_gradients"`.
        target: Class to explain: one for all samples, (B,) or (B, K) of them, or a function of the logits that gives
            these; the top class by default. −1 explains none: its map is zero.
        processing_class: The model's tokenizer. It turns texts into tokens, whose scores are summed to words; of given
            tokens, it tells the special ones, which are 0 in the maps. Without it, that of the model's own folder.
        output: `"logit"`, or `"probability"`: the map of an image explains the class's probability, so that maps which
            sum to what they explain lie in −1 to 1, as XDistillation needs them; `logits` are then probabilities.
        options: The method's own options.

    Returns:
        An `Explanation` without graph: `logits`, `maps`, `mask`, `target`, `layout`; of texts also `words`, what stands
        in each cell of a map; a pair's second text follows the first.

    Raises:
        ValueError: unknown method, option, layer or class; inputs that are no batch of finite images or of texts; a
            model that the method can't explain, or whose logits are no numbers.

    Example:

        >>> from transformers import ResNetConfig, ResNetForImageClassification
        >>> import hf_e2kd, torch
        >>> config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
        >>> model = ResNetForImageClassification(config).eval()
        >>> hf_e2kd.explain(model, torch.rand(2, 3, 32, 32)).maps.shape
        torch.Size([2, 4, 4])

    Of a text, with the model's tokenizer:

        explanation = hf_e2kd.explain(model, ["a wonderful film"], processing_class=tokenizer)
        list(zip(explanation.words[0], explanation.maps[0].tolist()))

    Of a pair of texts:

        hf_e2kd.explain(model, [("A man sleeps.", "A man is awake.")], processing_class=tokenizer)
    """
    if hasattr(model, "preprocess") and not isinstance(model, nn.Module):
        raise ValueError(f"A {type(model).__name__} prepares its inputs by itself; of a pipeline, give its `model`.")
    model = as_module(model)
    if isinstance(method, Explainer) and options:
        raise ValueError(
            f"Give the options {sorted(options)} to the explainer's constructor, not beside the explainer."
        )
    refuse_sentence_transformers(model, "model")
    refuse_missing_data(model, "model")
    # Inference mode would leave nothing to differentiate.
    with torch.inference_mode(False):
        batch, words = _batch(inputs, processing_class)
    pixels = batch.get("pixel_values")
    if pixels is not None and not pixels.is_floating_point() and not isinstance(model, FunctionModel):
        raise ValueError(
            f"pixel_values are {str(pixels.dtype).removeprefix('torch.')}, and {type(model).__name__} takes floats: "
            'give what its image processor makes of the images, processor(images, return_tensors="pt").'
        )
    if method is None:
        method = "integrated_gradients" if "input_ids" in batch else "gradcam"
    explainer = method if isinstance(method, Explainer) else build_explainer(method, **options)
    explainer = explainer.with_tokenizer(processing_class)
    if hasattr(model, "own_explainer"):  # an exported student, which has no gradients
        explainer = model.own_explainer(explainer)
        explainer.check(model, trained=False)
    if explainer.trainable:
        require_gradients(model, explainer.name)
    if model.training:
        warnings.warn(
            f"{type(model).__name__} is in training mode: dropout and batch statistics change what is explained. Call "
            "model.eval() first.",
            stacklevel=2,
        )
    if words is None:
        batch = _with_special_tokens(batch, processing_class or own_tokenizer(model))
    device = next(model.parameters(), torch.empty(0)).device
    if words is not None:
        batch = {key: value.to(device) for key, value in batch.items()}
    with torch.inference_mode(False):
        if not torch.is_autocast_enabled(device.type):  # which converts them itself
            batch = in_own_precision(model, batch)

        def classes(logits: torch.Tensor) -> torch.Tensor:
            _check_logits(logits)
            chosen = resolve_target(_target(target, len(logits)), logits)
            for extreme in (chosen.max(), chosen.min()) if chosen.numel() else ():
                if not -1 <= extreme < logits.shape[1]:
                    raise ValueError(f"There is no class {int(extreme)}: the model has {logits.shape[1]} classes.")
            return chosen

        explanation = explainer(as_explained(model, output, explainer, batch), batch, classes)
    explanation.words = words
    return explanation


def as_explained(model: nn.Module, output: str, explainer: Explainer, batch: Mapping[str, Any]) -> nn.Module:
    """Make the model that gives what is explained, `"logit"` or `"probability"`, in the place of its logits.

    Raises:
        ValueError: an unknown output, or one that the method or the inputs don't allow.
    """
    if output == "logit":
        return model
    if output != "probability":
        raise ValueError(unknown_choice("output", output, ["logit", "probability"]))
    if not explainer.explains_any_output:
        others = ", ".join(name for name, each in sorted(_EXPLAINERS.items()) if each.explains_any_output)
        raise ValueError(
            f"output='probability' is of methods that explain any output, and '{explainer.name}' explains what it is "
            f"defined for. Those methods: {others}."
        )
    if batch.get("pixel_values") is None:
        raise ValueError("output='probability' is of images. Explain a text's logit: output='logit'.")
    return ProbabilityModel(model)


def require_gradients(model: nn.Module, method: str, side: str = "model") -> None:
    """Refuse a model without gradients for a method that takes them.

    Args:
        method: Name of the method.
        side: Role of the model, for the error: "model", "student" or "teacher".

    Raises:
        ValueError: with the methods that explain it.
    """
    refuse_integer_arithmetic(model, side)
    if isinstance(model, FunctionModel):
        others = ", ".join(name for name in usable_explainers(model) if not _EXPLAINERS[name].trainable)
        raise ValueError(
            f"The {side} is a function, without gradients, which '{method}' takes. Methods that need none: {others}."
        )


def _batch(inputs: Any, processing_class: Any) -> tuple[dict[str, Any], list[list[str]] | None]:
    """Make the forward's inputs without labels, and the words of texts; refuse a batch that can't be explained."""
    texts = [inputs] if isinstance(inputs, str) else inputs
    if isinstance(texts, list | tuple) and texts and all(isinstance(text, str) or _is_pair(text) for text in texts):
        if processing_class is None:
            raise ValueError(
                "To explain texts, give the model's tokenizer: explain(model, texts, processing_class=tokenizer). An "
                "image is not given by its path: open it, and give what the image processor makes of it."
            )
        if len({isinstance(text, str) for text in texts}) > 1:
            raise ValueError("Some of the inputs are texts and some are pairs of texts. Explain them apart.")
        require_offsets_and_padding(processing_class)
        parts = [(text,) if isinstance(text, str) else tuple(text) for text in texts]
        (batch,), words = tokenize_texts(parts, (processing_class, length_limit(processing_class)))
        return batch, words
    if isinstance(texts, list | tuple) and any(isinstance(text, str) for text in texts):
        row = next(row for row, text in enumerate(texts) if not (isinstance(text, str) or _is_pair(text)))
        raise ValueError(f"Number {row} of the texts is {texts[row]!r}, no text and no pair of them. Leave it out.")
    if not isinstance(inputs, Mapping | torch.Tensor):
        raise ValueError(
            f"inputs must be a tensor (B, channels, H, W), texts or pairs of texts, or what an image processor or a "
            f'tokenizer gives, not {type(inputs).__name__}: processor(images, return_tensors="pt").'
        )
    batch = {"pixel_values": inputs} if isinstance(inputs, torch.Tensor) else dict(inputs)
    batch.pop("labels", None)
    for name, check in (("pixel_values", _check_images), ("input_ids", _check_tokens)):
        if batch.get(name) is not None:
            if not isinstance(batch[name], torch.Tensor):
                raise ValueError(
                    f"{name} must be a tensor, not {type(batch[name]).__name__}: give the processor "
                    'return_tensors="pt".'
                )
            check(batch[name])
    batch = {
        key: value.clone() if isinstance(value, torch.Tensor) and value.is_inference() else value
        for key, value in batch.items()
    }
    return batch, None


def _with_special_tokens(batch: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
    """Mark the special ones of given tokens, with a warning where nothing says which they are."""
    marked = mark_special_tokens(batch, tokenizer)
    if "input_ids" in marked and marked.keys().isdisjoint(("word_ids", "special_tokens_mask")):
        warnings.warn(
            "The batch has token ids, and nothing says which of them are special ([CLS], [SEP]), whose scores tend to "
            "dominate: they are in the maps. Give the model's tokenizer as processing_class.",
            stacklevel=3,
        )
    return marked


def _is_pair(texts: Any) -> bool:
    return isinstance(texts, list | tuple) and len(texts) == 2 and all(isinstance(text, str) for text in texts)


def _check_images(pixel_values: torch.Tensor) -> None:
    if pixel_values.ndim != 4 or len(pixel_values) == 0:
        raise ValueError(
            f"pixel_values must have the shape (B, channels, H, W) with B at least 1, not "
            f"{tuple(pixel_values.shape)}; a single image is `image[None]`."
        )
    if not pixel_values.isfinite().all():
        rows = (~pixel_values.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
        raise ValueError(f"pixel_values holds NaN or infinite values in the samples {rows[:8]}. Leave them out.")


def _check_logits(logits: torch.Tensor) -> None:
    """Refuse logits of which no top class can be told, and whose gradients are NaN too."""
    if not logits.isfinite().all():
        rows = (~logits.isfinite()).any(1).nonzero().flatten().tolist()
        raise ValueError(
            f"The model's logits are NaN or infinite for the samples {rows[:8]}. Its weights may be damaged or have "
            "diverged: load or train it again; or load it in a higher precision."
        )


def _check_tokens(input_ids: torch.Tensor) -> None:
    if input_ids.ndim != 2 or input_ids.numel() == 0 or input_ids.is_floating_point():
        raise ValueError(
            f"input_ids must be integers of shape (B, T) with at least one token, not {input_ids.dtype} of shape "
            f"{tuple(input_ids.shape)}; a single text is `input_ids[None]`."
        )


def _target(target: Any, samples: int) -> Target:
    """Convert numbers and sequences of numbers to a tensor."""
    if target is None or callable(target):
        return target
    try:
        chosen = torch.as_tensor(target)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"The target must be a class's number, one or several numbers a sample, or None for the top class, not "
            f"{target!r}. `model.config.label2id` gives a name's number."
        ) from error
    if chosen.ndim == 0 and chosen < 0:
        raise ValueError(f"There is no class {target}; classes are counted from 0.")
    return chosen.expand(samples) if chosen.ndim == 0 else chosen
