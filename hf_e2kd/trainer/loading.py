"""Data on their way to batches: the columns that are kept, and the collator of each data set."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import datasets
import torch
from torch import nn
from transformers import Trainer
from transformers.trainer_utils import has_length

from ..alignment.inputs import ANNOTATION_COLUMNS
from ..alignment.labels import data_labels
from ..architectures.discovery import TOKEN_COLUMNS, accepted_inputs
from ..data.collate import FiniteBatches
from ..data.groups import GROUP, GroupedDataset, read_groups
from ..data.text import text_lengths
from ..references import TeacherReference
from ..store.joining import unattached
from ..store.samples import IndexedDataset
from ..terms.base import SAMPLE_ID
from .checks import refuse_uneven_batches, refuse_unread_columns


class LoadingMixin(Trainer):
    """Keeps the columns that references and terms read, and numbers each data set's labels as the student's classes."""

    references: Any
    student: nn.Module
    explains: Any
    _signature_columns: Any
    _named_terms: Any
    group_columns: Any
    _collator: Any

    @property
    def data_collator(self) -> Any:
        """Function that makes batches: the one that was given, with the checks of `FiniteBatches`."""
        return self._collator

    @data_collator.setter
    def data_collator(self, collator: Any) -> None:
        if isinstance(collator, FiniteBatches | SampleIds) or not callable(collator):
            self._collator = collator
            return
        for reference in self.references.values():
            reference.check_collator(collator)
        self._collator = FiniteBatches(collator)
        # Which keep the columns that it reads.
        self._signature_columns = None

    def _set_signature_columns_if_needed(self) -> None:
        if self._signature_columns is None:
            super()._set_signature_columns_if_needed()
            columns = {column for reference in self.references.values() for column in reference.columns}
            columns |= {column for term in self._named_terms().values() for column in term.columns}
            collated = getattr(self.data_collator, "columns", ())
            extra = columns | {*ANNOTATION_COLUMNS, "teacher_pixel_values", "special_tokens_mask", GROUP, *collated}
            # What a teacher knows of the tokens, though the student doesn't.
            teachers = [each.model for each in self.references.values() if isinstance(each, TeacherReference)]
            extra |= {name for model in teachers for name in accepted_inputs(model, dict.fromkeys(TOKEN_COLUMNS))}
            if collated:
                # Sampling by length reads it; a collator that knows its own columns passes it over.
                extra.add(self.args.length_column_name)
            self._signature_columns = [*(self._signature_columns or []), *sorted(extra)]

    def _remove_unused_columns(self, dataset: Any, description: str | None = None) -> Any:
        if self.args.remove_unused_columns:
            self._set_signature_columns_if_needed()
            refuse_unread_columns(dataset, self._signature_columns)
        return super()._remove_unused_columns(dataset, description)

    def _get_dataloader(self, dataset: Any, description: str, batch_size: int, *arguments: Any, **keywords: Any) -> Any:
        if has_length(dataset) and len(dataset) == 0:
            raise ValueError(f"The data set for {description.lower()} is empty.")
        refuse_uneven_batches(self.accelerator, dataset, batch_size, self.args.dataloader_drop_last)
        for reference in self.references.values():
            reference.check_data(dataset, self.explains)
        collator, is_training = self.data_collator, keywords.get("is_training")
        labels = data_labels(dataset, self.student, collator.label_column)
        if not is_training and self.group_columns:
            groups = read_groups(unattached(dataset), self.group_columns)
            if isinstance(dataset, datasets.Dataset):
                # The parent leaves out a wrapped data set's columns in the collator alone.
                dataset = self._remove_unused_columns(dataset, description)
            dataset = GroupedDataset(dataset, groups)
        self.data_collator = (collator if is_training else collator.for_evaluation()).with_labels(labels)
        if is_training and has_length(dataset) and any("ids" in term.needs for term in self._named_terms().values()):
            if isinstance(dataset, datasets.Dataset):
                dataset = self._remove_unused_columns(dataset, description)
            own = self._get_collator_with_removed_columns(self.data_collator, description)
            dataset, self.data_collator = IndexedDataset(dataset), SampleIds(own, collator.text_columns)
        try:
            return super()._get_dataloader(dataset, description, batch_size, *arguments, **keywords)
        finally:
            self.data_collator = collator

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        data = self.train_dataset if train_dataset is None else train_dataset
        return super()._get_train_sampler(self._with_lengths(unattached(data)))

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        return super()._get_eval_sampler(self._with_lengths(unattached(eval_dataset)))

    def _with_lengths(self, data: Any) -> Any:
        """Return texts' lengths for samplers by length, where no column states them and no tokens are there yet."""
        columns, name = self.data_collator.text_columns, self.args.length_column_name
        by_length = self.args.train_sampling_strategy in ("group_by_length", "batch_rebalance")
        if not (by_length and columns and has_length(data)) or name in (getattr(data, "column_names", None) or ()):
            return data
        return datasets.Dataset.from_dict({name: text_lengths(data, columns)})


class SampleIds:
    """Collate samples that come with their positions, and add these as the column `sample_id`.

    Args:
        collator: Function that makes a batch of samples without positions.
        text_columns: Its columns of texts, by whose length samples may be grouped.
    """

    def __init__(self, collator: Callable[[Sequence[Any]], Mapping[str, Any]], text_columns: Sequence[str]):
        self.collator = collator
        self.text_columns = text_columns

    def __call__(self, indexed: Sequence[tuple[int, Any]]) -> dict[str, Any]:
        batch = self.collator([sample for _, sample in indexed])
        return {**batch, SAMPLE_ID: torch.tensor([position for position, _ in indexed])}
