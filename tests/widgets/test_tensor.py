"""The panel of one tensor: its fields and the session say the same, and so does the picture."""

import pytest
from saved import hsdp_metadata

from ckptlab.errors import CheckpointError, LayoutError
from ckptlab.explorer.scene import GROUND
from ckptlab.explorer.session import Session
from ckptlab.layout import Layout
from ckptlab.metadata import Tensor
from ckptlab.plan.metadata_of import metadata_of
from ckptlab.storage import Checkpoint
from ckptlab.widgets.tensor import TensorPanel, mesh_view, tensor_view

CUBE = Layout.parse("2x3x2", "Shard(0), Shard(1), Shard(2)")


@pytest.fixture
def session():
    return Session(
        metadata_of([Tensor("cube", "float32", (8, 6, 10)), Tensor("w", "float32", (12, 4))], CUBE)
    )


def elements(panel):
    marks = panel.view.scene.panels[-1].marks
    (fact,) = [fact for fact in marks.facts if fact.label == "elements"]
    return [fact.show(i) for i in range(len(marks))]


def test_a_slider_chooses_the_slice_of_the_dim_that_is_not_drawn(session):
    panel = TensorPanel(session, link="a")
    assert panel.view.link == "a"
    assert list(panel.at) == [0]
    assert elements(panel)[0] == "[0:4, 0:2, 0:5]"
    panel.at[0].value = 7
    assert session.at == (7, 0, 0)
    assert elements(panel)[0] == "[4:8, 0:2, 0:5]"
    panel.dims.value = (0, 2)
    assert session.dims == (0, 2)
    assert list(panel.at) == [1]
    assert elements(panel)[0] == "[0:4, 0:2, 0:5]"
    panel.at[1].value = 5
    assert session.at == (0, 5, 0)
    assert elements(panel)[-1] == "[4:8, 4:6, 5:10]"


def test_what_the_session_is_told_the_fields_show(session):
    panel = TensorPanel(session)
    session.change(dims=(2, 0), at=(0, 3, 0), colours="file", hosts=4)
    assert (panel.dims.value, panel.colours.value, panel.hosts.value) == ((2, 0), "file", 4)
    assert {d: s.value for d, s in panel.at.items()} == {1: 3}
    assert GROUND in panel.view.scene.panels[0].marks.style
    session.choose("w")
    assert panel.at == {}
    assert panel.dims.label == "those cut most"
    assert panel.view.scene.title.startswith("w ")
    panel.close()
    session.choose("cube")
    assert panel.view.scene.title.startswith("w ")


def test_fields_change_colours_and_hosts(session):
    panel = TensorPanel(session)
    panel.colours.value = "file"
    assert session.colours == "file"
    assert panel.view.scene.legend[0].text == "colour: the file that it lies in"
    panel.hosts.value = 6
    assert session.hosts == 6
    assert "2 hosts of 6 ranks" in panel.view.scene.panels[0].caption


def test_a_rank_and_a_chunk_that_are_pressed_are_the_sessions(session):
    session.change(rank=2)
    panel = TensorPanel(session)
    assert panel.view.rank == 2
    panel.view.rank = 5
    assert session.rank == 5
    session.change(rank=-1)
    assert panel.view.rank == -1
    panel.view.picked = {"panel": "tensor", "mark": 3}
    rows = session.metadata.chunk_rows(0)
    assert session.file == session.metadata.chunks.file[rows][3]
    panel.view.picked = {"panel": "mesh", "mark": 0}
    assert session.file == session.metadata.chunks.file[rows][3]


def test_one_change_is_told_once(session):
    panel, told = TensorPanel(session), []
    session.listen(lambda changed: told.append(set(changed)))
    panel.dims.value = (0, 1)
    panel.at[2].value = 9
    assert told == [{"dims"}, {"at"}]


def test_what_can_not_be_drawn_is_said(session):
    panel = TensorPanel(session)
    session.change(dims=(0, 7))
    assert "no two dims 0 and 7" in panel.problem.value
    session.change(dims=None)
    assert panel.problem.value == ""


def test_a_view_by_itself():
    opened = Checkpoint("x", "dcp", hsdp_metadata(), None)
    panel = tensor_view(opened, "model.layers.0.wq.weight", hosts=2)
    assert panel.session.fqn == "model.layers.0.wq.weight"
    bundle = panel._repr_mimebundle_()
    assert bundle["text/plain"] == repr(panel) == panel.view.scene.text
    assert "image/png" in bundle
    assert tensor_view(opened).session.fqn == "model.embed.weight"
    with pytest.raises(CheckpointError, match="did you mean"):
        tensor_view(opened, "model.layers.0.wq.weigh")
    with pytest.raises(LayoutError, match="no two dims"):
        tensor_view(opened, "model.layers.0.wq.weight", dims=(0, 2))


def test_scalars_and_vectors_need_no_dims():
    session = Session(hsdp_metadata())
    panel = TensorPanel(session)
    session.choose("optimizer.step")
    assert panel.dims not in panel._fields.children
    session.choose("model.layers.0.norm.weight")
    assert panel.dims not in panel._fields.children
    session.choose("model.embed.weight")
    assert panel.dims in panel._fields.children


def test_a_mesh_is_a_view_too():
    view = mesh_view(CUBE, Tensor("cube", "float32", (8, 6, 10)), hosts=6)
    assert [panel.name for panel in view.scene.panels] == ["mesh", "tensor"]
    assert [panel.name for panel in mesh_view(CUBE).scene.panels] == ["mesh"]
