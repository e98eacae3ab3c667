"""The tree of keys: sums, searches, and names that are also beginnings of names."""

import time

import numpy as np
import pytest
from saved import TENSORS, hsdp_metadata

from ckptlab.errors import CheckpointError
from ckptlab.explorer.inventory import DEEPEST, inventory
from ckptlab.layout import Layout
from ckptlab.metadata import Tensor
from ckptlab.plan.metadata_of import metadata_of

ALONE = Layout.parse("1", "Replicate")


def tree_of(*keys, beside=False):
    return inventory(metadata_of([Tensor(key, "float32", (2,)) for key in keys], ALONE), beside)


def names(tree):
    return [(int(depth), name) for depth, name in zip(tree.depth, tree.names, strict=True)]


def test_sums_are_those_of_the_tensors():
    tree = inventory(hsdp_metadata())
    assert [node.fqn for node in tree.leaves()] == [t.fqn for t in TENSORS]
    sums = tree.sums()
    roots = tree.depth == 0
    assert sums.nbytes[roots].sum() == sum(t.nbytes for t in TENSORS)
    assert sums.keys[roots].sum() == len(TENSORS)
    model = tree.node(0)
    assert (model.name, model.fqn, model.kind, model.keys) == ("model", "model", "branch", 4)
    assert model.nbytes == sum(t.nbytes for t in TENSORS[:4])
    assert model.chunks == len(tree.metadata.chunks) - 1


def test_a_key_is_told_with_its_files():
    (node,) = inventory(hsdp_metadata()).leaves("wq")
    assert (node.kind, node.dtype, node.shape, node.nbytes) == ("tensor", "bfloat16", (96, 96), 96 * 96 * 2)
    assert len(node.files) == node.chunks == 2
    assert set(node.files) < {"rank 0", "rank 1", "rank 2", "rank 3"}


def test_lines_stand_below_their_branches_and_lone_ones_take_their_names():
    tree = inventory(hsdp_metadata())
    assert names(tree) == [
        (0, "model"),
        (1, "embed.weight"),
        (1, "layers"),
        (2, "0"),
        (3, "norm.weight"),
        (3, "wq.weight"),
        (2, "1.norm.weight"),
        (0, "optimizer.step"),
    ]
    assert tree.end.tolist() == [7, 2, 7, 6, 5, 6, 7, 8]
    assert tree.above(5) == [3, 2, 0]
    assert [tree.keys[k] for k in tree.key[tree.key >= 0]] == [t.fqn for t in TENSORS]


def test_keys_of_one_branch_stand_together_wherever_they_come():
    assert names(tree_of("a.x", "b", "a.y", "c.u", "a.z", "c.v")) == [
        (0, "a"), (1, "x"), (1, "y"), (1, "z"), (0, "b"), (0, "c"), (1, "u"), (1, "v"),
    ]  # fmt: skip


def test_what_is_seen_is_below_open_lines_only():
    tree = inventory(hsdp_metadata())
    open_ = np.zeros(len(tree), bool)
    assert tree.visible(open_).tolist() == [0, 7]
    open_[3] = True  # but what holds it is shut
    assert tree.visible(open_).tolist() == [0, 7]
    open_[0] = True
    assert tree.visible(open_).tolist() == [0, 1, 2, 7]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("NORM", ["model.layers.0.norm.weight", "model.layers.1.norm.weight"]),
        ("*wq*", ["model.layers.0.wq.weight"]),
        ("w?.weight", ["model.layers.0.wq.weight"]),
        ("model.*.1.*", ["model.layers.1.norm.weight"]),
        ("*.w[pq].*", ["model.layers.0.wq.weight"]),
        ("*norm", []),
        ("/layers\\.[0]\\./", ["model.layers.0.norm.weight", "model.layers.0.wq.weight"]),
        ("/NORM.weight$/", ["model.layers.0.norm.weight", "model.layers.1.norm.weight"]),
        ("  step ", ["optimizer.step"]),
        ("no such", []),
    ],
)
def test_a_search_finds_keys(query, found):
    tree = inventory(hsdp_metadata())
    assert [node.fqn for node in tree.leaves(query)] == found
    assert tree.sums(tree.found(query)).keys[tree.depth == 0].sum() == len(found)


def test_a_wrong_regular_expression_is_said():
    with pytest.raises(CheckpointError, match=r"no regular expression: /\(/"):
        inventory(hsdp_metadata()).found("/(/")


def test_a_key_may_be_the_beginning_of_others():
    tree = tree_of("a", "a.b", "a.b.c", "a.d")
    assert names(tree) == [(0, "a"), (1, "b"), (2, "c"), (1, "d")]
    assert sorted(node.fqn for node in tree.leaves()) == ["a", "a.b", "a.b.c", "a.d"]
    assert tree.sums().keys.tolist() == [4, 2, 1, 1]
    assert tree.node(0).kind == "tensor"
    assert tree.node(0).nbytes == 8


@pytest.mark.parametrize("key", ["", ".", ".a", "a.", "a..b", "..", "." * (3 * DEEPEST), "x." * 5000])
def test_any_name_at_all_has_its_line(key):
    tree = tree_of(key, "other")
    assert {node.fqn for node in tree.leaves()} == {key, "other"}
    assert tree.depth.max() <= DEEPEST


def test_no_keys_at_all_are_a_tree_too():
    tree = tree_of()
    assert len(tree) == 0
    assert tree.leaves() == []
    assert tree.visible(np.zeros(0, bool)).tolist() == []


@pytest.mark.parametrize(
    ("parameter", "state"),
    [
        ("layers.0.wq", "optim.state.layers.0.wq.exp_avg"),
        ("model.layers.0.wq", "optim.state.layers.0.wq.exp_avg"),
        ("model.layers.0.wq", "optimizer.state.model.layers.0.wq.exp_avg"),
        ("model.layers.0.wq", "state.model.layers.0.wq.exp_avg"),
        ("model.layers.0.wq", "optimizer.state.exp_avg.model.layers.0.wq"),
    ],
)
def test_what_an_optimizer_keeps_stands_below_its_parameter(parameter, state):
    tree = tree_of(parameter, "model.norm", state, beside=True)
    assert tree.moved == 1
    line = tree.line_of[state]
    assert tree.names[line] == "exp_avg"
    assert tree.parent[line] == tree.line_of[parameter]
    assert tree.node(line).fqn == state
    assert [node.fqn for node in tree.leaves("exp")] == [state]


def test_state_of_nobody_that_is_known_stays_where_it_is():
    keys = ["w", "w.exp_avg", "optim.state.0.exp_avg", "optim.state.w.exp_avg", "optim.state.gone.exp_avg"]
    tree = tree_of(*keys, beside=True)
    assert tree.moved == 0
    assert sorted(tree.keys) == sorted(keys)
    assert len({tree.line_of[key] for key in keys}) == len(keys)


def test_a_hundred_thousand_keys_are_searched_at_once():
    tree = tree_of(*(f"model.layers.{i}.{part}.weight" for i in range(10_000) for part in "abcdefghij"))
    took = []
    for query in ("9.j.weight", "*.77.?.*", "/[3-5]{3}\\.[ab]/"):
        tree.found(query)
        began = time.process_time()
        found = tree.found(query)
        tree.visible(tree.sums(found).keys > 0)
        took.append(time.process_time() - began)
    assert min(took) < 0.1
    assert max(took) < 1.0
