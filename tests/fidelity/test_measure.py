"""What a record says is what was measured, once a sample, and can be told from chance."""

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Sequence, Value
from scipy.stats import binomtest
from torch import nn
from transformers import LlamaConfig, LlamaForSequenceClassification, ViTImageProcessor, default_data_collator

from hf_e2kd import AnnotationReference, ExplanationDistillTrainer, TextCollator
from hf_e2kd.architectures.functions import as_module
from hf_e2kd.data import DistillationTransform
from hf_e2kd.data.collate import FiniteBatches
from hf_e2kd.explainers import GradCAM
from hf_e2kd.fidelity import Faithfulness, FidelityRecord, measure_fidelity
from hf_e2kd.fidelity import cost as cost_module
from hf_e2kd.fidelity.cost import cost_of, costs_of
from hf_e2kd.fidelity.describe import data_digest, describe_columns, describe_data, describe_model
from hf_e2kd.fidelity.intervals import mean_with_interval, metric_values
from hf_e2kd.metrics import energy_pointing_game
from hf_e2kd.metrics.running import SampleValues
from hf_e2kd.store.text import StoredTextCollator
from tests.models import CLASSES, build, images, randomise
from tests.references.test_teacher import reordered
from tests.text_models import END, VOCABULARY, build_text, token_rows
from tests.tokenizers import tokenizer
from tests.training import arguments, distiller, samples


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A trainer, its record with another student beside, and the state that must not change."""
    trainer = distiller(
        build("vit"),
        build("resnet", seed=1),
        tmp_path_factory.mktemp("out"),
        eval_dataset=samples(25, mask=True, seed=7),
    )
    trainer.student.train()
    other = build("vit", seed=3)
    state = torch.get_rng_state()
    record = measure_fidelity(trainer, compared={"other": other}, seed=5)
    return trainer, record, other, torch.equal(state, torch.get_rng_state())


def test_figures_are_those_of_an_evaluation(measured, tmp_path):
    """Prevents: a card whose figures are not what `evaluate()` says; samples lost or counted twice."""
    trainer, record, other, _ = measured
    metrics = trainer.evaluate()
    own = {name.removeprefix("eval_"): value for name, value in metrics.items()}
    for name, figure in record.figures.items():
        if name in own:
            assert figure.value == pytest.approx(own[name], abs=1e-6), name
            assert figure.low <= figure.value <= figure.high and figure.samples <= 25
    assert {"agreement", "explanation_similarity", "accuracy", "teacher_energy_pointing_game"} <= set(record.figures)
    assert sorted(record.data.samples) == list(range(25)) and record.data.samples != list(range(25))
    beside = distiller(other, build("resnet", seed=1), tmp_path, eval_dataset=samples(25, mask=True, seed=7)).evaluate()
    for name in ("agreement", "explanation_similarity", "accuracy", "energy_pointing_game"):
        assert record.compared["other"][name].value == pytest.approx(beside[f"eval_{name}"], abs=1e-6)


@pytest.mark.parametrize("wrapped", [False, True])
def test_columns_are_those_that_are_read(wrapped):
    """Prevents: a record from which nobody can tell by which columns, and of how much of each text, it was measured."""
    photos = Dataset.from_dict({"picture": [b""], "breed": [0]})
    read = DistillationTransform(ViTImageProcessor(), image_column="picture", label_column="breed")
    assert describe_columns(photos.with_transform(read), None) == {"image": "picture", "label": "breed"}
    for given, length in ((12, 12), (None, None), (99, None)):
        collator = TextCollator(tokenizer("wordpiece", model_max_length=24), text_columns=["a", "b"], max_length=given)
        found = describe_columns([], FiniteBatches(collator) if wrapped else collator)
        assert found == {"texts": ["a", "b"], "label": "label", "max_length": length}
        assert describe_columns([], FiniteBatches(StoredTextCollator(collator))) == found
    assert describe_columns(samples(1), FiniteBatches(default_data_collator)) == {}


def test_flips_are_counted_among_what_the_teacher_knows(measured):
    """Prevents: a mistake that both make, or one of the teacher alone, counted as the student's regression."""
    trainer, record, _, _ = measured
    figures = record.figures
    batch = trainer.data_collator([trainer.eval_dataset[row] for row in range(25)])
    teacher = trainer.references["teacher"].model
    with torch.no_grad():
        own, taught = (m.eval()(batch["pixel_values"]).logits.argmax(1) for m in (trainer.student, teacher))
    right = taught == batch["labels"]
    assert figures["negative_flips"].value == pytest.approx((right & (own != batch["labels"])).float().mean().item())
    errs = figures["agreement_where_teacher_errs"]
    assert errs.samples == (~right).sum() and errs.value == pytest.approx((own == taught)[~right].float().mean().item())


def test_measuring_changes_nothing(measured):
    """Prevents: a training that goes on otherwise because it was measured."""
    trainer, _, _, same_numbers = measured
    assert same_numbers
    assert all(not hook for module in trainer.student.modules() for hook in (module._forward_hooks,))
    assert trainer._batch_measures is None


def test_rows_of_an_array(measured, tmp_path):
    """Prevents: a finished measurement that can't be saved, as its record holds numpy's numbers; a negative number."""
    trainer = measured[0]
    found = measure_fidelity(trainer, rows=np.flatnonzero(np.arange(25) > 20), costs=False, chance=False)
    found.save(tmp_path)
    assert FidelityRecord.load(tmp_path).data.samples == [21, 22, 23, 24]
    with pytest.raises(ValueError, match="samples is -2. Give the number of samples to measure on"):
        measure_fidelity(trainer, samples=-2)


def test_compared_students_with_other_classes(measured):
    """Prevents: another student measured by the numbers of its classes, which it has in another order."""
    with pytest.raises(ValueError, match="'other' has the classes .*keep_classes"):
        measure_fidelity(measured[0], compared={"other": reordered(build("vit"))})
    few = build("vit")
    few.config.id2label = {0: "one", 1: "other"}
    with pytest.raises(ValueError, match="'few' has 2 classes, and the measured one 5"):
        measure_fidelity(measured[0], compared={"few": few})


def test_compared_students_of_another_architecture(tmp_path):
    """Prevents: "has no layer" for a student that is shown beside one which is explained at a layer of its own."""
    settings = {"explainer": "gradcam", "explainer_options": {"target_layer": "resnet.encoder.stages.0"}}
    trainer = distiller(build("resnet"), build("resnet", seed=1), tmp_path, settings)
    record = measure_fidelity(trainer, compared={"other": build("vit", seed=3)}, costs=False, chance=False)
    teacher = trainer.references["teacher"]
    trainer = distiller(build("vit", seed=3), teacher.model, tmp_path, teacher_explainer=teacher.explainer)
    expected = measure_fidelity(trainer, costs=False, chance=False).figures["explanation_similarity"]
    assert record.compared["other"]["explanation_similarity"] == expected


def test_nothing_to_measure_is_said(tmp_path):
    """Prevents: torch's "stack expects a non-empty TensorList" for data without labels beside annotations alone."""
    trainer = distiller(build("vit"), None, tmp_path, references={"boxes": AnnotationReference()})
    with pytest.raises(ValueError, match="nothing to measure: neither labels"):
        measure_fidelity(trainer, samples(4, labels=False), costs=False)


def test_record_survives_its_file(measured, tmp_path):
    """Prevents: a figure or an option that is lost or changes its type between writing and reading."""
    record = measured[1]
    record.save(tmp_path)
    assert FidelityRecord.load(tmp_path) == record
    (tmp_path / "fidelity.json").write_text('{"format": "hf_e2kd.fidelity/1", "modality": "image"}')
    with pytest.raises(ValueError, match="lacks data, explainer, figures, problem, student"):
        FidelityRecord.load(tmp_path)
    (tmp_path / "fidelity.json").write_text('{"agreement": 0.9}')
    with pytest.raises(ValueError, match="no fidelity record of the format"):
        FidelityRecord.load(tmp_path)


def test_chance_is_below_a_student_that_is_its_teacher(tmp_path):
    """Prevents: a chance level that compares a map with itself, or an untrained student with trained weights."""
    teacher = build("resnet", seed=1)
    student = build("resnet", seed=1)
    record = measure_fidelity(distiller(student, teacher, tmp_path, eval_dataset=samples(12)), costs=False)
    assert record.figures["explanation_similarity"].value == pytest.approx(1, abs=1e-5)
    assert record.figures["agreement"].value == 1
    for kind in ("shuffled", "untrained"):
        assert record.chance[kind].value < 0.95, kind
    assert record.student.weights == record.teacher.weights
    assert record.student.cost is None


def test_texts_have_their_words_shuffled(tmp_path):
    """Prevents: a chance level of texts that compares words of one text with those of another, or padding."""
    own = tokenizer("wordpiece")
    texts = ["a fine film", "it is a very dull and long film", "good", "a warm story of a good man"]
    data = Dataset.from_dict({"text": texts, "label": [0, 1, 0, 1]})
    trainer = ExplanationDistillTrainer(
        build_text("bert", 0, vocab_size=len(own)),
        arguments(tmp_path, explainer="input_x_gradient", remove_unused_columns=False),
        eval_dataset=data,
        data_collator=TextCollator(own),
        processing_class=own,
        teacher_model=build_text("bert", 1, vocab_size=len(own)),
    )
    record = measure_fidelity(trainer)
    assert record.modality == "text" and record.student.cost.input.endswith("tokens")
    assert -1 <= record.chance["shuffled"].value < 1 and record.chance["shuffled"].samples == 4
    assert record.data.fingerprint != data_digest(data.select([0, 1]), ["text"])


def test_texts_one_by_one_are_shuffled_each_in_its_own_order(tmp_path):
    """Prevents: one order for all texts of a length where a batch holds one; of two words, that was the texts' own, and
    the chance level the similarity itself."""
    own = tokenizer("wordpiece")
    words = ["fine film", "dull film", "warm story", "good man", "long film", "bad story", "very good", "a story"]
    trainer = ExplanationDistillTrainer(
        build_text("bert", 0, vocab_size=len(own)),
        arguments(tmp_path, explainer="input_x_gradient", remove_unused_columns=False, per_device_eval_batch_size=1),
        eval_dataset=Dataset.from_dict({"text": words, "label": [0, 1] * 4}),
        data_collator=TextCollator(own),
        processing_class=own,
        teacher_model=build_text("bert", 1, vocab_size=len(own)),
    )
    orders: list[torch.Tensor] = []

    class Taken(Faithfulness):
        def __call__(self, model, inputs, maps, target):
            orders.append(maps.argsort(dim=1))
            return {"comprehensiveness": torch.zeros(len(maps))}

    record = measure_fidelity(trainer, faithfulness=Taken(), costs=False)
    similarity = record.figures["explanation_similarity"].value
    assert record.chance["shuffled"].value != pytest.approx(similarity, abs=1e-3)
    by_chance = [order.tolist() for order in orders[2::3]]  # behind the student's own and the teacher's
    assert len(by_chance) == len(words) and len({str(order) for order in by_chance}) > 1


def test_several_labels_have_f1_and_map(tmp_path, monkeypatch):
    """Prevents: a multi-label student without its pooled figures, or these without an interval."""
    monkeypatch.setattr("hf_e2kd.fidelity.intervals.POOLED_RESAMPLES", 20)
    student, teacher = build("resnet"), build("resnet", seed=1)
    for model in (student, teacher):
        model.config.problem_type = "multi_label_classification"
    data = samples(12)
    for sample in data:
        sample["labels"] = nn.functional.one_hot(torch.tensor(sample["labels"]), CLASSES).float()
    record = measure_fidelity(distiller(student, teacher, tmp_path, eval_dataset=data), costs=False)
    for name in ("f1", "map"):
        assert record.figures[name].low <= record.figures[name].value <= record.figures[name].high
    assert record.problem == "multi_label_classification" and "negative_flips" not in record.figures


def test_annotations_alone(tmp_path):
    """Prevents: a guided model, which has no teacher, that can't be measured."""
    data = samples(12, mask=True)
    trainer = distiller(
        build("resnet"),
        None,
        tmp_path,
        {"task_weight": 1.0, "logits_weight": 0.0},
        references={"boxes": AnnotationReference("energy")},
        eval_dataset=data,
    )
    record = measure_fidelity(trainer, costs=False)
    assert record.teacher is None and not record.chance
    pixels, masks = (torch.stack([sample[name] for sample in data]) for name in ("pixel_values", "mask"))
    labels = torch.tensor([sample["labels"] for sample in data])
    shares = energy_pointing_game(GradCAM()(build("resnet"), {"pixel_values": pixels}, labels).maps, masks)
    assert record.figures["energy_pointing_game"].value == pytest.approx(shares.nanmean().item(), abs=1e-5)


def test_threshold_of_the_iou_is_the_evaluations(tmp_path):
    """Prevents: a record, and a gate, whose IoU is at another threshold than the evaluations' of the training."""
    trainer = distiller(
        build("resnet"),
        None,
        tmp_path,
        {"task_weight": 1.0, "logits_weight": 0.0, "iou_threshold": 0.8},
        references={"boxes": AnnotationReference("energy")},
        eval_dataset=samples(12, mask=True),
    )
    record = measure_fidelity(trainer, costs=False)
    assert record.iou_threshold == 0.8
    assert record.figures["localization_iou"].value == pytest.approx(trainer.evaluate()["eval_localization_iou"])
    trainer.args.iou_threshold = 0.5
    assert measure_fidelity(trainer, costs=False).figures["localization_iou"] != record.figures["localization_iou"]


def test_unlabelled_data_where_labels_are_explained(tmp_path):
    """Prevents: a record that says that labels were explained, of data without any; a KeyError at held-out maps."""
    trainer = distiller(build("vit"), build("vit", seed=1), tmp_path, {"explanation_target": "label"})
    with pytest.raises(ValueError, match="the data have none, .*explanation_target is 'teacher_top'"):
        measure_fidelity(trainer, samples(4, labels=False), explainers=["saliency"])


# ---- Parts -----------------------------------------------------------------------------------------------------------


def test_interval_is_that_of_the_mean():
    """Prevents: an interval of single values, or one that ignores how many values a sample has."""
    rng = np.random.default_rng(0)
    values, counts = rng.random(400), np.ones(400)
    figure = mean_with_interval(values, counts, seed=0)
    expected = 1.96 * values.std() / 20
    assert figure.high - figure.value == pytest.approx(expected, rel=0.15)
    assert figure.value - figure.low == pytest.approx(expected, rel=0.15)
    assert mean_with_interval(np.array([3.0, 1.0]), np.array([3.0, 1.0]), seed=0).value == 1
    alone = mean_with_interval(np.array([0.5, 0.0]), np.array([1.0, 0.0]), seed=0)
    assert alone.value == 0.5 and alone.low is None and alone.samples == 1


def test_interval_of_a_share_without_exceptions():
    """Prevents: two samples that are right stated as certainty, [1, 1]; an exact interval of what is no share."""
    values = SampleValues(lambda rows: rows)
    one, half = torch.ones(2), torch.full((2,), 0.5)
    values.update(
        {"accuracy": one, "other/zero_student_maps": 1 - one, "agreement": half, "explanation_similarity": one}
    )
    found = {name: (figure.low, figure.high) for name, figure in metric_values(values, 0, None).items()}
    low = binomtest(2, 2).proportion_ci().low
    assert found["accuracy"] == pytest.approx((low, 1)) and found["other/zero_student_maps"] == pytest.approx(
        (0, 1 - low)
    )
    assert found["agreement"] == (0.5, 0.5) and found["explanation_similarity"] == (1, 1)


def test_worst_class_is_named_and_has_enough_samples():
    """Prevents: the worst class found among those with two samples, or named by another model's classes."""
    values = SampleValues(lambda tensor: tensor)
    labels = torch.tensor([0] * 20 + [1] * 20 + [2] * 3)
    right = torch.tensor([1.0] * 20 + [1.0] * 15 + [0.0] * 5 + [0.0] * 3)
    values.update({"accuracy": right[:30], "_label": labels[:30]})
    values.update({"accuracy": right[30:], "_label": labels[30:]})
    worst = metric_values(values, 0, ["cat", "dog", "fish"])["worst_class_accuracy"]
    assert (worst.detail, worst.value, worst.samples) == ("dog", 0.75, 20)


def test_costs_are_counted():
    """Prevents: FLOPs that leave attention out, or a model left in another mode."""
    model = build("vit").train()
    cost = cost_of(model, {"pixel_values": images(3)})
    assert cost.parameters == sum(parameter.numel() for parameter in model.parameters())
    config = model.config
    tokens = (config.image_size // config.patch_size) ** 2 + 1
    block = 2 * tokens * (4 * config.hidden_size**2 + 2 * config.hidden_size * config.intermediate_size)
    attention = 2 * 2 * tokens**2 * config.hidden_size
    assert cost.flops > config.num_hidden_layers * (block + attention)
    assert cost.flops < 1.5 * config.num_hidden_layers * (block + attention)
    assert model.training and cost.seconds > 0 and cost.input == "3×32×32"


def test_models_are_timed_in_turns(monkeypatch):
    """Prevents: a ratio of two times of which one was taken while the machine was busy; quartiles of another order."""
    models = [build("vit"), build("convnext")]
    turns = []
    monkeypatch.setattr(cost_module, "_timed", lambda model, sample: turns.append(model) or float(len(turns)))
    student, teacher = costs_of([(model, {"pixel_values": images(2)}) for model in models])
    assert turns == models * 23
    # Of the passes 3 to 22 each, at 2 · pass + 1 and + 2.
    assert (student.seconds_low, student.seconds, student.seconds_high) == (16.5, 26.0, 35.5)
    assert (teacher.seconds_low, teacher.seconds, teacher.seconds_high) == (17.5, 27.0, 36.5)
    assert costs_of([(as_module(lambda batch: batch), {"pixel_values": images(1)})]) == [None]


def test_an_untrained_decoder_has_a_baseline(tmp_path):
    """Prevents: a measurement that ends in an error of the untrained student's baseline, where a decoder's padding
    token is its end token, as of most decoders: before training its embedding is zero."""

    def decoder(seed):
        torch.manual_seed(seed)
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        tokens = {"vocab_size": VOCABULARY, "pad_token_id": END, "eos_token_id": END, "bos_token_id": None}
        model = LlamaForSequenceClassification(LlamaConfig(**sizes, **tokens, num_labels=CLASSES))
        randomise(model)
        return model.eval()

    rows = token_rows(4)
    for row in rows:
        row["input_ids"] = row["input_ids"].where(row["attention_mask"] > 0, END)
    trainer = distiller(decoder(0), decoder(1), tmp_path, train_dataset=None, eval_dataset=rows)
    assert set(trainer.measure_fidelity(samples=4).chance) == {"shuffled", "untrained"}


class Queried(nn.Module):
    """A classifier that hands a view of a parameter to its layer, as Perceiver its places."""

    def __init__(self):
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, 8))
        self.layer = nn.Linear(8, 3)

    def forward(self, pixel_values):
        return {"logits": self.layer(self.query.expand(len(pixel_values), 8)) + pixel_values.mean()}


def test_cost_of_a_model_that_hands_on_a_parameter():
    """Prevents: "Expected gradient function to be set" at the end of a measurement, whose figures are lost."""
    model = Queried()
    assert cost_of(model, {"pixel_values": images(1)}).flops == 2 * 8 * 3
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_where_things_come_from(tmp_path, monkeypatch):
    """Prevents: a path of this machine in a record, or a folder's name taken for an id on the Hub."""
    monkeypatch.chdir(tmp_path)
    model = build("vit")
    model.save_pretrained("team/model")
    for source in (str(tmp_path / "team/model"), "team/model", "../model", "https://huggingface.co/team/model"):
        model.config._name_or_path = source
        assert describe_model(model).id is None
    features = Features({"text": Value("string"), "spans": Sequence(Value("int64"))})
    data = Dataset.from_dict({"text": ["a"], "spans": [[1]]}, features=features)
    data.info.download_checksums = {"hf://datasets/me/data@0123abc/train.parquet": {}}
    assert (describe_data(data).id, describe_data(data).revision) == ("me/data", "0123abc")
    assert data_digest(data, ["text"]) != data_digest(data.map(lambda row: {"text": "b"}), ["text"])


def several_labels(count, seed=0):
    """Samples with a label of zeros and ones for each class."""
    generator = torch.Generator().manual_seed(seed)
    rows = samples(count, labels=False, seed=seed)
    return [{**row, "labels": (torch.rand(CLASSES, generator=generator) > 0.6).float()} for row in rows]


def decides_each(seed=0):
    model = build("resnet", seed=seed)
    model.config.problem_type = "multi_label_classification"
    return model


def test_all_samples_are_measured_as_the_student_is(tmp_path):
    """Prevents: samples of an incomplete last batch that a record states and no figure has; a student that is measured
    in bfloat16 as the trainer's evaluations are, is recorded in float32, and isn't known again by its card."""
    settings = {"dataloader_drop_last": True, "bf16_full_eval": True}
    plain, trainer = (distiller(build("vit"), build("resnet", seed=1), tmp_path, each) for each in ({}, settings))
    expected, record = (measure_fidelity(each, costs=False) for each in (plain, trainer))
    assert record.figures == expected.figures and record.figures["agreement"].samples == 13
    assert measure_fidelity(trainer, samples=3, costs=False).figures["agreement"].samples == 3
    assert record.student.precision == "float32" and trainer.student.dtype == torch.float32
    assert trainer.args.dataloader_drop_last and trainer.args.bf16_full_eval


@pytest.mark.parametrize(
    "settings", [{}, {"eval_do_concat_batches": False}, {"batch_eval_metrics": True}], ids=lambda each: "-".join(each)
)
def test_f1_is_that_of_the_logits(tmp_path, monkeypatch, settings):
    """Prevents: the F1 of probabilities, taken for logits, where the user's metrics are of what a function makes of
    these; an error where batches aren't joined; no F1 where metrics are computed batch by batch."""
    monkeypatch.setattr("hf_e2kd.fidelity.intervals.POOLED_RESAMPLES", 2)
    data = several_labels(13, seed=3)
    theirs = {
        "preprocess_logits_for_metrics": lambda logits, labels: logits.sigmoid(),
        "compute_metrics": lambda evaluation, compute_result=True: {"mine": 1.0},
    }
    plain, trainer = (
        distiller(decides_each(), decides_each(1), tmp_path, own, eval_dataset=data, **functions)
        for own, functions in (({}, {}), (settings, theirs))
    )
    expected, found = (measure_fidelity(each, costs=False, chance=False) for each in (plain, trainer))
    for name in ("f1", "map"):
        assert found.figures[name] == expected.figures[name]
    assert trainer.preprocess_logits_for_metrics is theirs["preprocess_logits_for_metrics"]
    assert trainer.evaluate()["eval_mine"] == 1.0
    del theirs["compute_metrics"]
    alone = distiller(decides_each(), decides_each(1), tmp_path, settings, eval_dataset=data, **theirs).evaluate()
    assert alone.get("eval_f1", expected.figures["f1"].value) == expected.figures["f1"].value


def test_chance_of_single_samples_is_missed(tmp_path, caplog):
    """Prevents: a similarity without its chance level, and no word why, as no batch has another sample."""
    for size in (4, 1):
        settings = {"per_device_eval_batch_size": size}
        trainer = distiller(build("resnet"), build("resnet", seed=1), tmp_path, settings, eval_dataset=samples(4))
        chance = measure_fidelity(trainer, costs=False).chance
        assert ("shuffled" in chance) is (size == 4) is ("Set per_device_eval_batch_size to 2" not in caplog.text)
