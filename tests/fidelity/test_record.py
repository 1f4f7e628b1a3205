"""Records as they come from anywhere: read as they were written, or refused by a ValueError."""

import copy
import json
import random
from contextlib import suppress

import pytest

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


def test_any_part_of_another_type(tmp_path):
    """Prevents: another error than ValueError of a record of which a part is damaged, whatever reads it next."""
    whole = json.loads(json.dumps(RECORD.to_dict()))
    assert FidelityRecord.from_dict(whole) == RECORD
    draw, refused = random.Random(0), 0
    for place in _parts(whole):
        changed = copy.deepcopy(whole)
        inner = changed
        for part in place[:-1]:
            inner = inner[part]
        inner[place[-1]] = draw.choice([None, "x", -1, [], {}, True, 1e300, [{}]])
        with suppress(ValueError):
            FidelityRecord.from_dict(changed).to_dict()
            refused -= 1
        refused += 1
    assert refused > 20


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
