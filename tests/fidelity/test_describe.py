"""What a record says of where models and data are from, and what it keeps to itself."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset, load_dataset
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HTTPError
from PIL import Image
from torch.utils.data import Subset
from torchvision.transforms import v2
from transformers import AutoModelForImageClassification, TrainerCallback, ViTImageProcessor

from hf_e2kd import ExplanationDistillTrainer
from hf_e2kd.data import DistillationTransform, MixingCollator
from hf_e2kd.explainers import build_explainer
from hf_e2kd.fidelity import describe
from hf_e2kd.fidelity.describe import (
    describe_data,
    describe_explainer,
    describe_model,
    license_of,
)
from hf_e2kd.fidelity.training import describe_training, recorded_arguments
from hf_e2kd.hub.ids import loaded_from_hub, loaded_revision
from hf_e2kd.hub.redaction import LEFT_OUT
from hf_e2kd.store.key import teacher_key
from tests.models import CLASSES, build
from tests.training import arguments, distiller, samples, stock_arguments

COMMITS = "a" * 40, "b" * 40


@pytest.fixture
def asked(monkeypatch):
    """The questions to a Hub, which answers as `answer` says."""
    monkeypatch.setattr(describe, "is_offline_mode", lambda: False)
    monkeypatch.setattr(describe, "_ask_from", 0.0)
    describe._stated_license.cache_clear()
    found = SimpleNamespace(questions=[], answer={"license": "mit"})

    def info(self, repo_id, *, timeout):
        found.questions.append((repo_id, timeout))
        if isinstance(found.answer, Exception):
            raise found.answer
        return SimpleNamespace(card_data=found.answer)

    monkeypatch.setattr(HfApi, "model_info", info)
    monkeypatch.setattr(HfApi, "dataset_info", info)
    yield found
    describe._stated_license.cache_clear()


# ---- Models ----------------------------------------------------------------------------------------------------------


def test_revision_that_was_loaded(hub_cache):
    """Prevents: records without revisions, which configurations don't hold; the present commit in the place of the one
    that was loaded; a student under its base model's name."""
    model = build("vit")
    model.config._name_or_path = "google/vit"
    assert describe_model(model).id is None and teacher_key(model)["revision"] is None
    hub_cache("google/vit", COMMITS[0], main=False)  # as with revision="v1"
    assert loaded_revision("google/vit") == COMMITS[0]
    hub_cache("google/vit", COMMITS[1], main=False)
    assert loaded_revision("google/vit") is None and loaded_from_hub("google/vit") == "google/vit"
    hub_cache("google/vit", "c" * 40, main=True)
    found = describe_model(model)
    assert (found.id, found.revision) == ("google/vit", "c" * 40)
    assert teacher_key(model)["revision"] == "c" * 40
    assert teacher_key(model, revision="v1")["revision"] == "v1"
    trained = describe_model(model, published=False)
    assert trained.id is trained.revision is trained.license is None and trained.weights == found.weights


def test_student_of_a_folder_that_is_gone(hub_cache, tmp_path):
    """Prevents: a card that links to somebody else's `models/vit` on the Hub, which this machine has too, because the
    folder of that name that the student was loaded from is gone when the card is written."""
    build("vit").save_pretrained("models/vit")
    student = AutoModelForImageClassification.from_pretrained("models/vit")
    hub_cache("models/vit", COMMITS[0], main=True)
    trainer = distiller(student, build("vit", seed=1), tmp_path / "out", {"max_steps": 1})
    trainer.train()
    shutil.rmtree("models")
    described = describe_training(trainer, trainer.base_model)
    assert (described.base_model, described.base_license) == (None, None)
    trainer.create_model_card()
    assert "models/vit" not in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_training_that_was_resumed(tmp_path):
    """Prevents: the time since a training was resumed in the place of the whole one's, beside the whole one's steps."""
    settings = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    for checkpoint in (None, str(tmp_path / "checkpoint-1")):
        trainer = distiller(build("resnet"), build("resnet", seed=1), tmp_path, settings)
        trainer.train(resume_from_checkpoint=checkpoint)
        described = describe_training(trainer, None)
        assert described.steps == 2 and (described.seconds is None) is (checkpoint is not None)


def test_loss_on_the_labels_of_the_users_own(tmp_path):
    """Prevents: a card that names the cross-entropy where another loss was trained, or leaves out its smoothing."""
    settings = {"max_steps": 1, "task_weight": 0.5, "label_smoothing_factor": 0.1}
    functions = [{}, {"compute_loss_func": lambda outputs, labels, **_: outputs["logits"].square().mean()}]
    for own in functions:
        trainer = distiller(build("resnet"), build("resnet", seed=1), tmp_path, settings, **own)
        trainer.train()
        trainer.create_model_card()
        text = (tmp_path / "README.md").read_text(encoding="utf-8")
        loss = "a loss of the trainer's own (`compute_loss_func`)" if own else "cross-entropy"
        assert f"**Loss**: 0.5 · {loss} with the labels" in text and "| `label_smoothing_factor` | `0.1` |" in text


@pytest.mark.filterwarnings("ignore:Label smoothing is not compatible")
def test_smoothing_of_several_labels(tmp_path):
    """Prevents: a card that states a smoothing which transformers turns off, where each class is decided for itself."""
    models = build("resnet"), build("resnet", seed=1)
    for model in models:
        model.config.problem_type = "multi_label_classification"
    data = [{**sample, "labels": torch.eye(CLASSES)[sample["labels"]]} for sample in samples(4)]
    settings = {"max_steps": 1, "task_weight": 1.0, "label_smoothing_factor": 0.1}
    trainer = distiller(*models, tmp_path, settings, train_dataset=data, eval_dataset=data)
    trainer.train()
    assert "label_smoothing_factor" not in describe_training(trainer, None).arguments


def test_best_step_is_stated_once_its_weights_are_there(tmp_path):
    """Prevents: a card of a checkpoint in the middle of a training that names the best step so far as its own."""
    settings = {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 1, "max_steps": 2}
    settings |= {"save_strategy": "steps", "save_steps": 1}
    between: list[dict] = []

    class Describe(TrainerCallback):
        def on_save(self, *arguments, **keywords):
            between.append(describe_training(trainer, None).arguments)

    trainer = distiller(build("resnet"), build("resnet", seed=1), tmp_path, settings, callbacks=[Describe()])
    trainer.train()
    assert len(between) == 2 and not any("best_model_of_step" in each for each in between)
    assert describe_training(trainer, None).arguments["best_model_of_step"] == trainer.state.best_global_step


def test_a_best_step_whose_weights_were_not_saved(tmp_path, caplog):
    """Prevents: the best evaluation's step as that of weights that are another step's."""
    settings = {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 1, "max_steps": 4}
    # It diverges from the first step on.
    settings |= {"save_strategy": "steps", "save_steps": 2, "learning_rate": 2.0}
    trainer = distiller(build("vit"), build("vit", seed=1), tmp_path, settings)
    trainer.train()
    assert trainer.state.best_global_step == 1
    assert "best_model_of_step" not in describe_training(trainer, None).arguments
    assert "best evaluation was at step 1, whose weights were not saved: the student keeps those of the" in caplog.text


def test_training_by_plain_arguments(tmp_path):
    """Prevents: an AttributeError in the place of a card of a training by plain arguments, or one without its loss."""
    keywords = {"teacher_model": build("resnet", seed=1), "train_dataset": samples(8), "eval_dataset": samples(4)}
    trainer = ExplanationDistillTrainer(build("resnet"), stock_arguments(tmp_path), **keywords)
    trainer.train()
    trainer.measure_fidelity(costs=False)
    trainer.create_model_card()
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "**Loss**: 1 · KL divergence from" in text and "1 · `cosine` loss against" in text


def test_optimizer_of_the_users_own(tmp_path):
    """Prevents: a record that states the arguments' optimizer and learning rate where another one has trained."""
    names = ("optim", "learning_rate", "weight_decay", "lr_scheduler_type", "warmup_steps")
    student = build("resnet")
    groups = [{"params": student.resnet.parameters()}, {"params": student.classifier.parameters(), "lr": 0.2}]
    optimizer = torch.optim.AdamW(groups, lr=0.1, weight_decay=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    own = {
        **{"optim": "AdamW", "learning_rate": [0.1, 0.2], "weight_decay": 0.01},
        **{"lr_scheduler_type": "StepLR", "warmup_steps": None},
    }
    stated = {**{"optim": "sgd", "learning_rate": 0.05, "weight_decay": 0.0}, "lr_scheduler_type": "constant"}
    stated["warmup_steps"] = 0
    for keywords, expected in (
        ({}, stated),
        (
            {"optimizer_cls_and_kwargs": (torch.optim.RMSprop, {"lr": 0.01})},
            {"optim": "RMSprop", "learning_rate": 0.01},
        ),
        ({"optimizers": (optimizer, scheduler)}, own),
    ):
        trainer = distiller(student, build("resnet", seed=1), tmp_path, **keywords)
        trainer.train()
        arguments = describe_training(trainer, None).arguments
        assert {name: arguments[name] for name in names} == {**stated, **expected}
        trainer.create_model_card()


def test_batch_size_that_was_found(tmp_path):
    """Prevents: a record of the batch size that was asked for, where `auto_find_batch_size` has trained on less."""
    settings = {"auto_find_batch_size": True, "per_device_train_batch_size": 8}
    trainer = distiller(build("resnet"), build("resnet", seed=1), tmp_path, settings)
    step = trainer.training_step

    def fill_the_memory(model, inputs, *arguments, **keywords):
        if len(inputs["pixel_values"]) > 5:
            raise RuntimeError("CUDA out of memory.")
        return step(model, inputs, *arguments, **keywords)

    trainer.training_step = fill_the_memory
    trainer.train()
    assert describe_training(trainer, None).arguments["per_device_train_batch_size"] <= 5


def test_precision_of_the_launcher(tmp_path, monkeypatch):
    """Prevents: a record of float32 where `accelerate launch --mixed_precision bf16` has trained in bf16."""
    assert not recorded_arguments(arguments(tmp_path))["bf16"]
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    recorded = recorded_arguments(arguments(tmp_path))
    assert recorded["bf16"] and not recorded["fp16"]


def test_mixed_images_of_a_part(tmp_path):
    """Prevents: a record without augmentation of images that the collator mixes, or of a part of augmented data."""
    mixing = v2.RandomChoice([v2.MixUp(num_classes=CLASSES), v2.CutMix(num_classes=CLASSES)])
    settings, part = {"max_steps": 1, "task_weight": 1.0}, Subset(samples(8), range(4))
    trainer = distiller(
        build("resnet"),
        build("resnet", seed=1),
        tmp_path,
        settings,
        train_dataset=part,
        data_collator=MixingCollator(mixing),
    )
    trainer.train()
    assert describe_training(trainer, None).augmentation == "MixUp, CutMix"
    augmentation = v2.Compose([v2.RandomHorizontalFlip()])
    transform = DistillationTransform(ViTImageProcessor(), augmentation=augmentation)
    data = Dataset.from_dict({"image": [Image.new("RGB", (8, 8))] * 2, "label": [0, 1]}).with_transform(transform)
    trainer.train_dataset = Subset(data, [0])
    assert describe_training(trainer, None).augmentation == "RandomHorizontalFlip, MixUp, CutMix"


# ---- Licences --------------------------------------------------------------------------------------------------------


def test_license_is_asked_once(asked):
    """Prevents: a request at every checkpoint, or one without an end."""
    assert [license_of("me/model"), license_of("me/model")] == ["mit", "mit"]
    asked.answer = {"license": ["mit", "other"]}
    assert license_of("me/data", "dataset") == "mit, other"
    asked.answer = None
    assert license_of("me/bare") is None
    assert asked.questions == [(name, describe._TIMEOUT) for name in ("me/model", "me/data", "me/bare")]


def test_hub_that_does_not_answer(asked, monkeypatch):
    """Prevents: minutes of waiting without a network, or a Hub that is never asked again; a missing repository that
    silences it."""
    asked.answer = HfHubHTTPError("404", response=SimpleNamespace(headers={}, request=None))
    assert license_of("me/gone") is None and license_of("me/gone") is None
    asked.answer = HTTPError("refused")
    assert license_of("me/model") is None and license_of("me/other") is None
    assert [name for name, _ in asked.questions] == ["me/gone", "me/model"]
    asked.answer = {"license": "mit"}
    monkeypatch.setattr(describe, "_ask_from", 0.0)
    assert license_of("me/model") == "mit"
    monkeypatch.setattr(describe, "is_offline_mode", lambda: True)
    assert license_of("me/model") is None and len(asked.questions) == 3


# ---- Private ---------------------------------------------------------------------------------------------------------


def test_local_data_have_no_name(tmp_path):
    """Prevents: the name of somebody's folder in fidelity.json."""
    (tmp_path / "alice_private/cat").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "alice_private/cat/a.png")
    data = load_dataset(str(tmp_path / "alice_private"), cache_dir=str(tmp_path / "cache"))["train"]
    assert "alice" not in str(describe_data(data)) and describe_data(data).name == "a local data set"


def test_options_that_are_not_for_others():
    """Prevents: absolute paths and memory addresses among an explainer's options."""
    kind = type(build_explainer("gradcam"))

    class Own(kind):
        def __init__(self, weights="/home/alice/w.pt", steps=(1, 2), nested=None, call=print, target_layer=None):
            super().__init__(target_layer=target_layer)
            self.weights, self.steps, self.call = weights, steps, call
            self.nested = {"/home/alice": [object(), 3]}

    assert describe_explainer(Own())["options"] == {
        "weights": LEFT_OUT,
        "steps": [1, 2],
        "nested": {LEFT_OUT: [LEFT_OUT, 3]},
        "call": LEFT_OUT,
        "target_layer": None,
    }
