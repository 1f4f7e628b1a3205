"""`hf-e2kd explain`: a classifier's top classes of images or texts, and where it looks."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from tqdm import tqdm

from ..alignment.labels import class_names
from ..experiments.sources import check_processor, choose_explainer, load_classifier
from ..export import exported_explainer, is_exported
from .classes import find_class
from .explained import Explained, Explaining
from .inputs import find_images, find_texts
from .options import ProcessorOption, explainer_options_of
from .output import echo, require_folder
from .rendering import PICTURES, as_text, write


def explain(
    model: Annotated[
        str, typer.Argument(help="Hub id or folder of a classifier of images or texts, or its exported file.")
    ],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT",
            help="Image files and folders, or files of texts (.txt, .csv, .json, …); - reads paths, or texts, line by "
            "line.",
        ),
    ] = None,
    text: Annotated[
        list[str] | None, typer.Option(help="A text to explain; several times for several.", show_default=False)
    ] = None,
    text_pair: Annotated[
        list[str] | None,
        typer.Option(help="The second text of a pair, such as a hypothesis; one a --text.", show_default=False),
    ] = None,
    text_column: Annotated[
        list[str] | None,
        typer.Option(
            *("--text-column", "--text-columns"),
            help="Column of a file's texts [text]; twice for pairs.",
            show_default=False,
        ),
    ] = None,
    explainer: Annotated[
        str | None, typer.Option(help="Method; by default gradcam of images, integrated_gradients of texts.")
    ] = None,
    explainer_options: Annotated[
        str | None, typer.Option(metavar="JSON", help="The method's options.", show_default=False)
    ] = None,
    target: Annotated[
        str | None, typer.Option(metavar="CLASS", help="Name or number of the class to explain; by default the top.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many classes to list.")] = 3,
    output: Annotated[
        list[Path] | None,
        typer.Option(
            help="Picture (.png, .pdf, .svg), page (.html), or classes and maps (.json); several times for several.",
            show_default=False,
        ),
    ] = None,
    pictures: Annotated[int, typer.Option(min=1, help="How many inputs a picture or page shows at most.")] = 24,
    batch_size: Annotated[int, typer.Option(min=1)] = 8,
    max_length: Annotated[int | None, typer.Option(min=1, help="Longest text in tokens.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps; by default the best there is.")] = None,
    revision: Annotated[str | None, typer.Option(help="The model's revision on the Hub.")] = None,
    processor: ProcessorOption = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code from the model's repository.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the classes, and words, as one JSON array.")] = False,
) -> None:
    """Explain a classifier's decisions on images or texts: its top classes, and what they rest on.

    A file that can't be read is named and passed over; the exit code is then 1.

    \b
    Examples:
      hf-e2kd explain microsoft/resnet-50 cat.jpg --output cat.png
      hf-e2kd explain google/vit-base-patch16-224 photos/ --target "tabby cat" \\
          --output maps.json
      hf-e2kd explain timm/convnext_tiny.fb_in22k_ft_in1k cat.jpg \\
          --explainer saliency --output cat.png
      hf-e2kd explain textattack/bert-base-uncased-SST-2 \\
          --text "A wonderful film." --output film.html
      hf-e2kd explain textattack/bert-base-uncased-MNLI --text "A man sleeps." \\
          --text-pair "A man is awake."
      head reviews.txt | hf-e2kd explain textattack/bert-base-uncased-SST-2 - \\
          --json
      hf-e2kd explain student.onnx cat.jpg --output cat.png
    """
    options = explainer_options_of(explainer, explainer_options)
    for path in output or ():
        check_output(path)
    if not inputs and not text and not text_pair:
        raise typer.BadParameter("give images or folders to explain, or --text, or - for lines of standard input.")
    check_processor(processor, model)
    place = choose_device(device)
    loaded = load_classifier(model, revision, trust_remote_code, processor)
    method = choose_explainer([loaded], explainer, options)
    if is_exported(model):
        method = exported_explainer(loaded.model, method)
        method.check(loaded.model, trained=False)
    names = class_names(loaded.model) or [str(number) for number in range(loaded.model.config.num_labels)]
    chosen = None if target is None else find_class(target, names)
    items: Sequence[str | tuple[str, ...]] = (
        find_texts(inputs or [], text or [], text_pair or [], text_column or ["text"], model)
        if loaded.is_text
        else find_images(inputs or [], [*(text or ()), *(text_pair or ())], model)
    )
    loaded.model.to(place).eval()
    explaining = Explaining(loaded, method, chosen, names, top, max_length, [])
    found: list[Explained] = []
    with_pictures = any(path.suffix.lower() != ".json" for path in output or ())
    starts = range(0, len(items), batch_size)
    for start in tqdm(starts, desc="Explaining", unit="batch", disable=None if len(starts) > 1 else True):
        found += explaining(items[start : start + batch_size], pictures - len(found) if with_pictures else 0)
    for problem in explaining.problems:
        echo(f"hf-e2kd: {problem}", err=True)
    if not found:
        raise ValueError("None of the inputs could be read.")
    title = f"{model}, explained by {method.name}"
    for path in output or ():
        write(found, path, title, pictures)
    if with_pictures and len(found) > pictures:
        echo(f"The first {pictures} of {len(found)} are drawn; --pictures draws more.", err=True)
    if as_json:
        echo(json.dumps([each.to_dict(with_map=False) for each in found], ensure_ascii=False))
    else:
        echo("\n".join(as_text(each) for each in found))
        echo("".join(f"Written: {path}\n" for path in output or ()), nl=False)
    if len(found) < len(items):
        raise typer.Exit(1)


def check_output(path: Path) -> None:
    """Refuse, before anything is computed, an output that couldn't be written in the end."""
    if path.suffix.lower() not in (*PICTURES, ".html", ".json"):
        raise typer.BadParameter(f"'{path}' should end in {', '.join(PICTURES)}, .html or .json.")
    if path.is_dir():
        raise typer.BadParameter(f"'{path}' is a folder, and --output writes a file.")
    if not path.absolute().parent.is_dir():
        raise typer.BadParameter(f"there is no folder '{path.parent}' for '{path}'.")
    require_folder(path.parent)


def choose_device(device: str | None) -> torch.device:
    """Return the device of that name; without one an accelerator if there is any."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if device is None:
        return accelerator or torch.device("cpu")
    try:
        torch.empty(0, device=device)
        return torch.device(device)
    except (RuntimeError, AssertionError) as error:
        available = ", ".join(["cpu", *([accelerator.type] if accelerator else [])])
        raise typer.BadParameter(f"no device '{device}' can be used here. Available: {available}.") from error
