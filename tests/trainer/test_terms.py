"""Which terms are logged, over what they are averaged, and when explanations are matched."""

import pytest
import torch

from hf_e2kd import ExplanationDistillTrainer
from tests.models import CLASSES, build
from tests.training import arguments, distiller, logged, samples, stock_arguments


class MicroBatches:
    """Keeps what each micro-batch added to the sums."""

    def __init__(self):
        self.seen = []

    def watch(self, trainer):
        record = trainer._logged.add

        def kept(terms):
            self.seen.append({name: value.item() for name, value in terms.items()})
            record(terms)

        trainer._logged.add = kept


def test_terms_are_averaged_over_micro_batches_and_steps(tiny, tmp_path):
    """A logged term that shows the last micro-batch only is noise, and one that sums them grows with accumulation."""
    settings = {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "logging_steps": 2,
        "max_steps": 4,
        "task_weight": 0.5,
    }
    trainer = distiller(tiny("vit"), build("resnet", seed=1), tmp_path, settings)
    batches = MicroBatches()
    batches.watch(trainer)
    trainer.train()
    assert len(batches.seen) == 8
    for name in ("loss_task", "loss_logits", "loss_explanation", "zero_student_maps"):
        means = [sum(seen[name] for seen in batches.seen[i : i + 4]) / 4 for i in (0, 4)]
        assert logged(trainer, name) == pytest.approx(means, rel=1e-5)
    sums = [
        0.5 * task + logits + explanation
        for task, logits, explanation in zip(
            *(logged(trainer, f"loss_{name}") for name in ("task", "logits", "explanation")), strict=True
        )
    ]
    assert logged(trainer, "loss") == pytest.approx(sums, rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "terms"),
    [
        ({}, {"loss_logits", "loss_explanation"}),
        ({"logits_weight": 0.0}, {"loss_explanation"}),
        ({"explanation_weight": 0.0}, {"loss_logits"}),
        ({"explanation_weight": 0.0, "task_weight": 1.0}, {"loss_task", "loss_logits"}),
    ],
)
def test_terms_without_weight_cost_nothing(tiny, tmp_path, settings, terms):
    """A term that is switched off must be neither computed nor logged: λ = 0 is plain distillation at its price."""
    trainer = distiller(tiny("vit"), build("vit", seed=1), tmp_path, {**settings, "max_steps": 1})
    trainer.train()
    entry = trainer.state.log_history[0]
    assert {name for name in entry if name.startswith("loss_")} == terms


def test_every_nth_step(tiny, tmp_path):
    """`explanation_interval` that counts micro-batches instead of optimizer steps would split a step's accumulation."""
    settings = {
        "explanation_interval": 2,
        "max_steps": 4,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
    }
    trainer = distiller(tiny("vit"), build("vit", seed=1), tmp_path, settings)
    batches = MicroBatches()
    batches.watch(trainer)
    trainer.train()
    matched = ["loss_explanation" in seen for seen in batches.seen]
    assert matched == [True, True, False, False, True, True, False, False]
    assert all("loss_logits" in seen for seen in batches.seen)


def test_warm_up_rises_from_zero(tiny, tmp_path):
    """λ that starts at its full value would defeat the warm-up, and one that counts from 1 would never be 0."""
    settings = {"explanation_warmup_ratio": 0.5, "max_steps": 8, "explanation_weight": 4.0, "logits_weight": 1.0}
    trainer = distiller(tiny("vit"), build("vit", seed=1), tmp_path, settings, train_dataset=samples(32))
    trainer.train()
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert "loss_explanation" not in entries[0]
    weights = [(entry["loss"] - entry["loss_logits"]) / entry["loss_explanation"] for entry in entries[1:]]
    assert weights == pytest.approx([1, 2, 3, 4, 4, 4, 4], rel=1e-3)


def test_warm_up_leaves_the_evaluation_alone(tiny, tmp_path):
    """An `eval_loss` that grows with λ would make the untrained student of the first evaluation the best one."""
    settings = {"explanation_warmup_ratio": 1.0, "learning_rate": 0.0, "max_steps": 4}
    settings |= {"eval_strategy": "steps", "eval_steps": 1}
    trainer = distiller(tiny("vit"), build("vit", seed=1), tmp_path, settings)
    trainer.train()
    losses = logged(trainer, "eval_loss")
    assert len(losses) == 4
    assert losses == pytest.approx([losses[0]] * 4)
    assert losses[0] == pytest.approx(trainer.evaluate()["eval_loss"])


def test_a_second_training_starts_its_own_log(tiny, tmp_path):
    """Terms left from a run whose last steps weren't logged would enter the first line of the next one."""
    trainer = distiller(tiny("vit"), build("vit", seed=1), tmp_path, {"max_steps": 3, "logging_steps": 2})
    trainer.train()
    batches = MicroBatches()
    batches.watch(trainer)
    trainer.train()
    mean = sum(seen["loss_logits"] for seen in batches.seen[:2]) / 2
    assert logged(trainer, "loss_logits")[0] == pytest.approx(mean, rel=1e-5)


def test_smaller_batches_start_their_own_log(tiny, tmp_path, monkeypatch):
    """Prevents: the batches before auto_find_batch_size began anew in the means of the first log."""
    settings = {"max_steps": 2, "logging_steps": 2, "auto_find_batch_size": True, "per_device_train_batch_size": 4}
    data = samples(32)
    trainer = distiller(tiny("vit"), build("vit", seed=1), tmp_path, settings, train_dataset=data)
    compute_loss, sizes = trainer.compute_loss, []

    def full(model, inputs, *arguments, **keywords):
        sizes.append(len(inputs["pixel_values"]))
        if sizes == [4, 4]:
            raise RuntimeError("CUDA out of memory.")
        return compute_loss(model, inputs, *arguments, **keywords)

    monkeypatch.setattr(trainer, "compute_loss", full)
    trainer.train()
    assert sizes == [4, 4, 3, 3]
    (entry,) = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert entry["loss"] == pytest.approx(entry["loss_logits"] + entry["loss_explanation"], rel=1e-5)


def test_zero_maps_of_the_student_count_as_the_worst_loss(tiny, tmp_path, caplog):
    """Prevents: a student whose maps have died, with a perfect `eval_loss` that `load_best_model_at_end` picks."""
    student = tiny("resnet")
    with torch.no_grad():
        student.classifier[1].weight.zero_()  # no logit depends on the features, so each map is zero
    settings = {"max_steps": 2, "explanation_weight": 2.0, "learning_rate": 0.0}
    trainer = distiller(student, build("resnet", seed=1), tmp_path, settings)
    with caplog.at_level("WARNING", "hf_e2kd"):
        trainer.train()
    assert logged(trainer, "zero_student_maps") == [1.0, 1.0]
    assert logged(trainer, "zero_teacher_maps") == [0.0, 0.0]
    assert logged(trainer, "loss_explanation") == [1.0, 1.0]
    assert logged(trainer, "loss") == pytest.approx([2 + loss for loss in logged(trainer, "loss_logits")])
    warnings = [record.message for record in caplog.records if "all-zero" in record.message]
    assert len(warnings) == 1 and warnings[0].startswith("100% of the student's attribution maps are all-zero.")
    assert torch.cat([p.flatten() for p in student.parameters()]).isfinite().all()
    with torch.no_grad():
        student.classifier[1].weight.zero_()
    metrics = trainer.evaluate()
    # A student without maps is not a perfect one.
    assert metrics["eval_explanation_similarity"] == 0
    assert metrics["eval_zero_student_maps"] == 1
    assert metrics["eval_loss"] > 2


def test_zero_maps_of_the_teacher_cost_nothing(tiny, tmp_path, caplog):
    """Prevents: a loss that can't be lowered, where the teacher gives nothing to match, or which goes unseen."""
    teacher = build("resnet", seed=1)
    with torch.no_grad():
        teacher.classifier[1].weight.zero_()
    trainer = distiller(tiny("resnet"), teacher, tmp_path, {"max_steps": 1})
    with caplog.at_level("WARNING", "hf_e2kd"):
        trainer.train()
    assert logged(trainer, "zero_teacher_maps") == [1.0]
    assert logged(trainer, "loss_explanation") == [0.0]
    assert "100% of the teacher's attribution maps are all-zero." in caplog.text


@pytest.mark.parametrize("loss", ["cosine", "mse", "l1", "pearson", "kl"])
def test_losses_by_name(tiny, tmp_path, loss):
    """Each registered loss must train from the argument's name alone."""
    trainer = distiller(tiny("vit"), build("resnet", seed=1), tmp_path, {"max_steps": 1, "explanation_loss": loss})
    trainer.train()
    assert logged(trainer, "loss_explanation")[0] > 0


def test_label_target_explains_the_label(tiny, tmp_path):
    """`explanation_target='label'` that still explained the teacher's top class would change nothing."""
    trainer = distiller(tiny("vit"), build("vit", seed=1), tmp_path, {"max_steps": 1, "explanation_target": "label"})
    batch = {"pixel_values": torch.stack([s["pixel_values"] for s in samples(4)]), "labels": torch.tensor([4, 3, 2, 1])}
    assert trainer.references["teacher"](batch).target.tolist() == [4, 3, 2, 1]
    trainer.train()


def test_plain_training_arguments_take_the_defaults(tiny, tmp_path):
    """The two-line change must work without also changing the class of the arguments."""
    terms = []
    for make in (stock_arguments, arguments):
        trainer = ExplanationDistillTrainer(
            tiny("vit"),
            make(tmp_path),
            train_dataset=samples(8),
            teacher_model=build("vit", seed=1),
        )
        trainer.train()
        terms.append([{k: v for k, v in entry.items() if "loss" in k} for entry in trainer.state.log_history])
    assert terms[0] == terms[1]


def test_batch_without_any_term_is_refused(tiny, tmp_path):
    """Training on labels that aren't there would run and learn nothing."""
    settings = {"task_weight": 1.0, "logits_weight": 0.0, "explanation_weight": 0.0}
    trainer = distiller(tiny("vit"), None, tmp_path, settings, train_dataset=samples(8, labels=False))
    with pytest.raises(ValueError, match=r"first batch has no labels.*pixel_values.*task_weight=0"):
        trainer.train()


def test_unlabelled_data_distils(tiny, tmp_path):
    """Distillation needs no labels: neither training nor evaluation nor prediction may ask for them."""
    data = {"train_dataset": samples(8, labels=False), "eval_dataset": samples(5, labels=False)}
    trainer = distiller(tiny("vit"), build("vit", seed=1), tmp_path, **data)
    trainer.train()
    assert logged(trainer, "loss_logits")
    assert not logged(trainer, "loss_task")
    metrics = trainer.evaluate()
    assert {"eval_loss", "eval_agreement", "eval_explanation_similarity"} <= metrics.keys()
    assert "eval_accuracy" not in metrics
    output = trainer.predict(samples(5, labels=False))
    assert output.predictions.shape == (5, CLASSES)
    assert "test_agreement" in output.metrics
