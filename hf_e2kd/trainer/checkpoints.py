"""What accelerate and transformers leave undone when a student is loaded or trained again."""

from copy import deepcopy
from pathlib import Path

from torch import nn
from transformers import PreTrainedModel
from transformers.utils import CONFIG_NAME


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
