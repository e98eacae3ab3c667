"""Exercises: the right answer, two wrong ones, and none."""

from saved import hsdp_metadata

from ckptlab.explorer.exercises import WAITING, check_bytes, check_layout, check_writer
from ckptlab.layout import Box, Layout

METADATA = hsdp_metadata()
FSDP = Layout.parse("4", "Shard(0)")


def test_writer():
    wrote = [METADATA.writers[f] for f in METADATA.chunks.file[METADATA.chunk_rows(0)]]
    ask = ("model.embed.weight", (1002, 95))
    assert check_writer(METADATA, *ask, wrote[1]).startswith("Right")
    assert "it wrote Box[0:502" in check_writer(METADATA, *ask, wrote[0])
    assert "wrote nothing" in check_writer(METADATA, *ask, 9)
    assert check_writer(METADATA, *ask, None) == WAITING


def test_bytes():
    right = 250 * 96 * 4 + 24 * 96 * 2 + 24 * 4 + 24 * 4 + 4
    assert check_bytes(METADATA, FSDP, 3, right).startswith("Right")
    assert "whole checkpoint" in check_bytes(METADATA, FSDP, 3, METADATA.nbytes)
    assert "too little" in check_bytes(METADATA, FSDP, 3, 7)
    assert check_bytes(METADATA, FSDP, 3, None) == WAITING


def test_layout():
    quarter = Box((502, 48), (501, 48))
    ask = ("model.embed.weight", quarter)
    assert check_layout(METADATA, *ask, Layout.parse("2x2", "Shard(0), Shard(1)")).startswith("Right")
    assert "rank 3 holds" in check_layout(METADATA, *ask, FSDP)
    assert "has no rank 3" in check_layout(METADATA, *ask, Layout.parse("2", "Shard(0)"))
    assert check_layout(METADATA, *ask, None) == WAITING
