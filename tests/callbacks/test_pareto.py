"""Checkpoints of the models that no other one beats."""

import json

import pytest

from hf_e2kd.callbacks import ParetoCheckpoints
from tests.models import build
from tests.training import distiller

# By evaluation: the second beats the first in both, the third in one, the fourth is beaten, the fifth equals the third.
MEASURES = [(0.5, 0.2), (0.6, 0.3), (0.4, 0.7), (0.4, 0.5), (0.401, 0.7)]


def trainer_of(tiny, folder, callback, measures=MEASURES, steps=5, **settings):
    settings = {"eval_strategy": "steps", "eval_steps": 1, "max_steps": steps, "save_strategy": "no", **settings}
    trainer = distiller(tiny("convnext"), build("convnext", seed=1), folder, settings, callbacks=[callback])
    own = trainer.evaluation_loop

    def scripted(*arguments, **keywords):
        output = own(*arguments, **keywords)
        f1, iou = measures[trainer.state.global_step - 1]
        output.metrics.update(eval_f1=f1, eval_iou=iou)
        return output

    trainer.evaluation_loop = scripted
    return trainer


def checkpoints(folder):
    return sorted(path.name for path in folder.glob("checkpoint-*"))


def test_only_the_fronts_checkpoints_stay(tiny, tmp_path):
    """Prevents: beaten models that fill the disk, or a front's model removed with them."""
    callback = ParetoCheckpoints(["f1", "iou"])
    trainer_of(tiny, tmp_path, callback).train()
    callback.on_evaluate(None, None, None, {"eval_f1": 0.9, "eval_iou": 0.9})  # the test data, after the training
    assert [point["step"] for point in callback.front] == [2, 3]
    assert checkpoints(tmp_path) == ["checkpoint-2", "checkpoint-3"]
    written = json.loads((tmp_path / "pareto.json").read_text())
    assert [point["f1"] for point in written["points"]] == [f1 for f1, _ in MEASURES]
    assert written["front"] == [{"step": 2, "f1": 0.6, "iou": 0.3}, {"step": 3, "f1": 0.4, "iou": 0.7}]


def test_a_resumed_training_remembers_the_front(tiny, tmp_path):
    """Prevents: a beaten model on the front of a training that was interrupted."""
    callback = ParetoCheckpoints(["f1", "iou"])
    trainer_of(tiny, tmp_path, ParetoCheckpoints(["f1", "iou"]), steps=3).train()
    trainer_of(tiny, tmp_path, callback).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert [point["step"] for point in callback.points] == [1, 2, 3, 4, 5]
    assert checkpoints(tmp_path) == ["checkpoint-2", "checkpoint-3"]


def test_a_new_training_replaces_the_earlier_front(tiny, tmp_path):
    """Prevents: models of another training beside the front, or the earlier ones gone before there is a new one."""
    trainer_of(tiny, tmp_path, ParetoCheckpoints(["f1", "iou"]), steps=3).train()
    trainer_of(tiny, tmp_path, ParetoCheckpoints(["f1", "iou"]), steps=1).train()
    assert checkpoints(tmp_path) == ["checkpoint-1"]


def test_settings_that_would_interfere_are_refused(tiny, tmp_path):
    with pytest.raises(ValueError, match="Set save_strategy='no'"):
        trainer_of(tiny, tmp_path, ParetoCheckpoints(["f1"]), save_strategy="steps", save_steps=1).train()
    with pytest.raises(ValueError, match="compares evaluations"):
        trainer_of(tiny, tmp_path, ParetoCheckpoints(["f1"]), eval_strategy="no").train()


def test_a_missing_measure_is_named(tiny, tmp_path):
    with pytest.raises(ValueError, match="no eval_f2. It has: .*eval_agreement.*eval_f1"):
        trainer_of(tiny, tmp_path, ParetoCheckpoints(["f1", "f2"])).train()


def test_an_evaluation_before_the_first_step(tiny, tmp_path):
    """Prevents: a front on which the student stands as it began, of which there is no checkpoint."""
    callback = ParetoCheckpoints(["f1", "iou"])
    # The last of the measures is that of step 0, and beats the first step's.
    trainer_of(tiny, tmp_path, callback, [(0.5, 0.2), (0.9, 0.9)], steps=1, eval_on_start=True).train()
    assert [point["step"] for point in callback.front] == [1]
    assert checkpoints(tmp_path) == ["checkpoint-1"]
