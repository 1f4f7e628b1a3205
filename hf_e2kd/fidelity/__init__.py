"""Fidelity of a student to its teacher: its measurement and the record of it."""

from .control import Control
from .interpretability.dissection import network_dissection
from .interpretability.dissection_figure import detector_figure
from .interpretability.dissection_result import Dissection
from .interpretability.faithfulness import Faithfulness
from .measure import measure_fidelity
from .record import (
    FIDELITY_FILE,
    ControlRecord,
    Cost,
    DataRecord,
    FaithfulnessRecord,
    FidelityRecord,
    GroupsRecord,
    HeldOutRecord,
    MetricValue,
    ModelRecord,
    PartRecord,
    TrainingRecord,
)
from .samples import BatchMeasures, multi_label_metrics, sample_metrics

__all__ = [
    "BatchMeasures",
    "FIDELITY_FILE",
    "Control",
    "ControlRecord",
    "Cost",
    "DataRecord",
    "Dissection",
    "Faithfulness",
    "FaithfulnessRecord",
    "FidelityRecord",
    "GroupsRecord",
    "HeldOutRecord",
    "MetricValue",
    "ModelRecord",
    "PartRecord",
    "TrainingRecord",
    "detector_figure",
    "measure_fidelity",
    "multi_label_metrics",
    "network_dissection",
    "sample_metrics",
]
