"""Small pieces that the explorer is put together from: headings, messages, cards.

Plain ipywidgets with escaped words; they decide nothing.
"""

from __future__ import annotations

from html import escape

import ipywidgets as ui

from ckptlab.errors import CheckpointError, RankError

PLAIN = "color:var(--jp-ui-font-color1,CanvasText)"
"""The theme's own text colour; JupyterLab sets the variable, elsewhere the browser's is taken."""

MUTED = "color:var(--jp-ui-font-color2,GrayText)"
_GOOD, _BAD = "#2e9e5b", "#d64545"


def heading(text: str, beneath: str = "") -> ui.HTML:
    """A section's title, and a line of what to do there."""
    below = f"<div style='{MUTED};font-size:12px;line-height:1.4'>{escape(beneath)}</div>" if beneath else ""
    title = f"<div style='font-size:15px;font-weight:600;line-height:1.4;{PLAIN}'>{escape(text)}</div>"
    return ui.HTML(title + below)


def fade(box: ui.Box, faded: bool) -> None:
    """Show that what is in a box no longer holds, or holds again."""
    (box.add_class if faded else box.remove_class)("ckl-stale")


def said(text: str, good: bool | None = None) -> str:
    """A line of status: plain, good or bad."""
    if good is None:
        return _edged("status", "var(--jp-border-color1, GrayText)", escape(text))
    mark, colour = ("✓", _GOOD) if good else ("✗", _BAD)
    return _edged("status", colour, f"<b style='color:{colour}'>{mark}</b> {escape(text)}")


def alarm(inner: str) -> str:
    """What a reader should know of, as HTML whose words are escaped already."""
    return _edged("note", _BAD, inner)


def card(error: CheckpointError) -> str:
    """What went wrong, for a reader: which rank, in which phase, why; the whole text folded away."""
    first, _, rest = str(error).partition("\n")
    where = ""
    if isinstance(error, RankError) and error.rank >= 0:
        phase = f", in phase <b>{escape(error.phase)}</b>" if error.phase else ""
        where = f"<div>rank <b>{error.rank}</b>{phase}; every other rank was stopped</div>"
    more = f"<pre style='white-space:pre-wrap;font-size:11px'>{escape(rest)}</pre>"
    folded = f"<details><summary>all of it</summary>{more}</details>" if rest else ""
    name = f"<b style='color:{_BAD}'>{escape(type(error).__name__)}</b>"
    return _edged("alert", _BAD, f"{name}{where}<div>{escape(first)}</div>{folded}")


def _edged(role: str, colour: str, inner: str) -> str:
    style = f"border-left:4px solid {colour};padding:4px 10px;line-height:1.45;{PLAIN}"
    return f"<div role='{role}' style='{style}'>{inner}</div>"
