"""Zero-shot teachers, against the dual encoders that they are made of."""

import pytest
import torch
from PIL import Image
from transformers import (
    AutoModelForImageClassification,
    CLIPConfig,
    CLIPModel,
    SiglipConfig,
    SiglipModel,
    ViTImageProcessor,
    pipeline,
)

from hf_e2kd import explain
from hf_e2kd.experiments import zero_shot_teacher
from tests.models import build, randomise
from tests.tokenizers import STUDENT
from tests.training import distiller, logged, samples

LABELS = ["a warm film", "bad", "sleep", "boring at all", "a cat"]
SIZES = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
VISION = {**SIZES, "hidden_size": 24, "image_size": 32, "patch_size": 8}
TEXT = {**SIZES, "hidden_size": 24, "vocab_size": len(STUDENT), "max_position_embeddings": 64}
SPECIAL = {
    "eos_token_id": STUDENT.sep_token_id,
    "bos_token_id": STUDENT.cls_token_id,
    "pad_token_id": STUDENT.pad_token_id,
}


def clip():
    return CLIPModel(CLIPConfig(text_config={**TEXT, **SPECIAL}, vision_config=VISION, projection_dim=12))


def siglip():
    return SiglipModel(SiglipConfig(text_config={**TEXT, **SPECIAL, "projection_size": 24}, vision_config=VISION))


@pytest.fixture(params=[clip, siglip], ids=["CLIP", "SigLIP"])
def encoder(request, tmp_path):
    """A folder with a tiny dual encoder, its tokenizer and image processor."""
    model = request.param().eval()
    with torch.no_grad():
        randomise(model)
    model.save_pretrained(tmp_path)
    STUDENT.save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    return model, tmp_path


def test_checkpoints_in_half_precision_stay_so(encoder):
    """Prevents: prompts in another precision than their encoder, which end in an error."""
    model, folder = encoder
    model.to(torch.bfloat16).save_pretrained(folder)
    teacher, _ = zero_shot_teacher(str(folder), LABELS)
    assert {parameter.dtype for parameter in teacher.parameters()} == {torch.bfloat16}
    assert teacher(pixel_values=torch.zeros(1, 3, 32, 32, dtype=torch.bfloat16)).logits.isfinite().all()


def test_logits_and_probabilities(encoder, tmp_path):
    """Prevents: an embedding that isn't normalised, a bias or a scale left out, prompts in another order."""
    model, folder = encoder
    teacher, processor = zero_shot_teacher(str(folder), LABELS)
    picture = Image.effect_noise((40, 50), 80).convert("RGB")
    pixels = processor(picture, return_tensors="pt")["pixel_values"]
    settings = {"padding": "max_length", "max_length": 64} if isinstance(model, SiglipModel) else {"padding": True}
    prompts = STUDENT([f"This is a photo of {label}." for label in LABELS], return_tensors="pt", **settings)
    prompts.pop("token_type_ids", None)
    with torch.no_grad():
        expected = model(**prompts, pixel_values=pixels).logits_per_image
        found = teacher(pixel_values=pixels).logits
    torch.testing.assert_close(found, expected)
    scores = {
        each["label"]: each["score"]
        for each in pipeline("zero-shot-image-classification", str(folder))(picture, candidate_labels=LABELS)
    }
    likely = found[0].sigmoid() if isinstance(model, SiglipModel) else found[0].softmax(0)
    assert [scores[label] for label in LABELS] == pytest.approx(likely.tolist(), abs=1e-5)
    assert (teacher.config.problem_type == "multi_label_classification") == isinstance(model, SiglipModel)
    teacher.save_pretrained(tmp_path / "teacher")
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "teacher").eval()
    torch.testing.assert_close(loaded(pixel_values=pixels).logits, expected)
    assert list(loaded.config.id2label.values()) == LABELS


@pytest.mark.parametrize("method", ["gradcam", "attention_gradient", "saliency"])
def test_it_is_explained_and_distilled(encoder, tmp_path, method):
    """Prevents: a teacher whose maps are empty, or of tokens that aren't patches."""
    teacher, _ = zero_shot_teacher(str(encoder[1]), LABELS)
    images = torch.randn(3, 3, 32, 32)
    explanation = explain(teacher, images, method)
    assert explanation.maps.shape == ((3, 32, 32) if method == "saliency" else (3, 4, 4))
    assert explanation.maps.abs().amax((1, 2)).min() > 0
    student = build("resnet" if method != "attention_gradient" else "vit")
    student.config.id2label = dict(enumerate(LABELS))
    student.config.problem_type = teacher.config.problem_type
    trainer = distiller(student, teacher, tmp_path, {"explainer": method, "max_steps": 2}, train_dataset=samples(4))
    trainer.train()
    assert min(logged(trainer, "loss_explanation")) > 0 and min(logged(trainer, "loss_logits")) > 0


def test_several_templates_are_averaged(encoder):
    """Prevents: prompts whose lengths weigh in their mean, and a mean that isn't normalised."""
    folder = str(encoder[1])
    each = [zero_shot_teacher(folder, LABELS, template)[0].prompts.weight for template in ("a {}", "the {} film")]
    both = zero_shot_teacher(folder, LABELS, ["a {}", "the {} film"])[0].prompts.weight
    torch.testing.assert_close(both, torch.nn.functional.normalize(each[0] + each[1], dim=1))


def test_bad_requests(encoder, tmp_path):
    """Prevents: classes without a prompt of their own, and errors from inside another model's forward."""
    folder = str(encoder[1])
    for labels, template, message in (
        ([], "a {}", "needs the names of its classes"),
        ("cat", "a {}", "needs the names of its classes"),
        (["cat", "Cat "], "a {}", "Two of the labels are alike"),
        (LABELS, "ein Foto", "'ein Foto' has no place for a label"),
        (LABELS, [], "has no place for a label"),
    ):
        with pytest.raises(ValueError, match=message):
            zero_shot_teacher(folder, labels, template)
    build("vit").save_pretrained(tmp_path / "vit")
    with pytest.raises(ValueError, match="is a ViTModel, no dual encoder"):
        zero_shot_teacher(str(tmp_path / "vit"), LABELS)
