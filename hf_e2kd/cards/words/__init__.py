"""Pictures of the words that teacher and students look at: a page to read, and a figure for a model card."""

from .colours import AGAINST, AGAINST_DARK, FOR, FOR_DARK
from .figure import word_figure
from .page import word_page, word_rows
from .samples import WordRow, WordSample, gaps

__all__ = [
    "AGAINST",
    "AGAINST_DARK",
    "FOR",
    "FOR_DARK",
    "WordRow",
    "WordSample",
    "gaps",
    "word_figure",
    "word_page",
    "word_rows",
]
