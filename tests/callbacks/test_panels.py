"""The picture that is logged beside the losses: where it arrives, what it shows, that the training never sees it."""

import io
import random
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tokenizers import decoders
from transformers import DataCollatorWithPadding, PrinterCallback
from transformers.integrations import TrackioCallback, WandbCallback

from hf_e2kd import AnnotationReference, ExplanationDistillTrainer, StoredReference, TeacherReference, TextCollator
from hf_e2kd.callbacks import ExplanationPanels
from hf_e2kd.callbacks.panels import TAG
from hf_e2kd.fidelity import sample_metrics
from tests.models import CLASS_NAMES, CLASSES, build
from tests.tokenizers import TEACHER, text_model, tokenizer
from tests.training import arguments, distiller, samples, weights

EVERY_STEP = {"eval_strategy": "steps", "eval_steps": 1}
TERMS = {"train/loss_explanation", "train/loss_logits", "train/zero_student_maps", "train/zero_teacher_maps"}
MEASURED = {"eval/loss", "eval/agreement", "eval/explanation_similarity", "eval/accuracy"}


@pytest.mark.filterwarnings("ignore:distutils:DeprecationWarning")
def test_tensorboard_has_the_terms_the_measures_and_a_picture_of_each_evaluation(tiny, tmp_path, monkeypatch):
    """Prevents: a term that ends in the console alone, or a panel that stays as it was before the training."""
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    trainer = distiller(tiny("convnext"), build("vit", 1), tmp_path, {**EVERY_STEP, "report_to": ["tensorboard"]})
    trainer.add_callback(ExplanationPanels(trainer, count=3))
    trainer.train()
    written = EventAccumulator(str(tmp_path / "events"), size_guidance={"images": 0, "scalars": 0}).Reload()
    assert set(written.Tags()["scalars"]) >= TERMS | MEASURED
    for name in TERMS | MEASURED:
        assert [event.step for event in written.Scalars(name)] == [1, 2]
    assert written.Tags()["images"] == [TAG]
    events = written.Images(TAG)
    assert [event.step for event in events] == [1, 2]
    first, second = (np.asarray(Image.open(io.BytesIO(event.encoded_image_string))) for event in events)
    assert first.shape == second.shape and first.shape[2] == 3 and first.std() > 20
    assert (first != second).any()


@pytest.mark.parametrize(("kind", "name"), [(WandbCallback, "wandb"), (TrackioCallback, "trackio")])
def test_reporters_of_runs_get_the_terms_and_the_picture(tiny, tmp_path, monkeypatch, kind, name):
    """Prevents: what can't be seen without an account: a picture in a form that the reporter refuses."""
    logged: list[dict] = []

    def image(picture):
        # What both of the real ones were seen to take; matplotlib's figures they don't.
        assert isinstance(picture, Image.Image) and picture.mode == "RGB"
        return ("image", picture.size)

    module = SimpleNamespace(log=logged.append, Image=image, run=SimpleNamespace(summary={}), finish=lambda: None)
    monkeypatch.setitem(sys.modules, name, module)
    reporter = kind.__new__(kind)  # its constructor looks for the installed package
    vars(reporter).update({f"_{name}": module, "_initialized": True, "_space_id": None})
    reporter._log_model = SimpleNamespace(is_enabled=False)
    evaluations = {"eval_dataset": {"one": samples(4, seed=7), "other": samples(5, seed=8)}}
    trainer = distiller(
        tiny("convnext"), build("convnext", 1), tmp_path, EVERY_STEP, callbacks=[reporter], **evaluations
    )
    trainer.add_callback(ExplanationPanels(trainer, count=2))
    trainer.train()
    pictures = [entry for entry in logged if TAG in entry]
    assert [entry["train/global_step"] for entry in pictures] == [1, 2]  # of two evaluations each
    assert all(kind == "image" and min(size) > 100 for kind, size in (entry[TAG] for entry in pictures))
    assert set().union(*logged) >= TERMS | {"eval/one_agreement", "eval/other_explanation_similarity"}


def pixels(figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba()).astype(int)


class Noisy(list):
    """Samples that draw from every generator when they are read, as those of an augmenting data set do."""

    def __getitem__(self, number):
        random.random(), np.random.rand(), torch.rand(1)
        return super().__getitem__(number)


def test_the_training_is_the_one_without_it(tiny, tmp_path, monkeypatch):
    """Prevents: other dropout, another order of the data, or layers left in evaluation mode by looking at a student."""
    ends, drawn, asked = [], [], []
    own = TeacherReference.__call__

    def counted(*given):
        asked.append(1)
        return own(*given)

    for watched in (False, True):
        student = tiny("vit")
        for module in student.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.2
        trainer = distiller(student, build("vit", 1), tmp_path, {**EVERY_STEP, "max_steps": 3})
        if watched:
            random.seed(1), np.random.seed(1), torch.manual_seed(1)
            before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
            panels = ExplanationPanels(trainer, Noisy(samples(4, seed=9)), count=3)
            student.train()
            student.vit.layers[0].eval()
            modes = [module.training for module in student.modules()]
            drawn_in_training = pixels(panels.draw())
            assert [module.training for module in student.modules()] == modes
            after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
            assert before[:2] == after[:2] and torch.equal(before[2], after[2])
            student.eval()
            assert (pixels(panels.draw()) == drawn_in_training).all()  # as evaluations see it
            monkeypatch.setattr(panels, "_reporters", lambda: [PrinterCallback()])
            monkeypatch.setattr(panels, "_log", lambda figure, step: drawn.append(step))
            trainer.add_callback(panels)
            monkeypatch.setattr(TeacherReference, "__call__", counted)
        torch.manual_seed(5)
        trainer.train()
        ends.append(weights(student))
    assert drawn == [1, 2, 3]
    assert torch.equal(*ends)
    # Three steps, three evaluations of 13 samples in batches of 4, and once for all pictures.
    assert len(asked) == 3 + 3 * 4 + 1


@pytest.mark.parametrize("own_words", [True, False])
def test_texts_are_drawn_by_words_or_tokens(tmp_path, own_words):
    """Prevents: scores beside the wrong words, padding drawn, or a call for words that a batch of tokens lacks."""
    made = [{"text": "The film was wonderful, it isn't boring!", "label": 1}, {"text": "the worst film", "label": 0}]
    own = tokenizer("wordpiece", model_max_length=24)
    own.backend_tokenizer.decoder = decoders.WordPiece()
    collator, evaluation = TextCollator(own, TEACHER), Dataset.from_list(made)
    if not own_words:
        collator = DataCollatorWithPadding(own)
        evaluation = evaluation.map(lambda row: own(row["text"])).rename_column("label", "labels")
    trainer = ExplanationDistillTrainer(
        text_model("bert"),
        arguments(tmp_path, explainer="input_x_gradient"),
        data_collator=collator,
        train_dataset=evaluation,
        eval_dataset=evaluation,
        processing_class=own,
        teacher_model=text_model("roberta", 1, TEACHER) if own_words else text_model("bert", 1),
    )
    figure = ExplanationPanels(trainer, count=2).draw()
    shown = " ".join(text.get_text() for text in figure.texts)
    first = "The film was wonderful , it isn 't boring !" if own_words else " ".join(own.tokenize(made[0]["text"]))
    for model in ("Teacher", "Student"):
        assert shown.count(model) == 2
    for text in (first, "the worst film" if own_words else " ".join(own.tokenize("the worst film"))):
        assert shown.count(text) == 2
    assert shown.count("similarity:") == 2 and "[PAD]" not in shown and "[CLS]" not in shown


def test_pairs_are_drawn_as_far_as_they_are_read(tmp_path):
    """Prevents: a second text's scores at the same words of the first one's end, which was cut off."""
    rows = [{"premise": "the film was a film a film", "hypothesis": "a film", "label": 1}] * 2
    own, data = tokenizer("wordpiece"), Dataset.from_list(rows)
    collator = TextCollator(own, text_columns=("premise", "hypothesis"), max_length=8)
    keywords = {"train_dataset": data, "eval_dataset": data, "processing_class": own}
    settings = arguments(tmp_path, explainer="input_x_gradient")
    trainer = ExplanationDistillTrainer(
        text_model("bert"), settings, data_collator=collator, teacher_model=text_model("bert", 1), **keywords
    )
    assert ExplanationPanels(trainer, count=2).texts[0] == ("the film was …", "a film")


def test_boxes_stand_beside_a_teacher_and_the_first_of_several_labels_is_drawn(tiny, tmp_path):
    """Prevents: a panel for one teacher and one label alone; another class's map under a class's name."""
    made = samples(3, labels=False, boxes=True)
    for number, sample in enumerate(made):
        sample["labels"] = torch.zeros(CLASSES)
        sample["labels"][[number, number + 2]] = 1
        sample["box_labels"] = torch.tensor([number, -1])
    student, teacher = tiny("convnext"), build("convnext", 1)
    student.config.problem_type = teacher.config.problem_type = "multi_label_classification"
    references = {"teacher": TeacherReference(teacher, target="label"), "boxes": AnnotationReference("energy")}
    trainer = distiller(
        student, None, tmp_path, {"task_weight": 1.0}, references=references, train_dataset=made, eval_dataset=made
    )
    figure = ExplanationPanels(trainer).draw()
    titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert titles == ["Image", "Teacher", "Student (teacher)", "Boxes", "Student (boxes)"]
    captions = [axis.get_xlabel().replace("\n", " ") for axis in figure.axes[::5]][:3]
    for number, caption in enumerate(captions):
        truth = f"{CLASS_NAMES[number]}, {CLASS_NAMES[number + 2]}"
        assert caption == f"true: {truth} explained: {CLASS_NAMES[number]}"


def test_samples_at_quantiles_of_similarity(tiny, tmp_path):
    """Prevents: the first samples in a picture that says it shows low and high ones; another sample's figures."""
    data = samples(7, seed=3)
    trainer = distiller(tiny("convnext"), build("convnext", 1), tmp_path, eval_dataset=data)
    record = [trainer.explain_batch(trainer.collate([sample], data)) for sample in data]
    similarities = [
        sample_metrics(*each, trainer.references, trainer.collate([sample], data))["explanation_similarity"].item()
        for each, sample in zip(record, data, strict=True)
    ]
    panels = ExplanationPanels(trainer, count=3, choose_from=64)
    figure = panels.draw()
    order = sorted(range(7), key=similarities.__getitem__)
    shown = [order[1], order[3], order[5]]
    assert [axis.get_xlabel().split("\n")[0] for axis in figure.axes[:12:4]] == [f"sample {row}" for row in shown]
    captions = [axis.get_xlabel().split("\n")[-1] for axis in figure.axes[2:12:4]]
    assert captions == [f"similarity: {similarities[row]:.2f}" for row in shown]
    assert "Of 7 samples those at the 1/6, 3/6 and 5/6 quantile of similarity" in figure.texts[0].get_text().replace(
        "\n", " "
    )
    assert [axis.get_title() for axis in figure.axes[:4]] == ["Image", "Teacher", "Student", "Difference"]


def test_stored_explanations_are_drawn_as_the_live_teachers(tiny, tmp_path):
    """Prevents: a store's columns dropped on the way, or its maps drawn of other samples."""
    data, teacher = samples(3), build("convnext", 1)
    reference = StoredReference.build(teacher, data, tmp_path / "store", dtype="float32", progress=False)
    live = distiller(tiny("convnext"), teacher, tmp_path, eval_dataset=data)
    given = {"references": {"teacher": reference}, "train_dataset": reference.attach(data)}
    stored = distiller(tiny("convnext"), None, tmp_path, eval_dataset=reference.attach(data), **given)
    first, second = (pixels(ExplanationPanels(trainer).draw()) for trainer in (live, stored))
    assert abs(first - second).mean() < 0.1


def test_what_can_not_be_drawn_is_refused(tiny, tmp_path):
    """Prevents: an error in the middle of a training, at its first evaluation."""
    plain = {"explanation_weight": 0.0, "evaluate_explanations": False}
    with pytest.raises(ValueError, match="no explanation to draw: give the trainer"):
        ExplanationPanels(distiller(tiny("vit"), build("vit", 1), tmp_path, plain))
    trainer = distiller(tiny("vit"), build("vit", 1), tmp_path, eval_dataset=None)
    with pytest.raises(ValueError, match="no sample to draw. Give `samples`"):
        ExplanationPanels(trainer)
    with pytest.raises(ValueError, match="count must be at least 1, not 0"):
        ExplanationPanels(trainer, samples(2), count=0)


def test_samples_that_no_reference_explains(tmp_path):
    """Prevents: an IndexError at the picture of unlabelled samples, where labels are explained."""
    trainer = distiller(build("vit"), build("vit", seed=1), tmp_path, {"explanation_target": "label"})
    with pytest.raises(ValueError, match=r"no reference explains these samples, which have \['pixel_values'\]"):
        ExplanationPanels(trainer, samples(4, labels=False)).draw()
