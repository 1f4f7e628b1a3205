"""Batch norms in the head that GradCAM differentiates inside the forward pass: one update a step, right gradients."""

import copy

import pytest
import timm
import torch
from torch import nn

from hf_e2kd.architectures import Architecture, Grid, Split, find_architecture
from hf_e2kd.architectures.base import _ARCHITECTURES
from hf_e2kd.explainers import GradCAM, install_explained_forward
from hf_e2kd.explainers.gradcam import gradcam_map
from tests.gradients import loss_of, relative_error
from tests.models import CLASSES, randomise

TARGET = torch.tensor([3, 1, 0, 2])
# Those in whose heads timm has batch norms, by the size of their images.
TIMM_HEADS = {
    "mobilenetv4_conv_small": 64,
    "efficientvit_b0": 64,
    "efficientvit_m0": 224,
    "levit_128s": 224,
    "repvit_m0_9": 64,
    "shvit_s1": 64,
}


class NormedHead(nn.Module):
    """A user's own network: a batch norm before the head, one in it, and one that is never called."""

    def __init__(self, momentum: float | None = 0.1):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1))
        self.norm = nn.BatchNorm1d(8, momentum=momentum)
        self.unused = nn.BatchNorm1d(8)
        self.classifier = nn.Linear(8, CLASSES)

    def head(self, features: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.norm(features.relu().mean((2, 3))))

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(pixel_values))


@pytest.fixture(autouse=True)
def normed_head(monkeypatch):
    def split(model, inputs):
        features = model.features(inputs["pixel_values"])
        return Split(features, model.head, Grid(*features.shape[2:]))

    monkeypatch.setitem(_ARCHITECTURES, "NormedHead", Architecture("features", split))


def built(momentum: float | None = 0.1) -> nn.Module:
    torch.manual_seed(0)
    model = NormedHead(momentum)
    randomise(model)
    return model.train()


def pictures(size: int = 32) -> torch.Tensor:
    return torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(1))


def by_autograd(model: nn.Module, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and maps as the hook path has them, of the same cut."""
    split = find_architecture(model).split(model, {"pixel_values": pixel_values})
    activation = split.activation.float()
    with torch.autocast("cpu", enabled=False):
        logits = split.head(activation)
        chosen = nn.functional.one_hot(TARGET, CLASSES)
        (gradient,) = torch.autograd.grad((logits * chosen).sum(), activation, create_graph=True)
    return logits, gradcam_map(split.grid.cells(activation), split.grid.cells(gradient))


def in_forward(model: nn.Module, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    explanation = GradCAM()(model, {"pixel_values": pixel_values}, TARGET, create_graph=True)
    return explanation.logits, explanation.maps


def step(call, model: nn.Module, pixel_values: torch.Tensor) -> None:
    torch.manual_seed(3)
    logits, maps = call(model, pixel_values)
    reference = torch.rand(maps.shape, generator=torch.Generator().manual_seed(5))
    (torch.cosine_similarity(maps.flatten(1), reference.flatten(1)).sum() + logits.square().mean()).backward()


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def assert_same_step(model: nn.Module, expected: nn.Module, tolerance: float = 1e-4) -> None:
    assert gradients(model).keys() == gradients(expected).keys()
    assert relative_error(gradients(model), gradients(expected)) < tolerance
    for (name, buffer), (_, other) in zip(model.named_buffers(), expected.named_buffers(), strict=True):
        torch.testing.assert_close(buffer, other, msg=name)


@pytest.mark.parametrize(("name", "size"), TIMM_HEADS.items())
def test_timm_heads(name, size):
    """Prevents: a crash of `torch.func`, or of its cure a batch counted never or twice."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=CLASSES)
    randomise(model)
    expected = copy.deepcopy(model.train())

    step(in_forward, model, pictures(size))
    step(by_autograd, expected, pictures(size))

    assert_same_step(model, expected)
    counters = [value for key, value in model.named_buffers() if key.endswith("num_batches_tracked")]
    assert counters
    assert all(counter == 1 for counter in counters)


@pytest.mark.parametrize("momentum", [0.1, None], ids=["moving", "cumulative"])
def test_users_own_split_over_several_batches(momentum):
    """Prevents: counters that are right for timm alone or for one batch; a cumulative mean of another count."""
    model = built(momentum)
    expected, state = copy.deepcopy(model), model.state_dict(keep_vars=True)

    for size in (32, 48, 40):  # gradients are accumulated over them
        step(in_forward, model, pictures(size))
        step(by_autograd, expected, pictures(size))

    assert_same_step(model, expected)
    assert (model.norm.num_batches_tracked, model.unused.num_batches_tracked) == (3, 0)
    # An average of the weights or a rank's broadcast keeps hold of the buffers.
    assert all(buffer is state[name] for name, buffer in model.named_buffers())


def test_evaluation_counts_nothing():
    """Prevents: statistics that an evaluation moves."""
    model = built().eval()
    before = copy.deepcopy(model.state_dict())
    in_forward(model, pictures())
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_an_error_in_the_head_leaves_the_counters():
    """Prevents: a model whose counters are torch.func's own tensors, after an error that the caller has caught."""
    model = built()
    counter = model.norm.num_batches_tracked
    model.classifier = nn.Linear(9, CLASSES)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        in_forward(model, pictures())
    assert model.norm.num_batches_tracked is counter


def explained_step(model: nn.Module, call) -> None:
    output = call(pixel_values=pictures(), explain_target=TARGET)
    (loss_of(output) + output.logits.square().mean()).backward()


def test_compiled():
    """Prevents: a graph cut at the norms, and counters that stand still or run twice in compiled steps."""
    torch.compiler.reset()
    model = built()
    install_explained_forward(model, GradCAM())
    expected = copy.deepcopy(model)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)

    for _ in range(2):
        explained_step(model, compiled)
        explained_step(expected, expected)

    assert_same_step(model, expected)
    assert (model.norm.num_batches_tracked, model.unused.num_batches_tracked) == (2, 0)


def test_half_precision():
    """Prevents: norms of the head that count otherwise under autocast, whose head is computed in full precision."""
    model = built()
    expected = copy.deepcopy(model)

    with torch.autocast("cpu", torch.bfloat16):
        step(in_forward, model, pictures())
        step(by_autograd, expected, pictures())

    assert_same_step(model, expected)
    assert model.norm.num_batches_tracked == 1
