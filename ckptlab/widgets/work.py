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


class Job:
    """One thing at a time on a thread, so that a click returns at once; what it raises becomes a card.

    `press` is told when it begins and when it is over, to switch buttons.
    """

    def __init__(self, status: ui.HTML, press: Callable[[bool], None]) -> None:
        self._status, self._press = status, press
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        """Whether it is at work."""
        return self._thread is not None and self._thread.is_alive()

    def begin(self, work: Callable[[], None]) -> None:
        """Call `work` on a thread; nothing happens if it is at work."""
        if self.busy:
            return
        self._press(True)
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait until it is over."""
        if self._thread is not None:
            self._thread.join()

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except CancelledError:
            self._status.value = said("Cancelled.", good=False)
        except CheckpointError as error:
            self._status.value = card(error)
        except Exception as error:  # a thread's traceback would be seen by nobody
            self._status.value = card(CheckpointError(f"{type(error).__name__}: {error}"))
        finally:
            self._press(False)


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
        self._job = Job(self.status, self._press)
        self.stop.on_click(lambda _: self._cancelled.set())

    @property
    def row(self) -> ui.Widget:
        """The button, Cancel and the bar."""
        wrap = ui.Layout(flex_flow="row wrap", align_items="center")
        return ui.HBox([ui.HBox([self.button, self.stop]), self.bar], layout=wrap)

    @property
    def busy(self) -> bool:
        """Whether it is at work."""
        return self._job.busy

    def cancel(self) -> None:
        """End it, and wait until it has ended."""
        self._cancelled.set()
        self._job.join()

    def begin(self, work: Callable[[Callable[[Event], None]], str]) -> None:
        """Call `work(progress)` on a thread; what it returns is said, what it raises is a card."""

        def told() -> None:
            self.status.value = work(self._heard)

        if not self.busy:
            self._cancelled.clear()
            self.bar.value = 0.0
            self._job.begin(told)

    def _press(self, busy: bool) -> None:
        self.button.disabled, self.stop.disabled = busy, not busy

    def _heard(self, event: Event) -> None:
        self.share(event.done, event.total)
        self.bar.description = f"{human_bytes(event.done)}"

    def share(self, done: int, total: int) -> None:
        """How far it is; `CancelledError` if that was pressed meanwhile."""
        if self._cancelled.is_set():
            raise CancelledError("cancelled")
        self.bar.value = done / max(1, total)
