"""Annotations in training: a guided model, a student with a teacher and boxes, one label a sample or several."""

import datasets
import pytest
import torch
from torch.nn import functional as F

from hf_e2kd import TeacherReference
from hf_e2kd.explainers import GradCAM, IntegratedGradients, shared_noise
from hf_e2kd.metrics import energy_pointing_game, f1_map, localization_iou
from hf_e2kd.references import AnnotationReference, annotated_masks
from hf_e2kd.terms import guidance_loss, logits_loss
from tests.models import CLASSES, IMAGE_SIZE, build
from tests.training import Gradients, distiller, flat, logged, relative_error, samples

MASKS = {"task_weight": 1.0, "logits_weight": 0.0, "explanation_weight": 0.5}


def several_labels(count, seed=0):
    """Samples of one to three classes, each with a box of its own; every fourth is not annotated."""
    made = samples(count, labels=False, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for number, sample in enumerate(made):
        shown = torch.randperm(CLASSES, generator=generator)[: 1 + number % 3]
        sample["labels"] = torch.zeros(CLASSES)
        sample["labels"][shown] = 1
        sample["boxes"], sample["box_labels"] = torch.full((3, 4), -1.0), torch.full((3,), -1)
        for row, label in enumerate(shown if number % 4 != 3 else []):
            left, top = (7 * number + 5 * row) % 16, (3 * number + 9 * row) % 16
            sample["boxes"][row] = torch.tensor([left, top, left + 14, top + 10])
            sample["box_labels"][row] = label
    return made


def multi_label(tiny, name="convnext"):
    model = tiny(name)
    model.config.problem_type = "multi_label_classification"
    return model


def batch_of(data):
    return {name: torch.stack([torch.as_tensor(sample[name]) for sample in data]) for name in data[0]}


@pytest.mark.parametrize("loss", ["energy", "l1", "ppce", "rrr"])
def test_a_guided_step_equals_its_parts(tiny, tmp_path, loss):
    """Prevents: a mean over annotated samples alone, another class's map, or masks of another size."""
    data = samples(4, boxes=True)
    data[2]["boxes"] = torch.full_like(data[2]["boxes"], -1)
    gradients = Gradients()
    trainer = distiller(
        tiny("convnext"),
        None,
        tmp_path,
        {**MASKS, "max_steps": 1},
        references={"boxes": AnnotationReference(loss)},
        train_dataset=data,
        callbacks=[gradients],
    )
    trainer.train()

    model, batch = tiny("convnext"), batch_of(data)
    labels = batch["labels"].masked_fill(torch.tensor([False, False, True, False]), -1)
    explained = GradCAM()(model, {"pixel_values": batch["pixel_values"]}, labels, create_graph=True)
    guidance = guidance_loss(explained.maps, annotated_masks(batch, labels), loss).mean()
    task = F.cross_entropy(explained.logits, batch["labels"])
    assert logged(trainer, "loss_explanation") == pytest.approx([guidance.item()], rel=1e-4)
    assert logged(trainer, "loss_task") == pytest.approx([task.item()], rel=1e-4)
    (task + 0.5 * guidance).backward()
    expected = flat(p.grad for p in model.parameters() if p.grad is not None)
    assert relative_error(gradients.steps[0], expected) < 1e-4


def test_a_class_is_drawn_at_each_step(tiny, tmp_path):
    """Prevents: one class of an image guided for ever, or a class by another one's box."""
    reference = AnnotationReference()
    targets = []
    own = reference.__call__

    class Watched(AnnotationReference):
        def __call__(self, inputs, with_maps=True):
            reference_output = own(inputs, with_maps) if self.noise is None else super().__call__(inputs, with_maps)
            targets.append((inputs, reference_output.target))
            return reference_output

    settings = {**MASKS, "max_steps": 6, "per_device_train_batch_size": 6}
    trainer = distiller(
        multi_label(tiny), None, tmp_path, settings, references={"boxes": Watched()}, train_dataset=several_labels(6)
    )
    trainer.train()
    drawn = {}
    for inputs, target in targets:
        for pixels, labels, own_labels, chosen in zip(
            inputs["pixel_values"], inputs["labels"], inputs["box_labels"], target.tolist(), strict=True
        ):
            assert (chosen == -1) == bool((own_labels < 0).all())
            assert chosen == -1 or (labels[chosen] == 1 and chosen in own_labels)
            drawn.setdefault(float(pixels.sum()), set()).add(chosen)
    assert max(len(chosen) for chosen in drawn.values()) > 1


def test_a_teacher_and_annotations_in_one_forward(tiny, tmp_path):
    """Prevents: a second forward of the student, or one reference matched with the other's map."""
    student = tiny("convnext")
    calls = []
    student.register_forward_hook(lambda *_: calls.append(1))
    trainer = distiller(
        student,
        None,
        tmp_path,
        {"task_weight": 1.0},
        references={
            "teacher": TeacherReference(build("convnext", seed=1)),
            "boxes": AnnotationReference("energy", explanation_weight=0.1),
        },
        train_dataset=samples(8, boxes=True),
        eval_dataset=samples(5, boxes=True),
    )
    trainer.train()
    assert len(calls) == 2
    for term in ("loss_explanation_teacher", "loss_explanation_boxes", "loss_logits_teacher", "loss_task"):
        assert len(logged(trainer, term)) == 2, term
    metrics = trainer.evaluate()
    assert "eval_energy_pointing_game_boxes" in metrics and "eval_explanation_similarity_teacher" in metrics
    assert "eval_explanation_similarity_boxes" not in metrics


def test_several_labels_of_batches_that_are_not_joined(tiny, tmp_path):
    """Prevents: an evaluation with eval_do_concat_batches=False that ends in an error about ragged arrays."""
    data = several_labels(13, seed=3)
    model = multi_label(tiny)
    found = [
        distiller(
            model,
            None,
            tmp_path,
            {"task_weight": 1.0, "eval_do_concat_batches": concatenates},
            references={"boxes": AnnotationReference()},
            train_dataset=data,
            eval_dataset=data,
        ).evaluate()
        for concatenates in (True, False)
    ]
    for name in ("eval_f1", "eval_map"):
        assert found[0][name] == found[1][name] > 0


def test_several_labels_are_measured_pair_by_pair(tiny, tmp_path):
    """Prevents: an image of three classes that counts as one pair, padding that counts, and unlike batches mixed up."""
    data = several_labels(13, seed=3)
    model = multi_label(tiny)
    teacher = multi_label(lambda name: build(name, seed=1))
    trainer = distiller(
        model,
        None,
        tmp_path,
        {"task_weight": 1.0, "iou_threshold": 0.7},
        references={"teacher": TeacherReference(teacher, target="label"), "boxes": AnnotationReference()},
        train_dataset=data,
        eval_dataset=data,
    )
    metrics = trainer.evaluate()
    shares, overlaps, logits, taught = [], [], [], []
    for sample in data:
        inputs = {"pixel_values": sample["pixel_values"][None]}
        logits.append(model.eval()(**inputs).logits.detach())
        taught.append(teacher(**inputs).logits.detach())
        for box, label in zip(sample["boxes"], sample["box_labels"].tolist(), strict=True):
            if label >= 0:
                maps = GradCAM()(model, inputs, torch.tensor([label])).maps
                alone = {**inputs, "boxes": box[None, None], "box_labels": torch.tensor([[label]])}
                mask = annotated_masks(alone, torch.tensor([label]))
                shares.append(energy_pointing_game(maps, mask))
                overlaps.append(localization_iou(maps, mask, 0.7))
    logits, taught = torch.cat(logits), torch.cat(taught)
    labels = torch.stack([sample["labels"] for sample in data])
    found = f1_map(logits, labels)
    expected = {
        "energy_pointing_game_boxes": torch.cat(shares).mean(),
        "localization_iou_boxes": torch.cat(overlaps).mean(),
        "agreement_teacher": ((logits >= 0) == (taught >= 0)).float().mean(),
        "f1": found["f1"],
        "map": found["map"],
    }
    for name, value in expected.items():
        assert metrics[f"eval_{name}"] == pytest.approx(float(value), abs=1e-5), name
    assert -1 <= metrics["eval_explanation_similarity_teacher"] <= 1 and "eval_accuracy" not in metrics


def test_several_labels_are_distilled_for_themselves(tiny, tmp_path):
    """Prevents: a softmax over classes that don't exclude each other."""
    data = several_labels(4)
    teacher = multi_label(lambda name: build(name, seed=1))
    settings = {"task_weight": 0.5, "temperature": 2.0, "max_steps": 1}
    trainer = distiller(multi_label(tiny), teacher, tmp_path, settings, train_dataset=data)
    trainer.train()
    model, batch = multi_label(tiny).train(), batch_of(data)
    logits, taught = model(batch["pixel_values"]).logits, teacher(batch["pixel_values"]).logits
    expected = logits_loss(logits, taught, temperature=2.0, multi_label=True).mean().item()
    assert logged(trainer, "loss_logits") == pytest.approx([expected], rel=1e-4)
    task = F.binary_cross_entropy_with_logits(logits, batch["labels"]).item()
    assert logged(trainer, "loss_task") == pytest.approx([task], rel=1e-4)


def test_labels_of_another_shape_are_refused(tiny, tmp_path):
    with pytest.raises(ValueError, match=r"zeros and ones of the logits' shape \(4, 5\), not \(4,\)"):
        distiller(multi_label(tiny), None, tmp_path, {**MASKS, "explanation_weight": 0.0}).train()


def test_the_class_and_the_points_are_drawn_apart(tiny):
    """Prevents: one class of an image explained near the baseline for ever, and the other near the image."""
    reference, explainer = AnnotationReference(), IntegratedGradients()
    data = several_labels(3)[1:2] * 400
    batch = batch_of(data)
    trainer_like = torch.rand(2, 400, generator=torch.Generator().manual_seed(0))
    with shared_noise([explainer, reference], trainer_like):
        chosen = reference(batch).target
        places = explainer._places(torch.arange(400), chosen.device)[0][0]
    for label in chosen.unique():
        assert places[chosen == label].mean().item() == pytest.approx(0.5, abs=0.1)


def test_evaluation_without_annotations_measures_the_rest(tiny, tmp_path):
    """Prevents: a guided model that can't be tested where nothing is annotated."""
    references = {"teacher": TeacherReference(build("convnext", seed=1)), "boxes": AnnotationReference()}
    data = samples(8, boxes=True)
    trainer = distiller(tiny("convnext"), None, tmp_path, references=references, train_dataset=data)
    trainer.train()
    assert "eval_energy_pointing_game_boxes" in trainer.evaluate(data)
    metrics = trainer.evaluate(samples(5))
    assert "eval_accuracy" in metrics and "eval_explanation_similarity_teacher" in metrics
    assert not any(name.endswith("_boxes") for name in metrics)
    assert trainer.predict(samples(5, labels=False)).predictions.shape == (5, CLASSES)


@pytest.mark.parametrize("explainer", [GradCAM(), IntegratedGradients()])
def test_a_batch_without_annotations_trains_nothing(tiny, tmp_path, explainer):
    """Prevents: an error at the first batch of a data set of which few are annotated."""
    data = samples(4, boxes=True)
    for sample in data:
        sample["boxes"] = torch.full_like(sample["boxes"], -1)
    settings = {"task_weight": 0.0, "logits_weight": 0.0, "max_steps": 1}
    references = {"boxes": AnnotationReference()}
    trainer = distiller(
        tiny("convnext"), None, tmp_path, settings, references=references, train_dataset=data, explainer=explainer
    )
    before = flat(trainer.student.parameters()).clone()
    trainer.train()
    assert logged(trainer, "loss_explanation") == [0] and torch.equal(flat(trainer.student.parameters()), before)


def test_labels_of_other_classes_are_not_scored(tiny, tmp_path):
    """Prevents: a list of classes that isn't seen to be another data set's."""
    classes = datasets.ClassLabel(names=["x", "y", "z", "u", "v"])
    columns = {"pixel_values": [image.tolist() for image in batch_of(samples(4))["pixel_values"]]}
    columns["labels"] = [[0, 1], [2], [3, 4], [0]]
    data = datasets.Dataset.from_dict(
        columns,
        datasets.Features(
            {"pixel_values": datasets.Array3D((3, IMAGE_SIZE, IMAGE_SIZE), "float32"), "labels": datasets.List(classes)}
        ),
    )
    with pytest.raises(ValueError, match="labels are not the student's classes"):
        distiller(multi_label(tiny), build("convnext", seed=1), tmp_path, {"task_weight": 1.0}, train_dataset=data)
