"""Texts that don't fit a model are refused before they end in an index error, and odd models embed what they should."""

from collections.abc import Callable

import pytest
import torch
import transformers
from torch import nn
from torch.nn import functional as F

from hf_e2kd.architectures.text import longest_text, word_embeddings
from hf_e2kd.explainers import IntegratedGradients, Saliency
from hf_e2kd.explainers.base import shared_noise
from hf_e2kd.explainers.input_gradients import run_at
from tests.models import randomise

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 50,
    "num_labels": 3,
}
BART = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "vocab_size": 50,
    "num_labels": 3,
}
GPT2 = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 50, "num_labels": 3, "n_positions": 12}
GPT2 |= {"bos_token_id": 1, "eos_token_id": 2}
XLNET = {"d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 16, "vocab_size": 50, "num_labels": 3}


def build(family: str, **settings) -> nn.Module:
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForSequenceClassification")(
        getattr(transformers, f"{family}Config")(**settings)
    )
    randomise(model)
    return model.eval()


def tokens(batch: int, length: int) -> dict[str, torch.Tensor]:
    """Random texts; BART reads them where they end, at the token 2."""
    ids = torch.randint(5, 50, (batch, length), generator=torch.Generator().manual_seed(1))
    ids[:, -1:] = 2
    return {"input_ids": ids}


def explain(model: nn.Module, inputs: dict[str, torch.Tensor], create_graph: bool = False):
    return IntegratedGradients(n_steps=2)(model, inputs, torch.ones(2, dtype=torch.long), create_graph)


LIMITED = {
    "a table of positions": lambda: build("Bert", **SMALL, max_position_embeddings=12),
    "a table after the padding's row": lambda: build("Roberta", **SMALL, max_position_embeddings=14),
    "a table after an offset": lambda: build("Bart", **BART, max_position_embeddings=12),
    "a decoder's table": lambda: build("GPT2", **GPT2, pad_token_id=0),
    "a table of another class": lambda: build("IBert", **SMALL, max_position_embeddings=14),
}


@pytest.mark.parametrize("build_limited", LIMITED.values(), ids=LIMITED)
def test_longest_text_is_explained_and_a_longer_one_refused(build_limited: Callable[[], nn.Module]):
    """An IndexError from inside the model, on a GPU one that spoils the process; or a limit that is off by two."""
    model = build_limited()
    assert longest_text(model) == 12
    assert explain(model, tokens(2, 12)).maps.shape == (2, 12)
    with pytest.raises(ValueError, match=r"have 13 tokens.*positions for 12.*truncation=True, max_length=12"):
        explain(model, tokens(2, 13))


def test_models_without_a_table_of_positions_have_no_limit():
    """A refusal of what the model can do: rotary and relative positions, and TAPAS's clamped ones."""
    rotary = {**SMALL, "num_key_value_heads": 2, "max_position_embeddings": 12, "pad_token_id": 0}
    assert longest_text(build("Llama", **rotary)) is None
    assert longest_text(build("XLNet", **XLNET)) is None
    assert longest_text(build("Tapas", **SMALL, max_position_embeddings=12)) is None


@pytest.mark.parametrize("unfit", [50, 1000, -1])
def test_ids_outside_the_vocabulary_are_refused(unfit):
    """A teacher's tokenizer used for the student."""
    inputs = tokens(2, 6)
    inputs["input_ids"][1, 3] = unfit
    with pytest.raises(ValueError, match=rf"the id {unfit}, and BertFor.* knows the ids 0 to 49.*resize_token_embedd"):
        explain(build("Bert", **SMALL), inputs)


@pytest.mark.parametrize("shape", [(0, 6), (2, 0), (6,)])
def test_empty_texts_are_refused(shape):
    with pytest.raises(ValueError, match=r"must have the shape \(batch, tokens\)"):
        explain(build("Bert", **SMALL), {"input_ids": torch.zeros(shape, dtype=torch.long)})


@pytest.mark.parametrize("batch", [1, 2])
def test_a_causal_model_without_padding_token_is_refused_with_the_remedy(batch):
    """Even of one text, several points of the path are a batch."""
    model = build("GPT2", **GPT2)
    with pytest.raises(ValueError, match=r"model.config.pad_token_id = tokenizer.pad_token_id"):
        IntegratedGradients(n_steps=2)(model, tokens(batch, 6), torch.ones(batch, dtype=torch.long))
    model.config.pad_token_id = 0
    assert explain(model, tokens(2, 6)).maps.shape == (2, 6)


LLAMA = {**SMALL, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2}


@pytest.mark.parametrize(("family", "settings"), [("GPT2", GPT2), ("Llama", LLAMA)])
def test_padding_that_a_decoder_would_read_is_refused(family, settings):
    """Prevents: logits and a map of the padding, where the tokenizer's token isn't the configuration's."""
    model = build(family, **settings, pad_token_id=0)
    inputs = {"input_ids": torch.tensor([[7, 8, 9], [7, 2, 2]]), "attention_mask": torch.tensor([[1, 1, 1], [1, 0, 0]])}
    with pytest.raises(ValueError, match=r"by the token 2, and .* isn't 0.*pad_token_id = tokenizer.pad_token_id"):
        explain(model, inputs)
    model.config.pad_token_id = 2
    found = explain(model, inputs)
    alone = model(torch.tensor([[7]])).logits
    torch.testing.assert_close(found.logits[1:], alone)
    model.config.pad_token_id = 0
    # In front of the texts it does no harm, nor behind those of an encoder.
    left = {name: value.flip(1) for name, value in inputs.items()}
    assert explain(model, left).logits.isfinite().all()
    assert explain(build("Bert", **SMALL, pad_token_id=0), inputs).logits.isfinite().all()


LONGFORMER = {**SMALL, "attention_window": 4, "max_position_embeddings": 30, "pad_token_id": 1}
ODD = {
    "tokens before samples": lambda: build("XLNet", **XLNET),
    "padded to its window": lambda: build("Longformer", **LONGFORMER),
    "embeddings with a scale": lambda: build("IBert", **SMALL, max_position_embeddings=30),
}


@pytest.mark.parametrize("length", [2, 7])  # as many tokens as samples, too
@pytest.mark.parametrize("build_odd", ODD.values(), ids=ODD)
def test_embeddings_are_found_however_the_model_lays_them_out(build_odd: Callable[[], nn.Module], length):
    """A model that is refused for its layout, or, worse, explained at the wrong tokens: each token's own row moves."""
    model = build_odd()
    inputs = {**tokens(2, length), "attention_mask": torch.ones(2, length, dtype=torch.long)}
    table = word_embeddings(model).weight
    with torch.no_grad():
        plain = model(**inputs)["logits"]
    logits, value = run_at(model, inputs)
    assert torch.equal(value, F.embedding(inputs["input_ids"], table))
    assert torch.allclose(logits, plain, atol=1e-5)

    def replace_one(embedded):
        return torch.cat([embedded[:, :1], table[9].expand(2, 1, -1), embedded[:, 2:]], dim=1)

    replaced, _ = run_at(model, inputs, replace_one)
    inputs["input_ids"][:, 1] = 9
    with torch.no_grad():
        assert torch.allclose(replaced, model(**inputs)["logits"], atol=1e-5)


def test_random_points_train_a_padded_model():
    """The path's points repeat the batch, and with it the ids that the embeddings are recognised by."""
    model, explainer = build("Longformer", **LONGFORMER), IntegratedGradients(random_points=3)
    inputs = {**tokens(2, 7), "attention_mask": torch.ones(2, 7, dtype=torch.long)}
    with shared_noise([explainer], torch.rand(1, 16, generator=torch.Generator().manual_seed(0))):
        explainer(model, inputs, torch.ones(2, dtype=torch.long), create_graph=True).maps.square().sum().backward()
    assert word_embeddings(model).weight.grad.abs().sum() > 0


def test_a_model_without_a_table_is_refused():
    hashed = {**SMALL, "num_hash_buckets": 8, "num_hash_functions": 4, "max_position_embeddings": 64}
    hashed.pop("vocab_size")
    model = build("Canine", **hashed)
    with pytest.raises(ValueError, match=r"names no table of word embeddings"):
        explain(model, tokens(2, 8))


# --- What can't be differentiated twice ------------------------------------------------------------------------------


class Scaled(torch.autograd.Function):
    """x·Σx, whose backward keeps Σx, a number that its forward has computed: wrong once it is differentiated."""

    @staticmethod
    def forward(ctx, x):
        total = x.sum()
        ctx.save_for_backward(x, total)
        return x * total

    @staticmethod
    def backward(ctx, grad):
        x, total = ctx.saved_tensors
        return grad * total + (grad * x).sum()


class Squared(torch.autograd.Function):
    """Keeps its input alone, so that its backward can be differentiated."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, grad):
        return 2 * ctx.saved_tensors[0] * grad


class Net(nn.Module):
    """An image classifier with a function in its middle."""

    def __init__(self, function):
        super().__init__()
        self.body, self.head, self.function = nn.Conv2d(3, 4, 3), nn.Linear(4, 3), function

    def forward(self, pixel_values):
        return self.head(self.function(self.body(pixel_values)).mean((2, 3)))


@pytest.mark.parametrize(
    ("function", "message"),
    [(Scaled.apply, "ScaledBackward"), (F.hardsigmoid, r"without a second derivative in torch \(hardsigmoid\)")],
)
def test_functions_without_a_right_second_derivative_are_refused(function, message):
    """Gradients that are silently wrong, or a RuntimeError in the first loss.backward()."""
    model, images, target = Net(function), {"pixel_values": torch.randn(2, 3, 8, 8)}, torch.tensor([0, 1])
    with pytest.raises(ValueError, match=message):
        IntegratedGradients(n_steps=2)(model, images, target, create_graph=True)
    # Without training on it the first derivative is enough.
    assert IntegratedGradients(n_steps=2)(model, images, target).maps.abs().sum() > 0


def test_a_function_that_keeps_its_input_is_trained_on():
    model, images, target = Net(Squared.apply), {"pixel_values": torch.randn(2, 3, 8, 8)}, torch.tensor([0, 1])
    IntegratedGradients(n_steps=2)(model, images, target, create_graph=True).maps.square().sum().backward()
    assert model.body.weight.grad.abs().sum() > 0


def test_a_function_may_be_vouched_for(monkeypatch):
    """A right second derivative that is refused for good."""
    monkeypatch.setattr(Scaled, "twice_differentiable", True, raising=False)
    model, images = Net(Scaled.apply), {"pixel_values": torch.randn(2, 3, 8, 8)}
    IntegratedGradients(n_steps=2)(
        model, images, torch.tensor([0, 1]), create_graph=True
    ).maps.square().sum().backward()
    assert model.body.weight.grad.abs().sum() > 0


def test_cut_patches_are_refused():
    """SigLIP 2 takes patches (B, patches, numbers); a map of them would have summed over the patches."""
    with pytest.raises(ValueError, match=r"`pixel_values` of shape \(2, 16, 12\)"):
        Saliency()(Net(torch.relu), {"pixel_values": torch.randn(2, 16, 12)}, torch.tensor([0, 1]))
