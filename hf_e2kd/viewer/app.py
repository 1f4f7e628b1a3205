"""The page: a gradio app around `comparison`, `markup` and `report`."""

import base64
from dataclasses import replace
from pathlib import Path
from typing import Any

from .space import NO_GRADIO

try:
    import gradio as gr
except ModuleNotFoundError as error:
    raise ImportError(NO_GRADIO) from error

from gradio.utils import get_upload_folder

from ..cards.escaping import escape_html
from ..data.opening import open_image
from .comparison import Comparison, Pair, Target
from .markup import OPACITY, caption, comparison_section, error_message, image_legend, style, word_legend
from .report import report_page
from .settings import Settings, Viewing, browse, facts, load

# What can be wrong with a sample or a method. RuntimeError is torch's, out of memory included.
EXPECTED = (ValueError, OSError, RuntimeError)
TITLE = "Where teacher and student look"
LARGEST_FILE = "100mb"
LARGEST_BYTES = 100 * 2**20
KEPT = 3600  # seconds that gradio keeps uploaded files

STYLE = """
.gradio-container { max-width: 80rem !important; }
.gradio-container :is(a, button, input, textarea):focus-visible { outline: 2px solid var(--color-accent) !important;
  outline-offset: 2px; }
#gallery .grid-wrap { min-height: 0; max-height: 26rem; }
#gallery .grid-container { grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)) !important; }
#gallery .caption-label { inset: auto 0 0 0; max-width: none; width: 100%; border-radius: 0; font-size: .8rem;
  white-space: normal; text-align: start;
  opacity: 1; }
#texts .wrap { flex-flow: column nowrap; max-height: 20rem; overflow-y: auto; }
"""

# gradio's dropdowns open their list at any key, and leave it open when Tab goes on to the next field.
TAB_LEAVES = """<script>
addEventListener("keydown", event => {
  if (event.key === "Tab" && event.target.role === "combobox") event.stopPropagation();
}, true);
</script>"""
# So that what is typed replaces the chosen class, and finds another one.
SELECT_TEXT = "() => document.activeElement.select?.()"
# In the style, so that no request is needed.
SET_OPACITY = "opacity => document.getElementById('result').style.setProperty('--opacity', opacity)"
# On a phone the result stands below what was given, and everywhere above the samples.
SHOW_RESULT = """() => {
  const result = document.getElementById("result"), { top } = result.getBoundingClientRect();
  if (result.querySelector("section") && (top < 0 || top > innerHeight / 2)) result.scrollIntoView();
}"""


class Answers:
    """Handlers of the page's events.

    Args:
        viewing: Models, methods and samples.
        browsed: The samples' comparisons, in the order in which they are offered.
    """

    def __init__(self, viewing: Viewing, browsed: list[Comparison]):
        self.viewing, self.browsed = viewing, browsed

    def compare(self, given: Any, row: int | None, explainer: str, target: Target) -> tuple[str, Comparison | None]:
        """Compare both models on the given input: return HTML and the comparison, or an error or invitation as HTML.

        Args:
            given: Text, or an image's file as gradio describes it.
            row: Position among the browsed samples; None for other inputs.
        """
        if not given:
            return self.draw(None), None
        try:
            (comparison,) = self.viewing.pair.compare(
                [self._sample(given, row)], self.viewing.explainers[explainer], target
            )
        except EXPECTED as error:
            return f'<div class="e2kd">{error_message(str(error))}</div>', None
        known = None if row is None else self.browsed[row]
        # A text may have been changed since it was chosen.
        if known is not None and (not isinstance(known.sample, str) or known.sample == comparison.sample):
            comparison = replace(comparison, position=known.position, label=known.label, judged=known.judged)
        return self.draw(comparison), comparison

    def draw(self, comparison: Comparison | None) -> str:
        """Render a comparison as HTML, with a link that saves it as a report."""
        is_text = self.viewing.pair.is_text
        if comparison is None:
            what = "Type a sentence" if is_text else "Drop or choose an image"
            browsing = ", or choose one of the samples below" if self.browsed else ""
            return f'<div class="e2kd"><p class="note">{what}{browsing}.</p></div>'
        legend = word_legend() if is_text else image_legend()
        report = base64.b64encode(report_page([comparison], facts(self.viewing.settings)).encode()).decode()
        return (
            f'<div class="e2kd">{comparison_section(comparison)}\n{legend}\n'
            f'<p><a download="comparison.html" href="data:text/html;base64,{report}">Save this comparison as a page'
            "</a></p></div>"
        )

    def compare_new(self, given: Any, row: int | None, *options: Any) -> tuple[Any, ...]:
        """Call `compare` for an input that is none of the browsed samples."""
        return None, *self.compare(given, None, *options)

    def choose_image(self, event: gr.SelectData) -> tuple[int, Any]:
        """Return the position and the sample that was chosen in the gallery."""
        return event.index, self.browsed[event.index].sample

    def choose_text(self, row: int) -> tuple[int, Any]:
        """Return the position and the sample that was chosen in the list."""
        return row, self.browsed[row].sample

    def _sample(self, given: Any, row: int | None) -> Any:
        if self.viewing.pair.is_text:
            return given
        if row is not None:
            position = self.browsed[row].position
            assert self.viewing.samples is not None and position is not None
            return self.viewing.samples[position]
        # By its content, for a message that doesn't name the server's folders.
        return open_image(read_upload(given))


def read_upload(given: Any) -> bytes:
    """The content of an uploaded file, of nothing else: a request may name any path.

    Args:
        given: The file as gradio describes it.

    Raises:
        ValueError: no regular file among the uploaded ones, or one that is larger than `LARGEST_FILE`. Whether there is
            another file by that name isn't told.
    """
    path = given.get("path") if isinstance(given, dict) else None
    if isinstance(path, str) and "\0" not in path:
        file, uploads = Path(path).resolve(), Path(get_upload_folder()).resolve()
        if file.is_relative_to(uploads) and file.is_file():
            if file.stat().st_size > LARGEST_BYTES:
                raise ValueError(f"The image is larger than {LARGEST_FILE.upper()}. Make it smaller first.")
            return file.read_bytes()
    raise ValueError("That is no uploaded image, or it was deleted since. Drop the image anew.")


def build_page(viewing: Viewing, browsed: list[Comparison], left_out: list[str]) -> gr.Blocks:
    """Build the page.

    Args:
        viewing: Models, methods and samples.
        browsed: The samples' comparisons, in the order in which they are offered.
        left_out: Messages on the missing samples, with the reasons.
    """
    pair, answers = viewing.pair, Answers(viewing, browsed)
    methods = list(viewing.explainers)
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(KEPT, KEPT)) as page:
        named = " · ".join(
            f"{escape_html(name)}: <b>{escape_html(value)}</b>" for name, value in facts(viewing.settings).items()
        )
        _html(f'<h1>{TITLE}</h1><p class="facts" dir="auto">{named}</p>')
        row, comparison = gr.State(None), gr.State(None)
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                given, news = _input(pair.is_text)
                explainer = gr.Dropdown(methods, label="Explainer", value=methods[0])
                target = gr.Dropdown(
                    target_choices(pair),
                    label="Explained class",
                    value="teacher_top",
                    info="Type to find one.",
                    visible=not pair.scores,
                )
                opacity = gr.Slider(
                    0, 1, OPACITY, step=0.05, label="Opacity of the maps", visible=not pair.is_text, buttons=[]
                )
            with gr.Column(scale=3, min_width=300):
                result = gr.HTML(answers.draw(None), elem_id="result", apply_default_css=False)
        chosen = _samples(browsed, left_out, pair.is_text, pair.scores) if viewing.samples is not None else None

        asked, told = [given, row, explainer, target], [result, comparison]
        # Without preprocessing, which opens images and stops at an unreadable one without saying why. One comparison
        # at a time, and none but by the page.
        alone: Any = {
            "preprocess": False,
            "concurrency_id": "models",
            "concurrency_limit": 1,
            "api_visibility": "private",
        }
        gr.on([explainer.input, target.input], answers.compare, asked, told, **alone)
        target.focus(None, js=SELECT_TEXT)
        new = gr.on(news, answers.compare_new, asked, [row, *told], **alone)
        new.then(None, js=SHOW_RESULT)
        opacity.change(None, opacity, js=SET_OPACITY)
        if chosen is not None:
            is_text = pair.is_text
            event = (chosen.input if is_text else chosen.select)(
                answers.choose_text if is_text else answers.choose_image,
                chosen if is_text else None,
                [row, given],
                api_visibility="private",
            )
            event.then(answers.compare, asked, told, **alone).then(None, js=SHOW_RESULT)
            # So that the same sample can be chosen again.
            new.then(
                lambda: gr.Radio(value=None) if is_text else gr.Gallery(selected_index=None),
                None,
                chosen,
                api_visibility="private",
            )
    return page


def _html(content: str) -> None:
    gr.HTML(f'<div class="e2kd">{content}</div>', apply_default_css=False)


def _input(is_text: bool) -> tuple[Any, list[Any]]:
    """Build the inputs for an image or a text, and the events of a new one."""
    if not is_text:
        image = gr.Image(label="Image", sources=["upload", "clipboard"], type="filepath", buttons=[], height=240)
        return image, [image.upload, image.clear]
    text = gr.Textbox(label="Text", lines=3, max_lines=8, placeholder="Type a sentence")
    return text, [text.submit, gr.Button("Compare", variant="primary").click]


def _samples(browsed: list[Comparison], left_out: list[str], is_text: bool, scores: bool) -> Any:
    """Build the list or gallery of the data set's samples."""
    differ = sum(not each.agree for each in browsed)
    order = (
        "By the explanations' similarity, the lowest first. Given are the teacher's score, the student's, and the "
        "similarity."
        if scores
        else f"First where the classes differ ({differ} of {len(browsed)}), then by the explanations' similarity, the "
        "lowest first. Given are the teacher's class, the student's where it differs, and the similarity."
    )
    _html(f'<h2>Samples, by disagreement</h2><p class="note">{order}</p>')
    if left_out:
        _html("".join(f'<p class="note">{escape_html(each)}</p>' for each in left_out))
    if is_text:
        choices = [(caption(each), row) for row, each in enumerate(browsed)]
        return gr.Radio(choices, label="Samples", elem_id="texts")
    return gr.Gallery(
        [(each.sample, caption(each)) for each in browsed],
        label="Samples",
        show_label=False,
        elem_id="gallery",
        columns=8,
        allow_preview=False,
        buttons=[],
        format="jpeg",
        interactive=False,
    )


def target_choices(pair: Pair) -> list[tuple[str, Target]]:
    """List the classes to explain: each model's top class, or any that both know; or the score."""
    if pair.scores:
        return [("The score", "teacher_top")]
    return [
        ("Teacher's top class", "teacher_top"),
        ("Student's top class", "student_top"),
        *((name, position) for position, name in enumerate(pair.names)),
    ]


def launch(settings: Settings, **options: Any) -> None:
    """Load the models and data of the settings, and serve the page until it is interrupted.

    Args:
        options: Arguments of `gradio.Blocks.launch`, such as `server_port` or `share`.

    Raises:
        ValueError, OSError: saying what can't be loaded, doesn't fit together, or that the port is taken.
    """
    viewing = load(settings)
    browsed, left_out = browse(viewing) if viewing.samples is not None else ([], [])
    page = build_page(viewing, browsed, left_out)
    try:
        _, local, shared = serve(page, quiet=True, prevent_thread_lock=True, **options)
    except OSError as error:
        raise OSError(f"The page can't be served; another port may help (--port). {error}") from error
    print(f"Teacher and student are at {shared or local} until Ctrl+C.", flush=True)
    page.block_thread()


def serve(page: gr.Blocks, **options: Any) -> Any:
    """Start the page, with the system's fonts and without external files."""
    fonts = [gr.themes.Font(name) for name in ("system-ui", "sans-serif")]
    mono = [gr.themes.Font(name) for name in ("ui-monospace", "monospace")]
    # Every request waits in the queue, in which the models are used one after the other.
    page.queue(api_open=False)
    sheet = style(".dark .e2kd {{ {} }}") + STYLE
    return page.launch(
        theme=gr.themes.Default(font=fonts, font_mono=mono, primary_hue="blue"),
        head=f"<style>{sheet}</style>{TAB_LEAVES}",
        footer_links=[],
        max_file_size=LARGEST_FILE,
        ssr_mode=False,
        **options,
    )
