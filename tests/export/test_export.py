"""Exported files as users make and run them; without ONNX Runtime by `torch.export`."""

import json
import os
import re
import shutil

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers import ViTImageProcessor

from hf_e2kd import explain
from hf_e2kd.cli import main
from hf_e2kd.data.transforms import DistillationTransform
from hf_e2kd.export import ExportedGradCAM, export_model, load_exported, writing
from hf_e2kd.export.runtimes import TorchProgram
from hf_e2kd.fidelity import FidelityRecord
from tests.models import CLASS_NAMES, build, images
from tests.text_models import build_text
from tests.tokenizers import tokenizer
from tests.training import distiller

PROCESSOR = ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
SUFFIXES = [".pt2", ".onnx"]


def run(*given):
    """The exit code."""
    with pytest.raises(SystemExit) as ended:
        main([str(each) for each in given])
    return ended.value.code or 0


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """`made(".pt2")`: a folder with a student, its exported file, a teacher and photographs."""
    folder = tmp_path_factory.mktemp("exported")
    for name, family, seed in (("student", "resnet", 0), ("teacher", "resnet", 1)):
        build(family, seed=seed).save_pretrained(folder / name)
        PROCESSOR.save_pretrained(folder / name)
    (folder / "photos" / "validation").mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 255, (6, 40, 32, 3), dtype=np.uint8)
    for number, pixels in enumerate(noise):
        Image.fromarray(pixels).save(folder / "photos" / "validation" / f"{number}.png")

    def with_file(suffix):
        if suffix == ".onnx":
            pytest.importorskip("onnxscript")
        path = folder / f"student{suffix}"
        if not path.exists():
            assert run("export", folder / "student", path, "--explanation") == 0
        return folder, path

    return with_file


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_is_its_model(made, suffix):
    """Prevents: other logits or maps than the model's, for any number of images, class and call."""
    folder, path = made(suffix)
    exported, model = load_exported(path), build("resnet")
    for batch in (images(5), images(1)):
        target = torch.arange(len(batch)) % 3
        expected, top = explain(model, batch, target=target), explain(model, batch)
        logits, maps = exported.explain({"pixel_values": batch}, target)
        assert torch.equal(logits.argmax(1), expected.logits.argmax(1))
        torch.testing.assert_close(exported(pixel_values=batch)["logits"], expected.logits, rtol=1e-5, atol=1e-5)
        assert (maps - expected.maps).abs().max() <= 1e-5 * expected.maps.max()
        assert (exported.explain({"pixel_values": batch})[1] - top.maps).abs().max() <= 1e-5 * top.maps.max()
    half = images(2).half()
    torch.testing.assert_close(exported(pixel_values=half)["logits"], exported(pixel_values=half.float())["logits"])
    several = torch.tensor([[2, -1]] * 5)
    found = explain(exported, images(5), ExportedGradCAM(), several).maps
    wanted = explain(model, images(5), target=several).maps
    assert not found[:, 1].any() and (found - wanted).abs().max() <= 1e-5 * wanted.max()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_explain_gives_a_files_own_map(made, suffix):
    """Prevents: a refusal for want of gradients, which names the method that was asked for as the remedy."""
    exported, model = load_exported(made(suffix)[1]), build("resnet")
    for options in ({}, {"method": "gradcam", "target": 2}):
        found, wanted = (explain(each, images(3), **options).maps for each in (exported, model))
        assert (found - wanted).abs().max() <= 1e-5 * wanted.max()
    with pytest.raises(ValueError, match="that of the layer 'resnet.encoder.stages.1', and the target_layer 'last'"):
        explain(exported, images(3), "gradcam", target_layer="last")
    with pytest.raises(ValueError, match="output='probability' is of methods that explain any output"):
        explain(exported, images(3), output="probability")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_images_of_another_size_are_refused(made, suffix):
    """Prevents: images of another size than the file's in the runtime's words."""
    with pytest.raises(ValueError, match=r"takes images of 3×32×32, not of 3×64×64.*--image-size"):
        load_exported(made(suffix)[1])(pixel_values=images(2, 64))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_travels_in_a_file(made, suffix):
    """Prevents: a file that can't be used without its model, or that tells where it was made."""
    folder, path = made(suffix)
    exported = load_exported(path)
    assert [exported.config.id2label[number] for number in range(5)] == CLASS_NAMES
    assert exported.processing_class["input_size"] == [3, 32, 32] and exported.processing_class["mean"] == [0.5] * 3
    assert exported.metadata.explainer == {"name": "gradcam", "target_layer": "resnet.encoder.stages.1"}
    assert exported.metadata.architecture == "ResNetForImageClassification" and exported.has_map
    # Batch norms' statistics are weights of an ONNX file too.
    assert sum(parameter.numel() for parameter in exported.parameters()) >= build("resnet").num_parameters()
    content, places = path.read_bytes(), (os.getcwd(), str(folder), os.path.dirname(torch.__file__))
    assert not [place for place in places if place.encode() in content]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_explained_on_the_command_line(made, suffix, tmp_path, capsys):
    """Prevents: images made otherwise than for the model, or another class's map."""
    folder, path = made(suffix)
    photo = folder / "photos" / "validation" / "0.png"
    written = tmp_path / "out.json"
    assert run("explain", path, photo, "--target", "class 2", "--output", written, "--json") == 0
    (entry,) = json.loads(written.read_text())
    pixels = torch.stack(DistillationTransform(PROCESSOR)({"image": [Image.open(photo)]})["pixel_values"])
    expected = explain(build("resnet"), pixels, target=2)
    assert entry["explained"]["class"] == "class 2" and expected.maps.any()
    assert entry["classes"][0]["index"] == int(expected.logits.argmax())
    torch.testing.assert_close(torch.tensor(entry["map"]), expected.maps[0], rtol=1e-4, atol=1e-5)
    capsys.readouterr()
    named = ["--explainer", "gradcam", "--explainer-options", '{"target_layer": "resnet.embedder"}']
    assert run("explain", path, photo, *named) == 1
    assert "that of the layer 'resnet.encoder.stages.1'" in capsys.readouterr().err
    assert run("explain", path, photo, "--target", "klass") == 1
    assert "No class is named 'klass'" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_fidelity_of_a_file_is_its_models(made, suffix, tmp_path, capsys):
    """Prevents: figures of what is deployed that are another model's, or a record that doesn't say what ran."""
    folder, path = made(suffix)
    records = []
    for number, student in enumerate((folder / "student", path)):
        line = ["--teacher", folder / "teacher", "--student", student, "--dataset", folder / "photos", "--samples", 6]
        assert run("fidelity", *line, "--output-dir", tmp_path / str(number), "--pictures", 1) == 0
        records.append(FidelityRecord.load(tmp_path / str(number)))
    own, deployed = records
    assert own.figures.keys() == deployed.figures.keys() >= {"agreement", "explanation_similarity"}
    for name, figure in own.figures.items():
        assert deployed.figures[name].value == pytest.approx(figure.value, abs=1e-5), name
    runtime = {".pt2": "torch.export, torch ", ".onnx": "onnxruntime "}[suffix]
    assert deployed.student.runtime.startswith(runtime)
    assert deployed.student.precision == "float32"  # sizes and indices are no weights
    assert deployed.student.architecture == own.student.architecture == "ResNetForImageClassification"
    assert deployed.student.cost.parameters >= own.student.cost.parameters
    # With the map's: a product over 16 channels at each of 4×4 cells.
    assert deployed.student.cost.flops == {".pt2": own.student.cost.flops + 2 * 16 * 16, ".onnx": None}[suffix]
    assert deployed.explainer == own.explainer and deployed.teacher_explainer is None


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_files_record_is_verified(made, suffix, tmp_path, monkeypatch, capsys):
    """Prevents: a card whose code loads no file, one beside its record that isn't found, an archive opened unasked."""
    folder, path = made(suffix)
    monkeypatch.chdir(tmp_path)
    record = tmp_path / "record"
    record.mkdir()
    shutil.copy(path, record)
    there = ["--teacher", folder / "teacher", "--dataset", folder / "photos"]
    own = ["--student", f"record/{path.name}"]
    measured = [*there, *own, "--samples", 6, "--pictures", 0, "--faithfulness", "--held-out", "occlusion"]
    assert run("fidelity", *measured, "--output-dir", "record", "--card") == 0
    card = (record / "README.md").read_text()
    assert f"hf-e2kd explain {path.name} picture.jpg\n" in card and "from_pretrained" not in card
    with monkeypatch.context() as inside:
        inside.chdir(record)
        capsys.readouterr()
        exec(re.search("```python\n(.*?)```", card, re.DOTALL)[1], {})
    assert capsys.readouterr().out.strip() in CLASS_NAMES
    assert run("fidelity", "--verify", "record", *there, *own) == 0
    capsys.readouterr()
    assert run("fidelity", "--verify", "record", *there) == {".onnx": 0, ".pt2": 1}[suffix]
    shown = capsys.readouterr()
    if suffix == ".onnx":
        assert "holds student's weights" in shown.out and "holds occlusion, deletion" in shown.out
    else:
        assert "may run code. Give it by --student record/student.pt2" in shown.err
    (record / path.name).unlink()
    assert run("fidelity", "--verify", "record", *there) == 1
    assert "isn't here. Give it by --student FOLDER, or its exported file" in capsys.readouterr().err


def test_logits_alone(made, tmp_path, capsys):
    """Prevents: a file without a map that fails in the middle of a measurement, instead of being measured without."""
    folder, _ = made(".pt2")
    path = export_model(build("resnet"), tmp_path / "plain.pt2", processing_class=PROCESSOR, image_size=(32, 48))
    plain = load_exported(path)
    wide = images(5, 32, 48)
    expected = build("resnet")(wide).logits.detach()
    torch.testing.assert_close(plain(pixel_values=wide)["logits"], expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r"gives logits alone\. Export the model with its explanation"):
        plain.explain({"pixel_values": wide})
    photo = folder / "photos" / "validation" / "0.png"
    assert run("explain", path, photo) == 1
    line = ["--teacher", folder / "teacher", "--student", path, "--dataset", folder / "photos", "--samples", 6]
    assert run("fidelity", *line, "--output-dir", tmp_path / "record") == 0
    assert "agreement" in (figures := FidelityRecord.load(tmp_path / "record").figures)
    assert "explanation_similarity" not in figures
    assert run("fidelity", "--verify", tmp_path / "record", *line[:-2]) == 0
    with pytest.raises(ValueError, match="has no gradients"):
        explain(plain, wide, "saliency")


def test_texts_have_logits_alone(tmp_path):
    """Prevents: a text's file for one length or number of texts, or one that looks at the padding."""
    own = tokenizer("wordpiece", model_max_length=24)
    model = build_text("bert", 1, vocab_size=len(own), pad_token_id=own.pad_token_id).eval()
    path = export_model(model, tmp_path / "text.pt2", processing_class=own)
    batch = own(["the worst film", "a warm film, it is long", "good"], padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**batch).logits
    torch.testing.assert_close(load_exported(path, own)(**batch)["logits"], expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="BertForSequenceClassification reads texts"):
        export_model(model, tmp_path / "map.pt2", explanation=True, processing_class=own)


def test_the_trainers_student(tiny, tmp_path):
    """Prevents: the weights before the training, or a student that an export leaves changed."""
    trainer = distiller(tiny("resnet"), build("resnet", seed=1), tmp_path / "run", {"max_steps": 1})
    trainer.train()
    training = trainer.student.training
    path = trainer.export(tmp_path / "student.pt2", image_size=32)
    assert trainer.student.training == training
    expected = explain(trainer.student.eval(), images(2))
    logits, maps = load_exported(path).explain({"pixel_values": images(2)})
    torch.testing.assert_close(logits, expected.logits, rtol=1e-5, atol=1e-5)
    assert (maps - expected.maps).abs().max() <= 1e-5 * expected.maps.max()
    trainer.explainer.target_layer = "resnet.embedder"
    with pytest.raises(ValueError, match="explained by 'gradcam' at another one"):
        trainer.export(path)


def test_nothing_is_half_written(made, tmp_path, monkeypatch):
    """Prevents: an earlier file lost to a failed export, or a file that isn't the model kept beside it."""
    path = tmp_path / "student.pt2"
    path.write_text("earlier")
    monkeypatch.setattr(writing, "load_exported", lambda path: Wrong(made(".pt2")[1]))
    with pytest.raises(ValueError, match=r"The exported map differs .* so nothing was written"):
        export_model(build("resnet"), path, explanation=True, image_size=32)
    assert path.read_text() == "earlier" and [each.name for each in tmp_path.iterdir()] == ["student.pt2"]
    with pytest.raises(ValueError, match=r"should end in \.onnx"):
        export_model(build("resnet"), tmp_path / "student.bin", image_size=32)
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        export_model(build("resnet"), tmp_path / "no" / "student.pt2", image_size=32)
    with pytest.raises(ValueError, match=r"Nothing says for which images .*image_size"):
        export_model(build("resnet"), path)


def test_images_of_another_size_than_the_models(tmp_path):
    """Prevents: torch's own words for a size that a model doesn't take, and for one that SigLIP does."""
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.SiglipConfig(vision_config={**sizes, "image_size": 32, "patch_size": 8})
    siglip = transformers.SiglipForImageClassification(config).eval()
    wide = images(2, 32, 48)
    exported = load_exported(export_model(siglip, tmp_path / "siglip.pt2", image_size=(32, 48)))
    expected = siglip(wide, interpolate_pos_encoding=True).logits.detach()
    torch.testing.assert_close(exported(pixel_values=wide)["logits"], expected, rtol=1e-5, atol=1e-5)
    for model in (build("timm_vit"), build("vit", patch_size=16)):
        with pytest.raises(ValueError, match=r"can't be exported for images of 8×8 pixels.*Give the size"):
            export_model(model, tmp_path / "small.pt2", image_size=8)


class Wrong:
    """An exported student whose map is that of the images turned round."""

    def __init__(self, path):
        self.exported = load_exported(path)

    def __call__(self, **inputs):
        return self.exported(**inputs)

    def explain(self, inputs, target):
        logits, maps = self.exported.explain(inputs, target)
        return logits, maps.flip(2)


def test_files_that_are_none(made, tmp_path):
    """Prevents: the runtime's own words for a file that it can't read, or images that it would read wrongly."""
    (tmp_path / "broken.pt2").write_bytes(b"none")
    with pytest.raises(ValueError, match=r"can't load '.*broken\.pt2'"):
        load_exported(tmp_path / "broken.pt2")
    with pytest.raises(FileNotFoundError, match="There is no file"):
        load_exported(tmp_path / "absent.onnx")
    other = tmp_path / "other.pt2"
    torch.export.save(torch.export.load(made(".pt2")[1]), other)
    with pytest.raises(ValueError, match="doesn't say what it takes"):
        TorchProgram(other)
    with pytest.raises(ValueError, match="has 5 classes, and 2 names"):
        stripped(load_exported(made(".pt2")[1]), ["cat", "dog"])


def stripped(exported, names):
    exported.program.properties = {
        **exported.program.properties,
        "class_names": "null",
    }
    return type(exported)(exported.program, exported.source, class_names=names)


def test_onnx_files_of_others(made, tmp_path, capsys):
    """Prevents: a file without our metadata that can't be measured, or is measured on images made otherwise."""
    onnx = pytest.importorskip("onnx")
    folder, _ = made(".onnx")
    foreign = tmp_path / "foreign.onnx"
    export_model(build("resnet"), foreign, processing_class=PROCESSOR)
    model = onnx.load(foreign)
    del model.metadata_props[:]
    # As many exporters do: other names, and one image at a time.
    for node in model.graph.node:
        node.input[:] = ["images" if name == "pixel_values" else name for name in node.input]
        node.output[:] = ["scores" if name == "logits" else name for name in node.output]
    model.graph.input[0].name, model.graph.output[0].name = "images", "scores"
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, foreign)
    line = ["--teacher", folder / "teacher", "--student", foreign, "--dataset", folder / "photos", "--samples", 6]
    assert run("fidelity", *line, "--output-dir", tmp_path / "record") == 1
    assert "by --processor" in capsys.readouterr().err
    photo = folder / "photos" / "validation" / "0.png"
    assert run("explain", foreign, photo, "--explainer", "saliency") == 1
    assert "by --processor" in capsys.readouterr().err
    explained = ["--explainer", "occlusion", "--explainer-options", '{"patch": 0.5}', "--json"]
    assert run("explain", foreign, photo, "--processor", folder / "student", *explained) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    pixels = torch.stack(DistillationTransform(PROCESSOR)({"image": [Image.open(photo)]})["pixel_values"])
    assert entry["classes"][0]["class"] == CLASS_NAMES[int(build("resnet")(pixels).logits.argmax())]
    assert run("fidelity", *line, "--output-dir", tmp_path / "record", "--processor", folder / "student") == 0
    assert "agreement" in FidelityRecord.load(tmp_path / "record").figures
    again = ["--verify", tmp_path / "record", *line[:-2], "--processor", folder / "student"]
    assert run("fidelity", *again) == 0
    exported = load_exported(foreign)
    expected = build("resnet")(images(3)).logits.detach()
    torch.testing.assert_close(exported(pixel_values=images(3))["logits"], expected, rtol=1e-5, atol=1e-5)


def test_onnx_that_cant_be(made, tmp_path):
    """Prevents: an opset that is converted in silence, or an error in the runtime's words."""
    onnx = pytest.importorskip("onnx")
    _, path = made(".onnx")
    with pytest.raises(ValueError, match=r"Opset 12 can't be written: torch\.onnx writes 18 and newer"):
        export_model(build("resnet"), tmp_path / "old.onnx", image_size=32, opset=12)
    (tmp_path / "broken.onnx").write_bytes(b"none")
    with pytest.raises(ValueError, match=r"can't load '.*broken\.onnx'.*pip install -U onnxruntime"):
        load_exported(tmp_path / "broken.onnx")
    newer = onnx.load(path)
    newer.ir_version = 99
    onnx.save(newer, tmp_path / "newer.onnx")
    with pytest.raises(ValueError, match=r"IR version: 99.*\. Where the file is newer than the runtime"):
        load_exported(tmp_path / "newer.onnx")


def test_a_quantised_file(made, tmp_path):
    """Prevents: a file in integers that lost its metadata or its map; a record of it that doesn't repeat."""
    quantization = pytest.importorskip("onnxruntime.quantization")
    folder, path = made(".onnx")
    batches = iter([{"pixel_values": images(4).numpy(), "target": np.full(4, -1)}])

    class Images(quantization.CalibrationDataReader):
        def get_next(self):
            return next(batches, None)

    quantised = tmp_path / "int8.onnx"
    quantization.quantize_static(path, quantised, Images(), per_channel=True)
    there = ["--teacher", folder / "student", "--student", quantised, "--dataset", folder / "photos"]
    measured = ["--samples", 6, "--pictures", 0, "--control", "noise"]
    assert run("fidelity", *there, *measured, "--output-dir", tmp_path / "record") == 0
    record = FidelityRecord.load(tmp_path / "record")
    assert record.student.precision.startswith("int8") and record.student.runtime.startswith("onnxruntime ")
    assert 0.99 < record.figures["explanation_similarity"].value < 1 - 1e-6
    assert record.control.figures.keys() == {"explanation_similarity", "agreement", "kl"}
    assert run("fidelity", "--verify", tmp_path / "record", *there) == 0


def test_an_onnx_file_runs_on_as_many_threads_as_torch(made, monkeypatch):
    """Prevents: costs and figures "on one thread" of a runtime that took every core."""
    _, path = made(".onnx")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert load_exported(path).program.session.get_session_options().intra_op_num_threads == 3


def test_onnx_of_a_vit(tmp_path):
    """Prevents: a vector-Jacobian product that ONNX computes otherwise."""
    pytest.importorskip("onnxscript")
    model = build("vit")
    exported = load_exported(export_model(model, tmp_path / "vit.onnx", explanation=True, processing_class=PROCESSOR))
    expected = explain(model, images(5))
    logits, maps = exported.explain({"pixel_values": images(5)})
    assert torch.equal(logits.argmax(1), expected.target)
    assert (maps - expected.maps).abs().max() <= 1e-5 * expected.maps.max()
