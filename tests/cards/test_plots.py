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


def test_columns_captions_and_colour_bar(images, maps):
    figure = explanation_panel(
        images,
        maps,
        labels=["cat", "dog"],
        predictions={"KD student": ["dog", "dog"]},
        similarities={"KD student": torch.tensor([0.25, 1.0])},
    )

    assert [tile(figure, 0, column).get_title() for column in range(4)] == ["Image", *HEADINGS]
    assert tile(figure, 1, 0).get_xlabel() == "true: dog"
    assert tile(figure, 0, 1).get_xlabel() == ""
    assert tile(figure, 0, 2).get_xlabel() == "predicts: dog\nsimilarity: 0.25"
    assert figure.axes[-1].get_ylim() == (0, 1)


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
