"""The doctor's findings with a box to tick each; "Apply and load" proves on live ranks what is ticked.

It owns boxes, a button and a thread. What a finding says, `plan.diagnose` decides; what ranks do, `live`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from html import escape
from typing import Any

import ipywidgets as ui

from ckptlab.doctor import diagnose
from ckptlab.errors import CheckpointError
from ckptlab.events import Event
from ckptlab.explorer.scene import count
from ckptlab.live import LocalRanks
from ckptlab.live.mended import Mended, mended
from ckptlab.metadata import human_bytes
from ckptlab.plan.diagnose import Diagnosis, Finding
from ckptlab.plan.diagnose.finding import number, shortened, staying
from ckptlab.plan.diagnose.report import standing
from ckptlab.plan.transform import Transform
from ckptlab.storage import Checkpoint, open_checkpoint
from ckptlab.widgets.panels import MUTED, PLAIN, card, heading, said
from ckptlab.widgets.run import path_of
from ckptlab.widgets.work import Job

_MOST = 16
"""Ranks that a proof takes at most; it is a proof, not a measurement."""

_SHOWN = 200
"""Keys of a finding that are listed; all are in `findings[i].keys`."""


class DoctorPanel(ui.VBox):
    """Findings, each with its box; the transform of those that are ticked; a live load by it.

    `found` is the diagnosis, `transform` what the boxes make of it now. `deadline` (seconds) is when hung
    ranks are ended.
    """

    def __init__(self, found: Diagnosis, path: str, deadline: float = 600.0) -> None:
        self.found, self._path, self._deadline = found, path, deadline
        self._ranks: LocalRanks | None = None
        self.status, self._shown = ui.HTML(), ui.HTML()
        self._job = Job(self.status, self._press)
        self.boxes = [_box(it, i) for i, it in enumerate(found)]
        for box in self.boxes:
            box.observe(lambda _: self._follow(), "value")
        self.world = ui.BoundedIntText(
            2, min=1, max=_MOST, description="Ranks", layout=ui.Layout(width="110px"), style=_STYLE
        )
        self.run = ui.Button(
            description="Apply and load",
            button_style="primary",
            icon="play",
            tooltip="Load the target's tensors through this transform on real ranks, then compare",
        )
        self.stop = ui.Button(description="Cancel", icon="stop", disabled=True, tooltip="End the load")
        self.run.on_click(lambda _: self._job.begin(self._load))
        self.stop.on_click(lambda _: self._ranks.cancel() if self._ranks else None)
        buttons = ui.HBox(
            [self.run, self.stop, self.world],
            layout=ui.Layout(flex_flow="row wrap", grid_gap="2px 14px", align_items="center"),
        )
        rows = [_row(it, box) for it, box in zip(found, self.boxes, strict=True)]
        title = heading("Doctor", f"{found.checkpoint} for {found.target}")
        super().__init__(
            [title, ui.HTML(_summary(found)), *rows, self._shown, buttons, self.status],
            layout=ui.Layout(grid_gap="6px", max_width="1280px"),
        )
        self._follow()

    @property
    def taken(self) -> list[Finding]:
        """The findings whose boxes are ticked."""
        return [it for it, box in zip(self.found, self.boxes, strict=True) if box.value]

    @property
    def transform(self) -> Transform:
        """What the ticked remedies make together: for `ckptlab.load(..., transform=)`."""
        return self.found.transform_of(self.taken)

    def _follow(self) -> None:
        """Show the transform of what is ticked now; what was loaded before was by another."""
        try:
            text = str(self.transform)
        except CheckpointError as error:
            self.status.value = card(error)
            return
        self._shown.value = _folded(text) if self.found else ""
        self.status.value = said("Not loaded yet.")

    # ---- the proof

    def close(self) -> None:
        """End the ranks and the widgets."""
        if self._ranks is not None:
            self._ranks.close()
            self._ranks = None
        super().close()

    def _press(self, busy: bool) -> None:
        for one in (self.run, self.world, *self.boxes):
            one.disabled = busy
        for box, it in zip(self.boxes, self.found, strict=True):
            box.disabled = busy or it.remedy is None
        self.stop.disabled = not busy

    def _load(self) -> None:
        world, wanted = self.world.value, self.found.wanted
        self.status.value = said(f"Starting {count(world, 'rank')} ...")
        if self._ranks is None or self._ranks.world != world:
            if self._ranks is not None:
                self._ranks.close()
            self._ranks = LocalRanks(world)

        def heard(_: int, what: object) -> None:
            if isinstance(what, Event):
                self.status.value = said(f"Running: {what.phase} ...")

        op = (mended, self._path, self.transform, tuple(wanted.tensors.values()), tuple(wanted.objects))
        outcomes = self._ranks.run(*op, deadline=self._deadline, progress=heard)
        self.status.value = _verdict(outcomes)

    def __repr__(self) -> str:
        return repr(self.found)

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle: dict[str, Any] = dict(super()._repr_mimebundle_(**kwargs) or {})
        return {**bundle, "text/plain": repr(self.found)}


def doctor_view(checkpoint: str | os.PathLike[str] | Checkpoint, target: Any, **how: Any) -> DoctorPanel:
    """The doctor's findings for a checkpoint and a target, with their remedies to try.

    `target` and `how` are what `ckptlab.diagnose` takes. Raises what that raises.
    """
    opened = checkpoint if isinstance(checkpoint, Checkpoint) else open_checkpoint(checkpoint)
    return DoctorPanel(diagnose(opened, target, **how), path_of(opened))


_STYLE = {"description_width": "initial"}


def _box(finding: Finding, at: int) -> ui.Checkbox:
    """What is sure is ticked; what has no remedy cannot be."""
    return ui.Checkbox(
        value=finding.applied,
        description=f"{at}: {finding.kind}",
        disabled=finding.remedy is None,
        indent=False,
        tooltip="Take in this remedy" if finding.remedy else "There is no transform that mends this",
        layout=ui.Layout(width="132px", flex="0 0 132px"),
        style=_STYLE,
    )


def _folded(transform: str) -> str:
    style = "white-space:pre-wrap;overflow-wrap:anywhere;font-size:12px"
    return (
        f"<details style='{PLAIN}'><summary>the transform of what is ticked</summary>"
        f"<pre style='{style}'>{escape(transform)}</pre></details>"
    )


def _row(finding: Finding, box: ui.Checkbox) -> ui.Widget:
    text = ui.HTML(_said(finding), layout=ui.Layout(flex="1 1 300px", min_width="0"))
    row = ui.HBox(
        [box, text],
        layout=ui.Layout(flex_flow="row wrap", grid_gap="0 10px", align_items="flex-start", padding="4px 0"),
    )
    row.layout.border_top = "1px solid var(--jp-border-color2, GrayText)"
    return row


def _said(finding: Finding) -> str:
    """A finding in HTML: what, whose, how sure, what to do."""
    listed = "<br>".join(map(escape, finding.keys[:_SHOWN]))
    more = f"<br>and {len(finding.keys) - _SHOWN:,} more" if len(finding.keys) > _SHOWN else ""
    keys = (
        f"<details><summary>{number(len(finding.keys), 'key')} of the {finding.side}: "
        f"{escape(shortened(finding.keys))}</summary>"
        f"<div style='padding-left:16px'>{listed}{more}</div></details>"
    )
    cost = f"<div>costs: {escape(finding.cost)}</div>" if finding.cost else ""
    return (
        f"<div style='{PLAIN};line-height:1.45;overflow-wrap:anywhere'><div>{escape(finding.cause)}</div>"
        f"<div style='{MUTED};font-size:12px'>{keys}"
        f"<div>{finding.sure:.0%} sure: {escape(finding.why)}</div>"
        f"<div>{standing(finding)}: {escape(finding.advice)}</div>{cost}</div></div>"
    )


def _summary(found: Diagnosis) -> str:
    if not found:
        return said(f"Nothing found: it fits. {found.summary()}", good=True)
    return f"<div style='{PLAIN};line-height:1.45'>{escape(found.summary())}</div>"


def _verdict(outcomes: Sequence[Mended]) -> str:
    wrong = sorted({fqn for one in outcomes for fqn in one.different})
    if wrong:
        return said(f"not what is stored in {number(len(wrong), 'key')}: {shortened(wrong)}", good=False)
    first, elements = outcomes[0], sum(one.elements for one in outcomes)
    kept = f"; {staying(first.kept, 'key', 'wholly or partly as before')}, on purpose" if first.kept else ""
    return said(
        f"{number(first.loaded, 'key')} loaded on {count(len(outcomes), 'rank')}, "
        f"{human_bytes(sum(one.nbytes for one in outcomes))} read: all {elements:,} loaded elements are, bit "
        f"for bit, what the transform makes of the stored ones{kept}",
        good=True,
    )
