"""The table of what can be trained on what: it names every class, adds up, and agrees with a sample tried again."""

import re
from dataclasses import replace
from importlib import util
from pathlib import Path

import _coverage_timm
import _coverage_trials
import pytest
import timm
import torch
import transformers
from _coverage_models import build, make_inputs
from transformers import ViTConfig, ViTForImageClassification

from hf_e2kd import explain
from hf_e2kd.architectures import call_model, discover_target, find_architecture, grid_of
from tests.models import CLASSES, images

FOLDER = Path(__file__).parents[2] / "recipes" / "benchmarks"
# Long-lived families: plain, hybrid and convolutional networks; encoders, decoders, both; padded, turned, refused ones.
SAMPLE = {
    "image": ["vit", "resnet", "swinv2", "levit", "pvt", "imagegpt"],
    "text": ["bert", "roberta", "deberta-v2", "gpt2", "llama", "bart", "longformer", "xlnet", "yoso"],
}


@pytest.fixture(scope="module")
def coverage():
    # By a name of its own: there is a package called `coverage`, too.
    spec = util.spec_from_file_location("coverage_recipe", FOLDER / "coverage.py")
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def written() -> str:
    return (FOLDER / "COVERAGE.md").read_text(encoding="utf-8")


def rows(section: str) -> list[dict[str, str]]:
    """A Markdown table's rows, by the names of its columns."""
    header, _, *lines = [line for line in section.splitlines() if line.startswith("|")]
    names, *cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in (header, *lines)]
    return [dict(zip(names, row, strict=True)) for row in cells]


@pytest.fixture(scope="module")
def tables(written) -> dict[str, list[dict[str, str]]]:
    """The rows of all tables: the totals, and those of images, of texts and of timm's models."""
    totals, image, text, _, timms = written.split("\n## ")
    return {"totals": rows(totals), "image": rows(image), "text": rows(text), "timm": rows(timms)}


def test_totals_are_those_of_the_rows_and_reach_the_aims(tables):
    """A figure on top that the table below doesn't bear out."""
    for total, task in zip(tables["totals"], ("image", "text"), strict=True):
        for name in [name for name in total if name != "classes of"]:
            cells = [row[name] for row in tables[task] if name in row]
            assert total[name] == (f"{cells.count('✓')} of {len(cells)}" if cells else "–"), (task, name)
    assert int(tables["totals"][0]["gradcam"].split()[0]) >= 38
    # Of 122 that can be trained, those of experts and of linear attention are too crooked for 16 steps.
    assert int(tables["totals"][1]["integrated_gradients"].split()[0]) >= 105


def test_no_text_class_works_that_is_not_complete(tables):
    """A ✓ of Integrated Gradients whose 16 steps leave out more than 2 % of the logit's rise (faults A1)."""
    for row in tables["text"]:
        if row["integrated_gradients"] == "✓":
            assert float(row["completeness error"].removesuffix("%")) <= 2.0, row
    complete = {row["type"]: row["integrated_gradients"] for row in tables["text"]}
    assert {complete[name] for name in ("modernbert", "bloom", "funnel", "deberta-v2", "llama", "gpt2")} == {"✓"}


def test_every_cell_works_or_has_its_reason_and_none_failed(written, tables):
    """A class that ends in an error from inside torch, or in gradients that are wrong."""
    failed = {
        (row["type"], name)
        for task in ("image", "text")
        for row in tables[task]
        for name in row
        if "FAILED" in row[name]
    }
    assert not failed
    reasons = re.findall(r"^(\d+)\. (.+)$", written.split("\n## ")[3], flags=re.MULTILINE)
    cells = {
        cell
        for task in ("image", "text")
        for row in tables[task]
        for name, cell in list(row.items())[2:]
        if name != "completeness error"
    }
    assert {cell.removeprefix("FAILED ") for cell in cells} - {"✓"} == {number for number, _ in reasons}


def test_every_class_of_this_version_is_named(written, tables, coverage):
    """A class that was left out because it didn't work."""
    version = re.search(r"transformers ([\d.]+)\.", written)[1]
    if version != transformers.__version__:
        pytest.skip(f"the table is of transformers {version}")
    for task, classes in coverage.TASKS.items():
        named = {(row["type"], row["class"]) for row in tables[task]}
        expected = {
            (model_type, name)
            for model_type, names in classes.items()
            for name in ((names,) if isinstance(names, str) else names)
        }
        assert named == expected


@pytest.mark.parametrize(
    ("task", "model_type"), [(task, model_type) for task, types in SAMPLE.items() for model_type in types]
)
def test_a_sample_comes_out_as_the_table_says(task, model_type, tables, coverage):
    """A table of another time: what works is one thing, what is refused another."""
    tried = [row for row in tables[task] if row["type"] == model_type]
    assert tried
    for row in tried[:1]:
        names = [name for name in coverage.EXPLAINERS[task] if name in row]
        outcomes = _coverage_trials.try_class(row["class"], model_type, task, names)
        for name in names:
            assert (outcomes[name].verdict == "works") == (row[name] == "✓"), (name, outcomes[name])
            assert outcomes[name].verdict != "FAILED", outcomes[name]


# Norms in the head, a token's classifier, a distilled one, rows of channels last, an unknown layer, lists of features.
TIMM_SAMPLE = ["byobnet", "efficientvit_mit", "levit", "vision_transformer", "mambaout", "pit", "efficientvim"]


def test_every_family_of_timm_that_classifies_is_named(written, tables):
    """A family that was left out because it didn't work."""
    version = re.search(r"modules of timm ([\d.]+) that", written)[1]
    if version != timm.__version__:
        pytest.skip(f"the table is of timm {version}")
    families = {
        family
        for family in timm.list_modules()
        if any(
            (cfg := timm.get_pretrained_cfg(name)) is not None and cfg.num_classes
            for name in timm.list_models(module=family)
        )
    }
    assert {row["module"] for row in tables["timm"]} == families
    assert [(row["module"], row["model"]) for row in tables["timm"]] == list(_coverage_timm.TIMM.items())


def test_no_family_of_timm_failed(written, tables):
    """A silent wrong result or a crash, and a sum that the rows don't bear out."""
    assert not [row for row in tables["timm"] if "FAILED" in "".join(row.values())]
    works = [row["gradcam"] for row in tables["timm"]].count("✓")
    assert re.search(r"GradCAM trains (\d+) of them", " ".join(written.split()))[1] == str(works)


@pytest.mark.parametrize("family", TIMM_SAMPLE)
def test_a_sample_of_timm_comes_out_as_the_table_says(family, tables):
    """A table of another time."""
    row = next(row for row in tables["timm"] if row["module"] == family)
    if not timm.is_model(row["model"]):
        pytest.skip(f"timm {timm.__version__} has no {row['model']}")
    outcomes = _coverage_timm.try_timm(family)
    assert (outcomes["gradcam"].verdict == "works") == (row["gradcam"] == "✓"), outcomes
    assert (outcomes["default taps"].verdict == "works") == row["default taps"].isdigit(), outcomes
    if row["default taps"].isdigit():
        assert outcomes["default taps"].detail == row["default taps"]


def test_a_wrong_gradient_of_timm_is_called_failed(monkeypatch):
    """A judge that passes everything: a head that the forward pass doesn't use."""
    real = find_architecture

    def scaled(model):
        found = real(model)

        def split(model, inputs):
            cut = found.split(model, inputs)
            return replace(cut, head=lambda features: cut.head(features.square()))

        return replace(found, split=split)

    monkeypatch.setattr("hf_e2kd.explainers.cam.find_architecture", scaled)
    outcome = _coverage_timm.try_timm("byobnet")["gradcam"]
    assert outcome.verdict == "FAILED"
    assert "the gradient is off from the hook's" in outcome.detail


def test_either_table_leaves_the_other_in_the_file(coverage):
    """A run on timm's models that drops the tables of transformers', and the other way round; rows lost by `--only`."""
    works, refused = _coverage_trials.Outcome("works", "4"), _coverage_trials.Outcome("refused", "No layer.")
    rows = {"vgg": {"gradcam": works, "default taps": refused}, "dla": {"gradcam": refused, "default taps": works}}
    first = coverage.document({"image": {}, "text": {}}, "", "run")
    both = coverage.document({"timm": {"vgg": rows["vgg"]}}, first, "run")
    both = coverage.document({"timm": {"dla": rows["dla"]}}, both, "run")
    again = coverage.document({"image": {}, "text": {}}, both, "run")
    assert both == again
    assert both.startswith(first.rstrip())
    assert both.endswith(
        "| module | model | gradcam | default taps |\n|---|---|---|---|\n"
        "| dla | dla46x_c | refused: No layer. | 4 |\n| vgg | vgg11 | ✓ | refused: No layer. |\n"
    )
    assert "each of the 2 modules" in both
    assert "GradCAM trains 1 of them" in " ".join(both.split())


def test_a_wrong_gradient_is_called_failed(monkeypatch):
    """A judge that passes everything: a part of the loss that its gradient doesn't know."""
    right = _coverage_trials.loss_of
    monkeypatch.setattr(
        _coverage_trials, "loss_of", lambda explanation: right(explanation) + 0.3 * _unseen(explanation.logits)
    )
    outcome = _coverage_trials.try_class("BertForSequenceClassification", "bert", "text", ["saliency"])["saliency"]
    assert outcome.verdict == "FAILED" and "finite differences" in outcome.detail


def _unseen(logits: torch.Tensor) -> torch.Tensor:
    """Changes with the weights, and hides it from autograd."""
    return logits.detach().square().mean()


def test_a_path_from_zero_is_called_incomplete(monkeypatch):
    """A judge that finds any 16 steps enough: ModernBERT's from zero leave more out than the rise."""
    model = _coverage_trials.calmed(build("ModernBertForSequenceClassification", "modernbert"))
    inputs = make_inputs("text", model)
    assert _coverage_trials.completeness_error(model, inputs) < 0.01
    monkeypatch.setattr("hf_e2kd.explainers.integrated_gradients.text_baseline", lambda *_: None)
    error = _coverage_trials.completeness_error(model, inputs)
    assert error > 0.5
    outcome = _coverage_trials.judge_completeness(_coverage_trials.Outcome("works"), error)
    assert (outcome.verdict, outcome.detail) == ("incomplete", _coverage_trials.INCOMPLETE)


def test_an_error_from_inside_is_no_refusal(monkeypatch):
    """Torch's own ValueError, counted as a refusal of ours."""

    def fail(*_args, **_kwargs):
        torch.nn.functional.embedding_bag(torch.zeros(1, 1, 1), torch.zeros(2, 2))

    monkeypatch.setattr(_coverage_trials, "explain", fail)
    outcome = _coverage_trials.try_class("BertForSequenceClassification", "bert", "text", ["saliency"])["saliency"]
    assert outcome.verdict == "FAILED"


# --- What trying every class has found -------------------------------------------------------------------------------


def test_a_pooled_map_is_no_grid_of_tokens():
    """Swin v2's pooler gives (B, 1024, 1) in the base size: 32×32 cells of one number, which are its channels."""
    assert grid_of(torch.empty(2, 1024, 1), 256, 256) is None


def test_a_perceivers_latents_are_no_grid():
    """512 latents were taken for 6 prefix tokens and 22×23 places of a square image."""
    assert grid_of(torch.empty(2, 512, 64), 224, 224) is None


def test_the_layer_found_lies_outside_of_attention():
    """CvT's projection to values, on a grid half as fine, and without what passes by the attention."""
    path = discover_target(build("CvtForImageClassification", "cvt"), {"pixel_values": images(2, 64)})
    assert path.endswith("layernorm_before")


def test_a_prompt_is_no_grid():
    """13 tokens of a prompt were taken for 4 prefix tokens and 3×3 places of the image."""
    model = build("ShieldGemma2ForImageClassification", "shieldgemma2")
    assert "language_model" not in discover_target(model, make_inputs("image", model))


def test_looking_for_the_layer_leaves_no_trace_in_the_model():
    """LeViT remembers its biases in evaluation mode and forgets them in `train`: kept on, they would be outdated."""
    model = build("LevitForImageClassification", "levit")
    discover_target(model, {"pixel_values": images(2, 128)})
    assert model.training
    assert not any(getattr(module, "attention_bias_cache", None) for module in model.modules())


@pytest.mark.parametrize("method", ["gradcam", "saliency"])
def test_levit_is_explained_twice_in_evaluation_mode(method):
    """The biases that it remembers come with a graph, which the first explanation has used up."""
    model = build("LevitForImageClassification", "levit").eval()
    first, second = (explain(model, images(2, 128), method) for _ in range(2))
    assert torch.equal(first.maps, second.maps)
    with torch.no_grad():
        for name, biases in model.named_parameters():
            biases.mul_(2.0 if "attention_biases" in name else 1.0)
    assert not torch.equal(explain(model, images(2, 128), method).maps, first.maps)


def test_logits_by_another_name_are_found():
    """PP-LCNet calls them its last hidden state."""
    pytest.importorskip("transformers.models.pp_lcnet")
    model = build("PPLCNetForImageClassification", "pp_lcnet")
    assert call_model(model, {"pixel_values": images(2, 128)}).shape == (2, model.config.num_labels)


def test_a_model_without_a_classifier_is_still_refused():
    config = ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=32, num_labels=CLASSES)
    backbone = ViTForImageClassification(config).base_model
    with pytest.raises(ValueError, match="no logits"):
        call_model(backbone, {"pixel_values": images(2, 32)})
