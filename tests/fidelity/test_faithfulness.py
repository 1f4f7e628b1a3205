"""Deletion, insertion, ROAD, comprehensiveness and sufficiency against hand-made loops and other implementations."""

import math

import numpy as np
import pytest
import torch
from pytorch_grad_cam.metrics.road import NoisyLinearImputer
from torch.nn import functional as F
from torchvision.transforms.v2.functional import gaussian_blur

import hf_e2kd
from hf_e2kd import FunctionModel
from hf_e2kd.explainers import Occlusion
from hf_e2kd.fidelity.interpretability.faithfulness import (
    Faithfulness,
    comprehensiveness,
    deletion_curve,
    insertion_curve,
    pixel_ranks,
    sufficiency,
)
from hf_e2kd.fidelity.interpretability.road import impute, road_curve
from hf_e2kd.metrics import curve_area, mean_drop
from tests.models import build, images
from tests.text_models import build_text, token_batch
from tests.tokenizers import STUDENT, text_model

TARGET = torch.tensor([3, 1])


def test_figures_by_hand():
    """Prevents: the mean of the points in the place of the area, or a rise where a fall is meant."""
    assert curve_area(torch.tensor([[1.0, 0.0, 1.0], [0.8, 0.6, 0.4]])).tolist() == pytest.approx([0.5, 0.6])
    found = mean_drop(torch.tensor([0.9, 0.2]), torch.tensor([[0.5, 0.1], [0.4, 0.2]]))
    assert found.tolist() == pytest.approx([0.6, -0.1])
    with pytest.raises(ValueError, match="at least two values"):
        curve_area(torch.ones(2, 1))
    with pytest.raises(ValueError, match="whole holds NaN"):
        mean_drop(torch.tensor([math.nan]), torch.ones(1, 2))


@pytest.mark.parametrize("first", ["deletion", "insertion"])
def test_curves_are_those_of_a_loop(tiny, first):
    """Prevents: pixels in ascending order, a class's logit, one sample's order used for another."""
    model, pixels = tiny("resnet"), images()
    maps = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(2))
    large = F.interpolate(maps[:, None], (32, 32), mode="bilinear")[:, 0]
    curve = deletion_curve if first == "deletion" else insertion_curve
    found = curve(model, {"pixel_values": pixels}, maps, TARGET, steps=4, batch_size=3)
    for row in range(2):
        order = large[row].flatten().argsort(descending=True)
        image = pixels[row].clone()
        start, end = image, torch.zeros_like(image)
        if first == "insertion":
            start, end = gaussian_blur(image, [11, 11], [5.0, 5.0]), image
        for step in range(5):
            changed = start.flatten(1).clone()
            changed[:, order[: 256 * step]] = end.flatten(1)[:, order[: 256 * step]]
            with torch.no_grad():
                expected = model(changed.view(1, 3, 32, 32)).logits.softmax(1)[0, TARGET[row]]
            assert found[row, step].item() == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize("curve", [deletion_curve, insertion_curve, road_curve])
def test_curves_are_of_the_model_in_evaluation_mode(tiny, curve):
    """Prevents: batch statistics and dropout of a model in training mode, NaN maps, and maps of other samples."""
    model, inputs = tiny("resnet"), {"pixel_values": images()}
    maps = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(2))
    steps = {"fractions": [0.5]} if curve is road_curve else {"steps": 2}
    expected = curve(model, inputs, maps, TARGET, **steps)
    model.train()
    found = curve(model, inputs, maps, TARGET, **steps)
    assert model.training and torch.equal(found, expected)
    with pytest.raises(ValueError, match=r"maps holds NaN in the samples \[0\]"):
        curve(model, inputs, maps.index_fill(0, torch.tensor(0), math.nan), TARGET, **steps)
    with pytest.raises(ValueError, match="3 of the one and 2 of the other"):
        curve(model, inputs, maps[[0, 1, 1]], TARGET, **steps)


@pytest.mark.parametrize("curve", [deletion_curve, insertion_curve])
def test_models_in_half_precision(curve):
    """Prevents: images of float32 that a model which was loaded in bfloat16 can't take."""
    model = build("resnet").eval().bfloat16()
    found = curve(model, {"pixel_values": images()}, torch.rand(2, 4, 4), torch.tensor([0, 1]), 2)
    assert found.shape == (2, 3) and found.isfinite().all()


def test_words_without_a_score_are_refused():
    """Prevents: words that count as the highest because their score is NaN."""
    inputs = token_batch()
    maps = torch.zeros(2, 9).index_fill(1, torch.tensor(3), math.nan)
    for measure in (comprehensiveness, sufficiency):
        with pytest.raises(ValueError, match=r"maps holds NaN in the samples \[0, 1\]"):
            measure(build_text("bert"), inputs, maps, TARGET)


def test_a_faithful_map_deletes_faster_than_a_reversed_one():
    """Prevents: figures that are read the wrong way around. The model looks at one corner alone."""
    model = FunctionModel(lambda images: 9 * images[:, 0, :4, :4].mean((1, 2))[:, None] * torch.tensor([1.0, 0.0]))
    pixels, maps = torch.ones(1, 3, 16, 16), torch.zeros(1, 16, 16)
    maps[:, :4, :4] = 1
    measure = Faithfulness(steps=16)
    right, wrong = (measure(model, {"pixel_values": pixels}, each, torch.tensor([0])) for each in (maps, -maps))
    # One of 16 steps takes the corner out, from sigmoid(9) to a half.
    low = 0.5
    high = torch.tensor(9.0).sigmoid().item()
    assert right["deletion"].item() == pytest.approx(((high + low) / 2 + 15 * low) / 16, abs=1e-6)
    assert wrong["deletion"].item() == pytest.approx((15 * high + (high + low) / 2) / 16, abs=1e-6)
    nothing = measure(model, {"pixel_values": pixels}, maps, torch.tensor([-1]))
    assert all(value.isnan().all() for value in nothing.values())


def test_deletion_is_quantus_pixel_flipping(tiny):
    """Against an independent implementation; `pip install 'hf-e2kd[quantus]'` brings it."""
    quantus = pytest.importorskip("quantus")
    resnet, pixels = tiny("resnet"), images()[:, :1]
    maps = torch.rand(2, 32, 32, generator=torch.Generator().manual_seed(1))

    class Grey(torch.nn.Module):
        def forward(self, x):
            return resnet(x.expand(-1, 3, -1, -1)).logits

    flipping = quantus.PixelFlipping(
        features_in_step=128,
        perturb_baseline=0.0,
        normalise=False,
        abs=False,
        disable_warnings=True,
        display_progressbar=False,
    )
    given = {"x_batch": pixels.numpy(), "y_batch": TARGET.numpy(), "a_batch": maps[:, None].numpy()}
    expected = flipping(Grey().eval(), **given, device="cpu", softmax=True)
    found = deletion_curve(Grey(), {"pixel_values": pixels}, maps, TARGET, steps=8)
    # Quantus begins after the first step.
    np.testing.assert_allclose(found[:, 1:].numpy(), np.array(expected), atol=1e-5)


def test_imputation_is_the_papers():
    """Against the authors' code, of which pytorch-grad-cam holds a copy."""
    image = torch.randn(3, 9, 7, generator=torch.Generator().manual_seed(0))
    removed = torch.rand(9, 7, generator=torch.Generator().manual_seed(1)) < 0.6
    removed[:2] = True
    found = impute(image.numpy(), removed.numpy(), 0.0, np.random.default_rng(0))
    expected = NoisyLinearImputer(noise=0.0)(image, (~removed).long())
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
    assert np.array_equal(found[:, ~removed.numpy()], image.numpy()[:, ~removed.numpy()])


def test_road_replaces_the_share_that_is_asked_for(tiny):
    """Prevents: the lowest pixels replaced for the highest, or a share of those that stay."""
    model, pixels = tiny("resnet"), images()
    maps = torch.rand(2, 32, 32, generator=torch.Generator().manual_seed(3))
    for first, signed in ((True, maps), (False, -maps)):
        options = {"most_relevant_first": first, "noise": 0.0}
        found = road_curve(model, {"pixel_values": pixels}, maps, TARGET, (0.2, 0.7), **options)
        for column, share in enumerate((0.2, 0.7)):
            for row in range(2):
                order = signed[row].flatten().argsort(descending=True)[: round(share * 1024)]
                removed = torch.zeros(1024, dtype=torch.bool).index_fill(0, order, True).view(32, 32)
                image = impute(pixels[row].numpy(), removed.numpy(), 0.0, np.random.default_rng(0))
                with torch.no_grad():
                    expected = model(torch.from_numpy(image)[None]).logits.softmax(1)[0, TARGET[row]]
                assert found[row, column].item() == pytest.approx(expected.item(), abs=1e-5)
    for none_or_all in (1.0, 1e-4, 0.9999):
        with pytest.raises(ValueError, match="Of 1024 pixels each fraction.*replace one at least and leave one"):
            road_curve(model, {"pixel_values": pixels}, maps, TARGET, (0.5, none_or_all))


def test_texts_lose_their_highest_words():
    """Prevents: special tokens taken out, shares of the longest text's words, or of tokens in the place of words."""
    model, texts = text_model("bert"), ["the film was wonderful, a warm film", "dull film"]
    explanation = hf_e2kd.explain(model, texts, "occlusion", target=2, processing_class=STUDENT)
    (inputs,), words = hf_e2kd.alignment.texts.tokenize_texts([(text,) for text in texts], (STUDENT, None))
    found = {
        each: each(model, inputs, explanation.maps, torch.tensor([2, 2]), (0.1, 0.6))
        for each in (comprehensiveness, sufficiency)
    }
    for row, text in enumerate(texts):
        tokens = STUDENT(text, return_tensors="pt")
        ids = inputs["word_ids"][row, : tokens["input_ids"].shape[1]]
        ranked = explanation.maps[row, : len(words[row])].argsort(descending=True).tolist()

        def share(kept, tokens=tokens):
            with torch.no_grad():
                return model(**{name: value[:, kept] for name, value in tokens.items()}).logits.softmax(1)[0, 2].item()

        whole, falls = share(ids == ids), {comprehensiveness: [], sufficiency: []}
        for fraction in (0.1, 0.6):
            chosen = torch.tensor(ranked[: math.ceil(fraction * len(ranked))])
            is_chosen = torch.isin(ids, chosen)
            falls[comprehensiveness].append(whole - share(~is_chosen))
            falls[sufficiency].append(whole - share(is_chosen | (ids < 0)))
        for each, values in falls.items():
            assert found[each][row].item() == pytest.approx(sum(values) / 2, abs=1e-5)


def test_tokens_without_words():
    """Prevents: scores of padding and special tokens ranked among a text's own; a batch without words refused."""
    model, inputs = build_text("bert"), token_batch()
    inputs["special_tokens_mask"] = (inputs["input_ids"] < 5).long()
    maps = Occlusion()(model, inputs, TARGET).maps
    values = Faithfulness(fractions=(1.0,))(model, inputs, maps, TARGET)
    ids = torch.tensor([[1, 2, 0], [1, 2, 0]])
    bare = {"input_ids": ids, "attention_mask": (ids > 0).long()}
    with torch.no_grad():
        whole, empty = (
            model(**each).logits.softmax(1)[[0, 1], TARGET]
            for each in ({name: inputs[name] for name in ("input_ids", "attention_mask")}, bare)
        )
    torch.testing.assert_close(values["comprehensiveness"], whole - empty, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(values["sufficiency"], torch.zeros(2), rtol=0, atol=1e-6)


def test_a_batch_of_empty_texts():
    """Prevents: an index error that ends a measurement where the last batch's texts have no word."""
    model, ids = text_model("bert"), torch.tensor([[STUDENT.cls_token_id, STUDENT.sep_token_id]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "word_ids": torch.full_like(ids, -1)}
    values = Faithfulness()(model, inputs, torch.zeros(1, 1), torch.tensor([2]))
    assert {name: value.tolist() for name, value in values.items()} == {
        "comprehensiveness": [0.0],
        "sufficiency": [0.0],
    }


def test_costs_are_those_that_were_run(tiny):
    """Prevents: a cost that is told too low before a long measurement."""
    measure, rows = Faithfulness(steps=3, fractions=(0.5,)), []

    def counting(model):
        model.register_forward_pre_hook(
            lambda _, args, given: rows.append(len(next(iter([*args, *given.values()])))), with_kwargs=True
        )
        return model

    measure(counting(tiny("resnet")), {"pixel_values": images()}, torch.rand(2, 4, 4), TARGET)
    assert sum(rows) == 2 * measure.passes(is_image=True)
    rows.clear()
    measure(counting(build_text("bert")), token_batch(), torch.rand(2, 9), TARGET)
    assert sum(rows) == 2 * measure.passes(is_image=False)


def test_ranks_are_those_of_the_scores():
    """Prevents: an order by place in the faint part of a map, or one that rounding errors decide."""
    faint = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(4))
    faint[0, 3, 3] = 1e7
    pixels = torch.zeros(1, 3, 8, 8)
    for maps in (faint, -faint):
        order = maps.flatten().argsort(descending=True)
        assert torch.equal(pixel_ranks(maps, pixels).flatten().argsort(), order)
    equal = torch.tensor([[[1.0, -1.0], [1.0, -1.0]]]) * torch.tensor([1 - 1e-7, 1 + 1e-7])[:, None]
    assert pixel_ranks(equal, torch.zeros(1, 3, 2, 2)).tolist() == [[[0, 2], [1, 3]]]


def test_a_share_of_words_is_whole_words():
    """Prevents: a word too many, as 0.6 · 25 is more than 15 in floating point."""
    ids = torch.arange(5, 30)[None]
    model = FunctionModel(lambda input_ids, attention_mask: torch.stack([attention_mask.sum(1) / 25.0] * 2, 1))
    model.config = type("Config", (), {"problem_type": "multi_label_classification"})()
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    scores = torch.arange(25.0)[None]
    found = comprehensiveness(model, inputs, scores, torch.tensor([0]), (0.6,))
    whole, left = torch.tensor(1.0).sigmoid(), torch.tensor(10 / 25).sigmoid()
    assert found.item() == pytest.approx((whole - left).item(), abs=1e-6)
