"""The colours of words that speak for a class and against it."""

FOR = (0x6A, 0xAF, 0xE6)  # blue, of a word that speaks for the class
AGAINST = (0xF5, 0xA5, 0x4A)  # orange, against it: told apart by colour-blind people, and both light under black
FOR_DARK = (0x1C, 0x5D, 0xA0)  # the same under white
AGAINST_DARK = (0x96, 0x4B, 0x00)
LINED = 0.1  # from this share of the largest score a word is underlined, so that the sign can be seen without colour


def blend(share: float) -> tuple[float, float, float]:
    """The colour of a share from −1 to 1 on white paper: red, green and blue from 0 to 1.

    Example:
        >>> blend(0.0)
        (1.0, 1.0, 1.0)
    """
    red, green, blue = (1 - abs(share) * (1 - channel / 255) for channel in (FOR if share > 0 else AGAINST))
    return red, green, blue
