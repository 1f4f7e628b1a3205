"""What a verification tells apart, claim by claim."""

from dataclasses import replace

import pytest

from hf_e2kd.fidelity import (
    DataRecord,
    FaithfulnessRecord,
    FidelityRecord,
    HeldOutRecord,
    MetricValue,
    ModelRecord,
)
from hf_e2kd.fidelity.measure import drawn_rows
from hf_e2kd.fidelity.verify import verify

DRAWN = "the samples are those that the seed draws"


def record(**changes):
    """Of 6 of 20 samples, as an honest measurement states it."""
    data = DataRecord(None, "photos", rows=20, samples=drawn_rows(20, 6, 3), seed=3, fingerprint="sha256:d")
    figures = {
        "agreement": MetricValue(0.8, 0.7, 0.9, 6),
        "worst_class_accuracy": MetricValue(0.5, samples=3, detail="cat"),
    }
    own = FidelityRecord(
        modality="image",
        problem="single_label_classification",
        student=ModelRecord(None, "A", weights="sha256:s"),
        teacher=ModelRecord(None, "B", weights="sha256:t"),
        data=replace(data, **changes.pop("data", {})),
        explainer={"name": "gradcam", "options": {}},
        figures={**figures, **changes.pop("figures", {})},
        chance={"shuffled": MetricValue(0.1, 0.0, 0.2, 6)},
    )
    return replace(own, **changes)


def test_the_same_figures_hold():
    """Prevents: an honest record that is called false, through rounding or a figure without an interval."""
    near = {"agreement": MetricValue(0.8004, 0.6996, 0.9004, 6)}
    checks = verify(record(), record(figures=near))
    assert all(check.holds for check in checks) and all(check.reason is None for check in checks)
    assert {DRAWN, "the samples' number", "agreement", "chance, shuffled"} <= {check.name for check in checks}


def test_shares_without_exceptions_of_an_earlier_version():
    """Prevents: records called false whose share of 1 has the bootstrap's interval, without width."""
    stated, found = ({"agreement": MetricValue(1.0, low, 1.0, 6)} for low in (1.0, 0.54))
    assert all(check.holds for check in verify(record(figures=stated), record(figures=found)))


def test_what_a_recipe_alone_measures_is_named():
    """Prevents: an honest card of texts that fails for the words whose polarity no other data knows."""
    words = {"word_accuracy": MetricValue(0.7, samples=6), "teacher_word_auroc": MetricValue(0.8, samples=6)}
    told = {check.name: check for check in verify(record(figures=words), record())}
    for name in ("word accuracy", "teacher word auroc"):
        assert told[name].holds is None and "takes the recipe" in told[name].reason
    assert all(check.holds for name, check in told.items() if "word" not in name)


@pytest.mark.parametrize(
    ("figure", "reason"),
    [
        ({"agreement": MetricValue(0.81, 0.7, 0.9, 6)}, "value"),
        ({"agreement": MetricValue(float("nan"), 0.7, 0.9, 6)}, "value"),
        ({"agreement": MetricValue(0.8, 0.79, 0.81, 6)}, "interval [0.7900, 0.8100] stated, [0.7000, 0.9000] found"),
        ({"agreement": MetricValue(0.8, samples=6)}, "interval [–, –] stated"),
        ({"agreement": MetricValue(0.8, 0.7, 0.9, 9999)}, "9999 samples stated, 6 found"),
        ({"worst_class_accuracy": MetricValue(0.5, samples=3, detail="dog")}, "of dog stated, of cat found"),
        ({"f1": MetricValue(0.9, 0.8, 1.0, 6)}, "not measured"),
    ],
)
def test_any_faked_part_of_a_figure_fails(figure, reason):
    """Prevents: a narrow interval, a made-up count or a milder worst class that pass beside a true value."""
    failed = [check for check in verify(record(figures=figure), record()) if check.holds is False]
    assert [check.name for check in failed] == [next(iter(figure)).replace("_", " ")]
    assert reason in failed[0].reason


@pytest.mark.parametrize(
    ("samples", "seed", "reason"),
    [
        (sorted(drawn_rows(20, 6, 3)), 3, "are others"),
        ([0, 1, 2, 3, 4, 5], 3, "they may have been picked"),
        (drawn_rows(20, 6, 3), None, "no seed is stated"),
        (list(range(20)), None, None),
    ],
)
def test_picked_samples_fail(samples, seed, reason):
    """Prevents: figures of the samples that suit, which repeat to the last digit."""
    data = {"samples": samples, "seed": seed}
    check = next(each for each in verify(record(data=data), record(data=data)) if each.name == DRAWN)
    assert check.holds is (reason is None)
    assert reason is None or reason in check.reason


def test_held_out_figures_are_compared_too():
    """Prevents: a made-up similarity by another method, or a faithfulness that nobody measures again."""
    occlusion = HeldOutRecord(
        {"name": "occlusion", "options": {"patch": 0.25}},
        {"explanation_similarity": MetricValue(0.6, 0.5, 0.7, 6)},
        chance={"shuffled": MetricValue(0.2, 0.1, 0.3, 6)},
    )
    faithfulness = FaithfulnessRecord({"steps": 4}, {"deletion": MetricValue(0.3, samples=6)})
    stated = record(held_out=[occlusion], faithfulness=faithfulness)
    names = {"occlusion, explanation similarity", "occlusion, chance, shuffled", "random order, deletion"}
    held = {check.name: check.holds for check in verify(stated, stated)}
    assert all(held.values()) and names <= held.keys()
    faked = replace(occlusion, figures={"explanation_similarity": MetricValue(0.9, 0.8, 1.0, 6)})
    failed = [check.name for check in verify(replace(stated, held_out=[faked]), stated) if check.holds is False]
    assert failed == ["occlusion, explanation similarity"]
    missing = {check.name for check in verify(stated, record()) if check.holds is False}
    assert missing == names
    endless = replace(occlusion, explainer={"name": "rise", "options": {"masks": 10**9}})
    with pytest.raises(ValueError, match="its held_out.0 state 1000000000"):
        verify(replace(stated, held_out=[endless]), stated)


def test_what_is_not_checked_is_told():
    """Prevents: digests left out and other students' figures that seem to have been verified."""
    stated = record(
        student=ModelRecord(None, "A"),
        data={"fingerprint": None},
        compared={"plain KD": {"agreement": MetricValue(0.0)}},
    )
    unchecked = {check.name: check.reason for check in verify(stated, record()) if check.holds is None}
    assert unchecked == {
        "student's weights": "not stated",
        "the samples": "not stated",
        "figures of plain KD": "not checked: that student isn't published",
    }


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"figures": {}}, "it has no figures"),
        ({"data": DataRecord(None, "photos", rows=20)}, "doesn't say on which samples"),
        ({"data": DataRecord(None, "photos", samples=[1, 2])}, "of how many rows"),
        ({"data": DataRecord(None, "photos", rows=20, samples=[1, 20])}, "aren't among its 20 rows"),
        ({"data": DataRecord(None, "photos", rows=20, samples=[7] * 6)}, "5 of its 6 samples repeat another"),
        ({"data": DataRecord(None, "photos", rows=20, samples=[0] * 300_000)}, "299999 of its 300000 samples repeat"),
        ({"batch_size": 10**12}, "its batch_size state 1000000000000"),
        ({"batch_size": 0}, "its batch_size state 0"),
        ({"data": {"arguments": {"sizes": {"test": 10**12}}}}, "its arguments state 1000000000000"),
        ({"data": {"arguments": {"image_size": 100_000}}}, "its arguments state the usual number of images of 100000×"),
        ({"data": {"arguments": {"sizes": {"a": 900_000}, "image_size": 64}}}, "its arguments state 900000 images of"),
        ({"data": {"columns": {"max_length": float("inf")}}}, "its max_length state inf"),
        ({"explainer": {"name": "ig", "options": {"n_steps": 10**9}}}, "its explainer state 1000000000"),
    ],
)
def test_an_empty_record_is_an_error(changes, problem):
    """Prevents: "All 0 hold" of a record that claims nothing."""
    with pytest.raises(ValueError, match=f"nothing that could be verified: .*{problem}"):
        verify(record(**changes) if isinstance(changes.get("data"), dict) else replace(record(), **changes), record())


def test_generated_images_of_a_usual_size():
    """Prevents: an honest record of generated images at 224 pixels refused as one that fills the memory."""
    honest = record(data={"arguments": {"image_size": 224}})
    assert all(check.holds for check in verify(honest, honest))
