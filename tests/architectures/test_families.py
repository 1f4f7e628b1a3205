"""Every family: the explained pass is the model's own, cut at the right layer, seen at the right places."""

import pytest
import timm
import torch

from hf_e2kd.architectures import available_architectures, call_model, find_architecture
from hf_e2kd.explainers import AttentionRollout, GradCAM
from hf_e2kd.explainers.explained_forward import install_explained_forward
from tests.gradients import check_gradient, explained_gradients, explained_loss, loss_of, relative_error
from tests.models import BUILDERS, CLASSES, TIMM, TIMM_SETTINGS, TRANSFORMERS, WRAPPED, build, images, randomise

TARGET = torch.tensor([3, 1])

# The module of a timm model whose output `forward_features` returns.
TIMM_FEATURES = {
    "vit_average": "norm",
    "siglip": "norm",
    "swin": "norm",
    "convnext": "norm_pre",
    "resnet": "layer4",
    "efficientnet": "bn2",
}

# The grid (h, w) that a family has on images of 32×48 pixels, and what its forward is given beside them.
GRIDS = {
    **{name: ((4, 6), {"interpolate_pos_encoding": True}) for name in ("vit", "deit", "deit_teacher")},
    **{name: ((4, 6), {"interpolate_pos_encoding": True}) for name in ("beit", "beit_token", "beit_shared")},
    "dinov2": ((4, 6), {}),
    "swin": ((8, 12), {"interpolate_pos_encoding": True}),
    **{name: ((4, 6), {}) for name in ("convnext", "convnextv2", "resnet", "regnet", "mobilenet")},
    "efficientnet": ((8, 12), {}),
    **{f"timm_{name}": ((4, 6), {}) for name in ("convnext", "resnet", "efficientnet")},
    **{f"wrapped_{name}": ((4, 6), {}) for name in ("convnext", "resnet", "efficientnet")},
}


def hooked(name, model):
    """An explainer that reads the family's own target layer by a hook, through the model's own forward."""
    path = find_architecture(model).target_path(model)
    if path == "forward_features":
        source, _, family = name.partition("_")
        path = ("timm_model." if source == "wrapped" else "") + TIMM_FEATURES[family]
    return GradCAM(target_layer=path)


# By tests/bcos, tests/xdistillation, and by the coverage table, whose test tries a Perceiver.
TESTED_ELSEWHERE = {
    *(f"Bcos{family}ForImageClassification" for family in ("DenseNet", "ResNet", "ViT")),
    *("ShuffleNetForImageClassification", "XResNetForImageClassification"),
    *("LeNetForImageClassification", "SmallResNetForImageClassification", "VGGForImageClassification"),
    *(f"PerceiverForImageClassification{kind}" for kind in ("ConvProcessing", "Fourier", "Learned")),
}


def test_every_registered_family_is_built():
    """Prevents: a family that is registered and never tested."""
    built = {type(build_()).__name__ for build_ in TRANSFORMERS.values()}
    assert built | TESTED_ELSEWHERE >= set(available_architectures())


@pytest.mark.parametrize("name", BUILDERS)
def test_explained_pass_equals_the_models_own(tiny, name):
    """Prevents: a head rebuilt from parts that leaves out a scale, a norm or a dropout, or cuts elsewhere."""
    model = tiny(name)
    inputs = {"pixel_values": images()}

    split = GradCAM()(model, inputs, TARGET)
    hook = hooked(name, model)(model, inputs, TARGET)

    with torch.no_grad():
        torch.testing.assert_close(split.logits, call_model(model, inputs), rtol=1e-5, atol=1e-5)
    assert split.maps.any()
    torch.testing.assert_close(split.maps, hook.maps, rtol=1e-4, atol=1e-5 * split.maps.max().item())
    assert torch.equal(split.target, TARGET)


@pytest.mark.parametrize("name", BUILDERS)
def test_gradients_reach_every_parameter(tiny, name):
    """Prevents: a gradient that is silently partial, missing before the target layer or after it."""
    model = tiny(name).double()
    inputs = {"pixel_values": images().double()}
    parameters = dict(model.named_parameters())

    loss, gradients = explained_gradients(model, GradCAM(), inputs, TARGET)
    _, by_hook = explained_gradients(model, hooked(name, model), inputs, TARGET)

    assert relative_error(gradients, by_hook) < 1e-9
    named = list(parameters)
    head = [key for key in named if any(part in key for part in ("classifier", "head", "fc.", "attn_pool"))]
    body = [key for key in named if key not in head]
    for part in (head, body):
        assert any(gradients[key].any() for key in part)
        part = {key: parameters[key] for key in part}
        check_gradient(explained_loss(model, GradCAM(), inputs, TARGET), part, tolerance=1e-4, groups=1)
    generator = torch.Generator().manual_seed(1)
    for key in named:
        if not gradients[key].any():
            before = parameters[key].detach().clone()
            with torch.no_grad():
                parameters[key].add_(0.1 * torch.randn(before.shape, generator=generator, dtype=torch.float64))
                changed = loss_of(GradCAM()(model, inputs, TARGET))
                parameters[key].copy_(before)
            assert changed.item() == pytest.approx(loss.item(), abs=1e-9), f"'{key}' gets no gradient"


@pytest.mark.parametrize("name", GRIDS)
def test_grid_of_an_oblong_image(tiny, name):
    """Prevents: height and width swapped, or a grid taken from the configuration's square image."""
    model = tiny(name)
    grid, extra = GRIDS[name]
    inputs = {"pixel_values": images(height=32, width=48), **extra}

    split = GradCAM()(model, inputs, TARGET)
    hook = hooked(name, model)(model, inputs, TARGET)

    assert split.maps.shape == (2, *grid)
    with torch.no_grad():
        torch.testing.assert_close(split.logits, call_model(model, inputs), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(split.maps, hook.maps, rtol=1e-4, atol=1e-5 * split.maps.max().item())


def build_oblong(name):
    """A timm model whose images' shape is fixed when it is built, for images of 32×48 pixels."""
    architecture, settings = TIMM_SETTINGS[name.removeprefix("timm_")]
    return timm.create_model(architecture, num_classes=CLASSES, **{**settings, "img_size": (32, 48)}).eval()


OBLONG = {
    "timm_vit": (4, 6),
    "timm_vit_average": (4, 6),
    "timm_deit_distilled": (4, 6),
    "timm_siglip": (4, 6),
    "timm_swin": (8, 12),
}


@pytest.mark.parametrize("name", OBLONG)
def test_grid_of_an_oblong_timm_model(name):
    """Prevents: the same, where timm fixes the image's shape when the model is built."""
    model = build_oblong(name)
    randomise(model)
    inputs = {"pixel_values": images(height=32, width=48)}

    explanation = GradCAM()(model, inputs, TARGET)

    assert explanation.maps.shape == (2, *OBLONG[name])
    torch.testing.assert_close(explanation.logits, model(inputs["pixel_values"]).detach(), rtol=1e-5, atol=1e-5)


# Left out: NCHW networks whose receptive field is the whole of so small an image.
@pytest.mark.parametrize(
    "name", [*OBLONG, *sorted(GRIDS.keys() - {"mobilenet", "timm_efficientnet", "wrapped_efficientnet"})]
)
def test_cells_lie_where_the_pixels_do(name):
    """Prevents: cells in the wrong order, which no comparison of one path with the other would show."""
    # Initial weights, with which attention mixes places least.
    (rows, columns), extra = GRIDS[name] if name in GRIDS else (OBLONG[name], {})
    model = BUILDERS[name]().eval() if name in GRIDS else build_oblong(name)
    plain = images(batch=1, height=32, width=48)
    marked = plain.clone()
    marked[..., :16, 24:] += images(batch=1, height=16, width=24, seed=1)
    split = find_architecture(model).split

    with torch.no_grad():
        cells = [
            part.grid.cells(part.activation)
            for part in (split(model, {"pixel_values": image, **extra}) for image in (plain, marked))
        ]
    difference = (cells[0] - cells[1]).square().sum(-1)[0]

    assert difference.shape == (rows, columns)
    assert difference[: rows // 2, columns // 2 :].sum() > 0.5 * difference.sum()


@pytest.mark.parametrize(("height", "width", "grid"), [(30, 26, (8, 7)), (33, 32, (9, 8))])
def test_swin_of_an_odd_size(tiny, height, width, grid):
    """Prevents: a grid rounded down where the model pads its patches up."""
    model = tiny("swin")
    inputs = {"pixel_values": images(height=height, width=width), "interpolate_pos_encoding": True}

    explanation = GradCAM()(model, inputs, TARGET)

    assert explanation.maps.shape == (2, *grid)
    with torch.no_grad():
        torch.testing.assert_close(explanation.logits, model(**inputs).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["vit", "beit_token", "dinov2", "swin", "resnet", "timm_vit", "wrapped_resnet"])
def test_training_pass_equals_the_models_own(tiny, name):
    """Prevents: dropout, stochastic depth or batch statistics missing from the explained pass of a student."""
    model = tiny(name).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if type(module).__name__.endswith("DropPath"):
            module.drop_prob = 0.0
    inputs = {"pixel_values": images()}
    own = call_model(model, inputs)

    explained = GradCAM()(model, inputs, TARGET, create_graph=True).logits

    torch.testing.assert_close(explained, own, rtol=1e-5, atol=1e-5)


def droppers(model):
    """What drops parts of the signal in training: (module or attention, name of its probability)."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            yield module, "p"
        elif type(module).__name__.endswith("DropPath"):
            yield module, "drop_prob"
        elif hasattr(module, "attention_dropout"):
            yield module, "attention_dropout"


def with_stochastic_depth(name, tiny):
    """A model of the family whose blocks all have their dropouts."""
    if name == "timm_vit":
        rates = {"drop_path_rate": 0.1, "proj_drop_rate": 0.1, "attn_drop_rate": 0.1, "drop_rate": 0.1}
        model = timm.create_model(TIMM_SETTINGS["vit"][0], num_classes=CLASSES, **TIMM_SETTINGS["vit"][1], **rates)
    elif name == "dinov2":
        model = tiny(name)
        model = type(model)(type(model.config)(**{**model.config.to_diff_dict(), "drop_path_rate": 0.1}))
    else:
        return tiny(name)
    randomise(model)
    return model


@pytest.mark.parametrize("name", ["vit", "deit", "deit_teacher", "beit_token", "dinov2", "mobilenet", "timm_vit"])
def test_every_dropout_acts_on_the_explained_pass(tiny, name):
    """Prevents: a student that is explained without one of its dropouts: certain to drop, each must show."""
    model = with_stochastic_depth(name, tiny).train()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    if hasattr(model, "set_attn_implementation"):
        model.set_attn_implementation("eager")
    inputs = {"pixel_values": images()}
    everything = list(droppers(model))
    assert everything
    for module, attribute in everything:
        setattr(module, attribute, 0.0)

    undropped = call_model(model, inputs).detach()
    changed = 0
    for module, attribute in everything:
        setattr(module, attribute, 1 - 1e-9 if attribute == "drop_prob" else 1.0)
        own = call_model(model, inputs).detach()
        torch.testing.assert_close(GradCAM()(model, inputs, TARGET).logits, own, rtol=1e-5, atol=1e-5)
        setattr(module, attribute, 0.0)
        changed += not torch.allclose(own, undropped)
    assert changed


@pytest.mark.parametrize("name", ["vit", "resnet", "dinov2", "beit", "timm_vit"])
def test_inputs_that_a_split_would_drop_are_refused(tiny, name):
    """Prevents: an input that the model's own forward would use and the explained one silently ignores."""
    inputs = {"pixel_values": images(), "bool_masked_pos": torch.ones(2, 16, dtype=torch.bool)}

    with pytest.raises(TypeError, match=r"not \['bool_masked_pos'\]"):
        GradCAM()(tiny(name), inputs, TARGET)


@pytest.mark.parametrize("name", ["vit", "dinov2", "beit_token", "swin", "resnet", "timm_vit", "wrapped_convnext"])
def test_half_precision_weights(tiny, name):
    """Prevents: a model loaded in bfloat16 that can't be explained, or whose map has its few digits."""
    model = tiny(name).bfloat16()

    explanation = GradCAM()(model, {"pixel_values": images().bfloat16()}, TARGET)

    assert explanation.maps.dtype == torch.float32
    assert explanation.maps.isfinite().all()


@pytest.mark.parametrize("explainer", [GradCAM(), GradCAM("timm_model.norm"), AttentionRollout(), None])
def test_patches_that_are_left_out_in_training_are_refused(explainer):
    """Prevents: a random quarter of the patches, in random order, laid out as a grid of half as many rows."""
    model, inputs = build("wrapped_vit_average", patch_drop_rate=0.75), {"pixel_values": images()}
    install_explained_forward(model, explainer, taps=["timm_model.blocks.0"] if explainer is None else [])
    asked = {"with_features": True} if explainer is None else {"explain_target": TARGET}

    assert model(**inputs, **asked).logits.shape == (2, CLASSES)
    with pytest.raises(ValueError, match="leaves out 75% of its patches at random.*patch_drop_rate=0"):
        model.train()(**inputs, **asked)


def test_families_are_named_once():
    """Prevents: two builders under one name, so that one family isn't tested."""
    assert len(BUILDERS) == len(TRANSFORMERS) + len(TIMM) + len(WRAPPED)
