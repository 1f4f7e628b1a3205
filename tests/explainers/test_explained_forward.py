"""A model with an explained forward is the same model: same signature, copies, files and adapters."""

import copy
import inspect
import pickle

import pytest
import timm
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForImageClassification

from hf_e2kd import explain
from hf_e2kd.explainers import ExplainedOutput, GradCAM, build_explainer, install_explained_forward
from tests.gradients import loss_of
from tests.models import images

TARGET = torch.tensor([3, 1])


def installed(model):
    install_explained_forward(model, GradCAM())
    return model


@pytest.mark.parametrize("name", ["vit", "resnet", "timm_vit", "wrapped_convnext"])
def test_both_uses(tiny, name):
    """Prevents: an installed model whose ordinary forward changed, or whose explanation isn't `explain`'s."""
    own, model = tiny(name), installed(tiny(name))
    argument = {"x": images()} if name.startswith("timm") else {"pixel_values": images()}

    plain = model(**argument)
    explained = model(pixel_values=images(), explain_target=TARGET)

    expected = own(**argument)
    assert type(plain) is type(expected)
    logits = (lambda output: output) if name.startswith("timm") else (lambda output: output.logits)
    torch.testing.assert_close(logits(plain), logits(expected))
    assert isinstance(explained, ExplainedOutput)
    torch.testing.assert_close(explained.maps, explain(own, images(), target=TARGET).maps)
    torch.testing.assert_close(explained.logits, logits(expected), rtol=1e-5, atol=1e-5)
    assert explained.maps.requires_grad


def test_labels_still_give_a_loss(tiny):
    """Prevents: positional or keyword arguments lost on the way to the model's own forward."""
    model = installed(tiny("vit"))

    assert model(images(), labels=TARGET).loss is not None
    assert model(pixel_values=images(), output_hidden_states=True).hidden_states is not None


def test_signature_is_the_models_own(tiny):
    """Prevents: a Trainer that drops the data's columns because it reads another signature."""
    own = inspect.signature(tiny("vit").forward)

    assert inspect.signature(installed(tiny("vit")).forward) == own
    assert inspect.signature(installed(installed(tiny("vit"))).forward) == own


def test_signature_of_a_forward_set_on_the_instance(tiny):
    """Prevents: the first argument swallowed where another tool put its own function on the instance."""
    model = tiny("vit")
    own = model.forward
    model.forward = lambda pixel_values, labels=None: own(pixel_values=pixel_values)

    installed(model)

    assert list(inspect.signature(model.forward).parameters) == ["pixel_values", "labels"]
    torch.testing.assert_close(model(images()).logits, tiny("vit")(images()).logits)


def test_state_dict_is_unchanged(tiny):
    """Prevents: checkpoints with foreign keys."""
    own, model = tiny("resnet"), installed(tiny("resnet"))

    assert list(model.state_dict()) == list(own.state_dict())
    assert [name for name, _ in model.named_modules()] == [name for name, _ in own.named_modules()]
    assert type(model) is type(own)


@pytest.mark.parametrize("name", ["vit", "timm_resnet"])
def test_deep_copy_calls_its_own_layers(tiny, name):
    """Prevents: a copy (an EMA, a trial of a search) whose forward runs the original's weights."""
    model = installed(tiny(name))
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()

    for inputs in ({"pixel_values": images(), "explain_target": TARGET},):
        assert not twin(**inputs).logits.any()
        assert model(**inputs).logits.any()
    plain = twin(images())
    assert not (plain if torch.is_tensor(plain) else plain.logits).any()


@pytest.mark.parametrize("name", ["vit", "timm_resnet"])
def test_a_pickled_model_is_the_model_alone(tiny, name):
    """Prevents: a student that `torch.save` writes whole and nothing reads again."""
    model = installed(tiny(name)).eval()
    read = pickle.loads(pickle.dumps(model))
    found, expected = (each(images()) for each in (read, model))
    assert torch.equal(*(each if torch.is_tensor(each) else each.logits for each in (found, expected)))
    assert "forward" not in vars(read) or read.forward.__func__ is type(read).forward
    installed(read)(pixel_values=images(), explain_target=TARGET)


def levit():
    sizes = {"img_size": 64, "embed_dim": (16, 24, 32), "num_heads": (2, 2, 2), "depth": (1, 1, 1)}
    return timm.create_model("levit_128s", num_classes=3, **sizes).eval()


def test_new_weights_of_a_model_that_remembers_biases():
    """Prevents: LeViT's best weights measured with the biases of the last step, which it remembers of an evaluation."""
    model, pixels = installed(levit()), images(1, 64)
    with torch.no_grad():
        before = model(pixels)
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn_like(parameter) if "attention_biases" in name else 0)
        found = model(pixels)
        explained = model(pixel_values=pixels, explain_target=torch.tensor([0])).logits
        expected = model.train().eval()(pixels)
    assert torch.equal(found, expected) and torch.equal(explained, expected) and not torch.equal(found, before)


@pytest.mark.parametrize("method", ["gradcam", "saliency"])
def test_a_model_that_remembers_biases_is_copied_after_an_explanation(method):
    """Prevents: torch's refusal to copy a graph, from the export of a LeViT that has been explained."""
    model, pixels = levit(), images(1, 64)
    build_explainer(method)(model, {"pixel_values": pixels}, create_graph=True)
    copied = copy.deepcopy(model)
    assert torch.equal(copied(pixels), model(pixels))


def test_reinstalling_replaces(tiny):
    """Prevents: forwards that pile up, one for each trainer that a model has seen."""
    model = installed(tiny("vit"))

    install_explained_forward(model, GradCAM(target_layer="vit.layers.1"))

    maps = model(pixel_values=images(), explain_target=TARGET).maps
    torch.testing.assert_close(maps, explain(tiny("vit"), images(), target=TARGET, target_layer="vit.layers.1").maps)
    assert model.forward.own_forward.__func__ is type(model).forward


def test_saved_and_loaded(tiny, tmp_path):
    """Prevents: an installed student that can't be saved, or that loads as something else."""
    model = installed(tiny("convnext"))

    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)

    assert type(loaded) is type(model)
    assert "explain" not in (tmp_path / "config.json").read_text()
    torch.testing.assert_close(loaded(images()).logits, model(images()).logits)


def test_explained_output_survives_wrappers(tiny):
    """Prevents: outputs that accelerate's conversion to float32 or a gather can't rebuild."""
    output = installed(tiny("vit"))(pixel_values=images(), explain_target=TARGET)

    rebuilt = type(output)({key: value.double() for key, value in output.items()})
    assert rebuilt.maps.dtype == torch.float64
    assert list(output.keys()) == ["logits", "maps"]
    restored = pickle.loads(pickle.dumps(ExplainedOutput(**{key: value.detach() for key, value in output.items()})))
    assert torch.equal(restored.maps, output.maps)


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["fc1", "fc2"]], ids=["attention", "mlp"])
def test_lora_student(tiny, targets):
    """Prevents: adapters in the last block that the explained pass walks past."""
    student = tiny("vit")
    modules = [name for name, _ in student.named_modules() if name.endswith(tuple(targets))]
    assert modules
    peft = get_peft_model(student, LoraConfig(r=2, target_modules=modules, init_lora_weights=False))
    installed(peft.get_base_model())

    output = peft(pixel_values=images(), explain_target=TARGET)
    loss_of(output).backward()

    torch.testing.assert_close(output.logits, peft(pixel_values=images()).logits, rtol=1e-5, atol=1e-5)
    adapters = {name: parameter for name, parameter in peft.named_parameters() if parameter.requires_grad}
    assert adapters
    assert all("lora" in name for name in adapters)
    assert all(parameter.grad.any() for parameter in adapters.values())


def test_lora_on_a_convolution(tiny):
    """Prevents: the same for convolutional students."""
    student = tiny("resnet")
    modules = [name for name, module in student.named_modules() if isinstance(module, nn.Conv2d)]
    peft = get_peft_model(student, LoraConfig(r=2, target_modules=modules, init_lora_weights=False))
    installed(peft.get_base_model())

    loss_of(peft(pixel_values=images(), explain_target=TARGET)).backward()

    assert all(p.grad is not None and p.grad.any() for p in peft.parameters() if p.requires_grad)
