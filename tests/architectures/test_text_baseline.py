"""The baseline of texts: which models are steep at zero, what they are attributed against, and what is refused."""

import gc
import types
import weakref
from functools import partial

import pytest
import torch
from torch import nn

from hf_e2kd import explain
from hf_e2kd.architectures import text_baseline as baselines
from hf_e2kd.architectures.text_baseline import is_steep_at_zero, text_baseline
from hf_e2kd.explainers import InputXGradient, IntegratedGradients
from hf_e2kd.explainers.input_gradients import run_at
from tests.models import randomise
from tests.text_models import _BERT, _DEBERTA, PADDING, TEXT, VOCABULARY, _classifier, build_text, token_batch

TARGET = torch.tensor([3, 1])
_SMALL = {"vocab_size": VOCABULARY, "pad_token_id": PADDING}
_MORE = {
    "bloom": partial(_classifier, "Bloom", **_SMALL, hidden_size=16, n_layer=2, n_head=2),
    "deberta_v1": partial(_classifier, "Deberta", **_BERT, **_DEBERTA),
    "deberta_with_positions": partial(
        _classifier, "DebertaV2", **_BERT, **(_DEBERTA | {"position_biased_input": True})
    ),
    "funnel": partial(_classifier, "Funnel", **_SMALL, block_sizes=[1, 1], d_model=16, n_head=2, d_head=8, d_inner=32),
    "gpt2": partial(
        _classifier, "GPT2", **_SMALL, bos_token_id=1, eos_token_id=2, n_embd=16, n_layer=2, n_head=2, n_positions=32
    ),
    "llama": partial(
        _classifier,
        "Llama",
        **_SMALL,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
    ),
}
STEEP = ["deberta", "deberta_v1", "modernbert", "bloom", "funnel", "llama"]
LEVEL = ["bert", "distilbert", "roberta", "electra", "albert", "gpt2", "deberta_with_positions"]


def build(name: str, calm: bool = True) -> nn.Module:
    """A tiny model; where it is calm, its weights are about those of a fine-tuned one, and no attention saturates."""
    if name in TEXT:
        model = build_text(name)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = _MORE[name]().eval()
            randomise(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 / 3 if calm and parameter.ndim > 1 else 1)
    return model


def rise(model: nn.Module, inputs: dict[str, torch.Tensor], token: int) -> torch.Tensor:
    """The rise of the targets' logits (B,) from a text of that token at every place."""
    row = model.get_input_embeddings().weight[token]
    at_baseline, _ = run_at(model, inputs, lambda value: row.expand_as(value))
    return (model(**inputs).logits - at_baseline).gather(1, TARGET[:, None])[:, 0].detach()


@pytest.mark.parametrize("name", [*STEEP, *LEVEL])
def test_a_classifier_that_begins_at_zero(name):
    """Prevents: a student whose logits are all level at first, measured then and attributed against zero ever after."""
    model = build(name)
    head = [module for module in model.modules() if isinstance(module, nn.Linear) and len(module.weight) == 5][-1]
    head.weight.data.zero_()
    assert is_steep_at_zero(model, token_batch()) == (name in STEEP)


@pytest.mark.parametrize("calm", [True, False])
@pytest.mark.parametrize("name", [*STEEP, *LEVEL])
def test_models_that_are_steep_at_zero_are_found(name, calm):
    """Prevents: a list of families, which misses the next; DeBERTa with positions taken for one without."""
    assert is_steep_at_zero(build(name, calm), token_batch()) is (name in STEEP)


@pytest.mark.parametrize("name", STEEP)
def test_sixteen_steps_are_enough(name):
    """Prevents: a path from zero, whose 16 points miss nearly all of the logit's rise (faults A1: errors of 3 to 5)."""
    model, inputs = build(name), token_batch()
    model.config.mask_token_id = 9
    found = IntegratedGradients(completeness=True)(model, inputs, TARGET)
    fine = IntegratedGradients(n_steps=300, internal_batch_size=128)(model, inputs, TARGET)
    rises = rise(model, inputs, token=9)
    assert found.completeness_error.norm() < 0.02 * rises.norm()
    assert torch.cosine_similarity(found.maps, fine.maps).min() > 0.999


@pytest.mark.parametrize("name", ["deberta", "modernbert", "funnel"])
def test_input_x_gradient_is_not_zero(name):
    """Prevents: x·∂z/∂x, zero up to rounding where the logit doesn't depend on the length of x (faults A1)."""
    model, inputs = build(name), token_batch()
    model.config.mask_token_id = 9
    logits, words = run_at(model, inputs)
    (gradient,) = torch.autograd.grad(logits.gather(1, TARGET[:, None]).sum(), words)
    mask, row = inputs["attention_mask"], model.get_input_embeddings().weight[9].detach()
    maps = InputXGradient()(model, inputs, TARGET).maps
    torch.testing.assert_close(maps, ((words - row) * gradient).sum(-1).detach() * mask, rtol=1e-4, atol=1e-6)
    plain = ((words * gradient).sum(-1) * mask).detach()
    assert plain.abs().max() < 1e-3 * maps.abs().max()


def test_level_models_keep_the_zero_baseline():
    """Prevents: maps of BERT that change with the tokenizer."""
    model, inputs = build("bert"), token_batch()
    model.config.mask_token_id = 9
    assert text_baseline(model, inputs, {"mask": 9}) is None
    auto = IntegratedGradients()(model, inputs, TARGET).maps
    assert torch.equal(auto, IntegratedGradients(baselines="zero")(model, inputs, TARGET).maps)


@pytest.mark.parametrize("baseline", ["zero", torch.zeros(16)], ids=["name", "tensor"])
@pytest.mark.parametrize("name", ["modernbert", "llama"])
def test_an_explicit_zero_is_refused(name, baseline):
    """Prevents: noise that the loss rescales, because somebody wrote the default of other libraries."""
    explainer = IntegratedGradients(baselines=baseline)
    with pytest.raises(ValueError, match="hardly depend on the length of its word embeddings.*Leave out the baseline"):
        explainer(build(name), token_batch(), TARGET)


def test_an_explicit_zero_is_refused_before_training():
    """Prevents: a compiled or sharded training that can't look at its baseline any more."""
    IntegratedGradients(baselines="zero").check(build("bert"))
    with pytest.raises(ValueError, match="Leave out the baseline"):
        IntegratedGradients(baselines="zero").check(build("modernbert"), compiled=True)


# --- The token -------------------------------------------------------------------------------------------------------


def tokenizer(**ids: int) -> types.SimpleNamespace:
    return types.SimpleNamespace(**{f"{name}_token_id": number for name, number in ids.items()})


@pytest.mark.parametrize(
    ("ids", "config", "expected"),
    [
        ({}, {}, PADDING),
        ({"mask": 7, "pad": 5}, {}, 7),
        ({"mask": 7}, {"mask_token_id": 9}, 9),
        ({"pad": 5, "eos": 6}, {"pad_token_id": None}, 5),
        ({"pad": 5, "eos": 6}, {"pad_token_id": -1}, 5),
        ({"mask": VOCABULARY, "pad": 5}, {"pad_token_id": None}, 5),
    ],
)
def test_the_mask_comes_before_the_padding_and_the_configuration_before_the_tokenizer(ids, config, expected):
    """Prevents: padding where there is a mask token; another model's id of it; the last row of the table, where the
    configuration says by -1 that there is no such token; an IndexError of a token that the tokenizer alone has."""
    model, inputs = build("modernbert"), token_batch()
    for name, value in config.items():
        setattr(model.config, name, value)
    row = model.get_input_embeddings().weight[expected]
    for explainer in (IntegratedGradients(), InputXGradient()):
        informed = explainer.with_tokenizer(tokenizer(**ids))
        assert torch.equal(text_baseline(model, inputs, informed._tokenizer_ids)[0, 0], row)


def test_a_zero_row_of_padding_is_passed_over():
    """Prevents: padding_idx, whose row stays zero through all training, as a baseline that is zero again."""
    model, inputs = build("modernbert"), token_batch()
    model.config.eos_token_id = None
    with torch.no_grad():
        model.get_input_embeddings().weight[PADDING] = 0
    row = model.get_input_embeddings().weight[6]
    assert torch.equal(text_baseline(model, inputs, {"eos": 6})[0, 0], row)
    with pytest.raises(ValueError, match="neither its configuration nor a tokenizer states one of mask, pad, eos"):
        text_baseline(model, inputs, {})
    with pytest.raises(ValueError, match="hardly depend on the length"):
        IntegratedGradients(baselines="pad")(model, inputs, TARGET)


def test_all_methods_take_the_same_baseline(monkeypatch):
    """Prevents: guidance or an evaluation by another baseline than the training's."""
    model, inputs = build("modernbert"), token_batch()
    asked = []

    def record(*arguments):
        asked.append(text_baseline(*arguments))
        return asked[-1]

    for method in ("integrated_gradients", "input_x_gradient"):
        monkeypatch.setattr(f"hf_e2kd.explainers.{method}.text_baseline", record)
        explain(model, inputs, method)
    assert len(asked) == 2 and torch.equal(asked[0], asked[1])


# --- The measurement -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bert", "modernbert", "llama"])
def test_measuring_leaves_no_trace(name):
    """Prevents: a student left in evaluation mode, dropout of other random numbers, hooks that stay."""
    model, inputs = build(name), token_batch()
    model.train()
    next(model.children()).eval()
    modes = [module.training for module in model.modules()]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    is_steep_at_zero(model, inputs)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_a_model_is_measured_once_and_forgotten_with_it(monkeypatch):
    """Prevents: three more passes at every step; models that are never freed; a baseline that changes in training."""
    measured = []
    share = baselines._share_near_zero
    monkeypatch.setattr(baselines, "_share_near_zero", lambda *given: measured.append(1) or share(*given))
    model = build("modernbert")
    explainer = InputXGradient()
    explainer.check(model)
    assert len(measured) == 1
    for _ in range(2):
        explainer(model, token_batch(), TARGET)
        IntegratedGradients(n_steps=1)(model, token_batch(), TARGET)
    assert len(measured) == 1
    dead = weakref.ref(model)
    del model
    gc.collect()
    assert dead() is None


def test_dropout_does_not_blur_the_measurement():
    """Prevents: a model in training taken for one that isn't steep, because its logits are noisy."""
    model = build_text("modernbert", mlp_dropout=0.5, embedding_dropout=0.5, attention_dropout=0.5).train()
    assert is_steep_at_zero(model, token_batch())
