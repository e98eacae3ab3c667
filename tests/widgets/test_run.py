"""The run panel on real ranks: bars that fill, the verdict, Cancel, a killed rank, a damaged file."""

import time
from pathlib import Path

import numpy as np
import pytest
import values_ops
import widget_ops
from ranks_fixture import pool

import ckptlab.live.ops
import ckptlab.widgets.run
from ckptlab.explorer.scene import FILLED, OUTLINED
from ckptlab.explorer.whatif import mesh_of
from ckptlab.live import Place, places
from ckptlab.widgets.run import run_view


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    import torch

    import ckptlab

    path = tmp_path_factory.mktemp("saved") / "checkpoint"
    state = {"w": torch.arange(1003.0 * 24).reshape(1003, 24), "b": torch.ones(7).bfloat16(), "step": 3}
    ckptlab.save(state, path, no_dist=True)
    return path


@pytest.fixture(scope="module")
def shared(checkpoint):
    panel = run_view(checkpoint)
    yield panel
    panel.close()


@pytest.fixture
def panel(shared):
    shared._session.change(mesh="shard=4", placements="Shard(0)")
    shared.foretell()
    shared.limit.value = 600.0
    yield shared
    shared.stop.click()
    ended(shared)


def until(true, limit):
    stop = time.monotonic() + limit
    while not true():
        assert time.monotonic() < stop, "waited in vain"
        time.sleep(0.01)


def ended(panel, limit=60):
    until(lambda: panel.stop.disabled, limit)


def usable(panel):
    """Which of Run, Cancel and Kill can be pressed."""
    return [not button.disabled for button in (panel.run, panel.stop, panel.kill)]


def widths(panel, style):
    marks = panel.view.scene.panels[0].marks
    return marks.box[marks.style == style][:, 2]


def hanging(panel, monkeypatch):
    """Press Run on a load that reads a little and then hangs; returns when the bars have begun to fill."""
    monkeypatch.setattr(ckptlab.live.ops, "reshard", widget_ops.read_some_and_hang)
    panel.run.click()
    until(lambda: "read 3.91 KiB of" in panel.status.value, 60)
    monkeypatch.undo()


def test_before_a_run_only_the_forecast_is_drawn(panel):
    assert "Not run yet." in panel.status.value
    assert len(widths(panel, FILLED)) == 0
    assert len(widths(panel, OUTLINED)) == 4
    assert usable(panel) == [True, False, False]
    assert (panel.victim.value, list(panel.victim.options)) == (1, [0, 1, 2, 3])
    assert panel.world.value == 4


def test_a_run_reads_what_was_foretold_and_all_is_equal(panel):
    panel.run.click()
    assert usable(panel)[:2] == [False, True]
    assert panel.world.disabled
    assert panel.device.disabled
    ended(panel)
    assert "✓" in panel.status.value
    assert "foretold = read" in panel.status.value
    elements = f"{1003 * 24 + 7:,}"
    assert f"All {elements} loaded elements equal the stored ones, bit for bit." in panel.status.value
    said = panel.view.scene.text
    assert said.count("foretold = read") == 4
    assert said.count(", equal, ") == 4
    np.testing.assert_allclose(widths(panel, FILLED), widths(panel, OUTLINED))
    assert usable(panel) == [True, False, False]
    assert not panel.world.disabled


def test_bars_fill_while_ranks_read_and_cancel_ends_them(panel, monkeypatch):
    hanging(panel, monkeypatch)
    until(lambda: panel.view.scene.text.count("1000 B of") == 4, 5)
    foretold = panel._session.foretold.bytes_by_rank
    np.testing.assert_allclose(widths(panel, FILLED) / widths(panel, OUTLINED), 1000 / foretold, rtol=1e-4)
    assert usable(panel) == [False, True, True]
    ranks = panel._ranks.pids
    panel.stop.click()
    ended(panel, 5)
    assert "Cancelled; the ranks have been ended." in panel.status.value
    assert "role='alert'" not in panel.status.value
    until(lambda: not any(running(pid) for pid in ranks), 2)
    panel.run.click()
    ended(panel)
    assert "foretold = read" in panel.status.value


def test_a_killed_rank_is_named_and_the_next_run_works(panel, monkeypatch):
    hanging(panel, monkeypatch)
    until(lambda: usable(panel)[2], 5)
    panel.victim.value = 1
    panel.kill.click()
    ended(panel, 5)
    assert "role='alert'" in panel.status.value
    told = panel.runs[0].failure
    assert (told.rank, told.phase) == ("1", "read, 1000 B of 1.95 KiB done")
    assert "killed by SIGKILL" in told.cause
    panel.run.click()
    ended(panel)
    assert "foretold = read" in panel.status.value


def test_another_target_takes_other_ranks(panel):
    panel._session.change(mesh="rank=1", placements="Replicate")
    assert panel.victim.value == 0
    panel.run.click()
    ended(panel)
    assert "foretold = read" in panel.status.value
    assert len(panel._ranks.pids) == 1


def test_a_second_press_while_it_runs_does_nothing(panel, monkeypatch):
    hanging(panel, monkeypatch)
    thread = panel._job._thread
    panel.run.click()
    assert panel._job._thread is thread


def bit_flipped(file):
    data = file.read_bytes()
    at = data.index(np.arange(1003 * 24, dtype=np.float32).tobytes())
    file.write_bytes(data[: at + 8] + bytes([data[at + 8] ^ 4]) + data[at + 9 :])


def cut_off(file):
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])


FAULTS = [
    (bit_flipped, "its bytes have crc", "read", "Restore the file from a copy"),
    (cut_off, "ends at byte", "plan", "It was cut off"),
    (Path.unlink, "is missing", "plan", "Copy the file here again"),
]


@pytest.mark.parametrize(("fault", "cause", "phase", "remedy"), FAULTS, ids=["bit", "cut", "gone"])
def test_a_damaged_file_is_a_card(panel, checkpoint, fault, cause, phase, remedy):
    (file,) = checkpoint.glob("*.distcp")
    whole = file.read_bytes()
    fault(file)
    try:
        panel.run.click()
        ended(panel)
    finally:
        file.write_bytes(whole)
    told = panel.runs[0].failure
    assert cause in told.cause
    assert (told.phase.split(",")[0], told.file) == (phase, file.name)
    assert told.tensor == ("w" if fault is bit_flipped else "")
    assert told.remedy.startswith(remedy)
    assert "role='alert'" in panel.status.value
    assert file.name in panel.status.value
    assert "foretold = read" not in panel.view.scene.text
    assert usable(panel) == [True, False, False]


def test_the_rank_that_alone_reads_a_damaged_chunk_is_named(tmp_path):
    """Columns saved by four ranks, loaded as columns: each reads the chunk of one file."""
    pool(4).run(values_ops.save_columns_with_nans, str(tmp_path / "c"))
    panel = run_view(tmp_path / "c", "tp=4", "Shard(1)")
    file = next((tmp_path / "c").glob("__2_*.distcp"))
    data = file.read_bytes()
    at = data.index(np.float32([4, 5]).tobytes())
    file.write_bytes(data[:at] + b"\x01" + data[at + 1 :])
    panel.run.click()
    ended(panel)
    told = panel.runs[0].failure
    panel.close()
    assert told.title == "Rank 2 failed; every other rank was stopped"
    assert (told.rank, told.phase.split(",")[0], told.tensor, told.file) == ("2", "read", "w", file.name)
    assert told.cause.startswith("CorruptError: chunk Box[0:4, 4:6] of tensor 'w'")


def test_unchecked_a_flipped_bit_goes_unseen(panel, checkpoint):
    """What the tick is for: of chunks that are read in part, no checksum is taken without it."""
    (file,) = checkpoint.glob("*.distcp")
    whole = file.read_bytes()
    bit_flipped(file)
    panel.checked.value = False
    try:
        panel.run.click()
        ended(panel)
    finally:
        panel.checked.value = True
        file.write_bytes(whole)
    assert panel.runs[0].verdict == "equal"


def test_a_rank_that_hangs_shows_its_stack_at_the_deadline(panel, monkeypatch):
    monkeypatch.setattr(ckptlab.live.ops, "reshard", widget_ops.one_hangs)
    panel.limit.value = 1.0
    panel.run.click()
    ended(panel)
    told = panel.runs[0].failure
    assert told.title == "Rank 2 hangs; every rank was stopped"
    assert told.rank == "2"
    assert told.phase.startswith("read")
    rank2 = told.more.partition("rank 2 at:")[2].partition("ranks 0, 1, 3 at:")[0]
    assert "in oversleep" in rank2
    assert "widget_ops.py" in rank2
    assert "<details open>" in panel.status.value


def test_a_rank_of_choice_is_killed(panel, monkeypatch):
    hanging(panel, monkeypatch)
    until(lambda: usable(panel)[2], 5)
    panel.victim.value = 3
    began = time.monotonic()
    panel.kill.click()
    ended(panel, 5)
    assert time.monotonic() - began < 5
    assert panel.runs[0].failure.rank == "3"


def test_runs_stand_side_by_side_and_each_can_be_seen_again(panel):
    panel._session.change(mesh="shard=2", placements="Shard(0)")
    panel.run.click()
    ended(panel)
    panel._session.change(mesh="tp=4", placements="Shard(1)")
    panel.run.click()
    ended(panel)
    labels = tuple(line.cells[0] for line in panel.table.table.lines(0, 2))
    number = panel.runs[0].asked.number
    assert labels == (f"{number}. tp=4: Shard(1)", f"{number - 1}. shard=2: Shard(0)")
    assert panel.view.scene.text.count(", equal, ") == 4
    panel.table.hear({"press": 1})
    assert panel.view.scene.text.count(", equal, ") == 2
    assert "foretold = read" in panel.status.value
    assert panel.table.table.chosen == 1
    assert [lane.rank for lane in panel.runs[1].lanes] == [0, 1]
    assert all([s.phase for s in lane.spans][-2:] == ["commit", "verify"] for lane in panel.runs[1].lanes)
    assert all(lane.peak > 0 for lane in panel.runs[1].lanes)


def test_the_number_of_ranks_changes_the_target(panel):
    panel._session.change(mesh="dp=2, tp=2", placements="Shard(1), Shard(0)")
    assert panel.world.value == 4
    panel.world.value = 6
    assert mesh_of(panel._session.target).size == 6
    assert list(panel.victim.options) == list(range(6))
    before = panel._session.mesh
    panel.world.value = 5
    assert panel._session.mesh == before
    assert "5 ranks" in panel.status.value
    assert "role='alert'" in panel.status.value


def test_each_tensor_may_have_placements_of_its_own(panel):
    panel._session.change(rules=(("b", "Replicate"),))
    try:
        panel.run.click()
        ended(panel)
    finally:
        panel._session.change(rules=())
    assert panel.runs[0].verdict == "equal"
    assert panel.runs[0].asked.target == "shard=4: Shard(0); b: Replicate"
    assert panel.runs[0].nbytes == 1003 * 24 * 4 + 4 * 7 * 2


def test_a_target_that_makes_no_sense_cannot_be_run(panel):
    panel._session.change(mesh="shard=")
    assert panel.run.disabled
    assert "role='alert'" in panel.status.value
    panel._session.change(mesh="shard=4")
    assert not panel.run.disabled


def test_more_ranks_than_a_machine_bears_are_foretold_but_not_run(panel):
    panel._session.change(mesh="shard=1024")
    assert panel.run.disabled
    assert "1,024 ranks are foretold" in panel.note.value
    assert panel._session.mesh == "shard=1024"
    panel._session.change(mesh="shard=4")
    assert not panel.run.disabled
    assert panel.note.value == ""


def test_places_are_those_that_there_are(panel, monkeypatch):
    assert [str(place) for _, place in panel.device.options] == [str(p) for p in places(4)]
    shared = (Place("cpu", "gloo"), Place("cuda", "gloo", 1, shared=True))
    monkeypatch.setattr(ckptlab.widgets.run, "places", lambda world: shared)
    panel.foretell()
    assert [label for label, _ in panel.device.options] == ["CPU (gloo)", "1 GPU (shared, gloo)"]
    assert panel.device.value.device == "cpu"
    assert "nccl takes one GPU a rank: 4 ranks on 1 GPU share by gloo" in panel.note.value


class Given:
    """Ranks of the user's own, as a cluster's are: warm already, and neither killed nor ended here."""

    def __init__(self, world):
        self.world, self.device, self.ran, self.closed = world, "cpu", 0, False

    def run(self, *call, **how):
        self.ran += 1
        return pool(self.world).run(*call, **how)

    def cancel(self):
        pool(self.world).cancel()

    def close(self):
        self.closed = True


def test_given_ranks_stand_among_the_devices_and_run_what_fits_them(checkpoint):
    given = Given(4)
    panel = run_view(checkpoint, ranks=given)
    assert panel._session.mesh == "shard=4"
    labels = [label for label, _ in panel.device.options]
    assert labels == ["the given ranks (4 on cpu)", "CPU (gloo)"]
    panel.run.click()
    ended(panel)
    assert "foretold = read" in panel.status.value
    assert (given.ran, panel._ranks) == (1, None)
    panel._session.change(mesh="shard=2")
    assert [label for label, _ in panel.device.options] == ["CPU (gloo)"]
    assert "The given ranks are 4" in panel.note.value
    panel._session.change(mesh="shard=4")
    assert panel.device.value is given
    panel.close()
    assert not given.closed


def test_the_panel_leaves_a_picture(panel):
    assert panel._repr_mimebundle_()["image/png"]


def test_what_nobody_foresaw_is_a_card_too(panel, monkeypatch):
    def boom():
        raise ZeroDivisionError("<b>unforeseen</b>")

    monkeypatch.setattr(panel, "_fitting_ranks", boom)
    panel.run.click()
    ended(panel)
    assert "ZeroDivisionError: &lt;b&gt;unforeseen&lt;/b&gt;" in panel.status.value


def running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_closing_the_panel_ends_its_ranks(checkpoint):
    panel = run_view(checkpoint)
    until(lambda: panel._ranks.pids, 60)
    ranks = panel._ranks.pids
    assert len(ranks) == 4
    panel.close()
    until(lambda: not any(running(pid) for pid in ranks), 2)
    assert panel._ranks is None
