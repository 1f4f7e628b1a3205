"""Names that splits state, and data to measure on that were held out of the training split, where there is no other."""

from collections.abc import Mapping

from datasets import Dataset, NamedSplit


class SplitName(NamedSplit):
    """Any name of a split: a folder of `save_to_disk` may call its splits as `datasets` itself calls none."""

    def __init__(self, name: str):
        # Without the parent's check.
        self._name = name


class HeldOutSplit(SplitName):
    """Name of a split of which a share was held out, with what is needed to hold it out again.

    `datasets` hands it on with the data, as they are cast, mapped and selected.

    Args:
        name: Name of the split.
        share: Share of its samples that was held out.
        seed: Seed that drew them.
    """

    def __init__(self, name: str, share: float, seed: int):
        super().__init__(name)
        self.share, self.seed = share, seed


def state_names(splits: Mapping[str, Dataset]) -> None:
    """Let splits state their names: saved ones may state none, or that of a split of which they had been a part."""
    for name, data in splits.items():
        if str(data.split) != name:
            data._split = SplitName(name)


def hold_out(data: Dataset, name: str, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Hold out a share of a split, drawn by a seed.

    Args:
        data: The split.
        name: Its name.

    Returns:
        What is left, and what was held out, whose `split` is a `HeldOutSplit`.

    Raises:
        ValueError: there is one sample, or none.
    """
    if len(data) < 2:
        raise ValueError(
            f"The split '{name}' has {len(data)} sample{'s' * (len(data) != 1)}, and a share of it is to be held out, "
            "as there is no split to measure on. Give two samples or more, or both splits."
        )
    divided = data.train_test_split(test_size=share, seed=seed)
    divided["test"]._split = HeldOutSplit(name, share, seed)
    return divided["train"], divided["test"]
