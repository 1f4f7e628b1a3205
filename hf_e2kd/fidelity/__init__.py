"""Fidelity of a student to its teacher: its measurement and the record of it."""

from .interpretability.faithfulness import Faithfulness
from .measure import measure_fidelity
from .record import (
    FIDELITY_FILE,
    Cost,
    DataRecord,
    FaithfulnessRecord,
    FidelityRecord,
    GroupsRecord,
    HeldOutRecord,
    MetricValue,
    ModelRecord,
    TrainingRecord,
)
from .samples import BatchMeasures, multi_label_metrics, sample_metrics

__all__ = [
    "BatchMeasures",
    "FIDELITY_FILE",
    "Cost",
    "DataRecord",
    "Faithfulness",
    "FaithfulnessRecord",
    "FidelityRecord",
    "GroupsRecord",
    "HeldOutRecord",
    "MetricValue",
    "ModelRecord",
    "TrainingRecord",
    "measure_fidelity",
    "multi_label_metrics",
    "sample_metrics",
]
