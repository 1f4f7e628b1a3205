"""Terms that compare features: their formulas on fixed tensors, the layers they tap, and what they refuse."""

import copy
import pickle

import pytest
import timm
import torch
import transformers
from packaging import version
from torch.nn import functional as F

from hf_e2kd import TeacherReference
from hf_e2kd.architectures.layers import layer_place
from hf_e2kd.architectures.taps import Taps, default_taps, feature_cells, find_layer, pair_layers, stages
from hf_e2kd.terms import ReferenceOutput, StepOutput, available_terms, build_term, register_term
from hf_e2kd.terms.base import Term
from hf_e2kd.terms.features.attention_transfer import AttentionTransfer, attention_transfer_loss
from hf_e2kd.terms.features.hint import Hint, hint_loss
from tests.models import build, images
from tests.text_models import build_text

# --- Formulas --------------------------------------------------------------------------------------------------------


def test_attention_transfer_by_hand():
    """Prevents: squares of means in the place of means of squares, or a sum in the place of the mean."""
    # Q is [1, 4] and [9, 16] over two places of two channels: (1² + 1²)/2 and so on.
    student = torch.tensor([[[[1.0, 1.0], [2.0, 2.0]]]])
    teacher = torch.tensor([[[[3.0, 3.0], [4.0, 4.0]]]])
    own, theirs = torch.tensor([1.0, 4.0]) / 17**0.5, torch.tensor([9.0, 16.0]) / 337**0.5
    expected = ((own - theirs) ** 2).mean()
    torch.testing.assert_close(attention_transfer_loss(student, teacher), expected[None])


def test_attention_transfer_of_several_samples():
    """Prevents: a norm over the batch, or features (B, h, w, C) read as (B, C, h, w)."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(3, 4, 4, channels, generator=generator) for channels in (5, 8))
    found = attention_transfer_loss(student, teacher)
    for row in range(3):
        strengths = [torch.einsum("hwc,hwc->hw", maps[row], maps[row]).flatten() for maps in (student, teacher)]
        own, theirs = (strength / strength.norm() for strength in strengths)
        torch.testing.assert_close(found[row], ((own - theirs) ** 2).sum() / 16)


def test_features_are_pooled_to_the_smaller_grid():
    """Prevents: a student's map cut instead of averaged where the teacher's grid is coarser."""
    student, teacher = torch.randn(2, 8, 6, 3), torch.randn(2, 4, 3, 5)
    pooled = F.avg_pool2d(student.movedim(-1, 1), 2).movedim(1, -1)
    torch.testing.assert_close(attention_transfer_loss(student, teacher), attention_transfer_loss(pooled, teacher))
    teacher = teacher[..., :3]
    torch.testing.assert_close(hint_loss(student, teacher), (pooled - teacher).square().mean((1, 2, 3)))


def test_padding_of_texts_counts_nowhere():
    """Prevents: padded tokens that pull the mean, or whose strength enters the norm."""
    student, teacher = torch.randn(2, 5, 4), torch.randn(2, 5, 4)
    mask = torch.tensor([[True] * 5, [True, True, True, False, False]])
    for loss in (attention_transfer_loss, hint_loss):
        found = loss(student, teacher, mask)
        torch.testing.assert_close(found[0], loss(student[:1], teacher[:1])[0])
        torch.testing.assert_close(found[1], loss(student[1:, :3], teacher[1:, :3])[0])


@pytest.mark.parametrize("loss", [attention_transfer_loss, hint_loss])
def test_gradients(loss):
    """Prevents: a gradient that differs from the loss's own finite differences."""
    student, teacher = torch.randn(2, 3, 3, 4, dtype=torch.float64), torch.randn(2, 3, 3, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: loss(x, teacher), (student.requires_grad_(),))


def test_a_hint_is_a_projection_and_a_mean_of_squares():
    """Prevents: layers paired with another's projection, or a projection of the teacher's channels."""
    term = Hint(layers={"a": "x", "b": "y"})
    term.taps, term.reference_taps = ("a", "b"), ("x", "y")
    output = StepOutput(torch.zeros(2, 3), features={"a": torch.randn(2, 4, 4, 6), "b": torch.randn(2, 2, 2, 8)})
    features = {"x": torch.randn(2, 4, 4, 5), "y": torch.randn(2, 2, 2, 7)}
    reference_output = ReferenceOutput(torch.zeros(2).long(), features=features)
    term.setup(output, reference_output, {}, None)
    assert [tuple(p.weight.shape) for p in term.projections] == [(5, 6), (7, 8)]
    expected = sum(
        (projection(output.features[own]) - features[theirs]).square().mean((1, 2, 3))
        for projection, own, theirs in zip(term.projections, "ab", "xy", strict=True)
    )
    torch.testing.assert_close(term(output, reference_output, {}), expected)


# --- Layers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "taps"),
    [
        ("resnet", ["resnet.encoder.stages.0", "resnet.encoder.stages.1"]),
        ("convnext", ["convnext.encoder.stages.0", "convnext.encoder.stages.1"]),
        ("vit", [f"vit.layers.{number}" for number in range(3)]),
        ("swin", ["swin.encoder.layers.0.blocks.0", "swin.encoder.layers.1"]),
        ("dinov2", [f"dinov2.encoder.layer.{number}" for number in range(3)]),
        ("efficientnet", ["efficientnet.encoder.blocks.3", "efficientnet.encoder.blocks.7"]),
        ("timm_resnet", ["act1", "layer1", "layer2", "layer3", "layer4"]),
        ("wrapped_vit", [f"timm_model.blocks.{number}" for number in range(3)]),
        ("timm_convnext", [f"stages.{number}" for number in range(4)]),
    ],
)
def test_default_taps_of_image_models(name, taps):
    """Prevents: a family whose stages or blocks aren't found, so that each user must name them."""
    assert default_taps(build(name)) == taps


def test_rows_that_are_no_samples_are_refused():
    """Prevents: the windows of a batch, or the tokens of a model that is given them first, compared as its samples."""
    windows, tokens = torch.zeros(8, 16, 4), torch.zeros(7, 2, 4)
    for feature, inputs in ((windows, {"pixel_values": images(2)}), (tokens, {"input_ids": torch.ones(2, 7).long()})):
        with pytest.raises(ValueError, match="for a batch of 2: its rows are windows, patches or tokens"):
            feature_cells(feature, inputs, "a.layer")


@pytest.mark.parametrize(("family", "name"), [("Pvt", "pvt"), ("PoolFormer", "poolformer")])
def test_default_taps_of_stages_that_are_lists(family, name):
    """Prevents: lists of blocks, which the forward pass calls one by one, as layers."""
    sizes = {"hidden_sizes": [8, 16, 16, 32], "depths": [1, 2, 1, 1], "num_attention_heads": [1, 1, 2, 2]}
    config = getattr(transformers, f"{family}Config")(**sizes)
    model = getattr(transformers, f"{family}ForImageClassification")(config).eval()
    taps = default_taps(model)
    assert taps == [f"{name}.encoder.block.{stage}.{last}" for stage, last in enumerate((0, 1, 0, 0))]
    reader, pixel_values = Taps(model, taps), torch.zeros(1, 3, 224, 224)
    reader.start()
    with torch.no_grad():
        model(pixel_values)
    assert set(reader.stop({"pixel_values": pixel_values})) == set(taps)


SWIN = {"embed_dim": 8, "depths": [1, 2, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 2}
FOCAL = {"embed_dim": 8, "depths": [1, 2, 1, 1], "use_conv_embed": True}
SWIFT = {"embed_dims": [8, 8, 16, 16], "depths": [1, 2, 1, 1]}
MOBILE = {"depth_multiplier": 0.25, "min_depth": 4}


@pytest.mark.parametrize(
    ("family", "settings", "second", "sides"),
    [
        ("Swin", SWIN, ("swin.encoder.layers.1", "swin.encoder.layers.1.blocks.1"), [16, 8, 4, 2]),
        ("Swinv2", SWIN, ("swinv2.encoder.layers.1", "swinv2.encoder.layers.1.blocks.1"), [16, 8, 4, 2]),
        ("FocalNet", FOCAL, ("focalnet.encoder.stages.1", "focalnet.encoder.stages.1.layers.1"), [16, 8, 4, 2]),
        ("SwiftFormer", SWIFT, ("swiftformer.encoder.network.1", "swiftformer.encoder.network.2"), [16, 8, 4, 2]),
        ("MobileNetV1", MOBILE, ("mobilenet_v1.layer.2", "mobilenet_v1.layer.5"), [32, 16, 8, 4, 2]),
    ],
)
def test_stages_end_before_the_resolution_is_lowered(family, settings, second, sides):
    """Prevents: a stage's end read behind what lowers the resolution, beside another resolution of the teacher's."""
    config = getattr(transformers, f"{family}Config")(image_size=64, **settings)
    model = getattr(transformers, f"{family}ForImageClassification")(config).eval()
    reader, pixel_values = Taps(model, default_taps(model)), images(1, 64)
    reader.start()
    with torch.no_grad():
        model(pixel_values)
    features = reader.stop({"pixel_values": pixel_values})
    assert [feature.shape[1] for feature in features.values()] == sides
    assert stages(model)[1] == second
    assert layer_place(model, 1) == (second[0], True)


def test_default_taps_of_siglip_and_gpt2():
    """Prevents: popular classifiers whose layers must be named, as their blocks have an unusual place."""
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.SiglipConfig(vision_config={**sizes, "image_size": 32, "patch_size": 8})
    siglip = transformers.SiglipForImageClassification(config).eval()
    assert default_taps(siglip) == ["vision_model.encoder.layers.0", "vision_model.encoder.layers.1"]
    reader = Taps(siglip, default_taps(siglip))
    reader.start()
    with torch.no_grad():
        siglip(pixel_values=images())
    assert {value.shape for value in reader.stop({"pixel_values": images()}).values()} == {(2, 4, 4, 16)}
    decoder = transformers.GPT2ForSequenceClassification(
        transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=50, n_positions=16)
    )
    assert default_taps(decoder) == ["transformer.h.0", "transformer.h.1"]


def test_default_taps_of_layers_that_give_tuples_in_tuples():
    """Prevents: PVTv2 refused, as its layers give their features in an inner tuple."""
    sizes = {"hidden_sizes": [8, 16, 16, 32], "depths": [1] * 4, "num_attention_heads": [1, 1, 2, 2]}
    model = transformers.PvtV2ForImageClassification(transformers.PvtV2Config(**sizes)).eval()
    reader, pixel_values = Taps(model, default_taps(model)), torch.zeros(1, 3, 64, 96)
    reader.start()
    with torch.no_grad():
        model(pixel_values)
    features = reader.stop({"pixel_values": pixel_values})
    assert [tuple(value.shape) for value in features.values()] == [
        (1, 16, 24, 8),
        (1, 8, 12, 16),
        (1, 4, 6, 16),
        (1, 2, 3, 32),
    ]


# Earlier versions of timm state no stages, or others, for some families.
STATES_ALL_STAGES = version.parse(timm.__version__) >= version.parse("1.0.31")


@pytest.mark.skipif(not STATES_ALL_STAGES, reason="this version of timm states other stages")
@pytest.mark.parametrize(
    ("name", "taps"),
    [
        ("coat_lite_tiny", [f"serial_blocks{stage}.1" for stage in (1, 2, 3, 4)]),  # lists, called block by block
        ("mvitv2_tiny", [f"stages.{stage}" for stage in range(4)]),  # stated by names that it doesn't have
    ],
)
def test_default_taps_of_timm_models_that_state_their_stages_otherwise(name, taps):
    """Prevents: layers that no forward pass calls, and none at all without a word."""
    model = timm.create_model(name, num_classes=3).eval()
    assert default_taps(model) == taps
    reader = Taps(model, taps)
    reader.start()
    with torch.no_grad():
        model(images(1, 224))
    shapes = [tuple(feature.shape[1:3]) for feature in reader.stop({"pixel_values": images(1, 224)}).values()]
    assert shapes == [(56, 56), (28, 28), (14, 14), (7, 7)]


@pytest.mark.skipif(not STATES_ALL_STAGES, reason="this version of timm states other stages")
@pytest.mark.parametrize(("name", "layer"), [("coat_tiny", "parallel_blocks"), ("crossvit_9_240", "blocks.0")])
def test_stages_of_several_branches_are_refused(name, layer):
    """Prevents: the first branch's features taken for the last stage's."""
    with pytest.raises(ValueError, match=rf"several branches at once \({layer}.*layers={{"):
        default_taps(timm.create_model(name, num_classes=3))


@pytest.mark.parametrize("name", ["bert", "distilbert", "roberta", "deberta", "modernbert"])
def test_default_taps_of_text_models(name):
    """Prevents: a family of texts without default layers."""
    model = build_text(name)
    taps = default_taps(model)
    assert len(taps) == 3
    assert len({type(model.get_submodule(path)) for path in taps}) == 1


def test_layers_are_paired_at_the_same_depth():
    """Prevents: a shallow student's last block beside the middle of a deep teacher."""
    assert pair_layers(["s0", "s1", "s2"], [f"t{n}" for n in range(12)]) == {"s0": "t3", "s1": "t7", "s2": "t11"}
    assert pair_layers(["s0", "s1", "s2", "s3"], ["t0", "t1"]) == {"s1": "t0", "s3": "t1"}


def test_an_unknown_layer_names_the_nearest():
    """Prevents: a list of two hundred layers, or a KeyError."""
    with pytest.raises(ValueError, match=r"no layer 'resnet.encoder.stage.1'. The nearest: resnet.encoder.stages.1"):
        find_layer(build("resnet"), "resnet.encoder.stage.1")


def test_features_are_laid_out_by_places():
    """Prevents: channels and places mixed up between families, or class tokens among the patches."""
    inputs = {"pixel_values": torch.zeros(2, 3, 32, 32)}
    assert feature_cells(torch.zeros(2, 6, 4, 4), inputs).shape == (2, 4, 4, 6)
    assert feature_cells(torch.zeros(2, 17, 6), inputs).shape == (2, 4, 4, 6)
    assert feature_cells(torch.zeros(2, 6, 1, 1), inputs).shape == (2, 6)
    assert feature_cells(torch.zeros(2, 6), inputs).shape == (2, 6)
    assert feature_cells(torch.zeros(2, 9, 6), {"input_ids": torch.zeros(2, 9)}).shape == (2, 9, 6)
    with pytest.raises(ValueError, match=r"'odd' has the shape \(2, 3, 6\), which is neither"):
        feature_cells(torch.zeros(2, 3, 6), {"pixel_values": torch.zeros(2, 3, 32, 32)}, "odd")


def test_taps_read_only_while_they_are_on():
    """Prevents: features of an evaluation between two steps, a graph that is kept, or values changed in place."""
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(inplace=True))
    taps, pixels = Taps(model, ["0"]), images(2)
    model(pixels)
    assert not taps.outputs
    taps.start()
    model(pixels)
    feature = taps.stop({"pixel_values": pixels})["0"]
    torch.testing.assert_close(feature.movedim(-1, 1), model[0](pixels))
    assert not taps.outputs
    taps.start()
    with pytest.raises(ValueError, match=r"doesn't call the layers \['0'\]"):
        taps.stop({"pixel_values": pixels})
    taps.remove()
    assert not model[0]._forward_hooks


# --- By name, and refused --------------------------------------------------------------------------------------------


def test_terms_by_name():
    """Prevents: an unknown name or option without the list of valid ones."""
    assert {"attention_transfer", "guidance", "hint", "logits", "maps", "task"} <= set(available_terms())
    assert build_term("hint", weight=2.0, layers={"a": "b"}).layers == {"a": "b"}
    with pytest.raises(ValueError, match=r"Unknown term 'hints'. Available: activation_boundary.*hint"):
        build_term("hints")
    with pytest.raises(ValueError, match=r"don't fit the term 'hint'.*Its options: weight, layers"):
        build_term("hint", layer="x")
    with pytest.raises(ValueError, match="a subclass of `Term` with a `name`"):
        register_term(torch.nn.Linear)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": -1.0}, "must be a finite number of at least 0, not -1.0"),
        ({"weight": float("inf")}, "must be a finite number of at least 0, not inf"),
        ({"layers": ["a", "b"]}, r"must map paths of the student to paths of the teacher.*not \['a', 'b'\]"),
        ({"layers": {}}, "must map paths"),
        ({"stage_epochs": -1}, "stage_epochs must be a finite number of at least 0"),
    ],
)
def test_options_are_checked(options, message):
    """Prevents: a training that starts and fails, or learns nothing, hours later."""
    with pytest.raises(ValueError, match=message):
        Hint(**options)


def test_shapes_that_can_not_be_compared():
    """Prevents: a message from inside an addition of tensors."""
    term = AttentionTransfer(layers={"a": "x"})
    term.taps, term.reference_taps = ("a",), ("x",)
    output = StepOutput(torch.zeros(2, 3), features={"a": torch.randn(2, 6)})
    reference_output = ReferenceOutput(torch.zeros(2).long(), features={"x": torch.randn(2, 4, 4, 6)})
    with pytest.raises(ValueError, match=r"can't compare the student's layer 'a' with the teacher's 'x'.*\(2, 6\)"):
        term.setup(output, reference_output, {}, None)


def test_a_term_without_a_forward_says_so():
    """Prevents: a loss of None where a subclass forgot its forward."""

    class Empty(Term):
        name = "empty"

    with pytest.raises(NotImplementedError, match="The term 'empty' implements no forward"):
        Empty()(StepOutput(torch.zeros(1, 2)), None, {})


def test_a_teachers_features_equal_its_own_layers():
    """Prevents: features of another image size or of a training mode, or taps that stay after they were replaced."""
    teacher = TeacherReference(build("resnet", seed=1))
    teacher.setup(build("vit"), None)
    teacher.tap(["resnet.encoder.stages.0"])
    teacher.tap(["resnet.encoder.stages.1"])
    pixels = images(2)
    features = teacher({"pixel_values": pixels}, with_maps=False).features
    expected = teacher.model.resnet(pixels).last_hidden_state
    assert list(features) == ["resnet.encoder.stages.1"]
    torch.testing.assert_close(features["resnet.encoder.stages.1"], expected.movedim(1, -1))
    assert not teacher.model.resnet.encoder.stages[0]._forward_hooks


def test_feature_maps_with_channels_last():
    """Prevents: timm's Swin read as channels first where it has as many channels as rows and columns."""
    model = timm.create_model("swin_tiny_patch4_window7_224", img_size=32, patch_size=2, embed_dim=16, depths=(1, 1))
    reader = Taps(model.eval(), ["layers.0"])
    reader.start()
    with torch.no_grad():
        model(images(1, 32))
    expected = model.layers[0](model.patch_embed(images(1, 32)))
    found = reader.stop({"pixel_values": images(1, 32)})["layers.0"]
    assert found.shape == (1, 16, 16, 16)
    torch.testing.assert_close(found, expected)


def test_a_model_with_taps_is_copied_and_pickled_whole():
    """Prevents: a copy whose hooks write into the original's features, and a student that isn't pickled."""
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3))
    model.taps = Taps(model, ["0"])
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        other.taps.start()
        other(images(1, 8))
        assert not model.taps.outputs
        assert other.taps.stop({"pixel_values": images(1, 8)})["0"].shape == (1, 6, 6, 4)


def test_pooled_features_have_no_places():
    """Prevents: an IndexError at the first step, far from the layer that was named."""
    term = AttentionTransfer(layers={"a": "x"})
    term.taps, term.reference_taps = ("a",), ("x",)
    output = StepOutput(torch.zeros(2, 3), features={"a": torch.randn(2, 6)})
    reference_output = ReferenceOutput(torch.zeros(2).long(), features={"x": torch.randn(2, 6)})
    with pytest.raises(ValueError, match="layer 'a' has none: its output is pooled.*'hint'"):
        term.setup(output, reference_output, {}, None)
