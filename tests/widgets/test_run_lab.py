"""Run and Values in a real JupyterLab: press, watch, cancel, kill, look, scan; light, dark and narrow."""

import re
from pathlib import Path

import pytest
from browser import comes
from labserver import visit

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

TESTS = Path(__file__).parent.parent
CELLS = [
    "import torch, ckptlab\n"
    "w = torch.randn(1003, 96, generator=torch.Generator().manual_seed(1))\n"
    "bad = torch.ones(64, 8); bad[3, 2] = torch.nan; bad[60] = torch.inf\n"
    "state = {'model.embed': w, 'model.norm': torch.ones(96).bfloat16(), 'model.bad': bad, 'step': 3}\n"
    "ckptlab.save(state, 'checkpoint', no_dist=True);",
    "from ckptlab.widgets.run import run_view\nrun_view('checkpoint')",
    "from ckptlab.widgets.values import values_view\nvalues_view('checkpoint', 'model.embed')",
]
EXECUTE = """(code) => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel
  .requestExecute({ code, stop_on_error: true }).done.then((reply) => reply.content.status)"""
THEME = "(theme) => window.jupyterapp.commands.execute('apputils:change-theme', { theme })"
HANG = f"""import sys; sys.path.insert(0, {str(TESTS)!r})
import ckptlab.live.ops, widget_ops
ckptlab.live.ops.reshard = widget_ops.read_some_and_hang"""


@pytest.fixture
def page(chromium, tmp_path):
    with visit(chromium, tmp_path, CELLS, 1200, 1900) as page:
        yield page


def test_run_and_values(page, tmp_path):
    outputs = page.locator(".jp-OutputArea-output")
    run, values = outputs.nth(-2), outputs.nth(-1)

    def shot(output, name):
        output.scroll_into_view_if_needed()
        output.screenshot(path=str(tmp_path / f"{name}.png"))

    # Press Run: as foretold, and equal; phases, memory and the run itself are told.
    run.get_by_text("Not run yet.").wait_for()
    comes(run.get_by_label("Ranks").input_value, "4")
    run.get_by_role("button", name="Run").click()
    run.get_by_text(re.compile("foretold = read .* loaded elements equal the stored ones")).wait_for(
        timeout=120_000
    )
    timeline = run.locator("[data-panel=timeline]")
    timeline.get_by_text(re.compile(r"^\+[\d.]+ [KM]?i?B$")).nth(3).wait_for()
    for phase in ("read", "verify"):
        comes(timeline.locator(f"[aria-label^='{phase};']").count, 4)
    run.get_by_role("grid", name="runs").get_by_text("equal", exact=True).wait_for()
    shot(run, "run-equal")

    # A rank of the timeline lights up the same rank's bars.
    def pointed():
        # The notebook may still move under the pointer.
        page.mouse.move(2, 2)
        timeline.locator("[aria-label^='verify;']").nth(2).locator("rect").hover(force=True)
        page.wait_for_timeout(200)
        return page.locator("[data-panel=traffic]").get_attribute("data-lit") == "3"

    comes(pointed, True)

    # Another number of ranks; ranks that hang, one of which is killed: a card (how soon, test_run says).
    page.evaluate(EXECUTE, HANG)
    run.get_by_label("Ranks").fill("2")
    run.get_by_label("Ranks").press("Enter")
    run.get_by_text("Not run yet.").wait_for()
    run.get_by_role("button", name="Run").click()
    kill = run.get_by_role("button", name="Kill")
    # Kill can be pressed as soon as one rank is heard of; what is read below, both must have told.
    run.get_by_text("read 1.95 KiB of").wait_for()
    page.wait_for_function("(b) => !b.disabled", arg=kill.element_handle())
    run.get_by_label("rank", exact=True).select_option(label="1")
    kill.click()
    alert = run.get_by_role("alert")
    alert.get_by_text("Rank 1 died; every other rank was stopped").wait_for()
    said = alert.inner_text()
    assert "killed by SIGKILL" in said
    assert "read, 1000 B of 1.95 KiB done" in said
    shot(run, "run-killed")

    # Cancelled; and the first run, seen again.
    run.get_by_role("button", name="Run").click()
    run.get_by_text("2 in read").wait_for()
    run.get_by_role("button", name="Cancel").click()
    run.get_by_text("Cancelled; the ranks have been ended.").wait_for()
    shot(run, "run-cancelled")
    run.get_by_role("row", name=re.compile("^1. shard=4")).click()
    run.get_by_text("foretold = read").first.wait_for()

    # Values: the numbers and a picture; a part of it; a scan that leads to the tensor.
    values.get_by_text("every one finite").wait_for()
    numbers = values.get_by_role("table", name="numbers")
    comes(lambda: bool(re.search(r"count\s+96,288", numbers.inner_text())), True)
    shot(values, "values")
    values.get_by_label("Part").fill("[10:20, ::3]")
    values.get_by_label("Part").press("Enter")
    values.get_by_text("model.embed[10:20, ::3]: 320 elements").wait_for()
    values.get_by_role("button", name="Scan").click()
    values.get_by_text("1 tensor with NaN or Inf").wait_for()
    row = values.get_by_role("row", name=re.compile("model.bad"))
    for where in ("[3, 2]", "[60, 0]"):
        row.get_by_text(where).wait_for()
    row.click()
    values.get_by_text("model.bad: 512 elements: 1 NaN, 8 Inf.").wait_for()
    shot(values, "values-scanned")

    # Dark, then narrow.
    page.evaluate(THEME, "JupyterLab Dark")
    page.wait_for_function("document.body.dataset.jpThemeLight === 'false'")
    shot(run, "run-dark")
    shot(values, "values-dark")
    page.set_viewport_size({"width": 640, "height": 1900})
    page.wait_for_timeout(500)
    shot(run, "run-narrow")
    shot(values, "values-narrow")
    for output in (run, values):
        comes(lambda o=output: o.evaluate("e => e.scrollWidth <= e.clientWidth + 1"), True)
