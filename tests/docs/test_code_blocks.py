"""Every code block of the pages runs: Python as it stands, command lines as far as their parsers."""

import doctest
import os
import re
import subprocess
from pathlib import Path

import pytest

from hf_e2kd.architectures import base as architectures
from hf_e2kd.explainers import registry as explainers
from hf_e2kd.models import XDistillationConfig, XDistillationForImageClassification
from hf_e2kd.terms import guidance, logits, maps
from hf_e2kd.terms import registry as terms
from tests.docs.commands import ROOT, check_line, check_shell
from tests.docs.stand_ins import SETS
from tests.hub.conftest import hub, waits  # noqa: F401

FOLDERS = (".", "docs", "recipes", "recipes/benchmarks", "recipes/results")
PAGES = sorted(str(path.relative_to(ROOT)) for folder in FOLDERS for path in (ROOT / folder).glob("*.md"))
CARDS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "hf_e2kd/metrics").glob("*/README.md"))
SHELL, NO_CODE = {"", "bash", "sh"}, {"bibtex", "text", "yaml"}

# A comment that names stand-ins, a fenced block, or an indented one after an empty line.
PARTS = re.compile(
    r"^<!-- with: (?P<sets>[\w, ]+) -->|^(?P<fence>```+)(?P<language>[\w{}-]*)\n(?P<code>.*?)^(?P=fence)$"
    r"|(?<=\n\n)(?P<indented>(?: {4}\S[^\n]*\n)+)",
    re.MULTILINE | re.DOTALL,
)
INLINE = re.compile(r"`((?:\w+=\w+ )?(?:accelerate launch [^`]*recipes/|python recipes/|hf-e2kd |make )[^`]+)`")


@pytest.fixture(autouse=True)
def _own_registries(monkeypatch):
    """What a page registers is gone after it."""
    registries = {explainers: "_EXPLAINERS", terms: "_TERMS", architectures: "_ARCHITECTURES"}
    for module, name in (registries | dict.fromkeys((guidance, logits, maps), "_LOSSES")).items():
        monkeypatch.setattr(module, name, dict(getattr(module, name)))
    for cls in (XDistillationConfig, XDistillationForImageClassification):
        monkeypatch.setattr(cls, "_auto_class", None)


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("page", [*PAGES, *CARDS])
def test_every_block_runs(page, tmp_path, monkeypatch):
    """Prevents: an example that stopped working, or an option that is called otherwise by now."""
    monkeypatch.chdir(tmp_path)
    text = (ROOT / page).read_text(encoding="utf-8")
    names: dict = {}
    for part in PARTS.finditer(text):
        line = text[: part.start()].count("\n") + 1
        print(f"{page}, line {line}")
        if part["sets"]:
            for name in part["sets"].split(", "):
                names |= SETS[name]()
        elif part["indented"]:
            check_shell(re.sub("^    ", "", part["indented"], flags=re.MULTILINE))
        elif part["language"] == "python" and part["code"].startswith(">>>"):
            run_doctest(part["code"], names, f"{page}, line {line}")
        elif part["language"] == "python":
            names = names or SETS["images"]()
            run_block(part["code"], names, f"{page}, line {line}")
        elif part["language"] in SHELL:
            check_shell(part["code"])
        else:
            assert part["language"] in NO_CODE or part["language"].startswith("{"), (
                f"{page}, line {line}: is '{part['language']}' code? Say how to run it."
            )
    for command in INLINE.findall(PARTS.sub("", text)):
        command = " ".join(command.split())
        check_line(f"{command} --help" if re.fullmatch(r"hf-e2kd \w+", command) else command)


def run_block(code: str, names: dict, where: str) -> None:
    """Runs a block; a trainer that it has made and not used takes a step."""
    before = names.get("trainer")
    exec(compile(code, where, "exec"), names)
    trainer = names.get("trainer")
    if trainer is not before and trainer.state.global_step == 0:
        trainer.args.max_steps = 1
        trainer.train()


def run_doctest(code: str, names: dict, where: str) -> None:
    examples = doctest.DocTestParser().get_doctest(code, names, where, where, 0)
    runner = doctest.DocTestRunner()
    runner.run(examples, clear_globs=False)
    names |= examples.globs
    assert runner.summarize(verbose=False) == (0, len(examples.examples))


@pytest.mark.parametrize(
    "line",
    [
        "accelerate launch recipes/distill_vit.py --explanation_wieght 1",
        "python recipes/benchmarks/plan.py --live-ms fast",
        "python recipes/distil_vit.py",
        "hf-e2kd store maps --teacher a --data b",
        "hf-e2kd distill --teacher a --student b --dataset c --explanation_wieght 2",
        "make test-the-lowest",
        "accelerate launch --config_file recipes/accelerate_configs/ddp2.yaml recipes/distill_vit.py",
        "curl https://example.org",
        "echo 'open",
    ],
)
def test_a_wrong_command_line_is_found(line):
    """Prevents: a check that lets everything pass."""
    with pytest.raises((AssertionError, FileNotFoundError, SystemExit)):
        check_shell(line)


def test_options_that_a_command_passes_on_are_known():
    """Prevents: a right line refused because it is of texts."""
    check_shell("hf-e2kd distill --teacher a --student b --dataset c --text_column sentence --bf16 false")


def test_the_evidence_is_made_by_right_commands():
    """Prevents: a target of recipes/evidence.mk whose recipe has no such option, or that starts without its folder."""
    rules = (ROOT / "recipes" / "evidence.mk").read_text(encoding="utf-8")
    targets = re.findall(r"^(evidence-[a-z-]+):", rules, re.MULTILINE)
    folders = {name for names in re.findall(r"call needs,([A-Z_0-9 ]+)", rules) for name in names.split()}
    assert targets and folders
    given = [f"{name}=outputs/{name}" for name in sorted(folders)]
    installed = [".venv/.installed", ".venv/.installed-export", ".venv/.installed-test"]
    ready = [*(f"--old-file={name}" for name in installed), "VENV=.venv"]
    # As from a shell, also where make runs the tests: its variables and messages are another's.
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "ARGS"))}

    def make(*words):
        line = ["make", "-n", *ready, *words]
        return subprocess.run(line, cwd=ROOT, env=clean, capture_output=True, text=True)

    lines = make(*targets, *given)
    assert lines.returncode == 0, lines.stderr
    check_shell(lines.stdout)
    missing = make("evidence-boxes")
    assert missing.returncode == 2 and "Give COCO_SUBSET=FOLDER" in missing.stderr


def test_every_page_of_the_repository_is_read():
    """Prevents: a new page whose examples nobody runs."""
    found = {str(path.relative_to(ROOT)) for path in Path(ROOT).glob("[!.]*/**/*.md")} | set(PAGES)
    unread = {
        path
        for path in found - {*PAGES, *CARDS}
        if not path.startswith(("model_cards/", "tests/", "outputs/", "docs/"))
    }
    assert not unread
