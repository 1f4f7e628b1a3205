"""What `import hf_e2kd` and `hf-e2kd --help` import, and that what is imported later is there when it is needed.

Both are looked at in a fresh process: other tests have imported everything.
"""

import ast
import inspect
import subprocess
import sys

import pytest
from transformers import AutoModelForImageClassification

import hf_e2kd
from hf_e2kd.cli import COMMANDS, load_command, main

USED_LATER = ("evaluate", "gradio", "matplotlib", "optuna", "scipy.stats", "sklearn", "timm")
"""Packages that some functions alone need, and that transformers' `Trainer` doesn't import either."""


def in_fresh_process(code: str) -> str:
    code = f"import gc; gc.disable()\n{code}"  # which would take a third of the imports' time
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_public_names():
    """Prevents: a public name that type checkers see and Python doesn't, or the other way round."""
    (block,) = (node for node in ast.parse(inspect.getsource(hf_e2kd)).body if isinstance(node, ast.If))
    seen = {alias.name: f".{node.module}" for node in block.body for alias in node.names}
    assert seen == hf_e2kd._MODULES and sorted(seen) == sorted(hf_e2kd.__all__)
    assert [getattr(hf_e2kd, name).__name__ for name in hf_e2kd.__all__] == hf_e2kd.__all__
    assert set(hf_e2kd.__all__) <= set(dir(hf_e2kd))
    with pytest.raises(AttributeError, match="module 'hf_e2kd' has no attribute 'Trainer'"):
        hf_e2kd.Trainer  # noqa: B018


def test_heavy_modules_are_imported_where_they_are_used(tmp_path):
    """Prevents: seconds of imports before a list of commands, packages imported that a training doesn't need, and
    families or explainers unknown, as nothing has imported their modules; the Auto classes, or GradCAM, not knowing the
    papers' networks for the same reason."""
    config = hf_e2kd.models.BcosResNetConfig(hidden_sizes=[8, 8], depths=[1, 1], num_labels=2)
    AutoModelForImageClassification.from_config(config).save_pretrained(tmp_path)
    out = in_fresh_process(f"""
import os, sys

def imported(*names):
    return [name for name in (*names, *{USED_LATER}) if name in sys.modules]

import hf_e2kd
assert not imported("torch", "transformers", "datasets", "pandas", "torchvision"), "import hf_e2kd"

from hf_e2kd.cli import main
try:
    main(["--help"])
except SystemExit as end:
    assert end.code == 0
assert not imported("torch", "transformers", "datasets", "pandas", "torchvision"), "hf-e2kd --help"

from transformers import Trainer
with_the_trainer = imported()

print()
sys.stdout.flush()
child = os.fork()  # in which nothing of the package is imported yet, as below
if not child:
    import torch
    model = hf_e2kd.load_student({str(tmp_path)!r}).model
    maps = [hf_e2kd.explain(model, torch.rand(1, 3, 64, 64), name).maps for name in ("bcos", "gradcam")]
    print(type(model).__name__, *(each.shape[-1] for each in maps), flush=True)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print(*hf_e2kd.available_architectures())
print(*hf_e2kd.available_explanation_losses())
print(*hf_e2kd.available_guidance_losses())
print(*hf_e2kd.available_explainers())
from hf_e2kd import *
assert hf_e2kd.trainer.ExplanationDistillTrainer is ExplanationDistillTrainer and hf_e2kd.explainers.explain is explain
assert imported() == with_the_trainer, imported()
""")
    help_page, _, found = out.rpartition("\n\n")
    listed = [line.split()[0] for line in help_page.split("Commands:\n")[1].splitlines() if line[2] != " "]
    assert listed == list(COMMANDS)
    explained, *lists = found.splitlines()
    architectures, losses, guidance, explainers = (line.split() for line in lists)
    assert architectures == hf_e2kd.available_architectures()
    assert losses == hf_e2kd.available_explanation_losses()
    assert guidance == hf_e2kd.available_guidance_losses()
    assert explainers == hf_e2kd.available_explainers()
    assert explained == "BcosResNetForImageClassification 64 8"


def test_commands():
    """Prevents: a command that isn't listed, or whose line isn't its docstring's first."""
    for name, line in COMMANDS.items():
        command = load_command(name)
        assert command.help.split("\n\n")[0].replace("\n", " ") == line and command.name == name


def test_wrong_command(capsys):
    with pytest.raises(SystemExit) as raised:
        main(["viewe"])
    assert raised.value.code == 2
    # Some versions of typer repeat the suggestion that click makes.
    assert "Error: No such command 'viewe'. Did you mean 'viewer'?" in capsys.readouterr().err
