import matplotlib
import pytest
from matplotlib.colors import to_rgba

from hf_e2kd.cards.pareto_plot import PALE, pareto_plot

POINTS = [
    {"f1": 0.70, "epg": 0.50, "iou": 0.30},
    {"f1": 0.65, "epg": 0.60, "iou": 0.20},
    {"f1": 0.60, "epg": 0.55, "iou": 0.40},  # on the front for its IoU alone
    {"f1": 0.55, "epg": 0.45, "iou": 0.25},
]
FRONT = [0, 1, 2]


def scattered(axis):
    """Opacity → places."""
    return {
        1 if dots.get_alpha() is None else dots.get_alpha(): sorted(map(tuple, dots.get_offsets().tolist()))
        for dots in axis.collections
    }


def joined(axis):
    return [list(map(tuple, line.get_xydata().tolist())) for line in axis.lines if len(line.get_xydata())]


def test_front_solid_and_the_others_pale():
    axis = pareto_plot(POINTS, FRONT, "f1", "epg").axes[0]

    assert scattered(axis) == {1: [(0.6, 0.55), (0.65, 0.6), (0.7, 0.5)], PALE: [(0.55, 0.45)]}
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("f1", "epg")


def test_the_line_joins_each_panels_own_front():
    """A line through every point of a front over three measures would zigzag."""
    epg, iou = pareto_plot(POINTS, FRONT, "f1", ["epg", "iou"]).axes

    assert joined(epg) == [[(0.65, 0.6), (0.7, 0.5)]]
    assert joined(iou) == [[(0.6, 0.4), (0.7, 0.3)]]


def test_labels_stand_beside_the_front_alone():
    axis = pareto_plot(POINTS, FRONT, "f1", "epg", labels=["a", "b", "c", "d"]).axes[0]

    assert [text.get_text() for text in axis.texts] == ["a", "b", "c"]


def test_groups_have_a_colour_and_a_name_each():
    figure = pareto_plot(
        POINTS, [0, 1], "f1", ["epg", "iou"], groups=["energy", "l1", "l1", "energy"], names={"f1": "F1"}
    )

    legend = figure.axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["energy", "l1"]
    assert figure.axes[1].get_xlabel() == "F1"
    colours = [to_rgba(line.get_color()) for line in legend.get_lines()]
    assert colours[0] != colours[1]


def test_a_group_without_a_point_on_the_front_is_drawn():
    axis = pareto_plot(POINTS[:2], [0], "f1", "epg", groups=["energy", "l1"]).axes[0]

    assert scattered(axis) == {1: [(0.7, 0.5)], PALE: [(0.65, 0.6)]}
    assert len(axis.get_legend().get_texts()) == 2


def test_saved_without_touching_the_users_backend(tmp_path):
    backend = matplotlib.get_backend()

    pareto_plot(POINTS, FRONT, "f1", "epg", path=tmp_path / "front.png")

    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
    assert matplotlib.get_backend() == backend


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"points": []}, "no point"),
        ({"front": [0, 9]}, r"front names the points \[9\], but there are 4"),
        ({"y": "map"}, "Point 0 has no map. Its measures: f1, epg, iou"),
        ({"labels": ["a"]}, "4 points, but 1 labels"),
        ({"groups": ["a"]}, "4 points, but 1 groups"),
    ],
)
def test_bad_input_is_named(changed, message):
    arguments = {"points": POINTS, "front": FRONT, "x": "f1", "y": "epg"} | changed
    with pytest.raises(ValueError, match=message):
        pareto_plot(**arguments)
