# /// script
# requires-python = ">=3.10"
# dependencies = ["hf-e2kd"]
# [tool.uv.sources]
# hf-e2kd = { path = "../..", editable = true }
# ///
"""Distil a guided classifier of PASCAL VOC by KD and by e²KD: which student keeps the teacher's localisation?

The teacher is a model of `guide_voc.py`, chosen there by its energy pointing game or by its IoU. Both sides explain a
class that the image shows, drawn anew at each step. Objects flagged as difficult count, as in the paper's code;
--no_difficult leaves them out, as VOC's own scoring does.

    accelerate launch recipes/papers/distill_voc.py --smoke
    accelerate launch recipes/papers/guide_voc.py --data VOCdevkit --year 2012 --model microsoft/resnet-50
    accelerate launch recipes/papers/distill_voc.py --data VOCdevkit --year 2012 \\
        --teacher outputs/guide_voc/guided-42 --student microsoft/resnet-18
"""

from _annotated import VocSource
from _guidance import GuidanceSetting
from _guided_students import run_guided_distillation
from transformers import ResNetConfig

from hf_e2kd.experiments import run_recipe

SETTING = GuidanceSetting(
    source=VocSource,
    training={
        "explanation_target": "label",
        "explanation_weight": 5.0,
        "num_train_epochs": 50,
        "warmup_steps": 0.05,
    },
    smoke_model=ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", downsample_in_first_stage=False
    ),
    smoke_student=ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic", downsample_in_first_stage=False
    ),
    smoke_training={"num_train_epochs": 3, "learning_rate": 5e-3, "per_device_train_batch_size": 8},
)

if __name__ == "__main__":
    run_recipe(run_guided_distillation, SETTING, "distill_voc", __doc__)
