"""Stores of random settings: what was stored is read, or the damage is told."""

import copy
import json
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_e2kd import explain
from hf_e2kd.store import StoredReference, StoreError
from tests.models import build
from tests.store.stores import store
from tests.training import samples

TEACHER = build("vit", seed=1).eval()
PRECISIONS = {"float32": 1e-6, "float16": 1e-3}


@settings(max_examples=12)
@given(
    st.integers(1, 7),
    st.integers(1, 4),
    st.integers(1, 5),
    st.sampled_from(sorted(PRECISIONS)),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=4),
)
def test_round_trip(count, rows_per_shard, batch_size, dtype, damages):
    """Prevents: a row read from another shard, in another order or precision, and damage that goes unnoticed."""
    data = samples(count)
    found = explain(TEACHER, torch.stack([sample["pixel_values"] for sample in data]), "gradcam")
    with tempfile.TemporaryDirectory() as folder:
        options = {"rows_per_shard": rows_per_shard, "batch_size": batch_size, "dtype": dtype}
        store(TEACHER, data, folder, **options)
        rows = StoredReference(folder, verify=True).attach(data)
        for row in range(count):
            for name, expected in (("map", found.maps[row]), ("logits", found.logits[row])):
                stored = torch.as_tensor(rows[row][f"reference_{name}"]).float()
                torch.testing.assert_close(stored, expected, rtol=PRECISIONS[dtype], atol=PRECISIONS[dtype])
            assert rows[row]["reference_target"] == found.target[row]
        shards = sorted(Path(folder).glob("*.arrow"))
        for place, change in damages:
            shard = shards[int(place * len(shards))]
            content = bytearray(shard.read_bytes())
            content[int(place * len(content))] ^= change
            shard.write_bytes(content)
            with pytest.raises(StoreError, match="SHA-256"):
                StoredReference(folder, verify=True)
            content[int(place * len(content))] ^= change
            shard.write_bytes(content)
        assert len(StoredReference(folder, verify=True).attach(data)) == count


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    """A small store, its description, and its last row."""
    folder = tmp_path_factory.mktemp("store")
    store(TEACHER, samples(4), folder, rows_per_shard=3)
    row = StoredReference(folder).attach(samples(4))[3]
    return folder, json.loads((folder / "store.json").read_text(encoding="utf-8")), row


@settings(max_examples=150)
@given(st.data(), JSON)
def test_mutated_descriptions(described, data, value):
    """Prevents: another error than StoreError, or other values, of a store.json with a part changed or lacking."""
    folder, whole, row = described
    changed = copy.deepcopy(whole)
    inner, name = changed, data.draw(st.sampled_from(sorted(changed)))
    while isinstance(inner[name], dict | list) and inner[name] and data.draw(st.booleans()):
        inner = inner[name]
        name = data.draw(st.sampled_from(sorted(inner) if isinstance(inner, dict) else list(range(len(inner)))))
    if data.draw(st.booleans()):
        del inner[name]
    else:
        inner[name] = value
    (folder / "store.json").write_text(json.dumps(changed), encoding="utf-8")
    with suppress(StoreError):
        found = StoredReference(folder).attach(samples(4))[3]
        for column in ("reference_logits", "reference_target", "reference_map"):
            assert torch.equal(torch.as_tensor(found[column]), torch.as_tensor(row[column]))
