"""Numbers as command lines, YAML and JSON give them."""

import math
from typing import Any


def read_number(name: str, value: Any, at_least: float = -math.inf, above: float = -math.inf) -> float:
    """Read a finite number, which may be a string, as YAML gives `1e-2`.

    Args:
        name: Name of the setting, for the error.
        value: Number or string of one.
        at_least, above: Bounds, the first inclusive.

    Raises:
        ValueError: something else than a finite number in these bounds.
    """
    bound = f" above {above:g}" if above > -math.inf else f" of at least {at_least:g}" if at_least > -math.inf else ""
    try:
        number = math.nan if isinstance(value, bool) or value is None else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number >= at_least and number > above):
        raise ValueError(f"{name} must be a finite number{bound}, not {value!r}.")
    return number


def read_count(name: str, value: Any) -> int:
    """Read a whole number of at least 1, which may be a string.

    Raises:
        ValueError: something else.
    """
    number = read_number(name, value, at_least=1)
    if number != int(number):
        raise ValueError(f"{name} must be a whole number, not {value!r}.")
    return int(number)


def read_switch(name: str, value: Any) -> bool:
    """Read a truth value, which may be a string, as a command line gives it.

    Raises:
        ValueError: something else.
    """
    switches = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in switches:
        return switches[value.lower()]
    raise ValueError(f"{name} must be true or false, not {value!r}.")
