"""Blind tests with people: two explanations of one image side by side, and the question which model's is which."""

import base64
import csv
import hashlib
import io
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from scipy.stats import binomtest
from torch import Tensor

from ..alignment.grids import resize_maps
from ..cards.escaping import escape_html

KEY_FILE, PAGE_FILE = "key.json", "index.html"
SIDES = ("left", "right")

_SIDE = 224


def write_blind_test(
    folder: str | Path,
    images: Tensor,
    maps: Mapping[str, Tensor],
    *,
    reference: Tensor | None = None,
    asked: str | None = None,
    seed: int = 0,
) -> Path:
    """Write a page that shows two models' explanations of each image in random order, and the key to its answers.

    The page names no model and sends nothing: whoever answers downloads a file and hands it back, for
    `score_blind_test`. Keep the key to yourself.

    References:
        Alharbi et al., "Learning Interpretation with Explainable Knowledge Distillation", IEEE Big Data 2021, Sec.
        IV-B: thirty people said of occlusion maps which two of three models are most alike.

    Args:
        folder: Folder that gets `index.html` and `key.json`.
        images: Images (N, 3 or 1, H, W), intensities from 0 to 1.
        maps: The two models' maps (N, h, w) by name; positive values are drawn red and negative ones blue, each map on
            its own scale.
        reference: The teacher's maps (N, h, w): the question is then which of the two is more like it.
        asked: Model of the two whose explanation is to be found, where there is no reference.
        seed: Draws the order of the images, and the sides.

    Returns:
        Path of the page.

    Raises:
        ValueError: not two models, maps of other images, or not one of `reference` and `asked`.

    Example:

        write_blind_test("blind", images, {"KD": kd_maps, "e²KD": e2kd_maps}, reference=teacher_maps)
    """
    if len(maps) != 2:
        raise ValueError(f"A blind test compares two models, not {len(maps)}: {', '.join(maps)}.")
    if (reference is None) == (asked is None) or (asked is not None and asked not in maps):
        raise ValueError(f"Give either `reference`, maps of the teacher, or `asked`, one of {', '.join(maps)}.")
    shown = {**maps, **({} if reference is None else {"reference": reference})}
    wrong = {name: tuple(own.shape) for name, own in shown.items() if own.ndim != 3 or len(own) != len(images)}
    if wrong or len(images) == 0:
        raise ValueError(f"The maps must be (N, h, w), of the {len(images)} images, one or more; not so are {wrong}.")
    draw = random.Random(seed)
    numbers = draw.sample(range(len(images)), len(images))
    orders = [draw.sample(list(maps), 2) for _ in numbers]
    question = f"Which explanation is {asked}'s?" if reference is None else "Which explanation is more like the first?"
    trials = []
    for number, names in zip(numbers, orders, strict=True):
        drawn = {side: maps[name][number] for side, name in zip(SIDES, names, strict=True)}
        drawn |= {} if reference is None else {"reference": reference[number]}
        trial = {place: _picture(images[number], own) for place, own in drawn.items()}
        trials.append({"image": _picture(images[number]), **trial})
    content = json.dumps(trials)
    page = hashlib.sha256(f"{question}{content}".encode()).hexdigest()[:16]
    key = {
        "page": page,
        "question": question,
        "asked": asked,
        "models": list(maps),
        "trials": [
            {"image": number, **dict(zip(SIDES, names, strict=True))}
            for number, names in zip(numbers, orders, strict=True)
        ],
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / KEY_FILE).write_text(json.dumps(key, indent=2, ensure_ascii=False), encoding="utf-8")
    text = _PAGE.replace("%PAGE%", page).replace("%TRIALS%", content)
    text = text.replace("%QUESTION%", escape_html(question))
    (folder / PAGE_FILE).write_text(text, encoding="utf-8")
    return folder / PAGE_FILE


def score_blind_test(key: str | Path, answers: Sequence[str | Path]) -> dict[str, Any]:
    """Count which model people chose, and test it against chance.

    Args:
        key: The test's `key.json`, or its folder.
        answers: Files that people downloaded from the page, JSON or CSV.

    Returns:
        `question`, `people`, `chosen` (number of answers by model), `undecided`; of the model asked for, or of the
        first, `share` among the decided answers with its 95 % Wilson interval, and the two-sided binomial `p` against
        a half. Answers of one person count as independent.

    Raises:
        ValueError: no key; a file of another page, or that holds no answers, or that is given twice.
    """
    path = Path(key)
    stated = _read_key(path / KEY_FILE if path.is_dir() else path)
    files = [Path(file).resolve() for file in answers]
    if twice := [str(file) for file in answers if files.count(Path(file).resolve()) > 1]:
        raise ValueError(f"{twice[0]} is given twice. Give each person's answers once.")
    chosen, undecided = dict.fromkeys(stated["models"], 0), 0
    for file in answers:
        for trial, answer in zip(stated["trials"], _read_answers(Path(file), stated), strict=True):
            if answer in SIDES:
                chosen[trial[answer]] += 1
            else:
                undecided += 1
    model, decided = stated["asked"] or stated["models"][0], sum(chosen.values())
    found: dict[str, Any] = {"question": stated["question"], "people": len(answers), "chosen": chosen}
    found |= {"undecided": undecided, "model": model}
    if decided:
        test = binomtest(chosen[model], decided)
        interval = test.proportion_ci(method="wilson")
        found |= {
            "share": chosen[model] / decided,
            "interval": [float(interval.low), float(interval.high)],
            "p": float(test.pvalue),
        }
    return found


def _read_key(path: Path) -> dict[str, Any]:
    try:
        stated = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        stated = None
    if isinstance(stated, dict) and {"page", "question", "asked", "models", "trials"} <= stated.keys():
        return stated
    raise ValueError(f"{path} is no key of a blind test. Give the {KEY_FILE} that was written with the page.")


def _read_answers(path: Path, stated: Mapping[str, Any]) -> list[str]:
    """The answers of a file in the trials' order; an empty text where there is none."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".csv":
            # Sorted, as a spreadsheet may have left them in another order.
            rows = sorted(csv.DictReader(io.StringIO(text)), key=lambda row: int(row["trial"]))
            pages, found = {row["page"] for row in rows}, [row["answer"] for row in rows]
        else:
            content = json.loads(text)
            pages, found = {content["page"]}, [answer or "" for answer in content["answers"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no file of answers that the page made: {error!r}.") from error
    if pages != {stated["page"]} or len(found) != len(stated["trials"]):
        raise ValueError(
            f"{path} holds {len(found)} answers to the page {', '.join(sorted(map(str, pages)))}, and the key is of "
            f"{stated['page']} with {len(stated['trials'])}. Give the key that was written with the page."
        )
    if unknown := set(found) - {*SIDES, ""}:
        raise ValueError(f"{path} holds the answers {sorted(unknown)}, which are to be {', '.join(SIDES)} or empty.")
    return found


def _picture(image: Tensor, own: Tensor | None = None) -> str:
    """An image, or a map over it in grey, as the address of its data."""
    pixels = _enlarged(image)
    if own is not None:
        grey = 0.5 + 0.5 * pixels.mean(0, keepdim=True)
        share = resize_maps(own[None].float(), (_SIDE, _SIDE))[0]
        share = share / share.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
        colour = torch.where(
            share[None] > 0, torch.tensor([0.8, 0, 0])[:, None, None], torch.tensor([0, 0.2, 0.8])[:, None, None]
        )
        strength = share.abs()[None] ** 0.7
        pixels = grey * (1 - strength) + colour * strength
    levels = (pixels.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _enlarged(image: Tensor) -> Tensor:
    """Enlarge an image (3 or 1, H, W) to the page's pictures, its pixels sharp: (3, side, side)."""
    large = torch.nn.functional.interpolate(image[None].detach().cpu().float(), size=(_SIDE, _SIDE), mode="nearest")
    return large[0].expand(3, -1, -1)


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Which model?</title>
<style>
:root { color-scheme: light dark; font-family: system-ui, sans-serif; }
body { margin: 0 auto; max-width: 60rem; padding: 1rem; text-align: center; }
.row { display: flex; flex-wrap: wrap; gap: 1rem; justify-content: center; }
figure { margin: 0; }
img { width: min(224px, 42vw); display: block; image-rendering: pixelated; border: 1px solid #8888; }
figcaption { padding: .3rem; }
button { font: inherit; padding: .6rem 1.2rem; margin: .3rem; cursor: pointer; }
</style>
</head>
<body>
<h1 id="question">%QUESTION%</h1>
<p>Red speaks for the decision, blue against it. Keys: 1 or ←, 2 or →, 0 for "can't tell", Backspace to go back.</p>
<p id="progress" aria-live="polite"></p>
<main id="trial"></main>
<script type="application/json" id="trials">%TRIALS%</script>
<script>
const page = "%PAGE%";
const trials = JSON.parse(document.getElementById("trials").textContent);
const answers = [];
const main = document.getElementById("trial");

function element(name, text, parent, attributes = {}) {
  const made = Object.assign(document.createElement(name), attributes);
  if (text) made.textContent = text;
  parent.append(made);
  return made;
}

function figure(source, text, parent) {
  const made = element("figure", "", parent);
  element("img", "", made, { src: source, alt: text });
  element("figcaption", text, made);
}

function button(text, action, parent) {
  element("button", text, parent, { type: "button", onclick: action });
}

function answer(side) {
  if (answers.length < trials.length) answers.push(side);
  show();
}

function back() {
  answers.pop();
  show();
}

function download(name, text, type) {
  const href = URL.createObjectURL(new Blob([text], { type }));
  const link = element("a", "", document.body, { href, download: name });
  link.click();
  link.remove();
}

function show() {
  const focused = main.contains(document.activeElement) ? document.activeElement.textContent : null;
  main.replaceChildren();
  const done = answers.length === trials.length;
  document.getElementById("progress").textContent = done ? "Thank you. Download your answers and send them back."
    : `Image ${answers.length + 1} of ${trials.length}`;
  const buttons = document.createElement("p");
  if (done) {
    const json = JSON.stringify({ page, answers });
    const rows = answers.map((side, number) => [page, number, side ?? ""].join(","));
    const csv = ["page,trial,answer", ...rows].join("\\n");
    button("Download JSON", () => download("answers.json", json, "application/json"), buttons);
    button("Download CSV", () => download("answers.csv", csv, "text/csv"), buttons);
  } else {
    const trial = trials[answers.length];
    const first = element("div", "", main, { className: "row" });
    figure(trial.image, "image", first);
    if (trial.reference) figure(trial.reference, "first explanation", first);
    const second = element("div", "", main, { className: "row" });
    figure(trial.left, "left explanation", second);
    figure(trial.right, "right explanation", second);
    button("Left", () => answer("left"), buttons);
    button("Can't tell", () => answer(null), buttons);
    button("Right", () => answer("right"), buttons);
  }
  if (answers.length) button("Back", back, buttons);
  main.append(buttons);
  const made = [...buttons.children];
  // Whoever goes by the Tab key stays where they were.
  if (focused !== null) (made.find((each) => each.textContent === focused) ?? made[0]).focus();
}

document.addEventListener("keydown", (event) => {
  // A key that is held would answer for images not yet seen; with these keys the browser zooms, or goes back.
  if (event.repeat || event.altKey || event.ctrlKey || event.metaKey) return;
  const sides = { 1: "left", ArrowLeft: "left", 2: "right", ArrowRight: "right", 0: null };
  if (event.key === "Backspace") back();
  else if (event.key in sides) answer(sides[event.key]);
});
show();
</script>
</body>
</html>
"""
