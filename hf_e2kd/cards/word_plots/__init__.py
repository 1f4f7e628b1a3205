"""The words that teacher and students look at: a page to read, and a plot for a model card."""

from .colours import AGAINST, AGAINST_DARK, FOR, FOR_DARK
from .page import word_page, word_rows
from .plot import word_plot
from .samples import WordRow, WordSample, gaps

__all__ = [
    "AGAINST",
    "AGAINST_DARK",
    "FOR",
    "FOR_DARK",
    "WordRow",
    "WordSample",
    "gaps",
    "word_plot",
    "word_page",
    "word_rows",
]
