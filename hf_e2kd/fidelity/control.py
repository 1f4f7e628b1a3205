"""The fidelity of a teacher to itself on slightly changed inputs, beside which a student's can be read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..alignment.inputs import ImageView
from ..alignment.precision import at_least_float32
from ..alignment.texts import length_limit
from ..architectures import call_model
from ..architectures.sharding import root_gathered
from ..choices import unknown_choice
from ..explainers import ExplainedOutput
from ..explainers.perturbation.base import require_count
from ..explainers.perturbation.variants import text_units
from ..metrics import agreement, label_agreement
from ..references import ReferenceOutput, TeacherReference
from ..terms import StepOutput
from ..terms.logits import kl_loss, multi_label_kl_loss
from ..terms.matching import comparable_values, comparison_size, flatten_targets
from .chance import similarity_by_target
from .groups import GroupedFigures
from .prefixes import CONTROL, without_prefix
from .protocol import MeasuredTrainer
from .record import ControlRecord, MetricValue

KINDS = ("noise", "shift")
"""Changes of the inputs."""

# Their values for an appended token; what else a token has is that of the last word's.
_APPENDED = {"attention_mask": 1, "word_ids": -1, "special_tokens_mask": 1}


@dataclass(frozen=True)
class Control:
    """A change of the inputs that is too small to matter.

    Args:
        kind: `"noise"`, Gaussian noise on the intensities of an image, or words that say nothing at the end of a text;
            `"shift"`, an image moved to the right and down.
        sigma: Standard deviation of the noise, in levels of intensities from 0 to 255.
        pixels: Pixels of the shift, whose left and upper edges are repeated.
        appended: Words at the end of a text.

    Raises:
        ValueError: an option that can't be.
    """

    kind: str = "noise"
    sigma: float = 4
    pixels: int = 1
    appended: str = " ."

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(unknown_choice("control", str(self.kind), KINDS))
        if not isinstance(self.sigma, int | float) or not 0 < self.sigma <= 255:
            raise ValueError(f"sigma is in levels of intensities, above 0 and at most 255, not {self.sigma!r}.")
        require_count("pixels", self.pixels)
        if not isinstance(self.appended, str) or not self.appended.strip():
            raise ValueError(f"appended are words at the end of a text, not {self.appended!r}.")

    def options(self, modality: str) -> dict[str, Any]:
        """Return the options that change the figures of images or of texts, for the record."""
        size = "appended" if modality == "text" else {"noise": "sigma", "shift": "pixels"}[self.kind]
        return {"kind": self.kind, size: getattr(self, size)}

    def shifted(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Move images (B, channels, H, W) to the right and down."""
        # Picked, not padded: a record of somebody else may name any number of pixels.
        rows, columns = ((torch.arange(side) - self.pixels).clamp(min=0) for side in pixel_values.shape[-2:])
        return pixel_values[..., rows[:, None], columns]

    def with_noise(self, pixel_values: torch.Tensor, view: ImageView, noise: torch.Tensor) -> torch.Tensor:
        """Add noise to the intensities of images (B, channels, H, W) as a model gets them.

        Args:
            view: The model's view, by whose normalisation the images are made.
            noise: Noise (B, channels, H, W), of a standard deviation of 1.
        """
        intensities = view.intensities(pixel_values)
        changed = (intensities + self.sigma / 255 * noise.to(intensities)).clamp(0, 1)
        return view.normalise(changed).to(pixel_values.dtype)


class ControlMeasures:
    """Values of a batch by a control: the teacher beside itself, and the students' divergence from it.

    Args:
        trainer: Trainer of the student.
        reference: Name of the reference that is measured; None for none.
        control: The change of the inputs.
        seed: Seed of the noise.

    Raises:
        ValueError: there is no live teacher to run on changed inputs.
    """

    def __init__(self, trainer: MeasuredTrainer, reference: str | None, control: Control, seed: int):
        teacher = trainer.references.get(reference or "")
        if not isinstance(teacher, TeacherReference):
            raise ValueError(
                "A control runs the teacher on changed inputs, so it takes a live teacher: give the trainer "
                "`teacher_model`."
            )
        self.trainer, self.reference, self.control = trainer, teacher, control
        self._draw = torch.Generator().manual_seed(seed)

    def __call__(
        self,
        output: StepOutput,
        reference_output: ReferenceOutput,
        inputs: Mapping[str, Any],
        found: Mapping[str, StepOutput],
    ) -> dict[str, torch.Tensor]:
        """Compute the values (B,), (B, K) or (B, classes) of one batch.

        Args:
            output, reference_output: Outputs of the student and the reference.
            inputs: The batch.
            found: Outputs of the other students, by their prefixes.
        """
        changed, cells = self._changed(inputs)
        explained = self._explained(changed, cells, reference_output, inputs)
        alignment = self.reference.alignment
        assert alignment is not None and reference_output.logits is not None and explained.logits is not None
        logits = alignment.teacher_logits(explained.logits)
        values = self._decisions(logits, reference_output.logits)
        if explained.maps is not None:
            size = comparison_size(inputs, self.trainer.comparison_grid)
            compared = comparable_values(*flatten_targets(explained, reference_output), size)
            values["explanation_similarity"] = similarity_by_target(*compared, reference_output.target)
        values = {f"{CONTROL}{name}": value for name, value in values.items()}
        if f"{CONTROL}kl" in values:
            for prefix, other in {"": output, **found}.items():
                shown = self.reference.student_logits(other.logits)
                values[f"{prefix}kl"] = self._decisions(shown, reference_output.logits)["kl"]
        return values

    def record(
        self, figures: Mapping[str, MetricValue], modality: str, grouped: GroupedFigures | None = None
    ) -> ControlRecord:
        """Record the control by the averages of all values, and of those of each group."""
        by_group = {} if grouped is None else grouped.named(CONTROL)
        return ControlRecord(self.control.options(modality), without_prefix(figures, CONTROL), by_group)

    def _changed(self, inputs: Mapping[str, Any]) -> tuple[dict[str, Any], torch.Tensor | None]:
        """Change the teacher's inputs; of texts without words also the places (B, T) of the unchanged tokens."""
        own = self.reference.inputs_of(inputs)
        pixels, moves = own.get("pixel_values"), self.control.kind == "shift"
        if pixels is not None and moves:
            return {**own, "pixel_values": self.control.shifted(pixels)}, None
        if pixels is not None:
            view = self.reference.adapter.teacher_view(has_own="teacher_pixel_values" in inputs)
            return {**own, "pixel_values": self.control.with_noise(pixels, view, self._noise(pixels))}, None
        if moves:
            raise ValueError("The control 'shift' moves images, and these are texts. Take 'noise'.")
        return append_tokens(own, self._appended_ids(own["input_ids"].shape[1]))

    def _noise(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Draw noise (B, channels, H, W) for images, one after the other, whatever the batches and the processes."""
        count, rank = len(pixel_values), self.trainer.args.process_index
        noise = []
        for place in range(count * self.trainer.args.world_size):  # those of other processes are drawn and left out
            drawn = torch.randn(pixel_values.shape[1:], generator=self._draw)
            if place // count == rank:
                noise.append(drawn)
        return torch.stack(noise)

    def _appended_ids(self, width: int) -> list[int]:
        words, given = self.control.appended, (self.reference.tokenizer, self.reference.adapter.student_processor)
        tokenizer = next((each for each in given if each is not None), None)
        if tokenizer is None:
            raise ValueError(
                f"The control appends {words!r} to the texts, and nothing says which tokens that is. Give the trainer "
                "the tokenizer as processing_class."
            )
        ids: list[int] = tokenizer(words, add_special_tokens=False)["input_ids"]
        positions = getattr(getattr(self.reference.model, "config", None), "max_position_embeddings", None)
        limit = length_limit(tokenizer, positions)
        if limit is not None and width + len(ids) > limit:
            raise ValueError(
                f"The control appends {words!r}, and the longest of these texts has all {width} tokens that the "
                f"teacher takes. Cut texts to {limit - len(ids)} tokens: TextCollator(…, max_length="
                f"{limit - len(ids)}), --max-length {limit - len(ids)}."
            )
        return ids

    def _explained(
        self,
        changed: Mapping[str, Any],
        cells: torch.Tensor | None,
        reference_output: ReferenceOutput,
        inputs: Mapping[str, Any],
    ) -> ExplainedOutput:
        """Run the teacher on changed inputs, and explain the class that it explains of the unchanged ones."""
        reference, alignment = self.reference, self.reference.alignment
        assert alignment is not None
        with torch.no_grad(), root_gathered(reference.model):
            if reference_output.maps is None:
                return ExplainedOutput(call_model(reference.model, changed))
            target = alignment.to_teacher(alignment.student_to_shared(reference_output.target))
            found = reference.explainer_of(inputs)(reference.model, changed, target)
        maps, mask = found.maps, found.mask
        if cells is not None:
            of_maps = cells if maps.ndim == 2 else cells[:, None].expand(-1, maps.shape[1], -1)
            maps, mask = maps.gather(-1, of_maps), None if mask is None else mask.gather(-1, cells)
        return ExplainedOutput(found.logits, maps, mask, found.vectors)

    def _decisions(self, logits: torch.Tensor, clean: torch.Tensor) -> dict[str, torch.Tensor]:
        logits, clean = at_least_float32(logits), at_least_float32(clean)
        if self.trainer.is_multi_label:
            same = label_agreement(logits, clean).float()
            return {"agreement": same, "kl": multi_label_kl_loss(logits, clean, 1.0)}
        if logits.shape[1] == 1:
            return {"mae": (logits - clean).abs()[:, 0]}
        return {"agreement": agreement(logits, clean), "kl": kl_loss(logits, clean, 1.0)}


def append_tokens(inputs: Mapping[str, Any], ids: list[int]) -> tuple[dict[str, Any], torch.Tensor | None]:
    """Put tokens after each text's last word, before the special tokens and the padding that follow.

    Args:
        inputs: Batch with `input_ids` (B, T) and what belongs to it.
        ids: The k tokens.

    Returns:
        The batch of T + k tokens, in which the new ones belong to no word; and the places (B, T) of the old ones in a
        map of the tokens, None where maps are of words.
    """
    tokens, count = inputs["input_ids"], len(ids)
    width = tokens.shape[1]
    places = torch.arange(width + count, device=tokens.device)
    # Of a text without a word, the first token.
    last = torch.where(text_units(inputs) >= 0, places[:width], 0).amax(1, keepdim=True)
    source = torch.where(places <= last, places, torch.maximum(places - count, last))
    new = (places > last) & (places <= last + count)
    appended = torch.tensor([0, *ids], device=tokens.device)[torch.where(new, places - last, 0)]
    rows = torch.arange(len(tokens), device=tokens.device)[:, None]
    # With whatever else tokens have, such as the boxes (B, T, 4) of LayoutLM.
    longer = {name: value[rows, source] for name, value in inputs.items() if _is_of_tokens(value, tokens)}
    if "position_ids" in longer:
        longer["position_ids"] = longer["position_ids"] + (places - last).clamp(0, count)
    longer |= {name: longer[name].masked_fill(new, value) for name, value in _APPENDED.items() if name in longer}
    longer["input_ids"] = torch.where(new, appended.to(tokens), longer["input_ids"])
    if inputs.get("word_ids") is not None:
        return {**inputs, **longer}, None
    # Explainers lay tokens out by what counts, among which are no new ones.
    longer["special_tokens_mask"] = longer.get("special_tokens_mask", torch.zeros_like(source)).masked_fill(new, 1)
    return {**inputs, **longer}, places[:width] + count * (places[:width] > last)


def _is_of_tokens(value: Any, tokens: torch.Tensor) -> bool:
    return isinstance(value, torch.Tensor) and value.shape[:2] == tokens.shape
