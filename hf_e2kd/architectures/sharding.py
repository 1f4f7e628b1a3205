"""Models sharded by FSDP2: detection, frozen teachers, whole copies."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel


def is_sharded(model: nn.Module) -> bool:
    """Tell whether FSDP2 gathers and frees parameters of this model, so that `torch.func` can't run its modules."""
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


def shard_frozen(model: nn.Module, device: torch.device) -> None:
    """Leave each process a share of a frozen model's blocks; a second call changes nothing.

    All processes must call it, and from then on call the model equally often. The blocks are those which transformers
    names for the family; a model of none is gathered as a whole while it runs.
    """
    if is_sharded(model):
        return
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    # Inner blocks come before those that hold them.
    for block in reversed(sharded_blocks(model, embedding_table(model))):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


@contextmanager
def root_gathered(model: nn.Module) -> Iterator[None]:
    """Keep what no block of a sharded model holds, such as its word embeddings, readable outside its own forward."""
    if isinstance(model, FSDPModule):
        model.unshard()
    try:
        yield
    finally:
        if isinstance(model, FSDPModule):
            model.reshard()


@contextmanager
def blocks_gathered(model: nn.Module, blocks: Mapping[str, nn.Module]) -> Iterator[None]:
    """Gather blocks of a sharded model whose weights are read outside their own forward.

    Within a training step they stay gathered: FSDP2 reduces their gradients and frees them at the end of the backward
    pass. Elsewhere they are freed again, as is what no block holds.

    Args:
        blocks: The blocks by their paths.
    """
    units = [block for block in blocks.values() if isinstance(block, FSDPModule)]
    if isinstance(model, FSDPModule):
        # Its first forward does this; without it, the first block that is called would take itself for the whole.
        model._get_fsdp_state()._lazy_init()
    for unit in units:
        unit.unshard()
    if torch.is_grad_enabled():
        yield
        return
    try:
        with root_gathered(model):
            yield
    finally:
        for unit in units:
            unit.reshard()


def _nothing() -> None:
    return None


def embedding_table(model: nn.Module) -> nn.Module | None:
    try:
        return getattr(model, "get_input_embeddings", _nothing)()
    except NotImplementedError:
        return None


def sharded_blocks(model: nn.Module, embeddings: nn.Module | None) -> list[nn.Module]:
    """The blocks that transformers names for the model's family, but none around the embeddings."""
    named = getattr(model, "_no_split_modules", None) or ()
    blocks = [module for module in model.modules() if type(module).__name__ in named]
    return [block for block in blocks if embeddings not in block.modules()]
