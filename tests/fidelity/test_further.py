"""Held-out explainers, faithfulness and students without gradients in a record."""

import json

import pytest
import torch
from torch import nn

import hf_e2kd
from hf_e2kd import AnnotationReference, ExplanationDistillTrainer, FunctionModel, TextCollator
from hf_e2kd.explainers import InputXGradient, Occlusion
from hf_e2kd.fidelity import Faithfulness, FidelityRecord, measure_fidelity
from hf_e2kd.fidelity.describe import describe_model
from hf_e2kd.fidelity.interpretability.faithfulness import comprehensiveness, deletion_curve, insertion_curve
from hf_e2kd.fidelity.precision import precision_of
from hf_e2kd.metrics import curve_area, explanation_similarity
from tests.models import build, images
from tests.text_models import build_text
from tests.tokenizers import STUDENT, TEACHER, data, text_model
from tests.training import arguments, distiller, samples

HELD_OUT = ("input_x_gradient", Occlusion(patch=0.5))
STEPS = Faithfulness(steps=3)


class IntegerLinear(nn.Module):
    """A linear layer whose inputs and weights are rounded to int8, as a quantised runtime's."""

    __module__ = "runtime.quantized"

    def __init__(self, layer):
        super().__init__()
        self.step = layer.weight.detach().abs().max() / 127
        self.register_buffer("integers", (layer.weight.detach() / self.step).round().to(torch.int8))
        self.register_buffer("offset", layer.bias.detach())

    def forward(self, x):
        step = x.detach().abs().amax().clamp(min=1e-6) / 127
        products = (x.detach() / step).round() @ self.integers.float().mT
        return products * step * self.step + self.offset


def in_integers(model):
    """The model with its linear layers in integers."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Linear:
                setattr(module, name, IntegerLinear(child))
    return model


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A trainer and its record, beside a module in integers and a function that runs the same student."""
    student, rows = build("vit"), []
    trainer = distiller(
        student, build("resnet", seed=1), tmp_path_factory.mktemp("out"), eval_dataset=samples(6, seed=7)
    )
    runtime = build("vit")

    def run(pixel_values):
        rows.append(len(pixel_values))
        return runtime(pixel_values).logits.numpy()

    others = {
        "int8": in_integers(build("vit")),
        "exported": FunctionModel(run, runtime="some runtime 1.0", precision="float32"),
        "plain": build("vit", seed=3),
    }
    record = measure_fidelity(trainer, compared=others, explainers=HELD_OUT, faithfulness=STEPS, costs=False)
    return trainer, record, others, rows


def batch_of(trainer):
    pixels = torch.stack([sample["pixel_values"] for sample in trainer.eval_dataset])
    with torch.no_grad():
        target = trainer.references["teacher"].model(pixels).logits.argmax(1)
    return pixels, target


def test_held_out_similarities_are_those_of_explain(measured):
    """Prevents: the trained explainer's maps in a held-out one's place, or maps of another class."""
    trainer, record, others, _ = measured
    pixels, target = batch_of(trainer)
    teacher = trainer.references["teacher"].model
    assert [each.explainer["name"] for each in record.held_out] == ["input_x_gradient", "occlusion"]
    assert record.held_out[1].explainer["options"]["patch"] == 0.5
    for held_out, method in zip(record.held_out, (InputXGradient(), HELD_OUT[1]), strict=True):
        sides = {"student": trainer.student, "plain": others["plain"]}
        theirs = hf_e2kd.explain(teacher, pixels, method, target).maps
        for side, model in sides.items():
            own = hf_e2kd.explain(model, pixels, method, target).maps
            expected = explanation_similarity(own, theirs, (32, 32))[0].mean().item()
            figures = held_out.figures if side == "student" else held_out.compared[side]
            figure = figures["explanation_similarity"]
            assert figure.value == pytest.approx(expected, abs=1e-5), (method.name, side)
            assert figure.low <= figure.value <= figure.high and figure.samples == 6
        assert set(held_out.chance) == {"shuffled", "untrained"}
    assert record.figures["explanation_similarity"].value != pytest.approx(expected, abs=1e-3)


def test_faithfulness_is_that_of_each_sides_own_map(measured):
    """Prevents: the student's map tried on the teacher, or the teacher's class numbers on the student."""
    trainer, record, others, _ = measured
    pixels, target = batch_of(trainer)
    sides = {"": trainer.student, "teacher_": trainer.references["teacher"].model}
    for prefix, model in sides.items():
        for figures, method in ((record.figures, "gradcam"), (record.held_out[1].figures, HELD_OUT[1])):
            maps = hf_e2kd.explain(model, pixels, method, target).maps
            for name, curve in (("deletion", deletion_curve), ("insertion", insertion_curve)):
                expected = curve_area(curve(model, {"pixel_values": pixels}, maps, target, 3)).mean().item()
                assert figures[f"{prefix}{name}"].value == pytest.approx(expected, abs=1e-5), (prefix, name)
    assert record.faithfulness.options == {"steps": 3, "filling": 0.0}
    assert set(record.faithfulness.chance) == {"deletion", "insertion"}
    assert record.compared["plain"]["deletion"].samples == 6


def test_students_without_gradients_are_measured_without_them(measured):
    """Prevents: zero maps of an integer layer's missing gradient, or a function that can't be compared."""
    trainer, record, _, rows = measured
    for name in ("int8", "exported"):
        assert "explanation_similarity" not in record.compared[name] and "deletion" not in record.compared[name]
        assert not record.held_out[0].compared[name]
        assert record.held_out[1].compared[name].keys() >= {"explanation_similarity", "deletion", "insertion"}
    held_out = record.held_out[1]
    pairs = [(record.compared["exported"], record.figures), (held_out.compared["exported"], held_out.figures)]
    for figures, own in pairs:
        assert all(figure.value == pytest.approx(own[name].value, abs=1e-5) for name, figure in figures.items())
    models = record.compared_models
    assert (models["exported"].runtime, models["exported"].precision) == ("some runtime 1.0", "float32")
    assert (models["int8"].runtime, models["int8"].precision) == ("torch", "float32, int8")
    assert models["exported"].weights is None and models["int8"].weights != models["plain"].weights
    assert (record.student.runtime, record.student.precision) == ("torch", "float32")
    # Logits, 3 × 3 patches, and both curves of occlusion's map, for each of 6 samples.
    assert sum(rows) == 6 * (1 + 1 + 9 + 2 * 4)


def test_measuring_leaves_the_trainer_as_it_was(measured):
    """Prevents: a teacher that is explained by occlusion from then on, or a trained forward that lost its maps."""
    trainer, record, _, _ = measured
    assert trainer.references["teacher"].explainer.name == "gradcam"
    assert trainer.evaluate()["eval_explanation_similarity"] == pytest.approx(
        record.figures["explanation_similarity"].value, abs=1e-6
    )


def test_the_record_survives_its_file_and_old_ones_are_read(measured, tmp_path):
    """Prevents: a record of an earlier version that can't be read, or figures lost in the file."""
    record = measured[1]
    record.save(tmp_path)
    assert FidelityRecord.load(tmp_path) == record
    content = json.loads((tmp_path / "fidelity.json").read_text())
    for name in ("held_out", "faithfulness", "compared_models"):
        del content[name]
    for model in (content["student"], content["teacher"]):
        del model["runtime"], model["precision"]
    old = FidelityRecord.from_dict(content)
    assert old.held_out == [] and old.faithfulness is None and old.student.runtime is None
    assert old.figures == record.figures


def test_texts_of_two_tokenizers(tmp_path):
    """Prevents: words of one tokenizer taken out of the other's tokens."""
    rows = data(4)
    student, teacher = text_model("bert"), text_model("roberta", 1, TEACHER)
    trainer = ExplanationDistillTrainer(
        student,
        arguments(tmp_path, explainer="input_x_gradient", remove_unused_columns=False),
        eval_dataset=rows,
        data_collator=TextCollator(STUDENT, TEACHER),
        processing_class=STUDENT,
        teacher_model=teacher,
    )
    record = measure_fidelity(trainer, explainers=["occlusion"], faithfulness=True, costs=False, chance=False)
    held_out = record.held_out[0]
    assert held_out.chance.keys() == {"shuffled"}
    batch = TextCollator(STUDENT, TEACHER)([rows[position] for position in record.data.samples])
    columns = ("input_ids", "attention_mask", "word_ids")
    sides = {begin: {name: batch[f"{begin}{name}"] for name in columns} for begin in ("", "teacher_")}
    with torch.no_grad():
        target = teacher(**{name: sides["teacher_"][name] for name in columns[:2]}).logits.argmax(1)
    for prefix, model in (("", student), ("teacher_", teacher)):
        inputs = sides[prefix]
        maps = Occlusion()(model, inputs, target).maps
        expected = comprehensiveness(model, inputs, maps, target).mean().item()
        found = held_out.figures[f"{prefix}comprehensiveness"].value
        assert found == pytest.approx(expected, abs=1e-5), prefix
    assert record.faithfulness.options == {"fractions": [0.01, 0.05, 0.1, 0.2, 0.5]}
    assert {"sufficiency", "teacher_sufficiency"} <= set(record.figures)


def test_features_are_those_of_the_inputs_as_they_are(tmp_path):
    """Prevents: terms that compare features of the changed inputs that an explainer without gradients shows."""
    losses = []
    for explainer in ("gradcam", "occlusion"):
        settings = {"explainer": explainer, "explanation_weight": 0.0, "terms": {"attention_transfer": {"weight": 1.0}}}
        trainer = distiller(build("resnet"), build("resnet", seed=1), tmp_path, settings)
        losses.append(trainer.evaluate()["eval_loss"])
        record = measure_fidelity(trainer, samples=4, explainers=["saliency"], costs=False, chance=False)
        assert record.held_out[0].figures["explanation_similarity"].samples == 4
        assert trainer.evaluate()["eval_loss"] == pytest.approx(losses[0], rel=1e-6)


def test_a_teacher_in_half_precision(tmp_path):
    """Prevents: pixels of float32 in a teacher of bfloat16, in the middle of a measurement."""
    trainer = distiller(build("vit"), build("resnet", seed=1).bfloat16(), tmp_path)
    record = measure_fidelity(trainer, samples=4, explainers=["saliency"], faithfulness=STEPS)
    assert record.teacher.precision == "bfloat16" and record.teacher.ran_as == "bfloat16"
    whole = measure_fidelity(distiller(build("vit"), build("resnet", seed=1), tmp_path), samples=4, faithfulness=STEPS)
    found = record.figures["teacher_deletion"].value
    assert found == pytest.approx(whole.figures["teacher_deletion"].value, abs=0.05)


def test_students_in_half_precision(tmp_path):
    """Prevents: a bfloat16 copy that can't be measured against its original, since its layers don't take float32
    pixels; or one beside a student in float32, given the other's."""
    options = {"samples": 4, "explainers": ["saliency"], "faithfulness": STEPS, "control": "shift"}
    for own, other in ((torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)):
        student, beside = (build("resnet").to(dtype) for dtype in (own, other))
        trainer = distiller(student, build("resnet"), tmp_path)
        record = measure_fidelity(trainer, compared={"beside": beside}, **options)
        for figures in (record.figures, record.compared["beside"], record.held_out[0].figures):
            assert figures["explanation_similarity"].value > 0.99
            assert figures["deletion"].value == pytest.approx(record.figures["teacher_deletion"].value, abs=0.1)
        assert record.student.cost.flops == record.teacher.cost.flops


def test_a_function_as_the_student(tmp_path):
    """Prevents: a runtime's model that can be measured as a copy beside a torch student alone."""
    student, teacher = build("vit"), build("resnet", seed=1)
    settings = {"explainer": "occlusion", "explainer_options": {"patch": 0.5}, "explanation_weight": 0.0}
    expected = measure_fidelity(distiller(student, teacher, tmp_path, settings), samples=4)

    def run(pixel_values):
        return student(pixel_values).logits

    model = FunctionModel(run, config=build("vit").config, runtime="some runtime", precision="int8")
    record = measure_fidelity(distiller(model, teacher, tmp_path, settings), samples=4)
    assert record.student.runtime == "some runtime" and record.student.precision == "int8"
    assert record.student.cost is None and record.student.weights is None and record.chance.keys() == {"shuffled"}
    for name, figure in record.figures.items():
        assert figure.value == pytest.approx(expected.figures[name].value, abs=1e-5), name
    with pytest.raises(ValueError, match="The student is a function, without gradients, which 'gradcam' takes"):
        distiller(model, teacher, tmp_path)
    with pytest.raises(ValueError, match=r"The student is a function, without gradients, which 'train\(\)' takes"):
        distiller(model, teacher, tmp_path, settings).train()


def test_a_teacher_in_integers(tmp_path):
    """Prevents: a quantised teacher refused where no gradient of it is taken."""
    settings = {"explainer": "occlusion", "explainer_options": {"patch": 0.5}, "explanation_weight": 0.0}
    trainer = distiller(build("vit"), in_integers(build("vit")), tmp_path, settings)
    record = measure_fidelity(trainer, samples=4, costs=False, chance=False)
    assert record.teacher.precision == "float32, int8"
    assert record.figures["explanation_similarity"].value > 0.9
    with pytest.raises(ValueError, match="computes in integers"):
        distiller(build("vit"), in_integers(build("vit")), tmp_path)


def test_what_can_not_be_held_out_is_refused(tmp_path):
    """Prevents: the trained explainer passed off as held out, and an error in the middle of a long measurement."""
    trainer = distiller(build("resnet"), build("resnet", seed=1), tmp_path)
    for explainers, message in (
        (["gradcam"], "The explainer 'gradcam' is the trained one"),
        (["saliency", "saliency"], "The explainer 'saliency' is named twice"),
        (["bcos"], "B-cos"),
        (["shap"], "Unknown explainer 'shap'. Available: .*occlusion"),
    ):
        with pytest.raises(ValueError, match=message):
            measure_fidelity(trainer, explainers=explainers)
    guided = {"task_weight": 1.0, "logits_weight": 0.0}
    alone = distiller(
        build("resnet"),
        None,
        tmp_path,
        guided,
        references={"boxes": AnnotationReference("energy")},
        eval_dataset=samples(4, mask=True),
    )
    with pytest.raises(ValueError, match="they take a live teacher"):
        measure_fidelity(alone, faithfulness=True)


def test_torchao_weights_are_described():
    """Against torchao's own tensors; `pip install 'torchao>=0.18'` brings them."""
    quantization = pytest.importorskip("torchao.quantization")
    plain, model = build("vit"), build("vit")
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
    assert precision_of(model) != precision_of(plain) and "Int8" in precision_of(model)
    other = build("vit", seed=1)
    quantization.quantize_(other, quantization.Int8WeightOnlyConfig())
    digests = {describe_model(each).weights for each in (plain, model, other)}
    assert len(digests) == 3
    assert hf_e2kd.explain(model, images(), "occlusion", patch=0.5).maps.any()


def test_text_models_in_integers_are_explained():
    """Prevents: words left out that a quantised text model can't be shown."""
    model = in_integers(build_text("bert", vocab_size=len(STUDENT), pad_token_id=STUDENT.pad_token_id))
    found = hf_e2kd.explain(model, ["a warm film", "dull"], "occlusion", processing_class=STUDENT)
    assert found.mask.tolist() == [[True] * 3, [True, False, False]] and found.maps[0].all()
