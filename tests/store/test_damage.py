"""Stores that are damaged or made to do harm: refused, and nothing outside their folder is read."""

import copy
import json
import random
import shutil
from contextlib import suppress

import pyarrow as pa
import pytest

from hf_e2kd.store import StoredReference, StoreError, writer
from tests.models import build
from tests.store.stores import STUDENT, rows, store, text_model, texts
from tests.training import samples


def _changed(folder, change):
    """Write store.json with one change: `change` is called with the content."""
    path = folder / "store.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def _swap(folder, one, other):
    first, second = folder / f"shard-{one:05d}.arrow", folder / f"shard-{other:05d}.arrow"
    held = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(held)


def _rewritten(folder, change):
    """Write the first shard's table anew, changed, and its size into store.json."""
    path = folder / "shard-00000.arrow"
    table = change(pa.ipc.open_stream(path.read_bytes()).read_all())
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)

    def state(content):
        content["shards"][0]["bytes"] = path.stat().st_size

    _changed(folder, state)


@pytest.mark.parametrize("column", [None, "image_id"])
def test_swapped_shards(tmp_path, teacher, column):
    """Prevents: two shards of one size that were swapped, whose maps are then matched with other samples."""
    data = rows(8)
    store(teacher, data, tmp_path, rows_per_shard=4, id_column=column)
    _swap(tmp_path, 0, 1)
    reference = StoredReference(tmp_path)
    with pytest.raises(StoreError, match=r"shard-00000\.arrow is damaged: its ids are others"):
        reference.attach(data)[0]


def test_ids_whose_places_were_overwritten(tmp_path, teacher):
    """Prevents: a process that is killed (SIGBUS) by reading an id's text from beyond the file's end."""
    store(teacher, rows(8), tmp_path, id_column="image_id")
    path = tmp_path / "shard-00000.arrow"
    content = bytearray(path.read_bytes())
    chunk = pa.ipc.open_stream(bytes(content)).read_all().column("id").chunk(0)
    offsets = chunk.buffers()[1].to_pybytes()[: 4 * 9]
    place = content.index(offsets)
    content[place + 4 : place + 36] = b"\xff\xff\xff\x7f" * 8
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"shard-00000\.arrow is damaged"):
        StoredReference(tmp_path).attach(rows(3), "image_id")[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.set_column(0, "id", table["id"].cast(pa.float64())), "its column 'id' is of double"),
        (lambda table: table.set_column(1, "logits", table["logits"].cast(pa.large_binary())), "is of large_binary"),
        (lambda table: table.set_column(1, "logits", pa.nulls(4, pa.binary())), "4 rows of its column 'logits'"),
        (lambda table: table.drop_columns(["map"]), "its columns are"),
        (lambda table: table.set_column(1, "logits", pa.array([b"1"] * 4)), "its rows don't have the size"),
        (lambda table: table.slice(0, 3), "3 rows instead of 4"),
    ],
)
def test_foreign_columns(tmp_path, teacher, change, message):
    """Prevents: an AttributeError of a shard that another program wrote."""
    store(teacher, samples(4), tmp_path)
    _rewritten(tmp_path, change)
    with pytest.raises(StoreError, match=message):
        StoredReference(tmp_path).attach(samples(4))[0]


@pytest.mark.parametrize("content", ["[]", "null", "1", "[" * 200_000, '{"format": 2}', "{}", '"a"', ""])
def test_no_description(tmp_path, teacher, content):
    """Prevents: a traceback of a store.json that is JSON, but no description of a store."""
    store(teacher, samples(2), tmp_path)
    (tmp_path / "store.json").write_text(content)
    with pytest.raises(StoreError, match=r"store\.json (is damaged|has the format)"):
        StoredReference(tmp_path)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("shards", 0, "name"), "../store/shard-00000.arrow"),
        (("shards", 0, "name"), "/etc/passwd"),
        (("shards", 0, "name"), "shard-00000.arrow/../x"),
        (("shards", 0, "rows"), 10**12),
        (("shards", 0, "rows"), -4),
        (("shards", 0, "rows"), True),
        (("key", "teacher", "num_classes"), 2_000_000_000),
        (("key", "teacher", "num_classes"), 3),
        (("key", "teacher", "classes"), ["one"]),
        (("key", "target", "rule"), "nothing"),
        (("fields", "map", "shape"), [10**9, 10**9]),
        (("fields", "map", "shape"), [-1, -1]),
        (("fields", "map", "dtype"), "object"),
        (("fields", "logits"), {"dtype": "float16"}),
        (("targets",), 10**9),
        (("layout",), "sound"),
        (("ids", "probes"), None),
        (("ids", "probes", "positions"), [0]),
    ],
)
def test_descriptions_that_ask_for_harm(tmp_path, teacher, place, value):
    """Prevents: a store.json that names files elsewhere, or sizes that no memory holds."""
    store(teacher, samples(4), tmp_path)

    def change(content):
        for part in place[:-1]:
            content = content[part]
        content[place[-1]] = value

    _changed(tmp_path, change)
    with pytest.raises(StoreError, match=r"store\.json is damaged"):
        StoredReference(tmp_path)


def test_links_out_of_the_store(tmp_path, teacher):
    """Prevents: a shard that is a link to another file of the machine; those of the Hub's cache are its own."""
    cached = tmp_path / "datasets--me--store" / "snapshots" / "abc"
    store(teacher, samples(4), cached)
    for target, message in (
        (tmp_path / "datasets--me--store" / "blobs" / "1f", None),
        (tmp_path / "elsewhere", "is a link to another folder"),
    ):
        target.parent.mkdir(exist_ok=True)
        path = cached / "shard-00000.arrow"
        target.write_bytes(path.read_bytes())
        path.unlink()
        path.symlink_to(target)
        if message is None:
            StoredReference(cached).attach(samples(4))[0]
        else:
            with pytest.raises(StoreError, match=message):
                StoredReference(cached)


@pytest.mark.parametrize("is_text", [False, True])
def test_any_damage_is_a_store_error(tmp_path, teacher, is_text):
    """Prevents: another error than StoreError, or a crash, of bytes that changed, or of parts that lack."""
    if is_text:
        data = texts(6)
        store(text_model("bert", STUDENT), data, tmp_path, processing_class=STUDENT, rows_per_shard=3)
    else:
        data = rows(6)
        store(teacher, data, tmp_path, id_column="image_id", rows_per_shard=3, top_k=2)
    shard, description = tmp_path / "shard-00001.arrow", tmp_path / "store.json"
    content, text = shard.read_bytes(), description.read_text()
    draw = random.Random(0)

    def read(**options):
        attached = StoredReference(tmp_path, **options).attach(data)
        return [attached[number] for number in (0, 5)]

    for _ in range(150):
        changed = bytearray(content)
        start = draw.randrange(len(content))
        for place in range(start, min(start + draw.choice([1, 4, 16]), len(content))):
            changed[place] = draw.choice([0, 255, 127, draw.randrange(256)])
        if changed == content:
            continue
        shard.write_bytes(changed)
        with suppress(StoreError):
            read()
        with pytest.raises(StoreError, match="SHA-256"):
            read(verify=True)
    shard.write_bytes(content)

    def parts(value, place=()):
        for name, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield (*place, name)
            if isinstance(part, dict | list):
                yield from parts(part, (*place, name))

    for place in parts(json.loads(text)):
        for value in (None, "x", -1, [], {}, 1e300):
            changed = copy.deepcopy(json.loads(text))
            inner = changed
            for part in place[:-1]:
                inner = inner[part]
            inner[place[-1]] = value
            description.write_text(json.dumps(changed))
            with suppress(StoreError):
                read()
    description.write_text(text)
    assert len(read(verify=True)) == 2


def test_a_shard_of_another_store(tmp_path):
    """Prevents: another teacher's explanations of the same rows, of a file copied into the wrong folder."""
    data = samples(6)
    for seed, name in ((1, "own"), (2, "other")):
        store(build("vit", seed=seed), data, tmp_path / name, rows_per_shard=3)
    shutil.copy(tmp_path / "other" / "shard-00001.arrow", tmp_path / "own" / "shard-00001.arrow")
    rows = StoredReference(tmp_path / "own").attach(data)
    assert rows[0]["reference_target"] >= 0
    with pytest.raises(StoreError, match="shard-00001.arrow is damaged: it belongs to another store"):
        rows[3]


def test_a_column_without_a_readable_name(tmp_path):
    """Prevents: a UnicodeDecodeError of a damaged shard, which says neither which file nor what to do."""
    store(build("vit", seed=1), samples(4), tmp_path)
    shard = tmp_path / "shard-00000.arrow"
    shard.write_bytes(shard.read_bytes().replace(b"target", b"\xffarget"))
    with pytest.raises(StoreError, match="shard-00000.arrow is damaged: .*invalid start byte"):
        StoredReference(tmp_path).attach(samples(4))[0]


def test_a_store_of_an_earlier_version(tmp_path, monkeypatch):
    """Prevents: stores that were built before shards bore their store's digest called damaged."""
    data = samples(4)
    monkeypatch.setattr(writer, "STORE", b"unknown")
    store(build("vit", seed=1), data, tmp_path)
    described = json.loads((tmp_path / "store.json").read_text())
    del described["digest"]
    (tmp_path / "store.json").write_text(json.dumps(described))
    assert StoredReference(tmp_path, verify=True).attach(data)[3]["reference_target"] >= 0
