"""What the tests of words share."""

import pytest

from hf_e2kd.cards.word_plots import WordRow, WordSample
from tests.cards.word_plots.texts import SCORES, TEXT, WORDS


@pytest.fixture
def sample():
    rows = [
        WordRow("Teacher", WORDS, [2 * score for score in SCORES], "positive"),
        WordRow("KD student", WORDS, [-score for score in SCORES], "very negative", -1.0),
        WordRow("e²KD student", WORDS, SCORES, "positive", 0.987),
    ]
    return WordSample(TEXT, rows, label="positive", explained="very positive")
