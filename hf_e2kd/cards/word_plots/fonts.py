"""Fonts that have the characters of the texts."""

from collections.abc import Sequence
from contextlib import suppress

from .samples import WordSample


def font_families(samples: Sequence[WordSample], title: str) -> list[str]:
    """Font families for all that is drawn: the user's, and installed ones for characters that those lack."""
    from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font

    texts = [title, *(text for sample in samples for text in [sample.text, *sample.captions()])]
    texts += [text for sample in samples for row in sample.rows for text in [row.heading, *row.words, *row.captions()]]
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
    return families
