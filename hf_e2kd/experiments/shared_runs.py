"""Runs that several processes share through a folder, each done once: started twice, a command does half of them."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..store.files import write_text
from .results import RECORDED

SETTLED = (
    *RECORDED,
    *("optim_args", "adam_beta1", "adam_beta2", "adam_epsilon", "lr_scheduler_kwargs"),
    *("label_smoothing_factor", "data_seed", "dataloader_drop_last"),
)
"""Training arguments that change what a run gives, for the key of runs."""


def share_runs(
    folder: Path, names: Sequence[str], key: str, run: Callable[[str], dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Do what is left of some runs, beside other processes that do the same, and return all results.

    A run is done under a lock, which a process that dies gives back; its result is a JSON file, with which an
    interrupted command goes on where it was. Runs that others are doing are left for last and waited for.

    Args:
        folder: Folder of the results, on a disk that all processes see and whose locks they share.
        names: Names of the runs, which can be file names.
        key: Text that differs between settings whose results can't be mixed.
        run: Does one run, by its name.

    Returns:
        The results by name, in the order of the names.

    Raises:
        ValueError: the folder holds a result of other settings, or a file that is no result.
    """
    folder.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[str, Any]] = {}
    for wait in (False, True):
        for name in names:
            if name in results:
                continue
            path = folder / f"{name}.json"
            try:
                with FileLock(folder / f"{name}.lock", timeout=-1 if wait else 0):
                    if not path.exists():
                        write_text(path, json.dumps({"key": key, "result": run(name)}))
                    results[name] = _read(path, key)
            except Timeout:
                continue
    return {name: results[name] for name in names}


def _read(path: Path, key: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found, result = content["key"], content["result"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"'{path}' is no result of a run ({error!r}). Remove it, and the run is done anew.") from error
    if found != key:
        raise ValueError(
            f"'{path}' is the result of another model, other data or other arguments. Choose another folder, or remove "
            f"'{path.parent}' to begin anew."
        )
    return result
