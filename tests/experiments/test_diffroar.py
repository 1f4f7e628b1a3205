"""DiffROAR: masks by hand, a model whose gradient is right and one whose gradient is wrong, runs shared and resumed."""

import json
from dataclasses import replace
from threading import Thread

import pytest
import torch
from torch import nn

from hf_e2kd.experiments.diffroar import LabelledImages, diffroar, mask_ranked, rank_by_gradient, rank_pixels, summarise
from hf_e2kd.experiments.shared_runs import share_runs
from tests.training import arguments

FILL = torch.tensor([10.0, 20.0])[:, None, None]


def test_pixels_are_ranked_by_the_sum_over_their_colours():
    """Magnitudes summed over two colours: 3, 5, 2, 4; each colour by itself: 1, −5, 2, 0 and −2, 0, 0, 4."""
    attributions = torch.tensor([[[[1.0, -5.0], [2.0, 0.0]], [[-2.0, 0.0], [0.0, 4.0]]]])
    assert rank_pixels(attributions).tolist() == [[[[1, 3], [0, 2]]]]
    images = torch.arange(8.0).reshape(1, 2, 2, 2)
    top = mask_ranked(images, rank_pixels(attributions), 0.5, "top", FILL)
    assert top.tolist() == [[[[0, 10], [2, 10]], [[4, 20], [6, 20]]]]
    bottom = mask_ranked(images, rank_pixels(attributions), 0.25, "bottom", FILL)
    assert bottom.tolist() == [[[[0, 1], [10, 3]], [[4, 5], [20, 7]]]]
    alone = mask_ranked(images, rank_pixels(attributions, per_element=True), 2 / 8, "top", FILL)
    assert alone.tolist() == [[[[0, 10], [2, 3]], [[4, 5], [6, 20]]]]


def test_what_is_masked_first_and_last_together_is_everything():
    ranks = rank_pixels(torch.randn(3, 2, 4, 5))
    assert ranks.flatten(1).sort().values.tolist() == [list(range(20))] * 3
    images = torch.zeros(3, 2, 4, 5)
    both = sum(mask_ranked(images, ranks, share, part, FILL / FILL) for share, part in ((0.3, "top"), (0.7, "bottom")))
    assert torch.equal(both, torch.ones_like(images))


def test_equal_attributions_are_not_ranked_by_their_place():
    """Prevents: an all-zero map whose upper half is masked first in every image."""
    ranks = rank_pixels(torch.zeros(1, 1, 16, 16)).flatten().float()
    assert abs(torch.corrcoef(torch.stack([ranks, torch.arange(256.0)]))[0, 1]) < 0.2


class Linear(nn.Module):
    """A classifier that reads pixels through one matrix."""

    main_input_name = "pixel_values"

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(16, 2)

    def forward(self, pixel_values, labels=None):
        return {"logits": self.layer(pixel_values.flatten(1))}


def one_pixel_tells(count, seed):
    """Images of noise, whose pixel 5 has the class's sign."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    pixels = 0.1 * torch.randn(count, 16, generator=generator)
    pixels[:, 5] = labels * 2.0 - 1
    return LabelledImages(pixels.reshape(count, 1, 4, 4), labels)


def reading(pixel):
    """A model whose logits' gradient is the largest at that pixel."""
    model = Linear()
    with torch.no_grad():
        model.layer.bias.zero_()
        model.layer.weight.fill_(1e-3)
        model.layer.weight[:, pixel] = torch.tensor([-1.0, 1.0])
    return model


@pytest.fixture
def measure(tmp_path):
    def run(model, folder="runs", training=None, data=None, **options):
        settings = {"learning_rate": 0.5, "per_device_train_batch_size": 32, "max_steps": 20, **(training or {})}
        args = arguments(tmp_path, **settings)
        options = {"fractions": [0.25, 0.5], "seeds": [0, 1], **options}
        data = data or (one_pixel_tells(64, 0), one_pixel_tells(40, 1))
        return diffroar(model, Linear, *data, None, args, tmp_path / folder, **options)

    return run


def test_a_right_gradient_scores_and_a_wrong_one_does_not(measure):
    """A model that reads the one pixel: masked first, nothing is left to learn. One that reads another: its own pixel
    is masked first, and the telling one is among those masked last at random."""
    right = measure(reading(5))
    for fraction in ("0.25", "0.5"):
        assert right["fractions"][fraction]["bottom"] == 1.0
        assert right["fractions"][fraction]["top"] < 0.75
    assert right["diffroar"] == pytest.approx(
        sum(each["diffroar"] for each in right["fractions"].values()) / 2, abs=1e-9
    )
    assert len(right["runs"]) == 8
    assert {(run["masked"], run["fraction"], run["seed"]) for run in right["runs"]} == {
        (part, fraction, seed) for part in ("top", "bottom") for fraction in (0.25, 0.5) for seed in (0, 1)
    }
    wrong = measure(reading(6), "wrong", fractions=[1 / 16], seeds=[0])
    assert wrong["fractions"]["0.0625"]["top"] == 1.0


def test_the_gradient_is_that_of_the_models_own_class():
    """Prevents: the true labels of test images in their masks."""
    images = one_pixel_tells(6, 0)
    other = LabelledImages(images.pixel_values, 1 - images.labels)
    model = Linear().train()
    assert torch.equal(rank_by_gradient(model, images, batch_size=4), rank_by_gradient(model, other))
    assert model.training


def test_summary_by_hand():
    found = summarise(
        {
            **{("bottom", 0.1, 0): 0.9, ("top", 0.1, 0): 0.5, ("bottom", 0.1, 1): 0.8, ("top", 0.1, 1): 0.6},
            **{("bottom", 0.5, 0): 0.7, ("top", 0.5, 0): 0.7, ("bottom", 0.5, 1): 0.6, ("top", 0.5, 1): 0.4},
        }
    )
    # Differences .4, .2, 0, .2; the seeds' means .2 and .2.
    assert (found["diffroar"], found["std"]) == (pytest.approx(0.2), pytest.approx(0, abs=1e-12))
    assert found["fractions"]["0.1"] == pytest.approx({"bottom": 0.85, "top": 0.55, "diffroar": 0.3})


def test_an_interrupted_command_goes_on(measure, tmp_path, monkeypatch):
    """Prevents: runs that are done again, or that are taken for those of another model."""
    first = measure(reading(5), fractions=[0.5], seeds=[0])
    kept = tmp_path / "runs" / "top-0.5-seed0.json"
    kept.write_text(kept.read_text().replace(str(first["fractions"]["0.5"]["top"]), "0.125"))
    more = measure(reading(5), fractions=[0.5], seeds=[0, 1])
    assert [run["accuracy"] for run in more["runs"] if (run["masked"], run["seed"]) == ("top", 0)] == [0.125]
    with pytest.raises(ValueError, match="another model, other data or other arguments. Choose another folder"):
        measure(reading(6), fractions=[0.5], seeds=[0])
    for training in ({"label_smoothing_factor": 0.1}, {"optim_args": "betas=0.5"}, {"weight_decay": 0.1}):
        with pytest.raises(ValueError, match="another model, other data or other arguments"):
            measure(reading(5), training=training, fractions=[0.5], seeds=[0])
    kept.write_text("{")
    with pytest.raises(ValueError, match="top-0.5-seed0.json' is no result of a run"):
        measure(reading(5), fractions=[0.5], seeds=[0])


def test_a_part_of_a_data_set_is_measured(measure):
    """Prevents: an error on labels that are a view, such as every other one of a tensor."""
    whole = one_pixel_tells(64, 0)
    part = LabelledImages(whole.pixel_values[1::3], whole.labels[1::3])
    assert not part.labels.is_contiguous()
    found = measure(reading(5), data=(part, part), fractions=[0.5], seeds=[0])
    assert found["fractions"]["0.5"]["bottom"] == 1.0


def test_runs_are_shared_and_each_done_once(tmp_path):
    """Two that share a folder, each with locks of its own, as processes have them; a failed run is left to others."""
    done: list[str] = []
    names = [f"run.{number}" for number in range(6)]

    def work(found):
        found.update(share_runs(tmp_path, names, "key", lambda name: done.append(name) or {"name": name}))

    results = [{}, {}]
    threads = [Thread(target=work, args=(found,)) for found in results]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == names and results[0] == results[1] == {name: {"name": name} for name in names}
    assert json.loads((tmp_path / "run.3.json").read_text()) == {"key": "key", "result": {"name": "run.3"}}

    def fail(name):
        raise RuntimeError(name)

    with pytest.raises(RuntimeError, match="another"):
        share_runs(tmp_path, ["another"], "key", fail)
    assert share_runs(tmp_path, ["another"], "key", lambda name: {"ok": True}) == {"another": {"ok": True}}


@pytest.mark.parametrize("fraction", [0, 1, -0.5, 0.01, 0.99, float("nan")])
def test_fractions_that_mask_nothing_or_everything(fraction):
    images = torch.rand(1, 1, 4, 4)
    with pytest.raises(ValueError, match="at least one pixel is masked and at least one stays"):
        mask_ranked(images, rank_pixels(images), fraction, "top", torch.zeros(1, 1, 1))


def test_bad_inputs(measure):
    images = torch.rand(2, 1, 4, 4)
    with pytest.raises(ValueError, match=r"samples \[1\] hold NaN"):
        rank_pixels(torch.stack([images[0], torch.full((1, 4, 4), torch.nan)]))
    with pytest.raises(ValueError, match=r"axes \(B, C, H, W\)"):
        rank_pixels(images[:, 0])
    with pytest.raises(ValueError, match="Choose from: top, bottom"):
        mask_ranked(images, rank_pixels(images), 0.5, "middle", torch.zeros(1, 1, 1))
    with pytest.raises(ValueError, match=r"The ranks are of shape \(1, 1, 4, 4\)"):
        mask_ranked(images, rank_pixels(images[:1]), 0.5, "top", torch.zeros(1, 1, 1))
    for options, message in (
        ({"fractions": [0.5, 1.0]}, r"fractions holds \[1.0\]. Give numbers between 0 and 1"),
        ({"fractions": []}, r"fractions is \[\]"),
        ({"seeds": [0, 0]}, r"seeds is \[0, 0\]. Give at least one, and each once"),
    ):
        with pytest.raises(ValueError, match=message):
            measure(reading(5), **options)
    train, test = one_pixel_tells(8, 0), one_pixel_tells(8, 1)
    # Training leaves −100 out; an accuracy that counts it as wrong is too low.
    for labels in (test.labels.index_fill(0, torch.tensor(2), -100), torch.eye(2)[test.labels]):
        with pytest.raises(ValueError, match="images with one class each.*Leave out images without a label"):
            measure(reading(5), data=(train, replace(test, labels=labels)))
