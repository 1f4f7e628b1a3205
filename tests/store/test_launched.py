"""A store built by two processes that `accelerate launch` starts, as users start them: shared, killed, gone on with."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_e2kd.cli import main
from hf_e2kd.store import StoredReference, StoreError
from tests.models import build
from tests.store.stores import PROCESSOR, photographs

ROOT = Path(__file__).parents[2]
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


def launch(place, output, module):
    line = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    line += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    line += ["--num_cpu_threads_per_process", "1", "-m", module, *store_line(place, output)]
    # No configuration of the machine's user, and no variable of a launcher around this test.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("ACCELERATE_", "MASTER_"))}
    environment |= {"PYTHONPATH": str(ROOT), "HF_HOME": str(place), "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(line, env=environment, cwd=place, **pipes)


def finished(folder):
    """When each finished shard was written."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("shard-*.arrow")}


def test_two_processes_killed_and_started_again(place):
    """Prevents: shards left out or made twice when processes share them or are killed, a description before the last
    is done, and a summary from every process."""
    first = launch(place, place / "shared", "tests.store.launched")
    waiting = []
    deadline = time.monotonic() + 240
    while len(waiting) < 2 and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
        waiting = [int(path.stem) for path in place.glob("*.waits")]
    first.kill()
    for process in waiting:
        os.kill(process, signal.SIGKILL)
    assert len(waiting) == 2, first.communicate()[1][-6000:]
    before = finished(place / "shared")
    # Each has made the first of its own.
    assert sorted(before) == ["shard-00000.arrow", "shard-00001.arrow"]
    with pytest.raises(StoreError, match="is not finished: 2 shards are there"):
        StoredReference(place / "shared")

    second = launch(place, place / "shared", "hf_e2kd.cli")
    printed, errors = second.communicate(timeout=240)
    assert second.returncode == 0, errors[-6000:]
    # Gloo may tell of its connections there.
    (summary,) = [line for line in printed.splitlines() if line.startswith("{")]
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
