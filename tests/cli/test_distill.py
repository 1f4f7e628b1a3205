"""`hf-e2kd distill` as users call it: what it trains and says, and how it fails or is interrupted."""

import io
import json
import os
import random
import shutil
import sys
from contextlib import nullcontext

import datasets
import numpy as np
import pytest
import torch
import typer
from PIL import Image
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    TrainerCallback,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from hf_e2kd import ExplanationDistillArguments
from hf_e2kd.cli import distill as command
from hf_e2kd.cli import main, plan
from hf_e2kd.data import text as texts
from hf_e2kd.experiments import fit_head
from hf_e2kd.experiments import run as side_by_side
from hf_e2kd.experiments.demos import DEMOS
from hf_e2kd.experiments.estimate import MEASURED_STEPS, duration, estimate_students
from hf_e2kd.experiments.images import ImageSources, load_image_sources
from hf_e2kd.export import load_exported
from hf_e2kd.trainer import ExplanationDistillTrainer
from tests.models import CLASS_NAMES, build, build_bcos
from tests.text_models import build_text
from tests.tokenizers import tokenizer

PROCESSOR = ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
TOKENIZER = tokenizer("wordpiece", model_max_length=24)
SIZES = {"teacher_train": 96, "student_train": 16, "validation": 0, "test_id": 8, "test_ood": 8}
BATCHES = ["--per_device_train_batch_size", "4", "--per_device_eval_batch_size", "8"]
FAST = [*BATCHES, "--use_cpu", "true", "--pictures", "0"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with teachers, students and data of images and of texts."""
    folder = tmp_path_factory.mktemp("place")
    for seed, name in enumerate(("teacher", "student")):
        build("vit", seed=seed).save_pretrained(folder / name)
        PROCESSOR.save_pretrained(folder / name)
    build("vit").vit.save_pretrained(folder / "encoder")
    PROCESSOR.save_pretrained(folder / "encoder")
    build_text("bert", 1, vocab_size=len(TOKENIZER)).save_pretrained(folder / "reader")
    TOKENIZER.save_pretrained(folder / "reader")
    noise = np.random.default_rng(0).integers(0, 255, (16, 32, 32, 3), dtype=np.uint8)
    rows = {"image": [Image.fromarray(pixels) for pixels in noise], "label": [number % 5 for number in range(16)]}
    for name, classes in (("photos", CLASS_NAMES), ("pets", ["cat", "dog", "mouse", "hen", "cow"])):
        features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=classes))
        photos = datasets.Dataset.from_dict(rows, features=features)
        datasets.DatasetDict(train=photos, validation=photos.select(range(8))).save_to_disk(folder / name)
    texts = datasets.Dataset.from_dict(
        {"text": ["a wonderful film", "the worst film"] * 4, "label": [0, 1] * 4},
        features=datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=CLASS_NAMES)),
    )
    datasets.DatasetDict(train=texts, validation=texts.select(range(2))).save_to_disk(folder / "texts")
    return folder


def run(*arguments):
    """The exit code."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return ended.value.code or 0


def of_images(place, *options, dataset="photos"):
    sources = ["--teacher", place / "teacher", "--student", place / "student", "--dataset", place / dataset]
    return ["distill", *sources, *FAST, *options]


def test_images(place, tmp_path, monkeypatch, capsys):
    """Prevents: results among the trainer's logs, a training option that is lost, no word of what is done and how long
    it takes, a student that isn't exported, without its map or after it is published, an earlier student's file."""
    published = []
    monkeypatch.setattr(side_by_side, "create_repo", lambda args: "me/student")
    monkeypatch.setattr(side_by_side, "push_folder", lambda folder, *_, **options: published.extend(folder.iterdir()))
    (tmp_path / "student").mkdir()
    (tmp_path / "student" / "student.onnx").touch()
    options = ["--max_steps", 2, "--learning-rate", "0.001", "--export", "pt2", "--push_to_hub", "true"]
    line = of_images(place, "--output_dir", tmp_path, *options)
    assert run(*line) == 0
    printed = capsys.readouterr()
    table = printed.out.splitlines()
    assert table[0].startswith("| data | model | accuracy | agreement | similarity")
    assert [row.split("|")[2].strip() for row in table[2:4]] == ["teacher", "e²KD"]
    assert f"In {tmp_path}: " in table[-1] and "student" in table[-1]
    assert "The training will take about" in printed.err and "e²KD: 2 steps of" in printed.err
    assert "A ViTForImageClassification of " in printed.err and f"All files go to {tmp_path}." in printed.err
    recorded = json.loads((tmp_path / "results.json").read_text())["arguments"]
    assert recorded["learning_rate"] == 0.001
    assert load_exported(tmp_path / "student" / "student.pt2").program.outputs == ["logits", "map"]
    names = {path.name for path in published}
    assert "student.pt2" in names and "student.onnx" not in names
    trained = AutoModelForImageClassification.from_pretrained(tmp_path / "student").state_dict()
    start = build("vit", seed=1).state_dict()
    assert any(not torch.equal(start[name], value) for name, value in trained.items())


def test_a_map_that_can_not_be_exported(place, tmp_path, monkeypatch, capsys):
    """Prevents: a rehearsal that passes before a training that is refused; a refusal without what to do."""

    def refuse(student):
        raise ValueError("No map.")

    monkeypatch.setattr(command, "require_explainable", refuse)
    assert run(*of_images(place, "--output_dir", tmp_path, "--export", "pt2", "--dry-run")) == 1
    assert "No map. Without --export the student is trained" in capsys.readouterr().err


def test_texts(place, tmp_path, capsys):
    """Prevents: a trained teacher that is trained again, or a JSON that no script can read."""
    sources = ["--teacher", place / "reader", "--student", "teacher-layers", "--dataset", place / "texts"]
    line = ["distill", *sources, *FAST, "--max_steps", 1, "--explainer_options", '{"n_steps": 1}']
    assert run(*line, "--student_layers", 1, "--output_dir", tmp_path, "--json") == 0
    results = json.loads(capsys.readouterr().out)
    assert results["output_dir"] == str(tmp_path) and set(results["summary"]["evaluation"]) == {"teacher", "e²KD"}
    assert json.loads((tmp_path / "student" / "config.json").read_text())["num_hidden_layers"] == 1
    assert not (tmp_path / "teacher").exists()


@pytest.mark.parametrize("splits", [{"train": 8, "validation": 4}, {"train": 40}])
def test_a_record_names_the_data_that_were_read(place, tmp_path, capsys, splits):
    """Prevents: a student of texts, or labels, in columns of other names, whose card's command of verification asks for
    a column `text` that the data doesn't have, and reads longer texts whole; and one of a part that was held out, whose
    card says that it was measured on the training split, and which nobody can measure again."""
    for split, count in splits.items():
        rows = [{"review": f"a {'wonderful' if n % 2 else 'tiresome'} film", "stars": n % 2} for n in range(count)]
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    sources = ["--teacher", place / "reader", "--student", "teacher-layers", "--dataset", tmp_path / "data"]
    columns = ["--text_column", "review", "--label_column", "stars", "--max_length", 5]
    quick = ["--max_steps", 1, "--explainer", "input_x_gradient", "--output_dir", tmp_path / "out"]
    assert run("distill", *sources, *columns, *FAST, *quick) == 0
    stated = json.loads((tmp_path / "out" / "student" / "fidelity.json").read_text())
    assert stated["data"]["columns"] == {"texts": ["review"], "label": "stars", "max_length": 5}
    assert stated["figures"]["accuracy"]["samples"] == 4
    card = (tmp_path / "out" / "student" / "README.md").read_text()
    part = ", of which 10 % were held out of the training"
    assert f"samples of a local data set, split `{[*splits][-1]}`{part if len(splits) == 1 else ''}. Both" in card
    assert f"- **Data**: a local data set, split `train`, {36 if len(splits) == 1 else 8} samples" in card
    again = ["--teacher", place / "reader", "--dataset", tmp_path / "data"]
    assert run("fidelity", "--verify", tmp_path / "out" / "student", *again) == 0, capsys.readouterr()


@pytest.mark.parametrize("kind", ["images", "texts"])
def test_several_labels_a_sample(place, tmp_path, kind):
    """Prevents: a TypeError at the picture, before results and card; a student of a teacher that decides each class for
    itself, which learns by a softmax; and a table without its F1."""
    auto_class, names = AutoModelForImageClassification, datasets.ClassLabel(names=CLASS_NAMES)
    teacher, student, columns = place / "teacher", place / "student", []
    if kind == "images":
        noise = np.random.default_rng(0).integers(0, 255, (20, 32, 32, 3), dtype=np.uint8)
        rows = {"image": [Image.fromarray(each) for each in noise], "label": [[n % 4, 4] for n in range(20)]}
        features = datasets.Features(image=datasets.Image(), label=datasets.Sequence(names))
    else:
        auto_class, teacher, student = AutoModelForSequenceClassification, place / "reader", place / "reader"
        rows = {"text": ["a film"] * 20, "label": [[n % 2, 1.0, 0.0, 0.0, 1.0] for n in range(20)]}
        features = datasets.Features(text=datasets.Value("string"), label=datasets.Sequence(datasets.Value("float32")))
        columns = ["--explainer", "saliency"]
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "data")
    shutil.copytree(teacher, tmp_path / "multi")
    model = auto_class.from_pretrained(teacher, problem_type="multi_label_classification")
    model.save_pretrained(tmp_path / "multi")
    sources = ["--teacher", tmp_path / "multi", "--student", student, "--dataset", tmp_path / "data"]
    once = ["--max_steps", 1, "--output_dir", tmp_path / "out", "--pictures", 1]
    assert run("distill", *sources, *columns, *FAST, *once) == 0
    config = json.loads((tmp_path / "out" / "student" / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    figures = json.loads((tmp_path / "out" / "results.json").read_text())["summary"]["evaluation"]["e²KD"]
    assert {"f1", "map", "agreement", "explanation_similarity"} <= set(figures)
    assert (tmp_path / "out" / "student" / "explanations.png").is_file()


@pytest.fixture
def pairs(place, tmp_path):
    """A CSV file of pairs of texts, and a small student of another tokenizer, whose classes have no names."""
    rows = [f"a film {n},a sequel {n},{CLASS_NAMES[n % 5]},{n % 5}" for n in range(20)]
    (tmp_path / "pairs.csv").write_text("\n".join(["first,second,name,number", *rows]))
    other = tokenizer("byte_bpe", model_max_length=24)
    build_text("bert", 2, vocab_size=len(other)).bert.save_pretrained(tmp_path / "small")
    other.save_pretrained(tmp_path / "small")
    sources = ["--teacher", place / "reader", "--student", tmp_path / "small", "--dataset", tmp_path / "pairs.csv"]
    fast = ["--max_steps", 1, "--explainer", "saliency", "--explained_samples", 2, "--output_dir", tmp_path / "out"]
    return ["distill", *sources, *FAST, *fast]


@pytest.mark.parametrize("label", ["name", "number"])
@pytest.mark.parametrize("columns", [["--text_column", "first", "--text-column", "second"]])
def test_file_of_pairs(pairs, label, columns, monkeypatch, tmp_path):
    """Prevents: the first column of a pair dropped (fault A12), a single file that has no split to measure on (B15),
    labels by name refused (B6), and a student that loses its teacher's class names (A14)."""
    read = []
    tokenize = texts.tokenize_texts
    monkeypatch.setattr(texts, "tokenize_texts", lambda parts, *sides: read.extend(parts) or tokenize(parts, *sides))
    assert run(*pairs, *columns, "--label_column", label) == 0
    assert {tuple(text.rsplit(" ", 1)[0] for text in parts) for parts in read} == {("a film", "a sequel")}
    assert {first.split()[-1] == second.split()[-1] for first, second in read} == {True}
    config = json.loads((tmp_path / "out" / "student" / "config.json").read_text())
    assert list(config["id2label"].values()) == CLASS_NAMES
    recorded = json.loads((tmp_path / "out" / "results.json").read_text())["summary"]["evaluation"]
    assert "accuracy" in recorded["e²KD"]


def test_unknown_label_names_of_a_file(pairs, capsys):
    """Prevents: a bare traceback for a file whose labels the teacher doesn't know."""
    assert run(*pairs, "--text_column", "first", "--label_column", "second") == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert "The column 'second' holds labels by name" in message and "'a sequel 0'" in message
    assert "class 0, class 1" in message and "class_encode_column('second')" in message


@pytest.mark.parametrize(
    ("given", "gathered"),
    [
        (["--text_column", "a", "b", "--seed", "1"], ["--seed", "1", "--text_column", "a", "b"]),
        (["--text-column=a", "--seed", "1", "--text_column", "b"], ["--seed", "1", "--text_column", "a", "b"]),
        (["--bf16", "--seed=1"], ["--bf16", "--seed=1"]),
    ],
)
def test_repeated_columns_are_gathered(given, gathered):
    """Prevents: an option whose value goes to another one."""
    assert command.gather_columns(given) == gathered


def test_dry_run(place, tmp_path, capsys):
    """Prevents: a trial that trains, writes or uploads, or steps that are counted wrongly."""
    line = of_images(place, "--output_dir", tmp_path / "out", "--num_train_epochs", 3, "--compare", "true")
    assert run(*line, "--dry-run", "--json", "--seeds", 2, "--push_to_hub", "true", "--eval_strategy", "epoch") == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["trainings"]) == {"KD", "e²KD"} and found["seeds"] == 2
    for part in found["trainings"].values():
        assert (part["steps"], part["evaluations"]) == (12, 4)
        assert part["seconds_per_step"] > 0 and part["seconds"] > 12 * part["seconds_per_step"]
    assert found["seconds"] == pytest.approx(2 * sum(part["seconds"] for part in found["trainings"].values()))
    assert not list((tmp_path / "out").rglob("*")) if (tmp_path / "out").exists() else True


def test_dry_run_of_no_epochs(place, tmp_path, capsys):
    """Prevents: a student that is only to be measured, refused because there is no step to time."""
    line = of_images(place, "--output_dir", tmp_path / "out", "--num_train_epochs", 0)
    assert run(*line, "--dry-run", "--json") == 0
    part = json.loads(capsys.readouterr().out)["trainings"]["e²KD"]
    assert (part["steps"], part["seconds_per_step"], part["evaluations"]) == (0, 0.0, 1)


@pytest.mark.parametrize("demo", DEMOS)
def test_dry_run_of_the_demos(monkeypatch, tmp_path, capsys, demo):
    """Prevents: a demonstration that the installed package can't show, or whose teacher's training isn't counted."""
    setting = DEMOS[demo]
    monkeypatch.setitem(setting.data, "sizes", SIZES)
    assert run("distill", "--demo", demo, *FAST, "--output_dir", tmp_path, "--dry-run", "--compare", "false") == 0
    printed = capsys.readouterr()
    epochs = setting.teacher_training["num_train_epochs"]
    assert f"teacher: {24 * epochs:,} steps of" in printed.out and "e²KD: " in printed.out
    assert not printed.err.count("Seed") and not list(tmp_path.iterdir())


def test_an_estimate_leaves_everything_as_it_was(place, tmp_path):
    """Prevents: a training that goes otherwise because it was timed first."""
    args = ExplanationDistillArguments(
        str(tmp_path), use_cpu=True, report_to="none", remove_unused_columns=False, per_device_train_batch_size=4
    )
    sources = ImageSources(str(place / "teacher"), str(place / "student"), str(place / "photos"))
    task = load_image_sources(sources, args, 0)
    before = {name: value.clone() for name, value in task.student.state_dict().items()}
    draws = []
    for estimated in (False, True):
        torch.manual_seed(3), random.seed(3), np.random.seed(3)
        if estimated:
            (part,) = estimate_students(task, args, {"e²KD": {"explanation_interval": 2}}).values()
        draws.append((torch.rand(2).tolist(), random.random(), np.random.rand()))
    assert draws[0] == draws[1]
    assert part.steps == 12 and MEASURED_STEPS > 2
    # Each epoch's evaluation, or one after each tenth of the steps, and the last.
    counts = {
        "epoch": {"eval_strategy": "epoch", "max_steps": 5},
        "tenth": {"eval_strategy": "steps", "eval_steps": 0.1},
    }
    planned = estimate_students(task, args, counts, steps=1)
    assert {name: part.evaluations for name, part in planned.items()} == {"epoch": 3, "tenth": 7}
    after = task.student.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert args.max_steps == -1 and args.output_dir == str(tmp_path) and not list(tmp_path.iterdir())


def test_bcos_networks_without_a_processor(place, tmp_path):
    """Prevents: a B-cos teacher saved without its processor that passes the check and can't be loaded afterwards, or a
    B-cos student that is shown normalised images."""
    args = ExplanationDistillArguments(str(tmp_path), use_cpu=True, report_to="none", remove_unused_columns=False)
    build_bcos(CLASS_NAMES).save_pretrained(tmp_path / "bcos")
    for teacher, student, start in (("bcos", "student", "pretrained"), ("teacher", "bcos", "random")):
        sources = [str((tmp_path if name == "bcos" else place) / name) for name in (teacher, student)]
        task = load_image_sources(ImageSources(*sources, str(place / "photos"), student_init=start), args, 0)
        shown = task.train[0]["teacher_pixel_values" if teacher == "bcos" else "pixel_values"]
        assert shown.shape[-1] == (224 if teacher == "bcos" else 32) and 0 <= shown.min() <= shown.max() <= 1


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "1 s"), (61, "61 s"), (600, "10 min"), (9000, "2 h 30 min"), (360_000, "4 days 4 h")]
)
def test_durations(seconds, text):
    """Prevents: an afternoon given in seconds."""
    assert duration(seconds) == text


@pytest.fixture
def terminal(monkeypatch):
    """`terminal(keys)`: somebody sits at a terminal, types `keys` and is asked from the first second on."""
    for name in plan._UNATTENDED:
        monkeypatch.delenv(name, raising=False)

    def sit(keys):
        monkeypatch.setattr(plan, "ASKED_FROM", 0.0)
        monkeypatch.setattr("sys.stdin", io.StringIO(keys))
        for stream in (sys.stdin, sys.stderr):
            monkeypatch.setattr(stream, "isatty", lambda: True)

    return sit


@pytest.mark.parametrize(
    ("keys", "options", "code"),
    [("\n", [], 0), ("n\n", [], 1), ("", [], 1), ("n\n", ["--yes"], 0)],
    ids=["Enter", "no", "end of input", "--yes"],
)
def test_a_long_training_is_asked_for(place, tmp_path, capsys, monkeypatch, terminal, keys, options, code):
    """Prevents: hours of training that nobody agreed to, a no that trains, a yes that has to be typed twice."""
    trained = []

    def run_variants(experiment, name, sources, comparison, args, before, **_):
        before(load_image_sources(sources, args, 0), {"e²KD": {}})
        trained.append(name)
        return {"summary": {}}

    monkeypatch.setattr(command, "run_variants", run_variants)
    terminal(keys)
    assert run(*of_images(place, "--output_dir", tmp_path, "--max_steps", 1, *options)) == code
    printed = capsys.readouterr()
    assert "All files go to" in printed.err and "Go on?" not in printed.out and "Traceback" not in printed.err
    assert ("Go on? [Y/n]:" in printed.err) == (not options) and bool(trained) == (code == 0)
    assert ("--yes starts without asking" in printed.err) == (keys == "n\n" and not options)


def test_what_can_not_be_undone_comes_after_the_question(place, tmp_path, capsys, monkeypatch, terminal):
    """Prevents: a teacher trained, or a repository made, before the answer."""
    monkeypatch.setattr(side_by_side, "create_repo", lambda args: pytest.fail("made without consent"))
    for options in (["--finetune-teacher", 2, "--dataset", place / "pets"], ["--push_to_hub", "true"]):
        terminal("n\n")
        assert run(*of_images(place, "--output_dir", tmp_path, "--max_steps", 1, *options)) == 1
        printed = capsys.readouterr().err
        assert printed.count("Go on?") == 1 and ("teacher: " in printed) == ("--finetune-teacher" in options)
        assert not list(tmp_path.iterdir())


def test_a_minute_is_not_asked_for(terminal, capsys, monkeypatch):
    """Prevents: a question before what is over sooner than it is answered."""
    terminal("n\n")
    for steps, asked in ((59, False), (61, True)):
        monkeypatch.setattr(plan, "ASKED_FROM", 60.0)
        planned = plan.Plan("Much.", {"e²KD": plan.Part(steps, 0.5)}, seeds=2, device="cpu")
        with pytest.raises(typer.Exit) if asked else nullcontext():
            plan.ask(planned)
        printed = capsys.readouterr().err
        assert f"about {steps} s on cpu, with 2 seeds" in printed and ("Go on?" in printed) == asked


@pytest.mark.parametrize("name", ["", "CI", "JPY_PARENT_PID", "LOCAL_RANK"])
def test_a_terminal_is_told_from_a_pipe(monkeypatch, name):
    """Prevents: a question that is asked of a pipe, a notebook or one of several processes, which hangs."""
    for each in plan._UNATTENDED:
        monkeypatch.delenv(each, raising=False)
    if name:
        monkeypatch.setenv(name, "1")
    leader, follower = os.openpty()
    reading, writing = os.pipe()
    try:
        with open(follower, "rb+", buffering=0) as raw, open(reading) as pipe:
            screen = io.TextIOWrapper(raw)
            for stdin, stderr, attended in ((screen, screen, True), (pipe, screen, False), (screen, pipe, False)):
                with monkeypatch.context() as patch:
                    patch.setattr("sys.stdin", stdin)
                    patch.setattr("sys.stderr", stderr)
                    found = plan.is_attended()
                assert found == (attended and not name)
    finally:
        os.close(leader)
        os.close(writing)


class Interrupting(TrainerCallback):
    def on_step_begin(self, args, state, control, **_):
        if state.global_step == 5:
            raise KeyboardInterrupt


def test_interruption_and_resuming(place, tmp_path, capsys, monkeypatch):
    """Prevents: a traceback, a success that none was, or a checkpoint of which nobody knows."""
    train = ExplanationDistillTrainer.train
    resumed = []
    for module, name in ((command, "estimate_students"), (side_by_side, "write_card")):
        monkeypatch.setattr(module, name, lambda *_: {})

    def interrupted(self, *arguments, **keywords):
        self.add_callback(Interrupting())
        return train(self, *arguments, **keywords)

    monkeypatch.setattr(ExplanationDistillTrainer, "train", interrupted)
    line = of_images(place, "--output_dir", tmp_path, "--num_train_epochs", 2)
    assert run(*line, "--compare", "true") == 130
    assert "comparison of several students isn't resumed" in capsys.readouterr().err
    assert not list(tmp_path.glob("checkpoint-*"))
    assert run(*line, "--save_strategy", "no") == 130
    assert "Interrupted before the first checkpoint" in capsys.readouterr().err
    assert run(*line) == 130
    printed = capsys.readouterr()
    checkpoint = tmp_path / "checkpoint-4"
    assert f"with --resume_from_checkpoint {checkpoint} goes on" in printed.err and "Traceback" not in printed.err
    assert not printed.out
    # Of another training in the same folder, which a resumed one would go on with.
    shutil.copytree(checkpoint, tmp_path / "checkpoint-400")
    os.utime(tmp_path / "checkpoint-400", (0, 0))
    assert run(*line, "--save_strategy", "no") == 130
    assert "Interrupted before the first checkpoint" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "checkpoint-400")
    # The same command again would delete the checkpoint by its first one.
    assert run(*line) == 1 and checkpoint.is_dir()
    printed = " ".join(capsys.readouterr().err.split())
    assert (
        f"'{checkpoint}' is of a training that didn't end" in printed and "by --resume_from_checkpoint true" in printed
    )

    def watched(self, resume_from_checkpoint=None, **keywords):
        resumed.append(resume_from_checkpoint)
        return train(self, resume_from_checkpoint, **keywords)

    monkeypatch.setattr(ExplanationDistillTrainer, "train", watched)
    assert run(*line, "--resume_from_checkpoint", "true") == 0
    assert resumed == [str(checkpoint)] and (tmp_path / "checkpoint-8").is_dir()
    assert run(*line, "--dry-run") == 0  # that training ended
    os.utime(tmp_path / "results.json", (0, 0))
    assert run(*line, "--dry-run") == 1 and run(*line, "--dry-run", "--resume_from_checkpoint", "false") == 0


def test_the_best_checkpoint_of_compared_students(place, tmp_path, monkeypatch):
    """Prevents: a metric that the documentation names ending the training after its first evaluation, as the only
    evaluation set's name belonged before it; and last weights in the place of the best ones of a comparison, of which
    no checkpoints were saved."""
    trainers = []
    train = side_by_side.train_student
    monkeypatch.setattr(side_by_side, "train_student", lambda *given: trainers.append(train(*given)) or trainers[-1])
    monkeypatch.setattr(side_by_side, "write_card", lambda *_: None)
    monkeypatch.setattr(command, "estimate_students", lambda *_: {})
    best = ["--load_best_model_at_end", "true", "--metric_for_best_model", "eval_explanation_similarity"]
    line = of_images(place, "--output_dir", tmp_path, "--num_train_epochs", 2, "--eval_strategy", "epoch", *best)
    assert run(*line, "--compare", "true") == 0
    assert len(trainers) == 2
    for trainer in trainers:
        assert trainer.state.best_model_checkpoint is not None
        figures = [each for each in trainer.state.log_history if "eval_explanation_similarity" in each]
        assert trainer.state.best_metric == max(each["eval_explanation_similarity"] for each in figures)


@pytest.mark.parametrize("teacher", ["encoder", "teacher"])
def test_a_head_for_the_datas_classes(place, tmp_path, teacher):
    """Prevents: a folder of photographs whose classes aren't the teacher's, as most users' are, ending in an error."""
    line = of_images(place, "--output_dir", tmp_path, "--max_steps", 1, "--dataset", place / "pets")
    assert run(*line, "--teacher", place / teacher, "--teacher-head", "fit", "--student_init", "random") == 0
    for name in ("teacher", "student"):
        model = AutoModelForImageClassification.from_pretrained(tmp_path / name)
        assert list(model.config.id2label.values()) == ["cat", "dog", "mouse", "hen", "cow"]
    pets = datasets.load_from_disk(place / "pets")["train"]
    fitted, _ = fit_head(str(place / teacher), pets, progress=False)
    kept = AutoModelForImageClassification.from_pretrained(tmp_path / "teacher")
    torch.testing.assert_close(kept.classifier.weight, fitted.classifier.weight)
    assert ViTImageProcessor.from_pretrained(tmp_path / "teacher").size == PROCESSOR.size


def test_a_teacher_fine_tuned_on_images(place, tmp_path, capsys):
    """Prevents: a teacher trained on the student's view of the images, not kept, or not counted in the estimate."""
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path / "start")
    config = ViTConfig(**{**build("vit").config.to_dict(), "image_size": 16})
    ViTForImageClassification(config).save_pretrained(tmp_path / "start")
    line = of_images(place, "--output_dir", tmp_path / "out", "--num_train_epochs", 1, "--dataset", place / "pets")
    line += ["--student", tmp_path / "start", "--finetune-teacher", 2]
    assert run(*line, "--dry-run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["trainings"]["teacher"]["steps"] == 8
    assert run(*line) == 0
    teacher = AutoModelForImageClassification.from_pretrained(tmp_path / "out" / "teacher")
    assert list(teacher.config.id2label.values()) == ["cat", "dog", "mouse", "hen", "cow"]
    assert not torch.equal(teacher.vit.embeddings.cls_token, build("vit", seed=0).vit.embeddings.cls_token)
    assert ViTImageProcessor.from_pretrained(tmp_path / "out" / "teacher").size["height"] == 32


def test_a_head_for_the_texts_classes(place, tmp_path):
    """Prevents: texts without the way that images have."""
    line = ["distill", "--teacher", place / "reader", "--student", "teacher-layers", "--student_layers", 1, *FAST]
    line += ["--dataset", place / "texts", "--output_dir", tmp_path, "--max_steps", 1]
    texts = datasets.load_from_disk(place / "texts")
    two = texts.cast_column("label", datasets.ClassLabel(names=["good", "bad"]))
    two.save_to_disk(tmp_path / "two")
    assert run(*line, "--teacher-head", "fit", "--dataset", tmp_path / "two") == 0
    teacher = AutoModelForSequenceClassification.from_pretrained(tmp_path / "teacher")
    assert list(teacher.config.id2label.values()) == ["good", "bad"]


@pytest.mark.parametrize(
    ("code", "message", "options"),
    [
        (
            2,
            "there is no option --learning_rat. Did you mean --learning_rate or --teacher_learning_rate?",
            ["--learning_rat", 1],
        ),
        (2, "there is no option --xyzzy. --all-options lists them.", ["--xyzzy=1"]),
        (2, "invalid float value: 'fast'", ["--learning_rate", "fast"]),
        (2, "explanation_weight must be a finite number of at least 0", ["--explanation_weight", "-1"]),
        (2, "a demo brings its own teacher", ["--demo", "vit"]),
        (2, "--teacher_epochs of a teacher that isn't trained: add --finetune-teacher", ["--teacher_epochs=2"]),
        (2, "says how long the teacher is trained", ["--finetune-teacher", 1, "--teacher_epochs", 2]),
        (2, "'swin' is not one of", ["--demo", "swin"]),
        (2, "isn't resumed: add --compare false", ["--resume_from_checkpoint", "true", "--compare", "true"]),
        (1, "There is no checkpoint in", ["--resume_from_checkpoint", "true"]),
        (1, "no checkpoint-9", ["--resume_from_checkpoint", "no checkpoint-9"]),
        (1, "no column 'picture'. Its columns: image, label", ["--image_column", "picture"]),
        (1, "no column 'class'. Its columns: image, label", ["--label_column", "class"]),
        (1, "no split 'training'. Its splits: train, validation", ["--train_split", "training"]),
        (
            1,
            "give it a classifier for the student's: hf-e2kd distill --teacher-head fit",
            ["--dataset", "{place}/pets"],
        ),
        (1, "'nowhere/data' is neither a folder nor", ["--dataset", "nowhere/data"]),
        (1, "classifies texts and the student", ["--teacher", "{place}/reader"]),
        (1, "is ViTModel, no classifier", ["--teacher", "{place}/encoder"]),
        (2, "leave one of both out", ["--teacher-head", "fit", "--finetune-teacher", 1]),
        (1, "leave --teacher_head fit out, or this", ["--teacher-head", "fit", "--finetune_teacher", "true"]),
        (2, "Give a number above 0", ["--finetune-teacher", 0]),
        (1, "name its student by Hub id or folder", ["--student", "teacher-layers"]),
        (1, "'../nowhere' doesn't exist", ["--student", "../nowhere"]),
        (1, "'outputs/run/student' doesn't exist", ["--student", "outputs/run/student"]),
        (1, "is a path on this machine, which has no revision 'v1'", ["--teacher_revision", "v1"]),
        (1, "is a path on this machine, which has no revision 'v2'", ["--student-revision=v2"]),
        (1, "is a path on this machine, which has no configuration 'sst2'", ["--dataset_config", "sst2"]),
        (2, "is of a student's weights on the Hub", ["--student", "timm/resnet18", "--student_revision", "v2"]),
    ],
)
def test_errors(place, tmp_path, capsys, code, message, options):
    """Prevents: a traceback where a line says what to mend, or an error after hours that a look would have shown."""
    options = [str(option).replace("{place}", str(place)) for option in options]
    assert run(*of_images(place, "--output_dir", tmp_path, "--max_steps", 1, *options)) == code
    printed = capsys.readouterr()
    assert message in " ".join(printed.err.split()), printed.err
    assert not printed.out and "Traceback" not in printed.err and not (tmp_path / "student").exists()


@pytest.mark.parametrize(
    ("message", "options"),
    [
        (
            "a demo doesn't read --augment, since its models and data are its own",
            ["--demo", "vit", "--augment", "true"],
        ),
        ("a demo doesn't read --eval_split", ["--demo", "bert", "--student_layers", 1, "--eval-split=test"]),
        ("a demo brings its own teacher", ["--demo", "bert", "--teacher-head", "fit"]),
        ("a demo brings its own teacher", ["--demo", "vit", "--finetune-teacher", 2]),
        ("Leave --student_init out.", ["--student", "{place}/reader", "--student_init", "random"]),
        ("--student_layers is of --student random", ["--student", "{place}/reader", "--student_layers", 2]),
    ],
)
def test_options_without_an_effect(place, capsys, message, options):
    """Prevents: a student of the teacher's layers in the place of the named one, or an option that nothing reads."""
    options = [str(option).replace("{place}", str(place)) for option in options]
    sources = [] if "--demo" in options else ["--teacher", place / "reader", "--dataset", place / "texts"]
    assert run("distill", *FAST[2:], *sources, *options) == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_a_file_in_the_place_of_the_folder(place, capsys):
    """Prevents: a training that is prepared, and maybe a teacher trained, before the first file can't be written."""
    (place / "a file").touch()
    assert run(*of_images(place, "--output_dir", place / "a file" / "out", "--dry-run")) == 2
    assert f"'{place / 'a file'}' is a file" in " ".join(capsys.readouterr().err.split())


def test_help(capsys):
    """Prevents: who has no teacher at hand left without a way in, and options that nothing lists."""
    assert run("distill") == 2
    assert "--demo vit, which distils on embedded images without any download" in " ".join(
        capsys.readouterr().err.split()
    )
    assert run("distill", "--help") == 0
    assert "\n    hf-e2kd distill --demo vit\n" in capsys.readouterr().out
    assert run("distill", "--all-options") == 0
    printed = capsys.readouterr().out
    assert "--learning_rate" in printed and "--image_column" in printed and "--explanation_weight" in printed
    assert run("distill", "--all-options", "--demo", "bert") == 0
    assert "--text_column" in capsys.readouterr().out
