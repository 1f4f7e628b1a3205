"""A teacher with other classes, another order of them, or another processor than the student's."""

import copy

import datasets
import peft
import pytest
import torch
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as TF
from transformers import ViTImageProcessor

from hf_e2kd import ExplanationDistillTrainer, TeacherReference, explain
from hf_e2kd.data import DistillationTransform
from hf_e2kd.explainers import GradCAM, shared_noise
from tests.models import CLASS_NAMES, CLASSES, build, images
from tests.training import arguments, distiller, logged, samples

ORDER = [3, 0, 4, 1, 2]


def name_classes(model, names):
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: index for index, name in enumerate(names)}
    return model


def reordered(model):
    """The same function with its classes in another order, names and logits alike."""
    name_classes(model, [CLASS_NAMES[index] for index in ORDER])
    with torch.no_grad():
        model.classifier.weight.copy_(model.classifier.weight[ORDER].clone())
        model.classifier.bias.copy_(model.classifier.bias[ORDER].clone())
    return model


def run(student, teacher, folder, **keywords):
    trainer = distiller(student, teacher, folder, **keywords)
    metrics = trainer.evaluate()
    trainer.train()
    terms = ("loss", "loss_logits", "loss_explanation")
    return [logged(trainer, name) for name in terms], {
        name: value for name, value in metrics.items() if "time" not in name and "second" not in name
    }


def test_other_order_of_the_same_classes(tiny, tmp_path):
    """Logits matched by index would teach "cat" as "dog": the most damaging of all silent mistakes."""
    terms, metrics = run(tiny("vit"), build("vit", seed=1), tmp_path)
    other_terms, other_metrics = run(tiny("vit"), reordered(build("vit", seed=1)), tmp_path)
    assert other_terms == [pytest.approx(term, rel=1e-5) for term in terms]
    assert other_metrics == pytest.approx(metrics, rel=1e-5)


def test_partial_overlap(tiny, tmp_path):
    """With classes on one side alone, the softmax runs over the shared ones, and a shared class is explained."""
    names = ["class 4", "bird", "class 1", "fish", "class 0"]
    teacher = name_classes(build("vit", seed=1), names)
    shared_teacher, shared_student = [4, 2, 0], [0, 1, 4]
    batch = samples(8, seed=5)
    pixels = torch.stack([sample["pixel_values"] for sample in batch])
    labels = torch.tensor([sample["labels"] for sample in batch])
    with torch.no_grad():
        taught, own = teacher(pixels).logits, tiny("vit")(pixels).logits
    assert not torch.isin(taught.argmax(1), torch.tensor(shared_teacher)).all()

    trainer = distiller(
        tiny("vit"), teacher, tmp_path, {"max_steps": 1, "per_device_train_batch_size": 8}, train_dataset=batch
    )
    output = trainer.references["teacher"]({"pixel_values": pixels, "labels": labels})
    top = taught[:, shared_teacher].argmax(1)
    torch.testing.assert_close(output.logits, taught[:, shared_teacher])
    assert output.target.tolist() == [shared_student[index] for index in top]
    torch.testing.assert_close(output.maps, explain(teacher, pixels, target=torch.tensor(shared_teacher)[top]).maps)
    assert output.shared_labels.tolist() == [
        shared_student.index(label) if label in shared_student else -1 for label in labels
    ]

    metrics = trainer.evaluate(batch)
    agreement = own[:, shared_student].argmax(1) == top
    assert metrics["eval_agreement"] == pytest.approx(agreement.float().mean().item())
    judged = output.shared_labels >= 0
    right = (top == output.shared_labels)[judged].float().mean().item()
    assert metrics["eval_teacher_accuracy"] == pytest.approx(right)
    # The student is judged on all its classes.
    assert metrics["eval_accuracy"] == pytest.approx((own.argmax(1) == labels).float().mean().item())
    trainer.train()
    divergence = F.kl_div(
        own[:, shared_student].log_softmax(1), taught[:, shared_teacher].softmax(1), reduction="batchmean"
    )
    assert logged(trainer, "loss_logits") == pytest.approx([divergence.item()], rel=1e-4)


def test_label_outside_the_shared_classes(tiny):
    """`target="label"` on a class that the teacher lacks must fall back to the teacher's top class, not to an index."""
    teacher = name_classes(build("vit", seed=1), ["class 4", "bird", "class 1", "fish", "class 0"])
    reference = TeacherReference(teacher, target="label")
    reference.setup(tiny("vit"), GradCAM())
    pixels = images(3)
    output = reference({"pixel_values": pixels, "labels": torch.tensor([4, 2, 1000])})
    top = output.logits.argmax(1)
    assert output.target.tolist() == [4, [0, 1, 4][top[1]], [0, 1, 4][top[2]]]
    assert output.shared_labels.tolist() == [2, -1, -1]


@pytest.mark.parametrize(
    ("student_problem", "teacher_problem", "said"),
    [
        (None, "multi_label_classification", "compared by one softmax, as those of a student of one label a sample"),
        ("multi_label_classification", "single_label_classification", "compared by a sigmoid each, as those of"),
        ("multi_label_classification", None, None),
        (None, "single_label_classification", None),
    ],
)
def test_teacher_of_another_problem(tiny, caplog, student_problem, teacher_problem, said):
    """Prevents: a teacher of several labels that is distilled by a softmax without a word, as its student's new
    configuration doesn't state the problem; or one of a single label by sigmoids."""
    student, teacher = tiny("vit"), build("vit", seed=1)
    student.config.problem_type, teacher.config.problem_type = student_problem, teacher_problem
    TeacherReference(teacher).setup(student, None)
    warned = [record.message for record in caplog.records if "problem_type" in record.message]
    assert len(warned) == (said is not None) and all(said in message for message in warned)


def test_label_target_without_labels(tiny):
    """Unlabelled data can't be explained by its labels: a training names the remedy, and an evaluation ended too."""
    reference = TeacherReference(build("vit", seed=1), target="label")
    reference.setup(tiny("vit"), GradCAM())
    found = reference({"pixel_values": images(2)})
    assert found.logits.shape == (2, 5) and not found.has_explanation and found.target.tolist() == [-1, -1]
    with shared_noise([reference], torch.rand(1, 2)), pytest.raises(ValueError, match="use 'teacher_top' without them"):
        reference({"pixel_values": images(2)})


def test_unbound_and_unknown(tiny):
    """A reference used before it met the student would match classes by chance."""
    with pytest.raises(RuntimeError, match=r"setup\(student, explainer\)"):
        TeacherReference(build("vit"))({"pixel_values": images(2)})
    with pytest.raises(ValueError, match="Unknown explanation target 'top'. Available: label, teacher_top"):
        TeacherReference(build("vit"), target="top")


def test_name_instead_of_a_model():
    """Prevents: an AttributeError for a Hub id."""
    with pytest.raises(ValueError, match="must be a model, not str.*from_pretrained"):
        TeacherReference("google/vit-base-patch16-224")


def test_without_names_classes_match_by_index(tiny, tmp_path):
    """`LABEL_0` names nothing: with equal counts the match by index must be said aloud, with unequal ones refused."""
    teacher = name_classes(build("vit", seed=1), [f"LABEL_{index}" for index in range(CLASSES)])
    with pytest.warns(UserWarning, match="matched by index") as caught:
        distiller(tiny("vit"), teacher, tmp_path)
    assert sum("matched by index" in str(warning.message) for warning in caught) == 1
    names = [f"LABEL_{index}" for index in range(CLASSES + 1)]
    with pytest.raises(ValueError, match=f"{CLASSES + 1} classes and the student {CLASSES}"):
        distiller(tiny("vit"), name_classes(build("vit", seed=1), names), tmp_path)


def processor(size, mean, std):
    return ViTImageProcessor(size={"height": size, "width": size}, image_mean=mean, image_std=std)


OWN = processor(32, [0.5, 0.5, 0.5], [0.5, 0.5, 0.5])
OTHER = processor(48, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def photographs(count):
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_teacher_with_another_processor(tiny, tmp_path):
    """A teacher fed with the student's normalisation and size sees images that it was never trained on."""
    intensities = photographs(4)
    pixels = TF.normalize(intensities, OWN.image_mean, OWN.image_std)
    theirs = TF.normalize(TF.resize(intensities, [48, 48], antialias=True), OTHER.image_mean, OTHER.image_std)
    teacher = build("resnet", seed=1)
    trainer = distiller(tiny("vit"), teacher, tmp_path, processing_class=OWN, teacher_processing_class=OTHER)
    output = trainer.references["teacher"]({"pixel_values": pixels})
    expected = explain(teacher, theirs)
    torch.testing.assert_close(output.logits, expected.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(output.maps, expected.maps, atol=1e-4, rtol=1e-4)
    assert output.maps.shape[1:] == (6, 6)
    trainer.train()  # maps of 6×6 and 4×4 cells meet on one grid


def test_data_by_another_processor_than_the_students(tiny, tmp_path):
    """Prevents: a teacher's images made of the student's by another normalisation than theirs."""
    pictures = [{"image": TF.to_pil_image(image), "label": 0} for image in photographs(4)]
    data = datasets.Dataset.from_list(
        pictures, datasets.Features(image=datasets.Image(), label=datasets.Value("int64"))
    )

    def made(*processors):
        return distiller(
            tiny("vit"),
            build("resnet", seed=1),
            tmp_path,
            {"remove_unused_columns": False},
            processing_class=OWN,
            teacher_processing_class=OTHER,
            train_dataset=data.with_transform(DistillationTransform(*processors)),
        )

    with pytest.raises(ValueError, match="shows .* mean 0.2, .* processing_class states .* mean 0.5, .*the teacher's"):
        made(processor(32, [0.2] * 3, [0.9] * 3)).train()
    made(OWN).train()
    made(OWN, OTHER).train()


def test_positional_processing_class(tiny, tmp_path):
    """`processing_class` may be given by position, as in `Trainer`; it must be found there too."""
    trainer = ExplanationDistillTrainer(
        tiny("vit"),
        arguments(tmp_path),
        None,
        samples(4),
        None,
        OWN,
        teacher_model=build("resnet", seed=1),
        teacher_processing_class=OTHER,
    )
    assert trainer.processing_class is OWN
    trainer.train()


def test_teachers_own_images(tiny, tmp_path):
    """Where the batch carries the teacher's own images, they and nothing else must reach it."""
    intensities = photographs(8)
    rows = [
        {
            "pixel_values": TF.normalize(image, OWN.image_mean, OWN.image_std),
            "teacher_pixel_values": TF.normalize(
                TF.resize(image, [48, 48], antialias=True), OTHER.image_mean, OTHER.image_std
            ),
        }
        for image in intensities
    ]
    adapted = distiller(
        tiny("vit"),
        build("resnet", seed=1),
        tmp_path,
        processing_class=OWN,
        teacher_processing_class=OTHER,
        train_dataset=[{"pixel_values": row["pixel_values"]} for row in rows],
    )
    given = distiller(tiny("vit"), build("resnet", seed=1), tmp_path, train_dataset=rows)
    for trainer in (adapted, given):
        trainer.train()
    for name in ("loss_logits", "loss_explanation"):
        assert logged(given, name) == pytest.approx(logged(adapted, name), rel=1e-3)


def test_teachers_processor_without_the_students(tiny, tmp_path):
    """Without the student's processor its images can't be turned into the teacher's."""
    with pytest.raises(ValueError, match="without the student's processing_class"):
        distiller(tiny("vit"), build("resnet", seed=1), tmp_path, teacher_processing_class=OTHER)


def test_explainers_of_either_side(tiny, tmp_path):
    """`teacher_explainer` must not change the student's, and an explainer's options belong to the student alone."""
    student, teacher = GradCAM("resnet.encoder.stages.0"), GradCAM("vit.layers.1.layernorm_before")
    trainer = distiller(tiny("resnet"), build("vit", seed=1), tmp_path, explainer=student, teacher_explainer=teacher)
    pixels = images(2)
    output = trainer.references["teacher"]({"pixel_values": pixels})
    expected = explain(build("vit", seed=1), pixels, target_layer="vit.layers.1.layernorm_before")
    torch.testing.assert_close(output.maps, expected.maps)
    with torch.no_grad():
        own = trainer.student(pixel_values=pixels, explain_target=output.target)
    torch.testing.assert_close(
        own.maps, explain(tiny("resnet"), pixels, target=output.target, target_layer="resnet.encoder.stages.0").maps
    )
    trainer.train()


def test_teachers_with_adapters(tmp_path):
    """Prevents: maps of another layer than the family's own, as PEFT's wrapper is of none, and stages not found."""
    adapter = peft.LoraConfig(target_modules=["fc1"], init_lora_weights=False)
    adapted = peft.get_peft_model(build("dinov2", seed=1), adapter).eval()
    merged = copy.deepcopy(adapted).merge_and_unload()
    torch.testing.assert_close(explain(adapted, images()).maps, explain(merged, images()).maps, rtol=1e-3, atol=1e-5)
    settings = {"terms": {"hint": {}}}
    found, expected = (distiller(build("dinov2"), teacher, tmp_path, settings) for teacher in (adapted, merged))
    for trainer in (found, expected):
        trainer.train()
    for name in ("loss_explanation", "loss_hint"):
        assert logged(found, name) == pytest.approx(logged(expected, name), rel=1e-3)
