"""Loggers below the one of transformers, so that its verbosity and its handler hold for this package too, and what
other libraries show of their progress."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers.utils import logging


def get_logger(name: str) -> Any:  # that of transformers, with `warning_once`
    """Make the logger of a module.

    `transformers.utils.logging.set_verbosity_error()` and the variable TRANSFORMERS_VERBOSITY silence it, and each
    record is shown once.

    Args:
        name: The module's name, as "hf_e2kd.store.build".
    """
    return logging.get_logger(f"transformers.{name}")


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Context in which transformers, datasets and the Hub write no progress bars, as into a log file."""
    import datasets
    from huggingface_hub import utils as hub

    of_models = logging.is_progress_bar_enabled()
    of_data = datasets.are_progress_bars_disabled()
    of_hub = hub.are_progress_bars_disabled()
    logging.disable_progress_bar()
    datasets.disable_progress_bars()
    hub.disable_progress_bars()
    try:
        yield
    finally:
        if of_models:
            logging.enable_progress_bar()
        if not of_data:
            datasets.enable_progress_bars()
        (hub.disable_progress_bars if of_hub else hub.enable_progress_bars)()
