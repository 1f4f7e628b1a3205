"""Upper quantiles of streams: exact where they fit, within the stated error beyond, in any order."""

import numpy as np
import pytest
import torch

from hf_e2kd.metrics.quantiles import QuantileSketch

QUANTILES = (0.9, 0.99, 0.995)


def filled(values: torch.Tensor, quantile: float = 0.9, size: int = 4096, step: int = 97) -> QuantileSketch:
    sketch = QuantileSketch(quantile, values.shape[1], size)
    for part in values.split(step, dim=1):
        sketch.update(part)
    return sketch


def test_equal_to_numpy_where_the_largest_values_fit():
    """A threshold that is off by one value, by a rounded rank or by values dropped too early."""
    values = torch.randn(5, 10_000, generator=torch.Generator().manual_seed(0))
    values[1] = values[1].round(decimals=1)  # with ties
    values[2] = 0.0  # a dead unit
    sketch = filled(values)
    assert sketch.error == 0
    for quantile in QUANTILES:
        expected = np.quantile(values.numpy(), quantile, axis=1, method="inverted_cdf")
        np.testing.assert_array_equal(sketch.quantile(quantile).numpy(), expected)


@pytest.mark.parametrize("order", ["random", "ascending", "descending", "mixed"])
def test_within_the_stated_error_in_every_order(order):
    """An error larger than the one that is stated, as where the stream's order has a trend."""
    values = torch.randn(4, 60_000, generator=torch.Generator().manual_seed(1))
    if order in ("ascending", "descending"):
        values = values.sort(dim=1, descending=order == "descending").values
    if order == "mixed":  # one stream rises, so that its values bring along those of the others
        values[0] = values[0].sort().values
    sketch = filled(values, size=256)
    assert 0 < sketch.error < 0.02 * values.shape[1]
    for quantile in QUANTILES:
        threshold = sketch.quantile(quantile)[:, None]
        above = values.shape[1] - int(np.ceil(round(quantile * values.shape[1], 6)))
        assert ((values > threshold).sum(dim=1) <= above + sketch.error).all()
        assert ((values >= threshold).sum(dim=1) >= above + 1 - sketch.error).all()


def test_memory_grows_by_a_buffer_for_each_doubling():
    """A sketch that keeps what it reads."""
    sizes = []
    for count in (20_000, 40_000, 80_000):
        sketch = filled(torch.randn(2, count, generator=torch.Generator().manual_seed(2)), size=256)
        sizes.append(sum(level.shape[1] for level in sketch.levels))
        assert all(level.shape[1] < 256 for level in sketch.levels)
        assert len(sketch.levels) <= np.log2(count / 256) + 1
    assert sizes[2] < sizes[0] + 3 * 256


@pytest.mark.parametrize("size", [4096, 128])
def test_goes_on_from_a_state(size):
    """A resumed run that ends in other thresholds."""
    values = torch.randn(3, 20_000, generator=torch.Generator().manual_seed(3))
    whole = filled(values, size=size)
    first = QuantileSketch(0.9, 20_000, size)
    for part in values[:, : 97 * 100].split(97, dim=1):
        first.update(part)
    second = QuantileSketch(0.9, 20_000, size)
    second.load_state({name: value.clone() for name, value in first.state().items()})
    for part in values[:, 97 * 100 :].split(97, dim=1):
        second.update(part)
    assert torch.equal(second.quantile(0.95), whole.quantile(0.95))
    assert second.error == whole.error


@pytest.mark.parametrize("quantile", [0, 1, -0.5, float("nan")])
def test_quantiles_out_of_range_are_refused(quantile):
    """A quantile of 1, above which nothing lies, or of 0, above which everything does."""
    with pytest.raises(ValueError, match="between 0 and 1"):
        QuantileSketch(quantile, 100)


def test_bad_streams_are_refused():
    """Thresholds of streams that are too short, too long or have no order."""
    with pytest.raises(ValueError, match=r"None of 100 values lies above the quantile 0.995. Give at least 200"):
        QuantileSketch(0.995, 100)
    with pytest.raises(ValueError, match="more values than the 20"):
        filled(torch.zeros(1, 20)).update(torch.zeros(1, 1))
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="NaN or infinite"):
            QuantileSketch(0.9, 20).update(torch.tensor([[0.0, bad]]))
    with pytest.raises(ValueError, match="has no quantile 0.8"):
        filled(torch.zeros(1, 20)).quantile(0.8)
