"""Trainings that would go wrong without a word, or far from their cause."""

import copy
import errno
from functools import partial
from types import SimpleNamespace

import datasets
import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms.v2.functional import to_pil_image
from transformers import ViTForImageClassification, ViTImageProcessor

from hf_e2kd import (
    AnnotationReference,
    ExplanationDistillTrainer,
    StoredReference,
    TeacherReference,
    TextCollator,
    explain,
)
from hf_e2kd.architectures.text import refuse_unfit_text
from hf_e2kd.data import AnnotatedCollator, DistillationTransform
from hf_e2kd.explainers import GradCAM
from hf_e2kd.trainer import checkpoints
from hf_e2kd.trainer.preemption import last_checkpoint
from tests.models import CLASS_NAMES, CLASSES, IMAGE_SIZE, build, images
from tests.text_models import build_text
from tests.tokenizers import STUDENT, text_model
from tests.training import Unregistered, arguments, distiller, logged, samples, weights

PROCESSOR = ViTImageProcessor(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})


def renamed(count, column):
    return [{"pixel_values": each["pixel_values"], column: each["labels"]} for each in samples(count)]


@pytest.mark.parametrize(
    ("data", "columns"),
    [
        (renamed(4, "fine_label"), r"\['fine_label', 'pixel_values'\], of which the batch keeps \['pixel_values'\]"),
        ([{**each, "labels": "class 1"} for each in samples(4)], r"\['labels', 'pixel_values'\]"),
    ],
    ids=["name", "strings"],
)
def test_labels_that_never_arrive(tiny, tmp_path, data, columns):
    """A column of another name is removed and strings are dropped by the collator: the task would not be learnt."""
    trainer = distiller(tiny("vit"), build("vit", seed=1), tmp_path, {"task_weight": 1.0}, train_dataset=data)
    with pytest.raises(ValueError, match=f"no labels.*term task of.*{columns}.*rename_column"):
        trainer.train()
    distiller(tiny("vit"), build("vit", seed=1), tmp_path, train_dataset=data).train()


@pytest.mark.parametrize("how", ["layer", "data", "adapter", "reference"])
def test_shared_weights(tiny, tmp_path, how):
    """Layers that are assigned, not copied, would be frozen with the teacher, or train it with the student."""
    student, teacher = tiny("vit"), build("vit", seed=1)
    keywords, message = {}, "share the weights vit.embeddings.patch_embeddings.projection.weight.*copy.deepcopy"
    if how == "layer":
        student.vit.embeddings = teacher.vit.embeddings
        message = "share the weights vit.embeddings.cls_token.*copy.deepcopy"
    elif how == "data":
        student.classifier.weight.data = teacher.classifier.weight.data
        message = "share the weights classifier.weight, which.*copy.deepcopy"
    elif how == "adapter":
        teacher, message = (
            get_peft_model(student, LoraConfig(target_modules=["q_proj"])),
            "share the weights .*deepcopy",
        )
    else:
        student.vit.layers[0] = teacher.vit.layers[0]
        keywords, teacher = {"references": {"guide": TeacherReference(teacher)}}, None
        message = r"share the weights vit.layers.0.* and \d+ more.*copy.deepcopy"
    with pytest.raises(ValueError, match=message):
        distiller(student, teacher, tmp_path, **keywords)
    assert all(p.requires_grad for name, p in student.named_parameters() if "base_layer" not in name and how == "data")


def test_a_deep_copy_shares_nothing(tiny, tmp_path):
    """A student that begins as its teacher's copy is common, and no mistake."""
    teacher = build("vit", seed=1)
    student, before = copy.deepcopy(teacher), copy.deepcopy(teacher.state_dict())
    # From the same maps and logits nothing is learnt but from the labels.
    distiller(student, teacher, tmp_path, {"task_weight": 1.0}).train()
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert not torch.equal(student.classifier.weight, teacher.classifier.weight)


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_weights_that_are_no_numbers(tiny, tmp_path, side):
    """NaN in a damaged file ends as a logged loss of 0 and NaN everywhere."""
    models = {"student": tiny("vit"), "teacher": build("vit", seed=1)}
    models[side].classifier.weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match=f"The {side}'s weight 'classifier.weight' holds NaN"):
        distiller(models["student"], models["teacher"], tmp_path)


class Breaking(torch.nn.Module):
    """A layer whose output is NaN from the n-th call on."""

    def __init__(self, layer, call):
        super().__init__()
        self.layer, self.calls, self.call = layer, 0, call

    def forward(self, features):
        self.calls += 1
        return self.layer(features) * (float("nan") if self.calls >= self.call else 1.0)


@pytest.mark.parametrize("filtered", [True, False])
def test_first_loss_that_is_no_number(tiny, tmp_path, filtered):
    """The loop logs 0 for NaN and trains on; a stop names the side and leaves weights and checkpoints as they were."""
    student, teacher = tiny("vit"), build("vit", seed=1)
    teacher.classifier = Breaking(teacher.classifier, 3)
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 1, "logging_nan_inf_filter": filtered}
    trainer = distiller(student, teacher, tmp_path, {**settings, "explanation_weight": 0.0})
    with pytest.raises(ValueError, match="loss_logits is NaN.*Not finite are the logits of the reference 'teacher'"):
        trainer.train()
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]
    assert all(value == value and value > 0 for value in logged(trainer, "loss"))
    assert not filtered or weights(student).isfinite().all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": 1e30, "max_steps": 3}, "student's .*lower the learning rate"),
        ({"explanation_weight": 1e38, "max_steps": 3}, "NaN or infinite"),
        (
            {"learning_rate": 1e30, "logits_weight": 1e20, "max_steps": 1},
            "student's weight '.*' holds NaN.*lower the learning rate",
        ),
    ],
    ids=["rate", "weight", "last step"],
)
def test_steps_out_of_range(tiny, tmp_path, settings, message):
    """A diverged training must not end as one that succeeded, nor put NaN into a checkpoint."""
    settings = {**settings, "logging_steps": 10, "save_strategy": "steps", "save_steps": 1}
    with pytest.raises(ValueError, match=message):
        distiller(tiny("vit"), build("vit", seed=1), tmp_path, settings).train()
    assert not list(tmp_path.glob("checkpoint-3"))


@pytest.mark.parametrize("wrong", [-1, CLASSES])
def test_labels_outside_the_classes(tiny, tmp_path, wrong):
    """An accuracy of 3 of 7 that is 3 of 4, or an index that is out of bounds deep inside the loss."""
    data = samples(4)
    data[2]["labels"] = wrong
    trainer = distiller(tiny("vit"), build("vit", seed=1), tmp_path, train_dataset=data, eval_dataset=data)
    for run in (trainer.evaluate, trainer.train):
        with pytest.raises(ValueError, match=rf"numbers \[{wrong}\].*0 to {CLASSES - 1}"):
            run()
    data[2]["labels"] = -100
    assert "eval_accuracy" in trainer.evaluate()


def named(names, order):
    """Eight samples whose labels are numbered as `names` are, in a data set that names them."""
    made = samples(8)
    features = datasets.Features(
        pixel_values=datasets.Array3D((3, IMAGE_SIZE, IMAGE_SIZE), "float32"), labels=datasets.ClassLabel(names=names)
    )
    rows = {"pixel_values": [each["pixel_values"].numpy() for each in made]}
    return datasets.Dataset.from_dict({**rows, "labels": [order[each["labels"]] for each in made]}, features)


@pytest.mark.parametrize("own", [RuntimeError("unexpected pos 99328 vs 99220"), OSError(errno.ENOSPC, "No space")])
def test_full_disk(tiny, tmp_path, monkeypatch, own):
    """Prevents: "unexpected pos 99328 vs 99220", which is what torch says of a full disk; half a checkpoint on it."""
    free = SimpleNamespace(free=0)
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda folder: free)

    def save_on_a_full_disk(*arguments, **keywords):
        raise own

    monkeypatch.setattr(torch, "save", save_on_a_full_disk)
    trainer = distiller(tiny("vit"), build("vit", seed=1), tmp_path, {"save_strategy": "steps", "save_steps": 1})
    with pytest.raises(
        OSError, match="checkpoint of step 1 could not be written, 0 bytes were free.*Make room"
    ) as error:
        trainer.train()
    assert error.value.errno == errno.ENOSPC and error.value.filename == str(tmp_path)
    assert not list(tmp_path.glob("checkpoint-*"))
    free.free = 10**9
    own = RuntimeError("unexpected pos 99328 vs 99220")
    trainer = distiller(tiny("vit"), build("vit", seed=1), tmp_path, {"save_strategy": "steps", "save_steps": 1})
    with pytest.raises(RuntimeError, match="unexpected pos"):
        trainer.train()


def test_classes_in_another_order(tiny, tmp_path):
    """Classes are matched by name between models and must be between data and model: same loss, same accuracy."""
    results = []
    for names in (CLASS_NAMES, CLASS_NAMES[::-1]):
        data = named(names, [names.index(name) for name in CLASS_NAMES])
        settings = {"task_weight": 1.0, "explanation_target": "label", "max_steps": 1, "per_device_train_batch_size": 8}
        trainer = distiller(
            tiny("vit"), build("vit", seed=1), tmp_path, settings, train_dataset=data, eval_dataset=data
        )
        metrics = trainer.evaluate()
        trainer.train()
        results.append([logged(trainer, "loss_task"), logged(trainer, "loss_explanation"), metrics["eval_accuracy"]])
    assert results[0] == results[1]


def test_classes_in_another_order_of_a_column_that_the_transform_names(tiny, tmp_path):
    """Prevents: other classes trained and scored where images are labelled by a column such as `fine_label`, which its
    transform reads, or by the names of a column `label` that it doesn't read."""
    results = []
    for names in (CLASS_NAMES, CLASS_NAMES[::-1]):
        pixels = [(20 * each["pixel_values"] + 128).clamp(0, 255).to(torch.uint8) for each in samples(8)]
        features = datasets.Features(
            image=datasets.Image(),
            fine_label=datasets.ClassLabel(names=names),
            label=datasets.ClassLabel(names=["animal", "plant"]),
        )
        numbers = [names.index(CLASS_NAMES[each["labels"]]) for each in samples(8)]
        rows = {"image": [to_pil_image(each) for each in pixels], "fine_label": numbers, "label": [0, 1] * 4}
        data = datasets.Dataset.from_dict(rows, features)
        data.set_transform(DistillationTransform(PROCESSOR, label_column="fine_label"))
        settings = {"task_weight": 1.0, "max_steps": 1, "per_device_train_batch_size": 8, "group_column": "label"}
        settings["remove_unused_columns"] = False
        keywords = {"train_dataset": data, "eval_dataset": data, "processing_class": PROCESSOR}
        trainer = distiller(tiny("vit"), build("vit", seed=1), tmp_path, settings, **keywords)
        metrics = trainer.evaluate()
        trainer.train()
        results.append([logged(trainer, "loss_task"), metrics["eval_accuracy"], metrics["eval_teacher_accuracy"]])
    assert results[0] == results[1]


@pytest.mark.parametrize("collator", [None, AnnotatedCollator()])
def test_labels_by_name(tiny, tmp_path, collator):
    """Prevents: "too many dimensions 'str'"."""
    data = [{"pixel_values": each["pixel_values"], "label": "class 1"} for each in samples(4)]
    trainer = distiller(tiny("vit"), build("vit", seed=1), tmp_path, train_dataset=data, data_collator=collator)
    with pytest.raises(ValueError, match="'label' holds 'class 1' where a class's number is expected.*encode_labels"):
        trainer.train()


def test_classes_in_another_order_by_a_loader_of_ones_own(tiny, tmp_path):
    """Prevents: labels that keep the data's numbers, other classes of the student's, where `get_train_dataloader` is
    replaced, as for a weighted sampler."""

    class Sampling(ExplanationDistillTrainer):
        def get_train_dataloader(self):
            loader = DataLoader(self.train_dataset, batch_size=8, collate_fn=self.data_collator)
            return self.accelerator.prepare(loader)

    losses = []
    for names in (CLASS_NAMES, CLASS_NAMES[::-1]):
        data = named(names, [names.index(name) for name in CLASS_NAMES])
        settings = arguments(tmp_path, task_weight=1.0, max_steps=1)
        trainer = Sampling(tiny("vit"), settings, train_dataset=data, teacher_model=build("vit", seed=1))
        trainer.train()
        losses += logged(trainer, "loss_task")
    assert losses[0] == losses[1]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_soft_labels(tiny, tmp_path, smoothing):
    """Mixed images have shares of classes for labels, whose cross-entropy stock recipes take."""
    data = samples(4)
    for sample in data:
        sample["labels"] = torch.tensor([0.75, 0.25] + [0.0] * (CLASSES - 2))
    settings = {"task_weight": 1.0, "max_steps": 1, "label_smoothing_factor": smoothing}
    student = tiny("vit").eval()
    with torch.no_grad():
        logits = student(torch.stack([sample["pixel_values"] for sample in data])).logits
    targets = torch.stack([sample["labels"] for sample in data]) * (1 - smoothing) + smoothing / CLASSES
    expected = -(targets * logits.log_softmax(1)).sum(1).mean().item()
    trainer = distiller(student, build("vit", seed=1), tmp_path, settings, train_dataset=data)
    trainer.train()
    assert logged(trainer, "loss_task") == pytest.approx([expected], rel=1e-4)


def test_smoothed_labels_of_a_batch_without_any(tiny, tmp_path):
    """Prevents: a training of partly labelled data that ends in NaN, where a batch happens to have no label."""
    data = samples(8)
    for sample in data[:4]:
        sample["labels"] = -100
    settings = {"task_weight": 1.0, "label_smoothing_factor": 0.1, "train_sampling_strategy": "sequential"}
    trainer = distiller(tiny("vit"), build("vit", seed=1), tmp_path, settings, train_dataset=data)
    trainer.train()
    unlabelled, labelled = logged(trainer, "loss_task")
    assert unlabelled == 0 < labelled


@pytest.mark.parametrize(
    "name",
    ["optimizer.pt", "scheduler.pt", "rng_state.pth", "config.json", "model.safetensors", "trainer_state.json"],
)
def test_checkpoint_that_lacks_a_file(tiny, tmp_path, name):
    """Without its optimizer, schedule or random state a training is resumed silently, and ends with other weights."""
    settings = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2}
    distiller(tiny("vit"), build("vit", seed=1), tmp_path, settings).train()
    (tmp_path / "checkpoint-2" / name).unlink()
    trainer = distiller(tiny("vit"), build("vit", seed=1), tmp_path, settings)
    assert last_checkpoint(tmp_path, trainer._needed_files()) == str(tmp_path / "checkpoint-1")
    with pytest.raises(ValueError, match=rf"checkpoint-2' lacks .*{name.split('.')[0][:5]}.*earlier checkpoint"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    trainer.train(resume_from_checkpoint=True)
    assert [entry["step"] for entry in trainer.state.log_history if "loss" in entry] == [1, 2]
    for step, share in ((1, 0), (2, 0.6)):  # empty, and cut off
        path = tmp_path / f"checkpoint-{step}" / name
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match="None of the checkpoints in .* is whole"):
        trainer.train(resume_from_checkpoint=True)


@pytest.mark.parametrize("side", ["student", "teacher"])
@pytest.mark.parametrize("family", ["vit", "resnet"])
def test_models_that_return_tuples(tmp_path, family, side):
    """`config.return_dict=False` changes the output's form alone: the loss stays, where stock training works."""
    losses = []
    for return_dict in (True, False):
        models = {"student": build(family), "teacher": build(family, seed=1)}
        models[side].config.return_dict = return_dict
        trainer = distiller(models["student"], models["teacher"], tmp_path)
        trainer.train()
        losses.append(logged(trainer, "loss"))
    assert losses[0] == losses[1]


class Unnamed(Unregistered):
    """A classifier of the user's own whose forward gives its logits as they are, as torchvision's do."""

    def forward(self, pixel_values):
        return super().forward(pixel_values)["logits"]


def test_students_that_return_tensors(tiny, tmp_path):
    """Prevents: "too many indices for tensor of dimension 2" at the first step without an explanation."""
    losses = []
    for wrap in (Unregistered, Unnamed):
        settings = {"explanation_interval": 2, "task_weight": 1.0}
        trainer = distiller(wrap(tiny("resnet")), build("vit", seed=1), tmp_path, settings)
        trainer.train()
        losses.append(logged(trainer, "loss"))
    assert losses[0] == losses[1]


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_compiled_models(tiny, tmp_path, side):
    """Prevents: "the layer '_orig_mod.…' was not called by its forward pass" of models wrapped by torch.compile."""
    evaluations = []
    compiled = partial(torch.compile, backend="eager")
    for wrap in (lambda model: model, compiled):
        models = {"student": tiny("vit"), "teacher": build("vit", seed=1)}
        models[side] = wrap(models[side])
        trainer = distiller(models["student"], models["teacher"], tmp_path, eval_dataset=samples(3))
        evaluations.append(trainer.evaluate()["eval_loss"])
    assert evaluations[0] == evaluations[1]
    explained = [explain(model, images(1)).maps for model in (build("vit"), compiled(build("vit")))]
    assert torch.equal(*explained)


def test_a_student_sharded_as_it_was_loaded(tmp_path, monkeypatch):
    """Prevents: a segmentation fault, or "setStorage: sizes … out of bounds", of blocks that transformers frees."""
    monkeypatch.setattr(ViTForImageClassification, "is_distributed_loading_by_transformers", True, raising=False)
    with pytest.raises(ValueError, match="sharded as it was loaded .distributed_config.* start several processes by"):
        distiller(build("vit"), build("resnet", seed=1), tmp_path)
    plain = {"explanation_weight": 0.0, "evaluate_explanations": False}
    distiller(build("vit"), build("resnet", seed=1), tmp_path, plain)


def test_prompts_that_are_trained(tmp_path):
    """Prevents: an error of `inputs_embeds` that says nothing of the adapter, which has put tokens before the text."""
    data = datasets.Dataset.from_list([{"text": "a warm film"}] * 2)
    keywords = {"train_dataset": data, "eval_dataset": data, "data_collator": TextCollator(STUDENT)}
    student = get_peft_model(text_model("bert"), PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2))
    with pytest.raises(ValueError, match="PROMPT_TUNING puts tokens of its own.*explanation_weight=0, evaluate_exp"):
        distiller(student, text_model("bert", 1), tmp_path, **keywords)
    settings = {"explanation_weight": 0.0, "evaluate_explanations": False}
    distiller(student, text_model("bert", 1), tmp_path, settings, **keywords).train()


@pytest.mark.parametrize("family", ["vit", "resnet"])
def test_columns_that_no_model_reads(tmp_path, family):
    """A model of transformers ignores what its forward doesn't name, and so must its explained forward."""
    data = [{**sample, "index": index} for index, sample in enumerate(samples(8))]
    trainer = distiller(
        build(family), build(family, seed=1), tmp_path, {"remove_unused_columns": False}, train_dataset=data
    )
    trainer.train()
    kept = distiller(build(family), build(family, seed=1), tmp_path, train_dataset=samples(8))
    kept.train()
    assert logged(trainer, "loss") == logged(kept, "loss")


RAW = [{"image": Image.new("RGB", (32, 32)), "label": 1}] * 4


@pytest.mark.parametrize("kind", ["list", "dataset", "transform", "texts"])
def test_batches_without_inputs(tiny, tmp_path, kind):
    """Raw images and texts, or a transform whose column is removed, fail in a collator, a transform or an index."""
    data, dropped = RAW, "image"
    if kind in ("dataset", "transform"):
        data = datasets.Dataset.from_dict({"image": [0] * 4, "label": [1] * 4})
    if kind == "transform":
        data.set_transform(lambda rows: {"pixel_values": [samples(1)[0]["pixel_values"] for _ in rows["image"]]})
    elif kind == "texts":
        data, dropped = [{"text": "fine", "label": 1}] * 4, "text"
    trainer = distiller(tiny("vit"), build("vit", seed=1), tmp_path, train_dataset=data, eval_dataset=data)
    for run in (trainer.train, trainer.evaluate):
        with pytest.raises(ValueError, match=rf"no inputs.*'{dropped}'.* was dropped.*remove_unused_columns=False"):
            run()


def test_raw_images_for_the_default_collator(tiny, tmp_path):
    """Torch can't infer the type of an image, which says nothing of the transform that is lacking."""
    settings = {"remove_unused_columns": False}
    trainer = distiller(tiny("vit"), build("vit", seed=1), tmp_path, settings, train_dataset=RAW)
    with pytest.raises(ValueError, match="column 'image' holds images as they are.*DistillationTransform"):
        trainer.train()


def test_target_layer_of_the_student(tmp_path):
    """A layer that is named for the student is sought in another family's teacher."""
    student, teacher = build("resnet"), build("vit", seed=1)
    layer = "resnet.encoder.stages.0"
    trainer = distiller(student, teacher, tmp_path, {"explainer_options": {"target_layer": layer}})
    trainer.train()
    reference = trainer.references["teacher"]
    assert trainer.explainer.target_layer_path(student) == layer
    assert reference.explainer.target_layer_path(teacher) == GradCAM().target_layer_path(teacher)
    alike = distiller(
        build("resnet"), build("resnet", seed=1), tmp_path, {"explainer_options": {"target_layer": layer}}
    )
    assert alike.references["teacher"].explainer.target_layer_path(student) == layer


class Bare(torch.nn.Module):
    """A classifier that says nothing of its classes."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * IMAGE_SIZE**2, CLASSES))

    def forward(self, pixel_values):
        return self.layers(pixel_values)


class LinearActivationQuantizedTensor(torch.Tensor):
    """Stand-in of torchao's class of this name."""


USES = {
    "teacher": lambda model, other, folder: distiller(other, model, folder),
    "student": lambda model, other, folder: distiller(model, other, folder),
    "explained": lambda model, other, folder: explain(model, torch.rand(1, 3, IMAGE_SIZE, IMAGE_SIZE), "gradcam"),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_models_of_sentence_transformers_are_refused(tmp_path, use):
    """Prevents: a TypeError about a missing `input` from inside the first step (fault B16)."""
    library = pytest.importorskip("sentence_transformers")
    other = build_text("bert")
    other.save_pretrained(tmp_path)
    STUDENT.save_pretrained(tmp_path)
    for kind in (library.CrossEncoder, library.SentenceTransformer):
        model = kind(str(tmp_path), device="cpu")
        with pytest.raises(ValueError, match=f"a {kind.__name__} of sentence-transformers.*transformers_model"):
            use(model, other, tmp_path)


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_integer_arithmetic_of_torchao_is_refused(tmp_path, use):
    """Prevents: "does not require grad" or an error of functorch from inside the first step (fault B25)."""
    quantization = pytest.importorskip("torchao.quantization")
    model = build("vit", seed=1).eval()
    quantization.quantize_(model, quantization.Int8DynamicActivationInt8WeightConfig())
    with pytest.raises(ValueError, match="layer 'vit.layers.0.attention.q_proj' computes in integers"):
        use(model, build("vit"), tmp_path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda teacher: Bare(), "a Bare, doesn't say what it classifies.*PreTrainedConfig"),
        (
            lambda teacher: setattr(teacher, "hf_device_map", {"vit": 0, "classifier": "cpu"}) or teacher,
            "weights lie on 0, cpu, and it must lie on one device.*without device_map",
        ),
        (lambda teacher: teacher.to("meta"), r"weights are without data \(meta\), vit.embeddings.cls_token"),
        (
            lambda teacher: setattr(teacher.config, "id2label", ["cat", "dog"]) or teacher,
            r"id2label of ViTForImageClassification must name the classes by their numbers.*\['cat', 'dog'\]",
        ),
        (
            lambda teacher: swap_weight(teacher) or teacher,
            r"layer 'vit.layers.0.attention.q_proj' computes in integers \(LinearActivationQuantizedTensor\)",
        ),
    ],
    ids=["bare", "offloaded", "meta", "list", "integers"],
)
def test_teachers_that_are_refused(tiny, tmp_path, spoil, message):
    """Each fails deep inside a library, or explains nothing, at the first step or later."""
    with pytest.raises(ValueError, match=message):
        distiller(tiny("vit"), spoil(build("vit", seed=1)), tmp_path)


def swap_weight(teacher):
    layer = teacher.vit.layers[0].attention.q_proj
    weight = layer.weight.detach().as_subclass(LinearActivationQuantizedTensor)
    layer.weight = torch.nn.Parameter(weight, requires_grad=False)


@pytest.mark.parametrize(
    ("make", "chosen"),
    [(lambda: build("vit"), "gradcam"), (lambda: build_text("bert"), "integrated_gradients")],
    ids=["images", "texts"],
)
def test_the_inputs_choose_the_explainer(tmp_path, make, chosen):
    """A default for images would be refused for each text model; one that is named is not replaced."""
    student, teacher = make(), make()
    trainer = distiller(student, teacher, tmp_path)
    assert trainer.explainer.name == trainer.references["teacher"].explainer.name == chosen
    if chosen != "gradcam":
        with pytest.raises(ValueError, match="GradCAM explains images"):
            distiller(make(), make(), tmp_path, {"explainer": "gradcam"})


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_token_types_in_a_training_that_a_model_lacks(tmp_path, weight):
    """Prevents: an IndexError from inside the student of a training without explanations."""
    student = build_text("roberta", type_vocab_size=1)
    tokens = {"input_ids": [5, 6, 7], "attention_mask": [1, 1, 1], "token_type_ids": [0, 1, 1]}
    data = [{**tokens, "special_tokens_mask": [0, 0, 0], "labels": 0}] * 4
    trainer = distiller(
        student, build_text("bert"), tmp_path, {"explanation_weight": weight}, train_dataset=data, explainer="saliency"
    )
    with pytest.raises(ValueError, match="`token_type_ids` holds 1, and RobertaForSequenceClassification knows"):
        trainer.train()


def test_token_types_that_a_model_lacks():
    """A tokenizer of pairs gives type 1, for which RoBERTa has no row: an index error, on a GPU a spoilt process."""
    model = SimpleNamespace(config=SimpleNamespace(type_vocab_size=1, vocab_size=10), named_modules=lambda: [])
    batch = {"input_ids": torch.tensor([[1, 2]]), "token_type_ids": torch.tensor([[0, 1]])}
    with pytest.raises(ValueError, match="`token_type_ids` holds 1, and .* knows the types 0 to 0.*return_token_type"):
        refuse_unfit_text(model, batch)


@pytest.mark.parametrize(
    ("label", "found"),
    [(1.5, "are of the type float32"), ([1], r"have the shape \(4, 1\)")],
)
def test_labels_of_other_types(tiny, tmp_path, label, found):
    """Prevents: an evaluation without the accuracy that was asked for, since its labels are fractions or lists."""
    data = [{**each, "labels": label} for each in samples(4)]
    trainer = distiller(tiny("vit"), build("vit", seed=1), tmp_path, eval_dataset=data)
    with pytest.raises(ValueError, match=f"The labels {found}.*0 to {CLASSES - 1}"):
        trainer.evaluate()


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_evaluations_whose_labels_never_arrive(tiny, tmp_path, weight, caplog):
    """Prevents: an `eval_loss` without the labels' term, of data whose labels are strings or named otherwise."""
    pixels = [each["pixel_values"].numpy() for each in samples(4)]
    named = datasets.Dataset.from_dict({"pixel_values": pixels, "labels": ["class 1"] * 4})
    data = renamed(4, "fine_label") if weight else named.with_format("torch", ["pixel_values"], True)
    trainer = distiller(tiny("vit"), build("vit", seed=1), tmp_path, {"task_weight": weight}, eval_dataset=data)
    assert "eval_accuracy" not in trainer.evaluate()
    assert caplog.text.count("evaluation's batches have no labels") == 1
    caplog.clear()
    assert "eval_accuracy" in trainer.evaluate(samples(4)) and "no labels" not in caplog.text


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_more_logits_than_names(tiny, tmp_path, side):
    """Prevents: names that stand for other logits, of a head that was exchanged without its `id2label`."""
    models = {"student": tiny("vit"), "teacher": build("vit", seed=1)}
    models[side].classifier = torch.nn.Linear(16, CLASSES + 2)
    with pytest.raises(ValueError, match=f"The {side} gives 7 logits, and its configuration names 5 classes"):
        distiller(models["student"], models["teacher"], tmp_path).train()


def test_a_term_without_weight(tmp_path):
    """Prevents: a KeyError in the middle of a training, where JSON says null."""
    with pytest.raises(ValueError, match="term 'hint' has no weight. Give a number"):
        arguments(tmp_path, terms={"hint": {"weight": None}})


@pytest.mark.parametrize(
    "use",
    [
        lambda model, folder: distiller(model, build("vit"), folder),
        lambda model, folder: explain(model, torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE)),
        lambda model, folder: StoredReference.build(model, samples(4), folder / "store", progress=False),
    ],
    ids=["student", "explain", "store"],
)
def test_weights_without_data(tmp_path, use):
    """Prevents: "Cannot copy out of meta tensor" or "item() on meta tensors" for a model that was never loaded."""
    with pytest.raises(
        ValueError, match=r"weights are without data \(meta\), vit.embeddings.cls_token.*from_pretrained"
    ):
        use(build("vit", seed=1).to("meta"), tmp_path)


def test_a_student_that_says_nothing(tmp_path):
    """Prevents: an AttributeError for a name, and half a remedy for a bare module."""
    with pytest.raises(ValueError, match="student must be a model, not str.*from_pretrained"):
        distiller("google/vit", build("vit"), tmp_path)
    bare = torch.nn.Sequential(torch.nn.Conv2d(3, CLASSES, 8, 8), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    with pytest.raises(ValueError, match="student doesn't say what it classifies.*student.config = PreTrainedConfig"):
        distiller(bare, build("vit"), tmp_path)


def test_columns_beside_a_bare_timm_teacher(tiny, tmp_path):
    """Prevents: a TypeError for columns of the data that models of transformers pass over."""
    data = [{**each, "index": number} for number, each in enumerate(samples(4))]
    losses = []
    for own in (data, samples(4)):
        trainer = distiller(
            tiny("vit"),
            build("timm_resnet", seed=1),
            tmp_path,
            {"remove_unused_columns": False, "max_steps": 1},
            train_dataset=own,
        )
        trainer.train()
        losses += logged(trainer, "loss")
    assert losses[0] == losses[1]


def test_a_checkpoint_of_further_terms(tiny, tmp_path):
    """Prevents: torch's "different number of parameter groups" for a training that is resumed without its terms."""
    settings = {"save_strategy": "steps", "save_steps": 1, "max_steps": 1}
    teacher = build("vit", seed=1)
    distiller(tiny("vit"), teacher, tmp_path, {**settings, "terms": {"hint": {"weight": 1.0}}}).train()
    with pytest.raises(ValueError, match=r"is of a training with the terms \['hint'\].*Name them in `terms`"):
        distiller(tiny("vit"), teacher, tmp_path, {**settings, "max_steps": 2}).train(resume_from_checkpoint=True)


def test_a_checkpoint_without_what_its_terms_own(tiny, tmp_path):
    """Prevents: a training that can't go on since the newest of several checkpoints lost the terms' parameters."""
    settings = {"save_strategy": "steps", "save_steps": 1, "terms": {"hint": {"weight": 1.0}}}
    whole = distiller(tiny("vit"), build("vit", seed=1), tmp_path, settings)
    whole.train()
    (tmp_path / "checkpoint-2" / "terms.safetensors").unlink()
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-1")
    resumed = distiller(tiny("vit"), build("vit", seed=1), tmp_path, settings)
    resumed.train(resume_from_checkpoint=True)
    assert torch.equal(weights(resumed.student), weights(whole.student))


@pytest.mark.parametrize("damage", ["shard gone", "index cut off", "index gone"])
def test_a_checkpoint_of_several_files_of_weights(tiny, tmp_path, damage):
    """Prevents: a file of the weights that is missed when the checkpoint is loaded, with a whole one beside it."""
    settings = {"save_strategy": "steps", "save_steps": 1}
    distiller(tiny("vit"), build("vit", seed=1), tmp_path, settings).train()
    newest = tmp_path / "checkpoint-2"
    (newest / "model.safetensors").unlink()
    tiny("vit").save_pretrained(newest, max_shard_size="20KB")
    shards, index = sorted(newest.glob("model-*.safetensors")), newest / "model.safetensors.index.json"
    assert len(shards) > 1
    assert last_checkpoint(tmp_path) == str(newest)
    if damage == "shard gone":
        shards[1].unlink()
    elif damage == "index cut off":
        index.write_text(index.read_text()[:-20])
    else:
        index.unlink()
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-1")


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("labelled", [0, 1])
def test_batches_without_a_label(tiny, tmp_path, guided, labelled, caplog):
    """Prevents: a loss of 0 and no word, where a transform or a collator has made -100 of every label."""
    data = [{**each, "labels": -100} for each in samples(4, mask=True)]
    data[0]["labels"] = 1 if labelled else -100
    keywords = {"references": {"masks": AnnotationReference()}} if guided else {}
    settings = {"explanation_weight" if guided else "task_weight": 1.0, "max_steps": 2}
    teacher = None if guided else build("vit", seed=1)
    trainer = distiller(tiny("vit"), teacher, tmp_path, settings, train_dataset=data, **keywords)
    trainer.train()
    loss = logged(trainer, "loss_explanation" if guided else "loss_task")
    assert (max(loss) > 0) == bool(labelled)
    term = "explanation" if guided else "task"
    assert caplog.text.count(
        f"No sample of the first batch has a label: all are -100. From such a batch the term {term}"
    ) == (1 - labelled)
