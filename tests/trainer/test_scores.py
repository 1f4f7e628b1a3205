"""Students of one logit: rerankers and regressors, which are scored and not sorted into classes."""

import pytest
import torch
from datasets import Dataset
from scipy import stats
from torch import nn

from hf_e2kd import AnnotationReference, TextCollator, explain
from hf_e2kd.alignment.labels import is_score
from hf_e2kd.terms import Logits
from tests.models import CLASSES, build
from tests.text_models import build_text
from tests.tokenizers import STUDENT, TEACHER, data, rows, text_model, without_dropout
from tests.trainer.test_text import trainer_of
from tests.training import distiller, flat, logged


def scorer(name="bert", seed=0, tokenizer=None, problem="regression"):
    """A tiny text model with one logit and its tokenizer's vocabulary."""
    like = text_model(name, seed) if tokenizer is None else text_model(name, seed, tokenizer)
    return without_dropout(type(like)(_one_logit(like.config, problem))).eval()


def _one_logit(config, problem):
    config.num_labels, config.problem_type = 1, problem
    return config


def pairs(count, seed=0, numbers=True):
    """Texts with numbers, or with whole ones, as labels."""
    made = data(count, seed=seed)
    labels = torch.rand(count, generator=torch.Generator().manual_seed(seed)).mul(5).tolist()
    column = next(name for name in ("labels", "label") if name in made.column_names)
    own = labels if numbers else [int(label) for label in labels]
    return made.remove_columns(column).add_column(column, own)


def score_trainer(folder, settings=None, student=None, teacher=None, **keywords):
    torch.manual_seed(3)
    student = scorer() if student is None else student
    teacher = scorer("roberta", 1, TEACHER) if teacher is None else teacher
    keywords = {"train_dataset": pairs(16), "eval_dataset": pairs(9, seed=7), **keywords}
    return trainer_of(folder, student, teacher, {"explanation_weight": 1.0, **(settings or {})}, **keywords)


@pytest.mark.parametrize("loss", [None, "mse", "margin_mse"])
def test_a_score_is_distilled(tmp_path, loss):
    """Prevents: KL of one class, which is 0: nothing distilled, and an agreement of 1.000 (faults A2)."""
    settings = {"task_weight": 0.5} | ({} if loss is None else {"logits_loss": loss})
    trainer = score_trainer(tmp_path, settings)
    before = flat(trainer.student.parameters())
    trainer.train()
    assert not torch.equal(flat(trainer.student.parameters()), before)
    assert min(logged(trainer, "loss_logits")) > 0 and min(logged(trainer, "loss_task")) > 0
    term = next(term for term in trainer.terms.values() if isinstance(term, Logits))
    assert term.loss == (loss or "mse")
    assert ("2010.02666" in term.citation) == (loss == "margin_mse")


def test_the_metrics_are_those_of_all_scores(tmp_path):
    """Prevents: a mean of batches' correlations; accuracy and agreement of a single class, which are always 1."""
    trainer = score_trainer(tmp_path)
    metrics = trainer.evaluate()
    student, teacher, labels = [], [], []
    for batch in trainer.get_eval_dataloader():
        with torch.no_grad():
            student += trainer.student(**trainer.student_inputs(batch)).logits[:, 0].tolist()
            taught = trainer.references["teacher"]
            teacher += taught.model(**taught.inputs_of(batch)).logits[:, 0].tolist()
        labels += batch["labels"].tolist()
    expected = {
        "spearman": stats.spearmanr(student, teacher).statistic,
        "pearson": stats.pearsonr(student, teacher).statistic,
        "mae": (torch.tensor(student) - torch.tensor(teacher)).abs().mean().item(),
        "label_spearman": stats.spearmanr(student, labels).statistic,
        "label_pearson": stats.pearsonr(student, labels).statistic,
        "label_mae": (torch.tensor(student) - torch.tensor(labels)).abs().mean().item(),
        "teacher_label_spearman": stats.spearmanr(teacher, labels).statistic,
        "teacher_label_mae": (torch.tensor(teacher) - torch.tensor(labels)).abs().mean().item(),
    }
    for name, value in expected.items():
        assert metrics[f"eval_{name}"] == pytest.approx(value, abs=1e-5), name
    assert not {"eval_agreement", "eval_accuracy", "eval_teacher_accuracy"} & metrics.keys()
    assert not any(name.startswith("eval__") for name in metrics)
    assert "eval_explanation_similarity" in metrics


def test_record_and_card(tmp_path):
    """Prevents: a card that calls a reranker a classifier, with an agreement of 1.000 (faults A2)."""
    trainer = score_trainer(tmp_path)
    record = trainer.measure_fidelity(samples=9)
    assert record.problem == "regression"
    assert {"spearman", "pearson", "mae", "label_spearman", "label_mae", "teacher_label_mae"} <= record.figures.keys()
    assert not {"agreement", "accuracy", "worst_class_agreement", "negative_flips"} & record.figures.keys()
    spearman = record.figures["spearman"]
    assert spearman.low <= spearman.value <= spearman.high and spearman.samples == 9
    assert record.figures["spearman"].value == pytest.approx(trainer.evaluate()["eval_spearman"])
    trainer.create_model_card()
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "A model that scores texts" in card and "Spearman" in card
    assert "Agreement" not in card and "argmax" not in card


def test_an_explicit_kl_is_refused(tmp_path):
    """Prevents: a training that learns nothing, because a script names the loss of classes."""
    with pytest.raises(ValueError, match="one score.*logits_loss='mse' or 'margin_mse'"):
        score_trainer(tmp_path, {"logits_loss": "kl"})


def test_margins_of_classes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="'margin_mse' compares scores"):
        trainer_of(tmp_path, settings={"logits_loss": "margin_mse"})


@pytest.mark.parametrize("numbers", [True, False])
def test_labels_need_a_problem_type(tmp_path, numbers):
    """Prevents: whole labels of a student with one logit, which silently become a regression's (faults A2)."""
    student = scorer(problem=None)
    trainer = score_trainer(tmp_path, {"task_weight": 1.0}, student, train_dataset=pairs(16, numbers=numbers))
    with pytest.raises(ValueError, match="problem_type='regression'"):
        trainer.train()


def test_several_scores_are_refused(tmp_path):
    """Prevents: the KL of a softmax over a regressor's outputs, as if they were classes."""
    student = build("vit")
    student.config.problem_type = "regression"
    with pytest.raises(ValueError, match=f"of {CLASSES} outputs.*num_labels=1.*problem_type='single_label"):
        distiller(student, build("vit", seed=1), tmp_path)


def test_smoothed_labels_of_scores_are_refused(tmp_path):
    """Prevents: the smoothed cross-entropy of one logit, 0 for labels of 0 and an IndexError or a gather for others."""
    with pytest.raises(ValueError, match="gives one score, whose cross-entropy is always 0. Set it to 0"):
        score_trainer(tmp_path, {"task_weight": 1.0, "label_smoothing_factor": 0.1})
    score_trainer(tmp_path, {"label_smoothing_factor": 0.1})  # no loss on labels


def test_scores_have_no_labelled_class(tmp_path):
    with pytest.raises(ValueError, match="has no class that a label could name"):
        score_trainer(tmp_path, {"explanation_target": "label"})


def test_one_shared_class_of_several_is_refused(tmp_path):
    """Prevents: the softmax over one class, on which any two models agree (faults A2)."""
    student, teacher = text_model("bert"), text_model("roberta", 1, TEACHER)
    count = student.config.num_labels
    student.config.id2label = {number: f"own {number}" for number in range(count)} | {0: teacher.config.id2label[2]}
    with pytest.raises(ValueError, match=f"share one class alone, of the teacher's {count} and the student's {count}"):
        trainer_of(tmp_path, student, teacher)


def test_one_class_without_a_score_stays_multi_label():
    """Prevents: a single label's presence, decided by a sigmoid, taken for a score."""
    assert is_score(scorer(problem=None))
    assert not is_score(scorer(problem="multi_label_classification"))
    assert not is_score(build_text("bert"))


def test_annotations_of_classes_are_refused():
    """Prevents: whole numbers of a regression's labels, taken for the classes that masks belong to."""
    with pytest.raises(ValueError, match="one score, and annotations belong to classes"):
        AnnotationReference("energy").setup(scorer(), None)


def test_whole_numbers_as_labels(tmp_path):
    """Prevents: labels 0 to 4 of a regression, read as classes: an IndexError in the card, an accuracy of label 0."""
    trainer = score_trainer(tmp_path, {"task_weight": 1.0}, eval_dataset=pairs(9, seed=7, numbers=False))
    metrics = trainer.evaluate()
    assert "eval_accuracy" not in metrics and metrics["eval_label_mae"] > 0
    trainer.create_model_card()


def test_labels_in_a_column_of_one(tmp_path):
    """Prevents: a regressor's labels (B, 1), which its loss takes, refused as several classes a sample."""
    found = []
    for shape in (lambda label: label, lambda label: [label]):
        sets = (pairs(16), pairs(9, seed=7))
        train, test = (made.map(lambda row, shape=shape: {"label": shape(5 * row["label"])}) for made in sets)
        trainer = score_trainer(tmp_path, {"task_weight": 1.0, "max_steps": 1}, train_dataset=train, eval_dataset=test)
        trainer.train()
        found.append((logged(trainer, "loss_task"), trainer.evaluate()["eval_label_mae"]))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5) and found[0][1] == pytest.approx(found[1][1], rel=1e-5)


def test_a_reranker_of_pairs_is_a_cross_encoder(tmp_path):
    """Prevents: a distilled reranker that no reranking library loads, or that scores otherwise there (faults A2)."""
    library = pytest.importorskip("sentence_transformers")
    made = Dataset.from_list([{**row, "label": float(row["label"])} for row in rows(16, pair=True)])
    collator = TextCollator(STUDENT, TEACHER, text_columns=["premise", "hypothesis"])
    trainer = score_trainer(
        tmp_path, train_dataset=made, eval_dataset=made, data_collator=collator, processing_class=STUDENT
    )
    trainer.train()
    trainer.save_model(tmp_path / "student")
    asked = list(zip(made["premise"][:5], made["hypothesis"][:5], strict=True))
    scores = library.CrossEncoder(str(tmp_path / "student"), device="cpu").predict(asked, activation_fn=nn.Identity())
    with torch.no_grad():
        inputs = STUDENT(*zip(*asked, strict=True), return_tensors="pt", padding=True, truncation=True)
        expected = trainer.student.eval()(**inputs).logits[:, 0]
    torch.testing.assert_close(torch.as_tensor(scores), expected)
    explained = explain(trainer.student, asked, "integrated_gradients", processing_class=STUDENT)
    torch.testing.assert_close(explained.logits[:, 0], expected)
    assert all(pair[0].startswith(words[0]) for words, pair in zip(explained.words, asked, strict=True))
    assert explained.maps.abs().amax(1).min() > 0
