"""Model cards: whole, accepted by the Hub, inert, without anything private, and with code that runs."""

import os
import platform
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from PIL import Image

from hf_e2kd.cards import card as card_module
from hf_e2kd.cards.card import model_card, save_card
from hf_e2kd.cards.citations import EXPLAINERS, citations
from hf_e2kd.cards.escaping import LONGEST, count
from hf_e2kd.cards.summary import ROWS
from hf_e2kd.fidelity import FidelityRecord, MetricValue, PartRecord
from hf_e2kd.metrics.citations import GOOD_TEACHERS_EXPLAIN, MODEL_GUIDANCE
from hf_e2kd.models import BcosResNetForImageClassification
from hf_e2kd.terms.logits import HINTON, MARGIN_MSE
from tests.bcos.networks import network
from tests.cards.records import (
    BOXES,
    bare_record,
    checkpoint_record,
    figure,
    guided_record,
    image_record,
    taught,
    text_record,
)
from tests.hub.cards import check_card
from tests.hub.students import PROCESSOR
from tests.hub.test_redaction import HOST, PRIVATE
from tests.models import build
from tests.tokenizers import STUDENT, text_model

GOLDEN = Path(__file__).parent / "golden"
CARDS = {
    "images": (image_record, {"repo_id": "me/pets-resnet18", "picture": "explanations.png", "tags": ["pets"]}),
    "texts": (text_record, {"repo_id": "me/minilm-3", "picture": "explanations.png", "language": "en"}),
    "guided": (guided_record, {"license": "mit"}),
    "checkpoint": (checkpoint_record, {"repo_id": "me/student", "has_processor": False, "has_record": False}),
}


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A host with a name that can be looked for."""
    monkeypatch.setattr(platform, "node", lambda: HOST)


def parsed(card):
    """Tokens of the card's Markdown, tables among it, block by block."""
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(card.text)


def inline(tokens):
    return [child for token in tokens for child in token.children or []]


def sections(card):
    return re.findall(r"^## (.*)$", card.text, re.MULTILINE)


# ---- Whole cards -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CARDS)
def test_golden(name):
    """Prevents: a card that changes without anyone reading it as a user of the Hub does. To write the cards anew, run
    the test with HF_E2KD_WRITE_GOLDEN=1, and read them."""
    record, options = CARDS[name]
    card = str(model_card(record(), **options))
    path = GOLDEN / f"{name}.md"
    if os.environ.get("HF_E2KD_WRITE_GOLDEN"):
        path.write_text(card, encoding="utf-8")
    assert card == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", CARDS)
def test_the_hub_accepts_it(name):
    """Prevents: metadata that the Hub refuses, with the whole upload, or that its client reads otherwise."""
    record, options = CARDS[name]
    card = model_card(record(), **options)
    assert check_card(str(card), "model") == ([], [])
    read = ModelCard(str(card))
    assert read.data.to_dict() == card.data.to_dict() and read.text == card.text
    for result in read.data.eval_results or []:
        assert re.fullmatch(r"(?:[\w-]+/)?[\w.-]+", result.dataset_type, re.ASCII)


def test_metadata():
    """Prevents: the teacher as base model, a data set that isn't on the Hub among `datasets`, tags of the model lost,
    or figures of the teacher given as the student's."""
    data = model_card(image_record(), repo_id="me/pets-resnet18", tags=["mine", "e2kd"]).data
    assert data.base_model == "microsoft/resnet-18" and data.license == "apache-2.0"
    assert data.pipeline_tag == "image-classification" and data.library_name == "transformers"
    assert data.datasets == ["timm/oxford-iiit-pet"]
    assert data.tags.count("e2kd") == 1
    assert {"mine", "knowledge-distillation", "teacher:someone/pets-resnet50"} < set(data.tags)
    results = {result.metric_type: result.metric_value for result in data.eval_results}
    assert results["accuracy"] == 0.905 and not [name for name in results if "teacher_" in name.removesuffix("_errs")]
    given = model_card(image_record(), base_model="me/start", datasets=["me/data", "Pets of Oxford"])
    assert given.data.base_model == "me/start" and given.data.datasets == ["me/data"]
    assert "microsoft/resnet-18" not in given.text
    data = model_card(text_record()).data
    assert data.pipeline_tag == "text-classification" and data.get("datasets") is None
    assert {result.dataset_type for result in data.eval_results} == {"stanford-sentiment-treebank"}
    data = model_card(guided_record()).data
    assert data.get("base_model") is None and data.get("datasets") is None
    assert {"model-guidance"} < set(data.tags) and "e2kd" not in data.tags


def test_another_threshold_of_the_iou_is_said():
    """Prevents: a "strong half" that is a fifth."""
    card = model_card(replace(image_record(), iou_threshold=0.8))
    assert "An explanation's strong half begins at 0.8 of its range." in card.text


def test_a_folder_is_no_link(tmp_path, monkeypatch):
    """Prevents: a link to somebody else's `models/vit` on the Hub, where the folder `models/vit` is meant."""
    local = "models/vit"
    record = image_record()
    folder = {"id": local, "revision": None}
    record = replace(
        record,
        student=replace(record.student, **folder),
        teacher=replace(record.teacher, **folder),
        data=replace(record.data, name=local, **folder),
        training=replace(record.training, base_model=local, data=replace(record.data, name=local, **folder)),
    )
    assert local in model_card(record).data.base_model and "huggingface.co" in model_card(record).text
    (tmp_path / local).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    card = model_card(record, base_model=local, datasets=local)
    assert "huggingface.co" not in card.text
    data = card.data.to_dict()
    assert (
        not {"base_model", "base_model_relation", "datasets"} & data.keys() and "teacher:models/vit" not in data["tags"]
    )
    assert {result.dataset_type for result in card.data.eval_results} == {"models-vit"}
    assert "with the samples at hand, which are not on the Hub" in card.text


def test_license(caplog, monkeypatch):
    """Prevents: a license made up, or a question asked of a script that nobody sits at, where none is stated."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    assert model_card(bare_record()).data.get("license") is None
    assert "names no license" in caplog.text and 'license="apache-2.0"' in caplog.text
    assert model_card(bare_record(), license="mit").data.license == "mit"
    training = replace(text_record().training, base_license="see <b>LICENSE</b>")
    assert model_card(text_record(training=training)).data.get("license") is None


# ---- What it says ----------------------------------------------------------------------------------------------------


def test_what_was_not_measured_is_left_out():
    """Prevents: empty sections and tables, and claims about what nobody measured."""
    card = model_card(bare_record(), has_record=False)
    assert sections(card) == ["How to use it", "Limits", "Sources and licenses", "Citations"]
    assert not re.search(r"similarity|teacher|None|\bnan\b", card.text)
    assert "an unnamed method" not in card.text and str(model_card(bare_record(explainer={}), has_record=False))
    one = model_card(
        bare_record(figures={"accuracy": MetricValue(float("nan")), "f1": MetricValue(0.5)}), has_record=False
    )
    assert "nan" not in str(one) and "| F1 | 0.500 |" in one.text
    assert "teacher" not in one.text


def test_similarity_has_its_chance_levels_beside_it():
    """Prevents: a similarity that looks high and is chance."""
    lines = model_card(image_record()).text.split("## How faithful it is")[1].splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("| Explanation similarity"))
    assert "another image's explanation | 0.478" in lines[at + 1] and "an untrained student | 0.331" in lines[at + 2]
    assert "not clearly above chance" not in "\n".join(lines)
    card = model_card(image_record(chance={"shuffled": figure(0.87)}))
    assert "**The similarity is not clearly above chance**" in card.text


@pytest.mark.parametrize(
    ("weights", "loss", "cited", "tagged"),
    [
        ({}, "trained to match its outputs and its explanations", {"e2kd", "kd"}, {"e2kd"}),
        ({"logits_weight": 0.0}, "trained to match its explanations", {"e2kd"}, {"e2kd"}),
        ({"explanation_weight": 0.0}, "by its outputs alone", {"kd"}, set()),
        ({"logits_weight": 0.0, "explanation_weight": 0.0}, "It is compared here with", set(), set()),
    ],
)
def test_what_really_happened(weights, loss, cited, tagged):
    """Prevents: a method claimed, tagged or cited that had no weight in the training."""
    record = image_record()
    training = replace(record.training, references={"teacher": taught(**weights)})
    record = image_record(training=training)
    card = model_card(record)
    assert loss in card.text
    papers = {"e2kd": GOOD_TEACHERS_EXPLAIN, "kd": HINTON}
    assert {name for name, entry in papers.items() if entry in card.text} == cited
    assert {"e2kd"} & set(card.data.tags) == tagged
    assert EXPLAINERS["gradcam"] in card.text and MODEL_GUIDANCE in card.text  # of the figures


def test_a_relative_weight():
    """Prevents: a loss with λ as its factor, which nobody who trains by it finds again."""
    record = image_record()
    arguments = {**record.training.arguments, "explanation_weight_mode": "relative"}
    relative = model_card(image_record(training=replace(record.training, arguments=arguments))).text
    sentence = "; the weight is relative to the gradients of the other terms"
    (line,) = [line for line in relative.splitlines() if line.startswith("- **Loss**")]
    assert line.endswith(f"of the class that the teacher predicts{sentence})")
    assert relative.replace(sentence, "") == model_card(record).text


@pytest.mark.parametrize("name", EXPLAINERS)
def test_explainers_are_cited(name):
    """Prevents: another method's paper, or one that was cited for nothing."""
    own = {"name": name, "options": {}}
    assert [
        entry for entry in EXPLAINERS.values() if entry in citations(guided_record(explainer=own, training=None))
    ] == [EXPLAINERS[name]]
    assert not set(EXPLAINERS.values()) & set(citations(bare_record(explainer=own, figures={"accuracy": figure(0.5)})))


def test_citations_are_whole():
    """Prevents: BibTeX that doesn't parse, or two entries of one name."""
    everything = [
        *citations(image_record()),
        *citations(text_record()),
        *citations(guided_record()),
        *EXPLAINERS.values(),
    ]
    entries = set(everything)
    assert all(entry.count("{") == entry.count("}") and re.match(r"@\w+\{\w+,\n", entry) for entry in entries)
    assert len({entry.split(",")[0] for entry in entries}) == len(entries)


def first_screen(card):
    """What stands above the first heading below the title, but for the title and the description."""
    return card.text.strip().split("\n\n## ")[0].split("\n\n")[2:]


def test_first_screen():
    """Prevents: a result that has to be looked for in a table of twenty rows."""
    sentence, picture, table = first_screen(model_card(image_record(), picture="explanations.png"))
    assert sentence == (
        "**It predicts the same class as its teacher on 93.1 % of the images (plain KD: 91.7 %); the similarity of "
        "their explanations is 0.88 (plain KD: 0.65, chance: 0.48).**"
    )
    assert picture == "![Where the teacher and the students look](explanations.png)"
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()]
    assert rows[0] == ["", "this student", "plain KD", "int8", "teacher"] and len(rows) == 2 + ROWS
    assert rows[2:] == [
        ["Agreement", "93.1 %", "91.7 %", "92.8 %", "–"],
        ["Explanation similarity", "0.88", "0.65", "–", "–"],
        ["– highest level by chance", "0.48", "–", "–", "–"],
        ["Accuracy", "90.5 %", "89.7 %", "90.3 %", "92.8 %"],
        ["Parameters", "11.2 M", "–", "–", "23.6 M"],
    ]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"chance": {"shuffled": figure(0.87)}, "compared": {}}, "0.88 (chance: 0.87), not clearly above chance.**"),
        (
            {"figures": {"accuracy": figure(0.5), "agreement": MetricValue(float("nan"))}},
            "labelled class of 50.0 % of the images (plain KD: 89.7 %).**",
        ),
        (
            {"figures": {"explanation_similarity": figure(0.3)}, "chance": {}, "compared": {}},
            "**The similarity of its explanations and those of its teacher is 0.30.**",
        ),
        (
            {"problem": "multi_label_classification", "compared": {}, "figures": {"agreement": figure(0.9)}},
            "**Class by class it decides as its teacher in 90.0 % of the cases.**",
        ),
        (
            {"problem": "regression", "compared": {}, "figures": {"spearman": figure(0.9)}},
            "**Its scores and those of its teacher have a rank correlation of 0.90.**",
        ),
    ],
)
def test_sentence_with_the_result(changes, sentence):
    """Prevents: a sentence about classes for scores, one with nan, or a similarity at chance that is praised."""
    assert first_screen(model_card(image_record(**changes)))[0].endswith(sentence)


def test_no_sentence_without_a_result():
    assert first_screen(model_card(bare_record(), has_record=False)) == []


def test_time_has_quartiles_and_a_ratio_where_these_lie_apart():
    """Prevents: a student that is called slower because something else ran beside its measurement."""

    def row(**changes):
        record = image_record()
        student = replace(record.student, cost=replace(record.student.cost, **changes))
        return next(
            line for line in model_card(replace(record, student=student)).text.splitlines() if "Time per" in line
        )

    assert row() == "| Time per image | 12.1 ms (11.8–12.9) | 30.4 ms (29.8–31.6) | 0.40 |"
    assert row(seconds_high=0.0298).endswith("(29.8–31.6) |  |")
    assert row(device="GPU").endswith("(29.8–31.6) |  |")
    assert row(seconds_low=None, seconds_high=None) == "| Time per image | 12.1 ms | 30.4 ms (29.8–31.6) |  |"


def test_parameters_of_generated_data_stand_once():
    """Prevents: four lines of a generator's arguments before each figure."""
    record = guided_record()
    training = replace(record.training, data=replace(record.data, split="train"))
    card = model_card(replace(record, training=training)).text
    assert card.count("`seed` = `0`") == 1
    other = replace(training, data=replace(record.data, split="train", arguments={"seed": 1}))
    card = model_card(replace(record, training=other)).text
    assert card.count("`seed` = `0`") == card.count("`seed` = `1`") == 1


def test_models_of_one_architecture_are_named_by_their_folders():
    """Prevents: a student and a teacher of one name."""
    record = text_record()
    card = model_card(replace(record, student=replace(record.student, path="../students/small"))).text
    assert "| this student | `small` |" in card and "# small" in card
    assert "distilled by e²KD from `teacher` (`BertForSequenceClassification`, not on the Hub)" in card
    card = model_card(replace(record, teacher=replace(record.teacher, path="/home/me/secret"))).text
    assert "secret" not in card and "distilled by e²KD from `BertForSequenceClassification` (not on the Hub)" in card


# ---- Inertness -------------------------------------------------------------------------------------------------------

FOLDED = re.compile(
    r"<details>\n<summary>(What the figures mean|Training arguments|BibTeX)</summary>\n|</details>\n?"
)  # the only HTML of a card
KEPT = {"modality", "problem", "kind", "format"}  # which aren't free
HOSTILE = [
    "<script>alert(1)</script><img src=x onerror=y>",
    "[click](https://evil.example/x) ![p](https://evil.example/p.png)",
    "https://evil.example www.evil.example me@evil.example evil.example @everyone",
    "# Heading\n\n## Another\n\n---\n\ntags:\n- evil\n---\n",
    "a | b | c\n| --- | --- |",
    "`` ` ``` code ~~~ ``` ",
    "```\n<b>out of the fence</b>\n```",
    "{{ 7 * 7 }} {% for x in y %} ${z} {0} %s",
    "yes: [no, {a: b}] & *anchor !!python/object:os.system \"x\" 'y' # z",
    "**bold** _i_ ~~s~~ <https://evil.example> &lt;b&gt; \\",
    "\u202egpj.exe\u200b\x00\x07\u2028\x85 \ud800",
    "- item\n1. item\n> quote\n    indented",
    "§" * 5000,
    "<!-- ",
    "]( \"' $$x$$ :smile:",
]


def full_record():
    """A record in which every field that takes a text has one."""
    record = image_record()
    filled = {"weights": "sha256:0", "path": "../x", "runtime": "a runtime", "precision": "int4"}
    data = {"path": "../x", "config": "default", "columns": {"image": "picture"}, "fingerprint": "sha256:0"}
    data["part"] = PartRecord(0.1, 42)
    references = {"teacher": taught(), "boxes": {**BOXES, "note": "a note"}}
    return image_record(
        student=replace(record.student, **filled),
        teacher=replace(record.teacher, **filled),
        data=replace(record.data, arguments={"kind": ["a", {"b": "c"}]}, **data),
        teacher_explainer={"name": "integrated_gradients", "options": {"baselines": "zero"}},
        training=replace(
            record.training, references=references, data=replace(record.training.data, arguments={}, seed=0, **data)
        ),
        figures={**record.figures, "of_its_own": figure(0.5)},
        chance={**record.chance, "of_its_own": figure(0.1)},
        compared_models={"int8": replace(record.student, **filled)},
        batch_size=64,
        step=7,
    )


def test_every_field_is_tried():
    """Prevents: a field that the record has got since, and that neither test below changes."""

    def empty(values):
        if isinstance(values, dict):
            return {name for name, value in values.items() if value is None}.union(*map(empty, values.values()))
        return set()

    assert empty(full_record().to_dict()) == {"detail", "low", "high"}  # of figures that have none


def with_texts(record, change):
    """The record with every free text, keys that users choose among them, changed."""

    def walk(values, name=""):
        if isinstance(values, dict):
            own = name in {
                "compared",
                "compared_models",
                "arguments",
                "references",
                "environment",
                "options",
                "columns",
            }
            return {change(key) if own or key == "of_its_own" else key: walk(each, key) for key, each in values.items()}
        if isinstance(values, list):
            return [walk(each) for each in values]
        return change(values) if isinstance(values, str) and name not in KEPT else values

    return FidelityRecord.from_dict(walk(record.to_dict()))


def shape(card):
    """How much there is of what can be markup, and where its links lead."""
    tokens = parsed(card)
    kinds = [token.type for token in tokens]
    counted = {kind: kinds.count(kind) for kind in ("heading_open", "fence", "table_open", "tr_open", "th_open", "hr")}
    counted["code_block"], counted["bullets"] = kinds.count("code_block"), kinds.count("bullet_list_open")
    return counted


@pytest.mark.parametrize("hostile", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("name", ["full", "texts", "guided"])
def test_texts_are_inert(name, hostile):
    """Prevents: a label or a name of a data set that becomes HTML, a link, a heading, a table's column, or YAML."""
    record, options = {**CARDS, "full": (full_record, CARDS["images"][1])}[name]
    own = iter(range(10**6))  # keys must stay apart
    card = model_card(with_texts(record(), lambda _: f"{hostile}{next(own)}"), **{**options, "tags": [hostile]})
    benign = model_card(with_texts(record(), lambda _: f"plain {next(own)}"), **options)
    assert shape(card) == shape(benign)
    tokens = parsed(card)
    children = inline(tokens)
    html = [token.content for token in [*tokens, *children] if token.type.startswith("html")]
    assert all(FOLDED.fullmatch(each) for each in html)
    links = {token.attrs["href"] for token in children if token.type == "link_open"}
    # What is no link in Markdown may be made one where addresses are.
    bare = " ".join(token.content for token in children if token.type == "text")
    assert links <= {"fidelity.json"} and not re.search(r"://|www\.|@|\w\.[a-z]", bare)
    pictures = {token.attrs["src"] for token in children if token.type == "image"}
    assert pictures <= {"explanations.png"}
    kinds = {token.type for token in children if token.type.endswith("_open")}
    assert kinds <= {"link_open", "strong_open"}
    assert all(len(token.content) <= LONGEST for token in children if token.type == "code_inline")
    assert check_card(str(card), "model") == ([], [])
    assert ModelCard(str(card)).data.to_dict() == card.data.to_dict()


def test_nothing_is_put_in_unescaped():
    """Prevents: values joined within the template, which Jinja escapes for HTML and not for Markdown."""
    template = (Path(card_module.__file__).parent / "templates" / "model_card.md.jinja").read_text(encoding="utf-8")
    inserted = re.findall(r"{[{%].*?[%}]}", template, re.DOTALL)
    assert not [part for part in inserted if "~" in part or re.search(r"\| *(join|replace|string)\b", part)]
    safe = {name for part in inserted for name in re.findall(r"([\w.()]+) *\| *safe", part)}
    assert safe == {"metadata", "citations", "picture", "place", "student_place", "plus()"}


def test_texts_are_still_shown():
    """Prevents: inertness by leaving everything out: what a class is called is read as it was written."""
    label = "<b>R&D</b> *x* {{y}} [z](u)"
    figures = {"accuracy": figure(0.5), "worst_class_accuracy": MetricValue(0.1, detail=label)}
    card = model_card(bare_record(figures=figures))
    assert label in [token.content for token in inline(parsed(card)) if token.type == "code_inline"]


@pytest.mark.parametrize("secret", PRIVATE)
def test_nothing_private(secret, caplog):
    """Prevents: a token, a path or this machine's name in a card, whichever field it was in."""
    options = CARDS["images"][1]
    own = iter(range(10**6))
    names = {name: secret for name in ("tags", "language", "model_name", "license")}
    hidden = with_texts(full_record(), lambda _: f"n{next(own)} {secret}")
    card = str(model_card(hidden, **{**options, **names}))
    assert secret not in card and not re.search("someone|secret|bluebird", card, re.IGNORECASE)
    assert "student.architecture" in caplog.text and secret not in caplog.text


def test_what_is_refused():
    """Prevents: a picture from elsewhere, an id that is code or an address."""
    for picture in ("/tmp/x.png", "../x.png", "a/b.png", "x.png)<b>", "hf_secretOfMe.png"):
        with pytest.raises(ValueError, match="picture must be the name of a file"):
            model_card(bare_record(), picture=picture)
    for repo_id in ("../x", "https://huggingface.co/me/x", 'me/x"); evil("'):
        with pytest.raises(ValueError, match="is not the id of a repository"):
            model_card(bare_record(), repo_id=repo_id)
    with pytest.raises(ValueError, match="cards for image and text models, not for 'sound'"):
        model_card(bare_record(modality="sound"))


# ---- Code and files --------------------------------------------------------------------------------------------------


def student_of(name, folder):
    """A tiny student in a folder, and the record of one like it."""
    if name in ("texts", "pairs"):
        text_model("bert", own=STUDENT).save_pretrained(folder)
        STUDENT.save_pretrained(folder)
        columns = {"texts": ["premise", "hypothesis"] if name == "pairs" else ["text"]}
        return text_record(data=replace(text_record().data, columns=columns))
    if name == "bare_texts":
        text_model("bert", own=STUDENT).save_pretrained(folder)
        return text_record()
    if name == "bcos":
        model = network("resnet")
        assert isinstance(model, BcosResNetForImageClassification)
        model.save_pretrained(folder)
        cost = replace(image_record().student.cost, input="3×32×32")
        return guided_record(student=replace(guided_record().student, cost=cost))
    if name == "timm":
        build("wrapped_convnext").save_pretrained(folder)
        return bare_record()
    build("vit").save_pretrained(folder)
    PROCESSOR.save_pretrained(folder)
    return image_record(explainer={"name": "gradcam", "options": {"target_layer": "vit.layers.1"}})


@pytest.mark.parametrize("name", ["images", "texts", "pairs", "bare_texts", "bcos", "timm"])
def test_its_code_runs(name, tmp_path, monkeypatch, capsys):
    """Prevents: a card's code that doesn't run as it is copied: for images and texts, with and without a processor, of
    networks that transformers doesn't know; and code that shows a single text to a student of pairs."""
    record = student_of(name, tmp_path)
    record.save(tmp_path)
    Image.new("RGB", (40, 30), "red").save(tmp_path / "picture.jpg")
    card = ModelCard.load(save_card(record, tmp_path))
    monkeypatch.chdir(tmp_path)
    scope = {}
    for block in re.findall(r"```python\n(.*?)```", card.text, re.DOTALL):
        exec(block, scope)
    assert isinstance(scope["logits"], torch.Tensor)
    assert scope["explanation"].maps.isfinite().all() and len(scope["explanation"].maps) == 1
    assert capsys.readouterr().out.count("\n") == 2
    assert scope["student"].fidelity == record
    if name == "pairs":
        assert len(scope["texts"][0]) == 2 and scope["inputs"]["token_type_ids"].any()
        assert len(scope["explanation"].words[0]) == 9


def test_code_of_a_measured_students_card_runs(tmp_path, monkeypatch, capsys):
    """Prevents: code that loads the folder of the measurement, in which there is no model."""
    student = tmp_path / "student"
    record = student_of("images", student)
    measured = tmp_path / "outputs"
    measured.mkdir()
    record.save(measured)
    Image.new("RGB", (40, 30), "red").save(measured / "picture.jpg")
    card = ModelCard.load(save_card(record, measured, student="../student"))
    monkeypatch.chdir(measured)
    scope = {}
    for block in re.findall(r"```python\n(.*?)```", card.text, re.DOTALL):
        exec(block, scope)
    assert len(scope["explanation"].maps) == 1 and scope["options"] == {"target_layer": "vit.layers.1"}
    assert "hf-e2kd fidelity --verify .\n" in card.text
    for private in ("/home/me/student", 'x"); evil("'):
        assert 'load_student("STUDENT")' in model_card(record, student=private).text


def test_saved(tmp_path):
    """Prevents: a card that promises a record, a processor or a picture that isn't there."""
    build("vit").save_pretrained(tmp_path)
    path = save_card(text_record(), tmp_path)
    card = path.read_text(encoding="utf-8")
    assert path == tmp_path / "README.md" and "--verify" not in card and "fidelity.json" not in card
    assert "no tokenizer was published" in card
    with pytest.raises(ValueError, match="no picture 'explanations.png'"):
        save_card(text_record(), tmp_path, picture="explanations.png")
    text_record().save(tmp_path)
    assert "hf-e2kd fidelity --verify ." in save_card(text_record(), tmp_path).read_text(encoding="utf-8")


@pytest.mark.parametrize("record", [image_record(), text_record(), guided_record()])
def test_command_of_verification(record):
    """Prevents: a command that is refused as it stands, because no id says where the models or the data are."""
    for teacher in (record.teacher, record.teacher and replace(record.teacher, id=None, path="../teacher")):
        for data in (record.data, replace(record.data, id=None, path="../data")):
            card = model_card(replace(record, teacher=teacher, data=data), has_record=True).text
            lines = [line for line in card.splitlines() if line.startswith("hf-e2kd fidelity --verify")]
            if teacher is None:
                assert not lines and "holds the samples" in card
            else:
                assert len(lines) == 1
                assert ("--teacher TEACHER" in lines[0]) == (teacher.id is None)
                assert ("--dataset DATASET" in lines[0]) == (data.id is None)


def test_loss_of_scores_is_cited():
    """Prevents: a paper of class probabilities for a loss between the margins of scores."""
    record = image_record()
    arguments = {**record.training.arguments, "logits_loss": "margin_mse"}
    found = citations(replace(record, training=replace(record.training, arguments=arguments)))
    assert MARGIN_MSE in found and HINTON not in found


@pytest.mark.parametrize(("problem", "loss"), [(None, "KL divergence from"), ("regression", "`mse` loss against")])
def test_the_loss_of_the_logits_is_named(problem, loss):
    """Prevents: a card that says "auto", which names no loss, as all of default trainings did."""
    record = image_record()
    arguments = {**record.training.arguments, "logits_loss": "auto"}
    record = replace(record, training=replace(record.training, arguments=arguments))
    text = model_card(replace(record, problem=problem) if problem else record).text
    assert f"· {loss} the teacher's outputs" in text


@pytest.mark.parametrize(
    ("problem", "stated", "loss"),
    [
        (
            "regression",
            "auto",
            "0.5 · mean squared error with the labels + 1 · `mse` loss against the teacher's outputs +",
        ),
        (None, "hard", "0.5 · cross-entropy with the labels + 1 · `hard` loss against the teacher's outputs +"),
        (
            None,
            "dkd",
            "0.5 · cross-entropy with the labels + 1 · `dkd` loss against the teacher's outputs at temperature",
        ),
    ],
)
def test_a_loss_is_what_was_trained(problem, stated, loss):
    """Prevents: the cross-entropy of a regressor, and a temperature that has no effect on the loss."""
    record = image_record()
    arguments = {**record.training.arguments, "task_weight": 0.5, "logits_loss": stated}
    record = replace(record, training=replace(record.training, arguments=arguments))
    assert loss in model_card(replace(record, problem=problem) if problem else record).text


def test_several_teachers_are_told_apart():
    """Prevents: what a student learnt from another teacher stated as learnt from the one that it is compared with."""
    record = image_record()
    (own,) = record.training.references.values()
    references = {"teacher": own, "second": {**own, "logits_weight": 0.0, "explanation_weight": 0.5}}
    text = model_card(replace(record, training=replace(record.training, references=references))).text
    assert "KL divergence from `teacher`'s outputs" in text and "loss against `teacher`'s explanations" in text
    assert "+ 0.5 · `cosine` loss against `second`'s explanations" in text
    assert "loss against the teacher's explanations" in model_card(record).text


def test_a_regressor_has_scores_and_no_classes():
    """Prevents: the explained class of a model that has none, and its probability, in the card of a regressor."""
    record = replace(image_record(), problem="regression")
    text = model_card(record).text
    assert "for their scores." in text and "a sample, for its score" in text and "the model's score while" in text
    for phrase in ("class that the teacher predicts", "class that the student predicts", "of the explained class"):
        assert phrase not in text


def test_held_out_methods_stand_beside_the_trained_one():
    """Prevents: a student that looks alike by the trained method alone, and a card that doesn't say so."""
    record = image_record()
    section = model_card(record).text.split("## How faithful it is")[1]
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    at = next(number for number, row in enumerate(rows) if row.startswith("| Explanation similarity "))
    titles = [row.split(" |")[0].removeprefix("| ") for row in rows[at : at + 10]]
    chance = ["– chance: another image's explanation", "– chance: an untrained student"]
    assert titles == [
        "Explanation similarity",
        *chance,
        "– control: the teacher itself under noise of 4/255",
        "Explanation similarity by Integrated Gradients",
        *chance,
        "Explanation similarity by occlusion",
        *chance,
    ]
    # This student, plain KD, int8, teacher.
    cells = [cell.strip() for cell in rows[at + 7].split("|")[2:-1]]
    assert [cell.split(" ")[0] for cell in cells] == ["0.537", "–", "0.529", "–"]
    deletion = [row for row in rows if row.startswith(("| Deletion", "| – chance: pixels"))]
    assert [row.split("|")[2].split()[0] for row in deletion[:3]] == ["0.281", "0.418", "0.226"]
    text = model_card(record).text
    assert "int8 ran as int8, ONNX Runtime 1.23." in text and "plain KD ran as" not in text
    assert "petsiuk2018rise" in text and "zeiler2014visualizing" in text
    weak = replace(record.held_out[1], chance={"shuffled": figure(0.53)})
    text = model_card(replace(record, held_out=[record.held_out[0], weak])).text
    assert "**By occlusion the similarity is not clearly above chance.**" in text
    assert "By Integrated Gradients the similarity" not in text


def test_further_terms_of_the_loss():
    """Prevents: a card that leaves out what else a student was trained by, and whose method that is."""
    record = image_record()
    stated = {"hint": {"weight": 0.5}, "attention_transfer": {"weight": 0.0}}
    arguments = {**record.training.arguments, "logits_loss": "mse", "terms": stated}
    card = str(model_card(replace(record, training=replace(record.training, arguments=arguments))))
    (line,) = [line for line in card.splitlines() if line.startswith("- **Loss**")]
    assert line.endswith("+ 0.5 · `hint`") and "`mse` loss against the teacher's outputs" in line
    assert "romero2015fitnets" in card and "zagoruyko2017paying" not in card and "| `terms`" not in card


def test_a_number_is_rounded_into_its_prefix():
    """Prevents: 1000.0 k parameters."""
    numbers = (999_949, 999_950, 1_000_000, 950_000, 999, 999_999_999)
    assert [count(number) for number in numbers] == ["999.9 k", "1.0 M", "1.0 M", "950.0 k", "999", "1.0 G"]
