"""What both attention explainers share: layers and heads, maps of every family, training."""

from copy import deepcopy

import pytest
import timm
import torch
from torch import nn
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
)

from hf_e2kd.explainers import install_explained_forward
from hf_e2kd.explainers.attention_gradient import AttentionGradient
from tests.explainers.attention import EXPLAINERS, PIXELS, TARGET, VISION
from tests.models import images
from tests.text_models import TEXT, build_text, token_batch


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


def test_causal_models_are_refused():
    """Prevents: maps that favour a text's first tokens."""
    config = GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=60, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    with pytest.raises(ValueError, match="GPT2ForSequenceClassification is causal.*integrated_gradients"):
        AttentionGradient()(GPT2ForSequenceClassification(config).eval(), token_batch())


@pytest.mark.parametrize("explainer", EXPLAINERS)
def test_differences_of_attentions_are_refused(explainer):
    """Prevents: attention that is subtracted counted as attention paid."""
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
    model = timm.create_model("vit_dlittle_patch16_reg1_gap_256", num_classes=3, **sizes).eval()
    with pytest.raises(ValueError, match="by the difference of two attentions.*'gradcam'"):
        explainer()(model, {"pixel_values": images(1, 32)}, TARGET[:1])


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
