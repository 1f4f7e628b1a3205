# /// script
# requires-python = ">=3.10"
# dependencies = ["hf-e2kd"]
# [tool.uv.sources]
# hf-e2kd = { path = "../..", editable = true }
# ///
"""Fault drills: trainings and stores that are killed, run out of disk, meet each other, or find damaged files.

    python recipes/benchmarks/faults.py --kills 30

Each drill ends in a run to the end, whose weights or maps are compared bit for bit with those of an undisturbed run. A
SIGKILL comes at a random time. A full and a read-only disk are small file systems in memory, which `unshare`
(util-linux) mounts for one process; where the machine doesn't allow it, they are left out, and the table says so.
Models and data are small and made here: a drill takes seconds.
"""

import argparse
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tqdm import tqdm
from transformers import ViTConfig, ViTForImageClassification

from hf_e2kd import ExplanationDistillArguments, ExplanationDistillTrainer, StoredReference
from hf_e2kd.experiments import run_recipe
from hf_e2kd.trainer.preemption import last_checkpoint

SAMPLES, SIDE, CLASSES = 48, 32, 5
NOT_MOUNTED = 99  # the exit code of a shell that may not mount a file system
_CONTEXT = multiprocessing.get_context("fork")  # after the imports, which take longer than a drill


def model(seed: int) -> ViTForImageClassification:
    """A small ViT with dropout, so that a resumed training needs the random state too."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    labels = {"id2label": {index: f"class {index}" for index in range(CLASSES)}}
    return ViTForImageClassification(
        ViTConfig(**sizes, **labels, image_size=SIDE, patch_size=8, hidden_dropout_prob=0.1)
    )


def samples() -> list[dict[str, torch.Tensor]]:
    """Random images."""
    noise = torch.randn(SAMPLES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    return [{"pixel_values": image} for image in noise]


def train(folder: Path) -> None:
    """Train, or go on from the last whole checkpoint in the folder, and save the student."""
    settings: dict[str, Any] = {
        "per_device_train_batch_size": 4,
        "num_train_epochs": 3,
        "save_strategy": "steps",
        "save_steps": 4,
    }
    terms = {"hint": {"weight": 1.0}, "attention_transfer": {"weight": 10.0}}
    args = ExplanationDistillArguments(
        str(folder),
        **settings,
        terms=terms,
        explanation_fraction=0.5,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
    )
    trainer = ExplanationDistillTrainer(model(0), args, train_dataset=samples(), teacher_model=model(1).eval())
    trainer.train(resume_from_checkpoint=last_checkpoint(folder) is not None)
    trainer.save_model(str(folder / "student"))


def build(folder: Path) -> None:
    """Build a store, or go on with one."""
    StoredReference.build(
        model(1).eval(), samples(), folder / "store", batch_size=2, rows_per_shard=4, dtype="float32", progress=False
    )


def trained(folder: Path) -> dict[str, torch.Tensor]:
    """The student's weights."""
    return load_file(folder / "student" / "model.safetensors")


def built(folder: Path) -> dict[str, torch.Tensor]:
    """The stored maps and logits."""
    rows = StoredReference(folder / "store", verify=True).attach(samples())
    return {
        f"{name} {index}": torch.as_tensor(value) for index in range(SAMPLES) for name, value in rows[index].items()
    }


RUNS: dict[str, tuple[Callable[[Path], None], Callable[[Path], dict[str, torch.Tensor]]]] = {
    "training": (train, trained),
    "store": (build, built),
}


def start(run: str, folder: Path) -> multiprocessing.process.BaseProcess:
    """Start a run in a process of its own, whose output goes to a file beside its folder."""

    def call() -> None:
        torch.set_num_threads(1)
        printed = os.open(f"{folder}.log", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(printed, stream)
        RUNS[run][0](folder)

    process = _CONTEXT.Process(target=call)
    process.start()
    return process


def finish(run: str, folder: Path) -> bool:
    """Run to the end, and tell whether that succeeded."""
    process = start(run, folder)
    process.join()
    if process.exitcode != 0:
        tqdm.write(Path(f"{folder}.log").read_text(encoding="utf-8")[-2000:], sys.stderr)
    return process.exitcode == 0


def equal(run: str, folder: Path, expected: dict[str, torch.Tensor]) -> bool:
    """Compare a run's result bit for bit."""
    found = RUNS[run][1](folder)
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def killed(run: str, folder: Path, seconds: float, expected: dict[str, torch.Tensor], chance: random.Random) -> bool:
    """SIGKILL at a random time, perhaps again while it goes on, then a run to the end."""
    for _ in range(chance.randint(1, 3)):
        process = start(run, folder)
        process.join(chance.uniform(0.05, 1.0) * seconds)
        if process.exitcode is None:
            os.kill(process.pid, signal.SIGKILL)  # type: ignore[arg-type]
            process.join()
    return finish(run, folder) and equal(run, folder, expected)


def damaged(folder: Path, whole: Path, expected: dict[str, torch.Tensor], chance: random.Random) -> bool:
    """A file of the newest checkpoint cut off at a random place, or gone; then a run to the end."""
    shutil.copytree(whole, folder)
    shutil.rmtree(folder / "student")
    newest = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    needed = ["model.safetensors", "terms.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"]
    path = newest / chance.choice([*needed, "trainer_state.json", "config.json"])
    if chance.random() < 0.3:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: chance.randrange(path.stat().st_size)])
    return finish("training", folder) and equal("training", folder, expected)


def damaged_shard(folder: Path, whole: Path, chance: random.Random) -> bool:
    """Bytes of a shard overwritten: opening with `verify=True` must refuse it."""
    shutil.copytree(whole, folder)
    path = chance.choice(sorted((folder / "store").glob("*.arrow")))
    content = bytearray(path.read_bytes())
    place = chance.randrange(len(content) - 8)
    content[place : place + 8] = bytes(255 - byte for byte in content[place : place + 8])
    path.write_bytes(content)
    try:
        built(folder)
    except ValueError:  # a StoreError is one
        return True
    return False


def together(folder: Path, expected: dict[str, torch.Tensor]) -> bool:
    """Two builders of one store at once: both end well."""
    processes = [start("store", folder) for _ in range(2)]
    for process in processes:
        process.join()
    return all(process.exitcode == 0 for process in processes) and equal("store", folder, expected)


def on_a_bad_disk(run: str, kind: str, folder: Path, expected: dict[str, torch.Tensor]) -> bool | None:
    """A run on a full or a read-only disk, which must fail by an OSError, then one with room.

    What the failed run has left is copied to a good disk, as by a user who makes room.

    Returns:
        True if it failed as it should and the second run ended well; None where file systems can't be mounted.
    """
    disk = folder.with_name(f"{folder.name}-disk")
    for made in (disk, folder):
        made.mkdir()
    size = {"full": {"training": "600k", "store": "60k"}[run], "read-only": "1m"}[kind]
    script = f"""
        mount -t tmpfs -o size={size} tmpfs "{disk}" && mkdir "{disk}/run" || exit {NOT_MOUNTED}
        {f'mount -o remount,ro "{disk}"' if kind == "read-only" else ""}
        "{sys.executable}" "{__file__}" --run {run} --folder "{disk}/run"
        code=$?
        cp -r "{disk}/run/." "{folder}/"
        exit $code
    """
    found = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", script], capture_output=True, text=True, check=False
    )
    if found.returncode == NOT_MOUNTED or "unshare:" in found.stderr:
        return None
    refused = found.returncode == 1 and "OSError: [Errno " in found.stderr
    return refused and finish(run, folder) and equal(run, folder, expected)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30, help="SIGKILLs of each kind of run")
    parser.add_argument("--damages", type=int, default=10, help="damaged checkpoints and stores")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", choices=RUNS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.run is not None:
        RUNS[options.run][0](options.folder)
        return
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as place:
        print("| drill | times | went on as if undisturbed |\n|---|---|---|")
        for name, results in drills(Path(place), options, chance):
            done = [result for result in results if result is not None]
            print(f"| {name} | {len(done) or 'not possible here'} | {sum(done) if done else '–'} |", flush=True)


def drills(place: Path, options: argparse.Namespace, chance: random.Random) -> Iterator[tuple[str, list[bool | None]]]:
    """Run all drills: name and results."""
    expected, seconds = {}, {}
    for run in RUNS:
        start_time = time.monotonic()
        if not finish(run, place / f"whole-{run}"):
            raise RuntimeError(Path(place / f"whole-{run}.log").read_text(encoding="utf-8"))
        seconds[run] = time.monotonic() - start_time
        expected[run] = RUNS[run][1](place / f"whole-{run}")
    for run in RUNS:
        numbers = tqdm(range(options.kills), desc=f"Killing the {run}", leave=False)
        yield (
            f"SIGKILL of a {run}, one to three times",
            [killed(run, place / f"killed-{run}-{n}", seconds[run], expected[run], chance) for n in numbers],
        )
    numbers = tqdm(range(options.damages), desc="Damaging", leave=False)
    whole = {run: place / f"whole-{run}" for run in RUNS}
    yield (
        "file of the newest checkpoint gone or cut off",
        [damaged(place / f"damaged-{n}", whole["training"], expected["training"], chance) for n in numbers],
    )
    yield (
        "bytes of a shard overwritten: refused by `verify=True`",
        [damaged_shard(place / f"shard-{n}", whole["store"], chance) for n in range(options.damages)],
    )
    yield "two builders of one store at once", [together(place / f"both-{n}", expected["store"]) for n in range(3)]
    for kind in ("full", "read-only"):
        for run in RUNS:
            yield (
                f"{kind} disk under a {run}: refused, then resumed elsewhere",
                [on_a_bad_disk(run, kind, place / f"{kind}-{run}", expected[run])],
            )


if __name__ == "__main__":
    run_recipe(main)
