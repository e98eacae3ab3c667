"""The tree of keys: sums, searches, and names that are also beginnings of names."""

import pytest
from saved import TENSORS, hsdp_metadata

from ckptlab.errors import CheckpointError
from ckptlab.explorer.inventory import inventory, visible
from ckptlab.layout import Layout
from ckptlab.metadata import Tensor
from ckptlab.plan.metadata_of import metadata_of


def names(rows):
    return [(row.depth, row.node.name) for row in rows]


def test_sums_are_those_of_the_tensors():
    root = inventory(hsdp_metadata())
    assert root.nbytes == sum(t.nbytes for t in TENSORS)
    assert root.keys == len(TENSORS)
    assert [leaf.fqn for leaf in root.leaves()] == [t.fqn for t in TENSORS]
    model = root.children[0]
    assert (model.name, model.keys, model.files) == ("model", 4, ("rank 0", "rank 1", "rank 2", "rank 3"))


def test_branches_open_one_by_one():
    root = inventory(hsdp_metadata())
    assert names(visible(root)) == [(0, "model"), (0, "optimizer")]
    assert names(visible(root, opened=frozenset({"model"}))) == [
        (0, "model"),
        (1, "embed"),
        (1, "layers"),
        (0, "optimizer"),
    ]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("NORM", ["model.layers.0.norm.weight", "model.layers.1.norm.weight"]),
        ("*wq*", ["model.layers.0.wq.weight"]),
        ("model.*.1.*", ["model.layers.1.norm.weight"]),
        ("/layers\\.[0]\\./", ["model.layers.0.norm.weight", "model.layers.0.wq.weight"]),
        ("no such", []),
    ],
)
def test_a_search_shows_what_it_finds_under_its_branches(query, found):
    rows = visible(inventory(hsdp_metadata()), query)
    assert [row.node.fqn for row in rows if row.node.kind != "branch"] == found


def test_a_wrong_regular_expression_is_said():
    with pytest.raises(CheckpointError, match=r"no regular expression: /\(/"):
        visible(inventory(hsdp_metadata()), "/(/")


def test_a_key_may_be_the_beginning_of_others():
    tensors = [Tensor(fqn, "float32", (2,)) for fqn in ("a", "a.b", "a.b.c", "a.d")]
    root = inventory(metadata_of(tensors, Layout.parse("1", "Replicate")))
    assert sorted(leaf.fqn for leaf in root.leaves()) == ["a", "a.b", "a.b.c", "a.d"]
