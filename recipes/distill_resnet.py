"""Distils a ResNet into a smaller ResNet that looks where its teacher looks (GradCAM), beside plain distillation.

Without arguments: the embedded digits on textured backgrounds, in which the background predicts the class in the
student's training data and not at test. With --teacher, --student and --dataset: any image classifiers and images.

    accelerate launch recipes/distill_resnet.py
    accelerate launch recipes/distill_resnet.py --seeds 3
    accelerate launch recipes/distill_resnet.py --teacher microsoft/resnet-50 \\
        --student microsoft/resnet-18 --dataset ethz/food101 --output_dir outputs/food101
"""

from transformers import ResNetConfig

from hf_e2kd.studies import EmbeddedSetting, run_side_by_side

SETTING = EmbeddedSetting(
    teacher=ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic", downsample_in_first_stage=False
    ),
    student=ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", downsample_in_first_stage=False
    ),
    data={
        "image_size": 36,
        "digit_size": 32,
        "wavelength": (3.0, 5.0),
        "contrast": 0.5,
        "correlation": 0.9,
        "sizes": {"teacher_train": 8000, "student_train": 2000, "validation": 0},
    },
    # The stem halves twice and the second stage once more: 72 pixels leave a grid of 9×9 cells.
    input_size=72,
    teacher_training={"num_train_epochs": 2},
    student_training={
        "num_train_epochs": 15,
        "per_device_train_batch_size": 32,
        "learning_rate": 4e-3,
        "warmup_steps": 0.1,
        "weight_decay": 0.05,
        "explanation_weight": 5.0,
    },
)

if __name__ == "__main__":
    run_side_by_side(SETTING, "distill_resnet", __doc__)
