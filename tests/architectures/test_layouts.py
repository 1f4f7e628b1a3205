"""Layouts that a model states: its layers' outputs are seen at the right places of the image."""

import timm
import torch
import transformers
from timm.models.coat import CoaT

from hf_e2kd.architectures import Grid, discover_target
from hf_e2kd.architectures.grids import layer_grid
from hf_e2kd.architectures.taps import Taps, default_taps
from hf_e2kd.explainers import AttentionRollout, GradCAM
from tests.models import CLASSES, images, randomise

TARGET = torch.tensor([0])
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def hiera(**settings):
    """Hiera with initial weights, whose layers mostly see one place."""
    sizes = {"embed_dim": 8, "num_heads": [1, 1, 2, 2], "depths": [1, 1, 1, 1]}
    config = transformers.HieraConfig(image_size=[64, 64], **sizes, **settings)
    return transformers.HieraForImageClassification(config).eval()


def timm_hiera(**settings):
    sizes = {"img_size": 64, "embed_dim": 8, "num_heads": 1, "stages": (1, 1, 1, 1)}
    return timm.create_model("hiera_tiny_224", num_classes=CLASSES, **sizes, **settings).eval()


def clip():
    vision = {**SIZES, "image_size": 128, "patch_size": 32}
    config = transformers.CLIPConfig(text_config=SIZES, vision_config=vision, num_labels=CLASSES)
    return transformers.CLIPForImageClassification(config).eval()


def marked(height, width):
    """An image, and the same with other pixels in the upper quarter's third eighth from the right."""
    plain = 0.3 * images(1, height, width)
    changed = plain.clone()
    changed[..., : height // 4, width // 2 : 3 * width // 4] += images(1, height // 4, width // 4)
    return plain, changed


def is_seen_there(plain, changed):
    """Tell whether features (1, h, w, C) differ most in the upper half, right of the middle."""
    difference = (plain - changed).square().sum(-1)[0]
    rows, columns = difference.shape
    return difference[: rows // 2, columns // 2 :].sum() > 0.6 * difference.sum()


def taps_see_there(model, size, **others):
    """Tell of each default tap whether it sees the mark at its place, and give the taps' grids."""
    reader = Taps(model, default_taps(model))
    features = []
    for image in marked(*size):
        reader.start()
        with torch.no_grad():
            model(image, **others)
        features.append(reader.stop({"pixel_values": image}))
    plain, changed = features
    grids = [tuple(feature.shape[1:3]) for feature in plain.values()]
    return grids, [is_seen_there(plain[path], changed[path]) for path in plain]


def test_hieras_patches_are_put_in_rows():
    """Prevents: patches that stand window by window taken for rows, and compared with other places of the teacher's."""
    grids = [(16, 16), (8, 8), (4, 4), (2, 2)]
    assert taps_see_there(hiera(), (64, 64)) == (grids, [True] * 4)
    assert taps_see_there(timm_hiera(), (64, 64)) == (grids, [True] * 4)
    wide = [(16, 32), (8, 16), (4, 8), (2, 4)]
    assert taps_see_there(hiera(), (64, 128), interpolate_pos_encoding=True) == (wide, [True] * 4)


def test_cams_of_hieras_windows():
    """Prevents: a map whose cells are shuffled, at a named layer, or at the last where it isn't pooled to the end."""
    model, image = timm_hiera(q_pool=2), images(1, 64)
    features, found = model.forward_features(image), GradCAM()(model, {"pixel_values": image}, TARGET).maps
    rows = model.reroll(features, len(model.blocks) - 1)
    gradient = torch.autograd.grad(model.forward_head(features)[0, 0], features)[0].sum(1)
    torch.testing.assert_close(found, (rows * gradient / rows[..., 0].numel()).sum(-1).relu(), rtol=1e-4, atol=1e-6)

    model = hiera()
    map_, layer = GradCAM("hiera.encoder.stages.1")(model, {"pixel_values": image}, TARGET).maps, "hiera.embeddings"
    whole = model.hiera(image, output_hidden_states=True).reshaped_hidden_states[2]
    assert map_.shape[1:] == whole.shape[1:3]
    assert layer_grid(model, layer, torch.zeros(1, 256, 8), 64, 64) == Grid(16, 16, "tokens")


def test_patches_that_do_not_fill_the_image():
    """Prevents: class tokens and patches told apart by the image's shape, where the size of the patches says it."""
    model, inputs = clip(), {"pixel_values": images(1, 96, 118), "interpolate_pos_encoding": True}
    assert taps_see_there(model, (96, 118), interpolate_pos_encoding=True) == ([(3, 3)] * 2, [True] * 2)
    assert GradCAM()(model, inputs, TARGET).maps.shape == (1, 3, 3)
    assert AttentionRollout()(model, inputs, TARGET).maps.shape == (1, 3, 3)


def test_patches_that_are_no_squares():
    """Prevents: 8×8 patches of 8×16 pixels, and a class token, taken for 5×12 patches and five other tokens."""
    sizes = {"depth": 2, "embed_dim": 16, "num_heads": 2, "patch_size": (8, 16)}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=CLASSES, img_size=(64, 128), **sizes).eval()
    assert taps_see_there(model, (64, 128)) == ([(8, 8)] * 2, [True] * 2)
    model = timm.create_model("vit_tiny_patch16_224", global_pool="avg", img_size=64, **sizes).eval()
    assert GradCAM()(model, {"pixel_values": images(1, 64)}, TARGET).maps.shape == (1, 8, 4)


def test_a_branch_that_a_block_hands_on_is_not_its_output():
    """Prevents: GradCAM at the end of CoaT's first stage, under the name of its last block."""
    sizes = {"embed_dims": (16,) * 4, "serial_depths": (1,) * 4, "parallel_depth": 2, "num_heads": 8}
    model = CoaT(img_size=64, patch_size=4, mlp_ratios=(2, 2, 2, 2), num_classes=CLASSES, **sizes).eval()
    model.pretrained_cfg = {"architecture": "as timm.create_model sets it"}
    randomise(model)
    path = discover_target(model, {"pixel_values": images(1, 64)})
    assert path == "parallel_blocks.1.norm14"
    assert GradCAM()(model, {"pixel_values": images(1, 64)}, TARGET).maps.shape == (1, 2, 2)
