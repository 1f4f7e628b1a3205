# /// script
# requires-python = ">=3.10"
# dependencies = ["hf-e2kd"]
# [tool.uv.sources]
# hf-e2kd = { path = "../..", editable = true }
# ///
"""Guide a multi-label classifier of MS COCO to look at the annotated objects, beside an unguided one.

COCO's validation split is the test; a tenth of its training split selects the models of the Pareto front over F1,
energy pointing game and IoU.

    accelerate launch recipes/papers/guide_coco.py --smoke
    accelerate launch recipes/papers/guide_coco.py --data COCO --model microsoft/resnet-50
    accelerate launch recipes/papers/guide_coco.py --data COCO --model microsoft/resnet-50 --voc_classes \\
        --guidance_loss ppce
"""

from _annotated import CocoSource
from _guidance import GuidanceSetting
from _guide import run_guidance
from transformers import ResNetConfig

from hf_e2kd.experiments import run_recipe

SETTING = GuidanceSetting(
    source=CocoSource,
    training={
        "task_weight": 1.0,
        "logits_weight": 0.0,
        "explanation_weight": 0.064,
        "num_train_epochs": 30,
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
    run_recipe(run_guidance, SETTING, "guide_coco", __doc__)
