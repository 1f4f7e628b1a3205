"""Input×Gradient and Integrated Gradients at a layer, of texts and images alike, against captum."""

import pytest
import torch
from captum.attr import LayerGradientXActivation, LayerIntegratedGradients
from torch import nn

from hf_e2kd.architectures import call_model, transposed
from hf_e2kd.explainers import LRP, GradCAM, InputXGradient, IntegratedGradients, input_x_gradient
from hf_e2kd.testing import check_explainer
from tests.models import images
from tests.text_models import TEXT, build_text, token_batch

TARGET = torch.tensor([3, 1])
# A word of the option, and the layer whose output it means.
LAYERS = [
    ("bert", "last", "bert.encoder.layer.1"),
    ("bert", 1, "bert.encoder.layer.0"),
    ("distilbert", "distilbert.transformer.layer.0", "distilbert.transformer.layer.0"),
    ("dinov2", "last", "dinov2.encoder.layer.1"),
    ("vit", "vit.layers.2.layernorm_before", "vit.layers.2.layernorm_before"),
    ("dinov2", -2, "dinov2.encoder.layer.0"),
    ("timm_vit", 1, "blocks.0"),
    ("resnet", "last", "resnet.encoder.stages.0"),
]
EACH = pytest.mark.parametrize(("name", "layer", "path"), LAYERS)


class Logits(nn.Module):
    """A model of its first input alone, as captum takes it."""

    def __init__(self, model, others):
        super().__init__()
        self.model, self.others = model, others

    def forward(self, first):
        name = "input_ids" if "attention_mask" in self.others else "pixel_values"
        repeats = len(first) // 2
        return call_model(self.model, {name: first, **{k: v.repeat(repeats, 1) for k, v in self.others.items()}})


def case(tiny, name):
    if name in TEXT:
        inputs = token_batch()
        return build_text(name).double(), inputs, {"attention_mask": inputs["attention_mask"]}
    return tiny(name).double(), {"pixel_values": images().double()}, {}


def laid_out(attributions, name):
    """Sum over the channels: patches of an image's tokens, channels first of feature maps."""
    if name == "resnet":
        return attributions.sum(1)
    summed = attributions.sum(-1)
    return summed if name in TEXT else summed[:, summed.shape[1] - 16 :].unflatten(1, (4, 4))


@EACH
def test_input_x_gradient_equals_captums(tiny, name, layer, path):
    """Prevents: an activation one block too early or too late, and gradients that aren't of that activation."""
    model, inputs, others = case(tiny, name)
    model.set_attn_implementation("eager") if hasattr(model, "set_attn_implementation") else None
    method = LayerGradientXActivation(Logits(model, others), model.get_submodule(path))
    first = inputs.get("input_ids", inputs.get("pixel_values"))
    expected = laid_out(method.attribute(first, target=TARGET), name).detach()
    found = InputXGradient(layer=layer)(model, inputs, TARGET)
    mask = 1 if found.mask is None else found.mask
    torch.testing.assert_close(found.maps, expected * mask, rtol=1e-6, atol=1e-9)
    assert found.layout == ("tokens" if name in TEXT else "image")


@EACH
def test_integrated_gradients_equal_captums(tiny, name, layer, path):
    """Prevents: a path from zero, in the place of the layer's activation for the input's baseline."""
    model, inputs, others = case(tiny, name)
    if name in TEXT:
        table = model.get_input_embeddings()
        with torch.no_grad():
            table.weight[0] = 0.0  # captum's baseline are tokens: padding, which here is the zero embedding
    first = inputs.get("input_ids", inputs.get("pixel_values"))
    method = LayerIntegratedGradients(Logits(model, others), model.get_submodule(path))
    expected = method.attribute(
        first,
        baselines=torch.zeros_like(first),
        target=TARGET,
        n_steps=5,
        method="gausslegendre",
    )
    expected = laid_out(expected, name).detach()
    found = IntegratedGradients(n_steps=5, layer=layer, baselines="zero")(model, inputs, TARGET)
    mask = 1 if found.mask is None else found.mask
    # Nodes and weights are kept in float32.
    torch.testing.assert_close(found.maps, expected * mask, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("explainer", [InputXGradient, IntegratedGradients])
@pytest.mark.parametrize(("name", "layer"), [("bert", "last"), ("vit", 1), ("resnet", "last")])
def test_they_train(tiny, explainer, name, layer):
    """Prevents: a gradient that stops at the layer, or misses the activation of the baseline."""
    model, inputs, _ = case(tiny, name)
    options = {"n_steps": 2} if explainer is IntegratedGradients else {}
    check_explainer(explainer(layer=layer, **options), model, inputs, TARGET, tolerance=1e-5)


@pytest.mark.parametrize("name", ["bert", "dinov2"])
def test_the_same_word_names_the_same_layer(tiny, name, monkeypatch):
    """Prevents: a `layer` of relevance propagation that is another one than that of the gradients."""
    monkeypatch.setitem(transposed.RULES, "derivative", transposed.DERIVATIVE)
    model, inputs, _ = case(tiny, name)
    for layer in ("input", "last", 1, f"{name}.encoder.layer.0"):
        found = InputXGradient(layer=layer)(model, inputs, TARGET).maps
        torch.testing.assert_close(found, LRP("derivative", layer)(model, inputs, TARGET).maps, rtol=1e-9, atol=1e-12)


def test_complete_at_a_layer():
    """Prevents: a path whose end isn't the activation, or whose points are of other weights."""
    model, inputs = build_text("bert").double(), {"input_ids": token_batch()["input_ids"][:1]}
    explainer = IntegratedGradients(n_steps=40, layer=1, completeness=True)
    found = explainer(model, inputs, TARGET[:1])
    assert found.completeness_error.abs().item() < 1e-3 * found.maps.abs().sum()
    assert explainer.forward_passes == 43


def test_some_rows_are_explained(tiny):
    """Prevents: another row's activation, or baseline, where not all samples have a target."""
    model, inputs, _ = case(tiny, "vit")
    explainer = IntegratedGradients(n_steps=3, layer="last")
    whole = explainer(model, inputs, TARGET).maps
    some = explainer(model, inputs, torch.tensor([-1, 1])).maps
    torch.testing.assert_close(some[1], whole[1])
    assert not some[0].any()
    assert not explainer(model, inputs, torch.tensor([-1, -1])).maps.any()


@pytest.mark.parametrize("explainer", [InputXGradient, IntegratedGradients])
def test_layers_that_do_not_exist_or_show_nothing(tiny, explainer):
    """Prevents: an index error in the first step, and a pooled activation taken for tokens."""
    bert = build_text("bert")
    with pytest.raises(ValueError, match=r"has 3 blocks. Give 'last', a number from -3 to 2, or a path"):
        explainer(layer=3).check(bert)
    with pytest.raises(ValueError, match=r"has no layer 'bert.encoder.layer.7'. The nearest"):
        explainer(layer="bert.encoder.layer.7").check(bert)
    with pytest.raises(
        ValueError, match="blocks of AlbertForSequenceClassification aren't known. Give the path of a layer"
    ):
        explainer(layer="last").check(build_text("albert"))
    with pytest.raises(ValueError, match="can't read a layer through a hook"):
        explainer(layer="last").check(bert, compiled=True)
    with pytest.raises(ValueError, match=r"'bert.pooler' of Bert\w+ has no activation \(batch, tokens, channels\)"):
        explainer(layer="bert.pooler")(bert, token_batch(), TARGET)


class Named(nn.Module):
    """A network with a layer that bears the name of a word of the option."""

    def __init__(self):
        super().__init__()
        self.first, self.last, self.head = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 5)

    def forward(self, pixel_values):
        return self.head(self.last(self.first(pixel_values).relu()).relu().mean((2, 3)))


def test_a_layer_that_is_named_last():
    """Prevents: another layer than the one at the path that GradCAM was given, or found."""
    model, inputs = Named().eval(), {"pixel_values": images()}
    named, found = GradCAM(target_layer="last"), GradCAM()
    assert torch.equal(named(model, inputs, TARGET).maps, found(model, inputs, TARGET).maps)
    assert found.target_layer_path(model) == "last"


@pytest.mark.parametrize("layer", [None, "last"])
@pytest.mark.parametrize(
    ("name", "shape"), [("vit", (3, 3, 32, 32)), ("vit", (5,)), ("bert", (3, 9, 16)), ("bert", (5,))]
)
def test_baselines_that_do_not_fit(tiny, name, shape, layer):
    """Prevents: torch's own error about sizes."""
    model, inputs, _ = case(tiny, name)
    with pytest.raises(ValueError, match="doesn't broadcast to a batch of 2"):
        IntegratedGradients(baselines=torch.zeros(shape), layer=layer)(model, inputs, TARGET)


def test_words_of_another_table_are_refused_at_a_layer(monkeypatch):
    """Prevents: a path from the text to itself, whose maps are zero."""
    model, inputs = build_text("bert"), token_batch()
    explainer = IntegratedGradients(n_steps=2, layer="last", baselines=0)
    monkeypatch.setattr(model, "get_input_embeddings", lambda: nn.Embedding(60, 16))
    with pytest.raises(ValueError, match="doesn't embed its `input_ids` by the table"):
        explainer(model, inputs, TARGET)


def test_words_are_warned_of(monkeypatch):
    """Prevents: a text student trained on maps of words that don't count, without a hint."""
    warnings = []
    monkeypatch.setattr(input_x_gradient.logger, "warning_once", warnings.append)
    InputXGradient().check(build_text("bert"))
    InputXGradient(layer="last").check(build_text("bert"))
    assert len(warnings) == 1 and "worse than chance" in warnings[0] and "'lrp'" in warnings[0]


def test_unknown_blocks_are_named_by_the_explainers_own_option():
    """Prevents: a remedy of the terms of features, which an explainer hasn't."""
    with pytest.raises(ValueError, match="layer='last' names a block.*AlbertFor.*layer=\"path.of.the.layer\""):
        IntegratedGradients(layer="last")(build_text("albert"), token_batch(), TARGET)
