"""The embedded data set: the same pixels each time, no scan on both sides, the correlation that was asked for."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from hf_e2kd.data import digits_on_textures
from hf_e2kd.data.digits import SIZES, draw_backgrounds, enlarge, gratings

SMALL = {"teacher_train": 60, "student_train": 50, "validation": 40, "test_id": 30, "test_ood": 30}


@pytest.fixture(scope="module")
def splits():
    return digits_on_textures(SMALL, correlation=0.9, seed=3)


def pixels(split, column="image"):
    return np.stack([np.asarray(image) for image in split[column]])


def test_columns_and_shapes(splits):
    assert {name: len(split) for name, split in splits.items()} == SMALL
    split = splits["student_train"]
    assert split.features["label"].names == [f"digit {digit}" for digit in range(10)]
    assert pixels(split).shape == (50, 32, 32, 3)
    assert pixels(split, "mask").shape == (50, 32, 32)
    assert set(np.unique(pixels(split, "mask"))) == {0, 255}


def test_labels_are_those_of_the_scans(splits):
    digits = load_digits(return_X_y=True)[1]
    for split in splits.values():
        assert split["label"] == digits[np.array(split["scan"])].tolist()


def test_same_seed_gives_the_same_pixels(splits):
    again = digits_on_textures(SMALL, correlation=0.9, seed=3)
    other = digits_on_textures(SMALL, correlation=0.9, seed=4)
    for name, split in splits.items():
        assert np.array_equal(pixels(split), pixels(again[name]))
        assert not np.array_equal(pixels(split), pixels(other[name]))


def test_a_split_does_not_depend_on_the_others_sizes(splits):
    """Otherwise a user who wants fewer test images would train on other ones."""
    alone = digits_on_textures({**dict.fromkeys(SIZES, 0), "student_train": 50}, correlation=0.9, seed=3)
    assert list(alone) == ["student_train"]
    assert np.array_equal(pixels(alone["student_train"]), pixels(splits["student_train"]))


def test_no_scan_serves_two_of_training_validation_and_test():
    splits = digits_on_textures({name: 1500 for name in SIZES})
    train, validation, test = (set(splits[name]["scan"]) for name in ("teacher_train", "validation", "test_id"))
    assert not train & validation and not train & test and not validation & test
    assert len(train | validation | test) == len(load_digits(return_X_y=True)[1])
    assert set(splits["student_train"]["scan"]) == train


def test_the_two_test_splits_differ_in_the_background_alone(splits):
    inside, outside = splits["test_id"], splits["test_ood"]
    assert inside["scan"] == outside["scan"]
    assert np.array_equal(pixels(inside, "mask"), pixels(outside, "mask"))
    assert inside["background"] != outside["background"]


@pytest.mark.parametrize("correlation", [0.0, 0.7, 1.0])
def test_the_background_predicts_the_class_as_often_as_asked(correlation):
    labels = np.arange(20_000) % 10
    own = draw_backgrounds(labels, correlation, 10, np.random.default_rng(0)) == labels
    assert own.mean() == pytest.approx(correlation + (1 - correlation) / 10, abs=0.01)


def test_only_the_students_splits_are_correlated():
    splits = digits_on_textures({name: 1000 for name in SIZES}, correlation=0.8)
    for name, split in splits.items():
        own = np.mean(np.array(split["background"]) == np.array(split["label"]))
        expected = 0.82 if name in {"student_train", "validation", "test_id"} else 0.1
        assert own == pytest.approx(expected, abs=0.05), name


def test_student_scans_are_some_of_the_teachers():
    splits = digits_on_textures({**SMALL, "teacher_train": 1168, "student_train": 200}, student_scans=50)
    used = set(splits["student_train"]["scan"])
    assert len(used) == 50
    assert used < set(splits["teacher_train"]["scan"])


def test_the_mask_is_the_digit_and_nothing_else():
    """On a black background without noise every bright pixel is the digit's."""
    split = digits_on_textures({**dict.fromkeys(SIZES, 0), "test_ood": 40}, contrast=0, noise=0)["test_ood"]
    brightness = pixels(split).max(-1) / 255
    mask = pixels(split, "mask") > 0
    assert brightness[mask].min() > 0.3 * 0.7
    # The colour's brightest channel is at most 1, so nothing outside is above the mask's threshold.
    assert brightness[~mask].max() <= 0.3 + 1 / 255
    assert np.all(mask.any((1, 2))) and mask.mean() < 0.5


def test_stripes_run_in_the_orientation_of_the_class():
    """The strongest frequency of each texture has the class's angle."""
    classes = np.arange(10).repeat(5)
    textures = gratings(classes, 10, 64, 1.0, (4, 8), np.random.default_rng(0)).mean(-1)
    spectrum = np.abs(np.fft.fft2(textures - textures.mean((1, 2), keepdims=True)))
    row, column = np.unravel_index(spectrum.reshape(50, -1).argmax(1), (64, 64))
    angle = np.arctan2(np.fft.fftfreq(64)[row], np.fft.fftfreq(64)[column]) % np.pi
    off = (angle - classes * np.pi / 10 + np.pi / 2) % np.pi - np.pi / 2
    assert np.abs(off).max() < np.pi / 20


def test_the_digit_stays_within_its_shift_of_the_middle():
    sizes = {**dict.fromkeys(SIZES, 0), "validation": 200}
    near = pixels(digits_on_textures(sizes, shift=2)["validation"], "mask").any(0)
    # 20 of 32 pixels leave 6 on each side, and a shift of 2 leaves 4.
    assert not near[:4].any() and not near[-4:].any() and not near[:, :4].any() and not near[:, -4:].any()
    middle = digits_on_textures({**sizes, "validation": 3}, shift=0)["validation"]
    assert len(middle) == 3
    anywhere = pixels(digits_on_textures(sizes)["validation"], "mask").any(0)
    assert anywhere[:4].any() and anywhere[-4:].any()


def test_enlarge_keeps_a_constant_and_equals_bilinear_interpolation():
    torch = pytest.importorskip("torch")
    scans = np.random.default_rng(0).random((3, 8, 8))
    expected = torch.nn.functional.interpolate(torch.tensor(scans)[None], size=(20, 20), mode="bilinear")[0]
    assert np.allclose(enlarge(scans, 20), expected.numpy())
    assert np.allclose(enlarge(np.ones((1, 8, 8)), 13), 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sizes": {"train": 10}}, "Valid splits.*student_train"),
        ({"sizes": {"validation": -1}}, r"sizes\['validation'\] is -1.*at least 0"),
        ({"sizes": {"validation": 2.5}}, "whole number"),
        ({"correlation": 1.5}, "correlation is 1.5.*from 0 to 1"),
        ({"correlation": float("nan")}, "correlation is nan"),
        ({"num_classes": 11}, "num_classes is 11.*from 2 to 10"),
        ({"student_scans": 0}, "student_scans is 0.*at least 1"),
        ({"student_scans": 5000}, "student_scans is 5000.*at most 1168"),
        ({"image_size": 4}, "image_size is 4"),
        ({"digit_size": 40}, "digit_size is 40.*from 8 to 32"),
        ({"shift": -1}, "shift is -1.*at least 0"),
        ({"contrast": -0.1}, "contrast is -0.1"),
        ({"wavelength": (8, 4)}, "wavelength is .*shortest and the longest"),
        ({"noise": -1}, "noise is -1"),
    ],
)
def test_bad_arguments_are_named_with_what_is_valid(arguments, message):
    with pytest.raises(ValueError, match=message):
        digits_on_textures(**arguments)
