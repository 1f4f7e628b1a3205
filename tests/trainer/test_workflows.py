"""What users do around a training: choose the best checkpoint, stop early, search, resume, save and load."""

import json

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils import prune
from transformers import (
    AutoModelForImageClassification,
    EarlyStoppingCallback,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_utils import HPSearchBackend, get_last_checkpoint

from hf_e2kd.trainer.checkpoints import load_weights
from tests.models import CLASS_NAMES, build
from tests.training import distiller, logged, relative_error, samples, weights

EVALUATED = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}


@pytest.mark.parametrize("metric", ["eval_agreement", "eval_explanation_similarity", "eval_loss"])
def test_best_model_by_a_fidelity_metric(tiny, tmp_path, metric):
    """Metrics added after the best checkpoint is chosen would raise a KeyError, or keep the last student."""
    settings = {**EVALUATED, "load_best_model_at_end": True, "metric_for_best_model": metric, "max_steps": 4}
    trainer = distiller(tiny("vit"), build("vit", seed=1), tmp_path, {**settings, "learning_rate": 0.5})
    trainer.train()
    values = logged(trainer, metric)
    best = min(values) if metric == "eval_loss" else max(values)
    assert len(set(values)) > 1
    assert trainer.state.best_metric == best
    assert trainer.evaluate()[metric] == pytest.approx(best)


def test_a_metric_that_no_evaluation_set_has(tiny, tmp_path):
    """Prevents: a KeyError after the first of several sets' evaluations, whose metrics begin with the sets' names."""
    sets = {"eval_dataset": {"photos": samples(4, seed=7), "drawings": samples(4, seed=8)}}
    settings = {**EVALUATED, "load_best_model_at_end": True}
    for metric, shown in ((None, "loss"), ("eval_agreement", "agreement")):
        with pytest.raises(ValueError, match=f"Set it to photos_{shown} or drawings_{shown}"):
            distiller(tiny("vit"), build("vit"), tmp_path, {**settings, "metric_for_best_model": metric}, **sets)
    chosen = {"metric_for_best_model": "drawings_agreement"}
    trainer = distiller(tiny("vit"), build("vit", seed=1), tmp_path, {**settings, **chosen}, **sets)
    trainer.train()
    assert trainer.state.best_metric == max(logged(trainer, "eval_drawings_agreement"))
    distiller(tiny("vit"), build("vit"), tmp_path, {"metric_for_best_model": "agreement"}, **sets)


def test_early_stopping_on_agreement(tiny, tmp_path):
    """A callback that doesn't find the metric would train to the end."""
    settings = {**EVALUATED, "load_best_model_at_end": True, "metric_for_best_model": "eval_agreement"}
    settings |= {"max_steps": 8, "learning_rate": 0.0}
    callbacks = [EarlyStoppingCallback(early_stopping_patience=2)]
    trainer = distiller(tiny("vit"), build("vit", seed=1), tmp_path, settings, callbacks=callbacks)
    trainer.train()
    assert trainer.state.global_step == 3


def test_hyperparameter_search(tiny, tmp_path):
    """A search makes new students and changes the arguments: λ read once, or a student without maps, would fool it."""
    optuna = pytest.importorskip("optuna")
    made, entries = [], []

    class Entries(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **_):
            entries.append(dict(logs))

    def model_init():
        made.append(tiny("vit"))
        return made[-1]

    # An integer given for a weight must not turn the trial's 0.25 into 0.
    settings = {"explanation_weight": 1, "logits_weight": 1, "max_steps": 2}
    teacher = build("vit", seed=1)
    trainer = distiller(None, teacher, tmp_path, settings, model_init=model_init, callbacks=[Entries()])
    weights_tried = [0.25, 2.5]
    best = trainer.hyperparameter_search(
        hp_space=lambda trial: {
            "explanation_weight": trial.suggest_categorical("explanation_weight", weights_tried),
            "logits_weight": trial.suggest_float("logits_weight", 0.0, 0.0),
        },
        backend="optuna",
        n_trials=2,
        direction="maximize",
        sampler=optuna.samplers.GridSampler({"explanation_weight": weights_tried, "logits_weight": [0.0]}, seed=0),
        compute_objective=lambda metrics: metrics["eval_explanation_similarity"],
    )
    assert len({id(model) for model in made}) >= 3
    assert best.objective == max(e["eval_explanation_similarity"] for e in entries if "eval_agreement" in e)
    steps = [entry for entry in entries if "loss" in entry]
    assert sorted(round(entry["loss"] / entry["loss_explanation"], 3) for entry in steps) == [0.25, 0.25, 2.5, 2.5]


@pytest.mark.parametrize("mine", [False, True])
def test_a_search_without_an_objective(tiny, tmp_path, mine):
    """Prevents: the sum of our metrics, most of which are better the larger, as what a search by the loss minimises."""
    pytest.importorskip("optuna")
    own = {"compute_metrics": lambda evaluation: {"mine": 0.25}} if mine else {}
    trainer = distiller(None, build("vit", seed=1), tmp_path, EVALUATED, model_init=lambda: tiny("vit"), **own)
    trainer.evaluate()
    best = trainer.hyperparameter_search(
        lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 0.01, 0.02)}, backend="optuna", n_trials=1
    )
    assert best.objective == (0.25 if mine else logged(trainer, "eval_loss")[-1])
    if not mine:
        with pytest.raises(ValueError, match="direction='maximize' would choose the worst. Give an objective"):
            trainer.hyperparameter_search(direction="maximize")


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"explanation_weight_mode": "relativ"}, "Unknown explanation_weight_mode 'relativ'.*Did you mean 'relative'"),
        ({"explanation_loss": "cosin"}, "Unknown explanation_loss 'cosin'.*Did you mean 'cosine'"),
        ({"comparison_grid": "nativ"}, "Unknown comparison_grid 'nativ'"),
        ({"explanation_fraction": 1.5}, r"explanation_fraction must lie in \(0, 1\], not 1.5"),
        ({"logits_loss_options": "{"}, "logits_loss_options is not JSON"),
        ({"explanation_weight_mode": "relative", "torch_compile": True}, "Train without torch_compile"),
        ({"explanation_target": "label"}, "A trial can't set explanation_target"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
def test_a_trial_is_checked_as_a_training_is(tiny, tmp_path, chosen, message):
    """Prevents: a trial's typo that trains by the default, or a set-up that is refused at the start alone."""
    trainer = distiller(tiny("vit"), build("vit", seed=1), tmp_path)
    trainer.hp_search_backend = HPSearchBackend.WANDB  # whose trials are dictionaries
    with pytest.raises(ValueError, match=message):
        trainer._hp_search_setup(chosen)


@pytest.mark.parametrize("family", ["vit_dropout", "resnet"])
def test_resume_is_the_uninterrupted_run(tiny, tmp_path, family):
    """Anything that a checkpoint forgets (random state, the warm-up's progress, BatchNorm) would change the student."""

    def student():
        if family == "resnet":
            return tiny("resnet")
        model = tiny("vit")
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.1
        return model

    settings = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, "optim": "adamw_torch"}
    settings |= {"learning_rate": 1e-2, "lr_scheduler_type": "linear", "explanation_warmup_ratio": 0.8}
    settings |= {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2, "explanation_interval": 2}
    whole = distiller(student(), build("vit", seed=1), tmp_path / "a", settings)
    whole.train()
    resumed = distiller(student(), build("vit", seed=1), tmp_path / "b", settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-3"))
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    assert logged(resumed, "loss_explanation") == logged(whole, "loss_explanation")


def test_a_training_that_has_ended_is_resumed_without_a_step(tmp_path):
    """Prevents: one step more, each time that a script is started again, where a training ends within an epoch."""
    settings = {"max_steps": 3, "save_strategy": "steps", "save_steps": 1}
    whole, resumed = (distiller(build("vit"), build("vit", seed=1), tmp_path, settings) for _ in range(2))
    whole.train()
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 3
    assert torch.equal(weights(resumed.student), weights(whole.student))


def with_a_head_of_its_own(model):
    model.classifier = nn.Sequential(nn.Dropout(0.1), model.classifier)


def with_fewer_layers(model):
    del model.vit.layers[1:]


def with_a_larger_stem(model):
    model.resnet.embedder.embedder.convolution = nn.Conv2d(3, 8, 5, stride=2, padding=2, bias=False)


def pruned(model):
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            prune.l1_unstructured(layer, "weight", 0.5)


@pytest.mark.parametrize(
    ("family", "change"),
    [("vit", with_a_head_of_its_own), ("vit", with_fewer_layers), ("resnet", with_a_larger_stem), ("vit", pruned)],
)
def test_a_changed_student_comes_back(tmp_path, family, change):
    """Prevents: a training that ends without its best weights, and can't be resumed, where the student was changed
    after it was made, as the stock `Trainer` allows."""
    saved, student = build(family), build(family, seed=1)
    change(saved)
    change(student)
    saved.save_pretrained(tmp_path)
    assert load_weights(student, str(tmp_path))
    torch.testing.assert_close(student.state_dict(), saved.state_dict(), rtol=0, atol=0)


def test_weights_of_two_precisions(tiny, tmp_path):
    """Prevents: a head in float32 that is rounded to its backbone's bfloat16 when a training is resumed, or the best
    checkpoint loaded."""
    saved, student = tiny("vit").bfloat16(), build("vit", seed=2).bfloat16()
    for model in (saved, student):
        model.classifier.float()
    nn.init.normal_(saved.classifier.weight)
    saved.save_pretrained(tmp_path)
    assert load_weights(student, str(tmp_path))
    torch.testing.assert_close(student.state_dict(), saved.state_dict(), rtol=0, atol=0)


def test_checkpoint_holds_the_student_alone(tiny, tmp_path):
    """A teacher inside the checkpoint would multiply its size, and shift the optimizer's state on resuming."""
    student, teacher = tiny("vit"), build("convnext", seed=1)
    settings = {"save_strategy": "steps", "save_steps": 2, "optim": "adamw_torch"}
    trainer = distiller(student, teacher, tmp_path, settings)
    trainer.train()
    folder = get_last_checkpoint(str(tmp_path))
    saved_shapes = sorted(tuple(weight.shape) for weight in load_file(f"{folder}/model.safetensors").values())
    assert saved_shapes == sorted(tuple(weight.shape) for weight in student.state_dict().values())
    state = torch.load(f"{folder}/optimizer.pt", weights_only=True)
    parameters = [p for p in student.parameters() if p.requires_grad]
    assert sum(len(group["params"]) for group in state["param_groups"]) == len(parameters) == len(state["state"])
    # The arguments are read by whoever loads the folder, without the package's trainer.
    saved = torch.load(f"{folder}/training_args.bin", weights_only=False)
    assert isinstance(saved, TrainingArguments)
    assert json.loads(saved.to_json_string())["explanation_weight"] == 1.0


@pytest.mark.parametrize("family", ["vit", "convnext", "resnet", "wrapped_vit", "wrapped_convnext"])
def test_saved_student_loads_with_the_auto_class(tiny, tmp_path, family):
    """The student is a model like any other: what was saved must load without this package and give its logits."""
    trainer = distiller(tiny(family), build("vit", seed=1), tmp_path, {"max_steps": 1})
    trainer.train()
    trainer.save_model(str(tmp_path / "student"))
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "student").eval()
    pixels = torch.stack([sample["pixel_values"] for sample in samples(3)])
    with torch.no_grad():
        torch.testing.assert_close(loaded(pixels).logits, trainer.student.eval()(pixels).logits)
    assert list(loaded.config.id2label.values()) == CLASS_NAMES
    assert "forward" not in vars(loaded)


def test_bare_timm_student_loads_with_the_auto_class(tmp_path):
    """A bare timm model saves a state dict without a configuration, which nothing can load."""
    torch.manual_seed(0)
    student = timm.create_model("test_efficientnet", num_classes=5)
    data = [{**sample, "pixel_values": sample["pixel_values"].repeat(1, 2, 2)} for sample in samples(8)]
    with pytest.warns(UserWarning, match="matched by index"):
        trainer = distiller(student, build("convnext", seed=1), tmp_path, {"max_steps": 1}, train_dataset=data)
    before = weights(student)
    trainer.train()
    assert relative_error(weights(student), before) > 0  # the user's own object was trained
    trainer.save_model(str(tmp_path / "student"))
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "student").eval()
    pixels = torch.stack([sample["pixel_values"] for sample in data])
    with torch.no_grad():
        torch.testing.assert_close(loaded(pixels).logits, student.eval()(pixels))


def test_train_evaluate_train_evaluate(tiny, tmp_path):
    """Calls in any order: a model prepared twice, or a reference forgotten after `free_memory`, would show here."""
    trainer = distiller(tiny("vit"), build("vit", seed=1), tmp_path)
    first = trainer.evaluate()
    trainer.train()
    second = trainer.evaluate()
    trainer.train()
    third = trainer.evaluate()
    assert first["eval_loss"] > second["eval_loss"] > third["eval_loss"]
    straight = distiller(tiny("vit"), build("vit", seed=1), tmp_path)
    straight.train()
    assert straight.evaluate()["eval_loss"] == pytest.approx(second["eval_loss"])


class Modes(TrainerCallback):
    """Notes at every step whether student and teacher are in training mode."""

    def __init__(self, teacher):
        self.teacher, self.seen = teacher, set()

    def on_step_end(self, args, state, control, model=None, **_):
        modes = {module.training for module in model.modules()}, {module.training for module in self.teacher.modules()}
        self.seen.add(tuple(map(frozenset, modes)))


@pytest.mark.parametrize("family", ["resnet", "wrapped_efficientnet"])
def test_teacher_is_left_as_it_was(tiny, tmp_path, family):
    """A teacher in training mode, or with moving BatchNorm statistics, explains something else at every step."""
    teacher = build(family, seed=1).train()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    modes = Modes(teacher)
    student = tiny("resnet")
    settings = {"max_steps": 3, "eval_strategy": "steps", "eval_steps": 1, "gradient_accumulation_steps": 2}
    trainer = distiller(student, teacher, tmp_path, settings, callbacks=[modes])
    trainer.train()
    assert modes.seen == {(frozenset({True}), frozenset({False}))}
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    # One forward pass a micro-batch: a second one for the explanation would move the student's statistics twice.
    counters = [value for name, value in student.state_dict().items() if name.endswith("num_batches_tracked")]
    assert {counter.item() for counter in counters} == {6}
    trainer.evaluate()
    assert not any(module.training for module in student.modules())


def test_columns_and_logging_work_with_tensorboard(tiny, tmp_path):
    """Integrations serialise the arguments and the logs; a tensor or a module among them would break them."""
    pytest.importorskip("tensorboard")
    settings = {"report_to": "tensorboard", "explainer_options": '{"target_layer": null}'}
    trainer = distiller(tiny("vit"), build("vit", seed=1), tmp_path, settings)
    trainer.train()
    assert all(isinstance(value, int | float) for entry in trainer.state.log_history for value in entry.values())
