"""Teachers of a backbone without a classifier for the data: a frozen linear head by logistic regression."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Image
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn
from tqdm.auto import tqdm
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification, AutoTokenizer

from ..alignment.labels import dataset_label_names
from ..architectures import call_model
from ..data.text import TextCollator
from ..data.transforms import DistillationTransform
from ..logs import get_logger
from .models import label_settings, load_for_classes
from .processors import load_processor
from .sentence_encoders import load_sentence_encoder, pooling_of

logger = get_logger(__name__)

HEADS = (
    "own: the teacher's classifier; fit: a new one for the data's classes, by logistic regression on the frozen "
    "features of the training split."
)


def fit_head(
    source: str,
    dataset: Dataset,
    *,
    column: str | Sequence[str] | None = None,
    label_column: str = "label",
    regularisation: float = 1.0,
    batch_size: int = 32,
    max_length: int | None = None,
    device: str | torch.device | None = None,
    progress: bool = True,
    **options: Any,
) -> tuple[nn.Module, Any]:
    """Make a classifier of a backbone by logistic regression on its frozen features (a linear probe).

    For DINOv2, DINOv3, ViT-MAE and other backbones without a classifier, encoders of texts and of sentences, and
    classifiers of other classes than the data's. The features are those that transformers' own classifier of the family
    reads: DINOv2's class token beside its patches' mean, ViT-MAE's class token (nothing is masked), and, of a family
    without one (DINOv3), its `pooler_output`; of an encoder in sentence-transformers' layout, its pooled tokens. The
    result is a classifier of transformers, saved, loaded and explained as such; that of a family without one and of a
    sentence encoder, after `import hf_e2kd`. A square layer before the last linear one that the
    checkpoint has no weights for (BERT's pooler, RoBERTa's dense layer) becomes the identity.

    Args:
        source: Hub id or folder of the backbone.
        dataset: Samples, whose column of labels is a `ClassLabel` with names. Those without a label (None or a
            negative number) are left out, as are a transform and a format.
        column: Column of the images or texts, or two columns of pairs of texts; `"image"` or `"text"` by default.
        label_column: Column of the labels.
        regularisation: C of `sklearn.linear_model.LogisticRegression`, on features of mean 0 and variance 1.
        batch_size: Samples in a forward pass.
        max_length: Longest text in tokens; the tokenizer's own limit by default.
        device: Device on which the features are computed; a GPU where there is one.
        progress: Show a progress bar in a terminal.
        options: Options of `from_pretrained`, such as `revision`.

    Returns:
        The classifier in evaluation mode, and its image processor or tokenizer.

    Raises:
        ValueError: a column that isn't there, labels without names, of one class or several a sample, a class without
            a sample, or a model without a last linear layer on pooled features.
        OSError: the model isn't there, or the Hub can't be reached.

    Example:

        teacher, processor = fit_head("facebook/dinov2-small", load_dataset("clothing")["train"])
    """
    if column is None:
        column = "image" if "image" in dataset.column_names else "text"
    columns = [column] if isinstance(column, str) else list(column)
    if missing := [name for name in (*columns, label_column) if name not in dataset.column_names]:
        raise ValueError(
            f"The data set has no column '{missing[0]}'. Its columns: {', '.join(dataset.column_names)}. Name those of "
            "the samples and of the labels by `column` and `label_column`."
        )
    names = dataset_label_names(dataset.select_columns(label_column), label_column)
    if names is None:
        raise ValueError(
            f"The column '{label_column}' has no names of classes. Give it a ClassLabel: "
            f"dataset.class_encode_column('{label_column}'). Columns: {', '.join(dataset.column_names)}."
        )
    dataset = dataset.with_format(None)
    numbers = dataset[label_column][:]
    if any(isinstance(number, list) for number in numbers):
        raise ValueError(
            f"The column '{label_column}' holds several labels a sample, and a head is fitted to one. Fine-tune a "
            "multi-label classifier instead."
        )
    labelled = [row for row, number in enumerate(numbers) if number is not None and number >= 0]
    if len(labelled) < len(numbers):
        dataset = dataset.select(labelled)
    labels = np.array([numbers[row] for row in labelled])
    there = set(labels.tolist())
    absent = [name for number, name in enumerate(names) if number not in there]
    if absent or len(names) < 2:
        none = f", and of the {len(names)} classes {', '.join(absent)} have none" if absent else ""
        raise ValueError(
            f"A head is fitted to two or more classes with samples of each; the column '{label_column}' has samples of "
            f"{len(there)}{none}."
        )
    is_text = not isinstance(dataset.features[columns[0]], Image)
    settings = label_settings(names, len(names))
    pooling = pooling_of(source, **options) if is_text else None
    if pooling is None:
        auto_class = AutoModelForSequenceClassification if is_text else AutoModelForImageClassification
        model, random = load_for_classes(auto_class, source, settings, **options)
    else:
        model, random = load_sentence_encoder(source, pooling, settings, **options)
    # The checkpoint's own head may have been one of several labels a sample, or of a score.
    model.config.problem_type = None
    head = _prepare_head(model, source, len(names), random)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model = model.eval().to(device)
    processor: Any
    if is_text:
        processor = AutoTokenizer.from_pretrained(source, **options)
        batches = _text_batches(dataset, columns, processor, batch_size, max_length)
    else:
        processor = load_processor(source, model.config, **options)
        batches = _image_batches(dataset, columns[0], processor, batch_size)
    steps = -(-len(dataset) // batch_size)
    shown = tqdm(batches, desc="Computing features", total=steps, disable=None if progress else True)
    features = np.concatenate([_features(model, head, batch, source) for batch in shown])
    weight, bias = _fit(features, labels, regularisation)
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(weight))
        head.bias.copy_(torch.from_numpy(bias))
    return model, processor


def _prepare_head(model: nn.Module, source: str, classes: int, random: set[str]) -> nn.Linear:
    """Find the last linear layer, and make other layers without weights the identity.

    Args:
        random: Names of the parameters that the checkpoint has no weights for.
    """
    linear = {name: each for name, each in model.named_modules() if isinstance(each, nn.Linear)}
    fitting = [name for name, each in linear.items() if each.out_features == classes and each.bias is not None]
    # A checkpoint whose own head has as many classes leaves none that is random.
    heads = [name for name in fitting if f"{name}.weight" in random] or fitting[-1:]
    if len(heads) != 1:
        raise _no_head(source)
    for name in sorted({key.rpartition(".")[0] for key in random} - {heads[0]}):
        layer = linear.get(name)
        if layer is None or layer.in_features != layer.out_features or layer.bias is None:
            raise ValueError(
                f"'{source}' has no weights for {name}, which lies between the backbone and the head and would be "
                "random. Fine-tune it as a classifier first."
            )
        logger.warning(f"'{source}' has no weights for {name}, which becomes the identity.")
        with torch.no_grad():
            layer.weight.copy_(torch.eye(layer.in_features))
            layer.bias.zero_()
    return linear[heads[0]]


def _no_head(source: str) -> ValueError:
    return ValueError(
        f"'{source}' gives no pooled feature that one linear layer reads, so no head can be fitted. Fine-tune it as a "
        "classifier first."
    )


def _image_batches(dataset: Dataset, column: str, processor: Any, size: int) -> Iterator[dict[str, torch.Tensor]]:
    transform = DistillationTransform(processor, image_column=column)
    for start in range(0, len(dataset), size):
        images = dataset[start : start + size][column]
        yield {"pixel_values": torch.stack(transform({column: images})["pixel_values"])}


def _text_batches(
    dataset: Dataset, columns: list[str], tokenizer: Any, size: int, max_length: int | None
) -> Iterator[dict[str, torch.Tensor]]:
    collator = TextCollator(tokenizer, text_columns=columns, max_length=max_length)
    texts = dataset.select_columns(columns)
    for start in range(0, len(dataset), size):
        yield collator(list(texts.select(range(start, min(start + size, len(texts))))))


@torch.inference_mode()
def _features(model: nn.Module, head: nn.Linear, batch: dict[str, torch.Tensor], source: str) -> np.ndarray:
    """Compute what the head reads of a batch: (B, width).

    Raises:
        ValueError: the logits aren't the head's alone, such as the mean of two heads.
    """
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    handle = head.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    try:
        logits = call_model(model, {name: _like(value, head.weight) for name, value in batch.items()})
    finally:
        handle.remove()
    if len(seen) != 1 or not torch.equal(seen[0][1], logits):
        raise _no_head(source)
    return seen[0][0].float().cpu().numpy()


def _like(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Take values to the weight's device, and numbers that aren't whole to its precision."""
    return values.to(weight) if values.is_floating_point() else values.to(weight.device)


def _fit(features: np.ndarray, labels: np.ndarray, regularisation: float) -> tuple[np.ndarray, np.ndarray]:
    """Fit logistic regression: weights (classes, width) and biases (classes,) for the features as they are."""
    scaler = StandardScaler().fit(features)
    regression = LogisticRegression(C=regularisation, max_iter=2000).fit(scaler.transform(features), labels)
    weight, bias = regression.coef_ / scaler.scale_, regression.intercept_
    bias = bias - weight @ scaler.mean_
    if len(weight) == 1:  # of two classes, the second's log-odds
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return weight.astype(np.float32), bias.astype(np.float32)
