import random

import pytest

from hf_e2kd.metrics.pareto import pareto_front

MEASURES = ["f1", "epg", "iou"]


def points_of(*rows):
    return [dict(zip(MEASURES, row, strict=False)) for row in rows]


def test_by_hand():
    points = points_of((0.7, 0.5), (0.6, 0.6), (0.6, 0.5), (0.5, 0.7), (0.5, 0.4))

    assert pareto_front(points, ["f1", "epg"]) == [0, 1, 3]


def test_equal_in_one_measure_and_worse_in_another_is_dominated():
    assert pareto_front(points_of((0.7, 0.5), (0.7, 0.6)), ["f1", "epg"]) == [1]


def test_gains_below_the_rounding_do_not_count():
    points = points_of((0.700, 0.50), (0.701, 0.40), (0.708, 0.40))

    assert pareto_front(points, ["f1", "epg"]) == [0, 2]
    assert pareto_front(points, ["f1", "epg"], rounding=None) == [0, 2]
    assert pareto_front(points[:2], ["f1", "epg"]) == [0]
    assert pareto_front(points[:2], ["f1", "epg"], rounding=None) == [0, 1]


def test_of_equal_points_the_first_is_kept():
    """Otherwise a run that has converged would keep a checkpoint each epoch."""
    assert pareto_front(points_of((0.7, 0.5), (0.7, 0.5), (0.6, 0.6), (0.7001, 0.5)), ["f1", "epg"]) == [0, 2]


def test_updated_epoch_by_epoch_it_is_the_front_of_all():
    rng = random.Random(0)
    points = points_of(*[[rng.uniform(0.4, 0.8) for _ in MEASURES] for _ in range(200)])

    kept = []
    for point in points:
        kept = [[*kept, point][row] for row in pareto_front([*kept, point], MEASURES)]

    assert kept == [points[row] for row in pareto_front(points, MEASURES)]
    assert 5 < len(kept) < 100


def test_equals_the_definition():
    rng = random.Random(1)
    points = points_of(*[[rng.randrange(8) for _ in MEASURES] for _ in range(80)])
    values = [tuple(point.values()) for point in points]

    expected = [
        row
        for row, value in enumerate(values)
        if value not in values[:row]
        and not any(other != value and all(a >= b for a, b in zip(other, value, strict=True)) for other in values)
    ]

    assert pareto_front(points, MEASURES, rounding=None) == expected


def test_other_measures_do_not_count():
    assert pareto_front(points_of((0.7, 0.5, 0.1), (0.6, 0.4, 0.9)), ["f1", "epg"]) == [0]


def test_of_no_point():
    assert pareto_front([], ["f1"]) == []


@pytest.mark.parametrize(
    ("points", "arguments", "message"),
    [
        (points_of((0.5,)), {"maximise": ["f1", "epg"]}, "Point 0 has no epg. Its measures: f1"),
        (points_of((0.5,), (float("nan"),)), {"maximise": ["f1"]}, "Point 1 holds NaN"),
        (points_of((0.5,)), {"maximise": []}, "one or more measures"),
        (points_of((0.5,)), {"maximise": "f1"}, "Give a list"),
        (points_of((0.5,)), {"maximise": ["f1"], "rounding": -0.1}, "rounding is -0.1"),
    ],
)
def test_bad_input_is_named(points, arguments, message):
    with pytest.raises(ValueError, match=message):
        pareto_front(points, **arguments)
