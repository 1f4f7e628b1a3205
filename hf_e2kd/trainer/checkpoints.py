"""Students that are loaded or trained again: the parts that accelerate and transformers leave undone."""

from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel, Trainer
from transformers.utils import CONFIG_NAME

from .finite import DIVERGED, require_finite_weights
from .preemption import checkpoint_on_sigterm, last_checkpoint
from .sharding import name_blocks
from .stages import stage_was_started


class CheckpointsMixin(Trainer):
    """Resumes from the last finished checkpoint with all weights; trains a student that was prepared before."""

    model_wrapped: nn.Module
    _resumes_stages = False

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self._is_sharded() or not load_weights(self.model, resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        if self._is_sharded() or not load_weights(self.model, self.state.best_model_checkpoint):
            super()._load_best_model()

    def _is_sharded(self) -> bool:
        return self.is_deepspeed_enabled or self.is_fsdp_enabled

    def train(self, resume_from_checkpoint: str | bool | None = None, *arguments: Any, **keywords: Any) -> Any:
        self._resumes_stages = bool(resume_from_checkpoint)
        if resume_from_checkpoint is True:
            started = stage_was_started(self.args.output_dir)
            resume_from_checkpoint = last_checkpoint(self.args.output_dir) or (None if started else True)
        # An evaluation before the first training marks the model as prepared, with which Accelerate would not wrap it
        # for several processes any more, and each would train a student of its own.
        wrapped = getattr(self.model_wrapped, "_orig_mod", self.model_wrapped)
        replicated = self.accelerator.num_processes > 1 and not self._is_sharded()
        if replicated and self.model is not None and wrapped is self.model:
            forget_preparation(self.model)
            self.model_wrapped = self.model
        if self.is_fsdp_enabled and self.model is not None:
            name_blocks(self.student, self.accelerator.state.fsdp_plugin)
        with checkpoint_on_sigterm(self) if self.args.enable_jit_checkpoint else nullcontext():
            result = super().train(resume_from_checkpoint, *arguments, **keywords)
        require_finite_weights(self.model, "student", DIVERGED)
        return result


def load_weights(model: nn.Module, folder: str) -> bool:
    """Loads a saved model's weights into a student of transformers; False if this isn't that kind of checkpoint.

    `save_pretrained` writes some families' weights (ViT's among them) under the names of the first release, and the
    stock `Trainer`, which knows only today's names, leaves those layers as they are with no more than a warning.
    `from_pretrained` reads both.

    Raises:
        ValueError: the checkpoint lacks weights.
    """
    if not isinstance(model, PreTrainedModel) or not (Path(folder) / CONFIG_NAME).is_file():
        return False
    saved, report = type(model).from_pretrained(
        folder, config=deepcopy(model.config), dtype=model.dtype, output_loading_info=True
    )
    if report["missing_keys"]:
        raise ValueError(f"The checkpoint {folder} lacks the weights {sorted(report['missing_keys'])}.")
    model.load_state_dict(saved.state_dict())
    return True


def forget_preparation(model: nn.Module) -> None:
    """Takes away an earlier trainer's autocast and mark, with which Accelerate would leave the model as it is."""
    forward = vars(model).pop("_original_forward", None)
    if forward is not None:
        model.forward = forward
    vars(model).pop("_is_accelerate_prepared", None)
