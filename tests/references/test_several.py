"""Several references at once: one forward pass of the student, each reference with its own target, loss and weight."""

import pytest
import torch
from torch.nn import functional as F

from hf_e2kd import Reference, ReferenceOutput, TeacherReference
from hf_e2kd.explainers import GradCAM
from hf_e2kd.terms import explanation_loss
from hf_e2kd.terms.maps import Maps
from tests.models import build
from tests.training import Gradients, distiller, logged, relative_error, samples


class Guide(Reference):
    """Says that the label is explained by the object, as model guidance does."""

    def __call__(self, inputs, with_maps=True):
        maps = F.avg_pool2d(inputs["mask"].float()[:, None], 8)[:, 0] if with_maps else None
        return ReferenceOutput(target=inputs["labels"], maps=maps)


class Calls:
    def __init__(self, module):
        self.count = 0
        module.register_forward_hook(lambda *_: setattr(self, "count", self.count + 1))


def references(**guide):
    return {"net": TeacherReference(build("vit", seed=1)), "guide": Guide(**guide)}


def test_one_forward_pass_serves_all(tiny, tmp_path):
    """Two references must not cost two passes of the student, nor move its BatchNorm statistics twice."""
    student = tiny("resnet")
    calls = Calls(student.resnet)
    settings = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_steps": 2}
    data = {"train_dataset": samples(8, mask=True), "eval_dataset": samples(8, mask=True)}
    trainer = distiller(student, None, tmp_path, settings, references=references(), **data)
    trainer.train()
    assert calls.count == 4
    trainer.evaluate()
    assert calls.count == 6


def test_each_reference_has_its_own_terms(tiny, tmp_path):
    """Terms of two references under one name would hide which of them is learned; weights must not be shared."""
    batch = samples(4, mask=True)
    trainer = distiller(
        tiny("vit"),
        None,
        tmp_path,
        {"max_steps": 1, "explanation_weight": 2.0, "temperature": 3.0},
        references=references(explanation_weight=0.25, explanation_loss="l1"),
        train_dataset=batch,
    )
    pixels = torch.stack([sample["pixel_values"] for sample in batch])
    labels = torch.tensor([sample["labels"] for sample in batch])
    masks = torch.stack([sample["mask"] for sample in batch])
    explainer, student = GradCAM(), tiny("vit")
    taught = explainer(build("vit", seed=1), {"pixel_values": pixels})
    own = [explainer(student, {"pixel_values": pixels}, target) for target in (taught.target, labels)]
    pooled = F.avg_pool2d(masks.float()[:, None], 8)[:, 0]

    def at_image(*maps):
        return [F.interpolate(each[:, None], pixels.shape[-2:], mode="bilinear")[:, 0] for each in maps]

    expected = {
        "loss_explanation_net": explanation_loss(*at_image(own[0].maps, taught.maps))[0].mean().item(),
        "loss_explanation_guide": explanation_loss(*at_image(own[1].maps, pooled), "l1")[0].mean().item(),
    }
    trainer.train()
    entry = trainer.state.log_history[0]
    terms = {name for name in entry if name.startswith("loss_")}
    assert terms == {"loss_logits_net", "loss_explanation_net", "loss_explanation_guide"}
    for name, value in expected.items():
        assert entry[name] == pytest.approx(value, rel=1e-4)
    total = entry["loss_logits_net"] + 2 * entry["loss_explanation_net"] + 0.25 * entry["loss_explanation_guide"]
    assert entry["loss"] == pytest.approx(total, rel=1e-5)


def test_metrics_bear_the_references_names(tiny, tmp_path):
    """A similarity to the boxes read as one to the teacher would be a wrong figure in a table."""
    data = {"eval_dataset": samples(13, mask=True)}
    metrics = distiller(tiny("vit"), None, tmp_path, references=references(), **data).evaluate()
    alone = distiller(tiny("vit"), build("vit", seed=1), tmp_path, **data).evaluate()
    for name in ("agreement", "explanation_similarity", "teacher_accuracy"):
        assert metrics[f"eval_{name}_net"] == pytest.approx(alone[f"eval_{name}"])
    assert metrics["eval_explanation_similarity_guide"] != metrics["eval_explanation_similarity_net"]
    assert "eval_agreement_guide" not in metrics


def test_joined_gradient_is_the_sum(tiny, tmp_path):
    """Targets explained side by side must not disturb each other's gradient."""
    found = []
    for names in (["net", "guide"], ["net"], ["guide"]):
        chosen = {name: reference for name, reference in references().items() if name in names}
        gradients = Gradients()
        settings = {"max_steps": 1, "logits_weight": 0.0}
        data = {"train_dataset": samples(4, mask=True), "callbacks": [gradients]}
        distiller(tiny("vit"), None, tmp_path, settings, references=chosen, **data).train()
        found.append(gradients.steps[0])
    assert relative_error(found[0], found[1] + found[2]) < 1e-5


def test_a_reference_alone_needs_no_teacher(tiny, tmp_path):
    """Guidance by annotations alone: without logits there is no agreement, and nothing asks for it."""
    data = {"train_dataset": samples(8, mask=True), "eval_dataset": samples(5, mask=True)}
    trainer = distiller(tiny("convnext"), None, tmp_path, {"task_weight": 1.0}, references={"guide": Guide()}, **data)
    trainer.train()
    entry = trainer.state.log_history[0]
    assert {name for name in entry if name.startswith("loss_")} == {"loss_task", "loss_explanation"}
    assert "eval_explanation_similarity" in trainer.evaluate()


class Heat(Reference):
    """Reads maps from a column of its own; cells of a second column don't count."""

    columns = ("heat", "counts")

    def __init__(self, **options):
        super().__init__(**options)
        self.seen = []

    def __call__(self, inputs, with_maps=True):
        self.seen.append(set(inputs))
        return ReferenceOutput(target=inputs["labels"], maps=inputs["heat"], mask=inputs["counts"])


def heated(count):
    generator = torch.Generator().manual_seed(0)
    return [
        {**sample, "heat": torch.rand(2, 2, generator=generator), "counts": torch.tensor([[True, True], [False, True]])}
        for sample in samples(count)
    ]


def test_own_columns_reach_their_reference_alone(tiny, tmp_path):
    """A column that a reference reads is no input of the student's or the teacher's forward, which would refuse it."""
    heat = Heat()
    trainer = distiller(
        tiny("vit"),
        build("vit", seed=1),
        tmp_path,
        references={"heat": heat},
        train_dataset=heated(8),
        eval_dataset=heated(5),
    )
    trainer.train()
    assert logged(trainer, "loss_explanation_heat")
    assert "eval_explanation_similarity_heat" in trainer.evaluate()
    assert heat.seen[0] == {"pixel_values", "labels", "heat", "counts"}


def test_mask_of_a_coarser_grid(tiny, tmp_path):
    """A reference's mask lies on its own grid: it must be enlarged with the maps, and hide cells of both."""
    data = heated(4)
    rows = {"train_dataset": data, "eval_dataset": data, "references": {"heat": Heat()}}
    trainer = distiller(tiny("vit"), None, tmp_path, {"max_steps": 1}, **rows)
    similarity = trainer.evaluate()["eval_explanation_similarity"]
    trainer.train()
    target = torch.tensor([sample["labels"] for sample in data])
    pixels = torch.stack([sample["pixel_values"] for sample in data])
    own = GradCAM()(tiny("vit"), {"pixel_values": pixels}, target).maps
    heat = torch.stack([sample["heat"] for sample in data])
    own, heat = (F.interpolate(maps[:, None], (32, 32), mode="bilinear")[:, 0] for maps in (own, heat))
    counts = torch.ones(1, 1, *data[0]["heat"].shape)
    counts[..., 1:, :1] = 0
    counts = F.interpolate(counts, (32, 32), mode="bilinear")[:, 0] > 0.5
    expected = F.cosine_similarity((own * counts).flatten(1), (heat * counts).flatten(1)).mean().item()
    assert similarity == pytest.approx(expected, abs=1e-5)
    assert logged(trainer, "loss_explanation") == [pytest.approx(1 - expected, abs=1e-5)]


def test_target_of_no_class_has_no_map(tiny, tmp_path):
    """A sample without an explained class (−1) contributes no explanation loss instead of explaining the last class."""

    class Silent(Guide):
        def __call__(self, inputs, with_maps=True):
            output = super().__call__(inputs, with_maps)
            output.target = torch.full_like(output.target, -1)
            return output

    rows = {"train_dataset": samples(4, mask=True), "references": {"silent": Silent()}}
    trainer = distiller(tiny("vit"), None, tmp_path, {"max_steps": 1}, **rows)
    trainer.train()
    assert logged(trainer, "loss_explanation") == [0.0]
    # Neither side has a map that could have died.
    assert logged(trainer, "zero_student_maps") == logged(trainer, "zero_teacher_maps") == [0.0]


@pytest.mark.parametrize("gives", ["maps", "logits"])
def test_references_that_give_one_thing(tiny, tmp_path, gives):
    """Prevents: a term that nobody asked for, and that can't be left out, refused for what its reference lacks."""

    class Partial(Heat):
        pass

    Partial.gives = frozenset({gives})
    trainer = distiller(tiny("vit"), None, tmp_path, references={"heat": Partial()}, train_dataset=heated(8))
    assert list(trainer._named_terms()) == ["task", {"maps": "explanation"}.get(gives, gives)]
    if gives == "maps":
        with pytest.raises(ValueError, match="term 'logits' compares logits.*a Partial, gives maps alone"):
            distiller(
                tiny("vit"), None, tmp_path, references={"heat": Partial(logits_weight=1.0)}, train_dataset=heated(8)
            )


def test_terms_of_one_weighed_explanation_are_checked(tiny, tmp_path):
    """Prevents: a term of explanations with a weight of its own, whose student has no explained forward."""
    settings = {"explanation_weight": 0.0, "evaluate_explanations": False, "logging_steps": 1}
    own = Maps(0.5, "teacher")
    own.name = "own_maps"
    trainer = distiller(tiny("vit"), build("vit", seed=1), tmp_path, settings, terms=[own])
    assert trainer.explains
    trainer.train()
    assert logged(trainer, "loss_own_maps")
