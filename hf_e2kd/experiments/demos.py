"""Embedded settings, which need no download: those of the recipes, for `hf-e2kd distill --demo NAME`."""

from transformers import BertConfig, ConvNextConfig, ResNetConfig, ViTConfig

from .images import ImageExperiment
from .texts import TextExperiment

VIT_ON_DIGITS = ImageExperiment(
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
"""A ViT and a smaller one on the embedded digits, whose background predicts the class in training and not at test."""

RESNET_ON_DIGITS = ImageExperiment(
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
"""A ResNet and a smaller one on the same digits."""

CONVNEXT_ON_DIGITS = ImageExperiment(
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
"""A ConvNeXt and a smaller one on smaller digits."""

BERT_ON_REVIEWS = TextExperiment(
    teacher=BertConfig(
        hidden_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=192,
        max_position_embeddings=128,
        # So small a model, trained from nothing on clean labels, learns sooner without dropout and from larger weights.
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.05,
    ),
    data={"correlation": 0.9},
    vocab_size=700,
    teacher_training={"num_train_epochs": 6},
    student_training={
        "num_train_epochs": 8,
        "per_device_train_batch_size": 32,
        "learning_rate": 1.5e-3,
        "warmup_steps": 0.1,
        "weight_decay": 0.01,
        "explanation_weight": 1.0,
    },
)
"""A BERT and one of half as many layers on embedded reviews, whose genre predicts the sentiment in training alone."""

DEMOS: dict[str, ImageExperiment | TextExperiment] = {
    "vit": VIT_ON_DIGITS,
    "resnet": RESNET_ON_DIGITS,
    "convnext": CONVNEXT_ON_DIGITS,
    "bert": BERT_ON_REVIEWS,
}
"""Embedded settings by the name that the command line calls them."""
