"""The passport's page: what is on it, what never is, its size, and how it works in Chromium."""

import html
import re

import numpy as np
import pytest
import torch
from browser import SETTLED, comes, spot

import ckptlab
from ckptlab.errors import CorruptError
from ckptlab.layout import Boxes
from ckptlab.metadata import BoxColumns, Chunks, Extent, Metadata, Tensor, Tensors
from ckptlab.storage import Checkpoint, open_checkpoint
from ckptlab.storage.where import files_at
from ckptlab.widgets.passport import LIMIT, passport, write_passport, write_unreadable

SECRET = 123456.789
HOSTILE = "</script><script>document.title='owned'</script>"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    home = tmp_path_factory.mktemp("home-of-ada")
    names = [f"layers.{i}.{part}.weight" for i in range(3) for part in ("wq", "norm")]
    state = {
        "model": {name: torch.full((8, 4), SECRET) for name in names},
        "step": 3,
        "word": "a-secret-word",
    }
    ckptlab.save({**state, HOSTILE: torch.ones(2)}, home / "step-1", no_dist=True)
    (home / "step-1" / "__9_0.distcp").write_bytes(bytes(5000))
    return write_passport(home / "step-1", home / "page.html")


def many(tmp_path, keys, chunks, wide=40):
    """An opened checkpoint of so many tensors, each in so many chunks, whose files are not there."""
    grown = BoxColumns()
    rows = np.arange(chunks)
    boxes = Boxes(np.stack([rows, 0 * rows], 1), np.ones((chunks, 2), np.int64))
    corner = [grown.corner(boxes) for _ in range(keys)]
    n = keys * chunks
    columns = Chunks(
        np.arange(keys + 1) * chunks,
        np.array(corner),
        *grown.build(),
        np.tile(rows % 64, keys).astype(np.int32),
        np.arange(n) * 4,
        np.full(n, 4),
    )
    tensors = tuple(Tensor(f"layers.{i % 97}.{i:0{wide}d}", "float32", (chunks, 1)) for i in range(keys))
    files = tuple(f"__{rank}_0.distcp" for rank in range(64))
    metadata = Metadata(Tensors.of(tensors), columns, files, tuple(range(64)), {"step": Extent(0, 0, 9)})
    return Checkpoint(str(tmp_path / "many"), "dcp", metadata, files_at(tmp_path))


def test_what_is_on_it_and_what_never_is(written):
    page = written.read_text()
    words = html.unescape(re.sub(r"<[^>]*>", " ", page))
    assert len(page) < 100_000
    for told in (
        "layers",
        "float32 8 x 4",
        "int 3",
        "str of 13",
        "ckptlab verify step-1",
        "1 data file of another",
    ):
        assert told in words
    assert torch.__version__ in words
    for never in ("123456", "a-secret-word", "home-of-ada", str(written.parent)):
        assert never not in page
    assert HOSTILE not in page
    assert "default-src 'none'" in page


def test_keys_that_have_no_room_are_counted(tmp_path):
    page = passport(many(tmp_path, 20_000, 2))
    assert 0.9 * LIMIT < len(page) <= LIMIT
    text = page.decode()
    listed = int(re.search(r"([\d,]+) of 20,001 keys are listed", text)[1].replace(",", ""))
    assert text.count("<p><b>") == listed
    cut = sum(
        int(n.replace(",", "")) for n in re.findall(r"<p class=cut>([\d,]+) below", text.replace("\n", ""))
    )
    # The one branch at the top, and each of those below it, say what is left out.
    assert cut == 2 * (20_001 - listed)
    assert text.count("<details") == text.count("</details>")


def test_long_and_many_names_stay_below_the_limit(tmp_path):
    names = {"é\"'<" * 5000 + str(i): torch.ones(1) for i in range(30)}
    ckptlab.save(names, tmp_path / "c", no_dist=True)
    page = passport(open_checkpoint(tmp_path / "c"))
    assert len(page) <= LIMIT
    assert page.decode().count("letters)") >= 30


def test_a_tensor_in_too_many_chunks_is_not_drawn_but_a_smaller_one_may_be(tmp_path):
    page = passport(many(tmp_path, 2, 15_000)).decode()
    assert "Its tensors are in too many chunks to draw one here." in page
    assert len(page.encode()) < 100_000
    assert "64 missing" in page


def test_an_empty_checkpoint_has_one_too(tmp_path):
    ckptlab.save({}, tmp_path / "c", no_dist=True)
    page = passport(open_checkpoint(tmp_path / "c")).decode()
    assert "<p>No tensor.</p>" in page
    assert "<p>None.</p>" in page


def test_what_cannot_be_opened_has_one_that_says_why_and_lists_the_files(tmp_path):
    path = tmp_path / "home-of-ada" / "step-9"
    path.mkdir(parents=True)
    (path / ".metadata").write_bytes(b"garbage")
    (path / HOSTILE.replace("/", "")).write_bytes(bytes(3000))
    with pytest.raises(CorruptError) as caught:
        open_checkpoint(path)
    page = write_unreadable(caught.value, path, tmp_path / "page.html").read_text()
    for told in ("It cannot be opened: CorruptError", "step-9/.metadata: damaged or cut short", "2.93 KiB"):
        assert told in page
    assert "home-of-ada" not in page
    assert "<script>document" not in page


@pytest.mark.browser
def test_it_works_in_a_browser_without_a_network(written, page, tmp_path):
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(written.as_uri())
    page.get_by_role("heading", name="step-1", exact=True).wait_for()
    page.evaluate(SETTLED)
    assert page.title() == "step-1: passport"
    page.mouse.move(*spot(page, "tensor", 1, 1))
    tip = page.locator(".ckl-tip:popover-open")
    tip.wait_for()
    tip.get_by_text("[0:8, 0:4]").wait_for()
    page.screenshot(path=str(tmp_path / "light.png"), full_page=True)
    branch = page.locator(".tree summary").first
    leaf = page.locator(".tree p", has_text="wq").first
    leaf.wait_for()
    branch.focus()
    page.keyboard.press("Enter")
    leaf.wait_for(state="hidden")
    page.keyboard.press("Enter")
    page.locator("summary", has_text="1 stale").click()
    page.get_by_role("cell", name="__9_0.distcp").wait_for()
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 380, "height": 900})
    page.wait_for_function("innerWidth === 380 && document.documentElement.scrollWidth <= innerWidth")

    def darkest():
        return min(map(int, re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).color"))[:3]))

    comes(lambda: darkest() > 200, True)
    page.screenshot(path=str(tmp_path / "narrow-dark.png"), full_page=True)
    assert asked == [written.as_uri()]
