"""Publishing of a `Trainer`'s student with its measured figures; a failed upload never loses the training."""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from torch import nn
from transformers import Trainer
from transformers.trainer_utils import HubStrategy, SaveStrategy
from transformers.utils import PushInProgress

from ..alignment.inputs import image_view
from ..architectures.sharding import whole
from ..callbacks.panels import CARD_ROWS, CHOOSE_FROM, ExplanationPanels
from ..cards.card import save_card
from ..cards.measures import MEASURES
from ..fidelity import FIDELITY_FILE, FidelityRecord, MetricValue, ModelRecord, measure_fidelity
from ..fidelity.describe import describe_data, describe_explainer, describe_model
from ..fidelity.measure import problem_of
from ..fidelity.training import describe_training
from ..hub.ids import check_repo_id, loaded_from_hub
from ..hub.upload import (
    NOT_PUBLISHED,
    check_online,
    named_repo,
    push_folder,
    repo_name,
    retried,
    warn_of_failed_uploads,
)
from ..logs import get_logger
from ..references import TeacherReference

logger = get_logger(__name__)

PICTURE = "explanations.png"

# What a checkpoint holds of the student, and not of the training.
_MODEL_FILES = (
    *("config.json", "generation_config.json", "adapter_config.json"),
    *("*.safetensors", "*.safetensors.index.json", "*.bin"),
)


class PublishingMixin(Trainer):
    """Mixin: save before uploading, repeat uploads that failed temporarily, and give the remedy for other failures."""

    hub_model_id: str | None
    # The Hub id of the checkpoint that the student started from.
    base_model: str | None = None
    push_in_progress: Any
    _measured: "_Measured | None" = None
    _evaluated_on: Any
    connect_again: Any

    # ---- Measured, and written down ------------------------------------------------------------------------------

    def measure_fidelity(self, dataset: Any = None, **options: Any) -> FidelityRecord:
        """Measure the student as it is now, for its card and for `fidelity.json`.

        Every process must call it. See `hf_e2kd.fidelity.measure_fidelity` for the options, among them the number of
        `samples` (1,000) and other students to show beside it: `compared={"plain KD": model}`.

        Args:
            dataset: Data set to measure on; `eval_dataset` by default. Of several in a dictionary the last that has a
                length.
        """
        self.connect_again()
        given = self.eval_dataset if dataset is None else dataset
        if isinstance(given, dict):
            sized = {name: data for name, data in given.items() if hasattr(data, "__len__")}
            if not sized:
                raise ValueError(f"None of the data sets {', '.join(given)} has a length, so no samples can be drawn.")
            split, given = list(sized.items())[-1]
            options = {"split": split, **options}
        record = measure_fidelity(self, given, **options)
        record = replace(record, training=describe_training(self, self.base_model))
        self._measured = _Measured(record, given, self.eval_dataset)
        return record

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: str | list[str] | None = None,
        dataset_tags: str | list[str] | None = None,
        dataset: str | list[str] | None = None,
        dataset_args: str | list[str] | None = None,
        *,
        measure: bool = False,
        fidelity: FidelityRecord | None = None,
        picture: str | None = None,
        repo_id: str | None = None,
    ) -> None:
        """Write the student's card, `fidelity.json` and a picture of its explanations into `output_dir`.

        Every process must call it. The first arguments are `Trainer`'s, and go before what the record says.

        Args:
            measure: Measure a student that has changed since it was measured, on the evaluation data, as `push_to_hub`
                does. Otherwise the card of such a student holds no figures and says how to measure them.
            fidelity: Record to write, instead of measuring.
            picture: File name of a picture in `output_dir`; by default one is drawn. Where none is, an earlier
                student's `explanations.png` is removed.
            repo_id: Repository of the student, `"user/name"`; by default `hub_model_id`, if it has that form.
        """
        record = self._current_record(measure) if fidelity is None else fidelity
        if picture is None and fidelity is None and self._measured is not None and record is self._measured.record:
            picture = self._draw_panel(self._measured.dataset)
        if not self.is_world_process_zero():
            return
        if hasattr(self.model, "peft_config"):
            logger.warning(
                "The card's code loads a whole model, and an adapter is saved. Merge it before you publish: "
                "trainer.model.merge_and_unload().save_pretrained(FOLDER)."
            )
        if repo_id is None and "/" in (self.hub_model_id or ""):
            repo_id = self.hub_model_id
        folder = Path(self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        self._write_record(record)
        if picture is None:
            (folder / PICTURE).unlink(missing_ok=True)
        called, config = (_first(each) for each in (dataset, dataset_args))
        data = replace(record.data, name=called or record.data.name, config=config or record.data.config)
        record = replace(record, data=data)
        metadata = {
            "language": language,
            "license": license,
            "tags": [
                *([tags] if isinstance(tags, str) else tags or ()),
                *(getattr(self.model, "model_tags", None) or ()),
            ],
            "model_name": model_name,
            "base_model": finetuned_from,
            "pipeline_tag": _first(tasks),
            "datasets": dataset_tags,
        }
        save_card(
            record,
            folder,
            repo_id=repo_id,
            picture=picture,
            **{name: value for name, value in metadata.items() if value},
        )

    def _current_record(self, measure: bool) -> FidelityRecord:
        """Return the record of the student as it is, measured now if need be, if it shall be and there are samples.

        Of data without a length no samples can be drawn: the card takes the figures of an evaluation at this step.
        """
        measured = self._measured
        # Of a sharded student each process has a share, so that each of them asks.
        same_data = measured is not None and measured.eval_dataset is self.eval_dataset
        weights = describe_model(whole(self.student), published=False).weights if same_data else None
        if measured is not None and measured.record.student.weights == weights:
            return measured.record
        data = self.eval_dataset.values() if isinstance(self.eval_dataset, dict) else [self.eval_dataset]
        sized = any(hasattr(each, "__len__") for each in data)
        if sized and measure:
            return self.measure_fidelity()
        # The best checkpoint's weights are not those of the last evaluation.
        figures = {} if sized or self.args.load_best_model_at_end else self._last_figures()
        if not figures:
            remedy = (
                "call trainer.measure_fidelity() first" if sized else "call trainer.measure_fidelity(dataset) first"
            )
            reason = "the student was not measured" if sized else "no evaluation data has a length to draw samples from"
            logger.warning(f"The card holds no figures: {reason}. For figures {remedy}.")
        return self._record_without_measuring(figures)

    def _record_without_measuring(self, figures: dict[str, MetricValue], step: int | None = None) -> FidelityRecord:
        student: nn.Module = self.student
        return FidelityRecord(
            modality="image" if getattr(student, "main_input_name", "pixel_values") == "pixel_values" else "text",
            problem=problem_of(student),
            student=ModelRecord(None, getattr(student.config, "architecture", None) or type(student).__name__),
            teacher=next((_named(model) for model in self._teachers()), None),
            data=describe_data(_last(self.eval_dataset)),
            explainer=describe_explainer(self.explainer),
            figures=figures,
            training=describe_training(self, self.base_model),
            step=step,
            created=date.today().isoformat(),
        )

    def _teachers(self) -> Iterable[nn.Module]:
        return (reference.model for reference in self.references.values() if isinstance(reference, TeacherReference))

    def _write_record(self, record: FidelityRecord) -> None:
        """Write the record; files of an earlier student are removed."""
        folder = Path(self.args.output_dir)
        if record.figures and record.data.samples:
            record.save(folder)
        else:
            for name in (FIDELITY_FILE, PICTURE):
                (folder / name).unlink(missing_ok=True)

    def _draw_panel(self, dataset: Any) -> str | None:
        """Draw the first samples; None where nothing is explained, or can't be drawn."""
        if not (self.references and self.explains):
            return None
        try:
            panels = ExplanationPanels(self, dataset, count=CARD_ROWS, choose_from=CHOOSE_FROM)
        except ValueError as error:
            logger.warning(f"The card has no picture. {error}")
            return None
        figure = panels.draw()
        if self.is_world_process_zero():
            Path(self.args.output_dir).mkdir(parents=True, exist_ok=True)
            figure.savefig(Path(self.args.output_dir) / PICTURE, dpi=150)
        return PICTURE

    # ---- Saved, and uploaded -------------------------------------------------------------------------------------

    def _save(self, *arguments: Any, **keywords: Any) -> None:
        _state_view(self.student, self.processing_class)
        # `Trainer` pickles the arguments beside the weights, and publishes both.
        token, self.args.hub_token = self.args.hub_token, None
        try:
            super()._save(*arguments, **keywords)
        finally:
            self.args.hub_token = token

    def init_hf_repo(self, *arguments: Any, **keywords: Any) -> None:
        check_repo_id(repo_name(self.args))
        check_online()
        retried(partial(super().init_hf_repo, *arguments, **keywords))

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **card: Any,
    ) -> Any:
        """Save the student, measure it, write its card and upload all, as `Trainer` does with the same arguments.

        It is saved before anything goes over the network, so that whatever fails there costs no training. What fails
        in passing is tried again, and calling it anew sends what is missing.

        Raises:
            ValueError: the repository's name can't be one.
            UploadError: (an OSError) saying where the student lies and how to finish the upload.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        self.save_model(_internal_call=True)
        repo_id = self.hub_model_id or repo_name(self.args)
        main = self.is_world_process_zero()
        named = named_repo(repo_id, token or self.args.hub_token) if main else None
        try:
            self.create_model_card(**{"model_name": repo_id.split("/")[-1], "repo_id": named, "measure": True, **card})
        except Exception:
            # What was trained for hours isn't withheld for its description.
            logger.exception(
                "The card could not be made, and the student is uploaded without it. Once the reason above is mended, "
                "call push_to_hub() again."
            )
        if not main:
            return None
        self._finish_current_push()
        upload = partial(
            push_folder,
            self.args.output_dir,
            repo_id,
            private=self.args.hub_private_repo if private is None else private,
            revision=revision or self.args.hub_revision,
            token=token or self.args.hub_token,
            commit_message=commit_message or "End of training",
            ignore_patterns=NOT_PUBLISHED,
        )
        if not blocking:
            return HfApi().run_as_future(upload)
        commit = upload()
        self.hub_model_id = commit.repo_url.repo_id
        return commit

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Upload a checkpoint's student in the background, with a card of the last evaluation's figures."""
        args = self.args
        if not self.is_world_process_zero() or args.hub_strategy == HubStrategy.END:
            return
        before = self.push_in_progress
        if before is not None and not before.is_done() and not args.hub_always_push:
            return
        self.callback_handler.on_push_begin(args, self.state, self.control)
        output, checkpoint = Path(args.output_dir), Path(checkpoint_folder)
        # The checkpoint's own training arguments too: they were pickled without the token.
        for pattern in (*_MODEL_FILES, "training_args.bin"):
            for file in checkpoint.glob(pattern):
                if not file.name.startswith(("optimizer", "scheduler", "terms")):
                    shutil.copy(file, output / file.name)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(output)
        record = self._record_without_measuring(self._last_figures(), step=self.state.global_step)
        self._write_record(record)
        save_card(record, output, repo_id=self.hub_model_id)
        at = (
            f"step {self.state.global_step}"
            if args.save_strategy == SaveStrategy.STEPS
            else f"epoch {int(self.state.epoch or 0)}"
        )
        upload = partial(
            HfApi(token=args.hub_token).upload_folder,
            repo_id=self.hub_model_id,
            commit_message=f"Training in progress, {at}",
            run_as_future=True,
            revision=args.hub_revision,
        )
        jobs = [upload(folder_path=output, ignore_patterns=list(NOT_PUBLISHED))]
        if args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            name = "last-checkpoint" if args.hub_strategy == HubStrategy.CHECKPOINT else checkpoint.name
            jobs.append(upload(folder_path=checkpoint, path_in_repo=name))
        if before is None or before.is_done():
            self.push_in_progress = PushInProgress(jobs)
        else:
            before.jobs.extend(jobs)
        warn_of_failed_uploads(self, before)

    def _last_figures(self) -> dict[str, MetricValue]:
        """Return the figures of an evaluation at this very step, by the names of a record; empty without one.

        Of the trainer's own evaluation data, which the card names.
        """
        figures = {}
        others = [entry for entry, data in self._evaluated_on if data is not self.eval_dataset]
        for entry in self.state.log_history:
            is_other = any(entry is other for other in others)
            if entry.get("step") == self.state.global_step and not is_other:
                for name, value in entry.items():
                    if name.removeprefix("eval_") in MEASURES and name.startswith("eval_"):
                        figures[name.removeprefix("eval_")] = MetricValue(float(value))
        return figures

    def _finish_current_push(self) -> None:
        super()._finish_current_push()
        warn_of_failed_uploads(self, getattr(self, "push_in_progress", None))


@dataclass(frozen=True)
class _Measured:
    """A record, the data set of its measurement, and the evaluation data that the trainer had then."""

    record: FidelityRecord
    dataset: Any
    eval_dataset: Any


def _state_view(student: nn.Module, processor: Any) -> None:
    """Write the student's view of images into a timm configuration, which alone is read for its processor."""
    from transformers import TimmWrapperForImageClassification

    if not isinstance(student, TimmWrapperForImageClassification) or processor is None:
        return
    try:
        view = image_view(processor)
    except ValueError as error:
        logger.warning(f"The student's config.json states timm's own image processor, not the one given. {error}")
        return
    student.config.pretrained_cfg = {**(student.config.pretrained_cfg or {}), **view.timm_settings()}


def _named(model: nn.Module) -> ModelRecord:
    """Describe a model by its name alone: a digest of its weights would hold up the training."""
    config = getattr(model, "config", None)
    return ModelRecord(
        loaded_from_hub(getattr(config, "_name_or_path", None)),
        getattr(config, "architecture", None) or type(model).__name__,
    )


def _first(given: str | list[str] | None) -> str | None:
    return next(iter(given), None) if isinstance(given, list) else given


def _last(dataset: Any) -> Any:
    return list(dataset.values())[-1] if isinstance(dataset, dict) else dataset
