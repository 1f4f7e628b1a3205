"""The list of samples on the page, and what its events do."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from ..cards.escaping import escape_html
from . import browser
from .answers import Answers
from .listing import ANY_CLASS, Listing, classes_of, filters, orders

# None but the page may ask.
PRIVATE: dict[str, Any] = {"api_visibility": "private"}
# Without preprocessing, which opens images and stops at an unreadable one without saying why. One at a time.
ALONE: dict[str, Any] = {**PRIVATE, "preprocess": False, "concurrency_id": "models", "concurrency_limit": 1}
# Beside those, so that a comparison needn't wait for all samples.
RANKING: dict[str, Any] = {**PRIVATE, "concurrency_id": "list", "concurrency_limit": 1}


@dataclass(frozen=True)
class Parts:
    """Components of the comparison, which a chosen sample changes."""

    position: gr.State
    given: Any
    explainer: gr.Dropdown
    target: gr.Dropdown
    result: gr.HTML
    comparison: gr.State

    @property
    def asked(self) -> list[Any]:
        """Inputs of `Answers.compare`."""
        return [self.given, self.position, self.explainer, self.target, self.comparison]

    @property
    def alone(self) -> dict[str, Any]:
        """Options of an event that compares, which only the comparison waits for."""
        return {**ALONE, "show_progress_on": self.result}

    @property
    def shown(self) -> list[Any]:
        """Outputs of `Answers.compare`."""
        return [self.position, self.given, self.target, self.result, self.comparison]


def add_list(
    answers: Answers, listing: Listing, parts: Parts, steps: list[gr.Button], changed: Any, new: list[Any]
) -> gr.Accordion:
    """Add the list of samples with its summary, order and filters.

    Args:
        listing: The samples' comparisons by the first method.
        steps: Buttons to the previous and to the next sample.
        changed: Event after which another method is chosen, and shown on the chosen sample.
        new: Events after which no sample is shown.

    Returns:
        The fold around order and filters.
    """
    pair = answers.viewing.pair
    positions, heading, content = answers.arranged(
        listing.explainer, "Disagreement", "All", ANY_CLASS, "", listing.positions[0]
    )
    title = gr.HTML(heading, apply_default_css=False)
    cancel = gr.Button("Cancel", size="sm", visible=False)
    overview = gr.HTML(answers.overview(listing.explainer), apply_default_css=False, js_on_load=browser.CHOOSE_POINT)
    if listing.left_out:
        html("".join(f'<p class="note">{escape_html(each)}</p>' for each in listing.left_out))
    names = sorted({name for each in listing.comparisons for name in classes_of(each)}, key=str.lower)
    with gr.Accordion("Sort and filter") as fold, gr.Row():
        sort = gr.Dropdown(orders(listing, pair.scores), label="Order", value="Disagreement")
        kept = gr.Dropdown(filters(listing), label="Show", value="All", visible=not pair.scores)
        named = gr.Dropdown(
            [ANY_CLASS, *names], label="Class, true or chosen", value=ANY_CLASS, visible=not pair.scores
        )
        has_words = pair.is_text or any(each.file for each in listing.comparisons)
        words = gr.Textbox("", label="Text contains" if pair.is_text else "File name contains", visible=has_words)
    listed, shown_order = gr.State(listing.explainer), gr.State(positions)
    if pair.is_text:
        samples: Any = gr.Radio(**content, label="Samples", elem_id="texts")
    else:
        samples = gr.Gallery(
            **content,
            label="Samples",
            show_label=False,
            elem_id="gallery",
            allow_preview=False,
            buttons=[],
            format="jpeg",
            interactive=False,
        )

    arrangement = [sort, kept, named, words, parts.position]
    listing_shown = [shown_order, title, samples]
    chosen_by = [shown_order, parts.position, parts.explainer, parts.target]
    ranked = changed.then(
        answers.rank,
        [parts.explainer, listed, *arrangement],
        [listed, overview, *listing_shown, cancel],
        # A change while samples are compared is the next to be compared, and what was chosen in between is not.
        trigger_mode="always_last",
        show_progress="hidden",  # the title says how far it is
        **RANKING,
    )
    cancel.click(
        answers.stop_ranking,
        [listed, *arrangement],
        [*listing_shown, cancel],
        cancels=[ranked],
        show_progress="hidden",
        **PRIVATE,
    )
    gr.on(
        [sort.input, kept.input, named.input, words.input],
        answers.list_samples,
        [listed, *arrangement],
        listing_shown,
        trigger_mode="always_last",
        show_progress="hidden",
        **PRIVATE,
    )
    if pair.is_text:
        chosen = samples.input(answers.choose, [samples, *chosen_by[2:]], parts.shown, **parts.alone)
    else:
        chosen = samples.select(answers.choose_image, chosen_by, parts.shown, **parts.alone)
    chosen.then(None, js=browser.SHOW_RESULT)
    for button, by in zip(steps, (-1, 1), strict=True):
        button.click(partial(answers.step, by), chosen_by, [*parts.shown, samples], **parts.alone)
    point = overview.click(answers.choose_point, chosen_by, [*parts.shown, samples], **parts.alone)
    point.then(None, js=browser.SHOW_RESULT)
    for event in new:
        event.then(answers.mark_nothing, None, samples, **PRIVATE)
    return fold


def html(content: str) -> None:
    """Add HTML in the style of comparisons."""
    gr.HTML(f'<div class="e2kd">{content}</div>', apply_default_css=False)
