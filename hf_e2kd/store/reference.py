"""The stored teacher: its logits and maps, computed once ("frozen explanations", e²KD, ECCV 2024)."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from torch import nn
from torch.utils.data import IterableDataset
from transformers import DataCollatorWithPadding, default_data_collator

from ..alignment.labels import LabelAlignment, align_names, class_count, class_names, is_score, parts_of
from ..alignment.scores import refuse_one_shared_class
from ..architectures.functions import uncompiled, without_adapter, without_autocast
from ..architectures.refusals import refuse_offloaded
from ..data.explanation_map import ExplanationMap
from ..data.text import TextCollator
from ..explainers import Explainer, build_explainer
from ..references.base import Reference, ReferenceOutput
from ..terms.matching import mask_target
from .build import StoreBuilder
from .description import read_description
from .files import STORE_FILE, StoreError
from .hub_dataset import download_store, upload_store
from .ids import IdIndex, check_order, stated_ids, warn_of_other_samples
from .joining import AttachedDataset, AttachedStream, attached_parts, unattached
from .key import (
    explainer_key,
    field_of_view,
    processor_key,
    require_comparable,
    require_same,
    stated_field,
    teacher_key,
)
from .processes import building_alone, launched_processes
from .rows import MAP, VECTORS, RowDecoder
from .samples import distillation_transform, warn_of_augmentation
from .shards import ShardInfo, Shards, fields_from_json, fingerprint
from .targets import refuse_mixed, student_classes, warn_of_unknown_targets

_OF_TEXTS = ("logits", "target", MAP, "mask")


class StoredReference(Reference):
    """Logits and maps of a teacher that looked at the data once. Training needs the teacher no more.

    Build a store with `StoredReference.build`, give the trainer `reference.attach(dataset)` to train on, and the
    reference itself. Maps belong to the samples without augmentation, at the explainer's own grid; where the data is
    augmented, a column `view_matrix` says how the image was moved (`DistillationTransform(record_view=True)`), and the
    map is read at the places that the student sees. Of methods that explain by vectors (B-cos), the scalar maps are
    stored and matched, unless the store was built with `vectors`.

    Args:
        folder: Folder of the store.
        verify: Compare the checksums of all files. Otherwise their presence and size are checked, and each
            shard's structure, number of rows and store when it is first read.
        prefix: Beginning of the names of the columns that the reference reads; two stores in one training need two.
        allow_explainer_mismatch: Let the student be explained by another method than the teacher was, or in another
            sense (signed or not, by another rule).
        reference_options: Keywords of `Reference`: `explanation_weight`, `explanation_loss`, `logits_weight`.

    Inputs:
        `reference_logits` (B, teacher_classes), `reference_target` (B,) classes of the teacher and `reference_map`
        (B, h, w) float32, as `attach` gives them, and `reference_vectors` (B, C, h, w) where they are stored; with
        several targets a sample `reference_target` (B, K) padded by −1 and `reference_map` (B, K, h, w). Of texts,
        `StoredTextCollator` makes `reference_map` (B, W) and `reference_mask` (B, W) over the student's words.
        `view_matrix` (B, R, 3) of augmented images; or `reference_map` is a batch of `hf_e2kd.data.ExplanationMap`,
        augmented with the image.

    Raises:
        StoreError: (a ValueError) the store is unfinished or damaged, naming the file; or it was built with something
            else than it is used with, showing both values.

    Example:

        StoredReference.build(teacher, train, "store", processing_class=processor, id_column="image_id")
        reference = StoredReference("store")
        trainer = ExplanationDistillTrainer(
            student, args, train_dataset=reference.attach(train), references={"teacher": reference}
        )
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        verify: bool = False,
        prefix: str = "reference",
        allow_explainer_mismatch: bool = False,
        **reference_options: Any,
    ):
        super().__init__(**reference_options)
        self.folder = Path(folder)
        self.description = read_description(self.folder)
        infos = [ShardInfo(**shard) for shard in self.description["shards"]]
        self.shards = Shards(
            self.folder, infos, fields_from_json(self.description["fields"]), self.description.get("digest")
        )
        if len(self.shards) != self.description["count"]:
            raise StoreError(
                f"{self.folder / STORE_FILE} states {self.description['count']} samples, and its shards hold "
                f"{len(self.shards)}. Get the file anew, or build the store anew."
            )
        self.shards.check(verify)
        self.prefix = prefix
        self.allow_explainer_mismatch = allow_explainer_mismatch
        self.is_text = self.description["layout"] == "text"
        key = self.description["key"]
        rule = key["target"]["rule"]
        # Under the names of a live teacher's rules, for records.
        self.target = "teacher_top" if rule == "teacher_top" else "label"
        targets = self.description["targets"] if rule == "positives" else None
        self.decoder = RowDecoder(self.shards, self.classes, targets, prefix)
        # Of a text, the collator makes a map over words of the tokens' scores.
        self.columns = tuple(f"{prefix}_{name}" for name in _OF_TEXTS) if self.is_text else self.decoder.columns
        self.alignment: LabelAlignment | None = None
        self.scores = False
        self._index: IdIndex | None = None

    # ---- Building and loading ------------------------------------------------------------------------------------

    @classmethod
    def build(
        cls, teacher: nn.Module, dataset: Any, output_dir: str | os.PathLike[str], **options: Any
    ) -> "StoredReference":
        """Compute the teacher's logits and maps of every sample, in one forward pass a batch, and load the store.

        The teacher runs in evaluation mode; afterwards it is as it was, on this process's device. Under `accelerate
        launch` each process makes its share of the shards. A building that was interrupted goes on where it stopped
        when it is called again; a finished one is loaded, and one that another process is building is waited for.

        Args:
            teacher: Classifier of transformers, timm or your own.
            dataset: Samples that are dictionaries: a `datasets.Dataset`, a list, a data set of torch; or a stream of
                `datasets` or torch. Without random augmentation.
            output_dir: Folder of the store.
            explainer: Method by which the teacher is explained, a name or an `Explainer`; by default images by
                `"gradcam"`, texts by `"integrated_gradients"`.
            processing_class: Image processor or tokenizer of the teacher. It makes the teacher's inputs where the
                samples don't hold them already, and the store is keyed by it.
            transform: Function that makes the teacher's inputs of a `datasets.Dataset`'s rows, as for `set_transform`.
            collator: Function that makes batches of samples; columns that begin with `teacher_` go to the teacher
                alone.
            id_column: Column of the samples' ids, whole numbers or texts. Without it a sample is known by its position,
                and the data must keep its order and may only be cut short at its end; where its order has changed,
                `attach` finds out by a few rows.
            target: Class that is explained: `"teacher_top"`, `"label"`, or each of the `"positives"` of labels
                (B, classes). Labels are matched with the teacher's classes by the names that the data states, else by
                number; where the teacher lacks a label's class, its top class is explained.
            classes: Names of the student's classes, where it has not all of the teacher's: the explained class is
                among these.
            top_k: Number of the largest logits that are stored; all by default. The other classes share equally what is
                left of the probability, so at temperature 1 the stored classes keep theirs exactly.
            dtype: Precision of logits and maps, `"float16"`, or `"float32"` to keep every digit.
            vectors: Store the vectors too, by which a method such as `"bcos"` explains each place, so that these are
                matched as with the teacher at hand: 6×H×W numbers a sample, 600 kB at 224 pixels in half precision.
            batch_size, num_workers: Options of the data loader.
            image_column, text_columns, label_column: Columns of the data.
            max_length: Longest text in tokens.
            teacher_name, revision: Hub id and commit for the record, where the teacher's configuration doesn't state
                them.
            rows_per_shard: Number of samples of one file, which is what an interruption may cost.
            progress: Show a progress bar.

        Raises:
            StoreError: the folder holds another store, showing both values; ids that occur twice; samples that differ
                each time they are read; maps of several grids.
            OSError: the disk is full, naming the file and the bytes needed. Finished shards stay.
        """
        state = launched_processes()
        if isinstance(teacher, nn.Module):
            teacher = without_adapter(uncompiled(teacher))
            refuse_offloaded(teacher, "teacher")
            teacher.to(state.device)
        builder = StoreBuilder(teacher, dataset, Path(output_dir), **options)
        with building_alone(builder.folder, builder.is_finished(), state):
            # The student of a training in bf16 would be stored in it.
            with without_autocast(teacher):
                builder.run(state.process_index, state.num_processes)
            state.wait_for_everyone()
            if state.is_main_process:
                builder.finish()
            state.wait_for_everyone()
        return cls(output_dir)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        license: str | None = None,
        token: str | bool | None = None,
        commit_message: str = "Stored explanations",
    ) -> str:
        """Publish the store as a data set with a card, and return its address.

        Paths that an earlier version wrote into store.json are taken out of it first; ids are published as they are.

        Args:
            repo_id: `"user/name"`.
            license: Identifier of the license on the Hub, for the card.

        Raises:
            ValueError: `repo_id` can't be one.
            UploadError: (an OSError) the upload failed; calling it again sends what is missing.
        """
        address, self.description = upload_store(
            self.folder,
            self.description,
            repo_id,
            private=private,
            license=license,
            token=token,
            commit_message=commit_message,
        )
        return address

    @classmethod
    def from_hub(
        cls, repo_id: str, *, revision: str | None = None, token: str | bool | None = None, **options: Any
    ) -> "StoredReference":
        """Download a store that was published; `options` as for the class."""
        return cls(download_store(repo_id, revision, token), **options)

    # ---- Compatibility ---------------------------------------------------------------------------------------------

    @property
    def classes(self) -> int:
        """The number of the teacher's classes."""
        fields = self.shards.fields
        return self.description["key"]["teacher"]["num_classes"] or int(fields["logits"].shape[0])

    def check(
        self,
        teacher: nn.Module | None = None,
        processing_class: Any = None,
        explainer: str | Explainer | None = None,
        student_processing_class: Any = None,
    ) -> None:
        """Refuse a teacher, a processor or an explainer with which the store was not built.

        Args:
            teacher: Classifier that must have the stored teacher's weights.
            processing_class: Image processor or tokenizer that must be the stored teacher's.
            explainer: Method that must have the stored one's name and options.
            student_processing_class: Image processor of the student; it must show the student the teacher's field of
                view, at whatever size, because the cells of a stored map are places in it. The trainer asks this
                itself.

        Raises:
            StoreError: showing both values.
        """
        given: dict[str, Any] = {}
        if teacher is not None:
            given["teacher"] = teacher_key(teacher)
        if processing_class is not None:
            given["processor"] = processor_key(processing_class)
        if explainer is not None:
            given["explainer"] = explainer_key(
                explainer if isinstance(explainer, Explainer) else build_explainer(explainer)
            )
        require_same(self.description["key"], given, self.folder, "Use what it was built with, or build another store.")
        self._refuse_another_view(field_of_view(student_processing_class), "the student's processor")

    def _refuse_another_view(self, own: Mapping[str, Any] | None, whose: str) -> None:
        seen = self.description["field_of_view"]
        if None not in (own, seen) and own != seen:
            raise StoreError(
                f"The maps in the store {self.folder} belong to the field of view {seen}, and {whose} shows {own}. "
                "Give the student a processor that crops as the teacher's does."
            )

    # ---- Data ----------------------------------------------------------------------------------------------------

    def attach(
        self, dataset: Any, id_column: str | None = None, folder: str | os.PathLike[str] | None = None
    ) -> AttachedDataset | AttachedStream:
        """Join the stored columns with a data set's samples; rows are read in the DataLoader's workers.

        With ids, the data may be in any order and be a part of what was stored; a warning tells of other samples under
        stored ids. Without, sample n is given row n: attach the data in the order of the building, and shuffle or
        filter afterwards.

        Args:
            dataset: Samples that are dictionaries; a stream's must bear ids. `Trainer` resumes a stream in the same
                order within its first pass alone, because it doesn't know where a pass ends.
            id_column: Column of the ids, if not the one of the building.
            folder: Folder of another store of the same teacher, such as that of the evaluation set.

        Raises:
            StoreError: a sample isn't in the store, naming its id; the data is in another order than the store.
        """
        if folder is not None:
            return self._like_me(folder).attach(dataset, id_column)
        ids = self.description["ids"]
        column = id_column or ids["column"]
        if column is not None and ids["column"] is None:
            raise StoreError(
                f"The store {self.folder} was built without an `id_column`, so its rows belong to positions. Leave "
                "`id_column` out, or build it with one."
            )
        if isinstance(dataset, IterableDataset | datasets.IterableDataset):
            if column is None:
                raise StoreError(
                    f"A stream's samples have no positions, and the store {self.folder} has no ids. Build it with an "
                    "`id_column`."
                )
            return AttachedStream(dataset, self.decoder, self._ids(), column)
        if not self.is_text:
            warn_of_augmentation(unattached(dataset))
        if column is None:
            return AttachedDataset(dataset, self.decoder, self._positions(dataset))
        # Under the columns of another store, which the data may bear already.
        own = stated_ids(unattached(dataset), column)
        if own is None:
            return AttachedDataset(dataset, self.decoder, None, self._ids(), column)
        same_order = len(own) == len(self.shards) and fingerprint(own) == ids["fingerprint"]
        rows = np.arange(len(own)) if same_order else self._ids().rows(own)
        warn_of_other_samples(unattached(dataset), rows, ids["probes"], column, self.folder)
        return AttachedDataset(dataset, self.decoder, rows)

    def _positions(self, dataset: Any) -> np.ndarray:
        if len(dataset) > len(self.shards):
            raise StoreError(
                f"Sample {len(self.shards)} of the data is not in the store {self.folder}: the data has {len(dataset)} "
                f"samples, and {len(self.shards)} are stored. Build a store of all the data that is trained on."
            )
        check_order(unattached(dataset), self.description["ids"]["probes"], self.folder)
        return np.arange(len(dataset))

    def _ids(self) -> IdIndex:
        if self._index is None:
            self._index = IdIndex(self.shards)
        return self._index

    def _like_me(self, folder: str | os.PathLike[str]) -> "StoredReference":
        other = StoredReference(folder, prefix=self.prefix)
        names = ("teacher", "explainer")
        given = {name: other.description["key"][name] for name in names}
        # `classes` may differ: those that the student lacks are warned of.
        given["target"] = {**self.description["key"]["target"], "rule": other.description["key"]["target"]["rule"]}
        remedy = f"The store {folder} must be of the same teacher, and explain the same class."
        require_same(self.description["key"], given, self.folder, remedy)
        seen, others = self.description["field_of_view"], other.description["field_of_view"]
        if None not in (seen, others) and seen != others:
            raise StoreError(
                f"The maps in the store {folder} belong to the field of view {others}, and those in {self.folder} to "
                f"{seen}. Build both with processors that crop alike."
            )
        return other

    # ---- As a reference ------------------------------------------------------------------------------------------

    def setup(self, student: nn.Module, explainer: Explainer | None) -> None:
        key = self.description["key"]
        self.scores = is_score(student) and self.classes == 1
        self.alignment = align_names(
            key["teacher"]["classes"], class_names(student), self.classes, class_count(student), self.scores
        )
        refuse_one_shared_class(self.alignment)
        if explainer is not None and not self.allow_explainer_mismatch:
            require_comparable(key["explainer"], explainer, self.folder)
        warn_of_unknown_targets(self.shards, self.alignment)

    def check_processor(self, processing_class: Any) -> None:
        self.check(student_processing_class=processing_class)

    def check_data(self, dataset: Any, explains: bool) -> None:
        joined = [each.decoder for each in attached_parts(dataset) if each.decoder.columns[0] == self.columns[0]]
        if len({decoder.targets for decoder in joined}) > 1:
            found = " and ".join(f"{each.targets} in {each.shards.folder}" for each in joined)
            raise StoreError(
                f"The data joins samples of several stores, with up to so many explained classes each: {found}. They "
                "make no common batch. Build one store of all of them: StoredReference.build(teacher, "
                "torch.utils.data.ConcatDataset([…]), folder, target='positives')."
            )
        for part in parts_of(dataset) if explains else ():
            transform = distillation_transform(part)
            shown = None if transform is None or self.is_text else stated_field(transform.student)
            self._refuse_another_view(shown, "the data's DistillationTransform")

    def check_collator(self, collator: Any) -> None:
        known = isinstance(collator, DataCollatorWithPadding | TextCollator) or collator is default_data_collator
        if self.is_text and known:
            raise StoreError(
                f"A stored explanation of a text has as many numbers as the text has tokens, which "
                f"{getattr(collator, '__name__', type(collator).__name__)} can't put into a batch. Give the trainer "
                "data_collator=StoredTextCollator(TextCollator(tokenizer)) and the texts themselves."
            )

    def student_logits(self, logits: torch.Tensor) -> torch.Tensor:
        return self._bound().student_logits(logits)

    def to_student(self, shared: torch.Tensor) -> torch.Tensor:
        return self._bound().to_student(shared)

    @torch.no_grad()
    def __call__(self, inputs: Mapping[str, Any], with_maps: bool = True) -> ReferenceOutput:
        alignment = self._bound()
        # The first two are logits and target.
        needed = self.columns if with_maps else self.columns[:2]
        missing = [column for column in needed if column not in inputs]
        if missing:
            how = " and make batches by StoredTextCollator(TextCollator(tokenizer))" if self.is_text else ""
            raise StoreError(
                f"The batch has no column {missing}. Give the trainer `reference.attach(dataset)`{how}; for "
                "another data set, such as one to evaluate on, build a store of its own: "
                "`reference.attach(dataset, folder=...)`."
            )
        reference_output = {column.removeprefix(f"{self.prefix}_"): inputs[column] for column in needed}
        target = mask_target(student_classes(alignment, reference_output["target"]), inputs.get("explained"))
        labels = None if self.scores else inputs.get("labels")
        if labels is not None and (labels.ndim != 1 or labels.is_floating_point()):
            refuse_mixed(labels, self.folder)
            labels = None
        view_matrix = inputs.get("view_matrix") if with_maps and not self.is_text else None
        if with_maps and not self.is_text and reference_output[MAP].ndim == target.ndim + 1:
            # Collated `ExplanationMap`s.
            packed = reference_output[MAP].as_subclass(ExplanationMap)
            reference_output[MAP], view_matrix = packed.maps, packed.matrix if target.ndim == 1 else packed.matrix[:, 0]
        return ReferenceOutput(
            target=target,
            maps=reference_output[MAP].float() if with_maps else None,
            view_matrix=view_matrix,
            vectors=reference_output[VECTORS].float() if VECTORS in reference_output else None,
            mask=reference_output.get("mask"),
            logits=alignment.teacher_logits(reference_output["logits"].float()),
            shared_labels=None if labels is None else alignment.student_to_shared(labels),
        )

    def _bound(self) -> LabelAlignment:
        if self.alignment is None:
            raise RuntimeError("Give the reference to a trainer, or call `setup(student, explainer)`, before using it.")
        return self.alignment
