"""`create_model_card()` at the end of a stock script: it never starts an evaluation unasked."""

import json

import pytest
from datasets import Dataset
from torch.utils.data import IterableDataset

from tests.models import build
from tests.training import distiller, samples


class Stream(IterableDataset):
    def __init__(self, seed=7):
        self.seed = seed

    def __iter__(self):
        return iter(samples(8, seed=self.seed))


def card_of(folder):
    return (folder / "README.md").read_text(encoding="utf-8")


def test_a_card_measures_nothing_unasked(tmp_path, monkeypatch, caplog):
    """Prevents: an evaluation of the whole set, with maps, that a script of transformers starts by its last line."""
    trainer = distiller(build("vit"), build("vit", seed=1), tmp_path)
    trainer.train()
    with monkeypatch.context() as patched:
        patched.setattr(type(trainer), "measure_fidelity", lambda *_, **__: pytest.fail("an evaluation unasked"))
        trainer.create_model_card()
    card = card_of(tmp_path)
    assert "It was not measured against its teacher" in card and "trainer.measure_fidelity(dataset)" in card
    assert "hf-e2kd fidelity --teacher" in card
    assert "call trainer.measure_fidelity() first" in caplog.text
    assert not (tmp_path / "fidelity.json").exists()
    # Before the student is saved, too: there is no record to read options from.
    assert 'hf_e2kd.explain(student.model, inputs, "gradcam")' in card


@pytest.mark.parametrize("by_argument", [False, True])
def test_a_card_of_what_was_measured(tmp_path, by_argument):
    """Prevents: figures or pictures lost that were asked for."""
    trainer = distiller(build("vit"), build("vit", seed=1), tmp_path)
    if not by_argument:
        trainer.measure_fidelity(costs=False)
    # As transformers' example scripts name their data.
    trainer.create_model_card(measure=by_argument, dataset="GLUE SST2", dataset_args="sst2", tasks=["text-ranking"])
    card = card_of(tmp_path)
    assert "samples of GLUE SST2, configuration `sst2`" in card and "pipeline_tag: text-ranking" in card
    assert (
        "dataset:\n      name: GLUE SST2" in card
        and "Measured on all 13 samples" in card
        and "It was not measured against" not in card
    )
    assert "explanations.png" in card
    record = json.loads((tmp_path / "fidelity.json").read_text())
    assert record["figures"]["agreement"]["value"] == pytest.approx(trainer.evaluate()["eval_agreement"], abs=1e-6)
    # A picture that isn't of the card's student stays behind no card, for an upload or `hf-e2kd card` to take.
    trainer.create_model_card(fidelity=trainer.measure_fidelity(costs=False))
    assert not (tmp_path / "explanations.png").exists() and "explanations.png" not in card_of(tmp_path)


def test_a_card_beside_a_teacher_that_explains_nothing(tmp_path):
    """Prevents: a card lost by an IndexError of its picture, whose samples have no similarity to be chosen by."""
    teacher = build("resnet", seed=1)
    teacher.classifier[1].weight.data.zero_()
    trainer = distiller(build("resnet"), teacher, tmp_path)
    trainer.create_model_card(measure=True)
    assert "explanations.png" in card_of(tmp_path)


@pytest.mark.parametrize("data", [Stream(), Dataset.from_list([{"a": 1}]).to_iterable_dataset()])
@pytest.mark.parametrize("measure", [False, True])
def test_a_card_of_a_stream_that_nobody_evaluated(tmp_path, data, measure, caplog):
    """Prevents: an empty card, or an endless one, where no samples can be drawn."""
    trainer = distiller(build("vit"), build("vit", seed=1), tmp_path, eval_dataset=data)
    trainer.create_model_card(measure=measure)
    assert "It was not measured against its teacher" in card_of(tmp_path)
    assert "no evaluation data has a length" in caplog.text


def test_a_card_of_a_stream_holds_its_last_evaluation(tmp_path):
    """Prevents: an empty card for streaming data that were evaluated a moment ago."""
    trainer = distiller(
        build("vit"), build("vit", seed=1), tmp_path, {"eval_strategy": "steps", "eval_steps": 2}, eval_dataset=Stream()
    )
    trainer.train()
    agreement = trainer.state.log_history[-2]["eval_agreement"]
    trainer.create_model_card()
    assert f"| Agreement | {agreement:.3f}" in card_of(tmp_path)
    assert "It was not measured against" not in card_of(tmp_path)
    assert not (tmp_path / "fidelity.json").exists()


def test_a_card_of_a_stream_that_another_one_was_evaluated_after(tmp_path):
    """Prevents: the figures of test data under the name of the validation data."""
    settings = {"eval_strategy": "steps", "eval_steps": 2}
    trainer = distiller(build("vit"), build("vit", seed=1), tmp_path, settings, eval_dataset=Stream())
    trainer.train()
    similarity = trainer.state.log_history[-2]["eval_explanation_similarity"]
    other = trainer.evaluate(Stream(11))["eval_explanation_similarity"]
    trainer.create_model_card()
    assert round(other, 2) != round(similarity, 2)
    assert f"| Explanation similarity | {similarity:.2f}" in card_of(tmp_path)
    trainer.eval_dataset = Stream(12)
    trainer.create_model_card()
    assert "It was not measured against its teacher" in card_of(tmp_path)
