"""What takes a while: a button that begins it, Cancel, a bar, and a line that says how it came out.

It owns a thread. What is done on it, whoever made it knows.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import ipywidgets as ui

from ckptlab.errors import CancelledError, CheckpointError
from ckptlab.events import Event
from ckptlab.metadata import human_bytes
from ckptlab.widgets.panels import card, said


class Work:
    """Something that takes a while, on a thread: a button, Cancel, a bar and a line of status."""

    def __init__(self, button: str, icon: str, tooltip: str) -> None:
        self.button = ui.Button(description=button, icon=icon, tooltip=tooltip, button_style="primary")
        self.stop = ui.Button(description="Cancel", icon="stop", disabled=True)
        self.bar = ui.FloatProgress(
            max=1.0, layout=ui.Layout(flex="1 1 120px", width="auto", max_width="420px")
        )
        self.status = ui.HTML()
        self._cancelled = threading.Event()
        self._thread: threading.Thread | None = None
        self.stop.on_click(lambda _: self._cancelled.set())

    @property
    def row(self) -> ui.Widget:
        """The button, Cancel and the bar."""
        wrap = ui.Layout(flex_flow="row wrap", align_items="center")
        return ui.HBox([ui.HBox([self.button, self.stop]), self.bar], layout=wrap)

    @property
    def busy(self) -> bool:
        """Whether it is at work."""
        return self._thread is not None and self._thread.is_alive()

    def cancel(self) -> None:
        """End it, and wait until it has ended."""
        self._cancelled.set()
        if self._thread is not None:
            self._thread.join()

    def begin(self, work: Callable[[Callable[[Event], None]], str]) -> None:
        """Call `work(progress)` on a thread; what it returns is said, what it raises is a card."""
        if self.busy:
            return
        self._cancelled.clear()
        self.button.disabled, self.stop.disabled, self.bar.value = True, False, 0.0
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def _run(self, work: Callable[[Callable[[Event], None]], str]) -> None:
        try:
            self.status.value = work(self._heard)
        except CancelledError:
            self.status.value = said("Cancelled.", good=False)
        except CheckpointError as error:
            self.status.value = card(error)
        except Exception as error:  # a thread's traceback would be seen by nobody
            self.status.value = card(CheckpointError(f"{type(error).__name__}: {error}"))
        finally:
            self.button.disabled, self.stop.disabled = False, True

    def _heard(self, event: Event) -> None:
        self.share(event.done, event.total)
        self.bar.description = f"{human_bytes(event.done)}"

    def share(self, done: int, total: int) -> None:
        """How far it is; `CancelledError` if that was pressed meanwhile."""
        if self._cancelled.is_set():
            raise CancelledError("cancelled")
        self.bar.value = done / max(1, total)
