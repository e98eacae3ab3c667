"""The panel that loads for real: press Run, and ranks draw their counts into the forecast's bars.

It owns buttons and a thread. What the bars, the timeline and the cards say, `explorer` decides;
what ranks do, `live`.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import ipywidgets as ui

from ckptlab.errors import CheckpointError
from ckptlab.events import Event
from ckptlab.explorer.runs import Asked, Run, Runs, broke_off, came_out
from ckptlab.explorer.scene import Scene, count
from ckptlab.explorer.scenes import traffic_scene
from ckptlab.explorer.session import Session
from ckptlab.explorer.timeline import KEYS, Lane, Timeline, timeline_panel
from ckptlab.explorer.traffic import Ran
from ckptlab.explorer.whatif import mesh_of, resized
from ckptlab.live import LocalRanks, Place, Ranks, places
from ckptlab.plan.forecast import Forecast
from ckptlab.storage import Checkpoint, open_checkpoint
from ckptlab.storage.where import is_url
from ckptlab.widgets.failure import failure_card
from ckptlab.widgets.panels import card, fade, heading, said
from ckptlab.widgets.table import Answers, TableView
from ckptlab.widgets.view import SceneView, with_picture
from ckptlab.widgets.work import Job

_REDRAW = 0.1
"""Seconds between two pictures of a run."""

_MOST = 64
"""Ranks that one machine is asked for, each a process that is connected with every other."""

_KEPT = 12
"""Runs that are remembered."""


class RunPanel(ui.VBox):
    """Run, Cancel, and a button that kills a rank; bars, timeline and verdict below, and the runs so far.

    It loads the target of `session` from `path`, and follows the session. `deadline` (seconds) is when
    hung ranks are ended. Its views light up together with those of the same `link`. `ranks` of the user's
    own, such as `ClusterRanks`, stand among the devices where the target has as many; they are left warm.
    """

    def __init__(
        self, session: Session, path: str, deadline: float = 600.0, link: str = "", ranks: Ranks | None = None
    ) -> None:
        self._session, self._path, self._given = session, path, ranks
        self._deaf = session.listen(self._heard)
        self._ranks: LocalRanks | None = None
        self._running: Ranks | None = None
        self.status = ui.HTML()
        self._job = Job(self.status, self._press)
        self._following = False
        self.runs: list[Run] = []
        self._controls(deadline)
        link = link or uuid.uuid4().hex
        self.view = SceneView(hint="", link=link)
        self.when = SceneView(hint="", link=link)
        self.table = TableView(Runs(self.runs), "runs", Answers(press=self._again), most=5)
        self._bars = ui.VBox([self.view, self.when])
        self._past = ui.VBox([heading("Runs", "Press one to see it again."), self.table])
        super().__init__(
            [*self._top(), self.status, self._bars, self._past], layout=ui.Layout(grid_gap="6px")
        )
        self._wire()
        self._follow()

    # ---- what there is to press

    def _controls(self, deadline: float) -> None:
        self.run = ui.Button(
            description="Run",
            button_style="primary",
            icon="play",
            tooltip="Load every tensor on real ranks, then compare",
        )
        self.stop = ui.Button(
            description="Cancel", icon="stop", disabled=True, tooltip="End the run and its ranks"
        )
        self.device = ui.Dropdown(description="on", **_field("230px"))
        self.world = ui.BoundedIntText(min=1, max=16384, description="Ranks", **_field("110px"))
        self.checked = ui.Checkbox(
            value=True, description="check stored checksums", indent=False, layout=ui.Layout(width="auto")
        )
        self.limit = ui.BoundedFloatText(
            deadline, min=0.1, max=1e6, description="give up after (s)", **_field("190px")
        )
        self.victim = ui.Dropdown(description="rank", **_field("100px"))
        self.kill = ui.Button(
            description="Kill",
            icon="bolt",
            disabled=True,
            tooltip="End this rank in mid-run by SIGKILL, to see how its death is found and told",
            layout=ui.Layout(width="auto"),
        )
        self.note = ui.HTML()

    def _top(self) -> list[ui.Widget]:
        wrap = {"flex_flow": "row wrap", "grid_gap": "2px 14px", "align_items": "center"}
        return [
            heading(
                "The load", "Foretold from the metadata alone; press Run and real ranks load every tensor."
            ),
            ui.HBox([ui.HBox([self.run, self.stop]), self.world, self.device], layout=ui.Layout(**wrap)),
            ui.HBox([self.checked, self.limit, ui.HBox([self.kill, self.victim])], layout=ui.Layout(**wrap)),
            self.note,
        ]

    def _wire(self) -> None:
        self.run.on_click(lambda _: self._job.begin(self._load))
        self.stop.on_click(lambda _: self._running.cancel() if self._running else None)
        self.kill.on_click(lambda _: self._kill())
        self.world.observe(lambda change: self._resize(change.new), "value")

    def _heard(self, changed: frozenset[str]) -> None:
        if changed & {"mesh", "placements", "rules"}:
            self._follow()

    def _follow(self) -> None:
        """Show the session's target; one that makes no sense cannot be run."""
        try:
            self.foretell()
            self.allow(self._world <= _MOST or self._own)
        except CheckpointError as error:
            self.status.value = card(error)
            self.allow(False)

    def foretell(self) -> None:
        """Draw the forecast of the session's target, as nothing has run on it yet."""
        self._draw(self._session.foretold)
        world = self._world
        self._following = True
        self.world.value = world
        self._following = False
        before = self.device.value
        offered: dict[str, Place | Ranks] = {str(place): place for place in places(world)}
        given = self._given
        if given is not None and given.world == world:
            # Whoever gives ranks means them to be used.
            offered = {f"the given ranks ({given.world} on {given.device})": given, **offered}
        self.device.options = list(offered.items())
        same = [p for p in offered.values() if before and (p is before or p.device == before.device)]
        self.device.value = same[0] if same and given is None else next(iter(offered.values()))
        shared = next((p for p in offered.values() if isinstance(p, Place) and p.shared), None)
        self.note.value = ""
        if given is not None and given.world != world:
            self.note.value = said(f"The given ranks are {given.world:,}: they run a target of as many.")
        elif world > _MOST and not self._own:
            self.note.value = said(f"{world:,} ranks are foretold; this machine runs {_MOST} at most.")
        elif shared:
            gpus = count(shared.gpus, "GPU")
            self.note.value = said(f"nccl takes one GPU a rank: {world} ranks on {gpus} share by gloo.")
        self.victim.options = range(world)
        self.victim.value = min(1, world - 1)
        self.status.value = said("Not run yet.")

    def allow(self, sense: bool) -> None:
        """Let Run be pressed, or not: what is foretold is of another target than the one asked for."""
        self.run.disabled = not sense or self._busy
        fade(self._bars, not sense)

    def _resize(self, world: int) -> None:
        if self._following:
            return
        try:
            mesh, placements = resized(self._session.mesh, self._session.placements, world)
            self._session.change(mesh=mesh, placements=placements)
        except CheckpointError as error:
            self.status.value = card(error)

    # ---- pictures

    def _draw(self, foretold: Forecast, ran: tuple[Ran, ...] = (), lanes: tuple[Lane, ...] = ()) -> None:
        # The panel's own heading says what it is.
        self.view.scene = replace(traffic_scene(foretold, ran), title="")
        self.when.layout.display = None if lanes else "none"
        if lanes:
            self.when.scene = Scene("", (timeline_panel(lanes),), KEYS, "")
        self._past.layout.display = None if self.runs else "none"

    def _remember(self, run: Run) -> None:
        self.runs = [run, *self.runs[: _KEPT - 1]]
        self._show(0)

    def _show(self, line: int) -> None:
        """Show one of the runs so far."""
        run = self.runs[line]
        self._draw(run.asked.foretold, run.ran, run.lanes)
        self.table.table = Runs(self.runs, line)
        self.table.refresh()
        self.status.value = failure_card(run.failure) if run.failure else said(run.said, run.good)

    def _again(self, line: int) -> None:
        if not self._busy:
            self._show(line)

    # ---- ranks

    def close_ranks(self) -> None:
        """End the ranks, if any are warm."""
        if self._ranks is not None:
            self._ranks.close()
            self._ranks = None

    def close(self) -> None:
        """End the ranks and the widgets."""
        self._deaf()
        self.close_ranks()
        super().close()

    @property
    def _own(self) -> bool:
        """Whether the user's own ranks are chosen."""
        return self._given is not None and self.device.value is self._given

    @property
    def _world(self) -> int:
        return mesh_of(self._session.target).size

    def warm(self) -> None:
        """Begin to start the ranks that the target needs, so that Run finds them up."""
        # What is wrong with the target is said when Run is pressed.
        with suppress(CheckpointError):
            if self._world <= _MOST and not self._own:
                self._local_ranks().start()

    def _fitting_ranks(self) -> Ranks:
        if self._own:
            assert self._given is not None
            return self._given
        return self._local_ranks()

    def _local_ranks(self) -> LocalRanks:
        world, place = self._world, self.device.value
        now = self._ranks
        if now is None or (now.world, now.device, now.backend) != (world, place.device, place.backend):
            self.close_ranks()
            self._ranks = now = LocalRanks(world, place.device, place.backend)
        return now

    def _kill(self) -> None:
        if self._ranks is not None:
            try:
                self._ranks.kill(self.victim.value)
            except CheckpointError as error:
                self.status.value = card(error)

    # ---- a run

    @property
    def _busy(self) -> bool:
        return not self.stop.disabled

    def _press(self, busy: bool) -> None:
        for one in (self.run, self.device, self.world, self.checked, self.limit):
            one.disabled = busy
        self.stop.disabled = not busy
        # There is no rank to kill before the first has told something.
        self.kill.disabled = True

    def _load(self) -> None:
        from ckptlab.live.ops import reshard

        session, chosen = self._session, self._session.target
        number = 1 + max((run.asked.number for run in self.runs), default=0)
        rules = "".join(f"; {pattern}: {own}" for pattern, own in session.rules)
        target = f"{session.mesh}: {session.placements}{rules}"
        asked = Asked(number, target, str(self.device.value), session.foretold)
        timeline = Timeline(self._world)
        self.status.value = said(f"Starting {count(self._world, 'rank')} ...")
        ranks = self._running = self._fitting_ranks()

        def heard(rank: int, what: object) -> None:
            if isinstance(what, Event):
                timeline.hear(what)

        op = (reshard, self._path, chosen, self.checked.value)
        try:
            with self._drawn_live(timeline, asked.foretold):
                outcomes = ranks.run(*op, deadline=self.limit.value, progress=heard)
        except CheckpointError as error:
            self._remember(broke_off(asked, timeline, error, session.metadata))
            return
        for one in outcomes:
            seconds = sum(one.seconds.values())
            timeline.end(one.rank, one.nbytes, seconds, one.equal, one.peak, one.device_peak)
        wrong = sorted({fqn for one in outcomes for fqn in one.different})
        self._remember(came_out(asked, timeline, sum(one.elements for one in outcomes), wrong))

    @contextmanager
    def _drawn_live(self, timeline: Timeline, foretold: Forecast) -> Iterator[None]:
        """Draw what ranks told as often as can be followed; what they told last, too."""
        over = threading.Event()

        def draw() -> None:
            seen = timeline.lanes
            while not over.wait(_REDRAW):
                if timeline.lanes != seen:
                    seen = timeline.lanes
                    self._draw(foretold, timeline.ran, seen)
                    # Ranks elsewhere are not ours to kill.
                    self.kill.disabled = self._own
                    self.status.value = said(f"Running: {timeline.said(foretold.total)} ...")

        painter = threading.Thread(target=draw, daemon=True)
        painter.start()
        try:
            yield
        finally:
            over.set()
            painter.join()

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle: dict[str, Any] = dict(super()._repr_mimebundle_(**kwargs) or {})
        return with_picture(bundle, self.view.scene)


def run_view(
    checkpoint: str | os.PathLike[str] | Checkpoint,
    mesh: str = "",
    placements: str = "",
    ranks: Ranks | None = None,
) -> RunPanel:
    """The load of a checkpoint by itself: on this target, or one that is chosen in the panel.

    `ranks` are ranks of your own, such as `ClusterRanks` of an ipyparallel client.

    Raises `PathError` if there is no checkpoint, `LayoutError` for a target that makes no sense.
    """
    opened = checkpoint if isinstance(checkpoint, Checkpoint) else open_checkpoint(checkpoint)
    session = Session(opened.metadata)
    session.mesh, session.placements = mesh or session.mesh, placements or session.placements
    if ranks is not None and not mesh:
        session.mesh = f"shard={ranks.world}"
    panel = RunPanel(session, path_of(opened), ranks=ranks)
    panel.warm()
    return panel


def path_of(checkpoint: Checkpoint) -> str:
    """Where a checkpoint is, wherever a rank stands."""
    return checkpoint.path if is_url(checkpoint.path) else os.path.realpath(checkpoint.path)


def _field(width: str) -> dict[str, Any]:
    return {"layout": ui.Layout(width=width, margin="2px"), "style": {"description_width": "initial"}}
