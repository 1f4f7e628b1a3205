"""What all tests share: no network, one thread, tiny models built once.

What takes long to import is imported where tests are collected and run: pytest-xdist's controller reads this file too.
"""

import gc
import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["HF_EVALUATE_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "warning"
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["MPLBACKEND"] = "Agg"

from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

_modules = 0
# The same examples each time, a fixed number of them, and no file of earlier ones.
settings.register_profile("fixed", max_examples=25, derandomize=True, deadline=None, database=None)
settings.load_profile("fixed")


def pytest_collectstart() -> None:
    """Import without the garbage collector, which would look for cycles among what stays: a third of the time."""
    gc.disable()
    import torch
    from transformers.utils import logging

    torch.set_num_threads(1)
    logging.enable_propagation()  # to pytest's caplog


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put first what shares a start that takes seconds.

    pytest-xdist gives each process a run of the list, from the end of which a process that has nothing left takes tests
    over: so one process alone starts what these files share, and none of them is divided.
    """
    first = ("distributed/", "store/test_launched.py", "trainer/test_long_runs.py", "xdistillation/test_student.py")
    places = tuple(str(Path(__file__).parent / name) for name in first)
    items.sort(key=lambda item: not str(item.path).startswith(places))


def pytest_collection_finish() -> None:
    """Take what is imported out of the garbage collector, which accelerate runs at the start of each training.

    Looking through the modules of torch and transformers would take most of a small training's time; here, too, it is
    left out.
    """
    global _modules
    _modules = len(sys.modules)
    gc.freeze()
    gc.enable()
    # A tenth of a training's or a compiler's time would go to looking through 700 new objects each time.
    gc.set_threshold(20_000)


def pytest_runtest_logfinish() -> None:
    """Take out too what a test was the first to import: the compiler, say, for all trainings after it."""
    if len(sys.modules) != _modules:
        _take_out_of_collector()


def _take_out_of_collector() -> None:
    global _modules
    _modules = len(sys.modules)
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Give the modules back to the collector, which looks for leaks when Python ends."""
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """A test's random numbers don't depend on the tests before it."""
    import torch

    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _timed_seldom(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record's models are timed in two passes in the place of twenty, but in the tests of records themselves."""
    cost = sys.modules.get("hf_e2kd.fidelity.cost")
    if cost is not None and request.path.parent.name != "fidelity":
        monkeypatch.setattr(cost, "RUNS", 2)


@pytest.fixture
def tiny() -> Callable[[str], Any]:
    """`tiny("vit")`: this test's own copy of a tiny model, one of `tests.models.BUILDERS`."""
    from tests.models import build

    return build


@pytest.fixture
def hub_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """`hub_cache("me/model", commit, main=True)` puts a commit of a model into the Hub's cache, of branch `main` or of
    none. The test runs in `tmp_path`, so that folders can be called as models are."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)

    def put(name: str, commit: str, main: bool) -> None:
        folder = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        (folder / "snapshots" / commit).mkdir(parents=True)
        (folder / "snapshots" / commit / "config.json").write_text("{}")
        if main:
            (folder / "refs").mkdir(exist_ok=True)
            (folder / "refs/main").write_text(commit)

    return put
