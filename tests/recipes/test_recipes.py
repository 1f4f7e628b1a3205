"""The recipes, as their users run them: without a download, on their own data, with wrong arguments."""

import json
import sys
from importlib import import_module
from pathlib import Path
from runpy import run_path

import numpy as np
import pytest
import sweep_shortcut
import torch
from accelerate.commands.launch import launch_command, launch_command_parser
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    BertForSequenceClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTImageProcessor,
)

from hf_e2kd import ExplanationDistillTrainer, load_student
from hf_e2kd.experiments import parse_experiment, run_variants
from hf_e2kd.experiments.demos import DEMOS, RESNET_ON_DIGITS
from tests.text_models import build_text
from tests.tokenizers import tokenizer

RECIPES = Path(__file__).parents[2] / "recipes"
TINY = {"teacher_train": 64, "student_train": 64, "validation": 0, "test_id": 16, "test_ood": 16}
CASES = [
    *("distill_vit", "distill_resnet", "distill_convnext", "distill_bert", "distill_stored", "guide_boxes"),
    *(f"papers/{path.stem}" for path in sorted((RECIPES / "papers").glob("[!_e]*.py"))),
    "papers/entropy",
]


def sizes_of(name: str) -> dict[str, int]:
    """Numbers of samples; fewer texts, whose explanations take many passes."""
    own = {"distill_bert": {"test_id": 6, "test_ood": 6}, "guide_boxes": {"teacher_train": 0}}
    return {**TINY, **own.get(name, {})}


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs a recipe in this process on a handful of samples; its results go to `tmp_path`."""

    def run_recipe(name: str, *options: str) -> dict:
        recipe = import_module(name)
        data = recipe.REVIEWS if name == "distill_bert" else recipe.DIGITS
        monkeypatch.setitem(data, "sizes", sizes_of(name))
        fast = ("--max_steps", "2", "--use_cpu", "true", "--pictures", "0", "--output_dir", str(tmp_path / "out"))
        monkeypatch.setattr(sys, "argv", [name, *fast, *options])
        return recipe.main()

    return run_recipe


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("demo", DEMOS)
def test_a_recipe_gives_the_figures_of_the_command_lines_demo(demo, run, monkeypatch, tmp_path):
    """A setting that was changed in one of the two places, so that README's figures are those of neither."""
    results = run(f"distill_{demo}")
    experiment = DEMOS[demo]
    monkeypatch.setitem(experiment.data, "sizes", sizes_of(f"distill_{demo}"))
    options = ["--max_steps", "2", "--use_cpu", "true", "--pictures", "0", "--output_dir", str(tmp_path / "demo")]
    sources, comparison, args = parse_experiment(experiment, f"distill_{demo}", "", arguments=options)
    expected = run_variants(experiment, f"distill_{demo}", sources, comparison, args)
    assert results["runs"] == expected["runs"]
    assert results["arguments"] == expected["arguments"]
    assert names_in(tmp_path / "out") == names_in(tmp_path / "demo")
    records = [load_student(tmp_path / folder / "student").fidelity for folder in ("out", "demo")]
    for value in ("figures", "compared", "chance", "data"):
        assert getattr(records[0], value) == getattr(records[1], value)
    assert records[0].teacher.path == records[1].teacher.path == "../teacher"
    assert records[0].training.data == records[1].training.data


def test_a_recipe_draws_its_picture_for_the_card(run, tmp_path):
    """A picture that the card names and nobody drew."""
    run("distill_resnet", "--pictures", "2", "--save_strategy", "epoch")
    student = tmp_path / "out" / "student"
    assert {"README.md", "fidelity.json", "explanations.png", "checkpoint-2"} <= names_in(student)
    assert "explanations.png" in (student / "README.md").read_text(encoding="utf-8")


def test_a_recipe_is_resumed(run, monkeypatch, tmp_path):
    """A training that begins anew, or goes on from the other student's checkpoint."""
    module = import_module("distill_resnet")
    run("distill_resnet", "--save_strategy", "steps", "--save_steps", "1")
    resumed = []
    train = module.ExplanationDistillTrainer.train

    def watched(self, resume_from_checkpoint=None, **keywords):
        resumed.append(resume_from_checkpoint)
        return train(self, resume_from_checkpoint, **keywords)

    monkeypatch.setattr(module.ExplanationDistillTrainer, "train", watched)
    run("distill_resnet", "--save_strategy", "steps", "--save_steps", "1", "--resume_from_checkpoint", "true")
    # The teacher's training isn't saved.
    folders = [str(tmp_path / "out" / folder / "checkpoint-2") for folder in ("student-kd", "student")]
    assert resumed == [None, *folders]


def test_a_stored_teacher_is_asked_once(run, tmp_path):
    """Students that learn from a store of other images, or maps that stay where the image was before the crop."""
    results = run("distill_stored", "--pictures", "2")
    assert names_in(tmp_path / "out" / "store") == {"train", "in_distribution", "out_of_distribution"}
    (figures,) = results["runs"]
    for name in ("KD", "e²KD"):
        assert set(figures[name]["out_of_distribution"]) == {
            *("accuracy", "agreement", "explanation_similarity", "energy_pointing_game"),
        }
    assert figures["KD"] != figures["e²KD"]
    assert {"README.md", "fidelity.json", "explanations.png"} <= names_in(tmp_path / "out" / "student")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "store").rglob("*.arrow")}
    assert run("distill_stored")["runs"] == results["runs"]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "store").rglob("*.arrow")} == before


def test_boxes_guide(run, tmp_path):
    """A guided model that never saw the boxes, or an unguided one that did."""
    results = run("guide_boxes", "--pictures", "2", "--explanation_weight", "5")
    assert {"guided", "unguided", "results.json"} == names_in(tmp_path / "out")
    (figures,) = results["runs"]
    energy = {name: figures[name]["out_of_distribution"]["energy_pointing_game"] for name in ("unguided", "guided")}
    assert energy["guided"] > energy["unguided"]
    assert {"README.md", "fidelity.json", "explanations.png"} <= names_in(tmp_path / "out" / "guided")
    assert run("guide_boxes", "--explanation_weight", "0")["runs"][0]["guided"] == figures["unguided"]


def test_a_mask_has_its_box():
    """A box that leaves out the mask's last row and column, and so holds less energy than the object does."""
    mask = np.zeros((8, 8), dtype=np.uint8)
    mask[2:5, 1:7] = 255
    assert import_module("guide_boxes").boxes_of_masks({"mask": [Image.fromarray(mask)]}) == {
        "boxes": [[[1.0, 2.0, 7.0, 5.0]]],
    }


@pytest.fixture
def own_sources(tmp_path):
    """Folders of a teacher, of a student and of labelled images with boxes."""
    names = ["cat", "dog", "owl"]
    for name, widths in (("teacher", [8, 16]), ("student", [8, 8])):
        config = ResNetConfig(embedding_size=8, hidden_sizes=widths, depths=[1, 1], layer_type="basic")
        config.id2label, config.label2id = dict(enumerate(names)), {label: i for i, label in enumerate(names)}
        ResNetForImageClassification(config).save_pretrained(tmp_path / name)
        ViTImageProcessor(size={"height": 48, "width": 48}).save_pretrained(tmp_path / name)
    pixels = np.random.default_rng(0).integers(0, 255, (8, 40, 60, 3), dtype=np.uint8)
    rows = {"image": list(pixels), "label": [0, 1, 2, 0] * 2, "boxes": [[[5, 5, 25, 20]]] * 8}
    features = Features(image=ImageFeature(), label=ClassLabel(names=names), boxes=List(List(Value("float32"))))
    data = Dataset.from_dict(rows, features=features)
    DatasetDict(train=data, validation=data.select(range(4))).save_to_disk(tmp_path / "data")
    sources = {name: str(tmp_path / name) for name in ("teacher", "student", "data")}
    return [
        *("--teacher", sources["teacher"], "--student", sources["student"], "--dataset", sources["data"]),
        *("--per_device_train_batch_size", "4"),
    ]


@pytest.mark.parametrize(
    ("name", "further"),
    [
        *((name, []) for name in ("distill_vit", "distill_stored", "guide_boxes")),
        ("distill_stored", ["--student_init", "random", "--augment", "false"]),
    ],
    ids=["distill_vit", "distill_stored", "guide_boxes", "distill_stored anew"],
)
def test_a_users_own_models_and_data(name, further, own_sources, run, tmp_path):
    """A pretrained model trained at the digits' learning rate, or a student without its data's classes."""
    options = ["--model", own_sources[1], *own_sources[4:]] if name == "guide_boxes" else own_sources
    results = run(name, *options, *further)
    assert results["arguments"]["learning_rate"] == 1e-4 and results["arguments"]["num_train_epochs"] == 10
    (figures,) = results["runs"]
    own = figures["guided" if name == "guide_boxes" else "e²KD"]["evaluation"]
    assert {"accuracy", "energy_pointing_game"} <= set(own)
    folder = tmp_path / "out" / ("guided" if name == "guide_boxes" else "student")
    student = AutoModelForImageClassification.from_pretrained(folder)
    assert list(student.config.id2label.values()) == ["cat", "dog", "owl"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("distill_vit", ["--teacher", "somewhere"], "--teacher, --student and --dataset belong together"),
        ("distill_vit", ["--explainer", "limes"], "Unknown explainer 'limes'. Available: "),
        ("distill_bert", ["--teacher", "somewhere"], "--teacher and --dataset belong together"),
        ("guide_boxes", ["--model", "somewhere"], "--model and --dataset belong together"),
        ("guide_boxes", ["--guidance_loss", "foo"], "invalid choice: 'foo'"),
        ("distill_stored", ["--resume_from_checkpoint", "true"], "neither of them is resumed"),
    ],
)
def test_wrong_arguments_say_what_to_do(name, options, message, run, capsys):
    """A traceback, or a long training, where a sentence would do."""
    with pytest.raises(SystemExit):
        run(name, *options)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", CASES)
def test_help(name, monkeypatch, capsys):
    """An option's help with a percent sign that argparse can't write, or a script that can't be started as such."""
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        run_path(str(RECIPES / f"{name}.py"), run_name="__main__")
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert "--output_dir" in printed and ("--smoke" in printed) == name.startswith("papers/")


def test_the_readmes_command_runs(monkeypatch, tmp_path, capfd):
    """`accelerate launch recipes/…` fails to start outside of this process."""
    monkeypatch.chdir(tmp_path)
    config = ["--config_file", str(RECIPES / "accelerate_configs" / "single_process.yaml")]
    recipe = [str(RECIPES / "papers" / "distill_imagenet.py"), "--help"]
    # The launcher's own part runs here; it starts Python for the recipe, and raises if that ends badly.
    launch_command(launch_command_parser().parse_args([*config, *recipe]))
    assert "--explanation_weight" in capfd.readouterr().out


def test_shortcuts_are_swept(monkeypatch, tmp_path):
    """Teachers that are all trained alike, or students of a correlation other than the stated one."""
    options = ["--smoke", "--teachers", "guided", "shortcut", "--correlations", "0.9", "--save_strategy", "steps"]
    monkeypatch.setattr(sys, "argv", ["sweep", *options, "--output_dir", str(tmp_path)])
    results = sweep_shortcut.run_shortcuts(RESNET_ON_DIGITS, "sweep", "")
    assert names_in(tmp_path) == {"results.json", "shortcuts.png", "table.md"}
    assert json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["summary"] == results["summary"]
    guided, shortcut = (results["summary"][f"{kind} teacher, correlation 0.9"] for kind in ("guided", "shortcut"))
    assert set(guided) == {"teacher", "KD", "e²KD"}
    assert guided["teacher"]["energy_pointing_game"] != shortcut["teacher"]["energy_pointing_game"]
    assert guided["KD"]["explanation_similarity"] != guided["e²KD"]["explanation_similarity"]
    for wrong in (["--teachers", "wise"], ["--guidance_weight", "-1"], ["--resume_from_checkpoint", "true"]):
        monkeypatch.setattr(sys, "argv", ["sweep", *wrong])
        with pytest.raises(SystemExit):
            sweep_shortcut.run_shortcuts(RESNET_ON_DIGITS, "sweep", "")


def test_a_users_own_texts(run, tmp_path):
    """Prevents: a teacher whose classifier is random, and a student whose logits are taken for other classes'."""
    own = tokenizer("wordpiece", model_max_length=24)
    for name, classes in (("teacher", ["bad", "good"]), ("student", ["good", "bad"])):
        config = build_text("bert", vocab_size=len(own)).config
        config.num_hidden_layers, config.pad_token_id = 1, own.pad_token_id
        config.id2label, config.label2id = dict(enumerate(classes)), {label: i for i, label in enumerate(classes)}
        BertForSequenceClassification(config).save_pretrained(tmp_path / name)
        own.save_pretrained(tmp_path / name)
    (tmp_path / "texts.csv").write_text("text,label\n" + "a good film,good\na bad film,bad\n" * 20)
    data = ["--dataset", str(tmp_path / "texts.csv"), "--explainer_options", '{"n_steps": 1}']
    data += ["--explained_samples", "2", "--learning_rate", "0"]
    run("distill_bert", "--teacher", str(tmp_path / "teacher"), "--student", str(tmp_path / "student"), *data)
    before, after = (
        AutoModelForSequenceClassification.from_pretrained(folder)
        for folder in (tmp_path / "student", tmp_path / "out" / "student")
    )
    assert after.config.id2label == {0: "bad", 1: "good"}
    assert torch.equal(after.classifier.weight, before.classifier.weight.flip(0))
    before.bert.save_pretrained(tmp_path / "teacher")
    with pytest.raises(ValueError, match=r"has no weights for classifier.*these would be random"):
        run("distill_bert", "--teacher", str(tmp_path / "teacher"), *data)


@pytest.mark.parametrize("name", ["distill_stored", "guide_boxes"])
def test_a_published_card_bears_the_repositorys_name(name, run, monkeypatch):
    """Prevents: a card on the Hub that is called as the folder on the machine that trained."""
    asked = []
    monkeypatch.setattr(import_module(name), "create_repo", lambda args: "me/student")
    monkeypatch.setattr(ExplanationDistillTrainer, "push_to_hub", lambda self, **card: asked.append(card))
    run(name, "--push_to_hub", "true", "--max_steps", "1")
    assert [set(card) for card in asked] == [{"fidelity"}]
