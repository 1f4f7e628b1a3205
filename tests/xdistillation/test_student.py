"""The student that reads a frozen autoencoder's explanation: its head, its explanations, its training."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import AutoModelForImageClassification, PoolFormerConfig, PoolFormerForImageClassification

from hf_e2kd.architectures.taps import default_taps
from hf_e2kd.explainers import GradCAM, Saliency
from hf_e2kd.models import LeNetConfig, VGGConfig, VGGForImageClassification, XDistillationConfig
from hf_e2kd.models import XDistillationForImageClassification as XDistillation
from hf_e2kd.terms import ReferenceOutput, StepOutput, build_term
from hf_e2kd.testing import check_explainer, check_gradient
from hf_e2kd.trainer.term_setup import check_parameters
from tests.models import CLASSES, build, images
from tests.processes import finish, start
from tests.training import distiller, logged, samples, weights
from tests.xdistillation.parts import ID2LABEL, autoencoder, load_without_the_package, student

TARGET = torch.tensor([3, 1])
EQUATION_6 = {
    "task_weight": 1.0,
    "logits_weight": 0.1,
    "explanation_weight": 0.0,
    "terms": {"feature_reduction": {"weight": 5e-4}},
}


# --- The network -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet", "convnext", "swin", "vit", "wrapped_convnext"])
def test_head_is_one_linear_layer_over_both(name):
    """Prevents: features that aren't what the backbone's own classifier read, or an explanation left out."""
    backbone, pixels = build(name), images()
    model = student(backbone=backbone)
    features = model.backbone(pixels).logits
    explanation = model.autoencoder(pixels).maps.flatten(1)
    joined = torch.cat([model.explanation_classifier.weight, model.classifier.weight], dim=1)
    expected = F.linear(torch.cat([explanation, features], dim=1), joined, model.classifier.bias)
    torch.testing.assert_close(model(pixels).logits, expected, rtol=1e-5, atol=1e-5)
    own = [layer for layer in backbone.modules() if isinstance(layer, torch.nn.Linear)][-1]
    torch.testing.assert_close(own(features), backbone(pixels).logits)
    assert torch.equal(model.approximate_explanation(pixels), autoencoder_map(model, pixels))


def autoencoder_map(model, pixels):
    return 2.0 * model.autoencoder(pixels).maps[:, 0]


def test_parameters_beside_the_student_and_the_autoencoder():
    """What can be stated of Table II: its totals leave 541,094 to the joining layer, whose width it doesn't state; a
    linear one over VGG7's 1,024 features and a map of 32×32 adds 10,240 to the student's own classifier."""
    with torch.device("meta"):
        vgg = VGGForImageClassification(VGGConfig(depth=7, num_labels=10))
    assert 3_521_276 - vgg.num_parameters() - 198_796 == 541_094
    assert 9_624_598 - 9_231_114 - 198_796 == 194_688
    assert 17_386 - 8_297 - 1_077 == 8_012
    small = VGGForImageClassification(VGGConfig(widths=((4,), (6,)), id2label=ID2LABEL))
    model = XDistillation.from_parts(small, autoencoder())
    added = model.num_parameters() - small.num_parameters() - model.autoencoder.num_parameters()
    assert added == 32 * 32 * CLASSES


@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_gradcam_goes_through_the_joint_head(name):
    """GradCAM by the split equals autograd's on the whole student: prevents the backbone's own head in its place."""
    model, pixels = student(name), images()
    check_explainer("gradcam", model, {"pixel_values": pixels}, TARGET)
    layer = GradCAM().target_layer_path(model)
    assert (
        layer == {"resnet": "backbone.resnet.encoder.stages.1", "vit": "backbone.vit.layers.2.layernorm_before"}[name]
    )
    split = GradCAM()(model, {"pixel_values": pixels}, TARGET).maps
    seen = []
    handle = model.get_submodule(layer).register_forward_hook(lambda *given: seen.append(given[-1]))
    logits = model(pixels).logits
    handle.remove()
    (gradient,) = torch.autograd.grad(logits.gather(1, TARGET[:, None]).sum(), seen[0])
    if name == "vit":  # 4×4 patches behind the class token
        seen[0], gradient = ((each[:, 1:].mT.unflatten(2, (4, 4))) for each in (seen[0], gradient))
    expected = (gradient.mean((2, 3), keepdim=True) * seen[0]).sum(1).relu()
    torch.testing.assert_close(split, expected, rtol=1e-4, atol=1e-5 * expected.max().item())
    assert (
        default_taps(model)[0] == {"resnet": "backbone.resnet.encoder.stages.0", "vit": "backbone.vit.layers.0"}[name]
    )


def test_backbone_of_an_unknown_class():
    """Prevents: the autoencoder's last layer explained, which is laid out in space too and reaches the logits."""
    sizes = {"hidden_sizes": [4, 4, 8, 8], "depths": [1, 1, 1, 1]}
    model = student(backbone=PoolFormerForImageClassification(PoolFormerConfig(**sizes, id2label=ID2LABEL)))
    explainer, inputs = GradCAM(), {"pixel_values": images(height=32)}
    explainer(model, inputs, TARGET)
    assert explainer.target_layer_path(model) == "backbone.poolformer.encoder.block.2.0"


def test_gradients_at_the_pixels_pass_through_the_autoencoder():
    """Prevents: a saliency that leaves out by which pixels the frozen explanation changes the logits."""
    model, pixels = student(), images()
    with torch.no_grad():
        model.classifier.weight.zero_()
    maps = Saliency(signed=True)(model, {"pixel_values": pixels}, TARGET).maps
    own = pixels.clone().requires_grad_()
    explanation = model.explanation_classifier(model.autoencoder(own).maps.flatten(1))
    (gradient,) = torch.autograd.grad(explanation.gather(1, TARGET[:, None]).sum(), own)
    torch.testing.assert_close(maps, gradient.sum(1))
    assert maps.any()


@pytest.mark.parametrize("name", ["resnet", "wrapped_convnext", "deit"])
def test_saved_and_loaded(name, tmp_path):
    """Prevents: weights that are lost, and an autoencoder that is trained again once it is loaded."""
    model = student(name)
    model.save_pretrained(tmp_path)
    assert {key.split(".")[0] for key in load_file(tmp_path / "model.safetensors")} == {
        *("autoencoder", "backbone", "classifier", "explanation_classifier")
    }
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert isinstance(loaded, XDistillation)
    assert not any(parameter.requires_grad for parameter in loaded.autoencoder.parameters())
    assert all(parameter.requires_grad for parameter in loaded.backbone.parameters())
    assert torch.equal(loaded(images()).logits, model(images()).logits)
    assert torch.equal(loaded.approximate_explanation(images()), model.approximate_explanation(images()))


def test_parts_that_do_not_fit():
    with pytest.raises(ValueError, match="of the classes .*it explains another teacher, or another data set"):
        XDistillation.from_parts(build("resnet"), autoencoder(id2label={0: "cat", 1: "dog"}))
    with pytest.raises(ValueError, match=r"not a bare Linear, .*Give timm's models as hf_e2kd.wrap_timm\(model\)"):
        XDistillation.from_parts(torch.nn.Linear(2, 2), autoencoder())
    with pytest.raises(ValueError, match="images of 1 channels and the backbone of 3. Convert the images"):
        XDistillation.from_parts(build("resnet"), autoencoder(num_channels=1))
    vgg = VGGForImageClassification(VGGConfig(widths=((4,),), image_size=16, id2label=ID2LABEL))
    with pytest.raises(ValueError, match=r"VGG\w+ takes images \(B, 3, 16, 16\), not of the shape \(2, 3, 32, 32\)"):
        XDistillation.from_parts(vgg, autoencoder())
    with pytest.raises(ValueError, match="aren't those of one linear layer .'distillation_classifier'."):
        XDistillation.from_parts(build("deit_teacher"), autoencoder())
    backbone = build("resnet")
    backbone.classifier = torch.nn.Identity()
    with pytest.raises(ValueError, match="has no linear layer of its 5 classes"):
        XDistillation.from_parts(backbone, autoencoder())
    with pytest.raises(ValueError, match=r"takes images \(B, 3, 32, 32\), not of the shape \(2, 3, 16, 16\)"):
        student()(images(height=16))


# --- The penalty and the training ------------------------------------------------------------------------------------


def test_penalty_on_the_stated_columns():
    model = student().double()
    features, explanation = (
        layer.weight.detach().square().sum() for layer in (model.classifier, model.explanation_classifier)
    )
    nothing = StepOutput(torch.zeros(2, CLASSES)), ReferenceOutput(TARGET), {}
    for columns, expected in {"features": features, "all": features + explanation}.items():
        term = build_term("feature_reduction", columns=columns)
        term.attach(model, None)
        assert term.weight == 5e-4
        assert not list(term.parameters())
        torch.testing.assert_close(term(*nothing), expected)
        paths = ("classifier.weight", "explanation_classifier.weight")
        check_gradient(lambda term=term: term(*nothing), {path: model.get_parameter(path) for path in paths})
        with pytest.raises(ValueError, match="penalise the student's weights, of which FSDP"):
            check_parameters(torch.nn.ModuleDict({"feature_reduction": term}), sharded=True)


def test_penalty_refusals():
    with pytest.raises(
        ValueError, match=r"columns of the term 'feature_reduction' must be one of \['all', 'features'\]"
    ):
        build_term("feature_reduction", columns="cnn")
    with pytest.raises(ValueError, match="ResNetForImageClassification has none. Make the student by its `from_parts`"):
        build_term("feature_reduction").attach(build("resnet"), None)


def test_a_step_equals_equation_6(tmp_path):
    """CE + (1 − α)·KD + λ‖c‖²: prevents weight decay on c, which the penalty shrinks already, and a trained
    autoencoder."""
    model, teacher = student(), build("resnet", seed=1)
    frozen, before = weights(model.autoencoder), model.classifier.weight.detach().clone()
    settings = {**EQUATION_6, "max_steps": 1, "weight_decay": 0.1}
    trainer = distiller(model, teacher, tmp_path, settings, train_dataset=samples(4))
    decayed = trainer.get_decay_parameter_names(trainer.model)
    assert "classifier.weight" not in decayed
    assert "explanation_classifier.weight" in decayed
    trainer.train()
    optimised = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert not optimised & {id(p) for p in model.autoencoder.parameters()}
    assert torch.equal(weights(model.autoencoder), frozen)

    reference, data = student().train(), samples(4)
    pixels = torch.stack([sample["pixel_values"] for sample in data])
    labels = torch.tensor([sample["labels"] for sample in data])
    logits, taught = reference(pixels).logits, build("resnet", seed=1)(pixels).logits.detach()
    kl = F.kl_div(logits.log_softmax(1), taught.log_softmax(1), log_target=True, reduction="batchmean")
    penalty = reference.classifier.weight.square().sum()
    loss = F.cross_entropy(logits, labels) + 0.1 * kl + 5e-4 * penalty
    assert logged(trainer, "loss_feature_reduction") == pytest.approx([penalty.item()], rel=1e-5)
    assert logged(trainer, "loss") == pytest.approx([loss.item()], rel=1e-5)
    loss.backward()
    wanted = before - trainer.args.learning_rate * reference.classifier.weight.grad
    torch.testing.assert_close(model.classifier.weight.detach(), wanted, rtol=1e-4, atol=1e-6)


def test_resumed_and_matched_by_explanations_too(tmp_path):
    """A training that goes on from a checkpoint ends bit for bit as one that wasn't interrupted, with e²KD's term."""
    settings = {**EQUATION_6, "explanation_weight": 1.0, "save_strategy": "steps", "save_steps": 1}
    whole = distiller(student(), build("resnet", seed=1), tmp_path, settings)
    whole.train()
    assert logged(whole, "loss_explanation")[0] > 0
    again = distiller(student(), build("resnet", seed=1), tmp_path, settings)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert torch.equal(weights(again.model), weights(whole.model))
    assert not any(parameter.requires_grad for parameter in again.model.autoencoder.parameters())


# --- Its code beside its weights -------------------------------------------------------------------------------------


BACKBONES = {
    "vgg": VGGConfig(widths=((4,), (6,)), id2label=ID2LABEL),
    "lenet": LeNetConfig(channels=(3, 4), hidden_sizes=(8,), image_size=32, num_channels=3, id2label=ID2LABEL),
}


@pytest.mark.parametrize("name", ["vgg", "lenet", "resnet"])
def test_code_saved_beside_the_weights(name, tmp_path, monkeypatch):
    """Prevents: files that import this package, and a backbone that only this package registers."""
    for cls in (XDistillationConfig, XDistillation):
        monkeypatch.setattr(cls, "_auto_class", None)
    own = BACKBONES.get(name)
    model = student(backbone=build(name) if own is None else AutoModelForImageClassification.from_config(own))
    model.save_pretrained(tmp_path / "without")
    assert not list((tmp_path / "without").glob("*.py"))  # on request alone
    XDistillationConfig.register_for_auto_class()
    XDistillation.register_for_auto_class("AutoModelForImageClassification")
    folder = tmp_path / "with"
    model.save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["auto_map"] == {
        "AutoConfig": "x_distillation.XDistillationConfig",
        "AutoModelForImageClassification": "x_distillation.XDistillationForImageClassification",
    }
    torch.save((images(), model(images()).logits, model.approximate_explanation(images())), tmp_path / "wanted.pt")
    process = start(load_without_the_package, folder, tmp_path / "wanted.pt", folder=tmp_path)
    # Here, nobody is asked to trust the copy.
    assert type(AutoModelForImageClassification.from_pretrained(folder)) is XDistillation
    finish([process], tmp_path, seconds=60)
