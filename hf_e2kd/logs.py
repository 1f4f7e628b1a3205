"""Loggers below the one of transformers, so that its verbosity and its handler hold for this package too."""

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
