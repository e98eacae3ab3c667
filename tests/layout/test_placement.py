"""Placements: how they are written, and what is none."""

import pytest

from ckptlab.errors import LayoutError
from ckptlab.layout import Replicate, Shard, StridedShard, parse_placements


@pytest.mark.parametrize(
    ("text", "placements"),
    [
        ("Shard(0)", (Shard(0),)),
        ("Replicate, Shard(1)", (Replicate(), Shard(1))),
        ("R, S(0)", (Replicate(), Shard(0))),
        ("(Replicate(), Shard(dim=0))", (Replicate(), Shard(0))),
        ("[_StridedShard(dim=0, sf=2), Shard(dim=0)]", (StridedShard(0, 2), Shard(0))),
    ],
)
def test_placements_as_people_and_torch_write_them(text, placements):
    assert parse_placements(text) == placements


@pytest.mark.parametrize("text", ["", "Shard", "Shard(x)", "Partial()", "Shard(0) Shard(1)", "Shard(0),,R"])
def test_what_is_no_placement_is_quoted(text):
    with pytest.raises(LayoutError, match="no placement"):
        parse_placements(text)
