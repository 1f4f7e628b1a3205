# /// script
# requires-python = ">=3.10"
# dependencies = ["hf-e2kd"]
# [tool.uv.sources]
# hf-e2kd = { path = "../..", editable = true }
# ///
"""Test whether explanations move with the image: diagonal shifts of 0 to 16 pixels, for a teacher and its students.

The explanation of the shifted image is compared with that of the image itself, by the cosine over the part that both
show. A network that cuts images in patches of 16 pixels finds them as they were at 16 pixels again.

    python recipes/papers/shift_equivariance.py --dataset imagenet --models teacher=outputs/densenet169 \\
        KD=outputs/distill_imagenet/student-kd e2KD=outputs/distill_imagenet/student
    python recipes/papers/shift_equivariance.py --dataset imagenet --models WinKawaks/vit-tiny-patch16-224 \\
        --explainers attention_rollout
    python recipes/papers/shift_equivariance.py --smoke
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from _common import SMOKE_SIDE, find_images, smoke_bcos, smoke_processor
from _generated import WNIDS, write_imagenet
from matplotlib.figure import Figure
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as TF
from transformers import (
    HfArgumentParser,
    set_seed,
)

from hf_e2kd.alignment.grids import resize_maps
from hf_e2kd.alignment.inputs import ImageView, image_view
from hf_e2kd.data.images import without_undecodable
from hf_e2kd.data.opening import as_rgb
from hf_e2kd.experiments.command_line import command_line, run_recipe
from hf_e2kd.experiments.models import label_settings
from hf_e2kd.experiments.results import describe_machine, write_results
from hf_e2kd.experiments.sources import load_classifier
from hf_e2kd.explainers import Explainer, Explanation, build_explainer
from hf_e2kd.models import BcosViTConfig, BcosViTForImageClassification


@dataclass
class ShiftArguments:
    """Options of the models, the images and the shifts."""

    models: list[str] = field(
        default_factory=list,
        metadata={"help": "Any number of models, as NAME=PATH or PATH: Hub ids or folders, with their processors."},
    )
    explainers: list[str] = field(
        default_factory=lambda: ["auto"],
        metadata={
            "help": "How they are explained, once for all or once for each: auto (bcos for B-cos networks, otherwise "
            "gradcam), gradcam, bcos, attention_rollout, attention_gradient, ..."
        },
    )
    dataset: str | None = field(
        default=None, metadata={"help": "Images: the folder of ImageNet or SUN397, a folder of images, or a Hub id."}
    )
    split: str = field(default="validation", metadata={"help": "Their split."})
    image_column: str = field(default="image", metadata={"help": "The column of the images."})
    skip_undecodable: bool = field(
        default=False, metadata={"help": "Leave images out that can't be decoded, with a warning that names them."}
    )
    samples: int = field(default=500, metadata={"help": "How many images, drawn by the seed."})
    max_shift: int = field(default=16, metadata={"help": "The largest shift, down and to the right, in pixels."})
    batch_size: int = field(default=32, metadata={"help": "Images at once."})
    seed: int = field(default=42, metadata={"help": "Draws the images."})
    use_cpu: bool = field(default=False, metadata={"help": "Leave an accelerator unused."})
    output_dir: str = field(default="outputs/shift_equivariance", metadata={"help": "Where the results go."})
    smoke: bool = field(
        default=False, metadata={"help": "Try everything out in seconds, by tiny models on images made for it."}
    )

    def __post_init__(self) -> None:
        if not self.smoke and not (self.models and self.dataset):
            raise ValueError("Give --models and --dataset, or --smoke to try the recipe out without any data.")
        if len(self.explainers) not in (1, len(self.models)):
            raise ValueError(
                f"--explainers names {len(self.explainers)} for {len(self.models)} models. Give one, or one a model."
            )
        for name, least in (("max_shift", 0), ("samples", 1), ("batch_size", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name} must be at least {least}, not {getattr(self, name)}.")


def run_shift_test(description: str) -> dict[str, Any]:
    """Explain shifted images, and write `shifts.json` and `shifts.png`.

    Args:
        description: Text of `--help`.

    Returns:
        The content of `shifts.json`.
    """
    parser = HfArgumentParser(ShiftArguments, description=description)
    try:
        (args,) = parser.parse_args_into_dataclasses(command_line(ShiftArguments))
    except ValueError as error:
        parser.error(str(error))
    set_seed(args.seed)
    output = Path(args.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    if args.smoke:
        _prepare_smoke(args, output)
    splits = find_images(args.dataset)
    if args.split not in splits:
        raise ValueError(f"'{args.dataset}' has no split '{args.split}'. Its splits: {', '.join(splits)}.")
    data = splits[args.split].shuffle(seed=args.seed)
    data = data.select(range(min(args.samples, len(data))))
    if args.skip_undecodable:
        data = without_undecodable(data, args.image_column)
    device = torch.device("cuda" if torch.cuda.is_available() and not args.use_cpu else "cpu")
    methods = args.explainers if len(args.explainers) > 1 else args.explainers * len(args.models)
    models: dict[str, dict[str, Any]] = {}
    for source, method in zip(args.models, methods, strict=True):
        name, path = named_source(source)
        if name in models:
            raise ValueError(f"Two models are called '{name}'. Name them, as in --models first={path} second=...")
        print(f"\nExplaining {name}", flush=True)
        loaded = load_classifier(path)
        model = loaded.model.to(device).eval()
        explainer = explainer_for(model, method)
        view = image_view(loaded.processing_class)
        similarities = torch.cat(
            [
                shifted_similarities(
                    model, data[first : first + args.batch_size][args.image_column], view, explainer, args.max_shift
                )
                for first in range(0, len(data), args.batch_size)
            ]
        )
        models[name] = {"source": path, "explainer": explainer.name, **summarise_shifts(similarities)}
    results = {
        "recipe": "shift_equivariance",
        "dataset": args.dataset,
        "split": args.split,
        "seed": args.seed,
        **describe_machine(device),
        "shifts": list(range(args.max_shift + 1)),
        "models": models,
    }
    write_results(results, output, "shifts.json")
    shift_figure(results["shifts"], {name: found["mean"] for name, found in models.items()}, output / "shifts.png")
    print(f"\n{shift_table(results['shifts'], models)}\n\nIn {output}: shifts.json, shifts.png")
    return results


def named_source(source: str) -> tuple[str, str]:
    """Divide NAME=PATH; a path without a name, which may hold "=" itself, is called as its last part.

    Example:
        >>> named_source("KD=models/KD_alpha=0.1-42"), named_source("facebook/deit-tiny-patch16-224")
        (('KD', 'models/KD_alpha=0.1-42'), ('deit-tiny-patch16-224', 'facebook/deit-tiny-patch16-224'))
    """
    name, given, path = source.partition("=")
    return (name, path) if given and not Path(source).exists() else (Path(source).name, source)


def explainer_for(model: nn.Module, method: str) -> Explainer:
    """Build the explainer of that name; "auto" is a B-cos network's own explanation, and GradCAM of others."""
    if method == "auto":
        method = "bcos" if hasattr(model, "add_inverse") else "gradcam"
    return build_explainer(method)


def shifted_similarities(
    model: nn.Module, images: Sequence[Image.Image], view: ImageView, explainer: Explainer, max_shift: int
) -> torch.Tensor:
    """Compare the explanations of an image and of the shifted image, where both show the same.

    Each image is made larger than the model's input by `max_shift` pixels, and the input cut from it at (s, s) for each
    shift s. The class is the model's top one at shift 0. Maps are compared in pixels of the input; where the method
    explains by vectors (W(x)), these.

    Args:
        model: Classifier in evaluation mode.
        images: B images.
        view: View of the model.
        explainer: Its explainer.
        max_shift: Largest shift in pixels.

    Returns:
        Cosines (B, max_shift + 1); NaN where nothing is explained in the part that both show.
    """
    device = next(model.parameters()).device
    height, width = view.size
    larger = torch.stack([_enlarged(image, view, max_shift) for image in images]).to(device)
    values, target, original = [], None, torch.empty(0)
    for shift in range(max_shift + 1):
        shown = larger[..., shift : shift + height, shift : shift + width]
        explanation = explainer(model, {"pixel_values": shown}, target)
        own = in_pixels(explanation, view.size)
        if target is None:
            target, original = explanation.target, own
        before = original[..., shift:, shift:].flatten(1)
        after = own[..., : height - shift, : width - shift].flatten(1)
        cosine = F.cosine_similarity(before, after, dim=1, eps=1e-30)
        values.append(cosine.where(before.any(1), torch.nan))
    return torch.stack(values, 1).cpu()


def in_pixels(explanation: Explanation, size: tuple[int, int]) -> torch.Tensor:
    """Enlarge maps (B, H, W), or vectors (B, C, H, W), in double precision, so that equal ones have a cosine of 1."""
    values = explanation.maps if explanation.vectors is None else explanation.vectors
    return resize_maps(values.double(), size)


def summarise_shifts(similarities: torch.Tensor) -> dict[str, Any]:
    """Summarise similarities at each shift by mean and standard deviation over the images that have an explanation."""
    counted = similarities[~similarities.isnan().any(1)]
    if len(counted) == 0:
        raise ValueError("No image has an explanation that isn't zero, so that there is nothing to compare.")
    return {
        "images": len(counted),
        "unexplained": len(similarities) - len(counted),
        "mean": counted.mean(0).tolist(),
        "std": counted.std(0, correction=0).tolist(),
    }


def shift_table(shifts: Sequence[int], models: Mapping[str, Mapping[str, Any]]) -> str:
    """Write the means at one pixel and at every fourth shift, one row a model."""
    shown = [place for place, shift in enumerate(shifts) if shift and (shift % 4 == 0 or shift in (1, shifts[-1]))]
    lines = [
        f"| model | explainer | {' | '.join(f'{shifts[place]} px' for place in shown)} |",
        f"|---|---|{'---|' * len(shown)}",
    ]
    for name, found in models.items():
        cells = " | ".join(f"{found['mean'][place]:.3f}" for place in shown)
        lines.append(f"| {name} | {found['explainer']} | {cells} |")
    return "\n".join(lines)


def shift_figure(shifts: Sequence[int], curves: Mapping[str, Sequence[float]], path: Path | None = None) -> Figure:
    """Draw one curve a model: the mean similarity over the shift."""
    figure = Figure(figsize=(5, 3.6), layout="constrained")
    axis = figure.subplots()
    for (name, curve), marker in zip(curves.items(), "osD^vP*X<>" * (1 + len(curves) // 10), strict=False):
        axis.plot(shifts, curve, marker=marker, markersize=4, linewidth=1.2, label=name)
    axis.set(xlabel="shift, down and to the right (pixels)", ylabel="cosine of the explanations")
    axis.grid(alpha=0.3)
    figure.legend(loc="outside upper center", ncols=3, fontsize=8)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _enlarged(image: Image.Image, view: ImageView, margin: int) -> torch.Tensor:
    """Make the field of view (3, H + margin, W + margin), as the model takes it."""
    top, left, height, width = view.crop_box(image.height, image.width)
    size = [view.size[0] + margin, view.size[1] + margin]
    resized = TF.resized_crop(as_rgb(image), top, left, height, width, size, view.interpolation)
    return view.normalise(TF.to_dtype(TF.pil_to_tensor(resized), torch.float32, scale=True))


def _prepare_smoke(args: ShiftArguments, output: Path) -> None:
    """Write images, and a tiny B-cos ResNet and ViT, which differ in what a shift does to them."""
    folder = output / "generated"
    args.dataset = str(write_imagenet(folder / "imagenet"))
    names = list(WNIDS)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = BcosViTConfig(image_size=SMOKE_SIDE, patch_size=16, **sizes, **label_settings(names, len(names)))
    args.models = []
    for name, model in {"resnet": smoke_bcos(names), "vit": BcosViTForImageClassification(config)}.items():
        model.save_pretrained(folder / name)
        smoke_processor(is_bcos=True).save_pretrained(folder / name)
        args.models.append(f"{name}={folder / name}")


if __name__ == "__main__":
    run_recipe(run_shift_test, __doc__)
