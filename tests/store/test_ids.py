"""Which row is a sample's: by ids, or by the order of the data."""

import shutil

import datasets
import numpy as np
import PIL.Image
import pytest
import torch

from hf_e2kd.data import DistillationTransform
from hf_e2kd.store import StoreError, ids
from hf_e2kd.store.ids import IdIndex
from tests.store.stores import PROCESSOR, Calls, Stream, photographs, rows, store
from tests.training import samples


def test_another_order(tmp_path, teacher):
    """Prevents: every row given to another sample after a shuffle, the worst that a store by position can do."""
    data = photographs(40)
    reference = store(teacher, data, tmp_path / "rows", processing_class=PROCESSOR)
    reference.attach(data)
    reference.attach(data.select(range(30)))  # a data set that shrank at its end
    reference.attach(data.remove_columns(["key"]).add_column("other", list(range(40))))
    for other in (
        data.shuffle(seed=0),
        data.sort("label"),
        data.select(range(1, 40)),
        data.filter(lambda r: r["key"] != 70),
    ):
        with pytest.raises(
            StoreError, match="not in the order in which the store .* attach the store first|Attach the store first"
        ):
            reference.attach(other)
    with pytest.raises(StoreError, match="Sample 40 of the data is not in the store .* 41 samples, and 40 are stored"):
        reference.attach(datasets.concatenate_datasets([data, data.select([0])]))
    with pytest.raises(StoreError, match="Attach the store first"):
        store(teacher, data.shuffle(seed=0), tmp_path / "rows", processing_class=PROCESSOR)
    listed = store(teacher, samples(16), tmp_path / "list")
    with pytest.raises(StoreError, match="sample .* has another 'labels'"):
        listed.attach(samples(16)[::-1])


@pytest.mark.parametrize("listed", [False, True])
def test_a_small_part_in_another_order(listed):
    """Prevents: a part of the data, smaller than the distance of the samples that are compared, given others' rows."""
    labels = np.random.default_rng(0).integers(0, 3, 2000).tolist()
    data = datasets.Dataset.from_dict({"text": [f"text {row}" for row in range(2000)], "label": labels})
    probes = ids.order_probes(list(data) if listed else data)
    for part, holds in (
        (range(20), True),
        (range(1), True),
        (range(700, 740), False),
        ([5, 3, 8], False),
        ([42], False),
        (range(19, -1, -1), False),
    ):
        chosen = data.select(part)
        if holds:
            ids.check_order(list(chosen) if listed else chosen, probes, "store")
        else:
            with pytest.raises(StoreError, match="sample . has another '(text|label)'"):
                ids.check_order(list(chosen) if listed else chosen, probes, "store")
    # Another column may be new, where one tells the samples apart.
    ids.check_order(data.map(lambda row: {"text": row["text"].upper()}).select(range(20)), probes, "store")


@pytest.mark.parametrize("listed", [False, True])
def test_samples_left_out_near_the_end(listed):
    """Prevents: the last samples given their neighbours' rows, where one before them was filtered out."""
    labels = np.random.default_rng(0).integers(0, 3, 2000).tolist()
    data = datasets.Dataset.from_dict({"text": [f"text {row}" for row in range(2000)], "label": labels})
    probes = ids.order_probes(list(data) if listed else data)
    for left_out in (1500, 1900, 1980, 1990):
        part = data.select([row for row in range(2000) if row != left_out])
        with pytest.raises(StoreError, match="has another '(text|label)'"):
            ids.check_order(list(part) if listed else part, probes, "store")


def test_samples_that_nothing_tells_apart(tmp_path, teacher, caplog):
    """Prevents: each sample given another one's row without a word, where the samples are tensors without a label."""
    data = samples(16, labels=False)
    reference = store(teacher, data, tmp_path / "store")
    with caplog.at_level("WARNING"):
        reference.attach(data)
        assert not caplog.text
        reference.attach(data[::-1])
    assert "Nothing tells whether the data is still in the order" in caplog.text
    assert "no number or text tells its samples apart" in caplog.text


def test_ids_that_begin_anew_in_each_split(tmp_path, teacher, caplog):
    """Prevents: images of another split, with the same numbers as ids, given the maps of those of this one."""
    whole = photographs(40).shuffle(seed=1)  # whose labels go round
    train, test = whole.select(range(20)), whole.select(range(20, 40))
    test = test.remove_columns("key").add_column("key", train["key"])
    reference = store(teacher, train, tmp_path / "store", processing_class=PROCESSOR, id_column="key")
    changed = train.map(lambda row: {"image": row["image"].rotate(90)})
    with caplog.at_level("WARNING"):
        for same in (
            train,
            train.shuffle(seed=0),
            train.select([3, 1, 3]),
            changed,
            train.rename_column("key", "name"),
        ):
            reference.attach(same, id_column="name" if "name" in same.column_names else None)
        assert not caplog.text
        reference.attach(test.shuffle(seed=0))
    assert "seem to be others: another 'image', and no column is the same" in caplog.text
    store(teacher, changed, tmp_path / "store", processing_class=PROCESSOR, id_column="key")
    with pytest.raises(StoreError, match="have the ids of those in the store .* are others: another 'image'"):
        store(teacher, test, tmp_path / "store", processing_class=PROCESSOR, id_column="key")


def test_sorted_labels_do_not_excuse_other_images():
    """Prevents: each image given another one's row, where data of a folder a class is listed anew in each folder."""
    labels = [row // 100 for row in range(500)]
    data = datasets.Dataset.from_dict({"text": [f"text {row}" for row in range(500)], "label": labels})
    probes = ids.order_probes(data)
    draw = np.random.default_rng(0)
    listed_anew = np.concatenate([100 * folder + draw.permutation(100) for folder in range(5)])
    with pytest.raises(StoreError, match="sample . has another 'text'"):
        ids.check_order(data.select(listed_anew), probes, "store")
    ids.check_order(data.remove_columns("text"), probes, "store")


def test_folders_whose_files_have_the_same_names(tmp_path):
    """Prevents: each image given another class's row, where folders with files of the same names were renamed."""
    for number, folder in enumerate(("cats", "dogs")):
        (tmp_path / "first" / folder).mkdir(parents=True)
        for row in range(30):
            image = PIL.Image.new("RGB", (4, 4), (number, row, 0))
            image.save(tmp_path / "first" / folder / f"{row:02}.png")
    shutil.copytree(tmp_path / "first" / "cats", tmp_path / "second" / "pets")
    shutil.copytree(tmp_path / "first" / "dogs", tmp_path / "second" / "animals")
    shutil.copytree(tmp_path / "first", tmp_path / "moved")
    first, second, moved = (
        datasets.load_dataset("imagefolder", data_dir=str(tmp_path / name), split="train", cache_dir=tmp_path / "cache")
        for name in ("first", "second", "moved")
    )
    probes = ids.order_probes(first)
    ids.check_order(moved, probes, "store")
    with pytest.raises(StoreError, match="sample 0 has another 'image'"):
        ids.check_order(second, probes, "store")
    # Stores of earlier versions state the names alone.
    del probes["columns"]["image"]
    ids.check_order(moved, probes, "store")


class Wrapped(torch.utils.data.Dataset):
    """Data in a class of the user's own, whose labels are numbered anew."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, row):
        sample = self.data[row]
        return {"pixel_values": sample["pixel_values"], "labels": 10 - sample["labels"]}


def test_parts_of_data_with_a_transform(tmp_path, teacher, caplog):
    """Prevents: each image given another one's row after `random_split`, as the transform's columns are new ones."""
    data = photographs(40)
    by_place = store(teacher, data, tmp_path / "places", processing_class=PROCESSOR)
    by_id = store(teacher, data, tmp_path / "ids", processing_class=PROCESSOR, id_column="key")
    shown = photographs(40)
    shown.set_transform(DistillationTransform(PROCESSOR))
    part, rest = torch.utils.data.random_split(shown, [30, 10], torch.Generator().manual_seed(0))
    assert by_id.attach(part).rows.tolist() == part.indices
    by_place.attach(torch.utils.data.Subset(shown, range(20)))
    by_place.attach(Wrapped(shown))
    for other in (part, rest, torch.utils.data.Subset(part, range(5)), Wrapped(part)):
        with pytest.raises(StoreError, match="sample . has another '(image|label)'"):
            by_place.attach(other)
    with caplog.at_level("WARNING"):
        by_place.attach([{"pixel_values": torch.zeros(3, 32, 32)}])
    assert "Nothing tells whether the data is still in the order" in caplog.text


def test_ids(tmp_path, teacher):
    """Prevents: a sample given another's row because an id is missing, occurs twice or is no id."""
    data = rows(12)
    calls = Calls(teacher.vit.embeddings)
    twice = [*data, {**data[0], "image_id": "image-5"}]
    with pytest.raises(StoreError, match=r"1 ids occur more than once, such as \['image-5'\]"):
        store(teacher, twice, tmp_path / "twice", id_column="image_id")
    assert not calls.batches  # found before the teacher is asked
    with pytest.raises(StoreError, match=r"1 ids occur more than once, such as \['image-5'\]"):
        store(teacher, Stream(twice), tmp_path / "stream", id_column="image_id")
    with pytest.raises(StoreError, match="no column 'key' of ids. Their columns: .*'image_id'"):
        store(teacher, data, tmp_path / "key", id_column="key")
    with pytest.raises(StoreError, match="of sample 0 is 0.5; ids are whole numbers or texts"):
        store(teacher, [{**data[0], "image_id": 0.5}], tmp_path / "half", id_column="image_id")
    for wrong in (2**63, "half \ud800"):
        with pytest.raises(StoreError, match="of sample 0 is .*which is no number of 64 bits and no text of UTF-8"):
            store(teacher, [{**data[0], "image_id": wrong}], tmp_path / "wide", id_column="image_id")
    mixed = [data[0], {**data[1], "image_id": 1}]
    for kind in (mixed, Stream(mixed)):
        with pytest.raises(StoreError, match="Some ids are numbers and some are texts, as 'image-0' and 1"):
            store(teacher, kind, tmp_path / "mixed", id_column="image_id", batch_size=1)
    reference = store(teacher, data, tmp_path / "store", id_column="image_id")
    part = [data[7], data[2], data[7]]
    assert torch.equal(reference.attach(part)[1]["reference_map"], reference.attach(data)[2]["reference_map"])
    with pytest.raises(StoreError, match="the id 'image-99' is not in the store"):
        reference.attach([*data, *rows(1, 99)])
    with pytest.raises(StoreError, match="the id 3 is not in the store.*ids are text"):
        reference.attach([{**data[0], "image_id": 3}])

    class Computed(torch.utils.data.Dataset):
        def __len__(self):
            return 13

        def __getitem__(self, row):
            return rows(13)[row]

    attached = reference.attach(Computed())
    assert torch.equal(attached[2]["reference_map"], reference.attach(data)[2]["reference_map"])
    with pytest.raises(StoreError, match="'image-12' is not in the store"):
        attached[12]
    with pytest.raises(StoreError, match="was built without an `id_column`"):
        store(teacher, samples(4), tmp_path / "rows").attach(data, id_column="image_id")


def test_keys_that_two_ids_share(tmp_path, teacher, monkeypatch):
    """Prevents: one in 2⁶⁴ turned into a wrong row."""

    reference = store(teacher, rows(8), tmp_path / "store", id_column="image_id")
    monkeypatch.setattr(ids, "_key", lambda value: 7)
    assert IdIndex(reference.shards).rows(["image-5", "image-0"]).tolist() == [5, 0]
