"""The facts of a model that travel in its exported file: class names, the processor's settings, the explanation."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

FORMAT = "1"


@dataclass(frozen=True)
class ExportMetadata:
    """Metadata of an exported model, one property of the ONNX file each, in JSON.

    Args:
        modality: `"image"` or `"text"`.
        architecture: Name of the class; of timm that of the architecture.
        num_classes: Number of logits.
        class_names: Names in the order of the logits; None where the model has none.
        problem_type: As in the configuration, `"multi_label_classification"` or another; None where it isn't stated.
        preprocessing: Size, field of view and normalisation of an image, as timm's `pretrained_cfg` states them; None
            of a text, and where they aren't known.
        explainer: Method of the output `map`, as `{"name": "gradcam", "target_layer": "layer4"}`; None without one.
        versions: Versions of the packages that made the file.
    """

    modality: str
    architecture: str
    num_classes: int
    class_names: list[str] | None = None
    problem_type: str | None = None
    preprocessing: dict[str, Any] | None = None
    explainer: dict[str, Any] | None = None
    versions: dict[str, str] | None = None

    def to_properties(self) -> dict[str, str]:
        """Return the properties of the file."""
        properties = {name: json.dumps(value, ensure_ascii=False) for name, value in asdict(self).items()}
        return {"hf_e2kd_format": FORMAT, **properties}

    @classmethod
    def from_properties(cls, properties: Mapping[str, str], source: str) -> "ExportMetadata | None":
        """Read the properties of a file; None where it was made by something else.

        Args:
            source: Name of the file, for the error.

        Raises:
            ValueError: they are of another format, or no JSON.
        """
        found = properties.get("hf_e2kd_format")
        if found is None:
            return None
        names = [field.name for field in fields(cls)]
        try:
            if found != FORMAT:
                raise ValueError(f"its format is {found!r}, not {FORMAT!r}")
            return cls(**{name: json.loads(properties[name]) for name in names})
        except (ValueError, KeyError) as error:
            raise ValueError(
                f"'{source}' was exported by another version of hf_e2kd, or is damaged: {error}. Export the model "
                "anew: hf-e2kd export MODEL OUT.onnx."
            ) from error
