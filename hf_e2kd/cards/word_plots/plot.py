"""The plot: texts drawn by matplotlib, their words coloured."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..fonts import Fonts, fonts_for
from .colours import LINED, blend
from .lines import Piece, plain, right_to_left, row_pieces, wrap
from .samples import WordSample, require_rows, texts_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties

WIDTH = 8.0  # inches, the plot's
MARGIN = 0.15  # inches
HEADING = 1.7  # inches, the column of the models' names
SIZES = {"sample": 10.0, "heading": 9.0, "caption": 8.0, "word": 10.0}  # points
LINE = 1.75  # a line's height, in its type size
POINT = 1 / 72  # inches


def word_plot(
    samples: Sequence[WordSample], path: str | Path | None = None, *, title: str = "", note: str = ""
) -> "Figure":
    """Draw the page's texts: each text once a model, blue words for the explained class and orange against it.

    Long texts are wrapped, those of a right-to-left script from the right (their letters are joined and ordered by
    matplotlib 3.11 or newer). Fonts that lack a character are completed by installed ones that have it; where none
    has, a box is drawn and a warning recommends the page, for which a browser brings its fonts.

    Args:
        samples: the texts.
        path: where to save the plot too, at 150 dpi; the suffix decides the format.
        title: a line above.
        note: a sentence below the legend, such as how the texts were chosen.

    Returns:
        The figure, 8 inches wide and as high as its texts need. It belongs to no pyplot window, so the user's backend
        isn't touched and nothing must be closed.

    Raises:
        ValueError: there is no sample, or one without a row.

    Example:
        >>> from hf_e2kd.cards.word_plots import WordRow
        >>> row = WordRow("Teacher", ["not", "good"], [0.8, 0.1], prediction="negative")
        >>> word_plot([WordSample("not good", [row], label="negative")]).get_size_inches()[0].item()
        8.0
    """
    require_rows(samples)
    sheet = _Sheet(
        fonts_for([title, note, *texts_of(samples)], "write the page instead: word_page, or a name in .html")
    )
    if title:
        sheet.write(plain(title), 0, "sample", weight="bold")
    sheet.write(
        [
            Piece("blue, solid line", 1.0),
            *plain(": for the explained class,  "),
            Piece("orange, dotted line", -1.0, spaced=True),
            *plain(": against it; full colour: the model's strongest word in the text"),
        ],
        0,
        "caption",
    )
    if note:
        sheet.write(plain(note), 0, "caption")
    for number, sample in enumerate(samples, start=1):
        sheet.rule()
        sheet.write(plain(" · ".join([f"Text {number}", *sample.captions()])), 0, "sample")
        for row in sample.rows:
            top = sheet.top
            sheet.write(plain(row.heading), 0, "heading", width=HEADING, weight="bold")
            for line in row.captions():
                sheet.write(plain(line), 0, "caption", width=HEADING, colour="#595959")
            below, sheet.top = sheet.top, top
            sheet.write(row_pieces(sample.text, row), HEADING + MARGIN, "word")
            sheet.top = max(sheet.top, below) + MARGIN / 2
    figure = sheet.draw()
    if path is not None:
        figure.savefig(path, dpi=figure.dpi)
    return figure


class _Sheet:
    """Sheet that takes lines from the top down, and draws them once their height is known. Inches from the top left."""

    def __init__(self, fonts: Fonts):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.top = MARGIN
        self.fonts = fonts
        self.artists: list[tuple[float, float, float, float, Piece, FontProperties, str]] = []
        self.rules: list[float] = []
        self.figure = Figure(dpi=150)
        self.renderer = FigureCanvasAgg(self.figure).get_renderer()

    def rule(self) -> None:
        """Draw a line across."""
        self.rules.append(self.top + MARGIN / 2)
        self.top += MARGIN

    def write(
        self,
        pieces: Sequence[Piece],
        left: float,
        kind: str,
        *,
        width: float | None = None,
        weight: str = "normal",
        colour: str = "black",
    ) -> None:
        """Write pieces in lines below the last ones, from `left` of the margin on."""
        from matplotlib.font_manager import FontProperties

        font = FontProperties(family=self.fonts.families, size=SIZES[kind], weight=weight)
        width = WIDTH - 2 * MARGIN - left if width is None else width
        from_right = right_to_left("".join(piece.text for piece in pieces))
        height = SIZES[kind] * POINT
        for line in wrap(pieces, width, lambda text: self._measure(text, font), 0.3 * height):
            for x, piece, long in line:
                start = MARGIN + left + (width - x - long if from_right else x)
                self.artists.append((start, self.top, long, height, piece, font, colour))
            self.top += LINE * height

    def draw(self) -> "Figure":
        """Draw all that was written."""
        from matplotlib.lines import Line2D
        from matplotlib.patches import Rectangle

        bottom = self.top + MARGIN / 2
        self.figure.set_size_inches(WIDTH, bottom)
        scale = self.figure.dpi_scale_trans
        for place in self.rules:
            y = bottom - place
            self.figure.add_artist(Line2D([MARGIN, WIDTH - MARGIN], [y, y], color="#c8c8c8", lw=0.8, transform=scale))
        for x, top, width, height, piece, font, colour in self.artists:
            base = bottom - top - 1.2 * height
            if piece.share:
                box = Rectangle((x, base - 0.32 * height), width, 1.4 * height, transform=scale, lw=0)
                box.set_facecolor(blend(piece.share))
                self.figure.add_artist(box)
            if abs(piece.share) >= LINED:
                y = base - 0.27 * height
                style = "-" if piece.share > 0 else (0, (1, 1.2))
                self.figure.add_artist(Line2D([x, x + width], [y, y], color="black", lw=1, ls=style, transform=scale))
            # A dollar sign in a review is no formula.
            text = self.fonts.drawable(piece.text)
            self.figure.text(
                x, base, text, fontproperties=font, color=colour, va="baseline", transform=scale, parse_math=False
            )
        return self.figure

    def _measure(self, text: str, font: "FontProperties") -> float:
        text = self.fonts.drawable(text)
        return self.renderer.get_text_width_height_descent(text, font, ismath=False)[0] / self.figure.dpi
