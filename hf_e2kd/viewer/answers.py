"""Handlers of the page's events."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.processing_utils import save_bytes_to_cache
from gradio.utils import get_upload_folder

from ..cards.escaping import escape_html
from ..data.opening import open_image
from .comparison import TOPS, Comparison, Target
from .listing import Listing, arrange, compare_batches, known, summary
from .markup import comparison_section, error_message, legend
from .overview import caption, how_to_read, scatter, summary_list, thumbnail
from .report import report_page
from .settings import Viewing, facts

# What can be wrong with a sample or a method. RuntimeError is torch's, out of memory included.
EXPECTED = (ValueError, OSError, RuntimeError)
LARGEST_FILE = "100mb"
LARGEST_BYTES = 100 * 2**20

Shown = tuple[int | None, Any, Target, str, Comparison | None]
"""What the page shows: the sample's position, the input, the chosen class, the comparison as HTML, and itself."""


class Answers:
    """Handlers of the page's events.

    Args:
        viewing: Models, methods and samples.
        listing: The samples' comparisons by the first method; None without a data set.
    """

    def __init__(self, viewing: Viewing, listing: Listing | None):
        self.viewing = viewing
        self.listings = {} if listing is None else {listing.explainer: listing.small()}

    def compare(
        self, given: Any, position: int | None, explainer: str, target: Target, shown: Comparison | None
    ) -> Any:
        """Compare both models on the given input, after a change of the method or class; skip what is shown already.

        Args:
            given: Text, or an image's file as gradio describes it.
            position: Position of the sample in the data set; None for other inputs.
            shown: The last comparison.
        """
        # A text may have been changed since it was chosen.
        if self.viewing.pair.is_text and shown is not None and given != shown.sample:
            position = None
        elif shown is not None and shown.explainer == explainer and shown.explains(target):
            return gr.skip()
        return self._show(given, position, explainer, target)

    def compare_new(self, given: Any, explainer: str, target: Target) -> Shown:
        """Compare both models on an input that is none of the samples."""
        return self._show(given, None, explainer, follow(target))

    def mark_nothing(self) -> Any:
        """Mark no sample of the list, so that the same can be chosen again."""
        return gr.Radio(value=None) if self.viewing.pair.is_text else gr.Gallery(selected_index=None)

    def choose(self, position: int, explainer: str, target: Target) -> Shown:
        """Compare both models on a sample of the data set."""
        return self._show(None, position, explainer, follow(target))

    def choose_image(
        self, event: gr.SelectData, order: list[int], position: int | None, explainer: str, target: Target
    ) -> Any:
        """Choose the sample that was selected in the gallery, by the page too: that one is shown already."""
        return gr.skip() if order[event.index] == position else self.choose(order[event.index], explainer, target)

    def choose_point(
        self, event: gr.EventData, order: list[int], position: int | None, explainer: str, target: Target
    ) -> tuple[Any, ...]:
        """Choose the sample whose point was clicked in the scatter plot, and mark it in the list."""
        position = event.position
        if position not in next(iter(self.listings.values())).positions:
            raise gr.Error(f"There is no sample {position}.")
        return *self.choose(position, explainer, target), self._mark(order, position)

    def step(self, by: int, order: list[int], position: int | None, explainer: str, target: Target) -> Any:
        """Choose the next or the previous sample of the list, from its end its beginning."""
        if not order:
            return gr.skip()
        place = order.index(position) + by if position in order else min(by, 0)
        position = order[place % len(order)]
        return *self.choose(position, explainer, target), self._mark(order, position)

    def explain_class(
        self,
        event: gr.EventData,
        given: Any,
        position: int | None,
        explainer: str,
        target: Target,
        shown: Comparison | None,
    ) -> Any:
        """Explain the class that was clicked in the comparison."""
        return self.compare(given, position, explainer, event.explained, shown)

    def rank(
        self,
        explainer: str,
        listed: str,
        order: str,
        kept: str,
        named: str,
        words: str,
        position: int | None,
    ) -> Iterator[tuple[Any, ...]]:
        """Compare all samples by the chosen method, and list them anew; it can be cancelled after each batch.

        Args:
            listed: Method of the list so far, which stays where the chosen one can't explain the models.
            order, kept, named, words, position: The further arguments of `list_samples`.

        Yields:
            Updates of the list's method, of the overview, of what `list_samples` gives, and of the button that cancels.
        """
        problem = ""
        try:
            if explainer not in self.listings:
                compared = yield from compare_batches(self.viewing, partial(comparing, explainer), explainer)
                self.listings[explainer] = compared.small()
            listed = explainer
        except EXPECTED as error:
            problem = error_message(f"The samples are still compared by {listed}. {error}")
        shown = self.list_samples(listed, order, kept, named, words, position)
        yield listed, self.overview(listed, problem), *shown, gr.Button(visible=False)

    def stop_ranking(self, listed: str, *arrangement: Any) -> tuple[Any, ...]:
        """List the samples as before, after `rank` was cancelled."""
        return *self.list_samples(listed, *arrangement), gr.Button(visible=False)

    def list_samples(
        self, listed: str, order: str, kept: str, named: str, words: str, position: int | None
    ) -> tuple[list[int], str, Any]:
        """List samples in an order: their positions, a heading, and the update of the component."""
        positions, heading, content = self.arranged(listed, order, kept, named, words, position)
        return positions, heading, (gr.Radio if self.viewing.pair.is_text else gr.Gallery)(**content)

    def arranged(
        self, listed: str, order: str, kept: str, named: str, words: str, position: int | None
    ) -> tuple[list[int], str, dict[str, Any]]:
        """Put samples in an order: their positions, a heading, and the component's content.

        Args:
            listed: Name of the method of the comparisons.
            order, kept, named, words: The arguments of `listing.arrange`.
            position: Position of the shown sample, which is marked.
        """
        comparisons = self.listings[listed].comparisons
        shown = arrange(comparisons, order, kept, named, words)
        what = "the score" if self.viewing.pair.scores else "the teacher's top class"
        count = f"{len(shown)} of {len(comparisons)}" if len(shown) < len(comparisons) else f"All {len(shown)}"
        by = f"compared by <b>{escape_html(listed)}</b> on {what}"
        heading = heading_of(f"{count}, {by}. {how_to_read(comparisons[0])}")
        positions = [each.position for each in shown if each.position is not None]
        marked = position if position in positions else None
        if self.viewing.pair.is_text:
            choices = [(caption(each), each.position) for each in shown]
            return positions, heading, {"choices": choices, "value": marked}
        drawn = [(thumbnail(each), caption(each)) for each in shown]
        return (
            positions,
            heading,
            {"value": drawn, "selected_index": None if marked is None else positions.index(marked)},
        )

    def overview(self, listed: str, problem: str = "") -> str:
        """Render the summary of a method's comparisons and both models' confidence, below a problem."""
        comparisons = self.listings[listed].comparisons
        return f'<div class="e2kd">{problem}{summary_list(summary(comparisons))}{scatter(comparisons)}</div>'

    def save(self, comparison: Comparison | None) -> str | None:
        """Write the comparison as a report: return its path, among gradio's files, which it deletes after a while."""
        if comparison is None:
            gr.Warning("There is no comparison to save.")
            return None
        page = report_page([comparison], facts(self.viewing.settings))
        return save_bytes_to_cache(page.encode(), "comparison.html", get_upload_folder())

    def _show(self, given: Any, position: int | None, explainer: str, target: Target) -> Shown:
        if position is None and not given:
            return None, given, target, self.invitation(), None
        try:
            sample = self._sample(given, position)
            (comparison,) = self.viewing.pair.compare([sample], self.viewing.explainers[explainer], target)
        except EXPECTED as error:
            return position, gr.skip(), target, f'<div class="e2kd">{error_message(str(error))}</div>', None
        if explainer in self.listings:
            comparison = replace(comparison, chance=self.listings[explainer].chance)
        if position is None:
            return None, gr.skip(), target, self._draw(comparison), comparison
        return self.show(known(self.viewing, comparison, position), target)

    def show(self, comparison: Comparison, target: Target) -> Shown:
        """Show the comparison of a sample of the data set."""
        return comparison.position, comparison.sample, target, self._draw(comparison), comparison

    def _draw(self, comparison: Comparison) -> str:
        return f'<div class="e2kd">{comparison_section(comparison, clickable=True)}\n{legend([comparison])}</div>'

    def invitation(self) -> str:
        """Say how to begin."""
        what = "Type a sentence" if self.viewing.pair.is_text else "Drop or choose an image"
        others = ", or choose one of the samples below" if self.listings else ""
        if self.viewing.pair.is_text and not self.listings:
            others = ", or choose an example"
        return f'<div class="e2kd"><p class="note">{what}{others}.</p></div>'

    def _mark(self, order: list[int], position: int) -> Any:
        if self.viewing.pair.is_text:
            return gr.Radio(value=position if position in order else None)
        return gr.Gallery(selected_index=order.index(position) if position in order else None)

    def _sample(self, given: Any, position: int | None) -> Any:
        if position is not None:
            assert self.viewing.samples is not None
            return self.viewing.samples[position]
        # By its content, for a message that doesn't name the server's folders.
        return given if self.viewing.pair.is_text else open_image(read_upload(given))


def comparing(explainer: str, done: int, total: int) -> tuple[Any, ...]:
    """Say how far a comparison of all samples is, and offer to cancel it: updates of the outputs of `rank`."""
    how_far = f"Comparing the samples by <b>{escape_html(explainer)}</b>: {done} of {total} batches."
    return gr.skip(), gr.skip(), gr.skip(), heading_of(how_far), gr.skip(), gr.Button(visible=True)


def heading_of(note: str) -> str:
    """Render the heading of the list, above a note in HTML."""
    return f'<div class="e2kd"><h2>Samples</h2><p class="note" role="status">{note}</p></div>'


def follow(target: Target) -> Target:
    """Return the class to explain of a new sample: a model's top class again, of which the last one need not be."""
    return target if target in TOPS else "teacher_top"


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
