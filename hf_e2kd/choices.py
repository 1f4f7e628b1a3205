"""Messages about names that aren't known: the nearest known ones, and all of them."""

import difflib
from collections.abc import Iterable


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Name the known names that come close, as the sentence "Did you mean …?"; an empty text where none does.

    Example:
        >>> did_you_mean("agreemnt", ["accuracy", "agreement"])
        "Did you mean 'agreement'?"
    """
    spelt = {name.casefold(): name for name in known}
    close = difflib.get_close_matches(given.strip().casefold(), spelt, n=3)
    return f"Did you mean {' or '.join(repr(spelt[name]) for name in close)}?" if close else ""


def unknown_choice(kind: str, given: str, known: Iterable[str]) -> str:
    """Make the message of an error: what was given, all known names, and the nearest of them.

    Example:
        >>> unknown_choice("explainer", "gradcm", ["gradcam", "saliency"])
        "Unknown explainer 'gradcm'. Available: gradcam, saliency. Did you mean 'gradcam'?"
    """
    known = list(known)
    return f"Unknown {kind} '{given}'. Available: {', '.join(known)}. {did_you_mean(given, known)}".rstrip()
