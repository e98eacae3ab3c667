"""One panel of a still picture: its marks and words, from units to pixels.

Words outside the panel's units stand in lanes round it, words that would lie on others are
left out, and labels appear only where there is room, as in `panel.js`. It knows neither the
other panels nor the legend.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ckptlab.explorer.scene import FILLED, GROUND, HATCHED, NEUTRAL, OUTLINED, Note, Panel
from ckptlab.widgets.palette import colour, ink
from ckptlab.widgets.pen import HEAD, SMALL, TEXT, Corners, Pen, breadth, wrapped

CELL, UNIT, BAR, LINE = 92, 60, 22, 17
WIDE = {"devices": 420, "tiles": 460, "bars": 560}
"""Pixels: the most a device is wide, a unit of a tensor long and a bar thick; a line; a panel's width."""

_DENSE, _CROWD, _FINE = 256, 1024, 8
"""So many tiles are dense; of more marks than a crowd none bears its label; stripes need so many pixels."""

_Room = tuple[float, float, float, float]


@dataclass(frozen=True)
class _Lanes:
    """Strips on one side of a panel, nearest first: where each coordinate's words begin and end."""

    spans: dict[float, tuple[float, float]]
    depth: float


class Stage:
    """Sizes of a panel in at most `room` pixels of width."""

    def __init__(self, panel: Panel, room: float) -> None:
        self.panel = panel
        self.lanes = {side: _lanes(panel, side) for side in ("left", "right", "top", "bottom")}
        beside = self.lanes["left"].depth + self.lanes["right"].depth + 2
        if not len(panel.marks):
            self.plot_width = self.plot_height = 0
        else:
            self.plot_width, self.plot_height = _plot(
                panel, min(WIDE[panel.kind], room - beside), room - beside
            )
        head = min(room, max(beside + self.plot_width, 260))
        self.title = wrapped(panel.title, head, HEAD, bold=True)
        self.caption = wrapped(panel.caption or _quiet(panel), head, SMALL)
        lines = [breadth(t, HEAD, bold=True) for t in self.title] + [breadth(t, SMALL) for t in self.caption]
        self.width = max([beside + self.plot_width, *lines, *self._reach()])
        self.head = 18 * len(self.title) + 15 * len(self.caption) + 8
        around = self.lanes["top"].depth + self.lanes["bottom"].depth + 8 if len(panel.marks) else 0
        turned = [breadth(note.text) + 4 for note in panel.notes if note.turned]
        self.height = self.head + max([around + self.plot_height, *turned])

    def _reach(self) -> Iterator[float]:
        """How far to the right words go that stand above or below the panel."""
        for note in self.panel.notes:
            if note.anchor == "middle" and not note.turned and _side(note, self.panel) in ("top", "bottom"):
                x = self.lanes["left"].depth + self.plot_width * note.x / self.panel.width
                yield x + breadth(note.text) / 2


def paint(stage: Stage, pen: Pen, x: float, y: float) -> None:
    """Draw the panel with its upper left corner at (x, y)."""
    for i, line in enumerate(stage.title):
        pen.write(x, y + 18 * i + 9, line, size=HEAD, bold=True)
    y += 18 * len(stage.title)
    for i, line in enumerate(stage.caption):
        pen.write(x, y + 15 * i + 8, line, pen.quiet, SMALL)
    y += stage.head - 18 * len(stage.title)
    if len(stage.panel.marks):
        spot = _Spot(stage, x + stage.lanes["left"].depth + 1, y + stage.lanes["top"].depth)
        corners = spot.corners()
        _marks(stage.panel, pen, corners)
        _labels(stage.panel, pen, corners, spot, list(_notes(stage.panel, pen, spot)))


class _Spot:
    """From a panel's units to pixels, with its own corner at (left, top)."""

    def __init__(self, stage: Stage, left: float, top: float) -> None:
        self._stage, self.left, self.top = stage, round(left), round(top)
        self.right, self.bottom = self.left + stage.plot_width, self.top + stage.plot_height
        panel = stage.panel
        self.edge = self.right + stage.lanes["right"].depth
        self.ceiling = self.top - stage.lanes["top"].depth
        self._scale = stage.plot_width / panel.width, stage.plot_height / panel.height

    def corners(self) -> Corners:
        """Of all marks, on whole pixels, with a gap to the right and below where there is room for one."""
        box = self._stage.panel.marks.box.astype(np.float64)
        scale, origin = np.array(self._scale), np.array([self.left, self.top])
        low = np.round(origin + box[:, :2] * scale)
        high = np.round(origin + (box[:, :2] + box[:, 2:]) * scale)
        least = (high - low).min(axis=1)
        gap = np.where(least >= 12, 2, np.where(least >= 5, 1, 0)) * (self._stage.panel.kind != "bars")
        return np.concatenate([low, np.maximum(low + 1, high - gap[:, None])], axis=1)

    def of(self, note: Note) -> tuple[float, float]:
        x, y = self.left + note.x * self._scale[0], self.top + note.y * self._scale[1]
        side = _side(note, self._stage.panel)
        if side in ("left", "right"):
            near, far = self._stage.lanes[side].spans[note.x]
            low, high = (
                (self.left - far, self.left - near)
                if side == "left"
                else (self.right + near, self.right + far)
            )
            middle = note.turned or note.anchor == "middle"
            return (low + high) / 2 if middle else high - 4 if note.anchor == "end" else low + 4, y
        if side:
            near, far = self._stage.lanes[side].spans[note.y]
            return x, self.top - (near + far) / 2 if side == "top" else self.bottom + (near + far) / 2
        return x, y


def _quiet(panel: Panel) -> str:
    return "" if len(panel.marks) else "nothing to show"


def tall(panel: Panel) -> float:
    """Pixels that a panel of fixed ratio is high, at most."""
    if panel.kind == "devices":
        return min(420.0, max(250.0, 40 * panel.height))
    if panel.kind != "tiles":
        return 250.0
    return min(360.0 if len(panel.marks) > _DENSE else 280.0, UNIT * panel.height)


def _frames(panel: Panel) -> npt.NDArray[np.bool_]:
    """Marks that stand round others; an outline of a single device is an empty one."""
    style = panel.marks.style
    alone = (np.diff(panel.marks.first) == 1) & (panel.kind == "devices")
    return np.asarray((style == GROUND) | ((style == OUTLINED) & ~alone))


def _plot(panel: Panel, usual: float, most: float) -> tuple[int, int]:
    """Width and height of the part that is drawn in the panel's units."""
    box = panel.marks.box
    if panel.kind == "bars":
        thickest = float(box[:, 3].max())
        return int(usual), int(min(900, BAR * panel.height / thickest))
    if not panel.rigid:
        return int(usual), int(tall(panel))
    wide = tall(panel) * panel.width / panel.height
    if panel.kind == "devices":
        wide = min(wide, CELL * panel.width / float(box[:, 2].min()))
    wide = max(24, min(wide, most))
    return int(wide), max(16, int(wide * panel.height / panel.width))


def _side(note: Note, panel: Panel) -> str:
    if note.x < 0 or note.x > panel.width:
        return "left" if note.x < 0 else "right"
    if note.y < 0 or note.y > panel.height:
        return "top" if note.y < 0 else "bottom"
    return ""


def _lanes(panel: Panel, side: str) -> _Lanes:
    upright = side in ("left", "right")
    sizes: dict[float, float] = {}
    for note in panel.notes:
        if _side(note, panel) == side:
            at = note.x if upright else note.y
            size = breadth(note.text) + 8 if upright != note.turned else LINE
            sizes[at] = max(sizes.get(at, 0), size)
    spans, depth = {}, 0.0
    for at in sorted(sizes, reverse=side in ("left", "top")):
        spans[at] = (depth, depth + sizes[at])
        depth += sizes[at]
    return _Lanes(spans, depth)


def _marks(panel: Panel, pen: Pen, corners: Corners) -> None:
    shades = np.array([colour(int(c), pen.dark) for c in panel.marks.colour])
    style = panel.marks.style
    fine = (corners[:, 2:] - corners[:, :2]).min(axis=1, initial=np.inf) < _FINE
    for rows, draw_as in (
        (style == GROUND, pen.ground),
        (style == FILLED, pen.fill),
        ((style == HATCHED) & ~fine, pen.hatch),
        ((style == HATCHED) & fine, pen.thin),
        (style == OUTLINED, pen.outline),
    ):
        if rows.any():
            draw_as(corners[rows], shades[rows].tolist())


def _notes(panel: Panel, pen: Pen, spot: _Spot) -> Iterator[_Room]:
    """Write the notes; where each one stands."""
    taken: list[_Room] = []
    for note in panel.notes:
        (x, y), half = spot.of(note), breadth(note.text) / 2
        lead = {"start": half, "middle": 0.0, "end": -half}[note.anchor]
        if note.turned:
            y = max(y, spot.ceiling + lead + half)
        room = (
            (x - 7, y - lead - half, x + 7, y - lead + half)
            if note.turned
            else (x + lead - half, y - 7, x + lead + half, y + 7)
        )
        if not any(_overlap(room, other) for other in taken):
            taken.append(room)
            pen.write(x, y, note.text, anchor=note.anchor, turned=note.turned, halo=True)
            yield room


def _labels(panel: Panel, pen: Pen, corners: Corners, spot: _Spot, taken: list[_Room]) -> None:
    marks = panel.marks
    if not marks.labels or len(marks) > _CROWD:
        return
    frames = _frames(panel)
    for i in range(len(marks.labels)):
        others = corners[~frames & (np.arange(len(marks)) != i)]
        for text, room, inside in _rooms(panel, i, bool(frames[i]), corners[i].tolist(), spot.edge):
            if any(_overlap(room, other) for other in taken) or _covers(others, room):
                continue
            taken.append(room)
            own = int(marks.colour[i])
            bare = not inside or marks.style[i] != FILLED or own <= NEUTRAL
            shown = pen.text if bare else ink(colour(own, pen.dark))
            pen.write(
                (room[0] + room[2]) / 2, (room[1] + room[3]) / 2, text, shown, TEXT, "middle", halo=bare
            )
            break


def _rooms(
    panel: Panel, i: int, frame: bool, box: list[float], edge: float
) -> Iterator[tuple[str, _Room, bool]]:
    """What a label says and where it may stand, best first, and whether that is inside its mark."""
    (x0, y0, x1, y1), label, style = box, panel.marks.labels[i], panel.marks.style[i]
    if not label or y1 - y0 < 13:
        return
    middle, devices = (y0 + y1) / 2, panel.kind == "devices"
    short = label.rpartition(" ")[2]  # a number alone where there is no more room
    for text, pad in ((label, 6), (short, 2)):
        long = breadth(text)
        if x1 - x0 < long + pad or style == GROUND or (text != label and (frame or not devices)):
            continue
        left = (x0 + x1 - long) / 2
        yield text, (left, middle - 7, left + long, middle + 7), True
    long = breadth(label)
    if frame and devices and x1 - x0 >= long + 12:
        yield label, (x0 + 6, y0 + 3, x0 + 6 + long, y0 + 17), True
    if panel.kind == "bars" and x1 + 6 + long <= edge:
        yield label, (x1 + 6, middle - 7, x1 + 6 + long, middle + 7), False


def _overlap(a: _Room, b: _Room) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _covers(boxes: Corners, room: _Room) -> bool:
    x0, y0, x1, y1 = boxes.T
    return bool(((x0 < room[2]) & (room[0] < x1) & (y0 < room[3]) & (room[1] < y1)).any())
