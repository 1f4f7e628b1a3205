import numpy as np
import pytest
import torch
from torch.nn import functional as F

from hf_e2kd.metrics import boxes_to_masks, class_means, localization_iou


def test_by_hand():
    # Stretched from [1, 5] to [0, 1]: (0, .25; .75, 1). Above .5: the lower row. The mask: the left column.
    maps = torch.tensor([[[1.0, 2.0], [4.0, 5.0]]])
    masks = torch.tensor([[[True, False], [True, False]]])

    assert localization_iou(maps, masks).item() == pytest.approx(1 / 3)
    assert localization_iou(maps, masks, threshold=0.2).item() == pytest.approx(1 / 4)
    assert localization_iou(maps, masks, threshold=0).item() == pytest.approx(1 / 4)
    assert localization_iou(maps, masks, threshold=0.8).item() == 0


def test_a_pixel_at_the_threshold_is_not_predicted():
    maps = torch.tensor([[[0.0, 0.5, 1.0]]])

    assert localization_iou(maps, torch.tensor([[[0, 1, 1]]])).item() == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("threshold", "predicted"),
    [
        ("mean", [0, 0, 0, 1, 1]),  # the mean of 0, .1, .2, .8, 1 is .42
        ("median", [0, 0, 0, 1, 1]),
        ("top5", [0, 0, 0, 0, 1]),  # 5 % of five pixels, rounded up
    ],
)
def test_thresholds_of_each_map(threshold, predicted):
    maps = torch.tensor([[[0.0, 0.1, 0.2, 0.8, 1.0]]])
    masks = torch.tensor([[[0, 0, 1, 1, 1]]])
    expected = sum(p for p, m in zip(predicted, [0, 0, 1, 1, 1], strict=True) if m) / 3

    assert localization_iou(maps, masks, threshold).item() == pytest.approx(expected)


def test_top5_takes_a_twentieth_of_the_pixels():
    maps = torch.rand(3, 20, 20)
    masks = torch.ones(3, 20, 20)

    torch.testing.assert_close(localization_iou(maps, masks, "top5"), torch.full((3,), 0.05))


@pytest.mark.parametrize("threshold", [0.5, 0.1, "mean", "median", "top5"])
def test_scale_and_offset_free(threshold):
    """Stretching makes the lowest value 0: without it, an even glow over the image would be predicted as a whole."""
    maps, masks = torch.rand(4, 6, 6, dtype=torch.float64), torch.rand(4, 12, 12) > 0.5

    expected = localization_iou(maps, masks, threshold)

    torch.testing.assert_close(localization_iou(1e-30 * maps, masks, threshold), expected)
    torch.testing.assert_close(localization_iou(maps + 1, masks, threshold), expected)


def naive(attribution: np.ndarray, box: tuple[int, int, int, int], threshold: float) -> float:
    """The official rule pixel by pixel (model guidance), over a map of the image's size."""
    positive = np.maximum(attribution, 0)
    if positive.max() == 0:
        return 0.0
    low, high = positive.min(), positive.max()
    normalised = positive / high if high - low < 1e-7 else (positive - low) / (high - low)
    x0, y0, x1, y1 = box
    inside = both = either = 0
    for y in range(positive.shape[0]):
        for x in range(positive.shape[1]):
            on, strong = x0 <= x < x1 and y0 <= y < y1, normalised[y, x] > threshold
            inside += on
            both += on and strong
            either += on or strong
    return both / either if either else 0.0


@pytest.mark.parametrize("threshold", [0.3, 0.5])
def test_equals_a_naive_implementation(threshold):
    maps = torch.randn(6, 9, 11, dtype=torch.float64)
    maps[0] = -1
    maps[1] = 2
    boxes = torch.tensor([[1, 2, 7, 8], [0, 0, 3, 9], [4, 4, 5, 5], [0, 0, 11, 9], [2, 0, 9, 4], [3, 3, 8, 6]])[:, None]

    found = localization_iou(maps, boxes_to_masks(boxes, (9, 11)), threshold)

    expected = [naive(m.numpy(), tuple(b[0].tolist()), threshold) for m, b in zip(maps, boxes, strict=True)]
    assert found.tolist() == pytest.approx(expected)


def test_coarse_maps_are_enlarged():
    maps, masks = torch.rand(2, 3, 4), torch.rand(2, 12, 12) > 0.5
    enlarged = F.interpolate(maps[:, None], size=(12, 12), mode="bilinear")[:, 0]

    torch.testing.assert_close(localization_iou(maps, masks), localization_iou(enlarged, masks))


@pytest.mark.parametrize("threshold", [0.5, "mean", "median", "top5"])
@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_map_without_positive_values_scores_zero(value, threshold):
    assert localization_iou(torch.full((1, 2, 2), value), torch.ones(1, 4, 4), threshold).tolist() == [0]


def test_an_even_map_predicts_the_whole_image():
    masks = torch.zeros(1, 4, 4)
    masks[:, 0] = 1

    assert localization_iou(torch.full((1, 2, 2), 3.0), masks).item() == pytest.approx(0.25)


def test_an_empty_mask_scores_zero():
    assert localization_iou(torch.rand(1, 3, 3), torch.zeros(1, 3, 3)).tolist() == [0]


@pytest.mark.parametrize("threshold", [1.0, -0.1, float("nan"), "top10"])
def test_other_thresholds_are_refused(threshold):
    with pytest.raises(ValueError, match="mean, median, top5"):
        localization_iou(torch.rand(1, 2, 2), torch.ones(1, 2, 2), threshold)


def test_soft_masks_and_nan_maps_are_refused():
    with pytest.raises(ValueError, match="from 0.5 to 0.5 were found; threshold"):
        localization_iou(torch.rand(1, 2, 2), torch.full((1, 2, 2), 0.5))
    with pytest.raises(ValueError, match="maps holds NaN"):
        localization_iou(torch.full((1, 2, 2), float("nan")), torch.ones(1, 2, 2))


def test_means_by_class_weight_classes_alike():
    values = torch.tensor([1.0, 0.0, 0.5, 0.25])

    means = class_means(values, torch.tensor([3, 3, 3, 1]))

    assert means == {1: 0.25, 3: 0.5}
    assert list(means) == [1, 3]


def test_means_by_class_need_a_class_a_value():
    with pytest.raises(ValueError, match="2 of the one and 1 of the other"):
        class_means([0.5, 0.5], [1])


def test_signed_maps_are_enlarged_before_their_positive_part_is_taken():
    """Prevents: a prediction that reaches into negative cells: [8, -8] becomes [8, 4, -4, -8], one pixel above 4."""
    assert localization_iou(torch.tensor([[[8.0, -8.0]]]), torch.tensor([[[1, 1, 0, 0]]])).item() == 0.5
