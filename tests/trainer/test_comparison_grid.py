"""The grid on which a training and its evaluation compare maps, against maps that are really enlarged."""

import pytest
import torch
from torch.nn import functional as F

from hf_e2kd import explain
from hf_e2kd.fidelity import FidelityRecord
from hf_e2kd.metrics import energy_pointing_game
from hf_e2kd.terms import explanation_loss
from tests.models import build
from tests.training import distiller, logged, samples


def maps_of(student, teacher, data):
    pixels = torch.stack([sample["pixel_values"] for sample in data])
    taught = explain(teacher, pixels)
    return explain(student.eval(), pixels, target=taught.logits.argmax(1)).maps, taught.maps


def enlarged(maps, size):
    return F.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]


@pytest.mark.parametrize("loss", ["cosine", "kl", "l1", "mse", "pearson"])
@pytest.mark.parametrize(("student", "teacher"), [("vit", "vit"), ("vit", "resnet")])
def test_maps_are_compared_at_the_images_size(tiny, tmp_path, loss, student, teacher):
    """Prevents: a default other than the papers' code, which enlarges both maps to the image."""
    data, teacher = samples(4), build(teacher, seed=1)
    own, taught = maps_of(tiny(student), teacher, data)
    large = [enlarged(maps, (32, 32)) for maps in (own, taught)]
    trainer = distiller(
        tiny(student),
        teacher,
        tmp_path,
        {"max_steps": 1, "explanation_loss": loss, "logits_weight": 0.0},
        train_dataset=data,
        eval_dataset=data,
    )
    expected = explanation_loss(*large, loss)[0].mean().item()

    metrics = trainer.evaluate()
    trainer.train()

    assert metrics["eval_loss"] == pytest.approx(expected, rel=1e-4, abs=1e-6)
    similarity = F.cosine_similarity(*(maps.flatten(1) for maps in large))[taught.flatten(1).any(1)].mean().item()
    assert metrics["eval_explanation_similarity"] == pytest.approx(similarity, abs=1e-6)
    assert logged(trainer, "loss_explanation") == [pytest.approx(expected, rel=1e-4, abs=1e-6)]


def test_the_native_grid_is_an_option(tiny, tmp_path):
    """Prevents: a training or a record of the maps' own grid that can't be made again."""
    data, teacher = samples(4), build("vit", seed=1)
    own, taught = maps_of(tiny("vit"), teacher, data)
    trainer = distiller(tiny("vit"), teacher, tmp_path, {"comparison_grid": "native"}, eval_dataset=data)

    expected = F.cosine_similarity(own.flatten(1), taught.flatten(1)).mean().item()
    assert trainer.evaluate()["eval_explanation_similarity"] == pytest.approx(expected, abs=1e-6)
    record = trainer.measure_fidelity(costs=False, chance=False)
    assert record.figures["explanation_similarity"].value == pytest.approx(expected, abs=1e-6)
    assert record.comparison_grid == "native"
    # Records of the time before the grid could be chosen don't name it.
    stated = {name: value for name, value in record.to_dict().items() if name != "comparison_grid"}
    assert FidelityRecord.from_dict(stated).comparison_grid == "native"


def test_energy_of_maps_of_two_grids_is_that_of_each_map(tmp_path, tiny):
    """Prevents: a map enlarged twice, first to the other model's grid, whose energy isn't 1 − the guidance loss."""
    data, teacher = samples(4, mask=True), build("resnet", seed=1)
    own, taught = maps_of(tiny("vit"), teacher, data)
    masks = torch.stack([sample["mask"] for sample in data]) > 0

    metrics = distiller(tiny("vit"), teacher, tmp_path, eval_dataset=data).evaluate()

    for name, maps in (("energy_pointing_game", own), ("teacher_energy_pointing_game", taught)):
        assert metrics[f"eval_{name}"] == pytest.approx(energy_pointing_game(maps, masks).mean().item(), abs=1e-6)


def test_unknown_grids_are_refused(tiny, tmp_path):
    """Prevents: a misspelt grid that silently compares on another one."""
    with pytest.raises(ValueError, match="Unknown comparison_grid 'teacher'. Available: image, native."):
        distiller(tiny("vit"), build("vit", seed=1), tmp_path, {"comparison_grid": "teacher"})
