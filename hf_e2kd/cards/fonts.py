"""Fonts that have the characters of the texts."""

import unicodedata
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from ..logs import get_logger

logger = get_logger(__name__)

STAND_IN = "□"
"""Character that is drawn in place of one that no font has."""


@dataclass(frozen=True)
class Fonts:
    """Fonts for some texts.

    Args:
        families: Names of the families: the user's, and installed ones for characters that those lack.
        missing: Characters that no installed font has.
    """

    families: list[str]
    missing: frozenset[str] = frozenset()

    def drawable(self, text: str) -> str:
        """Replace what no font has by a box, and leave out marks without a width, of which matplotlib would warn."""
        if not self.missing:
            return text
        return "".join(_stand_in(character) if character in self.missing else character for character in text)


def fonts_for(texts: Iterable[str], remedy: str) -> Fonts:
    """Choose the fonts of all texts of a picture, with a warning where some characters have none.

    Args:
        texts: Texts that are drawn.
        remedy: What the user can do instead, as the end of a sentence.
    """
    from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font

    families = list(FontProperties().get_family())
    wanted = {ord(character) for character in "".join(texts) if not character.isspace()}
    missing = wanted - get_font(findfont(FontProperties())).get_charmap().keys()
    for font in sorted(fontManager.ttflist, key=lambda font: font.name) if missing else []:
        if not missing or font.style != "normal" or font.weight != 400 or font.name.startswith("Last Resort"):
            continue
        # Fonts of pictures alone, as of some emoji, can't be opened.
        with suppress(RuntimeError):
            has = missing & get_font(font.fname).get_charmap().keys()
            if has:
                families.append(font.name)
                missing -= has
    lacking = frozenset(map(chr, missing))
    shown = [character for character in sorted(lacking) if _stand_in(character)]
    if shown:
        logger.warning(
            f"No installed font has {len(shown)} of the characters ({''.join(shown[:10])}{'…' if shown[10:] else ''}): "
            f"they are drawn as {STAND_IN}. Install a font that has them, such as Noto Sans CJK for Chinese, Japanese "
            f"and Korean, or {remedy}."
        )
    return Fonts(families, lacking)


def _stand_in(character: str) -> str:
    return "" if unicodedata.category(character) in ("Cf", "Mn") else STAND_IN
