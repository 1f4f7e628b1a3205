"""Students that FSDP2 has sharded, gathered for as long as an explanation is differentiated twice, and teachers."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel


def is_sharded(model: nn.Module) -> bool:
    """Whether FSDP2 gathers and frees parameters of this model, whose modules then can't be run by `torch.func`."""
    return any(isinstance(module, FSDPModule) for module in model.modules())


def whole(model: nn.Module) -> nn.Module:
    """A copy of a sharded model of transformers that each process can run alone; others are returned as they are.

    All processes must call it.
    """
    if not is_sharded(model):
        return model
    assert isinstance(model, PreTrainedModel)
    weights = {
        name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in model.state_dict().items()
    }
    own_class: type[PreTrainedModel] = next(cls for cls in type(model).__mro__ if not issubclass(cls, FSDPModule))
    copied = own_class(copy.deepcopy(model.config)).to(model.device)
    copied.load_state_dict(weights)
    return copied


def name_blocks(student: nn.Module, plugin: Any) -> None:
    """Tells Accelerate which blocks of a student to shard, where the user left that to the student's family.

    Accelerate shards the embedding table apart: a block around it, which some families name too, would shard it twice,
    and convolutional families of transformers have none and answer with an error.

    Args:
        plugin: Accelerate's `FullyShardedDataParallelPlugin`.
    """
    embeddings = _embeddings(student)
    if embeddings is None:
        student.get_input_embeddings = _nothing
    if plugin.transformer_cls_names_to_wrap is None:
        blocks = _blocks(student, embeddings)
        plugin.transformer_cls_names_to_wrap = sorted({type(block).__name__ for block in blocks})


def shard_frozen(model: nn.Module, device: torch.device) -> None:
    """Leaves each process a share of a frozen model's blocks; a second call changes nothing.

    All processes must call it, and from then on call the model equally often. The blocks are those which transformers
    names for the family; a model of none is gathered as a whole while it runs.
    """
    if is_sharded(model):
        return
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    # Inner blocks come before those that hold them.
    for block in reversed(_blocks(model, _embeddings(model))):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


@contextmanager
def root_gathered(model: nn.Module) -> Iterator[None]:
    """Keeps what no block of a sharded model holds, such as its word embeddings, readable outside its own forward."""
    if isinstance(model, FSDPModule):
        model.unshard()
    yield
    if isinstance(model, FSDPModule):
        model.reshard()


@contextmanager
def gathered(model: nn.Module, student: nn.Module, layer: str | None) -> Iterator[None]:
    """Keeps what lies between a layer and the logits gathered from the forward pass to the end of the step.

    The explanation's gradient goes back through these blocks before the loss's does. In between FSDP2 would free their
    parameters, and the second pass would read freed memory. All other blocks are gathered and freed as ever.

    Args:
        model: What is called; nothing is done unless it is sharded.
        student: The model in it, without adapters.
        layer: Path in the student of the layer at which the explanation begins; None for its input.
    """
    before = set() if layer is None else _before(student, layer)
    units = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for unit in units:
        if unit not in before:
            unit.set_reshard_after_forward(False, recurse=False)
            unit.set_reshard_after_backward(False, recurse=False)
    yield
    for unit in units:
        unit.reshard()


def _nothing() -> None:
    return None


def _embeddings(model: nn.Module) -> nn.Module | None:
    try:
        return getattr(model, "get_input_embeddings", _nothing)()
    except NotImplementedError:
        return None


def _blocks(model: nn.Module, embeddings: nn.Module | None) -> list[nn.Module]:
    """The blocks that transformers names for the model's family, but none around the embeddings."""
    named = getattr(model, "_no_split_modules", None) or ()
    blocks = [module for module in model.modules() if type(module).__name__ in named]
    return [block for block in blocks if embeddings not in block.modules()]


def _before(student: nn.Module, layer: str) -> set[nn.Module]:
    """The modules that are registered before a layer and don't contain it."""
    before = set()
    for name, module in student.named_modules():
        if name == layer:
            break
        if name and not layer.startswith(f"{name}."):
            before.add(module)
    return before
