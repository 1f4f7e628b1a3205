"""A student goes to the Hub and comes back."""

import io
import shutil
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import RepositoryNotFoundError
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoImageProcessor, AutoModelForImageClassification

from hf_e2kd import load_student
from hf_e2kd.cli import main
from hf_e2kd.hub.upload import UploadError
from tests.hub.cards import check_card
from tests.hub.conftest import TOKEN
from tests.hub.server import User
from tests.hub.students import MEASURED, PROCESSOR, SAVED, assert_same, assert_saved, distillation
from tests.models import build
from tests.training import distiller, samples


def test_round_trip(hub, tmp_path):
    """Prevents: a published student that loads with other weights or another view of the image, or not at all; files
    sent again, or empty commits, where nothing changed."""
    trainer = distillation(tmp_path / "student")
    trainer.train()
    first = trainer.push_to_hub()
    repo = hub.repos["me/student"]
    assert repo.files.keys() == {".gitattributes", *SAVED}
    assert [commit.message for commit in repo.branches["main"]] == ["initial commit", "End of training"]
    assert_same(AutoModelForImageClassification.from_pretrained("me/student"), trainer.model)
    assert AutoImageProcessor.from_pretrained("me/student").to_dict() == PROCESSOR.to_dict()

    sent = hub.count("PUT")
    assert trainer.push_to_hub().oid == first.oid
    assert len(repo.branches["main"]) == 2 and hub.count("PUT") == sent == 2
    with torch.no_grad():
        trainer.model.classifier.bias.add_(1)
    trainer.push_to_hub("A new bias")
    assert len(repo.branches["main"]) == 3 and hub.count("PUT") == sent + 1
    assert_same(AutoModelForImageClassification.from_pretrained("me/student"), trainer.model)


def test_a_folder_is_pushed_by_the_command_line(hub, tmp_path, capsys):
    """Prevents: checkpoints, with the optimizer's state, published beside the student that they led to."""
    folder = tmp_path / "student"
    trainer = distillation(folder, save_strategy="steps", save_steps=1, eval_dataset=samples(13, seed=7))
    trainer.train()
    trainer.save_model()
    trainer.measure_fidelity().save(folder)
    assert list(folder.glob("checkpoint-*"))
    shutil.copytree(folder / "checkpoint-1", folder / "stage-hint" / "checkpoint-1")
    with pytest.raises(SystemExit) as ended:
        main(["card", str(folder), "--repo-id", "me/student", "--push"])
    assert not ended.value.code and "me/student" in capsys.readouterr().out
    found = hub.repos["me/student"].files.keys()
    assert "fidelity.json" in found and "model.safetensors" in found
    assert not [name for name in found if name.startswith(("checkpoint-", "stage-", "_"))]


def test_what_was_measured_goes_with_the_student(hub, tmp_path):
    """Prevents: a card without figures, or with those of another step; a record that doesn't load; measuring twice."""
    trainer = distillation(tmp_path / "student", eval_dataset=samples(13, seed=7))
    trainer.train()
    trainer.push_to_hub()
    repo = hub.repos["me/student"]
    assert repo.files.keys() == {".gitattributes", *SAVED, *MEASURED}
    student = load_student("me/student")
    record, metrics = student.fidelity, trainer.evaluate()
    for name in ("agreement", "explanation_similarity", "accuracy"):
        assert record.figures[name].value == pytest.approx(metrics[f"eval_{name}"], abs=1e-6)
    assert record.data.rows == 13 and sorted(record.data.samples) == list(range(13))
    assert record.training.steps == trainer.state.global_step
    card = str(ModelCard.load("me/student"))
    assert check_card(card, "model") == ([], [])
    assert 'load_student("me/student")' in card and "explanations.png" in card
    commits = len(repo.branches["main"])
    trainer.push_to_hub()
    assert len(repo.branches["main"]) == commits
    with torch.no_grad():
        trainer.model.classifier.weight.mul_(-1)
    trainer.state.global_step += 1
    trainer.push_to_hub()
    assert load_student("me/student").fidelity.figures["agreement"] != record.figures["agreement"]


def test_arguments_of_a_push(hub, tmp_path):
    """Prevents: an argument of `Trainer.push_to_hub` that is lost: where to, which branch, as whom, in the background,
    and what the card shall say."""
    hub.tokens["hf_other"] = User("you")
    trainer = distillation(tmp_path / "out", hub_model_id="you/other-name")
    trainer.model.add_model_tags("of-the-model")
    HfApi().create_repo("you/other-name", token="hf_other")
    HfApi().create_branch("you/other-name", branch="trial", token="hf_other")
    pushed = trainer.push_to_hub("Said so", blocking=False, token="hf_other", revision="trial", tags="given")
    assert pushed.result(timeout=60).commit_message == "Said so"
    repo = hub.repos["you/other-name"]
    assert repo.files.keys() == {".gitattributes"} and repo.branches["trial"][-1].message == "Said so"
    card = ModelCard(repo.branches["trial"][-1].files["README.md"].content.decode())
    assert {"given", "of-the-model"} <= set(card.data.tags)
    assert card.data.model_name == "other-name"


@pytest.mark.parametrize("given", ["arguments", "call"])
def test_private(hub, tmp_path, given):
    """Prevents: a repository that was to be private made public, or one that its owner can't load."""
    hub.tokens["hf_other"] = User("you")
    trainer = distillation(tmp_path / "secret", hub_private_repo=True if given == "arguments" else None)
    trainer.push_to_hub(**({} if given == "arguments" else {"private": True}))
    assert hub.repos["me/secret"].private
    assert_same(AutoModelForImageClassification.from_pretrained("me/secret"), trainer.model)
    for token in (False, "hf_other"):
        with pytest.raises(RepositoryNotFoundError):
            HfApi().model_info("me/secret", token=token)
        with pytest.raises(OSError, match="me/secret is not a .*valid model identifier"):
            AutoModelForImageClassification.from_pretrained("me/secret", token=token, force_download=True)
    with pytest.raises(UploadError, match="Nothing is lost"):
        distillation(tmp_path / "mine", hub_model_id="me/secret").push_to_hub(token="hf_other")


def test_no_token_is_published(hub, tmp_path):
    """Prevents: the token in the pickled arguments, which `Trainer` uploads beside the weights."""
    trainer = distillation(tmp_path / "student", hub_token=TOKEN)
    trainer.push_to_hub()
    files = hub.repos["me/student"].files
    assert not [name for name, file in files.items() if TOKEN.encode() in file.content]
    saved = torch.load(io.BytesIO(files["training_args.bin"].content), weights_only=False)
    assert saved.learning_rate == trainer.args.learning_rate and trainer.args.hub_token == TOKEN


# ---- During a training -----------------------------------------------------------------------------------------------


EVERY_SAVE = {
    "push_to_hub": True,
    "hub_strategy": "every_save",
    "hub_always_push": True,
    "save_strategy": "steps",
    "save_steps": 1,
}


def test_every_save(hub, tmp_path):
    """Prevents: checkpoints that aren't pushed while training goes on, or that bring their optimizer's state or the
    token along; one without a card, or whose card doesn't say that the training goes on."""
    evaluated = {"eval_dataset": samples(5, seed=7), "eval_strategy": "steps", "eval_steps": 1, "hub_token": TOKEN}
    trainer = distillation(tmp_path / "student", **EVERY_SAVE, **evaluated)
    assert hub.repos["me/student"].files.keys() == {".gitattributes"}  # made before the training: a bad token shows
    trainer.train()
    repo = hub.repos["me/student"]
    # Uploads read the folder while training goes on, so which checkpoint one of them finds is a matter of time.
    assert {commit.message for commit in repo.branches["main"][1:]} <= {
        f"Training in progress, step {step}" for step in (1, 2)
    }
    assert repo.files["model.safetensors"].content == (tmp_path / "student/model.safetensors").read_bytes()
    assert not [name for name in repo.files if "optimizer" in name or "checkpoint" in name]
    assert not [name for name, file in repo.files.items() if TOKEN.encode() in file.content]
    card = repo.files["README.md"].content.decode()
    assert check_card(card, "model") == ([], []) and "step" in card and "explanation similarity" in card.lower()
    trainer.push_to_hub()
    assert repo.files.keys() == {".gitattributes", *SAVED, *MEASURED}
    assert_same(AutoModelForImageClassification.from_pretrained("me/student"), trainer.model)


def test_every_save_of_an_adapter(tmp_path, monkeypatch):
    """Prevents: an adapter's weights on the Hub without its configuration, which load nowhere, until training ends."""
    adapter = get_peft_model(build("vit"), LoraConfig(target_modules=["q_proj"]))
    settings = {"save_strategy": "steps", "save_steps": 1, "max_steps": 1}
    trainer = distiller(adapter, build("vit", seed=1), tmp_path, settings, eval_dataset=None)
    trainer.train()
    monkeypatch.setattr(HfApi, "upload_folder", lambda *_, **__: SimpleNamespace(is_done=lambda: True))
    trainer.push_in_progress, trainer.hub_model_id = None, "me/student"
    trainer._push_from_checkpoint(str(tmp_path / "checkpoint-1"))
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {path.name for path in tmp_path.iterdir()}
    assert PeftModel.from_pretrained(build("vit"), tmp_path).active_adapter == "default"


def test_checkpoint_that_does_not_arrive(hub, tmp_path, caplog):
    """Prevents: an upload in the background that fails without a word, or that takes the training with it."""
    trainer = distillation(tmp_path / "student", **EVERY_SAVE)
    hub.tokens[TOKEN] = User("me", expired=True)
    trainer.train()
    assert trainer.state.global_step == 2
    told = [record.getMessage() for record in caplog.records if "was not uploaded" in record.getMessage()]
    assert len(told) == 2 and all("is expired" in text and str(tmp_path / "student") in text for text in told)
    assert hub.repos["me/student"].files.keys() == {".gitattributes"}
    with pytest.raises(UploadError, match="is expired"):
        trainer.push_to_hub()
    assert_saved(tmp_path / "student", trainer.model)
    hub.tokens[TOKEN] = User("me")
    trainer.push_to_hub()
    assert_same(AutoModelForImageClassification.from_pretrained("me/student"), trainer.model)


# ---- The card --------------------------------------------------------------------------------------------------------


def test_card_that_the_hub_refuses(hub, tmp_path, monkeypatch):
    """Prevents: a card that is wrong taking the training's output with it, or the error hidden."""
    trainer = distillation(tmp_path / "student")
    card = "---\nmodel-index:\n- name: student\n  results:\n  - task: {type: image-classification}\n---\n"
    monkeypatch.setattr(trainer, "create_model_card", lambda **_: (tmp_path / "student/README.md").write_text(card))
    with pytest.raises(UploadError, match=r'results\[0\].dataset" is required'):
        trainer.push_to_hub()
    assert_saved(tmp_path / "student", trainer.model)
    assert hub.count("PUT") == 0 and hub.count("POST /api/validate-yaml") == 1  # not tried again


def test_published_card_is_valid(hub, tmp_path):
    """Prevents: a card of which the Hub takes only a part, with a warning."""
    trainer = distillation(tmp_path / "student")
    trainer.push_to_hub()
    card = ModelCard.load("me/student")
    assert check_card(str(card), "model") == ([], [])
    assert card.data.library_name == "transformers"
