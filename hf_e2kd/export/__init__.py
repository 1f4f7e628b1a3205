"""Students as ONNX files and `torch.export` programs that give their explanation with their logits."""

from .metadata import ExportMetadata
from .reading import ExportedGradCAM, ExportedStudent, exported_explainer, gives_gradcam, is_exported, load_exported
from .writing import OPSET, export_model

__all__ = [
    "OPSET",
    "ExportMetadata",
    "ExportedGradCAM",
    "ExportedStudent",
    "export_model",
    "exported_explainer",
    "gives_gradcam",
    "is_exported",
    "load_exported",
]
