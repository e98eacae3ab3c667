"""One real JupyterLab for tests: a free port, a random token, every Jupyter folder in a scratch one."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat

# The picture says "idle" before the kernel can be talked to, so the document itself is asked.
READY = """() => {
  const panel = window.jupyterapp?.shell?.currentWidget;
  const kernel = panel?.sessionContext?.session?.kernel;
  const connected = kernel?.connectionStatus === 'connected';
  return Boolean(panel?.context?.isReady && connected && kernel.status === 'idle');
}"""

KERNEL = "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.id"

# `page.evaluate` has no time limit of its own.
RUN_ALL = """(limit) => Promise.race([
  window.jupyterapp.commands.execute('notebook:run-all-cells'),
  new Promise((_, fail) => setTimeout(() => fail(new Error('the cells did not end')), limit)),
])"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def lab(work: Path, command: list[str], theme: str = "JupyterLab Light") -> Iterator[str]:
    """Run `command` (which must end in JupyterLab) in `work`; gives the address of `/lab`, with its token."""
    token, port = secrets.token_hex(12), free_port()
    settings = work / ".jupyter" / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True, exist_ok=True)
    (settings / "themes.jupyterlab-settings").write_text(json.dumps({"theme": theme}))
    (settings / "notification.jupyterlab-settings").write_text(
        json.dumps({"fetchNews": "false", "checkForUpdates": False})
    )
    folders = {
        "JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "JUPYTER_CONFIG_DIR": "config", "JUPYTER_RUNTIME_DIR": "runtime", "IPYTHONDIR": "ipython",
        "MPLCONFIGDIR": "matplotlib",
    }  # fmt: skip
    environment = {
        **os.environ,
        **{name: str(work / ".jupyter" / folder) for name, folder in folders.items()},
    }
    options = [
        "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", f"--port={port}",
        f"--IdentityProvider.token={token}", "--LabApp.expose_app_in_browser=True", "--LabApp.news_url=None",
    ]  # fmt: skip
    with (work / "lab.log").open("wb") as log:
        server = subprocess.Popen(
            [*command, *options], cwd=work, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            _wait(server, f"http://127.0.0.1:{port}/api/status?token={token}", work / "lab.log")
            yield f"http://127.0.0.1:{port}/lab/{{place}}?token={token}&reset"
        finally:
            _end(server)


def ckptlab(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "ckptlab.cli", "lab", *arguments]


def open_and_run(page: Any, address: str, limit: float = 300_000) -> None:
    """Go to a notebook, and run all its cells to the end."""
    page.goto(address, wait_until="domcontentloaded")
    page.wait_for_selector(".jp-NotebookPanel .jp-Cell", timeout=180_000)
    page.wait_for_function(READY, timeout=180_000)
    assert page.evaluate(RUN_ALL, limit) is not False, "a cell raised"
    page.wait_for_function(READY, timeout=limit)


def _wait(server: subprocess.Popen[bytes], address: str, log: Path) -> None:
    until = time.monotonic() + 180
    while time.monotonic() < until:
        assert server.poll() is None, f"JupyterLab ended:\n{log.read_text()}"
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except OSError:
            time.sleep(0.05)
    raise AssertionError(f"JupyterLab did not answer:\n{log.read_text()}")


def _end(server: subprocess.Popen[bytes]) -> None:
    for how in (signal.SIGTERM, signal.SIGKILL):
        if server.poll() is None:
            os.killpg(server.pid, how)
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                continue
    server.wait(5)


@contextmanager
def visit(chromium: Any, work: Path, cells: list[str], width: int, height: int) -> Iterator[Any]:
    """The page of a real JupyterLab in which a notebook of these cells was run; its last look is kept."""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(book, work / "book.ipynb")
    with lab(work, [sys.executable, "-m", "jupyterlab"]) as address:
        page = chromium.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(120_000)
        open_and_run(page, address.format(place="tree/book.ipynb"))
        yield page
        page.screenshot(path=str(work / "last.png"))
        page.close()
