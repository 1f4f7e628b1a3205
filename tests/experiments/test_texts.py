"""Experiments on texts: without a download, on a user's own model and data, on a treebank, with wrong arguments."""

import copy
import json
import sys

import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    LongformerConfig,
    LongformerForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from hf_e2kd import load_student
from hf_e2kd.data import train_tokenizer
from hf_e2kd.data.sst import join_words, word_features
from hf_e2kd.experiments import keep_classes, label_settings, run_experiment, shallow_copy_of, texts, words
from hf_e2kd.experiments.demos import BERT_ON_REVIEWS
from hf_e2kd.experiments.models import load_text_classifier
from hf_e2kd.experiments.words import Reading, WordStudy
from hf_e2kd.explainers import InputXGradient
from hf_e2kd.models import SentenceEncoderConfig, SentenceEncoderForSequenceClassification

SIZES = {"teacher_train": 64, "student_train": 64, "validation": 0, "test_id": 8, "test_ood": 8}
TINY = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 64}
TEXTS = ["a wonderful film", "a dreadful film", "the actors are wonderful", "what a dreadful, endless story"]


FEW_POINTS = ("--explainer_options", '{"n_steps": 2}')


def run(monkeypatch: pytest.MonkeyPatch, *options: str) -> dict:
    """Run the embedded setting in this process, on a handful of texts."""
    monkeypatch.setitem(BERT_ON_REVIEWS.data, "sizes", SIZES)
    fast = ("--pictures", "0", "--explained_samples", "24", "--use_cpu", "true", "--max_steps", "2")
    monkeypatch.setattr(sys, "argv", ["distill_bert", *fast, *options])
    return run_experiment(BERT_ON_REVIEWS, "distill_bert", "")


def test_the_embedded_default_trains_measures_and_writes(monkeypatch, tmp_path):
    """A default that needs a download, a variant that isn't trained, or figures without the words' own labels."""
    results = run(monkeypatch, "--output_dir", str(tmp_path), "--pictures", "2")
    written = {path.name for path in tmp_path.iterdir()}
    assert {"student", "student-kd", "student-scratch", "teacher", "results.json"} <= written
    assert {"explanations.html", "explanations.png"} <= written
    summary = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["summary"]
    assert summary == results["summary"]
    assert set(summary["out_of_distribution"]) == {"teacher", "scratch", "KD", "e²KD"}
    figures = summary["out_of_distribution"]["e²KD"]
    assert {"accuracy", "agreement", "explanation_similarity"} <= set(figures)
    assert any("word_accuracy" in side for side in summary["out_of_distribution"].values())
    student = AutoModelForSequenceClassification.from_pretrained(tmp_path / "student")
    assert student.config.num_hidden_layers == 2
    assert student.config.id2label[0] == "very negative"
    batch = AutoTokenizer.from_pretrained(tmp_path / "student")(TEXTS, padding=True, return_tensors="pt")
    assert student(**batch).logits.shape == (4, 4)
    record = load_student(tmp_path / "student").fidelity
    assert set(record.compared) == {"no teacher", "plain KD"} and record.chance["shuffled"].samples
    stated = {name for name in results["runs"][0]["e²KD"]["out_of_distribution"] if name.startswith("word_")}
    assert stated == {name for name in record.figures if name.startswith("word_")}


def test_variants_start_from_the_same_weights_and_see_the_same_batches(monkeypatch, tmp_path):
    """A comparison whose sides differ in more than the explanation term."""
    results = run(monkeypatch, "--output_dir", str(tmp_path), "--explanation_weight", "0", *FEW_POINTS)
    (sides,) = results["runs"]
    assert sides["KD"] == sides["e²KD"]
    assert sides["scratch"] != sides["KD"]


@pytest.fixture
def own_sources(tmp_path):
    """A base model's folder with its tokenizer, and labelled texts saved by `datasets`."""
    tokenizer = train_tokenizer(TEXTS, vocab_size=60, model_max_length=32)
    config = BertConfig(vocab_size=len(tokenizer), num_hidden_layers=4, **TINY)
    BertForSequenceClassification(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    features = Features({"review": Value("string"), "stars": ClassLabel(names=["bad", "fair", "good"])})
    rows = Dataset.from_dict({"review": TEXTS * 4, "stars": [2, 0, 2, 1] * 4}, features=features)
    DatasetDict({"train": rows, "validation": rows}).save_to_disk(tmp_path / "data")
    columns = ("--text_column", "review", "--label_column", "stars")
    return [*("--teacher", str(tmp_path / "base"), "--dataset", str(tmp_path / "data")), *columns]


@pytest.mark.parametrize("init", ["random", "teacher-layers", "own model"])
def test_own_models_and_data(init, own_sources, monkeypatch, tmp_path):
    """A new classifier with the wrong classes, or a student whose tokenizer isn't its own."""
    if init == "own model":
        tokenizer = train_tokenizer(TEXTS, vocab_size=45, model_max_length=32)
        config = BertConfig(vocab_size=len(tokenizer), num_hidden_layers=2, **TINY)
        BertForSequenceClassification(config).save_pretrained(tmp_path / "small")
        tokenizer.save_pretrained(tmp_path / "small")
        init = str(tmp_path / "small")
    output = tmp_path / "out"
    options = ("--student-init", init, "--student-layers", "2", "--output_dir", str(output), "--teacher_epochs", "1")
    results = run(monkeypatch, *own_sources, *options, *FEW_POINTS)
    figures = results["summary"]["evaluation"]["e²KD"]
    assert set(figures) == {"accuracy", "agreement", "explanation_similarity"}
    student = AutoModelForSequenceClassification.from_pretrained(output / "student")
    assert student.config.num_hidden_layers == 2
    assert list(student.config.id2label.values()) == ["bad", "fair", "good"]
    tokenizer = AutoTokenizer.from_pretrained(output / "student")
    assert len(tokenizer) == student.config.vocab_size


def test_texts_of_several_labels(own_sources, monkeypatch, tmp_path):
    """Prevents: a student of its own that learns by a softmax what its teacher decides class by class, or an end at the
    picture, after all trainings, as the labels are vectors."""
    path = tmp_path / "base" / "config.json"
    several = {"problem_type": "multi_label_classification", "id2label": {0: "sad", 1: "glad", 2: "long"}}
    config = BertConfig.from_pretrained(path, **several)
    BertForSequenceClassification(config).save_pretrained(tmp_path / "teacher")
    AutoTokenizer.from_pretrained(tmp_path / "base").save_pretrained(tmp_path / "teacher")
    rows = Dataset.from_dict(
        {"review": TEXTS, "stars": [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 1.0]]}
    )
    DatasetDict(train=rows, validation=rows).save_to_disk(tmp_path / "several")
    sources = ["--teacher", str(tmp_path / "teacher"), "--dataset", str(tmp_path / "several"), *own_sources[4:]]
    options = ("--student-init", str(tmp_path / "base"), "--finetune_teacher", "false", "--pictures", "4")
    run(monkeypatch, *sources, *options, *FEW_POINTS, "--output_dir", str(tmp_path / "out"))
    found = load_student(tmp_path / "out" / "student")
    assert found.model.config.problem_type == "multi_label_classification" and "f1" in found.fidelity.figures
    assert "glad" in (tmp_path / "out" / "explanations.html").read_text(encoding="utf-8")
    assert "sad, long" in (tmp_path / "out" / "explanations.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("embedded", [True, False])
def test_a_students_name_is_read_before_its_teacher_is_trained(embedded, own_sources, monkeypatch, tmp_path):
    """A wrong name that costs the hours of a teacher's training."""
    monkeypatch.setattr(texts, "train_on_labels", lambda *_: pytest.fail("the teacher was trained"))
    sources = () if embedded else own_sources
    with pytest.raises(OSError, match="nowhere"):
        run(monkeypatch, *sources, "--student-init", str(tmp_path / "nowhere"), "--output_dir", str(tmp_path / "out"))


def test_a_treebank_scores_the_words(own_sources, monkeypatch, tmp_path):
    """Word attribution that silently isn't measured on the very data that has word labels."""
    # One sentence of each class, so that whatever an untrained model predicts is right somewhere.
    words = {0: "dreadful", 1: "endless", 3: "wonderful", 4: "wonderful"}
    trees = "".join(f"({label} (2 a) ({label} ({label} {word}) (2 film)))\n" for label, word in words.items())
    for name in ("train", "dev", "test"):
        (tmp_path / f"{name}.txt").write_text(trees * 4)
    options = ("--dataset", str(tmp_path), "--eval_split", "test", "--output_dir", str(tmp_path / "out"))
    results = run(monkeypatch, *own_sources[:2], *options)
    assert set(results["summary"]["evaluation"]) == {"teacher", "scratch", "KD", "e²KD"}
    assert any("word_accuracy" in side for side in results["summary"]["evaluation"].values())


def test_words_and_captions_of_a_model_with_another_order_of_the_classes(tmp_path):
    """Prevents: words scored, and texts captioned, by the data's number of a class where the model has another one."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(TEXTS, vocab_size=60, model_max_length=32)
    names = ["negative", "positive"]
    model = BertForSequenceClassification(
        BertConfig(vocab_size=len(tokenizer), num_hidden_layers=1, **TINY, **label_settings(names, 2))
    )
    model.save_pretrained(tmp_path)
    # Loaded with the same classes in another order, a model gives each its own logit.
    swapped = load_text_classifier(str(tmp_path), names[::-1], 2)
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    torch.testing.assert_close(swapped.eval()(**batch).logits, model.eval()(**batch).logits.flip(1))
    split = [text.split(" ") for text in TEXTS]
    rows = {
        "text": [join_words(own)[0] for own in split],
        "label": [1, 0, 1, 0],
        "words": split,
        "spans": [join_words(own)[1] for own in split],
        "word_labels": [[{"wonderful": 4, "dreadful": 0}.get(word, 2) for word in own] for own in split],
    }
    data = Dataset.from_dict(rows, features=word_features(names))
    found = []
    for own in (model, swapped):
        study = WordStudy(own, tokenizer, tokenizer, {"test": data}, InputXGradient())
        found.append(study.measure(own, "test"))
        folder = tmp_path / own.config.id2label[0]
        folder.mkdir()
        study.picture({"KD": own}, 4, folder)
        page = (folder / "explanations.html").read_text(encoding="utf-8")
        assert page.count("true: positive") == page.count("true: negative") == 2
    assert "word_accuracy" in found[0] and found[0] == pytest.approx(found[1], abs=1e-5)


@pytest.mark.parametrize("names", [["joke", "news", "ad"], ["ad", "news"]], ids=["all", "some"])
def test_a_teacher_whose_classes_stand_in_another_order(names, tmp_path, monkeypatch):
    """Prevents: a teacher's words compared, or captioned, as those of another class than the student's."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(TEXTS, vocab_size=60, model_max_length=32)
    config = BertConfig(
        vocab_size=len(tokenizer), num_hidden_layers=1, **TINY, **label_settings(["ad", "joke", "news"], 3)
    )
    teacher = BertForSequenceClassification(config).eval()
    # Logits that hardly depend on the text: the teacher's first choice is the class that the second student lacks.
    teacher.classifier.bias.data = torch.tensor([0.0, 3.0, 1.5])
    student = copy.deepcopy(teacher)
    keep_classes(student, names)
    features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
    data = Dataset.from_dict({"text": TEXTS, "label": [0, 1, 0, 1]}, features=features)
    study = WordStudy(teacher, tokenizer, tokenizer, {"test": data}, InputXGradient())
    # The same network explains the same class.
    assert study.measure(student, "test")["explanation_similarity"] == pytest.approx(1, abs=1e-5)
    drawn: list = []
    monkeypatch.setattr(words, "word_page", lambda shown, *_, **__: drawn.extend(shown))
    study.picture({"KD": student}, 2, tmp_path)
    explained = "joke" if "joke" in names else "news"
    for sample in drawn:
        assert sample.explained == explained and {row.prediction for row in sample.rows} == {explained}


def test_the_second_of_a_cut_pair_is_drawn_with_its_own_scores(monkeypatch, tmp_path):
    """Prevents: a hypothesis's scores drawn at the same words of the premise's end, which no model has read."""
    tokenizer = train_tokenizer(TEXTS, vocab_size=60, model_max_length=32)
    model = BertForSequenceClassification(BertConfig(vocab_size=len(tokenizer), num_hidden_layers=1, **TINY))
    rows = {"premise": [" ".join(TEXTS[:3])] * 2, "hypothesis": ["a film", "a dreadful film"], "label": [0, 1]}
    columns = ["premise", "hypothesis"]
    evaluations = {"test": Dataset.from_dict(rows)}
    study = WordStudy(model, tokenizer, tokenizer, evaluations, InputXGradient(), text_columns=columns, max_length=12)
    drawn: list = []
    monkeypatch.setattr(words, "word_page", lambda shown, *_, **__: drawn.extend(shown))
    study.picture({"KD": model}, 2, tmp_path)
    for sample in drawn:
        assert sample.text.split("\n")[1] in rows["hypothesis"]
        assert " ".join(sample.rows[0].words) == sample.text.replace(" …\n", " ")


def test_texts_keep_their_order():
    """Prevents: a text's words, spans or logits given to another one, as those of similar length share a batch."""
    tokenizer = train_tokenizer(TEXTS, vocab_size=60, model_max_length=32)
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(vocab_size=len(tokenizer), num_hidden_layers=1, **TINY))
    split = [(f"{text} " * times).split() for text, times in zip(TEXTS, (3, 1, 4, 2), strict=True)]
    joined = [join_words(own) for own in split]
    rows = {"text": [text for text, _ in joined], "spans": [spans for _, spans in joined], "label": [0, 1, 0, 1]}
    data = Dataset.from_dict({**rows, "word_labels": [[2] * len(own) for own in split]})
    study = WordStudy(model, tokenizer, tokenizer, {"test": data}, InputXGradient(), batch_size=2)
    taught = study._read(model, data, None)
    for teacher in (None, taught):
        together = study._read(model, data, teacher)
        for row in range(4):
            only = teacher and Reading(teacher.logits[[row]], [teacher.words[row]], [])
            alone = study._read(model, data.select([row]), only)
            torch.testing.assert_close(together.logits[row], alone.logits[0])
            assert together.words[row] == pytest.approx(alone.words[0], abs=1e-6)
            assert together.spans[row] == pytest.approx(alone.spans[0], abs=1e-6)


def test_spans_of_another_kind_are_left_alone():
    """Prevents: data whose column `spans` says something else than where words stand, such as marked characters."""
    tokenizer = train_tokenizer(TEXTS, vocab_size=60, model_max_length=32)
    model = BertForSequenceClassification(BertConfig(vocab_size=len(tokenizer), num_hidden_layers=1, **TINY))
    data = Dataset.from_dict({"text": TEXTS, "label": [0, 1, 0, 1], "spans": [[2, 3], [], [4], []]})
    study = WordStudy(model, tokenizer, tokenizer, {"test": data}, InputXGradient())
    assert set(study.measure(copy.deepcopy(model), "test")) == {"explanation_similarity"}


class TestShallowCopy:
    teacher = BertForSequenceClassification(BertConfig(vocab_size=30, num_hidden_layers=4, num_labels=3, **TINY))

    def test_takes_evenly_spaced_layers_and_all_else(self):
        """A "teacher-layers" student that starts at random, or from the wrong layers."""
        student = shallow_copy_of(self.teacher, 2, "teacher-layers")
        own, given = student.bert, self.teacher.bert
        for new, old in enumerate((0, 2)):
            expected = given.encoder.layer[old].state_dict()
            assert all(torch.equal(value, expected[k]) for k, value in own.encoder.layer[new].state_dict().items())
        assert torch.equal(own.embeddings.word_embeddings.weight, given.embeddings.word_embeddings.weight)
        assert torch.equal(student.classifier.weight, self.teacher.classifier.weight)

    @pytest.mark.parametrize(
        ("kind", "config"),
        [
            (BertForSequenceClassification, BertConfig(vocab_size=30, num_hidden_layers=4, **TINY)),
            (RobertaForSequenceClassification, RobertaConfig(vocab_size=30, num_hidden_layers=4, **TINY)),
        ],
        ids=["BERT", "RoBERTa"],
    )
    def test_of_a_sentence_encoder_it_is_transformers_own(self, kind, config):
        """Prevents: a student that loads after `import hf_e2kd` alone, or has lost the teacher's layers or classes."""
        names = {0: "calm", 1: "loud", 2: "neither"}
        teacher = SentenceEncoderForSequenceClassification(SentenceEncoderConfig(config, id2label=names))
        student = shallow_copy_of(teacher, 2, "teacher-layers")
        assert type(student) is kind and student.config.id2label == names
        for new, old in enumerate((0, 2)):
            expected = teacher.backbone.encoder.layer[old].state_dict()
            own = student.base_model.encoder.layer[new].state_dict()
            assert all(torch.equal(value, expected[name]) for name, value in own.items())
        embeddings = teacher.backbone.embeddings.word_embeddings.weight
        assert torch.equal(student.base_model.embeddings.word_embeddings.weight, embeddings)
        assert shallow_copy_of(teacher, 2, "random").config.num_hidden_layers == 2

    def test_windows_of_the_layers_that_are_kept(self):
        """Prevents: an assertion deep inside Longformer, whose checkpoints state a window for each layer."""
        windows = {"attention_window": [2, 4, 6, 8], "max_position_embeddings": 20, "pad_token_id": 1}
        config = LongformerConfig(vocab_size=30, num_hidden_layers=4, num_labels=3, **{**TINY, **windows})
        student = shallow_copy_of(LongformerForSequenceClassification(config), 2, "teacher-layers")
        assert student.config.attention_window == [2, 6] and len(student.longformer.encoder.layer) == 2

    @pytest.mark.parametrize(
        ("layers", "init", "message"),
        [(5, "random", "between 1 and the teacher's 4, not 5"), (2, "pooled", "Available: random, teacher-layers")],
    )
    def test_refuses_what_it_cannot_make(self, layers, init, message):
        """A student that is no smaller than said, or a typing error that is taken for a way to start."""
        with pytest.raises(ValueError, match=message):
            shallow_copy_of(self.teacher, layers, init)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--teacher", "somewhere"], "--teacher and --dataset belong together"),
        (["--explanation_fraction", "0"], "explanation_fraction must lie in (0, 1]"),
    ],
)
def test_wrong_arguments_say_what_to_do(options, message, monkeypatch, capsys):
    """A traceback, or a long training, where a sentence would do."""
    with pytest.raises(SystemExit):
        run(monkeypatch, *options)
    assert message in capsys.readouterr().err
