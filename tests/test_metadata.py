"""What a checkpoint says of itself: columns, names, and bytes as people read them."""

import pytest
from saved import TENSORS, hsdp_metadata

from ckptlab.errors import CheckpointError
from ckptlab.layout import Box, Boxes
from ckptlab.metadata import ChunkColumns, Tensors, human_bytes, near


def test_columns_give_back_what_was_added():
    columns = ChunkColumns()
    columns.add(Boxes.of([Box((0, 0), (2, 4)), Box((2, 0), (2, 4))]), [0, 1], [0, 0], [32, 32])
    columns.add(Boxes.of([Box((), ())]), [1], [32], [4])
    columns.add(Boxes.of([Box((0, 0), (2, 4)), Box((2, 0), (2, 4))]), [1, 0], [36, 32], [32, 32])
    columns.add(Boxes.of([Box((0,), (7,))]), [0], [64], [7])
    chunks = columns.build()
    assert chunks.first.tolist() == [0, 2, 3, 5, 6]
    assert chunks.corner.tolist() == [0, 4, 0, 4], "tensors cut alike share their boxes"
    assert (chunks.offsets.tolist(), chunks.shapes.tolist()) == ([0, 0, 2, 0, 0], [2, 4, 2, 4, 7])
    assert chunks.file.tolist() == [0, 1, 1, 1, 0, 0]
    assert chunks.start.tolist() == [0, 0, 32, 36, 32, 64]
    assert chunks.length.tolist() == [32, 32, 4, 32, 32, 7]


def test_tensors_give_back_what_was_put_together():
    every = Tensors.of(TENSORS)
    assert every == TENSORS
    assert every != TENSORS[1:]
    assert [every[i] for i in range(len(every))] == [*every] == list(TENSORS)
    assert every[-1] == TENSORS[-1]
    assert every[1:3] == TENSORS[1:3]
    assert Tensors.of(every) is every
    others = [name[::-1] for name in every.names]
    assert every.under(others) == [t._replace(fqn=t.fqn[::-1]) for t in TENSORS]
    assert len(set(every.forms)) == len(every.forms) == len({t[1:] for t in TENSORS})
    assert Tensors.of([]) == []


def test_boxes_and_rows_of_a_tensor():
    metadata = hsdp_metadata()
    assert metadata.boxes(0)[1] == Box((502, 0), (501, 96))
    assert metadata.boxes(4)[0] == Box((), ())
    rows = [metadata.chunk_rows(i) for i in range(len(TENSORS))]
    assert [r.stop for r in rows[:-1]] == [r.start for r in rows[1:]]
    assert metadata.nbytes == sum(t.nbytes for t in TENSORS)


def test_a_name_that_is_not_there_is_told_with_its_neighbours():
    with pytest.raises(CheckpointError, match=r"'model\.embed\.weigth'.*did you mean 'model\.embed\.weight'"):
        hsdp_metadata().tensor("model.embed.weigth")
    assert near("nothing like it", ["a", "b"]) == ""


@pytest.mark.parametrize(
    ("n", "words"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (1536, "1.50 KiB"),
        (10 * 1024, "10.0 KiB"),
        (1023 * 1024, "1.00 MiB"),
        (16 << 20, "16.0 MiB"),
        (754 << 30, "754 GiB"),
        (-2048, "-2.00 KiB"),
    ],
)
def test_bytes_as_people_read_them(n, words):
    assert human_bytes(n) == words
