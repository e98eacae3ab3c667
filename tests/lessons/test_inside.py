"""Lesson 2: the byte of one element, as real ranks saved it."""

import numpy as np
import pytest

from ckptlab.layout import Layout
from ckptlab.lessons.ask import WAITING
from ckptlab.lessons.inside import check_byte, entries, look
from ckptlab.lessons.small import TENSORS, saved, values

FQN, ELEMENT = "layers.3.wq.weight", (17, 5)


@pytest.fixture
def checkpoint(ranks4, tmp_path):
    return saved(ranks4, Layout.parse("dp=2, tp=2", "Shard(0), Shard(1)"), str(tmp_path / "saved"))


def test_the_byte(checkpoint):
    for tensor in TENSORS:
        assert np.array_equal(checkpoint[tensor.fqn].numpy(), values(tensor))
    chunk = entries(checkpoint, FQN)[2]
    assert repr(chunk).startswith("[15:30, 0:12] in __2_0.distcp: ")
    assert f"{look(checkpoint, chunk.file, chunk.elements):.2f}" == "3015.00"

    def answer(byte, file=chunk.file):
        said = check_byte(checkpoint, FQN, ELEMENT, file, byte)
        assert said.right is not None
        return repr(said)

    assert answer(chunk.elements + 4 * (2 * 12 + 5)).endswith("stands 3017.05: layers.3.wq.weight[17, 5].")
    for byte, said in {
        chunk.elements + 4 * (2 * 24 + 5): "element [19, 5], not [17, 5]. A row of the tensor has 24",
        chunk.elements + 4 * (17 * 12 + 5): "Count rows and columns from the chunk's own corner",
        chunk.elements + 4 * (5 * 15 + 2): "not column after column",
        chunk.elements + 4 * 7: "there stands 3015.07: that is element [15, 7], not [17, 5].",
        chunk.elements + 2: "in the middle of an element",
        chunk.start: "what is wrapped round its elements",
        chunk.start - 9: "of layers.2.wq.weight. That is another tensor than layers.3.wq.weight",
        1 << 30: "has 25,",
    }.items():
        assert answer(byte).startswith("No: ")
        assert said in answer(byte)
    assert "It does not hold [17, 5]" in answer(chunk.elements, "__0_0.distcp")
    assert "there is no data file '.metadata'; there are __0_0.distcp" in answer(0, ".metadata")
    assert check_byte(checkpoint, FQN, ELEMENT, chunk.file, None) is WAITING
