"""Processes for tests, forked from one that has imported everything: starting Python with torch anew takes seconds."""

import gc
import multiprocessing
import os
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest import mock

from accelerate.commands.launch import launch_command, launch_command_parser
from accelerate.utils import patch_environment

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "recipes" / "accelerate_configs"
LAUNCHERS = ("ACCELERATE_", "MASTER_", "FSDP_")

_CONTEXT = multiprocessing.get_context("forkserver")
# What the processes call, and what this imports no sooner than it is used: once, and not in each of them.
_CALLED = ("tests.distributed.worker", "hf_e2kd.cli.store", "hf_e2kd.experiments")
_USED_LATER = ("matplotlib.pyplot", "sklearn.datasets")
_CONTEXT.set_forkserver_preload(["tests.without_collector", *_CALLED, *_USED_LATER])


def start(function: Callable[..., None], *arguments: Any, folder: Path, log: str = "log.txt") -> BaseProcess:
    """Start a process that calls a function, in this environment.

    Args:
        function: A module's own function, which the process imports by its name.
        arguments: What it is called with.
        folder: The process's working directory.
        log: The file's name in the folder to which the process prints.
    """
    with patch_environment(PYTHONPATH=str(ROOT)):  # where the server, once started, finds what it imports
        forkserver.ensure_running()
    process = _CONTEXT.Process(target=_call, args=(dict(os.environ), folder, log, function, arguments), daemon=True)
    process.start()
    return process


def _call(environment: dict[str, str], folder: Path, log: str, function: Callable[..., None], arguments: Any) -> None:
    # As in tests/conftest.py: modules are not looked through at each training.
    gc.freeze()
    gc.enable()
    # The server's own environment, folder and output are those of the test that started it.
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    printed = os.open(log, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(printed, stream)
    function(*arguments)


def launch(config: str, function: Callable[..., None], *arguments: Any, folder: Path) -> list[BaseProcess]:
    """Start what `accelerate launch` would start, each process in the environment that it would get.

    Accelerate's launcher reads the configuration and sets the environment; where it would hand over to torchrun, which
    starts Python anew, the processes are forked. They print to `log0.txt`, `log1.txt` … in the folder.

    Args:
        config: A file's name in `recipes/accelerate_configs`, without its ending.
        function: A module's own function, called in each process.
        arguments: What it is called with.
        folder: The processes' working directory.
    """
    line = ["--config_file", str(CONFIGS / f"{config}.yaml"), "--main_process_port", "0", "--dynamo_backend", "no"]
    line += ["--num_cpu_threads_per_process", "1", "forked"]
    processes = []

    def torchrun(args: Any) -> None:
        world = {"WORLD_SIZE": args.nproc_per_node, "LOCAL_WORLD_SIZE": args.nproc_per_node}
        world |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(args.master_port)}
        for rank in range(int(args.nproc_per_node)):
            with patch_environment(**world, RANK=str(rank), LOCAL_RANK=str(rank)):
                processes.append(start(function, *arguments, folder=folder, log=f"log{rank}.txt"))

    outside = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHERS)}
    with mock.patch.dict(os.environ, outside, clear=True), mock.patch("torch.distributed.run.run", torchrun):
        launch_command(launch_command_parser().parse_args(line))
    return processes


def finish(processes: list[BaseProcess], folder: Path, seconds: float = 300) -> None:
    """Wait for processes, and fail with what they printed unless all of them end well."""
    for process in processes:
        process.join(seconds)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert codes == [0] * len(processes), "\n".join(path.read_text()[-4000:] for path in folder.glob("log*.txt"))
