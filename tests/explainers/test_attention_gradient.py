"""Gradient-weighted attention relevance: the published rule, and a gradient that reaches every parameter behind it."""

import pytest
import torch
from transformers.models.bert import modeling_bert
from transformers.models.vit import modeling_vit

from hf_e2kd.explainers.attention_gradient import AttentionGradient
from tests.gradients import check_gradient, explained_gradients, explained_loss, relative_error
from tests.models import images
from tests.text_models import build_text, token_batch

TARGET = torch.tensor([3, 1])
PIXELS = {"pixel_values": images()}


def relevance_by_hand(model, modeling, inputs, target, monkeypatch):
    """R of Chefer, Gur & Wolf for each sample, the whole (N, N): ∇A is the derivative by a disturbance added to A."""
    weights, disturbances = [], []

    def attention(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **kwargs):
        products = query @ key.mT * query.shape[-1] ** -0.5
        if attention_mask is not None:
            products = products + attention_mask
        weights.append(torch.exp(products - products.logsumexp(-1, keepdim=True)))
        disturbances.append(torch.zeros_like(weights[-1], requires_grad=True))
        return ((weights[-1] + disturbances[-1]) @ value).transpose(1, 2).contiguous(), None

    model.set_attn_implementation("eager")
    with monkeypatch.context() as patched:
        patched.setattr(modeling, "eager_attention_forward", attention)
        logits = model(**inputs).logits
    results = []
    for sample, label in enumerate(target.tolist()):
        gradients = torch.autograd.grad(logits[sample, label], disturbances, retain_graph=True)
        relevance = torch.eye(weights[0].shape[-1], dtype=logits.dtype)
        for weight, gradient in zip(weights, gradients, strict=True):
            relevance = relevance + (weight[sample] * gradient[sample]).clamp(min=0).mean(0) @ relevance
        results.append(relevance.detach())
    return torch.stack(results)


def test_equals_the_published_rule_on_images(tiny, monkeypatch):
    """Prevents: gradients of other logits, of dropped heads, or relevance carried in the wrong direction."""
    model, inputs = tiny("vit").double(), {"pixel_values": images().double()}
    expected = relevance_by_hand(tiny("vit").double(), modeling_vit, inputs, TARGET, monkeypatch)
    maps = AttentionGradient()(model, inputs, TARGET).maps
    torch.testing.assert_close(maps, expected[:, 0, 1:].reshape(2, 4, 4), rtol=1e-5, atol=1e-7)


def test_equals_the_published_rule_on_texts(monkeypatch):
    """Prevents: the identity that R starts from, left in the class token's own cell; relevance of padding."""
    model, inputs = build_text("bert").double(), token_batch()
    expected = relevance_by_hand(build_text("bert").double(), modeling_bert, inputs, TARGET, monkeypatch)
    maps = AttentionGradient()(model, inputs, TARGET).maps
    torch.testing.assert_close(maps, (expected - torch.eye(9))[:, 0])


def test_mean_of_rows_where_the_classifier_reads_one():
    """Prevents: relevance of the class token's row, and the identity's 1/N that would hide what was found."""
    model = build_text("modernbert", classifier_pooling="mean")
    inputs = token_batch()
    explanation = AttentionGradient(layers=-1)(model, inputs, TARGET)

    model.set_attn_implementation("eager")
    outputs = model(**inputs, output_attentions=True)
    for sample, label in enumerate(TARGET.tolist()):
        last = outputs.attentions[-1]
        (gradient,) = torch.autograd.grad(outputs.logits[sample, label], last, retain_graph=True)
        rows = (last * gradient)[sample].relu().mean(0)
        counted = inputs["attention_mask"][sample].sum()
        torch.testing.assert_close(explanation.maps[sample], (rows.sum(0) / counted).detach())


def test_map_depends_on_the_class():
    """Prevents: one map for all classes, as rollout has."""
    maps = AttentionGradient()(build_text("bert"), token_batch(), torch.tensor([[0, 1], [0, 1]])).maps
    assert not torch.allclose(maps[:, 0], maps[:, 1], rtol=0.1)


@pytest.mark.parametrize("name", ["dinov2", "bert", "timm_vit"])
def test_gradient_equals_finite_differences(tiny, name):
    """Prevents: a second derivative that is cut off, in a single tensor among many."""
    # transformers' ViT takes its softmax in float32 whatever the model's precision, too coarse for these differences.
    model, inputs = (
        (build_text(name).double(), token_batch())
        if name == "bert"
        else (tiny(name).double(), {"pixel_values": images().double()})
    )
    check_gradient(explained_loss(model, AttentionGradient(), inputs, TARGET), dict(model.named_parameters()))


@pytest.mark.parametrize("name", ["bert", "vit"])
def test_loss_reaches_every_layer(tiny, name):
    """Prevents: a loss that trains queries and keys, and not the values and the classifier behind the gradient."""
    model, inputs = (build_text(name), token_batch()) if name == "bert" else (tiny(name), PIXELS)

    _, gradients = explained_gradients(model.train(), AttentionGradient(), inputs, TARGET)

    kinds = ("query", "key", "value") if name == "bert" else ("q_proj", "k_proj", "v_proj")
    for kind in kinds:
        reached = [gradient.any() for key, gradient in gradients.items() if key.endswith(f"{kind}.weight")]
        assert len(reached) == 3 and all(reached)
    assert gradients["classifier.weight"].any()


@pytest.mark.parametrize("name", ["bert", "vit", "timm_vit"])
def test_frozen_teacher(tiny, name):
    """Prevents: 'does not require grad', where no weight of the model is trained."""
    model, inputs = (build_text(name), token_batch()) if name == "bert" else (tiny(name), PIXELS)
    explainer = AttentionGradient()
    expected = explainer(model, inputs, TARGET).maps

    model.requires_grad_(False)
    with torch.no_grad():
        explanation = explainer(model, inputs, TARGET)

    torch.testing.assert_close(explanation.maps, expected)
    assert not explanation.maps.requires_grad and not explanation.logits.requires_grad
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_frozen_lower_layers():
    """Prevents: 'not used in the graph', where the trained layers come after the frozen ones."""
    model, inputs = build_text("bert"), token_batch()
    _, whole = explained_gradients(model, AttentionGradient(), inputs, TARGET)
    model.bert.embeddings.requires_grad_(False)
    model.bert.encoder.layer[:2].requires_grad_(False)

    _, gradients = explained_gradients(model, AttentionGradient(), inputs, TARGET)

    trained = [key for key, parameter in model.named_parameters() if parameter.requires_grad]
    assert relative_error({key: gradients[key] for key in trained}, {key: whole[key] for key in trained}) < 1e-5
    assert not any(gradient.any() for key, gradient in gradients.items() if key not in trained)


def test_half_precision_model(tiny):
    """Prevents: gradients of a logit that fall below float16's smallest number."""
    model = tiny("vit")
    with torch.no_grad():
        model.classifier.weight.mul_(1e-3)
        model.vit.layernorm.weight.mul_(1e-3)
    expected = AttentionGradient()(model, PIXELS, TARGET).maps
    maps = AttentionGradient()(model.half(), {"pixel_values": images().half()}, TARGET).maps
    assert maps.dtype == torch.float32
    similarity = torch.nn.functional.cosine_similarity(maps.flatten(1), expected.flatten(1))
    assert (similarity > 0.99).all()
