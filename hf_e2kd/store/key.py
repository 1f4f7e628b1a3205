"""Keys of a store: digests of the teacher, its processor and its explainer, by which another one is refused."""

import hashlib
import inspect
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from ..alignment.inputs import ImageView, image_view
from ..alignment.labels import class_count, class_names
from ..alignment.texts import tokenizer_definition
from ..explainers import Explainer
from ..hub.ids import loaded_commit, loaded_from_hub
from ..hub.redaction import holds_secret
from .files import StoreError

_NAMES_OF_A_TEACHER = ("name", "revision")
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def teacher_key(model: nn.Module, name: str | None = None, revision: str | None = None) -> dict[str, Any]:
    """The teacher's identity: the digest of its weights decides, name and revision are for the reader.

    One that was loaded from a folder bears its architecture's name, unless another is given: the folder's is private.
    """
    config = getattr(model, "config", None)
    published = loaded_from_hub(getattr(config, "_name_or_path", None))
    given = None if name is None or holds_secret(name) else name
    return {
        "name": given or published or type(model).__name__,
        "revision": revision or (loaded_commit(config) if published else None),
        "architecture": type(model).__name__,
        "weights": weights_digest(model),
        "classes": class_names(model),
        "num_classes": class_count(model),
    }


def weights_digest(model: nn.Module) -> str:
    """SHA-256 of parameters and buffers, with their names, types and shapes."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        for tensor in _plain_tensors(value):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _plain_tensors(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors that a parameter consists of; none of a module's other extra state.

    A quantised weight is one of torch's own, a tuple of such, or a tensor of several parts (torchao).
    """
    if isinstance(value, tuple):
        for part in value:
            yield from _plain_tensors(part)
    elif isinstance(value, torch.Tensor):
        if hasattr(value, "__tensor_flatten__"):
            for part in value.__tensor_flatten__()[0]:
                yield from _plain_tensors(getattr(value, part))
        else:
            yield value.dequantize() if value.is_quantized else value


def processor_key(processor: Any) -> dict[str, Any] | None:
    """An image processor's or a tokenizer's settings; None where there is none.

    Raises:
        StoreError: something that is neither.
    """
    if processor is None:
        return None
    if isinstance(processor, PreTrainedTokenizerBase):
        definition = json.dumps(tokenizer_definition(processor), sort_keys=True)
        key = {"type": type(processor).__name__, "tokenizer": hashlib.sha256(definition.encode()).hexdigest()}
        # Of long texts another part is read. The usual side isn't stated, as in stores of earlier versions.
        return key if processor.truncation_side == "right" else {**key, "truncation_side": processor.truncation_side}
    if not hasattr(processor, "to_dict"):
        raise StoreError(
            f"processing_class must be an image processor or a tokenizer, not {type(processor).__name__}, which has no "
            "`to_dict()` to tell it from another."
        )
    settings = {
        name: value
        for name, value in processor.to_dict().items()
        if not name.startswith("_") and name not in ("processor_class", "device")
    }
    return {"type": type(processor).__name__, **_stable(json.loads(json.dumps(settings, default=str)))}


def field_of_view(processor: Any) -> dict[str, Any] | None:
    """The part of an image that a processor shows: the kept fraction, and whether it crops to keep the sides' ratio.

    None for a tokenizer, and for a processor that doesn't say it.
    """
    if processor is None or isinstance(processor, PreTrainedTokenizerBase):
        return None
    try:
        view = image_view(processor)
    except ValueError:
        return None
    return stated_field(view)


def stated_field(view: ImageView) -> dict[str, Any]:
    """A view's part of an image, as a store states it."""
    return {"keeps_ratio": view.keeps_ratio, "fraction": round(view.fraction, 2)}


def explainer_key(explainer: Explainer) -> dict[str, Any]:
    """A method's name and its options, as far as they change the map.

    The same in every process, and without paths: see `public_key`. A function is known by its name alone.
    """
    options = {
        name: _stable(getattr(explainer, name))
        for name in inspect.signature(type(explainer)).parameters
        if name not in explainer.without_effect and hasattr(explainer, name)
    }
    return {"name": explainer.name, "options": options}


def require_comparable(stored: Mapping[str, Any], explainer: Explainer, folder: Any) -> None:
    """Refuse to compare stored maps with those of another method, or of the same method in another sense.

    Args:
        stored: Key of the stored maps' explainer.
        explainer: The student's.
        folder: Folder of the store, for the error.

    Raises:
        StoreError: the method, or an option of its `of_meaning`, is another.
    """
    given = explainer_key(explainer)
    freely = "or, if the two shall be compared, StoredReference(..., allow_explainer_mismatch=True)."
    if given["name"] != stored["name"]:
        raise StoreError(
            f"The store {folder} holds explanations by '{stored['name']}', and the student is explained by "
            f"'{given['name']}'. Give the trainer explainer='{stored['name']}'; {freely}"
        )
    for name in explainer.of_meaning:
        own, its = given["options"][name], stored["options"][name]
        if own != its:
            raise StoreError(
                f"The store {folder} holds explanations by '{stored['name']}' with {name}={its!r}, and the student is "
                f"explained with {name}={own!r}. Give the trainer explainer_options={{{name!r}: {its!r}}}; {freely}"
            )


def public_key(key: Mapping[str, Any]) -> dict[str, Any]:
    """A store's key without paths, tokens and memory addresses, which stores of earlier versions may hold.

    In the place of a text with a path or a token stands its digest, so that it can still be told from another.
    """
    return {part: _public(part, value) for part, value in key.items()}


def require_same(stored: Mapping[str, Any], given: Mapping[str, Any], folder: Any, remedy: str) -> None:
    """Refuse to use a store with something else than it was built with; only what is given is compared.

    Args:
        stored: Key of the store.
        given: Parts of a key; of `ids`, those that are known.
        folder: Folder of the store, for the message.
        remedy: Advice at the end of the message.

    Raises:
        StoreError: they differ; each difference is shown with both values.
    """
    found = []
    for part, value in given.items():
        own, value = _public(part, stored.get(part)), _public(part, value)
        if part == "ids":
            own = {name: stored["ids"][name] for name in value}
        if part == "teacher" and own is not None and value is not None and own["weights"] == value["weights"]:
            # The same model under another name, such as the folder that it was loaded from.
            own, value = ({k: v for k, v in key.items() if k not in _NAMES_OF_A_TEACHER} for key in (own, value))
        found += [
            f"{path} is {_shown(one)} in the store and {_shown(other)} here"
            for path, one, other in _differences(own, value, part)
        ]
    if found:
        more = f" (and {len(found) - 4} more)" if len(found) > 4 else ""
        raise StoreError(f"The store {folder} was built otherwise: {'; '.join(found[:4])}{more}. {remedy}")


def _differences(one: Any, other: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for name in [*one, *(name for name in other if name not in one)]:
            yield from _differences(one.get(name), other.get(name), f"{path}.{name}")
    elif one != other:
        yield path, one, other


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}…"


def _public(part: str, value: Any) -> Any:
    if part == "teacher" and value is not None and holds_secret(value["name"]):
        return {**value, "name": value["architecture"]}
    return _stable(value) if part in ("processor", "explainer") else value


def _stable(value: Any) -> Any:
    """A value as JSON that is the same in every process and on every machine, and holds no path; stable itself."""
    if isinstance(value, torch.Tensor):
        data = value.detach().cpu().contiguous()
        return (
            f"tensor {tuple(data.shape)} {hashlib.sha256(data.reshape(-1).view(torch.uint8).numpy().data).hexdigest()}"
        )
    if isinstance(value, nn.Module):
        return f"{type(value).__name__} {weights_digest(value)}"
    if isinstance(value, Explainer):
        return explainer_key(value)
    if isinstance(value, np.ndarray | np.generic):
        return _stable(value.tolist())
    if isinstance(value, Mapping):
        return {_stable(str(name)): _stable(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_stable(part) for part in value]
    if isinstance(value, set | frozenset):
        return sorted((_stable(part) for part in value), key=json.dumps)
    if value is None or isinstance(value, bool | int | float):
        return value
    if type(value).__repr__ is object.__dict__["__repr__"]:
        return {"type": type(value).__qualname__, **_stable(getattr(value, "__dict__", {}))}
    text = _ADDRESS.sub("", value if isinstance(value, str) else repr(value))
    return f"private, sha256 {hashlib.sha256(text.encode()).hexdigest()}" if holds_secret(text) else text
