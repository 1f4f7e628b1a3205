"""Finds the weight λ of the explanation loss: accuracy, agreement and similarity over λ, as a Pareto front.

Without arguments: the embedded digits on textured backgrounds. The figures of the chosen λ are those it was chosen by;
measure it anew, on other data, before you report it.

    accelerate launch recipes/search_weight.py
    accelerate launch recipes/search_weight.py --weights 0.1 100 --sampler random --trials 20
    accelerate launch recipes/search_weight.py --teacher microsoft/resnet-50 --student microsoft/resnet-18 \\
        --dataset ethz/food101 --output_dir outputs/food101_search
    accelerate launch recipes/search_weight.py --smoke
"""

from transformers import ResNetConfig

from hf_e2kd.studies.weight_search import SearchSetting, run_search

SETTING = SearchSetting(
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
    # As in distill_resnet.py, but for λ.
    input_size=72,
    teacher_training={"num_train_epochs": 2},
    student_training={
        "num_train_epochs": 15,
        "per_device_train_batch_size": 32,
        "learning_rate": 4e-3,
        "warmup_steps": 0.1,
        "weight_decay": 0.05,
    },
)

if __name__ == "__main__":
    run_search(SETTING, "search_weight", __doc__)
