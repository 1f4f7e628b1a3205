"""One seed of XDistillation's recipe: a teacher, its stored explanations, autoencoders, students, pictures."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from _explained_students import (
    SLOW,
    compare,
    explainers_of,
    own_maps,
    predict,
    stored_maps,
    train_autoencoder,
    train_student,
)
from _xdistillation_figures import draw_representations, draw_students
from torch import Tensor
from transformers import AutoModel, AutoModelForImageClassification, set_seed

from hf_e2kd.alignment import slic_superpixels, stretched, superpixel_maps
from hf_e2kd.alignment.inputs import image_view
from hf_e2kd.alignment.superpixels import FEWEST
from hf_e2kd.data.images import label_names
from hf_e2kd.experiments.diffroar import LabelledImages, accuracy
from hf_e2kd.experiments.distillation import announce, replace_arguments, train_on_labels
from hf_e2kd.experiments.images import classifier_of
from hf_e2kd.experiments.models import load_weights
from hf_e2kd.experiments.shared_runs import share_runs
from hf_e2kd.explainers import SuperpixelExplainer
from hf_e2kd.metrics import explanation_mse
from hf_e2kd.models import XDistillationConfig, XDistillationForImageClassification
from hf_e2kd.trainer.arguments import ExplanationDistillArguments
from hf_e2kd.viewer.blind_test import write_blind_test

TEACHER, PIXELS = "teacher", "autoencoder of pixels"
_SHOWN, _JUDGED = 8, 30


@dataclass
class Plan:
    """A student's training.

    Args:
        loss: Training arguments that make its loss.
        reads: True of a student that reads an autoencoder's explanation.
        superpixels: Superpixels of what that approximates; None for the explanation's pixels.
    """

    loss: dict[str, Any]
    reads: bool = False
    superpixels: int | None = None

    @property
    def autoencoder(self) -> str | None:
        """Name of the autoencoder that the student reads."""
        named = PIXELS if self.superpixels is None else f"autoencoder of {self.superpixels} superpixels"
        return named if self.reads else None


class Study:
    """One seed's models and figures, in one folder.

    Args:
        options, setting: The recipe's options, and its networks.
        plans: Students by name.
        args: Training arguments, with the seed.
        splits: Data sets `train` and `test`, as the networks take them.
        processor: Their image processor.
        folder: Folder of models, stores, results and pictures.
        key: Digest of the settings.
    """

    def __init__(
        self,
        options: Any,
        setting: Any,
        plans: dict[str, Plan],
        args: ExplanationDistillArguments,
        splits: dict[str, Any],
        processor: Any,
        folder: Path,
        key: str,
    ):
        self.options, self.setting, self.plans, self.args = options, setting, plans, args
        self.processor, self.folder, self.key = processor, folder, key
        self.names = label_names(splits["train"]) or []
        # In memory: nothing is augmented.
        self.train = LabelledImages.of(splits["train"])
        self.test = LabelledImages.of(splits["test"])
        self.some = LabelledImages(*(part[: options.explained_images] for part in vars(self.test).values()))
        drawn = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(args.seed))
        background = self.train.pixel_values[drawn[: options.background]]
        self.explainers = explainers_of(background, options.shap_samples, options.superpixels)
        self.superpixels = slic_superpixels(stretched(self.test.pixel_values), options.superpixels)

    def run(self) -> dict[str, dict[str, Any]]:
        """Train and measure what isn't there yet; the figures of teacher and students."""
        autoencoders = list(dict.fromkeys(plan.autoencoder for plan in self.plans.values() if plan.autoencoder))
        found: dict[str, dict[str, Any]] = {}
        # Each needs those before it, which are waited for where another process trains them.
        for several in ([TEACHER], autoencoders, list(self.plans)):
            found |= share_runs(self.folder / "runs", several, self.key, self.run_one)
        approximated = found[autoencoders[0]] if autoencoders else {}
        return {TEACHER: {"test": {**found[TEACHER]["test"], **approximated}}} | {
            name: found[name] for name in self.plans
        }

    def run_one(self, name: str) -> dict[str, Any]:
        """Train a model, save it, and return its figures."""
        announce(self.args, f"Seed {self.args.seed}: training {name}")
        if name == TEACHER:
            return self.teach()
        return self.distil(name) if name in self.plans else self.approximate(name)

    def teach(self) -> dict[str, Any]:
        """Train the teacher, from other weights than the students'."""
        set_seed(self.args.seed + 1000)
        network = classifier_of(self.setting.teacher, self.names)
        epochs = self.options.teacher_epochs
        args = self.args if epochs is None else replace_arguments(self.args, num_train_epochs=epochs)
        model = train_on_labels(network, args, self.train, self.processor)
        model.save_pretrained(self.path(TEACHER))
        # Loaded, because mixed precision leaves its autocast in a trained model's forward.
        model = self.load(TEACHER)
        return {"test": {"accuracy": accuracy(model, self.test), "parameters": float(model.num_parameters())}}

    def approximate(self, name: str) -> dict[str, Any]:
        """Train an autoencoder; its error beside that of zeros, the mean squared map."""
        count = next(plan.superpixels for plan in self.plans.values() if plan.autoencoder == name)
        explainer = SuperpixelExplainer(self.explainers["shap"].method, count, "probability")
        wanted, taught = (
            self.stored(images, explainer, f"{split} shap {count}")["map"]
            for split, images in (("train", self.train), ("test", self.test))
        )
        settings = {"size": self.setting.autoencoder, "id2label": self.teacher.config.id2label}
        epochs = self.options.autoencoder_epochs
        model = train_autoencoder(self.train, wanted, self.args, epochs, **settings)
        model.save_pretrained(self.path(name))
        own = self.approximations(self.load(name, AutoModel), self.test)
        error = explanation_mse(own, taught).mean().item()
        return {"autoencoder_mse": error, "zero_mse": taught.square().mean().item()}

    def distil(self, name: str) -> dict[str, Any]:
        """Train a student, and compare it with the teacher."""
        plan = self.plans[name]
        set_seed(self.args.seed)
        student: Any = classifier_of(self.setting.student, self.names)
        if plan.autoencoder is not None:
            autoencoder = self.load(plan.autoencoder, AutoModel)
            student = XDistillationForImageClassification.from_parts(student, autoencoder.cpu())
        student, curve = train_student(
            student, self.teacher, self.args, plan.loss, self.train, self.test, self.processor
        )
        student.save_pretrained(self.path(name))
        student = self.load(name)  # as in `teach`
        found = {}
        for explainer in self.explainers:
            images, taught = self.images_of(explainer), self.taught[explainer]
            found[explainer] = own_maps(student, images, taught["target"], self.explainers[explainer])
        maps = {explainer: taught["map"] for explainer, taught in self.taught.items()}
        theirs = self.taught["shap"]["target"]
        figures = compare(found, maps, self.superpixels, predict(student, self.test), theirs, self.test.labels)
        return {"test": {**figures, "parameters": float(student.num_parameters())}, "accuracy_by_epoch": curve}

    def export_code(self) -> None:
        """Save the code of the students that read explanations beside their weights, finished ones' too."""
        XDistillationConfig.register_for_auto_class()
        XDistillationForImageClassification.register_for_auto_class("AutoModelForImageClassification")
        for name, plan in self.plans.items():
            if plan.reads:
                self.load(name).save_pretrained(self.path(name))

    # ---- What is there -------------------------------------------------------------------------------------------

    def path(self, name: str) -> Path:
        """Folder of a trained model."""
        return self.folder / "models" / name

    def load(self, name: str, kind: Any = AutoModelForImageClassification) -> Any:
        """Load a trained model."""
        return load_weights(kind, str(self.path(name))).to(self.args.device).eval()

    def images_of(self, explainer: str) -> LabelledImages:
        """Test images that an explainer explains."""
        return self.some if explainer in SLOW else self.test

    def approximations(self, autoencoder: Any, images: LabelledImages) -> Tensor:
        """An autoencoder's maps (N, H, W)."""
        with torch.no_grad():
            parts = images.pixel_values.split(500)
            return torch.cat([autoencoder.approximate_explanation(part.to(autoencoder.device)).cpu() for part in parts])

    @cached_property
    def teacher(self) -> Any:
        """The trained teacher."""
        return self.load(TEACHER)

    def stored(self, images: LabelledImages, explainer: SuperpixelExplainer, name: str) -> dict[str, Tensor]:
        """The teacher's maps of some images, from a store by that name."""
        folder = self.folder / "explanations" / name
        return stored_maps(self.teacher, images, explainer, folder, progress=not self.args.disable_tqdm)

    @cached_property
    def taught(self) -> dict[str, dict[str, Tensor]]:
        """The teacher's stored maps of test images, its classes and logits, by explainer."""
        return {name: self.stored(self.images_of(name), explainer, name) for name, explainer in self.explainers.items()}

    # ---- Pictures ------------------------------------------------------------------------------------------------

    def draw(self) -> None:
        """Draw what the autoencoders learn (Figs. 3, 5, 6 and 7), and where students look (Figs. 9 to 11)."""
        first = LabelledImages(*(part[:_SHOWN] for part in vars(self.some).values()))
        shown = image_view(self.processor).intensities(first.pixel_values).clamp(0, 1)
        shap = SuperpixelExplainer(self.explainers["shap"].method, None, "probability")
        target = self.taught["shap"]["target"][: len(first)]
        maps = own_maps(self.teacher, first, target, shap)
        rows = {"SHAP": maps}
        cuts = {
            count: slic_superpixels(stretched(first.pixel_values), count)
            for count in (FEWEST, self.options.superpixels)
        }
        rows |= {f"its sums, k = {count}": superpixel_maps(maps, parts) for count, parts in cuts.items()}
        for name in dict.fromkeys(plan.autoencoder for plan in self.plans.values() if plan.autoencoder):
            rows[name] = self.approximations(self.load(name, AutoModel), first)
        draw_representations(shown, cuts[self.options.superpixels], rows, self.folder / "representations.png")
        compared = [name for name in ("KD", "e²KD", "XDistillation") if name in self.plans]
        models = {TEACHER: self.teacher, **{name: self.load(name) for name in compared}}
        titles = dict(zip(self.explainers, ("SHAP", "GradCAM", "LIME", "occlusion"), strict=True))
        found = {
            titles[explainer]: {name: own_maps(model, first, target, each) for name, model in models.items()}
            for explainer, each in self.explainers.items()
        }
        draw_students(shown, found, self.folder / "students.png")
        if {"KD", "XDistillation"} <= set(self.plans):
            self.write_blind_test()

    def write_blind_test(self) -> None:
        """Write the page on which people say whose occlusion maps are more like the teacher's (Fig. 10)."""
        target = self.taught["occlusion"]["target"]
        models = {name: self.load(name) for name in ("KD", "XDistillation")}
        right = target == self.some.labels
        for model in models.values():
            right &= predict(model, self.some) == target
        chosen = right.nonzero().flatten()[:_JUDGED]
        if len(chosen) == 0:
            return
        images = LabelledImages(*(part[chosen] for part in vars(self.some).values()))
        explainer = self.explainers["occlusion"]
        maps = {name: own_maps(model, images, target[chosen], explainer) for name, model in models.items()}
        shown = image_view(self.processor).intensities(images.pixel_values).clamp(0, 1)
        reference = self.taught["occlusion"]["map"][chosen]
        write_blind_test(self.folder / "blind_test", shown, maps, reference=reference, seed=self.args.seed)
