"""What both attention explainers share: weights as the model uses them, the tokens read, and a model left as it was."""

import pickle
from copy import deepcopy

import pytest
import torch
from torch import nn
from transformers import (
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersForImageClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    PvtConfig,
    PvtForImageClassification,
)

from hf_e2kd.architectures import call_model
from hf_e2kd.explainers import install_explained_forward
from hf_e2kd.explainers.attention_gradient import AttentionGradient
from hf_e2kd.explainers.attention_rollout import AttentionRollout
from hf_e2kd.explainers.attention_weights import ReadTokens, find_read_tokens, recorded_attention
from tests.gradients import explained_gradients, relative_error
from tests.models import CLASSES, images, randomise
from tests.text_models import TEXT, build_text, token_batch

TARGET = torch.tensor([3, 1])
EXPLAINERS = [AttentionRollout, AttentionGradient]
CLASS_TOKEN = ReadTokens((0,), None)
CLASS_AND_DISTILLATION = ReadTokens((0, 1), None)
VISION = {
    "vit": CLASS_TOKEN,
    "deit": CLASS_TOKEN,
    "deit_teacher": CLASS_AND_DISTILLATION,
    "beit": ReadTokens((), 1),
    "beit_token": CLASS_TOKEN,
    "dinov2": ReadTokens((0,), 1),
    "timm_vit": CLASS_TOKEN,
    "timm_vit_average": ReadTokens((), 1),
    "timm_deit_distilled": CLASS_AND_DISTILLATION,
    "timm_siglip": ReadTokens((), 0),
    "wrapped_vit": CLASS_TOKEN,
    "wrapped_vit_average": ReadTokens((), 1),
}
PIXELS = {"pixel_values": images()}


@pytest.fixture
def model_of(tiny):
    """`model_of("bert")`: a tiny model of a family, of text or of images, and a batch for it."""

    def build(name):
        return (build_text(name), token_batch()) if name in TEXT else (tiny(name), PIXELS)

    return build


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


# --- The weights -----------------------------------------------------------------------------------------------------


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


# --- The tokens that are read ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "expected"), VISION.items())
def test_tokens_that_image_classifiers_read(tiny, name, expected):
    """Prevents: the class token's row, where the classifier reads the patches' mean."""
    assert find_read_tokens(tiny(name).train(), PIXELS) == expected


@pytest.mark.parametrize("name", TEXT)
def test_text_classifiers_read_the_class_token(name):
    """Prevents: padded rows, or all rows, taken to be read."""
    assert find_read_tokens(build_text(name), token_batch()) == CLASS_TOKEN


@pytest.mark.parametrize("seed", range(4))
def test_mean_of_the_tokens_that_count(seed):
    """Prevents: padding in the mean, and a token that happens to weigh more taken for a class token."""
    model = build_text("modernbert", seed, classifier_pooling="mean")

    read = find_read_tokens(model, token_batch(seed=seed))

    assert read == ReadTokens((), 0)
    expected = torch.tensor([[1 / 9] * 9, [1 / 7] * 7 + [0.0, 0.0]])
    torch.testing.assert_close(read.weights(token_batch()["attention_mask"] != 0), expected)


def test_class_token_beside_a_mean():
    """Prevents: DINOv2's class token counted as one of many tokens, and its registers as patches."""
    expected = torch.tensor([[0.5, 0.0, 0.0, 0.25, 0.25]])
    torch.testing.assert_close(ReadTokens((0,), 3).weights(torch.ones(1, 5, dtype=torch.bool)), expected)

    config = Dinov2WithRegistersConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8, num_labels=CLASSES
    )
    model = Dinov2WithRegistersForImageClassification(config)
    randomise(model)
    assert find_read_tokens(model, PIXELS) == ReadTokens((0,), 5)
    assert AttentionRollout()(model.eval(), PIXELS).maps.shape == (2, 4, 4)


class LastToken(nn.Module):
    """A text classifier that reads each text's last token."""

    def __init__(self):
        super().__init__()
        self.bert = build_text("bert")
        self.config = self.bert.config

    def get_input_embeddings(self):
        return self.bert.get_input_embeddings()

    def forward(self, input_ids, attention_mask, **kwargs):
        outputs = self.bert.bert(input_ids, attention_mask, **kwargs)
        last = outputs.last_hidden_state[torch.arange(len(input_ids)), attention_mask.sum(1) - 1]
        return {"logits": last[:, :CLASSES], "attentions": outputs.get("attentions")}


def test_tokens_at_the_samples_own_places_are_refused():
    """Prevents: a row that one batch has and the next has not."""
    with pytest.raises(ValueError, match="neither its first tokens nor the mean of all.*integrated_gradients"):
        AttentionRollout()(LastToken().eval(), token_batch())


def test_the_trace_draws_no_random_numbers():
    """Prevents: a first step with other dropout than the same step later."""
    model = build_text("bert").train()
    explainer = AttentionGradient()
    maps = []
    for _ in range(2):
        torch.manual_seed(3)
        maps.append(explainer(model, token_batch(), TARGET).maps)
    torch.testing.assert_close(*maps)


# --- A model left as it was ------------------------------------------------------------------------------------------


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


# --- Options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("explainer", EXPLAINERS)
@pytest.mark.parametrize(
    ("options", "same"),
    [
        ({"layers": [0, 1, 2]}, {}),
        ({"layers": [2, 0]}, {"layers": [0, -1]}),
        ({"layers": -1}, {"layers": [2]}),
        ({"heads": [1, 0]}, {}),
        ({"heads": -1}, {"heads": [1]}),
    ],
)
def test_layers_and_heads(tiny, explainer, options, same):
    """Prevents: layers in the order in which they are listed, or a number taken as a count."""
    model = tiny("vit")
    maps = explainer(**options)(model, PIXELS, TARGET).maps
    torch.testing.assert_close(maps, explainer(**same)(model, PIXELS, TARGET).maps)
    if same:
        assert not torch.allclose(maps, explainer()(model, PIXELS, TARGET).maps)


@pytest.mark.parametrize("explainer", EXPLAINERS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": 3}, r"layers=3: ViTForImageClassification has 3 layers\. Give numbers from -3 to 2\."),
        ({"layers": [0, -4]}, "has 3 layers"),
        ({"layers": []}, "has 3 layers"),
        ({"layers": ["last"]}, "has 3 layers"),
        ({"heads": [2]}, r"heads=\[2\]: ViTForImageClassification has 2 heads\. Give numbers from -2 to 1\."),
    ],
)
def test_layers_and_heads_that_do_not_exist(tiny, explainer, options, message):
    """Prevents: an IndexError in the middle of training that doesn't say what is valid."""
    with pytest.raises(ValueError, match=message):
        explainer(**options)(tiny("vit"), PIXELS, TARGET)


# --- Families --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("explainer", EXPLAINERS)
@pytest.mark.parametrize("name", VISION)
def test_image_families(tiny, name, explainer):
    """Prevents: prefix tokens in the map, or rectangular images laid out the wrong way round."""
    model = tiny(name)
    maps = explainer()(model, PIXELS, TARGET).maps
    assert (
        maps.shape == (2, 4, 4) and maps.isfinite().all() and (maps >= 0).all() and (maps.flatten(1).std(1) > 0).all()
    )


@pytest.mark.parametrize("explainer", EXPLAINERS)
@pytest.mark.parametrize("name", TEXT)
def test_text_families(name, explainer):
    """Prevents: NaN by padding, or relevance on padded places."""
    inputs = token_batch()
    explanation = explainer()(build_text(name), inputs, TARGET)
    assert explanation.layout == "tokens"
    assert explanation.mask.equal(inputs["attention_mask"] != 0)
    # A token whose attention speaks against the class in every head has no relevance by the gradient.
    assert explanation.maps.isfinite().all() and (explanation.maps[explanation.mask] > 0).float().mean() > 0.8
    assert not explanation.maps[~explanation.mask].any()


@pytest.mark.parametrize("explainer", EXPLAINERS)
def test_padding_changes_nothing(explainer):
    """Prevents: relevance that flows through padded places."""
    model = build_text("bert")
    inputs = token_batch()
    padded = explainer()(model, inputs, TARGET).maps[1, :7]
    alone = explainer()(model, {key: value[1:, :7] for key, value in inputs.items()}, TARGET[1:]).maps[0]
    torch.testing.assert_close(padded, alone)


@pytest.mark.parametrize("explainer", EXPLAINERS)
def test_words(explainer):
    """Prevents: sub-words left apart, or special tokens among the words."""
    model, inputs = build_text("bert"), token_batch()
    tokens = explainer()(model, inputs, TARGET).maps
    word_ids = torch.tensor([[-1, 0, 0, 1, 2, 2, 3, 4, -1], [-1, 0, 1, 1, 2, 3, -1, -1, -1]])

    explanation = explainer()(model, {**inputs, "word_ids": word_ids}, TARGET)

    assert explanation.layout == "words"
    torch.testing.assert_close(explanation.maps[0, 0], tokens[0, 1] + tokens[0, 2])
    assert explanation.mask.tolist() == [[True] * 5, [True] * 4 + [False]]


@pytest.mark.parametrize("explainer", EXPLAINERS)
def test_rectangular_images(tiny, explainer):
    """Prevents: patches read row by row in another grid than the image's."""
    model = tiny("vit")
    inputs = {"pixel_values": images(2, 32, 48), "interpolate_pos_encoding": True}
    assert explainer()(model, inputs, TARGET).maps.shape == (2, 4, 6)


# --- What is refused -------------------------------------------------------------------------------------------------


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


def test_causal_models_are_refused():
    """Prevents: maps that favour a text's first tokens."""
    config = GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=60, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    with pytest.raises(ValueError, match="GPT2ForSequenceClassification is causal.*integrated_gradients"):
        AttentionGradient()(GPT2ForSequenceClassification(config).eval(), token_batch())


@pytest.mark.parametrize("explainer", EXPLAINERS)
def test_check_before_training(tiny, explainer):
    """Prevents: an error after an hour for what was known before."""
    explainer().check(tiny("vit"))
    explainer().check(tiny("timm_vit"))
    explainer().check(build_text("bert"))
    with pytest.raises(ValueError, match="Train without torch_compile"):
        explainer().check(tiny("vit"), compiled=True)
    for other in (nn.Sequential(nn.Linear(2, 2)), tiny("timm_convnext")):
        with pytest.raises(ValueError, match="no global attention map"):
            explainer().check(other)


def test_fused_kernels_are_no_obstacle(tiny):
    """Prevents: a refusal of flash or flex attention, which is not used for the explained forward."""
    model = tiny("vit")
    expected = AttentionGradient()(model, PIXELS, TARGET).maps
    model.config._attn_implementation_internal = "flex_attention"

    AttentionGradient().check(model)
    torch.testing.assert_close(AttentionGradient()(model, PIXELS, TARGET).maps, expected)
    assert model.config._attn_implementation == "flex_attention"


# --- Training --------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("explainer", EXPLAINERS)
@pytest.mark.parametrize("name", ["vit", "bert"])
def test_explained_forward_and_deep_copies(model_of, name, explainer):
    """Prevents: an explained student whose copy explains, or trains, the original."""
    model, inputs = model_of(name)
    expected = explainer()(model, inputs, TARGET)
    install_explained_forward(model, explainer())

    output = model(**inputs, explain_target=TARGET)
    copy = deepcopy(model)
    copied = copy(**inputs, explain_target=TARGET)
    copied.maps.square().sum().backward()

    torch.testing.assert_close(output.maps, expected.maps)
    torch.testing.assert_close(copied.maps, expected.maps)
    assert any(parameter.grad is not None for parameter in copy.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert "attentions" not in model(**inputs)


@pytest.mark.parametrize("explainer", EXPLAINERS)
@pytest.mark.parametrize("name", ["vit", "timm_vit", "bert"])
def test_mixed_precision(model_of, name, explainer):
    """Prevents: maps in half precision, with whose few digits a loss would be taken."""
    model, inputs = model_of(name)
    expected = explainer()(model, inputs, TARGET).maps
    model.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        explanation = explainer()(model.eval(), inputs, TARGET, create_graph=True)
    explanation.maps.square().sum().backward()

    assert explanation.maps.dtype == torch.float32
    similarity = torch.nn.functional.cosine_similarity(explanation.maps.flatten(1), expected.flatten(1))
    assert (similarity > 0.98).all()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("explainer", EXPLAINERS)
@pytest.mark.parametrize("name", ["vit", "bert", "deberta"])
def test_targets(model_of, name, explainer):
    """Prevents: several targets that share a map, or −1 explained as the last class."""
    model, inputs = model_of(name)
    maps = explainer()(model, inputs, torch.tensor([[3, 0], [1, -1]])).maps

    assert maps.shape[:2] == (2, 2)
    torch.testing.assert_close(maps[:, 0], explainer()(model, inputs, torch.tensor([3, 1])).maps)
    torch.testing.assert_close(maps[0, 1], explainer()(model, inputs, torch.tensor([0, -1])).maps[0])
    assert not maps[1, 1].any()
    assert not explainer()(model, inputs, torch.tensor([0, -1])).maps[1].any()
