"""Checks before training: set-ups in which an explanation's gradient would be wrong or missing are refused."""

from collections.abc import Sequence
from typing import Any

from accelerate import Accelerator
from accelerate.utils import DistributedType

from ..explainers import Explainer


def refuse_unsupported(
    accelerator: Accelerator,
    args: Any,
    explainers: Sequence[Explainer] = (),
    shards_teacher: bool = False,
    taps: Sequence[str] = (),
) -> None:
    """Refuse ways of training in which the gradient of an explanation would be wrong or missing.

    Args:
        accelerator: The trainer's `Accelerator`.
        args: Training arguments.
        explainers: Explainers of the student; empty where nothing is explained in training.
        shards_teacher: True where a teacher is to be sharded.
        taps: Paths of the student's layers that terms read.

    Raises:
        ValueError: DataParallel, FSDP1, ZeRO-3, FSDP2 with what it can't be combined with, a sharded teacher without
            FSDP2, a static DDP graph, or activation checkpointing that is reentrant or compiled.
    """
    if args.n_gpu > 1:
        raise ValueError(
            f"{args.n_gpu} GPUs in one process mean DataParallel, whose replicas' explanations lose their gradients. "
            "Start one process a GPU with `accelerate launch`, or show one GPU by CUDA_VISIBLE_DEVICES."
        )
    if args.ddp_static_graph:
        raise ValueError(
            "ddp_static_graph=True silently skips the all-reduce of an explanation's gradients. Leave it unset."
        )
    if accelerator.distributed_type == DistributedType.FSDP and accelerator.state.fsdp_plugin.fsdp_version == 1:
        raise ValueError("FSDP1 can't differentiate an explanation. Set fsdp_version: 2 in the accelerate config.")
    if accelerator.distributed_type == DistributedType.FSDP and accelerator.state.fsdp_plugin.cpu_ram_efficient_loading:
        raise ValueError(
            "fsdp_cpu_ram_efficient_loading leaves a teacher without weights on all ranks but the first. Set it to "
            "false in the accelerate config."
        )
    if accelerator.distributed_type == DistributedType.FSDP and explainers:
        if args.torch_compile:
            raise ValueError(
                "torch_compile can't see an explanation that crosses FSDP2's blocks. Train without torch_compile, or "
                "with DDP."
            )
        if accelerator.state.fsdp_plugin.activation_checkpointing:
            raise ValueError(
                "fsdp_activation_checkpointing wraps the layers in which the explanation is read. Leave it out of the "
                "accelerate config and set the argument activation_checkpointing=True, with "
                "attn_implementation='eager'."
            )
    sharded = (DistributedType.FSDP, DistributedType.DEEPSPEED)
    if taps and accelerator.distributed_type in sharded:
        raise ValueError(
            f"Terms that compare features read the student's layers {', '.join(taps)}, which FSDP and DeepSpeed shard. "
            "Train with DDP or in one process."
        )
    if shards_teacher and accelerator.distributed_type != DistributedType.FSDP:
        raise ValueError(
            f"A teacher is sharded (shard=True) by FSDP2, and this training's type is "
            f"{accelerator.distributed_type.value}. Start it by `accelerate launch` with distributed_type: FSDP and "
            "fsdp_version: 2, or leave shard=False."
        )
    plugin = accelerator.state.deepspeed_plugin if accelerator.distributed_type == DistributedType.DEEPSPEED else None
    if plugin is not None and plugin.zero_stage == 3:
        raise ValueError("ZeRO-3 shards the student's head between its two derivatives. Use ZeRO-2 or FSDP2.")
    # transformers 5.23 renamed it.
    checkpointing = (
        "activation_checkpointing" if hasattr(args, "activation_checkpointing") else "gradient_checkpointing"
    )
    if getattr(args, checkpointing) and args.torch_compile and explainers:
        raise ValueError(
            "A compiled explanation can't be differentiated through layers that are computed again. Set either "
            f"torch_compile or {checkpointing} to False."
        )
    if getattr(args, checkpointing) and (getattr(args, f"{checkpointing}_kwargs") or {}).get("use_reentrant"):
        raise ValueError(
            "Reentrant activation checkpointing can't be differentiated twice. Set "
            f'{checkpointing}_kwargs={{"use_reentrant": False}}.'
        )
