"""What a stored row holds: logits and maps as the teacher gave them, in few bytes."""

import logging

import datasets
import pytest
import torch

from hf_e2kd import explain
from hf_e2kd.store import StoreError
from hf_e2kd.terms import logits_loss
from tests.models import CLASSES, images
from tests.store.stores import store
from tests.training import samples


def test_the_largest_logits(tmp_path, teacher):
    """Prevents: probabilities of the stored classes that change because the others are left out."""
    data = samples(6)
    full = store(teacher, data, tmp_path / "full", dtype="float32").attach(data)
    few = store(teacher, data, tmp_path / "few", top_k=2, dtype="float32").attach(data)
    expected = torch.stack([full[row]["reference_logits"] for row in range(6)])
    found = torch.stack([few[row]["reference_logits"] for row in range(6)])
    kept = expected.topk(2).indices
    torch.testing.assert_close(found.softmax(1).gather(1, kept), expected.softmax(1).gather(1, kept))
    assert found.shape == (6, CLASSES) and torch.equal(found.argmax(1), expected.argmax(1))
    others = found.softmax(1).scatter(1, kept, 0)
    torch.testing.assert_close(others.amax(1), others.sum(1) / (CLASSES - 2))
    assert logits_loss(torch.randn(6, CLASSES), found).isfinite().all()
    with pytest.raises(StoreError, match="top_k=5 of 5 classes saves nothing"):
        store(teacher, data, tmp_path / "all", top_k=5)
    with pytest.raises(StoreError, match="top_k needs the number of classes, which Nameless doesn't state"):
        store(Nameless(), data, tmp_path / "nameless", top_k=2, explainer="saliency")
    assert not (tmp_path / "nameless").exists()


class Nameless(torch.nn.Module):
    """A classifier that doesn't state its number of classes."""

    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(3, CLASSES)

    def forward(self, pixel_values):
        return self.head(pixel_values.mean((2, 3)))


def test_faint_maps_keep_their_shape(tmp_path, teacher):
    """Prevents: maps that half precision rounds to nothing, and so teach nothing."""
    with torch.no_grad():
        teacher.classifier.weight.mul_(1e-9)
    data = samples(4)
    attached = store(teacher, data, tmp_path / "store").attach(data)
    expected = explain(teacher, torch.stack([sample["pixel_values"] for sample in data])).maps
    assert expected.max() < 1e-7
    for row in range(4):
        error = (attached[row]["reference_map"] - expected[row]).abs().max()
        assert error < 1e-3 * expected[row].max()


def test_size_of_a_sample(tmp_path):
    """1000 classes and a 7×7 map must fit into 2.2 kB, or ImageNet takes gigabytes more than it must."""
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(embedding_size=4, hidden_sizes=[4, 4], depths=[1, 1], layer_type="basic", num_labels=1000)
    teacher = ResNetForImageClassification(config).eval()
    data = [{"pixel_values": image, "image_id": f"n01440764_{n:05d}.JPEG"} for n, image in enumerate(images(64, 56))]
    reference = store(teacher, data, tmp_path / "store", id_column="image_id", batch_size=32)
    assert reference.attach(data)[0]["reference_map"].shape == (7, 7)
    total = sum(path.stat().st_size for path in (tmp_path / "store").glob("shard-*.arrow"))
    assert total / 64 <= 2200
    # datasets opens a shard as it is.
    shard = datasets.Dataset.from_file(str(tmp_path / "store" / "shard-00000.arrow"))
    assert shard[3]["id"] == "n01440764_00003.JPEG" and len(shard[3]["logits"]) == 2000


@pytest.mark.parametrize(
    ("dtype", "bias", "warned"), [("float16", 300.3, True), ("float32", 300.3, False), ("float16", 9.0, False)]
)
def test_logits_that_float16_rounds(tmp_path, teacher, caplog, dtype, bias, warned):
    """Prevents: scores in the hundreds stored as the nearest quarter or whole number without a word."""
    logging.Logger.warning_once.cache_clear()
    teacher.classifier.bias.data += bias
    with caplog.at_level("WARNING"):
        store(teacher, samples(4), tmp_path / "store", dtype=dtype)
    assert ("Build with dtype='float32' to keep them" in caplog.text) == warned
