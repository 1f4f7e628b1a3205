"""What is put around or into the student: half precision, compilation, checkpointing, adapters, copies."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from transformers import AutoModelForImageClassification, Trainer

from tests.models import build, images, shallow
from tests.training import (
    CHECKPOINTING,
    Gradients,
    Unregistered,
    distiller,
    logged,
    relative_error,
    samples,
    stock_arguments,
    weights,
)


class Dtypes:
    """Notes the precision in which a layer computes, by a hook."""

    def __init__(self, layer):
        self.seen = set()
        layer.register_forward_hook(lambda _module, _inputs, output: self.seen.add(output.dtype))


@pytest.mark.parametrize("order", ["train", "evaluate-train", "train-evaluate-train"])
def test_bf16_reaches_student_and_teacher(tiny, tmp_path, order):
    """An `evaluate` before `train`, or a teacher called outside autocast, would silently compute in float32."""
    student, teacher = tiny("vit"), build("vit", seed=1)
    own, taught = Dtypes(student.vit.layers[0].mlp.fc1), Dtypes(teacher.vit.layers[0].mlp.fc1)
    trainer = distiller(student, teacher, tmp_path, {"bf16": True})
    for call in order.split("-"):
        own.seen.clear()
        taught.seen.clear()
        getattr(trainer, call)()
        assert own.seen == taught.seen == {torch.bfloat16}
    assert {p.dtype for p in student.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    "method",
    [
        {"explainer": "saliency"},
        {"explainer": "attention_gradient"},
        {"explainer_options": {"target_layer": "vit.layers.1"}},
    ],
    ids=["saliency", "attention_gradient", "gradcam"],
)
def test_bf16_ends_with_the_forward(tiny, tmp_path, method):
    """Prevents: losses, and all that a process does after a training, in half precision, where an explainer calls the
    student within its own forward."""
    student, teacher = (build("vit", seed=seed, attn_implementation="eager") for seed in (0, 1))
    trainer = distiller(student, teacher, tmp_path, {"bf16": True, "max_steps": 1, **method})
    found, term = [], trainer.terms["logits"]
    term.register_forward_hook(lambda *_: found.append(torch.is_autocast_enabled("cpu")))
    trainer.train()
    trainer.evaluate()
    assert found == [False] * 5 and not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("family", ["vit", "convnext", "resnet", "wrapped_vit"])
def test_bf16_stays_close_to_float32(tiny, tmp_path, family):
    """Maps taken in half precision would lose their digits: only the features may be rounded."""
    found = []
    for settings in ({}, {"bf16": True}):
        trainer = distiller(tiny(family), build("vit", seed=1), tmp_path, {**settings, "max_steps": 1})
        trainer.train()
        found.append((logged(trainer, "loss_logits") + logged(trainer, "loss_explanation"), trainer.evaluate()))
    assert found[1][0] == pytest.approx(found[0][0], abs=0.05)
    for name in ("eval_loss", "eval_explanation_similarity"):
        assert found[1][1][name] == pytest.approx(found[0][1][name], abs=0.1)


@pytest.mark.parametrize("family", ["vit", "wrapped_vit", "wrapped_efficientnet"])
def test_bf16_full_eval(tiny, tmp_path, family):
    """A student cast to bfloat16 for an evaluation must take float32 images and be compared with a float32 teacher."""
    trainer = distiller(tiny(family), build("vit", seed=1), tmp_path, {"bf16_full_eval": True})
    expected = distiller(tiny(family), build("vit", seed=1), tmp_path).evaluate()
    metrics = trainer.evaluate()
    for name in ("eval_loss", "eval_explanation_similarity"):
        assert metrics[name] == pytest.approx(expected[name], abs=0.1)


def test_unwrapping_keeps_the_student(tiny, tmp_path):
    """Accelerate puts back the forward that it found: a student without its explanation would fail at the next step."""
    trainer = distiller(tiny("vit"), build("vit", seed=1), tmp_path, {"bf16": True})
    trainer.train()
    student = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    pixels, target = images(3), torch.tensor([0, 1, 2])
    explained = student(pixel_values=pixels, explain_target=target)
    plain = student(pixel_values=pixels)
    assert explained.maps.shape == (3, 4, 4)
    torch.testing.assert_close(explained.logits, plain.logits)
    assert plain.logits.dtype == torch.float32


@pytest.mark.parametrize("first", ["ours", "stock"])
def test_student_goes_on_in_a_second_trainer(tiny, tmp_path, first):
    """A student prepared by another trainer keeps its marks, so that the second one's bf16 would do nothing."""
    student, teacher = tiny("vit"), build("vit", seed=1)
    if first == "stock":
        Trainer(student, stock_arguments(tmp_path, bf16=True), train_dataset=samples(8)).train()
    else:
        distiller(student, teacher, tmp_path, {"bf16": True}).train()
    dtypes = Dtypes(student.vit.layers[0].mlp.fc1)
    second = distiller(student, teacher, tmp_path, {"bf16": True, "logging_steps": 1})
    second.train()
    assert dtypes.seen == {torch.bfloat16}
    assert logged(second, "loss_explanation")
    dtypes.seen.clear()
    distiller(student, teacher, tmp_path).train()
    assert dtypes.seen == {torch.float32}


def test_copy_of_the_student_is_its_own(tiny, tmp_path):
    """A deep copy (a snapshot, an average of weights) whose forward is the original's would never change."""
    trainer = distiller(tiny("vit"), build("vit", seed=1), tmp_path)
    trainer.train()
    student = trainer.student.eval()
    copy = deepcopy(student)
    pixels, target = images(2), torch.tensor([0, 1])
    with torch.no_grad():
        before = copy(pixel_values=pixels, explain_target=target)
        for parameter in student.parameters():
            parameter.zero_()
        after = copy(pixel_values=pixels, explain_target=target)
    assert torch.equal(before.logits, after.logits) and before.logits.any()
    assert torch.equal(before.maps, after.maps)
    # The copy can be a student in turn.
    distiller(copy, build("vit", seed=1), tmp_path).train()


@pytest.mark.parametrize("family", ["vit", "swin", "wrapped_vit"])
def test_activation_checkpointing_changes_nothing(tiny, tmp_path, family):
    """Checkpointing between the two derivatives fails or recomputes; without reentrance gradients must stay equal."""
    found, calls = [], []
    for kwargs in (None, {}, {"use_reentrant": False}):
        settings = {CHECKPOINTING: kwargs is not None, f"{CHECKPOINTING}_kwargs": kwargs or None}
        gradients, student = Gradients(), tiny(family)
        attentions = [module for name, module in student.named_modules() if name.endswith((".attention", ".attn"))]
        count = []
        attentions[0].register_forward_hook(lambda *_, count=count: count.append(1))
        data = {"callbacks": [gradients], "train_dataset": samples(4)}
        trainer = distiller(student, build("vit", seed=1), tmp_path, {**settings, "max_steps": 1}, **data)
        trainer.train()
        found.append(gradients.steps[0])
        calls.append(len(count))
    assert calls[0] == 1 and min(calls[1:]) > 1  # computed again in the backward pass
    assert relative_error(found[1], found[0]) < 1e-5
    assert relative_error(found[2], found[0]) < 1e-5


def test_compiled_training_equals_eager(tmp_path):
    """`torch.compile` has no double backward: an explanation outside the compiled graph would fail or be constant."""
    found = []
    settings = {"explanation_interval": 2, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}
    for compiled in ({}, {"torch_compile": True, "torch_compile_backend": "aot_eager"}):
        trainer = distiller(
            shallow("vit"), build("vit", seed=1), tmp_path, {**settings, **compiled}, eval_dataset=samples(8)
        )
        trainer.train()
        found.append((logged(trainer, "loss"), weights(trainer.student), trainer.evaluate()))
    assert isinstance(trainer.model_wrapped, torch._dynamo.eval_frame.OptimizedModule)
    (losses, eager, metrics), (compiled_losses, compiled, compiled_metrics) = found
    assert compiled_losses == pytest.approx(losses, rel=1e-5)
    assert relative_error(compiled, eager) < 1e-6
    assert compiled_metrics["eval_explanation_similarity"] == pytest.approx(metrics["eval_explanation_similarity"])
    trainer.save_model(str(tmp_path / "student"))
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "student")
    assert relative_error(weights(loaded), compiled) == 0


def test_the_student_is_the_model_that_the_trainer_has_now(tiny, tmp_path):
    """Prevents: a student remembered from before a search made the next one, or before it was compiled."""
    trainer = distiller(tiny("vit"), build("vit", seed=1), tmp_path)
    first, second = trainer.student, tiny("vit")
    trainer.model = second
    assert trainer.student is second is not first
    trainer.model = torch.compile(first, backend="eager")
    assert trainer.student is first


def test_unregistered_student_trains(tiny, tmp_path):
    """A model that nobody registered must train by a hook, and its gradient equal the registered family's."""
    found = []
    for wrap in (lambda model: model, Unregistered):
        gradients = Gradients()
        student = wrap(tiny("resnet"))
        trainer = distiller(student, build("vit", seed=1), tmp_path, {"max_steps": 1}, callbacks=[gradients])
        trainer.train()
        found.append(gradients.steps[0])
    assert relative_error(found[1], found[0]) < 1e-5


def test_parameters_that_are_none(tiny, tmp_path):
    """Prevents: "`q_proj_weight` is not an nn.Parameter" of students with torch's attention, as SigLIP's classifier."""
    student = Unregistered(tiny("resnet"))
    student.pool = nn.MultiheadAttention(8, 2)
    trainer = distiller(student, build("vit", seed=1), tmp_path, {"max_steps": 1})
    trainer.train()
    assert trainer.state.global_step == 1


def test_lora_student(tiny, tmp_path):
    """Adapters change the student's layers and wrap its forward; only they may be trained and saved."""
    peft = pytest.importorskip("peft")
    student, teacher = tiny("vit"), build("vit", seed=1)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], modules_to_save=["classifier"])
    adapted = peft.get_peft_model(student, config)
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "task_weight": 0.5, "learning_rate": 0.2}
    settings |= {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True}
    trainer = distiller(adapted, teacher, tmp_path / "a", {**settings, "metric_for_best_model": "eval_loss"})
    start = trainer.evaluate()
    trainer.train()
    assert logged(trainer, "loss_explanation")
    assert trainer.evaluate()["eval_loss"] < start["eval_loss"]
    trained = {name: parameter for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    # The adapter of the last block reaches the logits through the explained head alone.
    moved = [name for name, parameter in trained.items() if "lora_B" in name and parameter.any()]
    assert any("layers.2" in name for name in moved) and any("layers.0" in name for name in moved)
    assert all(
        torch.equal(before[name.replace(".base_layer", "")], value)
        for name, value in adapted.get_base_model().state_dict().items()
        if "lora" not in name and "classifier" not in name
    )
    trainer.save_model(str(tmp_path / "adapter"))
    loaded = peft.PeftModel.from_pretrained(tiny("vit"), str(tmp_path / "adapter")).eval()
    pixels = images(3)
    with torch.no_grad():
        torch.testing.assert_close(loaded(pixel_values=pixels).logits, adapted.eval()(pixel_values=pixels).logits)
    resumed = distiller(
        peft.get_peft_model(tiny("vit"), config), build("vit", seed=1), tmp_path / "b", {**settings, "max_steps": 4}
    )
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-2"))
    assert logged(resumed, "loss")[2:] == pytest.approx(logged(trainer, "loss")[2:], rel=1e-4)


def test_lora_bf16_and_accumulation(tiny, tmp_path):
    """Accelerate wraps the adapter's forward, not the base's: the explanation must still run under autocast."""
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(tiny("vit"), peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    dtypes = Dtypes(adapted.get_base_model().vit.layers[0].mlp.fc1)
    settings = {"bf16": True, "gradient_accumulation_steps": 2}
    trainer = distiller(adapted, build("vit", seed=1), tmp_path, settings)
    trainer.train()
    assert dtypes.seen == {torch.bfloat16}
    assert logged(trainer, "loss_explanation")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("teacher", ["vit", "unregistered"])
def test_integer_teacher_is_refused(tiny, tmp_path, teacher):
    """Integer kernels have no derivative: the teacher's maps would be zero, or the first batch fail in a kernel."""
    model = build("vit", seed=1) if teacher == "vit" else Unregistered(build("resnet", seed=1))
    quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(ValueError, match=r"computes in integers.*Quantise weights only"):
        distiller(tiny("vit"), quantised, tmp_path)


@pytest.mark.parametrize("family", ["vit", "convnext", "timm_efficientnet"])
@pytest.mark.filterwarnings("ignore:No label names")
def test_half_precision_teacher(tiny, tmp_path, family):
    """A teacher loaded in bfloat16 to save memory must take the student's float32 images."""
    teacher = build(family, seed=1).to(torch.bfloat16)
    trainer = distiller(tiny("vit"), teacher, tmp_path)
    trainer.train()
    full = distiller(tiny("vit"), build(family, seed=1), tmp_path)
    full.train()
    assert logged(trainer, "loss_explanation") == pytest.approx(logged(full, "loss_explanation"), abs=0.1)
