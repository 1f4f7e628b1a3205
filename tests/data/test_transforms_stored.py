"""Training from stored maps on augmented images, and mixed images with a live teacher."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2
from transformers import BitImageProcessor, default_data_collator

from hf_e2kd.alignment import sample_maps
from hf_e2kd.data import DistillationTransform, ExplanationMap, JointAugment, MixingCollator
from hf_e2kd.explainers import ExplainedOutput, GradCAM
from hf_e2kd.fidelity import sample_metrics
from hf_e2kd.references import ReferenceOutput
from hf_e2kd.store import StoreError
from hf_e2kd.terms import StepOutput
from hf_e2kd.terms.matching import align_maps
from tests.models import CLASSES, build
from tests.store.stores import PROCESSOR, photographs, store, train
from tests.training import distiller, logged, relative_error, samples

CROPPING = BitImageProcessor(
    size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}, image_mean=[0.5] * 3, image_std=[0.5] * 3
)


@pytest.fixture
def teacher():
    return build("vit", seed=1)


def augmented(augmentation, processor=PROCESSOR, record_view=True):
    data = photographs(8)
    data.set_transform(DistillationTransform(processor, augmentation=augmentation, record_view=record_view))
    return data


def matched(reference, data):
    """The reference's maps as the loss compares them on a grid of 4×4 cells, and which cells count."""
    reference.setup(build("vit"), GradCAM())
    reference_output = reference(
        next(iter(DataLoader(reference.attach(data), batch_size=8, collate_fn=default_data_collator)))
    )
    student = ExplainedOutput(logits=torch.zeros(8, CLASSES), maps=torch.ones(*reference_output.target.shape, 4, 4))
    _, maps, counted = align_maps(student, reference_output)
    return maps, counted


# ---- The same places -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("student", ["vit", "convnext"])
def test_identity_changes_nothing(tmp_path, teacher, student):
    """Prevents: maps resampled, and blurred, where the image isn't moved at all; a column that training drops."""
    reference = store(teacher, photographs(8), tmp_path / "store", processing_class=PROCESSOR)
    # At the image's size, recorded views are enlarged and others not, which differs in the last digit.
    settings = {"max_steps": 2, "comparison_grid": "native"}
    found = [
        train(tmp_path, reference, reference.attach(data), build(student), settings, processing_class=PROCESSOR)
        for data in (augmented(None, record_view=False), augmented(None), augmented(v2.Identity()))
    ]
    assert found[0][0]["loss_explanation"][0] > 0
    for terms, steps, trainer in found[1:]:
        assert trainer.args.remove_unused_columns
        assert terms == found[0][0]
        assert all(map(torch.equal, steps, found[0][1]))


def test_flips_and_workers(tmp_path, teacher):
    """Prevents: a flipped image compared with the map of the image as it was."""
    reference = store(teacher, photographs(8), tmp_path / "store", processing_class=PROCESSOR)
    plain, _ = matched(reference, augmented(None))
    flipped, counted = matched(reference, augmented(v2.RandomHorizontalFlip(1.0)))
    torch.testing.assert_close(flipped, plain.flip(-1))
    assert counted.all()
    found = []
    for own in (
        {"references": {"teacher": reference}},
        {"references": {"teacher": reference}, "settings": {"max_steps": 2, "dataloader_num_workers": 2}},
        # It passes over the column, and explains the image as it is shown.
        {"teacher": teacher},
    ):
        data = reference.attach(augmented(v2.RandomHorizontalFlip(1.0)))
        trainer = distiller(build("vit"), **{"teacher": None, "folder": tmp_path, "train_dataset": data, **own})
        trainer.train()
        found.append(logged(trainer, "loss_explanation"))
    assert found[0] == found[1] != found[2]


def bright(generator):
    """A dark photograph with a bright disc somewhere near its middle."""
    height, width = 120, 200
    y, x = np.mgrid[:height, :width]
    top, left = generator.uniform(0.3, 0.7, 2) * (height, width)
    disc = np.exp(-((y - top) ** 2 + (x - left) ** 2) / (2 * 15**2))
    return Image.fromarray((20 + 230 * disc[..., None].repeat(3, 2)).astype(np.uint8))


AUGMENTATIONS = {
    "none": None,
    "crop and flip": v2.Compose([v2.RandomResizedCrop(64, scale=(0.4, 1.0)), v2.RandomHorizontalFlip()]),
    "affine": v2.RandomAffine(30, translate=(0.1, 0.1), scale=(0.8, 1.2), shear=10),
    "padded crop and colours": v2.Compose([v2.RandomCrop(120, padding=20), v2.ColorJitter(0.2), v2.Grayscale(3)]),
    "crop and RandAugment": v2.Compose(
        [v2.RandomResizedCrop(96, scale=(0.5, 1.0)), JointAugment(v2.RandAugment(num_ops=2, magnitude=9))]
    ),
}


@pytest.mark.parametrize("processor", [PROCESSOR, CROPPING], ids=["squash", "centre crop"])
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_map_and_image_stay_in_register(name, processor, monkeypatch):
    """Prevents: a matrix that leads to the raw image, where the map is of the processor's crop of it."""
    # Operations that turn dark into bright would hide where the disc is.
    space = v2.RandAugment._AUGMENTATION_SPACE
    kept = {key: space[key] for key in ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Contrast")}
    monkeypatch.setattr(v2.RandAugment, "_AUGMENTATION_SPACE", kept)
    generator = np.random.default_rng(0)
    plain = DistillationTransform(processor)
    moving = DistillationTransform(processor, augmentation=AUGMENTATIONS[name], record_view=True)
    torch.manual_seed(0)
    for _ in range(6):
        image = bright(generator)
        maps = F.avg_pool2d(plain({"image": [image]})["pixel_values"][0].mean(0)[None] + 1, 4)
        out = moving({"image": [image]})
        brightness = F.avg_pool2d(out["pixel_values"][0].mean(0)[None] + 1, 4)
        sampled, inside = sample_maps(maps, out["view_matrix"][0][None], (8, 8))
        # Its brightest cell, and all of it, where the map reaches and the image isn't filled.
        values = torch.stack([sampled[inside], brightness[inside]])
        assert inside.float().mean() > 0.2
        assert torch.corrcoef(values)[0, 1] > 0.95
        seen = brightness.where(inside, torch.zeros(())).flatten().argmax()
        assert sampled.flatten()[seen] > 0.8 * sampled[inside].max()


def test_cells_without_a_stored_place_do_not_count(tmp_path, teacher):
    """Prevents: a student taught to look at the edge of a map, continued, or at black corners."""
    reference = store(teacher, photographs(8), tmp_path / "store", processing_class=PROCESSOR)
    maps, counted = matched(reference, augmented(v2.Pad((32, 40, 0, 0))))
    assert counted[:, 2:, 2:].all() and counted.sum() == 8 * 4
    assert not maps[:, :2].any() and not maps[:, :, :2].any() and maps[:, 2:, 2:].any()
    _, none = matched(reference, augmented(v2.RandomAffine(0, translate=(1.0, 1.0), scale=(0.01, 0.01))))
    assert not none.any()


def test_vectors_masks_and_several_targets_move_alike():
    """Prevents: a flip of the scalar maps alone."""
    vectors, maps, mask = torch.rand(2, 6, 4, 4), torch.rand(2, 4, 4), torch.rand(2, 4, 4) > 0.5
    flip = ExplanationMap(torch.zeros(0, 0), (8, 8)).moved((8, 8), [(-1, 0, 8), (0, 1, 0)]).matrix.expand(2, -1, -1)
    reference_output = ReferenceOutput(torch.zeros(2).long(), maps, vectors=vectors, mask=mask, view_matrix=flip)
    student = ExplainedOutput(logits=torch.zeros(2, CLASSES), maps=maps, vectors=vectors)
    _, found, counted = align_maps(student, reference_output)
    assert torch.equal(counted, mask.flip(-1)[:, None].expand(2, 6, 4, 4))
    torch.testing.assert_close(found, vectors.flip(-1) * counted)
    several = ReferenceOutput(torch.zeros(2, 6).long(), vectors, view_matrix=flip)
    _, found, _ = align_maps(ExplainedOutput(logits=torch.zeros(2, CLASSES), maps=vectors), several)
    torch.testing.assert_close(found, vectors.flip(-1))
    # The energy of the reference's map is measured where its object is seen.
    output = StepOutput(torch.zeros(2, CLASSES), {"teacher": student})
    reference_output.mask = None
    left = torch.zeros(2, 4, 4, dtype=torch.bool)
    left[..., :2] = True
    values = sample_metrics(output, {"teacher": reference_output}, {"teacher": None}, {"mask": left})
    energy = values["teacher_energy_pointing_game"]
    torch.testing.assert_close(energy, maps[..., 2:].sum((1, 2)) / maps.sum((1, 2)))


class Own(Dataset):
    """A data set of the user's, which augments image and map together."""

    def __init__(self, attached, augmentation):
        self.attached, self.augmentation = attached, augmentation

    def __len__(self):
        return len(self.attached)

    def __getitem__(self, row):
        sample = self.attached[row]
        pixels = tv_tensors.Image(sample["pixel_values"])
        own = {"pixel_values": pixels, "reference_map": ExplanationMap(sample["reference_map"], pixels.shape[-2:])}
        return self.augmentation({**sample, **own})


def test_a_data_set_of_ones_own(tmp_path, teacher):
    """Prevents: `ExplanationMap`s that only this package's transform can make, or that no loss can read."""
    flip = v2.Compose([v2.RandomHorizontalFlip(1.0), v2.RandomVerticalFlip(1.0)])
    reference = store(teacher, samples(16), tmp_path / "store", dtype="float32")
    found, steps, _ = train(tmp_path, reference, Own(reference.attach(samples(16)), flip))
    flipped = reference.attach(samples(16))
    by_hand = [
        {**sample, **{name: sample[name].flip(-1, -2) for name in ("pixel_values", "reference_map")}}
        for sample in (flipped[row] for row in range(16))
    ]
    expected, expected_steps, _ = train(tmp_path, reference, by_hand)
    assert found["loss_explanation"] == pytest.approx(expected["loss_explanation"], rel=1e-5)
    for one, other in zip(steps, expected_steps, strict=True):
        assert relative_error(one, other) < 1e-5


def test_own_data_set_with_several_targets(tmp_path, teacher):
    """Prevents: maps of several classes taken for packed ones, or the reverse."""
    data = [
        {**sample, "labels": torch.eye(CLASSES)[[number % CLASSES, (number + 1) % CLASSES]].sum(0)}
        for number, sample in enumerate(samples(8))
    ]
    reference = store(teacher, data, tmp_path / "store", target="positives")
    plain, _ = matched(reference, data)
    reference.setup(build("vit"), GradCAM())
    batch = next(iter(DataLoader(Own(reference.attach(data), v2.RandomVerticalFlip(1.0)), batch_size=8)))
    reference_output = reference(batch)
    assert reference_output.maps.shape == (8, 2, 4, 4) and reference_output.view_matrix.shape[::2] == (8, 3)
    _, maps, _ = align_maps(
        ExplainedOutput(logits=torch.zeros(8, CLASSES), maps=torch.ones(8, 2, 4, 4)), reference_output
    )
    torch.testing.assert_close(maps, plain.flip(-2))


# ---- What is refused -------------------------------------------------------------------------------------------------


def test_augmentations_that_are_not_recorded(tmp_path, teacher):
    """Prevents: a store of augmented images, and augmented images compared with maps of images that are not."""
    flip = v2.RandomHorizontalFlip(0.5)
    with pytest.raises(StoreError, match="has an augmentation.*augment in training with `record_view=True`"):
        store(teacher, augmented(flip), tmp_path / "augmented")
    transform = DistillationTransform(PROCESSOR, augmentation=flip)
    with pytest.raises(StoreError, match="has an augmentation"):
        store(teacher, photographs(), tmp_path / "transform", transform=transform)
    reference = store(teacher, photographs(8), tmp_path / "store", processing_class=PROCESSOR)
    data = photographs(8)
    attached = reference.attach(data)
    # Set afterwards, and hidden behind a part.
    data.set_transform(DistillationTransform(PROCESSOR, augmentation=flip))
    for one in (attached, reference.attach(torch.utils.data.Subset(data, range(8)))):
        with pytest.raises(StoreError, match=r"nothing says where in them.*record_view=True"):
            one[0]


class Cut(v2.Transform):
    """Moves images behind torchvision's back."""

    def transform(self, inpt, params):
        return inpt.crop((0, 0, 9, 9)) if isinstance(inpt, Image.Image) else inpt


@pytest.mark.parametrize(
    ("augmentation", "message"),
    [
        (v2.RandAugment(), r"RandAugment transforms an image.*JointAugment\(RandAugment\(...\)\)"),
        (v2.Compose([v2.RandomApply([v2.AugMix()])]), "AugMix transforms an image.*Leave it out"),
        (lambda image: image, "needs an augmentation of torchvision.transforms.v2"),
        (v2.RandomPerspective(p=1.0), "'perspective' moves an image"),
        (Cut(), r"made an image of 9×9 pixels, and told of \(40, 32\)"),
        (v2.CutMix(num_classes=2), "does not support PIL images"),
    ],
    ids=["RandAugment", "AugMix", "function", "perspective", "behind its back", "CutMix"],
)
def test_augmentations_that_can_not_be_recorded(augmentation, message):
    """Prevents: a map left where it was, without a word."""
    with pytest.raises((ValueError, TypeError), match=message):
        augmented(augmentation)[0]


def test_with_a_live_teacher_every_augmentation_stays():
    """Prevents: what a map can't follow refused where no map follows."""
    for augmentation in (v2.RandomPerspective(p=1.0), v2.RandAugment(), lambda image: image.rotate(90)):
        out = DistillationTransform(PROCESSOR, augmentation=augmentation)({"image": photographs(1)["image"]})
        assert out.keys() == {"pixel_values"}


def test_a_rotation_that_enlarges(tmp_path):
    """Prevents: an error at most angles, as Pillow rounds the size of an enlarged image in its own way."""
    image = Image.fromarray(np.zeros((33, 47, 3), dtype=np.uint8))
    for angle in (0, 7, 45, 90, 133, 180, 250):
        turn = v2.Compose([v2.RandomRotation((angle, angle), expand=True), v2.RandomCrop(20)])
        torch.manual_seed(0)
        out = DistillationTransform(PROCESSOR, augmentation=turn, record_view=True)({"image": [image]})
        assert out["view_matrix"][0].isfinite().all()


# ---- Mixed images ----------------------------------------------------------------------------------------------------


class Seen:
    """Keeps the images that a ViT is shown."""

    def __init__(self, model):
        self.batches = []
        model.vit.embeddings.patch_embeddings.projection.register_forward_pre_hook(self.keep)

    def keep(self, module, arguments):
        self.batches.append(arguments[0].detach().clone())


@pytest.mark.parametrize("mixing", [v2.MixUp, v2.CutMix])
def test_a_live_teacher_explains_mixed_images(tmp_path, teacher, mixing):
    """Prevents: a teacher that is shown the images before they were mixed."""
    torch.manual_seed(0)
    two_views = MixingCollator(mixing(num_classes=CLASSES))(
        [{**sample, "teacher_pixel_values": 2 * sample["pixel_values"]} for sample in samples(4)]
    )
    torch.testing.assert_close(two_views["teacher_pixel_values"], 2 * two_views["pixel_values"])
    assert not torch.equal(two_views["pixel_values"], torch.stack([sample["pixel_values"] for sample in samples(4)]))
    assert two_views["labels"].shape == (4, CLASSES) and type(two_views["pixel_values"]) is torch.Tensor

    student = build("vit")
    own, other = Seen(teacher), Seen(student)
    options = {
        "data_collator": MixingCollator(mixing(num_classes=CLASSES)),
        "compute_loss_func": lambda outputs, labels, num_items_in_batch: F.cross_entropy(outputs["logits"], labels),
    }
    trainer = distiller(student, teacher, tmp_path, {"task_weight": 0.5}, **options)
    trainer.train()
    assert len(own.batches) == len(other.batches) == 2 and all(map(torch.equal, own.batches, other.batches))
    for name in ("loss_task", "loss_logits", "loss_explanation"):
        assert all(value > 0 for value in logged(trainer, name))


@pytest.mark.parametrize("mixing", [v2.MixUp, v2.CutMix])
def test_images_of_two_sizes_are_mixed_alike(mixing):
    """Prevents: CutMix's error about sizes, for a teacher that is shown its own; or another part cut out for it."""
    torch.manual_seed(0)
    single = samples(4)
    two_sizes = MixingCollator(mixing(num_classes=CLASSES))(
        [
            {**sample, "teacher_pixel_values": sample["pixel_values"].repeat_interleave(2, 1).repeat_interleave(2, 2)}
            for sample in single
        ]
    )
    student, teacher = two_sizes["pixel_values"], two_sizes["teacher_pixel_values"]
    assert two_sizes.keys() == {"pixel_values", "teacher_pixel_values", "labels"} and type(teacher) is torch.Tensor
    assert not torch.equal(student, torch.stack([sample["pixel_values"] for sample in single]))
    torch.testing.assert_close(teacher, student.repeat_interleave(2, 2).repeat_interleave(2, 3))
    (one,) = single[:1]
    alone = MixingCollator(mixing(num_classes=CLASSES))([{**one, "teacher_pixel_values": torch.ones(3, 48, 48)}])
    assert torch.equal(alone["teacher_pixel_values"][0], torch.ones(3, 48, 48))  # as of a last batch of one image


def test_a_part_that_is_cut_out_is_at_the_same_place_in_smaller_images():
    """Prevents: a teacher's images in which the part that CutMix cuts out lies half a pixel beside the student's."""
    pixels = torch.rand(4, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    own = [{"pixel_values": each, "teacher_pixel_values": each[:, 1::3, 1::3], "labels": 0} for each in pixels]
    for seed in range(8):
        torch.manual_seed(seed)
        mixed = MixingCollator(v2.CutMix(num_classes=CLASSES))(own)
        torch.testing.assert_close(mixed["teacher_pixel_values"], mixed["pixel_values"][..., 1::3, 1::3])


def test_shares_of_classes_are_trained_on(tmp_path, teacher):
    """Prevents: shares of classes rounded to classes, or a loss of their own asked for."""
    mixed = []

    def collator(samples):
        mixed.append(MixingCollator(v2.MixUp(num_classes=CLASSES))(samples))
        return mixed[-1]

    settings = {"task_weight": 0.5, "max_steps": 1, "explanation_weight": 0.0}
    trainer = distiller(build("vit"), teacher, tmp_path, settings, data_collator=collator)
    trainer.train()
    logits = build("vit").train()(mixed[0]["pixel_values"]).logits
    assert (mixed[0]["labels"] % 1).any()
    expected = torch.nn.functional.cross_entropy(logits, mixed[0]["labels"]).item()
    assert logged(trainer, "loss_task") == pytest.approx([expected], rel=1e-4)


def test_mixing_refuses_what_belongs_to_single_images(tmp_path, teacher):
    """Prevents: the first image's map, mask or boxes for a mixture of two."""
    reference = store(teacher, samples(16), tmp_path / "store")
    mixing = v2.MixUp(num_classes=CLASSES)
    by_hand = {"references": {"teacher": reference}, "train_dataset": reference.attach(samples(16))}
    trainer = distiller(
        build("vit"), None, tmp_path, data_collator=lambda rows: mixing(default_data_collator(rows)), **by_hand
    )
    with pytest.raises(StoreError, match="MixUp or CutMix mixed.*live `teacher_model`"):
        trainer.train()
    for data, message in (
        (reference.attach(samples(16)), "has .*'reference_map'.*live teacher"),
        (samples(4, mask=True), r"has \['mask'\]"),
        (samples(4, labels=False), "no column 'labels'"),
    ):
        with pytest.raises(ValueError, match=message):
            MixingCollator(mixing)([data[row] for row in range(4)])
