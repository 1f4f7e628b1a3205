"""What fails between a trained student and the Hub: nothing is lost, and the upload is finished in the end."""

import os
import shlex
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
from huggingface_hub import constants
from huggingface_hub.errors import OfflineModeIsEnabled
from transformers import AutoModelForImageClassification

from hf_e2kd.hub.upload import UploadError, push_folder
from tests.hub.conftest import TOKEN
from tests.hub.server import Fault, User
from tests.hub.students import SAVED, assert_same, assert_saved, distillation

LIMIT = {"RateLimit": '"api";r=0;t=55', "RateLimit-Policy": '"fixed window";"api";q=1000;w=300'}


@pytest.mark.parametrize(
    ("fault", "waited"),
    [
        (Fault("POST /api/repos/create", 500), [2]),
        (Fault("POST /api/validate-yaml", 502), [2]),
        (Fault("POST /api/models/me/student/preupload", 503), [1]),
        (Fault("POST /me/student.git", 504), [1]),
        (Fault("PUT /lfs", 429, headers={"Retry-After": "7"}), [8]),
        (Fault("PUT /lfs", 500, times=2), None),
        (Fault("PUT /lfs"), [1]),
        (Fault("POST .*/verify"), [1]),
        (Fault("POST .*/commit", 429, headers=LIMIT), [56]),
        (Fault("POST .*/commit", 429, headers={"Retry-After": "7"}), [8]),
        (Fault("POST .*/commit", 503, times=3), [2, 8, 32]),
        (Fault("POST .*/commit"), [2]),
        (Fault("POST .*/commit", after=True), [2]),
    ],
    ids=lambda value: f"{value.request}-{value.status}{'-after' * value.after}" if isinstance(value, Fault) else "",
)
def test_passing_failure(hub, tmp_path, waits, fault, waited):
    """Prevents: an upload given up at the first hiccup, not as patient as the Hub asks for, or committed twice."""
    hub.faults = [fault]
    trainer = distillation(tmp_path / "student")
    trainer.push_to_hub()
    assert fault.times == 0
    assert waited is None or waits == waited
    assert [commit.message for commit in hub.repos["me/student"].branches["main"]][1:] == ["End of training"]
    assert hub.repos["me/student"].files.keys() == {".gitattributes", *SAVED}
    assert sum(method == "PUT" and status == 200 for method, _, status in hub.requests) == 2


@pytest.mark.parametrize(
    ("request_", "status"), [("POST /api/repos/create", None), ("PUT /lfs/.*", None), ("POST .*/commit", 503)]
)
def test_upload_that_is_finished_later(hub, tmp_path, waits, request_, status):
    """Prevents: the student lost with the connection; a retry that begins anew."""
    hub.faults = [Fault(request_, status, times=1000)]
    trainer = distillation(tmp_path / "student")
    trainer.train()
    with pytest.raises(UploadError, match="Nothing is lost") as failed:
        trainer.push_to_hub()
    assert str(tmp_path / "student") in str(failed.value) and "push_to_hub() again" in str(failed.value)
    assert_saved(tmp_path / "student", trainer.model)
    assert sum(waits) < 300
    arrived = len(hub.large)
    hub.faults, hub.requests = [], []
    trainer.push_to_hub()
    assert hub.count("PUT") == 2 - arrived
    assert_same(AutoModelForImageClassification.from_pretrained("me/student"), trainer.model)


def test_half_of_the_files_arrived(hub, tmp_path, waits):
    """Prevents: large files sent again because another one failed."""
    trainer = distillation(tmp_path / "student")
    trainer.save_model()
    weights = tmp_path / "student" / "model.safetensors"
    oid = sha256(weights.read_bytes()).hexdigest()
    hub.faults = [Fault(f"PUT /lfs/{oid}", times=1000)]
    with pytest.raises(UploadError, match=r"model\.safetensors.*\n.*isconnected"):
        trainer.push_to_hub()
    assert len(hub.large) == 1
    hub.faults, hub.requests = [], []
    trainer.push_to_hub()
    assert [path for method, path, _ in hub.requests if method == "PUT"] == [f"/lfs/{oid}"]


def test_longer_than_anyone_waits(hub, tmp_path, waits):
    """Prevents: a training that hangs for hours because the Hub said when to come back."""
    hub.faults = [Fault("POST .*/commit", 429, headers={"RateLimit": '"api";r=0;t=7200'})]
    with pytest.raises(UploadError, match="Retry after 7200 seconds"):
        distillation(tmp_path / "student").push_to_hub()
    assert waits == []


# ---- Who may do what -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "message"),
    [
        (User("me", expired=True), "is expired"),
        (User("me", may_write=False), "must use a write token"),
        (None, "Invalid credentials in Authorization header"),
    ],
    ids=["expired", "read-only", "unknown"],
)
def test_token_that_is_refused(hub, tmp_path, waits, user, message):
    """Prevents: a student lost because the token expired while it was trained, or a token tried again and again."""
    trainer = distillation(tmp_path / "student", push_to_hub=True)
    trainer.train()
    hub.tokens = {} if user is None else {TOKEN: user}
    with pytest.raises(UploadError, match=message) as failed:
        trainer.push_to_hub()
    assert "hf auth login" in str(failed.value) and waits == []
    assert_saved(tmp_path / "student", trainer.model)
    hub.tokens = {"hf_new": User("me")}
    trainer.push_to_hub(token="hf_new")
    assert hub.repos["me/student"].files.keys() == {".gitattributes", *SAVED}


def test_bad_token_shows_before_the_training(hub, tmp_path):
    """Prevents: hours of training before it turns out that its output can't be pushed."""
    hub.tokens[TOKEN] = User("me", expired=True)
    with pytest.raises(OSError, match="is expired"):
        distillation(tmp_path / "student", push_to_hub=True)


def test_offline(hub, tmp_path, monkeypatch):
    """Prevents: offline mode told as a connection error, or told only after the training."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OfflineModeIsEnabled, match="Unset HF_HUB_OFFLINE"):
        distillation(tmp_path / "student", push_to_hub=True)
    trainer = distillation(tmp_path / "student")
    with pytest.raises(UploadError, match="Unset HF_HUB_OFFLINE"):
        trainer.push_to_hub()
    assert_saved(tmp_path / "student", trainer.model)
    assert hub.requests == []


BAD_IDS = ["..", "../student", "me/..", "https://huggingface.co/me/student", "my student", "a/b/c", "x.git", ""]


@pytest.mark.parametrize("repo_id", BAD_IDS)
def test_bad_repo_id(hub, tmp_path, repo_id):
    """Prevents: a name that the Hub can't take, found out after the training, or a request to somewhere else."""
    with pytest.raises(ValueError, match="is not the id of a repository on the Hub. Give 'name' or 'user/name'"):
        distillation(tmp_path / "student", hub_model_id=repo_id)
    with pytest.raises(ValueError, match="is not the id of a repository"):
        push_folder(tmp_path, repo_id, commit_message="Nothing")
    assert hub.requests == [] and not (tmp_path / "student").exists()


def test_output_folder_that_names_no_repository(hub, tmp_path):
    """Prevents: the default name, that of the output folder, refused after the training only, or at its cost."""
    with pytest.raises(ValueError, match="'my student' is not the id"):
        distillation(tmp_path / "my student", push_to_hub=True)
    trainer = distillation(tmp_path / "my student")
    with pytest.raises(ValueError, match="'my student' is not the id"):
        trainer.push_to_hub()
    assert_saved(tmp_path / "my student", trainer.model)
    assert hub.requests == []


# ---- In processes of their own ---------------------------------------------------------------------------------------


def test_round_trip_in_a_process_of_its_own(hub, tmp_path):
    """Prevents: a remedy in the error's message that doesn't help.

    The variable HF_ENDPOINT, which these processes read, shows the client the same Hub as the fixture `hub` does.
    """
    trainer = distillation(tmp_path / "a student", hub_model_id="me/student", hub_private_repo=True)
    trainer.save_model(str(tmp_path / "a student" / "checkpoint-1"))
    hub.faults = [Fault("POST /api/repos/create", 403)]
    with pytest.raises(UploadError) as failed:
        trainer.push_to_hub()
    command = shlex.split(str(failed.value).split("`")[-2])  # the last words in `…` of the message
    assert command[:3] == ["hf", "upload", "me/student"]
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(tmp_path / "home"),
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_XET": "1",
    }
    program = str(Path(sys.executable).with_name("hf"))
    for arguments in (command[1:], ["download", "me/student", "--local-dir", str(tmp_path / "loaded")]):
        subprocess.run([program, *arguments], env=environment, check=True, capture_output=True, timeout=120)
    assert hub.repos["me/student"].files.keys() == {".gitattributes", *SAVED} and hub.repos["me/student"].private
    assert_same(AutoModelForImageClassification.from_pretrained(tmp_path / "loaded"), trainer.model)
