"""Loggers below the one of transformers, so that its verbosity and its handler hold for this package too."""

from transformers.utils import logging


def get_logger(name: str):  # type: ignore[no-untyped-def]  # transformers' logger, with `warning_once`
    """Make the logger of a module.

    `transformers.utils.logging.set_verbosity_error()` and the variable TRANSFORMERS_VERBOSITY silence it, and each
    record is shown once.

    Args:
        name: The module's name, as "hf_e2kd.store.build".
    """
    return logging.get_logger(f"transformers.{name}")
