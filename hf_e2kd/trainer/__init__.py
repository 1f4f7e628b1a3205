"""Distillation in transformers' `Trainer`: the loop, its arguments, checkpoints and publishing."""

from .arguments import ExplanationDistillArguments
from .trainer import ExplanationDistillTrainer

__all__ = ["ExplanationDistillArguments", "ExplanationDistillTrainer"]
