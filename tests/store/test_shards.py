"""A store's files: rows found in them, and damage noticed."""

import json

import pytest
import torch

from hf_e2kd.store import StoredReference, StoreError, writer
from tests.store.stores import store
from tests.training import samples


def test_many_record_batches(tmp_path, teacher, monkeypatch):
    """Prevents: rows of large maps, which make a shard of several batches, looked for in the first alone."""
    expected = store(teacher, samples(7), tmp_path / "one", batch_size=2)
    monkeypatch.setattr(writer, "_BATCH_BYTES", 1)
    reference = store(teacher, samples(7), tmp_path / "many", batch_size=2)
    for row in (0, 3, 6, 1):
        one, other = expected.attach(samples(7))[row], reference.attach(samples(7))[row]
        assert all(torch.equal(one[name], other[name]) for name in reference.columns)


def test_damaged_files(tmp_path, teacher):
    """Prevents: a shard that was cut short, changed or never finished, read as if it were whole."""
    reference = store(teacher, samples(12), tmp_path / "store", rows_per_shard=4)
    shard, description = tmp_path / "store" / "shard-00001.arrow", tmp_path / "store" / "store.json"
    content, text = shard.read_bytes(), description.read_text()
    shard.write_bytes(content[:-10])
    with pytest.raises(StoreError, match=r"shard-00001\.arrow is damaged: it has \d+ bytes instead of \d+"):
        StoredReference(tmp_path / "store")
    changed = bytearray(content)
    changed[len(content) // 2] ^= 255
    shard.write_bytes(changed)
    StoredReference(tmp_path / "store")
    with pytest.raises(StoreError, match=r"shard-00001\.arrow is damaged: its SHA-256 is"):
        StoredReference(tmp_path / "store", verify=True)
    shard.write_bytes(bytes(len(content)))
    with pytest.raises(StoreError, match=r"shard-00001\.arrow is damaged"):
        StoredReference(tmp_path / "store").attach(samples(12))[5]
    shard.rename(shard.with_name(f"{shard.name}.7.tmp"))
    with pytest.raises(StoreError, match=r"shard-00001\.arrow is missing; it was only half written"):
        StoredReference(tmp_path / "store")
    shard.write_bytes(content)
    StoredReference(tmp_path / "store", verify=True)
    description.write_text(text[:100])
    with pytest.raises(StoreError, match=r"store\.json is damaged"):
        StoredReference(tmp_path / "store")
    description.write_text(json.dumps({**json.loads(text), "count": 11}))
    with pytest.raises(StoreError, match="states 11 samples, and its shards hold 12"):
        StoredReference(tmp_path / "store")
    description.write_text(json.dumps({**json.loads(text), "format": 99}))
    with pytest.raises(StoreError, match="has the format 99"):
        StoredReference(tmp_path / "store")
    with pytest.raises(StoreError, match="There is no store in .* by StoredReference.from_hub"):
        StoredReference(tmp_path / "nothing")
    assert len(reference.shards) == 12
