"""Annotated images, classifiers of them, and the depth at which these are explained."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from _common import channels_last, load_published
from _shapes import write_coco, write_voc
from datasets import Dataset, DatasetDict
from matplotlib.patches import Rectangle
from torch import nn
from torchvision.transforms import v2
from transformers import PreTrainedConfig

from hf_e2kd.alignment.inputs import ImageView, image_view
from hf_e2kd.alignment.labels import is_multi_label
from hf_e2kd.architectures import call_model, grid_of
from hf_e2kd.architectures.base import evaluating
from hf_e2kd.cards.plots import explanation_panel
from hf_e2kd.data import DistillationTransform, load_coco, load_voc
from hf_e2kd.data.voc import CLASSES
from hf_e2kd.experiments.images import classifier_of
from hf_e2kd.experiments.models import create_student, keep_classes, load_teacher
from hf_e2kd.experiments.processors import load_processor, processor_like
from hf_e2kd.explainers import Explainer, GradCAM, build_explainer
from hf_e2kd.trainer.arguments import ExplanationDistillArguments

LAYER_OPTIONS = {"gradcam": "target_layer", "input_x_gradient": "layer", "bcos": "layer"}
"""Explainers whose depth can be chosen, with their name for it."""

BOX_COLOUR = "#ff3030"


@dataclass
class AnnotatedSource:
    """Options of the images."""

    data: str | None = field(default=None, metadata={"help": "Folder of the data."})
    smoke: bool = field(
        default=False, metadata={"help": "Try the recipe in seconds: drawn shapes in the data's layout, tiny models."}
    )
    difficult: bool = field(
        default=False, metadata={"help": "Keep regions that the source's own scoring leaves out, as crowds."}
    )
    skip_undecodable: bool = field(
        default=False, metadata={"help": "Leave images out that can't be decoded, with a warning that names them."}
    )
    held_out: float = field(
        default=0.1,
        metadata={
            "help": "Without a test split, the validation split is the test, and this share of the training "
            "split, drawn by the seed, selects the models."
        },
    )

    def load(self) -> DatasetDict:
        """Load the splits `train` and `validation`, and `test` where there is one."""
        raise NotImplementedError

    def write_shapes(self, folder: Path) -> None:
        """Write drawn shapes in the data's layout."""
        raise NotImplementedError

    def __post_init__(self) -> None:
        if not 0 < self.held_out < 1:
            raise ValueError(f"--held_out must lie in (0, 1), not {self.held_out}.")


@dataclass
class VocSource(AnnotatedSource):
    """PASCAL VOC."""

    data: str | None = field(default=None, metadata={"help": "The folder VOCdevkit, or the one that holds it."})
    year: int = field(default=2007, metadata={"help": "Which VOC.", "choices": [2007, 2012]})
    difficult: bool = field(
        default=True,
        metadata={"help": "Keep objects flagged as difficult, as the papers' code does."},
    )

    def load(self) -> DatasetDict:
        assert self.data is not None
        return load_voc(self.data, self.year, difficult=self.difficult, skip_undecodable=self.skip_undecodable)

    def write_shapes(self, folder: Path) -> None:
        write_voc(folder, self.year)


@dataclass
class CocoSource(AnnotatedSource):
    """MS COCO."""

    data: str | None = field(
        default=None,
        metadata={"help": "Folder with annotations/instances_*.json, train2017 and val2017, or with instances.json."},
    )
    year: int = field(default=2017, metadata={"help": "Which COCO.", "choices": [2014, 2017]})
    voc_classes: bool = field(default=False, metadata={"help": "Keep VOC's 20 classes alone."})

    def load(self) -> DatasetDict:
        assert self.data is not None
        classes = CLASSES if self.voc_classes else None
        # COCO's own training split has a few boxes without an area.
        return load_coco(
            self.data,
            self.year,
            classes=classes,
            difficult=self.difficult,
            faulty="drop",
            skip_undecodable=self.skip_undecodable,
        )

    def write_shapes(self, folder: Path) -> None:
        write_coco(folder, self.year, {"train": 54, "val": 24})


@contextmanager
def opened(source: AnnotatedSource) -> Iterator[None]:
    """Write the data of a smoke test, for as long as it is used."""
    with TemporaryDirectory() as folder:
        if source.smoke:
            source.write_shapes(Path(folder))
            source.data = folder
        yield


@dataclass
class AnnotatedSplits:
    """Data to train on, to select models by, and to report."""

    train: Dataset
    validation: Dataset
    test: Dataset

    @property
    def label_column(self) -> str:
        """Name the column of the classes, which an image has several of (`labels`) or one (`label`)."""
        return "labels" if "labels" in self.train.column_names else "label"

    @property
    def names(self) -> list[str]:
        """List the names of the classes."""
        feature = self.train.features[self.label_column]
        return list(getattr(feature, "feature", feature).names)

    def show(self, transform: DistillationTransform, training_transform: DistillationTransform | None = None) -> None:
        """Set the transforms that make the models' inputs."""
        self.train.set_transform(training_transform or transform)
        self.validation.set_transform(transform)
        self.test.set_transform(transform)


def load_splits(source: AnnotatedSource, seed: int) -> AnnotatedSplits:
    """Load and divide the images.

    Raises:
        ValueError: there is nothing but a training split.
    """
    splits = source.load()
    if "validation" not in splits:
        raise ValueError(
            f"'{source.data}' has the splits {', '.join(splits)}, and models are measured on 'validation'. State each "
            'image\'s "split" as train or val.'
        )
    if "test" in splits:
        return AnnotatedSplits(splits["train"], splits["validation"], splits["test"])
    divided = splits["train"].train_test_split(test_size=source.held_out, seed=seed)
    return AnnotatedSplits(divided["train"], divided["test"], splits["validation"])


def load_box_classifier(
    source: str | PreTrainedConfig,
    init: str,
    names: list[str],
    size: int | None = None,
    weights: str | None = None,
    problem: str = "multi_label_classification",
) -> tuple[nn.Module, Any]:
    """Make a classifier for these classes, and its image processor.

    The processor squashes whole images to the model's size, as model guidance does, so that no object leaves the view.

    Args:
        source: Hub id, folder, or for a random start also `timm/NAME` or a configuration (its file, or itself).
        init: `"pretrained"`, `"own-head"` (pretrained, and the head keeps its rows of these classes), or `"random"`.
        names: Names of the classes; the head is new where the model has others.
        size: Side of the input in pixels; None takes the model's own, 224 for a random start.
        weights: File of published weights of a source `bcos/NAME`, whose classes are ImageNet's: the head is new.
        problem: `"multi_label_classification"`, or `"single_label_classification"`.
    """
    if weights is not None:
        assert isinstance(source, str)
        published, processor = load_published(source, weights)
        with TemporaryDirectory() as folder:
            published.save_pretrained(folder)
            processor.save_pretrained(folder)
            return load_box_classifier(folder, "pretrained", names, size, problem=problem)
    if isinstance(source, PreTrainedConfig):
        model = classifier_of(source, names)
    elif init == "own-head":
        model = load_teacher(source)[0].float()  # to be trained, as what `create_student` loads
        keep_classes(model, names)
    else:
        model = create_student(source, init, names)
    model.config.problem_type = problem
    if init != "random" and isinstance(source, str):
        view = replace(image_view(load_processor(source, model.config)), keeps_ratio=False, fraction=1.0)
    else:
        view = ImageView((224, 224), (0.5,) * 3, (0.5,) * 3, keeps_ratio=False, fraction=1.0)
    return channels_last(model), processor_like(view if size is None else replace(view, size=(size, size)), model)


def flip(augment: bool) -> v2.Transform | None:
    """Give the augmentation: a flip at random, or none."""
    return v2.RandomHorizontalFlip() if augment else None


def explainer_at(args: ExplanationDistillArguments, layer: str | None, model: nn.Module, processor: Any) -> Explainer:
    """Build the explainer that the arguments name, at a depth of a model.

    Args:
        args: Training arguments.
        layer: `"input"`; `"final"`, the last layer laid out in space; `"mid"`, the last one on a grid twice as fine
            (layer3 of a ResNet); the path of any other; or None for the explainer's own.
        model: Model.
        processor: Its image processor, which states the input's size.

    Raises:
        ValueError: the explainer has no such depth, or the model no layer in the middle.
    """
    assert not isinstance(args.explainer_options, str)
    options = dict(args.explainer_options or {})
    if layer is None:
        return build_explainer(args.explainer, **options)
    if args.explainer not in LAYER_OPTIONS:
        raise ValueError(
            f"The depth of '{args.explainer}' can't be chosen. Leave --layer out, or choose an explainer of "
            f"{', '.join(LAYER_OPTIONS)}."
        )
    if layer == "input":
        if args.explainer == "gradcam":
            raise ValueError("GradCAM explains a layer, not the input. Choose --explainer input_x_gradient or bcos.")
        return build_explainer(args.explainer, **options)
    if layer == "final" and args.explainer == "gradcam":
        return build_explainer(args.explainer, **options)
    if layer in ("mid", "final"):
        pixel_values = torch.zeros(1, 3, *image_view(processor).size, device=next(model.parameters()).device)
        layer = _final_layer(model, pixel_values) if layer == "final" else _layer_at(model, pixel_values, finer=2)
    return build_explainer(args.explainer, **options, **{LAYER_OPTIONS[args.explainer]: layer})


def _final_layer(model: nn.Module, pixel_values: torch.Tensor) -> str:
    """Name GradCAM's layer, or, where that isn't a module's output but a method's (timm), the last one on its grid."""
    own = GradCAM().target_layer_path(model)
    if own is not None and own in dict(model.named_modules()):
        return own
    return _layer_at(model, pixel_values, finer=1)


def _layer_at(model: nn.Module, pixel_values: torch.Tensor, finer: int) -> str:
    """Name the last module that nothing passes by, on a grid so many times as fine as that of GradCAM's map."""
    heights: dict[str, int] = {}

    def note(name: str, output: Any) -> None:
        first = output[0] if isinstance(output, tuple) and output else output
        grid = grid_of(first, *pixel_values.shape[-2:]) if isinstance(first, torch.Tensor) else None
        heights.pop(name, None)  # a module called twice counts where it was called last
        if grid is not None:
            heights[name] = grid.height

    def is_passed_by(name: str) -> bool:
        """Tell whether it lies in a block that goes on to another grid, perhaps by a shortcut."""
        parts = name.split(".")
        around = [".".join(parts[:end]) for end in range(1, len(parts))]
        blocks = [each for each in around if not isinstance(model.get_submodule(each), nn.Sequential)]
        return any(heights.get(block, heights[name]) != heights[name] for block in blocks)

    handles = [
        module.register_forward_hook(lambda _module, _args, output, name=name: note(name, output))
        for name, module in model.named_modules()
    ]
    try:
        with evaluating(model), torch.no_grad():
            height = GradCAM()(model, {"pixel_values": pixel_values}, torch.zeros(1, dtype=torch.long)).maps.shape[1]
            call_model(model, {"pixel_values": pixel_values})
    finally:
        for handle in handles:
            handle.remove()
    found = [name for name, own in heights.items() if round(own / height) == finer and not is_passed_by(name)]
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no layer on a grid {finer} times as fine as GradCAM's of {height} rows. Name "
            "a layer: --layer PATH, as in model.get_submodule(PATH)."
        )
    return found[-1]


def draw_boxes(
    models: Mapping[str, nn.Module],
    explainers: Mapping[str, Explainer],
    data: Dataset,
    view: ImageView,
    names: list[str],
    count: int,
    path: Path,
) -> None:
    """Draw how the models explain the first class of the first annotated images, with the boxes of that class.

    Args:
        models: Classifiers by heading; one headed "Teacher" is shown `teacher_pixel_values` where there are any.
        explainers: Explainers by the same headings.
        data: Images as the models take them.
        view: View of the students, which undoes the normalisation.
        names: Names of the classes.
        count: Number of images.
        path: File of the picture.
    """
    annotated = [row for row, boxes in enumerate(data.with_format(None)["boxes"]) if boxes]
    samples = [sample for sample in map(data.__getitem__, annotated[: 2 * count]) if len(sample["boxes"])][:count]
    pixel_values = torch.stack([sample["pixel_values"] for sample in samples])
    shown_to_teacher = torch.stack([sample.get("teacher_pixel_values", sample["pixel_values"]) for sample in samples])
    target = torch.stack([sample["box_labels"][0] for sample in samples])
    columns, predictions = {}, {}
    for heading, model in models.items():
        device = next(model.parameters()).device
        pixels = (shown_to_teacher if heading == "Teacher" else pixel_values).to(device)
        explained = explainers[heading](model.eval(), {"pixel_values": pixels}, target.to(device))
        columns[heading] = explained.maps
        logits = explained.logits
        shown = logits >= 0 if is_multi_label(model) else logits == logits.amax(1, keepdim=True)
        predictions[heading] = [
            ", ".join(names[index] for index in row.nonzero().flatten().tolist()) or "nothing" for row in shown
        ]
    figure = explanation_panel(
        view.intensities(pixel_values).clamp(0, 1),
        columns,
        explained=[names[index] for index in target.tolist()],
        predictions=predictions,
    )
    for row, sample in enumerate(samples):
        for box in sample["boxes"][sample["box_labels"] == target[row]]:
            x0, y0, x1, y1 = box.tolist()
            for axis in figure.axes[row * (1 + len(models)) : (row + 1) * (1 + len(models))]:
                # A picture's pixel in column 0 is drawn around 0.
                axis.add_patch(Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, edgecolor=BOX_COLOUR))
    figure.savefig(path, dpi=150)
