"""Settings of the viewer: two models, their explainer, and samples to browse."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from ..alignment.labels import class_names, dataset_label_names
from ..data.opening import open_image
from ..experiments.sources import choose_explainer, load_classifier, load_split
from ..explainers import Explainer, build_explainer
from .comparison import Pair


@dataclass(frozen=True)
class Settings:
    """Settings of the viewer.

    Args:
        teacher, student: Hub ids or folders of classifiers, both of images or both of texts.
        teacher_revision, student_revision: Revisions of them on the Hub.
        dataset: Hub id or folder of samples to browse; none by default.
        dataset_config: Its configuration on the Hub.
        split: Name of its split; "validation" by default, or the only one there is.
        samples: Number of samples that are compared, drawn by a fixed seed.
        explainer: Method that is chosen at first; gradcam of images, integrated_gradients of texts by default.
        explainer_options: Options of that method.
        image_column, text_column, label_column: Columns of the data set; the last may be missing.
        trust_remote_code: Run the models' own code, which is refused otherwise.
    """

    teacher: str
    student: str
    teacher_revision: str | None = None
    student_revision: str | None = None
    dataset: str | None = None
    dataset_config: str | None = None
    split: str | None = None
    samples: int = 64
    explainer: str | None = None
    explainer_options: dict[str, Any] = field(default_factory=dict)
    image_column: str = "image"
    text_column: str = "text"
    label_column: str = "label"
    trust_remote_code: bool = False


@dataclass
class Viewing:
    """Loaded models, explainers and samples of the settings.

    Args:
        explainers: Methods to choose from; the first is chosen at first.
        samples: Samples to browse.
    """

    settings: Settings
    pair: Pair
    explainers: dict[str, Explainer]
    samples: "Samples | None" = None


class Samples:
    """Samples of a data set by their position in it, as images in RGB or texts, with the names of their classes.

    `positions` are those of the samples that were drawn.

    Raises:
        ValueError: the column holds something else.
    """

    def __init__(self, dataset: datasets.Dataset, pair: Pair, settings: Settings):
        self.column = settings.text_column if pair.is_text else settings.image_column
        self.label_column = settings.label_column
        feature = dataset.features[self.column]
        if not pair.is_text and not isinstance(feature, datasets.Image):
            raise ValueError(f"The column '{self.column}' of '{settings.dataset}' holds {feature}, no images.")
        if not pair.is_text:
            # As files, which may be damaged: only the sample that is asked for fails.
            dataset = dataset.cast_column(self.column, datasets.Image(decode=False))
        chosen = np.random.default_rng(0).permutation(len(dataset))[: settings.samples]
        self.positions: list[int] = sorted(chosen.tolist())
        self.dataset = dataset
        self.is_text, self.scores = pair.is_text, pair.scores
        self.names = dataset_label_names(dataset, self.label_column) or class_names(pair.models["student"])

    def __getitem__(self, position: int) -> Any:
        """Return the image or text.

        Raises:
            ValueError: an image that can't be opened, or a row without a text.
        """
        value = self.dataset[position][self.column]
        if not self.is_text:
            # By its content, for a message without this machine's folders, which a report would spread.
            return open_image(value["bytes"] or Path(value["path"]).read_bytes())
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"The column '{self.column}' holds {value!r} there, no text.")
        return value

    def file(self, position: int) -> str | None:
        """Return the name of an image's file without its folder; None where the data set states none."""
        value = None if self.is_text else self.dataset[position][self.column]
        return Path(value["path"]).name if value and value["path"] else None

    def label(self, position: int) -> str | None:
        """Return the true class's name, where the data set states one class per sample; of scores, the number."""
        label = self.dataset[position].get(self.label_column)
        if self.scores and isinstance(label, (int, float)):
            return f"{label:g}"
        if isinstance(label, str):
            return label
        if isinstance(label, int) and self.names is not None and 0 <= label < len(self.names):
            return self.names[label]
        return None


def load(settings: Settings) -> Viewing:
    """Load the models and the data set.

    Raises:
        ValueError, OSError: saying what can't be loaded, or doesn't fit together.
    """
    teacher = load_classifier(settings.teacher, settings.teacher_revision, settings.trust_remote_code)
    student = load_classifier(settings.student, settings.student_revision, settings.trust_remote_code)
    pair = Pair(teacher, student)
    first = settings.explainer or ("integrated_gradients" if pair.is_text else "gradcam")
    chosen = choose_explainer((teacher, student), first, settings.explainer_options)
    explainers = {first: chosen} | {name: build_explainer(name) for name in pair.explainers() if name != first}
    viewing = Viewing(settings, pair, explainers)
    if settings.dataset is not None:
        column = settings.text_column if pair.is_text else settings.image_column
        # The default's may be missing, and not one that was named.
        labels = [] if settings.label_column == Settings.label_column else [settings.label_column]
        named = [column, *labels]
        data, split = load_split(settings.dataset, pair.is_text, settings.split, settings.dataset_config, named)
        viewing.settings = replace(settings, split=split)
        viewing.samples = Samples(data, pair, settings)
    return viewing


def facts(settings: Settings) -> dict[str, str]:
    """List the compared models and data by name; folders without their paths, since reports are passed on."""
    known = {
        "Teacher": _name(settings.teacher, settings.teacher_revision),
        "Student": _name(settings.student, settings.student_revision),
    }
    return known if settings.dataset is None else known | {"Data": f"{_name(settings.dataset)}, {settings.split}"}


def _name(source: str, revision: str | None = None) -> str:
    name = Path(source).resolve().name if Path(source).exists() else source
    return f"{name}, revision {revision}" if revision else name
