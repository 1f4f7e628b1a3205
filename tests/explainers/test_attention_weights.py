"""Attention weights as the model uses them, and a model left as it was."""

import pickle

import pytest
import torch
from torch import nn
from transformers import (
    PvtConfig,
    PvtForImageClassification,
)

from hf_e2kd.architectures import call_model
from hf_e2kd.explainers.attention_gradient import AttentionGradient
from hf_e2kd.explainers.attention_rollout import AttentionRollout
from hf_e2kd.explainers.attention_weights import recorded_attention
from tests.explainers.attention import EXPLAINERS, PIXELS, TARGET, VISION
from tests.gradients import explained_gradients, relative_error
from tests.text_models import TEXT, build_text, token_batch


def state(model):
    """Everything about a model that an explainer could leave changed."""
    return [
        (
            name,
            type(module),
            module.training,
            sorted(vars(module)),
            len(module._forward_hooks),
            len(module._forward_pre_hooks),
            getattr(module, "fused_attn", None),
            getattr(getattr(module, "config", None), "_attn_implementation", None),
        )
        for name, module in model.named_modules()
    ] + [(name, parameter.requires_grad, parameter.grad is None) for name, parameter in model.named_parameters()]


@pytest.mark.parametrize("name", ["vit", "timm_vit", "wrapped_vit", "bert", "modernbert", "deberta"])
def test_weights_are_those_multiplied_with_the_values(model_of, name):
    """Prevents: weights that were read beside the path to the logits, or before dropout."""
    model, inputs = model_of(name)
    model.train()
    for module in model.modules():
        if hasattr(module, "attn_drop"):
            module.attn_drop.p = 0.3

    with recorded_attention(model) as weights:
        logits = call_model(model, inputs)

    assert [weight.shape[1:] for weight in weights] == [weights[0].shape[1:]] * 3
    assert all(gradient.any() for gradient in torch.autograd.grad(logits.sum(), weights))
    if name in ("bert", "deberta", "timm_vit", "wrapped_vit"):
        assert all((weight == 0).any() and (weight.sum(-1) - 1).abs().max() > 0.05 for weight in weights)


@pytest.mark.parametrize("name", [*VISION, *TEXT])
def test_logits_are_the_models_own(model_of, name):
    """Prevents: an eager pass that computes something else, by another mask or scale."""
    model, inputs = model_of(name)

    for explainer in (AttentionRollout(), AttentionGradient()):
        logits = explainer(model, inputs).logits
        torch.testing.assert_close(logits, call_model(model, inputs).detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("explainer", EXPLAINERS)
@pytest.mark.parametrize("name", ["vit", "timm_vit", "wrapped_vit", "bert", "deberta", "albert"])
def test_nothing_is_left_behind(model_of, name, explainer):
    """Prevents: a model that stays eager, or keeps hooks with which it can't be pickled or compiled."""
    model, inputs = model_of(name)
    model.train()
    next(module for module in model.modules() if isinstance(module, nn.LayerNorm)).eval()
    before = state(model)

    explainer()(model, inputs, TARGET, create_graph=True)

    assert state(model) == before
    pickle.dumps(model)
    with pytest.raises(ValueError, match="numbers from -3 to 2"):
        explainer(layers=[3])(model, inputs, TARGET)
    assert state(model) == before


@pytest.mark.parametrize("explainer", EXPLAINERS)
@pytest.mark.parametrize("name", ["vit", "timm_vit", "bert"])
def test_nothing_is_left_behind_by_an_error(model_of, name, explainer):
    """Prevents: an interrupted step after which the model computes otherwise."""
    model, inputs = model_of(name)
    before = state(model)

    def fail(*_):
        raise RuntimeError("interrupted")

    last = [module for module in model.modules() if isinstance(module, nn.LayerNorm)][-1]
    handle = last.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="interrupted"):
        explainer()(model, inputs, TARGET)
    handle.remove()

    assert state(model) == before


def test_hooks_that_the_user_asked_for_stay(tiny):
    """Prevents: transformers' own recording, switched on before, silently empty after an explanation."""
    model = tiny("vit")
    model.set_attn_implementation("eager")
    model(**PIXELS, output_attentions=True)

    AttentionRollout()(model, PIXELS)

    assert len(model(**PIXELS, output_attentions=True).attentions) == 3


@pytest.mark.parametrize("explainer", EXPLAINERS)
@pytest.mark.parametrize("name", ["swin", "convnext", "resnet", "efficientnet", "timm_swin", "timm_resnet"])
def test_models_without_global_attention_are_refused(tiny, name, explainer):
    """Prevents: windows or channels taken for tokens."""
    with pytest.raises(ValueError, match="has no global attention map.*gradcam"):
        explainer()(tiny(name), PIXELS, TARGET)


def test_reduced_attention_is_refused():
    """Prevents: a product of matrices between different tokens."""
    config = PvtConfig(hidden_sizes=[8] * 4, num_attention_heads=[1] * 4, depths=[1] * 4, image_size=32)
    with pytest.raises(ValueError, match=r"weights have the shapes .*\(2, 1, 64, 1\).*gradcam"):
        AttentionRollout()(PvtForImageClassification(config).eval(), PIXELS)


def test_fused_kernels_are_no_obstacle(tiny):
    """Prevents: a refusal of flash or flex attention, which is not used for the explained forward."""
    model = tiny("vit")
    expected = AttentionGradient()(model, PIXELS, TARGET).maps
    model.config._attn_implementation_internal = "flex_attention"

    AttentionGradient().check(model)
    torch.testing.assert_close(AttentionGradient()(model, PIXELS, TARGET).maps, expected)
    assert model.config._attn_implementation == "flex_attention"


def checkpointed(model, use_reentrant=False):
    if hasattr(model, "set_grad_checkpointing"):
        model.set_grad_checkpointing()
    elif hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable({"use_reentrant": use_reentrant})
    else:
        model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})


@pytest.mark.parametrize("explainer", EXPLAINERS)
@pytest.mark.parametrize("name", ["vit", "bert", "timm_vit"])
def test_checkpointing_changes_no_gradient(model_of, name, explainer):
    """Prevents: layers recomputed by another kernel, after the explainer has put it back."""
    model, inputs = model_of(name)
    # In evaluation mode transformers checkpoints nothing; dropout would differ between the two.
    for module in model.train().modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0
    plain_loss, plain = explained_gradients(model, explainer(), inputs, TARGET)

    checkpointed(model)
    with pytest.raises(ValueError, match="Activation checkpointing would recompute.*without checkpointing"):
        explained_gradients(model, explainer(), inputs, TARGET)
    with pytest.raises(ValueError, match="Activation checkpointing would recompute"):
        explainer().check(model)
    assert explainer()(model, inputs, TARGET).maps.any()

    if name == "timm_vit":
        for block in model.blocks:
            block.attn.fused_attn = False
    else:
        model.set_attn_implementation("eager")
    loss, gradients = explained_gradients(model, explainer(), inputs, TARGET)
    assert loss.item() == pytest.approx(plain_loss.item(), rel=1e-5)
    assert relative_error(gradients, plain) < 1e-5


def test_a_first_step_may_be_checkpointed(tiny):
    """Prevents: weights recorded once more where the look at a new model's derivatives computes its layers again."""
    plain_loss, _ = explained_gradients(tiny("timm_vit"), AttentionGradient(), PIXELS, TARGET)
    model = tiny("timm_vit")
    for block in model.blocks:
        block.attn.fused_attn = False
    checkpointed(model)
    loss, _ = explained_gradients(model, AttentionGradient(), PIXELS, TARGET)
    assert loss.item() == pytest.approx(plain_loss.item(), rel=1e-5)


@pytest.mark.parametrize("explainer", EXPLAINERS)
def test_reentrant_checkpointing_is_refused(explainer):
    """Prevents: maps without a graph, whose loss trains nothing."""
    model = build_text("bert").train()
    model.set_attn_implementation("eager")
    checkpointed(model, use_reentrant=True)
    with pytest.raises(ValueError, match='Reentrant.*"use_reentrant": False'):
        explainer().check(model)
    with pytest.raises(ValueError, match='Reentrant.*"use_reentrant": False'):
        explainer()(model, token_batch(), TARGET, create_graph=True)
