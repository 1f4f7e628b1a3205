"""How faithful a student is to its teacher: what is measured, the record of it, and whether the record holds."""

from .record import FIDELITY_FILE, Cost, DataRecord, FidelityRecord, Figure, ModelRecord, TrainingRecord
from .samples import multi_label_metrics, sample_metrics

__all__ = [
    "FIDELITY_FILE",
    "Cost",
    "DataRecord",
    "FidelityRecord",
    "Figure",
    "ModelRecord",
    "TrainingRecord",
    "multi_label_metrics",
    "sample_metrics",
]
