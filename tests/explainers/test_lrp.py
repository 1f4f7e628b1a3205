"""Relevance propagation: the rules, the libraries' maps, conservation, and the gradient that trains through it."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import peft
import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F
from transformers import BertForSequenceClassification
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.models.deberta_v2 import modeling_deberta_v2
from transformers.models.modernbert import modeling_modernbert

from hf_e2kd import explain
from hf_e2kd.architectures import transposed
from hf_e2kd.explainers import LRP, IntegratedGradients, install_explained_forward
from hf_e2kd.explainers.input_gradients import differentiate, over_channels
from hf_e2kd.testing import check_explainer
from tests.explainers.test_compiled import assert_compiled_equals_eager
from tests.gradients import explained_gradients, relative_error
from tests.models import images
from tests.text_models import TEXT, build_text, token_batch

TARGET = torch.tensor([3, 1])
TEXTS = ["bert", "distilbert", "roberta", "electra", "deberta", "modernbert", "sentence encoder"]
IMAGES = ["vit", "deit", "deit_teacher", "dinov2", "timm_vit", "timm_vit_average", "timm_deit_distilled", "wrapped_vit"]
RULES = pytest.mark.parametrize("rule", ["cp", "attn_lrp"])


def build(tiny, name, **settings):
    """A model in float64 and a batch; of texts with padding."""
    if name in TEXT:
        return build_text(name, **settings).double(), token_batch()
    return tiny(name).double(), {"pixel_values": images().double()}


# --- The pass --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*TEXTS, *IMAGES])
def test_with_the_derivatives_rules_it_is_the_derivative(tiny, name, monkeypatch):
    """Prevents: an operation of a block that is left out, or transposed wrongly, in any family."""
    monkeypatch.setitem(transposed.RULES, "derivative", transposed.DERIVATIVE)
    model, inputs = build(tiny, name)
    at = differentiate(model, inputs, TARGET)
    expected = over_channels(at.value * at.gradients[0], inputs) * inputs.get("attention_mask", 1)
    found = LRP("derivative")(model, inputs, TARGET)
    # transformers rotates ModernBERT's queries and scales DeBERTa's in float32, whatever the model's precision.
    exact = name not in ("modernbert", "deberta")
    torch.testing.assert_close(found.maps, expected, rtol=0, atol=1e-10 if exact else 1e-8)
    torch.testing.assert_close(found.logits, at.logits, rtol=0, atol=1e-10 if exact else 1e-5)


@pytest.mark.parametrize("height", [36, 32])
def test_patches_that_reach_beyond_the_image(height, monkeypatch):
    """Prevents: an error from deep inside where a model pads images to whole patches."""
    monkeypatch.setitem(transposed.RULES, "derivative", transposed.DERIVATIVE)
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
    flexible = {"dynamic_img_size": True, "dynamic_img_pad": True}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=5, **sizes, **flexible).eval().double()
    inputs = {"pixel_values": images(height=height, width=32).double()}
    at = differentiate(model, inputs, TARGET)
    expected = over_channels(at.value * at.gradients[0], inputs)
    torch.testing.assert_close(LRP("derivative")(model, inputs, TARGET).maps, expected, rtol=0, atol=1e-10)


# --- The rules, against modules whose derivative was replaced ---------------------------------------------------------


def identity_rule(function, x):
    """f(x) with the derivative f(x)/x."""
    return x * (function(x) / x).detach()


def divide(x, parts):
    """x with a derivative that is divided."""
    return x / parts + (x - x / parts).detach()


def centred_and_scaled(norm, x):
    """A layer norm with a constant denominator."""
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt().detach()
    return scaled * norm.weight + (0 if norm.bias is None else norm.bias)


def of_lxt(monkeypatch):
    """The same three by the package that the rules were published with."""
    root = Path(pytest.importorskip("lxt").__file__).parent / "efficient"
    # The package's own models import what transformers 5 no longer has; its rules don't.
    package = ModuleType("lxt.efficient")
    package.__path__ = [str(root)]
    monkeypatch.setitem(sys.modules, "lxt.efficient", package)
    rules, patches = (importlib.import_module(f"lxt.efficient.{name}") for name in ("rules", "patches"))
    return rules.identity_rule_implicit, rules.divide_gradient, patches.layer_norm_forward


class GeluModule(nn.Module):
    def __init__(self, function, rule):
        super().__init__()
        self.function, self.rule = function, rule

    def forward(self, x):
        return self.rule(self.function, x)


def patched_maps(model, inputs, rule, oracle, monkeypatch):
    """Input×Gradient of a model whose modules have the rules for their derivatives."""
    identity, parts, layer_norm = oracle
    sdpa, bmm, softmax = F.scaled_dot_product_attention, torch.bmm, F.softmax
    is_cp = rule == "cp"

    def attention(query, key, value, **options):
        if is_cp:
            return sdpa(query.detach(), key.detach(), value, **options)
        return sdpa(parts(query, 4), parts(key, 4), parts(value, 2), **options)

    def gated(mlp, hidden):
        opening, passing = mlp.Wi(hidden).chunk(2, dim=-1)
        opening = identity(mlp.act, opening)
        return mlp.Wo(opening.detach() * passing if is_cp else parts(opening * passing, 2))

    monkeypatch.setattr(nn.LayerNorm, "forward", layer_norm)
    monkeypatch.setattr(timm.layers.LayerNorm, "forward", layer_norm)
    monkeypatch.setattr(F, "scaled_dot_product_attention", attention)
    monkeypatch.setattr(modeling_modernbert.ModernBertMLP, "forward", gated)
    # DeBERTa multiplies and normalises by itself, and makes its pooler's activation at each call.
    pooled = {"gelu": lambda x: identity(F.gelu, x)}
    monkeypatch.setattr(modeling_deberta_v2, "ACT2FN", pooled)
    monkeypatch.setattr(torch, "bmm", lambda one, other: bmm(one, other) if is_cp else parts(bmm(one, other), 2))
    monkeypatch.setattr(
        F, "softmax", lambda x, **options: softmax(x, **options).detach() if is_cp else softmax(x, **options)
    )
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child).__name__ in ("GELU", "GELUActivation", "Tanh") and "ModernBertMLP" not in str(type(module)):
                setattr(module, name, GeluModule(child, identity))
    with torch.no_grad():  # of a second derivative nothing is asked
        at = differentiate(model, inputs, TARGET)
    return over_channels(at.value * at.gradients[0], inputs) * inputs.get("attention_mask", 1)


@pytest.mark.parametrize("source", ["written here", "lxt"])
@RULES
@pytest.mark.parametrize("name", ["bert", "electra", "deberta", "modernbert", "vit", "deit", "dinov2", "timm_vit"])
def test_maps_equal_those_of_patched_modules(tiny, name, rule, source, monkeypatch):
    """Prevents: a rule at another place than published, or with another share of a product's factors."""
    oracle = of_lxt(monkeypatch) if source == "lxt" else (identity_rule, divide, centred_and_scaled)
    model, inputs = build(tiny, name)
    found = LRP(rule)(model, inputs, TARGET).maps
    with monkeypatch.context() as patches:
        expected = patched_maps(model, inputs, rule, oracle, patches)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 * expected.abs().max().item())
    assert (found < 0).any() and (found > 0).any()


@pytest.mark.parametrize("name", ["bert", "distilbert", "electra", "modernbert", "vit", "dinov2", "timm_vit_average"])
def test_relevance_is_conserved(tiny, name):
    """Prevents: relevance that appears or vanishes in a layer: without biases the map shares out the logit."""
    model, inputs = build(tiny, name)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.LayerNorm) and module.bias is not None:
            nn.init.zeros_(module.bias)
    for layer in (0, "last"):
        found = LRP("cp", layer)(model, inputs, TARGET)
        opened = transposed.open_forward(model, inputs, layer, transposed.RULES["cp"])
        one_hot = F.one_hot(TARGET, opened.logits.shape[1]).to(opened.logits)
        shares = (opened.value * opened.pullback(one_hot)).sum((1, 2))
        torch.testing.assert_close(shares, found.logits.gather(1, TARGET[:, None])[:, 0], rtol=1e-6, atol=1e-9)


# --- Training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*TEXTS, "vit", "deit_teacher", "dinov2", "timm_vit_average", "wrapped_vit"])
def test_trains_through_all_layers(tiny, name):
    """Prevents: the gradient of patched modules, whose second backward follows the rules, or other logits."""
    model, inputs = build(tiny, name)
    # transformers computes a part of both in float32, where finite differences lose digits.
    check_explainer("lrp", model, inputs, TARGET, tolerance=1e-4 if name in ("modernbert", "deberta") else 1e-5)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("bert", {"rule": "attn_lrp"}),
        ("bert", {"layer": "last"}),
        ("bert", {"layer": "bert.encoder.layer.0"}),
        ("deberta", {"layer": "last", "rule": "attn_lrp"}),
        ("modernbert", {"layer": 1, "rule": "attn_lrp"}),
        ("timm_vit", {"layer": "last", "rule": "attn_lrp"}),
        ("dinov2", {"layer": -2}),
    ],
)
def test_trains_from_a_layer_on(tiny, name, options):
    """Prevents: a cut between the model's own blocks and the opened ones that a gradient doesn't pass."""
    model, inputs = build(tiny, name)
    tolerance = 1e-4 if name in ("modernbert", "deberta") else 1e-5
    check_explainer(LRP(**options), model, inputs, TARGET, tolerance=tolerance)


def test_mean_pooling_reads_no_padding():
    """Prevents: a mean over padding, where the last block is needed for every token."""
    model, inputs = build(None, "modernbert", classifier_pooling="mean")
    check_explainer(LRP(layer="last"), model, inputs, TARGET)
    assert not LRP()(model, inputs, TARGET).maps[1, -2:].any()


def test_layers_by_number_path_and_word(tiny):
    """Prevents: an activation one block too early or too late."""
    model, inputs = build(tiny, "bert")
    last = LRP(layer="last")(model, inputs, TARGET).maps
    for layer in (2, -1, "bert.encoder.layer.1"):
        torch.testing.assert_close(LRP(layer=layer)(model, inputs, TARGET).maps, last)
    behind = LRP(layer="bert.encoder.layer.2")(model, inputs, TARGET).maps
    assert behind[:, 0].all() and not behind[:, 1:].any()
    assert not torch.allclose(LRP(layer=1)(model, inputs, TARGET).maps, last)


def test_several_targets(tiny):
    """Prevents: maps of several classes mixed up, or one for what is padded by −1."""
    model, inputs = build(tiny, "vit")
    target = torch.tensor([[3, 0], [1, -1]])
    found = LRP(layer="last")(model, inputs, target).maps
    assert found.shape == (2, 2, 4, 4)
    torch.testing.assert_close(found[:, 0], LRP(layer="last")(model, inputs, TARGET).maps)
    assert not found[1, 1].any()


def test_pairs_of_texts():
    """Prevents: token types that are left out where the embeddings are opened."""
    model, inputs = build_text("bert"), token_batch()
    types = (torch.arange(9) > 4).long().expand(2, -1)
    found = LRP()(model, {**inputs, "token_type_ids": types}, TARGET)
    torch.testing.assert_close(found.logits, model(**inputs, token_type_ids=types).logits)
    assert not torch.allclose(found.maps, LRP()(model, inputs, TARGET).maps)


@pytest.mark.parametrize("name", ["bert", "modernbert", "timm_vit"])
def test_kernels_give_the_same(tiny, name):
    """Prevents: masks of one attention kernel given to another."""
    model, inputs = build(tiny, name)
    explainer = LRP(layer="last")
    expected = explainer(model, inputs, TARGET)
    if name == "timm_vit":
        for block in model.blocks:
            block.attn.fused_attn = not block.attn.fused_attn
    else:
        model.set_attn_implementation("eager")
    found = explainer(model, inputs, TARGET)
    torch.testing.assert_close(found.maps, expected.maps, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["bert", "vit"])
def test_dropout_acts_on_both_passes_alike(tiny, name, monkeypatch):
    """Prevents: a map of another network than the one that gave the step's logits: its dropped part stays dropped."""
    monkeypatch.setitem(transposed.RULES, "derivative", transposed.DERIVATIVE)
    model, inputs = build(tiny, name)
    for module in model.modules():
        if isinstance(module, nn.Dropout) and "embeddings" not in str(module):
            module.p = 0.3
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.3
    model.train()
    torch.manual_seed(0)
    opened = transposed.open_forward(model, inputs, 0, transposed.DERIVATIVE)
    one_hot = F.one_hot(TARGET, opened.logits.shape[1]).to(opened.logits)
    expected = torch.autograd.grad(opened.logits, opened.value, one_hot, retain_graph=True)[0]
    torch.testing.assert_close(opened.pullback(one_hot), expected)
    assert not torch.allclose(opened.logits, model.eval()(**inputs).logits)


@pytest.mark.parametrize("name", ["bert", "timm_vit"])
def test_half_precision(tiny, name):
    """Prevents: maps in half precision, or relevance that falls below its smallest number."""
    model, inputs = build(tiny, name)
    model, inputs = model.float(), {k: v.float() if v.is_floating_point() else v for k, v in inputs.items()}
    full = LRP()(model, inputs, TARGET).maps
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = LRP()(model, inputs, TARGET, create_graph=True).maps
    assert half.dtype == torch.float32 and half.requires_grad
    assert F.cosine_similarity(half.flatten(1), full.flatten(1)).min() > 0.97


@pytest.mark.parametrize(("name", "layer"), [("bert", "input"), ("vit", "last")])
def test_compiles_as_one_graph(tiny, name, layer):
    """Prevents: a step whose opened blocks break the graph, or are constant to it."""
    torch.compiler.reset()
    model, inputs = build(tiny, name, **({"num_hidden_layers": 1} if name == "bert" else {}))
    install_explained_forward(model, LRP(layer=layer))
    assert_compiled_equals_eager(model, inputs)
    torch.compiler.reset()


def test_frozen_parts_get_no_gradient():
    """Prevents: a frozen embedding table that collects gradients, or an explanation that fails without it."""
    model, inputs = build_text("bert"), token_batch()
    model.bert.embeddings.requires_grad_(False)
    _, whole = explained_gradients(model, LRP(), inputs, TARGET)
    model.requires_grad_(True)
    _, expected = explained_gradients(model, LRP(), inputs, TARGET)
    assert not whole["bert.embeddings.word_embeddings.weight"].any()
    trained = {name for name in whole if "embeddings" not in name}
    error = relative_error({n: whole[n] for n in trained}, {n: expected[n] for n in trained})
    assert error < 1e-6


class MeanOfTokens(BertForSequenceClassification):
    """A user's classifier by BERT's name, which pools otherwise."""

    def forward(self, input_ids, attention_mask=None, inputs_embeds=None, **_):
        tokens = self.bert(input_ids, attention_mask=attention_mask).last_hidden_state
        return SequenceClassifierOutput(logits=self.classifier(tokens.mean(1)))


class FirstToken(nn.Module):
    """A user's classifier in the place of RoBERTa's."""

    def __init__(self):
        super().__init__()
        self.dense, self.out_proj = nn.Linear(16, 16), nn.Linear(16, 5)
        self.dropout = nn.Dropout(0.1)

    def forward(self, tokens, **_):
        return self.out_proj(self.dense(tokens[:, 0]).relu())


def own_pooling():
    known = build_text("bert")
    model = MeanOfTokens(known.config).eval()
    model.load_state_dict(known.state_dict())
    return model


def own_head(head):
    model = build_text("roberta")
    torch.manual_seed(0)
    model.classifier = head()
    return model.eval()


OWN_FORWARDS = {
    "a subclass": (own_pooling, "MeanOfTokens: MeanOfTokens.forward is not transformers'"),
    "a head": (lambda: own_head(FirstToken), "its classifier, a FirstToken, is not transformers'"),
    "a plain head": (
        lambda: own_head(lambda: nn.Sequential(nn.AdaptiveAvgPool2d((1, 16)), nn.Flatten(), nn.Linear(16, 5))),
        "has a Sequential in its place",
    ),
}


@pytest.mark.parametrize(("make", "message"), OWN_FORWARDS.values(), ids=OWN_FORWARDS)
def test_a_forward_of_the_users_own_is_not_opened(make, message):
    """Prevents: the logits and the map of the parent class, or an AttributeError, in the place of the model's own."""
    model, inputs = make(), {**token_batch(), "special_tokens_mask": torch.zeros(2, 9, dtype=torch.long)}
    expected = model(**token_batch()).logits
    at = differentiate(model, inputs, TARGET)
    for method, options in (("integrated_gradients", {"n_steps": 2}), ("input_x_gradient", {})):
        found = explain(model, inputs, method, TARGET, **options)
        torch.testing.assert_close(found.logits, expected)
    torch.testing.assert_close(found.maps, over_channels(at.value * at.gradients[0], inputs) * inputs["attention_mask"])
    with pytest.raises(ValueError, match=message):
        explain(model, inputs, "lrp", TARGET)


def test_a_forward_of_the_users_own_is_not_compiled_as_its_parents():
    """Prevents: a compiled step that gives word embeddings to a forward that may not take them."""
    with pytest.raises(ValueError, match="it isn't known that it is a function of its input alone"):
        IntegratedGradients().check(own_pooling(), compiled=True)
    IntegratedGradients().check(build_text("bert"), compiled=True)


def test_a_subclass_with_its_parents_forward_is_opened():
    """Prevents: a refusal of a user's subclass that only builds the model otherwise."""

    class Named(BertForSequenceClassification):
        def __init__(self, config):
            super().__init__(config)
            self.note = "mine"

    known, inputs = build_text("bert"), token_batch()
    model = Named(known.config).eval()
    model.load_state_dict(known.state_dict())
    torch.testing.assert_close(LRP()(model, inputs, TARGET).maps, LRP()(known, inputs, TARGET).maps)


# --- Refusals --------------------------------------------------------------------------------------------------------


def test_other_models_are_refused_with_the_list(tiny):
    """Prevents: a quiet guess at the blocks of a family for which no rules are written."""
    for model, inputs in ((build_text("albert"), token_batch()), (tiny("swin"), {"pixel_values": images()})):
        with pytest.raises(ValueError, match=r"isn't propagated through .*BertForSequenceClassification.*VisionTransf"):
            explain(model, inputs, "lrp")


@pytest.mark.parametrize("layer", [3, -4, "bert.pooler", True])
def test_layers_that_do_not_exist(layer):
    """Prevents: an index error, or another layer than the one that was meant."""
    with pytest.raises(ValueError, match=r"has 3 blocks. Give 'last', a number from -3 to 2, or a path: bert.enc"):
        LRP(layer=layer).check(build_text("bert"))


def test_unknown_rules():
    """Prevents: a misspelt rule."""
    with pytest.raises(ValueError, match="Unknown rule 'alpha_beta'. Available: attn_lrp, cp"):
        LRP("alpha_beta")


def test_what_is_not_opened_is_refused(tiny):
    """Prevents: an adapter's, a kernel's or a checkpoint's part of the forward that is silently left out."""
    model, inputs = build_text("bert"), token_batch()
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="masks that the attention kernel 'flash_attention_2' doesn't take"):
        LRP().check(model)
    for name in ("bert", "roberta", "electra"):
        with pytest.raises(ValueError, match=r"this \w+ForSequenceClassification, which is causal"):
            LRP().check(build_text(name, is_decoder=True))
    model = build_text("bert").train()
    model.gradient_checkpointing_enable()
    with pytest.raises(ValueError, match="activation checkpointing doesn't act"):
        LRP()(model, inputs, TARGET)
    with pytest.raises(ValueError, match=r"\['bert.encoder.layer.2'\] can't be tapped"):
        LRP(layer="last").with_features(model, ["bert.encoder.layer.2"])
    assert LRP(layer="last").with_features(model, ["bert.encoder.layer.1"]).layer == "last"

    class Adapted(nn.Linear):
        """A layer whose weight isn't all of it."""

    model = build_text("bert")
    model.bert.encoder.layer[1].output.dense.__class__ = Adapted
    with pytest.raises(ValueError, match="plain linear layers .torch's., and here is a Adapted of .*Merge an adapter"):
        LRP().check(model)
    LRP(layer="last").check(model)
    adapted = peft.get_peft_model(build_text("bert"), peft.LoraConfig(target_modules=["query"]))
    with pytest.raises(ValueError, match="and here is a Linear of peft.*Merge an adapter"):
        LRP().check(adapted.get_base_model())
    with pytest.raises(ValueError, match="and here is a Linear of peft.*Merge an adapter"):
        explain(adapted.eval(), inputs, "lrp")
    model = build_text("bert", hidden_act="mish")
    with pytest.raises(ValueError, match="the activation MishActivation. Known are gelu, gelu_tanh"):
        LRP()(model, inputs, TARGET)
    vit = tiny("vit").train()
    vit.vit.embeddings.dropout.p = 0.5
    with pytest.raises(ValueError, match="can't be handed on to the pixels. Explain the activation behind them"):
        LRP()(vit, {"pixel_values": images()}, TARGET)
