"""Ids on the Hub are told from folders of this machine."""

import pytest

from hf_e2kd.hub.ids import is_hub_id, loaded_from_hub, loaded_revision

COMMIT = "a" * 40


@pytest.mark.parametrize("name", ["resnet-18", "microsoft/resnet-18", "A.b_c/1"])
def test_ids(name):
    """Prevents: an id that is shown without its link."""
    assert is_hub_id(name)


@pytest.mark.parametrize(
    "name",
    ["", "..", "a/b/c", "/models/vit", "./vit", "~/vit", "https://huggingface.co/me/x", "x.git", "a--b", None, 3],
)
def test_no_ids(name):
    """Prevents: a path or an address that becomes a link."""
    assert not is_hub_id(name)


@pytest.mark.parametrize("name", ["outputs/teacher", "my-secret-checkpoint", "", None])
def test_folder_that_is_gone(name, hub_cache):
    """Prevents: a relative folder that isn't there any more, or is, taken for an id on the Hub."""
    assert loaded_from_hub(name) is None and loaded_revision(name) is None


def test_folder_of_the_same_name(hub_cache, tmp_path):
    """Prevents: somebody else's model on the Hub, which this machine has too, in the place of a folder of its name."""
    hub_cache("team/model", COMMIT, main=True)
    assert is_hub_id("team/model") and loaded_from_hub("team/model") == "team/model"
    assert loaded_revision("team/model") == COMMIT
    (tmp_path / "team/model").mkdir(parents=True)
    assert not is_hub_id("team/model")
    assert loaded_from_hub("team/model") is None and loaded_revision("team/model") is None
