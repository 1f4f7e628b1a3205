"""Image processors of models: that beside one, or one that shows images as another does."""

from dataclasses import replace
from typing import Any

from torch import nn
from transformers import (
    AutoImageProcessor,
    BitImageProcessor,
    DeiTImageProcessor,
    PreTrainedConfig,
    TimmWrapperForImageClassification,
    TimmWrapperImageProcessor,
    ViTImageProcessor,
)

from ..alignment.inputs import PIL_FILTERS, ImageView
from ..logs import get_logger
from ..models.bcos_base import BcosConfig

logger = get_logger(__name__)


def load_processor(source: str, config: PreTrainedConfig, **options: Any) -> Any:
    """Load the image processor beside a model; for a B-cos network without one, make that of such networks.

    Args:
        source: Hub id or folder of the model.
        config: Configuration of the model.
        options: Options of `from_pretrained`, such as `revision`.

    Raises:
        ValueError: there is none.
    """
    try:
        return AutoImageProcessor.from_pretrained(source, **options)
    except (OSError, ValueError, KeyError) as error:
        if isinstance(config, BcosConfig):
            logger.warning(f"'{source}' has no image processor: it is shown images as B-cos networks of ImageNet are.")
            return bcos_processor(config)
        raise no_processing_class(source, "image processor", error) from error


def no_processing_class(source: str, kind: str, problem: Exception | str) -> ValueError:
    """Make the error of a model whose image processor or tokenizer can't be loaded."""
    auto_class = {"tokenizer": "AutoTokenizer", "image processor": "AutoImageProcessor"}[kind]
    return ValueError(
        f"'{source}' has no {kind} that could be loaded ({' '.join(str(problem).split())[:200]}). Save the one that it "
        f"was trained with beside it: {auto_class}.from_pretrained(…).save_pretrained(…)."
    )


def bcos_processor(config: BcosConfig) -> BitImageProcessor:
    """Make the image processor of B-cos networks of ImageNet: RGB in [0, 1], not normalised, 224 of 256 pixels."""
    side = getattr(config, "image_size", 224)
    return BitImageProcessor(
        size={"shortest_edge": side * 256 // 224},
        crop_size={"height": side, "width": side},
        resample=2,
        do_normalize=False,
    )


def processor_like(view: ImageView, student: nn.Module) -> Any:
    """Make an image processor that shows a student the given view, in a form that is saved beside the student.

    Raises:
        ValueError: a student in timm's wrapper, and a crop of other proportions than the resized image's.
    """
    if isinstance(student, TimmWrapperForImageClassification):
        if view.resized is not None:
            raise ValueError(
                f"The teacher's processor crops {view} from an image resized to {view.resized}, and timm's crops one "
                "share of both sides: the student would see another part. Take a student of transformers, or give the "
                "teacher a processor whose crop has the resized image's proportions."
            )
        student.config.pretrained_cfg = view.timm_settings()
        return TimmWrapperImageProcessor(student.config.pretrained_cfg, architecture=student.config.architecture)
    if isinstance(student.config, BcosConfig):
        view = replace(view, mean=(0.0,) * 3, std=(1.0,) * 3)
    height, width = view.size
    settings = {
        "image_mean": list(view.mean),
        "image_std": list(view.std),
        "resample": PIL_FILTERS[view.interpolation.value],
    }
    if isinstance(view.resized, tuple):
        settings |= {"size": dict(zip(("height", "width"), view.resized, strict=True))}
        return DeiTImageProcessor(crop_size={"height": height, "width": width}, **settings)
    if view.resized is not None:
        settings |= {"size": {"shortest_edge": view.resized}}
        return BitImageProcessor(crop_size={"height": height, "width": width}, **settings)
    if not view.keeps_ratio and view.fraction == 1:
        return ViTImageProcessor(size={"height": height, "width": width}, **settings)
    if not view.keeps_ratio:
        return DeiTImageProcessor(
            size={"height": round(height / view.fraction), "width": round(width / view.fraction)},
            crop_size={"height": height, "width": width},
            **settings,
        )
    return BitImageProcessor(
        size={"shortest_edge": round(min(height, width) / view.fraction)},
        crop_size={"height": height, "width": width},
        **settings,
    )
