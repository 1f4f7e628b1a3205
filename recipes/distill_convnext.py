"""Distils a ConvNeXt into a smaller ConvNeXt that looks where its teacher looks (GradCAM), beside plain distillation.

Without arguments: the embedded digits on textured backgrounds, in which the background predicts the class in the
student's training data and not at test. With --teacher, --student and --dataset: any image classifiers and images.

    accelerate launch recipes/distill_convnext.py
    accelerate launch recipes/distill_convnext.py --seeds 3
    accelerate launch recipes/distill_convnext.py --teacher facebook/convnext-tiny-224 \\
        --student facebook/convnextv2-atto-1k-224 --dataset ethz/food101 --output_dir outputs/food101
"""

from transformers import ConvNextConfig

from hf_e2kd.studies import EmbeddedSetting, run_side_by_side

SETTING = EmbeddedSetting(
    # The usual layer scale of 1e-6 is for deep networks; shallow ones learn faster without.
    teacher=ConvNextConfig(
        num_stages=2, patch_size=2, hidden_sizes=[32, 64], depths=[2, 2], layer_scale_init_value=1.0
    ),
    student=ConvNextConfig(
        num_stages=2, patch_size=2, hidden_sizes=[16, 32], depths=[1, 1], layer_scale_init_value=1.0
    ),
    data={
        "image_size": 36,
        "digit_size": 26,
        "wavelength": (3.0, 5.0),
        "contrast": 0.7,
        "correlation": 0.95,
        "sizes": {"teacher_train": 8000, "student_train": 2000, "validation": 0},
    },
    teacher_training={"num_train_epochs": 3},
    student_training={
        "num_train_epochs": 10,
        "per_device_train_batch_size": 32,
        "learning_rate": 4e-3,
        "warmup_steps": 0.1,
        "weight_decay": 0.05,
        "explanation_weight": 5.0,
    },
)

if __name__ == "__main__":
    run_side_by_side(SETTING, "distill_convnext", __doc__)
