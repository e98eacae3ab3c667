"""The drawing widget: shows any scene, tells Python what was picked.

It owns traits and their transport. What is drawn, the scene says; how, the scripts and the
stylesheet beside this file. Hover never leaves the browser.
"""

from __future__ import annotations

import base64
import json
import os
from html import escape
from pathlib import Path
from typing import Any, get_args

import anywidget
import traitlets

from ckptlab.explorer.scene import Scene
from ckptlab.widgets.pack import pack
from ckptlab.widgets.still import Suffix, picture, png, save

_HERE = Path(__file__).parent

_PARTS = ("scene.js", "zoom.js", "canvas.js", "panel.js", "keep.js", "view.js")

MODULE = "\n".join((_HERE / part).read_text(encoding="utf-8") for part in _PARTS)
"""The front end: one ES module, written in parts that a reader can take one by one."""

STYLE = (_HERE / "view.css").read_text(encoding="utf-8")
"""Its stylesheet."""

HINT = "Point at a rank or a tile: what belongs to it lights up. A click keeps it lit."
_EMPTY = Scene("", (), (), "nothing to show")

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark"><title>{title}</title>
<style>body {{ margin: 16px; background: Canvas; }}
{css}</style></head><body>{drawing}</body></html>
"""

_DRAWING = """<div id="view"></div>
<script type="module">
{module}
const state = {state}, heard = {{}};
state.columns = new DataView(Uint8Array.from(atob(state.columns), (c) => c.charCodeAt(0)).buffer);
const model = {{
  get: (name) => state[name],
  set(name, value) {{ state[name] = value; (heard["change:" + name] ?? []).forEach((tell) => tell()); }},
  on: (event, tell) => (heard[event] ??= []).push(tell),
  off() {{}},
  save_changes() {{}},
}};
render({{ model, el: document.getElementById("view") }});
</script>"""


def drawing(scene: Scene, rank: int = -1, hint: str = HINT) -> str:
    """HTML that draws a scene without a kernel and a network; once on a page, which has `STYLE`."""
    header, columns = pack(scene)
    packed = base64.b64encode(columns).decode()
    state = {"header": header, "columns": packed, "rank": rank, "picked": {}, "hint": hint}
    # Words of a checkpoint must not be able to end the script.
    return _DRAWING.format(module=MODULE, state=json.dumps(state).replace("<", "\\u003c"))


class SceneView(anywidget.AnyWidget):
    """A scene in the notebook. Set `scene` to draw another.

    `rank` is the rank that is kept lit (-1: none); `picked` the last mark that was pressed, as
    `{"panel": name, "mark": row}`, or empty. Both follow the browser and may be set from Python.
    `hint` is said below a mesh while nothing is pointed at. Views of one `link` (not "") light up the
    same ranks at once, and keep the same rank lit; the browser sees to it, Python need not.
    """

    _esm = MODULE
    _css = STYLE

    header = traitlets.Dict().tag(sync=True)
    columns = traitlets.Bytes().tag(sync=True)
    rank = traitlets.Int(-1).tag(sync=True)
    picked = traitlets.Dict().tag(sync=True)
    hint = traitlets.Unicode(HINT).tag(sync=True)
    link = traitlets.Unicode("").tag(sync=True)

    def __init__(self, scene: Scene = _EMPTY, **traits: Any) -> None:
        self._scene = scene
        header, columns = pack(scene)
        super().__init__(header=header, columns=columns, **traits)
        self.on_msg(self._hand_over)

    @property
    def scene(self) -> Scene:
        """What is drawn."""
        return self._scene

    @scene.setter
    def scene(self, scene: Scene) -> None:
        self._scene = scene
        header, columns = pack(scene)
        # One message, so that the browser never has words of one scene and columns of another.
        with self.hold_sync():
            self.header, self.columns = header, columns
            self.picked = {}

    def save(self, path: str | os.PathLike[str], dark: bool = False, dpi: int = 200) -> None:
        """Write the scene as the suffix of `path` says: `.svg` or `.pdf` (vectors), or `.png`.

        `dpi` matters to a PNG alone. Raises `PathError` for any other suffix.
        """
        save(self._scene, path, dark, dpi)

    def _hand_over(self, _: Any, asked: dict[str, Any], __: list[bytes]) -> None:
        """The browser asks for a picture to keep, `{"save": suffix, "dark": theme}`."""
        if asked.get("save") in get_args(Suffix):
            made = picture(self._scene, asked["save"], bool(asked.get("dark")))
            self.send({"saved": asked["save"]}, buffers=[made])

    def to_html(self, path: str | os.PathLike[str]) -> None:
        """Write a page that shows the scene by itself: hover works without a kernel and without a network."""
        drawn = drawing(self._scene, self.rank, self.hint)
        page = _PAGE.format(title=escape(self._scene.title), css=STYLE, drawing=drawn)
        Path(path).write_text(page, encoding="utf-8")

    def __repr__(self) -> str:
        return self._scene.text

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        bundle = super()._repr_mimebundle_(**kwargs)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle or {}, {})
        return with_picture(data, self._scene), metadata


def with_picture(bundle: dict[str, Any], scene: Scene) -> dict[str, Any]:
    """The mime bundle with what a reader without a kernel sees: a PNG, and the words."""
    picture = base64.b64encode(png(scene)).decode()
    return {**bundle, "image/png": picture, "text/plain": scene.text}
