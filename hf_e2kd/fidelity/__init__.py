"""How faithful a student is to its teacher: what is measured, the record of it, and whether the record holds."""

from .measure import measure_fidelity
from .record import FIDELITY_FILE, Cost, DataRecord, FidelityRecord, Figure, ModelRecord, TrainingRecord
from .samples import BatchMeasures, multi_label_metrics, sample_metrics

__all__ = [
    "BatchMeasures",
    "FIDELITY_FILE",
    "Cost",
    "DataRecord",
    "FidelityRecord",
    "Figure",
    "ModelRecord",
    "TrainingRecord",
    "measure_fidelity",
    "multi_label_metrics",
    "sample_metrics",
]
