"""Registering one's own architecture."""

import pytest
import torch
from torch import nn

from hf_e2kd import available_architectures, explain, register_architecture
from hf_e2kd.architectures import Split, base, find_architecture
from hf_e2kd.architectures.base import Grid
from hf_e2kd.explainers import GradCAM, install_explained_forward
from tests.gradients import explained_gradients, loss_of, relative_error
from tests.models import CLASSES, images, randomise

TARGET = torch.tensor([3, 1])


class OwnNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stages = nn.Sequential(nn.Conv2d(3, 6, 4, 4), nn.Sequential(nn.ReLU(), nn.Conv2d(6, 8, 3, 2, 1)))
        self.head = nn.Linear(8, CLASSES)

    def classify(self, features):
        return self.head(features.relu().mean((2, 3)))

    def forward(self, pixel_values):
        return self.classify(self.stages(pixel_values))


class Heir(OwnNet):
    """Inherits from what is registered."""


def split(model, inputs):
    features = model.stages(inputs["pixel_values"])
    return Split(features, model.classify, Grid(*features.shape[2:]))


@pytest.fixture
def own(monkeypatch):
    monkeypatch.setattr(base, "_ARCHITECTURES", dict(base._ARCHITECTURES))
    model = OwnNet().eval()
    randomise(model)
    return model


@pytest.mark.parametrize("key", [OwnNet, "OwnNet"])
@pytest.mark.parametrize("target", ["stages.1", lambda model: f"stages.{len(model.stages) - 1}"])
def test_target_alone(own, key, target):
    """Prevents: a registration by class, name, path or function that has no effect."""
    register_architecture(key, target)

    assert "OwnNet" in available_architectures()
    assert find_architecture(own).target_path(own) == "stages.1"
    expected = explain(own, images(), target=TARGET, target_layer="stages.1")
    torch.testing.assert_close(explain(own, images(), target=TARGET).maps, expected.maps)
    with pytest.raises(ValueError, match="register the architecture with a `split` function"):
        GradCAM().check(own, compiled=True)


def test_with_a_split(own):
    """Prevents: a head that is registered but not used, so that the model still can't be compiled."""
    inputs = {"pixel_values": images()}
    loss, by_hook = explained_gradients(own, GradCAM("stages"), inputs, TARGET)
    register_architecture(OwnNet, "stages", split)

    GradCAM().check(own, compiled=True)
    found, by_head = explained_gradients(own, GradCAM(), inputs, TARGET)
    assert found.item() == pytest.approx(loss.item(), rel=1e-5)
    assert relative_error(by_head, by_hook) < 1e-5
    install_explained_forward(own, GradCAM())
    torch.compiler.reset()
    compiled = torch.compile(own, backend="aot_eager", fullgraph=True)(**inputs, explain_target=TARGET)
    torch.compiler.reset()
    assert loss_of(compiled).item() == pytest.approx(loss.item(), rel=1e-4)


def test_subclasses_inherit(own):
    """Prevents: a user's subclass of a supported model that is traced, or refused, although its parent is known."""
    register_architecture(OwnNet, "stages.0")

    assert find_architecture(Heir()).target == "stages.0"
    register_architecture(Heir, "stages.1")
    assert find_architecture(Heir()).target == "stages.1"
    assert find_architecture(own).target == "stages.0"


class Doubled(OwnNet):
    """Inherits from what is registered, and has a forward of its own."""

    def forward(self, pixel_values):
        return 2 * super().forward(pixel_values) + 1


def test_a_subclass_with_its_own_forward_is_no_parent(own):
    """Prevents: logits, and a training, of the parent's head, where a user's subclass computes others."""
    register_architecture(OwnNet, "stages", split)
    model = Doubled().eval()
    model.load_state_dict(own.state_dict())
    found = explain(model, images(), target=TARGET)
    torch.testing.assert_close(found.logits, model(images()))
    torch.testing.assert_close(found.maps, 2 * explain(own, images(), target=TARGET).maps)
    with pytest.raises(ValueError, match="register the architecture with a `split` function"):
        GradCAM().check(model, compiled=True)
    register_architecture(Doubled, "stages", split)  # the user's own word
    GradCAM().check(model, compiled=True)


def test_a_subclass_of_timms_with_its_own_forward(tiny):
    """Prevents: the logits of timm's head in the place of those of a user's subclass."""
    for name, known in (("timm_resnet", True), ("timm_vit", False)):
        model = tiny(name)
        parent = type(model)

        class Own(parent):
            def forward(self, pixel_values):
                return 2 * super().forward(pixel_values) + 1

        assert find_architecture(model) is not None
        model.__class__ = type("Named", (parent,), {"note": "a subclass without a forward"})
        assert find_architecture(model) is not None
        model.__class__ = Own
        assert find_architecture(model) is None
        if known:  # its last stage is found by tracing
            torch.testing.assert_close(explain(model, images()).logits, model(images()))


def test_unknown_class_is_not_found():
    """Prevents: a match by accident, such as by a common base class."""
    assert find_architecture(nn.Sequential()) is None
