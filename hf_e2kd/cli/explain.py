"""`hf-e2kd explain`: a classifier's top classes of images or texts, and where it looks."""

import base64
import difflib
import html
import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from PIL import Image
from tqdm import tqdm

from ..alignment.inputs import image_view
from ..alignment.labels import class_names
from ..alignment.texts import length_limit
from ..cards.figures import explanation_panel
from ..cards.words import WordRow, WordSample, gaps, word_figure, word_page
from ..data.opening import cut_text, open_image
from ..data.transforms import DistillationTransform
from ..explainers import Explainer, Explanation, build_explainer
from ..explainers import explain as explain_batch
from .loading import Classifier, load_classifier
from .store import json_object

PICTURES = (".png", ".jpg", ".jpeg", ".pdf", ".svg", ".webp")
LONGEST_TEXT = 512  # tokens, where neither the tokenizer nor the user states a limit
LONGEST_WORD = 60  # characters of a word that are drawn


@dataclass(frozen=True)
class Explained:
    """One input and what the model makes of it.

    Args:
        name: The file, or the text itself.
        classes: The top ones, `{"class", "index", "probability"}`.
        target: The explained one, as these.
        map: (H, W), or (W) of words.
        image: (3, H, W) in [0, 1], as the model is shown it; None of a text, and where it isn't to be drawn.
        words: What stands in the map's cells; None of an image.
    """

    name: str
    classes: list[dict[str, Any]]
    target: dict[str, Any]
    map: torch.Tensor
    image: torch.Tensor | None = None
    words: list[str] | None = None

    def to_dict(self, with_map: bool) -> dict[str, Any]:
        """For a JSON file."""
        entry: dict[str, Any] = {"input": self.name, "classes": self.classes, "explained": self.target}
        if self.words is not None:
            entry["words"] = [{"word": word, "score": score} for word, score in self.scores()]
        elif with_map:
            entry["map"] = self.map.tolist()
        return entry

    def scores(self) -> list[tuple[str, float]]:
        """A text's words with their scores."""
        words = self.words or []
        return list(zip(words, self.map[: len(words)].tolist(), strict=True))


def explain(
    model: Annotated[str, typer.Argument(help="Hub id or folder of a classifier of images or texts.")],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="INPUT", help="Image files and folders; - reads paths, or texts, line by line."),
    ] = None,
    text: Annotated[
        list[str] | None, typer.Option(help="A text to explain; several times for several.", show_default=False)
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
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code from the model's repository.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the classes, and words, as one JSON array.")] = False,
) -> None:
    """Explains a classifier's decisions on images or texts: its top classes, and what they rest on.

    A file that can't be read is named and passed over; the exit code is then 1.

    \b
    Examples:
      hf-e2kd explain microsoft/resnet-50 cat.jpg --output cat.png
      hf-e2kd explain google/vit-base-patch16-224 photos/ --target "tabby cat" --output maps.json
      hf-e2kd explain timm/convnext_tiny.fb_in22k_ft_in1k cat.jpg --explainer saliency --output cat.png
      hf-e2kd explain textattack/bert-base-uncased-SST-2 --text "A wonderful film." --output film.html
      head reviews.txt | hf-e2kd explain textattack/bert-base-uncased-SST-2 - --json
    """
    options = json_object(explainer_options)
    if options and explainer is None:
        raise typer.BadParameter("--explainer-options need --explainer, whose options they are.")
    for path in output or ():
        check_output(path)
    if not inputs and not text:
        raise typer.BadParameter("give images or folders to explain, or --text, or - for lines of standard input.")
    method = None if explainer is None else build_explainer(explainer, **options)
    place = choose_device(device)
    loaded = load_classifier(model, revision, trust_remote_code)
    names = class_names(loaded.model) or [str(number) for number in range(loaded.model.config.num_labels)]
    chosen = None if target is None else find_class(target, names)
    items: Sequence[str] = (
        find_texts(inputs or [], text or [], model) if loaded.is_text else find_images(inputs or [], text, model)
    )
    loaded.model.to(place).eval()
    explaining = Explaining(loaded, method, chosen, names, top, max_length, [])
    found: list[Explained] = []
    drawn = any(path.suffix != ".json" for path in output or ())
    starts = range(0, len(items), batch_size)
    for start in tqdm(starts, desc="Explaining", unit="batch", disable=None if len(starts) > 1 else True):
        found += explaining(items[start : start + batch_size], pictures - len(found) if drawn else 0)
    for problem in explaining.problems:
        typer.echo(f"hf-e2kd: {problem}", err=True)
    if not found:
        raise ValueError("None of the inputs could be read.")
    title = f"{model}, explained by {explainer or ('integrated_gradients' if loaded.is_text else 'gradcam')}"
    for path in output or ():
        write(found, path, title, pictures)
    if drawn and len(found) > pictures:
        typer.echo(f"The first {pictures} of {len(found)} are drawn; --pictures draws more.", err=True)
    if as_json:
        typer.echo(json.dumps([each.to_dict(with_map=False) for each in found], ensure_ascii=False))
    else:
        typer.echo("\n".join(as_text(each) for each in found))
        typer.echo("".join(f"Written: {path}\n" for path in output or ()), nl=False)
    if len(found) < len(items):
        raise typer.Exit(1)


# --- What is explained -----------------------------------------------------------------------------------------------


def check_output(path: Path) -> None:
    """Refuses, before anything is computed, what couldn't be written in the end."""
    if path.suffix.lower() not in (*PICTURES, ".html", ".json"):
        raise typer.BadParameter(f"'{path}' should end in {', '.join(PICTURES)}, .html or .json.")
    if not path.absolute().parent.is_dir():
        raise typer.BadParameter(f"there is no folder '{path.parent}' for '{path}'.")


def choose_device(device: str | None) -> torch.device:
    """The device of that name; without one an accelerator if there is any."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if device is None:
        return accelerator or torch.device("cpu")
    try:
        torch.empty(0, device=device)
        return torch.device(device)
    except (RuntimeError, AssertionError) as error:
        available = ", ".join(["cpu", *([accelerator.type] if accelerator else [])])
        raise typer.BadParameter(f"no device '{device}' can be used here. Available: {available}.") from error


def find_class(wanted: str, names: Sequence[str]) -> int:
    """The number of a class by its name, by one of several names parted by commas, or by its number.

    Raises:
        ValueError: there is none, or several; those that come close are listed.
    """
    key = wanted.strip().casefold()
    whole = [name.strip().casefold() for name in names]
    if whole.count(key) == 1:
        return whole.index(key)
    parts = [[part.strip() for part in name.split(",")] for name in whole]
    having = [number for number, own in enumerate(parts) if key in own or key == whole[number]]
    if len(having) == 1:
        return having[0]
    if key.isdecimal():
        if int(key) < len(names):
            return int(key)
        raise ValueError(f"There is no class {key}: the model has {len(names)} classes, counted from 0.")
    if not having:
        spelt = {part: number for number, own in enumerate(parts) for part in own}
        close = difflib.get_close_matches(key, spelt, n=5)
        having = list(dict.fromkeys(spelt[part] for part in close))
        having += [number for number, name in enumerate(whole) if key in name and number not in having]
    listed = having[:8] or range(min(8, len(names)))
    listing = ", ".join(f"{number} '{names[number]}'" for number in listed)
    kind = "Several classes are named" if key in (part for own in parts for part in own) else "No class is named"
    raise ValueError(
        f"{kind} '{wanted}'. {'Close ones' if having else f'The model has {len(names)} classes, the first of them'}: "
        f"{listing}. Give a name or a number."
    )


def find_images(inputs: Sequence[str], texts: Sequence[str] | None, model: str) -> list[str]:
    """Paths of images, those in folders included, in order."""
    if texts:
        raise ValueError(f"'{model}' classifies images: give files or folders, not --text.")
    suffixes = Image.registered_extensions()
    paths: list[str] = []
    for given in inputs:
        for path in map(Path, _lines() if given == "-" else [given]):
            if path.is_dir():
                inside = sorted(str(file) for file in path.rglob("*") if file.suffix.lower() in suffixes)
                if not inside:
                    raise ValueError(f"The folder '{path}' holds no image.")
                paths += inside
            else:
                paths.append(str(path))
    return paths


def find_texts(inputs: Sequence[str], texts: Sequence[str], model: str) -> list[str]:
    """The texts of the command line, and of standard input those lines that aren't blank."""
    files = [given for given in inputs if given != "-"]
    if files:
        raise ValueError(
            f"'{model}' classifies texts, and '{files[0]}' is given as a file. Give --text \"…\", or the lines of a "
            f"file: hf-e2kd explain {model} - < FILE."
        )
    found = [*texts, *(_lines() if inputs else ())]
    if not all(text.strip() for text in found) or not found:
        raise ValueError("There is nothing to explain in an empty text.")
    return found


def _lines() -> Iterator[str]:
    return (line.rstrip("\r\n") for line in sys.stdin if line.strip())


# --- Explaining ------------------------------------------------------------------------------------------------------


@dataclass
class Explaining:
    """How inputs are explained, and what can't be or isn't read of them, in `problems`."""

    loaded: Classifier
    method: Explainer | None
    target: int | None
    names: Sequence[str]
    top: int
    max_length: int | None
    problems: list[str]

    def __call__(self, inputs: Sequence[str], drawn: int) -> list[Explained]:
        """Explains a batch of texts or of images' paths, of which the first `drawn` are kept to be drawn."""
        return self._texts(inputs) if self.loaded.is_text else self._images(inputs, drawn)

    def _images(self, paths: Sequence[str], drawn: int) -> list[Explained]:
        opened = {}
        for path in paths:
            try:
                opened[path] = open_image(path)
            except (OSError, ValueError) as error:
                self.problems.append(f"passed over: {error}")
        if not opened:
            return []
        processor = self.loaded.processing_class
        pixel_values = torch.stack(DistillationTransform(processor)({"image": list(opened.values())})["pixel_values"])
        device = next(self.loaded.model.parameters()).device
        inputs = {"pixel_values": pixel_values.to(device)}
        explanation = explain_batch(self.loaded.model, inputs, self.method, self.target)
        images = image_view(processor).intensities(pixel_values).clamp(0, 1)
        return [
            Explained(*result, image=images[row] if row < drawn else None)
            for row, result in enumerate(self._results(list(opened), explanation))
        ]

    def _texts(self, texts: Sequence[str]) -> list[Explained]:
        tokenizer = self.loaded.processing_class
        limit = length_limit(tokenizer, self.max_length) or LONGEST_TEXT
        with warnings.catch_warnings(record=True) as cut:
            warnings.simplefilter("always")
            read = [cut_text(text, tokenizer, limit) for text in texts]
        self.problems += [str(warning.message) for warning in cut]
        explanation = explain_batch(self.loaded.model, read, self.method, self.target, tokenizer)
        assert explanation.words is not None
        results = self._results(read, explanation)
        return [Explained(*result, words=own) for result, own in zip(results, explanation.words, strict=True)]

    def _results(
        self, inputs: Sequence[str], explanation: Explanation
    ) -> Iterator[tuple[str, list[dict[str, Any]], dict[str, Any], torch.Tensor]]:
        """Of each input its name, its top classes, the explained one, and the map."""
        logits = explanation.logits.float().cpu()
        several = getattr(self.loaded.model.config, "problem_type", None) == "multi_label_classification"
        probabilities = logits.sigmoid() if several else logits.softmax(1)

        def entry(row: int, index: int) -> dict[str, Any]:
            return {
                "class": self.names[index],
                "index": index,
                "probability": round(probabilities[row, index].item(), 6),
            }

        order = probabilities.argsort(1, descending=True)[:, : self.top].tolist()
        targets, maps = explanation.target.tolist(), explanation.maps.float().cpu()
        for row, name in enumerate(inputs):
            yield name, [entry(row, index) for index in order[row]], entry(row, targets[row]), maps[row]


# --- What is said and drawn ------------------------------------------------------------------------------------------


def as_text(explained: Explained) -> str:
    """The classes for a reader; of a text the words that count most, too."""
    name = explained.name if len(explained.name) <= 100 else f"{explained.name[:99]}…"
    lines = [name, *(f"  {each['probability']:6.1%}  {each['class']}" for each in explained.classes)]
    if explained.target["index"] != explained.classes[0]["index"]:
        lines.append(f"  explained: {explained.target['class']} ({explained.target['probability']:.1%})")
    if explained.words is not None:
        strongest = sorted(explained.scores(), key=lambda pair: -abs(pair[1]))[:5]
        lines.append("  words: " + ", ".join(f"'{_shortened(word)}' {score:+.3f}" for word, score in strongest))
    return "\n".join(lines)


def write(found: Sequence[Explained], path: Path, title: str, pictures: int) -> None:
    """Writes a picture, a page or JSON, as the suffix says."""
    suffix = path.suffix.lower()
    if suffix == ".json":
        entries = [each.to_dict(with_map=True) for each in found]
        path.write_text(json.dumps(entries, ensure_ascii=False), encoding="utf-8")
        return
    shown = found[:pictures]
    if shown[0].words is not None:
        samples = [_word_sample(each) for each in shown]
        if suffix == ".html":
            word_page(samples, path, title=title)
        else:
            word_figure(samples, path, title=title)
        return
    figure = explanation_panel(
        torch.stack([each.image for each in shown if each.image is not None]),
        {"Model": torch.stack([each.map for each in shown])},
        labels=[_explained(each) for each in shown],
        label_word="explained",
        predictions={"Model": [_with_probability(each.classes[0]) for each in shown]},
    )
    if suffix != ".html":
        figure.savefig(path, dpi=150)
        return
    picture = BytesIO()
    figure.savefig(picture, dpi=150, format="png")
    rows = "".join(
        f"<tr><td>{html.escape(each.name)}<td>{html.escape(', '.join(map(_with_probability, each.classes)))}"
        for each in shown
    )
    page = _PAGE.format(
        title=html.escape(title), picture=base64.b64encode(picture.getvalue()).decode("ascii"), rows=rows
    )
    path.write_text(page, encoding="utf-8")


_PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 56rem; margin: 0 auto; padding: 1rem; color: #1a1a1a;
  background: #fff; overflow-wrap: anywhere }} img {{ max-width: 100% }} td, th {{ text-align: start; padding: .2rem
  .6rem; border-bottom: 1px solid #c8c8c8 }}</style>
<h1>{title}</h1>
<img alt="One row an image: the image, and where the model looks. The classes stand in the table below."
  src="data:image/png;base64,{picture}">
<table><thead><tr><th>image<th>top classes</thead><tbody>{rows}</tbody></table>
</html>
"""


def _explained(explained: Explained) -> str:
    return str(explained.target["class"])


def _with_probability(entry: dict[str, Any]) -> str:
    return f"{entry['probability']:.0%} {entry['class']}"


def _shortened(word: str) -> str:
    return word if len(word) <= LONGEST_WORD else f"{word[: LONGEST_WORD - 1]}…"


def _word_sample(explained: Explained) -> WordSample:
    assert explained.words is not None
    words = [_shortened(word) for word in explained.words]
    between = gaps(explained.name, explained.words)
    text = "".join(part for pair in zip(between, [*words, ""], strict=True) for part in pair)
    row = WordRow("Model", words, [score for _, score in explained.scores()], _with_probability(explained.classes[0]))
    return WordSample(text, [row], explained=_explained(explained))
