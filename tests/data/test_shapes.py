"""The synthesised shapes: the same pixels each time, a truth that is what the classes differ in."""

import numpy as np
import pytest

from hf_e2kd.data import synthesised_shapes
from hf_e2kd.data.shapes import BACKGROUNDS, CLASSES, EMPTY, draw_shape


def pixels(split, column):
    return np.stack([np.asarray(image) for image in split[column]])


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    return synthesised_shapes({"train": 30, "test": 20}, image_size=64, seed=1, cache_dir=tmp_path_factory.mktemp("a"))


def test_columns_and_classes(splits):
    train = splits["train"]
    assert {name: len(split) for name, split in splits.items()} == {"train": 30, "test": 20}
    assert train["label"][:] == [*range(10)] * 3
    assert train.features["label"].names == list(CLASSES)
    assert pixels(train, "image").shape == (30, 64, 64, 3)
    truth = pixels(train, "truth")
    assert truth.shape == (30, 64, 64)
    for label, values in zip(train["label"], truth, strict=True):
        assert set(values.flat) == ({0} if label == EMPTY else {0, 1, 2})
    assert set(train["background"]) == set(range(len(BACKGROUNDS)))


def test_the_same_arguments_give_the_same_pixels(splits, tmp_path):
    """Prevents: pixels that depend on the number of images, of processes, or on the other split."""
    few = synthesised_shapes({"train": 12, "test": 0}, image_size=64, seed=1, num_proc=2, cache_dir=tmp_path)
    assert list(few) == ["train"]
    for column in ("image", "truth"):
        assert np.array_equal(pixels(few["train"], column), pixels(splits["train"], column)[:12])
    other = synthesised_shapes({"train": 12, "test": 0}, image_size=64, seed=2, cache_dir=tmp_path)
    assert not np.array_equal(pixels(other["train"], "truth"), pixels(few["train"], "truth"))
    assert not np.array_equal(pixels(splits["train"], "truth")[:20], pixels(splits["test"], "truth"))


@pytest.mark.parametrize("label", range(EMPTY))
def test_an_image_of_another_size_shows_the_same(label):
    """Prevents: a border of as many pixels in a small image as in a large one."""
    for row in range(5):
        small, large = (draw_shape(label, size, np.random.default_rng([label, row]))[1] for size in (64, 192))
        # The middle pixel of each 3×3 lies where the small image's pixel lies.
        assert np.array_equal(large[1::3, 1::3], small)


def test_the_family_shares_its_object_and_the_truth_is_the_difference():
    """Rings drawn alike, with a bar and with a cross, differ in the pixels that the truth calls discriminative."""
    drawn = {label: draw_shape(label, 128, np.random.default_rng(5)) for label in (0, 1, 2)}
    ring, bar, cross = (drawn[label][1] for label in (0, 1, 2))
    assert np.array_equal(ring > 0, bar > 0) and np.array_equal(bar > 0, cross > 0)
    assert np.array_equal((drawn[0][0] != drawn[1][0]).any(2), bar == 2)
    assert np.array_equal((drawn[0][0] != drawn[2][0]).any(2), cross == 2)
    assert (cross == 2)[bar == 2].all() and (cross == 2).sum() > (bar == 2).sum()


def test_borders_have_the_class_colour():
    for channel, label in enumerate((3, 4, 5)):
        image, truth, _ = draw_shape(label, 128, np.random.default_rng(3))
        assert image[truth == 2].mean(0).argmax() == channel


def test_more_tails_cover_more():
    sizes = [(draw_shape(label, 256, np.random.default_rng(0))[1] == 2).sum() for label in (6, 7, 8)]
    assert sizes[0] < sizes[1] < sizes[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sizes": {"valid": 3}}, "Valid splits: .*train.*test"),
        ({"sizes": {"train": -1}}, "at least 0"),
        ({"image_size": 8}, "image_size is 8"),
        ({"seed": 0.5}, "seed is 0.5. Give a whole number"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        synthesised_shapes(**arguments)
