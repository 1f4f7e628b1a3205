"""One family of B-cos networks distilled into another by the trainer."""

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForImageClassification

from hf_e2kd.explainers import Bcos
from tests.bcos.networks import network, pixels
from tests.training import distiller, logged


def samples(count: int) -> list[dict]:
    return [{"pixel_values": image} for image in pixels(count)]


def test_a_densenet_teaches_a_vit_by_its_dynamic_weights(tmp_path):
    """Scalar maps compared in place of W(x), or a student that no Auto class loads."""
    teacher, student = network("densenet"), network("vit", seed=1)
    explainer, batch = Bcos(), {"pixel_values": pixels(4)}
    taught = explainer(teacher, batch)
    own = explainer(student.train(), batch, taught.target)
    trainer = distiller(
        student,
        teacher,
        tmp_path,
        {"explainer": "bcos", "max_steps": 1},
        train_dataset=samples(4),
        eval_dataset=samples(4),
    )
    trainer.train()
    similarity = F.cosine_similarity(own.vectors.flatten(1), taught.vectors.flatten(1))
    assert logged(trainer, "loss_explanation") == [pytest.approx(1 - similarity.mean().item(), rel=1e-3)]
    own = explainer(trainer.student.eval(), batch, taught.target)
    similarity = F.cosine_similarity(own.vectors.flatten(1), taught.vectors.flatten(1))
    assert trainer.evaluate()["eval_explanation_similarity"] == pytest.approx(similarity.mean().item(), abs=1e-5)
    trainer.save_model(str(tmp_path / "student"))
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "student")
    with torch.no_grad():
        torch.testing.assert_close(loaded(**batch).logits, trainer.student.eval()(**batch).logits)
