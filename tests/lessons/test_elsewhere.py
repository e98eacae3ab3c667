"""Lesson 4: forecast and real loads agree, stock reads whole chunks; the puzzle's answers."""

import pytest

from ckptlab.layout import Layout
from ckptlab.lessons.ask import WAITING
from ckptlab.lessons.elsewhere import ALONE, FSDP, TILES, TP, WEIGHT, check_layout, draw, load, load_by_stock
from ckptlab.lessons.small import saved


def test_loads_of_all_kinds(ranks4, tmp_path):
    checkpoint = saved(ranks4, FSDP, str(tmp_path / "saved"), [WEIGHT])
    assert "4 chunks in 4 files" in repr(draw(checkpoint, TP))
    for target, each in ((TP, [1 << 18] * 4), (TILES, [1 << 18] * 4), (ALONE, [1 << 20])):
        loaded = load(ranks4, checkpoint, target)
        assert list(loaded.read) == list(loaded.foretold) == each
        assert loaded.equal
        assert repr(loaded).endswith("as foretold; all elements are right")
        assert "foretold = read" in loaded._repr_mimebundle_()["text/plain"]
    for target, times in ((TP, 4), (TILES, 2), (FSDP, 1)):
        for nbytes in load_by_stock(ranks4, checkpoint, target):
            assert nbytes == pytest.approx(times * (1 << 18), rel=0.2)
            assert nbytes > times * (1 << 18)


def test_the_layout():
    for placements in ("Shard(0), Shard(1)", "Shard(1), Shard(0)"):
        said = check_layout(Layout.parse("2x2", placements))
        assert said.right
        assert "2 MiB for FSDP and 2 MiB for TP, 4 MiB in all" in said.text


@pytest.mark.parametrize(
    ("mesh", "placements", "said"),
    [
        ("4", "Shard(0)", "1 MiB for FSDP and 4 MiB for TP, 5 MiB in all. It reads chunks whole, and yours "
         "are 128 x 512: a rank of TP wants 512 x 128."),
        ("2x2", "Replicate, Shard(1)", "4 MiB for FSDP and 2 MiB for TP, 6 MiB in all"),
        ("4", "Replicate", "8 MiB in all"),
        ("2", "Shard(0)", "ranks 0 to 3 save"),
    ],
)  # fmt: skip
def test_other_layouts(mesh, placements, said):
    verdict = check_layout(Layout.parse(mesh, placements))
    assert verdict.right is False
    assert said in verdict.text
    assert check_layout(None) is WAITING
