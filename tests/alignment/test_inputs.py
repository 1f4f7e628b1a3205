"""One image shown to two models with different processors."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as TF
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    BitImageProcessor,
    ConvNextImageProcessor,
    DeiTImageProcessor,
    EfficientNetImageProcessor,
    LevitImageProcessor,
    MobileViTImageProcessor,
    PerceiverImageProcessor,
    PPLCNetImageProcessor,
    ViTImageProcessor,
)

from hf_e2kd import wrap_timm
from hf_e2kd.alignment.inputs import PIL_FILTERS, ImageView, InputAdapter, image_view
from hf_e2kd.data.transforms import DistillationTransform
from tests.models import TIMM_SETTINGS, build, images

HALVES = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


def photograph(height, width):
    """A smooth picture, in which a shift of some pixels shows and resampling hardly does."""
    rows, columns = np.mgrid[:height, :width]
    channels = [128 + 100 * np.sin(rows / 9), 255 * columns / width, 255 * rows / height]
    return Image.fromarray(np.stack(channels, -1).astype(np.uint8))


def vit(size=32, **settings):
    return ViTImageProcessor(size={"height": size, "width": size}, **{**HALVES, **settings})


@pytest.mark.parametrize(
    ("processor", "size", "keeps_ratio", "fraction"),
    [
        (vit(), (32, 32), False, 1.0),
        (
            DeiTImageProcessor(size={"height": 40, "width": 40}, crop_size={"height": 32, "width": 32}),
            (32, 32),
            False,
            0.8,
        ),
        (BitImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}), (32, 32), True, 0.8),
        (ConvNextImageProcessor(size={"shortest_edge": 64}, crop_pct=0.875), (64, 64), True, 0.875),
        (ConvNextImageProcessor(size={"shortest_edge": 384}, crop_pct=0.875), (384, 384), False, 1.0),
    ],
)
def test_views_of_processors(processor, size, keeps_ratio, fraction):
    """Prevents: a size, a crop or a normalisation read wrongly from a processor."""
    view = image_view(processor)

    assert view.size == size
    assert view.keeps_ratio is keeps_ratio
    assert view.fraction == pytest.approx(fraction)
    assert view.mean == tuple(processor.image_mean)
    assert view.std == tuple(processor.image_std)


@pytest.mark.parametrize("shape", [(64, 64), (60, 96), (96, 60)])
@pytest.mark.parametrize(
    "processor",
    [
        vit(resample=2),
        vit(resample=3),
        vit(do_normalize=False),
        DeiTImageProcessor(size={"height": 40, "width": 40}, crop_size={"height": 32, "width": 32}),
        BitImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}, **IMAGENET),
        ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.8, **IMAGENET),
        LevitImageProcessor(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}, **IMAGENET),
        EfficientNetImageProcessor(size={"height": 32, "width": 32}),
        EfficientNetImageProcessor(size={"height": 32, "width": 32}, do_normalize=False),
        EfficientNetImageProcessor(size={"height": 32, "width": 32}, include_top=False),
        PerceiverImageProcessor(size={"height": 28, "width": 28}, crop_size={"height": 32, "width": 32}),
        BitImageProcessor(size={"shortest_edge": 48}, crop_size={"height": 24, "width": 40}, **IMAGENET),
        BitImageProcessor(size={"shortest_edge": 48}, crop_size={"height": 40, "width": 24}, **IMAGENET),
        DeiTImageProcessor(size={"height": 40, "width": 60}, crop_size={"height": 32, "width": 32}),
    ],
    ids=[
        "squash",
        "bicubic",
        "unnormalised",
        "squash and crop",
        "crop",
        "crop_pct",
        "levit",
        "normalised twice",
        "divided once",
        "normalised once",
        "cropped, then resized",
        "wide crop",
        "tall crop",
        "squash and square crop",
    ],
)
def test_view_shows_what_the_processor_shows(processor, shape):
    """Prevents: student and teacher shown different parts of the image than their own processors would show."""
    image = photograph(*shape)

    expected = processor(image, return_tensors="pt")["pixel_values"][0]
    shown = DistillationTransform(processor)({"image": [image]})["pixel_values"][0]

    assert shown.shape == expected.shape
    # Resizing before or after the crop differs by less than half a pixel.
    assert (shown - expected).abs().mean() < 0.05 * expected.std()
    # As an exported file and a timm student's configuration state it.
    assert image_view(image_view(processor).timm_settings()) == image_view(processor)


@pytest.mark.parametrize("settings", [{"crop_mode": "squash", "crop_pct": 0.8}, {"crop_pct": 0.8}, {}])
def test_view_shows_what_timm_shows(settings):
    """Prevents: the whole image shown where timm squashes and crops it, or states no crop."""
    stated = {"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bilinear"}
    image = photograph(60, 96)
    expected = timm.data.create_transform(**stated, **settings)(image)
    shown = DistillationTransform({**stated, **settings})({"image": [image]})["pixel_values"][0]
    assert (shown - expected).abs().mean() < 0.05 * expected.std()


def test_view_of_timms_processor(tmp_path):
    """Prevents: a timm model's own settings overlooked."""
    wrap_timm(build("timm_vit"), model_args=TIMM_SETTINGS["vit"][1]).save_pretrained(tmp_path)
    processor = AutoImageProcessor.from_pretrained(tmp_path)

    view = image_view(processor)

    assert view.size == tuple(processor.data_config["input_size"][1:])
    assert view.mean == tuple(processor.data_config["mean"])
    assert view.keeps_ratio
    assert view.fraction == pytest.approx(processor.data_config["crop_pct"])
    assert view.interpolation == InterpolationMode(processor.data_config["interpolation"])


def test_processor_that_states_no_size_is_refused():
    """Prevents: a guess at 224 pixels."""
    with pytest.raises(ValueError, match="states no size.*teacher_pixel_values"):
        image_view(object())


@pytest.mark.parametrize(
    ("processor", "setting"),
    [
        (
            MobileViTImageProcessor(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}),
            "do_flip_channel_order=True",
        ),
        (vit(do_rescale=False), "do_rescale=False"),
        (vit(rescale_factor=1 / 127.5), "rescale_factor=0.0078"),
        (EfficientNetImageProcessor(rescale_factor=1 / 255, rescale_offset=True), "rescale_offset=True"),
        (vit(do_resize=False), "do_resize=False"),
        (PPLCNetImageProcessor(), "no way but to give BGR images"),
    ],
    ids=["channel order", "no rescaling", "factor", "offset", "no resizing", "channel order always"],
)
def test_processor_beyond_a_view_is_refused(processor, setting):
    """Prevents: a teacher silently shown other colours, intensities or sizes than its processor would show."""
    with pytest.raises(ValueError, match=f"{type(processor).__name__} has {setting}.*`teacher_pixel_values`"):
        image_view(processor)


def test_rescale_factor_rounded_in_a_file():
    """Prevents: 1/255 refused because a configuration file rounds it."""
    assert image_view(vit(rescale_factor=0.00392156862745098)).size == (32, 32)
    assert image_view(vit(rescale_factor=0.003921)).size == (32, 32)


def test_grey_images():
    """Prevents: three channels' statistics assumed where a processor has one."""
    view = ImageView((4, 4), (0.5,), (0.25,), False, 1.0)
    intensities = torch.rand(2, 1, 4, 4)

    torch.testing.assert_close(view.intensities(view.normalise(intensities)), intensities)


@pytest.mark.parametrize(
    ("size", "keeps_ratio", "fraction", "image", "box"),
    [
        ((32, 32), False, 1.0, (60, 90), (0, 0, 60, 90)),
        ((32, 32), True, 1.0, (60, 90), (0, 15, 60, 60)),
        ((32, 32), True, 0.5, (60, 90), (15, 30, 30, 30)),
        ((32, 32), False, 0.5, (60, 90), (15, 22, 30, 45)),
        ((32, 64), True, 1.0, (60, 90), (7, 0, 45, 90)),
    ],
)
def test_crop_box(size, keeps_ratio, fraction, image, box):
    """Prevents: a squash shown as a crop, or height and width swapped."""
    assert ImageView(size, (0.5,), (0.5,), keeps_ratio, fraction).crop_box(*image) == box


class TestInputAdapter:
    def test_same_processor(self):
        """Prevents: images resampled or normalised twice, where both sides see them alike."""
        adapter = InputAdapter(build("vit"), vit(), vit())
        batch = {"pixel_values": images(), "labels": torch.tensor([0, 1])}

        adapted = adapter({}, batch)

        assert adapted.keys() == {"pixel_values"}
        torch.testing.assert_close(adapted["pixel_values"], batch["pixel_values"])

    def test_without_processors_the_batch_passes(self):
        """Prevents: annotations given to the teacher's forward."""
        batch = {"pixel_values": images(), "labels": 0, "mask": 0, "boxes": 0, "teacher_pixel_values": 1, "extra": 2}

        assert InputAdapter(build("vit"))({}, batch).keys() == {"pixel_values", "extra"}

    def test_own_columns_come_first(self):
        """Prevents: a teacher's own images thrown away for the student's."""
        own = {"pixel_values": images(seed=9)}

        assert InputAdapter(build("vit"), vit(64), vit())(own, {"pixel_values": images()}) == own

    def test_normalisation_is_the_teachers(self):
        """Prevents: a teacher that sees the student's mean and deviation."""
        adapter = InputAdapter(build("vit"), vit(**IMAGENET), vit())
        image = photograph(50, 70)

        shown = adapter({}, {"pixel_values": vit()(image, return_tensors="pt")["pixel_values"]})["pixel_values"]

        expected = vit(**IMAGENET)(image, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(shown, expected, atol=1e-4, rtol=0)

    def test_size_is_the_teachers(self):
        """Prevents: a teacher run at the student's resolution, or shown a cropped or shifted image."""
        adapter = InputAdapter(build("vit"), vit(48, **IMAGENET), vit(64))
        image = photograph(120, 90)

        shown = adapter({}, {"pixel_values": vit(64)(image, return_tensors="pt")["pixel_values"]})["pixel_values"]

        expected = vit(48, **IMAGENET)(image, return_tensors="pt")["pixel_values"]
        assert shown.shape == expected.shape
        assert (shown - expected).abs().mean() < 0.05 * expected.std()

    def test_teachers_processor_alone_is_refused(self):
        """Prevents: images renormalised from an unknown state."""
        with pytest.raises(ValueError, match="without the student's processing_class"):
            InputAdapter(build("vit"), vit())

    def test_batch_is_left_as_it_was(self):
        """Prevents: a teacher whose adapted images replace the student's."""
        batch = {"pixel_values": images()}
        before = batch["pixel_values"].clone()

        InputAdapter(build("vit"), vit(48, **IMAGENET), vit())({}, batch)

        assert torch.equal(batch["pixel_values"], before)


class TestWhatTheTeacherStates:
    """No `teacher_processing_class`: faults A9 and B23."""

    def shown(self, teacher, student_processor, batch):
        adapter = InputAdapter(teacher, None, student_processor)
        adapter.setup(build("vit"))
        return adapter({}, batch)["pixel_values"]

    def test_timm_teacher_states_its_view(self, caplog):
        """Prevents: a bare timm teacher that is silently shown the student's size and normalisation."""
        teacher = timm.create_model("resnet10t", num_classes=3)
        teacher.pretrained_cfg = {**teacher.pretrained_cfg, "input_size": (3, 48, 48)}
        image = photograph(64, 64)
        batch = {"pixel_values": vit(64)(image, return_tensors="pt")["pixel_values"]}
        expected = InputAdapter(teacher, teacher.pretrained_cfg, vit(64))({}, batch)["pixel_values"]

        shown = self.shown(teacher, vit(64), batch)

        assert shown.shape == (1, 3, 48, 48)
        assert torch.equal(shown, expected)
        mean, std = (torch.tensor(teacher.pretrained_cfg[name]).view(3, 1, 1) for name in ("mean", "std"))
        intensities = TF.resize(batch["pixel_values"] / 2 + 0.5, [48, 48], InterpolationMode.BICUBIC).clamp(0, 1)
        torch.testing.assert_close(shown, (intensities - mean) / std, atol=1e-5, rtol=0)
        assert "48×48 pixels, mean 0.485" in caplog.text
        assert "64×64 pixels, mean 0.5" in caplog.text

    @pytest.mark.parametrize("name", ["nearest", "bilinear", "bicubic", "lanczos"])
    @pytest.mark.parametrize("size", [80, 24])
    def test_own_filter(self, name, size):
        """Prevents: a teacher that is shown the student's images enlarged by another filter than its processor's."""
        noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
        image = noise.resize((48, 48), Image.Resampling.BICUBIC)
        own = vit(size, **IMAGENET, resample=PIL_FILTERS[name])
        expected = own(image, return_tensors="pt")["pixel_values"]
        view = image_view(own)

        shown = InputAdapter(build("vit"), own, vit(48))({}, vit(48)(image, return_tensors="pt"))["pixel_values"]

        error = (view.intensities(shown) - view.intensities(expected)).abs().mean()
        # Of tensors torchvision has no Lanczos: the bicubic filter is next to it.
        assert error < (0.02 if name == "lanczos" else 0.003)

    def test_folder_states_its_view(self, tmp_path, caplog):
        """Prevents: the `preprocessor_config.json` beside a teacher's weights passed over."""
        build("vit").save_pretrained(tmp_path)
        vit(32, **IMAGENET).save_pretrained(tmp_path)
        teacher = AutoModelForImageClassification.from_pretrained(tmp_path)
        batch = {"pixel_values": images()}

        shown = self.shown(teacher, vit(), batch)

        expected = InputAdapter(teacher, vit(32, **IMAGENET), vit())({}, batch)["pixel_values"]
        assert torch.equal(shown, expected)
        assert not torch.equal(shown, batch["pixel_values"])
        assert caplog.text.count("No teacher_processing_class was given") == 1

    def test_equal_statements_leave_the_batch(self, tmp_path, caplog):
        """Prevents: a warning, or rounding, where nothing differs."""
        build("vit").save_pretrained(tmp_path)
        vit().save_pretrained(tmp_path)
        batch = {"pixel_values": images()}

        shown = self.shown(AutoModelForImageClassification.from_pretrained(tmp_path), vit(), batch)

        assert shown is batch["pixel_values"]
        assert not caplog.records

    def test_two_statements_and_no_processor_are_told(self, caplog):
        """Prevents: silence where nothing says how the images were made, and the models state different ways."""
        teacher, student = build("timm_resnet"), build("timm_resnet")
        teacher.pretrained_cfg = {"input_size": [3, 48, 48], "mean": [0.5] * 3, "std": [0.5] * 3}
        student.pretrained_cfg = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3}
        adapter = InputAdapter(teacher)
        adapter.setup(student)
        batch = {"pixel_values": images()}

        assert adapter({}, batch)["pixel_values"] is batch["pixel_values"]
        assert "the teacher 48×48 pixels" in caplog.text
        assert "Give processing_class and teacher_processing_class" in caplog.text

    @pytest.mark.parametrize("name", ["vit", "timm_resnet"])
    def test_grey_student_and_coloured_teacher(self, name):
        """Prevents: a convolution's error for a student of one channel, without a word of the remedy."""
        adapter = InputAdapter(build(name), None, vit(image_mean=[0.5], image_std=[0.5]))
        with pytest.raises(ValueError, match="have 1 channel, and the teacher .* takes 3.*`teacher_pixel_values`"):
            adapter({}, {"pixel_values": torch.zeros(1, 1, 32, 32)})

    def test_the_remedy_makes_grey_and_coloured_images(self):
        """Prevents: a remedy that shows a student of one channel three."""
        transform = DistillationTransform(vit(image_mean=[0.5], image_std=[0.5]), vit(image_mean=[0.5] * 3))
        image = photograph(40, 40)

        shown = transform({"image": [image]})

        assert shown["pixel_values"][0].shape == (1, 32, 32)
        assert shown["teacher_pixel_values"][0].shape == (3, 32, 32)
        grey = vit(image_mean=[0.5], image_std=[0.5])(image.convert("L"), return_tensors="pt")["pixel_values"][0]
        assert (shown["pixel_values"][0] - grey).abs().max() < 0.1
