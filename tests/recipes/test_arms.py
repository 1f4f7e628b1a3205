"""The compared trainings as arguments of one trainer, and the recipes that train them, tried out on generated data."""

import evidence_tables
import interpretability_table
import pytest
import sst
import temperature_study
import torch
from _arms import METHODS, arm_arguments, parse_arm, teacher_sources
from _guidance import each_seed
from _interpretability import TINY, StudyOptions, find_teacher, square_processor, train_one
from _trained_arms import TrainedArms
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from hf_e2kd import ExplanationDistillArguments
from hf_e2kd.data import load_sst
from hf_e2kd.data.first_samples import first_of_each
from hf_e2kd.experiments.images import classifier_of
from hf_e2kd.experiments.models import is_architecture
from tests.models import build


def arguments_of(text, tmp_path, **training):
    args = ExplanationDistillArguments(str(tmp_path), temperature=4.0, explanation_weight=3.0, use_cpu=True, **training)
    study, model = StudyOptions(), build("resnet")
    arm = parse_arm(text)
    found = arm_arguments(arm, study, args, model, model if arm.method.taught_by else None)
    return {name: found.get(name) for name in ("task_weight", "logits_weight", "explanation_weight", "terms")} | {
        "other": found.get("label_smoothing_factor", found.get("temperature"))
    }


def test_an_arm_has_an_explainer_of_its_own(tmp_path):
    """Prevents: students that are all trained by the command's explainer, whatever their names say."""
    args, model = ExplanationDistillArguments(str(tmp_path), explainer="gradcam"), build("resnet")
    trained = [parse_arm(text) for text in ("e2KD:explainer=saliency", "e2KD")]
    found = [arm_arguments(arm, StudyOptions(), args, model, model).get("explainer") for arm in trained]
    assert found == ["saliency", None]


@pytest.mark.parametrize(
    ("text", "task", "logits", "explanation", "terms", "other"),
    [
        ("scratch", 1.0, 0.0, 0.0, None, 0.0),
        ("LS", 1.0, 0.0, 0.0, None, 0.1),
        ("LS:smoothing=0.5", 1.0, 0.0, 0.0, None, 0.5),
        ("KD", 0.5, 0.5, 0.0, None, 4.0),
        ("KD:alpha=0.25,temperature=8", 0.75, 0.25, 0.0, None, 8.0),
        ("self-KD", 0.9, 0.1, 0.0, None, 4.0),
        ("e2KD:explanation_weight=5", 0.5, 0.5, 5.0, None, 4.0),
        ("FT", 1.0, 0.0, 0.0, {"factor_transfer": {"weight": 1000.0}}, 4.0),
        ("CRD+KD", 0.5, 0.5, 0.0, {"crd": {"weight": 0.8}}, 4.0),
        ("SSKD", 0.0, 0.0, 0.0, {"sskd": {}}, 4.0),
    ],
)
def test_weights_of_the_loss(text, task, logits, explanation, terms, other, tmp_path):
    """Prevents: α on the labels, T of the students beside it, or SSKD's own losses on labels and logits twice."""
    found = arguments_of(text, tmp_path)
    assert found.pop("task_weight") == pytest.approx(task)
    assert found == {"logits_weight": logits, "explanation_weight": explanation, "terms": terms, "other": other}


def test_attention_transfer_of_the_last_two_stages(tmp_path):
    """Prevents: all stages, where the paper compares layer3 and layer4; a command line's terms that are lost."""
    terms = arguments_of("AT", tmp_path, terms={"hint": {}})["terms"]
    stages = [f"resnet.encoder.stages.{number}" for number in (0, 1)]
    layers = dict(zip(stages, stages, strict=True))
    assert terms == {"hint": {}, "attention_transfer": {"weight": 1000.0, "layers": layers}}


def test_teachers_of_arms():
    """Prevents: a teacher that is trained for arms without one, twice, or of the wrong network."""
    study = StudyOptions(teacher="timm/resnet34", student="timm/resnet18")
    arms = [parse_arm(text) for text in ("scratch", "KD", "FT", "self-KD", "KD:teacher=timm/resnet50")]
    assert teacher_sources(arms, study) == ["timm/resnet34", "timm/resnet18", "timm/resnet50"]
    assert all(parse_arm(name).method is method for name, method in METHODS.items())
    assert [is_architecture(source) for source in ("timm/resnet34", "net.json", "google/vit", "outputs/teacher")] == [
        *(True, True, False, False)
    ]


def images(count=8):
    features = Features({"image": Image(), "label": ClassLabel(names=["cat", "dog"])})
    rows = {"image": [PILImage.new("RGB", (32, 32), (30 * n, 0, 0)) for n in range(count)]}
    return Dataset.from_dict({**rows, "label": [number // 3 % 2 for number in range(count)]}, features=features)


def test_trained_teacher_from_a_folder(tmp_path):
    """Prevents: a teacher that is trained anew, or shown images of the student's size and normalisation."""
    model = classifier_of(TINY, ["dog", "cat"])
    model.save_pretrained(tmp_path / "teacher")
    square_processor(48).save_pretrained(tmp_path / "teacher")
    options = StudyOptions(students=["KD"], teacher=str(tmp_path / "teacher"), student="timm/resnet18", smoke=False)
    args = ExplanationDistillArguments(
        str(tmp_path), max_steps=1, per_device_train_batch_size=4, use_cpu=True, report_to="none", save_strategy="no",
        explanation_weight=0.0, remove_unused_columns=False, disable_tqdm=True,
    )  # fmt: skip
    teacher = find_teacher(options.teacher, options, args, images(), square_processor(32))
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in teacher.model.state_dict().items())
    assert (teacher.processor.size["height"], options.teachers) == (48, [options.teacher])
    sizes = set()
    teacher.model.register_forward_pre_hook(
        lambda module, given, named: sizes.add(named["pixel_values"].shape[-1]), with_kwargs=True
    )
    options.smoke = True  # a tiny student
    train_one(options.arms[0], teacher, options, args, images(), square_processor(32))
    assert sizes == {48}


def test_students_of_a_teacher_whose_folder_holds_another_one(tmp_path):
    """Prevents: the students of the teacher that a folder held before, given out as the present one's."""
    (tmp_path / "student.json").write_text(TINY.to_json_string())
    options = StudyOptions(["KD"], str(tmp_path / "teacher"), str(tmp_path / "student.json"))
    args = ExplanationDistillArguments(
        str(tmp_path), max_steps=1, per_device_train_batch_size=4, use_cpu=True, report_to="none", save_strategy="no",
        explanation_weight=0.0, remove_unused_columns=False, disable_tqdm=True,
    )  # fmt: skip
    for number in range(2):
        torch.manual_seed(number)
        classifier_of(TINY, ["cat", "dog"]).save_pretrained(tmp_path / "teacher")
        square_processor(32).save_pretrained(tmp_path / "teacher")
        arms = TrainedArms(options, args, images(), square_processor(32), tmp_path / "models", lambda model: {})
        if number == 0:
            assert list(arms.run(options.arms, [0])) == list(arms.run(options.arms, [0])) == ["KD-0"]
    with pytest.raises(ValueError, match="other arguments"):
        arms.run(options.arms, [0])


def test_seeds_of_a_teacher_whose_folder_holds_another_one(tmp_path):
    """Prevents: runs of the teacher that was guided before among those of another, in distill_coco.py's folder."""
    done: list = []

    def run(teacher):
        args = ExplanationDistillArguments(str(tmp_path))
        each_seed(args, 2, {}, lambda seed: {"seed": seed}, done.append, lambda seed: f"{teacher} of {seed}")

    run("one")
    run("one")
    assert done[-1] == [{"seed": 42}, {"seed": 43}]
    with pytest.raises(ValueError, match="which aren't mixed"):
        run("another")


def test_first_images_of_each_class():
    """Prevents: the first images of all, which may be of one class."""
    assert first_of_each(images(), 2)["label"][:] == [0, 0, 1, 1] and len(first_of_each(images(), None)) == 8


def test_table_goes_on_where_it_was(run, tmp_path):
    """Prevents: models trained anew, or a student without its detectors; pictures that are missing."""
    options = ("--smoke", "--students", "LS", "AT", "--pictures", "2")
    results = run(interpretability_table, *options)
    figures = results["summary"]["validation"]
    assert list(figures) == ["teacher", "LS", "AT"]
    for found in figures.values():
        total = sum(found[category]["mean"] for category in ("object", "part", "scene", "texture"))
        assert found["total"]["mean"] == total and found["unique"]["mean"] <= total
    pictures = {"detectors.png", "concept.png", "loss_gradients.png", "table.md"}
    assert pictures <= {path.name for path in tmp_path.iterdir()}
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    assert len(kept) == 3
    assert run(interpretability_table, *options)["runs"] == results["runs"]
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    with pytest.raises(SystemExit, match="1") as ended:
        run(interpretability_table, *options, "--learning_rate", "0.5")
    assert "other arguments" in str(ended.value.__cause__)


def test_temperatures_of_a_smoothed_teacher(run, tmp_path):
    """Prevents: temperatures without an entropy, or a teacher of unsmoothed labels."""
    results = run(temperature_study, "--smoke", "--students", "scratch", "--temperatures", "1", "4", "--pictures", "0")
    students = results["summary"]["validation"]
    assert list(students) == ["teacher", "scratch", "KD:temperature=1", "KD:temperature=4"]
    assert results["options"]["teacher_smoothing"] == 0.1
    assert (tmp_path / "temperatures.png").is_file()


def test_words_of_few_layers(run, tmp_path):
    """Prevents: words of one split alone, students of each size without figures, and of a size that wasn't named."""
    results = run(sst, "--smoke", "--students", "KD", "--pictures", "1", "--held_out_sentences", "2")
    pooled = results["summary"][sst.POOLED]
    assert list(pooled) == ["teacher", "KD, 1 layers", "KD, 2 layers, 8 wide"]
    assert all({"word_accuracy", "word_auroc", "word_auprc"} <= found.keys() for found in pooled.values())
    assert set(results["summary"]["test"]["teacher"]) == {"task_accuracy"}
    assert set(results["summary"]["test"]["KD, 1 layers"]) == {"task_accuracy", "agreement"}
    held_out = results["summary"]["held_out"]["KD, 1 layers"]
    assert set(held_out) == {"explanation_similarity", *sst.HELD_OUT, *sst.FAITHFULNESS}
    table = evidence_tables.TABLES["sst"](results, "2x8").splitlines()
    assert table[0].endswith("| training, CPU s | agreement − KD's |")
    assert [line.split(" | ")[0] for line in table[2:]] == ["| teacher", "| KD"]
    further = evidence_tables.TABLES["sst"](results, "held_out_1").splitlines()
    assert "| Integrated Gradients | attention gradient | LRP | occlusion |" in further[0] and len(further) == 3
    config = AutoModelForSequenceClassification.from_pretrained(tmp_path / "models" / "KD-2x8-42").config
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (2, 8, 1)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"explanations-1.png", "explanations-2x8.html", "table.md", "words.png"} <= names
    data = load_sst(tmp_path / "generated" / "trees")
    assert data["test"]["word_labels"][0] == [2, 4, 2, 2, 0]


def test_stored_teacher_of_texts(run, tmp_path):
    """Prevents: a stored teacher from whom students learn something else than from the live one, or nothing."""
    arm = "e2KD:explainer=attention_gradient"
    options = ("--smoke", "--students", "scratch", arm, "--pictures", "0", "--learning_rate", "1e-2")
    for kind in ("live", "stored"):
        run(sst, *options, "--stored", str(kind == "stored").lower(), "--output_dir", str(tmp_path / kind))
    name = parse_arm(arm).file_name
    scratch, live, stored = (
        load_file(tmp_path / kind / "models" / f"{student}-1-42" / "model.safetensors")
        for kind, student in (("live", "scratch"), ("live", name), ("stored", name))
    )
    weight = "classifier.weight"
    assert not torch.allclose(live[weight], scratch[weight], atol=1e-4)
    for key, value in live.items():
        torch.testing.assert_close(stored[key], value, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (interpretability_table, ["--dataset", "x"], "Give --concepts, or --smoke"),
        (interpretability_table, ["--concepts", "x"], "Give --dataset, or --smoke"),
        (
            interpretability_table,
            ["--smoke", "--images_per_class", "0"],
            "--images_per_class must be at least 1",
        ),
        (interpretability_table, ["--smoke", "--tally", "offical"], "invalid choice: 'offical'"),
        (interpretability_table, ["--smoke", "--quantile", "99"], "--quantile must lie between 0 and 1, not 99.0"),
        (interpretability_table, ["--dataset", "x", "--concepts", "nowhere"], "There is no folder 'nowhere'"),
        (sst, ["--dataset", "nowhere"], "nowhere"),
        (sst, ["--smoke", "--pictures", "-1"], "--pictures can't be below 0"),
        (sst, ["--smoke", "--student_layers", "6x"], "LAYERSxWIDTH as 6x192, not '6x'"),
        (sst, ["--smoke", "--students", "e2KD:explainer=lpr"], "Did you mean 'lrp'"),
        (temperature_study, ["--smoke", "--samples", "0"], "--samples must be at least 1, not 0"),
        (temperature_study, ["--smoke", "--temperatures", "0"], "'temperature=0', which must be above 0"),
        (sst, [], "Give --dataset, or --smoke"),
        (
            sst,
            ["--smoke", "--students", "CRD"],
            "CRD is of images. Of texts there are scratch, LS, KD, e2KD",
        ),
    ],
)
def test_wrong_arguments_say_what_to_do(module, options, message, run, capsys):
    with pytest.raises(SystemExit):
        run(module, *options)
    assert message in capsys.readouterr().err
