"""λ relative to the gradients of the other terms: the factors, when they are measured, and where they can't be."""

import pytest
import torch
from accelerate.utils import DistributedType
from torch import nn

from hf_e2kd import AnnotationReference, Term
from hf_e2kd.trainer.relative_weights import (
    FACTOR,
    add_factors,
    is_measured,
    measure_factors,
    refuse_relative_weights,
    relative_weights,
)
from tests.models import build
from tests.text_models import build_text, token_rows
from tests.trainer.test_refusals import accelerator_of
from tests.training import Gradients, arguments, distiller, logged, relative_error, samples

RELATIVE = {"explanation_weight_mode": "relative", "explanation_weight": 0.25}


class Explaining(Term):
    """A term of explanations, whose loss the test computes."""

    name, log_name = "maps", "explanation"
    needs = frozenset({"maps"})


class Other(Term):
    name = "other"


def test_factors_by_hand():
    """Prevents: norms of losses, of weighted explanations or of one other term alone; a mean of norms over ranks."""
    first, second = nn.Parameter(torch.tensor([1.0, 2.0])), nn.Parameter(torch.tensor([3.0]))
    frozen = nn.Parameter(torch.ones(1), requires_grad=False)
    terms = {"task": Other(), "logits": Other(), "explanation": Explaining(), "explanation_boxes": Explaining()}
    terms["explanation_boxes"].suffix = "_boxes"
    weights = {"task": 2.0, "logits": 0.5, "explanation": 0.1, "explanation_boxes": 3.0}
    add_factors(terms, weights)
    assert not is_measured(terms.values())
    losses = {
        "task": first.sum() + frozen.sum(),  # ∇ = (1, 1, 0), weighed 2
        "logits": 2 * first[0] + 4 * second.sum(),  # ∇ = (2, 0, 4), weighed ½: in all (3, 2, 2)
        "explanation": first[1].square(),  # ∇ = (0, 4, 0)
        "explanation_boxes": second.square().sum(),  # ∇ = (0, 0, 6)
    }
    other_rank = torch.tensor([15.0, 2.0, 36.0])

    def measure(losses, others=other_rank):
        return measure_factors(terms, weights, losses, [first, second, frozen], lambda own: (own + others) / 2)

    norms = {name: norm.item() for name, norm in measure(losses).items()}
    assert norms == pytest.approx(
        {"other_grad_norm": 4.0, "explanation_grad_norm": 3.0, "explanation_grad_norm_boxes": 6.0}
    )
    own, named = relative_weights(terms, weights)
    assert (own["task"], own["logits"]) == (2.0, 0.5)
    assert own["explanation"].item() == named["explanation_weight"].item() == pytest.approx(0.1 * 4 / 3)
    assert own["explanation_boxes"].item() == named["explanation_weight_boxes"].item() == pytest.approx(3.0 * 4 / 6)
    assert is_measured(terms.values())
    nothing = torch.zeros(3)
    measure({**losses, "explanation": torch.tensor(1.0)}, nothing)  # all-zero maps
    measure({"explanation": losses["explanation"]}, nothing)  # a batch without the other terms
    assert terms["explanation"].get_buffer(FACTOR).item() == pytest.approx(4 / 3)


CASES = {
    "image": lambda **settings: (build("vit"), build("vit", seed=1), settings, {}),
    "guidance": lambda **settings: (
        build("convnext"),
        None,
        {"logits_weight": 0.0, "task_weight": 0.5, **settings},
        {"references": {"boxes": AnnotationReference("energy")}, "train_dataset": samples(4, boxes=True)},
    ),
    "text": lambda **settings: (
        build_text("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
        build_text("bert", seed=1),
        {"explainer": "lrp", "explainer_options": {"layer": "last"}, **settings},
        {"train_dataset": [dict(tokens) for tokens in token_rows(4)], "eval_dataset": None},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_steps_gradient(tmp_path, case):
    """λ = ¼ must give the explanations a quarter of the others' pull, whatever explains and whatever is explained."""

    def step(**settings):
        student, teacher, settings, keywords = CASES[case](**settings)
        gradients = Gradients()
        trainer = distiller(student, teacher, tmp_path, {**settings, "max_steps": 1}, callbacks=[gradients], **keywords)
        trainer.train()
        return trainer, gradients.steps[0]

    _, others = step(explanation_weight=0.0)
    _, together = step(explanation_weight=1.0)
    trainer, found = step(**RELATIVE)
    explanations = together - others
    norm, own = others.norm().item(), explanations.norm().item()
    assert logged(trainer, "other_grad_norm") == pytest.approx([norm], rel=1e-4)
    assert logged(trainer, "explanation_grad_norm") == pytest.approx([own], rel=1e-4)
    assert logged(trainer, "explanation_weight") == pytest.approx([0.25 * norm / own], rel=1e-4)
    assert relative_error(found, others + 0.25 * norm / own * explanations) < 1e-4


def test_every_nth_explained_step(tiny, tmp_path):
    """Prevents: measuring steps without maps, micro-batches, or none before the schedule's next; and a moving eval."""
    settings = {"explanation_interval": 2, "max_steps": 10, "explanation_warmup_ratio": 0.4, "learning_rate": 0.0}
    settings |= {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2, **RELATIVE}
    trainer = distiller(tiny("vit"), build("vit", seed=1), tmp_path, {**settings, "explanation_weight_interval": 2})
    trainer.train()
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    # At step 0 the warm-up's weight is 0; the first with one is measured beside every second explained step.
    assert [step for step, entry in enumerate(steps) if "explanation_grad_norm" in entry] == [2, 4, 8]
    factor = 0.0
    for step, entry in enumerate(steps):
        if "explanation_grad_norm" in entry:
            factor = entry["other_grad_norm"] / entry["explanation_grad_norm"]
        if step % 2 or not step:
            assert "explanation_weight" not in entry and entry["loss"] == pytest.approx(entry["loss_logits"])
            continue
        weight = 0.25 * min(1, step / 4) * factor
        assert entry["explanation_weight"] == pytest.approx(weight, rel=1e-5)
        assert entry["loss"] == pytest.approx(entry["loss_logits"] + weight * entry["loss_explanation"], rel=1e-5)
    assert trainer.terms["explanation"].get_buffer(FACTOR).item() == pytest.approx(factor, rel=1e-5)
    absolute = distiller(tiny("vit"), build("vit", seed=1), tmp_path, {"explanation_weight": 0.25})
    assert trainer.evaluate()["eval_loss"] == pytest.approx(absolute.evaluate()["eval_loss"])


def test_maps_without_a_gradient(tiny, tmp_path):
    """A quotient by 0 would be logged and trained with: the term waits until its gradient can be measured."""
    student = tiny("resnet")
    with torch.no_grad():
        student.classifier[1].weight.zero_()  # no logit depends on the features, so each map is zero
    trainer = distiller(student, build("resnet", seed=1), tmp_path, {**RELATIVE, "max_steps": 1})
    trainer.train()
    assert logged(trainer, "explanation_grad_norm") == logged(trainer, "explanation_weight") == [0.0]
    assert logged(trainer, "loss") == logged(trainer, "loss_logits")


def test_maps_that_match_already(tiny, tmp_path):
    """A copy's gradient is rounding: the factor to it, 10⁷, would drive the weights out of range at the next step."""
    settings = {**RELATIVE, "task_weight": 1.0, "max_steps": 3, "learning_rate": 0.01}
    trainer = distiller(tiny("vit"), build("vit"), tmp_path, settings)
    trainer.train()
    own, other = logged(trainer, "explanation_grad_norm"), logged(trainer, "other_grad_norm")
    assert len(own) == 2 and own[0] < 1e-6 * other[0]
    weight = 0.25 * other[1] / own[1]  # as soon as there is something to measure
    assert logged(trainer, "explanation_weight") == pytest.approx([0.0, weight, weight])


def test_a_training_without_explanations_says_so(tiny, tmp_path, caplog):
    """Prevents: a student that explanations had no part in, by a weight that nobody reads in the logs."""
    settings = {**RELATIVE, "task_weight": 1.0, "max_steps": 1, "learning_rate": 0.0}
    distiller(tiny("vit"), build("vit"), tmp_path, settings).train()
    assert "had no part in this training" in caplog.text


def test_resuming_between_two_measurements(tiny, tmp_path):
    """A factor that a checkpoint doesn't hold is measured anew, on another batch, or stands at 0."""
    settings = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, "optim": "adamw_torch", **RELATIVE}
    settings |= {"learning_rate": 1e-2, "explanation_weight_interval": 4}
    whole = distiller(tiny("vit"), build("vit", seed=1), tmp_path / "a", settings)
    whole.train()
    resumed = distiller(tiny("vit"), build("vit", seed=1), tmp_path / "b", settings)
    checkpoint = str(tmp_path / "a" / "checkpoint-3")
    resumed.train(resume_from_checkpoint=checkpoint)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    assert logged(resumed, "explanation_weight") == logged(whole, "explanation_weight")
    absolute = distiller(
        tiny("vit"), build("vit", seed=1), tmp_path / "c", {**settings, "explanation_weight_mode": "absolute"}
    )
    with pytest.raises(ValueError, match=r"with the terms \['explanation'\].*explanation_weight_mode='relative'"):
        absolute.train(resume_from_checkpoint=checkpoint)


def test_nothing_to_be_relative_to(tiny, tmp_path):
    """Of explanations alone any λ is the same: the quotient is of nothing."""
    alone = {**RELATIVE, "logits_weight": 0.0}
    with pytest.raises(ValueError, match="explanations are all that it has.*explanation_weight_mode='absolute'"):
        distiller(tiny("vit"), build("vit", seed=1), tmp_path, alone)
    plain = {**RELATIVE, "explanation_weight": 0.0, "evaluate_explanations": False, "torch_compile": True}
    distiller(tiny("vit"), build("vit", seed=1), tmp_path, {**plain, "torch_compile_backend": "aot_eager"})


@pytest.mark.parametrize(
    ("kind", "precision", "settings", "message"),
    [
        (DistributedType.FSDP, "no", {}, "FSDP and DeepSpeed shard. Train with DDP"),
        (DistributedType.DEEPSPEED, "bf16", {}, "FSDP and DeepSpeed shard. Train with DDP"),
        (DistributedType.MULTI_GPU, "fp16", {}, "they may underflow. Train with bf16=True"),
        (DistributedType.NO, "no", {"torch_compile": True}, "several times.*without torch_compile"),
    ],
)
def test_gradients_that_cannot_be_measured(tmp_path, kind, precision, settings, message):
    """A part of the student's gradient, an underflow, or memory that was used again would give some factor."""
    accelerator = accelerator_of(kind)
    accelerator.mixed_precision = precision
    settings = {**settings, "torch_compile_backend": "aot_eager"} if settings else {}
    with pytest.raises(ValueError, match=f"{message}.*explanation_weight_mode='absolute'"):
        refuse_relative_weights(accelerator, arguments(tmp_path, **settings))
