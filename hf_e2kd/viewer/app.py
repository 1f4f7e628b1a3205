"""The page: a gradio app around `comparison`, `listing` and `markup`."""

from functools import partial
from typing import Any

from .space import NO_GRADIO

try:
    import gradio as gr
except ModuleNotFoundError as error:
    raise ImportError(NO_GRADIO) from error

from ..cards.escaping import escape_html
from . import browser
from .answers import LARGEST_FILE, Answers
from .comparison import Pair, Target
from .list_page import PRIVATE, Parts, add_list, html
from .listing import Listing, browse
from .settings import Settings, Viewing, facts, load
from .styles import OPACITY, style

TITLE = "Where teacher and student look"
KEPT = 3600  # seconds that gradio keeps uploaded files
EXAMPLES = (
    "A warm and funny film, and never dull.",
    "The plot is predictable, but the actors save it.",
    "Nothing about this was worth the money.",
)


def build_page(viewing: Viewing, listing: Listing | None = None) -> gr.Blocks:
    """Build the page, on which at first the sample is shown on which both models agree least.

    Args:
        viewing: Models, methods and samples.
        listing: The samples' comparisons by the first method; None without a data set.
    """
    pair, answers = viewing.pair, Answers(viewing, listing)
    methods, browsing = list(viewing.explainers), listing is not None and bool(listing.comparisons)
    first: Any = (None, None, "teacher_top", answers.invitation(), None)
    if listing is not None and browsing:
        first = answers.show(listing.comparisons[0], "teacher_top")
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(KEPT, KEPT)) as page:
        named = " · ".join(
            f"{escape_html(name)}: <b>{escape_html(value)}</b>" for name, value in facts(viewing.settings).items()
        )
        html(f'<h1>{TITLE}</h1><p class="facts" dir="auto">{named}</p>')
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                given, news = _input(pair.is_text, first[1])
                with gr.Accordion("Explainer and class" if pair.is_text else "Explainer, class, opacity") as options:
                    explainer = gr.Dropdown(methods, label="Explainer", value=methods[0])
                    target = gr.Dropdown(
                        target_choices(pair),
                        label="Explained class",
                        value=first[2],
                        info="Type to find one, or click one in the comparison.",
                        visible=not pair.scores,
                    )
                    opacity = gr.Slider(
                        0, 1, OPACITY, step=0.05, label="Opacity of the maps", visible=not pair.is_text, buttons=[]
                    )
                examples = None
                if pair.is_text and not browsing:
                    examples = gr.Dataset(components=[given], samples=[[each] for each in EXAMPLES], label="Examples")
            with gr.Column(scale=3, min_width=300):
                with gr.Row(visible=browsing):
                    steps = [gr.Button(name, size="sm", min_width=120) for name in ("← Previous", "Next →")]
                result = gr.HTML(first[3], elem_id="result", apply_default_css=False, js_on_load=browser.EXPLAIN_CLASS)
                save = gr.Button("Save this comparison as a page", size="sm", elem_id="save")
                saved = gr.DownloadButton(visible="hidden", elem_id="saved")
        parts = Parts(gr.State(first[0]), given, explainer, target, result, gr.State(first[4]))
        folded: list[Any] = [options]

        # Not `input`, which a dropdown sends twice for a choice, and when it is left without one.
        changed = explainer.change(answers.compare, parts.asked, parts.shown, **parts.alone)
        target.change(answers.compare, parts.asked, parts.shown, **parts.alone)
        result.click(answers.explain_class, parts.asked, parts.shown, **parts.alone)
        new = gr.on(news, answers.compare_new, [given, explainer, target], parts.shown, **parts.alone)
        new.then(None, js=browser.SHOW_RESULT)
        gone = []
        if not pair.is_text:
            # The event's own value may be that from before.
            gone = [given.clear(partial(answers.compare_new, None), [explainer, target], parts.shown, **parts.alone)]
        target.focus(None, js=browser.SELECT_TEXT)
        opacity.change(None, opacity, js=browser.SET_OPACITY)
        save.click(answers.save, parts.comparison, saved, **PRIVATE).then(None, js=browser.DOWNLOAD)
        if examples is not None:
            typed = examples.click(lambda row: row[0], examples, given, **PRIVATE)
            typed.then(answers.compare_new, [given, explainer, target], parts.shown, **parts.alone)
        if listing is not None and browsing:
            folded.append(add_list(answers, listing, parts, steps, changed, [new, *gone]))
        elif listing is not None:
            html("".join(f'<p class="note">{escape_html(each)}</p>' for each in listing.left_out))
        page.load(None, None, folded, js=browser.fold_on_phones(len(folded)))
    return page


def _input(is_text: bool, value: Any) -> tuple[Any, list[Any]]:
    """Build the inputs for an image or a text, and the events of a new one."""
    if not is_text:
        image = gr.Image(
            value,
            label="Image",
            sources=["upload", "clipboard"],
            type="filepath",
            format="jpeg",
            buttons=[],
            height=240,
        )
        return image, [image.upload]
    text = gr.Textbox(value, label="Text", lines=3, max_lines=8, placeholder="Type a sentence")
    return text, [text.submit, gr.Button("Compare", variant="primary").click]


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
    page = build_page(viewing, None if viewing.samples is None else browse(viewing))
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
    sheet = style(".dark .e2kd {{ {} }}") + browser.STYLE
    theme = gr.themes.Default(font=fonts, font_mono=mono, primary_hue="blue")
    # Hints in gradio's own grey can hardly be read on white.
    theme.set(body_text_color_subdued="*neutral_600")
    return page.launch(
        theme=theme,
        head=f"<style>{sheet}</style>{browser.TAB_LEAVES}",
        footer_links=[],
        max_file_size=LARGEST_FILE,
        ssr_mode=False,
        **options,
    )
