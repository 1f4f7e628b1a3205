"""The fidelity record: a student's figures, and what is needed to measure them again (`fidelity.json`)."""

import json
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

FIDELITY_FILE = "fidelity.json"
FORMAT = "hf_e2kd.fidelity/1"


@dataclass(frozen=True)
class MetricValue:
    """A measured value of a metric.

    Args:
        value: The mean over the samples that count, or a statistic of all of them (F1, mAP).
        low, high: Ends of its 95 % interval, by bootstrap, or exact for a share that is 1 or 0; None without one.
        samples: Number of samples that count.
        detail: Name of the class or group that the value is of, as of the worst one; None for all samples.
    """

    value: float
    low: float | None = None
    high: float | None = None
    samples: int | None = None
    detail: str | None = None


@dataclass(frozen=True)
class Cost:
    """The cost of running a model.

    Args:
        parameters: Number of parameters.
        bytes: Size of its parameters and buffers, as they were loaded.
        flops: Floating-point operations of one sample's forward pass, two a multiply-add; None where not counted.
        seconds: Median time of a forward pass of one sample.
        seconds_low, seconds_high: Quartiles of that time; None in records that don't say.
        device: Device of that measurement.
        input: Shape of the sample, as `"3×224×224"` or `"64 tokens"`.
    """

    parameters: int
    bytes: int
    flops: int | None = None
    seconds: float | None = None
    seconds_low: float | None = None
    seconds_high: float | None = None
    device: str | None = None
    input: str | None = None


@dataclass(frozen=True)
class ModelRecord:
    """A model of a record.

    Args:
        id: Id on the Hub; None of a model that isn't there.
        revision: The commit on the Hub.
        path: A local model's path relative to the folder of the record, as `"../teacher"`; None otherwise.
        architecture: Name of the class; of timm that of the architecture.
        weights: Digest `"sha256:…"` of its parameters and buffers.
        license: License that its card states, as `"apache-2.0"`.
        cost: Cost of running it.
        runtime: Name of what ran it, as "torch" or "ONNX Runtime 1.23"; None in records that don't say.
        precision: Number format of its weights, as "float32" or "int8"; None where unknown.
    """

    id: str | None
    architecture: str
    revision: str | None = None
    path: str | None = None
    weights: str | None = None
    license: str | None = None
    cost: Cost | None = None
    runtime: str | None = None
    precision: str | None = None

    @property
    def name(self) -> str:
        """The id, or else the name of its folder, or of the architecture."""
        folder = "" if self.path is None else Path(self.path).name
        return self.id or (folder if folder != ".." else "") or self.architecture

    @property
    def ran_as(self) -> str | None:
        """The precision and the runtime, as far as they aren't float32 and torch; None where both are."""
        unusual = [each for each in (self.precision, self.runtime) if each not in (None, "float32", "torch")]
        return ", ".join(map(str, unusual)) or None


@dataclass(frozen=True)
class PartRecord:
    """A part of a split that was held out of the training.

    Args:
        share: Share of the split's samples.
        seed: Seed that drew them (`hf_e2kd.data.holding_out.hold_out`).
    """

    share: float
    seed: int


@dataclass(frozen=True)
class DataRecord:
    """The data of a record.

    Args:
        id: Id on the Hub; or the generator's name, as `"digits_on_textures"`, with its `arguments`; None of other data.
        name: Name for readers.
        split: Name of the split.
        config: The data set's configuration on the Hub.
        revision: The commit on the Hub.
        path: Local data's path relative to the folder of the record; None otherwise.
        arguments: Arguments of the generator.
        rows: Number of samples in the split, or in the part of it.
        samples: Positions of the measured ones in it, in the order of measuring.
        seed: Seed that drew them; None where they were given.
        columns: Names of the columns of image or texts, label and annotation.
        fingerprint: Digest `"sha256:…"` of the measured samples' inputs.
        license: License that its card states.
        part: Part of the split that the data are; None where they are all of it, or nothing is known.
    """

    id: str | None
    name: str
    split: str | None = None
    config: str | None = None
    revision: str | None = None
    path: str | None = None
    arguments: dict[str, Any] | None = None
    rows: int | None = None
    samples: list[int] = field(default_factory=list)
    seed: int | None = None
    columns: dict[str, Any] = field(default_factory=dict)
    fingerprint: str | None = None
    license: str | None = None
    part: PartRecord | None = None


OTHER_STEPS = "steps_of_other_trainings"
"""Name among a training's arguments of the steps by which other trainings changed the student, before or after it."""


@dataclass(frozen=True)
class TrainingRecord:
    """The training of a student.

    Args:
        base_model: Hub id of the checkpoint that it started from; None after a random start.
        base_license: License that the checkpoint's card states.
        data: Training data; `samples` is empty, and stands for all rows.
        references: References that it learnt from, by name: `{"kind": "TeacherReference", "explanation_weight": …,
            "explanation_loss": …, "explains": "teacher_top", "logits_weight": …, "explainer": {…}}`.
        arguments: The training arguments that matter, by name, as `{"explanation_weight": 1.0}`.
        augmentation: Augmentation in words; None where none is known.
        hardware: Devices, as `"1 × NVIDIA H100"` or `"CPU"`.
        seconds: Time of the training.
        steps, epochs: Optimizer steps, and the epochs that they were.
        co2_kg: Emissions that codecarbon estimates, if it is installed.
    """

    base_model: str | None = None
    base_license: str | None = None
    data: DataRecord | None = None
    references: dict[str, dict[str, Any]] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)
    augmentation: str | None = None
    hardware: str | None = None
    seconds: float | None = None
    steps: int | None = None
    epochs: float | None = None
    co2_kg: float | None = None


@dataclass(frozen=True)
class GroupsRecord:
    """Figures of a record by group of its samples.

    Args:
        columns: Columns of the data whose values make the groups.
        figures: The student's figures and the teacher's, by group and metric, as in `FidelityRecord.figures`.
        chance: Chance levels of the similarity by group, as in `FidelityRecord.chance`.
    """

    columns: list[str]
    figures: dict[str, dict[str, MetricValue]]
    chance: dict[str, dict[str, MetricValue]] = field(default_factory=dict)


@dataclass(frozen=True)
class HeldOutRecord:
    """Figures by an explainer that the student was not trained on.

    Args:
        explainer: Method and options, as `{"name": "occlusion", "options": {}}`.
        figures: The student's, by metric: `explanation_similarity`, `zero_student_maps`, `zero_teacher_maps`, and with
            the faithfulness what `FidelityRecord` has of it; and `worst_group_…` of these.
        compared: Figures of other students by what they are called.
        chance: Levels that the similarity has for no good reason, as in `FidelityRecord`.
        groups: Figures by group; None where the samples weren't grouped, and in records that don't say.
    """

    explainer: dict[str, Any]
    figures: dict[str, MetricValue]
    compared: dict[str, dict[str, MetricValue]] = field(default_factory=dict)
    chance: dict[str, MetricValue] = field(default_factory=dict)
    groups: GroupsRecord | None = None


@dataclass(frozen=True)
class FaithfulnessRecord:
    """The measurement of faithfulness.

    Args:
        options: Options of `Faithfulness`, as `{"steps": 16, "filling": 0.0}`.
        chance: The student's figures for its parts in a random order, by metric.
        groups: The same by group; empty where the samples weren't grouped.
    """

    options: dict[str, Any]
    chance: dict[str, MetricValue] = field(default_factory=dict)
    groups: dict[str, dict[str, MetricValue]] = field(default_factory=dict)


@dataclass(frozen=True)
class ControlRecord:
    """The teacher beside itself on slightly changed inputs, which shows how large a similarity can be expected to be.

    Args:
        options: Kind and size of the change, as `{"kind": "noise", "sigma": 4}`.
        figures: `explanation_similarity` of the teacher's explanations of the class that it explains of the unchanged
            input, its `agreement` with itself and the divergence `kl`; of scores `mae` in the place of these two.
        groups: The same by group; empty where the samples weren't grouped.
    """

    options: dict[str, Any]
    figures: dict[str, MetricValue]
    groups: dict[str, dict[str, MetricValue]] = field(default_factory=dict)


@dataclass(frozen=True)
class FidelityRecord:
    """The figures of a student, against its teacher where there is one, and what is needed to measure them again.

    Args:
        modality: `"image"` or `"text"`.
        problem: `"single_label_classification"`, `"multi_label_classification"` or `"regression"`.
        student, teacher: The models; the teacher is None where the explanations were stored or annotated.
        data: The measured samples.
        explainer, teacher_explainer: Method and options, as `{"name": "gradcam", "options": {}}`; the teacher's is None
            where it is the student's.
        target: The explained class: `"teacher_top"` or `"label"`.
        comparison_grid: Size at which maps of images were compared: `"image"`, the student's, or `"native"`, the larger
            of both maps' own grids, as in records that don't say.
        iou_threshold: Threshold of `localization_iou`.
        figures: The student's, by metric: `agreement`, `explanation_similarity`, `accuracy`, `teacher_accuracy`,
            `negative_flips` (share of samples that the teacher gets right and the student wrong),
            `agreement_where_teacher_errs`, `worst_class_accuracy`, `worst_class_agreement`, `f1`, `map`,
            `worst_group_…` of the worst group by each figure,
            `energy_pointing_game`, `localization_iou`, `teacher_…` of these two, `word_accuracy`, `word_auroc`,
            `word_auprc`, `zero_student_maps`, `zero_teacher_maps`; with the faithfulness `deletion` and `insertion` of
            images, `comprehensiveness` and `sufficiency` of texts, and `teacher_…` of them; with the control `kl`, the
            divergence KL(teacher ‖ student). What wasn't measured is not there.
        compared: Figures of other students on the same samples by what they are called, as `"plain KD"`.
        compared_models: These students' models, by the same names.
        held_out: Figures by explainers that the student was not trained on.
        faithfulness: Options of the faithfulness and its level by chance; None where it wasn't measured.
        chance: Levels that the similarity has for no good reason: `shuffled` (maps of another sample; of a text its own
            words in another order) and `untrained` (the student's architecture with random weights).
        control: The teacher beside itself on changed inputs; None where it wasn't measured.
        groups: Figures by group; None where the samples weren't grouped.
        training: The student's training, where that is known.
        environment: Versions and the device, by name.
        seed: Seed of everything random in the measurement.
        batch_size: Number of samples that were measured at a time, on which the maps of "another sample" depend.
        step: The optimizer step of a checkpoint in the middle of a training; None of a finished student.
        created: Day of the measurement, as `"2026-01-31"`.
    """

    modality: str
    problem: str
    student: ModelRecord
    data: DataRecord
    explainer: dict[str, Any]
    figures: dict[str, MetricValue]
    teacher: ModelRecord | None = None
    teacher_explainer: dict[str, Any] | None = None
    target: str = "teacher_top"
    comparison_grid: str = "native"
    iou_threshold: float = 0.5
    compared: dict[str, dict[str, MetricValue]] = field(default_factory=dict)
    compared_models: dict[str, ModelRecord] = field(default_factory=dict)
    held_out: list[HeldOutRecord] = field(default_factory=list)
    faithfulness: FaithfulnessRecord | None = None
    chance: dict[str, MetricValue] = field(default_factory=dict)
    control: ControlRecord | None = None
    groups: GroupsRecord | None = None
    training: TrainingRecord | None = None
    environment: dict[str, str] = field(default_factory=dict)
    seed: int = 0
    batch_size: int | None = None
    step: int | None = None
    created: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the content of `fidelity.json`."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "FidelityRecord":
        """Build a record from the content of `fidelity.json`, as `to_dict` returns it.

        Raises:
            ValueError: it is of another format, or a part of it lacks, is one too many or of another type.
        """
        values = dict(values) if isinstance(values, dict) else {}
        found = values.pop("format", None)
        if found != FORMAT:
            raise ValueError(
                f"This is no fidelity record of the format {FORMAT} (it says {found!r}). Measure again with this "
                "version: hf-e2kd fidelity --teacher A --student B --dataset D."
            )
        return _read(cls, values, "")

    def save(self, folder: str | Path) -> Path:
        """Write `fidelity.json` into a folder."""
        path = Path(folder) / FIDELITY_FILE
        path.write_text(json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return path

    @classmethod
    def load(cls, folder: str | Path) -> "FidelityRecord":
        """Read `fidelity.json` of a folder, or a file that holds a record.

        Raises:
            ValueError: as `from_dict`, or it is no JSON.
        """
        path = Path(folder) if Path(folder).is_file() else Path(folder) / FIDELITY_FILE
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        # Arrays within arrays without end are no record either.
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is no JSON: {error}. Get the file anew, or measure anew.") from error
        return cls.from_dict(content)


def _read(expected: Any, value: Any, place: str) -> Any:
    """Read a value of JSON as a type, or a data class of such.

    Raises:
        ValueError: it is of another type, a part of it lacks or is one too many; its place is named.
    """
    if is_dataclass(expected) and isinstance(expected, type) and isinstance(value, dict):
        hints = get_type_hints(expected)
        needed = {each.name for each in fields(expected) if each.default is each.default_factory is MISSING}
        for problem, names in (("lacks", needed - value.keys()), ("has one too many,", value.keys() - hints.keys())):
            if names:
                raise ValueError(
                    f"This fidelity record {problem} {', '.join(f'{place}{name}' for name in sorted(names))}."
                )
        return expected(**{name: _read(hints[name], part, f"{place}{name}.") for name, part in value.items()})
    origin, arguments = get_origin(expected), get_args(expected)
    if origin is UnionType:
        fitting = [each for each in arguments if each is not NoneType]
        return None if value is None else _read(fitting[0], value, place)
    if origin is list and isinstance(value, list):
        return [_read(arguments[0], part, f"{place}{number}.") for number, part in enumerate(value)]
    if origin is dict and isinstance(value, dict):
        return {name: _read(arguments[1], part, f"{place}{name}.") for name, part in value.items()}
    if expected is Any:
        return value
    kinds = (int, float) if expected is float else expected
    if origin is not None or is_dataclass(expected) or not isinstance(value, kinds) or isinstance(value, bool):
        raise ValueError(f"This fidelity record can't be read: {place.rstrip('.')} is {value!r:.60}.")
    return value
