"""The arguments: their defaults, their ranges, and the ways from a command line or a file to them."""

import json

import pytest
from transformers import HfArgumentParser, TrainingArguments
from transformers.trainer_utils import SchedulerType

from hf_e2kd import ExplanationDistillArguments


def parse(tmp_path, *line):
    (parsed,) = HfArgumentParser(ExplanationDistillArguments).parse_args_into_dataclasses(
        ["--output_dir", str(tmp_path), *line]
    )
    return parsed


def test_defaults_are_the_papers(tmp_path):
    """The defaults are e²KD's: no loss on labels; a change would alter every recipe that names none."""
    settings = ExplanationDistillArguments(str(tmp_path))
    assert isinstance(settings, TrainingArguments)
    assert (settings.task_weight, settings.logits_weight, settings.explanation_weight) == (0.0, 1.0, 1.0)
    assert (settings.temperature, settings.explanation_interval, settings.explanation_warmup_ratio) == (1.0, 1, 0.0)
    assert (settings.explainer, settings.explanation_loss) == (None, "cosine")
    assert (settings.explainer_options, settings.explanation_target) == (None, "teacher_top")


@pytest.mark.parametrize(
    ("metric", "greater"),
    [
        ("eval_mae", False),
        ("label_mae", False),
        ("eval_test_zero_student_maps", False),
        ("eval_mae/land", False),
        ("worst_group_mae", False),
        ("eval_worst_group_accuracy", True),
        ("agreement", True),
        ("eval_test_loss", False),
        (None, None),
    ],
)
def test_the_best_checkpoint_is_not_the_worst(tmp_path, metric, greater):
    """Prevents: the largest error of a score chosen as the best, as losses alone are known to be better low."""
    assert ExplanationDistillArguments(str(tmp_path), metric_for_best_model=metric).greater_is_better is greater
    chosen = ExplanationDistillArguments(str(tmp_path), metric_for_best_model=metric, greater_is_better=True)
    assert chosen.greater_is_better is True


PLATEAU = ("reduce_lr_on_plateau", "greedy")


@pytest.mark.parametrize("scheduler", [each.value for each in SchedulerType if each.value in PLATEAU])
def test_a_learning_rate_that_follows_a_metric(tmp_path, scheduler):
    """Prevents: a learning rate that falls because the similarity rises."""
    settings = {"lr_scheduler_type": scheduler, "eval_strategy": "epoch"}
    for metric, mode in (("explanation_similarity", "max"), ("loss", None), (None, None)):
        args = ExplanationDistillArguments(str(tmp_path), metric_for_best_model=metric, **settings)
        assert (args.lr_scheduler_kwargs or {}).get("mode") == mode
    own = {"mode": "min", "patience": 3}
    args = ExplanationDistillArguments(
        str(tmp_path), metric_for_best_model="agreement", lr_scheduler_kwargs=own, **settings
    )
    assert args.lr_scheduler_kwargs == own


def test_command_line(tmp_path):
    """Every argument must be reachable from a command line, options of the explainer included."""
    line = "--task_weight 0.5 --logits_weight 2 --explanation_weight 10 --temperature 5 --explanation_interval 4"
    line += " --explanation_loss mse --explanation_target label --explanation_warmup_ratio 0.1 --explainer gradcam"
    settings = parse(tmp_path, *line.split(), "--explainer_options", '{"target_layer": "resnet.encoder.stages.2"}')
    assert (settings.task_weight, settings.logits_weight, settings.explanation_weight) == (0.5, 2.0, 10.0)
    assert (settings.temperature, settings.explanation_interval, settings.explanation_warmup_ratio) == (5.0, 4, 0.1)
    assert (settings.explanation_loss, settings.explanation_target) == ("mse", "label")
    assert settings.explainer_options == {"target_layer": "resnet.encoder.stages.2"}
    assert parse(tmp_path).explainer_options is None


def test_resuming_that_is_switched_off(tmp_path):
    """Prevents: `resume_from_checkpoint: false` in a file of options, by which recipes went on from the last checkpoint
    and `hf-e2kd distill` looked for one of that name."""
    assert parse(tmp_path, "--resume_from_checkpoint", "false").resume_from_checkpoint is None
    assert parse(tmp_path, "--resume_from_checkpoint", "true").resume_from_checkpoint == "true"


def test_file_and_back(tmp_path):
    """Arguments saved with a run must give the same run: options survive as JSON, not as a string of one."""
    options = {"target_layer": "vit.layers.1.layernorm_before"}
    path = tmp_path / "arguments.json"
    path.write_text(json.dumps({"output_dir": str(tmp_path), "temperature": 4, "explainer_options": options}))
    (settings,) = HfArgumentParser(ExplanationDistillArguments).parse_json_file(path)
    assert settings.explainer_options == options
    assert json.loads(settings.to_json_string())["explainer_options"] == options


def test_integer_weights_become_numbers_with_a_fraction(tmp_path):
    """A hyperparameter search casts to the type it finds: `int(0.5)` would be 0."""
    settings = ExplanationDistillArguments(str(tmp_path), task_weight=1, temperature=4, explanation_warmup_ratio=0)
    for name in ("task_weight", "temperature", "explanation_warmup_ratio"):
        assert type(getattr(settings, name)) is float, name


def test_numbers_as_strings(tmp_path):
    """YAML reads `1e-2` as a string, on which a comparison fails with no word of the argument."""
    settings = ExplanationDistillArguments(
        str(tmp_path),
        **{"task_weight": "1e-2", "temperature": "4", "explanation_interval": "2", "explanation_fraction": ".5"},
        **{"evaluate_explanations": "false", "learning_rate": "1e-3"},
    )
    assert (settings.task_weight, settings.temperature, settings.explanation_fraction) == (0.01, 4.0, 0.5)
    assert (settings.explanation_interval, settings.evaluate_explanations) == (2, False)
    assert type(settings.explanation_interval) is int
    assert settings.learning_rate == 1e-3


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"task_weight": -0.1}, "task_weight must be a finite number of at least 0, not -0.1"),
        ({"logits_weight": float("nan")}, "logits_weight must be a finite number of at least 0, not nan"),
        ({"explanation_weight": -1}, "explanation_weight must be a finite number of at least 0, not -1"),
        ({"temperature": 0}, "temperature must be a finite number above 0, not 0"),
        ({"explanation_interval": 0}, "explanation_interval must be a finite number of at least 1"),
        ({"explanation_weight": float("inf")}, "explanation_weight must be a finite number of at least 0, not inf"),
        ({"temperature": float("inf")}, "temperature must be a finite number above 0, not inf"),
        ({"learning_rate": float("nan")}, "learning_rate must be a finite number of at least 0, not nan"),
        ({"logits_weight": None}, "logits_weight must be a finite number of at least 0, not None"),
        ({"seed": -1}, r"seed must lie in \[0, 2\*\*32\), not -1"),
        ({"iou_threshold": "half"}, "iou_threshold must be a finite number, not 'half'"),
        ({"task_weight": True}, "task_weight must be a finite number of at least 0, not True"),
        ({"explanation_interval": 2.5}, "explanation_interval must be a whole number, not 2.5"),
        ({"explanation_interval": None}, "explanation_interval must be a finite number of at least 1, not None"),
        ({"evaluate_explanations": None}, "evaluate_explanations must be true or false, not None"),
        ({"explanation_warmup_ratio": 1.5}, r"explanation_warmup_ratio must lie in \[0, 1\]"),
        ({"explanation_loss": "cosin"}, "Unknown explanation_loss 'cosin'. Available: cosine, kl, l1, mse, pearson"),
        (
            {"explanation_weight_mode": "relativ"},
            "Unknown explanation_weight_mode 'relativ'. Available: absolute, relative",
        ),
        ({"explanation_weight_mode": None}, "Unknown explanation_weight_mode 'None'. Available: absolute, relative"),
        ({"explanation_weight_interval": 0}, "explanation_weight_interval must be a finite number of at least 1"),
        ({"explanation_target": "top"}, "Unknown explanation_target 'top'. Available: label, teacher_top"),
        ({"explainer": "gradcan"}, "Unknown explainer 'gradcan'. Available: .*gradcam"),
        (
            {"explainer": "gradcam", "explainer_options": {"layer": "x"}},
            "Options {'layer': 'x'} don't fit the explainer 'gradcam'",
        ),
        ({"explainer_options": "{target_layer: x}"}, "explainer_options is not JSON: '{target_layer: x}'"),
        ({"explainer_options": "[1]"}, r"must be a JSON object, not \[1\]"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_wrong_values_are_named(tmp_path, wrong, message):
    """A value outside its range must be refused where it was given, not after hours of training."""
    with pytest.raises(ValueError, match=message):
        ExplanationDistillArguments(str(tmp_path), **wrong)
