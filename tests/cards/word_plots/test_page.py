"""The page of texts whose words are coloured."""

import pytest

from hf_e2kd.cards.word_plots import WordRow, WordSample, word_page
from tests.cards.word_plots.texts import TEXT, WORDS, Page


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
