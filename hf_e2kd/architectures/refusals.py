"""Models that no training and no explanation can take as they are, refused with the remedy."""

from torch import nn


def refuse_offloaded(model: nn.Module, side: str) -> None:
    """Refuse a model whose weights `device_map` has spread over devices, or left on the disk or without data.

    Raises:
        ValueError: naming the places, or a weight.
    """
    places = sorted({str(place) for place in (getattr(model, "hf_device_map", None) or {}).values()})
    if len(places) > 1 or "disk" in places:
        raise ValueError(
            f"The {side}'s weights lie on {', '.join(places)}, and it must lie on one device as a whole. Load it "
            "without device_map, in half precision or with quantised weights where it is large; a teacher is shared "
            "between processes by TeacherReference(teacher, shard=True) and FSDP2, or its outputs are stored once by "
            "`hf-e2kd store`."
        )
    refuse_missing_data(model, side)


def refuse_missing_data(model: nn.Module, side: str) -> None:
    """Refuse a model on the device "meta", which knows the shapes of its weights alone.

    Raises:
        ValueError: naming a weight.
    """
    absent = next((name for name, parameter in model.named_parameters() if parameter.is_meta), None)
    if absent is not None:
        raise ValueError(
            f"The {side}'s weights are without data (meta), {absent} among them. Load it by from_pretrained, outside "
            'of torch.device("meta") and without device_map.'
        )


def refuse_dropped_patches(model: nn.Module) -> None:
    """Refuse a model that is leaving out patches: those that stay have no places, even where they make up a grid.

    Raises:
        ValueError: with the remedy.
    """
    for name, module in model.named_modules():
        is_dropout = type(module).__name__.startswith("PatchDropout")
        rate = getattr(module, "prob" if is_dropout else "patch_drop_rate", 0.0)
        if module.training and rate:
            raise ValueError(
                f"In training, {type(model).__name__} leaves out {rate:.0%} of its patches at random"
                f"{f' ({name})' if name else ''}, and those that stay have no known places in the image. Build it with "
                "patch_drop_rate=0, or explain it at the pixels, by 'integrated_gradients' or 'saliency'."
            )


def refuse_integer_arithmetic(model: nn.Module, side: str) -> None:
    """Refuse integer kernels: they have no derivative, and an explanation through them would be silently zero.

    Raises:
        ValueError: naming the layer.
    """
    found = integer_layer(model)
    if found is not None:
        layer, kind = found
        raise ValueError(
            f"The {side}'s layer '{layer}' computes in integers ({kind.__name__}), so its decisions "
            "can't be explained by gradients. Quantise weights only (bitsandbytes, GPTQ, torchao weight-only), or "
            "keep the last block and the classifier unquantised; without training, explain it by 'occlusion'."
        )


def integer_layer(model: nn.Module) -> tuple[str, type] | None:
    """Find a layer that computes in integers: its path, and its or its weight's type."""
    # torchao swaps a layer's weight and leaves its class: a tensor that quantises the layer's input too.
    for name, parameter in model.named_parameters():
        weight = parameter.data
        kind = type(weight)
        if "ActivationQuantized" in kind.__name__ or getattr(weight, "act_quant_kwargs", None) is not None:
            return name.rpartition(".")[0], kind
    for name, module in model.named_modules():
        if ".quantized" in type(module).__module__:
            return name, type(module)
    return None


def refuse_sentence_transformers(model: nn.Module, side: str) -> None:
    """Refuse a model of sentence-transformers, whose forward takes and returns a dictionary.

    Raises:
        ValueError: saying which model to give instead.
    """
    if any(kind.__module__.startswith("sentence_transformers") for kind in type(model).__mro__):
        raise ValueError(
            f"The {side} is a {type(model).__name__} of sentence-transformers, whose forward gives no logits. Of a "
            "CrossEncoder, give the classifier inside (`transformers_model`); a SentenceTransformer has no classes: "
            "fit some to its folder by hf_e2kd.experiments.fit_head, or fine-tune it by "
            "AutoModelForSequenceClassification."
        )
