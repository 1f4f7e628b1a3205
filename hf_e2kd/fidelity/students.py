"""Students that are measured beside a trainer's own: made, explained, and run."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ..alignment.labels import class_count, class_names, name_key
from ..architectures import call_model
from ..architectures.base import evaluating
from ..architectures.discovery import in_own_precision
from ..architectures.functions import as_module, is_differentiable
from ..data.imagenet import unique_class_names
from ..explainers import Explainer, install_explained_forward
from ..references.teacher import without_foreign_layer
from ..terms import StepOutput
from .prefixes import UNTRAINED, compared_prefix


@dataclass
class OtherStudents:
    """Students that are measured beside a trainer's own, in the same batches.

    Attributes:
        models: The students by the prefix of their figures.
        titles: What those are called that are compared, by their prefix.
        explainer: Explainer of the measured student.
    """

    models: dict[str, nn.Module]
    titles: dict[str, str]
    explainer: Explainer

    @classmethod
    def beside(
        cls, student: nn.Module, compared: Mapping[str, nn.Module | Callable[..., Any]], explainer: Explainer
    ) -> "OtherStudents":
        """Take students, by what they are called, to compare with a measured one.

        Raises:
            ValueError: one has other classes, or these in another order.
        """
        models = {title: as_module(model) for title, model in compared.items()}
        check_compared(student, models)
        prefixes = [compared_prefix(number) for number in range(len(models))]
        return cls(
            dict(zip(prefixes, models.values(), strict=True)), dict(zip(prefixes, models, strict=True)), explainer
        )

    def add_untrained(self, student: nn.Module, seed: int) -> None:
        """Add the student's architecture with random weights, for the chance level, where it can be made."""
        if untrained := untrained_student(student, seed):
            self.models[UNTRAINED] = untrained

    @property
    def mapless(self) -> set[str]:
        """Students without gradients, where the explainer takes them: they are measured without maps."""
        trainable = self.explainer.trainable
        return {prefix for prefix, model in self.models.items() if trainable and not is_differentiable(model)}

    @contextmanager
    def explained(self, device: torch.device) -> Iterator[None]:
        """Context in which the students are on a device, in evaluation mode, with an explained forward."""
        with ExitStack() as stack:
            for prefix, model in self.models.items():
                model.to(device)
                if prefix in self.mapless:
                    stack.enter_context(evaluating(model))
                else:
                    # Of another architecture, as a teacher may be.
                    own = without_foreign_layer(self.explainer, model, remedy="")
                    stack.enter_context(explained(model, own))
            yield

    def outputs(self, inputs: Mapping[str, Any], matched: Callable[[nn.Module], StepOutput]) -> dict[str, StepOutput]:
        """Run the students on a batch.

        Args:
            inputs: What a student is given of it.
            matched: Function that runs a student, explaining it.
        """
        return {
            prefix: plain_output(model, inputs) if prefix in self.mapless else matched(model)
            for prefix, model in self.models.items()
        }


@contextmanager
def explained(model: nn.Module, explainer: Explainer) -> Iterator[None]:
    """Context in which a model in evaluation mode has an explained forward."""
    own, taps = vars(model).get("forward"), vars(model).get("_feature_taps")
    # A student of another trainer, whose features that one reads, keeps them.
    install_explained_forward(model, explainer, () if taps is None else taps.paths)
    try:
        with evaluating(model):
            yield
    finally:
        del model.forward
        if own is not None:
            model.forward = own


def check_compared(student: nn.Module, compared: Mapping[str, nn.Module]) -> None:
    """Refuse students with other classes than the measured one's, or with these in another order.

    Args:
        student: Measured student.
        compared: Others by what they are called.

    Raises:
        ValueError: naming the first of them.
    """
    names, count = class_names(student), class_count(student)
    for title, model in compared.items():
        theirs, number = class_names(model), class_count(model)
        if None not in (count, number) and count != number:
            raise ValueError(f"The compared student '{title}' has {number} classes, and the measured one {count}.")
        if names and theirs and _keys(names) != _keys(theirs):
            raise ValueError(
                f"The compared student '{title}' has the classes {theirs[:4]}, in this order, and the measured one "
                f"{names[:4]}. hf_e2kd.experiments.keep_classes(model, names) gives a model the same in another order."
            )


def _keys(names: Sequence[str]) -> list[str]:
    return [name_key(name) for name in unique_class_names(names)]


def untrained_student(student: nn.Module, seed: int) -> nn.Module | None:
    """Make the student's architecture with random weights; None for a model without a configuration."""
    if not isinstance(student, PreTrainedModel):
        return None
    parameter = next(student.parameters())
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = type(student)(copy.deepcopy(student.config))
        _draw_padding(model)
        return model.to(parameter.device, parameter.dtype)


@torch.no_grad()
def _draw_padding(model: nn.Module) -> None:
    """Draw the embeddings of padding tokens, which begin at zero: decoders' texts are explained against them."""
    for table in model.modules():
        if isinstance(table, nn.Embedding) and table.padding_idx is not None:
            table.weight[table.padding_idx] = torch.randn(table.embedding_dim) * table.weight.std()


def plain_output(model: nn.Module, inputs: Mapping[str, Any]) -> StepOutput:
    """Run a model without an explanation."""
    return StepOutput(call_model(model, in_own_precision(model, inputs)))
