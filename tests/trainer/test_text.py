"""Distilling text classifiers: one tokenizer or two, a share of each batch, and texts with nothing in them."""

import copy

import pytest
import torch
from datasets import Dataset
from transformers import DataCollatorWithPadding

from hf_e2kd import ExplanationDistillTrainer, TeacherReference, TextCollator, explain
from hf_e2kd.alignment.words import lay_out_tokens, pool_words
from hf_e2kd.explainers import IntegratedGradients, Saliency
from hf_e2kd.metrics import explanation_similarity
from hf_e2kd.terms import explanation_loss, logits_loss
from hf_e2kd.trainer.noise import StepGenerator, draw_samples
from tests.text_models import build_text
from tests.tokenizers import STUDENT, TEACHER, data, rows, text_model, tokenizer, without_dropout
from tests.training import Gradients, arguments, flat, logged, relative_error

INPUTS = ("input_ids", "attention_mask")


def trainer_of(folder, student=None, teacher=None, settings=None, **keywords):
    """BERT from RoBERTa, each with its own tokenizer, unless the keywords say otherwise."""
    student = without_dropout(text_model("bert") if student is None else student)
    keywords = {
        "data_collator": TextCollator(STUDENT, TEACHER),
        "train_dataset": data(16),
        "eval_dataset": data(9, seed=7),
        "explainer": "saliency",
        **keywords,
    }
    if teacher is None and "references" not in keywords:
        teacher = text_model("roberta", 1, TEACHER)
    return ExplanationDistillTrainer(student, arguments(folder, **(settings or {})), teacher_model=teacher, **keywords)


# --- Tokenizers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "explainer", ["saliency", "input_x_gradient", "integrated_gradients", IntegratedGradients(baselines="pad")]
)
def test_two_tokenizers(tmp_path, explainer):
    """Prevents: maps of two numbers of cells, or the collator's columns dropped on the way to it."""
    teacher = text_model("roberta", 1, TEACHER)
    trainer = trainer_of(tmp_path, teacher=teacher, settings={"task_weight": 0.5}, explainer=explainer)
    batch = next(iter(trainer.get_train_dataloader()))
    assert {"word_ids", "teacher_word_ids", "teacher_input_ids", "labels"} <= batch.keys()
    assert "comment" not in batch
    before = flat(trainer.student.parameters())
    trainer.train()
    assert not torch.equal(flat(trainer.student.parameters()), before)
    terms = [logged(trainer, f"loss_{name}") for name in ("task", "logits", "explanation")]
    weights = [getattr(trainer.args, f"{name}_weight") for name in ("task", "logits", "explanation")]
    expected = (torch.tensor(weights) @ torch.tensor(terms)).tolist()
    assert all(min(values) > 0 for values in terms) and logged(trainer, "loss") == pytest.approx(expected, rel=1e-5)
    metrics = trainer.evaluate()
    assert {"eval_loss", "eval_agreement", "eval_accuracy", "eval_explanation_similarity"} <= metrics.keys()
    batch = trainer.data_collator(trainer.eval_dataset)
    taught = trainer.explainer(teacher, {name: batch[f"teacher_{name}"] for name in INPUTS})
    own = trainer.explainer(trainer.student.eval(), {name: batch[name] for name in INPUTS}, taught.target)
    (of_student, _), (of_teacher, _) = (
        pool_words(own.maps, batch["word_ids"]),
        pool_words(taught.maps, batch["teacher_word_ids"]),
    )
    similarity = torch.cosine_similarity(of_student, of_teacher).mean().item()
    assert metrics["eval_explanation_similarity"] == pytest.approx(similarity, abs=1e-5)


@pytest.mark.parametrize("two", [False, True], ids=["one tokenizer", "two"])
def test_a_references_own_explainer_knows_the_tokenizer(two, tmp_path):
    """Prevents: a teacher explained against the padding where its student is against the mask token, as its own
    explainer was made before the trainer, which knows the tokenizer."""
    own = copy.deepcopy(STUDENT)
    own.mask_token = own.unk_token
    theirs = copy.deepcopy(TEACHER) if two else own
    theirs.mask_token = theirs.unk_token
    teacher = text_model("roberta" if two else "bert", 1, theirs)
    reference = TeacherReference(teacher, explainer=IntegratedGradients(n_steps=2, baselines="mask"))
    collator = TextCollator(own, theirs)
    trainer = trainer_of(tmp_path, references={"teacher": reference}, data_collator=collator)
    batch = next(iter(trainer.get_eval_dataloader()))
    output, prefix = reference(batch), "teacher_" if two else ""
    taught = {name: batch[f"{prefix}{name}"] for name in (*INPUTS, "word_ids")}
    expected = IntegratedGradients(n_steps=2, baselines=theirs.mask_token_id)(teacher, taught, output.target)
    torch.testing.assert_close(output.maps, expected.maps)


def test_mask_tokens_of_two_tokenizers(tmp_path):
    """Prevents: a mask asked of configurations that don't state it, or the student's in the teacher's vocabulary."""
    own, theirs = copy.deepcopy(STUDENT), copy.deepcopy(TEACHER)
    own.mask_token, theirs.mask_token = own.unk_token, theirs.sep_token
    assert own.mask_token_id != theirs.mask_token_id
    explainer = IntegratedGradients(n_steps=2, baselines="mask")
    trainer = trainer_of(tmp_path, explainer=explainer, data_collator=TextCollator(own, theirs))
    batch = next(iter(trainer.get_eval_dataloader()))
    taught = {key.removeprefix("teacher_"): value for key, value in batch.items() if key.startswith("teacher_")}
    output, teacher = trainer.references["teacher"](batch), trainer.references["teacher"].model
    expected = IntegratedGradients(n_steps=2, baselines=theirs.mask_token_id)(teacher, taught, output.target)
    torch.testing.assert_close(output.maps, expected.maps)
    student, text = trainer.student.eval(), ["a wonderful film"]
    expected = explain(
        student, text, "integrated_gradients", n_steps=2, baselines=own.mask_token_id, processing_class=own
    )
    torch.testing.assert_close(explain(student, text, explainer, processing_class=own).maps, expected.maps)
    batch = own(text, return_tensors="pt")
    torch.testing.assert_close(
        trainer.explainer(student, batch, expected.target).maps[:, 1:-1].sum(), expected.maps.sum()
    )


def test_evaluation_equals_the_parts(tmp_path):
    """Prevents: similarities of padded cells, of other classes, or averaged over batches of unequal sizes."""
    trainer = trainer_of(tmp_path, explainer="input_x_gradient")
    metrics = trainer.evaluate()
    student, teacher = trainer.student.eval(), trainer.references["teacher"].model
    similarities, agreements = [], []
    for sample in rows(9, seed=7):
        batch = TextCollator(STUDENT, TEACHER)([sample])
        theirs = {key.removeprefix("teacher_"): value for key, value in batch.items() if key.startswith("teacher_")}
        mine = {key: batch[key] for key in ("input_ids", "attention_mask", "token_type_ids", "word_ids")}
        taught = trainer.explainer(teacher, theirs)
        own = trainer.explainer(student, mine, taught.target)
        similarities.append(explanation_similarity(own.maps[:, None], taught.maps[:, None])[0])
        agreements.append((own.logits.argmax(1) == taught.target).float())
    assert metrics["eval_explanation_similarity"] == pytest.approx(torch.cat(similarities).mean().item(), abs=1e-5)
    assert metrics["eval_agreement"] == pytest.approx(torch.cat(agreements).mean().item())


def tokenized(own, count=8, seed=0):
    """Made into tokens beforehand."""
    return data(count, seed).map(lambda row: own(row["text"], truncation=True)).rename_column("label", "labels")


@pytest.mark.parametrize("student", ["bert", "distilbert"])
def test_one_tokenizer_and_tokens_made_beforehand(tmp_path, student):
    """Prevents: special tokens that rule the map, token types refused by DistilBERT, or a call for words."""
    trainer = trainer_of(
        tmp_path,
        text_model(student),
        text_model("bert", 1),
        processing_class=STUDENT,
        data_collator=DataCollatorWithPadding(STUDENT),
        train_dataset=tokenized(STUDENT),
        eval_dataset=tokenized(STUDENT, 5, 3),
    )
    explained = []
    forward = trainer.explainer.forward

    def watched(model, inputs, target):
        explained.append((inputs, forward(model, inputs, target)))
        return explained[-1][1]

    trainer.explainer.forward = watched
    trainer.train()
    assert logged(trainer, "loss_explanation")
    assert trainer.evaluate()["eval_explanation_similarity"] > -1
    assert len(explained) >= 6  # both sides of both steps, and the evaluation
    for inputs, explanation in explained:
        special = torch.isin(inputs["input_ids"], torch.tensor(STUDENT.all_special_ids[1:]))
        assert explanation.layout == "tokens"
        maps, mask, _ = lay_out_tokens(explanation.maps, inputs)
        assert torch.equal(mask, ~special)
        assert not maps[special].any()


def test_token_types_of_a_collated_pair_reach_the_model_that_knows_them(tmp_path):
    """Prevents: a DistilBERT student refused for a column, or a BERT teacher that sees a pair as one text."""
    collator = TextCollator(STUDENT, text_columns=("premise", "hypothesis"))
    teacher = text_model("bert", 1)
    trainer = trainer_of(
        tmp_path,
        text_model("distilbert"),
        teacher,
        data_collator=collator,
        train_dataset=data(8, pair=True),
        eval_dataset=data(5, 3, pair=True),
    )
    batch = collator(rows(5, 3, pair=True))
    assert batch["token_type_ids"].any()
    with torch.no_grad():
        expected = teacher(**{key: batch[key] for key in ("input_ids", "attention_mask", "token_type_ids")}).logits
    reference_output = trainer.references["teacher"](batch)
    torch.testing.assert_close(reference_output.logits, expected)
    trainer.train()
    assert trainer.evaluate()["eval_explanation_similarity"] > -1


def test_pairs_of_two_tokenizers(tmp_path):
    """Prevents: a hypothesis' words compared with the premise's."""
    trainer = trainer_of(
        tmp_path,
        data_collator=TextCollator(STUDENT, TEACHER, text_columns=("premise", "hypothesis")),
        train_dataset=data(8, pair=True),
        eval_dataset=data(5, 3, pair=True),
    )
    trainer.train()
    assert trainer.evaluate()["eval_explanation_similarity"] > -1


@pytest.mark.parametrize("known", [False, True])
def test_another_vocabulary_without_the_collator_is_refused(tmp_path, known):
    """Prevents: the student's ids looked up in the teacher's table, wrong or out of its range."""
    smaller = tokenizer("words")
    trainer = trainer_of(
        tmp_path,
        teacher=text_model("roberta", 1, TEACHER if known else smaller),
        data_collator=DataCollatorWithPadding(STUDENT),
        train_dataset=tokenized(STUDENT),
        **({"processing_class": STUDENT, "teacher_processing_class": TEACHER} if known else {}),
    )
    with pytest.raises(ValueError, match="has another vocabulary.*TextCollator"):
        trainer.train()


def test_the_same_vocabulary_in_tables_of_two_sizes(tmp_path):
    """Prevents: a teacher whose table was padded to a multiple of 64 refused, though its tokenizer is the student's."""
    teacher = build_text("bert", 1, vocab_size=64 * (len(STUDENT) // 64 + 1), pad_token_id=STUDENT.pad_token_id)
    trainer = trainer_of(
        tmp_path,
        teacher=teacher,
        data_collator=DataCollatorWithPadding(STUDENT),
        train_dataset=tokenized(STUDENT),
        processing_class=STUDENT,
        teacher_processing_class=tokenizer("wordpiece"),
    )
    trainer.train()
    assert logged(trainer, "loss_explanation")


def test_teacher_tokens_without_words_are_refused(tmp_path):
    """Prevents: the first tokens of one tokenizer compared with the first ones of another."""
    trainer = trainer_of(tmp_path)
    batch = TextCollator(STUDENT, TEACHER)(rows(4))
    del batch["teacher_word_ids"]
    with pytest.raises(ValueError, match="doesn't say which words they belong to"):
        trainer.references["teacher"](batch)


# --- One step by hand ------------------------------------------------------------------------------------------------


class TwoPoints(IntegratedGradients):
    """Integrated Gradients that draw nothing in training."""

    num_draws = 0

    def __init__(self):
        super().__init__(n_steps=2)


@pytest.mark.parametrize("explainer", [Saliency, TwoPoints])
def test_a_steps_terms_equal_their_parts(tmp_path, explainer):
    """Prevents: a term of other samples, of another target, of unnormalised maps, or wrongly weighted."""
    settings = {"task_weight": 0.3, "logits_weight": 0.7, "explanation_weight": 2.0, "temperature": 3.0}
    trainer = trainer_of(
        tmp_path,
        settings={**settings, "max_steps": 1, "per_device_train_batch_size": 6},
        train_dataset=data(6),
        explainer=explainer(),
    )
    student, teacher = without_dropout(text_model("bert")), trainer.references["teacher"].model
    gradients = Gradients()
    trainer.add_callback(gradients)
    trainer.train()

    batch = TextCollator(STUDENT, TEACHER)(rows(6))
    theirs = {key.removeprefix("teacher_"): value for key, value in batch.items() if key.startswith("teacher_")}
    mine = {key: batch[key] for key in ("input_ids", "attention_mask", "token_type_ids", "word_ids")}
    taught = explainer()(teacher, theirs)
    own = explainer()(student, mine, taught.target, create_graph=True)
    terms = {
        "loss_task": torch.nn.functional.cross_entropy(own.logits, batch["labels"]),
        "loss_logits": logits_loss(own.logits, taught.logits, temperature=3.0).mean(),
        "loss_explanation": explanation_loss(own.maps, taught.maps, "cosine", own.mask)[0].mean(),
    }
    for name, value in terms.items():
        assert logged(trainer, name) == pytest.approx([value.item()], rel=1e-4)
    loss = 0.3 * terms["loss_task"] + 0.7 * terms["loss_logits"] + 2.0 * terms["loss_explanation"]
    assert logged(trainer, "loss") == pytest.approx([loss.item()], rel=1e-4)
    loss.backward()
    expected = flat(p.grad for p in student.parameters() if p.grad is not None)
    assert relative_error(gradients.steps[0], expected) < 1e-4


def test_teacher_and_student_of_a_step_draw_the_same_points(tmp_path):
    """Prevents: a student that is its teacher, and has an explanation loss because it was looked at elsewhere."""
    teacher = text_model("bert")
    settings = {"max_steps": 2, "learning_rate": 0.0, "explanation_fraction": 0.5}
    trainer = trainer_of(
        tmp_path,
        text_model("bert"),
        teacher,
        settings,
        data_collator=TextCollator(STUDENT),
        references={"second": TeacherReference(text_model("bert"), explainer=IntegratedGradients())},
        explainer=IntegratedGradients(),
    )
    seen = []
    forward = trainer.explainer.forward

    def watched(model, inputs, target):
        seen.append(trainer.explainer.noise)
        return forward(model, inputs, target)

    trainer.explainer.forward = watched
    trainer.train()
    for name in ("loss_explanation_teacher", "loss_explanation_second"):
        assert logged(trainer, name) == pytest.approx([0, 0], abs=1e-5)
    assert len(seen) == 4
    # Teacher, student; and anew at each step.
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[2], seen[3]) and not torch.equal(seen[1], seen[2])
    trainer.evaluate()
    assert set(seen[4:]) == {None}


@pytest.mark.parametrize("explainer", ["input_x_gradient", "integrated_gradients"])
def test_compiled_training_equals_eager(tmp_path, explainer):
    """Prevents: words whose number depends on the batch, in a graph that is fixed; points that no step draws anew."""
    found = []
    settings = {"explanation_fraction": 0.5, "task_weight": 0.5, "explainer": explainer}
    for compiled in ({}, {"torch_compile": True, "torch_compile_backend": "aot_eager"}):
        torch.compiler.reset()
        student = text_model("bert", num_hidden_layers=1)  # each layer is traced, and layers are alike
        trainer = trainer_of(tmp_path, student, settings={**settings, **compiled}, explainer=None)
        trainer.train()
        found.append((logged(trainer, "loss"), flat(trainer.student.parameters()), trainer.evaluate()))
    (losses, eager, metrics), (compiled_losses, compiled, compiled_metrics) = found
    assert compiled_losses == pytest.approx(losses, rel=1e-4)
    assert relative_error(compiled, eager) < 1e-5
    name = "eval_explanation_similarity"
    assert compiled_metrics[name] == pytest.approx(metrics[name], abs=1e-4)


# --- A share of each batch -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "count"), [(0.25, 2), (0.5, 4), (0.01, 1), (0.99, 8), (1.0, 8)])
def test_share_of_a_batch(tmp_path, share, count):
    """Prevents: a mean over samples that were not explained, and other samples for the teacher than the student."""
    settings = {"explanation_fraction": share, "max_steps": 1, "per_device_train_batch_size": 8, "logits_weight": 0.0}
    trainer = trainer_of(tmp_path, settings=settings, train_dataset=data(8))
    student, teacher = without_dropout(text_model("bert")), trainer.references["teacher"].model
    targets, inputs = [], []
    forward = trainer.explainer.forward

    def watched(model, batch, target):
        explanation = forward(model, batch, target)
        targets.append(explanation.target)
        return explanation

    trainer.explainer.forward = watched
    compute = trainer.compute_loss
    trainer.compute_loss = lambda model, batch, **keywords: inputs.append(batch) or compute(model, batch, **keywords)
    gradients = Gradients()
    trainer.add_callback(gradients)
    trainer.train()

    assert [int((target >= 0).sum()) for target in targets] == [count, count]
    assert torch.equal(*targets)
    # Sample by sample, over the explained ones alone.
    losses = []
    for row in (targets[0] >= 0).nonzero().flatten():
        one = {key: value[row : row + 1] for key, value in inputs[0].items()}
        theirs = {key.removeprefix("teacher_"): value for key, value in one.items() if key.startswith("teacher_")}
        mine = {key: one[key] for key in ("input_ids", "attention_mask", "token_type_ids", "word_ids")}
        taught = Saliency()(teacher, theirs)
        own = Saliency()(student, mine, taught.target, create_graph=True)
        losses.append(explanation_loss(own.maps, taught.maps, "cosine", own.mask)[0].mean())
    loss = torch.stack(losses).mean()
    assert logged(trainer, "loss_explanation") == pytest.approx([loss.item()], rel=1e-4)
    loss.backward()
    expected = flat(p.grad for p in student.parameters() if p.grad is not None)
    assert relative_error(gradients.steps[0], expected) < 1e-4


def test_samples_of_a_share_are_drawn_anew():
    """Prevents: the first samples of each batch explained, and the last never."""
    batch = TextCollator(STUDENT, TEACHER)(rows(6))
    generator = StepGenerator()
    drawn = torch.stack([draw_samples(0.5, batch, generator.at(0, step, 0)) for step in range(60)])
    assert (drawn.sum(1) == 3).all()
    assert drawn.any(0).all() and not drawn.all(0).any()


def test_a_share_is_not_drawn_in_evaluations(tmp_path):
    """Prevents: metrics of half of the samples, that differ from call to call."""
    first, second = (
        trainer_of(tmp_path, settings={"explanation_fraction": share}).evaluate()["eval_explanation_similarity"]
        for share in (0.25, 1.0)
    )
    assert first == second


# --- Texts with nothing in them --------------------------------------------------------------------------------------


@pytest.mark.parametrize("explainer", ["saliency", "input_x_gradient", "integrated_gradients"])
@pytest.mark.parametrize("texts", [["", "film", "\n", "\x00"], ["", "", "", ""], ["film"] * 4])
def test_empty_and_one_word_texts_give_no_nan(tmp_path, explainer, texts):
    """Prevents: NaN weights after the first text without a word."""
    dataset = Dataset.from_list([{"text": text, "label": 1} for text in texts])
    trainer = trainer_of(
        tmp_path, settings={"max_steps": 1}, train_dataset=dataset, eval_dataset=dataset, explainer=explainer
    )
    trainer.train()
    assert flat(trainer.student.parameters()).isfinite().all()
    wordless = sum(text != "film" for text in texts)
    assert logged(trainer, "zero_teacher_maps") == [wordless / 4]
    metrics = trainer.evaluate()
    assert metrics["eval_zero_teacher_maps"] == wordless / 4
    if wordless < 4:
        # Of one word each, maps are alike or opposite.
        similarity = metrics["eval_explanation_similarity"]
        assert (similarity if explainer == "saliency" else abs(similarity)) == pytest.approx(1)


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("explainer", ["saliency", "input_x_gradient", "integrated_gradients"])
def test_rows_of_padding_give_no_nan(tmp_path, explainer, kernel):
    """Prevents: a softmax over nothing whose NaN spreads from one row's map to every weight."""
    student, teacher = text_model("bert"), text_model("bert", 1)
    for model in (student, teacher):
        model.set_attn_implementation(kernel)
    trainer = trainer_of(
        tmp_path, student, teacher, data_collator=DataCollatorWithPadding(STUDENT), explainer=explainer,
        train_dataset=tokenized(STUDENT), processing_class=STUDENT,
    )  # fmt: skip
    batch = {key: value for key, value in TextCollator(STUDENT)(rows(4)).items() if key != "word_ids"}
    batch["attention_mask"][1] = 0
    loss = trainer.compute_loss(trainer.student.train(), batch)
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in trainer.student.parameters())


# --- Gradient accumulation -------------------------------------------------------------------------------------------


def test_accumulated_batches_equal_the_large_one(tmp_path):
    """Prevents: a loss that depends on how a step's samples are divided."""
    steps = []
    for size, accumulated in ((8, 1), (2, 4)):
        settings = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulated, "max_steps": 2}
        trainer = trainer_of(tmp_path, settings=settings)
        gradients = Gradients()
        trainer.add_callback(gradients)
        trainer.train()
        steps.append((gradients.steps, logged(trainer, "loss_explanation"), logged(trainer, "loss")))
    (large, *large_losses), (small, *small_losses) = steps
    assert len(large) == len(small) == 2
    for one, other in zip(large, small, strict=True):
        assert relative_error(other, one) < 1e-4
    for one, other in zip(large_losses, small_losses, strict=True):
        assert other == pytest.approx(one, rel=1e-4)


def test_a_teacher_is_given_token_types_that_the_student_does_not_know(tmp_path):
    """Prevents: pairs that a BERT reads as one text, in silence, as DistilBERT's forward names no token types."""
    first, second = ["a warm film", "dull"] * 2, ["it moved me", "a slow story"] * 2
    tokens = STUDENT(first, second, padding=True, return_special_tokens_mask=True)
    pairs, given = Dataset.from_dict({**tokens, "labels": [0, 1, 2, 3]}), []
    student, teacher = text_model("distilbert"), text_model("bert", 1)
    teacher.register_forward_pre_hook(lambda _, args, kwargs: given.append(kwargs), with_kwargs=True)
    settings = {"max_steps": 1, "train_sampling_strategy": "sequential"}
    keywords = {"train_dataset": pairs, "eval_dataset": pairs, "processing_class": STUDENT, "data_collator": None}
    trainer_of(tmp_path, student, teacher, settings, **keywords).train()
    expected = torch.tensor(tokens["token_type_ids"])
    assert expected.any() and given
    assert all(torch.equal(each["token_type_ids"][:4], expected) for each in given)
