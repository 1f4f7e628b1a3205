"""Stored maps and the images that they are of, through every augmentation."""

import copy
import pickle

import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader, default_collate
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF
from torchvision.transforms.v2.functional._utils import _KERNEL_REGISTRY
from transformers import default_data_collator

from hf_e2kd.alignment import sample_maps
from hf_e2kd.data import ExplanationMap, JointAugment
from hf_e2kd.data.explanation_map import ALLOWED, ExplanationMapBesidePillow
from hf_e2kd.data.joint_augment import AUTO_AUGMENTS, GEOMETRIC, PHOTOMETRIC

HEIGHT, WIDTH = 301, 403


@pytest.fixture
def maps():
    return torch.rand(6, 8, generator=torch.Generator().manual_seed(0))


def shown(maps, size=(HEIGHT, WIDTH)):
    """The map blown up to an image (1, height, width), positive everywhere, so that 0 is what a transform fills."""
    return F.interpolate(maps[None, None], size, mode="bilinear", align_corners=False)[0] + 1


def apply(transform, image, place, seed=1):
    torch.manual_seed(seed)
    return transform(image, place)


# ---- What is followed ------------------------------------------------------------------------------------------------

FOLLOWED = {
    "identity": v2.Identity(),
    "horizontal flip": v2.RandomHorizontalFlip(1.0),
    "vertical flip": v2.RandomVerticalFlip(1.0),
    "crop": v2.RandomCrop(200),
    "crop of padded": v2.RandomCrop(320, pad_if_needed=True),
    "resize": v2.Resize((120, 160)),
    "shorter edge": v2.Resize(150),
    "longer edge": v2.Resize(size=None, max_size=200),
    "pad one": v2.Pad(7),
    "pad two": v2.Pad((10, 20)),
    "pad four": v2.Pad((10, 20, 30, 40)),
    "zoom out": v2.RandomZoomOut(p=1.0),
    "centre crop": v2.CenterCrop(200),
    "centre crop, larger": v2.CenterCrop((350, 450)),
    "centre crop, odd": v2.CenterCrop((350, 300)),
    "resized crop": v2.RandomResizedCrop(224),
    "rotate": v2.RandomRotation((30, 30)),
    "rotate, larger": v2.RandomRotation((30, 30), expand=True),
    "rotate about a point": v2.RandomRotation((-50, -50), center=(10, 50)),
    "rotate about a point, larger": v2.RandomRotation((77, 77), center=(10, 50), expand=True),
    "rotate by 90": v2.RandomRotation((90, 90), expand=True),
    "rotate by 180": v2.RandomRotation((180, 180)),
    "affine": v2.RandomAffine(20, translate=(0.2, 0.1), scale=(0.5, 1.5), shear=(5, 10, -8, 20)),
    "affine about a point": v2.RandomAffine((40, 40), center=(20, 100), shear=(12, 12)),
    "several": v2.Compose([v2.RandomResizedCrop(224), v2.RandomRotation(40), v2.RandomHorizontalFlip(1.0), v2.Pad(9)]),
}


@pytest.mark.parametrize("of_pillow", [False, True], ids=["tensor", "Pillow"])
@pytest.mark.parametrize("name", FOLLOWED)
def test_map_is_where_torchvision_moves_its_picture(maps, name, of_pillow):
    """Prevents: a map turned the other way, shifted by half a cell, or read where the image was filled."""
    image = tv_tensors.Image(shown(maps))
    if of_pillow:
        image = Image.fromarray(image[0].numpy(), mode="F")
    moved, place = apply(FOLLOWED[name], image, ExplanationMap(maps, (HEIGHT, WIDTH)))
    moved = TF.pil_to_tensor(moved) if of_pillow else moved
    assert place.canvas_size == tuple(moved.shape[-2:])
    sampled, inside = sample_maps(place.maps[None], place.matrix[None], place.canvas_size)
    seen = moved[0] != 0
    assert (inside[0] == seen).float().mean() > 0.998
    errors = ((sampled[0] + 1 - moved[0]).abs())[seen & inside[0]]
    # Rotations take the nearest pixel, and a cell has fifty.
    assert errors.median() < 0.003 and errors.quantile(0.99) < 0.01


@pytest.mark.parametrize("of_pillow", [False, True], ids=["tensor", "Pillow"])
def test_larger_canvas_is_the_images(of_pillow):
    """Prevents: a canvas of one pixel more or less than the image's, as that of boxes is at many an angle."""
    image = Image.new("L", (50, 40)) if of_pillow else tv_tensors.Image(torch.zeros(1, 40, 50))
    kind = ExplanationMapBesidePillow if of_pillow else ExplanationMap
    for angle in range(-170, 180, 17):
        moved, place = v2.RandomRotation((angle, angle), expand=True)(image, kind(torch.zeros(0, 0), (40, 50)))
        assert place.canvas_size == tuple(TF.get_size(moved))


@pytest.mark.parametrize("seed", range(3))
def test_sampling_once_equals_enlarging_cropping_and_shrinking(maps, seed):
    """Prevents: another map than by the paper's protocol, which blows each map up and crops it with the image."""
    crop = v2.Compose([v2.RandomResizedCrop(224, scale=(0.35, 1.0), antialias=False), v2.RandomHorizontalFlip()])
    large, place = apply(crop, tv_tensors.Image(shown(maps) - 1), ExplanationMap(maps, (HEIGHT, WIDTH)), seed)
    expected = F.interpolate(large[None], (7, 7), mode="bilinear", align_corners=False)[0, 0]
    sampled, inside = sample_maps(maps[None], place.matrix[None], (7, 7))
    assert inside.all()
    assert (sampled[0] - expected).abs().max() < 0.02
    assert F.cosine_similarity(sampled.flatten(), expected.flatten(), dim=0) > 0.9999


def test_corners_filled_before_a_later_crop_are_forgotten():
    """Prevents: borders that pile up over a long augmentation until there is no room."""
    place = ExplanationMap(torch.zeros(0, 0), (100, 100))
    for _ in range(30):
        place = TF.center_crop(TF.resize(TF.rotate(place, 10), [160, 160]), [100, 100])
        assert not place.matrix[4:].any()
    for angle in range(1, 9):
        place = TF.rotate(place, angle)
    with pytest.raises(ValueError, match="can follow 8 rotations"):
        TF.rotate(TF.rotate(place, 9), 11)


def test_several_maps(maps):
    """Prevents: maps of several targets, each with a matrix of its own."""
    several = torch.stack([maps, 2 * maps])
    moved = TF.horizontal_flip(ExplanationMap(several, (40, 50)))
    assert torch.equal(moved.maps, several)
    assert torch.equal(moved.matrix[0], moved.matrix[1])
    assert torch.equal(moved.matrix[0], TF.horizontal_flip(ExplanationMap(maps, (40, 50))).matrix)


# ---- What is refused, and what is passed over ------------------------------------------------------------------------


@pytest.mark.parametrize("transform", [v2.RandomPerspective(p=1.0), v2.ElasticTransform()])
def test_other_geometry_is_refused(maps, transform):
    """Prevents: a map that stays where it is while its image is bent."""
    image, name = tv_tensors.Image(torch.rand(3, 40, 50)), type(transform).__name__.removeprefix("Random")[:7].lower()
    with pytest.raises(ValueError, match=f"'{name}.*' moves an image.*Allowed: affine, center_crop, crop,.*rotate"):
        transform(image, ExplanationMap(maps, (40, 50)))


@pytest.mark.parametrize("crop", ["FiveCrop", "TenCrop"])
def test_several_crops_are_refused(maps, crop):
    """Prevents: one map beside five images."""
    place = ExplanationMap(maps, (40, 50))
    with pytest.raises(TypeError, match=f"not supported by {crop}"):
        getattr(v2, crop)(20)(tv_tensors.Image(torch.rand(3, 40, 50)), place)
    with pytest.raises(ValueError, match="moves an image"):
        (TF.five_crop if crop == "FiveCrop" else TF.ten_crop)(place, [20, 20])


def test_every_geometric_functional_is_decided_on():
    """Prevents: a transform that torchvision adds, or treats a mask by, and that a map would pass unchanged."""
    geometric = {own for own in _KERNEL_REGISTRY if own.__module__.endswith("_geometry")}
    of_masks = {own for own, kernels in _KERNEL_REGISTRY.items() if tv_tensors.Mask in kernels}
    assert {own.__name__ for own in geometric} >= set(ALLOWED)
    for functional in geometric | of_masks:
        assert ExplanationMap in _KERNEL_REGISTRY[functional], functional


@pytest.mark.parametrize("kind", [*AUTO_AUGMENTS, v2.AugMix], ids=lambda kind: kind.__name__)
def test_automatic_augmentations_refuse_maps(maps, kind):
    """Prevents: RandAugment that turns the image alone."""
    image = tv_tensors.Image(torch.randint(0, 256, (3, 40, 50), dtype=torch.uint8))
    with pytest.raises(TypeError, match="ExplanationMap are not supported"):
        kind()(image, ExplanationMap(maps, (40, 50)))


@pytest.mark.parametrize("kind", [v2.MixUp, v2.CutMix])
def test_mixing_refuses_maps(maps, kind):
    """Prevents: two images mixed under one's map."""
    images, labels = tv_tensors.Image(torch.rand(2, 3, 40, 50)), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="does not support"):
        kind(num_classes=2)(images, labels, ExplanationMap(torch.stack([maps, maps]), (40, 50)))


def test_wrong_canvas(maps):
    """Prevents: a map of another image, where torchvision looks at sizes."""
    with pytest.raises(ValueError, match="multiple HxW"):
        v2.RandomCrop(10)(tv_tensors.Image(torch.rand(3, 40, 50)), ExplanationMap(maps, (50, 40)))
    with pytest.raises(ValueError, match=r"shape \(..., height, width\), not \(6,\)"):
        ExplanationMap(torch.rand(6), (40, 50))


def test_photometric_transforms_pass_it_over(maps):
    """Prevents: a map that is blurred, normalised or rounded to bytes with its image."""
    photometric = v2.Compose(
        [
            *(v2.ColorJitter(0.5, 0.5, 0.5, 0.2), v2.GaussianBlur(5), v2.RandomGrayscale(1.0), v2.RandomInvert(1.0)),
            *(v2.RandomPosterize(3, p=1.0), v2.RandomSolarize(100, p=1.0), v2.RandomEqualize(1.0)),
            *(v2.RandomAutocontrast(1.0), v2.RandomAdjustSharpness(2, p=1.0), v2.RandomChannelPermutation()),
            *(v2.ToDtype(torch.float32, scale=True), v2.GaussianNoise(), v2.Normalize([0.5] * 3, [0.5] * 3)),
            v2.ToDtype({tv_tensors.Image: torch.float32, "others": torch.uint8}),
        ]
    )
    image = tv_tensors.Image(torch.randint(0, 256, (3, 40, 50), dtype=torch.uint8))
    given = ExplanationMap(maps, (40, 50))
    changed, place = photometric(image, given)
    assert not torch.equal(changed, image)
    assert torch.equal(place, given) and isinstance(place, ExplanationMap)


# ---- What survives ---------------------------------------------------------------------------------------------------


def test_everything_is_in_the_numbers(maps):
    """Prevents: a matrix that is lost, as attributes are, on the way to the loss."""
    moved = TF.resized_crop(ExplanationMap(maps, (40, 50)), 3, 4, 20, 30, [32, 32])
    copies = [
        *(moved.clone(), moved.to(torch.float64), copy.deepcopy(moved), pickle.loads(pickle.dumps(moved))),
        *(default_collate([moved, moved])[1], default_data_collator([{"map": moved}])["map"][0]),
        next(iter(DataLoader([moved, moved, moved], batch_size=3, num_workers=1)))[2],
        torch.stack([moved, moved]).contiguous()[0],
    ]
    for one in copies:
        again = one.as_subclass(ExplanationMap)
        torch.testing.assert_close(again.maps.float(), maps)
        torch.testing.assert_close(again.matrix.float(), moved.matrix)
        assert again.canvas_size == (32, 32)
    assert tv_tensors.wrap(moved.clone(), like=moved).canvas_size == (32, 32)


# ---- RandAugment and its like ----------------------------------------------------------------------------------------


def every_operation(kind):
    names = set(kind._AUGMENTATION_SPACE) if hasattr(kind, "_AUGMENTATION_SPACE") else set()
    return names | {name for policy in getattr(kind(), "_policies", ()) for name, _, _ in policy}


@pytest.mark.parametrize("kind", AUTO_AUGMENTS, ids=lambda kind: kind.__name__)
def test_every_operation_is_known(kind):
    """Prevents: a new operation that moves the image alone."""
    assert every_operation(kind) and every_operation(kind) <= GEOMETRIC | PHOTOMETRIC


@pytest.mark.parametrize("of_pillow", [False, True], ids=["tensor", "Pillow"])
@pytest.mark.parametrize("operation", sorted(GEOMETRIC | PHOTOMETRIC))
def test_automatic_augmentation_moves_what_belongs_to_the_image(maps, operation, of_pillow, monkeypatch):
    """Prevents: maps, masks and boxes that stay behind, or colours changed in a mask."""
    space = v2.TrivialAugmentWide._AUGMENTATION_SPACE | v2.AutoAugment._AUGMENTATION_SPACE
    monkeypatch.setattr(v2.RandAugment, "_AUGMENTATION_SPACE", {operation: space[operation]})
    picture = (100 * shown(maps)).to(torch.uint8).expand(3, -1, -1)
    image = TF.to_pil_image(picture) if of_pillow else tv_tensors.Image(picture)
    mask = tv_tensors.Mask(torch.ones(1, HEIGHT, WIDTH, dtype=torch.uint8))
    boxes = tv_tensors.BoundingBoxes([[100, 100, 200, 150]], format="XYXY", canvas_size=(HEIGHT, WIDTH))
    sample = {"image": image, "mask": mask, "boxes": boxes, "map": ExplanationMap(maps, (HEIGHT, WIDTH)), "label": 3}
    torch.manual_seed(2)  # two moves to one side
    out = JointAugment(v2.RandAugment(num_ops=2, magnitude=9))(sample)
    assert out["label"] == 3 and type(out["image"]) is type(image)
    if operation in PHOTOMETRIC:
        assert all(torch.equal(out[name], sample[name]) for name in ("mask", "boxes", "map"))
        return
    moved = TF.pil_to_tensor(out["image"]) if of_pillow else out["image"]
    seen = moved[0] != 0
    assert 0.5 < seen.float().mean() < 0.99
    sampled, inside = sample_maps(maps[None], out["map"].matrix[None], (HEIGHT, WIDTH))
    assert (inside[0] == seen).float().mean() > 0.995 and ((out["mask"][0] > 0) == seen).float().mean() > 0.999
    assert (100 * (sampled[0] + 1) - moved[0])[seen & inside[0]].abs().median() < 1.5
    assert not torch.equal(out["boxes"], boxes)


def test_fill_is_the_images(maps):
    """Prevents: a mask filled with a colour."""
    augment = JointAugment(v2.TrivialAugmentWide(fill=[120.0, 130.0, 140.0]))
    mask = tv_tensors.Mask(torch.ones(40, 50, dtype=torch.uint8))
    for seed in range(10):
        torch.manual_seed(seed)
        image, own, place = augment(Image.new("RGB", (50, 40)), mask, ExplanationMap(maps, (40, 50)))
        assert set(own.unique().tolist()) <= {0, 1} and place.canvas_size == (image.height, image.width)


def test_only_what_draws_is_wrapped():
    """Prevents: AugMix, which blends images that were moved differently."""
    with pytest.raises(ValueError, match="takes RandAugment, TrivialAugmentWide, AutoAugment, not AugMix"):
        JointAugment(v2.AugMix())
    with pytest.raises(ValueError, match="one image, not 2"):
        JointAugment(v2.RandAugment())(tv_tensors.Image(torch.rand(3, 8, 8)), tv_tensors.Image(torch.rand(3, 8, 8)))
