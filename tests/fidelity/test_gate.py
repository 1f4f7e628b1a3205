"""Requirements are tested on ends of intervals, and what is no number passes none."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest

from hf_e2kd.fidelity import FaithfulnessRecord, GroupsRecord, HeldOutRecord, MetricValue
from hf_e2kd.fidelity.gate import Requirement, check_baseline, check_requirements, parse_requirement, same_samples
from hf_e2kd.fidelity.intervals import mean_with_interval
from tests.fidelity.test_verify import record

NAN = float("nan")


def made(**figures):
    """A record with the figures alone, agreement .8 [.7, .9] among them."""
    own = {"agreement": MetricValue(0.8, 0.7, 0.9, 100), **figures}
    return replace(record(), figures=own)


def outcome(requirement, student=None, **options):
    (verdict,) = check_requirements(student or made(), [parse_requirement(requirement)], **options)
    return verdict.passes, verdict.tested


@pytest.mark.parametrize(
    ("requirement", "options", "expected"),
    [
        ("agreement>=.7", {}, (True, 0.7)),
        ("agreement>=.7001", {}, (False, 0.7)),
        ("agreement >= 0.8", {"on": "value"}, (True, 0.8)),
        ("agreement>=.81", {"on": "value"}, (False, 0.8)),
        ("agreement<=.9", {}, (True, 0.9)),
        ("agreement<=.85", {}, (False, 0.9)),
        ("agreement≤.85", {"on": "value"}, (True, 0.8)),
    ],
)
def test_ends_of_the_interval(requirement, options, expected):
    """Prevents: a student that passes by its mean, by the end on the wrong side, or fails at the bound itself."""
    assert outcome(requirement, **options) == expected


@pytest.mark.parametrize(
    ("requirement", "hint"),
    [
        ("agreement>=95", "Write the share, as agreement>=0.95 for 95 %"),
        ("negative_flips<=5", "negative_flips<=0.05 for 5 %"),
        ("worst_group_accuracy>=70", "never above 1"),
        ("explanation_similarity/occlusion>=80", "never above 1"),
    ],
)
def test_percentages_are_no_shares(requirement, hint):
    """Prevents: `negative_flips<=5`, meant as 5 %, which every student passes."""
    flips, similar = MetricValue(0.9, 0.8, 1.0, 40), MetricValue(0.5, 0.4, 0.6, 40)
    student = made(negative_flips=flips, worst_group_accuracy=flips, mae=MetricValue(7.0, 6.0, 8.0, 40))
    held_out = HeldOutRecord({"name": "occlusion"}, figures={"explanation_similarity": similar})
    with pytest.raises(ValueError, match=hint):
        outcome(requirement, replace(student, held_out=[held_out]))
    assert outcome("mae<=9", student)[0] and outcome("negative_flips<=1", student)[0]


def test_a_share_without_a_counterexample():
    """Prevents: any requirement met by a few samples that all agree, of which each resample agrees too; a baseline that
    one empty map of a thousand misses, because it had none."""
    student = made(
        agreement=MetricValue(1.0, 1.0, 1.0, 40),
        worst_group_accuracy=MetricValue(1.0, 1.0, 1.0, 10, "sea"),
        zero_student_maps=MetricValue(0.0, 0.0, 0.0, 40),
        explanation_similarity=MetricValue(1.0, 1.0, 1.0, 40),
    )
    low = binomtest(40, 40).proportion_ci().low
    assert outcome("agreement>=.95", student) == (False, pytest.approx(low))
    assert outcome("agreement>=.91", student)[0] and outcome("agreement>=1", student, on="value") == (True, 1.0)
    assert outcome("worst_group_accuracy>=.7", student) == (False, pytest.approx(binomtest(10, 10).proportion_ci().low))
    assert outcome("zero_student_maps<=.01", student) == (False, pytest.approx(1 - low))
    assert outcome("explanation_similarity>=1", student) == (True, 1.0)
    later = replace(student, figures={**student.figures, "zero_student_maps": MetricValue(0.025, 0.0, 0.075, 40)})
    assert all(verdict.passes for verdict in check_baseline(later, student))


def test_a_share_with_one_counterexample_says_no_more_than_one_without():
    """Prevents: a requirement that nine of ten samples meet and ten of ten don't, as the bootstrap of the nine ends at
    .7 and the exact interval of the ten at .692."""
    wrong = np.array([1, *[0] * 9])
    accuracy = mean_with_interval(1.0 - wrong, np.ones(10), seed=0)
    empty = mean_with_interval(wrong.astype(float), np.ones(10), seed=0)
    assert accuracy.low == pytest.approx(0.7)
    without = {"worst_group_accuracy": MetricValue(1.0, 1.0, 1.0, 10), "zero_student_maps": MetricValue(0.0, 0, 0, 10)}
    for requirement in ("worst_group_accuracy>=.7", "zero_student_maps<=.3"):
        student = made(worst_group_accuracy=accuracy, zero_student_maps=empty)
        assert outcome(requirement, student) == outcome(requirement, made(**without))
        assert outcome(requirement, student)[0] is False


def test_groups_have_figures_of_their_own():
    """Prevents: a requirement on one group, or on the worst, that is tested on all samples."""
    groups = GroupsRecord(["place"], {"on land": {"accuracy": MetricValue(0.6, 0.5, 0.7, 50)}})
    student = replace(made(worst_group_accuracy=MetricValue(0.6, 0.5, 0.7, 50, "on land")), groups=groups)
    assert outcome("accuracy/on land>=.5", student) == outcome("worst_group_accuracy>=.5", student) == (True, 0.5)
    with pytest.raises(ValueError, match="by group as 'accuracy/on land'. Did you mean 'accuracy/on land'"):
        outcome("accuracy/on lnd>=.5", student)


@pytest.mark.parametrize(
    ("figure", "reason"),
    [
        (MetricValue(0.8, samples=1), "no interval: --on value tests its value"),
        (MetricValue(0.8, NAN, 0.9), "is no number: measure again"),
        (MetricValue(0.8, 0.7, NAN), "is no number: measure again"),
        (MetricValue(NAN, 0.7, 0.9), "is no number: measure again"),
        (MetricValue(0.8, None, 0.9), "is no number: measure again"),
    ],
)
def test_what_is_no_interval_passes_nothing(figure, reason):
    """Prevents: NaN, with which every comparison is False, or a missing end, that passes a requirement."""
    (verdict,) = check_requirements(made(agreement=figure), [Requirement("agreement", True, 0.0)])
    assert verdict.passes is False and reason in verdict.reason


@pytest.mark.parametrize(
    "text",
    ["agreement", "agreement>.9", "agreement=.9", ">=.9", "agreement>=", "agreement>=high", "agreement>=nan", ""],
)
def test_what_is_no_requirement(text):
    """Prevents: a misspelt requirement that is passed over."""
    with pytest.raises(ValueError, match=r'is no requirement. Expected .* "agreement>=.95"'):
        parse_requirement(text)


def test_figures_that_were_not_measured():
    """Prevents: a requirement that nothing tests; a name that is almost right, and isn't found."""
    with pytest.raises(ValueError, match="'agreemnt' was measured. Measured: agreement. Did you mean 'agreement'"):
        outcome("agreemnt>=.9")
    with pytest.raises(ValueError, match="Groups are measured with --group-column"):
        outcome("worst_group_accuracy>=.9")
    small = GroupsRecord(["place"], {"on land": {"accuracy": MetricValue(0.6, 0.5, 0.7, 5)}})
    with pytest.raises(ValueError, match="No group has 10 samples of it"):
        outcome("worst_group_accuracy>=.9", replace(made(), groups=small))


def test_an_earlier_record():
    """Prevents: a regression of one figure among many; more mistakes taken for better; the teacher's own figures."""
    flips = {"negative_flips": MetricValue(0.1, 0.08, 0.12, 100), "teacher_accuracy": MetricValue(0.9, 0.8, 1.0, 100)}
    earlier = made(**flips, worst_class_accuracy=MetricValue(0.2, samples=10, detail="cat"))

    def verdicts(**changed):
        now = replace(earlier, figures={**earlier.figures, **changed})
        return {verdict.requirement: verdict for verdict in check_baseline(now, earlier)}

    assert set(verdicts()) == {"agreement >= 0.7", "negative_flips <= 0.12", "worst_class_accuracy as earlier"}
    assert [each.passes for each in verdicts().values()] == [True, True, None]
    assert verdicts(agreement=MetricValue(0.7, 0.6, 0.8))["agreement >= 0.7"].passes
    assert not verdicts(agreement=MetricValue(0.69, 0.6, 0.8))["agreement >= 0.7"].passes
    assert verdicts(negative_flips=MetricValue(0.01, 0.0, 0.02))["negative_flips <= 0.12"].passes
    assert not verdicts(negative_flips=MetricValue(0.13, 0.1, 0.2))["negative_flips <= 0.12"].passes
    assert not verdicts(negative_flips=MetricValue(NAN))["negative_flips <= 0.12"].passes
    without = replace(earlier, figures={"agreement": earlier.figures["agreement"]})
    assert [each.passes for each in check_baseline(without, earlier)] == [True, False, None]
    broken = made(agreement=MetricValue(0.8, NAN, NAN))
    assert [each.passes for each in check_baseline(made(), broken)] == [False]


def test_records_that_cannot_be_compared():
    """Prevents: GradCAM's similarity compared with that of another method; a comparison with nothing."""
    other = replace(made(), explainer={"name": "saliency", "options": {}})
    with pytest.raises(ValueError, match="The earlier record's explainer is .*saliency.*Measure both in the same way"):
        check_baseline(made(), other)
    strict = replace(made(), iou_threshold=0.8)
    assert all(each.passes for each in check_baseline(made(), strict))  # neither has an IoU
    boxes = made(localization_iou=MetricValue(0.5, 0.4, 0.6))
    with pytest.raises(ValueError, match="The earlier record's IoU threshold is 0.8, and this one's 0.5"):
        check_baseline(boxes, replace(boxes, iou_threshold=0.8))
    with pytest.raises(ValueError, match="no figures of a student"):
        check_baseline(made(), replace(made(), figures={}))
    assert same_samples(made(), made())
    assert not same_samples(made(), replace(made(), data=replace(made().data, fingerprint="sha256:e")))


def test_figures_of_groups_and_held_out_explainers():
    """Prevents: a held-out similarity, or one group, that falls unseen; more of sufficiency taken for better."""
    figures = {
        "explanation_similarity": MetricValue(0.5, 0.4, 0.6, 100),
        "sufficiency": MetricValue(0.2, 0.1, 0.3, 100),
    }
    explainer = {"name": "occlusion", "options": {"patch": 0.1}}
    groups = GroupsRecord(["place"], {"land": {**figures, "agreement_where_teacher_errs": MetricValue(0.5, 0.1, 0.9)}})
    earlier = replace(
        made(),
        groups=groups,
        held_out=[HeldOutRecord(explainer, {**figures, "teacher_sufficiency": MetricValue(0.1, 0.0, 0.2)})],
        faithfulness=FaithfulnessRecord({"fractions": [0.5]}),
    )
    assert outcome("explanation_similarity/occlusion>=.4", earlier) == (True, 0.4)
    assert outcome("sufficiency/occlusion<=.25", earlier) == (False, 0.3)
    grouped = replace(earlier, held_out=[HeldOutRecord(explainer, figures, groups=groups)])
    assert outcome("sufficiency/occlusion/land<=.25", grouped) == (False, 0.3)
    with pytest.raises(ValueError, match="by group and by held-out explainer as 'explanation_similarity/land'"):
        outcome("explanation_similarity/occlsion>=.4", earlier)

    def failed(record):
        return [verdict.requirement for verdict in check_baseline(record, earlier) if verdict.passes is False]

    verdicts = check_baseline(earlier, earlier)
    assert len(verdicts) == 1 + 2 * len(figures) and not failed(earlier)
    worse = {"explanation_similarity": MetricValue(0.3, 0.2, 0.4, 100), "sufficiency": MetricValue(0.35, 0.3, 0.4, 100)}
    assert failed(replace(earlier, held_out=[HeldOutRecord(explainer, worse)])) == [
        "explanation_similarity/occlusion >= 0.4",
        "sufficiency/occlusion <= 0.3",
    ]
    assert failed(replace(earlier, groups=GroupsRecord(["place"], {"land": worse}))) == [
        "explanation_similarity/land >= 0.4",
        "sufficiency/land <= 0.3",
    ]
    assert len(failed(replace(earlier, held_out=[]))) == 2
    for changed in (
        {"held_out": [HeldOutRecord({**explainer, "options": {"patch": 0.5}}, figures)]},
        {"faithfulness": FaithfulnessRecord({"fractions": [0.1]})},
    ):
        with pytest.raises(ValueError, match="can't be compared"):
            check_baseline(replace(earlier, **changed), earlier)
