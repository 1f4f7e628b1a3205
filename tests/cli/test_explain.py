"""`hf-e2kd explain` as users call it: what it prints and writes, and how it fails."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTImageProcessor

from hf_e2kd import explain
from hf_e2kd.cli import main
from hf_e2kd.cli.explained import Explained, Explaining
from hf_e2kd.cli.rendering import as_text
from hf_e2kd.data.transforms import DistillationTransform
from hf_e2kd.experiments.sources import Classifier
from hf_e2kd.explainers import Explanation
from tests.models import CLASS_NAMES, CLASSES, build
from tests.text_models import build_text
from tests.tokenizers import tokenizer

PROCESSOR = ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
TOKENIZER = tokenizer("wordpiece", model_max_length=24)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a model of images, one of texts, and photographs of which one is damaged."""
    folder = tmp_path_factory.mktemp("place")
    build("vit", seed=1).save_pretrained(folder / "vit")
    PROCESSOR.save_pretrained(folder / "vit")
    build_text("bert", 1, vocab_size=len(TOKENIZER)).save_pretrained(folder / "bert")
    TOKENIZER.save_pretrained(folder / "bert")
    (folder / "photos" / "more").mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 255, (3, 40, 32, 3), dtype=np.uint8)
    for name, pixels in zip(("a.png", "b.jpg", "more/c.png"), noise, strict=True):
        Image.fromarray(pixels).save(folder / "photos" / name)
    (folder / "photos" / "notes.txt").write_text("no image")
    (folder / "rows.csv").write_text("text,label\n,1\n")
    (folder / "damaged.png").write_bytes((folder / "photos" / "a.png").read_bytes()[:900])
    return folder


def run(*arguments):
    """The exit code."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return ended.value.code or 0


def test_images(place, tmp_path, capsys):
    """Prevents: another class or map than the model's own, and words among the JSON that no script can read."""
    line = ["explain", place / "vit", place / "photos", "--target", "CLASS 2", "--top", 2, "--batch-size", 2]
    written = [tmp_path / f"out.{suffix}" for suffix in ("json", "png", "html")]
    line += [part for path in written for part in ("--output", path)]
    assert run(*line, "--explainer", "saliency", "--json") == 0
    printed, stored = json.loads(capsys.readouterr().out), json.loads(written[0].read_text())
    paths = [place / "photos" / name for name in ("a.png", "b.jpg", "more/c.png")]
    assert [entry["input"] for entry in printed] == [entry["input"] for entry in stored] == [str(p) for p in paths]
    model = build("vit", seed=1)
    pixels = DistillationTransform(PROCESSOR)({"image": [Image.open(path) for path in paths]})["pixel_values"]
    expected = explain(model, torch.stack(pixels), "saliency", target=2)
    probabilities = expected.logits.softmax(1)
    for row, (entry, full) in enumerate(zip(printed, stored, strict=True)):
        assert [each["index"] for each in entry["classes"]] == probabilities[row].topk(2).indices.tolist()
        assert entry["explained"]["class"] == "class 2"
        assert entry["explained"]["probability"] == pytest.approx(probabilities[row, 2].item(), abs=1e-5)
        torch.testing.assert_close(torch.tensor(full["map"]), expected.maps[row], rtol=1e-4, atol=1e-6)
        assert "map" not in entry and {**entry, "map": full["map"]} == full
    assert Image.open(written[1]).width > 300
    page = written[2].read_text()
    assert "data:image/png;base64," in page and "b.jpg" in page and "<script" not in page


def test_an_image_that_is_named_twice(place, capsys):
    """Prevents: an exit code of failure, without a word, for a file beside its folder."""
    photos = place / "photos"
    assert run("explain", place / "vit", photos, photos / "a.png", "--json") == 0
    assert [entry["input"] for entry in json.loads(capsys.readouterr().out)].count(str(photos / "a.png")) == 1


def test_texts(place, tmp_path, capsys, monkeypatch):
    """Prevents: lines of standard input left out, words without their scores, or a page that a text could rewrite."""
    monkeypatch.setattr("sys.stdin", io.StringIO("the worst film\n\n<b>boring</b>\n"))
    line = ["explain", place / "bert", "-", "--text", "A wonderful film", "--output", tmp_path / "page.html"]
    assert run(*line, "--output", tmp_path / "page.png", "--json") == 0
    entries = json.loads(capsys.readouterr().out)
    assert [entry["input"] for entry in entries] == ["A wonderful film", "the worst film", "<b>boring</b>"]
    expected = explain(build_text("bert", 1, vocab_size=len(TOKENIZER)), ["the worst film"], processing_class=TOKENIZER)
    assert [pair["word"] for pair in entries[1]["words"]] == expected.words[0] == ["the", "worst", "film"]
    scores = torch.tensor([pair["score"] for pair in entries[1]["words"]])
    torch.testing.assert_close(scores, expected.maps[0], rtol=1e-3, atol=1e-5)
    page = (tmp_path / "page.html").read_text()
    assert "worst" in page and "<b>boring" not in page
    assert Image.open(tmp_path / "page.png").width > 300
    assert run("explain", place / "bert", "--text", "the worst film") == 0
    printed = capsys.readouterr().out
    assert printed.startswith("the worst film\n") and "%  class " in printed and "'worst' " in printed


def test_pairs(place, tmp_path, capsys):
    """Prevents: a hypothesis that is left out, read as a text of its own, or cut off with the premise."""
    pair, page = ("the film was long", "the worst film"), tmp_path / "page.html"
    line = ["--text", pair[0] + " " * 9, "--text-pair", pair[1], "--text", "a film " * 90, "--text-pair", pair[1]]
    assert run("explain", place / "bert", *line, "--output", page, "--json") == 0
    printed = capsys.readouterr()
    first, second = json.loads(printed.out)
    model = build_text("bert", 1, vocab_size=len(TOKENIZER)).eval()
    expected = explain(model, [pair], processing_class=TOKENIZER)
    torch.testing.assert_close(expected.logits, model(**TOKENIZER(*pair, return_tensors="pt")).logits)
    assert [each["word"] for each in first["words"]] == expected.words[0] == " ".join(pair).split()
    assert [each["score"] for each in first["words"]] == pytest.approx(expected.maps[0].tolist(), abs=1e-5)
    assert first["input"][1] == pair[1] and second["input"][1] == pair[1] and "A pair of 644 characters" in printed.err
    assert page.read_text().count(">worst</span>") == 2
    with pytest.raises(ValueError, match="some are pairs of texts"):
        explain(model, [pair, "a film"], processing_class=TOKENIZER)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("reviews.txt", "the worst film\n\n  \na film\n"),
        ("reviews.csv", "text,label\nthe worst film,0\na film,1\n"),
        ("reviews.tsv", "text\tlabel\nthe worst film\t0\na film\t1\n"),
        ("reviews.json", '[{"text": "the worst film"}, {"text": "a film"}]'),
        ("reviews.jsonl", '{"text": "the worst film"}\n{"text": "a film"}\n'),
    ],
)
def test_files_of_texts(place, tmp_path, capsys, name, content):
    """Prevents: a table of texts refused, or its header read as a text."""
    (tmp_path / name).write_text(content)
    assert run("explain", place / "bert", tmp_path / name, "--json") == 0
    assert [entry["input"] for entry in json.loads(capsys.readouterr().out)] == ["the worst film", "a film"]


def test_columns_of_a_file(place, tmp_path, capsys):
    """Prevents: another column explained than was named, or half of the pairs."""
    (tmp_path / "pairs.csv").write_text("premise,hypothesis\nthe film was long,the worst film\n")
    line = ["explain", place / "bert", tmp_path / "pairs.csv"]
    assert run(*line, "--text-column", "premise", "--text-column", "hypothesis", "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["input"] == ["the film was long", "the worst film"]
    assert run(*line) == 1
    assert "has no column 'text'. Its columns: premise, hypothesis. Name" in capsys.readouterr().err
    (tmp_path / "holes.json").write_text('[{"text": "a film"}, {"text": null}]')
    assert run("explain", place / "bert", tmp_path / "holes.json") == 1
    assert "Row 1 of" in capsys.readouterr().err


def test_a_text_of_a_megabyte(place, tmp_path, capsys):
    """Prevents: a page of a megabyte about a text of which the model reads the beginning, without a word of it."""
    texts = ["--text", "a wonderful film " * 20_000, "--text", "x" * 100_000]
    assert run("explain", place / "bert", *texts, "--output", tmp_path / "page.html") == 0
    printed = capsys.readouterr()
    assert "340,000 characters is longer than 24 tokens: the model reads only 95 of these characters." in printed.err
    assert len(printed.out) < 2000 and len((tmp_path / "page.html").read_text()) < 50_000


def test_files_that_cannot_be_read(place, tmp_path, capsys):
    """Prevents: one damaged file among thousands that costs the others, or that nobody hears of."""
    assert run("explain", place / "vit", place / "damaged.png", place / "photos" / "a.png", place / "none.png") == 1
    printed = capsys.readouterr()
    assert "a.png\n" in printed.out and "%  class" in printed.out
    assert "damaged.png' can't be decoded" in printed.err and "none.png" in printed.err
    assert run("explain", place / "vit", place / "damaged.png", "--output", tmp_path / "out.png") == 1
    assert "None of the inputs could be read" in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("code", "message", "arguments"),
    [
        (2, "give images or folders to explain", ["{place}/vit"]),
        (2, "should end in .png,", ["{place}/vit", "x.png", "--output", "map.doc"]),
        (2, "there is no folder '{place}/new'", ["{place}/vit", "x.png", "--output", "{place}/new/map.png"]),
        (2, "no device 'cudo' can be used here. Available: cpu", ["{place}/vit", "x.png", "--device", "cudo"]),
        (2, "is no JSON", ["{place}/vit", "x.png", "--explainer", "gradcam", "--explainer-options", "{"]),
        (2, "need --explainer", ["{place}/vit", "x.png", "--explainer-options", '{"n_steps": 2}']),
        (1, "Unknown explainer 'gradcram'. Available:", ["{place}/vit", "x.png", "--explainer", "gradcram"]),
        (1, "No class is named 'horse'", ["{place}/vit", "x.png", "--target", "horse"]),
        (1, "is an address. Give the id alone", ["https://huggingface.co/a/b", "x.png"]),
        (1, "classifies images: give files or folders, not --text", ["{place}/vit", "--text", "a film"]),
        (1, "classifies texts, and 'x.png' is no file of them", ["{place}/bert", "x.png"]),
        (1, "--processor is taken by exported files", ["{place}/vit", "x.png", "--processor", "{place}/vit"]),
        (1, "nothing to explain in an empty text", ["{place}/bert", "--text", " "]),
        (1, "rows.csv', counted from 0 without the header, holds None where a", ["{place}/bert", "{place}/rows.csv"]),
        (1, "photos' holds no model: it has no config.json", ["{place}/photos", "x.png"]),
        (1, "as many --text as --text-pair", ["{place}/bert", "--text", "a", "--text", "b", "--text-pair", "c"]),
        (1, "holds no image", ["{place}/vit", "{place}/bert"]),
        (
            1,
            "others, such as this one, by 'integrated_gradients'",
            ["{place}/bert", "--text", "a", "--explainer", "bcos"],
        ),
        (
            1,
            "Methods that can explain what is given: attention_gradient, attention_rollout, input_x_gradient, integ",
            ["{place}/bert", "--text", "a film", "--explainer", "gradcam"],
        ),
    ],
)
def test_errors(place, capsys, code, message, arguments):
    """Prevents: a traceback where a line says what to mend, or a failure that a script takes for a success."""
    assert run("explain", *(argument.replace("{place}", str(place)) for argument in arguments)) == code
    printed = capsys.readouterr()
    assert not printed.out and "Traceback" not in printed.err
    assert message.replace("{place}", str(place)) in " ".join(printed.err.split()), printed.err


def test_multi_label_and_help(tmp_path, capsys):
    """Prevents: probabilities of classes that exclude each other where they don't, and examples in one paragraph."""
    model = build("vit", seed=1)
    model.config.problem_type = "multi_label_classification"
    model.save_pretrained(tmp_path)
    PROCESSOR.save_pretrained(tmp_path)
    Image.new("RGB", (8, 8), "red").save(tmp_path / "red.png")
    assert run("explain", tmp_path, tmp_path / "red.png", "--top", 99, "--json") == 0
    (entry,) = json.loads(capsys.readouterr().out)
    pixels = DistillationTransform(PROCESSOR)({"image": [Image.new("RGB", (8, 8), "red")]})["pixel_values"]
    with torch.no_grad():
        expected = model(torch.stack(pixels)).logits.sigmoid()[0].sort(descending=True).values
    assert len(entry["classes"]) == CLASSES
    assert [each["probability"] for each in entry["classes"]] == pytest.approx(expected.tolist(), abs=1e-5)
    assert run("explain", "--help") == 0
    assert "\n    hf-e2kd explain microsoft/resnet-50 cat.jpg" in capsys.readouterr().out


def test_classes_of_equal_probability_are_in_the_order_of_their_logits():
    """Prevents: another class than the top one listed first, where float32 gives several a probability of 1."""
    model = build("vit", seed=1)
    model.config.problem_type = "multi_label_classification"
    logits = torch.tensor([[20.0, 40.0, -3.0, 30.0, 25.0]])
    explaining = Explaining(Classifier(model, PROCESSOR, False), None, None, CLASS_NAMES, 4, None, [])
    ((_, classes, _, _),) = explaining._results(["red"], Explanation(logits, torch.ones(1, 2, 2), torch.tensor([1])))
    assert [each["index"] for each in classes] == [1, 3, 4, 0]


def test_a_score_is_no_probability(tmp_path, capsys):
    """Prevents: a reranker's softmax of one logit, 100 %, printed for every text (faults A2)."""
    like = build_text("bert", 1, vocab_size=len(TOKENIZER))
    like.config.num_labels, like.config.id2label = 1, {0: "relevance"}
    model = type(like)(like.config).eval()
    model.save_pretrained(tmp_path / "scorer")
    TOKENIZER.save_pretrained(tmp_path / "scorer")
    assert run("explain", tmp_path / "scorer", "--text", "a warm film", "--explainer", "saliency", "--json") == 0
    (entry,) = json.loads(capsys.readouterr().out)
    (found,) = entry["classes"]
    expected = explain(model, ["a warm film"], "saliency", processing_class=TOKENIZER).logits.item()
    assert found["class"] == "relevance" and found["score"] == pytest.approx(expected, abs=1e-5)
    assert "probability" not in found
    assert run("explain", tmp_path / "scorer", "--text", "a warm film", "--explainer", "saliency") == 0
    assert f"{expected:.3f}  relevance" in capsys.readouterr().out


def test_a_name_of_several_lines(capsys):
    """Prevents: the second line of a class's name taken for the command's own."""
    entry = {"class": "cat\nWritten: x", "index": 1, "probability": 0.5}
    assert as_text(Explained("a\nb.png", [entry], entry, torch.ones(2, 2))) == "a b.png\n   50.0%  cat Written: x"
