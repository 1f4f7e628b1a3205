"""Names of repositories on the Hub, told from those of folders, and the commits of them on this machine."""

import re
from pathlib import Path
from typing import Any

from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import validate_repo_id

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?", re.ASCII)


def check_repo_id(repo_id: str) -> None:
    """Refuse what no repository on the Hub can be called.

    Raises:
        ValueError: saying what is expected.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(
            f"{repo_id!r} is not the id of a repository on the Hub. Give 'name' or 'user/name', neither an address nor "
            f"a path: letters, digits, '-', '_' and '.', at most 96 of them. ({error})"
        ) from error


def is_hub_id(name: object) -> bool:
    """Tell whether a name can only be an id on the Hub: no address, no path, and no folder of this machine.

    `models/vit` is the folder, where there is one: the loading functions of transformers and datasets take it too.
    """
    if not isinstance(name, str) or len(name) > 96 or not _HUB_ID.fullmatch(name):
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return not Path(name).exists()


def loaded_from_hub(name: str | None) -> str | None:
    """The id that a model was loaded by, of the name that its configuration remembers; None of a folder.

    A folder that isn't there any more looks like an id: the Hub's cache tells them apart.
    """
    return name if cached_commits(name) else None


def loaded_commit(config: Any) -> str | None:
    """The commit that a model was loaded from, by its configuration; None where it isn't of the Hub."""
    # transformers no longer states it; what loads a named revision here does.
    stated = getattr(config, "_commit_hash", None)
    return stated or loaded_revision(getattr(config, "_name_or_path", None))


def loaded_revision(name: str | None, revision: str | None = None) -> str | None:
    """The commit that a model of the Hub was loaded from.

    Args:
        name: Name that it was loaded by.
        revision: Branch, tag or commit that was asked for. Without it, the only commit in the cache, or of several that
            of branch `main` when it was loaded last.
    """
    commits = cached_commits(name)
    if name is None or (len(commits) < 2 and revision is None):
        return next(iter(commits), None)
    found = try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(found).parent.name if isinstance(found, str) else None


def cached_commits(name: str | None) -> list[str]:
    """The commits of a model that the Hub's cache on this machine holds; none of the name of a folder."""
    if name is None or not is_hub_id(name):
        return []
    snapshots = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=name, repo_type="model"), "snapshots")
    return sorted(path.parent.name for path in snapshots.glob("*/config.json"))
