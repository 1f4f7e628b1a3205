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
from .models import label_settings, load_processor, load_weights

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
    device: str | torch.device | None = None,
    progress: bool = True,
    **options: Any,
) -> tuple[nn.Module, Any]:
    """Make a classifier of a backbone by logistic regression on its frozen features (a linear probe).

    For DINOv2 and other backbones without a classifier, encoders of texts and of sentences, and classifiers of other
    classes than the data's. The result is a plain classifier of transformers, saved, loaded and explained as such. A
    square layer before the last linear one that the checkpoint has no weights for (BERT's pooler, RoBERTa's dense
    layer) becomes the identity.

    Args:
        source: Hub id or folder of the backbone.
        dataset: Labelled samples, whose column of labels is a `ClassLabel` with names.
        column: Column of the images or texts, or two columns of pairs of texts; `"image"` or `"text"` by default.
        label_column: Column of the labels.
        regularisation: C of `sklearn.linear_model.LogisticRegression`, on features of mean 0 and variance 1.
        batch_size: Samples in a forward pass.
        device: Device on which the features are computed; a GPU where there is one.
        progress: Show a progress bar.
        options: Options of `from_pretrained`, such as `revision`.

    Returns:
        The classifier in evaluation mode, and its image processor or tokenizer.

    Raises:
        ValueError: labels without names or of one class, a class without a sample, or a model without a last linear
            layer on pooled features.
        OSError: the model isn't there, or the Hub can't be reached.

    Example:

        teacher, processor = fit_head("facebook/dinov2-small", load_dataset("clothing")["train"])
    """
    names = dataset_label_names(dataset, label_column)
    if names is None:
        raise ValueError(
            f"The column '{label_column}' has no names of classes. Give it a ClassLabel: "
            f"dataset.class_encode_column('{label_column}'). Columns: {', '.join(dataset.column_names)}."
        )
    labels = np.array(dataset[label_column])
    absent = [name for number, name in enumerate(names) if number not in set(labels.tolist())]
    if absent or len(names) < 2:
        raise ValueError(
            f"A head is fitted to two or more classes with samples of each; of {len(names)}, these have none: "
            f"{', '.join(absent) or 'none'}."
        )
    images = column if isinstance(column, str) else "image"
    is_text = not isinstance(dataset.features.get(images), Image)
    auto_class = AutoModelForSequenceClassification if is_text else AutoModelForImageClassification
    settings = label_settings(names, len(names))
    model, found = load_weights(
        auto_class, source, output_loading_info=True, ignore_mismatched_sizes=True, **settings, **options
    )
    head = _prepare_head(
        model, source, len(names), {*found["missing_keys"], *(key[0] for key in found["mismatched_keys"])}
    )
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model = model.eval().to(device)
    processor: Any
    if is_text:
        processor = AutoTokenizer.from_pretrained(source, **options)
        batches = _text_batches(dataset, column or "text", processor, batch_size)
    else:
        processor = load_processor(source, model.config, **options)
        batches = _image_batches(dataset, images, processor, batch_size)
    shown = tqdm(batches, desc="Computing features", total=-(-len(dataset) // batch_size), disable=not progress)
    features = np.concatenate([_features(model, head, batch, device) for batch in shown])
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
        raise ValueError(
            f"'{source}' gives no pooled feature that one linear layer reads, so no head can be fitted. Fine-tune it "
            "as a classifier first."
        )
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


def _image_batches(dataset: Dataset, column: str, processor: Any, size: int) -> Iterator[dict[str, torch.Tensor]]:
    transform = DistillationTransform(processor, image_column=column)
    for start in range(0, len(dataset), size):
        images = dataset[start : start + size][column]
        yield {"pixel_values": torch.stack(transform({column: images})["pixel_values"])}


def _text_batches(
    dataset: Dataset, columns: str | Sequence[str], tokenizer: Any, size: int
) -> Iterator[dict[str, torch.Tensor]]:
    collator = TextCollator(tokenizer, text_columns=columns)
    texts = dataset.select_columns([columns] if isinstance(columns, str) else list(columns))
    for start in range(0, len(dataset), size):
        yield collator(list(texts.select(range(start, min(start + size, len(texts))))))


@torch.inference_mode()
def _features(model: nn.Module, head: nn.Linear, batch: dict[str, torch.Tensor], device: torch.device) -> np.ndarray:
    """Compute what the head reads of a batch: (B, width)."""
    seen: list[torch.Tensor] = []
    handle = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        call_model(model, {name: value.to(device) for name, value in batch.items()})
    finally:
        handle.remove()
    return seen[0].float().cpu().numpy()


def _fit(features: np.ndarray, labels: np.ndarray, regularisation: float) -> tuple[np.ndarray, np.ndarray]:
    """Fit logistic regression: weights (classes, width) and biases (classes,) for the features as they are."""
    scaler = StandardScaler().fit(features)
    regression = LogisticRegression(C=regularisation, max_iter=2000).fit(scaler.transform(features), labels)
    weight, bias = regression.coef_ / scaler.scale_, regression.intercept_
    bias = bias - weight @ scaler.mean_
    if len(weight) == 1:  # of two classes, the second's log-odds
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return weight.astype(np.float32), bias.astype(np.float32)
