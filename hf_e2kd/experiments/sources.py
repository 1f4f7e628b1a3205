"""Models and data sets by Hub id or folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, load_dataset
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)
from transformers.utils import CONFIG_NAME

from ..alignment.labels import align_labels
from ..choices import did_you_mean, unknown_choice
from ..data.images import load_image_splits, with_names
from ..data.text import load_text_splits
from ..explainers import Explainer, available_explainers, build_explainer, usable_explainers
from ..export import ExportedStudent, exported_explainer, is_exported, load_exported
from .models import load_trained, name_classes_apart
from .processors import load_processor, no_processing_class
from .reaching import absent, check_source, loading_data


@dataclass
class Classifier:
    """A trained classifier, with its image processor or tokenizer."""

    model: nn.Module
    processing_class: Any
    is_text: bool
    source: str = ""


def load_classifier(
    source: str, revision: str | None = None, trust_remote_code: bool = False, processor: str | None = None
) -> Classifier:
    """Load a classifier of images or texts, as its configuration says, or one that was exported to a file.

    Args:
        source: Hub id or folder; or an exported file (.onnx, .pt2).
        trust_remote_code: Run the repository's own code, which is refused otherwise.
        processor: Hub id or folder of the model whose processor, or tokenizer, and class names an exported file takes
            that states none.

    Raises:
        ValueError: `source` can't be an id, it is no such classifier, it has no safetensors weights, or none for a
            part of it, or it has no image processor or tokenizer.
        OSError: it isn't there, or the Hub can't be reached.
    """
    if is_exported(source):
        if revision is not None:
            check_source(source, revision=revision)
        return _exported(source, processor, trust_remote_code)
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    config = load_config(source, revision, trust_remote_code)
    is_text = reads_text(config, source)
    model_class = AutoModelForSequenceClassification if is_text else AutoModelForImageClassification
    try:
        model = load_trained(model_class, source, **options)
    except OSError as error:
        raise absent(source, error) from error
    name_classes_apart(model)
    return Classifier(model, _processing_class(config, source, is_text, options), is_text, source)


def _exported(source: str, processor: str | None, trust_remote_code: bool) -> Classifier:
    """Load an exported file, with the processor of another model where it states none."""
    found: Any = None
    names: list[str] | None = None
    if processor is not None:
        options = {"trust_remote_code": trust_remote_code}
        config = load_config(processor, trust_remote_code=trust_remote_code)
        found = _processing_class(config, processor, reads_text(config, processor), options)
        names = [config.id2label[number] for number in range(config.num_labels)]
    model: ExportedStudent = load_exported(source, found, names)
    if model.processing_class is None:
        raise ValueError(
            f"'{source}' doesn't state {'its tokenizer' if model.is_text else 'how images are made for it'}. hf-e2kd "
            "explain and fidelity take those of the model that it was exported from, by --processor MODEL; other "
            "commands take the model itself."
        )
    return Classifier(model, model.processing_class, model.is_text, source)


def load_config(source: str, revision: str | None = None, trust_remote_code: bool = False, remedy: str = "") -> Any:
    """Load a model's configuration, by Hub id or folder; raise as `load_classifier` does, with a further remedy."""
    check_source(source, revision=revision)
    if Path(source).is_dir() and not (Path(source) / CONFIG_NAME).is_file():
        raise ValueError(
            f"The folder '{source}' holds no model: it has no {CONFIG_NAME}. Give a folder that save_pretrained or `hf "
            f"download` wrote, or a Hub id. {remedy}".rstrip()
        )
    try:
        return AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=trust_remote_code)
    except OSError as error:
        raise absent(source, error, remedy) from error
    except ValueError as error:
        if "custom code" not in str(error):
            raise
        raise ValueError(
            f"'{source}' is a model with code of its own, which is not run unless you say so. Read its Python files; "
            "if you trust them, add --trust-remote-code, which runs them on this machine with your rights."
        ) from error


def reads_text(config: Any, source: str) -> bool:
    """Tell whether a classifier reads texts, or sees images.

    Raises:
        ValueError: it is no classifier of either.
    """
    if config.model_type == "timm_wrapper":
        return False
    names = [*(config.architectures or ()), *getattr(config, "auto_map", {})]
    for is_text, kind in ((True, "ForSequenceClassification"), (False, "ForImageClassification")):
        if any(kind in name for name in names):
            return is_text
    raise ValueError(
        f"'{source}' is {', '.join(config.architectures or ()) or config.model_type}, no classifier of images "
        "(…ForImageClassification, or of timm) or of texts (…ForSequenceClassification). A backbone becomes a teacher "
        "by `hf-e2kd distill --teacher-head fit` or `--finetune-teacher EPOCHS`."
    )


def check_same_modality(teacher: str, teacher_is_text: bool, student: str, student_is_text: bool) -> None:
    """Refuse a classifier of images beside one of texts.

    Raises:
        ValueError: naming both.
    """
    if teacher_is_text != student_is_text:
        kinds = {True: "texts", False: "images"}
        raise ValueError(
            f"The teacher '{teacher}' classifies {kinds[teacher_is_text]} and the student '{student}' "
            f"{kinds[student_is_text]}. Name two classifiers of the same kind."
        )


def check_pair(teacher: Classifier, student: Classifier) -> None:
    """Refuse models that can't be compared.

    Raises:
        ValueError: they are of different modalities, or share no class.
    """
    check_same_modality(teacher.source, teacher.is_text, student.source, student.is_text)
    align_labels(teacher.model, student.model)


def check_processor(processor: str | None, *models: str) -> None:
    """Refuse a processor that no model takes: those that weren't exported have their own.

    Args:
        processor: Value of --processor.
        models: Hub ids, folders and exported files.

    Raises:
        ValueError: naming the models.
    """
    if processor is not None and not any(map(is_exported, models)):
        named = " and ".join(f"'{model}'" for model in models)
        raise ValueError(
            f"--processor is taken by exported files (.onnx, .pt2), and {named} {'is' if len(models) == 1 else 'are'} "
            "none: a model is shown its inputs by the processor beside it. Leave --processor out."
        )


def choose_explainer(classifiers: Sequence[Classifier], name: str | None, options: Mapping[str, Any]) -> Explainer:
    """Build an explainer by its name, or else the default: GradCAM of images, Integrated Gradients of texts.

    Raises:
        ValueError: there is none of that name, it has other options, or it can't explain a classifier; the methods that
            can are listed.
    """
    models = [each.model for each in classifiers]
    if name is None:
        return build_explainer("integrated_gradients" if classifiers[0].is_text else "gradcam")
    if name not in available_explainers():
        raise ValueError(unknown_choice("explainer", name, usable_explainers(*models)))
    explainer = build_explainer(name, **options)
    for model in models:
        try:
            exported_explainer(model, explainer).check(model, trained=False)
        except ValueError as error:
            usable = ", ".join(usable_explainers(*models)) or "none"
            raise ValueError(f"{error} Methods that can explain what is given: {usable}.") from error
    return explainer


def load_split(
    source: str,
    is_text: bool,
    split: str | None,
    name: str | None,
    columns: Sequence[str],
    default: str = "validation",
    revision: str | None = None,
) -> tuple[Dataset, str]:
    """Load one split of a data set. No code of the data set is run.

    Args:
        source: Hub id, a folder saved by `save_to_disk`, a folder of images or of data files (CSV, JSON, Parquet), or
            one such file, which may list images beside it by their paths.
        split: Name of the split; where it is None, `default`, or the only split that there is.
        name: Name of the data set's configuration on the Hub.
        columns: Columns that it must have; of images the first holds them.
        default: Name of the split where `split` is None.
        revision: Branch, tag or commit on the Hub.

    Returns:
        The data and the split's name.

    Raises:
        ValueError: `source` can't be an id, or the split or a column is missing; those that exist are listed.
        OSError: it isn't there, or the Hub can't be reached.
    """
    with loading_data(source, name, revision):
        if Path(source).exists():
            image_column = (*columns, "image")[0]
            splits = load_text_splits(source) if is_text else load_image_splits(source, image_column=image_column)
        else:
            loaded = load_dataset(source, name, split=split, revision=revision)
            splits = loaded if split is None else {split: loaded}
    if split is None:
        split = next(iter(splits)) if len(splits) == 1 else default
    if split not in splits:
        hint = did_you_mean(split, splits) or "Name one by --split."
        raise ValueError(f"'{source}' has no split '{split}'. Its splits: {', '.join(splits)}. {hint}")
    dataset = with_names(splits[split])
    for column in columns:
        if column not in dataset.column_names:
            hint = did_you_mean(column, dataset.column_names)
            listed = ", ".join(dataset.column_names)
            raise ValueError(f"'{source}' has no column '{column}'. Its columns: {listed}. {hint}".rstrip())
    return dataset, split


def _processing_class(config: Any, source: str, is_text: bool, options: dict[str, Any]) -> Any:
    if not is_text:
        return load_processor(source, config, **options)
    problem: Exception | str
    try:
        found = AutoTokenizer.from_pretrained(source, **options)
        # Of some families transformers makes a tokenizer that knows no word, where none was saved.
        if len(found) > len(found.all_special_tokens):
            return found
        problem = "its tokenizer knows special tokens alone"
    except (OSError, ValueError, KeyError) as error:
        problem = error
    raise no_processing_class(source, "tokenizer", problem)
