"""Models that nobody registered: the right layer is found and named, or the model refused."""

import logging

import pytest
import timm
import torch
from timm.models.pit import PoolingVisionTransformer
from timm.models.volo import VOLO
from torch import nn
from torch.nn import functional as F
from torchvision.models import VisionTransformer, resnet18

from hf_e2kd import explain
from hf_e2kd.architectures import Grid, discover_target, find_architecture, grid_of, is_timm
from hf_e2kd.explainers import GradCAM
from tests.gradients import explained_gradients
from tests.models import CLASSES, images, randomise

TARGET = torch.tensor([3, 1])


class ConvNet(nn.Module):
    """Two convolutions, as a user writes them."""

    def __init__(self, pool="mean"):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 4, stride=4)
        self.norm = nn.BatchNorm2d(6)
        self.body = nn.Sequential(nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.ReLU())
        self.drop = nn.Dropout2d()
        self.head = nn.Linear(8 if pool == "mean" else 8 * 16, CLASSES)
        self.pool = pool

    def forward(self, x):
        x = self.drop(self.body(self.norm(self.stem(x)).relu()))
        return self.head(x.mean((2, 3)) if self.pool == "mean" else x.flatten(1))


class Attention(nn.Module):
    """Self-attention by torch's fused function."""

    def __init__(self, dim, qk_norm=False):
        super().__init__()
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.q_norm, self.k_norm = (nn.LayerNorm(dim // 2) if qk_norm else nn.Identity() for _ in range(2))

    def forward(self, tokens):
        q, k, v = self.qkv(tokens).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, dim, qk_norm):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = Attention(dim, qk_norm)
        self.mlp = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim))

    def forward(self, tokens):
        tokens = tokens + self.attention(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class PlainViT(nn.Module):
    """A vision transformer that reads its class token alone, as a user writes it."""

    def __init__(self, dim=32, prefix=1, qk_norm=False):
        super().__init__()
        self.patches = nn.Conv2d(3, dim, 8, stride=8)
        self.prefix = nn.Parameter(torch.zeros(1, prefix, dim))
        self.blocks = nn.ModuleList([Block(dim, qk_norm) for _ in range(2)])
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, CLASSES)

    def forward(self, pixel_values):
        patches = self.patches(pixel_values).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.prefix.expand(len(patches), -1, -1), patches], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(self.norm(tokens)[:, 0])


def made(model):
    randomise(model)
    return model.eval()


def discovered(model, pixel_values=None):
    pixel_values = images() if pixel_values is None else pixel_values
    return discover_target(model, {"pixel_values": pixel_values})


@pytest.mark.parametrize("pool", ["mean", "flatten"])
def test_last_feature_map_of_a_convnet(pool):
    """Prevents: an earlier layer, or the dropout's thinned copy, taken for the last feature map."""
    model = made(ConvNet(pool))

    assert discovered(model) in ("body", "body.1")
    assert explain(model, images(), target=TARGET).maps.shape == (2, 4, 4)


@pytest.mark.parametrize("prefix", [1, 2, 5])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_vit_by_its_class_token(prefix, qk_norm):
    """Prevents: the final norm, whose patches have no gradient, or an attention's keys, taken for a feature map."""
    model = made(PlainViT(prefix=prefix, qk_norm=qk_norm))

    assert discovered(model) == "blocks.1.norm1"
    maps = explain(model, images(), target=TARGET).maps
    assert maps.shape == (2, 4, 4)
    assert (maps.flatten(1) > 0).any(1).all()


@pytest.mark.parametrize("qk_norm", [False, True])
def test_heads_by_tokens_are_no_grid(qk_norm):
    """Prevents: queries (B, heads, tokens, d) read as a feature map where tokens and d are nearly equal."""
    model = made(PlainViT(dim=32, prefix=1, qk_norm=qk_norm))
    pixel_values = images(height=32, width=32)

    assert "_norm" not in discovered(model, pixel_values).split(".")[-1]


def test_torchvision_resnet():
    """Prevents: a model whose forward takes `x`, not `pixel_values`, failing on its argument's name."""
    model = made(resnet18(num_classes=CLASSES))
    pixel_values = images(height=64, width=96)

    assert discovered(model, pixel_values).startswith("layer4")
    explanation = explain(model, pixel_values, target=TARGET)
    assert explanation.maps.shape == (2, 2, 3)
    torch.testing.assert_close(explanation.logits, model(pixel_values).detach())
    expected = explain(model, pixel_values, target=TARGET, target_layer="layer4")
    torch.testing.assert_close(explanation.maps, expected.maps)


def test_torchvision_vit():
    """Prevents: torch's own attention module (a tuple as output, a fused path in evaluation) left unexplained."""
    model = made(VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=CLASSES))

    assert discovered(model) == "encoder.layers.encoder_layer_1.ln_1"
    explanation = explain(model, images(), target=TARGET)
    assert explanation.maps.shape == (2, 4, 4)
    assert (explanation.maps.flatten(1) > 0).any(1).all()


def pit():
    dims = {"base_dims": (8, 8, 8), "depth": (1, 1, 2), "heads": (1, 2, 2), "mlp_ratio": 2}
    return PoolingVisionTransformer(64, 16, 8, "overlap", distilled=True, num_classes=CLASSES, **dims)


def volo():
    dims = {"embed_dims": (8, 16, 16, 16), "num_heads": (1, 2, 2, 2), "stem_hidden_dim": 8}
    return VOLO((1, 1, 1, 1), img_size=64, num_classes=CLASSES, post_layers=("ca", "ca"), **dims)


@pytest.mark.parametrize(("model", "grid"), [(pit, (2, 2)), (volo, (4, 4))])
def test_timm_models_whose_class_tokens_leave_the_grid(model, grid):
    """Prevents: class tokens read as a grid of their own, because the model states no prefix tokens."""
    model = model()
    model.pretrained_cfg = {"architecture": "as timm.create_model sets it"}

    assert is_timm(model)
    assert find_architecture(model) is None
    assert explain(made(model), images(height=64), target=TARGET).maps.shape == (2, *grid)


def test_windows_in_the_batchs_place_are_no_grid():
    """Prevents: a map for every window instead of every image."""

    class Windows(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.inner = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 8, 1)
            self.head = nn.Linear(8, CLASSES)

        def forward(self, pixel_values):
            windows = self.stem(pixel_values).unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5)
            inner = self.inner(windows.flatten(0, 2))
            return self.head(inner.mean((2, 3)).unflatten(0, (-1, 4)).mean(1))

    model = made(Windows())

    assert discovered(model) == "stem"
    with pytest.raises(ValueError, match=r"'inner' of Windows has no spatial grid.*\(8, 8, 4, 4\) for 2 images"):
        explain(model, images(), target_layer="inner")


def test_queries_of_a_block_without_an_attention_are_no_grid():
    """Prevents: heads × channels taken for an image, where a block with norms of timm's attends by itself."""
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
    model = timm.create_model("vit_large_patch14_xp_224", num_classes=CLASSES, **sizes).eval()
    assert discover_target(model, {"pixel_values": images()}) == "blocks.1.in_norm"


def test_gradients_flow_through_a_discovered_layer():
    """Prevents: a discovered layer that is good for evaluation only."""
    for model in (made(ConvNet()).double(), made(PlainViT()).double()):
        _, gradients = explained_gradients(model, GradCAM(), {"pixel_values": images().double()}, TARGET)
        untouched = [name for name, gradient in gradients.items() if not gradient.any()]
        assert set(untouched) <= {"norm.bias", "head.bias"}


def test_what_was_taken_is_said_once(caplog):
    """Prevents: a silent choice, and the same message at every step of a training."""
    model = made(ConvNet())
    explainer = GradCAM()
    caplog.set_level(logging.WARNING)
    logging.Logger.warning_once.cache_clear()

    for _ in range(3):
        explainer(model, {"pixel_values": images()})
    GradCAM()(made(ConvNet()), {"pixel_values": images()})  # the teacher of one class with the student

    messages = [record.getMessage() for record in caplog.records if "not registered" in record.getMessage()]
    assert len(messages) == 1
    assert "ConvNet is not registered: its layer 'body" in messages[0]
    assert "(4×4 cells)" in messages[0]
    assert "target_layer" in messages[0]


def test_without_a_grid_refused():
    """Prevents: a map made of a vector's entries."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 16), nn.ReLU(), nn.Linear(16, CLASSES)).train()

    with pytest.raises(ValueError, match="Sequential has no layer with a spatial grid.*target_layer"):
        explain(model, images())
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_grid_that_does_not_matter_is_refused():
    """Prevents: a layer without gradient, whose map is zero everywhere."""

    class Ignores(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 4, 4), nn.Linear(3, CLASSES)

        def forward(self, pixel_values):
            return self.head(pixel_values.mean((2, 3))) + 0 * self.conv(pixel_values).sum()

    with pytest.raises(ValueError, match="Ignores has no layer with a spatial grid that reaches the logits"):
        explain(Ignores(), images())


@pytest.mark.parametrize("output", ["dict", "tuple", "tensor"])
def test_every_form_of_logits_is_read(output):
    """Prevents: a model refused for the form of what it returns."""

    class Returns(ConvNet):
        def forward(self, x):
            logits = super().forward(x)
            return {"dict": {"logits": logits}, "tuple": (logits, x), "tensor": logits}[output]

    model = Returns()
    model.load_state_dict(made(ConvNet()).state_dict())

    torch.testing.assert_close(
        explain(model.eval(), images(), target=TARGET).maps, explain(made_like(model), images(), target=TARGET).maps
    )


def made_like(model):
    plain = ConvNet().eval()
    plain.load_state_dict(model.state_dict())
    return plain


@pytest.mark.parametrize(
    ("shape", "image", "grid"),
    [
        ((2, 8, 4, 4), (32, 32), Grid(4, 4)),
        ((2, 8, 4, 6), (32, 48), Grid(4, 6)),
        ((2, 4, 6, 96), (32, 48), Grid(4, 6, "nhwc")),
        # ConvNeXt's first stage of a photograph: its 96 channels and 128 rows are as 3 to 4, too.
        ((1, 96, 128, 170), (512, 683), Grid(128, 170)),
        ((1, 64, 128, 256), (512, 1024), Grid(128, 256)),
        ((2, 7, 7, 96), (224, 224), Grid(7, 7, "nhwc")),
        ((2, 24, 8), (32, 48), Grid(4, 6, "tokens", 0)),
        ((2, 25, 8), (32, 48), Grid(4, 6, "tokens", 1)),
        ((2, 29, 8), (48, 32), Grid(6, 4, "tokens", 5)),
        ((2, 8, 1, 1), (32, 32), None),
        ((2, 8), (32, 32), None),
        ((2, 3, 8), (32, 32), None),
    ],
)
def test_grid_of_an_activation(shape, image, grid):
    """Prevents: channels taken for places, or prefix tokens for patches."""
    assert grid_of(torch.zeros(shape), *image) == grid
