"""A Hugging Face Space that starts the viewer."""

import json
import warnings
from contextlib import suppress
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

from huggingface_hub import SpaceCard, SpaceCardData

from ..explainers import build_explainer
from ..hub.ids import check_repo_id
from ..version import __version__
from .settings import Settings

NO_GRADIO = "The viewer needs gradio: pip install 'hf-e2kd[viewer]'"

DESCRIPTION = "Where a teacher and its student look, side by side"  # the Hub allows 60 characters

README = """---
{card_data}
---

# Where teacher and student look

Teacher: [{teacher}](https://huggingface.co/{teacher}) · student: [{student}](https://huggingface.co/{student})

Choose a sample, and see what both models decide and what they look at, side by side. This Space runs
`hf-e2kd viewer` of `hf_e2kd`, explanation-enhanced knowledge distillation for Hugging Face models.
"""

APP = '''"""Shows what teacher and student look at."""

from hf_e2kd.viewer.app import launch
from hf_e2kd.viewer.settings import Settings

launch(
    Settings(
{arguments}
    )
)
'''


def export_space(settings: Settings, folder: str | Path) -> Path:
    """Write README.md, app.py and requirements.txt of a Space that shows the models and data of the settings.

    Returns:
        The folder, ready for `hf upload USER/NAME FOLDER --repo-type space`.

    Raises:
        ValueError: a model or data set is a local folder, its name is no id of the Hub, or there is no such explainer.
        ImportError: gradio, whose version the Space states, isn't installed.
        FileExistsError: one of the files is there already.
    """
    for name in ("teacher", "student", "dataset"):
        source = getattr(settings, name)
        if source is not None:
            _require_hub_id(name, source)
    if settings.explainer is not None:
        build_explainer(settings.explainer, **settings.explainer_options)  # whether there is such a one
    try:
        gradio = version("gradio")
    except PackageNotFoundError as error:
        raise ImportError(NO_GRADIO) from error
    given = {
        each.name: getattr(settings, each.name)
        for each in fields(settings)
        if each.name in ("teacher", "student") or getattr(settings, each.name) != Settings("", "").__dict__[each.name]
    }
    card_data = SpaceCardData(
        title="Where teacher and student look",
        emoji="🔍",
        colorFrom="blue",
        colorTo="yellow",
        sdk="gradio",
        sdk_version=gradio,
        app_file="app.py",
        license="apache-2.0",
        short_description=DESCRIPTION,
        models=list(dict.fromkeys([settings.teacher, settings.student])),
        datasets=None if settings.dataset is None else [settings.dataset],
    )
    files = {
        "README.md": README.format(card_data=card_data.to_yaml(), teacher=settings.teacher, student=settings.student),
        "app.py": APP.format(arguments="\n".join(f"        {name}={value!r}," for name, value in given.items())),
        "requirements.txt": f"{requirement()}\n",
    }
    SpaceCard(files["README.md"])  # whether the Hub can read it
    folder = Path(folder)
    there = [name for name in files if (folder / name).exists()]
    if there:
        raise FileExistsError(f"{folder} has {', '.join(there)} already. Name another folder, or delete them first.")
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8")
    return folder


def requirement() -> str:
    """Return pip's requirement of this package: the repository that it was installed from, or its version.

    Warns where this copy came from a folder, so that an index need not have it.
    """
    by_name = f"hf-e2kd[viewer]=={__version__}"
    origin, indexed = {}, False
    with suppress(PackageNotFoundError):  # run from its folder, without being installed
        stated = distribution("hf-e2kd").read_text("direct_url.json")
        origin, indexed = json.loads(stated or "{}"), not stated
    if "vcs_info" in origin:
        vcs = origin["vcs_info"]
        return f"hf-e2kd[viewer] @ {vcs['vcs']}+{origin['url']}@{vcs['commit_id']}"
    if not indexed:
        warnings.warn(
            f"requirements.txt asks for {by_name} by its name, and this copy was installed from a folder or file. If "
            "`pip download --no-deps hf-e2kd` doesn't find that version, the Space can't start: write there an address "
            "that pip can reach instead, as `hf-e2kd[viewer] @ git+https://…` or that of a wheel.",
            stacklevel=2,
        )
    return by_name


def _require_hub_id(name: str, source: str) -> None:
    if Path(source).exists():
        raise ValueError(
            f"The {name} '{source}' is a folder of this machine, which a Space can't reach. Publish it first, as by "
            f"`hf upload USER/NAME {source}`, and give its id on the Hub."
        )
    check_repo_id(source)
