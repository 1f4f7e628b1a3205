"""What the viewer says of one sample, against the models asked directly."""

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from hf_e2kd.alignment.texts import tokenize_texts
from hf_e2kd.data.transforms import DistillationTransform
from hf_e2kd.experiments.sources import Classifier
from hf_e2kd.explainers import build_explainer, explain
from hf_e2kd.metrics import explanation_similarity
from hf_e2kd.viewer.comparison import LONGEST_TEXT, NARROWEST, SHOWN, Pair, share
from hf_e2kd.viewer.listing import disagreement
from hf_e2kd.viewer.markup import comparison_section
from hf_e2kd.viewer.overview import caption
from hf_e2kd.viewer.report import report_page
from tests.models import CLASS_NAMES, CLASSES, build
from tests.text_models import build_text
from tests.tokenizers import STUDENT, TEACHER, SlowTokenizer, text_model, tokenizer

from .pairs import SENTENCE, image_pair, photo, processor, reordered, score_pair, text_pair

GRADCAM = build_explainer("gradcam")


def test_classes_are_matched_by_name():
    """Prevents: class 0 of one model compared with class 0 of the other, which is another class there."""
    model = build("vit", seed=1)
    pair = Pair(Classifier(model, processor(), False), Classifier(reordered(model), processor(), False), "cpu")

    for target in ("teacher_top", "student_top", 1):
        (found,) = pair.compare([photo()], GRADCAM, target)
        assert found.agree and found.teacher.names == found.student.names
        assert found.teacher.probabilities == pytest.approx(found.student.probabilities, abs=1e-5)
        assert found.similarity == pytest.approx(1, abs=1e-5)
        assert found.difference().abs().max() < 1e-4
        assert pair.meant(pair.names[1].upper()) == {pair.names[1]} and not pair.meant("sofa")
        assert found.explained == (pair.names[1] if target == 1 else found.teacher.names[0])


def test_a_name_goes_before_another_class_s_synonym():
    """Prevents: a Cardigan Welsh corgi called right where the label is ImageNet's "cardigan", a sweater."""
    dog = "Cardigan, Cardigan Welsh corgi"
    names = [dog, "cardigan", "tench, Tinca tinca", "eel", "crib, cot"]
    student, teacher = build("vit", seed=1), build("vit", seed=2)
    teacher.config.id2label, student.config.id2label = (dict(enumerate(own)) for own in (names, [*names[:4], "sofa"]))
    pair = Pair(Classifier(teacher, processor(), False), Classifier(student, processor(), False), "cpu")
    assert pair.meant("Cardigan") == {"cardigan"} and pair.meant("Tinca_tinca") == {names[2]}
    assert pair.meant(dog) == {dog} and not pair.meant("crib")
    # The sweater is a class of the teacher's alone.
    student.config.id2label = dict(enumerate([dog, "sofa", *names[2:]]))
    assert not Pair(Classifier(teacher, processor(), False), Classifier(student, processor(), False), "cpu").meant(
        "cardigan"
    )


@pytest.mark.parametrize("target", ["teacher_top", "student_top", 2])
def test_an_image_through_both_processors(target):
    """Prevents: a model shown the other's size or intensities, a map of another class, or a similarity of its own."""
    pair, image = image_pair(), photo()
    shown = DistillationTransform(processor(48, 0.4), processor())({"image": [image]})
    inputs = {"teacher": shown["teacher_pixel_values"][0][None], "student": shown["pixel_values"][0][None]}
    logits = {side: explain(pair.models[side], inputs[side], GRADCAM).logits[0] for side in inputs}
    explained = target if target == 2 else int(logits[target.removesuffix("_top")].argmax())

    (found,) = pair.compare([image], GRADCAM, target)

    for side in inputs:
        reading = getattr(found, side)
        expected = explain(pair.models[side], inputs[side], GRADCAM, target=explained).maps[0]
        torch.testing.assert_close(reading.map, expected)
        likely = logits[side].softmax(0).topk(3)
        assert reading.top == likely.indices.tolist()
        assert reading.probabilities == pytest.approx(likely.values.tolist(), abs=1e-5)
        assert reading.explained == pytest.approx(logits[side].softmax(0)[explained].item(), abs=1e-5)
        assert reading.names == [CLASS_NAMES[index] for index in reading.top]
    assert found.explained == CLASS_NAMES[explained]
    assert found.agree == (found.teacher.top[0] == found.student.top[0])
    similarity = explanation_similarity(found.student.map[None], found.teacher.map[None], inputs["student"].shape[-2:])[
        0
    ].item()
    assert found.similarity == pytest.approx(similarity)
    size = found.sample.height, found.sample.width
    student, teacher = (
        F.interpolate(reading.map[None, None], size, mode="bilinear")[0, 0].clamp(min=0)
        for reading in (found.student, found.teacher)
    )
    torch.testing.assert_close(found.difference(), student / student.max() - teacher / teacher.max())


def test_words_of_two_tokenizers():
    """Prevents: a word's score read from its neighbour's tokens, or padding among the words of a batch."""
    pair, explainer = text_pair(), build_explainer("input_x_gradient")
    texts = [SENTENCE, "A warm film"]

    together = pair.compare(texts, explainer)

    for text, found in zip(texts, together, strict=True):
        batches, (words,) = tokenize_texts([(text,)], (TEACHER, 24), (STUDENT, 24))
        assert found.words == words and " ".join(words) == " ".join(found.words)
        explained = list(pair.names).index(found.explained)
        for side, batch in zip(("teacher", "student"), batches, strict=True):
            expected = explain(pair.models[side], batch, explainer, target=explained).maps[0]
            torch.testing.assert_close(getattr(found, side).map, expected, rtol=1e-3, atol=1e-5)
        difference = share(found.student.map) - share(found.teacher.map)
        torch.testing.assert_close(found.difference(), difference.clamp(-1, 1))


def test_a_text_of_a_megabyte_is_cut():
    """Prevents: a page that hangs, or a silent cut that the reader takes for the whole text."""
    text = "A warm and wonderful film. " * 40_000

    (found,) = text_pair().compare([text], build_explainer("saliency"))

    assert text.startswith(found.sample) and len(found.sample) < 200
    assert found.notes == [f"The text has {len(text):,} characters; the first {len(found.sample):,} are compared."]


@pytest.mark.parametrize("teacher_side", ["left", "right"])
def test_a_text_whose_end_is_read(teacher_side):
    """Prevents: the text's beginning compared, or said to be, where the models read its end; or one model's end cut out
    of the other's beginning."""
    text = "dull " * 8_000 + "a warm and wonderful film"
    sides = {"teacher": teacher_side, "student": "left"}
    own = {side: tokenizer("wordpiece", truncation_side=end, model_max_length=12) for side, end in sides.items()}
    models = {side: text_model("bert", 1, each) for side, each in own.items()}
    pair = Pair(*(Classifier(models[side], own[side], True, side) for side in sides), "cpu")

    (found,) = pair.compare([text], build_explainer("saliency"))

    if teacher_side == "left":
        assert text.endswith(found.sample) and found.words[-4:] == ["warm", "and", "wonderful", "film"]
        assert found.notes == [f"The text has {len(text):,} characters; the last {len(found.sample):,} are compared."]
    else:
        assert found.sample == text[:LONGEST_TEXT]


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 7)])
def test_images_of_any_shape(size):
    """Prevents: a crash at an image of one pixel or line, or a picture too narrow to be seen."""
    (found,) = image_pair().compare([Image.new("RGB", size, "red")], GRADCAM)

    assert max(found.sample.size) == SHOWN and min(found.sample.size) >= NARROWEST
    assert found.teacher.map.isfinite().all()


def test_an_empty_map_is_like_nothing():
    """Prevents: a similarity of 0 or NaN where the teacher's map says nothing."""
    pair = image_pair()
    with torch.no_grad():
        pair.models["teacher"].classifier.weight.zero_()

    (found,) = pair.compare([photo()], GRADCAM)

    assert found.similarity is None and not found.teacher.map.any()
    assert disagreement(found)[1] == float("inf")


def test_offers_what_suits_both_models():
    """Prevents: methods of images offered for texts, or of attention for a timm model that gives none."""
    assert image_pair("vit", "wrapped_resnet").explainers() == [
        "gradcam",
        "hires_cam",
        "input_x_gradient",
        "integrated_gradients",
        "layer_cam",
        "saliency",
    ]
    assert "gradcam" not in text_pair().explainers() and "attention_gradient" in text_pair().explainers()


def one_class():
    model = build("vit")
    model.config.id2label = {0: "only"}
    return model


@pytest.mark.parametrize(
    ("student", "message"),
    [
        (
            lambda: Classifier(build_text("bert"), STUDENT, True, "reader"),
            "'teacher' classifies images and the student",
        ),
        (lambda: Classifier(one_class(), processor(), False), "share no label"),
        (
            lambda: Classifier(build("vit"), ViTImageProcessorWithoutSize(), False),
            "states no size with 'height' and 'width'",
        ),
    ],
)
def test_models_that_cant_be_compared(student, message):
    """Prevents: a page that opens and fails at every sample."""
    with pytest.raises(ValueError, match=message):
        Pair(Classifier(build("vit"), processor(), False, "teacher"), student(), "cpu")


class ViTImageProcessorWithoutSize:
    do_resize = do_rescale = True


def test_refuses_slow_tokenizers():
    """Prevents: words without their scores, for want of offsets."""
    sides = [Classifier(build_text("bert"), tokenizer, True) for tokenizer in (STUDENT, SlowTokenizer())]
    with pytest.raises(ValueError, match="slow tokenizer"):
        Pair(*sides, "cpu")


def test_bad_requests_are_named():
    """Prevents: a traceback in place of what to do."""
    pair = image_pair()
    for target in (CLASSES, -1, "top", 1.5, {"class": 1}, None):
        with pytest.raises(ValueError, match=f"no class .*: both models know {CLASSES}"):
            pair.compare([photo()], GRADCAM, target)
    with pytest.raises(ValueError, match="The text is empty"):
        text_pair().compare(["  \n"], build_explainer("saliency"))
    with pytest.raises(ValueError, match="explain others, such as this one, by"):
        image_pair().compare([photo()], build_explainer("bcos"))


def test_scores_are_shown_as_scores():
    """Prevents: a reranker's score as "100 %" of its only class, or such models refused (fault A2)."""
    pair = score_pair()
    teacher, student = pair.models["teacher"], pair.models["student"]
    (found,) = pair.compare([SENTENCE], build_explainer("input_x_gradient"))
    for model, its, reading in ((teacher, TEACHER, found.teacher), (student, STUDENT, found.student)):
        inputs = its([SENTENCE], return_tensors="pt", truncation=True, max_length=24)
        assert reading.score == pytest.approx(model(**inputs).logits.item(), abs=1e-5)
    page = comparison_section(found)
    assert f"The teacher scores <b>{found.teacher.score:.3f}</b>" in page and "%</span>" not in page
    assert caption(found).startswith(f"{found.teacher.score:.2f} | {found.student.score:.2f} · ")
    assert "Same class" not in report_page([found, found], {})
