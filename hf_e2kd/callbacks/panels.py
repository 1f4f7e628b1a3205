"""Pictures of the student's explanations during the training, logged beside its losses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from PIL import Image
from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback
from transformers.trainer_utils import has_length

from ..alignment.captions import joined_names, predicted_names
from ..alignment.inputs import image_view
from ..alignment.labels import class_names, is_score, labels_belong_to
from ..architectures.base import evaluating
from ..cards.choice import at_quantiles, rule
from ..data.first_samples import first_samples, keeping_random_state
from ..data.images import sample_names
from ..data.text import TextCollator
from ..fidelity import sample_metrics
from ..logs import get_logger
from ..terms import ReferenceOutput, StepOutput
from ..terms.matching import align_maps, flatten_targets

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = get_logger(__name__)

TAG = "eval/explanations"
"""What the picture is called in the logs."""

DPI = 110

CARD_ROWS, CHOOSE_FROM = 2, 64
"""Samples in a card's picture, and the number of samples that they are chosen from."""

# Reporters that are used alike: `module.log({name: module.Image(picture)})`.
_MODULES = {WandbCallback: "wandb", TrackioCallback: "trackio"}


class ExplanationPanels(TrainerCallback):
    """Callback that logs a picture of the same samples' explanations by references and student at each evaluation.

    It goes to those of TensorBoard, W&B and trackio that `report_to` names, as the losses do. The references are asked
    once, the student once an evaluation, in evaluation mode and without a trace in its mode or in the random numbers
    of the training. Of a sample with several targets the first is drawn.

    Args:
        trainer: The trainer whose student is drawn, an `ExplanationDistillTrainer`.
        samples: Data set, or list of samples, as the trainer takes it for evaluations. By default the trainer's
            evaluation data; of several data sets the last.
        count: Number of its samples that are drawn.
        choose_from: Number of its first samples among which those at evenly spaced quantiles of similarity are drawn,
            so that the picture shows good and bad ones alike; None draws the first samples as they come.

    Raises:
        ValueError: there is no sample, or nothing that is explained; texts without a tokenizer; an image processor
            whose normalisation can't be undone. Without any processor, each image is stretched from its smallest value
            to its largest.

    Example:

        trainer = ExplanationDistillTrainer(student, args, eval_dataset=…, teacher_model=teacher, …)
        trainer.add_callback(ExplanationPanels(trainer, count=6))
    """

    def __init__(self, trainer: Any, samples: Any = None, count: int = 6, choose_from: int | None = None):
        if not trainer.references or not trainer.explains:
            raise ValueError(
                "There is no explanation to draw: give the trainer a `teacher_model` or `references`, and leave "
                "explanation_weight above 0 or evaluate_explanations on."
            )
        if count < 1:
            raise ValueError(f"count must be at least 1, not {count}.")
        if samples is None:
            data = trainer.eval_dataset
            samples = list(data.values())[-1] if isinstance(data, dict) else data
        if samples is None or (has_length(samples) and len(samples) == 0):
            raise ValueError("There is no sample to draw. Give `samples`, or the trainer an eval_dataset.")
        self.trainer = trainer
        self.note, self.names = "", None
        with keeping_random_state(trainer.args.device):
            shown = first_samples(samples, max(count, choose_from or 0))
            values = None if choose_from is None else self._similarities(shown, samples)
            # None where the reference's maps are all-zero.
            if values is not None and (chosen := at_quantiles(values, count)):
                self.note, self.names = rule(len(chosen), len(shown), "similarity"), sample_names(samples, chosen)
                shown = [shown[row] for row in chosen]
            shown = shown[:count]
            self.batch = self._collated(shown, samples)
        collator = trainer.data_collator.collator
        self.texts: list[tuple[str, ...]] | None = None
        if isinstance(collator, TextCollator) and set(collator.text_columns) <= shown[0].keys():
            self.texts, self.words = collator.read_texts(shown), collator.words(shown)
        tokenizer = trainer.processing_class or trainer.data_collator.tokenizer
        self.tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
        self.images: torch.Tensor | None = None
        if "pixel_values" in self.batch:
            self.images = _intensities(self.batch["pixel_values"], trainer.processing_class)
        elif self.tokenizer is None:
            raise ValueError(
                "Texts can't be read without their tokenizer. Give the trainer processing_class=tokenizer."
            )
        self._reference_outputs: dict[str, ReferenceOutput] | None = None
        self._drawn_at: int | None = None

    def _collated(self, shown: list[Any], samples: Any) -> dict[str, Any]:
        """Collate samples, without labels of other classes than the student's."""
        batch = self.trainer.collate(shown, samples)
        if labels_belong_to(samples, self.trainer.student, self.trainer.data_collator.label_column):
            return batch
        return {name: values for name, values in batch.items() if name != "labels"}

    def _similarities(self, shown: list[Any], samples: Any) -> torch.Tensor | None:
        """Measure the similarity of the first target of each sample (N,); None where no reference has one."""
        trainer, found = self.trainer, []
        name = "explanation_similarity"
        with evaluating(trainer.student):
            for start in range(0, len(shown), trainer.args.eval_batch_size):
                batch = self._collated(shown[start : start + trainer.args.eval_batch_size], samples)
                batch = send_to_device(batch, trainer.args.device)
                output, outputs = trainer.explain_batch(batch)
                values = self._metrics(output, outputs, batch)
                similarity = next((value for key, value in values.items() if key.startswith(name)), None)
                if similarity is None:
                    return None
                found.append(similarity.view(len(output.logits), -1)[:, 0].float().cpu())
        return torch.cat(found)

    # ---- As a callback -------------------------------------------------------------------------------------------

    def on_train_begin(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        # A trial of a hyperparameter search may explain otherwise than the one before.
        self._reference_outputs = self._drawn_at = None
        if not self._reporters():
            logger.warning(
                f"ExplanationPanels has nowhere to log to: report_to={args.report_to} names none of tensorboard, wandb "
                "and trackio."
            )

    def on_evaluate(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        # With several evaluation sets, the first evaluation of a step.
        if not self._reporters() or self._drawn_at == state.global_step:
            return
        self._drawn_at = state.global_step
        # Each process holds a share of a student that FSDP2 has sharded, so all of them explain.
        if state.is_world_process_zero or self.trainer.is_fsdp_enabled:
            figure = self.draw()
            if state.is_world_process_zero:
                self._log(figure, state.global_step)

    def draw(self) -> "Figure":
        """Draw the picture of the student as it is now.

        Raises:
            ValueError: no reference explains the samples, which have no labels or annotations.
        """
        trainer = self.trainer
        with keeping_random_state(trainer.args.device), evaluating(trainer.student):
            batch = send_to_device(self.batch, trainer.args.device)
            output, self._reference_outputs = trainer.explain_batch(batch, self._reference_outputs)
            columns = self._columns(output, self._reference_outputs, batch)
        if not columns:
            raise ValueError(
                f"There is nothing to draw: no reference explains these samples, which have {sorted(batch)}. Give "
                "`samples` with labels, which explanation_target='label' explains, or with the annotations of an "
                "AnnotationReference."
            )
        return self._word_plot(columns) if self.images is None else self._panel(self.images, columns)

    def _reporters(self) -> list[TrainerCallback]:
        kinds = (TensorBoardCallback, *_MODULES)
        return [callback for callback in self.trainer.callback_handler.callbacks if isinstance(callback, kinds)]

    def _log(self, figure: "Figure", step: int) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        # As pixels, which all three take alike: W&B reads a figure only beside pyplot, trackio none.
        figure.set_dpi(DPI)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
        for callback in self._reporters():
            if isinstance(callback, TensorBoardCallback):
                callback.tb_writer.add_image(TAG, np.asarray(picture), step, dataformats="HWC")
                callback.tb_writer.flush()
            else:
                module = import_module(next(name for kind, name in _MODULES.items() if isinstance(callback, kind)))
                module.log({TAG: module.Image(picture), "train/global_step": step})

    # ---- What is drawn -------------------------------------------------------------------------------------------

    def _columns(
        self, output: StepOutput, reference_outputs: Mapping[str, ReferenceOutput], batch: dict[str, Any]
    ) -> "list[_Column]":
        """Collect the maps of each reference, and the student's."""
        trainer, columns = self.trainer, []
        values = self._metrics(output, reference_outputs, batch)
        predicted = self._predicted(output.logits)
        for name, explained_output in output.explanations.items():
            alone = len(trainer.references) == 1
            reference_output = reference_outputs[name]
            single, single_reference = flatten_targets(explained_output, replace(reference_output, vectors=None))
            count = len(single_reference.target) // len(reference_output.target)
            if single_reference.annotation is not None:
                student, reference, mask = single.maps, single_reference.annotation.float(), None
            else:
                student, reference, mask = align_maps(single, single_reference)
            assert student is not None
            cells = mask[::count] if mask is not None and student.ndim == 2 else None
            similarity = values.get(f"explanation_similarity{'' if alone else f'_{name}'}")
            similarities = None if similarity is None else similarity.view(len(student) // count, -1)[:, 0].tolist()
            taught = None
            if reference_output.logits is not None:
                classes = torch.arange(reference_output.logits.shape[1], device=reference_output.logits.device)
                taught = self._predicted(reference_output.logits, trainer.references[name].to_student(classes).tolist())
            explained = single_reference.target[::count].tolist()
            heading = "Student" if alone else f"Student ({name})"
            columns += [
                _Column(name.capitalize(), reference[::count], explained, cells, taught),
                _Column(heading, student[::count], explained, cells, predicted, similarities),
            ]
        return columns

    def _metrics(
        self, output: StepOutput, reference_outputs: Mapping[str, ReferenceOutput], batch: dict[str, Any]
    ) -> dict[str, torch.Tensor]:
        trainer = self.trainer
        return sample_metrics(
            output,
            reference_outputs,
            trainer.references,
            batch,
            trainer.is_multi_label,
            grid=trainer.comparison_grid,
        )

    def _names(self) -> list[str]:
        student = self.trainer.student
        return class_names(student) or [str(number) for number in range(student.config.num_labels)]

    def _predicted(self, logits: torch.Tensor, classes: Sequence[int] | None = None) -> list[str]:
        """Name the top class, or all classes that a multi-label model predicts, or give a score's number.

        Args:
            logits: Logits (B, C).
            classes: Classes (C,) of the student that the logits are of; all in their order by default.
        """
        if is_score(self.trainer.student):
            return [f"{score:.2f}" for score in logits[:, 0].tolist()]
        return predicted_names(logits, self.trainer.student, classes)

    def _truths(self) -> list[str | None] | None:
        labels, names = self.batch.get("labels"), self._names()
        if labels is None or is_score(self.trainer.student) or labels.is_floating_point() and labels.ndim == 1:
            return None
        if labels.ndim == 2:
            return [*joined_names(labels > 0, names)]
        return [names[label] if 0 <= label < len(names) else None for label in labels.tolist()]

    def _panel(self, images: torch.Tensor, columns: "list[_Column]") -> "Figure":
        from ..cards.plots import explanation_panel

        names = self._names()
        # Of boxes and masks no prediction is known: the frame and the difference are a teacher's.
        is_taught = len(self.trainer.references) == 1 and columns[0].predictions is not None
        return explanation_panel(
            images,
            {column.heading: column.maps for column in columns},
            labels=self._truths(),
            explained=[names[number] if number >= 0 else "nothing" for number in columns[0].explained],
            names=self.names,
            predictions={column.heading: column.predictions for column in columns if column.predictions is not None},
            similarities={column.heading: column.similarities for column in columns if column.similarities is not None},
            reference=columns[0].heading if is_taught else None,
            difference=columns[1].heading if is_taught else None,
            note=self.note,
        )

    def _word_plot(self, columns: "list[_Column]") -> "Figure":
        from ..cards.word_plots import WordRow, WordSample, word_plot

        truths, names = self._truths(), self._names()
        samples = []
        for row, ids in enumerate(self.batch["input_ids"]):
            shown = [
                WordRow(
                    column.heading,
                    self._cells(row, column.cells[row].nonzero().flatten().tolist()),
                    column.maps[row][column.cells[row]].tolist(),
                    None if column.predictions is None else column.predictions[row],
                    None if column.similarities is None else column.similarities[row],
                )
                for column in columns
                if column.cells is not None
            ]
            explained = columns[0].explained[row]
            samples.append(
                WordSample(
                    # A pair's second text begins a line.
                    self.tokenizer.decode(ids, skip_special_tokens=True)
                    if self.texts is None
                    else "\n".join(self.texts[row]),
                    shown,
                    label=None if truths is None else truths[row],
                    explained=names[explained] if explained >= 0 else None,
                )
            )
        return word_plot(samples, note=self.note)

    def _cells(self, row: int, cells: Sequence[int]) -> list[str]:
        """Return the words in the cells of a text's map, or, of a batch without texts, what the tokens are read as."""
        if self.texts is not None:
            return [self.words[row][cell] for cell in cells]
        ids = self.batch["input_ids"][row]
        of_cell = self.batch["word_ids"][row] if "word_ids" in self.batch else torch.arange(len(ids))
        return [self.tokenizer.decode(ids[of_cell == cell]).strip() for cell in cells]


@dataclass
class _Column:
    """Column of the picture: the maps of one model.

    Args:
        heading: Its name.
        maps: Attribution maps (B, h, w), or (B, cells) of texts.
        explained: Classes (B) of the student that the maps explain; −1 for none.
        cells: Mask (B, cells) bool of the cells of each text.
        predictions: Names (B) of the predicted classes.
        similarities: Similarities (B) to the reference's maps.
    """

    heading: str
    maps: torch.Tensor
    explained: list[int]
    cells: torch.Tensor | None = None
    predictions: list[str] | None = None
    similarities: list[float] | None = None


def _intensities(pixel_values: torch.Tensor, processor: Any) -> torch.Tensor:
    """Undo the normalisation of images (B, channels, H, W), to values from 0 to 1."""
    if processor is not None:
        return image_view(processor).intensities(pixel_values).clamp(0, 1)
    low, high = pixel_values.amin((1, 2, 3), keepdim=True), pixel_values.amax((1, 2, 3), keepdim=True)
    return (pixel_values - low) / (high - low).clamp(min=1e-12)
