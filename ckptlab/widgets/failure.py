"""The card of a failed run: rank, phase, tensor, file, cause, remedy, and the rest folded away.

It writes HTML of what `explorer.failure` put in order; it decides nothing.
"""

from __future__ import annotations

from html import escape

from ckptlab.explorer.failure import Failed
from ckptlab.widgets.panels import MUTED, PLAIN

_BAD = "#d64545"


def failure_card(failed: Failed) -> str:
    """An alert with a line for each fact; stacks and tracebacks below, unfolded where they are the point."""
    rows = "".join(
        f"<tr><th scope='row' style='{_HEAD}'>{escape(label)}</th>"
        f"<td style='{_CELL}'>{_emphasised(label, said)}</td></tr>"
        for label, said in failed.facts()
    )
    opened = " open" if "hang" in failed.title.lower() else ""
    pre = f"<pre style='{_PRE}'>{escape(failed.more)}</pre>"
    more = f"<details{opened}><summary>all of it</summary>{pre}</details>" if failed.more else ""
    return (
        f"<div role='alert' style='{_EDGE}'><b style='color:{_BAD}'>✗ {escape(failed.title)}</b>"
        f"<table style='border-collapse:collapse'>{rows}</table>{more}</div>"
    )


def _emphasised(label: str, said: str) -> str:
    return f"<b>{escape(said)}</b>" if label in ("rank", "tensor") else escape(said)


_EDGE = f"border-left:4px solid {_BAD};padding:4px 10px;line-height:1.45;{PLAIN}"
_HEAD = f"{MUTED};font-weight:normal;text-align:left;vertical-align:top;padding:0 14px 0 0;white-space:nowrap"
_CELL = "text-align:left;padding:0;white-space:pre-wrap;overflow-wrap:anywhere"
_PRE = f"{PLAIN};white-space:pre-wrap;overflow-wrap:anywhere;font-size:11px;background:none"
