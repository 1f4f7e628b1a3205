"""Two processes, in the environment that `accelerate launch` gives them, against one process with the whole batch."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageClassification

from tests.distributed.worker import EVALUATION_SIZES, SHARDED, SHARDED_TEACHERS, STUDENTS, ZERO, collect, work
from tests.processes import finish, launch
from tests.training import relative_error

COMPARABLE = [name for name in STUDENTS if name not in ("bert_share", "vit_relative")]
EXACT = [name for name in COMPARABLE if name != "vit_bf16"]


def launched(config: str, folder: Path, kind: str) -> list[dict]:
    """What either of two processes saw, which one of the recipes' configurations started.

    All scenarios and a recipe run in one launch.
    """
    finish(launch(config, work, folder, kind, folder=folder), folder)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in (0, 1)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return collect(tmp_path_factory.mktemp("alone"), processes=1)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return launched("ddp_cpu", tmp_path_factory.mktemp("ranks"), "ddp")


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
    assert torch.equal(first["statistics"], second["statistics"])


@pytest.mark.parametrize("name", ["vit_hint", "vit_norms", "vit_factors", "vit_crd", "vit_sskd"])
def test_a_terms_own_parameters(alone, ranks, name):
    """DDP doesn't know a term's projection: each rank would train its own, and the student's hints would differ."""
    expected = alone[name]["moved terms"]
    assert expected.norm() > 0
    for rank in ranks:
        assert relative_error(rank[name]["moved terms"], expected) < 1e-5
        assert torch.equal(rank[name]["moved terms"], ranks[0][name]["moved terms"])


@pytest.mark.parametrize("name", ["vit_norms", "vit_crd"])
def test_a_terms_own_statistics(alone, ranks, name):
    """Statistics or banks of one rank's rows differ between ranks, and a checkpoint holds those of the first alone."""
    for rank in ranks:
        assert relative_error(rank[name]["statistics"], alone[name]["statistics"]) < 1e-5
        assert torch.equal(rank[name]["statistics"], ranks[0][name]["statistics"])


def test_a_stage_without_the_student(alone, ranks):
    """Weight decay of a student that the stage doesn't run, or one that isn't wrapped for the training after it."""
    for found in (alone, *ranks):
        stage = found["stage without the student"]
        assert torch.equal(*stage["student"]) and not torch.equal(*stage["term"])
        expected = alone["stage without the student"]
        assert relative_error(stage["term"][1], expected["term"][1]) < 1e-5
    assert torch.equal(*(rank["stage without the student"]["weights"] for rank in ranks))


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
    for call, prefix in (("evaluate", "eval"), ("predict", "test"), ("stream", "eval")):
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
            for name in names:
                assert found[name] == pytest.approx(expected[name], abs=1e-6), name
    for rank in ranks:
        torch.testing.assert_close(
            rank[f"predict {size}"]["logits"], alone[f"predict {size}"]["logits"], atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("size", EVALUATION_SIZES)
def test_groups_are_exact(alone, ranks, size):
    """A group's number gathered in another order than its sample's values; groups that one rank alone has seen."""
    expected = {name: value for name, value in alone[f"groups {size}"].items() if "/" in name}
    assert {"eval_accuracy/sea", "eval_explanation_similarity/sea"} <= set(expected)
    assert ("eval_accuracy/land" in expected) == (size > 1)
    for rank in ranks:
        found = {name: value for name, value in rank[f"groups {size}"].items() if "/" in name}
        assert found == pytest.approx(expected, abs=1e-6)


def test_fidelity_is_that_of_one_process(alone, ranks):
    """Prevents: noise by the rank's own drawings, and a chance level of maps that fill up the last batch."""
    expected = alone["fidelity"]
    assert {"control, kl", "chance, shuffled", "held-out chance, shuffled"} <= set(expected)
    for rank in ranks:
        for name, figures in rank["fidelity"].items():
            assert figures == pytest.approx(expected[name], abs=1e-6), name
        assert list(rank["fidelity"]) == list(expected)


def test_evaluation_before_training(alone, ranks):
    """An evaluation that marks the student as prepared would leave it without the all-reduce in the training after."""
    for rank in ranks:
        assert relative_error(rank["evaluate first"]["weights"], alone["evaluate first"]["weights"]) < 1e-6


def test_labels_on_one_rank_alone(ranks):
    """Ranks that log different terms wait for each other for ever, or log one term under another's name."""
    first, second = (rank["labels on one rank"] for rank in ranks)
    assert torch.equal(first["weights"], second["weights"])
    assert first["task"] == second["task"] and len(first["task"]) == len(first["all"]) == 2


# --- FSDP2 ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """Of students that FSDP2 shards block by block."""
    return launched("fsdp2", tmp_path_factory.mktemp("sharded"), "fsdp2")


@pytest.mark.parametrize("name", SHARDED)
def test_sharded_gradients_and_weights(alone, sharded, name):
    """An explanation that crosses a block which FSDP2 frees in between is a segmentation fault, or wrong."""
    for rank in sharded:
        assert len(rank[name]["sharded"]) > 2
        assert len(rank[name]["gradients"]) == len(alone[name]["gradients"]) == 2
        for found, expected in zip(rank[name]["gradients"], alone[name]["gradients"], strict=True):
            # GradCAM reads a sharded student by a hook, and another order of sums.
            assert relative_error(found, expected) < 3e-5
        assert relative_error(rank[name]["weights"], alone[name]["weights"]) < 1e-6
        for term, values in alone[name]["terms"].items():
            assert rank[name]["terms"][term] == pytest.approx(values, rel=1e-5), term


@pytest.mark.parametrize("name", SHARDED_TEACHERS)
def test_sharded_teachers(alone, sharded, name):
    """A teacher too large for one device, whose freed blocks would say something else or stay gathered."""
    for rank in sharded:
        found = rank[f"{name} and teacher"]
        assert found["share"] < 0.6
        for reference_output, expected in zip(*found["reference outputs"], strict=True):
            assert relative_error(reference_output, expected) < 1e-5
        torch.testing.assert_close(*found["without maps"])
        for gradients, expected in zip(found["gradients"], alone[name]["gradients"], strict=True):
            assert relative_error(gradients, expected) < 3e-5
        assert relative_error(found["weights"], alone[name]["weights"]) < 1e-6


@pytest.mark.parametrize("name", ["vit", "vit_attention"])
def test_sharded_students_are_evaluated(sharded, name):
    """An evaluation that leaves weights gathered trains on with old ones, or differs between ranks."""
    first, second = (rank[name] for rank in sharded)
    for metric in ("eval_accuracy", "eval_agreement", "eval_explanation_similarity"):
        assert first["metrics"][metric] == second["metrics"][metric]
    assert torch.equal(first["weights"], first["weights after"])


def test_training_again(alone, ranks, sharded):
    """A second training, after an evaluation, that goes on with other weights or without the all-reduce."""
    for rank in [*ranks, *sharded]:
        assert relative_error(rank["trained twice"]["weights"], alone["trained twice"]["weights"]) < 1e-6


def test_sharded_students_are_trained_before_they_are_evaluated(sharded):
    """Accelerate's own message speaks of an optimizer that the caller never made."""
    assert "Call train() before evaluate()" in sharded[0]["evaluate first"]["message"]


def test_sharded_students_are_saved_and_resumed(sharded):
    """A checkpoint of one rank's share, or a saved student that only FSDP2 can load."""
    first, second = (rank["saved"] for rank in sharded)
    assert relative_error(first["resumed"], first["weights"]) < 1e-6
    assert torch.equal(first["loaded"], first["weights"])
    assert first["class"] == ["ViTForImageClassification"]
    assert torch.equal(first["logits"], second["logits"])
    assert first["best step"] < 3 and torch.equal(first["best"], first["best checkpoint"])


# --- DeepSpeed --------------------------------------------------------------------------------------------------------


def test_zero2(alone, tmp_path):
    """An explanation whose gradient DeepSpeed partitions before all of it has come trains another student."""
    pytest.importorskip("deepspeed")
    for rank in launched("zero2", tmp_path, "zero2"):
        for name in ZERO:
            assert rank[name]["engine"] == "DeepSpeedEngine"
            assert relative_error(rank[name]["weights"], alone[name]["weights"]) < 1e-6


# --- Recipes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("started", ["ranks", "sharded"])
def test_a_recipe_runs_in_two_processes(started, request):
    """A configuration that doesn't start, figures that differ between ranks, a student that one rank alone can load."""
    first, second = (rank["recipe"]["summary"] for rank in request.getfixturevalue(started))
    outputs = request.getfixturevalue(started)[0]["recipe"]["outputs"]
    assert first == second
    assert 0 < first["in_distribution"]["e²KD"]["agreement"]["mean"] <= 1
    assert {"student", "student-kd", "teacher", "results.json"} <= {path.name for path in outputs.iterdir()}
    assert {"README.md", "explanations.png", "fidelity.json"} <= {path.name for path in (outputs / "student").iterdir()}
    student = AutoModelForImageClassification.from_pretrained(outputs / "student")
    assert student(torch.zeros(1, 3, 36, 36)).logits.isfinite().all()
