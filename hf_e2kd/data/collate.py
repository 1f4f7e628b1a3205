"""Collators, and checks on collated batches."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import nn
from torchvision import tv_tensors
from torchvision.transforms import v2
from transformers import default_data_collator

from ..alignment.labels import DataLabels
from .boxes import pad_boxes
from .groups import GROUP
from .labels import refuse_missing, refuse_names, refuse_unequal


class FiniteBatches:
    """A collator that refuses NaN and infinite inputs, in the data loader, before they reach a device.

    Args:
        collator: Function that makes a batch of samples.
        labels: Match of the data's labels with the student's classes, by which those of the batch, and of its boxes,
            are checked and numbered as the student's; None for neither.

    Raises:
        ValueError: on a call, naming the column and the samples of the batch.
    """

    def __init__(
        self,
        collator: Callable[[Sequence[Any]], Mapping[str, Any]],
        labels: DataLabels | None = None,
    ):
        self.collator = collator
        self.labels = labels
        # `Trainer` saves the tokenizer that it finds on its collator.
        self.tokenizer = getattr(collator, "tokenizer", None)
        self.label_column: str | None = getattr(collator, "label_column", None)
        # Columns of the data set that the collator reads, which the trainer must keep.
        self.columns: tuple[str, ...] = tuple(getattr(collator, "columns", ()))
        # Those of the texts among them, by whose length samples may be grouped.
        self.text_columns: tuple[str, ...] = tuple(getattr(collator, "text_columns", ()))

    def for_evaluation(self) -> "FiniteBatches":
        """The same without the mixing of images."""
        mixing = self.collator
        return FiniteBatches(mixing.collator, self.labels) if isinstance(mixing, MixingCollator) else self

    def with_labels(self, labels: DataLabels | None) -> "FiniteBatches":
        """The same with another match of the labels."""
        return FiniteBatches(self.collator, labels)

    def __call__(self, samples: Sequence[Any]) -> Mapping[str, Any]:
        is_default = self.collator is default_data_collator
        if is_default:
            _refuse_raw_images(samples[0])
        groups = [sample[GROUP] for sample in samples if isinstance(sample, Mapping) and GROUP in sample]
        if groups:
            # Whatever the collator keeps, and whether it knows them.
            samples = [{name: value for name, value in sample.items() if name != GROUP} for sample in samples]
        if self.label_column is None:  # else the collator looks itself
            # It would drop the labels of all, or fail, as the first sample has none or a later one.
            for column in ("labels", "label"):
                given = [sample.get(column) for sample in samples if isinstance(sample, Mapping)]
                refuse_missing(given, column)
                if is_default or isinstance(self.collator, AnnotatedCollator):  # which would make a tensor of them
                    refuse_unequal(given, column)
                    if column == "label":
                        refuse_names(given, column)
        batch = self.collator(samples)
        if groups:
            batch = {**batch, GROUP: torch.tensor(groups)}
        for name, values in batch.items():
            if isinstance(values, torch.Tensor) and values.is_floating_point() and not values.isfinite().all():
                rows = (~values.isfinite()).flatten(1).any(1) if values.ndim > 1 else ~values.isfinite()
                raise ValueError(
                    f"'{name}' holds NaN or infinite values in the samples {rows.nonzero().flatten().tolist()[:8]} of "
                    f"a batch of {len(values)}. Remove these samples, or mend the transform that made them."
                )
        labels = batch.get("labels")
        is_number = self.labels is not None and not self.labels.checked and getattr(labels, "shape", ())[1:] == (1,)
        if not is_number:  # a regressor's labels may be (B, 1)
            _check_several_labels(labels)
        if self.labels is not None and isinstance(labels, torch.Tensor):
            batch = {**batch, "labels": self.labels(labels)}
            if isinstance(batch.get("box_labels"), torch.Tensor):
                batch["box_labels"] = self.labels.of_boxes(batch["box_labels"])
        return batch


def _refuse_raw_images(sample: Any) -> None:
    raw = [name for name, value in sample.items() if isinstance(value, Image.Image)] if isinstance(sample, dict) else []
    if raw:
        raise ValueError(
            f"The column '{raw[0]}' holds images as they are, of which the default collator makes no batch. Make "
            "`pixel_values` of them by dataset.set_transform(DistillationTransform(processor)), or give a "
            "data_collator that does."
        )


def _check_several_labels(labels: Any) -> None:
    """Several labels a sample are shares of truth; −1 and −100 for "unknown" would be learnt from."""
    if isinstance(labels, torch.Tensor) and labels.ndim == 2 and not ((labels >= 0) & (labels <= 1)).all():
        found = sorted(set(labels[(labels < 0) | (labels > 1)].tolist()))[:4]
        raise ValueError(
            f"Labels of several classes a sample are 0 or 1 (or between, where images are mixed), and a batch holds "
            f"{found}. Leave samples with unknown labels out, or set those labels to 0."
        )


class AnnotatedCollator:
    """Collate samples with differing numbers of boxes; their other columns as transformers' default collator does.

    `boxes` (n, 4) become (B, N, 4) and `box_labels` (n,) become (B, N), both padded by −1; N is at least 1. A sample
    without these columns has no boxes.
    """

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        plain = [{k: v for k, v in sample.items() if k not in ("boxes", "box_labels")} for sample in samples]
        batch = dict(default_data_collator(plain))
        if any("boxes" in sample for sample in samples):
            batch["boxes"] = pad_boxes([torch.as_tensor(sample.get("boxes", [])).tolist() for sample in samples])
        if any("box_labels" in sample for sample in samples):
            own = [torch.as_tensor(sample.get("box_labels", []), dtype=torch.long) for sample in samples]
            # One longer, so that N is at least 1 where no sample has a box.
            padded = nn.utils.rnn.pad_sequence([torch.zeros(1, dtype=torch.long), *own], True, padding_value=-1)
            batch["box_labels"] = padded[1:]
        return batch


class MixingCollator:
    """Mix the images of each batch, for a live teacher, which explains what the student sees.

    The trainer's evaluations leave them unmixed.
    Stored explanations are of single images and refuse mixed ones. The labels become shares of classes, (B, classes),
    whose cross-entropy is the loss on labels.

    Args:
        mixing: torchvision's `MixUp` or `CutMix`, of v2, or a `RandomChoice` of them.
        collator: Function that makes a batch of samples.

    Raises:
        ValueError: on a call: no labels, or a column that belongs to the single images.

    Example:

        collator = MixingCollator(v2.MixUp(alpha=0.2, num_classes=10))
        trainer = ExplanationDistillTrainer(student, args, data_collator=collator, teacher_model=teacher, ...)
    """

    def __init__(self, mixing: v2.Transform, collator: Callable[[Any], Mapping[str, Any]] = default_data_collator):
        self.mixing = mixing
        self.collator = collator

    def __call__(self, samples: Sequence[Any]) -> dict[str, Any]:
        batch = dict(self.collator(samples))
        images = {name: tv_tensors.Image(value) for name, value in batch.items() if name.endswith("pixel_values")}
        further = sorted(batch.keys() - images.keys() - {"labels"})
        if further:
            raise ValueError(
                f"Images can't be mixed where the batch has {further}, which belong to the images by themselves. Leave "
                "the columns out of the data; stored explanations are of unmixed images, so mix with a live teacher."
            )
        if "labels" not in batch:
            raise ValueError("Images are mixed together with their labels, and the batch has no column 'labels'.")
        size = next(iter(images.values())).shape[-2:]
        others = {name: images.pop(name) for name in list(images) if images[name].shape[-2:] != size}
        if not others:
            mixed = self.mixing({**images, "labels": batch["labels"]})
        else:
            # CutMix takes images of one size: others are mixed by the share that each pixel keeps of its own image.
            own = torch.zeros(len(batch["labels"]), 1, *size)
            own[0] = 1
            mixed = self.mixing({**images, "share": tv_tensors.Image(own), "labels": batch["labels"]})
            share = mixed.pop("share").as_subclass(torch.Tensor)[:1]
            for name, value in others.items():
                kept = nn.functional.interpolate(share, size=value.shape[-2:], mode="nearest-exact").to(value)
                mixed[name] = kept * value + (1 - kept) * value.roll(1, 0)
        return {name: value.as_subclass(torch.Tensor) for name, value in mixed.items()}
