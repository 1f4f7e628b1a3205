"""Errors that users can mend, and the sentence that tells of one."""


def errors_of_users() -> tuple[type[Exception], ...]:
    """Errors that users can mend: the message says how. Anything else is a mistake of ours, and shows its traceback."""
    import torch
    from datasets.exceptions import DatasetsError
    from PIL.Image import DecompressionBombError

    return ValueError, OSError, ImportError, DatasetsError, DecompressionBombError, torch.OutOfMemoryError


def sentence_of(error: BaseException) -> str:
    """Write an error on one line.

    Example:
        >>> sentence_of(ValueError("No such layer.\\n  Name another one.")), sentence_of(MemoryError())
        ('No such layer. Name another one.', 'MemoryError')
    """
    # The data sets' library says in the error alone that there was one, and which in its cause.
    told = f"{error}: {error.__cause__}" if error.__cause__ and _is_of_datasets(error) else str(error)
    return " ".join(told.split()) or type(error).__name__


def _is_of_datasets(error: BaseException) -> bool:
    return type(error).__module__.startswith("datasets.")
