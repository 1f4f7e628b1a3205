"""Terms with layers and parameters of their own, in a training."""

import json
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType
from datasets import Dataset
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from transformers import AutoModelForImageClassification, TrainerCallback

from hf_e2kd import AnnotationReference, StoredReference, TeacherReference, TextCollator
from hf_e2kd.explainers import GradCAM
from hf_e2kd.terms import Term
from hf_e2kd.terms.features.attention_transfer import AttentionTransfer
from hf_e2kd.terms.features.hint import Hint, hint_loss
from hf_e2kd.trainer.compatibility import refuse_unsupported
from hf_e2kd.trainer.preemption import last_checkpoint
from hf_e2kd.trainer.term_setup import check_parameters
from tests.models import build
from tests.tokenizers import STUDENT, TEACHER, data, text_model, tokenizer, without_dropout
from tests.training import (
    CHECKPOINTING,
    Gradients,
    arguments,
    distiller,
    flat,
    logged,
    relative_error,
    samples,
    weights,
)

LAYERS = {"resnet.encoder.stages.1": "resnet.encoder.stages.1"}
HINT = {"terms": {"hint": {"weight": 0.5, "layers": LAYERS}}}
# Terms that own parameters and a batch norm's statistics.
NORMS = {"terms": {"review_kd": {"mid_channels": 4}, "activation_boundary": {}}}


def trained(folder, student="resnet", teacher="resnet", settings=None, **keywords):
    trainer = distiller(build(student), build(teacher, seed=1), folder, {**HINT, **(settings or {})}, **keywords)
    trainer.train()
    return trainer


def test_set_up_beside_a_student_that_is_elsewhere(tmp_path):
    """Prevents: "Expected all tensors to be on the same device" of a student that FSDP or DeepSpeed moves later."""
    trainer = distiller(build("resnet"), build("resnet", seed=1), tmp_path, HINT, train_dataset=samples(4))
    trainer.student.to("meta")  # in the place of the CPU of a machine with a GPU
    trainer.set_up_terms()
    assert {parameter.device.type for parameter in trainer.terms.parameters()} == {"cpu"}
    assert trainer.terms["hint"].projections[0].in_features == 16


def test_a_terms_gradients_are_averaged_before_they_are_unscaled(tmp_path, monkeypatch):
    """Prevents: one of several processes that alone leaves out a step in fp16, as a term's gradients overflowed there.

    What unscales them, and looks for such, is the clipping of the student's.
    """
    trainer = distiller(build("resnet"), build("resnet", seed=1), tmp_path, {**HINT, "gradient_accumulation_steps": 2})
    clip, found = trainer._clip_grad_norm, []

    def reduce(gradient, reduction):
        return torch.full_like(gradient, torch.inf)  # those of another process

    def look(model):
        found.append(all(parameter.grad.isinf().all() for parameter in trainer.terms.parameters()))
        return clip(model)

    class SecondProcess(TrainerCallback):
        def on_train_begin(self, *_, **__):
            trainer._term_gradients.accelerator = SimpleNamespace(num_processes=2, reduce=reduce)

        def on_substep_end(self, *_, **__):
            assert all(parameter.grad.isfinite().all() for parameter in trainer.terms.parameters())

    trainer.args.max_grad_norm, trainer._clip_grad_norm = 1.0, look
    trainer.add_callback(SecondProcess())
    with pytest.raises(ValueError, match="NaN"):  # the step that fp16 would have left out
        trainer.train()
    assert found == [True]


# --- One step --------------------------------------------------------------------------------------------------------


def test_a_step_with_a_hint_equals_its_parts(tmp_path):
    """Prevents: features of another pass or mode, a hint outside the loss's mean, or a projection without gradient."""
    gradients = Gradients()
    settings = {**HINT, "max_steps": 1, "explanation_weight": 0.0}
    student, teacher = build("resnet"), build("resnet", seed=1)
    trainer = distiller(student, teacher, tmp_path, settings, train_dataset=samples(4), callbacks=[gradients])
    trainer.set_up_terms()
    projection = trainer.terms["hint"].projections[0]
    before = {name: value.detach().clone() for name, value in projection.named_parameters()}
    trainer.train()

    pixels = torch.stack([sample["pixel_values"] for sample in samples(4)])
    model = build("resnet").train()
    own = {name: value.clone().requires_grad_() for name, value in before.items()}
    features = model.resnet(pixels).last_hidden_state.movedim(1, -1)
    theirs = build("resnet", seed=1)
    taught = theirs.resnet(pixels).last_hidden_state.movedim(1, -1).detach()
    hint = hint_loss(F.linear(features, own["weight"], own["bias"]), taught).mean()
    logits, targets = model.classifier(model.resnet.pooler(features.movedim(-1, 1))), theirs(pixels).logits.detach()
    kl = F.kl_div(logits.log_softmax(1), targets.log_softmax(1), log_target=True, reduction="batchmean")
    assert logged(trainer, "loss_hint") == pytest.approx([hint.item()], rel=1e-5)
    assert logged(trainer, "loss") == pytest.approx([(kl + 0.5 * hint).item()], rel=1e-5)
    (kl + 0.5 * hint).backward()
    expected = flat(p.grad for p in model.parameters() if p.grad is not None)
    assert relative_error(gradients.steps[0], expected) < 1e-5
    for name, value in projection.named_parameters():
        # Plain gradient descent without clipping.
        torch.testing.assert_close(value, before[name] - trainer.args.learning_rate * own[name].grad)


@pytest.mark.parametrize(
    ("student", "teacher"),
    [("vit", "vit"), ("convnext", "resnet"), ("wrapped_convnext", "timm_resnet"), ("swin", "vit"), ("vit", "resnet")],
)
def test_default_layers_of_families(tmp_path, student, teacher):
    """Prevents: a pair of families whose default layers aren't called, can't be laid out, or give no gradient."""
    terms = {"attention_transfer": {"weight": 10.0}, "hint": {}, "nst": {"weight": 50.0}, **NORMS["terms"]}
    settings = {"terms": terms, "max_steps": 1, "logits_weight": 0.0}
    gradients = Gradients()
    trainer = distiller(
        build(student),
        build(teacher, seed=1),
        tmp_path,
        {**settings, "explanation_weight": 0.0},
        callbacks=[gradients],
        train_dataset=samples(4),
    )
    trainer.train()
    expected = sum(trainer.terms[name].weight * logged(trainer, f"loss_{name}")[0] for name in terms)
    assert logged(trainer, "loss") == pytest.approx([expected], rel=1e-5)
    assert gradients.steps[0].norm() > 0
    assert trainer.evaluate()["eval_loss"] > 0


def test_texts(tmp_path):
    """Prevents: words in the place of tokens, or padding that counts."""
    trainer = distiller(
        without_dropout(text_model("bert")),
        text_model("bert", 1),
        tmp_path,
        {"terms": {"hint": {}, "attention_transfer": {}}, "max_steps": 1},
        data_collator=TextCollator(STUDENT),
        train_dataset=data(4),
        eval_dataset=data(9, seed=7),
        explainer="saliency",
    )
    trainer.train()
    batch = trainer.data_collator(list(data(4)))
    trainer = distiller(
        without_dropout(text_model("bert")),
        text_model("bert", 1),
        tmp_path,
        {"terms": {"attention_transfer": {}}, "max_steps": 1},
        data_collator=TextCollator(STUDENT),
        train_dataset=data(4),
        explainer="saliency",
    )
    tokens = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    models = without_dropout(text_model("bert")).eval(), text_model("bert", 1)
    states = [model(**tokens, output_hidden_states=True).hidden_states[1:] for model in models]
    expected = 0.0
    for own, theirs in zip(*states, strict=True):
        strengths = [state.square().mean(-1) * tokens["attention_mask"] for state in (own, theirs)]
        difference = F.normalize(strengths[0], dim=1) - F.normalize(strengths[1], dim=1)
        expected += (difference.square().sum(1) / tokens["attention_mask"].sum(1)).mean()
    trainer.train()
    assert logged(trainer, "loss_attention_transfer") == pytest.approx([expected.item()], rel=1e-4)


def test_features_beside_maps_are_those_without(tmp_path):
    """Prevents: the last block's features missing where GradCAM computes it for the class token alone."""
    found = []
    for weight in (0.0, 1.0):
        settings = {"terms": {"attention_transfer": {}}, "explanation_weight": weight, "max_steps": 1}
        trainer = distiller(build("vit"), build("vit", seed=1), tmp_path, settings, train_dataset=samples(4))
        trainer.train()
        found.append(logged(trainer, "loss_attention_transfer"))
        assert bool(logged(trainer, "loss_explanation")) == (weight > 0)
    assert found[0] == pytest.approx(found[1], rel=1e-5)


@pytest.mark.parametrize(("compared", "layer"), [("teacher", "stages.3"), ("second", "vit.layers.2")])
def test_a_students_hook_is_not_its_teachers(tmp_path, compared, layer):
    """Prevents: a teacher without a layer to hook explained as the student's last block asks for, features or not."""
    settings = {"terms": {"hint": {"reference": compared, "layers": {"vit.layers.2": layer}}}, "max_steps": 1}
    references = {
        "teacher": TeacherReference(build("timm_convnext", seed=1)),
        "second": TeacherReference(build("vit", seed=1), explanation_weight=0.0),
    }
    trainer = distiller(build("vit"), None, tmp_path, settings, references=references)
    trainer.train()
    assert trainer.explainer._by_hook and not references["teacher"].explainer._by_hook


def test_layers_before_the_target_keep_the_split_path():
    """Prevents: the slower hook where no tapped layer asks for it."""
    model, explainer = build("vit"), GradCAM()
    assert explainer.with_features(model, ["vit.layers.1"]) is explainer
    assert explainer.with_features(model, ["vit.layers.2"])._by_hook
    assert explainer.with_features(build("resnet"), ["resnet.encoder.stages.1"]) is explainer


@pytest.mark.parametrize(
    "settings",
    [
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
        {CHECKPOINTING: True, f"{CHECKPOINTING}_kwargs": {"use_reentrant": False}},
        {"torch_compile": True, "torch_compile_backend": "aot_eager"},
    ],
    ids=["accumulation", "checkpointing", "compiled"],
)
def test_ways_to_train_give_the_same_gradients(tmp_path, settings):
    """Prevents: a hint of the last micro-batch alone, features of a recomputed pass, or a graph without its hooks."""
    terms = {"terms": {"hint": {"layers": {"vit.layers.1": "vit.layers.1"}}, "attention_transfer": {}}, "max_steps": 1}
    if settings.get("torch_compile"):
        terms["terms"].pop("attention_transfer")
    found = []
    for changed in ({}, settings):
        student, teacher = build("vit"), build("vit", seed=1)
        for model in (student, teacher):
            model.set_attn_implementation("eager")
        gradients = Gradients()
        trainer = distiller(
            student, teacher, tmp_path, {**terms, **changed}, callbacks=[gradients], train_dataset=samples(4)
        )
        trainer.train()
        found.append((gradients.steps[0], flat(trainer.terms.parameters()), logged(trainer, "loss_hint")))
    (plain, own, losses), (other, others, other_losses) = found
    assert relative_error(other, plain) < 1e-5
    assert relative_error(others, own) < 1e-6
    assert other_losses == pytest.approx(losses, rel=1e-5)


def test_half_precision(tmp_path):
    """Prevents: a dtype error, or a distance in bfloat16."""
    terms = {"hint": {}, "attention_transfer": {}, "nst": {}, "cat_kd": {}, **NORMS["terms"]}
    plain, half = (trained(tmp_path, settings={"terms": terms, "max_steps": 1, "bf16": bf16}) for bf16 in (False, True))
    for name in terms:
        assert logged(half, f"loss_{name}") == pytest.approx(logged(plain, f"loss_{name}"), rel=0.02)


@pytest.mark.parametrize("stage_epochs", [0, 0.5])
def test_weights_in_half_precision(tmp_path, stage_epochs):
    """Prevents: "Input type and weight type should be the same" of a student that was loaded in bfloat16, whose images
    autocast converts, in the passes before the training."""
    terms = {"hint": {"layers": LAYERS, "stage_epochs": stage_epochs}}
    student = build("resnet").bfloat16()
    settings = {"terms": terms, "max_steps": 1, "bf16": True, "learning_rate": 1e-4}
    trainer = distiller(student, build("resnet", seed=1), tmp_path, settings)
    trainer.train()
    assert logged(trainer, "loss_hint")


# --- Parameters ------------------------------------------------------------------------------------------------------


def test_the_student_is_clipped_as_without_a_term(tmp_path):
    """Prevents: a projection's large gradient that shrinks the student's step."""
    norms = []
    for weight in (0.0, 1e-6):
        settings = {"terms": {"hint": {"weight": weight, "layers": LAYERS}}, "max_grad_norm": 0.1, "max_steps": 1}
        trainer = trained(tmp_path, settings=settings)
        norms.append(logged(trainer, "grad_norm")[0])
        student = weights(trainer.student)
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)
    moved = student - weights(build("resnet"))
    assert moved.norm().item() == pytest.approx(0.1 * trainer.args.learning_rate, rel=1e-3)


def test_adding_a_term_changes_no_random_number(tmp_path):
    """Prevents: another order of the data or other dropout because a projection was drawn."""
    plain = trained(tmp_path, settings={"terms": None})
    beside = trained(tmp_path, settings={"terms": {"hint": {"weight": 0.0, "layers": LAYERS}}})
    assert torch.equal(weights(plain.student), weights(beside.student))


def test_what_is_saved_is_the_student_alone(tmp_path):
    """Prevents: a projection among the published weights, or in the count of parameters."""
    trainer = trained(tmp_path, settings={"save_strategy": "steps", "save_steps": 1})
    trainer.save_model(tmp_path / "saved")
    assert not list((tmp_path / "saved").glob("terms*"))
    saved = load_file(tmp_path / "saved" / "model.safetensors")
    assert not [name for name in saved if "projection" in name or "hint" in name]
    assert sum(p.numel() for p in AutoModelForImageClassification.from_pretrained(tmp_path / "saved").parameters()) == (
        sum(p.numel() for p in build("resnet").parameters())
    )
    checkpoint = load_file(tmp_path / "checkpoint-1" / "terms.safetensors")
    assert set(checkpoint) == {"hint.projections.0.weight", "hint.projections.0.bias"}
    assert trainer.measure_fidelity(samples=4, chance=False).student.cost.parameters == sum(
        p.numel() for p in build("resnet").parameters()
    )


@pytest.mark.parametrize(
    ("terms", "optim"), [(HINT, "adamw_torch"), (HINT, "sgd"), (NORMS, "adamw_torch")], ids=["hint", "sgd", "norms"]
)
def test_a_resumed_training_is_the_uninterrupted_one(tmp_path, terms, optim):
    """Prevents: a projection drawn anew, or without its optimizer's moments, after a training was resumed."""
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 5, "optim": optim, "learning_rate": 1e-2}
    settings |= terms
    whole = trained(tmp_path / "whole", settings=settings)
    first = distiller(build("resnet"), build("resnet", seed=1), tmp_path / "cut", settings, callbacks=[StopAfter(2)])
    first.train()
    resumed = distiller(build("resnet", seed=5), build("resnet", seed=1), tmp_path / "cut", settings)
    resumed.train(resume_from_checkpoint=True)
    assert torch.equal(weights(resumed.student), weights(whole.student))
    # Parameters and statistics.
    assert torch.equal(flat(resumed.terms.state_dict().values()), flat(whole.terms.state_dict().values()))
    assert logged(resumed, "loss")[-1] == logged(whole, "loss")[-1]


class StopAfter(TrainerCallback):
    def __init__(self, steps):
        self.steps = steps

    def on_step_end(self, args, state, control, **_):
        control.should_training_stop = state.global_step >= self.steps


def test_the_best_checkpoints_terms_come_back(tmp_path):
    """Prevents: the best student beside the last projection, whose evaluation then differs."""
    settings = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1, "max_steps": 3}
    settings |= {"load_best_model_at_end": True, "metric_for_best_model": "loss", "learning_rate": 0.5}
    trainer = trained(tmp_path, settings=settings)
    best = load_file(Path(trainer.state.best_model_checkpoint) / "terms.safetensors")
    for name, value in trainer.terms.state_dict().items():
        assert torch.equal(value, best[name])
    assert trainer.evaluate()["eval_loss"] == pytest.approx(trainer.state.best_metric, rel=1e-5)


def test_each_trial_has_terms_of_its_own(tmp_path):
    """Prevents: a second trial that begins with the projection of the first, or that keeps its weight."""
    starts = []

    class Watch(TrainerCallback):
        def on_train_begin(self, *_, **__):
            starts.append(flat(trainer.terms.parameters()).clone())

    trainer = distiller(
        None,
        build("resnet", seed=1),
        tmp_path,
        {**HINT, "max_steps": 2},
        model_init=lambda trial: build("resnet"),
        callbacks=[Watch()],
    )
    trainer.hyperparameter_search(
        lambda trial: {"temperature": trial.suggest_categorical("temperature", [1.0, 4.0])},
        n_trials=2,
        backend="optuna",
        direction="minimize",
        compute_objective=lambda metrics: metrics["eval_loss"],
    )
    assert torch.equal(starts[0], starts[1])
    assert trainer.terms["logits"].temperature == trainer.args.temperature


def test_a_checkpoint_without_terms_is_refused(tmp_path):
    """Prevents: a projection that is silently drawn anew."""
    trained(tmp_path, settings={"terms": None, "save_strategy": "steps", "save_steps": 1, "max_steps": 1})
    trainer = distiller(build("resnet"), build("resnet", seed=1), tmp_path, {**HINT, "max_steps": 2})
    with pytest.raises(ValueError, match=r"holds no terms.safetensors, with the parameters of the terms \['hint'\]"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


# --- Stages ----------------------------------------------------------------------------------------------------------


def fitnet(folder, callbacks=(), term="hint", **settings):
    options = {"weight": 0.0, "layers": {"resnet.encoder.stages.0": "resnet.encoder.stages.0"}, "stage_epochs": 1.0}
    return distiller(
        build("resnet"),
        build("resnet", seed=1),
        folder,
        {"terms": {term: options}, "max_steps": 2, "explanation_weight": 0.0, **settings},
        callbacks=list(callbacks),
    )


@pytest.mark.parametrize("term", ["hint", "activation_boundary"])
def test_a_stage_trains_the_layers_below_the_hint_alone(tmp_path, term):
    """Prevents: a first stage that moves the layers behind the hint, or leaves those before it."""
    trainer = fitnet(tmp_path, term=term, max_steps=1, learning_rate=0.01, logits_weight=0.0, task_weight=1e-9)
    before = {name: value.clone() for name, value in trainer.student.named_parameters()}
    trainer.train()
    moved = {name for name, value in trainer.student.named_parameters() if (value - before[name]).abs().max() > 1e-7}
    assert moved == {name for name in before if name.startswith(("resnet.embedder", "resnet.encoder.stages.0"))}
    assert all(parameter.requires_grad for parameter in trainer.student.parameters())
    assert not logged(trainer, f"loss_{term}")


def test_a_stage_is_told_to_stop_and_resumes_in_its_middle(tmp_path, monkeypatch):
    """Prevents: a first stage begun anew, or skipped, after an interruption; SIGTERM that waits for the stage's end, or
    that ends the stage and begins the training."""
    settings = {"save_strategy": "steps", "save_steps": 4, "max_steps": 2, "enable_jit_checkpoint": True}
    whole = fitnet(tmp_path / "whole", **settings)
    whole.train()
    cut = fitnet(tmp_path / "cut", **settings)
    cut.set_up_terms()
    steps, step = [], type(cut).training_step

    def told_to_stop(self, *arguments, **keywords):
        steps.append(self)
        if len(steps) == 2:
            signal.raise_signal(signal.SIGTERM)
        return step(self, *arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(type(cut), "training_step", told_to_stop)
        assert cut.train().global_step == 0
    assert len(steps) == 2 and cut not in steps
    assert last_checkpoint(tmp_path / "cut" / "stage-hint") == str(tmp_path / "cut" / "stage-hint" / "checkpoint-2")
    resumed = fitnet(tmp_path / "cut", **settings)
    resumed.train(resume_from_checkpoint=True)
    assert (tmp_path / "cut" / "stage-hint" / "checkpoint-4").is_dir()
    assert torch.equal(weights(resumed.student), weights(whole.student))


# --- Further inputs --------------------------------------------------------------------------------------------------


class Rotated(Term):
    """Agreement on images that are turned by 180 degrees."""

    name = "rotated"
    needs = frozenset({"logits"})

    def views(self, inputs):
        return {"pixel_values": inputs["pixel_values"].rot90(2, (2, 3)).repeat(2, 1, 1, 1)}

    def forward(self, output, reference_output, inputs):
        assert output.logits.shape[0] == len(inputs["pixel_values"])
        assert output.view.logits.shape[0] == reference_output.view.logits.shape[0] == 2 * len(inputs["pixel_values"])
        distances = (output.view.logits - reference_output.view.logits).square().mean(1)
        return distances.unflatten(0, (2, -1)).mean(0)


@pytest.mark.parametrize("family", ["vit", "resnet"])
def test_further_inputs_join_the_one_forward_pass(tmp_path, family):
    """Prevents: maps or other terms that see the further rows, or a second forward pass of the student."""
    found = []
    for terms in ((), [Rotated(weight=0.5)]):
        student = build(family)
        calls = []
        trainer = distiller(
            student, build("vit", seed=1), tmp_path, {"max_steps": 1}, train_dataset=samples(4), terms=terms
        )
        # Batch norms' statistics would mix the rows.
        student.eval().train = lambda mode=True, student=student: student
        student.base_model.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        trainer.train()
        assert len(calls) == (1 if family == "resnet" else 0)
        found.append(trainer)
    plain, turned = found
    for name in ("loss_logits", "loss_explanation"):
        assert logged(turned, name) == pytest.approx(logged(plain, name), rel=1e-5)
    pixels = torch.stack([sample["pixel_values"] for sample in samples(4)]).rot90(2, (2, 3))
    expected = (build(family)(pixels).logits - build("vit", seed=1)(pixels).logits).square().mean()
    assert logged(turned, "loss_rotated") == pytest.approx([expected.item()], rel=1e-4)
    total = logged(plain, "loss")[0] + 0.5 * expected.item()
    assert logged(turned, "loss") == pytest.approx([total], rel=1e-4)


# --- Refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "keywords", "message"),
    [
        ({"terms": '{"hint": '}, {}, "terms is not JSON"),
        ({"terms": "[1]"}, {}, "terms must be a JSON object"),
        ({"terms": {"hint": 3}}, {}, "The options of the term 'hint' must be a JSON object, not 3"),
        ({"terms": {"hinted": {}}}, {}, "Unknown term 'hinted'. Available:"),
        ({"terms": {"maps": {}}}, {}, "Every training has the term 'maps'.*explanation_weight"),
        (
            {"terms": {"hint": {"layers": {"resnet.stage": "x"}}}},
            {},
            "ResNet.* has no layer 'resnet.stage'. The nearest:",
        ),
        ({"terms": {"hint": {"layers": {"resnet.encoder": "y"}}}}, {}, "ResNet.* has no layer 'y'"),
        ({"terms": {"hint": {"reference": "second"}}}, {}, "names the reference 'second'. The references: teacher"),
        ({}, {"terms": [Hint(), Hint(layers=LAYERS)]}, "Two terms are named 'hint'"),
    ],
)
def test_bad_input(tmp_path, settings, keywords, message):
    """Prevents: a message from inside torch, or a term that is silently left out."""
    with pytest.raises(ValueError, match=message):
        distiller(build("resnet"), build("resnet", seed=1), tmp_path, settings, **keywords)


def test_objects_override_arguments(tmp_path):
    """Prevents: two hints at once where an object was given for the one that the arguments name."""
    term = Hint(weight=3.0, layers=LAYERS)
    trainer = distiller(build("resnet"), build("resnet", seed=1), tmp_path, HINT, terms=[term])
    assert trainer.terms["hint"] is term
    assert trainer._weights()["hint"] == 3.0


def test_features_take_a_live_teacher(tmp_path):
    """Prevents: a KeyError at the first batch of a store, or of annotations."""
    StoredReference.build(build("vit", seed=1), samples(4), tmp_path / "store")
    reference = StoredReference(tmp_path / "store")
    for name, given in (("teacher", reference), ("boxes", AnnotationReference())):
        with pytest.raises(ValueError, match=rf"'hint' compares features.*'{name}'.*Features take a live teacher"):
            distiller(build("resnet"), None, tmp_path, HINT, references={name: given})
    references = {name: TeacherReference(build("resnet", seed=1)) for name in ("one", "two")}
    with pytest.raises(ValueError, match="must name one of the references one, two: reference='one'"):
        distiller(build("resnet"), None, tmp_path, HINT, references=references)


def test_terms_from_a_command_line(tmp_path):
    """Prevents: JSON that only a dictionary can say."""
    trainer = distiller(build("resnet"), build("resnet", seed=1), tmp_path, {"terms": json.dumps(HINT["terms"])})
    assert trainer._weights()["hint"] == 0.5
    assert isinstance(trainer.terms["hint"], Hint)
    assert AttentionTransfer.citation.startswith("@inproceedings")


@pytest.mark.parametrize("kind", [DistributedType.FSDP, DistributedType.DEEPSPEED])
def test_sharded_students_have_no_terms_of_features(tmp_path, kind):
    """Prevents: features of freed blocks, or a projection that no optimizer trains."""
    plugin = SimpleNamespace(
        fsdp_version=2, cpu_ram_efficient_loading=False, activation_checkpointing=False, zero_stage=2
    )
    accelerator = SimpleNamespace(
        distributed_type=kind, state=SimpleNamespace(fsdp_plugin=plugin, deepspeed_plugin=plugin)
    )
    with pytest.raises(ValueError, match="read the student's layers vit.layers.1, which FSDP and DeepSpeed shard"):
        refuse_unsupported(accelerator, arguments(tmp_path), taps=["vit.layers.1"])
    refuse_unsupported(accelerator, arguments(tmp_path))
    term = nn.ModuleDict({"own": nn.Linear(2, 2), "none": nn.Module()})
    with pytest.raises(ValueError, match=r"The terms \['own'\] have parameters of their own"):
        check_parameters(term, sharded=True)
    check_parameters(term, sharded=False)


# --- Together --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "terms",
    [
        {"attention_transfer": {"weight": 100.0}},
        {"nst": {}, "activation_boundary": {}, "review_kd": {"mid_channels": 4}, "cat_kd": {"weight": 0.1}},
    ],
    ids=["attention_transfer", "others"],
)
def test_terms_and_explanations_are_learnt_together(tmp_path, terms):
    """Prevents: a term that has no effect on the student, or that keeps the explanations from being learnt."""
    settings = {"optim": "adamw_torch", "learning_rate": 5e-3, "max_steps": 12, "max_grad_norm": 1.0}
    settings |= {"per_device_train_batch_size": 16}
    ends = []
    for weighed in (terms, {name: {**options, "weight": 1e-9} for name, options in terms.items()}):
        trainer = distiller(build("resnet"), build("resnet", seed=1), tmp_path, {**settings, "terms": weighed})
        trainer.train()
        ends.append({name: logged(trainer, f"loss_{name}") for name in ("logits", "explanation", *terms)})
    beside, without = ends
    assert all(losses[-1] < losses[0] for losses in beside.values()), beside
    assert all(beside[name][-1] < without[name][-1] for name in terms), ends


# --- Neighbours ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("explainer", ["attention_rollout", "attention_gradient"])
def test_features_are_not_those_of_a_probing_pass(tmp_path, explainer):
    """Prevents: the first step's features taken from the pass by which an explainer looks at a new model."""
    losses = []
    for weight in (0.0, 1.0):
        models = build("vit"), build("vit", seed=1)
        for model in models:
            model.set_attn_implementation("eager")
        settings = {"terms": {"attention_transfer": {}}, "explainer": explainer, "explanation_weight": weight}
        trainer = distiller(*models, tmp_path, {**settings, "max_steps": 1}, train_dataset=samples(4))
        trainer.train()
        losses.append(logged(trainer, "loss_attention_transfer"))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


class Normalised(Term):
    """Distance of normalised logits, by a batch norm of its own."""

    name = "normalised"
    needs = frozenset({"logits"})

    def setup(self, output, reference_output, inputs, dataset):
        self.norm = nn.BatchNorm1d(output.logits.shape[1])

    def forward(self, output, reference_output, inputs):
        return (self.norm(output.logits) - reference_output.logits).square().mean(1)


def test_terms_are_evaluated_in_evaluation_mode(tmp_path):
    """Prevents: statistics of a term that an evaluation changes, and a last batch of one sample that it can't take."""
    trainer = distiller(build("vit"), build("vit", seed=1), tmp_path, {"max_steps": 1}, terms=[Normalised()])
    trainer.train()
    before = {name: value.clone() for name, value in trainer.terms.state_dict().items()}
    trainer.evaluate()
    assert all(torch.equal(value, before[name]) for name, value in trainer.terms.state_dict().items())
    trainer.train()
    assert trainer.terms["normalised"].norm.num_batches_tracked == 2


def test_a_stage_trains_on_its_term_alone(tmp_path):
    """Prevents: logits and explanations that a reference weighs by itself, in a stage of a hint."""
    reference = TeacherReference(build("resnet", seed=1), logits_weight=1.0, explanation_weight=1.0)
    settings = {"terms": {"hint": {"weight": 0.0, "stage_epochs": 1.0}}, "max_steps": 1, "learning_rate": 0.01}
    trainer = distiller(build("resnet"), None, tmp_path, settings, references={"teacher": reference})
    trainer.set_up_terms()
    before = trainer.student.classifier[1].weight.detach().clone()
    trainer.train_stage(trainer.terms["hint"], 1.0)
    assert torch.equal(trainer.student.classifier[1].weight, before)
    assert trainer.evaluate()["eval_loss"] > 0


def test_an_evaluation_alone_brings_its_own_data(tmp_path):
    """Prevents: shapes looked for in data that the trainer doesn't have."""
    trainer = distiller(build("resnet"), build("resnet", seed=1), tmp_path, HINT, train_dataset=None, eval_dataset=None)
    assert trainer.evaluate(samples(5))["eval_loss"] > 0


@pytest.mark.parametrize("name", ["my.term", "values"])
def test_names_that_can_not_be_saved(tmp_path, name):
    """Prevents: a KeyError of torch's."""
    term = type("Named", (Rotated,), {"name": name})()
    with pytest.raises(ValueError, match=f"A term can't be named '{name}'"):
        distiller(build("resnet"), build("resnet", seed=1), tmp_path, terms=[term])


def test_a_last_batch_of_one_sample(tmp_path):
    """Prevents: an error of a batch norm's at the end of the first epoch, or NaN in its statistics."""
    trainer = distiller(
        build("resnet"), build("resnet", seed=1), tmp_path, {**NORMS, "max_steps": 2}, train_dataset=samples(5)
    )
    trainer.train()
    assert len(logged(trainer, "loss_review_kd")) == 2
    assert all(value.isfinite().all() for value in trainer.terms.state_dict().values())
    assert trainer.terms["review_kd"].fusions[0].reduce[1].num_batches_tracked == 1
    assert trainer.terms["review_kd"].fusions[1].reduce[1].num_batches_tracked == 2


@pytest.mark.parametrize("name", ["hint", "attention_transfer", "nst", "activation_boundary"])
def test_tokens_of_two_tokenizers_in_equal_number(tmp_path, name):
    """Prevents: other tokens compared place by place, where both sides' texts are cut off at the same length."""
    settings = {"terms": {name: {}}, "explanation_weight": 0.0, "evaluate_explanations": False}
    keywords = {"train_dataset": data(16), "eval_dataset": None, "processing_class": STUDENT}
    models = without_dropout(text_model("bert")), text_model("roberta", 1)
    collator = TextCollator(STUDENT, TEACHER, max_length=6)
    trainer = distiller(*models, tmp_path, settings, data_collator=collator, **keywords)
    with pytest.raises(ValueError, match="of the tokens of two tokenizers.*of texts models of one tokenizer"):
        trainer.train()


@pytest.mark.parametrize("name", ["hint", "attention_transfer", "activation_boundary"])
def test_tokens_that_differ_in_a_later_batch(tmp_path, name):
    """Prevents: an error of torch's within a training, or other tokens compared, where one tokenizer with two limits
    reads the texts of the first batch alike, and later ones otherwise."""
    settings = {"terms": {name: {"weight": 1.0}}, "explanation_weight": 0.0, "evaluate_explanations": False}
    short, long = (Dataset.from_dict({"text": [words] * 4}) for words in ("a film", "a film " * 9))
    models = without_dropout(text_model("bert")), text_model("bert", 1)
    collator = TextCollator(STUDENT, tokenizer("wordpiece", model_max_length=12))
    keywords = {"train_dataset": short, "eval_dataset": None, "processing_class": STUDENT, "data_collator": collator}
    trainer = distiller(*models, tmp_path, settings, **keywords)
    trainer.train()
    with pytest.raises(ValueError, match=r"tokens of the student, \(4, 20\), and of the teacher, \(4, 12\), differ"):
        trainer.evaluate(long)
