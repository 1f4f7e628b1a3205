"""Two processes, started by `accelerate launch`, against one process with the whole batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.distributed.worker import EVALUATION_SIZES, STUDENTS, collect
from tests.training import relative_error

ROOT = Path(__file__).parents[2]
COMPARABLE = [name for name in STUDENTS if name != "bert_share"]
EXACT = [name for name in COMPARABLE if name != "vit_bf16"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return collect(tmp_path_factory.mktemp("alone"), processes=1)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What either rank saw: all scenarios in one launch, because starting the processes takes longest."""
    folder = tmp_path_factory.mktemp("ranks")
    line = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    line += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    line += ["--num_cpu_threads_per_process", "1", str(ROOT / "tests/distributed/worker.py"), str(folder)]
    # No configuration of the machine's user, and no variable of a launcher around this test.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("ACCELERATE_", "MASTER_"))}
    environment |= {"PYTHONPATH": str(ROOT), "HF_HOME": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, env=environment, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in (0, 1)]


@pytest.mark.parametrize("name", EXACT)
def test_gradients_and_weights(alone, ranks, name):
    """An explanation outside the wrapped forward escapes the all-reduce: each rank would train its own student."""
    for rank in ranks:
        assert len(rank[name]["gradients"]) == len(alone[name]["gradients"]) == 2
        for found, expected in zip(rank[name]["gradients"], alone[name]["gradients"], strict=True):
            assert relative_error(found, expected) < 1e-5
        assert relative_error(rank[name]["weights"], alone[name]["weights"]) < 1e-6


@pytest.mark.parametrize("name", STUDENTS)
def test_ranks_agree(ranks, name):
    """Ranks that drift apart show nothing in the loss; the saved student is then one of several."""
    first, second = (rank[name] for rank in ranks)
    assert all(map(torch.equal, first["gradients"], second["gradients"]))
    assert torch.equal(first["weights"], second["weights"])


@pytest.mark.parametrize("name", COMPARABLE)
def test_terms_are_averaged_over_ranks(alone, ranks, name):
    """A term logged from rank 0 alone describes half of the batch."""
    tolerance = 0.05 if name == "vit_bf16" else 1e-5
    for rank in ranks:
        for term, values in alone[name]["terms"].items():
            assert values, term
            assert rank[name]["terms"][term] == pytest.approx(values, rel=tolerance), term


@pytest.mark.parametrize("size", EVALUATION_SIZES)
def test_metrics_are_exact(alone, ranks, size):
    """Samples repeated to fill the ranks' last batch would count twice: 13, 3 and 1 samples divide unevenly."""
    for call, prefix in (("evaluate", "eval"), ("predict", "test")):
        expected = alone[f"{call} {size}"]["metrics"]
        names = [
            f"{prefix}_{name}"
            for name in (
                *("loss", "accuracy", "agreement", "teacher_accuracy", "explanation_similarity"),
                *("energy_pointing_game", "teacher_energy_pointing_game", "zero_student_maps", "zero_teacher_maps"),
            )
        ]
        for rank in ranks:
            found = rank[f"{call} {size}"]["metrics"]
            for name in names[1:] if size % 8 else names:
                assert found[name] == pytest.approx(expected[name], abs=1e-6), name
    for rank in ranks:
        torch.testing.assert_close(
            rank[f"predict {size}"]["logits"], alone[f"predict {size}"]["logits"], atol=1e-5, rtol=1e-5
        )


def test_evaluation_before_training(alone, ranks):
    """An evaluation that marks the student as prepared would leave it without the all-reduce in the training after."""
    for rank in ranks:
        assert relative_error(rank["evaluate first"]["weights"], alone["evaluate first"]["weights"]) < 1e-6
