"""The teacher beside itself on inputs that were changed too little to matter."""

import json

import pytest
import torch
from datasets import Dataset
from torch.nn import functional as F
from transformers import ViTImageProcessor

import hf_e2kd
from hf_e2kd import AnnotationReference, ExplanationDistillTrainer, TextCollator
from hf_e2kd.explainers import InputXGradient
from hf_e2kd.fidelity import Control, FidelityRecord, measure_fidelity
from hf_e2kd.fidelity.control import append_tokens
from hf_e2kd.fidelity.verify import verify
from hf_e2kd.metrics import explanation_similarity
from tests.models import build
from tests.tokenizers import STUDENT, TEACHER, text_model
from tests.trainer.test_scores import score_trainer
from tests.training import arguments, distiller, samples

PROCESSOR = ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.5] * 3, image_std=[0.25] * 3)
TEXTS = Dataset.from_dict({"text": ["a fine film", "The film was dull", "good", "Don't waste a long film"]})
ALONE = {"costs": False, "chance": False}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A trainer of images in [0, 1], and its record with noise, beside another student."""
    data = samples(5, seed=7)
    for sample in data:
        sample["pixel_values"] = (sample["pixel_values"].sigmoid() - 0.5) / 0.25
    trainer = distiller(
        build("vit"),
        build("resnet", seed=1),
        tmp_path_factory.mktemp("out"),
        eval_dataset=data,
        processing_class=PROCESSOR,
    )
    other = build("vit", seed=3)
    control = Control(sigma=40)
    return trainer, other, measure_fidelity(trainer, compared={"other": other}, control=control, seed=3, **ALONE)


def pixels_of(trainer, rows):
    return torch.stack([trainer.eval_dataset[row]["pixel_values"] for row in rows])


def itself(teacher, clean, changed):
    """The teacher's similarity, agreement and divergence, worked out apart."""
    with torch.no_grad():
        own, other = (F.log_softmax(teacher(pixels).logits, dim=1) for pixels in (clean, changed))
    target = own.argmax(1)
    maps = [hf_e2kd.explain(teacher, pixels, "gradcam", target).maps for pixels in (changed, clean)]
    return {
        "explanation_similarity": explanation_similarity(*maps, (32, 32))[0].mean().item(),
        "agreement": (other.argmax(1) == target).float().mean().item(),
        "kl": (own.exp() * (own - other)).sum(1).mean().item(),
    }


def test_noise_is_on_the_intensities(measured):
    """Prevents: noise on normalised values or beyond white; the changed image's own class explained."""
    trainer, other, record = measured
    clean, teacher = pixels_of(trainer, record.data.samples), trainer.references["teacher"].model
    draw = torch.Generator().manual_seed(3)
    noise = torch.stack([torch.randn(3, 32, 32, generator=draw) for _ in clean])
    changed = ((clean * 0.25 + 0.5 + noise * 40 / 255).clamp(0, 1) - 0.5) / 0.25
    for name, value in itself(teacher, clean, changed).items():
        figure = record.control.figures[name]
        assert figure.value == pytest.approx(value, abs=1e-5) and figure.samples == 5, name
        assert figure.low <= figure.value <= figure.high
    assert record.control.figures["explanation_similarity"].value < 0.999
    assert record.control.options == {"kind": "noise", "sigma": 40}
    for student, figures in ((trainer.student, record.figures), (other, record.compared["other"])):
        with torch.no_grad():
            theirs, own = (F.log_softmax(model.eval()(clean).logits, dim=1) for model in (teacher, student))
        assert figures["kl"].value == pytest.approx((theirs.exp() * (theirs - own)).sum(1).mean().item(), abs=1e-5)


def test_an_image_is_shifted_by_a_pixel(measured):
    """Prevents: an image that is rolled round its edge."""
    trainer, _, _ = measured
    record = measure_fidelity(trainer, control="shift", **ALONE)
    clean = pixels_of(trainer, record.data.samples)
    changed = clean.clone()
    changed[..., 1:, 1:] = clean[..., :-1, :-1]
    changed[..., 0, 1:], changed[..., 1:, 0] = clean[..., 0, :-1], clean[..., :-1, 0]
    expected = itself(trainer.references["teacher"].model, clean, changed)
    found = {name: figure.value for name, figure in record.control.figures.items()}
    assert found == pytest.approx(expected, abs=1e-5) and record.control.options == {"kind": "shift", "pixels": 1}
    # A record's number of pixels takes no memory.
    far = Control("shift", pixels=10**6).shifted(clean)
    assert torch.equal(far, clean[..., :1, :1].expand_as(clean))


def test_a_control_is_repeated_verified_and_read(measured, tmp_path):
    """Prevents: another noise in each batch size or measurement; a made-up control that passes; old records."""
    trainer, _, record = measured
    trainer.args.per_device_eval_batch_size = 2
    again = measure_fidelity(trainer, control=Control(sigma=40), seed=3, **ALONE)
    checks = {check.name: check.holds for check in verify(record, again, tolerance=1e-5)}
    assert checks["control, explanation similarity"] and checks["control, kl"] and checks["kl"]
    failed = [check.name for check in verify(record, measure_fidelity(trainer, **ALONE)) if check.holds is False]
    assert failed == ["kl", "control, agreement", "control, kl", "control, explanation similarity"]
    record.save(tmp_path)
    assert FidelityRecord.load(tmp_path) == record
    content = json.loads((tmp_path / "fidelity.json").read_text())
    del content["control"]
    assert FidelityRecord.from_dict(content).control is None


@pytest.mark.parametrize("two", [False, True], ids=["one tokenizer", "two"])
def test_texts_end_in_another_word(tmp_path, two):
    """Prevents: words after the final special token, or counted among those that are compared."""
    tokenizer, other = (TEACHER, STUDENT) if two else (STUDENT, None)
    student, teacher = text_model("bert"), text_model("roberta", 1, TEACHER) if two else text_model("bert", 1)
    trainer = ExplanationDistillTrainer(
        student,
        arguments(tmp_path, explainer="input_x_gradient", remove_unused_columns=False),
        eval_dataset=TEXTS,
        data_collator=TextCollator(STUDENT, TEACHER if two else None),
        processing_class=STUDENT,
        teacher_model=teacher,
    )
    record = measure_fidelity(trainer, control="noise", **ALONE)
    assert record.control.options == {"kind": "noise", "appended": " ."}
    drawn = [TEXTS[position] for position in record.data.samples]
    columns = ("input_ids", "attention_mask", "word_ids")
    collator = TextCollator(tokenizer, other)
    clean, longer = (collator([{**row, "text": f"{row['text']}{end}"} for row in drawn]) for end in ("", " ."))
    sides = [{name: batch[name] for name in columns} for batch in (clean, longer)]
    with torch.no_grad():
        target = teacher(**{name: sides[0][name] for name in columns[:2]}).logits.argmax(1)
    maps, changed = (InputXGradient()(teacher, inputs, target).maps for inputs in sides)
    counts = clean["word_ids"].amax(1) + 1
    assert (longer["word_ids"].amax(1) == counts).all()
    kept = torch.arange(maps.shape[1]) < counts[:, None]
    changed = changed[:, : maps.shape[1]] * kept
    expected = explanation_similarity(changed[:, None], maps[:, None])[0].mean().item()
    assert record.control.figures["explanation_similarity"].value == pytest.approx(expected, abs=1e-5)


def test_tokens_are_inserted_before_what_ends_a_text():
    """Prevents: a special token or padding within a text; maps of tokens that are compared with their neighbours."""
    batch = {
        "input_ids": torch.tensor([[2, 11, 12, 3, 0], [2, 21, 22, 23, 3], [2, 3, 0, 0, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]),
        "token_type_ids": torch.tensor([[0, 1, 1, 1, 0], [0, 0, 1, 1, 1], [0, 0, 0, 0, 0]]),
        "special_tokens_mask": torch.tensor([[1, 0, 0, 1, 1], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1]]),
    }
    longer, places = append_tokens(batch, [7, 8])
    expected = [[2, 11, 12, 7, 8, 3, 0], [2, 21, 22, 23, 7, 8, 3], [2, 7, 8, 3, 0, 0, 0]]
    assert longer["input_ids"].tolist() == expected
    assert longer["attention_mask"].sum(1).tolist() == [6, 7, 4]
    assert longer["token_type_ids"].tolist()[:2] == [[0, 1, 1, 1, 1, 1, 0], [0, 0, 1, 1, 1, 1, 1]]
    assert longer["special_tokens_mask"].tolist()[0] == [1, 0, 0, 1, 1, 1, 1]
    assert torch.equal(longer["input_ids"].gather(1, places), batch["input_ids"])


def test_tokens_by_a_tokenizer_alone(tmp_path):
    """Prevents: a teacher whose [CLS] and [SEP] count as words, where the tokenizer alone says which tokens are
    special: the control's words after the last of them, and its faithfulness measured by taking them out."""
    found = []
    for marked in (True, False):
        tokens = STUDENT(TEXTS["text"][:], return_special_tokens_mask=marked)
        trainer = ExplanationDistillTrainer(
            text_model("bert"),
            arguments(tmp_path, explainer="input_x_gradient"),
            eval_dataset=Dataset.from_dict(dict(tokens)),
            processing_class=STUDENT,
            teacher_model=text_model("bert", 1),
        )
        options = {"control": "noise", "faithfulness": True, "explainers": ["saliency"]}
        record = measure_fidelity(trainer, **options, **ALONE)
        found.append((record.control.figures, record.figures, record.held_out[0].figures))
    assert found[0] == found[1] and "teacher_sufficiency" in found[0][1]


def test_what_else_tokens_have_is_inserted_too():
    """Prevents: LayoutLM's boxes of fewer tokens than its forward is given, and positions that stand twice."""
    ids = torch.tensor([[2, 11, 12, 3, 0]])
    boxes = torch.arange(5)[:, None].expand(5, 4)[None]
    batch = {
        "input_ids": ids,
        "attention_mask": (ids != 0).long(),
        "bbox": boxes,
        "position_ids": torch.arange(5)[None],
    }
    longer, _ = append_tokens(batch | {"special_tokens_mask": torch.tensor([[1, 0, 0, 1, 1]])}, [7, 8])
    assert longer["bbox"][0, :, 0].tolist() == [0, 1, 2, 2, 2, 3, 4]
    assert longer["position_ids"][0].tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_what_can_not_be_controlled_is_refused(tmp_path):
    """Prevents: noise of an unknown size, a control of nothing, and an index error deep in a model."""
    trainer = distiller(build("resnet"), build("resnet", seed=1), tmp_path)
    for control, message in (
        ("noise", "Nothing says how the teacher's images were normalised. Give .* processing_class"),
        ("blur", "Unknown control 'blur'. Available: noise, shift"),
        (True, "Unknown control 'True'. Available: noise, shift"),
    ):
        with pytest.raises(ValueError, match=message):
            measure_fidelity(trainer, control=control, **ALONE)
    for options in ({"sigma": 0}, {"pixels": 0.5}, {"appended": " "}):
        with pytest.raises(ValueError, match=next(iter(options))):
            Control(**options)
    guided = {"task_weight": 1.0, "logits_weight": 0.0}
    boxes = {"boxes": AnnotationReference("energy")}
    alone = distiller(build("resnet"), None, tmp_path, guided, references=boxes, eval_dataset=samples(4, mask=True))
    with pytest.raises(ValueError, match="it takes a live teacher"):
        measure_fidelity(alone, control="noise")
    texts = ExplanationDistillTrainer(
        text_model("bert"),
        arguments(tmp_path, explainer="input_x_gradient", remove_unused_columns=False),
        eval_dataset=TEXTS,
        data_collator=TextCollator(STUDENT),
        processing_class=STUDENT,
        teacher_model=text_model("bert", 1),
    )
    with pytest.raises(ValueError, match="The control 'shift' moves images, and these are texts"):
        measure_fidelity(texts, control="shift", **ALONE)
    texts.references["teacher"].model.config.max_position_embeddings = 5
    with pytest.raises(ValueError, match=r"Cut texts to 4 tokens: .*--max-length 4"):
        measure_fidelity(texts, control="noise", **ALONE)


def test_several_labels_and_scores(tmp_path, monkeypatch):
    """Prevents: agreement of top classes in the place of labels, several explained classes in one, KL of a score."""
    monkeypatch.setattr("hf_e2kd.fidelity.intervals.POOLED_RESAMPLES", 2)
    student, teacher, rows = build("resnet"), build("resnet", seed=1), samples(4)
    for model in (student, teacher):
        model.config.problem_type = "multi_label_classification"
    for row in rows:
        row["labels"] = F.one_hot(torch.tensor([row["labels"], 0]), 5).amax(0).float()
    trainer = distiller(student, teacher, tmp_path, {"explanation_target": "label"}, eval_dataset=rows)
    record = measure_fidelity(trainer, control="shift", **ALONE)
    pixels = pixels_of(trainer, record.data.samples)
    labels = torch.stack([rows[row]["labels"] for row in record.data.samples])
    changed = Control("shift").shifted(pixels)
    with torch.no_grad():
        shares = [teacher(images).logits.sigmoid() for images in (pixels, changed)]
    clean, other = (torch.stack([1 - share, share]) for share in shares)
    similarities = [
        explanation_similarity(
            *(hf_e2kd.explain(teacher, each, target=number).maps for each in (changed, pixels)), (32, 32)
        )
        for number in range(5)
    ]
    counted = [value[valid & (labels[:, number] > 0)] for number, (value, valid) in enumerate(similarities)]
    found = {name: figure.value for name, figure in record.control.figures.items()}
    assert found == pytest.approx(
        {
            "agreement": ((shares[0] >= 0.5) == (shares[1] >= 0.5)).float().mean().item(),
            "kl": (clean * (clean / other).log()).sum((0, 2)).mean().item(),
            "explanation_similarity": torch.cat(counted).mean().item(),
        },
        abs=1e-5,
    )
    record = measure_fidelity(
        score_trainer(tmp_path, eval_dataset=TEXTS.add_column("label", [0.5] * 4)), control="noise", **ALONE
    )
    assert record.control.figures.keys() == {"mae", "explanation_similarity"} and "kl" not in record.figures
