"""Methods without gradients: equal to captum's or to their formulas, for any function, refused in training."""

import itertools

import pytest
import torch
from captum.attr import Occlusion as CaptumOcclusion
from sklearn.linear_model import Ridge
from torch.nn import functional as F
from transformers import XLNetConfig, XLNetForSequenceClassification

import hf_e2kd
from hf_e2kd import FunctionModel
from hf_e2kd.alignment import slic_superpixels, superpixel_sums
from hf_e2kd.explainers import KernelShap, Lime, Occlusion, Rise, build_explainer
from hf_e2kd.explainers.perturbation.rise import enlarged_masks
from hf_e2kd.explainers.perturbation.variants import text_units, without_tokens
from hf_e2kd.fidelity.interpretability.faithfulness import sufficiency
from hf_e2kd.testing import check_explainer
from tests.models import build, images, randomise
from tests.text_models import build_text, token_batch
from tests.tokenizers import STUDENT, text_model
from tests.training import distiller

TARGET = torch.tensor([3, 1])
TEXTS = ["the film was wonderful, a warm film", "dull"]
PAIRS = [("the film was wonderful", "a warm film"), ("dull", "it isn't boring at all")]
QUICK = {
    "occlusion": {"patch": 0.25},
    "rise": {"masks": 20},
    "kernel_shap": {"samples": 40, "cells": 3},
    "lime": {"samples": 40, "superpixels": 5},
}


def seen_rows(model):
    """The samples that a model is run on, a list that grows."""
    rows = []
    model.register_forward_pre_hook(
        lambda _, args, given: rows.append(len(next(iter([*args, *given.values()])))), with_kwargs=True
    )
    return rows


def blocks(count, side):
    """Images of 2×2 squares of one colour each, which SLIC cuts apart; it leaves noise in one piece."""
    return F.interpolate(images(count, 2), size=(side, side), mode="nearest")


@pytest.mark.parametrize(
    ("name", "family"), [*itertools.product(("occlusion", "kernel_shap", "lime"), ("resnet", "bert")), ("rise", "vit")]
)
def test_results_and_side_effects(name, family):
    """Prevents: logits of a changed input, maps in half precision, a mode or a hook that stays, a silent training."""
    model, inputs = (
        (build_text("bert"), token_batch()) if family == "bert" else (build(family), {"pixel_values": images()})
    )
    check_explainer(build_explainer(name, **QUICK[name]), model, inputs)


# ---- Images ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("patch", "stride"), [(8, 4), (10, 6), (14, 14)])
def test_occlusion_is_captums(tiny, patch, stride):
    """Prevents: a patch that ends before the edge, or pixels weighted by how many patches cover them."""
    model, pixels = tiny("resnet"), images(2, 32, 40)
    explainer = Occlusion(patch=patch / 36, stride=stride / 36)
    found = explainer(model, {"pixel_values": pixels}, TARGET).maps
    sides = [[max(1, round(share * side)) for side in (32, 40)] for share in (explainer.patch, explainer.stride)]
    expected = CaptumOcclusion(lambda x: model(x).logits).attribute(
        pixels, sliding_window_shapes=(3, *sides[0]), strides=(3, *sides[1]), target=TARGET
    )
    torch.testing.assert_close(found, expected[:, 0], rtol=1e-4, atol=1e-6)


def test_rise_is_its_formula(tiny):
    """Prevents: logits in the place of probabilities, a wrong scale, or masks of one sample applied to another."""
    model, pixels = tiny("resnet"), images()
    found = Rise(masks=7, cells=4, share=0.3, seed=5, batch_size=3)(model, {"pixel_values": pixels}, TARGET).maps
    draw = torch.Generator().manual_seed(5)
    kept, offsets = torch.rand(7, 4, 4, generator=draw) < 0.3, torch.rand(7, 2, generator=draw)
    expected = torch.zeros(2, 32, 32)
    for grid, offset in zip(kept.float(), offsets, strict=True):
        top, left = (int(8 * part) for part in offset)
        mask = F.interpolate(grid[None, None], (40, 40), mode="bilinear")[0, 0, top : top + 32, left : left + 32]
        with torch.no_grad():
            share = model(pixels * mask).logits.softmax(1)[[0, 1], TARGET]
        expected += share[:, None, None] * mask / (7 * 0.3)
    torch.testing.assert_close(found, expected)


def test_masks_are_the_same_at_another_size():
    """Prevents: a teacher of larger images that is shown other masks than the student."""
    kept, offsets = torch.rand(6, 7, 7) < 0.5, torch.rand(6, 2)
    small, large = (enlarged_masks(kept, offsets, (side, side)) for side in (28, 56))
    torch.testing.assert_close(F.avg_pool2d(large, 2), small, atol=0.3, rtol=0)
    assert enlarged_masks(torch.ones(1, 3, 3, dtype=torch.bool), torch.zeros(1, 2), (5, 8)).eq(1).all()


def test_shapley_values_of_a_sum_are_its_addends():
    """Prevents: squares in the wrong order, or values that don't sum to the rise of the logit."""
    weights = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    model = FunctionModel(lambda pixel_values: torch.einsum("bchw,kchw->bk", pixel_values, weights))
    pixels = images(2, 6)
    target = torch.tensor([0, 1])
    found = KernelShap(samples=60, cells=3)(model, {"pixel_values": pixels}, target).maps
    expected = 4 * F.avg_pool2d((pixels * weights[target]).sum(1), 2)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_squares_of_sides_that_they_do_not_divide_lie_evenly():
    """Prevents: squares that are larger on the left and above, so that a flipped image has another map."""
    model = FunctionModel(lambda pixel_values: pixel_values.sum((1, 2, 3))[:, None].repeat(1, 2))
    inputs = {"pixel_values": torch.ones(1, 1, 32, 32)}
    (found,) = KernelShap(samples=60, cells=3)(model, inputs, torch.tensor([0])).maps
    sides = torch.tensor([11.0, 10.0, 11.0])
    torch.testing.assert_close(found, sides[:, None] * sides, rtol=1e-3, atol=1e-3)


def test_lime_is_a_ridge_regression_on_superpixels(monkeypatch):
    """Prevents: weights of the wrong superpixels, a kernel of another width, coalitions that weigh alike."""
    weights = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    model = FunctionModel(lambda pixel_values: torch.einsum("bchw,kchw->bk", pixel_values, weights))
    pixels, target, seen = blocks(2, 16), torch.tensor([0, 1]), []
    made = Lime.estimator

    def watched(self, values):
        return made(self, lambda kept: (seen.append(kept), values(kept))[1])

    monkeypatch.setattr(Lime, "estimator", watched)
    found = Lime(samples=30, superpixels=4, batch_size=30)(model, {"pixel_values": pixels}, target).maps
    low, high = pixels.amin((1, 2, 3), keepdim=True), pixels.amax((1, 2, 3), keepdim=True)
    parts = slic_superpixels(((pixels - low) / (high - low)).clamp(0, 1), 4)
    coalitions = [kept for kept in seen if len(kept) == 30]
    assert len(coalitions) == 2
    for row, kept in enumerate(coalitions):
        own = parts[row : row + 1]
        addends = superpixel_sums((pixels[row] * weights[target[row]]).sum(0)[None], own)[0]
        likeness = kept.mean(1).sqrt()  # the cosine of zeros and ones with ones alone
        nearness = torch.exp(-((1 - likeness) ** 2) / (2 * 0.25**2))
        ridge = Ridge(alpha=1.0).fit(kept, kept @ addends, sample_weight=nearness)
        expected = torch.tensor(ridge.coef_, dtype=torch.float32)
        torch.testing.assert_close(superpixel_sums(found[row : row + 1], own)[0], expected, rtol=1e-3, atol=1e-3)


def test_batches_change_nothing_but_the_calls(tiny):
    """Prevents: maps that depend on how many changed images are run at a time, and costs that were told otherwise."""
    model, inputs = tiny("resnet"), {"pixel_values": blocks(2, 32)}
    for name, options in QUICK.items():
        rows = seen_rows(model)
        explainer = build_explainer(name, **options, batch_size=16)
        maps = explainer(model, inputs, TARGET).maps
        assert sum(rows) == explainer.passes(inputs), name
        assert explainer.forward_passes in (None, sum(rows) // 2)
        alone = build_explainer(name, **options, batch_size=1)(model, inputs, TARGET).maps
        torch.testing.assert_close(maps, alone, rtol=1e-4, atol=1e-5)


# ---- Texts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("texts", [TEXTS, PAIRS], ids=["texts", "pairs"])
def test_words_left_out_are_not_there(texts):
    """Prevents: a gap of padding where a word was, special tokens or padding counted as words, rows that mix."""
    model = text_model("bert")
    found = hf_e2kd.explain(model, texts, "occlusion", target=2, processing_class=STUDENT)
    parts = texts if isinstance(texts[0], tuple) else [(text,) for text in texts]
    for row, (own, words) in enumerate(zip(parts, found.words, strict=True)):
        tokens = STUDENT(*own, return_tensors="pt")
        ids = hf_e2kd.alignment.texts.tokenize_texts([own], (STUDENT, None))[0][0]["word_ids"][0]
        with torch.no_grad():
            whole = model(**tokens).logits[0, 2]
            for word in range(len(words)):
                without = {name: value[:, ids != word] for name, value in tokens.items()}
                fall = whole - model(**without).logits[0, 2]
                torch.testing.assert_close(found.maps[row, word], fall, rtol=1e-4, atol=1e-5)
        assert not found.maps[row, len(words) :].any() and found.mask[row].sum() == len(words)


def test_words_by_the_mask_token():
    """Prevents: another token in a word's place, or one mask for a word of several tokens."""
    own = STUDENT.__class__(tokenizer_object=STUDENT.backend_tokenizer, mask_token="[UNK]", pad_token="[PAD]")
    model, inputs = text_model("bert"), token_batch()
    word_ids = torch.tensor([[-1, 0, 0, 1, 2, 2, 3, 3, -1], [-1, 0, 1, 1, 2, 2, -1, -1, -1]])
    explainer = Occlusion(words="mask").with_tokenizer(own)
    found = explainer(model, {**inputs, "word_ids": word_ids}, TARGET).maps
    ids = inputs["input_ids"].where(word_ids != 2, own.mask_token_id)
    with torch.no_grad():
        falls = model(**inputs).logits - model(**{**inputs, "input_ids": ids}).logits
    torch.testing.assert_close(found[:, 2], falls[[0, 1], TARGET], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="has no mask token.*left_out"):
        Occlusion(words="mask")(model, inputs, TARGET)


def test_shapley_values_of_words():
    """Prevents: a short text's missing words among its parts; a text of one word, which has no coalition."""
    worth = torch.arange(60.0)

    def count(input_ids, attention_mask):
        return torch.stack([(worth[input_ids] * attention_mask).sum(1), attention_mask.sum(1).float()], 1)

    ids = torch.tensor([[1, 7, 9, 11, 2], [1, 8, 2, 0, 0]])
    inputs = {"input_ids": ids, "attention_mask": (ids > 0).long(), "special_tokens_mask": (ids < 3).long()}
    found = KernelShap(samples=30)(FunctionModel(count), inputs, torch.tensor([0, 0])).maps
    torch.testing.assert_close(found, torch.tensor([[0, 7.0, 9, 11, 0], [0, 8, 0, 0, 0]]), rtol=1e-3, atol=1e-3)


def test_words_left_out_behind_padding():
    """Prevents: padding in the last place, which XLNet and other classifiers of texts that end there read."""
    torch.manual_seed(0)
    config = XLNetConfig(d_model=16, n_layer=2, n_head=2, d_inner=16, vocab_size=50, num_labels=3, pad_token_id=0)
    model = XLNetForSequenceClassification(config).eval()
    randomise(model)
    texts = [[7, 8, 9, 10, 1, 2], [11, 12, 1, 2]]
    ids = torch.tensor([texts[0], [0, 0, *texts[1]]])

    def logits(text):
        with torch.no_grad():
            return model(torch.tensor([text]), attention_mask=torch.ones(1, len(text))).logits[0]

    def falls(text):
        return torch.stack([logits(text)[1] - logits(text[:at] + text[at + 1 :])[1] for at in range(len(text) - 2)])

    def occluded(ids):
        inputs = {"input_ids": ids, "attention_mask": (ids > 0).long(), "special_tokens_mask": (ids < 3).long()}
        return inputs, Occlusion()(model, inputs, torch.ones(len(ids), dtype=torch.long)).maps

    inputs, maps = occluded(ids)
    torch.testing.assert_close(maps[0, :4], falls(texts[0]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(maps[1, 2:4], falls(texts[1]), rtol=1e-4, atol=1e-5)
    # Without a padded text in the batch too.
    torch.testing.assert_close(occluded(ids[:1])[1], maps[:1], rtol=1e-4, atol=1e-5)
    kept = logits([7, 1, 2]).softmax(0)[1], logits([11, 1, 2]).softmax(0)[1]
    whole = torch.stack([logits(text).softmax(0)[1] for text in texts])
    scores = torch.tensor([[9.0, 0, 0, 0, 0, 0], [0, 0, 9, 0, 0, 0]])
    found = sufficiency(model, inputs, scores, torch.tensor([1, 1]), (0.2,))
    torch.testing.assert_close(found, whole - torch.stack(kept), rtol=1e-4, atol=1e-5)


def test_tokens_move_up():
    """Prevents: token types or masks that stay where they were, on both sides of padding."""
    inputs = {
        "input_ids": torch.tensor([[1, 5, 6, 7, 2, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1, 1, 0]]),
        "token_type_ids": torch.tensor([[0, 0, 0, 1, 1, 0]]),
    }
    keep = torch.tensor([[True, False, True, True, True, True]])
    found = without_tokens(inputs, keep, padding=0)
    assert found["input_ids"].tolist() == [[1, 6, 7, 2, 0, 0]]
    assert found["attention_mask"].tolist() == [[1, 1, 1, 1, 0, 0]]
    assert found["token_type_ids"].tolist() == [[0, 0, 1, 1, 0, 0]]
    assert text_units(inputs).tolist() == [[0, 1, 2, 3, 4, -1]]


def test_all_that_belongs_to_tokens_moves_up():
    """Prevents: words of a page read at the places of those before them, and a mask of the attention that stays."""
    inputs = {
        "input_ids": torch.tensor([[1, 5, 6, 2]]),
        "bbox": torch.tensor([[[0, 0], [5, 50], [6, 60], [2, 20]]]),
        "global_attention_mask": torch.tensor([[1, 0, 1, 0]]),
        "position_ids": torch.tensor([[0, 1, 2, 3]]),
    }
    found = without_tokens(inputs, torch.tensor([[True, False, True, True]]), padding=0)
    assert found["bbox"][:, :3].tolist() == [[[0, 0], [6, 60], [2, 20]]]
    assert found["global_attention_mask"][:, :3].tolist() == [[1, 1, 0]]
    assert found["position_ids"].tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize("name", ["occlusion", "kernel_shap", "lime"])
def test_texts_without_a_word_have_nothing_to_take_out(name):
    """Prevents: an error from inside torch, where no text of a batch has a word."""
    model = text_model("bert")
    found = hf_e2kd.explain(model, ["", " "], name, processing_class=STUDENT)
    assert not found.maps.any() and not found.mask.any()
    assert found.words == [[], []]


# ---- Any function, and no training -----------------------------------------------------------------------------------


def test_a_function_is_explained_and_not_by_gradients(tiny):
    """Prevents: methods for models without gradients that need a torch module all the same."""
    model, pixels = tiny("resnet"), images()
    expected = hf_e2kd.explain(model, pixels, "occlusion", patch=0.25)

    def runtime(images):
        with torch.no_grad():
            return [model(images).logits.numpy()]

    found = hf_e2kd.explain(runtime, pixels, "occlusion", patch=0.25)
    torch.testing.assert_close(found.maps, expected.maps)
    assert torch.equal(found.target, expected.target)
    with pytest.raises(ValueError, match="is a function, without gradients, .*: kernel_shap, lime, occlusion, rise"):
        hf_e2kd.explain(runtime, pixels, "gradcam")
    with pytest.raises(ValueError, match=r"logits \(batch, classes\).*shape \(2,\) for a batch of 2"):
        hf_e2kd.explain(lambda images: images.mean((1, 2, 3)), pixels, "occlusion")
    with pytest.raises(ValueError, match="must be a torch module, or a function"):
        hf_e2kd.explain("microsoft/resnet-18", pixels, "occlusion")


def test_a_training_is_refused_and_an_evaluation_is_not(tmp_path):
    """Prevents: a training that matches constants, and plain distillation that can't be measured by occlusion."""
    student, teacher = build("resnet"), build("vit")
    with pytest.raises(ValueError, match="'occlusion' runs the model on changed inputs and takes no gradients"):
        distiller(student, teacher, tmp_path, {"explainer": "occlusion"})
    settings = {"explainer": "occlusion", "explainer_options": {"patch": 0.5}, "explanation_weight": 0.0}
    trainer = distiller(student, teacher, tmp_path, settings)
    trainer.train()
    assert -1 <= trainer.evaluate()["eval_explanation_similarity"] <= 1
    assert "occlusion" in hf_e2kd.available_explainers()
    assert "occlusion" not in hf_e2kd.available_explainers(trainable=True)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("occlusion", {"patch": 0}, "patch is a share of the image's side"),
        ("occlusion", {"stride": 0.5}, "stride must be above 0 and at most the patch of 0.125"),
        ("occlusion", {"words": "deleted"}, "Unknown way to take words out 'deleted'. Available: left_out, mask"),
        ("rise", {"masks": 0}, "masks must be a whole number of at least 1, not 0"),
        ("rise", {"share": 1}, "between 0 and 1"),
        ("lime", {"samples": 0}, "samples must be a whole number of at least 1, not 0"),
        ("kernel_shap", {"batch_size": 2.5}, "batch_size must be a whole number"),
    ],
)
def test_unfit_options(name, options, message):
    """Prevents: gaps between patches, or an error from deep inside."""
    with pytest.raises(ValueError, match=message):
        build_explainer(name, **options)


def test_unfit_inputs(tiny):
    """Prevents: noise in the place of Shapley values, and a KeyError for texts or audio."""
    with pytest.raises(ValueError, match="The scores of 49 parts can't be told from 40 coalitions"):
        KernelShap(samples=40)(tiny("resnet"), {"pixel_values": images()}, TARGET)
    with pytest.raises(ValueError, match="count is 30, which is out of the range from 3 to 20"):
        Lime(superpixels=30)(tiny("resnet"), {"pixel_values": images()}, TARGET)
    with pytest.raises(ValueError, match="'rise' masks images. Explain texts by 'occlusion'"):
        Rise()(build_text("bert"), token_batch(), TARGET)
    with pytest.raises(ValueError, match="changes `pixel_values` or `input_ids`; given are features"):
        Occlusion()(FunctionModel(lambda features: features), {"features": torch.rand(2, 4)}, TARGET)
