"""Files of samples that can't be read: named, with what is expected of them."""

import pytest

from hf_e2kd.data.text import load_text_splits


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("rows.csv", b"", "is empty. Give a file with rows"),
        ("rows.json", b"", "is empty"),
        ("rows.csv", b"text,label\n", "there are no rows. Expected are rows below a line of columns' names"),
        ("rows.json", b"[]", "there are no rows"),
        ("rows.csv", b"text,label\na,0\nb,1,2\n", "Expected 2 fields in line 3, saw 3.*stands in double quotes"),
        ("rows.csv", "text,label\nfünf,1\n".encode("latin-1"), "'utf-8' codec can't decode byte.*in UTF-8"),
        ("rows.jsonl", b'{"text": "a"}\nnope\n', "can't be read: .*objects with the same keys"),
        ("rows.parquet", b"nope", "can't be read: Parquet file size"),
    ],
)
def test_a_file_that_can_not_be_read_is_named(name, content, said, tmp_path):
    """Prevents: "No columns to parse from file", 'Instruction "train" corresponds to no data!' and a StopIteration, of
    which nothing says which file is meant."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}' .*{said}"):
        load_text_splits(str(tmp_path / name))


@pytest.mark.parametrize(("name", "content"), [("train.csv", b"text,label\n"), ("train.json", b"")])
def test_a_folder_of_a_file_without_rows(name, content, tmp_path):
    """Prevents: the same of a folder."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"'{tmp_path}' can't be read: there are no rows"):
        load_text_splits(str(tmp_path))
