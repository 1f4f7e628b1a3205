"""A store built by the two processes of `accelerate launch`: shared, killed, gone on with."""

import json
import os
import subprocess
import sys
import time
from multiprocessing.process import BaseProcess

import numpy as np
import pytest
import torch

from hf_e2kd.cli import main
from hf_e2kd.store import StoredReference, StoreError
from tests.models import build
from tests.processes import LAUNCHERS, ROOT, launch
from tests.store.launched import build_and_wait
from tests.store.stores import PROCESSOR, photographs

SHARDS = 7  # which two processes can't share evenly


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A teacher, its data, and the store that a single process builds of them."""
    folder = tmp_path_factory.mktemp("launched")
    build("vit", seed=1).save_pretrained(folder / "teacher")
    PROCESSOR.save_pretrained(folder / "teacher")
    photographs(4 * SHARDS - 1).save_to_disk(folder / "data")
    with pytest.raises(SystemExit, match="0"):
        main(store_line(folder, folder / "alone"))
    return folder


def store_line(place, output):
    line = ["store", "--teacher", place / "teacher", "--dataset", place / "data", "--id-column", "key", "--json"]
    return [str(part) for part in [*line, "--batch-size", 2, "--rows-per-shard", 4, output]]


def run_launcher(place, output):
    """Run `accelerate launch` itself, as users do."""
    line = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    line += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    line += ["--num_cpu_threads_per_process", "1", "-m", "hf_e2kd.cli", *store_line(place, output)]
    # No configuration of the machine's user, and no variable of a launcher around this test.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(LAUNCHERS)}
    environment |= {"PYTHONPATH": str(ROOT), "HF_HOME": str(place), "OMP_NUM_THREADS": "1"}
    return subprocess.run(line, env=environment, cwd=place, capture_output=True, text=True, timeout=240)


def finished(folder):
    """When each finished shard was written."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("shard-*.arrow")}


def test_two_processes_killed_and_started_again(place):
    """Prevents: shards left out or made twice when processes share them or are killed, a description before the last
    is done, and a summary from every process."""
    processes = launch("ddp_cpu", build_and_wait, store_line(place, place / "shared"), folder=place)
    waiting = []
    deadline = time.monotonic() + 240
    while len(waiting) < 2 and all(map(BaseProcess.is_alive, processes)) and time.monotonic() < deadline:
        time.sleep(0.05)
        waiting = list(place.glob("*.waits"))
    for process in processes:
        process.kill()
    assert len(waiting) == 2, "".join(path.read_text()[-4000:] for path in place.glob("log*.txt"))
    before = finished(place / "shared")
    # Each has made the first of its own.
    assert sorted(before) == ["shard-00000.arrow", "shard-00001.arrow"]
    with pytest.raises(StoreError, match="is not finished: 2 shards are there"):
        StoredReference(place / "shared")

    second = run_launcher(place, place / "shared")
    assert second.returncode == 0, second.stderr[-6000:]
    # Gloo may tell of its connections there.
    (summary,) = [line for line in second.stdout.splitlines() if line.startswith("{")]
    assert json.loads(summary)["samples"] == 4 * SHARDS - 1
    after = finished(place / "shared")
    assert len(after) == SHARDS and before == {name: after[name] for name in before}
    assert len(list((place / "shared").iterdir())) == SHARDS + 1
    alone, shared = StoredReference(place / "alone"), StoredReference(place / "shared", verify=True)
    assert [(info.name, info.rows) for info in shared.shards.infos] == [
        (info.name, info.rows) for info in alone.shards.infos
    ]
    for name in ("key", "ids", "fields", "count"):
        assert shared.description[name] == alone.description[name]
    everything = np.arange(4 * SHARDS - 1)
    assert list(shared.shards.ids()) == list(alone.shards.ids())
    for one, other in zip(shared.decoder(everything), alone.decoder(everything), strict=True):
        torch.testing.assert_close(one, other, rtol=2e-3, atol=2e-3)
