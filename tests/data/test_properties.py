"""Random augmentations of an image together with its map, against the picture itself moved."""

from math import ceil

import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as TF

from hf_e2kd.alignment import sample_maps
from hf_e2kd.data import ExplanationMap

SIZE = st.integers(8, 48)
SHARE = st.floats(0, 1)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("flip"), st.booleans()),
        st.tuples(st.just("crop"), SHARE, SHARE, SHARE, SHARE),
        st.tuples(st.just("resize"), SIZE, SIZE),
    ),
    max_size=5,
)


def moved(step, value):
    """One transform of an image or a map; crops are given by shares of what there is."""
    height, width = TF.get_size(value)
    name, *numbers = step
    if name == "flip":
        return TF.horizontal_flip(value) if numbers[0] else TF.vertical_flip(value)
    if name == "resize":
        return TF.resize(value, numbers, antialias=False)
    rows, columns = 4 + int(numbers[0] * (height - 4)), 4 + int(numbers[1] * (width - 4))
    return TF.crop(value, int(numbers[2] * (height - rows)), int(numbers[3] * (width - columns)), rows, columns)


@given(SIZE, SIZE, STEPS)
def test_a_map_follows_its_image(height, width, steps):
    """Prevents: a map beside its image after some sequence of flips, crops and resizes.

    Image and map are the same ramps along both axes, which bilinear reading keeps; only near the edges, where a ramp is
    continued by its last value, may they differ.
    """
    ramps = torch.stack(torch.meshgrid(*[(torch.arange(n) + 0.5) / n for n in (height, width)], indexing="ij"))
    image, place = tv_tensors.Image(ramps), ExplanationMap(ramps, (height, width))
    edges = [1.0, 1.0]  # pixels at each end of an axis that may differ
    for step in steps:
        before = TF.get_size(image)
        image, place = moved(step, image), moved(step, place)
        if step[0] == "resize":
            scales = [new / old for new, old in zip(TF.get_size(image), before, strict=True)]
            edges = [edge * scale + max(scale, 1) for edge, scale in zip(edges, scales, strict=True)]
    assert place.canvas_size == tuple(image.shape[-2:])
    sampled, inside = sample_maps(ramps[None], place.matrix[:1], place.canvas_size)
    assert inside.all()
    middle = (slice(None), *(slice(ceil(edge), -ceil(edge)) for edge in edges))
    torch.testing.assert_close(sampled[0][middle], image.as_subclass(torch.Tensor)[middle], rtol=0, atol=1e-4)
