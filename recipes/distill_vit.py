"""Distils a ViT into a smaller ViT that looks where its teacher looks (GradCAM), beside plain distillation.

Without arguments: the embedded digits on textured backgrounds, in which the background predicts the class in the
student's training data and not at test. With --teacher, --student and --dataset: any image classifiers and images.

    accelerate launch recipes/distill_vit.py
    accelerate launch recipes/distill_vit.py --seeds 3
    accelerate launch recipes/distill_vit.py --teacher google/vit-base-patch16-224 \\
        --student WinKawaks/vit-tiny-patch16-224 --dataset ethz/food101 --output_dir outputs/food101
"""

from transformers import ViTConfig

from hf_e2kd.studies import EmbeddedSetting, run_side_by_side

SETTING = EmbeddedSetting(
    teacher=ViTConfig(
        image_size=36, patch_size=6, hidden_size=64, num_hidden_layers=4, num_attention_heads=4, intermediate_size=128
    ),
    student=ViTConfig(
        image_size=36, patch_size=6, hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96
    ),
    data={
        "image_size": 36,
        "digit_size": 32,
        "wavelength": (3.0, 5.0),
        "contrast": 0.5,
        "correlation": 0.98,
        "sizes": {"teacher_train": 8000, "student_train": 2000, "validation": 0},
    },
    teacher_training={"num_train_epochs": 10},
    student_training={
        "num_train_epochs": 15,
        "per_device_train_batch_size": 32,
        "learning_rate": 3e-3,
        "warmup_steps": 0.1,
        "weight_decay": 0.05,
        "explanation_weight": 5.0,
    },
)

if __name__ == "__main__":
    run_side_by_side(SETTING, "distill_vit", __doc__)
