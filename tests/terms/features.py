"""Fixed features, and a term that is attached to them without models."""

from collections.abc import Sequence

import torch

from hf_e2kd.terms import ReferenceOutput, StepOutput
from hf_e2kd.terms.features.base import FeatureTerm


def waves(*shape: int, step: float = 1.0) -> torch.Tensor:
    """A tensor of sines, the same on each machine and with each version of torch."""
    count = torch.Size(shape).numel()
    return (torch.arange(1, count + 1, dtype=torch.float64) * step).sin().view(shape)


def set_up(
    term: FeatureTerm, student: Sequence[torch.Tensor], teacher: Sequence[torch.Tensor]
) -> tuple[StepOutput, ReferenceOutput]:
    """Set a term up for features of layers "0", "1", … of both sides, its parameters filled with waves."""
    rows = len(student[0])
    term.taps = term.reference_taps = tuple(map(str, range(len(student))))
    output = StepOutput(torch.zeros(rows, 3), features=dict(zip(term.taps, student, strict=True)))
    features = dict(zip(term.taps, teacher, strict=True))
    reference_output = ReferenceOutput(torch.zeros(rows).long(), features=features)
    term.setup(output, reference_output, {}, None)
    term.double()
    with torch.no_grad():
        for number, parameter in enumerate(term.parameters()):
            parameter.copy_(waves(*parameter.shape, step=0.1 + 0.01 * number))
    return output, reference_output
