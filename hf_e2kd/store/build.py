"""Building a store: the teacher's logits and maps, once per sample, shard by shard, in one process or several."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from ..alignment.inputs import teacher_inputs
from ..alignment.labels import class_count, dataset_label_names
from ..alignment.words import LAYOUT_COLUMNS
from ..architectures.base import evaluating
from ..architectures.discovery import TOKEN_COLUMNS, in_own_precision
from ..architectures.refusals import refuse_integer_arithmetic, refuse_sentence_transformers
from ..explainers import Explainer, Explanation, build_explainer
from ..version import __version__
from .description import plan_digest, read_description, read_plan
from .files import FORMAT, PLAN_FILE, STORE_FILE, StoreError, write_json
from .ids import check_order, order_probes, refuse_duplicates, refuse_other_samples, stated_ids
from .key import explainer_key, field_of_view, processor_key, require_same, stated_field, teacher_key
from .options import DTYPES, refuse_all_logits, refuse_counts, refuse_unknown
from .rows import RowEncoder
from .samples import (
    Collate,
    IndexedDataset,
    ModelInputs,
    distillation_transform,
    refuse_another_view,
    refuse_random_samples,
    samples_of,
    transform_key,
    with_images,
)
from .shards import ShardInfo, Shards, fingerprint
from .targets import TARGETS, TargetRule
from .text import SpanCollator, TextRows, texts_of
from .writer import ShardPlan, ShardWriter

Batch = tuple[int, Sequence[int], list[Any], Any, TextRows | None]
"""Number of a shard, its samples' places in it, their ids, what the teacher is shown, and rows of texts."""

# Named beside the explainer's own message, which shows the values.
_REBUILD = "Give the same, or build into another folder."


class StoreBuilder:
    """The building of one store: `run` makes the shards of one process, `finish` writes the description.

    Args: as for `StoredReference.build`.
    """

    def __init__(
        self,
        teacher: nn.Module,
        dataset: Any,
        output_dir: str | Path,
        *,
        explainer: str | Explainer | None = None,
        processing_class: Any = None,
        transform: Callable[..., Any] | None = None,
        collator: Callable[..., Any] | None = None,
        id_column: str | None = None,
        target: str = "teacher_top",
        classes: Sequence[str] | None = None,
        top_k: int | None = None,
        dtype: str = "float16",
        vectors: bool = False,
        batch_size: int = 32,
        num_workers: int = 0,
        image_column: str = "image",
        text_columns: str | Sequence[str] = "text",
        label_column: str = "label",
        max_length: int | None = None,
        teacher_name: str | None = None,
        revision: str | None = None,
        rows_per_shard: int = 4096,
        progress: bool = True,
    ):
        if not isinstance(teacher, nn.Module):
            raise StoreError(f"The teacher must be a model, not {type(teacher).__name__}.")
        refuse_unknown({"target": (target, TARGETS), "dtype": (dtype, DTYPES)})
        refuse_counts({"batch_size": batch_size, "rows_per_shard": rows_per_shard, "top_k": top_k})
        if top_k is not None:
            refuse_all_logits(top_k, teacher)
        refuse_integer_arithmetic(teacher, "teacher")
        refuse_sentence_transformers(teacher, "teacher")
        self.teacher, self.folder = teacher, Path(output_dir)
        self.streams = isinstance(dataset, IterableDataset | datasets.IterableDataset)
        if self.streams and id_column is None:
            raise StoreError(
                "A streaming data set's samples have no positions by which stored rows could be found again. Name a "
                "column of ids by `id_column`."
            )
        if not self.streams and len(dataset) == 0:
            raise StoreError("The data set is empty: there is nothing to store.")
        self.id_column = id_column
        self.batch_size, self.num_workers, self.progress = batch_size, num_workers, progress
        self.rows_per_shard, self.count = rows_per_shard, None if self.streams else len(dataset)
        self.plan = ShardPlan(self.folder, rows_per_shard, self.count)
        # Told before the transform, which may drop the column.
        self.ids = None if id_column is None or self.streams else stated_ids(dataset, id_column)
        if self.ids is not None:
            refuse_duplicates(self.ids)
        self.probes = None if self.streams else order_probes(dataset)

        is_text = isinstance(processing_class, PreTrainedTokenizerBase)
        if explainer is None:
            explainer = "integrated_gradients" if is_text else "gradcam"
        explainer = explainer if isinstance(explainer, Explainer) else build_explainer(explainer)
        self.explainer = explainer.with_tokenizer(processing_class)
        self.explainer.check(teacher, trained=False)
        known = class_count(teacher)
        self.dataset = with_images(dataset, processing_class, transform, image_column, label_column, is_text, known)
        refuse_random_samples(self.dataset)
        self.collate: Callable[..., Any]
        if collator is not None:
            self.collate = collator
        elif is_text:
            self.collate = SpanCollator(processing_class, text_columns, label_column, max_length)
        else:
            self.collate = ModelInputs(teacher, label_column, processing_class, image_column)
        self.encoder = RowEncoder(dtype, top_k, vectors)
        self.choose = TargetRule(target, teacher, dataset_label_names(dataset, label_column), classes)
        self.field_of_view, shown_by = field_of_view(processing_class), processor_key(processing_class)
        if (own := distillation_transform(self.dataset)) is not None:
            if collator is None:
                refuse_another_view(own, processing_class)
            # Both models are shown the student's, whatever the teacher's processor would crop.
            self.field_of_view = stated_field(own.student)
            shown_by = shown_by or transform_key(own)
        self.key: dict[str, Any] = {
            "teacher": teacher_key(teacher, teacher_name, revision),
            "processor": shown_by,
            "explainer": explainer_key(self.explainer),
            "target": {"rule": target, "classes": None if classes is None else list(classes)},
            "precision": {"dtype": dtype, "top_k": top_k, "vectors": vectors},
            "text": {"columns": list(self.collate.text_columns), "max_length": self.collate.max_length}
            if isinstance(self.collate, SpanCollator)
            else None,
            # As far as they are read: labels by the rules alone that explain them.
            "columns": {
                "image": None if is_text else image_column,
                "label": None if target == "teacher_top" else label_column,
            },
        }

    # ---- One process's shards ------------------------------------------------------------------------------------

    def is_finished(self) -> bool:
        """Tell whether the folder holds this very store already.

        Raises:
            StoreError: it holds another one, or another one's shards.
        """
        for name in (STORE_FILE, PLAN_FILE):
            if (self.folder / name).is_file():
                there = (read_description if name == STORE_FILE else read_plan)(self.folder)
                stored, given = there["key"], dict(self.key)
                if "columns" not in stored:  # of an earlier version
                    del given["columns"]
                # Of a stream, neither number nor order of the samples is known beforehand.
                own = {part: value for part, value in self._ids().items() if value is not None or part == "column"}
                given["ids"] = {part: value for part, value in own.items() if there["ids"].get(part) is not None}
                given["ids"]["column"] = own["column"]
                if name == STORE_FILE:  # nothing is left to be divided
                    given["ids"].pop("rows_per_shard")
                require_same({**stored, "ids": there["ids"]}, given, self.folder, _REBUILD)
                probes = there["ids"]["probes"]
                if self.id_column is None:
                    check_order(self.dataset, probes, self.folder)
                elif self.ids is not None:
                    refuse_other_samples(self.dataset, np.arange(len(self.ids)), probes, self.id_column, self.folder)
                return name == STORE_FILE
        return False

    def run(self, process_index: int = 0, num_processes: int = 1) -> None:
        """Make the shards number `process_index`, `process_index + num_processes`, … that aren't there yet.

        Raises:
            StoreError: the folder holds another store, or the data can't be stored.
            OSError: the disk is full; what is finished stays.
        """
        if self.is_finished():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / PLAN_FILE).is_file():
            self._write_plan(self.count)
        self.plan.store = plan_digest(read_plan(self.folder))
        writer: ShardWriter | None = None
        number = -1
        read = self._stream if self.streams else self._batches
        batches = read(process_index, num_processes)
        device = next(self.teacher.parameters(), torch.empty(0)).device
        missing = [] if self.streams else self.plan.missing(process_index, num_processes)
        bar = logging.tqdm(
            total=None if self.streams else sum(self.plan.rows_of(shard) for shard in missing),
            desc="Storing explanations",
            unit=" samples",
            disable=not self.progress or process_index > 0,
        )
        most_targets = 0
        with evaluating(self.teacher), _without_parameter_gradients(self.teacher), bar:
            try:
                for shard, places, ids, batch, text in batches:
                    if shard != number:
                        if writer is not None:
                            self.plan.close(writer, number, most_targets)
                        writer, number, most_targets = None, shard, 0
                    rows, fields, targets = self.encoder(ids, self._explain(batch, device), text)
                    if writer is None:
                        writer = self.plan.writer(shard, fields)
                    writer.add(rows, places)
                    most_targets = max(most_targets, targets)
                    bar.update(len(ids))
                if writer is not None:
                    self.plan.close(writer, number, most_targets)
            except BaseException:
                if writer is not None:
                    writer.abandon()
                if num_processes == 1 and not any(self.folder.glob("shard-*")):
                    # Nothing is kept that another attempt, with what was wrong mended, would have to match.
                    (self.folder / PLAN_FILE).unlink(missing_ok=True)
                raise

    def finish(self) -> bool:
        """Write the description of the whole store, once all processes have made their shards.

        Returns:
            Whether all shards are there.

        Raises:
            StoreError: ids that occur twice, or shards of other data or other grids than the rest.
        """
        if (self.folder / STORE_FILE).is_file():
            return True
        plan = read_plan(self.folder)
        if plan["count"] is None:
            return False
        notes = self.plan.finished(plan["count"])
        if notes is None:
            return False
        infos = [ShardInfo(**note["shard"]) for note in notes]
        digest = plan_digest(plan)
        ids = list(Shards(self.folder, infos, {}, digest).ids())
        refuse_duplicates(ids)
        write_json(
            self.folder / STORE_FILE,
            {
                "format": FORMAT,
                "key": plan["key"],
                "digest": digest,
                "field_of_view": plan["field_of_view"],
                "count": plan["count"],
                "targets": max(note["targets"] for note in notes),
                "layout": "image" if plan["key"]["text"] is None else "text",
                "ids": {**plan["ids"], "fingerprint": fingerprint(ids)},
                "fields": notes[0]["fields"],
                "shards": [asdict(info) for info in infos],
                "versions": _versions(),
            },
        )
        for leftover in (*self.folder.glob("shard-*.json"), *self.folder.glob("shard-*.tmp"), self.folder / PLAN_FILE):
            leftover.unlink(missing_ok=True)
        return True

    def _write_plan(self, count: int | None) -> None:
        plan = {
            "format": FORMAT,
            "key": self.key,
            "field_of_view": self.field_of_view,
            "count": count,
            "ids": {**self._ids(), "probes": self.probes},
        }
        write_json(self.folder / PLAN_FILE, plan)

    def _ids(self) -> dict[str, Any]:
        """The part of the description's `ids` that is known beforehand."""
        return {
            "column": self.id_column,
            "rows_per_shard": self.rows_per_shard,
            "count": self.count,
            "fingerprint": None if self.ids is None else fingerprint(self.ids),
        }

    # ---- Samples -------------------------------------------------------------------------------------------------

    def _batches(self, process_index: int, num_processes: int) -> Iterator[Batch]:
        """Batches of the missing shards, none of which reaches over a shard's end."""
        batches: list[tuple[int, Any]] = []
        for shard in self.plan.missing(process_index, num_processes):
            first = shard * self.rows_per_shard
            numbers = self._in_batches_of_similar_length(range(first, first + self.plan.rows_of(shard)))
            for start in range(0, len(numbers), self.batch_size):
                batches.append((shard, numbers[start : start + self.batch_size]))
        if not batches:
            return
        loader = DataLoader(
            IndexedDataset(self.dataset),
            batch_sampler=[rows for _, rows in batches],
            num_workers=self.num_workers,
            collate_fn=Collate(self.collate, self.id_column if self.ids is None else None),
        )
        for (shard, numbers), (ids, batch, text) in zip(batches, loader, strict=True):
            known = ids if self.ids is None else [self.ids[number] for number in numbers]
            yield shard, [number - shard * self.rows_per_shard for number in numbers], known, batch, text

    def _in_batches_of_similar_length(self, numbers: range) -> Sequence[int]:
        """Order a shard's texts by length, which saves most of the padding; images stay where they are.

        The longest come first, so that what doesn't fit in memory fails at once.
        """
        if not isinstance(self.collate, SpanCollator):
            return numbers  # a range: lists would hold the number of every image
        columns = self.collate.text_columns
        samples = samples_of(self.dataset, list(numbers))
        lengths = [sum(map(len, texts_of(sample, columns))) for sample in samples]
        return sorted(numbers, key=lambda number: lengths[number - numbers.start], reverse=True)

    def _stream(self, process_index: int, num_processes: int) -> Iterator[Batch]:
        """The same of a data set that can only be read from its beginning."""
        collate = Collate(self.collate, self.id_column)
        samples = enumerate(iter(self.dataset))
        read = 0
        while True:
            shard, first = divmod(read, self.rows_per_shard)
            part = list(islice(samples, min(self.batch_size, self.rows_per_shard - first)))
            if not part:
                break
            read += len(part)
            if shard % num_processes == process_index and self.plan.note(shard) is None:
                yield (shard, range(first, first + len(part)), *collate(part))
        if read == 0:
            raise StoreError("The data set is empty: there is nothing to store.")
        self._write_plan(read)

    # ---- Explanations --------------------------------------------------------------------------------------------

    def _explain(self, batch: Mapping[str, Any], device: torch.device) -> Explanation:
        parameters = inspect.signature(self.teacher.forward).parameters
        accepted = {*parameters, "pixel_values", "input_ids", *LAYOUT_COLUMNS}
        # A wrapper of the user's own hands on what it doesn't name.
        if not isinstance(self.teacher, PreTrainedModel) and any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            accepted |= {"attention_mask", *TOKEN_COLUMNS}
        inputs = {
            name: value.to(device)
            for name, value in (teacher_inputs(batch) or batch).items()
            if isinstance(value, torch.Tensor) and name in accepted and name != "labels"
        }
        labels = batch.get("labels")
        labels = labels.to(device) if isinstance(labels, torch.Tensor) else None
        inputs = in_own_precision(self.teacher, inputs)
        return self.explainer(self.teacher, inputs, lambda logits: self.choose(logits, labels))


def _versions() -> dict[str, str]:
    return {
        "hf_e2kd": __version__,
        **{name: version(name) for name in ("torch", "transformers", "datasets", "pyarrow")},
    }


@contextmanager
def _without_parameter_gradients(model: nn.Module) -> Iterator[None]:
    """No parameter asks for a gradient for a while, so that only the explanation's own is computed."""
    asked = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in asked:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in asked:
            parameter.requires_grad_(True)
