"""Sources on the Hub: whether they can be reached, and errors that name what is missing and what to do."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import datasets
from huggingface_hub import constants, get_session, is_offline_mode
from huggingface_hub.errors import HTTPError

from ..hub.ids import check_repo_id
from ..logs import get_logger

logger = get_logger(__name__)

FROM_SCRATCH = (
    "A student may also start from its architecture alone, which needs no file of the Hub: timm/NAME or a "
    "configuration's file (.json), with --student_init random."
)
"""Remedy of a student of images that can't be loaded."""

_CONNECTION_SECONDS = 5


def check_source(source: str, **of_the_hub: str | None) -> None:
    """Refuse invalid names of models and data sets; check the network, where one is to be loaded from the Hub.

    Args:
        source: Hub id, or path of a folder or a file.
        of_the_hub: What is asked of a Hub id alone: its `revision`, or a data set's `configuration`.

    Raises:
        ValueError: an address, what can't be an id, or a path of which a revision or a configuration is asked.
        OSError: a path to nothing.
    """
    if Path(source).exists():
        for what, value in of_the_hub.items():
            if value is not None:
                raise ValueError(
                    f"'{source}' is a path on this machine, which has no {what} '{value}': these are of ids on the "
                    f"Hub. Leave the {what} out."
                )
        return
    address = urlsplit(source)
    if address.scheme or source.startswith(("huggingface.co/", "hf.co/")):
        parts = [part for part in address.path.split("/") if part and part not in ("datasets", "huggingface.co")]
        raise ValueError(f"'{source}' is an address. Give the id alone, as in '{'/'.join(parts[:2]) or 'user/name'}'.")
    if source.startswith((".", "/", "~", os.sep)) or source.count("/") > 1:
        raise FileNotFoundError(
            f"'{source}' doesn't exist. Give a folder that does, or an id on the Hub as 'user/name'."
        )
    check_repo_id(source)
    look_for_network()


def look_for_network() -> None:
    """Make the Hub's clients use earlier downloads, instead of retrying, where the Hub can't be reached."""
    if is_offline_mode():
        return
    try:
        get_session().head(constants.ENDPOINT, timeout=_CONNECTION_SECONDS)
    except HTTPError as error:
        logger.warning(f"{constants.ENDPOINT} can't be reached ({error}): only what was downloaded before is used.")
        # What HF_HUB_OFFLINE=1 sets; the variable itself is read when these libraries are imported.
        constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True


def absent(source: str, error: OSError, remedy: str = "") -> OSError:
    """Make the error of a model or data set that can't be loaded; the libraries' own name the Hub's address alone.

    Args:
        source: Hub id or folder of what is missing.
        error: Error of the library.
        remedy: Sentence that names a further way out.
    """
    if Path(source).exists() or not is_offline_mode():
        return OSError(f"'{source}' can't be loaded: {error}")
    variable = next((name for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if os.environ.get(name)), None)
    if variable is None:
        reason = f"{constants.ENDPOINT} can't be reached. Connect this machine"
    else:
        reason = f"{variable}={os.environ[variable]} forbids reaching the Hub. Unset it"
    return OSError(
        f"'{source}' is neither a folder nor among what was downloaded before, and {reason}, or name a local folder, "
        "such as one that `hf download ID --local-dir FOLDER` has made on another machine. HF_HUB_OFFLINE=1 keeps to "
        f"what is on this one. {remedy}".rstrip()
    )


@contextmanager
def loading_data(source: str, config: str | None = None, revision: str | None = None) -> Iterator[None]:
    """Context in which a data set is loaded: an error names it, and what to do.

    Raises:
        ValueError: `source` can't be an id, is a path of which a configuration or a revision is asked, or has several
            configurations, of which none is.
        OSError: it isn't there, or the Hub can't be reached.
    """
    check_source(source, configuration=config, revision=revision)
    try:
        yield
    except OSError as error:
        raise absent(source, error) from error
    except ValueError as error:
        if "Config name is missing" not in str(error):
            raise
        listed = str(error).partition("available configs: ")[2].partition("\n")[0].strip("[]")
        raise ValueError(f"'{source}' has several configurations. Choose one by --dataset-config: {listed}.") from error


@contextmanager
def loading(source: str, remedy: str = "", revision: str | None = None) -> Iterator[None]:
    """Context in which a model is loaded: an error names it, and what to do where the Hub can't be reached.

    Raises:
        ValueError: `source` can't be an id, or is a path of which a revision is asked.
        OSError: it isn't there, or the Hub can't be reached.
    """
    check_source(source, revision=revision)
    try:
        yield
    except OSError as error:
        raise absent(source, error, remedy) from error
