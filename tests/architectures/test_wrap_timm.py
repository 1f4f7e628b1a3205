"""Bare timm models in transformers' wrapper: what is saved is what was trained."""

import json

import pytest
import timm
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification, ViTImageProcessor

from hf_e2kd import wrap_timm
from hf_e2kd.alignment.inputs import image_view
from hf_e2kd.architectures import is_timm
from tests.models import CLASS_NAMES, TIMM_SETTINGS, build, images
from tests.training import distiller


@pytest.mark.parametrize("name", TIMM_SETTINGS)
def test_saved_student_loads_with_the_auto_classes(tiny, tmp_path, name):
    """Prevents: a trained timm student that can't be loaded, or gives other logits once it is."""
    _, settings = TIMM_SETTINGS[name]
    bare = tiny(f"timm_{name}")

    wrapped = wrap_timm(bare, dict(enumerate(CLASS_NAMES)), model_args=settings)
    wrapped.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path).eval()

    with torch.no_grad():
        torch.testing.assert_close(loaded(images()).logits, bare(images()), rtol=1e-5, atol=1e-5)
    assert [loaded.config.id2label[index] for index in range(5)] == CLASS_NAMES
    assert loaded.config.label2id == {name: index for index, name in enumerate(CLASS_NAMES)}


def test_model_is_shared_and_its_mode_kept(tiny):
    """Prevents: a wrapper that trains a copy, or that switches dropout off."""
    bare = tiny("timm_resnet").train()

    wrapped = wrap_timm(bare, model_args=TIMM_SETTINGS["resnet"][1])

    assert wrapped.timm_model is bare
    assert wrapped.training
    assert bare.training
    assert is_timm(bare)
    assert not is_timm(wrapped)
    assert wrapped.config.num_labels == 5


def test_other_shapes_are_refused_with_the_remedy(tiny):
    """Prevents: a checkpoint that nobody can load, found out after the training."""
    with pytest.raises(ValueError, match=r"builds 'vit_tiny_patch16_224' with other weights.*model_args="):
        wrap_timm(tiny("timm_vit"))


def test_standard_model_needs_no_arguments(tmp_path):
    """Prevents: arguments asked for where timm's name says it all."""
    bare = timm.create_model("test_vit", num_classes=3).eval()

    wrap_timm(bare).save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path).eval()

    pixel_values = images(height=bare.pretrained_cfg["input_size"][1])
    torch.testing.assert_close(loaded(pixel_values).logits, bare(pixel_values), rtol=0, atol=0)
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    assert tuple(processor.data_config["input_size"]) == tuple(bare.pretrained_cfg["input_size"])


def test_processor_of_the_training(tmp_path):
    """Prevents: a student that timm's own processor shows other images than it was trained on, once it is loaded."""
    processor = ViTImageProcessor(size={"height": 40, "width": 32}, image_mean=[0.4] * 3, image_std=[0.2] * 3)
    distiller(build("wrapped_resnet"), build("resnet"), tmp_path, processing_class=processor).save_model()
    assert image_view(AutoImageProcessor.from_pretrained(tmp_path)) == image_view(processor)


def test_arguments_that_keep_the_shapes(tiny, tmp_path):
    """Prevents: a setting without weights of its own (a pooling) that is lost on the way to the file."""
    bare = timm.create_model("test_vit", num_classes=3, global_pool="avg", fc_norm=False).eval()

    wrapped = wrap_timm(bare, model_args={"global_pool": "avg", "fc_norm": False})
    wrapped.save_pretrained(tmp_path)

    loaded = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    pixel_values = images(height=bare.pretrained_cfg["input_size"][1])
    torch.testing.assert_close(loaded(pixel_values).logits, bare(pixel_values), rtol=0, atol=0)


def test_arguments_that_change_no_weight_must_be_given_too():
    """Prevents: a student saved without an error that computes something else once it is loaded."""
    dilated = timm.create_model("test_efficientnet", num_classes=3, output_stride=8)
    with pytest.raises(ValueError, match="With these very weights, timm's 'test_efficientnet' gives other logits"):
        wrap_timm(dilated)
    assert all(module.training for module in dilated.modules())
    assert wrap_timm(dilated, model_args={"output_stride": 8}).timm_model is dilated


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("vit_tiny_patch16_224", {"img_size": 96}),
        ("vit_tiny_patch16_224", {"img_size": [96, 64], "depth": 2}),
        ("vit_tiny_patch16_224", {"in_chans": 1, "depth": 2}),
        ("resnet10t", {"in_chans": 1}),
        ("resnet10t", {"global_pool": "max"}),
    ],
)
def test_remedy_names_the_arguments_that_differ(name, given):
    """Prevents: a remedy that names another argument than the one the model was made with (fault B17)."""
    bare = timm.create_model(name, num_classes=5, **given)
    with pytest.raises(ValueError, match="Give the arguments it was created with") as error:
        wrap_timm(bare)
    shown = str(error.value).rsplit("model_args=", 1)[1].removesuffix(").")
    assert json.loads(shown) == given
    wrap_timm(bare, model_args=given)
