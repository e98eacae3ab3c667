"""Colours of categories, the same in the browser and on paper.

Derived from Okabe and Ito's set, which colour-blind readers can tell apart; readable on white and on
near-black. It knows no scene and no drawing library.
"""

from __future__ import annotations

CATEGORIES: tuple[str, ...] = (
    "#0072b2",  # blue
    "#e69f00",  # orange
    "#009e73",  # green
    "#cc79a7",  # pink
    "#56b4e9",  # sky
    "#d55e00",  # vermilion
    "#e8d933",  # yellow, a little darker than theirs so that it stands out from white
    "#7d4a35",  # brown, for their black, which would vanish in a dark theme
)


def _mix(colour: str, other: int, share: float) -> str:
    parts = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(part + (other - part) * share):02x}" for part in parts)


CYCLE: tuple[str, ...] = (
    CATEGORIES
    + tuple(_mix(colour, 255, 0.5) for colour in CATEGORIES)
    + tuple(_mix(colour, 0, 0.45) for colour in CATEGORIES)
)
"""Colours of the categories 0, 1, 2 ...: eight, then lighter, then darker, then again from the start."""


def colour(category: int, dark: bool = False) -> str:
    """`#rrggbb` of a category; a negative one (`scene.NEUTRAL`) is a grey that suits the theme."""
    if category < 0:
        return "#5a5a5a" if dark else "#bdbdbd"
    return CYCLE[category % len(CYCLE)]


def ink(fill: str) -> str:
    """Black or white, whichever reads better on a fill of `#rrggbb`."""
    channels = [int(fill[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return "#000000" if (luminance + 0.05) ** 2 > 0.05 * 1.05 else "#ffffff"
