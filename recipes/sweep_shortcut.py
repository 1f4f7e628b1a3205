"""What passes from teachers to students where a shortcut pays: the embedded digits, whose background tells the class.

Three teachers (neutral; guided to the digit by masks; one that looks at the background), each with students by KD and
by e²KD, over the share of the training images in which the background tells the class. Measured out of distribution,
where it says nothing.

    accelerate launch recipes/sweep_shortcut.py
    accelerate launch recipes/sweep_shortcut.py --teachers neutral --correlations 0.8 0.9 0.95 --seeds 3
    accelerate launch recipes/sweep_shortcut.py --smoke
"""

from transformers import ResNetConfig

from hf_e2kd.studies import EmbeddedSetting
from hf_e2kd.studies.shortcuts import run_shortcuts

SETTING = EmbeddedSetting(
    teacher=ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic", downsample_in_first_stage=False
    ),
    student=ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", downsample_in_first_stage=False
    ),
    # As in distill_resnet.py.
    data={
        "image_size": 36,
        "digit_size": 32,
        "wavelength": (3.0, 5.0),
        "contrast": 0.5,
        "correlation": 0.9,
        "sizes": {"teacher_train": 8000, "student_train": 2000, "validation": 0},
    },
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
    run_shortcuts(SETTING, "sweep_shortcut", __doc__)
