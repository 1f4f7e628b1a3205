"""Autoencoders of explanations: their sizes, their loss, their training by the stock trainer."""

import pytest
import torch
from torch import nn
from transformers import AutoModel, Trainer

from hf_e2kd.models import ExplanationAutoencoder, ExplanationAutoencoderConfig
from hf_e2kd.models.explanation_autoencoder import reconstruction_loss
from hf_e2kd.testing import check_gradient
from tests.models import images
from tests.training import stock_arguments
from tests.xdistillation.parts import autoencoder


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({"size": "small", "num_channels": 1, "image_size": 28}, 1_077),  # exact: Table I
        ({"output_channels": 3}, 194_955),  # 97,524 of the encoder, 97,431 of its mirror image
        ({}, 194_955 - 2 * (12 * 16 + 1)),  # the map has one channel
        # The paper's 198,796, by widths that reach it.
        ({"num_channels": 1, "widths": (12, 24, 48, 99)}, 198_796),
    ],
)
def test_parameters(settings, count):
    model = ExplanationAutoencoder(ExplanationAutoencoderConfig(**settings))
    assert model.num_parameters() == count
    size, colours = model.config.image_size, model.config.num_channels
    assert model(torch.rand(2, colours, size, size)).maps.shape == (2, model.config.output_channels, size, size)


@pytest.mark.parametrize("size", ["small", "large"])
def test_a_tanh_stands_behind_every_layer(size):
    """Prevents: maps beyond −1 to 1, and feature maps that grow from layer to layer."""
    layers = list(ExplanationAutoencoder(ExplanationAutoencoderConfig(size=size)).layers)
    convolutions = [i for i, layer in enumerate(layers) if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
    assert len(convolutions) == {"small": 4, "large": 8}[size]
    assert all(isinstance(layers[i + 1], nn.Tanh) for i in convolutions)


def test_loss_is_half_the_mean_absolute_error():
    """Eq. 4 with the absolute value that it lacks: errors of opposite signs don't cancel."""
    maps = torch.tensor([[[[0.5, -0.5]]]], dtype=torch.float64, requires_grad=True)
    assert reconstruction_loss(maps, torch.tensor([[[0.0, 0.0]]])) == 0.25
    assert reconstruction_loss(maps, torch.tensor([[[[-0.5, 0.5]]]])) == 0.5
    check_gradient(lambda: reconstruction_loss(maps, torch.tensor([[[0.1, 0.2]]])), {"maps": maps})
    with pytest.raises(ValueError, match=r"explanations of the images' size, \(1, 1, 1, 2\), not \(1, 2, 2\)"):
        reconstruction_loss(maps, torch.zeros(1, 2, 2))


@pytest.mark.parametrize("accumulated", [1, 2])
def test_trained_by_the_stock_trainer(tmp_path, accumulated):
    """Prevents: a loss that the trainer doesn't find, or scales once more where it accumulates."""
    pixels = images(4)
    data = [{"pixel_values": each, "labels": each.mean(0).tanh()} for each in pixels]
    settings = {"per_device_train_batch_size": 4 // accumulated, "gradient_accumulation_steps": accumulated}
    model = autoencoder()
    before, reference = {n: p.detach().clone() for n, p in model.named_parameters()}, autoencoder()
    reference.load_state_dict(model.state_dict())
    args = stock_arguments(tmp_path, **settings, **{"max_steps": 1})
    trainer = Trainer(model, args, train_dataset=data, eval_dataset=data)
    trainer.train()
    loss = reference(pixels, pixels.mean(1).tanh()).loss
    loss.backward()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(loss.item(), rel=1e-5)
    for name, parameter in model.named_parameters():
        wanted = before[name] - 0.05 * reference.get_parameter(name).grad
        torch.testing.assert_close(parameter.detach(), wanted, rtol=1e-4, atol=1e-6)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(model(pixels, pixels.mean(1).tanh()).loss.item(), rel=1e-5)


def test_saved_and_loaded(tmp_path):
    model = autoencoder(output_channels=2)
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    assert isinstance(loaded, ExplanationAutoencoder)
    assert loaded.config.scale == 2.0
    assert loaded.config.id2label == model.config.id2label
    explanation = loaded.approximate_explanation(images())
    assert torch.equal(explanation, model.approximate_explanation(images()))
    assert torch.equal(explanation, 2 * model(images()).maps.sum(1))  # the scale undone


def test_refusals():
    with pytest.raises(ValueError, match=r"size must be one of \['large', 'small'\], not 'medium'"):
        ExplanationAutoencoderConfig(size="medium")
    with pytest.raises(ValueError, match="image_size must be a multiple of 16, because the 4 layers halve it, not 28"):
        ExplanationAutoencoderConfig(image_size=28)
    for scale in (0.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="scale must be a positive number"):
            ExplanationAutoencoderConfig(scale=scale)
    with pytest.raises(ValueError, match=r"takes images \(B, 3, 32, 32\), not of the shape \(2, 1, 32, 32\)"):
        autoencoder()(images()[:, :1])
