"""The front end on a stub model in Chromium: no Jupyter, no kernel."""

from __future__ import annotations

import base64
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ckptlab.explorer.scene import Scene
from ckptlab.widgets.pack import pack
from ckptlab.widgets.view import HINT, MODULE, STYLE

CHROMIUM = os.environ.get("CKPTLAB_CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
LAUNCH: dict[str, Any] = {
    "executable_path": CHROMIUM,
    "args": ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
}

LIGHT = ":root { --jp-ui-font-color1: rgb(20, 20, 20); --jp-layout-color1: rgb(255, 255, 255) }"
DARK = ":root { --jp-ui-font-color1: rgb(240, 240, 240); --jp-layout-color1: rgb(17, 17, 17) }"

PAGE = """<!doctype html><meta charset="utf-8"><style id="theme">%(theme)s</style>
<style>body { margin: 12px; background: var(--jp-layout-color1) } %(css)s</style>
<div id="root"></div>
<script type="module">
%(module)s
const bytes = (text) => new DataView(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
const state = %(state)s, heard = {};
state.columns = bytes(state.columns);
window.sent = [];
window.asked = [];
window.tell = (said, text) => (heard["msg:custom"] ?? []).forEach((f) => f(said, [bytes(text)]));
window.model = {
  get: (name) => state[name],
  set(name, value) { state[name] = value; (heard["change:" + name] ?? []).forEach((f) => f()); },
  save_changes() { window.sent.push({ rank: state.rank, picked: state.picked }); },
  send: (said) => window.asked.push(said),
  on: (event, f) => (heard[event] ??= []).push(f),
  off(event, f) { heard[event] = (heard[event] ?? []).filter((g) => g !== f); },
};
window.twin = (link) => {      // another view of the same scene, with a model of its own
  const own = { ...state, link }, ears = {}, root = document.createElement("div");
  const model = {
    get: (name) => own[name],
    set(name, value) { own[name] = value; (ears["change:" + name] ?? []).forEach((f) => f()); },
    save_changes() { window.sent.push({ twin: true, rank: own.rank, picked: own.picked }); },
    on: (event, f) => (ears[event] ??= []).push(f),
    off(event, f) { ears[event] = (ears[event] ?? []).filter((g) => g !== f); },
  };
  root.id = "twin";
  document.body.append(root);
  const stop = render({ model, el: root });
  window.untwin = () => { stop(); root.remove(); };
  window.twinned = model;
};
window.show = (header, columns) => { state.header = header; model.set("columns", bytes(columns)); };
window.stop = render({ model: window.model, el: document.getElementById("root") });
</script>"""


def stub_page(scene: Scene, theme: str = LIGHT, rank: int = -1, hint: str = HINT, link: str = "") -> str:
    """A page that draws the scene; `window.model` is the model, `window.sent` what it would tell Python."""
    header, columns = pack(scene)
    state = {
        "header": header,
        "columns": base64.b64encode(columns).decode(),
        "rank": rank,
        "picked": {},
        "hint": hint,
        "link": link,
    }
    return PAGE % {
        "theme": theme,
        "css": STYLE,
        "module": MODULE,
        "state": json.dumps(state).replace("</", "<\\/"),
    }


def comes(read: Callable[[], Any], wanted: Any, limit: float = 60.0) -> None:
    """Wait until `read()` gives what is wanted: what another state shows already is no sign of it."""
    stop = time.monotonic() + limit
    while (now := read()) != wanted:
        assert time.monotonic() < stop, f"{now!r} stayed, {wanted!r} never came"
        time.sleep(0.05)


SETTLED = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"


# From a pointer's move to the task after the frame that shows it, in milliseconds, for each of some points.
HOVERS = """async ([panel, points]) => {
  const stage = document.querySelector(`[data-panel="${panel}"] .ckl-stage`), took = [];
  const frame = stage.getBoundingClientRect(), { left, top, scaleX, scaleY } = stage.dataset;
  for (const [x, y] of points) {
    await new Promise((done) => setTimeout(done, 20));
    const clientX = frame.left + Number(left) + x * scaleX, clientY = frame.top + Number(top) + y * scaleY;
    const began = performance.now();
    stage.dispatchEvent(new PointerEvent("pointermove", { clientX, clientY, bubbles: true }));
    await new Promise((done) => requestAnimationFrame(() => {
      const { port1, port2 } = new MessageChannel();
      port2.onmessage = done;
      port1.postMessage(0);
    }));
    took.push(performance.now() - began);
  }
  return took;
}"""


def bright(page: Any, panel: str, root: str = "#root") -> set[int]:
    """Marks of a panel of few that are not dimmed."""
    options = page.locator(f'{root} [data-panel="{panel}"]').get_by_role("option")
    classes = options.evaluate_all("all => all.map((o) => o.getAttribute('class') ?? '')")
    return {i for i, names in enumerate(classes) if "ckl-dim" not in names}


def point(page: Any, panel: str, x: float, y: float) -> None:
    """Move the pointer to a place of a panel, in its units, and wait for the picture."""
    page.mouse.move(*spot(page, panel, x, y))
    page.evaluate(SETTLED)


@contextmanager
def watched(page: Any) -> Iterator[Any]:
    """The page; on leaving, every error it threw or wrote to its console fails the test."""
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda said: problems.append(said.text) if said.type in ("error", "warning") else None)
    yield page
    assert problems == []


def spot(page: Any, panel: str, x: float, y: float) -> tuple[float, float]:
    """Where in the window the point (x, y), in units of a panel, stands.

    A panel's stage carries `data-left`, `data-top` (its origin, in pixels of the stage) and
    `data-scale-x`, `data-scale-y` (pixels a unit).
    """
    stage = page.locator(f'[data-panel="{panel}"] .ckl-stage').first
    box = stage.bounding_box()
    data = stage.evaluate("e => ({...e.dataset})")
    left, top = float(data["left"]), float(data["top"])
    return (
        box["x"] + left + x * float(data["scaleX"]),
        box["y"] + top + y * float(data["scaleY"]),
    )
