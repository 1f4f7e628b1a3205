"""Records as they come from anywhere: read as they were written, or refused by a ValueError."""

import json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_e2kd.fidelity import FidelityRecord
from tests.cards.records import image_record

RECORD = image_record()


def _parts(value, place=()):
    for name, part in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*place, name)
        if isinstance(part, dict | list):
            yield from _parts(part, (*place, name))


@pytest.mark.parametrize("content", ["null", "1", "[]", '"a"', "[" * 200_000, "{", "", "\udcff", '{"format": []}'])
def test_no_record(tmp_path, content):
    """Prevents: an AttributeError or a RecursionError of a file that is no record."""
    (tmp_path / "fidelity.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=r"no fidelity record|is no JSON"):
        FidelityRecord.load(tmp_path)


def test_a_record_is_read_as_it_was_written():
    assert FidelityRecord.from_dict(json.loads(json.dumps(RECORD.to_dict()))) == RECORD


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("figures", "agreement", "value"), "0.9", r"figures\.agreement\.value is '0\.9'"),
        (("data", "samples"), [0, "1"], r"data\.samples\.1 is '1'"),
        (("student",), 3, "student is 3"),
        (("student", "size"), 3, r"has one too many, student\.size"),
        (("teacher", "cost"), [], r"teacher\.cost is \[\]"),
    ],
)
def test_the_part_is_named(place, value, message):
    """Prevents: a message that leaves the reader to search a file of a thousand lines."""
    changed = json.loads(json.dumps(RECORD.to_dict()))
    inner = changed
    for part in place[:-1]:
        inner = inner[part]
    inner[place[-1]] = value
    with pytest.raises(ValueError, match=message):
        FidelityRecord.from_dict(changed)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
PLACES = list(_parts(json.loads(json.dumps(RECORD.to_dict()))))


@settings(max_examples=150)
@given(st.sampled_from(PLACES), JSON, st.booleans())
def test_mutated_records(place, value, delete):
    """Prevents: another error than ValueError of a record in which some part was changed or is lacking."""
    changed = json.loads(json.dumps(RECORD.to_dict()))
    inner = changed
    for part in place[:-1]:
        inner = inner[part]
    if delete:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    with suppress(ValueError):
        record = FidelityRecord.from_dict(changed)
        assert FidelityRecord.from_dict(json.loads(json.dumps(record.to_dict()))).to_dict().keys() == changed.keys()
