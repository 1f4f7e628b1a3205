"""The Hub of these tests answers the real client as the real Hub does: else the other tests would show nothing."""

import io
from functools import partial

import pytest
import yaml
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download, hf_hub_url
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import get_session

from tests.hub.cards import check_card
from tests.hub.conftest import TOKEN
from tests.hub.server import Fault, User

WEIGHTS = bytes(range(256)) * 8


@pytest.fixture
def repo(hub):
    """me/model with a small and a large file, one of them in a folder."""
    files = {"notes.txt": b"Notes", "last/model.safetensors": WEIGHTS}
    HfApi().create_repo("me/model")
    HfApi().create_commit(
        "me/model", [CommitOperationAdd(path, content) for path, content in files.items()], commit_message="Both"
    )
    return hub.repos["me/model"]


def test_users(hub):
    """Prevents: a server that doesn't ask who is there."""
    assert HfApi().whoami()["name"] == "me"
    for token in ("hf_unknown", "hf_expired"):
        hub.tokens["hf_expired"] = User("me", expired=True)
        with pytest.raises(HfHubHTTPError) as failed:
            HfApi().whoami(token=token)
        assert failed.value.response.status_code == 401
    with pytest.raises(HfHubHTTPError, match="don't have the rights"):
        HfApi().create_repo("you/model")
    with pytest.raises(HfHubHTTPError, match="already created"):
        [HfApi().create_repo("me/model") for _ in range(2)]


def test_listings(repo):
    """Prevents: a server whose listings miss files, folders or revisions."""
    api = HfApi()
    assert api.list_repo_files("me/model") == [".gitattributes", "last/model.safetensors", "notes.txt"]
    assert [entry.path for entry in api.list_repo_tree("me/model")] == [".gitattributes", "last", "notes.txt"]
    assert [entry.path for entry in api.list_repo_tree("me/model", "last")] == ["last/model.safetensors"]
    assert len(list(api.list_repo_tree("me/model", recursive=True))) == 4
    (weights,) = api.get_paths_info("me/model", ["last/model.safetensors", "none"])
    assert weights.size == weights.lfs.size == len(WEIGHTS)
    assert api.model_info("me/model", revision=repo.branches["main"][0].oid).siblings[0].rfilename == ".gitattributes"
    with pytest.raises(RevisionNotFoundError):
        api.model_info("me/model", revision="none")
    with pytest.raises(RepositoryNotFoundError):
        api.dataset_info("me/model")
    api.create_commit("me/model", [CommitOperationDelete("last/")], commit_message="Less")
    assert repo.files.keys() == {".gitattributes", "notes.txt"}


@pytest.mark.parametrize(("path", "content"), [("notes.txt", b"Notes"), ("last/model.safetensors", WEIGHTS)])
def test_files(hub, repo, path, content):
    """Prevents: a server without what the client's cache relies on: ETags, the commit's hash, parts of files."""
    url, session = hf_hub_url("me/model", path), get_session()
    head = session.head(url, follow_redirects=False)
    assert head.headers["X-Repo-Commit"] == repo.branches["main"][-1].oid and head.content == b""
    etag = head.headers.get("X-Linked-ETag", head.headers.get("ETag"))
    assert etag == f'"{repo.files[path].oid}"' and session.get(url).content == content
    part = session.get(url, headers={"Range": "bytes=1-3"})
    assert (part.status_code, part.content) == (206, content[1:4])
    assert part.headers["Content-Range"] == f"bytes 1-3/{len(content)}"
    assert session.get(url, headers={"Range": f"bytes={len(content)}-"}).status_code == 416
    with pytest.raises(EntryNotFoundError):
        hf_hub_download("me/model", f"{path}.none")
    hub.faults = [Fault("GET .*(lfs|resolve)")]  # broken in the middle, and gone on with
    assert open(hf_hub_download("me/model", path), "rb").read() == content  # noqa: SIM115


def test_concurrent_commits(repo):
    """Prevents: a commit on top of another one than its author saw."""
    first = repo.branches["main"][0].oid
    change = [CommitOperationAdd("notes.txt", io.BytesIO(b"Other"))]
    with pytest.raises(HfHubHTTPError, match="412"):
        HfApi().create_commit("me/model", change, commit_message="Late", parent_commit=first)
    assert len(repo.branches["main"]) == 2


def test_gateway_pages_are_no_json(hub):
    """Prevents: failures that are kinder than those of the real Hub."""
    hub.faults = [Fault("GET /api/whoami-v2", 502, headers={"Retry-After": "3"})]
    answer = get_session().get(f"{hub.endpoint}/api/whoami-v2", headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 502 and answer.headers["Retry-After"] == "3" and answer.text.startswith("<html>")


GOOD = {
    "license": "mit",
    "tags": ["e2kd"],
    "base_model": "me/base",
    "base_model_relation": "finetune",
    "pipeline_tag": "image-classification",
    "model-index": [
        {
            "name": "student",
            "results": [
                {
                    "task": {"type": "image-classification"},
                    "dataset": {"type": "me/digits", "name": "Digits"},
                    "metrics": [{"type": "accuracy", "value": 0.9}],
                }
            ],
        }
    ],
}


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({}, None),
        ({"license": "my own"}, '"license" must be one of'),
        ({"license": None}, '"license" must be a string'),
        ({"tags": [1]}, '"tags" must be a string or an array of strings'),
        ({"base_model": "../me"}, "is not a valid repo id"),
        ({"datasets": ["https://example.org/x"]}, "is not a valid repo id"),
        ({"base_model_relation": "distilled"}, '"base_model_relation" must be one of'),
        ({"pipeline_tag": ["a", "b"]}, '"pipeline_tag" must be a string'),
        ({"model-index": {}}, '"model-index" must be an array'),
        ({"model-index": [{"results": []}]}, '"model-index[0].name" is required'),
        ({"model-index": [{"name": "x", "results": [{}]}]}, '"model-index[0].results[0].task" is required'),
        ({"model-index": [{"name": "x", "results": [{"metrics": [{"type": "a"}]}]}]}, 'metrics[0].value" is required'),
    ],
)
def test_cards(hub, change, error):
    """Prevents: a card called good that the Hub would refuse: its fields are checked, not only whether it is YAML."""
    text = f"---\n{yaml.safe_dump({**GOOD, **change})}---\n# A card"
    HfApi().create_repo("me/model")
    commit = partial(HfApi().create_commit, "me/model", [CommitOperationAdd("README.md", text.encode())])
    if error is None:
        commit(commit_message="A card")
        assert hub.repos["me/model"].files["README.md"].content == text.encode()
        return
    assert any(error in found for found in check_card(text, "model")[0])
    with pytest.raises(ValueError, match="Invalid metadata in README.md"):
        commit(commit_message="A card")
    assert "README.md" not in hub.repos["me/model"].files


def test_cards_without_metadata():
    """Prevents: broken YAML or none taken for good."""
    assert check_card("# No metadata", "model") == ([], ["empty or missing yaml metadata in repo card"])
    assert "YAML error" in check_card("---\ntags: [a\n---\n", "model")[0][0]
    assert check_card("---\n- a\n---\n", "dataset")[0] == ["YAML metadata must be a mapping"]
