"""A store's building: by several processes, interrupted, gone on with, and refused."""

import errno
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from threading import Event

import pytest
import torch

from hf_e2kd import explain
from hf_e2kd.store import StoredReference, StoreError, processes, writer
from hf_e2kd.store.build import StoreBuilder
from tests.models import build, images
from tests.store.stores import Calls, rows, store
from tests.training import samples


def test_the_teacher_is_left_as_it_was(tmp_path, teacher):
    """Prevents: a store of a teacher with dropout, or a teacher that can't be trained any more."""
    expected = explain(teacher, images(4))
    teacher.train()
    reference = store(teacher, [{"pixel_values": image} for image in images(4)], tmp_path / "store", dtype="float32")
    assert teacher.training and all(parameter.requires_grad for parameter in teacher.parameters())
    found = [reference.attach([{"pixel_values": image} for image in images(4)])[row] for row in range(4)]
    torch.testing.assert_close(torch.stack([row["reference_map"] for row in found]), expected.maps)
    torch.testing.assert_close(torch.stack([row["reference_logits"] for row in found]), expected.logits)


def test_two_processes(tmp_path, teacher):
    """Prevents: shards left out or made twice when the work is divided, or a description before the last is done."""
    single = store(teacher, samples(10), tmp_path / "single", rows_per_shard=3)
    options = {"batch_size": 2, "rows_per_shard": 3, "progress": False}
    calls = Calls(teacher.vit.embeddings)
    for rank in (1, 0):
        builder = StoreBuilder(teacher, samples(10), tmp_path / "shared", **options)
        assert not builder.finish() if rank == 0 else True
        builder.run(rank, 2)
    assert sum(calls.batches) == 10
    with pytest.raises(StoreError, match="is not finished: 4 shards are there"):
        StoredReference(tmp_path / "shared")
    assert builder.finish()
    shared = StoredReference(tmp_path / "shared", verify=True)
    assert [info.rows for info in shared.shards.infos] == [3, 3, 3, 1]
    assert len(list((tmp_path / "shared").iterdir())) == 5
    for row in range(10):
        one, other = single.attach(samples(10))[row], shared.attach(samples(10))[row]
        torch.testing.assert_close(one["reference_map"], other["reference_map"])


def test_two_builders_of_one_store(tmp_path, teacher, monkeypatch):
    """Prevents: a second building of the same store that deletes the first one's files, or overwrites its shards."""
    first, second, began, may_go_on = deepcopy(teacher), deepcopy(teacher), Event(), Event()

    def wait(*_):
        began.set()
        may_go_on.wait(60)

    waits = Event()
    monkeypatch.setattr(processes.logger, "warning", lambda message: waits.set())
    first.vit.embeddings.register_forward_hook(wait)
    calls = Calls(second.vit.embeddings)
    with ThreadPoolExecutor(2) as pool:
        built = pool.submit(store, first, samples(6), tmp_path / "store", rows_per_shard=2)
        assert began.wait(60)
        other = pool.submit(store, second, samples(6), tmp_path / "store", rows_per_shard=2)
        assert waits.wait(60)
        may_go_on.set()
        references = [built.result(60), other.result(60)]
    assert calls.batches == []
    for reference in references:
        assert len(reference.attach(samples(6))) == 6


def test_goes_on_after_a_failure(tmp_path, teacher):
    """Prevents: hours of finished shards made anew, or a half-written shard taken for a whole one."""
    data = samples(10)
    broken = [*data[:7], {"labels": 1}, *data[8:]]
    with pytest.raises((StoreError, KeyError)):
        store(teacher, broken, tmp_path / "store", rows_per_shard=4, batch_size=2)
    done = tmp_path / "store" / "shard-00000.arrow"
    (tmp_path / "store" / "shard-00001.arrow.7.tmp").write_bytes(b"half")
    before = done.stat().st_mtime_ns
    with pytest.raises(StoreError, match="is not finished: 1 shards"):
        StoredReference(tmp_path / "store")
    calls = Calls(teacher.vit.embeddings)
    reference = store(teacher, data, tmp_path / "store", rows_per_shard=4, batch_size=2)
    assert done.stat().st_mtime_ns == before
    assert calls.batches == [2, 2, 2]
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == [
        "shard-00000.arrow",
        "shard-00001.arrow",
        "shard-00002.arrow",
        "store.json",
    ]
    store(teacher, data, tmp_path / "store")  # finished: nothing is computed
    assert len(calls.batches) == 3
    assert len(reference.shards) == 10


def test_goes_on_after_a_kill(tmp_path, teacher):
    """The same where nothing had time to tidy up."""
    folder = tmp_path / "store"
    child = os.fork()
    if child == 0:
        seen = []

        def stop(*_):
            seen.append(1)
            if len(seen) == 6:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            teacher.vit.embeddings.register_forward_hook(stop)
            store(teacher, samples(16), folder, batch_size=2, rows_per_shard=4)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    times = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.arrow")}
    assert sorted(times) == ["shard-00000.arrow", "shard-00001.arrow"]
    calls = Calls(teacher.vit.embeddings)
    reference = store(teacher, samples(16), folder, batch_size=2, rows_per_shard=4)
    assert sum(calls.batches) == 8
    assert times == {name: (folder / name).stat().st_mtime_ns for name in times}
    whole = store(teacher, samples(16), tmp_path / "whole", batch_size=2, rows_per_shard=4)
    assert [info.sha256 for info in reference.shards.infos] == [info.sha256 for info in whole.shards.infos]


def test_full_disk(tmp_path, teacher, monkeypatch):
    """Prevents: a partial shard that fills the disk for good, and a message without the size that is needed."""

    def on_a_full_disk(path, *mode, **encoding):
        file = open(path, *mode, **encoding)  # noqa: SIM115
        if "shard-00001.arrow" not in str(path):
            return file
        file.close()
        # Linux's device that is always full: as on a disk, the buffer fails when it is flushed, and again on closing.
        return open("/dev/full", *mode)

    monkeypatch.setattr(writer, "open", on_a_full_disk, raising=False)
    with pytest.raises(
        OSError, match=r"shard-00001\.arrow: this shard needs about \d+ bytes, and the shards after"
    ) as error:
        store(teacher, samples(12), tmp_path / "store", rows_per_shard=4)
    assert error.value.errno == errno.ENOSPC
    assert not list((tmp_path / "store").glob("*.tmp"))
    monkeypatch.undo()
    calls = Calls(teacher.vit.embeddings)
    replace = os.replace

    def full_at_the_end(source, path):
        if path.name == "store.json":
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, path)

    monkeypatch.setattr(os, "replace", full_at_the_end)
    with pytest.raises(OSError, match=r"store\.json: it needs \d{4} bytes; \d+ are free"):
        store(teacher, samples(12), tmp_path / "store", rows_per_shard=4)
    monkeypatch.undo()
    assert not list((tmp_path / "store").glob("*.tmp"))
    store(teacher, samples(12), tmp_path / "store", rows_per_shard=4)
    assert sum(calls.batches) == 8


def test_goes_on_with_the_same_alone(tmp_path, teacher):
    """Prevents: a building that goes on with another teacher or with data that shrank, and mixes the two."""
    data = rows(10)
    broken = [*data[:7], {**data[7], "pixel_values": torch.full((3, 32, 32), torch.inf)}, *data[8:]]
    options = {"rows_per_shard": 4, "id_column": "image_id"}
    with pytest.raises(StoreError, match="of the sample 'image-7' holds NaN or infinite"):
        store(teacher, broken, tmp_path / "store", **options)
    with pytest.raises(StoreError, match=r"ids\.count is 10 in the store and 9 here"):
        store(teacher, data[:9], tmp_path / "store", **options)
    with pytest.raises(StoreError, match=r"ids\.fingerprint is .* in the store and .* here"):
        store(teacher, data[::-1], tmp_path / "store", **options)
    with pytest.raises(StoreError, match=r"ids\.rows_per_shard is 4 in the store and 5 here"):
        store(teacher, data, tmp_path / "store", **{**options, "rows_per_shard": 5})
    with pytest.raises(StoreError, match=r"teacher\.weights is"):
        store(build("vit", seed=2), data, tmp_path / "store", **options)
    assert len(store(teacher, data, tmp_path / "store", **options).shards) == 10


def test_data_that_can_not_be_stored(tmp_path, teacher):
    """Prevents: a store of random views, of NaN, or of nothing; each must be named before it costs hours."""

    class Augmented(torch.utils.data.Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, row):
            return {"pixel_values": torch.randn(3, 32, 32)}

    with pytest.raises(StoreError, match="Sample 0 is another one each time it is read"):
        store(teacher, Augmented(), tmp_path / "augmented")
    data = rows(4)
    data[2]["pixel_values"] = torch.full((3, 32, 32), float("nan"))
    with pytest.raises(StoreError, match="logits of the sample 'image-2' holds NaN"):
        store(teacher, data, tmp_path / "nan", id_column="image_id")
    with pytest.raises(StoreError, match="The data set is empty"):
        store(teacher, [], tmp_path / "empty")
    with pytest.raises(StoreError, match="no 'pixel_values' for the teacher. Their columns: .*'other'"):
        store(teacher, [{"other": 1}], tmp_path / "columns")
    with pytest.raises(StoreError, match="must be a model, not str"):
        store("google/vit-base-patch16-224", samples(4), tmp_path / "name")
    with pytest.raises(StoreError, match="Unknown target 'top'. Available: teacher_top, label, positives"):
        store(teacher, samples(4), tmp_path / "target", target="top")
    sizes = [{"pixel_values": image} for size in (32, 48) for image in images(4, size)]
    with pytest.raises(StoreError, match="Show the teacher images of one size"):
        store(build("resnet"), sizes, tmp_path / "sizes")
