"""Classes by the names that users give."""

import difflib
from collections.abc import Sequence


def find_class(wanted: str, names: Sequence[str]) -> int:
    """Find the number of a class by its name, by one of several names separated by commas, or by its number.

    Raises:
        ValueError: there is none, or several; those that come close are listed.
    """
    key = wanted.strip().casefold()
    whole = [name.strip().casefold() for name in names]
    if whole.count(key) == 1:
        return whole.index(key)
    parts = [[part.strip() for part in name.split(",")] for name in whole]
    having = [number for number, own in enumerate(parts) if key in own or key == whole[number]]
    if len(having) == 1:
        return having[0]
    if key.isdecimal():
        if int(key) < len(names):
            return int(key)
        raise ValueError(f"There is no class {key}: the model has {len(names)} classes, counted from 0.")
    if not having:
        spelt = {part: number for number, own in enumerate(parts) for part in own}
        close = difflib.get_close_matches(key, spelt, n=5)
        having = list(dict.fromkeys(spelt[part] for part in close))
        having += [number for number, name in enumerate(whole) if key in name and number not in having]
    listed = having[:8] or range(min(8, len(names)))
    listing = ", ".join(f"{number} '{names[number]}'" for number in listed)
    kind = "Several classes are named" if key in (part for own in parts for part in own) else "No class is named"
    raise ValueError(
        f"{kind} '{wanted}'. {'Close ones' if having else f'The model has {len(names)} classes, the first of them'}: "
        f"{listing}. Give a name or a number."
    )
