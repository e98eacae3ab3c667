"""The doctor's panel: what is ticked, what that makes, and a live load that proves it or says why not."""

import re
import time

import pytest
import torch
from browser import comes
from labserver import visit
from ranks_fixture import pool

import ckptlab
from ckptlab.live.mended import Mended
from ckptlab.widgets.doctor import _verdict, doctor_view
from ckptlab.widgets.explore import explore

SAVED = {
    "module.w": torch.arange(1000.0).reshape(40, 25),
    "module.wide": torch.arange(6.0).reshape(2, 3),
    "module.b": torch.ones(7),
}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("doctor") / "checkpoint"
    ckptlab.save(SAVED, path, no_dist=True)
    return path


def target(**more):
    with torch.device("meta"):
        return {
            "w": torch.empty(40, 25),
            "wide": torch.empty(3, 2),
            "b": torch.empty(7, dtype=torch.bfloat16),
            **more,
        }


@pytest.fixture
def view(path):
    made = []

    def show(wanted):
        panel = doctor_view(path, wanted)
        # The ranks that all tests share; they stay when the panel goes.
        panel._ranks, panel.world.value = pool(4), 4
        made.append(panel)
        return panel

    yield show
    for panel in made:
        panel._ranks = None
        panel.close()


def load(panel, limit=120):
    panel.run.click()
    stop = time.monotonic() + limit
    while not panel.stop.disabled:
        assert time.monotonic() < stop, "the load did not end"
        time.sleep(0.01)
    return re.sub("<[^>]+>", "", panel.status.value)


def test_what_is_sure_is_ticked_and_a_live_load_proves_it(view):
    panel = view(target())
    boxes = {it.kind: box for it, box in zip(panel.found, panel.boxes, strict=True)}
    assert {kind: (box.value, box.disabled) for kind, box in boxes.items()} == {
        "nothing": (False, True),
        "wrapper": (True, False),
        "transposed": (False, False),
        "narrowed": (False, False),
    }
    assert panel.transform == panel.found.transform
    refused = load(panel)
    assert "MismatchError" in refused
    assert "wide" in refused
    boxes["transposed"].value = boxes["narrowed"].value = True
    assert panel.transform == panel.found.transform_with(list(panel.found))
    assert "Not loaded yet." in panel.status.value
    assert "narrow" in panel._shown.value
    proved = load(panel)
    assert "3 keys loaded on 4 ranks" in proved, proved
    assert "all 1,013 loaded elements are, bit for bit" in proved


def test_elements_that_differ_are_told(view):

    panel = view({f"module.{k}": v for k, v in target().items()})
    wrong = _verdict([Mended(0, 1, 0, 8, 2, ("w",)), Mended(1, 1, 0, 8, 2, ())])
    assert "not what is stored in 1 key: w" in wrong
    kept = _verdict([Mended(0, 1, 2, 8, 2, ())])
    assert "2 keys stay wholly or partly as before, on purpose" in kept
    assert "Diagnosis of" in panel._repr_mimebundle_()["text/plain"]


def test_a_target_that_fits_says_so_and_loads(view, path):
    panel = view(path)
    assert panel.boxes == []
    assert "Nothing found: it fits." in panel.children[1].value
    assert "3 keys loaded" in load(panel)


def test_the_explorer_has_its_sheet_where_a_target_is_given(path):
    explorer = explore(path, target=target())
    assert explorer.sheets.titles[0] == "Doctor"
    assert [it.kind for it in explorer.sheets.made("Doctor").found][:2] == ["nothing", "wrapper"]
    explorer.close()
    bare = explore(path)
    assert "Doctor" not in bare.sheets.titles
    bare.close()


CELLS = [
    "import torch, ckptlab\n"
    "from ckptlab.widgets.doctor import doctor_view\n"
    "names = [f'layers.{i}.attention.w{w}.weight' for i in range(6) for w in 'qkvo']\n"
    "saved = {'module.' + n.replace('.att', '._orig_mod.att'): torch.randn(16, 16) for n in names}\n"
    "saved |= {'module.embed_tokens.weight': torch.randn(50257, 4), 'module.up.weight': torch.randn(8, 24)}\n"
    "ckptlab.save(saved, 'step-1000', no_dist=True)\n"
    "with torch.device('meta'):\n"
    "    target = {n: torch.empty(16, 16) for n in names}\n"
    "    target |= {'embed_tokens.weight': torch.empty(50304, 4), 'up.weight': torch.empty(24, 8)}\n"
    "    target |= {'new_head.weight': torch.empty(5, 3)}",
    "doctor_view('step-1000', target)",
    "doctor_view('step-1000', 'step-1000')",
]
THEME = "(theme) => window.jupyterapp.commands.execute('apputils:change-theme', { theme })"


@pytest.mark.browser
@pytest.mark.timeout(300)
def test_findings_are_ticked_and_loaded_in_a_browser(chromium, tmp_path):
    with visit(chromium, tmp_path, CELLS, 1100, 1500) as page:
        outputs = page.locator(".jp-OutputArea-output")
        doctor, fitting = outputs.nth(-2), outputs.nth(-1)
        fitting.get_by_text(re.compile("Nothing found: it fits")).wait_for()
        boxes = doctor.get_by_role("checkbox")
        comes(boxes.count, 6)
        ticked = [boxes.nth(i).is_checked() for i in range(6)]
        assert sum(ticked) == 1, "only the wrapper is sure and free of cost"
        doctor.get_by_role("button", name="Apply and load").click()
        doctor.get_by_text("MismatchError").first.wait_for(timeout=120_000)
        doctor.screenshot(path=str(tmp_path / "refused.png"))
        for i, on in enumerate(ticked):
            box = boxes.nth(i)
            if not on and box.is_enabled():
                box.focus()
                page.keyboard.press("Space")
                comes(box.is_checked, True)
        doctor.get_by_text("Not loaded yet.").wait_for()
        doctor.get_by_role("button", name="Apply and load").click()
        doctor.get_by_text(re.compile("bit for bit, what the transform makes")).wait_for(timeout=120_000)
        doctor.screenshot(path=str(tmp_path / "light.png"))
        page.evaluate(THEME, "JupyterLab Dark")
        page.wait_for_function("() => document.body.dataset.jpThemeLight === 'false'")
        doctor.screenshot(path=str(tmp_path / "dark.png"))
        page.set_viewport_size({"width": 480, "height": 1500})
        page.evaluate("window.jupyterapp.shell.collapseLeft()")
        comes(lambda: doctor.evaluate("e => e.scrollWidth <= e.clientWidth + 1"), True)
        doctor.screenshot(path=str(tmp_path / "narrow.png"))
