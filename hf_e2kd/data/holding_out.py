"""Data to measure on that were held out of the training split, where there is no other."""

from datasets import Dataset, NamedSplit


class HeldOutSplit(NamedSplit):
    """Name of a split of which a share was held out, with what is needed to hold it out again.

    `datasets` hands it on with the data, as they are cast, mapped and selected.

    Args:
        name: Name of the split.
        share: Share of its samples that was held out.
        seed: Seed that drew them.
    """

    def __init__(self, name: str, share: float, seed: int):
        # Without the parent's check: a folder of `save_to_disk` may call its splits otherwise.
        self._name = name
        self.share, self.seed = share, seed


def hold_out(data: Dataset, name: str, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Hold out a share of a split, drawn by a seed.

    Args:
        data: The split.
        name: Its name.

    Returns:
        What is left, and what was held out, whose `split` is a `HeldOutSplit`.
    """
    divided = data.train_test_split(test_size=share, seed=seed)
    divided["test"]._split = HeldOutSplit(name, share, seed)
    return divided["train"], divided["test"]
