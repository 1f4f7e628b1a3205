"""Contract of a loss's terms: one pass of the student, a reference's output, and the term that compares them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import nn

from ..explainers import ExplainedOutput
from .numbers import read_number

SAMPLE_ID = "sample_id"
"""Column (B,) of a training batch with the samples' positions in the training data, for terms that need `"ids"`."""


@dataclass
class ReferenceOutput:
    """Output of a reference for one batch, constant to the gradient.

    Args:
        target: Explained classes (B,), as classes of the student; −1 for samples that aren't explained. (B, K), padded
            by −1, for several targets a sample, as is everything below that belongs to a target.
        maps: Attribution maps (B, *grid); None for a reference of logits, or of annotations, alone.
        logits: Logits (B, shared) over the classes that reference and student share; None where there are none.
        mask: Mask (B, *grid) bool of the cells that count; None for all.
        shared_labels: Labels (B,) as positions among the shared classes (−1 for others), or None.
        vectors: Vectors (B, channels, *grid), matched instead of the maps where the student's explanation has them.
        annotation: Mask (B, H, W) bool of the explained object, in place of a map; empty where it isn't known.
        view_matrix: Matrix (B, R, 3) for maps, vectors and mask of another view than the student's: from the
            student's to theirs, as `hf_e2kd.alignment.sample_maps` takes it.
        features: Outputs of the reference's tapped layers by path, laid out as `StepOutput.features`.
        view: Output for a term's further inputs (`Term.views`), which that term alone is given.
    """

    target: torch.Tensor
    maps: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    shared_labels: torch.Tensor | None = None
    vectors: torch.Tensor | None = None
    annotation: torch.Tensor | None = None
    view_matrix: torch.Tensor | None = None
    features: Mapping[str, torch.Tensor] = field(default_factory=dict)
    view: "ReferenceOutput | None" = None

    @property
    def has_explanation(self) -> bool:
        """True if there is a map or an annotation to match."""
        return self.maps is not None or self.annotation is not None


@dataclass
class StepOutput:
    """Result of one forward pass of a model on one batch.

    Args:
        logits: Logits (B, classes).
        explanations: Explanations of the references' targets, by reference; empty where no maps are compared.
        features: Outputs of the tapped layers by path: (B, h, w, C) of images, without prefix tokens; (B, T, C) of
            texts; (B, C) of pooled features.
        model_output: The model's own output, for a loss function of the user's.
        view: Result for a term's further inputs (`Term.views`), which that term alone is given.
    """

    logits: torch.Tensor
    explanations: Mapping[str, ExplainedOutput] = field(default_factory=dict)
    features: Mapping[str, torch.Tensor] = field(default_factory=dict)
    model_output: Any = None
    view: "StepOutput | None" = None


class Term(nn.Module):
    """One addend of the loss.

    A term compares a student's `StepOutput` with a reference's `ReferenceOutput`, sample by sample. Its weight, the
    mean over the batch, logging and accumulation are the trainer's. Parameters and buffers of its own are optimised
    with the student, averaged over processes, and saved in checkpoints, never with the student.

    Subclasses implement `forward`; `attach`, `setup`, `views` and `prepare` where they need them.

    Args:
        weight: Weight in the loss; None for the argument of the training that `weight_argument` names.
        reference: Name of the reference that is compared with; by default the teacher, or the only one there is.

    Attributes:
        name: Registered name, as which the loss is logged: `loss_NAME`.
        log_name: Name in the logs, where it differs.
        suffix: End of the name in the logs: the reference's name, with several references.
        citation: BibTeX entry of the method's paper, for the model card.
        needs: Compared quantities, of `"labels"`, `"logits"`, `"maps"`, `"features"` and `"annotation"`; with `"ids"`,
            training batches have a column `sample_id` (B,) of the samples' positions in the training data.
        columns: Columns of the data that the term reads beside the models' inputs.
        taps, reference_taps: Paths of the layers whose outputs the term reads, of the student and of the reference.
        penalised: Paths of the student's parameters whose size the term penalises; weight decay leaves them out.
        logged: Further values of the last batch, by name, to be logged beside the loss.

    Raises:
        ValueError: the weight is negative, infinite or NaN, or there is none.

    Example:

        class LogitNorm(Term):
            name = "logit_norm"
            needs = frozenset({"logits"})

            def forward(self, output, reference_output, inputs):
                return (output.logits.norm(dim=1) - reference_output.logits.norm(dim=1)).square()

        register_term(LogitNorm)
        args = ExplanationDistillArguments("outputs/student", terms={"logit_norm": {"weight": 0.1}})
    """

    name: ClassVar[str]
    log_name: ClassVar[str | None] = None
    citation: str | None = None
    needs: ClassVar[frozenset[str]] = frozenset()
    weight_argument: ClassVar[str | None] = None
    columns: tuple[str, ...] = ()
    # Marks of the trainers that have attached the term last, and that have set it up last.
    connection: object = None
    set_up_by: object = None

    def __init__(self, weight: float | None = 1.0, reference: str | None = None):
        super().__init__()
        if weight is None and self.weight_argument is None:
            raise ValueError(f"The term '{self.name}' has no weight. Give a number, as {{\"weight\": 1.0}}.")
        self.weight = None if weight is None else read_number(f"The weight of the term '{self.name}'", weight, 0)
        self.reference = reference
        self.suffix = ""
        self.taps: tuple[str, ...] = ()
        self.reference_taps: tuple[str, ...] = ()
        self.penalised: tuple[str, ...] = ()
        self.logged: dict[str, torch.Tensor] = {}

    @property
    def explains(self) -> bool:
        """True if the term compares explanations, which steps and trainings may leave out."""
        return not self.needs.isdisjoint({"maps", "annotation"})

    def attach(self, student: nn.Module, reference: Any) -> None:
        """Resolve the layers to tap, and refuse models that can't be compared; called before any data is read.

        Args:
            student: The student without wrappers.
            reference: The `Reference` that is compared with; None for a term of labels alone.

        Raises:
            ValueError: the models or the layers can't be compared, with the remedy.
        """

    def setup(
        self, output: StepOutput, reference_output: ReferenceOutput, inputs: Mapping[str, Any], dataset: Any
    ) -> None:
        """Create parameters and buffers for the shapes of a first batch; an earlier call's are replaced.

        Args:
            output, reference_output: Outputs for two samples or fewer, without gradient.
            inputs: The batch.
            dataset: Training data, or None.

        Raises:
            ValueError: the shapes can't be compared, with the remedy.
        """

    def views(self, inputs: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Further inputs, which join the batch in the student's forward pass and are given to the reference.

        The results are `output.view` and `reference_output.view`; maps and other terms see the batch alone.

        Args:
            inputs: The batch as collated.

        Returns:
            Tensors by name, as in `inputs`, with any number of rows; None for no further inputs.
        """
        return None

    def prepare(self, trainer: Any) -> None:
        """Train a first stage, before the training, by `trainer.train_stage(self, num_train_epochs)`.

        See `hf_e2kd.trainer.stages.train_stage`; a stage of modules for the teacher's features alone is
        `hf_e2kd.terms.features.base.train_teacher_module`.
        """

    def forward(
        self, output: StepOutput, reference_output: ReferenceOutput | None, inputs: Mapping[str, Any]
    ) -> torch.Tensor | None:
        """Compare student and reference.

        Args:
            output: The student's result.
            reference_output: The reference's; None for a term of labels alone.
            inputs: The batch as collated.

        Returns:
            Losses (B,), or of the samples that count, or their mean (); None where the batch has nothing to compare.
        """
        raise NotImplementedError(f"The term '{self.name}' implements no forward(output, reference_output, inputs).")
