from html.parser import HTMLParser

import matplotlib
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from hf_e2kd.cards.words import AGAINST, FOR, WordRow, WordSample, gaps, word_figure, word_page

TEXT = "It's not good, but the actors shine."
WORDS = ["It", "'s", "not", "good", ",", "but", "the", "actors", "shine", "."]
SCORES = [0.0, 0.0, -0.5, 0.1, 0.0, 0.0, 0.0, 0.02, 1.0, 0.0]


@pytest.fixture
def sample():
    rows = [
        WordRow("Teacher", WORDS, [2 * score for score in SCORES], "positive"),
        WordRow("KD student", WORDS, [-score for score in SCORES], "very negative", -1.0),
        WordRow("e²KD student", WORDS, SCORES, "positive", 0.987),
    ]
    return WordSample(TEXT, rows, label="positive", explained="very positive")


class Page(HTMLParser):
    """The page's elements in order, with their attributes and the text inside them."""

    def __init__(self, page: str):
        super().__init__()
        self.open: list[dict] = []
        self.elements: list[dict] = []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        element = {"tag": tag, "text": "", **dict(attrs)}
        self.elements.append(element)
        if tag != "meta":
            self.open.append(element)

    def handle_endtag(self, tag):
        assert self.open.pop()["tag"] == tag

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def all(self, tag: str, **attributes: str) -> list[dict]:
        return [
            element
            for element in self.elements
            if element["tag"] == tag and all(element.get(name) == value for name, value in attributes.items())
        ]


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


def boxes(figure: Figure) -> list[Rectangle]:
    return [artist for artist in figure.artists if isinstance(artist, Rectangle)]


def colour(box: Rectangle) -> list[int]:
    return [round(255 * channel) for channel in box.get_facecolor()[:3]]


def extents(figure: Figure) -> list:
    figure.draw_without_rendering()
    return [text.get_window_extent() for text in figure.texts]


def test_page_shows_the_text_as_it_is_once_a_model(sample):
    page = Page(word_page([sample], title="Reviews", note="Of one evening."))

    assert [row["text"] for row in page.all("p", **{"class": "words"})] == [TEXT] * 3
    assert [heading["text"] for heading in page.all("h3")] == ["Teacher", "KD student", "e²KD student"]
    assert [facts["text"].split() for facts in page.all("p", **{"class": "facts"})] == [
        ["predicts:", "positive"],
        ["predicts:", "very", "negative", "similarity:", "-1.00"],
        ["predicts:", "positive", "similarity:", "0.99"],
    ]
    assert page.all("p", **{"class": "true"})[0]["text"] == "true: positive · explained: very positive"
    assert page.all("title")[0]["text"] == page.all("h1")[0]["text"] == "Reviews"


def test_page_scales_each_model_by_its_own_largest_score(sample):
    spans = [span for span in Page(word_page([sample])).all("span") if "title" in span]
    teacher, plain, explained = spans[:10], spans[10:20], spans[20:]

    assert [span.get("style") for span in teacher] == [span.get("style") for span in explained]
    assert teacher[2]["style"] == "--s:0.50" and teacher[8]["style"] == "--s:1.00" and "style" not in teacher[0]
    assert [teacher[place]["class"] for place in (2, 3, 7, 8)] == ["against lined", "for lined", "for", "for lined"]
    assert [plain[place]["class"] for place in (2, 8)] == ["for lined", "against lined"]


def test_page_says_scores_in_words_too(sample):
    """Colours say nothing to a screen reader, and a phone has no tooltips."""
    page = Page(word_page([sample]))

    assert [span["title"] for span in page.all("span") if "title" in span][:4] == ["0", "0", "-1", "+0.2"]
    assert [cell["text"] for cell in page.all("th", scope="col")] == ["word", "Teacher", "KD student", "e²KD student"]
    assert [cell["text"] for cell in page.all("th", scope="row")] == WORDS
    assert [cell["text"] for cell in page.all("td")][6:9] == ["-1", "+0.5", "-0.5"]
    assert len(page.all("summary")) == 1


def test_page_has_a_table_a_model_where_their_words_differ():
    rows = [WordRow("Teacher", ["unkind"], [1.0]), WordRow("Student", ["un", "kind"], [1.0, 2.0])]

    page = Page(word_page([WordSample("unkind", rows)]))

    assert [cell["text"] for cell in page.all("th", scope="row")] == ["unkind", "un", "kind"]
    assert len(page.all("table")) == 2


def test_page_escapes_everything_given():
    """A review may hold markup, and a page of reviews must not run it."""
    evil = "<script>alert('&\"')</script>"
    row = WordRow(evil, [evil], [1.0], prediction=evil)

    page = Page(word_page([WordSample(evil, [row], label=evil, explained=evil)], title=evil, note=evil))

    assert not page.all("script")
    assert (
        page.all("h3")[0]["text"] == page.all("h1")[0]["text"] == page.all("p", **{"class": "words"})[0]["text"] == evil
    )


def test_page_needs_nothing_from_elsewhere(sample, tmp_path):
    page = word_page([sample], tmp_path / "page.html")

    assert (tmp_path / "page.html").read_text(encoding="utf-8") == page
    assert not {"src", "href", "onclick"} & {name for element in Page(page).elements for name in element}
    assert "url(" not in page and "@import" not in page and "http" not in page
    assert "prefers-color-scheme: dark" in page and "width=device-width" in page


@pytest.mark.parametrize("dark", [False, True])
def test_page_is_legible_on_the_strongest_colours(dark, sample):
    """WCAG asks for a contrast of 4.5 to 1."""
    style = word_page([sample]).split("prefers-color-scheme: dark")[dark]

    def luminance(name: str, separator: str = " ") -> float:
        value = style.split(f"--{name}: ")[1].split(";")[0]
        parts = [int(value[n : n + 2], 16) for n in (1, 3, 5)] if value[0] == "#" else map(int, value.split())
        linear = [p / 3294.6 if p <= 10 else ((p / 255 + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for name in ("for", "against"):
        darker, lighter = sorted([luminance("ink"), luminance(name)])
        assert (lighter + 0.05) / (darker + 0.05) > 4.5


def test_other_scripts_keep_their_writing():
    """Chinese would be torn apart by spaces, Hebrew runs from the right."""
    chinese = WordSample("这部电影很棒。", [WordRow("Teacher", ["这部", "电影", "很", "棒"], [0, 1, 0, 2])])
    hebrew = WordSample("סרט טוב", [WordRow("Teacher", ["סרט", "טוב"], [0, 1])])

    rows = Page(word_page([chinese, hebrew])).all("p", **{"class": "words"})

    assert [row["text"] for row in rows] == ["这部电影很棒。", "סרט טוב"]
    assert all(row["dir"] == "auto" for row in rows)


def test_gaps_of_words_that_the_text_lacks_are_spaces():
    """Lower-casing tokenizers give words that don't stand in the text."""
    assert gaps("Not GOOD", ["not", "good"]) == ["", " ", ""]
    assert gaps("cut off here", ["cut", "off"]) == ["", " ", " here"]
    assert gaps("", []) == [""]


def test_figure_draws_every_word_in_its_colour(sample):
    figure = word_figure([sample], title="Reviews")

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

    figure = word_figure([WordSample(" ".join(words), [row] * 2, label="l" * 200)])

    inside = figure.bbox.padded(1)
    found = extents(figure)
    assert all(inside.x0 <= box.x0 and box.x1 <= inside.x1 and box.y0 >= 0 and box.y1 <= inside.y1 for box in found)
    assert not any(
        one.shrunk(0.9, 0.6).overlaps(two.shrunk(0.9, 0.6)) for n, one in enumerate(found) for two in found[n + 1 :]
    )
    assert "".join(text for text in texts(figure) if set(text) == {"x"}) == "x" * 600


def test_figure_keeps_a_full_stop_with_its_word():
    """A line would begin with it."""
    row = WordRow("Teacher", ["film", "."] * 50, [1.0] * 100)

    figure = word_figure([WordSample("film. " * 50, [row])])

    lines = [text.get_position() for text in figure.texts if text.get_text() == "film"]
    stops = [text.get_position() for text in figure.texts if text.get_text() == "."]
    assert [y for _, y in lines] == [y for _, y in stops]


def test_figure_begins_right_to_left_texts_at_the_right():
    hebrew = WordSample("סרט טוב", [WordRow("Teacher", ["סרט", "טוב"], [0, 1])])

    figure = word_figure([hebrew])

    places = {text.get_text(): text.get_position()[0] for text in figure.texts}
    assert places["סרט"] > places["טוב"] > 4


@pytest.mark.filterwarnings("ignore:Glyph")
def test_figure_wraps_texts_without_spaces():
    words = list("电影很棒。" * 40)

    figure = word_figure([WordSample("".join(words), [WordRow("Teacher", words, [1.0] * 200)])])

    drawn = [text for text in figure.texts if text.get_text() in words]
    assert len(drawn) == 200
    lines = {text.get_position()[1] for text in drawn}
    assert len(lines) > 2
    first = [min((t for t in drawn if t.get_position()[1] == y), key=lambda t: t.get_position()[0]) for y in lines]
    assert "。" not in {text.get_text() for text in first}


@pytest.mark.filterwarnings("error")
def test_figure_takes_formulas_and_line_ends_as_text():
    words = ["$x_", "1^2$", "new\nline", "\n"]

    figure = word_figure([WordSample("$x_ 1^2$ new\nline \n", [WordRow("Teacher", words, [1, -1, 2, 3])])])
    figure.draw_without_rendering()

    assert {"$x_", "1^2$", "new line"} <= set(texts(figure))


def test_empty_maps_are_named(sample):
    empty = WordSample(TEXT, [WordRow("KD student", WORDS, [0.0] * 10)])

    figure, page = word_figure([empty]), Page(word_page([empty]))

    assert [text for text in texts(figure) if text in ("empty", "map")] == ["empty", "map"]
    assert len(boxes(figure)) == 2
    assert page.all("p", **{"class": "facts"})[0]["text"].strip() == "empty map"


def test_saved_without_touching_the_users_backend(sample, tmp_path):
    backend = matplotlib.get_backend()

    word_figure([sample], tmp_path / "words.png")

    assert (tmp_path / "words.png").read_bytes().startswith(b"\x89PNG")
    assert matplotlib.get_backend() == backend


def test_rows_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="'Teacher' has 2 words and 1 scores"):
        WordRow("Teacher", ["a", "b"], [1.0])
    with pytest.raises(ValueError, match="scores of 'Teacher' hold NaN"):
        WordRow("Teacher", ["a"], [float("nan")])


@pytest.mark.parametrize("draw", [word_page, word_figure])
def test_nothing_to_show_is_refused(draw):
    with pytest.raises(ValueError, match="no sample to show"):
        draw([])
    with pytest.raises(ValueError, match="Text 1 has no row"):
        draw([WordSample("text", [])])
