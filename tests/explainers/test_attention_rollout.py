"""Attention rollout: the published product of matrices, and a gradient that reaches every layer's queries and keys."""

import numpy as np
import pytest
import torch

from hf_e2kd.explainers.attention_rollout import AttentionRollout
from tests.gradients import check_gradient, explained_gradients, explained_loss
from tests.models import images
from tests.text_models import build_text, token_batch

TARGET = torch.tensor([3, 1])
PIXELS = {"pixel_values": images()}


def rolled_out(model, inputs, residual=0.5):
    """The whole N×N product, as Abnar & Zuidema's code computes it, in NumPy."""
    model.set_attn_implementation("eager")
    with torch.no_grad():
        attentions = [weights.double().numpy() for weights in model(**inputs, output_attentions=True).attentions]
    product = np.eye(attentions[0].shape[-1])
    for attention in attentions:
        mixed = residual * np.eye(attention.shape[-1]) + (1 - residual) * attention.mean(axis=1)
        product = mixed / mixed.sum(axis=-1, keepdims=True) @ product
    return product


@pytest.mark.parametrize("residual", [0.0, 0.5, 0.8])
def test_equals_the_whole_product_on_images(tiny, residual):
    """Prevents: layers multiplied in the reverse order, or columns taken for rows."""
    maps = AttentionRollout(residual=residual)(tiny("vit"), PIXELS).maps
    expected = rolled_out(tiny("vit"), PIXELS, residual)[:, 0, 1:].reshape(2, 4, 4)
    np.testing.assert_allclose(maps.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("name", ["bert", "modernbert", "deberta", "albert"])
def test_equals_the_whole_product_on_texts(name):
    """Prevents: local layers, or a layer called several times, left out."""
    maps = AttentionRollout()(build_text(name), token_batch()).maps
    expected = rolled_out(build_text(name), token_batch())[:, 0]
    np.testing.assert_allclose(maps.numpy(), expected, atol=1e-6)


def test_equals_the_mean_of_rows_where_the_classifier_reads_one(tiny):
    """Prevents: the class token's row, which a mean-pooling classifier never reads."""
    maps = AttentionRollout()(tiny("beit"), PIXELS).maps
    expected = rolled_out(tiny("beit"), PIXELS)[:, 1:].mean(axis=1)[:, 1:].reshape(2, 4, 4)
    np.testing.assert_allclose(maps.numpy(), expected, atol=1e-6)


def test_rows_of_dropped_weights_sum_to_one():
    """Prevents: layers that count more by the chance of dropout, and NaN where all weights are dropped."""
    model = build_text("bert").train()
    for residual in (0.0, 0.5):
        explainer = AttentionRollout(residual=residual, heads=[0])
        maps = explainer(model, token_batch(), TARGET).maps
        torch.testing.assert_close(maps.sum(1), torch.ones(2))
    for layer in model.bert.encoder.layer:
        layer.attention.self.dropout.p = 1.0
    assert AttentionRollout(residual=0.0)(model, token_batch(), TARGET).maps.isfinite().all()


def test_the_map_is_the_same_for_every_class():
    """Prevents: a class-dependent reading of a method that knows no classes."""
    maps = AttentionRollout()(build_text("bert"), token_batch(), torch.tensor([[0, 4, -1], [2, -1, 1]])).maps
    torch.testing.assert_close(maps[0, 0], maps[0, 1])
    torch.testing.assert_close(maps[1, 0], maps[1, 2])
    assert maps[0, 0].any() and not maps[0, 2].any() and not maps[1, 1].any()


@pytest.mark.parametrize("residual", [-0.1, 1.0, 2.0])
def test_residual_without_attention_is_refused(residual):
    """Prevents: a map that shows nothing but the row that was read."""
    with pytest.raises(ValueError, match="at least 0 and less than 1"):
        AttentionRollout(residual=residual)


@pytest.mark.parametrize("name", ["dinov2", "bert", "deberta", "timm_vit", "timm_vit_average"])
def test_gradient_equals_finite_differences(tiny, name):
    """Prevents: a detached layer, or one computed by another kernel in the backward pass."""
    # transformers' ViT takes its softmax in float32 whatever the model's precision, too coarse for these differences.
    model, inputs = (
        (build_text(name).double(), token_batch())
        if name in ("bert", "deberta")
        else (tiny(name).double(), {"pixel_values": images().double()})
    )
    check_gradient(explained_loss(model, AttentionRollout(), inputs, TARGET), dict(model.named_parameters()))


@pytest.mark.parametrize("name", ["bert", "vit"])
def test_loss_reaches_queries_and_keys_of_every_layer(tiny, name):
    """Prevents: a loss of maps that trains nothing, or the last layer alone."""
    model, inputs = (build_text(name), token_batch()) if name == "bert" else (tiny(name), PIXELS)

    _, gradients = explained_gradients(model.train(), AttentionRollout(), inputs, TARGET)

    parts = ("query.weight", "key.weight", "q_proj.weight", "k_proj.weight")
    reached = {key for key, gradient in gradients.items() if key.endswith(parts) and gradient.any()}
    assert len(reached) == 6
    assert not gradients["classifier.weight"].any()


def test_frozen_teacher(tiny):
    """Prevents: a graph built, or asked for, where nothing is trained."""
    teacher = tiny("vit").requires_grad_(False)
    explainer = AttentionRollout()
    explanation = explainer(teacher, PIXELS, TARGET)
    assert explanation.maps.any() and not explanation.maps.requires_grad
    with torch.no_grad():
        assert explainer.forward(teacher, PIXELS, TARGET).logits.grad_fn is None
