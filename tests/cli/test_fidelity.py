"""`hf-e2kd fidelity` and `hf-e2kd card` as users call them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, ViTImageProcessor

from hf_e2kd.cli import main, verification
from hf_e2kd.cli.fidelity import _from
from hf_e2kd.data.digits import SIZES
from hf_e2kd.explainers import IntegratedGradients
from hf_e2kd.fidelity import DataRecord, FidelityRecord, MetricValue, ModelRecord, TrainingRecord
from hf_e2kd.fidelity.describe import describe_explainer
from hf_e2kd.hub.redaction import LEFT_OUT
from tests.models import build
from tests.text_models import build_text
from tests.tokenizers import tokenizer

THERE = ("--teacher", "teacher", "--student", "student", "--dataset", "photos")
TEXTS_THERE = ("--teacher", "long", "--student", "short", "--dataset", "texts")
WORDS = ("good", "bad", "dull", "warm", "long", "fine")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with a student, a teacher of another family and size, two of texts, and data of both kinds."""
    folder = tmp_path_factory.mktemp("models")
    for name, family, side, seed in (("student", "vit", 32, 0), ("teacher", "resnet", 48, 1)):
        build(family, seed=seed).save_pretrained(folder / name)
        ViTImageProcessor(size={"height": side, "width": side}).save_pretrained(folder / name)
    for name, kind, family, seed in (("short", "wordpiece", "bert", 0), ("long", "byte_bpe", "roberta", 1)):
        own = tokenizer(kind, model_max_length=24)
        build_text(family, seed, vocab_size=len(own), pad_token_id=own.pad_token_id).save_pretrained(folder / name)
        own.save_pretrained(folder / name)
    noise = np.random.default_rng(0).integers(0, 255, (10, 40, 32, 3), dtype=np.uint8)
    (folder / "photos" / "validation").mkdir(parents=True)
    for number, pixels in enumerate(noise):
        Image.fromarray(pixels).save(folder / "photos" / "validation" / f"{number}.png")
    (folder / "texts").mkdir()
    rows = [{"text": f"a {word} film, it is {word}"} for word in WORDS]
    (folder / "texts" / "validation.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "my photos").mkdir()
    (folder / "gaps.csv").write_text("text,label\na good film,0\n,1\n")
    return folder


@pytest.fixture
def place(models, tmp_path, monkeypatch):
    """A copy of it to work in, without a network."""
    shutil.copytree(models, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def run(*given):
    """The exit code."""
    with pytest.raises(SystemExit) as ended:
        main([str(each) for each in given])
    return ended.value.code or 0


MODEL = ModelRecord(None, "ViTForImageClassification")
IMAGES = ("fidelity", "--teacher", "teacher", "--student", "student", "--dataset", "photos", "--samples", 8)


@pytest.fixture(scope="module")
def quick_record(models, tmp_path_factory):
    """A file of figures of four images, measured once."""
    here = tmp_path_factory.mktemp("measured") / "here"
    shutil.copytree(models, here)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        assert run(*IMAGES[:-1], 4, "--pictures", 0, "--no-chance", "--explainer", "input_x_gradient") == 0
    return here / "outputs" / "fidelity" / "fidelity.json"


@pytest.fixture
def measured(place, quick_record):
    """A copy of its folder at the place."""
    folder = place / "outputs" / "fidelity"
    folder.mkdir(parents=True)
    shutil.copy(quick_record, folder)
    return folder


def test_images_are_measured_and_verified(place, capsys):
    """Prevents: figures that can't be repeated; a verification that passes whatever the weights are, or that is refused
    as the card writes it."""
    assert run(*IMAGES, "--card", "--pictures", 2) == 0
    out = capsys.readouterr().out
    assert "explanation similarity" in out and "by chance: shuffled" in out and "8 of 10" in out
    folder = place / "outputs" / "fidelity"
    assert {path.name for path in folder.iterdir()} == {"README.md", "explanations.png", "fidelity.json"}
    card = (folder / "README.md").read_text()
    assert 'load_student("../../student")' in card
    (command,) = (line for line in card.splitlines() if line.startswith("hf-e2kd fidelity --verify"))
    command = command.replace("TEACHER", "../../teacher").replace("DATASET", "../../photos").split()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run(*command[1:]) == 0  # with what the card leaves open alone
    assert run("card", folder) == 0
    assert (folder / "README.md").read_text() == card
    capsys.readouterr()
    record = FidelityRecord.load(folder)
    assert record.teacher.path == "../../teacher" and record.data.path == "../../photos"
    assert str(place) not in (folder / "fidelity.json").read_text() + (folder / "README.md").read_text()
    assert run("fidelity", "--verify", folder, *THERE, "--json") == 0
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)}
    assert all(check["holds"] for check in checks.values())
    assert {"student's weights", "teacher's weights", "the samples", "agreement", "chance, shuffled"} <= set(checks)

    weights = load_file("student/model.safetensors")
    save_file({name: value * 1.5 for name, value in weights.items()}, "student/model.safetensors", {"format": "pt"})
    Image.fromarray(np.zeros((40, 32, 3), np.uint8)).save(f"photos/validation/{record.data.samples[0]}.png")
    assert run("fidelity", "--verify", folder, *THERE) == 1
    out = capsys.readouterr().out
    assert "FAILS student's weights" in out and "FAILS the samples" in out and "holds teacher's weights" in out


def test_groups_are_measured_printed_and_verified(place, capsys):
    """Prevents: figures by group that neither the table, nor the card, nor a verification has."""
    rows = [{"text": f"a {word} film, it is {word}", "source": "ab"[number % 2]} for number, word in enumerate(WORDS)]
    (place / "texts" / "validation.jsonl").write_text("\n".join(map(json.dumps, rows)))
    line = ("fidelity", *TEXTS_THERE, "--explainer", "saliency", "--pictures", 0, "--no-chance")
    assert run(*line, "--group-column", "where") == 1
    assert "no column 'where' to group the samples by. Columns of the data: text, source" in capsys.readouterr().err
    assert run(*line, "--group-column", "source", "--card", "--require", "agreement>=0", "agreement/b>=0") == 0
    out = capsys.readouterr().out
    assert "passes agreement/b >= 0" in out
    record = FidelityRecord.load("outputs/fidelity")
    agreement = record.groups.figures["b"]["agreement"]
    assert "agreement by source" in out and f"{agreement.value:.3f}  [" in out.split("agreement by source")[1]
    assert agreement.samples == 3 and "| b | 3 |" in (place / "outputs" / "fidelity" / "README.md").read_text()
    assert run("fidelity", "--verify", "outputs/fidelity", *TEXTS_THERE) == 0
    assert "b, agreement" in capsys.readouterr().out
    assert run(*line, "--baseline", "outputs/fidelity", "--require", "agreement<=-1", "--json") == 3
    printed = capsys.readouterr()
    assert "FAILS  agreement <= -1" in printed.err and json.loads(printed.out)["modality"] == "text"
    assert run("fidelity", "--verify", "outputs/fidelity", "--require", "agreement>=0") == 2


def test_texts_of_two_tokenizers(place, capsys):
    """Prevents: texts whose teacher is given the student's token ids."""
    options = ("--explainer", "input_x_gradient", "--pictures", 0, "--no-chance", "--control", "noise", "--json")
    assert run("fidelity", "--teacher", "long", "--student", "short", "--dataset", "texts", *options) == 0
    record = FidelityRecord.from_dict(json.loads(capsys.readouterr().out))
    assert record.modality == "text" and record.chance == {} and record.figures["explanation_similarity"].samples == 6
    assert record.control.options == {"kind": "noise", "appended": " ."}
    assert run("fidelity", "--verify", "outputs/fidelity", *TEXTS_THERE) == 0


def test_held_out_methods_and_faithfulness_are_verified(place, capsys):
    """Prevents: figures by held-out methods that are stated once and never measured again."""
    options = (
        "--held-out",
        "occlusion",
        "--held-out",
        "saliency",
        "--faithfulness",
        "--control",
        "noise",
        "--comparison-grid",
        "native",
        "--pictures",
        0,
    )
    assert run(*IMAGES[:-1], 4, *options) == 0
    out = capsys.readouterr().out
    assert "  control: the teacher itself under noise of 4/255" in out
    assert "held out" in out and "occlusion" in out and "teacher deletion" in out and "in a random order" in out
    folder = place / "outputs" / "fidelity"
    record = FidelityRecord.load(folder)
    assert [each.explainer["name"] for each in record.held_out] == ["occlusion", "saliency"]
    assert record.comparison_grid == "native"
    assert run("fidelity", "--verify", folder, *THERE, "--json") == 0
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)}
    expected = {"occlusion, explanation similarity", "saliency, chance, shuffled", "occlusion, teacher insertion"}
    assert {*expected, "kl", "control, explanation similarity"} <= set(checks)
    occlusion = record.held_out[0]
    faked = {**occlusion.figures, "explanation_similarity": MetricValue(0.99, 0.98, 1.0, 4)}
    replace(record, held_out=[replace(occlusion, figures=faked)]).save(folder)
    assert run("fidelity", "--verify", folder, *THERE) == 1
    assert "FAILS occlusion, explanation similarity" in capsys.readouterr().out
    replace(record, held_out=[replace(occlusion, explainer={"options": {}})]).save(folder)
    assert run("fidelity", "--verify", folder, *THERE) == 1
    assert "doesn't state by which explainer and options" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "code", "message"),
    [
        ((*IMAGES, "--require", "agreement"), 1, "is no requirement"),
        ((*IMAGES, "agreement>=.9"), 2, "Requirements follow --require"),
        (("fidelity",), 2, "Give --student, --teacher, --dataset, or --verify"),
        ((*IMAGES, "--explainer-options", "{}x"), 2, "is no JSON"),
        ((*IMAGES, "--held-out", "gradcam"), 1, "The explainer 'gradcam' is the trained one"),
        ((*IMAGES, "--held-out", "shap"), 1, "Unknown explainer 'shap'. Available:"),
        ((*IMAGES, "--split", "test"), 1, "has no split 'test'. Its splits: validation"),
        ((*IMAGES, "--image-column", "img"), 1, "has no column 'img'. Its columns: image"),
        ((*IMAGES, "--label-column", "lable"), 1, "has no column 'lable'. Its columns: image"),
        ((*IMAGES[:2], "long", *IMAGES[3:]), 1, "'long' classifies texts and the student 'student' images"),
        ((*IMAGES, "--seed", -1), 2, "Invalid value for '--seed'"),
        ((*IMAGES, "--tolerance", 0.1), 2, "--tolerance is of --verify alone"),
        ((*IMAGES, "--processor", "teacher"), 1, "--processor is taken by exported files"),
        (("fidelity", "--verify", "student"), 1, "has no fidelity.json"),
        (("fidelity", "--verify", "student", "--held-out", "occlusion"), 2, "leave --held-out out with it"),
        (("fidelity", "--verify", "a", "--target", "label", "--no-chance"), 2, "leave --target, --chance out with it"),
        (("fidelity", "--verify", "https://huggingface.co/me/student"), 1, "is an address. Give the id alone"),
        (("card", "student"), 1, "has no fidelity.json. Measure the student first"),
        (("card", "no where"), 1, "There is no folder 'no where'"),
        (("card", "my photos"), 1, "--student 'my photos' --dataset D --output-dir 'my photos'."),
        (
            ("fidelity", *TEXTS_THERE[:5], "gaps.csv"),
            1,
            "'text' of 'gaps.csv' holds no text but None in row 1, counted from 0",
        ),
        (("card", "student", "--push"), 2, "--push needs --repo-id"),
    ],
)
def test_what_was_wrong_is_said(place, capsys, given, code, message):
    """Prevents: a traceback, or a message that doesn't say what to do."""
    assert run(*given) == code
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_a_record_without_its_teacher(place, capsys):
    """Prevents: a verification that measures against whatever it finds; an earlier record's picture beside this one,
    or its card without a word."""
    picture = place / "outputs" / "fidelity" / "explanations.png"
    picture.parent.mkdir(parents=True)
    picture.touch()
    (picture.parent / "README.md").touch()
    assert run(*IMAGES, "--pictures", 0, "--no-chance") == 0
    assert not picture.exists()
    assert "README.md was there before and doesn't state these figures. It is written" in capsys.readouterr().err
    shutil.move("teacher", "elsewhere")
    own = ("fidelity", "--verify", "outputs/fidelity", *THERE[2:])
    record = FidelityRecord.load("outputs/fidelity")
    replace(record, teacher=replace(record.teacher, path="teacher")).save("outputs/fidelity")
    assert run(*own) == 1
    assert "The record's teacher (teacher) isn't published and isn't here" in capsys.readouterr().err
    assert run(*own, "--teacher", "elsewhere") == 0


def test_data_that_cannot_be_read(place, capsys):
    """Prevents: "An error occurred while generating the dataset", which says neither what nor where."""
    (place / "half.jsonl").write_text('{"text": "a \\ud800 b"}\n')
    assert run("fidelity", *TEXTS_THERE[:4], "--dataset", "half.jsonl") == 1
    assert "'half.jsonl' can't be read: JSON parse error" in capsys.readouterr().err


@pytest.mark.parametrize("part", ["student", "teacher", "data"])
def test_places_outside_a_record_s_folder(place, measured, capsys, part):
    """Prevents: somebody else's record that makes the command open any folder of the machine."""
    folder = measured
    for name in ("student", "teacher", "photos"):
        shutil.copytree(name, folder / name)
    record = FidelityRecord.load(folder)
    inside = replace(
        record,
        student=replace(record.student, path="student"),
        teacher=replace(record.teacher, path="teacher"),
        data=replace(record.data, path="photos"),
    )
    inside.save(folder)
    assert run("fidelity", "--verify", folder) == 0
    capsys.readouterr()
    role, held = {"data": "dataset"}.get(part, part), getattr(inside, part)
    for path in (f"../../{held.path}", str(place / held.path)):
        replace(inside, **{part: replace(held, path=path)}).save(folder)
        assert run("fidelity", "--verify", folder) == 1
        err = capsys.readouterr().err
        assert f"The record's {role} lies at" in err and f"Give it by --{role} {held.path}, if you trust" in err
    for name in (str(place / held.path), held.path, "../x"):
        replace(inside, **{part: replace(held, id=name)}).save(folder)
        assert run("fidelity", "--verify", folder) == 1
        assert f"id of the {role}, {name!r}, is no id on the Hub, or stands for files" in capsys.readouterr().err


def test_a_record_that_names_this_machine(place, measured, capsys, monkeypatch):
    """Prevents: a record that makes the command read the working directory, or a file beside the Hub's cache."""
    folder = measured
    record = FidelityRecord.load(folder)
    monkeypatch.chdir(place / "photos")
    models = ("--student", place / "student", "--teacher", place / "teacher")
    for changed, message in (
        ({"id": "imagefolder"}, "id of the dataset, 'imagefolder', is no id on the Hub, or stands for files"),
        ({"id": "a/b", "revision": "../../../x"}, "revision of the dataset, '../../../x', is no branch"),
        ({"id": "a/b", "revision": "/etc"}, "revision of the dataset, '/etc', is no branch"),
    ):
        replace(record, data=replace(record.data, path=None, **changed)).save(folder)
        capsys.readouterr()
        assert run("fidelity", "--verify", folder, *models) == 1
        assert message in capsys.readouterr().err


def test_records_that_state_too_little(measured, capsys):
    """Prevents: a KeyError's traceback for a record of somebody else."""
    folder = measured
    record = FidelityRecord.load(folder)
    few = {"sizes": dict.fromkeys(SIZES, 1)}
    generated = replace(record.data, id="digits_on_textures", path=None, split="nowhere", arguments=few)
    for changed, message in (
        ({"data": generated}, "'digits_on_textures' can't be made as the record states it: 'nowhere'. Name its split"),
        ({"data": replace(generated, arguments={"never": 1})}, "can't be made as the record states it"),
        ({"explainer": {"name": "gradcam"}}, "doesn't state by which explainer and options"),
    ):
        replace(record, **changed).save(folder)
        capsys.readouterr()
        assert run("fidelity", "--verify", folder, *THERE[:4]) == 1
        assert message in capsys.readouterr().err


def test_options_that_a_record_leaves_open(place, capsys):
    """Prevents: "Unknown baseline 'tensor (3,) …'", or a file named "(left out)" that is looked for."""

    def verify(explainer, *given):
        data = DataRecord(None, "photos", rows=10, samples=[0, 1])
        figures = {"agreement": MetricValue(1.0)}
        FidelityRecord("image", "single_label_classification", MODEL, data, explainer, figures).save(place)
        assert run("fidelity", "--verify", place, *given) == 1
        return capsys.readouterr().err

    tensor = describe_explainer(IntegratedGradients(baselines=torch.zeros(3, 1, 1)))
    assert "doesn't state baselines of its explainer 'integrated_gradients'" in verify(tensor)
    left_out = {"name": "gradcam", "options": {"target_layer": LEFT_OUT}}
    assert "Give it by --explainer-options '{\"target_layer\": …}'" in verify(left_out)
    # With it, the next thing that is missing is told.
    given = ("--explainer-options", '{"target_layer": "vit.layernorm"}')
    assert "a student without a teacher at hand" in verify(left_out, *given)
    assert "target_layer are the record's to state" in verify({"name": "gradcam", "options": {}}, *given)


def test_faked_records(measured, capsys):
    """Prevents: picked samples that pass for drawn ones, as their figures repeat; an interval or a count made up."""
    folder = measured
    honest = FidelityRecord.load(folder)
    picked = sorted(set(range(10)) - set(honest.data.samples))[:4]
    agreement = honest.figures["agreement"]
    narrow = replace(agreement, low=agreement.value + 0.1, high=agreement.value + 0.2, samples=999)
    faked = replace(honest, data=replace(honest.data, samples=picked), figures={"agreement": narrow})
    faked.save(folder)
    assert run("fidelity", "--verify", folder, *THERE) == 1
    out = capsys.readouterr().out
    assert "FAILS the samples are those that the seed draws" in out and "4 of 4 are others" in out
    assert "999 samples stated, 4 found" in out and "interval [" in out
    replace(honest, figures={}).save(folder)
    assert run("fidelity", "--verify", folder, *THERE) == 1
    assert "states nothing that could be verified: it has no figures" in capsys.readouterr().err
    rows = [f"photos/validation/{number}.png" for number in range(9, 11)]
    shutil.copy(rows[0], rows[1])
    honest.save(folder)
    assert run("fidelity", "--verify", folder, *THERE) == 1
    assert "data with 10 rows, and the split 'validation' of these has 11. Give the split" in capsys.readouterr().err


def test_other_columns_are_verified(place, capsys):
    """Prevents: a record of columns that it doesn't name, as that of an earlier version, which nobody can repeat."""
    rows = [{"review": f"a {word} film", "stars": number % 5} for number, word in enumerate(WORDS)]
    (place / "texts" / "validation.jsonl").write_text("\n".join(map(json.dumps, rows)))
    columns = ("--text-columns", "review", "--label-column", "stars", "--max-length", 4)
    quick = ("--explainer", "input_x_gradient", "--pictures", 0, "--no-chance")
    assert run("fidelity", "--teacher", "long", "--student", "short", "--dataset", "texts", *columns, *quick) == 0
    folder = place / "outputs" / "fidelity"
    record = FidelityRecord.load(folder)
    assert record.figures["accuracy"].samples == 6
    assert run("fidelity", "--verify", folder, *TEXTS_THERE) == 0
    replace(record, data=replace(record.data, columns={})).save(folder)
    assert run("fidelity", "--verify", folder, *TEXTS_THERE) == 1
    assert "has no column 'text'. Its columns: review, stars" in capsys.readouterr().err
    assert run("fidelity", "--verify", folder, *TEXTS_THERE, *columns[:2], *columns[4:]) == 1
    out = capsys.readouterr().out
    assert "FAILS accuracy" in out and "--label-column" in out
    assert run("fidelity", "--verify", folder, *TEXTS_THERE, *columns) == 0


def test_a_revision_of_the_hub(measured, monkeypatch):
    """Prevents: a published student that is loaded at the commit of the checkpoint it started from."""
    folder = measured
    record = FidelityRecord.load(folder)
    replace(record, student=replace(record.student, revision="a" * 40)).save(folder)
    asked, load = [], verification.load_classifier

    def loaded(source, revision, trusted, processor=None):
        asked.append((source, revision))
        return load("student" if source == "me/student" else source, None, trusted)

    def downloaded(source, revision, allow_patterns):
        asked.append((source, revision))
        return str(folder)

    monkeypatch.setattr(verification, "check_source", lambda source: None)
    monkeypatch.setattr(verification, "snapshot_download", downloaded)
    monkeypatch.setattr(verification, "load_classifier", loaded)
    for given, revision in (((), None), (("--student-revision", "v2"), "v2")):
        asked.clear()
        assert run("fidelity", "--verify", "me/student", *THERE[:2], *THERE[4:], *given) == 0
        assert asked[:2] == [("me/student", revision)] * 2


def test_a_students_commit_is_stated():
    """Prevents: a record of a student of the Hub without its revision, which is verified at another one."""
    model = build("vit")
    model.config._commit_hash = "c" * 40
    for name in ("me/student", "me/teacher"):
        found = _from(MODEL, name, model, Path("outputs"))
        assert (found.id, found.revision, found.path) == (name, "c" * 40, None)


def test_card_is_written_anew(place, capsys):
    """Prevents: a card that has to be measured again to state its licence."""
    assert run(*IMAGES, "--output-dir", "student", "--pictures", 0) == 0
    capsys.readouterr()
    assert run("card", "student", "--license", "apache-2.0", "--repo-id", "me/student", "--tag", "mine", "--json") == 0
    assert json.loads(capsys.readouterr().out)["card"] == "student/README.md"
    card = (place / "student" / "README.md").read_text()
    assert "license: apache-2.0" in card and 'load_student("me/student")' in card and "- mine" in card
    assert torch.is_tensor(next(iter(load_file("student/model.safetensors").values())))


def test_a_student_that_is_measured_again_was_trained_as_before(place):
    """Prevents: a distilled student whose card no longer says how it was trained, once it is measured anew in its
    folder, as `hf-e2kd card` advises; and a training that was another student's."""
    again = (*IMAGES[:-1], 4, "--output-dir", "student", "--pictures", 0, "--no-chance", "--card")
    assert run(*again) == 0
    arguments = {"task_weight": 0.0, "logits_weight": 1.0, "learning_rate": 0.01}
    record = replace(FidelityRecord.load("student"), training=TrainingRecord(None, arguments=arguments, steps=7))
    record.save("student")
    assert run(*again) == 0
    assert FidelityRecord.load("student").training == record.training
    assert "- **Length**: 7 optimizer steps" in (place / "student" / "README.md").read_text()
    replace(record, student=replace(record.student, weights=f"sha256:{'0' * 64}")).save("student")
    assert run(*again) == 0
    assert FidelityRecord.load("student").training is None


def test_scores_are_measured_and_verified(place, capsys):
    """Prevents: a reranker and its teacher, measured as classifiers of one class: an agreement of 1 (faults A2)."""
    for name, seed in (("short", 0), ("long", 1)):
        model = AutoModelForSequenceClassification.from_pretrained(place / name)
        model.config.num_labels = 1
        torch.manual_seed(seed)
        type(model)(model.config).save_pretrained(place / name)
    rows = [{"text": f"a {word} film", "label": number / 2} for number, word in enumerate(WORDS)]
    (place / "texts" / "validation.jsonl").write_text("\n".join(map(json.dumps, rows)))
    line = ("fidelity", "--teacher", "long", "--student", "short", "--dataset", "texts", "--explainer", "saliency")
    assert run(*line, "--card") == 0
    out = capsys.readouterr().out
    assert "spearman" in out and "label mae" in out and "agreement" not in out
    record = FidelityRecord.load(place / "outputs" / "fidelity")
    assert record.problem == "regression" and record.figures["spearman"].samples == len(WORDS)
    sources = ("--student", "short", "--teacher", "long", "--dataset", "texts")
    assert run("fidelity", "--verify", "outputs/fidelity", *sources) == 0
    assert "spearman" in capsys.readouterr().out
