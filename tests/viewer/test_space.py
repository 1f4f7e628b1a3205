"""The exported Space, as the Hub and Python read it."""

import sys
import warnings
from types import ModuleType, SimpleNamespace

import pytest
import yaml

from hf_e2kd import __version__
from hf_e2kd.viewer import space
from hf_e2kd.viewer.settings import Settings
from hf_e2kd.viewer.space import export_space, requirement

SETTINGS = Settings(
    "user/teacher",
    "user/student",
    dataset="user/data",
    samples=9,
    explainer="integrated_gradients",
    explainer_options={"n_steps": 4},
)


@pytest.fixture(autouse=True)
def _installed(monkeypatch):
    """This package from an index, and gradio."""
    monkeypatch.setattr(space, "version", lambda name: {"gradio": "6.31.0"}[name])
    monkeypatch.setattr(space, "distribution", lambda name: SimpleNamespace(read_text=lambda name: None))


def test_starts_the_viewer_of_these_models(tmp_path, monkeypatch):
    """Prevents: a Space that shows other models, or that the Hub doesn't build."""
    started = []
    monkeypatch.setitem(sys.modules, "hf_e2kd.viewer.app", app := ModuleType("app"))
    app.launch = started.append

    folder = export_space(SETTINGS, tmp_path / "new" / "space")

    exec(compile((folder / "app.py").read_text(), "app.py", "exec"), {})
    assert started == [SETTINGS]
    _, front, body = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    facts = yaml.safe_load(front)
    assert facts["sdk"] == "gradio" and facts["sdk_version"] == "6.31.0" and facts["app_file"] == "app.py"
    assert facts["models"] == ["user/teacher", "user/student"] and facts["datasets"] == ["user/data"]
    assert {facts["colorFrom"], facts["colorTo"]} <= {
        "red",
        "yellow",
        "green",
        "blue",
        "indigo",
        "purple",
        "pink",
        "gray",
    }
    assert facts["license"] == "apache-2.0" and len(facts["short_description"]) <= 60
    assert "huggingface.co/user/teacher" in body
    assert (folder / "requirements.txt").read_text() == f"{requirement()}\n"


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        (None, f"hf-e2kd[viewer]=={__version__}"),
        (
            '{"url": "https://example.org/e2kd", "vcs_info": {"vcs": "git", "commit_id": "abc"}}',
            "hf-e2kd[viewer] @ git+https://example.org/e2kd@abc",
        ),
    ],
)
def test_requires_this_package(monkeypatch, origin, expected):
    """Prevents: a Space that asks for another version than was tried, or a warning where pip can install it."""
    installed = SimpleNamespace(read_text=lambda name: origin)
    monkeypatch.setattr(space, "distribution", lambda name: installed)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert requirement() == expected


def test_warns_of_a_package_from_a_folder(monkeypatch):
    """Prevents: a Space that asks for a folder of this machine, or can't start and nobody said so."""
    origin = '{"url": "file:///home/me/e2kd", "dir_info": {"editable": true}}'
    monkeypatch.setattr(space, "distribution", lambda name: SimpleNamespace(read_text=lambda name: origin))
    with pytest.warns(UserWarning, match="the Space can't start: write there an address"):
        assert requirement() == f"hf-e2kd[viewer]=={__version__}"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"student": "{folder}"}, "The student '.*' is a folder of this machine, which a Space can't reach"),
        ({"dataset": "https://huggingface.co/datasets/user/data"}, "is not the id of a repository"),
        ({"teacher": "../teacher"}, "is not the id of a repository"),
        ({"explainer": "gradcma"}, "Unknown explainer 'gradcma'"),
    ],
)
def test_refuses_what_a_space_cant_reach(tmp_path, changed, message):
    """Prevents: a Space that is built and then fails for everyone but its author."""
    changed = {name: value.format(folder=tmp_path) for name, value in changed.items()}
    with pytest.raises(ValueError, match=message):
        export_space(Settings(**{"teacher": "user/a", "student": "user/b", **changed}), tmp_path / "space")
    assert not (tmp_path / "space").exists()


def test_overwrites_nothing(tmp_path):
    """Prevents: the README of something else, gone."""
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(FileExistsError, match=r"has README\.md already"):
        export_space(SETTINGS, tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_needs_gradios_version(tmp_path, monkeypatch):
    """Prevents: a Space without the version that the Hub asks for."""

    def absent(name):
        raise space.PackageNotFoundError(name)

    monkeypatch.setattr(space, "version", absent)
    with pytest.raises(ImportError, match=r"pip install 'hf-e2kd\[viewer\]'"):
        export_space(SETTINGS, tmp_path / "space")
