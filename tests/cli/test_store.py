"""`hf-e2kd store` as users call it: what it stores, what it prints, and how it fails."""

import errno
import json
import shutil
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTImageProcessor

from hf_e2kd.cli import main
from hf_e2kd.cli import store as command
from hf_e2kd.data.transforms import DistillationTransform
from hf_e2kd.store import StoredReference, hub_dataset, writer
from tests.models import CLASS_NAMES, CLASSES, build
from tests.text_models import build_text
from tests.tokenizers import tokenizer

VIEW = {"size": {"height": 32, "width": 32}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
PROCESSOR = ViTImageProcessor(**VIEW)
TOKENIZER = tokenizer("wordpiece", model_max_length=24)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with two teachers and, in several forms, their data."""
    folder = tmp_path_factory.mktemp("place")
    build("vit", seed=1).save_pretrained(folder / "vit")
    PROCESSOR.save_pretrained(folder / "vit")
    build_text("bert", 1, vocab_size=len(TOKENIZER)).save_pretrained(folder / "bert")
    TOKENIZER.save_pretrained(folder / "bert")
    build("vit", seed=1).vit.save_pretrained(folder / "headless")
    PROCESSOR.save_pretrained(folder / "headless")
    headless = json.loads((folder / "headless" / "config.json").read_text())
    shutil.copytree(folder / "headless", folder / "encoder")
    headless["architectures"] = ["ViTForImageClassification"]
    (folder / "headless" / "config.json").write_text(json.dumps(headless))
    noise = np.random.default_rng(0).integers(0, 255, (6, 40, 32, 3), dtype=np.uint8)
    for number, pixels in enumerate(noise):
        path = folder / "photos" / f"class {number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    photos = datasets.load_dataset("imagefolder", data_dir=str(folder / "photos"), split="train")
    photos = photos.add_column("key", [f"photo {number}" for number in range(6)]).add_column("twice", [7] * 6)
    datasets.DatasetDict(train=photos, test=photos.select(range(3))).save_to_disk(folder / "splits")
    photos.save_to_disk(folder / "saved")
    texts = [
        {"premise": "a fine film", "claim": f"it is {word}", "label": n % CLASSES}
        for n, word in enumerate(("good", "bad", "dull", "warm", "long"))
    ]
    (folder / "texts").mkdir()
    (folder / "texts" / "train.jsonl").write_text("\n".join(map(json.dumps, texts)))
    return folder


def run(*arguments):
    """The exit code."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return ended.value.code or 0


@pytest.mark.parametrize(
    ("data", "options"),
    [
        ("photos", []),
        ("saved", ["--id-column", "key", "--top-k", 2, "--rows-per-shard", 4]),
        ("splits", ["--split", "test", "--target", "label", "--dtype", "float32", "--explainer", "saliency"]),
    ],
)
def test_images(place, tmp_path, capsys, data, options):
    """Prevents: an option that doesn't reach the store, or a JSON among other words that no script can read."""
    assert run("store", "--teacher", place / "vit", "--dataset", place / data, *options, "--json", tmp_path / "s") == 0
    summary = json.loads(capsys.readouterr().out)
    reference = StoredReference(tmp_path / "s", verify=True)
    size = sum(path.stat().st_size for path in (tmp_path / "s").glob("shard-*"))
    assert summary["samples"] == len(reference.shards) == (3 if data == "splits" else 6)
    assert summary["bytes"] == size and summary["bytes_per_sample"] == pytest.approx(size / summary["samples"], 0.01)
    key, given = reference.description["key"], dict(zip(options[::2], options[1::2], strict=True))
    assert key["precision"]["top_k"] == given.get("--top-k")
    assert key["precision"]["dtype"] == given.get("--dtype", "float16")
    assert key["explainer"]["name"] == summary["explainer"] == given.get("--explainer", "gradcam")
    assert key["target"]["rule"] == given.get("--target", "teacher_top")
    assert reference.description["ids"]["column"] == given.get("--id-column")
    reference.check(build("vit", seed=1), PROCESSOR)
    photos = datasets.load_from_disk(str(place / "saved")).with_transform(DistillationTransform(PROCESSOR))
    with torch.no_grad():
        expected = build("vit", seed=1)(torch.stack([photos[n]["pixel_values"] for n in range(3)])).logits
    source = datasets.load_from_disk(str(place / "saved")).select(range(3))
    found = torch.stack([reference.attach(source)[n]["reference_logits"].float() for n in range(3)])
    assert torch.equal(found.argmax(1), expected.argmax(1))
    if "--top-k" not in given:
        torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("target", ["positives", "teacher_top"])
def test_lists_of_classes(place, tmp_path, target):
    """Prevents: images of several labels, as numbers of classes, refused with a remedy that no option gives; and
    another class explained, where the data has them in another order than the teacher."""
    names = datasets.ClassLabel(names=CLASS_NAMES[::-1])
    photos = datasets.load_from_disk(str(place / "saved")).select(range(3)).remove_columns("label")
    labels = datasets.Dataset.from_dict(
        {"label": [[0], [1, 3], []]}, features=datasets.Features(label=datasets.List(names))
    )
    datasets.concatenate_datasets([photos, labels], axis=1).save_to_disk(tmp_path / "several")
    line = ["store", "--teacher", place / "vit", "--dataset", tmp_path / "several", "--target", target]
    assert run(*line, tmp_path / "store") == 0
    found = StoredReference(tmp_path / "store").shards.read(np.arange(3), ["target"])["target"]
    if target == "positives":
        assert [sorted(row[row >= 0].tolist()) for row in map(np.asarray, found)] == [[4], [1, 3], []]
    else:
        assert len(found) == 3


def test_texts(place, tmp_path, capsys):
    """Prevents: pairs read as one text, or options of the explainer that are lost."""
    line = ["store", "--teacher", place / "bert", "--dataset", place / "texts", "--verify"]
    line += ["--text-columns", "premise", "--text-columns", "claim", "--max-length", 16]
    line += ["--explainer", "integrated_gradients", "--explainer-options", '{"n_steps": 2}', tmp_path / "store"]
    assert run(*line) == 0
    printed = capsys.readouterr()
    assert "Samples   5" in printed.out and str(tmp_path / "store") in printed.out
    key = StoredReference(tmp_path / "store").description["key"]
    assert key["text"] == {"columns": ["premise", "claim"], "max_length": 16}
    assert key["explainer"]["options"]["n_steps"] == 2
    assert run(*line) == 0  # a finished one is left as it is


def test_publishes(place, tmp_path, capsys, monkeypatch):
    """Prevents: a store that is announced as published and isn't, or is for everyone to see."""
    made = {}

    def push(folder, repo_id, **options):
        made.update(options, files=sorted(path.name for path in folder.iterdir()))
        return SimpleNamespace(repo_url=f"hub/{repo_id}")

    monkeypatch.setattr(hub_dataset, "push_folder", push)
    line = ["store", "--teacher", place / "vit", "--dataset", place / "photos", "--push-to-hub", "me/maps", "--private"]
    assert run(*line, "--json", tmp_path / "store") == 0
    assert json.loads(capsys.readouterr().out)["url"] == "hub/me/maps"
    assert made["private"] and made["files"] == ["README.md", "shard-00000.arrow", "store.json"]


def cut(folder):
    shard = next(folder.glob("*.arrow"))
    shard.write_bytes(shard.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("code", "message", "options"),
    [
        (1, "nowhere", {"--teacher": "nowhere"}),
        (1, "is ViTModel, no classifier of images", {"--teacher": "{place}/encoder"}),
        (1, "has no weights for classifier.bias, classifier.weight", {"--teacher": "{place}/headless"}),
        (1, "nowhere", {"--dataset": "nowhere"}),
        (1, "has no split 'test'. Its splits: train", {"--split": "test"}),
        (1, "has no column 'picture'. Its columns: image, label, key, twice", {"--image-column": "picture"}),
        (1, "has no column 'lable'. Its columns: image, label, key, twice", {"--label-column": "lable"}),
        (1, "1 ids occur more than once, such as [7]", {"--id-column": "twice"}),
        (1, "Unknown explainer 'gradcram'. Available: attention_gradient,", {"--explainer": "gradcram"}),
        (1, "GradCAM explains images", {"--explainer": "gradcam", "--teacher": "{place}/bert", "text": True}),
        (1, "gives maps alone. Leave `vectors` out", {"--vectors": None}),
        (1, "'me/maps/2' is not the id of a repository", {"--push-to-hub": "me/maps/2"}),
        (2, "is no JSON:", {"--explainer-options": "{n_steps", "--explainer": "saliency"}),
        (2, "is no JSON object", {"--explainer-options": "[8]", "--explainer": "saliency"}),
        (2, "--explainer-options need --explainer", {"--explainer-options": '{"n_steps": 8}'}),
        (2, "'top'", {"--target": "top"}),
        (2, "'--batch-size'", {"--batch-size": 0}),
        (2, "--nonsense", {"--nonsense": 1}),
    ],
)
def test_errors(place, tmp_path, capsys, code, message, options):
    """Prevents: a traceback where a line says what to mend, or a failure that a script takes for a success."""
    data = place / ("texts" if options.pop("text", False) else "saved")
    given = {"--teacher": place / "vit", "--dataset": data, **options}
    if data.name == "texts":
        given["--text-columns"] = "claim"
    line = [part for name, value in given.items() for part in ([name] if value is None else [name, value])]
    line = [str(part).replace("{place}", str(place)) for part in line]
    assert run("store", *line, tmp_path / "store") == code
    printed = capsys.readouterr()
    assert not printed.out and message in " ".join(printed.err.split()), printed.err
    assert "Traceback" not in printed.err
    if code == 1:
        assert printed.err.splitlines()[-1].startswith("hf-e2kd: error: ")
    assert not list(tmp_path.glob("store/*.arrow"))


@pytest.mark.parametrize(
    ("message", "options", "change"),
    [
        ("teacher.weights is '", {"--teacher": "other"}, None),
        ("processor.size.height is 32 in the store and 48 here", {"--teacher": "bigger"}, None),
        ("ids.count is 6 in the store and 3 here", {"--split": "test"}, None),
        ("target.rule is 'teacher_top' in the store and 'label' here", {"--target": "label"}, None),
        ("shard-00000.arrow is damaged: it has", {}, cut),
        ("store.json is damaged", {}, lambda folder: (folder / "store.json").write_text("{")),
    ],
)
def test_a_folder_that_holds_something_else(place, tmp_path, capsys, message, options, change):
    """Prevents: a store of one teacher, processor or data set gone on with another's, or a damaged one kept."""
    for name, seed, side in (("other", 2, 32), ("bigger", 1, 48)):
        build("vit", seed=seed).save_pretrained(tmp_path / name)
        ViTImageProcessor(**{**VIEW, "size": {"height": side, "width": side}}).save_pretrained(tmp_path / name)
    shutil.copytree(place / "vit", tmp_path / "vit")
    given = {"--teacher": "vit", "--dataset": place / "splits"}

    def again(**options):
        line = {**given, **options}
        line["--teacher"] = tmp_path / line["--teacher"]
        return run("store", *(part for pair in line.items() for part in pair), tmp_path / "store")

    assert again() == 0
    if change is not None:
        change(tmp_path / "store")
    capsys.readouterr()
    assert again(**options) == 1
    printed = capsys.readouterr()
    assert message in printed.err and "Traceback" not in printed.err


def test_full_disk_and_interruption(place, tmp_path, capsys, monkeypatch):
    """Prevents: hours of shards thrown away, and a message that doesn't say how much room is needed."""
    line = [
        "store",
        "--teacher",
        place / "vit",
        "--dataset",
        place / "saved",
        "--rows-per-shard",
        2,
        tmp_path / "store",
    ]
    write = writer._Hashed.write

    def fails_with(error):
        def failing(self, data):
            if "shard-00001.arrow" in self.file.name:
                raise error
            return write(self, data)

        monkeypatch.setattr(writer._Hashed, "write", failing)

    fails_with(OSError(errno.ENOSPC, "No space left on device"))
    assert run(*line) == 1
    error = capsys.readouterr().err
    assert "shard-00001.arrow: this shard needs about" in error and "Traceback" not in error
    fails_with(KeyboardInterrupt())
    assert run(*line) == 130
    error = capsys.readouterr().err
    assert f"Finished shards stay in {tmp_path / 'store'}" in error and "Traceback" not in error
    assert sorted(path.name for path in (tmp_path / "store").glob("*.arrow*")) == ["shard-00000.arrow"]
    monkeypatch.undo()
    assert run(*line) == 0


def test_traceback_on_request(place, tmp_path, monkeypatch):
    """Prevents: a report of a bug that says nothing, and a mistake of the package shown as the user's."""
    line = ["store", "--teacher", str(place / "vit"), "--dataset", str(place / "nothing"), str(tmp_path / "store")]
    monkeypatch.delenv("HF_E2KD_DEBUG", raising=False)
    assert run(*line) == 1
    with pytest.raises(OSError, match="nothing"):
        main(["--debug", *line])
    monkeypatch.setenv("HF_E2KD_DEBUG", "1")
    with pytest.raises(OSError, match="nothing"):
        main(line)
    monkeypatch.delenv("HF_E2KD_DEBUG")

    def broken(*_):
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(command, "load_classifier", broken)
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        main(line)


def test_help(capsys):
    """Prevents: a command that can't be found, or examples run together into one paragraph."""
    assert run("--help") == 0
    assert "store" in capsys.readouterr().out
    assert run("store", "--help") == 0
    assert "\n    hf-e2kd store --teacher" in capsys.readouterr().out
