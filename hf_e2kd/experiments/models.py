"""Classifiers of images and of texts by Hub id, local folder or configuration."""

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    TimmWrapperConfig,
    ViTConfig,
    ViTForImageClassification,
    ViTMAEConfig,
)

from ..alignment.labels import class_names, name_key
from ..architectures import call_model
from ..choices import unknown_choice
from ..data.imagenet import unique_class_names
from ..hub.ids import loaded_revision
from ..models import (
    BackboneConfig,
    BackboneForImageClassification,
    SentenceEncoderForSequenceClassification,
    bcos_config,
    shufflenet_config,
)
from .processors import load_processor
from .reaching import FROM_SCRATCH, loading

_ARCHITECTURES = ("timm/", "bcos/", "torchvision/")
"""Beginnings of the names of architectures, which `create_student` makes with random weights."""


def load_weights(auto_class: Any, source: str, **options: Any) -> Any:
    """Load a model by `auto_class.from_pretrained`, from weights in the safetensors format alone.

    Raises:
        ValueError: it has others, which can run code.
        OSError: it isn't there, or the Hub can't be reached.
    """
    try:
        loaded = auto_class.from_pretrained(source, use_safetensors=True, **options)
    except OSError as error:
        if "safetensors" not in str(error):
            raise
        raise ValueError(
            f"'{source}' holds no weights in the safetensors format. Others are not loaded, because pickled files "
            "can run code. Convert them where you trust them: load the model and call save_pretrained()."
        ) from error
    model = loaded[0] if isinstance(loaded, tuple) else loaded
    # transformers doesn't state it, and the cache may hold several.
    model.config._commit_hash = loaded_revision(source, options.get("revision"))
    return loaded


def load_trained(auto_class: Any, source: str, **options: Any) -> Any:
    """Load a model, all parts of which were trained, by `auto_class.from_pretrained`.

    Raises:
        ValueError: it has no weights for a part, which would be random, or none in the safetensors format.
        OSError: it isn't there, or the Hub can't be reached.
    """
    model, found = load_weights(auto_class, source, output_loading_info=True, **options)
    if found["missing_keys"]:
        raise ValueError(
            f"'{source}' has no weights for {', '.join(sorted(found['missing_keys'])[:4])}: these would be random. "
            "Name a checkpoint that was trained as a classifier."
        )
    return model


def load_teacher(source: str, revision: str | None = None) -> tuple[nn.Module, Any]:
    """Load a trained image classifier and its processor, from the Hub or a folder. No remote code is run.

    Args:
        source: Hub id or folder.
        revision: Branch, tag or commit on the Hub.
    """
    with loading(source, revision=revision):
        model = load_trained(AutoModelForImageClassification, source, revision=revision)
    name_classes_apart(model)
    return model, load_processor(source, model.config, revision=revision)


def name_classes_apart(model: nn.Module) -> None:
    """Give a published classifier of ImageNet unique class names, by which it can be matched with others."""
    names = class_names(model)
    if names is not None and (unique := unique_class_names(names)) != names:
        set_labels(model.config, label_settings(unique, len(unique)))


def keep_classes(model: nn.Module, names: Sequence[str]) -> None:
    """Make a classifier one of some of its classes, without training: its last layer keeps their rows.

    Args:
        model: Classifier whose configuration names its classes, as `load_teacher` gives it; changed in place.
        names: Names of the classes in the order of the new logits, such as a data set's; case doesn't matter.

    Raises:
        ValueError: a name is that of no class or of several, or the logits aren't those of one linear layer.

    Example:

        teacher, processor = load_teacher("timm/efficientnet_lite0.ra_in1k")
        keep_classes(teacher, label_names(load_tiny_imagenet("tiny-imagenet-200")["train"]))
    """
    known = [name_key(name) for name in class_names(model) or ()]
    for name in names:
        if (count := known.count(name_key(name))) != 1:
            raise ValueError(
                f"'{name}' is the name of {count} of the model's {len(known)} named classes, and must be that of one. "
                f"They begin with {known[:5]}. Name all of its classes in `id2label`, each otherwise."
            )
    heads = [each for each in model.modules() if isinstance(each, nn.Linear) and each.out_features == len(known)]
    if len(heads) != 1:
        raise ValueError(
            f"{type(model).__name__} has {len(heads)} linear layers of {len(known)} outputs, and its classes can be "
            "selected in one. Fit a head to the data's classes instead: hf_e2kd.experiments.fit_head."
        )
    head, rows = heads[0], [known.index(name_key(name)) for name in names]
    for parameter in head.parameters():
        parameter.data = parameter.data[rows]
    head.out_features = model.num_labels = len(rows)
    set_labels(model.config, label_settings(list(names), len(rows)))
    if hasattr(model, "timm_model"):
        model.timm_model.num_classes = len(rows)


def _reorder_classes(model: nn.Module, source: str, revision: str | None) -> None:
    """Give a loaded head the order of its classes' new names, where the checkpoint has the same in another order."""
    stated = AutoConfig.from_pretrained(source, revision=revision).id2label
    before, now = unique_class_names([str(stated[number]) for number in sorted(stated)]), class_names(model)
    keys, new = [name_key(name) for name in before], [name_key(name) for name in now or ()]
    if keys != new and sorted(keys) == sorted(new) and len(set(keys)) == len(keys):
        assert now is not None
        set_labels(model.config, label_settings(before, len(before)))
        keep_classes(model, now)


def create_student(
    source: str, init: str, names: list[str] | None, teacher: nn.Module | None = None, revision: str | None = None
) -> nn.Module:
    """Make a student of images for the classes `names`, or the teacher's where there are none.

    Its weights are in float32, whatever the checkpoint's are: small updates of weights in half precision are lost.

    Args:
        source: Hub id or folder of a model; for a random start also a configuration file (JSON with `model_type`), or
            `timm/NAME`, `bcos/NAME` (`hf_e2kd.models.bcos_config`) or `torchvision/shufflenet_v2_…` of an architecture.
        init: `"pretrained"` keeps the weights (a new classifier if the classes differ), `"random"` starts anew.
        names: Names of the classes.
        teacher: Teacher, whose classes, one or several an image, are taken where `names` is None.
        revision: Branch, tag or commit on the Hub.

    Raises:
        ValueError: unknown `init`, a revision of what is no id on the Hub, or random weights that can't be trained.
    """
    if init not in ("pretrained", "random"):
        raise ValueError(unknown_choice("student_init", init, ["pretrained", "random"]))
    if names is None:
        assert teacher is not None, "without names the classes are the teacher's"
        labels = label_settings(class_names(teacher), teacher.config.num_labels)
        # Whether a student decides each class for itself is asked of its own configuration.
        labels["problem_type"] = getattr(teacher.config, "problem_type", None)
    else:
        labels = label_settings(names, len(names))
    if init == "random":
        configuration = _configuration(source, labels, revision)
        _refuse_vanishing(configuration)
        # Of a type with several classifiers, such as DeiT, the first is made, which transformers does for a list alone.
        configuration.architectures = configuration.architectures or []
        return AutoModelForImageClassification.from_config(configuration, dtype=torch.float32)
    options = {"revision": revision, "dtype": torch.float32}
    student = load_for_classes(AutoModelForImageClassification, source, labels, FROM_SCRATCH, **options)[0]
    _reorder_classes(student, source, revision)
    return student


def require_size(student: nn.Module, source: str, size: tuple[int, int]) -> None:
    """Refuse a student that starts anew and can't be shown images (height, width) as its teacher sees them.

    Raises:
        ValueError: naming both sizes, and the remedy.
    """
    channels = getattr(student.config, "num_channels", 3)
    try:
        with torch.no_grad():
            call_model(student.eval(), {"pixel_values": torch.zeros(1, channels, *size)})
    except (ValueError, AssertionError) as error:  # of transformers, and of timm
        height, width = size
        raise ValueError(
            f"The student '{source}' starts anew and is shown what its teacher sees, {height}×{width} pixels, for "
            f"which it isn't made: {error} Give a file (.json) with its configuration of that size "
            f'("image_size": {height}; of timm "model_args": {{"img_size": {height}}}), or a convolutional student, '
            "which takes any size."
        ) from error


def _refuse_vanishing(config: PreTrainedConfig) -> None:
    """Refuse random EfficientNets of transformers, unless their weights are drawn larger than by default."""
    if config.model_type == "efficientnet" and config.initializer_range < 0.1:
        raise ValueError(
            f"transformers draws a random EfficientNet's weights at a deviation of {config.initializer_range}, "
            "so small that no gradient reaches its first layers, and such a student never learns. Take timm's, as "
            'timm/efficientnet_b0, or a configuration with "initializer_range": 0.2.'
        )


def load_for_classes(
    auto_class: Any, source: str, labels: dict[str, Any], remedy: str = "", **options: Any
) -> tuple[nn.Module, set[str]]:
    """Load a pretrained model with a classifier of these classes, new where it has another or none.

    Backbones of images for which transformers has no classifier are given one: ViT-MAE's encoder is that of a
    `ViTForImageClassification`, which masks nothing, and the pooled output of others (DINOv3) is read by a
    `BackboneForImageClassification`.

    Args:
        auto_class: AutoModelForImageClassification or AutoModelForSequenceClassification.
        source: Hub id or folder of the model.
        labels: Settings of the classes, as `label_settings` gives them.
        remedy: Sentence of the error that names a further way out.
        options: Options of `from_pretrained`, such as `revision`.

    Returns:
        The model, and the names of the parameters without trained weights.

    Raises:
        ValueError: a model that can't be given a classifier.
        OSError: the model isn't there, or the Hub can't be reached.
    """
    with loading(source, remedy, options.get("revision")):
        config = saved_configuration(source, labels, **options)
        if type(config) in auto_class._model_mapping:
            model, found = load_weights(
                auto_class, source, config=config, output_loading_info=True, ignore_mismatched_sizes=True, **options
            )
            return model, {*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])}
        if auto_class is not AutoModelForImageClassification:
            raise ValueError(
                f"'{source}' is of a kind ({config.model_type}) that {auto_class.__name__} doesn't know, so that no "
                "classifier can be put on it. Name another one, such as microsoft/deberta-v3-small."
            )
        backbone = load_trained(AutoModel, source, config=config, **options)
    model = _classifier_on(backbone, labels)
    return model, {name for name, _ in model.named_parameters() if name.startswith("classifier.")}


def _classifier_on(backbone: PreTrainedModel, labels: dict[str, Any]) -> nn.Module:
    if not isinstance(backbone.config, ViTMAEConfig):
        model = BackboneForImageClassification(BackboneConfig(backbone.config, **labels))
        model.backbone.load_state_dict(backbone.state_dict())
        return model.to(backbone.dtype)
    # An encoder that masks nothing is a ViT, but for the order of the patches, which their embedded places don't need.
    own = ViTConfig().to_dict().keys() - {"model_type", "architectures", "transformers_version"}
    settings = {name: value for name, value in backbone.config.to_dict().items() if name in own}
    vit = ViTForImageClassification(ViTConfig(**{**settings, **labels}))
    vit.base_model.load_state_dict(backbone.state_dict())
    return vit.to(backbone.dtype)


def load_text_classifier(
    source: str,
    names: list[str] | None,
    num_labels: int,
    revision: str | None = None,
    problem_type: str | None = None,
) -> nn.Module:
    """Load a pretrained model of texts, to be trained in float32, with a classifier for these classes.

    The classifier is new where the model has another.

    Args:
        source: Hub id or folder.
        names: Names of the classes, if they have any.
        num_labels: Number of the classes.
        revision: Branch, tag or commit on the Hub.
        problem_type: Problem of the configuration, such as a teacher's of several labels a text; None for the model's.
    """
    settings = {**label_settings(names, num_labels), "dtype": torch.float32, "revision": revision}
    if problem_type is not None:
        settings["problem_type"] = problem_type
    with loading(source, revision=revision):
        model = load_weights(AutoModelForSequenceClassification, source, **settings, ignore_mismatched_sizes=True)
        _reorder_classes(model, source, revision)
    return model


def shallow_copy_of(teacher: nn.Module, layers: int, init: str) -> nn.Module:
    """Make a student of the teacher's architecture with fewer layers, a classifier of transformers' own, in float32.

    Args:
        teacher: Classifier of texts.
        layers: Number of layers.
        init: `"random"`, or `"teacher-layers"`: evenly spaced layers of the teacher, the first among them, and
            everything else of it; of a sentence encoder, everything but the classifier.

    Raises:
        ValueError: unknown `init`, more layers than the teacher has, or a teacher whose layers are not in one list.
    """
    is_pooled = isinstance(teacher, SentenceEncoderForSequenceClassification)
    own = copy.deepcopy(teacher.config)
    config = own.backbone_config if is_pooled else own
    set_labels(config, {"id2label": own.id2label, "label2id": own.label2id})
    depth = config.num_hidden_layers
    if not 1 <= layers <= depth:
        raise ValueError(f"student_layers must lie between 1 and the teacher's {depth}, not {layers}.")
    chosen = [number * depth // layers for number in range(layers)]
    config.num_hidden_layers = layers
    for name in ("layer_types", "attention_window"):  # ModernBERT's local and global layers, Longformer's windows
        if isinstance(of_layers := getattr(config, name, None), list):
            setattr(config, name, [of_layers[number] for number in chosen])
    student = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    if init == "random":
        return student
    if init != "teacher-layers":
        raise ValueError(unknown_choice("student_init", init, ["random", "teacher-layers", "a model's id or folder"]))
    source, target = (teacher.base_model, student.base_model) if is_pooled else (teacher, student)
    stacks = [
        name for name, module in source.named_modules() if isinstance(module, nn.ModuleList) and len(module) == depth
    ]
    if len(stacks) != 1:
        raise ValueError(
            f"{type(teacher).__name__} doesn't keep its {depth} layers in one list, so none can be taken over. Use "
            "student_init='random', or a smaller model's id."
        )
    kept = {f"{stacks[0]}.{old}.": f"{stacks[0]}.{new}." for new, old in enumerate(chosen)}
    state = {}
    for name, tensor in source.state_dict().items():
        if name.startswith(f"{stacks[0]}."):
            prefix = next((prefix for prefix in kept if name.startswith(prefix)), None)
            if prefix is None:
                continue
            name = kept[prefix] + name.removeprefix(prefix)
        state[name] = tensor
    if is_pooled:  # RoBERTa's classifier has none of its encoder's pooler
        state = {name: state[name] for name in target.state_dict()}
    target.load_state_dict(state)
    return student


def label_settings(names: list[str] | None, num_labels: int) -> dict[str, Any]:
    """Give a configuration's settings of the classes."""
    if names is None:
        return {"num_labels": num_labels}
    return {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}


def is_architecture(source: str) -> bool:
    """Tell an architecture by name, or a configuration's file, from a Hub id or folder."""
    return source.endswith(".json") or (source.startswith(_ARCHITECTURES) and not Path(source).exists())


def _configuration(source: str, labels: dict[str, Any], revision: str | None) -> PreTrainedConfig:
    if revision is not None and is_architecture(source):
        raise ValueError(
            f"'{source}' is an architecture, which has no revision '{revision}': these are of ids on the Hub. Leave "
            "the revision out."
        )
    if source.endswith(".json"):
        settings = json.loads(Path(source).read_text(encoding="utf-8"))
        if "model_type" not in settings:
            raise ValueError(f'{source} names no \'model_type\', such as "vit" or "convnext".')
        return AutoConfig.for_model(settings.pop("model_type"), **settings, **labels)
    if source.startswith("timm/") and not Path(source).exists():
        # An architecture of timm needs no file from the Hub for a random start; a tag after a dot names weights only.
        return TimmWrapperConfig(architecture=source.removeprefix("timm/").split(".")[0], **labels)
    if source.startswith("bcos/") and not Path(source).exists():
        return bcos_config(source.removeprefix("bcos/"), **labels)
    if source.startswith("torchvision/") and not Path(source).exists():
        return shufflenet_config(source.removeprefix("torchvision/"), **labels)
    with loading(source, FROM_SCRATCH, revision):
        return saved_configuration(source, labels, revision=revision)


def saved_configuration(source: str, labels: dict[str, Any], **options: Any) -> PreTrainedConfig:
    """Load a model's configuration for other classes, which `labels` sets as `label_settings` gives them."""
    config = AutoConfig.from_pretrained(source, **options)
    # Set afterwards, as timm's wrapper would keep its own number of classes whatever their names.
    set_labels(config, labels)
    return config


def set_labels(config: PreTrainedConfig, labels: dict[str, Any]) -> None:
    """Set the classes of a configuration, as `label_settings` gives them."""
    # timm's wrapper would save the names that it was loaded with.
    vars(config).pop("label_names", None)
    for name, value in labels.items():
        setattr(config, name, value)
