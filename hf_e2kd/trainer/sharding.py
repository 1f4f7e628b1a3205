"""Students sharded by FSDP2, whose blocks stay gathered while an explanation is differentiated twice."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.distributed.fsdp import FSDPModule

from ..architectures.sharding import embedding_table, sharded_blocks


def name_blocks(student: nn.Module, plugin: Any) -> None:
    """Name the blocks of a student to shard, where the user left them to Accelerate.

    Accelerate shards the embedding table apart: a block around it, which some families name too, would shard it twice,
    and convolutional families of transformers have none and answer with an error.

    Args:
        plugin: Accelerate's `FullyShardedDataParallelPlugin`.
    """
    embeddings = embedding_table(student)
    if embeddings is None:
        student.get_input_embeddings = _no_embeddings
    if plugin.transformer_cls_names_to_wrap is None:
        blocks = sharded_blocks(student, embeddings)
        plugin.transformer_cls_names_to_wrap = sorted({type(block).__name__ for block in blocks})


def _no_embeddings() -> None:
    return None


@contextmanager
def gathered(model: nn.Module, student: nn.Module, layer: str | None) -> Iterator[None]:
    """Keep the modules between a layer and the logits gathered from the forward pass to the end of the step.

    The explanation's gradient goes back through these blocks before the loss's does. In between FSDP2 would free their
    parameters, and the second pass would read freed memory. All other blocks are gathered and freed as ever.

    Args:
        model: Model that is called; nothing is done unless it is sharded.
        student: The model in it, without wrappers or adapters.
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


def _before(student: nn.Module, layer: str) -> set[nn.Module]:
    """Return the modules that are registered before a layer and don't contain it."""
    before = set()
    for name, module in student.named_modules():
        if name == layer:
            break
        if name and not layer.startswith(f"{name}."):
            before.add(module)
    return before
