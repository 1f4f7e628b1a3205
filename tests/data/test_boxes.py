"""Boxes and classes between a data set and a guidance loss."""

import math

import numpy as np
import pytest
import torch

from hf_e2kd.data.boxes import (
    box_fault,
    choose_annotated,
    clip_box,
    dilate_boxes,
    pad_boxes,
)
from hf_e2kd.metrics import boxes_to_masks


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ([1, 2, 3, 4], (1, 2, 3, 4)),
        ([-5, -1, 3, 4], (0, 0, 3, 4)),
        ([1, 2, 99, 8.5], (1, 2, 10, 8)),
        ([-9, 2, -3, 4], (0, 2, 0, 4)),
        ([12, 9, 15, 10], (10, 8, 10, 8)),
    ],
)
def test_boxes_are_cut_to_the_image(box, expected):
    assert clip_box(box, width=10, height=8) == expected


@pytest.mark.parametrize(
    ("box", "fault"),
    [
        *(([1, 1, 1, 5], "has no area"), ([1, 5, 4, 5], "has no area"), ([4, 1, 2, 3], "has no area")),
        *(([0, math.nan, 1, 1], "isn't finite"), ([0, 0, math.inf, 1], "isn't finite"), ([1, 2, 3], "has 3 values")),
        ([0, 0, 1, 1], ""),
    ],
)
def test_faults_of_a_box(box, fault):
    """Prevents: a box that a message says to have no area where a coordinate is NaN or infinite."""
    assert box_fault(box) == fault


def test_dilation_is_per_side_of_the_boxs_own_size():
    """Prevents: margins of another box, of one side alone, or of padding, which has no size."""
    boxes = torch.tensor([[[40, 40, 60, 80], [5, 5, 95, 45], [-1, -1, -1, -1]]])
    assert dilate_boxes(boxes, 0.5).tolist() == [[[30, 20, 70, 100], [-40, -15, 140, 65], [-1] * 4]]
    assert dilate_boxes(boxes, 0).tolist() == boxes.tolist()


def test_dilated_boxes_stay_in_the_image():
    masks = boxes_to_masks(dilate_boxes(torch.tensor([[[1, 1, 3, 2]]]), 1.0), size=(2, 4))
    assert masks.int().tolist() == [[[1, 1, 1, 1], [1, 1, 1, 1]]]


@pytest.mark.parametrize("fraction", [-0.1, float("nan")])
def test_a_negative_dilation_is_refused(fraction):
    with pytest.raises(ValueError, match="fraction is .*Give 0 or more"):
        dilate_boxes(torch.tensor([[0, 0, 1, 1]]), fraction)


def test_padded_boxes_become_masks():
    padded = pad_boxes([[[0, 0, 1, 1]], [[1, 1, 3, 2], [2, 0, 3, 1]], []])

    assert padded.shape == (3, 2, 4)
    assert boxes_to_masks(padded, size=(2, 3)).int().tolist() == [
        [[1, 0, 0], [0, 0, 0]],
        [[0, 0, 1], [0, 1, 1]],
        [[0, 0, 0], [0, 0, 0]],
    ]


def test_padding_of_no_boxes_at_all():
    assert pad_boxes([[], []]).tolist() == [[[-1] * 4], [[-1] * 4]]


@pytest.mark.parametrize("count", [50, 1464])
def test_fractions_are_nested(count):
    """Prevents: a comparison of 1 % and 10 % that is one of other images, too."""
    chosen = {fraction: choose_annotated(count, fraction, seed=3) for fraction in (0.01, 0.1, 1.0)}

    assert [int(mask.sum()) for mask in chosen.values()] == [max(1, round(0.01 * count)), round(0.1 * count), count]
    assert not (chosen[0.01] & ~chosen[0.1]).any()


def test_the_seed_chooses():
    assert np.array_equal(choose_annotated(100, 0.1, 1), choose_annotated(100, 0.1, 1))
    assert not np.array_equal(choose_annotated(100, 0.1, 1), choose_annotated(100, 0.1, 2))


def test_no_and_too_few_annotations():
    assert not choose_annotated(10, 0, seed=0).any()
    assert choose_annotated(10, 0.001, seed=0).sum() == 1
    assert choose_annotated(0, 0.5, seed=0).shape == (0,)


@pytest.mark.parametrize("fraction", [-0.1, 1.5, 10, float("nan")])
def test_other_fractions_are_refused(fraction):
    with pytest.raises(ValueError, match="from 0 to 1"):
        choose_annotated(10, fraction, seed=0)
