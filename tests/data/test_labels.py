"""Labels by name (fault B6): numbers of a model's classes, or an error that names the column."""

import pytest
import torch
from datasets import ClassLabel, Dataset, List, Value
from transformers import default_data_collator

from hf_e2kd import TextCollator
from hf_e2kd.data import AnnotatedCollator, DistillationTransform, encode_labels
from hf_e2kd.data.collate import FiniteBatches
from hf_e2kd.data.labels import encode_new_labels, refuse_partly_labelled
from hf_e2kd.store.text import SpanCollator
from tests.alignment.test_inputs import photograph, vit
from tests.tokenizers import STUDENT


def test_partly_labelled_data_are_refused_before_a_training():
    """Prevents: a training that ends hours later, at the first batch of samples with and without a label."""
    whole, none = (Dataset.from_dict({"label": labels}) for labels in (["a", "b"], [None, None]))
    part = Dataset.from_dict({"label": ["a", None, None]})
    refuse_partly_labelled([whole, none, whole.remove_columns("label")], "label")
    with pytest.raises(ValueError, match="2 of 3 samples have no label in the column 'label', the first is number 1,"):
        refuse_partly_labelled([whole, part], "label")


def test_names_become_the_models_numbers():
    """Prevents: "too many dimensions 'str'", or classes numbered by the alphabet and not by the model."""
    data = Dataset.from_dict({"label": ["good", " Bad", None, "good"], "text": list("abcd")})
    encoded = encode_labels(data, "label", ["bad", "good"])
    assert encoded["label"][:] == [1, 0, None, 1]
    assert encoded.features["label"] == ClassLabel(names=["bad", "good"])
    assert encoded["text"][:] == list("abcd")


@pytest.mark.parametrize("column", [{"label": [1, 0]}, {"text": ["a", "b"]}])
def test_numbers_and_nothing_stay(column):
    """Prevents: labels that are numbers already encoded anew, or a column that is asked for without need."""
    data = Dataset.from_dict(column)
    assert encode_labels(data, "label", ["bad", "good"]) is data


@pytest.mark.parametrize(("names", "known"), [(["bad", "good"], "are bad, good"), (None, "have no names")])
def test_unknown_names_are_listed(names, known):
    """Prevents: a label that is silently left out, or a remedy that isn't named."""
    data = Dataset.from_dict({"mood": ["glad", "bad"]})
    with pytest.raises(ValueError, match=f"'mood' holds labels by name.*'glad'.*classes {known}.*id2label.*'mood'"):
        encode_labels(data, "mood", names)


def test_a_name_of_several_classes_is_no_number():
    """Prevents: the last of two classes of one name taken, or a refusal of data that hold neither of them."""
    names = ["crane", "cat", "Crane", "cat fish", "cat fish"]
    with pytest.raises(ValueError, match=r"holds ' CRANE', which the model calls its classes \[0, 2\] alike"):
        encode_labels(Dataset.from_dict({"label": [" CRANE", "cat"]}), "label", names)
    encoded = encode_labels(Dataset.from_dict({"label": ["cat", "Cat"]}), "label", names)
    assert encoded["label"][:] == [1, 1]


def test_new_classes_are_numbered_alike_in_all_splits():
    """Prevents: a teacher trained on one numbering and measured on another."""
    splits = [Dataset.from_dict({"label": ["c", "a"]}), Dataset.from_dict({"label": ["b", "c"]})]
    assert [split["label"][:] for split in encode_new_labels(splits, "label")] == [[2, 0], [1, 2]]


def test_collator_and_transform_name_the_remedy():
    """Prevents: a TypeError of torch.tensor, or labels that the default collator drops without a word."""
    with pytest.raises(ValueError, match=r"'label' holds 'good' where a class's number.*encode_labels\(dataset, 'lab"):
        TextCollator(STUDENT)([{"text": "a film", "label": "good"}])
    with pytest.raises(ValueError, match=r"'mood' holds 'good'.*encode_labels\(dataset, 'mood'"):
        DistillationTransform(vit(), label_column="mood")({"image": [photograph(9, 9)], "mood": ["good"]})


def of_several(label, classes=3):
    """A photograph's labels as the transform gives them."""
    transform = DistillationTransform(vit(32), label_column="labels", classes=classes)
    (found,) = transform({"image": [photograph(40, 40)], "labels": [label]})["labels"]
    return found.tolist()


def test_vectors_of_several_labels_stay():
    """Prevents: zeros and ones taken for the numbers of the classes 0 and 1, which then every image shows."""
    assert of_several([0.0, 1.0, 0.0]) == of_several([False, True, False]) == of_several([1]) == [0, 1, 0]
    assert of_several([0.25, 0.75], classes=None) == [0.25, 0.75]
    assert of_several([0, 2]) == of_several([2, 0, 0, 0]) == [1, 0, 1] and of_several([]) == [0, 0, 0]
    assert of_several([0, 1], classes=2) == [1, 1]
    for label, classes in (([0, 1, 0], 3), ([0, 0, 0], 3), ([1, 0], 2)):
        with pytest.raises(ValueError, match="may be a vector of zeros and ones, or the numbers of classes"):
            of_several(label, classes)
    data = Dataset.from_dict({"labels": [[0, 1, 0]]}).cast_column("labels", List(Value("float32")))
    assert of_several(data[0]["labels"]) == [0, 1, 0]
    with pytest.raises(ValueError, match="a vector of 2 labels, .*, and there are 3 classes"):
        of_several([0.0, 1.0])


def test_lists_of_names_are_refused_with_the_remedy():
    """Prevents: "'<=' not supported between instances of 'int' and 'str'"."""
    with pytest.raises(ValueError, match=r"'labels' holds \['dog', 'cat'\] where numbers .* are expected.*cast_column"):
        of_several(["dog", "cat"])
    data = Dataset.from_dict({"labels": [["dog", "cat"]]})
    data = data.cast_column("labels", List(ClassLabel(names=["cat", "dog", "cow"])))
    assert of_several(data[0]["labels"]) == [1, 1, 0]


@pytest.mark.parametrize("kind", ["text", "default", "annotated"])
def test_lists_of_different_lengths_are_refused_with_the_remedy(kind):
    """Prevents: "stack expects each tensor to be equal size" for texts of one and of two classes."""
    data = Dataset.from_dict({"text": ["good", "bad"], "labels": [[1], [0, 2]]})
    collator = {"text": TextCollator(STUDENT), "annotated": AnnotatedCollator()}.get(kind)
    collator = FiniteBatches(default_data_collator if collator is None else collator)
    shown = data if kind == "text" else data.remove_columns("text")
    with pytest.raises(ValueError, match=r"lists of different lengths, such as \[1\] and \[0, 2\].*dataset.map"):
        collator(list(shown))
    vectors = shown.map(lambda row: {"labels": [int(n in row["labels"]) for n in range(3)]})
    assert torch.equal(collator(list(vectors))["labels"], torch.tensor([[0, 1, 0], [1, 0, 1]]))


def test_lists_of_different_lengths_of_texts_to_be_stored():
    """Prevents: NumPy's "inhomogeneous shape" in the place of the remedy."""
    samples = [{"text": "good", "label": [1]}, {"text": "bad", "label": [0, 2]}]
    with pytest.raises(ValueError, match=r"lists of different lengths, such as \[1\] and \[0, 2\].*dataset.map"):
        SpanCollator(STUDENT)(samples)
