"""The journey of a reader, in a real JupyterLab: from `ckptlab lab` to a load that is as foretold."""

import os
import re
import signal
import time
from pathlib import Path

import pytest
from browser import SETTLED, comes
from labserver import KERNEL, ckptlab, lab, open_and_run

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]

# What JupyterLab itself writes to its console, and is no concern of ours.
KNOWN = re.compile(
    "Failed to load resource.*404|Canceled future for|ResizeObserver loop|Could not restore the debugger"
)
BOOK = "tree/00-start-here.ipynb"


@pytest.fixture
def address(tmp_path):
    with lab(tmp_path, ckptlab()) as address:
        yield address


@pytest.fixture
def page(chromium, address, tmp_path):
    page = chromium.new_page(viewport={"width": 1300, "height": 1700})
    page.set_default_timeout(30_000)
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
    yield page
    page.screenshot(path=str(tmp_path / "last.png"))
    page.close()
    assert [problem for problem in problems if not KNOWN.search(problem)] == []


def descendants(pid):
    """Every process below one, generation by generation: by id, with the time it was started."""
    children = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent, *rest = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if state != "Z":
            children.setdefault(int(parent), []).append((int(folder.name), rest[17]))
    found, last = [], [(pid, "")]
    while last := [child for parent, _ in last for child in children.get(parent, [])]:
        found.append(last)
    return found


def running(pid, began):
    """Whether that very process is there: ids come round again."""
    try:
        state, _, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return state != "Z" and rest[17] == began


def test_from_the_command_to_a_load_as_foretold(page, address, tmp_path):
    open_and_run(page, address.format(place=BOOK))
    explorer = page.locator(".jp-OutputArea-output:has(.ckl-view)").first

    # Pick another tensor in the tree.
    keys = explorer.get_by_role("treegrid", name="keys")
    explorer.get_by_role("searchbox").fill("0.w1.weight")
    keys.get_by_title("model.layers.0.w1.weight", exact=True).click()
    title = page.get_by_role("heading", name="model.layers.0.w1.weight in the checkpoint")
    title.wait_for()

    # Point at a rank of the mesh that saved it: its shard of the tensor lights up.
    stored = explorer.locator(".ckl-view", has=title)

    def lit(pointed):
        # The notebook may still move under the pointer.
        page.mouse.move(2, 2)
        if pointed:
            stored.get_by_role("option", name=re.compile("^rank 3;")).first.hover()
        page.evaluate(SETTLED)
        said = stored.get_by_role("status").inner_text()
        tiles = stored.locator("[data-panel=tensor]").get_attribute("data-lit")
        return tiles, said.startswith("rank 3; holds: [129:258, 0:96]; at: replicate 1, shard 1")

    comes(lambda: lit(True), ("1", True))
    comes(lambda: lit(False), ("2", False))

    # Choose another target: forecast and picture follow.
    explorer.get_by_role("textbox", name="Mesh").fill("tp=4")
    explorer.get_by_role("textbox", name="Mesh").press("Enter")
    explorer.get_by_role("textbox", name="Placements").fill("Shard(1)")
    explorer.get_by_role("textbox", name="Placements").press("Enter")
    page.get_by_role("heading", name="model.layers.0.w1.weight, as stored and under Shard(1)").wait_for()

    # Press Run: real ranks read what was foretold, and all is equal.
    explorer.get_by_role("tab", name="Run").click()
    explorer.get_by_role("button", name="Run").click()
    verdict = explorer.get_by_text(re.compile("foretold = read .* loaded elements equal the stored ones"))
    verdict.first.wait_for(timeout=90_000)
    told = explorer.get_by_text(re.compile(r"^foretold = read [\d.]+ MiB, equal, [\d.]+ s$"))
    comes(told.count, 4)
    explorer.screenshot(path=str(tmp_path / "explorer.png"))

    # The kernel dies: no rank outlives it.
    kernel = page.evaluate(KERNEL)
    pid = kernel_pid(tmp_path, kernel)
    servers, ranks = descendants(pid)
    assert len(ranks) >= 4
    os.kill(pid, signal.SIGKILL)
    # The server that forked them unloads torch first, which takes it seconds where others work too.
    for outlived, limit in ((ranks, 2), (servers, 30)):
        stop = time.monotonic() + limit
        while any(running(*process) for process in outlived):
            assert time.monotonic() < stop, f"{outlived} outlived their kernel by {limit} s"
            time.sleep(0.02)


def kernel_pid(work, kernel):
    """The process of a kernel: the one that was started with its connection file."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if f"kernel-{kernel}.json".encode() in command and str(work).encode() in command:
            return int(folder.name)
    raise AssertionError("no process of that kernel")
