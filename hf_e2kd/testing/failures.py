"""Failures of checks: an `AssertionError` with the reason."""

from collections.abc import Iterable


def require(condition: bool, message: str) -> None:
    """Fail with the message, unless the condition holds."""
    # Not `assert`, which Python leaves out under -O.
    if not condition:
        raise AssertionError(message)


def some(names: Iterable[str]) -> str:
    """List up to three names."""
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} others" if len(names) > 3 else "")
