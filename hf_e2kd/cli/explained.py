"""Explained inputs: a classifier's top classes, and where it looks."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..alignment.inputs import image_view
from ..alignment.labels import is_multi_label, is_score
from ..alignment.texts import length_limit
from ..data.opening import cut_texts, open_image
from ..data.transforms import DistillationTransform
from ..experiments.sources import Classifier
from ..explainers import Explainer, Explanation
from ..explainers import explain as explain_batch

LONGEST_TEXT = 512  # tokens, where neither the tokenizer nor the user states a limit


@dataclass(frozen=True)
class Explained:
    """One input with the model's top classes and explanation.

    Args:
        name: Name of the file, the text itself, or both texts of a pair.
        classes: Top classes, `{"class", "index", "probability"}`; a `"score"` in the place of the probability for a
            model with one logit.
        target: Explained class, in the same form.
        map: Attribution map (H, W), or (W) of words.
        image: Image (3, H, W) in [0, 1], as the model sees it; None for a text, and where it isn't drawn.
        words: Words of the map's cells; None for an image.
    """

    name: str | tuple[str, ...]
    classes: list[dict[str, Any]]
    target: dict[str, Any]
    map: torch.Tensor
    image: torch.Tensor | None = None
    words: list[str] | None = None

    def to_dict(self, with_map: bool) -> dict[str, Any]:
        """Return the content for a JSON file."""
        entry: dict[str, Any] = {"input": self.name, "classes": self.classes, "explained": self.target}
        if self.words is not None:
            entry["words"] = [{"word": word, "score": score} for word, score in self.scores()]
        elif with_map:
            entry["map"] = self.map.tolist()
        return entry

    def scores(self) -> list[tuple[str, float]]:
        """Pair a text's words with their scores."""
        words = self.words or []
        return list(zip(words, self.map[: len(words)].tolist(), strict=True))


@dataclass
class Explaining:
    """Explain inputs, and collect in `problems` the inputs, or their parts, that the model doesn't read."""

    loaded: Classifier
    method: Explainer | None
    target: int | None
    names: Sequence[str]
    top: int
    max_length: int | None
    problems: list[str]

    def __call__(self, inputs: Sequence[Any], pictures: int) -> list[Explained]:
        """Explain a batch of texts, of pairs of them, or of images' paths, of which the first `pictures` are kept to be
        drawn."""
        return self._texts(inputs) if self.loaded.is_text else self._images(inputs, pictures)

    def _images(self, paths: Sequence[str], pictures: int) -> list[Explained]:
        opened = {}
        for path in paths:
            try:
                opened[path] = open_image(path)
            except (OSError, ValueError) as error:
                self.problems.append(f"passed over: {error}")
        if not opened:
            return []
        processor = self.loaded.processing_class
        pixel_values = torch.stack(DistillationTransform(processor)({"image": list(opened.values())})["pixel_values"])
        device = next(self.loaded.model.parameters()).device
        inputs = {"pixel_values": pixel_values.to(device)}
        explanation = explain_batch(self.loaded.model, inputs, self.method, self.target)
        images = image_view(processor).intensities(pixel_values).clamp(0, 1)
        return [
            Explained(*result, image=images[row] if row < pictures else None)
            for row, result in enumerate(self._results(list(opened), explanation))
        ]

    def _texts(self, texts: Sequence[tuple[str, ...]]) -> list[Explained]:
        tokenizer = self.loaded.processing_class
        limit = length_limit(tokenizer, self.max_length) or LONGEST_TEXT
        with warnings.catch_warnings(record=True) as cut:
            warnings.simplefilter("always")
            parts = [cut_texts(each, tokenizer, limit) for each in texts]
        self.problems += [str(warning.message) for warning in cut]
        read: list[Any] = [each if len(each) == 2 else each[0] for each in parts]
        explanation = explain_batch(self.loaded.model, read, self.method, self.target, tokenizer)
        assert explanation.words is not None
        results = self._results(read, explanation)
        return [Explained(*result, words=own) for result, own in zip(results, explanation.words, strict=True)]

    def _results(
        self, inputs: Sequence[Any], explanation: Explanation
    ) -> Iterator[tuple[str | tuple[str, ...], list[dict[str, Any]], dict[str, Any], torch.Tensor]]:
        """Collect each input's name, its top classes, the explained one, and the map."""
        logits = explanation.logits.float().cpu()
        several = is_multi_label(self.loaded.model)
        probabilities = logits.sigmoid() if several else logits.softmax(1)

        # The softmax of one logit is 1, whatever it is.
        scores = is_score(self.loaded.model)
        strength, values = ("score", logits) if scores else ("probability", probabilities)

        def entry(row: int, index: int) -> dict[str, Any]:
            return {"class": self.names[index], "index": index, strength: round(values[row, index].item(), 6)}

        # By logits: large ones have the same probability in float32, 1.
        order = logits.argsort(1, descending=True)[:, : self.top].tolist()
        targets, maps = explanation.target.tolist(), explanation.maps.float().cpu()
        for row, name in enumerate(inputs):
            yield name, [entry(row, index) for index in order[row]], entry(row, targets[row]), maps[row]
