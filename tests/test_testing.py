"""The check of an explainer: it passes ours, and names what is wrong with others."""

from functools import partial

import pytest
import torch
from captum.attr import LayerGradCam
from torch import nn
from transformers import HfArgumentParser

from hf_e2kd import ExplanationDistillArguments, ExplanationDistillTrainer, register_explainer
from hf_e2kd.architectures import call_model, find_architecture
from hf_e2kd.explainers import Explainer, Explanation, build_explainer, registry
from hf_e2kd.explainers.base import one_hots, resolve_target
from hf_e2kd.testing import check_explainer, check_gradient
from tests.models import build, images
from tests.text_models import build_text, token_batch
from tests.training import logged, samples

IMAGES = {"pixel_values": images()}
OURS = [
    ("convnext", "gradcam", {}),
    ("resnet", "gradcam", {"target_layer": "resnet.encoder.stages.1"}),
    ("vit", "attention_rollout", {}),
    ("bert", "integrated_gradients", {"n_steps": 2}),
    ("vit", "saliency", {}),
]


@pytest.mark.parametrize(("family", "name", "options"), OURS)
def test_ours_pass(tiny, family, name, options):
    """Prevents: a check that refuses what is right, and a model that is changed by being checked on."""
    model, inputs = (build_text("bert"), token_batch()) if family == "bert" else (tiny(family), IMAGES)
    before = {key: value.clone() for key, value in model.train().state_dict().items()}
    check_explainer(build_explainer(name, **options), model, inputs)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(module.training for module in model.modules())


class Gradient(Explainer):
    """Input × gradient summed over channels, of each target; what a subclass changes is its mistake."""

    name = "mine"

    def forward(self, model, inputs, target):
        with torch.enable_grad():
            pixels = inputs["pixel_values"].detach().requires_grad_()
            logits = self.logits(model, {"pixel_values": pixels})
            target = resolve_target(target, logits)
            maps = [self.map(logits, pixels, cotangent) for cotangent in one_hots(target, logits)]
        return Explanation(logits, maps[0] if target.ndim == 1 else torch.stack(maps, 1), target)

    def logits(self, model, inputs):
        return call_model(model, inputs)

    def map(self, logits, pixels, cotangent):
        (gradient,) = torch.autograd.grad(logits, pixels, cotangent, create_graph=True)
        return (gradient * pixels).sum(1)


class Detached(Gradient):
    def map(self, logits, pixels, cotangent):
        return super().map(logits, pixels, cotangent).detach()


class FirstOrder(Gradient):
    """The graph goes through the pixels' own factor alone."""

    def map(self, logits, pixels, cotangent):
        return super().map(logits, pixels, cotangent).detach() * logits.sum() / logits.sum().detach()


class Half(Gradient):
    def map(self, logits, pixels, cotangent):
        return super().map(logits, pixels, cotangent).bfloat16()


class Single(Gradient):
    def map(self, logits, pixels, cotangent):
        return super().map(logits, pixels, cotangent).float()


class Undefined(Gradient):
    def map(self, logits, pixels, cotangent):
        return super().map(logits, pixels, cotangent).log()


class Evaluating(Gradient):
    def logits(self, model, inputs):
        return super().logits(model.eval(), inputs)


class Shifted(Gradient):
    def logits(self, model, inputs):
        return super().logits(model, inputs) + 1


class Accumulating(Gradient):
    def logits(self, model, inputs):
        logits = super().logits(model, inputs)
        logits.sum().backward(retain_graph=True)
        return logits


class Hooked(Gradient):
    def logits(self, model, inputs):
        model.classifier.register_forward_hook(lambda *_: None)
        return super().logits(model, inputs)


class HookedAfterAnError(Gradient):
    def logits(self, model, inputs):
        handle = model.convnext.register_forward_hook(lambda *_: None)
        logits = super().logits(model, inputs)
        handle.remove()
        return logits


class OneMap(Gradient):
    def forward(self, model, inputs, target):
        found = super().forward(model, inputs, target)
        found.maps = found.maps if found.target.ndim == 1 else found.maps[:, 0]
        return found


class Padded(Gradient):
    """Takes the target −1 for the last class."""

    def forward(self, model, inputs, target):
        return super().forward(model, inputs, None if target is None else lambda logits: self.last(target, logits))

    def last(self, target, logits):
        return resolve_target(target, logits) % logits.shape[1]


class Module(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixel_values):
        return call_model(self.model, {"pixel_values": pixel_values})


class Captums(Explainer):
    """captum's GradCAM, made by hand for several targets."""

    name = "captum"

    def __init__(self, **options):
        self.options = options

    def forward(self, model, inputs, target):
        with torch.enable_grad():
            logits = call_model(model, inputs)
            target = resolve_target(target, logits)
            layer = model.get_submodule(find_architecture(model).target_path(model))
            explain = partial(LayerGradCam(Module(model), layer).attribute, inputs["pixel_values"], **self.options)
            columns = target[:, None] if target.ndim == 1 else target
            maps = [explain(own.clamp(min=0))[:, 0] * (own >= 0)[:, None, None] for own in columns.unbind(1)]
        return Explanation(logits, maps[0] if target.ndim == 1 else torch.stack(maps, 1), target)


WRONG = [
    (Detached(), "maps carry no gradient, .* may `detach` them"),
    (FirstOrder(), "the gradient of .* is wrong|no gradient reaches"),
    (Captums(), r"no gradient reaches .*classifier.weight, .* without `create_graph=True` is a constant"),
    (Half(), "maps are torch.bfloat16"),
    (Single(), "maps of a float64 model are not float64. Cast half precision alone"),
    (Undefined(), "maps hold NaN or infinite"),
    (Evaluating(), "changes the training mode of .*: leave out its call of `model.eval"),
    (Shifted(), "logits are not those of the model's plain forward"),
    (Accumulating(), "writes the gradient of .* by `torch.autograd.grad` instead of `backward`"),
    (Hooked(), "leaves a hook or a replaced forward on the module 'classifier'. Remove it"),
    (HookedAfterAnError(), "on the module 'convnext' after an error in the model"),
    (OneMap(), r"for two targets a sample, \(B, 2\), its maps have the shape \(2, 32, 32\)"),
    (Padded(), "says that it explains the classes|target −1, which explains nothing, is not zero"),
]


@pytest.mark.parametrize(("explainer", "message"), WRONG, ids=lambda value: type(value).__name__)
def test_what_is_wrong_is_named(tiny, explainer, message):
    """Prevents: a training that runs and learns nothing, or something else, from an explainer with this mistake."""
    with pytest.raises(AssertionError, match=f"The explainer '.*' on ConvNextForImageClassification: .*({message})"):
        check_explainer(explainer, tiny("convnext"), IMAGES)


def test_a_users_explainer_that_is_right_passes(tiny):
    """Prevents: mistakes found in everything; and captum's GradCAM refused where its whole gradient is asked for."""
    check_explainer(Gradient(), tiny("convnext"), IMAGES)
    check_explainer(Captums(grad_kwargs={"create_graph": True}), tiny("convnext"), IMAGES)


def test_a_users_explainer_is_known_by_name_to_command_lines_and_trainers(tiny, tmp_path, monkeypatch):
    """Prevents: a registration that `explain` knows alone, and a choice of names that was fixed when it was written."""
    monkeypatch.setattr(registry, "_EXPLAINERS", dict(registry._EXPLAINERS))
    register_explainer("mine", Gradient)
    line = [
        "--output_dir",
        str(tmp_path),
        "--explainer",
        "mine",
        "--use_cpu",
        "--max_steps",
        "2",
        "--logging_steps",
        "1",
    ]
    (args,) = HfArgumentParser(ExplanationDistillArguments).parse_args_into_dataclasses(line)
    student, teacher, train, held_out = tiny("convnext"), build("convnext", 1), samples(8), samples(4, seed=7)

    def similarity(data):
        inputs = {"pixel_values": torch.stack([sample["pixel_values"] for sample in data])}
        taught = Gradient()(teacher, inputs)
        own = Gradient()(student.eval(), inputs, taught.target)
        return torch.cosine_similarity(own.maps.flatten(1), taught.maps.flatten(1)).mean().item()

    before = similarity(train)
    trainer = ExplanationDistillTrainer(
        student, args, teacher_model=teacher, train_dataset=train, eval_dataset=held_out
    )
    trainer.train()
    assert trainer.explainer.name == "mine"
    # A batch is the whole training set.
    assert logged(trainer, "loss_explanation")[0] == pytest.approx(1 - before, rel=1e-4)
    assert trainer.evaluate()["eval_explanation_similarity"] == pytest.approx(similarity(held_out), abs=1e-5)


def test_attention_without_a_second_derivative_is_told(tiny):
    """Prevents: torch's own message, in the middle of a backward pass, as all that is said."""
    model = tiny("vit")
    model.set_attn_implementation("sdpa")
    with pytest.raises(AssertionError, match="can't be differentiated: .*scaled_dot_product.*use eager attention"):
        check_explainer(Gradient(), model, IMAGES)


def test_a_losss_gradient_is_checked_in_every_group():
    """Prevents: one small parameter among many that trains by another gradient than its loss's, and no word of it."""
    values = {name: torch.rand(3, dtype=torch.float64, requires_grad=True) for name in "abcd"}

    def loss(of_c=lambda c: c):
        return (values["a"] * values["b"]).exp().sum() + 0.01 * of_c(values["c"]).sin().sum() + values["d"].sum()

    before = {name: value.detach().clone() for name, value in values.items()}
    check_gradient(loss, values)
    for name, value in values.items():
        torch.testing.assert_close(value.detach(), before[name], rtol=0, atol=1e-12)
        assert value.grad is None
    with pytest.raises(AssertionError, match="no gradient reaches c, though the loss depends on it"):
        check_gradient(lambda: loss(torch.Tensor.detach), values)
    with pytest.raises(AssertionError, match="the gradient of a, b, c and 1 others is wrong"):
        check_gradient(lambda: loss(lambda c: 2 * c - c.detach()), values, groups=1)
    values["d"] = torch.ones(3, requires_grad=True)
    with pytest.raises(AssertionError, match="need float64, and d is not: take `model.double"):
        check_gradient(loss, values)
