"""Saliency against captum; and what all explainers at the input have in common."""

import itertools

import pytest
import torch
import transformers
from captum.attr import LayerGradientXActivation
from captum.attr import Saliency as CaptumSaliency

from hf_e2kd.alignment.words import lay_out_tokens
from hf_e2kd.explainers import InputXGradient, IntegratedGradients, Saliency, install_explained_forward, shared_noise
from tests.gradients import check_gradient, explained_gradients, explained_loss, loss_of, relative_error
from tests.models import CLASSES, images
from tests.text_models import VOCABULARY, build_text, token_batch
from tests.training import CHECKPOINTING

TARGET = torch.tensor([3, 1])
EXPLAINERS = {
    "saliency": Saliency(),
    "saliency signed": Saliency(signed=True),
    "input_x_gradient": InputXGradient(),
    "integrated_gradients": IntegratedGradients(n_steps=3, internal_batch_size=2),
    "integrated_gradients from pad": IntegratedGradients(n_steps=2, baselines="pad"),
    "integrated_gradients drawn": IntegratedGradients(random_points=3, internal_batch_size=2),
}
ALL = sorted(EXPLAINERS)
ON_IMAGES = [name for name in ALL if "pad" not in name]
# Behind a word embedding stands a LayerNorm, which a shift of all its dimensions passes unseen: the signed sum is 0.
ON_TEXTS = [name for name in ALL if "signed" not in name]
EXPLAINED = [(name, "vit") for name in ON_IMAGES] + [(name, "bert") for name in ON_TEXTS]


def explainer_of(name):
    """An explainer; `drawn` ones make the random choices of a training step."""
    noise = torch.rand(3, 16, generator=torch.Generator().manual_seed(3))  # for batches of up to 16
    return shared_noise([EXPLAINERS[name]], noise if "drawn" in name else None), EXPLAINERS[name]


def model_and_inputs(tiny, name, double=False):
    if name in ("bert", "roberta", "distilbert"):
        model, inputs = build_text(name), token_batch()
    else:
        model, inputs = tiny(name), {"pixel_values": images()}
    if double:
        model = model.double()
        inputs = {key: value.double() if value.is_floating_point() else value for key, value in inputs.items()}
    return model, inputs


def embedding_gradients(model, inputs, target, multiply):
    """By captum, at the word embeddings: (B, T, C), 0 in padding."""
    table = model.get_input_embeddings()
    method = LayerGradientXActivation(lambda ids, mask: model(ids, mask).logits, table, multiply_by_inputs=multiply)
    found = method.attribute(
        inputs["input_ids"], target=target, additional_forward_args=(inputs["attention_mask"],)
    ).detach()
    return found * inputs["attention_mask"].unsqueeze(-1)


# --- Values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("name", ["resnet", "convnext", "vit"])
def test_equals_captums_on_images(tiny, name, signed):
    """Prevents: another gradient than the logit's, or a sum of colours before their sign is dropped."""
    model, pixels = tiny(name), images()
    expected = CaptumSaliency(lambda pixels: model(pixels).logits).attribute(
        pixels.clone().requires_grad_(), target=TARGET, abs=not signed
    )
    explanation = Saliency(signed=signed)(model, {"pixel_values": pixels}, TARGET)
    torch.testing.assert_close(explanation.maps, expected.detach().sum(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(explanation.logits, model(pixels).logits.detach())
    assert explanation.layout == "image" and explanation.mask is None


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert"])
def test_equals_captums_on_texts(name):
    """Prevents: a gradient behind the positions, or of the embeddings in other places than the tokens'."""
    model, inputs = build_text(name), token_batch()
    gradients = embedding_gradients(model, inputs, TARGET, multiply=False)
    explanation = Saliency()(model, inputs, TARGET)
    torch.testing.assert_close(explanation.maps, gradients.abs().sum(-1), rtol=1e-4, atol=1e-6)
    assert explanation.layout == "tokens"
    assert torch.equal(explanation.mask, inputs["attention_mask"].bool())


# --- What the explainers at the input have in common -----------------------------------------------------------------


@pytest.mark.parametrize(("name", "family"), EXPLAINED)
def test_gradient_equals_finite_differences(tiny, name, family):
    """Prevents: a map that is constant to some parameter, or whose derivative in it is wrong."""
    model, inputs = model_and_inputs(tiny, family, double=True)
    choices, explainer = explainer_of(name)
    if family == "bert":
        model.get_input_embeddings().padding_idx = None  # with which torch gives the table's padding row no gradient
    with choices:
        check_gradient(explained_loss(model, explainer, inputs, TARGET), dict(model.named_parameters()))


@pytest.mark.parametrize("name", ON_TEXTS)
def test_a_loss_reaches_the_embedding_table_and_the_classifier(name):
    """Prevents: a text student whose explanation trains the layers between, and neither end."""
    model, inputs = build_text("bert"), token_batch()
    choices, explainer = explainer_of(name)
    with choices:
        _, gradients = explained_gradients(model, explainer, inputs, TARGET)
    rows = gradients["bert.embeddings.word_embeddings.weight"].abs().sum(1)
    seen = inputs["input_ids"][inputs["attention_mask"] == 1].unique()
    assert (rows[seen] > 0).all()
    assert gradients["classifier.weight"].any()


@pytest.mark.parametrize(("name", "family"), EXPLAINED)
def test_a_frozen_teacher_without_gradients_gives_the_same_map(tiny, name, family):
    """Prevents: 'does not require grad' where the teacher is frozen and called under no_grad."""
    model, inputs = model_and_inputs(tiny, family)
    choices, explainer = explainer_of(name)
    with choices:
        expected = explainer(model, inputs, TARGET, create_graph=True)
        model.requires_grad_(False)
        with torch.no_grad():
            found = explainer(model, inputs, TARGET)
    torch.testing.assert_close(found.maps, expected.maps.detach(), rtol=1e-4, atol=1e-6)
    assert expected.maps.requires_grad and expected.logits.requires_grad
    assert not found.maps.requires_grad and not found.logits.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    for value in inputs.values():
        assert not value.requires_grad


@pytest.mark.parametrize(("name", "family"), EXPLAINED)
def test_several_targets_and_none(tiny, name, family):
    """Prevents: targets side by side that mix, and a map where none was asked for."""
    model, inputs = model_and_inputs(tiny, family)
    explainer = EXPLAINERS[name]
    first, second = (explainer(model, inputs, column).maps for column in (TARGET, torch.tensor([0, 2])))
    both = explainer(model, inputs, torch.tensor([[3, 0, -1], [1, 2, -1]]))
    apart = torch.stack([first, second, torch.zeros_like(first)], 1)
    torch.testing.assert_close(both.maps, apart, rtol=1e-4, atol=1e-6)
    one = explainer(model, inputs, torch.tensor([-1, 1]))
    torch.testing.assert_close(one.maps, torch.stack([torch.zeros_like(first[0]), first[1]]), rtol=1e-4, atol=1e-6)
    assert first.any()
    nothing = explainer(model, inputs, torch.tensor([-1, -1]), create_graph=True)
    assert nothing.maps.shape == first.shape and not nothing.maps.any()
    torch.testing.assert_close(nothing.logits, both.logits)
    top = explainer(model, inputs)
    assert torch.equal(top.target, top.logits.argmax(1))


@pytest.mark.parametrize("name", ON_TEXTS)
def test_words_are_sums_of_tokens(name):
    """Prevents: maps of texts in which student and teacher count other cells."""
    model, inputs = build_text("bert"), token_batch()
    ids = torch.tensor([[-1, 0, 0, 1, 2, 2, 3, 3, -1], [-1, 0, 1, 1, 2, 2, -1, -1, -1]])
    tokens = EXPLAINERS[name](model, inputs, TARGET).maps
    explanation = EXPLAINERS[name](model, {**inputs, "word_ids": ids}, TARGET)
    assert explanation.layout == "words"
    assert explanation.mask.tolist() == [[True] * 4, [True, True, True, False]]
    for row in range(2):
        expected = torch.stack([tokens[row][ids[row] == word].sum() for word in range(4)])
        torch.testing.assert_close(explanation.maps[row], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "vit"])
@pytest.mark.parametrize("name", ["saliency", "input_x_gradient", "integrated_gradients"])
def test_hooks_are_gone_after_success_and_after_errors(tiny, monkeypatch, name, family):
    """Prevents: a model whose next forward is still the explained one."""
    model, inputs = model_and_inputs(tiny, family)

    def hooks():
        return [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]

    before, logits = hooks(), model(**inputs).logits

    def wrong(logits):
        raise RuntimeError("no class")

    EXPLAINERS[name](model, inputs, TARGET)
    assert hooks() == before
    with pytest.raises(RuntimeError, match="no class"):
        EXPLAINERS[name](model, inputs, wrong)
    assert hooks() == before
    with pytest.raises(ValueError, match="target must be integers"):
        EXPLAINERS[name](model, inputs, torch.tensor([1.0, 2.0]))
    # A pass that is written out reads the classifier's weights, and doesn't call it.
    part = model.get_input_embeddings() if family == "bert" else model.classifier
    monkeypatch.setattr(part, "forward", wrong)
    with pytest.raises(RuntimeError, match="no class"):
        EXPLAINERS[name](model, inputs, TARGET)
    monkeypatch.undo()
    assert hooks() == before
    assert torch.equal(model(**inputs).logits, logits)


def fail_in_second_pass(module):
    """Raise in the module's second call: on the path, behind the pass that gives the logits."""
    calls = itertools.count(1)

    def fail(*_):
        if next(calls) == 2:
            raise RuntimeError("the second pass")

    module.register_forward_pre_hook(fail)


def test_hooks_are_gone_where_the_path_ends_in_an_error():
    """Prevents: a hook left by the second, moved forward pass of Integrated Gradients."""
    model, inputs = build_text("bert"), token_batch()
    fail_in_second_pass(model.classifier)
    with pytest.raises(RuntimeError, match="second pass"):
        IntegratedGradients()(model, inputs, TARGET)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("name", ON_IMAGES)
def test_training_mode_and_batch_statistics_stay(tiny, name):
    """Prevents: statistics of blended images in the model that is saved, and a mode changed under the trainer."""
    model, pixels = tiny("resnet").train(), images(4)
    expected = tiny("resnet").train()
    expected(pixels)
    choices, explainer = explainer_of(name)
    with choices:
        explainer(model, {"pixel_values": pixels}, torch.tensor([3, 1, 0, -1]), create_graph=True).maps.sum().backward()
    assert all(module.training for module in model.modules())
    for (key, found), (_, wanted) in zip(model.named_buffers(), expected.named_buffers(), strict=True):
        torch.testing.assert_close(found, wanted, msg=key)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert norms and all(norm.track_running_stats for norm in norms)


def test_statistics_are_tracked_again_after_an_error(tiny):
    """Prevents: batch norms that stop learning their statistics because one explanation failed."""
    model = tiny("resnet").train()
    fail_in_second_pass(model.classifier)
    with pytest.raises(RuntimeError, match="second pass"):
        IntegratedGradients()(model, {"pixel_values": images()}, TARGET)
    assert all(m.track_running_stats for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d))


# --- Attention kernels, checkpointing, precision ---------------------------------------------------------------------


@pytest.mark.parametrize(("name", "family"), EXPLAINED)
def test_the_fused_kernel_gives_the_same_gradient_as_the_eager_one(tiny, name, family):
    """Prevents: 'derivative for _scaled_dot_product_flash_attention_for_cpu_backward is not implemented'."""
    model, inputs = model_and_inputs(tiny, family)
    choices, explainer = explainer_of(name)
    with choices:
        results = []
        for kernel in ("sdpa", "eager"):
            model.set_attn_implementation(kernel)
            results.append(explained_gradients(model, explainer, inputs, TARGET))
    assert results[0][0].item() == pytest.approx(results[1][0].item(), rel=1e-4)
    assert relative_error(results[0][1], results[1][1]) < 1e-3


@pytest.mark.parametrize("family", ["bert", "vit"])
@pytest.mark.parametrize("name", ["saliency", "integrated_gradients drawn"])
def test_checkpointing_changes_no_gradient(tiny, name, family):
    """Prevents: layers recomputed with another kernel, or a hook's moved embeddings lost in the second pass."""
    model, inputs = model_and_inputs(tiny, family)
    model.set_attn_implementation("eager")
    for module in model.train().modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    choices, explainer = explainer_of(name)
    with choices:
        plain_loss, plain = explained_gradients(model, explainer, inputs, TARGET)
        enable = f"{CHECKPOINTING}_enable"
        getattr(model, enable)({"use_reentrant": False})
        loss, gradients = explained_gradients(model, explainer, inputs, TARGET)
        assert loss.item() == pytest.approx(plain_loss.item(), rel=1e-5)
        assert relative_error(gradients, plain) < 1e-4
        model.set_attn_implementation("sdpa")
        with pytest.raises(ValueError, match="Activation checkpointing.*set_attn_implementation\\('eager'\\)"):
            explainer(model, inputs, TARGET, create_graph=True)
        assert explainer(model, inputs, TARGET).maps.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("name", "family"), EXPLAINED)
def test_half_precision_is_finite_and_near(tiny, name, family, dtype):
    """Prevents: gradients below float16's smallest number, and maps in a precision that losses can't use."""
    model, inputs = model_and_inputs(tiny, family)
    choices, explainer = explainer_of(name)
    with choices:
        expected = explainer(model, inputs, TARGET).maps
        with torch.autocast("cpu", dtype):
            explanation = explainer(model, inputs, TARGET, create_graph=True)
            loss_of(explanation).backward()
        assert explanation.maps.dtype == torch.float32
        similarity = torch.cosine_similarity(explanation.maps.flatten(1), expected.flatten(1), dim=1)
        assert (similarity > 0.95).all()
        assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())
        model.to(dtype)
        whole = {key: value.to(dtype) if value.is_floating_point() else value for key, value in inputs.items()}
        maps = explainer(model, whole, TARGET).maps
    assert maps.dtype == torch.float32 and maps.isfinite().all()
    assert (torch.cosine_similarity(maps.flatten(1), expected.flatten(1), dim=1) > 0.9).all()


@pytest.mark.parametrize("name", ["saliency", "input_x_gradient", "integrated_gradients"])
def test_unfit_models_are_refused_before_training(tiny, name):
    """Prevents: an error, or a constant explanation, in the first step."""
    explainer, model = EXPLAINERS[name], tiny("vit")
    explainer.check(model)
    explainer.check(model, compiled=True)
    with pytest.raises(ValueError, match=f"torch_compile can't.* ResNetFor.*, as '{name}' does: it has batch norms"):
        explainer.check(tiny("resnet"), compiled=True)
    with pytest.raises(ValueError, match="whole of BartFor.*is of a family"):
        explainer.check(bart(), compiled=True)
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="'flash_attention_2' has no double backward"):
        explainer.check(model)
    explainer.check(model, trained=False)


@pytest.mark.parametrize("name", ["saliency", "input_x_gradient", "integrated_gradients"])
def test_inputs_of_another_kind_are_refused(name):
    """Prevents: a KeyError for audio or features."""
    model = torch.nn.Linear(3, CLASSES)
    model.forward = lambda features: torch.ones(len(features), CLASSES)
    with pytest.raises(ValueError, match="is explained at `pixel_values` or `input_ids`; given are \\['features'\\]"):
        EXPLAINERS[name](model, {"features": torch.rand(2, 3)}, TARGET)


# --- Encoder-decoders ------------------------------------------------------------------------------------------------


def bart():
    sizes = {f"{side}_{part}": 2 for side in ("encoder", "decoder") for part in ("layers", "attention_heads")}
    sizes |= {"encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "d_model": 16, "max_position_embeddings": 32}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    torch.manual_seed(0)
    config = transformers.BartConfig(vocab_size=VOCABULARY, num_labels=CLASSES, init_std=0.4, **sizes, **tokens)
    return transformers.BartForSequenceClassification(config).eval()


def test_a_signed_sum_over_word_embeddings_is_refused():
    """Prevents: maps of rounding errors, which a loss would normalise and match."""
    with pytest.raises(ValueError, match="zero behind a layer norm.*input_x_gradient"):
        Saliency(signed=True)(build_text("bert"), token_batch(), TARGET)


def test_an_encoder_decoder_is_explained_at_its_encoders_words():
    """Prevents: the decoder's shifted copy of the text moved in place of, or along with, the encoder's."""
    model, inputs = bart(), token_batch()
    embedded = []
    handle = model.model.encoder.embed_tokens.register_forward_hook(lambda *args: embedded.append(args[2]))
    logits = model(**inputs).logits
    handle.remove()
    (gradient,) = torch.autograd.grad(logits.gather(1, TARGET[:, None]).sum(), embedded[0])
    counted = inputs["attention_mask"]

    maps = {name: EXPLAINERS[name](model, inputs, TARGET).maps for name in ("saliency", "input_x_gradient")}

    torch.testing.assert_close(maps["saliency"], gradient.abs().sum(-1) * counted, rtol=1e-4, atol=1e-6)
    expected = (gradient * embedded[0]).sum(-1).detach() * counted
    torch.testing.assert_close(maps["input_x_gradient"], expected, rtol=1e-4, atol=1e-6)
    exact = IntegratedGradients(n_steps=64, internal_batch_size=64, completeness=True)(model, inputs, TARGET)
    assert (exact.completeness_error.abs() < 1e-3 * exact.logits.abs().max()).all()


def test_an_explained_forward_gives_maps_of_texts(tiny):
    """Prevents: a wrapped model's forward without the scores, or with the layout's columns passed to the model."""
    model, inputs = build_text("distilbert"), token_batch()
    expected = Saliency()(model, inputs, TARGET)
    install_explained_forward(model, Saliency())
    columns = {"token_type_ids": torch.zeros_like(inputs["input_ids"]), "special_tokens_mask": inputs["input_ids"] < 3}
    output = model(**inputs, **columns, explain_target=TARGET)
    maps, mask, _ = lay_out_tokens(output.maps.detach(), {**inputs, **columns})
    torch.testing.assert_close(maps, expected.maps * (inputs["input_ids"] >= 3))
    assert torch.equal(mask, inputs["input_ids"] >= 3)
