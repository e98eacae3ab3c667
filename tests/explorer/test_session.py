"""What a person does in the explorer, and what is shown for it; no browser needed."""

import pytest
from saved import hsdp_metadata

from ckptlab.errors import CheckpointError, LayoutError
from ckptlab.explorer.scenes import traffic_scene
from ckptlab.explorer.session import Session
from ckptlab.explorer.traffic import Ran
from ckptlab.layout import Layout
from ckptlab.plan.metadata_of import metadata_of

ALONE = Layout.parse("1", "Replicate")


def test_it_begins_with_the_first_matrix_in_view():
    session = Session(hsdp_metadata())
    assert session.fqn == "model.embed.weight"
    assert Session(metadata_of([], ALONE)).fqn == ""


def test_a_target_that_makes_no_sense_is_an_error_and_no_forecast():
    session = Session(hsdp_metadata(), mesh="2x2", placements="Shard(0)")
    with pytest.raises(LayoutError, match="2 axes"):
        _ = session.foretold


def test_an_unknown_tensor_is_named_with_its_neighbours():
    with pytest.raises(CheckpointError, match=r"did you mean 'model\.embed\.weight'"):
        Session(hsdp_metadata(), fqn="").choose("model.embed.weigth")


def test_the_run_is_told_in_the_forecasts_own_bars():
    session = Session(hsdp_metadata())
    wanted = session.foretold.bytes_by_rank.tolist()
    ran = tuple(Ran(rank, "done", n, 0.25, True) for rank, n in enumerate(wanted))
    text = traffic_scene(session.foretold, ran).text
    assert text.count("foretold = read") == 4
    assert text.count(", equal, 0.25 s") == 4
    short = tuple(Ran(rank, "done", n - 4, 0.25, False) for rank, n in enumerate(wanted))
    assert "foretold = read" not in traffic_scene(session.foretold, short).text
    assert traffic_scene(session.foretold, short).text.count("NOT EQUAL") == 4


def test_listeners_are_told_once_what_has_changed():
    session, heard = Session(hsdp_metadata()), []
    deaf = session.listen(lambda changed: heard.append(("a", changed)))
    session.listen(lambda changed: heard.append(("b", changed)))
    session.change(rank=3, colours="rank", file=-1)
    assert heard == [("a", {"rank"}), ("b", {"rank"})]
    session.change(rank=3)
    assert len(heard) == 2
    deaf()
    session.change(mesh="shard=2", placements="Shard(1)")
    assert heard[2:] == [("b", {"mesh", "placements"})]


def test_another_tensor_is_looked_at_whole():
    session, heard = Session(hsdp_metadata()), []
    session.change(dims=(1, 0), at=(0, 3))
    session.listen(heard.append)
    session.choose("model.layers.0.wq.weight")
    assert (session.fqn, session.dims, session.at) == ("model.layers.0.wq.weight", None, ())
    assert heard == [{"fqn", "dims", "at"}]
    session.choose("model.layers.0.wq.weight")
    assert len(heard) == 1


def test_a_listener_may_change_what_it_is_told_of():
    session, heard = Session(hsdp_metadata()), []
    session.listen(lambda changed: session.change(rank=-1) if "fqn" in changed else None)
    session.change(rank=2)
    session.listen(heard.append)
    session.choose("model.layers.0.wq.weight")
    assert session.rank == -1
    assert {"rank"} in heard
