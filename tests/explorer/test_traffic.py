"""Bars of a load: lengths in the ratio of the bytes."""

import numpy as np
from saved import TENSORS, hsdp_metadata

from ckptlab.explorer.scene import FILLED, HATCHED, OUTLINED
from ckptlab.explorer.traffic import Ran, summary, traffic_panel, verdict
from ckptlab.layout import Layout
from ckptlab.plan.forecast import forecast
from ckptlab.plan.holding import holdings


def foretold(mesh="4", placements="Shard(1)"):
    return forecast(hsdp_metadata(), holdings(TENSORS, Layout.parse(mesh, placements)), 4)


def test_lengths_are_in_the_ratio_of_bytes():
    seen = foretold()
    marks = traffic_panel(seen).marks
    told = marks.box[marks.style == OUTLINED][:, 2]
    stock = marks.box[marks.style == HATCHED][:, 2]
    assert np.allclose(told / stock, seen.bytes_by_rank / seen.stock, rtol=1e-5)


def test_what_was_read_fills_what_was_foretold():
    seen = foretold()
    ran = [Ran(rank, "read", int(n) // 2, 0.1) for rank, n in enumerate(seen.bytes_by_rank)]
    panel = traffic_panel(seen, ran)
    filled = panel.marks.box[panel.marks.style == FILLED][:, 2]
    told = panel.marks.box[panel.marks.style == OUTLINED][:, 2]
    assert np.allclose(filled, told / 2, rtol=1e-3)
    assert any(note.text.endswith(", read") for note in panel.notes)


def test_the_summary_tells_what_stock_would_read():
    assert "1.00x" in summary(foretold())
    assert f"{foretold().stock_amplification:.2f}x" in summary(foretold())
    assert foretold().stock_amplification > 2


def test_the_verdict_is_of_bytes_and_of_elements():
    seen = foretold()
    assert verdict(seen, seen.total, 1234, []) == (
        "foretold = read 397 KiB. All 1,234 loaded elements equal the stored ones, bit for bit."
    )
    assert verdict(seen, 1024, 1, []).startswith("foretold 397 KiB, but read 1.00 KiB. All")
    said = verdict(seen, seen.total, 9, ["a", "b", "c", "d"])
    assert said.endswith("NOT EQUAL to what is stored: a, b, c and 1 more tensor.")
    assert "All" not in said


def test_many_ranks_share_bars():
    world = 1000
    seen = forecast(hsdp_metadata(), holdings(TENSORS, Layout.parse(str(world), "Shard(0)")), world)
    panel = traffic_panel(seen)
    told = np.flatnonzero(panel.marks.style == OUTLINED)
    assert len(told) == 32
    assert [r for i in told for r in panel.marks.ranks_of(i)] == list(range(world))
    most = [seen.bytes_by_rank[list(panel.marks.ranks_of(i))].max() for i in told]
    assert np.allclose(panel.marks.box[told, 2] * seen.stock.max() / 8, most, rtol=1e-5)
    assert "32 ranks to a bar" in panel.caption
    assert panel.notes[0].text == "ranks 0 to 31"
