"""What page and figure are given."""

import pytest

from hf_e2kd.cards.word_plots import WordRow, WordSample, gaps, word_page, word_plot
from tests.cards.word_plots.texts import TEXT, WORDS, Page, boxes, texts


def test_gaps_of_words_that_the_text_lacks_are_spaces():
    """Lower-casing tokenizers give words that don't stand in the text."""
    assert gaps("Not GOOD", ["not", "good"]) == ["", " ", ""]
    assert gaps("cut off here", ["cut", "off"]) == ["", " ", " here"]
    assert gaps("", []) == [""]


def test_empty_maps_are_named(sample):
    empty = WordSample(TEXT, [WordRow("KD student", WORDS, [0.0] * 10)])

    figure, page = word_plot([empty]), Page(word_page([empty]))

    assert [text for text in texts(figure) if text in ("empty", "map")] == ["empty", "map"]
    assert len(boxes(figure)) == 2
    assert page.all("p", **{"class": "facts"})[0]["text"].strip() == "empty map"


def test_rows_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="'Teacher' has 2 words and 1 scores"):
        WordRow("Teacher", ["a", "b"], [1.0])
    with pytest.raises(ValueError, match="scores of 'Teacher' hold NaN"):
        WordRow("Teacher", ["a"], [float("nan")])


@pytest.mark.parametrize("draw", [word_page, word_plot])
def test_nothing_to_show_is_refused(draw):
    with pytest.raises(ValueError, match="no sample to show"):
        draw([])
    with pytest.raises(ValueError, match="Text 1 has no row"):
        draw([WordSample("text", [])])
