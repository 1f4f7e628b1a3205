# /// script
# requires-python = ">=3.10"
# dependencies = ["hf-e2kd"]
# [tool.uv.sources]
# hf-e2kd = { path = "../..", editable = true }
# ///
"""Guide a multi-label classifier of PASCAL VOC to look at the annotated objects, beside an unguided one.

The models of the Pareto front over F1, energy pointing game and IoU on validation are kept and measured on the test
split (2007), or on the validation split, where a tenth of the training split selects (2012). Objects flagged as
difficult count, as in the papers' code; --no_difficult leaves them out, as VOC's own scoring does.

    accelerate launch recipes/papers/guide_voc.py --smoke
    accelerate launch recipes/papers/guide_voc.py --data VOCdevkit --model microsoft/resnet-50
    accelerate launch recipes/papers/guide_voc.py --data VOCdevkit --model microsoft/resnet-50 --guidance_loss l1 \\
        --explainer input_x_gradient --layer mid --annotated 0.1 --dilation 0.25 --select localization_iou
"""

from _annotated import VocSource
from _guidance import GuidanceSetting
from _guide import run_guidance
from transformers import ResNetConfig

from hf_e2kd.experiments import run_recipe

SETTING = GuidanceSetting(
    source=VocSource,
    training={
        "task_weight": 1.0,
        "logits_weight": 0.0,
        "explanation_weight": 0.064,
        "num_train_epochs": 50,
        "eval_strategy": "epoch",
        "lr_scheduler_type": "constant",
    },
    smoke_model=ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", downsample_in_first_stage=False
    ),
    smoke_training={
        "explanation_weight": 1.0,
        "num_train_epochs": 3,
        "learning_rate": 5e-3,
        "per_device_train_batch_size": 8,
    },
)

if __name__ == "__main__":
    run_recipe(run_guidance, SETTING, "guide_voc", __doc__)
