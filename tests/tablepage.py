"""A table in Chromium that talks to its Python side: messages are heard, traits sent back."""

from __future__ import annotations

import base64
import json
from typing import Any

from browser import LIGHT

from ckptlab.widgets.table import TableView

TRAITS = ("head", "page", "query", "switched", "trouble")

PAGE = """<!doctype html><meta charset="utf-8"><style id="theme">%(theme)s</style>
<style>body { margin: 12px; background: var(--jp-layout-color1) } %(css)s</style><div id="root"></div>
<script type="module">
%(module)s
const state = %(state)s, heard = {};
const tell = (event, ...what) => (heard[event] ?? []).forEach((hear) => hear(...what));
window.answers = 0;
window.take = (news) => {
  for (const [name, value] of Object.entries(news.traits)) {
    if (JSON.stringify(state[name]) === JSON.stringify(value)) continue;
    state[name] = value;
    tell(`change:${name}`);
  }
  for (const [message, data] of news.custom) {
    tell("msg:custom", message, [Uint8Array.from(atob(data), (c) => c.charCodeAt(0))]);
  }
  window.answers++;
};
const model = {
  get: (name) => state[name],
  on: (event, hear) => (heard[event] ??= []).push(hear),
  off(event, hear) { heard[event] = (heard[event] ?? []).filter((other) => other !== hear); },
  send: async (message) => window.take(await window.python(message)),
};
const root = document.getElementById("root"), widget = await Promise.resolve(DEFAULT);
window.stop = widget.render({ model, el: root });
</script>"""


def show_table(page: Any, view: TableView, theme: str = LIGHT) -> None:
    """Draw the table on the page; what is done there reaches `view`, and what that sends reaches the page."""
    sent: list[tuple[Any, str]] = []
    view.send = lambda message, buffers=(): sent.append(  # type: ignore[method-assign]
        (message, base64.b64encode(b"".join(buffers)).decode())
    )

    def python(message: dict[str, Any]) -> dict[str, Any]:
        view.hear(message)
        custom, sent[:] = list(sent), []
        return {"traits": {name: getattr(view, name) for name in TRAITS}, "custom": custom}

    page.expose_function("python", python)
    state = {name: getattr(view, name) for name in TRAITS}
    page.set_content(
        PAGE
        % {
            "theme": theme,
            "css": view._css,
            "module": view._esm.replace("export default {", "const DEFAULT = {"),
            "state": json.dumps(state).replace("</", "<\\/"),
        }
    )
    page.get_by_role("status").wait_for(state="attached")
