"""Experiments: several students side by side, over several seeds, with a table of their figures."""

from .command_line import command_line, run_recipe, surroundings
from .distillation import Distillation, explainer_of, replace_arguments, train_on_labels, use_one_thread
from .experiment import Comparison, Experiment, parse_experiment
from .fitted_head import fit_head
from .images import ImageExperiment, crop_and_flip, draw_explanations
from .models import (
    create_student,
    keep_classes,
    label_settings,
    load_teacher,
    load_text_classifier,
    load_trained,
    load_weights,
    shallow_copy_of,
)
from .processors import load_processor, processor_like
from .results import collect_results, markdown_table, measured_metrics, write_results
from .run import run_experiment, run_variants
from .student_card import generated_data, with_word_plots
from .texts import TextExperiment
from .words import WordStudy
from .zero_shot import zero_shot_teacher

__all__ = [
    "Comparison",
    "Distillation",
    "Experiment",
    "ImageExperiment",
    "TextExperiment",
    "WordStudy",
    "collect_results",
    "command_line",
    "create_student",
    "crop_and_flip",
    "draw_explanations",
    "explainer_of",
    "fit_head",
    "generated_data",
    "keep_classes",
    "label_settings",
    "load_processor",
    "load_teacher",
    "load_text_classifier",
    "load_trained",
    "load_weights",
    "markdown_table",
    "measured_metrics",
    "parse_experiment",
    "processor_like",
    "replace_arguments",
    "run_experiment",
    "run_recipe",
    "run_variants",
    "shallow_copy_of",
    "surroundings",
    "train_on_labels",
    "use_one_thread",
    "with_word_plots",
    "write_results",
    "zero_shot_teacher",
]
