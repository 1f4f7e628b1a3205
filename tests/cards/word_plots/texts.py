"""A text that is shown, and what pages and figures show of it."""

from html.parser import HTMLParser

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

TEXT = "It's not good, but the actors shine."
WORDS = ["It", "'s", "not", "good", ",", "but", "the", "actors", "shine", "."]
SCORES = [0.0, 0.0, -0.5, 0.1, 0.0, 0.0, 0.0, 0.02, 1.0, 0.0]


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
