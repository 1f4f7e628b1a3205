"""Network dissection against a slow one in NumPy, on a model with planted detectors."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from transformers import ViTImageProcessor

from hf_e2kd.data import LabelledImages
from hf_e2kd.fidelity import Dissection, network_dissection
from hf_e2kd.fidelity.interpretability.concept_samples import ConceptSamples
from hf_e2kd.fidelity.interpretability.dissection_figure import detector_figure
from hf_e2kd.fidelity.interpretability.dissection_state import STATE_FILE
from tests.models import IMAGE_SIZE, build

SIDE, COUNT = 16, 30
NAMES = ["nothing", "red square", "blue square"]
PROCESSOR = ViTImageProcessor(size={"height": SIDE, "width": SIDE}, do_normalize=False)


class Planted(nn.Module):
    """Units that see red, blue, nothing, blue too and noise; a second layer mixes them."""

    def __init__(self):
        super().__init__()
        self.features, self.mixed = nn.Identity(), nn.Identity()
        self.weight = nn.Parameter(torch.randn(3, 5, generator=torch.Generator().manual_seed(0)))

    def forward(self, pixel_values):
        red, green, blue = F.avg_pool2d(pixel_values, 4).unbind(dim=1)
        noise = torch.sin(9 * (red + green + blue))
        units = self.features(torch.stack([red - blue, blue - red, 0 * red, blue - green, noise], dim=1))
        mixed = self.mixed(torch.einsum("ku,buhw->bkhw", self.weight, units))
        return {"logits": mixed.mean(dim=(2, 3))}


def planted_rows() -> list[dict]:
    """Images with a red or a blue square or none, each with a mark on it now and then, in three scenes."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(COUNT):
        pixels = rng.integers(60, 100, (SIDE, SIDE, 3), dtype=np.uint8)
        mask, part = np.zeros((SIDE, SIDE), np.uint8), np.zeros((SIDE, SIDE), np.uint8)
        top, left = rng.integers(0, SIDE - 6, 2)
        if number % 3:
            pixels[top : top + 6, left : left + 6, 0 if number % 3 == 1 else 2] = rng.integers(200, 255)
            mask[top : top + 6, left : left + 6] = number % 3
        if number % 4 == 0:
            part[top : top + 3, left : left + 3] = 1
        rows.append({"image": Image.fromarray(pixels), "mask": mask, "part": part, "scene": number % 3})
    return rows


def planted(rows: list[dict] | None = None) -> LabelledImages:
    columns = {
        "object": ("mask", NAMES),
        "part": ("part", {1: "mark", 2: "unseen"}),
        "scene": ("scene", {1: "hall", 2: "yard"}),
    }
    return LabelledImages(planted_rows() if rows is None else rows, columns)


CONCEPTS = [
    ("red square", "object"),
    ("blue square", "object"),
    ("mark", "part"),
    ("unseen", "part"),
    ("hall", "scene"),
    ("yard", "scene"),
]


def slow_dissection(rows: list[dict], activations: np.ndarray, quantile: float, tally: str):
    """Thresholds (U,), and IoUs (U, concepts), pixel by pixel: activations (N, U, 4, 4), labels 8×8."""
    size, units = SIDE // 2, activations.shape[1]
    thresholds = np.quantile(activations.transpose(1, 0, 2, 3).reshape(units, -1), quantile, 1, method="inverted_cdf")
    places = np.maximum((np.arange(size) + 0.5) * 4 / size - 0.5, 0)
    low = np.floor(places).astype(int)
    matrix = np.zeros((size, 4))
    for pixel in range(size):
        matrix[pixel, low[pixel]] += 1 - (places[pixel] - low[pixel])
        matrix[pixel, min(low[pixel] + 1, 3)] += places[pixel] - low[pixel]
    ious = np.zeros((units, len(CONCEPTS)))
    for unit in range(units):
        for number, (_, category) in enumerate(CONCEPTS):
            both = union = 0
            for row, maps in zip(rows, activations[:, unit], strict=True):
                concepts = {name: np.zeros((size, size), bool) for name in CONCEPTS}
                concepts[CONCEPTS[0]] = row["mask"][1::2, 1::2] == 1
                concepts[CONCEPTS[1]] = row["mask"][1::2, 1::2] == 2
                concepts[CONCEPTS[2]] = row["part"][1::2, 1::2] == 1
                concepts[CONCEPTS[4]][:] = row["scene"] == 1
                concepts[CONCEPTS[5]][:] = row["scene"] == 2
                region = matrix @ maps.astype(np.float64) @ matrix.T > thresholds[unit]
                of_category = np.any([mask for (_, own), mask in concepts.items() if own == category], axis=0)
                counts = (of_category & region).any() if tally == "official" else of_category.any()
                mask = concepts[CONCEPTS[number]]
                both += (region & mask).sum()
                union += mask.sum() + (region & ~mask).sum() * counts
            ious[unit, number] = both / union if union else 0
    return thresholds, ious


@pytest.fixture(scope="module")
def activations() -> dict[str, np.ndarray]:
    pixels = [np.asarray(row["image"]).transpose(2, 0, 1) / np.float32(255) for row in planted_rows()]
    found, model = {}, Planted()
    for path in ("features", "mixed"):
        hook = model.get_submodule(path).register_forward_hook(lambda *args, path=path: found.update({path: args[2]}))
        with torch.no_grad():
            model(torch.from_numpy(np.stack(pixels)))
        hook.remove()
    return {path: value.numpy() for path, value in found.items()}


@pytest.mark.parametrize("tally", ["category", "official"])
def test_equal_to_a_slow_one(activations, tally):
    """Maps enlarged otherwise, labels shifted, sums over the wrong images; layers or quantiles mixed up."""
    found = network_dissection(
        Planted(),
        ["features", "mixed"],
        planted(),
        processing_class=PROCESSOR,
        quantile=[0.9, 0.97],
        tally=tally,
        batch_size=7,
    )
    assert [(layer.layer, layer.quantile) for layer in found.layers] == [
        *(("features", 0.9), ("features", 0.97), ("mixed", 0.9), ("mixed", 0.97))
    ]
    assert (found.tally, found.images, found.concepts, found.unseen) == (tally, COUNT, 6, ["unseen"])
    for layer in found.layers:
        thresholds, ious = slow_dissection(planted_rows(), activations[layer.layer], layer.quantile, tally)
        ordered = np.sort(ious, axis=1)[:, ::-1]
        np.testing.assert_allclose([unit.threshold for unit in layer.units], thresholds, atol=1e-6)
        np.testing.assert_allclose([unit.iou for unit in layer.units], ordered[:, 0], atol=1e-12)
        np.testing.assert_allclose([unit.second_iou for unit in layer.units], ordered[:, 1], atol=1e-12)
        for unit, own in zip(layer.units, ious, strict=True):
            assert (unit.concept, unit.category) == (CONCEPTS[own.argmax()] if own.any() else (None, None))
        detectors = ious.max(axis=1) > 0.05
        assert layer.counts().total == detectors.sum()
        assert layer.counts().unique == len(set(ious.argmax(axis=1)[detectors]))
        assert layer.counts(0.2).single == ((ious > 0.2).sum(axis=1) == 1).sum()
        largest = activations[layer.layer].max(axis=(2, 3))
        for number, unit in enumerate(layer.units):
            if not unit.dead:
                np.testing.assert_array_equal(unit.top_images, (-largest[:, number]).argsort()[:4])


def test_planted_detectors_are_found():
    """Detectors that are missed, and dead units that pass for one."""
    model = Planted().train()
    found = network_dissection(model, "features", planted(), processing_class=PROCESSOR, quantile=0.95)
    units = found.of().units
    assert [unit.concept for unit in units][:4] == ["red square", "blue square", None, "blue square"]
    assert [unit.dead for unit in units] == [False, False, True, False, False]
    assert min(units[0].iou, units[1].iou) > 0.3
    counts = found.counts(0.3)
    assert (counts.total, counts.unique, counts.categories["object"]) == (3, 2, 3)
    assert found.of().best(3) == sorted((0, 1, 3), key=lambda unit: -units[unit].iou)
    assert model.training and not model.features._forward_hooks


@pytest.mark.parametrize(
    ("name", "layer", "grid", "units"),
    [
        ("vit", "vit.layers.1", (4, 4), 16),
        ("timm_vit", "blocks.1", (4, 4), 16),
        ("timm_swin", "layers.0", (16, 16), 8),
        ("resnet", "resnet.encoder.stages.1", (4, 4), 16),
        ("timm_resnet", "layer2", (4, 4), 8),
        ("wrapped_convnext", "timm_model.stages.3", (4, 4), 16),
    ],
)
def test_layouts_of_models(name, layer, grid, units):
    """Tokens read as units, class tokens read as places, and maps whose channels are last."""
    processor = ViTImageProcessor(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})
    model = build(name)
    found = network_dissection(model, layer, planted(), processing_class=processor, quantile=0.95).of()
    assert (found.grid, len(found.units), found.quantile_error) == (grid, units, 0)
    if name == "vit":
        samples = ConceptSamples(planted(), processor)
        pixel_values = torch.stack([samples[row].pixel_values for row in range(COUNT)])
        with torch.no_grad():
            tokens = model(pixel_values, output_hidden_states=True).hidden_states[2][:, 1:]
        expected = np.quantile(tokens.flatten(0, 1).numpy(), 0.95, axis=0, method="inverted_cdf")
        np.testing.assert_allclose([unit.threshold for unit in found.units], expected, rtol=1e-4, atol=1e-5)


class Interrupted(LabelledImages):
    """Images of which one can be read so many times before the power goes."""

    def __init__(self, reads: int):
        data = planted()
        self.__dict__.update(vars(data))
        self.reads = reads

    def image(self, row):
        self.reads -= 1
        if self.reads < 0:
            raise InterruptedError
        return super().image(row)


@pytest.mark.parametrize("reads", [3, 12, COUNT + 1, COUNT + 21])
def test_resumes_to_the_same_result(tmp_path, reads):
    """A run that is interrupted in either pass, and goes on with images left out or counted twice."""
    options = {
        **{"processing_class": PROCESSOR, "quantile": [0.9, 0.95], "batch_size": 4, "sketch_size": 64},
        **{"state_folder": tmp_path, "save_every": 8},
    }
    model = Planted()
    with pytest.raises(InterruptedError):
        network_dissection(model, ["features", "mixed"], Interrupted(reads), **options)
    assert (tmp_path / STATE_FILE).exists() == (reads > 8)
    again = Interrupted(2 * COUNT)
    found = network_dissection(model, ["features", "mixed"], again, **options)
    assert found == network_dissection(model, ["features", "mixed"], planted(), **{**options, "state_folder": None})
    assert (again.reads > 0) == (reads > 8)
    assert list(tmp_path.iterdir()) == []


def test_what_was_there_is_put_back(monkeypatch):
    """Hooks, a mode or gradients that stay changed where the counting fails, and random numbers that are used up."""
    model, state = Planted().train(), torch.random.get_rng_state()
    monkeypatch.setattr("hf_e2kd.fidelity.interpretability.dissection.tally_image", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError) as caught:
        dissect(model)
    assert model.training and not model.features._forward_hooks and torch.is_grad_enabled()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert caught.traceback  # which holds the frames of the loop


def test_compiled_models():
    """Prevents: layers that aren't found, or whose maps are never seen, of models wrapped by torch.compile."""
    found, expected = (dissect(model) for model in (torch.compile(Planted(), backend="eager"), Planted()))
    assert found == expected


def test_half_precision():
    """Images of another type than the model's."""
    found = dissect(build("resnet").bfloat16(), "resnet.encoder.stages.0")
    assert len(found.of().units) == 8


def test_state_of_another_run_is_refused(tmp_path):
    """A state that goes on with other weights."""
    options = {"processing_class": PROCESSOR, "quantile": 0.9, "state_folder": tmp_path, "save_every": 1}
    with pytest.raises(InterruptedError):
        network_dissection(Planted(), "features", Interrupted(COUNT + 1), **options)
    blurring = ViTImageProcessor(size={"height": SIDE, "width": SIDE}, do_normalize=False, resample=0)
    with pytest.raises(ValueError, match="the state of another dissection"):
        network_dissection(Planted(), "features", planted(), **{**options, "processing_class": blurring})
    other = Planted()
    nn.init.zeros_(other.weight)
    with pytest.raises(ValueError, match="the state of another dissection"):
        network_dissection(other, "features", planted(), **options)


def test_labels_follow_the_view():
    """Labels of the whole image beside a model that sees its middle, and labels at other resolutions."""
    processor = ViTImageProcessor(size={"height": 16, "width": 16}, do_normalize=False)
    processor.do_center_crop, processor.crop_size = True, {"height": 8, "width": 8}
    mask = np.zeros((16, 32), int)
    mask[6, 10] = 1
    row = {"image": Image.new("RGB", (32, 16)), "mask": mask, "part": np.zeros((8, 16), int), "scene": 0}
    sample = ConceptSamples(planted([row]), processor, (8, 16))[0]
    assert sample.pixel_values.shape == (3, 8, 8)
    (own,) = sample.members.view(1, 8, 16).nonzero()[:, 1:].tolist()
    assert own == [6 - 4, 10 - 8]
    coarse = planted([{**row, "mask": np.full((4, 8), 2), "part": mask * 0}])
    assert ConceptSamples(coarse, processor)[0].members.shape == (1, 4 * 4)
    assert ConceptSamples(coarse, processor)[0].members.all()


def test_concepts_in_several_layers_count_once():
    """A pixel of a concept in two planes, or in one and in the whole image, that counts twice."""
    row = planted_rows()[1]
    data = planted([row])
    twice = np.stack([data.labels(0).planes[0]] * 2)
    data.labels = lambda row: type(planted().labels(0))(twice, (1, 5, 5))
    sample = ConceptSamples(data, PROCESSOR)[0]
    assert sample.present.tolist() == [0, 4]
    assert sample.members.all()


def dissect(model=None, layers="features", data=None, **options) -> Dissection:
    options = {"processing_class": PROCESSOR, "quantile": 0.95, **options}
    model = Planted() if model is None else model
    return network_dissection(model, layers, data or planted(), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": "feature"}, "has no layer 'feature'. The nearest: features"),
        ({"layers": []}, "at least one layer"),
        ({"quantile": 1}, "between 0 and 1"),
        ({"quantile": [0.9, 0]}, "between 0 and 1"),
        ({"quantile": 0.9999}, "None of 480 values lies above"),
        ({"iou_threshold": 1}, "from 0 up to 1"),
        ({"tally": "paper"}, "Choose from: category, official"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"processing_class": None}, "No image processor lies beside this Planted"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    """A run that ends in nothing, or fails after hours."""
    with pytest.raises(ValueError, match=message):
        dissect(**options)


def test_layers_without_maps_are_refused():
    """Pooled features read as maps of one place."""
    processor = ViTImageProcessor(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})
    with pytest.raises(ValueError, match="'resnet.pooler' gives 16 numbers an image, without places"):
        dissect(build("resnet"), "resnet.pooler", processing_class=processor)


def test_activations_that_are_not_finite_are_refused():
    """Thresholds of NaN, above which nothing lies."""
    model = Planted()
    nn.init.constant_(model.weight, math.nan)
    with pytest.raises(ValueError, match="'mixed' is NaN or infinite"):
        dissect(model, ["features", "mixed"])


def test_labels_that_do_not_fit_are_refused():
    """Masks of another part of the image, and numbers that are no concept's."""
    row = planted_rows()[0]
    with pytest.raises(ValueError, match=r"masks of row 0 have 16×8 pixels, and their image 16×16"):
        dissect(data=planted([{**row, "mask": np.zeros((16, 8), int), "part": np.zeros((16, 8), int)}] * 3))
    data = planted()
    data.labels = lambda row: type(planted().labels(0))(np.full((1, 16, 16), 7))
    with pytest.raises(ValueError, match="labels of row 0 have the number 7, .* 1 to 6"):
        dissect(data=data)


def test_result_is_saved_and_loaded(tmp_path):
    """A file that loses something, or one that is none."""
    found = dissect(layers=["features", "mixed"])
    assert Dissection.load(found.save(tmp_path).parent) == found
    content = json.loads((tmp_path / "dissection.json").read_text(encoding="utf-8"))
    assert content["format"] == "hf_e2kd.dissection/1"
    for text, message in (
        ("{", "is no JSON"),
        ("[]", "no dissection of the format"),
        ('{"format": "other"}', "'other'"),
        (json.dumps({**content, "more": 1}), "one too many"),
        (json.dumps({"format": content["format"]}), "lacks a part"),
    ):
        (tmp_path / "dissection.json").write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            Dissection.load(tmp_path)
    with pytest.raises(ValueError, match=r"2 results .* layer 'features', quantile 0.95; layer 'mixed'"):
        found.of()
    with pytest.raises(ValueError, match="0 results"):
        found.counts(layer="features", quantile=0.5)


def test_figure(tmp_path):
    """Rows of other units, images that aren't the strongest, and outlines of nothing."""
    found = dissect()
    figure = detector_figure(
        Planted(), planted(), found.of(), processing_class=PROCESSOR, units=2, columns=3, path=tmp_path / "f.png"
    )
    assert (tmp_path / "f.png").stat().st_size > 1000
    assert len(figure.axes) == 6
    best = found.of().best(2)
    assert figure.axes[0].get_ylabel().startswith(f"unit {best[0]}\n{found.of().units[best[0]].concept}\n")
    shown = planted_rows()[found.of().units[best[0]].top_images[0]]["image"]
    drawn = np.asarray(figure.axes[0].images[0].get_array())
    strength = drawn / np.maximum(np.asarray(shown) / 255, 1e-6)
    assert set(np.unique(strength.round(3))) == {0.45, 1.0}
    with pytest.raises(ValueError, match=r"nothing to draw of the units \[9\]"):
        detector_figure(Planted(), planted(), found.of(), processing_class=PROCESSOR, units=[9])
