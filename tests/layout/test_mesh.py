"""Meshes: how they are written, and what is no mesh."""

import pytest

from ckptlab.errors import LayoutError
from ckptlab.layout import Mesh


@pytest.mark.parametrize(
    ("text", "mesh"),
    [
        ("4", Mesh((4,))),
        ("2x2", Mesh((2, 2))),
        ("replicate=2, shard=3", Mesh((2, 3), ("replicate", "shard"))),
    ],
)
def test_meshes_as_people_write_them(text, mesh):
    assert Mesh.parse(text) == mesh


@pytest.mark.parametrize("text", ["", "x", "2x", "0", "dp=2,", "dp=2 2", "-1", "2x0", "dp=2,dp=2"])
def test_what_is_no_mesh_is_refused(text):
    with pytest.raises(LayoutError):
        Mesh.parse(text)


def test_coordinates_follow_the_order_of_ranks():
    mesh = Mesh((2, 2), ranks=(3, 1, 2, 0))
    assert [mesh.coordinate(r) for r in (3, 1, 2, 0)] == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_plain_order_is_the_default():
    assert Mesh((2, 2), ranks=(0, 1, 2, 3)) == Mesh((2, 2))


def test_a_rank_outside_is_named():
    with pytest.raises(LayoutError, match="rank 7"):
        Mesh((2, 2)).coordinate(7)


@pytest.mark.parametrize("ranks", [(0, 1, 2), (0, 0, 1, 2), (-1, 0, 1, 2)])
def test_ranks_must_be_different_and_enough(ranks):
    with pytest.raises(LayoutError, match="different ranks"):
        Mesh((2, 2), ranks=ranks)
