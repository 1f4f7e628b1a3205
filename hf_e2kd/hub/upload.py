"""Uploads to the Hugging Face Hub that can be resumed."""

import json
import os
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import CommitInfo, HfApi, is_offline_mode
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import parse_ratelimit_headers, validate_repo_id
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..logs import get_logger
from .ids import check_repo_id

logger = get_logger(__name__)

T = TypeVar("T")

NOT_PUBLISHED = ("_*", f"{PREFIX_CHECKPOINT_DIR}-*", "stage-*")
"""Patterns of what lies in a student's folder for its training alone: checkpoints, those of stages, nameless files."""

_WAITS = (2, 8, 32)
_LONGEST_WAIT = 600
_PASSING_STATUS = {408, 429, 500, 502, 503, 504}


class UploadError(OSError):
    """An upload to the Hub failed; the message says where the files lie and how to go on. The cause is attached."""


def check_online() -> None:
    """Refuse to go on where offline mode forbids reaching the Hub.

    Raises:
        OfflineModeIsEnabled: (a ConnectionError) naming the variable that forbids it.
    """
    if is_offline_mode():
        raise OfflineModeIsEnabled(
            "Offline mode forbids reaching the Hub. Unset HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE, or train with "
            "push_to_hub=False and upload the output later."
        )


def push_folder(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    repo_type: str = "model",
    private: bool | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    commit_message: str,
    allow_patterns: Sequence[str] | None = None,
    ignore_patterns: Sequence[str] | None = None,
    delete_patterns: Sequence[str] | None = None,
) -> CommitInfo:
    """Upload a folder's files in one commit, to a repository that is made if it doesn't exist.

    What fails in passing is tried again (see `retried`). Files that have arrived are not sent again, and a folder that
    is there already makes no commit.

    Args:
        folder: Files and folders in it are uploaded.
        repo_id: `"user/name"`, or `"name"` for the token's own user.
        repo_type: `"model"` or `"dataset"`.
        private: True to make a new repository private.
        revision: Branch; by default the main one.
        token: Token of a user who may write there; by default that of the user who is logged in.
        commit_message: Title of the commit.
        allow_patterns, ignore_patterns: Patterns of files' names, as in `huggingface_hub.upload_folder`.
        delete_patterns: Patterns of files that are deleted there, unless they are uploaded.

    Raises:
        ValueError: `repo_id` can't be one.
        UploadError: (an OSError) the upload failed.
    """
    check_repo_id(repo_id)
    api = HfApi(token=token, library_name="hf_e2kd")

    def upload() -> CommitInfo:
        repo = api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True)
        return api.upload_folder(
            repo_id=repo.repo_id,
            repo_type=repo_type,
            folder_path=Path(folder),
            commit_message=commit_message,
            revision=revision,
            allow_patterns=None if allow_patterns is None else list(allow_patterns),
            ignore_patterns=None if ignore_patterns is None else list(ignore_patterns),
            delete_patterns=None if delete_patterns is None else list(delete_patterns),
        )

    command = ["hf", "upload", repo_id, str(Path(folder).absolute()), ".", "--repo-type", repo_type]
    command += ["--private"] if private else []
    command += ["--revision", revision] if revision is not None else []
    command += [part for pattern in allow_patterns or () for part in ("--include", pattern)]
    command += [part for pattern in ignore_patterns or () for part in ("--exclude", pattern)]
    command += [part for pattern in delete_patterns or () for part in ("--delete", pattern)]
    try:
        check_online()
        return retried(upload)
    except Exception as error:
        raise UploadError(
            f"The upload to '{repo_id}' failed: {_reason(error)}\nNothing is lost: the files are in "
            f"{Path(folder).absolute()}. To finish the upload, call push_to_hub() again or run "
            f"`{shlex.join(command)}`; what has arrived is not sent again."
        ) from error


def create_repo(args: TrainingArguments) -> str:
    """Make the repository that a training's output shall go to, before the training: a bad token shows at once.

    Returns:
        Its id, `"user/name"`.
    """
    check_repo_id(repo_name(args))
    check_online()
    api = HfApi(token=args.hub_token, library_name="hf_e2kd")
    created = retried(lambda: api.create_repo(repo_name(args), private=args.hub_private_repo, exist_ok=True))
    return created.repo_id


def named_repo(repo_id: str, token: str | bool | None) -> str | None:
    """`"user/name"`, for a name alone with the token's own user; None for no name, or where the Hub can't tell."""
    if "/" in repo_id:
        return repo_id
    try:
        validate_repo_id(repo_id)
        return f"{HfApi(token=token).whoami(cache=True)['name']}/{repo_id}"
    except (HTTPError, OSError, ValueError) as error:  # HfHubHTTPError is an HTTPError, HFValidationError a ValueError
        logger.info(f"The card doesn't name its repository: {_reason(error)}")
        return None


def repo_name(args: TrainingArguments) -> str:
    """The name of a training's repository: what the arguments say, by default the output folder's name."""
    return args.hub_model_id or Path(args.output_dir).absolute().name


def warn_of_failed_uploads(trainer: Trainer, progress: Any) -> None:
    """Warn of checkpoints that didn't arrive: they are uploaded in the background, where nobody sees the error.

    Args:
        trainer: The trainer that uploads them.
        progress: The trainer's `push_in_progress`, or None; what has ended is taken from it.
    """
    if progress is None:
        return
    ended = [job for job in progress.jobs if job.done()]
    progress.jobs = [job for job in progress.jobs if job not in ended]
    for job in ended:
        if job.exception() is not None:
            logger.warning(
                f"A checkpoint was not uploaded to '{trainer.hub_model_id}': {job.exception()}\nIt lies in "
                f"{Path(trainer.args.output_dir).absolute()}. The next upload sends what is missing; call "
                "push_to_hub() if the training has ended."
            )


def retried(request: Callable[[], T]) -> T:
    """Call what speaks to the Hub until it succeeds, at most four times, if it fails by what may pass.

    Lost connections and the status codes 408, 429 and 5xx may pass. Between the calls lie 2, 8 and 32 s, or what the
    server asks for, if that is no more than ten minutes.
    """
    # huggingface_hub itself retries what sends the files (`http_backoff`). It doesn't retry making the repository, the
    # check of a card's metadata, and the commit, which would be made twice where its answer alone was lost. A whole
    # upload can be repeated: it sends what is missing, and commits nothing where all is there.
    for wait in _WAITS:
        try:
            return request()
        except Exception as error:
            cause = _network_error(error)
            seconds = _asked_wait(cause) or wait
            if not _may_pass(cause) or seconds > _LONGEST_WAIT:
                raise
            logger.warning(f"The upload failed: {_reason(error)}\nTrying again in {seconds} s.")
            time.sleep(seconds)
    return request()


def _network_error(error: BaseException | None) -> BaseException | None:
    """The error between here and the Hub, if that was it; the client wraps it in errors of other types."""
    # A gateway's page of HTML, where the client expects JSON, is one too.
    while error is not None and not isinstance(error, HTTPError | json.JSONDecodeError):
        error = error.__cause__
    return error


def _may_pass(error: BaseException | None) -> bool:
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in _PASSING_STATUS
    return error is not None


def _asked_wait(error: BaseException | None) -> int | None:
    """The seconds that the server asks to wait for."""
    if not isinstance(error, HfHubHTTPError):
        return None
    limit = parse_ratelimit_headers(error.response.headers)
    if limit is not None and limit.remaining == 0:
        return limit.reset_in_seconds + 1
    after = error.response.headers.get("Retry-After", "")
    return int(after) + 1 if after.isdigit() else None


def _reason(error: BaseException) -> str:
    cause = _network_error(error)
    texts = [str(error).strip() or type(error).__name__]
    if cause is not None and cause is not error:
        texts.append(str(cause).strip())
    if isinstance(cause, json.JSONDecodeError):
        texts = ["The answer is not the Hub's but that of a gateway before it."]
    if isinstance(cause, HfHubHTTPError) and cause.response.status_code in (401, 403):
        texts.append("Log in with `hf auth login`, or give a token that is valid and may write there.")
    return "\n".join(texts)
