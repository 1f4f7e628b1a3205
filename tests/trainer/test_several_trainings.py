"""One student in several trainings and trainers: each trains and measures it as it says."""

from math import nan

import pytest
import torch
from torchvision.transforms import v2
from transformers import TrainerCallback, default_data_collator

from hf_e2kd import StoredReference, TeacherReference
from hf_e2kd.data import MixingCollator
from hf_e2kd.terms.features.attention_transfer import AttentionTransfer
from hf_e2kd.terms.features.hint import Hint
from tests.models import CLASSES, build
from tests.trainer.test_evaluation import of_classes
from tests.training import distiller, logged, samples, weights

SIMILARITY = "eval_explanation_similarity"


@pytest.mark.parametrize("shares", ["student", "reference"])
def test_trainers_that_are_used_in_turn(tmp_path, shares):
    """Prevents: the explainer of the trainer that was made last in figures of another one, and its classes."""
    reference = TeacherReference(build("vit", seed=1))
    student = build("vit")
    first = distiller(student, None, tmp_path, {"explainer": "gradcam"}, references={"teacher": reference})
    expected = first.evaluate()[SIMILARITY]
    if shares == "student":
        other = distiller(student, build("vit", seed=1), tmp_path, {"explainer": "saliency"})
    else:
        settings = {"explainer": "saliency"}
        other = distiller(build("resnet"), None, tmp_path, settings, references={"teacher": reference})
    saliency = other.evaluate()[SIMILARITY]
    assert first.evaluate()[SIMILARITY] == expected != saliency
    assert other.evaluate()[SIMILARITY] == saliency
    assert first.measure_fidelity(costs=False).figures["explanation_similarity"].value == pytest.approx(expected)


def test_a_trainer_that_evaluates_within_another_ones_training(tmp_path):
    """Prevents: a training that goes on by the explainer of an evaluation in its middle, or without its bf16."""
    settings = {"explainer": "gradcam", "bf16": True, "eval_strategy": "steps", "eval_steps": 1, "max_steps": 3}
    found = []
    for measured in (False, True):
        student, teacher = build("vit"), build("vit", seed=1)
        trainer = distiller(student, teacher, tmp_path, settings)
        if measured:
            held_out = distiller(student, teacher, tmp_path, {"explainer": "saliency"})

            class Measure(TrainerCallback):
                def on_evaluate(self, *arguments, held_out=held_out, **keywords):
                    held_out.evaluate()

            trainer.add_callback(Measure())
        trainer.train()
        found.append(weights(student))
    assert torch.equal(*found)


def test_a_compared_student_goes_on_in_its_own_trainer(tmp_path):
    """Prevents: a KeyError at a term's features after the student was measured beside another one."""
    teacher = build("vit", seed=1)
    trainer = distiller(build("vit"), teacher, tmp_path)
    other = distiller(build("vit"), teacher, tmp_path, {"terms": {"hint": {}}})
    other.train()
    loss = other.evaluate()["eval_loss"]
    trainer.measure_fidelity(costs=False, compared={"with a hint": other.student})
    assert other.evaluate()["eval_loss"] == loss


def test_a_term_that_two_trainers_are_given(tmp_path):
    """Prevents: a training that goes on with another one's projections, and a KeyError at its layers."""
    shared = [Hint(weight=0.1), AttentionTransfer(weight=0.1)]
    first = distiller(build("vit"), build("vit", seed=1), tmp_path, terms=shared)
    loss = first.evaluate()["eval_loss"]
    other = distiller(build("resnet"), build("resnet", seed=1), tmp_path, terms=shared)
    assert first.evaluate()["eval_loss"] == loss  # the other one has read the layers of its models alone
    other.train()
    for go_on in (first.train, first.evaluate):
        with pytest.raises(ValueError, match=r"The term 'hint' was given to another trainer too.*copy\.deepcopy"):
            go_on()
    assert "eval_loss" in other.evaluate()


def test_a_student_in_bf16_that_becomes_a_teacher(tmp_path):
    """Prevents: a teacher (an assistant's, a born-again one) that stays in the bf16 of its own training."""
    data, found = samples(4), []
    assistant, saved = build("vit"), build("vit")
    trained = distiller(assistant, build("vit", seed=1), tmp_path, {"bf16": True})
    trained.train()
    saved.load_state_dict(assistant.state_dict())
    for number, teacher in enumerate((assistant, saved)):
        store = StoredReference.build(teacher, data, tmp_path / f"store-{number}", explainer="saliency")
        logits = torch.stack([torch.as_tensor(store.attach(data)[row][store.columns[0]]) for row in range(4)])
        if teacher is assistant:  # as it was
            assert "_original_forward" in vars(teacher)
        student = distiller(build("resnet"), teacher, tmp_path, {"explainer": "saliency"}, eval_dataset=data)
        found.append((logits, student.evaluate()["eval_loss"]))
    assert torch.equal(found[0][0], found[1][0]) and found[0][1] == found[1][1]


def test_arguments_that_change_between_trainings(tmp_path):
    """Prevents: a second training by the temperature, loss or explainer of the first, whose card states the new."""
    changed = {"temperature": 4.0, "explanation_loss": "l1", "explainer": "saliency"}
    student, teacher = build("vit"), build("vit", seed=1)
    trainer = distiller(student, teacher, tmp_path, {"learning_rate": 0.0})
    trainer.train()
    for name, value in changed.items():
        setattr(trainer.args, name, value)
    trainer.train()
    expected = distiller(build("vit"), teacher, tmp_path, {"learning_rate": 0.0, **changed})
    expected.train()
    for name in ("loss_logits", "loss_explanation"):
        assert logged(trainer, name) == logged(expected, name)
    # What a term has learnt stays where weights alone change.
    terms = {"terms": {"hint": {}}, "explanation_weight": 0.0, "evaluate_explanations": False}
    trainer = distiller(build("vit"), teacher, tmp_path, terms)
    trainer.train()
    hint = trainer.terms["hint"]
    trainer.args.explanation_weight = 1.0
    trainer.train()
    assert trainer.terms["hint"] is hint and logged(trainer, "loss_explanation")
    trainer.args.explanation_target = "label"
    with pytest.raises(ValueError, match="explanation_target was changed"):
        trainer.train()
    trainer.args.explanation_target, trainer.args.temperature = "teacher_top", -1.0
    with pytest.raises(ValueError, match="temperature"):
        trainer.train()


@pytest.mark.parametrize("mode", ["absolute", "relative"])
def test_explanations_that_a_callback_switches_on(tmp_path, mode):
    """Prevents: an AssertionError, or an absolute λ, where a training begins without explanations."""

    class Begin(TrainerCallback):
        def on_step_begin(self, args, state, control, **keywords):
            args.explanation_weight = float(state.global_step >= 2)

    settings = {"explanation_weight": 0.0, "evaluate_explanations": False, "explanation_weight_mode": mode}
    data = {"callbacks": [Begin()]}
    trainer = distiller(build("vit"), build("vit", seed=1), tmp_path, {**settings, "max_steps": 4}, **data)
    trainer.train()
    assert len(logged(trainer, "loss_explanation")) == 2
    assert len(logged(trainer, "explanation_weight")) == (2 if mode == "relative" else 0)


def test_best_by_a_loss_that_evaluations_lack(tmp_path):
    """Prevents: a KeyError at the first evaluation."""
    settings = {"logits_weight": 0.0, "evaluate_explanations": False, "metric_for_best_model": "loss"}
    with pytest.raises(ValueError, match="evaluate_explanations=False leaves evaluations without them"):
        distiller(build("vit"), build("vit", seed=1), tmp_path, settings)
    distiller(build("vit"), build("vit", seed=1), tmp_path, {**settings, "evaluate_explanations": True})


def test_cards_of_a_student_that_is_trained_several_times(tmp_path):
    """Prevents: a card that states the last training's steps as if they were all that the student had."""
    settings = {"save_strategy": "steps", "save_steps": 1}
    trainer = distiller(build("vit"), build("vit", seed=1), tmp_path, settings)
    trainer.train()
    assert trainer.steps_of_other_trainings == 0
    trainer.train()
    trainer.create_model_card()
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "2 optimizer steps, 0.5 epochs, " in card and ", beside 2 optimizer steps of other trainings" in card
    after = distiller(trainer.student, build("vit", seed=1), tmp_path / "after")
    after.train()
    assert after.steps_of_other_trainings == trainer.steps_of_other_trainings == 4
    # A checkpoint's weights take the place of what was trained before.
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert trainer.steps_of_other_trainings == 0


def test_data_and_collators_that_change_between_trainings(tmp_path):
    """Prevents: labels of other classes, which were refused at the start; and an AttributeError of a collator."""
    trainer = distiller(build("vit"), build("vit", seed=1), tmp_path, {"task_weight": 1.0})
    trainer.data_collator = default_data_collator
    trainer.train()
    trainer.data_collator = MixingCollator(v2.MixUp(num_classes=CLASSES))
    trainer.train()
    trainer.data_collator = lambda samples: {**default_data_collator(samples), "pixel_values": torch.full((4, 3), nan)}
    with pytest.raises(ValueError, match="'pixel_values' holds NaN"):
        trainer.train()
    trainer.data_collator = default_data_collator
    trainer.train_dataset = of_classes(["lamp", "chair", "table", "desk", "bed"])
    with pytest.raises(ValueError, match="labels are not the student's classes"):
        trainer.train()


class Averaging(torch.optim.SGD):
    """An optimizer whose evaluated weights aren't those that it trains, as schedule-free ones have them."""

    offset = 0.01
    trains = True

    def train(self):
        self.shift(True)

    def eval(self):
        self.shift(False)

    def shift(self, trains):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data.add_((self.trains - trains) * self.offset)
        self.trains = trains


@pytest.mark.parametrize("best", [False, True])
def test_optimizers_that_evaluate_other_weights(tmp_path, best):
    """Prevents: a student that is saved with other weights than it is measured with, or its best weights changed."""
    settings = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
    settings = {"max_steps": 3, **(settings | {"load_best_model_at_end": True} if best else {})}
    student = build("vit")
    optimizers = (Averaging(student.parameters(), lr=0.05), None)
    trainer = distiller(student, build("vit", seed=1), tmp_path, settings, optimizers=optimizers)
    trainer.train()
    returned = weights(student)
    loss = trainer.evaluate()["eval_loss"]
    assert torch.equal(weights(student), returned)
    assert not best or loss == pytest.approx(trainer.state.best_metric)
