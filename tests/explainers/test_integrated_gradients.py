"""Integrated Gradients against captum, its baselines, its completeness and its random points.

What it shares with the other explainers at the input stands in test_saliency.py.
"""

from copy import deepcopy

import pytest
import torch
from captum.attr import IntegratedGradients as CaptumIntegratedGradients
from captum.attr import LayerIntegratedGradients
from peft import LoraConfig, get_peft_model

from hf_e2kd import ExplanationDistillArguments, explain
from hf_e2kd.explainers import IntegratedGradients, integrated_gradients, shared_noise
from tests.explainers.written_out import assert_written_out_alike
from tests.models import images
from tests.text_models import PADDING, TEXT, build_text, token_batch

TARGET = torch.tensor([3, 1])
# Ours by captum's name. Captum's trapezoid divides by n where n points leave n − 1 steps.
RULES = {
    "gauss_legendre": ("gausslegendre", 1.0),
    "riemann_left": ("riemann_left", 1.0),
    "riemann_middle": ("riemann_middle", 1.0),
    "riemann_right": ("riemann_right", 1.0),
    "trapezoid": ("riemann_trapezoid", 6 / 5),
}


def on_images(model, pixels, rule="gauss_legendre", points=6, baseline=None, target=TARGET):
    """By captum, summed over the colours."""
    method, factor = RULES[rule]
    captums = CaptumIntegratedGradients(lambda pixels: model(pixels).logits)
    found = captums.attribute(pixels, baselines=baseline, target=target, n_steps=points, method=method)
    return found.detach().sum(1) * factor


def on_texts(model, inputs, rule="gauss_legendre", points=6, token=PADDING, target=TARGET):
    """By captum, from a token at every place to the text, summed over the embedding's dimensions."""
    method, factor = RULES[rule]
    captums = LayerIntegratedGradients(lambda ids, mask: model(ids, mask).logits, model.get_input_embeddings())
    ids = inputs["input_ids"]
    found = captums.attribute(
        ids,
        baselines=torch.full_like(ids, token),
        target=target,
        additional_forward_args=(inputs["attention_mask"],),
        n_steps=points,
        method=method,
    )
    return found.detach().sum(-1) * factor * inputs["attention_mask"]


def logits_at_baseline(model, inputs, baseline):
    """Of word embeddings (B, T, C) that are all `baseline`, at the positions of the text."""
    handle = model.get_input_embeddings().register_forward_hook(lambda *args: baseline.expand_as(args[2]))
    logits = model(**inputs).logits.detach()
    handle.remove()
    return logits


def noise_numbers(count, batch, seed):
    return torch.rand(count, batch, generator=torch.Generator().manual_seed(seed))


# --- Values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_equals_captums_on_images(tiny, name, rule):
    """Prevents: points or weights of another rule, and a sum over the wrong axis."""
    model, pixels = tiny(name), images()
    maps = IntegratedGradients(n_steps=6, rule=rule)(model, {"pixel_values": pixels}, TARGET).maps
    torch.testing.assert_close(maps, on_images(model, pixels, rule), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_equals_captums_on_texts(name, rule):
    """Prevents: positions that follow the baseline's tokens, which are padding to RoBERTa."""
    model, inputs = build_text(name), token_batch()
    explanation = IntegratedGradients(n_steps=6, rule=rule, baselines="pad")(model, inputs, TARGET)
    torch.testing.assert_close(explanation.maps, on_texts(model, inputs, rule), rtol=1e-4, atol=1e-4)
    assert torch.equal(explanation.mask, inputs["attention_mask"].bool())
    assert explanation.layout == "tokens"


@pytest.mark.parametrize(
    ("name", "layer", "target"),
    [
        ("bert", None, TARGET),
        ("roberta", None, torch.tensor([[0, 2], [1, -1]])),
        ("deberta", 1, torch.tensor([-1, 1])),
        ("modernbert", "last", TARGET),  # from the mask token's embedding
        ("vit", "last", TARGET),
        ("timm_vit", 0, torch.tensor([[0, 2], [1, -1]])),
    ],
)
def test_the_pass_written_out_trains_alike(tiny, monkeypatch, name, layer, target):
    """Prevents: a cheaper path that is another one, trains something else, or isn't taken."""
    is_text = name in TEXT
    model = (build_text(name) if is_text else tiny(name)).double()
    inputs = token_batch() if is_text else {"pixel_values": images().double()}
    explainer = IntegratedGradients(n_steps=3, layer=layer)
    with monkeypatch.context() as closed:
        closed.setattr(integrated_gradients, "InputPlace" if layer is None else "LayerPlace", None)
        explainer(model, inputs, target)
    # Transformers' DeBERTa and ModernBERT hold scales and rotations in float32.
    tolerance = 1e-5 if name in ("deberta", "modernbert") else 1e-10
    assert_written_out_alike(model, inputs, explainer, target, tolerance)


def test_what_cannot_be_opened_runs_as_before():
    """Prevents: a model refused for an activation whose transpose isn't written."""
    model, inputs, target = build_text("bert", hidden_act="mish"), token_batch(), TARGET
    for layer in (None, "last", "bert.encoder.layer.1.attention"):
        assert IntegratedGradients(n_steps=2, layer=layer)(model, inputs, target).maps.any(dim=1).all()


@pytest.mark.parametrize("seed", [None, 4])
@pytest.mark.parametrize("family", ["bert", "vit"])
def test_chunks_change_nothing(tiny, family, seed):
    """Prevents: a last chunk that is shorter and counts as a whole one; samples and points mixed up in one pass."""
    model, inputs = (build_text("bert"), token_batch(3)) if family == "bert" else (tiny("vit"), {})
    inputs = inputs or {"pixel_values": images(3)}
    target = torch.tensor([[3, 0], [1, -1], [-1, -1]])
    noise = None if seed is None else noise_numbers(5, 3, seed)
    maps = []
    for size in (1, 7, 15, 300):
        explainer = IntegratedGradients(n_steps=5, random_points=5, internal_batch_size=size)
        with shared_noise([explainer], noise):
            maps.append(explainer(model, inputs, target).maps)
    for other in maps[1:]:
        torch.testing.assert_close(other, maps[0], rtol=1e-4, atol=1e-6)
    assert maps[0][:2].any() and not maps[0][2].any()


@pytest.mark.parametrize(("batch", "steps"), [(3, 4), (50, 2), (130, 1)])
def test_large_batches_are_shown_fewer_steps_at_once(tiny, batch, steps):
    """An evaluation's batch, which fits into memory without gradients, four times in one pass with them."""
    model, sizes = tiny("resnet"), []
    convolution = next(module for module in model.modules() if isinstance(module, torch.nn.Conv2d))
    convolution.register_forward_pre_hook(lambda _module, arguments: sizes.append(len(arguments[0])))
    IntegratedGradients(n_steps=4)(model, {"pixel_values": images(batch)}, torch.zeros(batch, dtype=torch.long))
    assert sizes == [batch] + [steps * batch] * (4 // steps)


@pytest.mark.parametrize("family", ["bert", "roberta", "convnext"])
def test_a_batchs_samples_do_not_touch_each_other(tiny, family):
    """Prevents: a sample's path blended with another's, or rows of the mask left behind by repeated ones."""
    if family == "convnext":
        model, inputs = tiny("convnext"), {"pixel_values": images(3)}
    else:
        model, inputs = build_text(family), token_batch(3)
    explainer, target = IntegratedGradients(n_steps=4), torch.tensor([3, 1, 0])
    together = explainer(model, inputs, target).maps
    for row in range(3):
        one = {key: value[row : row + 1] for key, value in inputs.items()}
        alone = explainer(model, one, target[row : row + 1]).maps
        torch.testing.assert_close(together[row], alone[0], rtol=1e-4, atol=1e-6)
    some = explainer(model, inputs, torch.tensor([-1, 1, -1])).maps
    torch.testing.assert_close(some[1], together[1], rtol=1e-4, atol=1e-6)


# --- Completeness ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("points", [3, 100])
@pytest.mark.parametrize("family", ["bert", "roberta", "vit", "convnext"])
def test_completeness_error(tiny, family, points):
    """Prevents: an error that is measured against another baseline, or after special tokens were masked."""
    if family in ("bert", "roberta"):
        model, inputs = build_text(family).double(), token_batch()
        inputs["special_tokens_mask"] = inputs["input_ids"] < 3
        baseline = model.get_input_embeddings().weight[7].detach()
        at_baseline, option = logits_at_baseline(model, inputs, baseline), 7
    else:
        model, inputs, option = tiny(family).double(), {"pixel_values": images().double()}, torch.full((3, 1, 1), 0.5)
        at_baseline = model(torch.full((2, 3, 32, 32), 0.5).double()).logits.detach()
    explainer = IntegratedGradients(n_steps=points, internal_batch_size=32, baselines=option, completeness=True)

    explanation = explainer(model, inputs, TARGET)

    # The map without the special tokens' share would not be complete.
    whole = {key: value for key, value in inputs.items() if key != "special_tokens_mask"}
    sums = explainer(model, {**whole, "word_ids": None}, TARGET)
    rise = (explanation.logits - at_baseline).gather(1, TARGET[:, None])[:, 0]
    if "attention_mask" not in inputs:
        torch.testing.assert_close(
            explanation.completeness_error.double(), rise - sums.maps.flatten(1).sum(1), rtol=1e-3, atol=1e-5
        )
    else:  # padded places have no share of the logit
        assert not inputs["attention_mask"].all()
        torch.testing.assert_close(
            explanation.completeness_error.double(), rise - sums.maps.sum(1), rtol=1e-3, atol=1e-5
        )
    if points == 100:
        assert (explanation.completeness_error.abs() < 1e-3 * rise.abs()).all()
    else:
        assert (explanation.completeness_error.abs() > 1e-6).any()


def test_completeness_of_several_targets(tiny):
    """Prevents: the error of another class's rise, or of a target that isn't there."""
    model, inputs = tiny("vit"), {"pixel_values": images()}
    explainer = IntegratedGradients(n_steps=3, completeness=True)
    both = explainer(model, inputs, torch.tensor([[3, -1], [1, 0]])).completeness_error
    apart = [explainer(model, inputs, torch.tensor(column)).completeness_error for column in ([3, 1], [-1, 0])]
    assert both[0, 1] == 0
    torch.testing.assert_close(both, torch.stack(apart, 1), rtol=1e-4, atol=1e-5)
    assert explainer(model, inputs, torch.tensor([-1, -1])).completeness_error.tolist() == [0, 0]
    assert IntegratedGradients(n_steps=3)(model, inputs, TARGET).completeness_error is None


# --- Baselines -------------------------------------------------------------------------------------------------------


def test_baselines_of_texts():
    """Prevents: 'pad' that is zero, or a token whose embedding is looked up with the text's hooks on."""
    model, inputs = build_text("bert"), token_batch()
    model.config.mask_token_id = 9
    table = model.get_input_embeddings().weight.detach()

    def of(baseline):
        return IntegratedGradients(n_steps=6, baselines=baseline)(model, inputs, TARGET).maps

    torch.testing.assert_close(of("mask"), on_texts(model, inputs, token=9), rtol=1e-4, atol=1e-4)
    for row in (table[9], table[9].expand(9, -1), table[9].expand(2, 9, -1), table[[9]][None]):
        torch.testing.assert_close(of(row.contiguous()), of(9))
    torch.testing.assert_close(of("mask"), of(9))
    torch.testing.assert_close(of("zero"), of(torch.zeros(16)))
    assert not torch.allclose(of("zero"), of("pad"))


def test_baselines_of_images(tiny):
    """Prevents: a black image that is black before normalisation only."""
    model, pixels = tiny("vit"), images()
    inputs = {"pixel_values": pixels}
    for baseline in (torch.full((3, 1, 1), -1.5), torch.rand(3, 32, 32), torch.tensor(0.5)):
        maps = IntegratedGradients(n_steps=6, baselines=baseline)(model, inputs, TARGET).maps
        expected = on_images(model, pixels, baseline=baseline.expand(1, 3, 32, 32))
        torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [1, 12])
def test_each_sample_may_have_its_own_baseline(tiny, size):
    """Prevents: a blurred copy of the batch that fits one point a pass, but no two; rows of samples left out."""
    model, pixels = tiny("vit"), images(3)
    baseline = torch.nn.functional.avg_pool2d(pixels, 5, stride=1, padding=2)
    explainer = IntegratedGradients(n_steps=6, internal_batch_size=size, baselines=baseline, completeness=True)
    target = torch.tensor([3, 1, 0])
    expected = on_images(model, pixels, baseline=baseline, target=target)
    found = explainer(model, {"pixel_values": pixels}, target)
    torch.testing.assert_close(found.maps, expected, rtol=1e-4, atol=1e-4)
    some = explainer(model, {"pixel_values": pixels}, torch.tensor([-1, 1, 0]))
    torch.testing.assert_close(some.maps[1:], expected[1:], rtol=1e-4, atol=1e-4)
    assert some.completeness_error[0] == 0
    torch.testing.assert_close(some.completeness_error[1:], found.completeness_error[1:], rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="doesn't broadcast to a batch of 2"):
        explainer(model, {"pixel_values": pixels[:2]}, target[:2])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"baselines": "black"}, "Unknown baseline 'black'. Available: auto, zero, pad, mask"),
        ({"baselines": 0.5}, "a name, a token's id or a tensor, not 0.5"),
        ({"baselines": None}, "a name, a token's id or a tensor, not None"),
        ({"baselines": True}, "a name, a token's id or a tensor, not True"),
        ({"rule": "simpson"}, "Unknown rule 'simpson'. Available: gauss_legendre, riemann_left"),
        ({"n_steps": 0}, "n_steps must be a whole number of at least 1, not 0"),
        ({"n_steps": True}, "n_steps must be a whole number"),
        ({"internal_batch_size": 1.5}, "internal_batch_size must be a whole number"),
        ({"random_points": -1}, "random_points must be a whole number"),
    ],
)
def test_wrong_options_are_refused(settings, message):
    """Prevents: an error of numpy's or torch's in the first step."""
    with pytest.raises(ValueError, match=message):
        IntegratedGradients(**settings)


def test_wrong_options_are_refused_with_the_arguments(tmp_path):
    """Prevents: options of a command line that are read after the models were loaded."""
    with pytest.raises(ValueError, match="Unknown rule 'simpson'"):
        ExplanationDistillArguments(
            str(tmp_path), explainer="integrated_gradients", explainer_options='{"rule": "simpson"}'
        )


def test_baselines_that_the_model_does_not_know_are_refused(tiny):
    """Prevents: a token's embedding asked of an image, or None looked up in a table."""
    with pytest.raises(ValueError, match="baseline 'pad' is a token; an image's is 'zero' or a tensor"):
        IntegratedGradients(baselines="pad")(tiny("vit"), {"pixel_values": images()}, TARGET)
    with pytest.raises(ValueError, match="states no mask_token_id, nor does .* token's id"):
        IntegratedGradients(baselines="mask")(build_text("bert"), token_batch(), TARGET)


def test_one_point_of_the_trapezoid():
    """Prevents: a division by no step."""
    maps = IntegratedGradients(n_steps=1, rule="trapezoid")(build_text("bert"), token_batch(), TARGET).maps
    assert maps.isfinite().all()


# --- Random points ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("family", ["bert", "vit"])
def test_random_points_are_right_on_average(tiny, family, count):
    """Prevents: points that avoid the path's ends, or weights that don't sum to one: a biased loss at each step."""
    model, one = (build_text("bert"), token_batch(1)) if family == "bert" else (tiny("vit"), {})
    one = one or {"pixel_values": images(1)}
    copies = 128
    inputs = {key: value.repeat(copies, *[1] * (value.ndim - 1)) for key, value in one.items()}
    exact = IntegratedGradients(n_steps=100, internal_batch_size=100)(model, one, TARGET[:1]).maps[0]
    explainer = IntegratedGradients(random_points=count)
    draws = []
    for seed in range(8):
        with shared_noise([explainer], noise_numbers(count, copies, seed)):
            draws.append(explainer(model, inputs, TARGET[:1].expand(copies)).maps)
    maps = torch.cat(draws).flatten(1)
    assert len(maps.unique(dim=0)) == len(maps)  # each sample draws its own
    # How far the mean may lie from the exact map follows from the draws themselves.
    error = (maps.var(0).sum() / len(maps)).sqrt()
    assert error < 0.15 * exact.norm()
    assert (maps.mean(0) - exact.flatten()).norm() < 2.5 * error
    along = maps @ exact.flatten() / exact.square().sum()
    assert along.mean().item() == pytest.approx(1, abs=3 * along.std().item() * len(maps) ** -0.5)


def test_random_points_lie_one_in_each_part():
    """Prevents: points drawn anywhere, whose estimate is noisier than it need be."""
    explainer = IntegratedGradients(random_points=5)
    with shared_noise([explainer], noise_numbers(5, 7, 1)):
        places, weights = explainer._places(torch.arange(7), torch.device("cpu"))
    assert torch.equal((places * 5).floor(), torch.arange(5.0)[:, None].expand(5, 7))
    assert weights.tolist() == pytest.approx([0.2] * 5)


def test_both_sides_of_a_step_draw_the_same_points(tiny):
    """Prevents: a teacher and a student that agree, and yet differ in their maps by where they were looked at."""
    inputs = {"pixel_values": images()}
    student, teacher = IntegratedGradients(), IntegratedGradients(internal_batch_size=1)
    with shared_noise([student, teacher], noise_numbers(1, 2, 3)):
        maps = [explainer(tiny("vit"), inputs, TARGET).maps for explainer in (student, teacher, student)]
    torch.testing.assert_close(maps[0], maps[1], rtol=1e-4, atol=1e-6)
    assert torch.equal(maps[0], maps[2])
    with shared_noise([student], noise_numbers(1, 2, 4)):
        assert not torch.allclose(student(tiny("vit"), inputs, TARGET).maps, maps[0])
    assert student.noise is None and teacher.noise is None


def test_random_numbers_are_forgotten_after_an_error():
    """Prevents: evaluations that go on drawing points."""
    explainer = IntegratedGradients()
    with pytest.raises(RuntimeError), shared_noise([explainer], noise_numbers(1, 2, 3)):
        raise RuntimeError
    assert explainer.noise is None


def test_explain_is_exact(tiny):
    """Prevents: `explain` with the few random points of a training step, or another generator's state moved by it."""
    model, pixels = tiny("vit"), images()
    state = torch.get_rng_state()
    maps = explain(model, pixels, "integrated_gradients", target=[3, 1], n_steps=6).maps
    torch.testing.assert_close(maps, on_images(model, pixels), rtol=1e-4, atol=1e-4)
    explainer = IntegratedGradients()
    with shared_noise([explainer], noise_numbers(1, 2, 3)):
        explainer(model, {"pixel_values": pixels}, TARGET)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("method", ["integrated_gradients", "input_x_gradient"])
@pytest.mark.parametrize(
    "adapter",
    [{"target_modules": ["word_embeddings"]}, {"target_modules": ["query"], "trainable_token_indices": [7, 9]}],
)
def test_adapters_of_word_embeddings(method, adapter):
    """Prevents: a path from the adapter's own part of the embeddings, which stayed, and not from zero; a refusal of
    single tokens that are trained."""
    student = get_peft_model(build_text("bert"), LoraConfig(r=2, **adapter)).eval()
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if "lora_" in name or "trainable_tokens" in name:
                parameter.normal_(std=0.3)
    merged = deepcopy(student).merge_and_unload().eval()
    batch = {**token_batch(), "special_tokens_mask": torch.zeros(2, 9, dtype=torch.long)}
    batch["input_ids"][:, 3] = 7
    found, expected = (explain(model, batch, method).maps for model in (student, merged))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
