"""The real client of the Hub, speaking to a Hub on this machine."""

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import transformers.utils.hub
from huggingface_hub import constants

from tests.hub.server import HubServer, User

TOKEN = "hf_secretOfMe"


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """For how long anyone would have waited before another try, in seconds."""
    seconds: list[float] = []
    clock = SimpleNamespace(**{**vars(time), "sleep": seconds.append})
    for module in ("huggingface_hub.utils._http", "huggingface_hub.file_download", "hf_e2kd.hub.upload"):
        monkeypatch.setattr(f"{module}.time", clock)
    return seconds


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: Any, waits: list[float]) -> Iterator[HubServer]:
    """A Hub of which the token's user is "me".

    The client reads HF_ENDPOINT when it is imported, which other tests have done by now: what it made of it is
    exchanged. `test_round_trip_in_a_process_of_its_own` shows that the variable does the same.
    """
    home = tmp_path_factory.mktemp("hf_home")
    with HubServer() as server:
        server.tokens[TOKEN] = User("me")
        settings = {
            "ENDPOINT": server.endpoint,
            "HUGGINGFACE_CO_URL_TEMPLATE": server.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_TOKEN_PATH": str(home / "token"),
        }
        for name, value in settings.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", server.endpoint)
        monkeypatch.setattr(transformers.utils.hub, "_hf_api", None)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server
