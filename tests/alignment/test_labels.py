"""Classes of two models: matched by name, by index with a warning, or refused."""

import warnings

import datasets
import pytest
import timm
import torch
from transformers import ResNetConfig, ResNetForImageClassification

from hf_e2kd.alignment import align_labels, labels_belong_to
from hf_e2kd.alignment.captions import named_labels
from hf_e2kd.alignment.labels import (
    DataLabels,
    align_names,
    choose_positive,
    data_labels,
    dataset_label_names,
    list_positives,
)
from hf_e2kd.data.groups import GroupedDataset, read_groups


def model(names=None, count=3):
    sizes = {"embedding_size": 4, "hidden_sizes": [4], "depths": [1], "layer_type": "basic"}
    labels = {"num_labels": count} if names is None else {"id2label": dict(enumerate(names))}
    return ResNetForImageClassification(ResNetConfig(**sizes, **labels))


@pytest.fixture
def _no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.usefixtures("_no_warning")
class TestByName:
    def test_same_order(self):
        """Prevents: a copy of the logits where nothing has to be moved."""
        alignment = align_labels(model(["cat", "dog", "owl"]), model(["cat", "dog", "owl"]))
        logits = torch.randn(2, 3)

        assert alignment.is_identity
        assert alignment.teacher_logits(logits) is logits
        assert alignment.student_logits(logits) is logits

    def test_case_and_blanks_do_not_matter(self):
        """Prevents: 'Dog' and 'dog ' counted as two classes."""
        assert align_labels(model(["Cat", " dog", "OWL"]), model(["cat", "dog ", "owl"])).is_identity

    def test_permuted(self):
        """Prevents: a student that is taught to call a cat a dog."""
        alignment = align_labels(model(["cat", "dog", "owl"]), model(["owl", "cat", "dog"]))
        teacher = torch.tensor([[10.0, 20.0, 30.0]])  # cat, dog, owl

        assert not alignment.is_identity
        assert alignment.teacher_logits(teacher).tolist() == [[30.0, 10.0, 20.0]]
        assert alignment.student_logits(torch.tensor([[3.0, 1.0, 2.0]])).tolist() == [[3.0, 1.0, 2.0]]
        top = alignment.teacher_logits(teacher).argmax(1)
        assert alignment.to_teacher(top).tolist() == [2]
        assert alignment.to_student(top).tolist() == [0]

    def test_partial_overlap(self):
        """Prevents: a softmax over classes that one side doesn't have, or a top class that the student lacks."""
        alignment = align_labels(model(["cat", "dog", "owl", "fox"]), model(["fox", "bee", "dog"]))
        teacher = torch.tensor([[9.0, 1.0, 8.0, 2.0]])

        assert alignment.teacher_logits(teacher).tolist() == [[2.0, 1.0]]
        assert alignment.student_logits(torch.tensor([[5.0, 6.0, 7.0]])).tolist() == [[5.0, 7.0]]
        top = alignment.teacher_logits(teacher).argmax(1)
        assert alignment.to_teacher(top).tolist() == [3]
        assert alignment.to_student(top).tolist() == [0]
        labels = torch.tensor([0, 1, 2, -100, 7])
        assert alignment.student_to_shared(labels).tolist() == [0, -1, 1, -1, -1]

    def test_ambiguous_is_refused(self):
        """Prevents: one of two equally named classes taken by chance (ImageNet has two 'crane's)."""
        with pytest.raises(ValueError, match="teacher's classes 0 and 2 are both named 'Crane'"):
            align_labels(model(["crane", "dog", "Crane "]), model(["crane", "dog", "owl"]))
        with pytest.raises(ValueError, match="student's classes 0 and 1 are both named 'dog'"):
            align_labels(model(["crane", "dog", "owl"]), model(["dog", "dog", "owl"]))

    def test_a_name_twice_on_one_side_alone_does_no_harm(self):
        """Prevents: a teacher of ImageNet, with its two cranes, refused for a student of ten other classes."""
        alignment = align_names(["crane", "dog", "Crane", "owl"], ["owl", "dog"])
        assert (alignment.teacher.tolist(), alignment.student.tolist()) == ([3, 1], [0, 1])
        assert align_names(["owl", "dog"], ["crane", "crane", "dog"]).student.tolist() == [2]

    def test_no_overlap_is_refused(self):
        """Prevents: two label spaces distilled into each other by index."""
        with pytest.raises(ValueError, match=r"share no label.*'cat', 'dog'.*'bee', 'fox'.*id2label"):
            align_labels(model(["cat", "dog"]), model(["bee", "fox"]))


class TestByIndex:
    def test_names_on_one_side(self):
        """Prevents: a silent guess where one side has only LABEL_0, LABEL_1, …"""
        with pytest.warns(UserWarning, match="No label names on one side: the 3 classes.*matched by index") as caught:
            alignment = align_labels(model(["cat", "dog", "owl"]), model(count=3))

        assert alignment.is_identity
        assert len(caught) == 1

    def test_names_on_no_side(self):
        """Prevents: the same, where neither side has names."""
        with pytest.warns(UserWarning, match="No label names on both sides"):
            assert align_labels(model(count=4), model(count=4)).is_identity

    def test_scores_need_no_name(self):
        """Prevents: a reranker refused, or warned of, because its teacher calls the score by another name (A2)."""
        for teacher, student in ((["relevance"], None), (["relevance"], ["score"]), (None, None)):
            sides = [model(names, count=1) for names in (teacher, student)]
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                assert align_labels(*sides).is_identity

    def test_bare_timm(self):
        """Prevents: a timm model, which has no names, refused although the counts are equal."""
        teacher = timm.create_model("test_vit", num_classes=3)

        with pytest.warns(UserWarning, match="matched by index"):
            assert align_labels(teacher, model(["cat", "dog", "owl"])).is_identity

    def test_unequal_counts_are_refused(self):
        """Prevents: the first classes of a longer list taken for the whole of a shorter one."""
        with pytest.raises(ValueError, match="teacher has 4 classes and the student 3.*Set `id2label` on both"):
            align_labels(model(count=4), model(["cat", "dog", "owl"]))

    def test_unknown_counts_are_refused(self):
        """Prevents: a model of one's own that says nothing of its classes matched blindly."""
        with pytest.raises(ValueError, match="student doesn't say what it classifies"):
            align_labels(torch.nn.Linear(3, 2), torch.nn.Linear(3, 2))

    def test_count_of_names_stands_for_the_logits(self):
        """Prevents: counts read from elsewhere than from the side that has names."""
        with pytest.raises(ValueError, match="student 2"):
            align_names(None, ["cat", "dog"], 3, 2)


def data(names=None, column="label"):
    features = {column: datasets.ClassLabel(names=names) if names else datasets.Value("int64")}
    return datasets.Dataset.from_dict({column: [0, 0]}, features=datasets.Features(features))


def test_a_name_twice_that_the_data_lack():
    """Prevents: labels left out of the evaluation of a model that has two cranes, on data that have none."""
    match = data_labels(data(["owl", "cat"]), model(["crane", "cat", "crane", "owl"]))
    assert match(torch.tensor([0, 1, -100])).tolist() == [3, 1, -100]
    assert data_labels(data(["crane", "cat"]), model(["crane", "cat", "crane", "owl"])) is None


@pytest.mark.parametrize("column", ["label", "labels"])
def test_names_of_a_data_set(column):
    """Prevents: a data set's label names overlooked, or made up where it has none."""
    assert dataset_label_names(data(["cat", "dog"], column)) == ["cat", "dog"]
    assert dataset_label_names(data(None, column)) is None
    assert dataset_label_names([{"labels": 0}]) is None
    assert dataset_label_names(None) is None
    # A part of a data set has the whole's classes.
    assert dataset_label_names(torch.utils.data.Subset(data(["cat", "dog"], column), [0])) == ["cat", "dog"]


def test_names_of_concatenated_data_sets():
    """Prevents: other classes trained and scored, as the labels of concatenated data were taken by number."""
    concat, student = torch.utils.data.ConcatDataset, model(["cat", "dog"])
    parts = [data(["dog", "cat"]), torch.utils.data.Subset(data(["dog", "cat"]), [0]), [{"label": 0}]]
    grouped = GroupedDataset(concat(parts[::2]), read_groups([{"place": "sea"}] * 3, ["place"]))
    for whole in (concat(parts), concat([concat(parts[:2]), parts[2]]), grouped):
        assert dataset_label_names(whole) == ["dog", "cat"]
        assert data_labels(whole, student)(torch.tensor([0, 1])).tolist() == [1, 0]
    assert not labels_belong_to(concat([data(["bee", "fox"])] * 2), student)
    other = concat([data(["dog", "cat"]), data(["cat", "dog"])])  # numbered otherwise
    assert dataset_label_names(other) is None and not labels_belong_to(other, student)


def test_names_of_the_column_that_is_read():
    """Prevents: names of a column that isn't read, where the labels' own states none."""
    features = {"label": datasets.ClassLabel(names=["cat", "dog"]), "stars": datasets.Value("int64")}
    both = datasets.Dataset.from_dict({"label": [0], "stars": [3]}, features=datasets.Features(features))
    assert dataset_label_names(both, "stars") is None
    assert dataset_label_names(both, "label") == dataset_label_names(both, "gone") == ["cat", "dog"]


@pytest.mark.parametrize(
    ("names", "labels", "belong"),
    [
        (["cat", "dog"], ["cat", "dog"], True),
        (["Cat ", "dog"], ["cat", "DOG"], True),
        (["cat", "dog"], ["dog", "cat"], True),
        (["cat", "dog"], ["Dog"], True),
        (["cat", "cat"], ["cat"], False),
        (["cat", "dog"], ["bee", "fox"], False),
        (["cat", "dog"], ["cat", "dog", "owl"], False),
        (["cat", "dog"], None, True),
        (None, ["cat", "dog"], True),
        (None, ["cat", "dog", "owl"], False),
    ],
)
def test_labels_belong_to(names, labels, belong):
    """Prevents: furniture scored as birds, because both count from 0."""
    assert labels_belong_to(data(labels), model(names, count=2)) is belong


def test_alignment_moves_with_its_tensors():
    """Prevents: an index tensor that stays on the CPU; its place is taken from what it is used with."""
    alignment = align_labels(model(["cat", "dog"]), model(["dog", "cat"]))

    assert alignment.teacher_logits(torch.zeros(1, 2, device="meta")).device.type == "meta"


# --- Several classes a sample ----------------------------------------------------------------------------------------


def test_each_positive_class_is_drawn_equally_often():
    """Prevents: a class that is guided more often because of its place in the list."""
    labels = torch.tensor([[0, 1, 0, 1, 1]]).repeat(3000, 1)
    uniform = torch.rand(3000, generator=torch.Generator().manual_seed(0))
    shares = torch.bincount(choose_positive(labels, uniform), minlength=5) / 3000
    assert shares[[0, 2]].tolist() == [0, 0]
    assert shares[[1, 3, 4]].tolist() == pytest.approx([1 / 3] * 3, abs=0.03)


def test_the_ends_of_the_draw():
    """Prevents: a random number next to 1 that rounds to a class that isn't there."""
    labels = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert choose_positive(labels, torch.zeros(3)).tolist() == [1, 0, -1]
    assert choose_positive(labels, torch.ones(3)).tolist() == [2, 0, -1]


def test_all_positives_are_listed():
    labels = torch.tensor([[0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 0, 1]])
    assert list_positives(labels).tolist() == [[1, 3, -1], [-1, -1, -1], [0, 1, 3]]
    assert list_positives(labels[1:2]).tolist() == [[-1]]


def test_no_class_stays_none():
    """Prevents: the padding of several targets that becomes the last shared class."""
    alignment = align_names(["a", "b", "c"], ["c", "a"])
    assert alignment.to_teacher(torch.tensor([[1, -1], [0, -1]])).tolist() == [[0, -1], [2, -1]]
    assert alignment.to_student(torch.tensor([-1, 0])).tolist() == [-1, 0]


@pytest.mark.parametrize(
    ("labels", "numbered"),
    [
        ([0, 1, -100], [1, 0, -100]),
        ([[0.25, 0.75]], [[0.75, 0.25]]),
    ],
    ids=str,
)
def test_labels_numbered_as_the_models(labels, numbered):
    """Prevents: class 0 of the data taken for class 0 of a model that names its classes in another order."""
    found = data_labels(data(["dog", "cat"]), model(["cat", "dog"], count=2))(torch.tensor(labels))
    assert found.tolist() == numbered


def test_names_of_labels():
    """Prevents: a caption by the data's number in the model's order, or of −100, which counts from the end."""
    own = model(["cat", "dog", "owl"])
    assert named_labels([0, 1, None, -100], data(["owl", "cat"]), own) == ["owl", "cat", None, None]
    assert named_labels([2], [{"label": 2}], own) == ["owl"]
    assert named_labels([0], data(["oak", "fir"]), own) is None
    assert named_labels([3.2], [{"label": 3.2}], model(count=1)) is None
    # Several a sample, as a list of the data or as a transform makes them.
    assert named_labels([[0.0, 1.0, 1.0]], [{"label": [0.0, 1.0, 1.0]}], own) == ["dog, owl"]
    assert named_labels([torch.zeros(3)], [{"label": [0.0, 1.0, 1.0]}], own) == ["none"]
    assert named_labels([None, [1.0, 0.0, 0.0], None], [{"label": [0.0, 1.0, 1.0]}], own) == [None, "cat", None]
    assert named_labels([None, None], [{"label": None}], own) == [None, None]


def test_labels_of_some_classes():
    """Prevents: labels of a data set with fewer classes, or the shares of them, left at the data set's numbers."""
    match = data_labels(data(["owl", "cat"]), model(["cat", "dog", "owl"], count=3))
    assert match(torch.tensor([0, 1], dtype=torch.int32)).tolist() == [2, 0]
    assert match(torch.tensor([[0.25, 0.75]])).tolist() == [[0.75, 0.0, 0.25]]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1, 2, 5, 5], r"the numbers \[5\], and the classes are numbered 0 to 4.*-100 alone"),
        ([-1, 0], r"the numbers \[-1\]"),
        ([0.5, 2.0], "of the type float32.*numbered 0 to 4, as integers"),
        ([[1], [2]], r"have the shape \(2, 1\)"),
        ([True, False], "of the type bool.*numbered 0 to 4, as integers"),
    ],
    ids=str,
)
def test_labels_of_no_class(labels, message):
    """Prevents: an accuracy that silently leaves out the samples numbered from 1, or with -1 for "unknown"."""
    with pytest.raises(ValueError, match=message):
        data_labels(None, model(None, count=5))(torch.tensor(labels))
    scores = model(None, count=1)
    assert data_labels(None, scores)(torch.tensor([7, -3])).tolist() == [7, -3]


def test_shares_of_more_columns_than_classes():
    """Prevents: mixed labels, as wide as the student's classes, left in the data set's order."""
    labels = DataLabels(3, torch.tensor([2, 0]))
    assert labels(torch.tensor([[1.0, 0.0]])).tolist() == [[0.0, 0.0, 1.0]]
    assert labels(torch.tensor([[0.25, 0.75, 0.0]])).tolist() == [[0.75, 0.0, 0.25]]
    for shares in ([[0.0, 0.0, 1.0]], [[1.0]]):
        with pytest.raises(ValueError, match="the data set numbers 2.*in its own order"):
            labels(torch.tensor(shares))
