"""Functions that build the terms of a training, attach them to the models, set up, optimise and save them."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerCallback

from ..references import Reference
from ..terms import Guidance, Logits, Maps, Task, Term, build_term
from ..terms.registry import BUILT_IN
from .preemption import TERMS_FILE


def build_terms(
    setting: Callable[[str], Any], references: Mapping[str, Reference], given: Sequence[Term], task_loss: Any
) -> dict[str, Term]:
    """Build the terms of a training by the names that they are logged as, in the order of their sum.

    Args:
        setting: Function that gives an argument of the training by its name.
        references: References by name; each is matched by its logits and maps, or by its annotations.
        given: Further terms; they replace terms of the same name from the arguments.
        task_loss: Function of the model's output and the labels that returns the loss.

    Raises:
        ValueError: two given terms have one name, or a name belongs to a term that every training has.
    """
    built: list[Term] = [Task(loss=task_loss)]
    for name, reference in references.items():
        weight, loss = reference.explanation_weight, reference.explanation_loss or setting("explanation_loss")
        if "annotation" in reference.gives:
            own: list[Term] = [Guidance(weight, name, loss)]
        else:
            own = []
            # What it doesn't give, but weighs, is refused when the terms are attached.
            if "logits" in reference.gives or reference.logits_weight:
                options = setting("logits_loss_options")
                own.append(
                    Logits(reference.logits_weight, name, setting("logits_loss"), setting("temperature"), options)
                )
            if "maps" in reference.gives or weight:
                own.append(Maps(weight, name, loss, setting("comparison_grid")))
        for term in own:
            # With several references, each term bears its reference's name.
            term.suffix = "" if len(references) == 1 else f"_{name.replace('.', '_')}"
        built += own
    terms = {f"{term.log_name or term.name}{term.suffix}": term for term in built}
    further = {term.name: term for term in given}
    if len(further) < len(given):
        names = [term.name for term in given]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"Two terms are named '{twice}', as which each is logged. Give one of them another name.")
    for name, options in (setting("terms") or {}).items():
        further.setdefault(name, build_term(name, **options))
    for name in further:
        if not name.isidentifier() or hasattr(nn.ModuleDict, name):
            raise ValueError(
                f"A term can't be named '{name}', as which its loss is logged and its parameters are saved. Name it in "
                "letters, digits and underscores, and not like a method of torch.nn.ModuleDict."
            )
        if name in BUILT_IN or name in terms:
            raise ValueError(
                f"Every training has the term '{name}', so that `terms` can't name it. Weigh it by task_weight, "
                "logits_weight or explanation_weight, and choose its loss by logits_loss or explanation_loss."
            )
    return terms | further


def attach_terms(terms: Mapping[str, Term], student: nn.Module, references: Mapping[str, Reference]) -> None:
    """Find each term's reference and its layers in both models, and tap the references' layers.

    Raises:
        ValueError: a term's reference doesn't exist or can't give what it compares, or a model has no such layer.
    """
    taps: dict[str, list[str]] = {name: [] for name in references}
    for name, term in terms.items():
        needed = term.needs - {"labels", "ids"}
        if needed and term.reference is None:
            term.reference = _reference_of(name, needed, references)
        if term.reference is None:
            term.attach(student, None)
            continue
        if term.reference not in references:
            known = ", ".join(references) or "none"
            raise ValueError(f"The term '{name}' names the reference '{term.reference}'. The references: {known}.")
        reference = references[term.reference]
        if not needed <= reference.gives:
            raise ValueError(_lacking(name, needed, term.reference, reference))
        term.attach(student, reference)
        taps[term.reference] += term.reference_taps
    for name, reference in references.items():
        reference.tap(list(dict.fromkeys(taps[name])))


def _reference_of(name: str, needed: frozenset[str], references: Mapping[str, Reference]) -> str:
    able = [each for each, reference in references.items() if needed <= reference.gives]
    if "teacher" in able or len(able) == 1:
        return "teacher" if "teacher" in able else able[0]
    if able:
        raise ValueError(f"The term '{name}' must name one of the references {', '.join(able)}: reference='{able[0]}'.")
    for each, reference in references.items():
        raise ValueError(_lacking(name, needed, each, reference))
    raise ValueError(f"The term '{name}' compares with a teacher, and there is none. Give `teacher_model`.")


def _lacking(name: str, needed: frozenset[str], reference_name: str, reference: Reference) -> str:
    remedy = "Give it a reference that does"
    if "features" in needed:
        remedy = "Features take a live teacher: give `teacher_model` or a TeacherReference"
    return (
        f"The term '{name}' compares {' and '.join(sorted(needed))}, and the reference '{reference_name}', a "
        f"{type(reference).__name__}, gives {' and '.join(sorted(reference.gives))} alone. {remedy}, or leave "
        "the term out."
    )


def check_parameters(terms: nn.Module, sharded: bool) -> None:
    """Refuse terms with parameters, or with a penalty on the student's, where the student's are sharded.

    Raises:
        ValueError: naming the terms.
    """
    if not sharded:
        return
    owning = [name for name, term in terms.named_children() if any(True for _ in term.parameters())]
    if owning:
        raise ValueError(
            f"The terms {owning} have parameters of their own, which FSDP and DeepSpeed don't train beside a sharded "
            "student. Train with DDP or in one process."
        )
    penalising = [name for name, term in terms.named_children() if cast(Term, term).penalised]
    if penalising:
        raise ValueError(
            f"The terms {penalising} penalise the student's weights, of which FSDP and DeepSpeed leave a process a "
            "part. Train with DDP or in one process."
        )


class TermGradients(TrainerCallback):
    """Callback that averages the gradients of the terms' parameters over processes and clips them separately.

    Args:
        terms: Module that holds the terms.
        accelerator: The trainer's `Accelerator`.
    """

    def __init__(self, terms: nn.Module, accelerator: Any):
        self.terms = terms
        self.accelerator = accelerator
        self.norm = torch.zeros(())
        """Norm () of the last step's gradients before they were clipped."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.terms.zero_grad()

    def average(self) -> None:
        """Average the gradients over processes, at the end of a step's last backward pass.

        Before fp16's are unscaled: where those of one process have overflowed, all processes must leave the step out;
        each would go on with a student, and a scale, of its own.
        """
        if self.accelerator.num_processes > 1:
            for parameter in self._parameters():
                # A rank whose batches the term didn't apply to takes part with zeros.
                gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad = cast(torch.Tensor, self.accelerator.reduce(gradient, reduction="mean"))

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if parameters := self._parameters():
            most = args.max_grad_norm if args.max_grad_norm and args.max_grad_norm > 0 else math.inf
            self.norm = nn.utils.clip_grad_norm_(parameters, most)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # The training loop empties the student's gradients alone.
        self.terms.zero_grad()

    def _parameters(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.terms.parameters() if parameter.requires_grad]


def add_parameters(optimizer: torch.optim.Optimizer, terms: nn.Module, weight_decay: float) -> None:
    """Add a group of the terms' parameters to an optimizer; a second call changes nothing."""
    known = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    own = [parameter for parameter in terms.parameters() if parameter.requires_grad and id(parameter) not in known]
    if own:
        optimizer.add_param_group({"params": own, "weight_decay": weight_decay})


def save_terms(terms: nn.Module, folder: str | Path) -> None:
    """Write the terms' parameters and buffers into a checkpoint; nothing for terms without any."""
    state = {name: value.contiguous() for name, value in terms.state_dict().items()}
    if state:
        Path(folder).mkdir(parents=True, exist_ok=True)
        save_file(state, Path(folder) / TERMS_FILE)


def load_terms(terms: nn.Module, folder: str | Path) -> None:
    """Read the terms' parameters and buffers from a checkpoint.

    Raises:
        ValueError: the checkpoint has none, or others than these terms have, or some where these terms have none.
    """
    own = terms.state_dict()
    path = Path(folder) / TERMS_FILE
    if not own:
        if path.is_file():
            names = sorted({name.split(".")[0] for name in load_file(path)})
            raise ValueError(
                f"The checkpoint {folder} is of a training with the terms {names}, which this one doesn't have, so "
                "that it can't go on as it was. Name them in `terms` (those of explanations have a state by "
                "explanation_weight_mode='relative'), or load the weights by from_pretrained."
            )
        return
    if not path.is_file():
        raise ValueError(
            f"The checkpoint {folder} holds no {TERMS_FILE}, with the parameters of the terms "
            f"{sorted({name.split('.')[0] for name in own})}. Resume from a checkpoint of a training with these terms."
        )
    saved = load_file(path)
    shapes = {name: tuple(value.shape) for name, value in saved.items()}
    expected = {name: tuple(value.shape) for name, value in own.items()}
    if shapes != expected:
        differing = sorted(name for name in shapes.keys() | expected.keys() if shapes.get(name) != expected.get(name))
        raise ValueError(
            f"The checkpoint {path} is of other terms: {differing[0]} has the shape {shapes.get(differing[0])} there "
            f"and {expected.get(differing[0])} here. Train with the layers and options that it was saved with."
        )
    terms.load_state_dict(saved)
