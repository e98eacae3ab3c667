"""The panel that loads for real: press Run, and ranks draw their counts into the forecast's bars.

It owns buttons and a thread. What the bars say, `explorer` decides; what ranks do, `live`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import ipywidgets as ui

from ckptlab.errors import CancelledError, CheckpointError
from ckptlab.events import Event
from ckptlab.explorer.scene import count
from ckptlab.explorer.session import Session
from ckptlab.explorer.timeline import Timeline
from ckptlab.explorer.traffic import Ran, verdict
from ckptlab.live import LocalRanks, attached_gpus
from ckptlab.widgets.panels import SECTION, card, fade, heading, said
from ckptlab.widgets.view import SceneView

_REDRAW = 0.1
"""Seconds between two pictures of a run."""


class RunPanel(ui.VBox):
    """Run, Cancel, and a button that kills a rank; the bars and the verdict below."""

    def __init__(self, session: Session, path: str, deadline: float = 600.0) -> None:
        self._session, self._path, self._deadline = session, path, deadline
        self._ranks: LocalRanks | None = None
        self._thread: threading.Thread | None = None
        gpus = attached_gpus()
        devices = [("CPU (gloo)", "cpu"), *([(f"{gpus} GPU (nccl)", "cuda")] if gpus else [])]
        self.device = ui.Dropdown(
            options=devices,
            value="cuda" if gpus >= session.layout.mesh.size else "cpu",
            description="Ranks on",
            layout=ui.Layout(width="190px", margin="2px 2px 2px 14px"),
            style={"description_width": "initial"},
        )
        self.run = ui.Button(
            description="Run",
            button_style="primary",
            icon="play",
            tooltip="Load every tensor on real ranks, then compare",
        )
        self.stop = ui.Button(
            description="Cancel", icon="stop", disabled=True, tooltip="End the run and its ranks"
        )
        self.kill = ui.Button(
            icon="bolt",
            disabled=True,
            tooltip="End this rank in mid-run by SIGKILL, to see how its death is found and told",
        )
        self.status = ui.HTML()
        self.view = SceneView(hint="")
        self.run.on_click(lambda _: self._begin())
        self.stop.on_click(lambda _: self._ranks.cancel() if self._ranks else None)
        self.kill.on_click(lambda _: self._kill())
        buttons = ui.HBox(
            [self.run, self.stop, self.kill, self.device], layout=ui.Layout(flex_flow="row wrap")
        )
        title = heading(
            "The load", "Foretold from the metadata alone; press Run and real ranks load every tensor."
        )
        self._bars = ui.VBox([self.view])
        super().__init__([title, buttons, self.status, self._bars], layout=ui.Layout(**SECTION))
        self.foretell()

    def foretell(self) -> None:
        """Draw the forecast of the session's target, as nothing has run on it yet."""
        self._draw()
        self.kill.description = f"Kill rank {self._victim}"
        self.status.value = said("Not run yet.")

    def allow(self, sense: bool) -> None:
        """Let Run be pressed, or not: what is foretold is of another target than the one asked for."""
        self.run.disabled = not sense
        fade(self._bars, not sense)

    def _draw(self, ran: tuple[Ran, ...] = ()) -> None:
        # The panel's own heading says what it is.
        self.view.scene = replace(self._session.traffic_scene(ran), title="")

    def close_ranks(self) -> None:
        """End the ranks, if any are warm."""
        if self._ranks is not None:
            self._ranks.close()
            self._ranks = None

    def warm(self) -> None:
        """Begin to start the ranks that the target needs, so that Run finds them up."""
        # What is wrong with the target is said when Run is pressed.
        with suppress(CheckpointError):
            self._fitting_ranks().start()

    def _fitting_ranks(self) -> LocalRanks:
        world, device = self._session.layout.mesh.size, self.device.value
        if self._ranks is None or self._ranks.world != world or self._ranks.device != device:
            self.close_ranks()
            self._ranks = LocalRanks(world, device)
        return self._ranks

    def _begin(self) -> None:
        # The click returns at once: while a handler runs, no other click is heard.
        if self._thread is not None and self._thread.is_alive():
            return
        self._busy(True)
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _kill(self) -> None:
        if self._ranks is not None:
            try:
                self._ranks.kill(self._victim)
            except CheckpointError as error:
                self.status.value = card(error)

    @property
    def _victim(self) -> int:
        return min(1, self._session.layout.mesh.size - 1)

    def _busy(self, busy: bool) -> None:
        self.run.disabled = self.device.disabled = busy
        self.stop.disabled = not busy
        # There is no rank to kill before the first has told something.
        self.kill.disabled = True

    def _work(self) -> None:
        try:
            self._load()
        except CancelledError:
            self.status.value = said("Cancelled; the ranks have been ended.", good=False)
        except CheckpointError as error:
            self.status.value = card(error)
        except Exception as error:  # a thread's traceback would be seen by nobody
            self.status.value = card(CheckpointError(f"{type(error).__name__}: {error}"))
        finally:
            self._busy(False)

    @contextmanager
    def _drawn_live(self, timeline: Timeline, total: int) -> Iterator[None]:
        """Draw what ranks told as often as can be followed; what they told last, too."""
        over = threading.Event()

        def draw() -> None:
            seen = timeline.ran
            while not over.wait(_REDRAW):
                if timeline.ran != seen:
                    seen = timeline.ran
                    self._draw(seen)
                    self.status.value = said(f"Running: {timeline.said(total)} ...")
                    self.kill.disabled = False

        painter = threading.Thread(target=draw, daemon=True)
        painter.start()
        try:
            yield
        finally:
            over.set()
            painter.join()

    def _load(self) -> None:
        from ckptlab.live.ops import reshard

        layout, foretold = self._session.layout, self._session.foretold
        timeline = Timeline(layout.mesh.size)
        self.status.value = said(f"Starting {count(layout.mesh.size, 'rank')} ...")
        ranks = self._fitting_ranks()

        def heard(rank: int, what: object) -> None:
            if isinstance(what, Event):
                timeline.hear(what)

        began = time.perf_counter()
        with self._drawn_live(timeline, foretold.total):
            outcomes = ranks.run(reshard, self._path, layout, deadline=self._deadline, progress=heard)
        took = time.perf_counter() - began
        for outcome in outcomes:
            timeline.end(outcome.rank, outcome.nbytes, sum(outcome.seconds.values()), outcome.equal)
        self._draw(timeline.ran)
        read = sum(outcome.nbytes for outcome in outcomes)
        wrong = sorted({fqn for outcome in outcomes for fqn in outcome.different})
        elements = sum(outcome.elements for outcome in outcomes)
        self.status.value = said(
            f"{verdict(foretold, read, elements, wrong)} {took:.2f} s with the comparison.",
            good=not wrong and read == foretold.total,
        )
