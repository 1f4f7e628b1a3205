import ast
from pathlib import Path

import matplotlib
import pytest
import torch
from matplotlib.figure import Figure

from hf_e2kd.cards import plots
from hf_e2kd.cards.plots import explanation_panel

HEADINGS = ["Teacher", "KD student", "e²KD student"]


@pytest.fixture
def images():
    return torch.rand(2, 3, 16, 16)


@pytest.fixture
def maps():
    return {heading: torch.rand(2, 4, 4) for heading in HEADINGS}


def tile(figure: Figure, row: int, column: int, columns: int = 4):
    return figure.axes[row * columns + column]


def pixels(axis) -> torch.Tensor:
    return torch.as_tensor(axis.images[0].get_array()).float()


def test_a_sample_without_a_label(images, maps):
    """Prevents: a prediction marked as wrong where nobody knows what is right."""
    figure = explanation_panel(
        images, maps, labels=[None, "dog"], explained=["cat", "dog"], predictions={"Teacher": ["cat", "cat"]}
    )
    assert [tile(figure, row, 0).get_xlabel() for row in (0, 1)] == ["explained: cat", "true: dog"]
    assert [tile(figure, row, 1).get_xlabel() for row in (0, 1)] == ["predicts: cat", f"predicts: cat {plots.WRONG}"]


def test_columns_captions_and_colour_bar(images, maps):
    figure = explanation_panel(
        images,
        maps,
        labels=["cat", "dog"],
        explained=["cat", "cat"],
        names=["a.jpg", "b.jpg"],
        predictions={"Teacher": ["cat", "cat"], "KD student": ["dog", "dog"]},
        similarities={"KD student": torch.tensor([0.25, 1.0])},
        reference="Teacher",
        note="Two samples.",
    )

    assert [tile(figure, 0, column).get_title() for column in range(4)] == ["Image", *HEADINGS]
    assert tile(figure, 0, 0).get_xlabel() == "a.jpg\ntrue: cat"
    assert tile(figure, 1, 0).get_xlabel() == "b.jpg\ntrue: dog\nexplained: cat"
    assert tile(figure, 0, 1).get_xlabel() == "predicts: cat ✓"
    assert tile(figure, 0, 2).get_xlabel() == "predicts: dog ✗\nsimilarity: 0.25"
    bar = figure.axes[-1]
    assert bar.get_xlim() == (0, 1) and bar.get_xlabel() == "explanation / its maximum"
    assert " ".join(figure.texts[0].get_text().split()) == (
        "Maps of 4×4 cells. ✓ right, ✗ wrong. Frame: another prediction than that of Teacher. Bar: similarity, from 0 "
        "to 1. Two samples."
    )


def frames(figure, columns=4):
    count = len([axis for axis in figure.axes if axis.images]) // columns
    return [
        [
            matplotlib.colors.to_hex(tile(figure, row, column, columns).spines["top"].get_edgecolor())
            for column in range(columns)
        ]
        for row in range(count)
    ]


def test_frame_where_a_student_predicts_another_class_than_the_teacher(images, maps):
    """Prevents: a frame for what is wrong, or for another student's prediction."""
    predictions = {"Teacher": ["dog", "cat"], "KD student": ["cat", "cat"], "e²KD student": ["dog", "dog"]}

    figure = explanation_panel(images, maps, labels=["cat", "cat"], predictions=predictions, reference="Teacher")

    black = "#000000"
    assert frames(figure) == [[black, black, plots.FRAME, black], [black, black, black, plots.FRAME]]
    assert plots.FRAME not in sum(frames(explanation_panel(images, maps, predictions=predictions)), [])


def test_bar_of_the_similarity(images, maps):
    """Prevents: a bar that is longer than the tile, or of a negative length."""
    figure = explanation_panel(images, maps, similarities={"KD student": [0.25, -0.5], "e²KD student": [1.0, 0.0]})

    lengths = [
        [patch.get_width() for patch in tile(figure, row, column).patches] for row in (0, 1) for column in (2, 3)
    ]
    assert lengths == [[1, 0.25], [1, 1], [1, 0], [1, 0]]
    assert not tile(figure, 0, 1).patches


def test_difference_column(images):
    """Prevents: the student's surplus in the teacher's colour; a difference of maps before they are scaled."""
    teacher, student = torch.zeros(2, 4, 4), torch.zeros(2, 4, 4)
    teacher[:, :, 0], student[:, :, 3] = 1, 5

    figure = explanation_panel(
        torch.full((2, 1, 16, 16), 0.5),
        {"Teacher": teacher, "Student": student},
        reference="Teacher",
        difference="Student",
    )

    assert tile(figure, 0, 3).get_title() == "Difference"
    drawn = pixels(tile(figure, 0, 3))
    least, most = matplotlib.colormaps["PuOr_r"]([0.0, 1.0])[:, :3]
    torch.testing.assert_close(drawn[8, 0], torch.tensor(least).float())  # the teacher's
    torch.testing.assert_close(drawn[8, 15], torch.tensor(most).float())
    torch.testing.assert_close(drawn[8, 8], torch.full((3,), 0.75), atol=0.15, rtol=0)
    assert figure.axes[-1].get_xlim() == (-1, 1) and figure.axes[-1].get_xlabel() == "Student − Teacher"


@pytest.mark.parametrize(("count", "across"), [(1, 1), (2, 2), (3, 3), (4, 2), (5, 3), (7, 3)])
def test_samples_of_two_columns_stand_in_a_grid(count, across):
    """Prevents: a tall strip of single inputs, or a last row with one of three places filled where two fit."""
    figure = explanation_panel(torch.rand(count, 3, 8, 8), {"Model": torch.rand(count, 2, 2)})

    tiles = [axis.get_position() for axis in figure.axes if axis.images]
    assert len([place for place in tiles if place.y0 == tiles[0].y0]) == 2 * across
    # From edge to edge but for the margins.
    width = figure.get_size_inches()[0]
    assert tiles[2 * across - 1].x1 * width == pytest.approx(width - plots.MARGIN)
    assert {round(place.width * width, 6) for place in tiles} == {plots.TILE}


def test_fine_maps_are_named_at_the_colour_bar(images):
    """Prevents: a clipped map that is read as one whose maximum is 1."""

    def label(**sizes):
        figure = explanation_panel(images, {heading: torch.rand(2, size, size) for heading, size in sizes.items()})
        return figure.axes[-1].get_xlabel(), figure.texts[0].get_text()

    assert label(Teacher=64) == ("explanation, smoothed / its 99th percentile", "Maps of 64×64 cells.")
    assert label(Teacher=55)[0] == "explanation / its maximum"
    mixed = label(Teacher=7, Student=64)
    assert mixed[0] == "explanation / its maximum; fine maps smoothed / their 99th percentile"
    assert " ".join(mixed[1].split()) == "Maps of 7×7 cells (Teacher), 64×64 cells (Student)."


@pytest.mark.filterwarnings("error")
def test_names_that_no_font_has(images, maps, caplog):
    """Prevents: matplotlib's warnings of each missing glyph, in the place of one that says what to do."""
    figure = explanation_panel(images, maps, labels=["\U0001f9ff $x_", "cat"])
    figure.draw_without_rendering()

    assert tile(figure, 0, 0).get_xlabel() in ("true: □ $x_", "true: \U0001f9ff $x_")
    assert ("No installed font has" in caplog.text) == ("□" in tile(figure, 0, 0).get_xlabel())


def test_each_map_is_divided_by_its_own_maximum(images, maps):
    scaled = {heading: 1e-3 * torch.tensor([1.0, 50.0])[:, None, None] * maps[heading] for heading in maps}

    plain, faint = explanation_panel(images, maps), explanation_panel(images, scaled)

    torch.testing.assert_close(pixels(tile(plain, 1, 1)), pixels(tile(faint, 1, 1)), atol=0.01, rtol=0)


def test_the_strongest_cell_stands_where_the_map_has_it():
    """A transposed or flipped map would still look plausible on most images."""
    maps = torch.zeros(1, 2, 4)
    maps[0, 0, 3] = 1

    figure = explanation_panel(torch.zeros(1, 1, 8, 16), {"Teacher": maps})

    brightness = pixels(tile(figure, 0, 1, columns=2)).sum(dim=2)
    row, column = divmod(int(brightness.argmax()), 16)
    assert row < 4 and column >= 12


def test_an_empty_map_is_named_and_adds_no_colour(images, maps):
    maps["KD student"][0] = 0

    figure = explanation_panel(images, maps)

    drawn = pixels(tile(figure, 0, 2))
    assert tile(figure, 0, 2).get_xlabel() == "empty map"
    assert torch.equal(drawn[..., 0], drawn[..., 2])
    assert tile(figure, 1, 2).get_xlabel() == ""


def test_bytes_and_floats_draw_the_same(images, maps):
    as_bytes = (images * 255).round().to(torch.uint8)

    assert torch.equal(
        pixels(tile(explanation_panel(as_bytes, maps), 0, 0)),
        pixels(tile(explanation_panel(as_bytes / 255, maps), 0, 0)),
    )


def test_saved_without_touching_the_users_backend(images, maps, tmp_path):
    backend = matplotlib.get_backend()

    explanation_panel(images, maps, path=tmp_path / "panel.png")

    assert (tmp_path / "panel.png").read_bytes().startswith(b"\x89PNG")
    assert matplotlib.get_backend() == backend


def test_texts_do_not_overlap(images, maps):
    """Names as ImageNet has them are longer than a tile is wide."""
    name = "American Staffordshire terrier, Staffordshire terrier, American pit bull terrier, pit bull terrier"
    figure = explanation_panel(
        images,
        {f"{heading} trained on few samples": maps[heading] for heading in HEADINGS},
        labels=[name, name],
        predictions={f"{heading} trained on few samples": [name, name] for heading in HEADINGS},
        similarities={f"{heading} trained on few samples": [0.5, 0.5] for heading in HEADINGS},
    )
    figure.draw_without_rendering()

    tiles = figure.axes[:-1]
    boxes = [axis.bbox for axis in tiles]
    boxes += [text.get_window_extent() for axis in tiles for text in (axis.title, axis.xaxis.label) if text.get_text()]
    assert not any(first.overlaps(second) for n, first in enumerate(boxes) for second in boxes[n + 1 :])
    assert all(figure.bbox.padded(1).containsx(box.x0) and figure.bbox.padded(1).containsy(box.y1) for box in boxes)


def test_normalised_images_are_refused_with_the_remedy(images, maps):
    with pytest.raises(ValueError, match=r"undo the image processor's normalisation"):
        explanation_panel(images * 2 - 1, maps)


def test_maps_of_another_batch_are_refused(images, maps):
    with pytest.raises(ValueError, match=r"'KD student' must be \(2, h, w\)"):
        explanation_panel(images, maps | {"KD student": torch.rand(3, 4, 4)})


def test_captions_of_an_unknown_column_are_refused(images, maps):
    with pytest.raises(ValueError, match="predictions names 'Students', but the columns are Teacher"):
        explanation_panel(images, maps, predictions={"Students": ["cat", "dog"]})


def test_captions_of_another_batch_are_refused(images, maps):
    with pytest.raises(ValueError, match="2 images, but 1 similarities of 'Teacher'"):
        explanation_panel(images, maps, similarities={"Teacher": [0.5]})


def test_maps_with_nan_are_refused(images, maps):
    maps["Teacher"][0, 0, 0] = float("nan")

    with pytest.raises(ValueError, match="maps of 'Teacher' hold NaN"):
        explanation_panel(images, maps)


def test_matplotlib_is_imported_where_something_is_drawn():
    """Prevents: seconds of imports for who makes a card, or measures, and draws nothing."""
    files = sorted(Path(plots.__file__).parent.rglob("*.py"))
    eager = [
        str(path)
        for path in files
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Import | ast.ImportFrom) and "matplotlib" in ast.unparse(node)
    ]
    assert eager == [] and len(files) > 10
