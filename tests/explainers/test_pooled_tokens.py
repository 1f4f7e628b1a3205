"""The tokens that a classifier reads."""

import pytest
import torch
from torch import nn
from transformers import (
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersForImageClassification,
)

from hf_e2kd.explainers.attention_gradient import AttentionGradient
from hf_e2kd.explainers.attention_rollout import AttentionRollout
from hf_e2kd.explainers.pooled_tokens import PooledTokens, find_pooled_tokens
from tests.explainers.attention import CLASS_TOKEN, PIXELS, TARGET, VISION
from tests.models import CLASSES, build, randomise
from tests.text_models import TEXT, build_text, token_batch


@pytest.mark.parametrize(("name", "expected"), VISION.items())
def test_tokens_that_image_classifiers_read(tiny, name, expected):
    """Prevents: the class token's row, where the classifier reads the patches' mean."""
    assert find_pooled_tokens(tiny(name).train(), PIXELS) == expected


@pytest.mark.parametrize("name", TEXT)
def test_tokens_that_text_classifiers_read(name):
    """Prevents: padded rows, or all rows, taken to be read."""
    expected = PooledTokens((), 0) if name == "sentence encoder" else CLASS_TOKEN
    assert find_pooled_tokens(build_text(name), token_batch()) == expected


@pytest.mark.parametrize("seed", range(4))
def test_mean_of_the_tokens_that_count(seed):
    """Prevents: padding in the mean, and a token that happens to weigh more taken for a class token."""
    model = build_text("modernbert", seed, classifier_pooling="mean")

    read = find_pooled_tokens(model, token_batch(seed=seed))

    assert read == PooledTokens((), 0)
    expected = torch.tensor([[1 / 9] * 9, [1 / 7] * 7 + [0.0, 0.0]])
    torch.testing.assert_close(read.weights(token_batch()["attention_mask"] != 0), expected)


def test_class_token_beside_a_mean():
    """Prevents: DINOv2's class token counted as one of many tokens, and its registers as patches."""
    expected = torch.tensor([[0.5, 0.0, 0.0, 0.25, 0.25]])
    torch.testing.assert_close(PooledTokens((0,), 3).weights(torch.ones(1, 5, dtype=torch.bool)), expected)

    config = Dinov2WithRegistersConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8, num_labels=CLASSES
    )
    model = Dinov2WithRegistersForImageClassification(config)
    randomise(model)
    assert find_pooled_tokens(model, PIXELS) == PooledTokens((0,), 5)
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


@pytest.mark.parametrize("name", ["sentence encoder", "timm_vit"])
def test_largest_values_over_tokens_are_refused(name):
    """Prevents: a classifier that takes each feature where it is largest explained as one that reads the mean."""
    if name == "timm_vit":
        model, inputs = build(name, global_pool="max"), PIXELS
    else:
        model, inputs = build_text(name, pooling="max"), token_batch(tokens=5)

    with pytest.raises(ValueError, match="reads each feature at the token where it is largest.*Explain it by"):
        AttentionRollout()(model, inputs)


def test_the_trace_draws_no_random_numbers():
    """Prevents: a first step with other dropout than the same step later."""
    model = build_text("bert").train()
    explainer = AttentionGradient()
    maps = []
    for _ in range(2):
        torch.manual_seed(3)
        maps.append(explainer(model, token_batch(), TARGET).maps)
    torch.testing.assert_close(*maps)
