"""The columns of a store: what their bytes are."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Field:
    """What the bytes of one column are.

    Args:
        dtype: Numpy's name of the numbers' type; they are little-endian.
        shape: Of one row; −1 first stands for a length that differs from row to row.
    """

    dtype: str
    shape: tuple[int, ...]

    @property
    def is_fixed(self) -> bool:
        """Whether all rows have one shape."""
        return -1 not in self.shape

    @property
    def unit(self) -> int:
        """Bytes of a row; where its length differs, of each of its parts."""
        return self._little_endian.itemsize * int(np.prod([side for side in self.shape if side >= 0], dtype=int))

    def encode(self, row: Any) -> bytes:
        """A row's array as bytes."""
        return np.asarray(row).astype(self._little_endian, copy=False).tobytes()

    def decode(self, data: np.ndarray) -> np.ndarray:
        """A row's array of its bytes (n,), or of several rows' bytes (B, n) where the shape is fixed."""
        return data.view(self._little_endian).reshape(*data.shape[:-1], *self.shape)

    @property
    def _little_endian(self) -> np.dtype:
        return np.dtype(self.dtype).newbyteorder("<")


def fields_to_json(fields: Mapping[str, Field]) -> dict[str, Any]:
    """The fields as they stand in store.json."""
    return {name: {"dtype": field.dtype, "shape": list(field.shape)} for name, field in fields.items()}


def fields_from_json(content: Mapping[str, Any]) -> dict[str, Field]:
    """The fields that `fields_to_json` wrote."""
    return {name: Field(field["dtype"], tuple(field["shape"])) for name, field in content.items()}
