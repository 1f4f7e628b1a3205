"""Encoding explanations as stored rows, and decoding rows as columns of samples."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ..explainers import Explanation
from ..logs import get_logger
from .files import StoreError
from .shards import ID, Field, Shards
from .text import CHECKSUM, FIRST, SCORES, SPANS, TextRows

logger = get_logger(__name__)

MAP, VECTORS = "map", "vectors"

COARSE = 128
"""Logits from which on float16 has steps of an eighth and more."""


class RowEncoder:
    """Encode a batch's explanations as rows.

    Args:
        dtype: Precision of logits and maps, `"float16"` or `"float32"`.
        top_k: Number of the largest logits that are stored; None for all.
        vectors: Store the vectors by which the method explains, beside the maps.
    """

    def __init__(self, dtype: str, top_k: int | None, vectors: bool):
        self.dtype = dtype
        self.top_k = top_k
        self.vectors = vectors

    def __call__(
        self, ids: list[Any], explanation: Explanation, text: TextRows | None
    ) -> tuple[dict[str, Any], dict[str, Field], int]:
        """The rows to store, their columns' fields, and the largest number of targets of a sample.

        Raises:
            StoreError: values that are not finite or too large, vectors that the method doesn't give, or tokens' maps
                without the text that they are of.
        """
        logits, maps = explanation.logits.float().cpu(), explanation.maps.float().cpu()
        target, vectors = explanation.target.cpu(), self._vectors(explanation)
        for name, values in (("logits", logits), (MAP, maps), (VECTORS, vectors)):
            if values is not None:
                _require_finite(name, values, ids)
        if text is None and maps.ndim - target.ndim != 2:
            raise StoreError(
                f"The teacher's maps have the shape {tuple(maps.shape)}. To store explanations of texts, give the "
                "teacher's tokenizer as `processing_class`, and no collator: it keeps the characters of each token."
            )
        if self.dtype == "float16":
            _check_size(logits.abs().max().item())
        several = target.ndim == 2
        rows: dict[str, Any] = {ID: ids}
        fields: dict[str, Field] = {}
        self._add_logits(rows, fields, logits)
        rows["target"] = [row[row >= 0].numpy() if several else row.numpy() for row in target]
        fields["target"] = Field("int32", (-1,) if several else ())
        kept = _of_targets(maps, target)
        if text is None:
            self._add_scaled(rows, fields, MAP, kept, tuple(maps.shape[-2:]), several)
        else:
            rows |= {SPANS: text.spans, FIRST: text.first, CHECKSUM: text.checksums}
            fields |= {SPANS: Field("int32", (-1, 2)), FIRST: Field("int32", ()), CHECKSUM: Field("uint32", ())}
            kept = [own[..., places] for own, places in zip(kept, text.places, strict=True)]
            self._add_scaled(rows, fields, SCORES, kept, (-1,), several)
        if vectors is not None:
            self._add_scaled(
                rows, fields, VECTORS, _of_targets(vectors, target), tuple(vectors.shape[target.ndim :]), several
            )
        return rows, fields, target.shape[1] if several else 1

    def _vectors(self, explanation: Explanation) -> torch.Tensor | None:
        if not self.vectors:
            return None
        if explanation.vectors is None:
            raise StoreError(
                "`vectors` stores what a method explains by at every place, such as the dynamic weights of 'bcos'; "
                "this explainer gives maps alone. Leave `vectors` out."
            )
        return explanation.vectors.float().cpu()

    def _add_logits(self, rows: dict[str, Any], fields: dict[str, Field], logits: torch.Tensor) -> None:
        """All logits; or the largest, their classes, and the log of the sum of the others' exponentials."""
        top_k, classes = self.top_k, logits.shape[1]
        if top_k is None:
            rows["logits"], fields["logits"] = logits.numpy(), Field(self.dtype, (classes,))
            return
        if top_k >= classes:
            raise StoreError(f"top_k={top_k} of {classes} classes saves nothing. Leave it out to store all logits.")
        values, indices = logits.topk(top_k, dim=1)
        rest = logits.scatter(1, indices, float("-inf")).logsumexp(1)
        rows |= {"logits": values.numpy(), "indices": indices.numpy(), "rest": rest.numpy()}
        fields |= {
            "logits": Field(self.dtype, (top_k,)),
            "indices": Field("uint16" if classes <= 2**16 else "int32", (top_k,)),
            "rest": Field("float32", ()),
        }

    def _add_scaled(
        self,
        rows: dict[str, Any],
        fields: dict[str, Field],
        name: str,
        values: list[torch.Tensor],
        shape: tuple[int, ...],
        several: bool,
    ) -> None:
        """Arrays ([K,] *shape) divided by their peaks, which stand beside them.

        Half precision would let faint maps underflow otherwise.
        """
        scaled, peaks = [], []
        for own in values:
            flat = own.flatten(own.ndim - len(shape))
            peak = flat.abs().amax(-1) if flat.shape[-1] and self.dtype == "float16" else flat.new_ones(flat.shape[:-1])
            peak = torch.where(peak > 0, peak, torch.ones_like(peak))
            peaks.append(peak.numpy())
            divided = (flat / peak[..., None]).reshape(own.shape).numpy()
            # One free length a row: several targets' tokens stand one after the other.
            scaled.append(divided.reshape(-1) if -1 in shape else divided)
        rows[name], rows[f"{name}_scale"] = scaled, peaks
        fields[name] = Field(self.dtype, shape if -1 in shape or not several else (-1, *shape))
        fields[f"{name}_scale"] = Field("float32", (-1,) if several else ())


class RowDecoder:
    """Decode a store's rows to columns of samples.

    Args:
        shards: The rows as they are stored.
        classes: Number of the teacher's classes.
        targets: Largest number of explained classes of a sample; None where each row has one.
        prefix: Beginning of the columns' names.
    """

    def __init__(self, shards: Shards, classes: int, targets: int | None, prefix: str):
        self.shards = shards
        self.classes = classes
        self.targets = targets
        self.is_text = SPANS in shards.fields
        self.scaled = [name for name in (MAP, VECTORS, SCORES) if name in shards.fields]
        self.plain = [FIRST, CHECKSUM] if self.is_text else []
        names = ("logits", "target", *self.scaled, *([SPANS] if self.is_text else []), *self.plain)
        self.columns = tuple(f"{prefix}_{name}" for name in names)

    def __call__(self, rows: np.ndarray) -> list[dict[str, torch.Tensor]]:
        """The columns of each row: `logits` (classes,); `target` () or (K,); of an image `map` ([K,] h, w) float32 and,
        where they are stored, `vectors` ([K,] C, h, w); of a text its tokens' `scores` ([K,] n), `spans` (n, 2) and
        what else `StoredTextCollator` reads.

        Raises:
            StoreError: a row holds what no teacher gave.
        """
        read = self.shards.read(rows)
        self._check(read)
        values: list[Any] = [self._logits(read), self._targets(read["target"])]
        values += [self._scaled(read, name) for name in self.scaled]
        if self.is_text:
            values.append([torch.from_numpy(own) for own in read[SPANS]])
        values += [torch.from_numpy(read[name].astype(np.int64)) for name in self.plain]
        return [dict(zip(self.columns, row, strict=True)) for row in zip(*values, strict=True)]

    def _check(self, read: Mapping[str, Any]) -> None:
        """Refuse classes that the teacher lacks, and arrays of one row that are of different numbers of things."""
        problem = None
        targets = np.concatenate([np.ravel(own) for own in read["target"]])
        if ((targets < 0) | (targets >= self.classes)).any() or (read.get("indices", targets) >= self.classes).any():
            problem = f"explain or name other than the teacher's {self.classes} classes"
        several = self.targets or 0
        for name in self.scaled if several else ():
            for own, scale, target in zip(read[name], read[f"{name}_scale"], read["target"], strict=True):
                explained = len(scale) if name == SCORES else len(own)
                if not len(scale) == explained == len(target) <= several:
                    problem = f"hold {explained} explanations of {len(target)} classes"
        for own, scale, spans in (
            zip(read[SCORES], read[f"{SCORES}_scale"], read[SPANS], strict=True) if self.is_text else ()
        ):
            if len(own) != np.size(scale) * len(spans):
                problem = f"hold {len(own)} scores of {len(spans)} tokens"
        if problem is not None:
            raise StoreError(
                f"Rows of the store {self.shards.folder} {problem}: it is damaged. StoredReference(folder, "
                "verify=True) names the file; get it anew, or build it anew."
            )

    def _logits(self, read: Mapping[str, Any]) -> torch.Tensor:
        """All classes' logits (B, classes). Where only the largest are stored, the others share equally what is left of
        the teacher's probability."""
        logits = torch.from_numpy(read["logits"])
        if "indices" not in read:
            return logits
        others = self.classes - logits.shape[1]
        each = torch.from_numpy(read["rest"]) - float(np.log(others))
        indices = torch.from_numpy(read["indices"].astype(np.int64))
        return each[:, None].repeat(1, self.classes).scatter_(1, indices, logits.float())

    def _targets(self, targets: Any) -> torch.Tensor:
        if self.targets is None:
            return torch.from_numpy(targets.astype(np.int64))
        padded = torch.full((len(targets), self.targets), -1)
        for row, own in enumerate(targets):
            padded[row, : len(own)] = torch.from_numpy(own)
        return padded

    def _scaled(self, read: Mapping[str, Any], name: str) -> Any:
        """One array ([K,] …) of a row, at its own scale."""
        values, scales = read[name], read[f"{name}_scale"]
        if isinstance(values, np.ndarray):
            return torch.from_numpy(values.astype(np.float32) * scales.reshape(-1, *[1] * (values.ndim - 1)))
        if name == SCORES:  # of which only the number is known, and the number of tokens
            values = [
                own.reshape(*np.shape(scale), len(spans))
                for own, scale, spans in zip(values, scales, read[SPANS], strict=True)
            ]
        arrays = [
            own.astype(np.float32) * np.reshape(scale, (*np.shape(scale), *[1] * (own.ndim - np.ndim(scale))))
            for own, scale in zip(values, scales, strict=True)
        ]
        return [self._padded(own) for own in arrays]

    def _padded(self, maps: np.ndarray) -> torch.Tensor:
        """The maps of all targets that a sample may have, zero where it has fewer."""
        if self.targets is None:
            return torch.from_numpy(maps)
        padded = torch.zeros(self.targets, *maps.shape[1:])
        padded[: len(maps)] = torch.from_numpy(maps)
        return padded


def _of_targets(values: torch.Tensor, target: torch.Tensor) -> list[torch.Tensor]:
    """Each sample's values, without those of the padding among its targets."""
    if target.ndim == 1:
        return list(values)
    return [own[wanted >= 0] for own, wanted in zip(values, target, strict=True)]


def _check_size(largest: float) -> None:
    """Refuse logits beyond float16, and warn of those that it rounds coarsely.

    Args:
        largest: Largest absolute value of a batch's logits.
    """
    if largest > torch.finfo(torch.float16).max:
        raise StoreError("The teacher's logits are too large for float16. Build with dtype='float32'.")
    if largest >= COARSE:
        logger.warning_once(
            f"The teacher's logits reach {COARSE}, where float16 rounds to eighths, and to more above, as of scores in "
            "the hundreds. Build with dtype='float32' to keep them."
        )


def _require_finite(name: str, values: torch.Tensor, ids: list[Any]) -> None:
    wrong = (~values.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
    if wrong:
        raise StoreError(
            f"The teacher's {name} of the sample {ids[wrong[0]]!r} holds NaN or infinite values. Leave the sample out, "
            "or load the teacher in a higher precision."
        )
