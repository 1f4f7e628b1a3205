"""Groups by columns of every kind, and the columns by which no samples are grouped."""

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, IterableDataset, Value
from torch.utils.data import Subset

from hf_e2kd.data.groups import GROUP, MOST_GROUPS, GroupedDataset, group_columns, read_groups

PLACES = ["sea", "land", "sea", "land"]


def birds(**columns):
    """Four birds by label and place, with classes' names, and further columns."""
    features = Features(place=ClassLabel(names=["land", "sea"]), label=Value("int64"))
    data = Dataset.from_dict({"place": [1, 0, 1, 0], "label": [0, 0, 1, 1]}, features=features)
    for name, values in columns.items():
        data = data.add_column(name, values)
    return data


@pytest.mark.parametrize(
    ("dataset", "column", "names", "numbers"),
    [
        (birds(), "place", ("land", "sea"), [1, 0, 1, 0]),
        (birds(), ["place", "label"], ("land × 0", "land × 1", "sea × 0", "sea × 1"), [2, 0, 3, 1]),
        (birds(photo=PLACES), "photo", ("land", "sea"), [1, 0, 1, 0]),
        (birds(night=[True, False, False, True]), "night", ("False", "True"), [1, 0, 0, 1]),
        (birds(year=[11, 9, 9, 11]), "year", ("9", "11"), [1, 0, 0, 1]),
        (birds(photo=["", "a", "a", ""]), "photo", ("''", "a"), [0, 1, 1, 0]),
        (birds(photo=["a", "b", "c", "d"]).select([3, 1, 3]), "photo", ("b", "d"), [1, 0, 1]),
        (Subset(birds(), [3, 0]), "place", ("land", "sea"), [0, 1]),
        ([{"place": torch.tensor(3)}, {"place": np.int64(2)}], "place", ("2", "3"), [1, 0]),
        (birds().with_transform(lambda rows: {"pixels": rows["label"]}), "place", ("land", "sea"), [1, 0, 1, 0]),
    ],
)
def test_groups_by_hand(dataset, column, names, numbers):
    """Prevents: classes shown by number, numbers in the order of their digits, a subset's rows taken for others."""
    groups = read_groups(dataset, column)
    assert (groups.names, groups.numbers.tolist()) == (names, numbers)


@pytest.mark.parametrize(
    ("dataset", "column", "message"),
    [
        (birds(), "places", "no column 'places' to group the samples by. Columns of the data: place, label"),
        ([{"place": 1}], "label", "no column 'label' to group the samples by. Columns of the data: place"),
        ([1], "label", "Samples are ints without columns"),
        (birds(photo=["a", None, "b", "a"]), "photo", r"Sample 1 has no value in the column 'photo'.*dataset.filter"),
        (birds(size=[0.5, 1.0, 2.0, 2.0]), "size", r"holds 0.5 \(float\), by which no samples are grouped"),
        (birds(size=[[1], [2], [3], [3]]), "size", r"holds \[1\] \(list\)"),
        ([{"place": "1"}, {"place": 1}], "place", "holds int and str values"),
        ([{"a": "x × y", "b": "z"}, {"a": "x", "b": "y × z"}], ("a", "b"), "several groups that are all called 'x × y"),
        ([{"id": number} for number in range(MOST_GROUPS + 1)], "id", "1,001 values in 1,001 samples, which are ids"),
        (IterableDataset.from_generator(lambda: iter([{"place": 1}])), "place", "not a stream"),
    ],
)
def test_columns_that_group_nothing(dataset, column, message):
    """Prevents: a group of the missing values, groups of one sample each, two groups under one name."""
    with pytest.raises(ValueError, match=message):
        read_groups(dataset, column)


def test_samples_bear_their_groups():
    """Prevents: a batch whose groups are those of other samples; columns of the data set that are lost."""
    data = birds()
    grouped = GroupedDataset(data, read_groups(data, "place"))
    assert len(grouped) == 4 and grouped.features == data.features
    assert [sample[GROUP] for sample in grouped.__getitems__([3, 0, 0])] == [0, 1, 1]
    assert grouped[2] == {"place": 1, "label": 1, GROUP: 1}
    assert (group_columns(None), group_columns("a"), group_columns(["a", "b"])) == ((), ("a",), ("a", "b"))
