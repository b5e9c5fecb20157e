"""The colours of all pictures: Okabe and Ito's, which the colour-blind can tell apart, and some of Tol's muted ones.

Left out are Okabe and Ito's yellow, too light for a line, and black, which is the baseline's.
"""

from collections.abc import Iterable, Mapping

BLUE, GREEN, VERMILION, PURPLE, ORANGE, SKY = "#0072B2", "#009E73", "#D55E00", "#CC79A7", "#E69F00", "#56B4E9"
WINE, OLIVE, INDIGO = "#882255", "#999933", "#332288"
GREY, LIGHT_GREY, LIGHT_BLUE = "#777777", "#BBBBBB", "#6FA8DC"
BASELINE, TEXT = "#222222", "#444444"
"""Of the reference that others are compared with, and of notes in a picture."""

LINES = (VERMILION, PURPLE, ORANGE, SKY, WINE, OLIVE, INDIGO, GREY, BLUE, GREEN)
"""For lines without a colour of their own, the first first."""

RESERVED: Mapping[str, str] = {"adam": BLUE, "adamw": GREEN, "celo": VERMILION}
"""Optimizers that have the same colour in every picture."""

Palette = Mapping[str, str]
"""Colour of each optimizer."""


def colors(names: Iterable[str]) -> dict[str, str]:
    """Colour of each optimizer, ``"#RRGGBB"``: eight differ, then they repeat. Adam, AdamW and Celo always have theirs."""
    names = list(dict.fromkeys(names))
    taken = {RESERVED[name] for name in names if name in RESERVED}
    free = [color for color in LINES if color not in taken] or list(LINES)
    others = [name for name in names if name not in RESERVED]
    chosen = {name: free[i % len(free)] for i, name in enumerate(others)}
    return {name: RESERVED.get(name) or chosen[name] for name in names}
