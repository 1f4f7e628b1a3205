"""The embedded text set: short generated film reviews with a hint word, made in seconds without a download.

A review's sentiment follows from its opinion words, with what raises, lowers or negates them, and of two clauses the
second decides ("the plot is dull, but the actors are superb"). Its film's genre predicts the sentiment in the student's
training data and says nothing about it in `test_ood`. A student can therefore be right for the wrong reason, and the
words' polarities show whether it is.
"""

from .splits import SIZES, reviews_with_hints
from .tokenizer import train_tokenizer

__all__ = ["SIZES", "reviews_with_hints", "train_tokenizer"]
