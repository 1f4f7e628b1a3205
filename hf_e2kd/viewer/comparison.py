"""Comparison of teacher and student on one sample: classes, explanations and their similarity."""

import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from PIL import Image
from torchvision.transforms.v2 import functional as TF

from ..alignment.grids import resize_maps
from ..alignment.labels import align_labels, class_names, is_multi_label, is_score, name_key
from ..alignment.scores import refuse_one_shared_class
from ..alignment.texts import length_limit, tokenize_texts
from ..cards.strengths import drawn_strengths
from ..data.opening import cut_text
from ..data.text import TextCollator
from ..data.transforms import DistillationTransform
from ..experiments.sources import Classifier, check_same_modality
from ..explainers import Explainer, available_explainers, explain, usable_explainers
from ..metrics import explanation_similarity

TOP = 3  # classes of each model that are shown
SHOWN = 384  # pixels, the longer side of the shown image
NARROWEST = 48  # and its shorter one, of images that are almost a line
SMALL = 112  # pixels, the longer side of the image in a list
LONGEST_TEXT = 20_000  # characters, of which a model may read fewer
MOST_TOKENS = 512  # of models that state no limit of their own

Target = Literal["teacher_top", "student_top"] | int
"""The explained class: one model's top, or a position in `Pair.names`."""
TOPS: tuple[Target, ...] = ("teacher_top", "student_top")


@dataclass(frozen=True)
class Reading:
    """One model's classes and explanation of a sample.

    Args:
        top: Positions in `Pair.names` of its likeliest classes, of those that both models know, the likeliest first.
        probabilities: Their probabilities, among all classes of the model; of a model with one logit, 1.
        names: Their names.
        explained: Probability of the class that the map explains.
        map: Attribution map (h, w) of an image, (words,) of a text, at any scale, signed where the method is.
        score: Logit of a model that gives one score in place of classes; None for a classifier.
    """

    top: list[int]
    probabilities: list[float]
    names: list[str]
    explained: float
    map: torch.Tensor
    score: float | None = None


@dataclass(frozen=True)
class Comparison:
    """One sample as both models see it.

    Args:
        sample: Input of both: the student's field of view of an image; the part of a text that the models read.
        explained: Name of the class that both maps explain.
        explained_class: Its position in `Pair.names`.
        explainer: Name of the method.
        similarity: Similarity of both maps, as `metrics.explanation_similarity`, of images at the size that the student
            is shown; None where the teacher's map is empty.
        words: Words of a text that both models' tokenizers see whole.
        notes: Remarks for the reader, as that a text was cut.
        label: Name of the true class, where it is known.
        meant: Names of the classes that the label may mean, of those that both models know; none where it is of another
            label space.
        position: Position of the sample in its data set.
        file: Name of the sample's file, where the data set states one.
        chance: Similarity by chance: the mean over a list of samples, each student's map with the teacher's of another
            image, or of the same text's words in another order.
    """

    sample: Image.Image | str
    teacher: Reading
    student: Reading
    explained: str
    explained_class: int
    explainer: str
    similarity: float | None
    words: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    label: str | None = None
    meant: frozenset[str] = frozenset()
    position: int | None = None
    file: str | None = None
    chance: float | None = None

    def explains(self, target: Target) -> bool:
        """Tell whether the class that a target stands for is the explained one."""
        top = {"teacher_top": self.teacher.top[0], "student_top": self.student.top[0]}
        return self.explained_class == (top[target] if isinstance(target, str) else target)

    @property
    def agree(self) -> bool:
        """True if both models choose the same class, as models with one score always do."""
        return self.teacher.top[0] == self.student.top[0]

    def difference(self) -> torch.Tensor:
        """Student minus teacher, each over its own maximum, at the size of the shown image: from −1 to 1.

        Above 0 the student looks more than the teacher. Of an image only what speaks for the class is compared, since
        that is what is drawn; words' signed scores may differ by up to 2, which counts as 1.
        """
        if isinstance(self.sample, str):
            return (share(self.student.map) - share(self.teacher.map)).clamp(-1, 1)
        return strength(self.student.map, self.sample) - strength(self.teacher.map, self.sample)

    def right(self, side: str) -> bool | None:
        """Tell whether the teacher or the student chooses the true class; None where that isn't known."""
        return getattr(self, side).names[0] in self.meant if self.meant else None

    def small(self) -> "Comparison":
        """Shrink an image and its maps to a list's size; the similarity is still that of the whole maps."""
        if isinstance(self.sample, str):
            return self
        scale = SMALL / max(self.sample.size)
        width, height = (max(1, round(side * scale)) for side in self.sample.size)
        teacher, student = (
            replace(each, map=strength(each.map, self.sample, (height, width))) for each in (self.teacher, self.student)
        )
        sample = self.sample.resize((width, height), Image.Resampling.BICUBIC)
        return replace(self, sample=sample, teacher=teacher, student=student)


def spelled(name: str) -> str:
    """Return the form in which a true class and its synonyms are compared; folders often have underscores."""
    return name_key(name.replace("_", " "))


def synonyms(name: str) -> set[str]:
    """Return a class's whole name and the synonyms in it, as ImageNet's names list them, in the form of `spelled`."""
    return {spelled(part) for part in (name, *name.split(","))}


def first_synonym(name: str) -> str:
    """Return the first of a class's synonyms, as ImageNet's names list them.

    Example:
        >>> first_synonym("tench, Tinca tinca")
        'tench'
    """
    return name.split(",")[0].strip() or name


def strength(map: torch.Tensor, image: Image.Image, size: tuple[int, int] | None = None) -> torch.Tensor:
    """Enlarge a map (h, w) to an image: strengths from 0 to 1, as `drawn_strengths`.

    Args:
        size: Rows and columns of the strengths; by default the image's.
    """
    (drawn,) = drawn_strengths(map[None], (image.height, image.width))
    return drawn if size is None else resize_maps(drawn, size)


def share(map: torch.Tensor) -> torch.Tensor:
    """Scale a map by its largest magnitude: from −1 to 1; all 0 for an all-zero map."""
    peak = map.abs().max() if map.numel() else torch.tensor(0.0)
    return map / peak if peak > 0 else map


class Pair:
    """Teacher and student side by side: both are shown the same images or texts, and their classes matched by name.

    Args:
        teacher, student: Classifiers of the same kind of data, with their image processors or tokenizers.
        device: Device of both models; a GPU where there is one.

    Raises:
        ValueError: one reads images and the other texts, they share no class, or one class of several, or a processor
            does what can't be shown to both.
    """

    def __init__(self, teacher: Classifier, student: Classifier, device: str | torch.device | None = None):
        check_same_modality(teacher.source, teacher.is_text, student.source, student.is_text)
        self.is_text = teacher.is_text
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.models = {
            side: each.model.eval().to(self.device) for side, each in (("teacher", teacher), ("student", student))
        }
        self.labels = align_labels(self.models["teacher"], self.models["student"])
        refuse_one_shared_class(self.labels)
        self.scores = is_score(self.models["student"])
        self.names = ["score"] if self.scores else self._class_names()
        # Those of classes that one model alone knows too.
        self._whole = {spelled(name) for model in self.models.values() for name in class_names(model) or self.names}
        self.processors = {"teacher": teacher.processing_class, "student": student.processing_class}
        if self.is_text:
            TextCollator(self.processors["student"], self.processors["teacher"])  # refuses slow tokenizers
        else:
            self.transform = DistillationTransform(self.processors["student"], self.processors["teacher"])
        self._alone = threading.Lock()  # of the models' hooks

    def explainers(self) -> list[str]:
        """List the methods that both models allow, as far as that is known beforehand."""
        # Those of hundreds of forward passes are left out of a page that answers at once.
        quick = available_explainers(trainable=True)
        return [name for name in usable_explainers(*self.models.values()) if name in quick]

    def meant(self, label: str) -> frozenset[str]:
        """List the classes that a label may mean, of those that both models know, by its name or a synonym.

        A class's whole name goes before a synonym of another: ImageNet's "cardigan" is no Cardigan Welsh corgi.
        """
        key = spelled(label)
        spellings = (lambda name: {spelled(name)}) if key in self._whole else synonyms
        return frozenset() if self.scores else frozenset(name for name in self.names if key in spellings(name))

    def compare(
        self, samples: Sequence[Image.Image | str], explainer: Explainer, target: Target = "teacher_top"
    ) -> list[Comparison]:
        """Explain samples by both models.

        Args:
            samples: Images in RGB of any size, or texts.
            target: Class that both models' maps explain.

        Raises:
            ValueError: a method that can't explain one of the models, a target that isn't there, or an empty text.
        """
        # Targets of requests may be anything.
        known = target in TOPS or (isinstance(target, int) and 0 <= target < len(self.names))
        if not known:
            raise ValueError(f"There is no class {target}: both models know {len(self.names)}, counted from 0.")
        read: list[Any] = list(samples)
        notes: list[list[str]] = [[] for _ in samples]
        if self.is_text:
            read, notes = self._read(samples)
        inputs, words = self._inputs(read)
        chosen = None if isinstance(target, str) else torch.full((len(samples),), target)
        found = {}
        # Whose top class is explained comes first.
        for side in ("student", "teacher") if target == "student_top" else ("teacher", "student"):
            target_of = self._target(side, chosen)
            with self._alone:
                explanation = explain(self.models[side], inputs[side], explainer, target_of, self.processors[side])
            found[side] = self._shared(side, explanation.logits), explanation
            if chosen is None:
                chosen = found[side][0].argmax(1).cpu()
        assert chosen is not None
        comparisons = []
        for row in range(len(samples)):
            readings = {}
            for side, (shared, explanation) in found.items():
                map = explanation.maps[row].float().cpu()
                map = map[: len(words[row])] if self.is_text else map
                readings[side] = self._reading(side, shared[row], explanation.logits[row], map, int(chosen[row]))
            comparisons.append(
                Comparison(
                    sample=read[row] if self.is_text else self._shown(read[row]),
                    teacher=readings["teacher"],
                    student=readings["student"],
                    explained=self.names[int(chosen[row])],
                    explained_class=int(chosen[row]),
                    explainer=explainer.name,
                    similarity=self.similarity(readings["student"].map, readings["teacher"].map),
                    words=words[row],
                    notes=notes[row],
                )
            )
        return comparisons

    def similarity(self, student: torch.Tensor, teacher: torch.Tensor) -> float | None:
        """Compare two maps (h, w), at the size that the student is shown, or scores (words,).

        Returns:
            The cosine; None where the teacher's map is empty.
        """
        if student.ndim == 1:
            student, teacher = student[None], teacher[None]
        if not teacher.numel():
            return None
        size = None if self.is_text else self.transform.student.size
        values, valid = explanation_similarity(student[None], teacher[None], size)
        return values.item() if valid.item() else None

    def _class_names(self) -> list[str]:
        of_student = class_names(self.models["student"]) or class_names(self.models["teacher"])
        return [str(index) if of_student is None else of_student[index] for index in self.labels.student.tolist()]

    def _read(self, texts: Sequence[Any]) -> tuple[list[str], list[list[str]]]:
        """Select the compared part of each text, with remarks on it."""
        read, notes = [], []
        for text in texts:
            if not text.strip():
                raise ValueError("The text is empty. Type a sentence.")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # said on the page
                parts = [self._part(text, tokenizer) for tokenizer in self.processors.values()]
            part = max(parts, key=len)
            sides = {tokenizer.truncation_side for tokenizer in self.processors.values()}
            if len(sides) > 1 and any(each != text for each in parts):
                # One model reads the beginning and the other the end; each cuts the text itself.
                part = text[:LONGEST_TEXT]
            read.append(part)
            which = "last" if sides == {"left"} else "first"
            cut = f"The text has {len(text):,} characters; the {which} {len(part):,} are compared."
            notes.append([cut] if len(part) < len(text) else [])
        return read, notes

    def _part(self, text: str, tokenizer: Any) -> str:
        """Cut a text to what a model reads of it: its beginning, or its end, as the tokenizer says."""
        near = text[-LONGEST_TEXT:] if tokenizer.truncation_side == "left" else text[:LONGEST_TEXT]
        return cut_text(near, tokenizer, self._limit(tokenizer))

    def _limit(self, tokenizer: Any) -> int:
        return length_limit(tokenizer) or MOST_TOKENS

    def _inputs(self, samples: Sequence[Any]) -> tuple[dict[str, Any], list[list[str]]]:
        """Make the inputs of each model, and the words of texts."""
        if self.is_text:
            sides = [(tokenizer, self._limit(tokenizer)) for tokenizer in self.processors.values()]
            batches, words = tokenize_texts([(text,) for text in samples], *sides)
            moved = [{name: column.to(self.device) for name, column in batch.items()} for batch in batches]
            return dict(zip(self.processors, moved, strict=True)), words
        columns = self.transform({"image": samples})
        student = torch.stack(columns["pixel_values"]).to(self.device)
        teacher = student
        if "teacher_pixel_values" in columns:
            teacher = torch.stack(columns["teacher_pixel_values"]).to(self.device)
        return {"teacher": {"pixel_values": teacher}, "student": {"pixel_values": student}}, [[] for _ in samples]

    def _shared(self, side: str, logits: torch.Tensor) -> torch.Tensor:
        return self.labels.teacher_logits(logits) if side == "teacher" else self.labels.student_logits(logits)

    def _target(self, side: str, chosen: torch.Tensor | None) -> Any:
        """Convert the explained classes to the model's own; by default its top one among the shared."""
        own = self.labels.to_teacher if side == "teacher" else self.labels.to_student
        if chosen is not None:
            return own(chosen)
        return lambda logits: own(self._shared(side, logits).argmax(1))

    def _reading(
        self, side: str, shared: torch.Tensor, logits: torch.Tensor, map: torch.Tensor, explained: int
    ) -> Reading:
        several = is_multi_label(self.models[side])
        likely = logits.float().sigmoid() if several else logits.float().softmax(0)
        likely = self._shared(side, likely[None])[0]
        top = shared.topk(min(TOP, len(shared))).indices
        return Reading(
            top=top.tolist(),
            probabilities=likely[top].tolist(),
            names=[self.names[index] for index in top.tolist()],
            explained=likely[explained].item(),
            map=map,
            score=shared.item() if self.scores else None,
        )

    def _shown(self, image: Image.Image) -> Image.Image:
        """Cut out the student's field of view, in a size for the page."""
        field_of_view = TF.crop(image, *self.transform.student.crop_box(image.height, image.width))
        scale = SHOWN / max(field_of_view.size)
        width, height = (max(NARROWEST, round(side * scale)) for side in field_of_view.size)
        return field_of_view.resize((width, height), Image.Resampling.BICUBIC)
