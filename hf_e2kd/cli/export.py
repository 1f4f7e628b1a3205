"""`hf-e2kd export`: a classifier as an ONNX file or a `torch.export` archive, with its explanation."""

import json
from pathlib import Path
from typing import Annotated

import typer

from ..experiments.sources import load_classifier
from ..export import OPSET, export_model, is_exported, load_exported
from .output import echo


def export(
    model: Annotated[str, typer.Argument(help="Hub id or folder of a classifier of images or texts.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="File to write: .onnx, or .pt2 for torch.export.")],
    explanation: Annotated[
        bool, typer.Option("--explanation", help="Give the GradCAM map of a class with the logits.")
    ] = False,
    image_size: Annotated[
        int | None,
        typer.Option(min=1, help="Side of the images in pixels; by default the processor's.", show_default=False),
    ] = None,
    opset: Annotated[int, typer.Option(help="Version of ONNX's operators.")] = OPSET,
    revision: Annotated[str | None, typer.Option(help="The model's revision on the Hub.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code from the model's repository.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Export a classifier as an ONNX file or a torch.export archive, with its explanation if asked to.

    The file takes any number of images (or texts) and gives `logits`; with --explanation it also takes `target`, the
    class of each image to explain (-1 for the top one), and gives `map`. It is compared with the model before it is
    kept. `hf-e2kd explain` and `hf-e2kd fidelity --student` run it without the model.

    \b
    Examples:
      hf-e2kd export microsoft/resnet-18 student.onnx --explanation
      hf-e2kd explain student.onnx cat.jpg --output cat.png
    """
    if is_exported(model):
        raise typer.BadParameter(f"'{model}' is an exported file already. Name the model that it was made from.")
    loaded = load_classifier(model, revision, trust_remote_code)
    path = export_model(
        loaded.model,
        output,
        explanation=explanation,
        processing_class=loaded.processing_class,
        image_size=image_size,
        opset=opset,
    )
    program = load_exported(path, loaded.processing_class).program
    summary = {"file": str(path), "bytes": path.stat().st_size, "inputs": program.inputs, "outputs": program.outputs}
    if as_json:
        echo(json.dumps(summary))
    else:
        taken, given = (", ".join(names) for names in (program.inputs, program.outputs))
        echo(f"{path}: {path.stat().st_size / 1e6:.1f} MB, takes {taken} and gives {given}")
