"""What is seen in a notebook while a checkpoint is opened, and where it cannot be.

It opens nothing itself, and decides nothing of what is wrong: the error says that.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

import ipywidgets as ui

from ckptlab.errors import CheckpointError
from ckptlab.storage.listing import listing
from ckptlab.widgets.panels import MUTED, card, said

_SOON, _EACH = 0.7, 0.25
"""Seconds after which it is told that opening takes time, and between two words of it."""

_FILES = 12


@contextmanager
def opening(path: str) -> Iterator[None]:
    """Around the opening of a checkpoint: time told while it lasts, a card in place of a long traceback.

    Where no notebook is, nothing is shown. The notebook's own stop button ends what takes too long.
    """
    shell = _shell()
    if shell is None:
        yield
        return
    over = threading.Event()
    clock = threading.Thread(target=_tick, args=(shell, path, over), daemon=True)
    clock.start()
    try:
        yield
    except CheckpointError as error:
        shell.display_pub.publish({"text/html": trouble(error, path), "text/plain": str(error)})
        # The card has said it: of the traceback the last line is left.
        short = f"{type(error).__name__}: {error}"
        error._render_traceback_ = lambda: [short]  # type: ignore[attr-defined]
        raise
    finally:
        over.set()
        clock.join()


def trouble(error: CheckpointError, path: str) -> str:
    """A card that says what is wrong with a checkpoint, and below it the files that are there."""
    found = listing(path)
    rows = "".join(
        f"<tr><td style='padding:0 14px 0 0;text-align:left'>{escape(name)}</td>"
        f"<td style='padding:0;text-align:right'>{escape(size)}</td></tr>"
        for name, size in found[:_FILES]
    )
    more = f"<div>and {len(found) - _FILES:,} more</div>" if len(found) > _FILES else ""
    files = f"<table style='{MUTED};font-size:12px'>{rows}</table>{more}" if found else ""
    return card(error) + (f"<div style='padding:4px 14px;{MUTED}'>There is:{files}</div>" if files else "")


def _tick(shell: Any, path: str, over: threading.Event) -> None:
    """Say how long it has taken so far, once it takes long."""
    began = time.monotonic()
    if over.wait(_SOON):
        return
    bar = ui.FloatProgress(max=1.0, layout=ui.Layout(width="220px"))
    words = ui.HTML()
    box = ui.HBox([bar, words], layout=ui.Layout(align_items="center", grid_gap="10px", flex_flow="row wrap"))
    shell.display_pub.publish(box._repr_mimebundle_())
    while not over.wait(_EACH):
        seconds = time.monotonic() - began
        # Nobody knows how long it will take: the bar runs round.
        bar.value = seconds / 2 % 1
        words.value = said(f"Opening {path}: {seconds:.0f} s so far; the notebook's stop button ends it.")
    box.close()


def _shell() -> Any:
    """The kernel's shell, which can show things in a notebook; None where no kernel runs this."""
    known = sys.modules.get("IPython")
    shell = known.get_ipython() if known is not None else None
    return shell if hasattr(shell, "kernel") else None
