"""Terms with a stage before the training, with banks of samples or with further images, in a training."""

import datasets
import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import IterableDataset
from torchvision.transforms import v2

from hf_e2kd import ExplanationDistillTrainer, TextCollator
from hf_e2kd.data import MixingCollator
from hf_e2kd.terms.features.factor_transfer import FactorTransfer
from hf_e2kd.trainer.term_setup import TermGradients
from tests.models import build
from tests.tokenizers import STUDENT, data, text_model, without_dropout
from tests.trainer.test_term_training import StopAfter
from tests.training import distiller, flat, logged, samples, weights

OPTIONS = {
    "factor_transfer": {"weight": 10.0},
    "crd": {"weight": 0.1, "dim": 8, "negatives": 6},
    "sskd": {"weight": 0.1, "stage_epochs": 1.0},
}


def made(folder, name, student="resnet", callbacks=(), **settings):
    settings = {"terms": {name: OPTIONS[name]}, "explanation_weight": 0.0, "learning_rate": 1e-2, **settings}
    return distiller(build(student), build("resnet", seed=1), folder, settings, callbacks=list(callbacks))


def state(trainer):
    return flat(trainer.terms.state_dict().values())


@pytest.mark.parametrize("name", OPTIONS)
def test_a_resumed_training_is_the_uninterrupted_one(tmp_path, name):
    """Prevents: a stage run again, banks or constants made anew, or other negatives, after a training was resumed."""
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "optim": "adamw_torch"}
    whole = made(tmp_path / "whole", name, **settings)
    whole.train()
    made(tmp_path / "cut", name, callbacks=[StopAfter(2)], **settings).train()
    resumed = made(tmp_path / "cut", name, **settings)
    resumed.train(resume_from_checkpoint=True)
    assert torch.equal(weights(resumed.student), weights(whole.student))
    assert torch.equal(state(resumed), state(whole))
    assert logged(resumed, "loss")[-1] == logged(whole, "loss")[-1]


@pytest.mark.parametrize("optim", ["sgd", "adamw_torch"])
@pytest.mark.parametrize(("name", "module"), [("factor_transfer", "paraphrasers"), ("sskd", "teacher_head")])
def test_a_stage_trains_the_teachers_module_alone(tmp_path, name, module, optim):
    """Prevents: a stage that changes the student, its running statistics too, or a module that goes on afterwards."""
    trainer = made(tmp_path, name, optim=optim, weight_decay=0.5)
    trainer.set_up_terms()
    term = trainer.terms[name]
    student = {key: value.clone() for key, value in trainer.student.state_dict().items()}
    before = {key: value.clone() for key, value in term.state_dict().items()}
    for parameter in trainer.student.parameters():  # as an earlier backward pass may have left them
        parameter.grad = torch.ones_like(parameter)
    calls = []
    handle = trainer.student.register_forward_pre_hook(lambda *_: calls.append(1))
    term.prepare(trainer)
    handle.remove()
    assert not calls
    assert all(torch.equal(value, student[key]) for key, value in trainer.student.state_dict().items())
    after = {key: value.clone() for key, value in term.state_dict().items()}
    assert {key for key in after if not torch.equal(after[key], before[key])} == {
        key for key in before if key.startswith(module)
    }
    assert all(parameter.requires_grad for parameter in trainer.student.parameters())
    assert {key for key, value in term.named_parameters() if value.requires_grad} == {
        key for key in before if not key.startswith(module)
    }
    trainer._runs_stages = False
    trainer.train()
    trained = term.state_dict()
    assert {key for key in trained if not torch.equal(trained[key], after[key])} == {
        key for key in before if not key.startswith(module)
    }


def test_a_stage_of_the_teacher_resumes_in_its_middle(tmp_path, monkeypatch):
    """Prevents: a first stage begun anew, or skipped, after an interruption."""
    settings = {"save_strategy": "steps", "save_steps": 1}
    whole = made(tmp_path / "whole", "factor_transfer", **settings)
    whole.train()
    cut = made(tmp_path / "cut", "factor_transfer", **settings)
    cut.set_up_terms()
    own = type(cut).__init__

    def interrupted(self, *arguments, **keywords):
        own(self, *arguments, **{**keywords, "callbacks": [StopAfter(2)]})

    with monkeypatch.context() as patch:
        patch.setattr(type(cut), "__init__", interrupted)
        cut.terms["factor_transfer"].prepare(cut)
    resumed = made(tmp_path / "cut", "factor_transfer", **settings)
    resumed.train(resume_from_checkpoint=True)
    assert (tmp_path / "cut" / "stage-factor_transfer" / "checkpoint-4").is_dir()
    assert torch.equal(weights(resumed.student), weights(whole.student))
    assert torch.equal(state(resumed), state(whole))


def test_the_rows_of_the_banks_are_the_samples(tmp_path):
    """Prevents: rows of a shuffled order, or of places in the batch, and an evaluation that writes into the banks."""
    trainer = made(tmp_path, "crd", max_steps=2, learning_rate=0.0)
    trainer.set_up_terms()
    term = trainer.terms["crd"]
    before = term.teacher_bank.clone()
    trainer.train()
    seen = term.classes >= 0
    assert seen.sum() == 8
    assert term.classes[seen].tolist() == [
        sample["labels"] for sample, was in zip(samples(16), seen, strict=True) if was
    ]
    pixels = torch.stack([sample["pixel_values"] for sample in samples(16)])
    with torch.no_grad():
        features = build("resnet", seed=1).resnet(pixels).pooler_output.flatten(1)
        moved = F.normalize(0.5 * before + 0.5 * F.normalize(term.embeddings[1](features), dim=1), dim=1)
    torch.testing.assert_close(term.teacher_bank[seen], moved[seen])
    assert torch.equal(term.teacher_bank[~seen], before[~seen])
    after = state(trainer)
    assert trainer.evaluate()["eval_loss"] > 0
    assert torch.equal(state(trainer), after)


@pytest.mark.parametrize("kind", ["dataset", "texts by length", "mixed"])
def test_samples_are_known_whatever_makes_the_batches(tmp_path, kind):
    """Prevents: positions that a collator drops, columns of a data set that stay, or lengths that aren't found."""
    settings = {"terms": {"crd": OPTIONS["crd"]}, "explanation_weight": 0.0, "max_steps": 4}
    if kind == "texts by length":
        models = without_dropout(text_model("bert")), text_model("bert", 1)
        keywords = {"data_collator": TextCollator(STUDENT), "train_dataset": data(16)}
        settings |= {"train_sampling_strategy": "group_by_length", "evaluate_explanations": False}
    else:
        models = build("vit"), build("resnet", seed=1)
        rows = [{"pixel_values": sample["pixel_values"].tolist(), "labels": sample["labels"]} for sample in samples(16)]
        dataset = datasets.Dataset.from_list([{**row, "unread": 1} for row in rows]).with_format("torch")
        keywords = {"train_dataset": dataset if kind == "dataset" else samples(16)}
        if kind == "mixed":
            keywords["data_collator"] = MixingCollator(v2.MixUp(num_classes=5))
    trainer = distiller(*models, tmp_path, settings, **keywords)
    trainer.set_up_terms()
    term = trainer.terms["crd"]
    before = term.student_bank.clone()
    trainer.train()
    # One epoch: each row has moved, and the classes are known where a sample has one.
    assert bool((term.student_bank != before).any(dim=1).all())
    assert bool((term.classes >= 0).all()) == (kind != "mixed")


def test_streams_have_no_banks(tmp_path):
    """Prevents: a bank of unknown size, or a message from inside a length."""
    rows = [{"pixel_values": sample["pixel_values"].tolist(), "labels": 0} for sample in samples(2)]
    stream = datasets.Dataset.from_list(rows).to_iterable_dataset().with_format("torch")
    settings = {"terms": {"crd": OPTIONS["crd"]}}
    trainer = distiller(build("vit"), build("resnet", seed=1), tmp_path, settings, train_dataset=stream)
    with pytest.raises(ValueError, match="IterableDataset has no length. Give a train_dataset with a length"):
        trainer.train()


class SizedStream(IterableDataset):
    """A stream that knows its length, and no sample by its position."""

    def __len__(self):
        return 4

    def __iter__(self):
        return iter(samples(4))


def test_streams_of_a_known_length(tmp_path):
    """Prevents: a sample asked for by its position, which a stream has none of, as its length were that of a list."""
    settings = {"terms": {"hint": {}}}
    trainer = distiller(build("resnet"), build("resnet", seed=1), tmp_path, settings, train_dataset=SizedStream())
    trainer.train()
    assert len(logged(trainer, "loss_hint")) == trainer.args.max_steps
    trainer = made(tmp_path, "crd")
    trainer.train_dataset = SizedStream()
    with pytest.raises(ValueError, match="a SizedStream is a stream. Give a train_dataset with a length"):
        trainer.train()


def test_streams_have_no_first_stage(tmp_path):
    """Prevents: the demand for max_steps, which was given, where a stage's epochs have no known number of steps."""
    rows = [{"pixel_values": sample["pixel_values"].tolist(), "labels": 0} for sample in samples(2)]
    stream = datasets.Dataset.from_list(rows).to_iterable_dataset().with_format("torch")
    trainer = made(tmp_path, "factor_transfer")
    trainer.train_dataset = stream
    with pytest.raises(ValueError, match="first stage of 1 epochs, and a IterableDataset has no length"):
        trainer.train()


@pytest.mark.parametrize("max_grad_norm", [0.0, 1e-3])
def test_a_stage_logs_the_norm_of_what_it_trains(tmp_path, monkeypatch, max_grad_norm):
    """Prevents: a gradient norm of 0 in the log of a stage, that of the student, which takes no part in it."""
    norms, logs = [], []
    average, log = TermGradients.on_pre_optimizer_step, ExplanationDistillTrainer.log

    def measured(self, args, state, control, **keywords):
        gradients = [each.grad for each in self.terms.parameters() if each.grad is not None]
        norms.append(torch.cat([gradient.flatten() for gradient in gradients]).norm().item())
        average(self, args, state, control, **keywords)

    def kept(self, values, *arguments):
        log(self, values, *arguments)
        logs.append(values)

    monkeypatch.setattr(TermGradients, "on_pre_optimizer_step", measured)
    monkeypatch.setattr(ExplanationDistillTrainer, "log", kept)
    trainer = made(tmp_path, "factor_transfer", max_grad_norm=max_grad_norm, max_steps=1)
    trainer.train()
    found = [entry["grad_norm"] for entry in logs if "grad_norm" in entry]
    assert len(found) == 5 and min(found) > 0
    assert found[:4] == pytest.approx(norms[:4], rel=1e-5)  # four batches of the stage; then the student's


def test_a_stage_runs_once_though_the_batches_are_made_smaller(tmp_path, monkeypatch):
    """Prevents: a stage that is trained again each time that auto_find_batch_size begins anew."""
    trainer = made(tmp_path, "factor_transfer", auto_find_batch_size=True)
    stages, compute_loss, prepare = [], trainer.compute_loss, FactorTransfer.prepare

    def counted(self, of_trainer):
        stages.append(self.name)
        prepare(self, of_trainer)

    def full(model, inputs, *arguments, **keywords):
        if len(inputs["pixel_values"]) == 4:
            raise RuntimeError("CUDA out of memory.")
        return compute_loss(model, inputs, *arguments, **keywords)

    monkeypatch.setattr(FactorTransfer, "prepare", counted)
    monkeypatch.setattr(trainer, "compute_loss", full)
    trainer.train()
    assert stages == ["factor_transfer"] and trainer.state.train_batch_size == 3
    trainer.train()
    assert len(stages) == 2  # of another training


def test_turned_images_beside_explanations(tmp_path):
    """Prevents: maps or logits of turned images in the other terms."""
    found = []
    for terms in (None, {"sskd": OPTIONS["sskd"]}):
        settings = {"terms": terms, "max_steps": 1, "explanation_target": "label"}
        trainer = distiller(build("vit"), build("resnet", seed=1), tmp_path, settings, train_dataset=samples(4))
        trainer.train()
        found.append({name: logged(trainer, name)[0] for name in ("loss_logits", "loss_explanation", "loss")})
    plain, beside = found
    for name in ("loss_logits", "loss_explanation"):
        assert beside[name] == pytest.approx(plain[name], rel=1e-5)
    parts = {name: logged(trainer, f"sskd_{name}")[0] for name in ("labels", "logits", "similarities", "rotated")}
    whole = parts["labels"] + 0.9 * parts["logits"] + 10 * parts["similarities"] + 2.7 * parts["rotated"]
    assert logged(trainer, "loss_sskd") == pytest.approx([whole], rel=1e-5)
    assert beside["loss"] == pytest.approx(plain["loss"] + 0.1 * whole, rel=1e-5)


@pytest.mark.parametrize("name", OPTIONS)
def test_half_precision(tmp_path, name):
    """Prevents: a dtype error, or scores in bfloat16, which a low temperature sets apart."""
    found = []
    for bf16 in (False, True):
        trainer = made(tmp_path, name, max_steps=1, bf16=bf16)
        trainer._runs_stages = False
        trainer.train()
        found.append(logged(trainer, f"loss_{name}")[0])
    assert found[1] == pytest.approx(found[0], rel=0.02)
    assert torch.tensor(found[1]).bfloat16().item() != found[1]


def test_labels_are_needed_for_ranks(tmp_path):
    """Prevents: a stage of many epochs before the first batch without labels is noticed."""
    settings = {"terms": {"sskd": OPTIONS["sskd"]}}
    trainer = distiller(
        build("vit"), build("resnet", seed=1), tmp_path, settings, train_dataset=samples(8, labels=False)
    )
    with pytest.raises(ValueError, match=r"The first batch has no labels, which the term sskd"):
        trainer.train()


def test_banks_are_of_one_training_set(tmp_path):
    """Prevents: rows of other samples, after the trainer was given another training set, or an IndexError."""
    trainer = made(tmp_path, "crd")
    trainer.train()
    trainer.train()
    trainer.train_dataset = samples(8, seed=5)
    with pytest.raises(ValueError, match="'crd' keeps something of each sample.*Make another trainer"):
        trainer.train()
