"""The page in a real browser, without a network."""

import base64
import shutil
from dataclasses import replace
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from threading import Event
from urllib.parse import urlsplit

import datasets
import pytest
import torch

from hf_e2kd.explainers import build_explainer
from hf_e2kd.viewer import listing
from hf_e2kd.viewer.blind_test import write_blind_test
from hf_e2kd.viewer.listing import browse
from hf_e2kd.viewer.report import report_page
from hf_e2kd.viewer.settings import Samples, Settings, Viewing
from tests.models import CLASS_NAMES

from .pairs import SENTENCE, image_pair, photo, score_pair, text_pair

playwright = pytest.importorskip("playwright.sync_api", reason="playwright isn't installed")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    # Not imported here, where each process that collects tests would take seconds for it.
    pytest.mark.skipif(find_spec("gradio") is None, reason="no gradio: pip install 'hf-e2kd[viewer]'"),
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the path"),
]

METHODS = ("gradcam", "saliency", "hires_cam")
# Written by a data set's author, and by nobody who may run scripts on the page.
HOSTILE = """<img src=x onerror="document.title='run'">{{value}}${value}`"""

DROP = """async ([element, content]) => {
  const blob = await (await fetch("data:image/png;base64," + content)).blob();
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([blob], "dropped.png", { type: "image/png" }));
  element.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
}"""


def png(image):
    content = BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def viewing(pair, rows, explainers):
    settings = Settings("teacher", "student", dataset="data", split="test")
    features = datasets.Features(
        {
            **({"text": datasets.Value("string")} if pair.is_text else {"image": datasets.Image()}),
            "label": datasets.ClassLabel(names=[HOSTILE, *CLASS_NAMES[1:]]),
        }
    )
    column = "text" if pair.is_text else "image"
    data = datasets.Dataset.from_list([{column: row, "label": 0} for row in rows], features=features)
    return Viewing(settings, pair, {name: build_explainer(name) for name in explainers}, Samples(data, pair, settings))


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        # Names of hosts lead nowhere.
        browser = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
        )
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """Opens the page of what is given; after the test, nothing may have gone wrong in it."""
    from hf_e2kd.viewer.app import build_page, serve

    served, wrong = [], []

    def open_page(what, listing=None, **options):
        app = build_page(what, listing)
        _, address, _ = serve(app, server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
        page = browser.new_page(reduced_motion="reduce", **options)
        served.append((page, app))
        page.set_default_timeout(20_000)
        page.on("console", lambda message: message.type == "error" and wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: is_foreign(request.url, address) and wrong.append(request.url))
        page.goto(address)
        page.wait_for_selector("#result .e2kd > *")
        return page

    yield open_page
    for page, app in served:
        page.close()  # first, or the server waits for it
        app.close()
    assert wrong == []


def is_foreign(url, address):
    return urlsplit(url).scheme not in ("data", "blob") and urlsplit(url).netloc != urlsplit(address).netloc


def pictures(page):
    """Teacher's map, student's map, difference, image."""
    return [picture.get_attribute("src") for picture in page.locator("#result figure img:last-child").all()]


def wait_for_change(page, before):
    page.wait_for_function(
        "before => { const first = document.querySelector('#result figure img:last-child');"
        " return first && first.getAttribute('src') !== before; }",
        arg=before[0] if before else "",
    )
    return pictures(page)


def clear(page):
    """Takes the image away."""
    page.get_by_role("button", name="Clear").or_(page.get_by_label("Remove Image")).first.click()
    page.wait_for_selector("#result .note:has-text('Drop or choose an image')")


def assert_fits(page, sections=1):
    """Nothing lies beyond a phone's edge, and both maps are side by side."""
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    tiles = [picture.bounding_box() for picture in page.locator("figure:has(h3)").all()]
    assert len(tiles) == 4 * sections and tiles[0]["y"] == tiles[1]["y"]
    assert all(tile["x"] + tile["width"] <= 390 for tile in tiles)


def test_images_of_your_own(visit):
    """Prevents: a page that doesn't open without a data set, shows the maps of the last image, needs a mouse, asks the
    server or other hosts for what it needn't, or saves something else."""
    explainers = {"gradcam": build_explainer("gradcam")}
    page = visit(Viewing(Settings("teacher", "student"), image_pair(), explainers))
    assert page.inner_text("#result") == "Drop or choose an image." and "Samples" not in page.inner_text("body")
    save = page.get_by_role("button", name="Save this comparison")
    assert not save.is_visible()

    # An image is dropped, then another one chosen in its place: both maps follow.
    zone = page.get_by_role("button", name="Drop Image Here").or_(page.locator("[data-testid=image] button")).first
    page.evaluate(DROP, [zone.element_handle(), base64.b64encode(png(photo(seed=7))).decode()])
    first = wait_for_change(page, [])
    assert len(first) == 4 and first[0] != first[1]
    clear(page)
    page.set_input_files("input[type=file]", {"name": "b.png", "mimeType": "image/png", "buffer": png(photo(seed=8))})
    second = wait_for_change(page, [])
    assert save.is_visible()
    assert not set(first) & set(second)

    # By keyboard: the class, the opacity, and what saves the comparison.
    page.get_by_label("Explained class").focus()
    page.wait_for_function("document.activeElement.selectionStart < document.activeElement.selectionEnd")
    page.keyboard.type(CLASS_NAMES[2])
    page.wait_for_function("document.querySelectorAll('[role=option]').length === 1")
    page.keyboard.press("Enter")
    third = wait_for_change(page, second)
    assert page.inner_text("#result .facts b >> nth=0") == CLASS_NAMES[2]
    assert third[1] != second[1] and third[3] == second[3]
    page.get_by_role("slider").focus()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    opacity = "getComputedStyle(document.querySelector('#result .layer')).opacity"
    assert page.evaluate(opacity) == "0.75"
    page.keyboard.press("ArrowLeft")
    page.wait_for_function(f"{opacity} === '0.7'")
    assert asked == [] and pictures(page) == third
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.innerText").startswith("Save this comparison"):
            break
    assert page.locator("[role=option]").count() == 0  # no list is left open
    with page.expect_download() as saved:
        page.keyboard.press("Enter")
    assert '<h1 dir="auto">Teacher and student compared</h1>' in Path(saved.value.path()).read_text(encoding="utf-8")

    clear(page)
    assert not save.is_visible()
    page.set_input_files("input[type=file]", {"name": "c.png", "mimeType": "image/png", "buffer": b"no image"})
    page.wait_for_selector("#result [role=alert]:has-text('The image is no image')")


def listed(page):
    """The files of the samples, in the list's order."""
    captions = page.locator("#gallery .caption-label")
    captions.first.wait_for()
    return [caption.split("\n")[1] for caption in captions.all_inner_texts()]


TAB_STOP = """() => {
  const element = document.activeElement, style = getComputedStyle(element), box = element.getBoundingClientRect();
  const seen = style.outlineStyle === "solid" && parseFloat(style.outlineWidth) >= 2 && box.width >= 16;
  return [element.ariaLabel || element.innerText || element.tagName, seen];
}"""


def test_list_on_a_phone(visit):
    """Prevents: a list by another explainer than the chosen one, a class that a click doesn't explain or that stays for
    another sample, a filter that shows something else, a page that needs a wide screen or runs what a label says, the
    result below folds of controls, or a hidden Tab stop."""
    rows = [{"bytes": png(photo(seed=seed)), "path": f"{seed}<i>.png"} for seed in range(1, 4)]
    what = viewing(
        image_pair(), [*rows, {"bytes": b"damaged", "path": None}], ["gradcam", "saliency", "attention_rollout"]
    )
    listing = browse(what)
    first, second = listing.comparisons, browse(what, "saliency").comparisons
    page = visit(what, listing, viewport={"width": 390, "height": 800})
    page.get_by_label("Thumbnail 3 of 3").wait_for()
    assert_fits(page)
    files = [each.file for each in first]
    assert listed(page) == files != [each.file for each in second]
    assert page.inner_text("#result h2") == f"Row {first[0].position} · {files[0]}"
    assert "Row 3 was left out: The image is no image" in page.inner_text("body")
    assert HOSTILE in page.inner_text("#result .facts") and page.title() == "Where teacher and student look"
    assert not page.get_by_label("Explainer", exact=True).is_visible()

    # Every Tab stop is seen, from the image to the list.
    reached = {}
    while "Thumbnail 1 of 3" not in reached:
        page.keyboard.press("Tab")
        name, seen = page.evaluate(TAB_STOP)
        assert name not in reached or seen, name
        reached[name] = seen
    assert all(reached.values()) and {"Next →", "Save this comparison as a page"} <= set(reached)

    # A click on a class explains it, until another sample is chosen.
    button = page.locator("#result [data-class][aria-pressed=false]").first
    name = button.locator("span").first.inner_text()
    button.click()
    page.wait_for_selector(f"#result .facts b >> nth=0 >> text='{name}'")
    assert page.evaluate("document.activeElement.ariaPressed") == "true"
    page.get_by_role("button", name="Next →").click()
    page.wait_for_selector(f"#result h2:has-text('{files[1]}')")
    assert page.inner_text("#result .facts b >> nth=0") == first[1].teacher.names[0]
    assert page.locator("#gallery .selected .caption-label").inner_text().endswith(files[1])

    # A method that doesn't suit a model is refused in words; by another one the list is ordered anew.
    page.get_by_role("button", name="Explainer, class, opacity").click()
    page.get_by_label("Explainer", exact=True).click()
    page.get_by_role("option", name="attention_rollout").click()
    page.wait_for_selector("#result [role=alert]:has-text('ResNetForImageClassification')")
    page.wait_for_selector("[role=alert]:has-text('still compared by gradcam')")
    page.get_by_label("Explainer", exact=True).click()
    page.get_by_role("option", name="saliency").click()
    page.wait_for_selector("p:has-text('compared by saliency')")
    page.wait_for_function(
        "file => document.querySelector('#gallery .caption-label').innerText.endsWith(file)", arg=second[0].file
    )
    assert listed(page) == [each.file for each in second]
    assert "by chance" in page.inner_text(".summary")

    # Samples are chosen by keyboard, the same after another image too; by a point, and by their names.
    clear(page)
    page.wait_for_selector("#gallery:not(:has(.selected))")
    page.get_by_label("Thumbnail 1 of 3").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(f"#result h2:has-text('{second[0].file}')")
    page.get_by_role("button", name="Sort and filter").click()
    page.get_by_label("File name contains").press_sequentially("2<I>")
    page.wait_for_function("document.querySelectorAll('#gallery .caption-label').length === 1")
    assert listed(page) == ["2<i>.png"]
    page.get_by_text("Confidence of both models").click()
    page.locator(f".scatter [data-position='{second[1].position}']").click()
    page.wait_for_selector(f"#result h2:has-text('{second[1].file}')")

    # The report of the same samples is filtered without a script.
    differing = replace(first[1], student=replace(first[1].student, top=[-1, 0, 1]))
    agreeing = replace(first[1], student=first[1].teacher)
    page.set_content(report_page([differing, agreeing, agreeing], {}))
    assert_fits(page, 3)
    for kind, count in (("Classes differ", 1), ("Classes agree", 2)):
        page.get_by_label(kind).check()
        assert page.locator("section:visible").count() == page.locator(".index li:visible").count() == count


def test_a_ranking_is_cancelled(visit, monkeypatch):
    """Prevents: a data set that is compared to its end by a method chosen by mistake, a list that stays empty after
    that, or an answer that comes all the same, as when the list of methods is opened and left."""
    what = viewing(
        image_pair(), [{"bytes": png(photo(seed=seed)), "path": f"{seed}.png"} for seed in range(3)], METHODS
    )
    first = browse(what)
    monkeypatch.setattr(listing, "BATCH", 1)
    compared, shown, go_on = [], [], Event()
    compare = what.pair.compare

    def slowly(samples, explainer, *target):
        (shown if target else compared).append(explainer)
        if not target:  # of the list
            go_on.wait(20)
        return compare(samples, explainer, *target)

    monkeypatch.setattr(type(what.pair), "compare", lambda self, *arguments: slowly(*arguments))
    page = visit(what, first)
    page.get_by_label("Thumbnail 3 of 3").wait_for()
    before = listed(page)
    assert not page.get_by_role("button", name="Cancel").is_visible()
    page.get_by_label("Explainer", exact=True).click()
    page.get_by_role("option", name="saliency").click()
    page.wait_for_selector("p[role=status]:has-text('Comparing the samples by saliency: 0 of 3 batches.')")
    page.get_by_role("button", name="Cancel").click()
    page.wait_for_selector("p[role=status]:has-text('compared by gradcam')")
    page.get_by_role("button", name="Cancel").wait_for(state="hidden")
    go_on.set()
    page.get_by_label("Thumbnail 3 of 3").wait_for()
    assert listed(page) == before and page.get_by_label("Explainer", exact=True).input_value() == "saliency"
    page.get_by_label("Thumbnail 3 of 3").click()
    page.wait_for_selector(f"#result h2:has-text('{before[2]}')")
    page.get_by_label("Explainer", exact=True).click()
    page.locator("#result h2").click()

    # The next choice is compared to its end.
    page.get_by_label("Explainer", exact=True).click()
    page.get_by_role("option", name="hires_cam").click()
    page.wait_for_selector("p[role=status]:has-text('compared by hires_cam')")
    page.get_by_role("button", name="Cancel").wait_for(state="hidden")
    assert [compared.count(what.explainers[name]) for name in METHODS] == [0, 1, 3]
    assert [shown.count(what.explainers[name]) for name in METHODS] == [0, 2, 1]


def test_texts(visit):
    """Prevents: a page of texts without its words, or dark text on a dark page."""
    what = viewing(text_pair(), ["A warm film", HOSTILE], ["saliency"])
    page = visit(what, browse(what), color_scheme="dark")

    page.get_by_label("Text", exact=True).fill(SENTENCE)
    page.get_by_role("button", name="Compare").click()

    page.wait_for_selector("#result h2:has-text('Comparison')")
    page.wait_for_function("document.querySelector('input[type=radio]:checked') === null")
    rows = page.locator("#result .words")
    assert [row.inner_text() for row in rows.all()] == [SENTENCE] * 3
    colours = page.evaluate(
        "['.words', 'body'].map(s => getComputedStyle(document.querySelector(s)))"
        ".map((style, n) => n ? style.backgroundColor : style.color)"
    )
    ink, paper = (sum(map(int, colour.strip("rgb()").split(","))) for colour in colours)
    assert ink > 600 and paper < 150
    page.get_by_role("radio").first.focus()
    page.keyboard.press("Space")
    page.wait_for_selector("#result h2:has-text('Row')")
    page.set_viewport_size({"width": 400, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    page.get_by_label("Text", exact=True).fill(" ")
    page.get_by_role("button", name="Compare").click()
    page.wait_for_selector("#result [role=alert]:has-text('The text is empty')")


def test_scores():
    """Prevents: a choice of classes beside models that have none."""
    from hf_e2kd.viewer.app import build_page

    what = viewing(score_pair(), [SENTENCE], ["input_x_gradient"])
    parts = [part["props"] for part in build_page(what, browse(what)).get_config_file()["components"]]
    (shown,) = [part["value"] for part in parts if part.get("elem_id") == "result"]
    assert "The teacher scores" in shown and "Explained: <b>score</b>" in shown
    visible = {part["label"]: part["visible"] for part in parts if part.get("label")}
    assert visible["Explainer"] and not visible["Explained class"]


def test_keys_of_a_blind_test(browser, tmp_path):
    """Prevents: answers by a key that is held or that zooms or goes back, and a focus that is lost."""
    maps = {"KD": torch.ones(4, 4, 4), "e²KD": -torch.ones(4, 4, 4)}
    page = browser.new_page()
    page.goto(write_blind_test(tmp_path, torch.rand(4, 3, 8, 8), maps, asked="KD").as_uri())
    page.keyboard.down("1")
    page.keyboard.down("1")
    for keys in ("Control+0", "Alt+ArrowLeft"):
        page.keyboard.press(keys)
    assert page.evaluate("answers") == ["left"]
    page.focus("button:text-is('Right')")
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    page.keyboard.press("0")
    assert page.evaluate("answers") == ["left", "right", "right", None]
    assert page.evaluate("document.activeElement.textContent") == "Download JSON"
    page.close()
