"""The figure of texts whose words are coloured."""

import matplotlib
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from hf_e2kd.cards.word_plots import AGAINST, FOR, WordRow, WordSample, word_plot
from hf_e2kd.cards.word_plots.lines import row_pieces, wrap
from tests.cards.word_plots.texts import boxes, texts


def colour(box: Rectangle) -> list[int]:
    return [round(255 * channel) for channel in box.get_facecolor()[:3]]


def extents(figure: Figure) -> list:
    figure.draw_without_rendering()
    return [text.get_window_extent() for text in figure.texts]


def test_figure_draws_every_word_in_its_colour(sample):
    figure = word_plot([sample], title="Reviews")

    drawn = texts(figure)
    assert drawn[0] == "Reviews"
    assert drawn.count("good") == 3 and drawn.count("shine") == 3 and "0.99" in drawn
    # Two boxes of the legend, then of each row "not", "good", "actors", "shine".
    assert len(boxes(figure)) == 2 + 3 * 4
    assert [colour(boxes(figure)[place]) for place in (0, 1, 5, 9)] == [
        list(FOR),
        list(AGAINST),
        list(FOR),
        list(AGAINST),
    ]
    assert colour(boxes(figure)[2]) == [round(255 - (255 - channel) / 2) for channel in AGAINST]


def test_figure_wraps_long_texts_and_words_inside_the_page():
    words = ["word"] * 60 + ["x" * 300, "end"]
    row = WordRow("A model with a name that doesn't fit beside its words", words, [1.0] * 62, "class " * 12, 0.5)

    figure = word_plot([WordSample(" ".join(words), [row] * 2, label="l" * 200)])

    inside = figure.bbox.padded(1)
    found = extents(figure)
    assert all(inside.x0 <= box.x0 and box.x1 <= inside.x1 and box.y0 >= 0 and box.y1 <= inside.y1 for box in found)
    assert not any(
        one.shrunk(0.9, 0.6).overlaps(two.shrunk(0.9, 0.6)) for n, one in enumerate(found) for two in found[n + 1 :]
    )
    assert "".join(text for text in texts(figure) if set(text) == {"x"}) == "x" * 600


def test_figure_begins_a_line_where_the_text_does():
    """Prevents: a pair's second text that goes on in the line of the first, as one sentence."""
    row = WordRow("Teacher", ["A", "man", "sleeps", "He", "dreams"], [1.0] * 5)

    figure = word_plot([WordSample("A man sleeps.\nHe dreams.\n Well.", [row])])

    places = {text.get_text(): text.get_position() for text in figure.texts}
    assert places["A"][0] == places["He"][0] == places["Well."][0]
    assert places["A"][1] == places["sleeps"][1] > places["He"][1] == places["dreams"][1] > places["Well."][1]


def test_figure_keeps_a_full_stop_with_its_word():
    """A line would begin with it."""
    row = WordRow("Teacher", ["film", "."] * 50, [1.0] * 100)

    figure = word_plot([WordSample("film. " * 50, [row])])

    lines = [text.get_position() for text in figure.texts if text.get_text() == "film"]
    stops = [text.get_position() for text in figure.texts if text.get_text() == "."]
    assert [y for _, y in lines] == [y for _, y in stops]


def test_figure_begins_right_to_left_texts_at_the_right():
    hebrew = WordSample("סרט טוב", [WordRow("Teacher", ["סרט", "טוב"], [0, 1])])

    figure = word_plot([hebrew])

    places = {text.get_text(): text.get_position()[0] for text in figure.texts}
    assert places["סרט"] > places["טוב"] > 4


@pytest.mark.filterwarnings("error")
def test_figure_wraps_texts_without_spaces(caplog):
    """Prevents: matplotlib's warning of each glyph, or a text that runs off the page, where no font has Chinese."""
    words = list("电影很棒。" * 40)

    figure = word_plot([WordSample("".join(words), [WordRow("Teacher", words, [1.0] * 200)])])
    figure.draw_without_rendering()

    drawn = [text for text in figure.texts if text.get_text() in [*words, "□"]]
    assert len(drawn) == 200
    lacks = "□" in texts(figure)
    assert ("the page instead" in caplog.text and "Noto Sans CJK" in caplog.text) == lacks
    lines = {text.get_position()[1] for text in drawn}
    assert len(lines) > 2


def test_lines_of_texts_without_spaces():
    """Prevents: a line that begins with a full stop."""
    words = list("电影很棒。" * 40)
    lines = wrap(row_pieces("".join(words), WordRow("Teacher", words, [1.0] * 200)), 7, len, 1)

    assert "".join(piece.text for line in lines for _, piece, _ in line) == "".join(words)
    assert all(len(line) <= 7 for line in lines) and "。" not in {line[0][1].text for line in lines}


@pytest.mark.filterwarnings("error")
def test_figure_takes_formulas_and_line_ends_as_text():
    words = ["$x_", "1^2$", "new\nline", "\n"]

    figure = word_plot([WordSample("$x_ 1^2$ new\nline \n", [WordRow("Teacher", words, [1, -1, 2, 3])])])
    figure.draw_without_rendering()

    assert {"$x_", "1^2$", "new line"} <= set(texts(figure))


def test_saved_without_touching_the_users_backend(sample, tmp_path):
    backend = matplotlib.get_backend()

    word_plot([sample], tmp_path / "words.png")

    assert (tmp_path / "words.png").read_bytes().startswith(b"\x89PNG")
    assert matplotlib.get_backend() == backend
