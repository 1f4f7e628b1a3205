"""What can be distilled without a download: by recipes, and by `hf-e2kd distill --demo`."""

from transformers import BertConfig, ViTConfig

from .images import EmbeddedSetting
from .texts import TextSetting

VIT_ON_DIGITS = EmbeddedSetting(
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

BERT_ON_REVIEWS = TextSetting(
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
