"""Superpixels: each carries the map's sum over it; what can't be cut is refused."""

import sys

import pytest
import torch
from skimage.segmentation import slic

from hf_e2kd.alignment import explanation_scale, resize_maps, slic_superpixels, superpixel_maps, superpixel_sums
from tests.models import images


@pytest.fixture(scope="module")
def pictures():
    pixels = images(3)
    return (pixels - pixels.min()) / (pixels.max() - pixels.min())


@pytest.fixture(scope="module")
def superpixels(pictures):
    return slic_superpixels(pictures)


def test_superpixels_are_those_of_scikit_image(pictures, superpixels):
    """Prevents: colours taken for rows, and grey images cut by nearness alone."""
    assert superpixels.shape == (3, 32, 32)
    for image, found in zip(pictures, superpixels, strict=True):
        expected = slic(image.permute(1, 2, 0).double().numpy(), n_segments=19, compactness=10, start_label=0)
        assert torch.equal(found, torch.from_numpy(expected))
    grey = slic_superpixels(pictures[:, :1], count=5)
    expected = slic(pictures[0, 0].double().numpy(), 5, compactness=0.1, start_label=0, channel_axis=None)
    assert torch.equal(grey[0], torch.from_numpy(expected))


def test_threads_change_nothing(pictures, superpixels):
    assert torch.equal(slic_superpixels(pictures, workers=3), superpixels)


def test_each_superpixel_carries_the_sum_of_the_map(superpixels):
    maps = torch.randn(3, 32, 32)
    carried, spread = superpixel_maps(maps, superpixels), superpixel_maps(maps, superpixels, spread=True)
    for sample in range(3):
        for number in range(int(superpixels[sample].max()) + 1):
            part = superpixels[sample] == number
            expected = maps[sample][part].sum()
            torch.testing.assert_close(carried[sample][part], expected.expand(int(part.sum())), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(spread[sample][part].sum(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(spread.sum((1, 2)), maps.sum((1, 2)), rtol=1e-4, atol=1e-4)


def test_smaller_maps_are_enlarged(superpixels):
    """GradCAM's maps, on its layer's grid: prevents superpixels read at the grid's places."""
    maps = torch.rand(3, 4, 4)
    expected = superpixel_sums(resize_maps(maps, (32, 32)), superpixels)
    torch.testing.assert_close(superpixel_sums(maps, superpixels), expected)
    assert expected.shape == (3, int(superpixels.max()) + 1)


def test_gradient_of_the_sums():
    maps = torch.rand(2, 3, 3, dtype=torch.float64, requires_grad=True)
    parts = torch.tensor([[[0, 0, 1], [0, 1, 1], [2, 2, 2]], [[0, 0, 0], [0, 0, 0], [1, 1, 1]]])
    assert torch.autograd.gradcheck(lambda maps: superpixel_maps(maps, parts), maps)


def test_images_of_one_colour_are_cut_into_a_grid():
    """Prevents: an error or a single superpixel, where no colour tells places apart."""
    found = slic_superpixels(torch.full((1, 3, 32, 32), 0.3))
    sizes = found.flatten().bincount()
    assert len(sizes) == 25
    assert sizes.min() == 25
    assert sizes.max() == 49
    assert len(slic_superpixels(torch.zeros(1, 1, 8, 8), 4).unique()) == 4


def test_refusals(pictures, superpixels, monkeypatch):
    for count in (2, 21):
        with pytest.raises(ValueError, match=f"count is {count}, which is out of the range from 3 to 20"):
            slic_superpixels(pictures, count)
    with pytest.raises(ValueError, match="Images of 4×4 pixels can't be cut into 19 superpixels"):
        slic_superpixels(pictures[..., :4, :4])
    with pytest.raises(ValueError, match=r"axes \(B, 3 or 1, H, W\), but the shape is \(3, 32, 32\)"):
        slic_superpixels(pictures[0])
    for wrong in (images(), torch.full((1, 3, 8, 8), float("nan"))):
        with pytest.raises(ValueError, match="Give intensities from 0 to 1: undo the processor's normalisation"):
            slic_superpixels(wrong)
    with pytest.raises(ValueError, match=r"of the same images, but their shapes are \(2, 4, 4\) and \(3, 32, 32\)"):
        superpixel_sums(torch.zeros(2, 4, 4), superpixels)
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with pytest.raises(ImportError, match="hf-e2kd.interpretability."):
        slic_superpixels(pictures)


def test_scale_of_a_training_set():
    assert explanation_scale(torch.tensor([[0.5, -3.0], [0.0, 0.0]])) == 3.0
    with pytest.raises(ValueError, match="All explanations are zero"):
        explanation_scale(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="NaN or infinite values"):
        explanation_scale(torch.tensor([1.0, float("nan")]))
