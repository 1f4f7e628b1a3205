"""A store of a teacher's explanations goes to the Hub as a data set and comes back."""

import pytest
import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError

from hf_e2kd import StoredReference
from hf_e2kd.explainers import GradCAM
from hf_e2kd.hub.upload import UploadError
from hf_e2kd.store import StoreError
from tests.hub.server import Fault, User
from tests.models import build
from tests.training import samples


@pytest.fixture
def reference(tmp_path):
    data = [{"image_id": 10 + number, **sample} for number, sample in enumerate(samples(8))]
    return StoredReference.build(
        build("vit"), data, tmp_path / "store", id_column="image_id", teacher_name="me/teacher", progress=False
    )


def maps_of(reference):
    data = [{"image_id": 10 + number, **sample} for number, sample in enumerate(samples(8))]
    return torch.stack([reference.attach(data)[number]["reference_map"] for number in range(8)])


def test_round_trip(hub, reference):
    """Prevents: a store published without its description or card, or read back without being checked."""
    assert reference.push_to_hub("me/maps", license="mit") == f"{hub.endpoint}/datasets/me/maps"
    repo = hub.repos["datasets/me/maps"]
    assert repo.files.keys() == {".gitattributes", "README.md", "shard-00000.arrow", "store.json"}
    card = repo.files["README.md"].content.decode()
    for part in ("license: mit", "n<1K", "`me/teacher`", "gradcam", "4×4 cells", 'from_hub("me/maps")', "`image_id`"):
        assert part in card
    loaded = StoredReference.from_hub("me/maps", verify=True, explanation_weight=0.5)
    assert loaded.explanation_weight == 0.5
    assert torch.equal(maps_of(loaded), maps_of(reference))
    assert HfApi().dataset_info("me/maps").sha == repo.branches["main"][-1].oid

    reference.push_to_hub("me/maps", license="mit")
    assert len(repo.branches["main"]) == 2  # nothing has changed
    shard = reference.folder / "shard-00000.arrow"
    shard.write_bytes(shard.read_bytes()[:-1])
    reference.push_to_hub("me/maps", license="mit")
    with pytest.raises(StoreError, match=r"shard-00000\.arrow is damaged"):
        StoredReference.from_hub("me/maps")
    first = StoredReference.from_hub("me/maps", revision=repo.branches["main"][1].oid)
    assert torch.equal(maps_of(first), maps_of(loaded))


def test_a_smaller_store_in_the_place_of_another(hub, reference, tmp_path):
    """Prevents: rows of the store that was there before among those that `datasets.load_dataset` reads."""
    StoredReference.build(build("vit"), samples(8), tmp_path / "large", rows_per_shard=3).push_to_hub("me/maps")
    repo = hub.repos["datasets/me/maps"]
    assert len([name for name in repo.files if name.endswith(".arrow")]) == 3
    reference.push_to_hub("me/maps")
    assert repo.files.keys() == {".gitattributes", "README.md", "shard-00000.arrow", "store.json"}
    assert torch.equal(maps_of(StoredReference.from_hub("me/maps", verify=True)), maps_of(reference))


def test_a_store_of_an_earlier_version(hub, reference):
    """Prevents: the user's paths, which stores once held, on the Hub; or such a store that can't be used any more."""
    path = reference.folder / "store.json"
    stated = path.read_text().replace('"me/teacher"', '"/home/alice/t"')
    path.write_text(stated.replace('"target_layer": null', '"target_layer": "/home/alice/w"'))
    earlier = StoredReference(reference.folder)
    earlier.check(build("vit"), explainer=GradCAM("/home/alice/w"))
    earlier.push_to_hub("me/maps")
    for file in hub.repos["datasets/me/maps"].files.values():
        assert b"alice" not in file.content
    assert torch.equal(maps_of(StoredReference.from_hub("me/maps")), maps_of(reference))


def test_private(hub, reference):
    """Prevents: a teacher's answers on private data shown to everybody."""
    hub.tokens["hf_other"] = User("you")
    reference.push_to_hub("me/maps", private=True)
    assert hub.repos["datasets/me/maps"].private
    for token in (False, "hf_other"):
        with pytest.raises(RepositoryNotFoundError):
            StoredReference.from_hub("me/maps", token=token)
    assert len(StoredReference.from_hub("me/maps").shards) == 8


def test_upload_is_finished_later(hub, reference, waits):
    """Prevents: a store of hours whose upload can't be taken up again, or an id refused after its card was written."""
    with pytest.raises(ValueError, match="is not the id of a repository"):
        reference.push_to_hub("datasets/me/maps")
    assert not (reference.folder / "README.md").exists()
    hub.faults = [Fault("POST .*/commit", times=100)]
    with pytest.raises(UploadError, match="--repo-type dataset"):
        reference.push_to_hub("me/maps")
    hub.faults, hub.requests = [], []
    reference.push_to_hub("me/maps")
    assert hub.count("PUT") == 0  # the shard had arrived
    assert torch.equal(maps_of(StoredReference.from_hub("me/maps")), maps_of(reference))


def test_download_goes_on_where_it_broke(hub, reference, waits):
    """Prevents: a broken download taken for a whole one."""
    reference.push_to_hub("me/maps")
    hub.faults = [Fault("GET /lfs")]
    loaded = StoredReference.from_hub("me/maps", verify=True)
    assert torch.equal(maps_of(loaded), maps_of(reference))
    fetched = [status for method, path, status in hub.requests if method == "GET" and path.startswith("/lfs")]
    assert len(fetched) == 2 and fetched[0] == 0
