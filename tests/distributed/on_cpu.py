"""FSDP2 and DeepSpeed without a GPU: Accelerate starts them on accelerators alone, both run over gloo as well."""

from typing import Any

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType


def shard_on_cpu() -> None:
    """Lets Accelerate take processes on the CPU for such as FSDP2 can shard."""
    initialise = AcceleratorState.__init__

    def initialise_sharded(self: AcceleratorState, *arguments: Any, fsdp_plugin: Any = None, **keywords: Any) -> None:
        initialise(self, *arguments, fsdp_plugin=fsdp_plugin, **keywords)
        if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
            PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    AcceleratorState.__init__ = initialise_sharded


def deepspeed_on_cpu() -> None:
    """Lets Accelerate count processes on the CPU that it is told to start DeepSpeed in."""
    initialise = PartialState.__init__

    def initialise_on_cpu(self: PartialState, cpu: bool = False, **keywords: Any) -> None:
        initialise(self, cpu=True, **keywords)

    PartialState.__init__ = initialise_on_cpu
