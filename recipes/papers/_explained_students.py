"""Parts of XDistillation's recipe: the autoencoder's and the students' trainings, and what is measured of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed

from hf_e2kd import explain
from hf_e2kd.alignment import explanation_scale
from hf_e2kd.architectures import call_model
from hf_e2kd.experiments.diffroar import LabelledImages, accuracy
from hf_e2kd.experiments.distillation import replace_arguments
from hf_e2kd.explainers import GradCAM, GradientShap, Lime, Occlusion, SuperpixelExplainer
from hf_e2kd.metrics import explanation_mse, explanation_similarity, superpixel_overlap
from hf_e2kd.models import ExplanationAutoencoder, ExplanationAutoencoderConfig
from hf_e2kd.store import StoredReference
from hf_e2kd.trainer import ExplanationDistillTrainer
from hf_e2kd.trainer.arguments import ExplanationDistillArguments

BATCH_SIZE = 256
"""Images that are explained together."""

SLOW = ("lime", "occlusion")
"""Explainers that run a model tens of times an image, and explain the first test images alone."""

# Of the pixels of each image, for a picture; teacher and students are explained alike.
_LIME_SAMPLES, _PATCH = 64, 0.25


def explainers_of(background: Tensor, samples: int, superpixels: int) -> dict[str, SuperpixelExplainer]:
    """Make the explainers of the top class's probability.

    Args:
        background: Training images that SHAP compares with.
        samples: SHAP's random choices an image.
        superpixels: Superpixels of an image; occlusion's maps stay as they are.
    """
    methods = {
        "shap": (GradientShap(background, samples), superpixels),
        "gradcam": (GradCAM(), superpixels),
        "lime": (Lime(_LIME_SAMPLES, superpixels), superpixels),
        "occlusion": (Occlusion(_PATCH), None),
    }
    return {name: SuperpixelExplainer(method, count, "probability") for name, (method, count) in methods.items()}


def stored_maps(
    teacher: nn.Module, images: LabelledImages, explainer: SuperpixelExplainer, folder: Path, progress: bool
) -> dict[str, Tensor]:
    """Explain the teacher's top classes once, into a store, and read what is there: `map`, `logits`, `target`."""
    store = StoredReference.build(
        teacher, images, folder, explainer=explainer, dtype="float32", batch_size=BATCH_SIZE, progress=progress
    )
    rows = store.attach(images).__getitems__(range(len(images)))
    return {name: torch.stack([row[f"reference_{name}"] for row in rows]) for name in ("map", "logits", "target")}


def own_maps(model: nn.Module, images: LabelledImages, target: Tensor, explainer: SuperpixelExplainer) -> Tensor:
    """Explain a model's probability of given classes (N,): maps (N, H, W)."""
    device = next(model.parameters()).device
    parts = zip(images.pixel_values.split(BATCH_SIZE), target.split(BATCH_SIZE), strict=True)
    found = [explain(model, pixels.to(device), method=explainer, target=own.to(device)) for pixels, own in parts]
    return torch.cat([each.maps.cpu() for each in found])


@torch.no_grad()
def predict(model: nn.Module, images: LabelledImages) -> Tensor:
    """The classes (N,) that a model decides for."""
    device = next(model.parameters()).device
    parts = images.pixel_values.split(BATCH_SIZE)
    return torch.cat([call_model(model, {"pixel_values": part.to(device)}).argmax(1).cpu() for part in parts])


def compare(
    maps: Mapping[str, Tensor],
    teacher_maps: Mapping[str, Tensor],
    superpixels: Tensor,
    own: Tensor,
    theirs: Tensor,
    labels: Tensor,
) -> dict[str, float]:
    """Compare a student with the teacher: the MSE where both decide alike, the overlap where both are right.

    Args:
        maps, teacher_maps: Maps by explainer, of all images or of the first; superpixel maps, but of occlusion, whose
            maps are compared by their cosine.
        superpixels: Superpixel (N, H, W) of each pixel.
        own, theirs, labels: Decisions of both, and the truth, (N,).
    """
    figures = {"accuracy": (own == labels).double().mean().item(), "agreement": (own == theirs).double().mean().item()}
    for name, found in maps.items():
        count, wanted = len(found), teacher_maps[name]
        alike = (own == theirs)[:count]
        if name == "occlusion":
            values, valid = explanation_similarity(found[alike], wanted[alike])
            figures["occlusion_similarity"] = values[valid].mean().item()
            continue
        errors = explanation_mse(found, wanted, alike).nanmean().item()
        size = wanted[alike].square().mean().item()
        right = alike & (own == labels)[:count]
        sums = [sums_of(each, superpixels[:count]) for each in (found, wanted)]
        overlaps = superpixel_overlap(sums[0], sums[1], counted=right).nanmean().item()
        figures |= {f"{name}_mse": errors, f"{name}_overlap": overlaps}
        figures |= {f"{name}_error": errors / size} if size > 0 else {}
    # Undefined where no sample counts.
    return {name: value for name, value in figures.items() if value == value}


def sums_of(maps: Tensor, superpixels: Tensor) -> Tensor:
    """The sums (N, K) of superpixel maps, each pixel of which carries its superpixel's."""
    sums = maps.new_zeros(len(maps), int(superpixels.max()) + 1)
    return sums.scatter(1, superpixels.flatten(1), maps.flatten(1))


def train_autoencoder(
    images: LabelledImages, maps: Tensor, args: ExplanationDistillArguments, epochs: float, **settings: Any
) -> ExplanationAutoencoder:
    """Train an autoencoder from images to the teacher's maps: mean absolute error, Adam with a rate of 1e-3.

    Args:
        images, maps: Training images, and the teacher's maps (N, H, W) of them.
        args: The students' arguments.
        epochs: Number of epochs.
        settings: Of its configuration.
    """
    scale = explanation_scale(maps)
    set_seed(args.seed)
    model = ExplanationAutoencoder(
        ExplanationAutoencoderConfig(image_size=images.pixel_values.shape[-1], scale=scale, **settings)
    )
    training = TrainingArguments(
        args.output_dir,
        num_train_epochs=epochs,
        max_steps=args.max_steps,
        per_device_train_batch_size=args.per_device_train_batch_size,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        logging_strategy="epoch",
        save_strategy="no",
        report_to="none",
        use_cpu=args.use_cpu,
        # accelerate knows one precision in a process.
        bf16=args.bf16,
        fp16=args.fp16,
        disable_tqdm=args.disable_tqdm,
        seed=args.seed,
    )
    Trainer(model, training, train_dataset=LabelledImages(images.pixel_values, maps / scale)).train()
    return model.eval()


class AccuracyByEpoch(TrainerCallback):
    """Accuracy on test images after each epoch (Fig. 8), for the picture alone: nothing is chosen by it."""

    def __init__(self, images: LabelledImages):
        self.images = images
        self.values: list[float] = []

    def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.values.append(accuracy(model, self.images))


def train_student(
    student: nn.Module,
    teacher: nn.Module,
    args: ExplanationDistillArguments,
    loss: Mapping[str, Any],
    train: Any,
    test: LabelledImages,
    processor: Any,
) -> tuple[nn.Module, list[float]]:
    """Train a student, and return it with its accuracy after each epoch.

    Args:
        loss: Arguments that make its loss.
    """
    curve = AccuracyByEpoch(test)
    trainer = ExplanationDistillTrainer(
        student,
        # The mean squared error is the teacher's loss alone.
        replace_arguments(args, **loss, task_loss="auto"),
        train_dataset=train,
        processing_class=processor,
        teacher_model=teacher,
        callbacks=[curve],
    )
    trainer.train()
    return trainer.student.eval(), curve.values
