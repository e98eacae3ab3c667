"""Targets put together from recipes, axes and rules, and what is told of them."""

import csv
import io

import numpy as np
import pytest
from saved import hsdp_metadata

from ckptlab.errors import LayoutError
from ckptlab.explorer.table import csv_text
from ckptlab.explorer.whatif import (
    RECIPES,
    STRIDED,
    Costs,
    axes,
    facts,
    foretell,
    named,
    resized,
    target,
    tensor_scene,
    typed,
)
from ckptlab.layout import Layout, Replicate, Shard, StridedShard
from ckptlab.metadata import Tensor, human_bytes
from ckptlab.plan.far import Far
from ckptlab.plan.metadata_of import metadata_of

SAVED = hsdp_metadata()
COUNTS = [1, 2, 3, 6, 7, 8, 12, 64, 96, 1000, 16384]


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("ranks", COUNTS)
def test_a_recipe_is_a_target_for_so_many_ranks_and_is_known_again(name, ranks):
    layout = Layout.parse(*RECIPES[name](ranks))
    assert layout.mesh.size == (1 if name == "one process" else ranks)
    assert Layout.parse(*RECIPES[named(*RECIPES[name](ranks))](layout.mesh.size)) == layout


def test_recipes_of_two_axes_cut_up_within_a_node_first():
    assert RECIPES["HSDP"](64) == ("replicate=8, shard=8", "Replicate, Shard(0)")
    assert RECIPES["HSDP"](4) == ("replicate=2, shard=2", "Replicate, Shard(0)")
    assert RECIPES["FSDP + TP"](32) == ("dp=4, tp=8", "StridedShard(0, split_factor=8), Shard(0)")
    assert named("dp=4, tp=8", "S(0), R") == ""
    assert named("nonsense", "Shard(0)") == ""


def test_axes_are_what_was_typed_and_are_typed_again():
    mesh, placements = "dp=4, cp=2, tp=8", "StridedShard(0, split_factor=8), Replicate, Shard(0)"
    seen = axes(mesh, placements)
    assert seen == (("dp", 4, STRIDED), ("cp", 2, "Replicate"), ("tp", 8, "Shard(0)"))
    assert typed(seen) == (mesh, placements)
    wider = typed([*seen[:2], ("tp", 16, "Shard(0)")])
    assert wider == ("dp=4, cp=2, tp=16", "StridedShard(0, split_factor=16), Replicate, Shard(0)")
    # A factor that no later axis gives, or another dim, has no name here.
    assert [does for *_, does in axes("2x2", "StridedShard(0, split_factor=3), Shard(0)")] == ["", "Shard(0)"]
    assert [does for *_, does in axes("2x2", "StridedShard(1, split_factor=2), Shard(1)")] == ["", "Shard(1)"]
    assert [does for *_, does in axes("2", "Shard(3)")] == [""]
    with pytest.raises(LayoutError):
        axes("2x2", "Shard(0)")


def test_another_number_of_ranks_keeps_the_recipe_or_the_other_axes():
    assert resized("shard=4", "Shard(0)", 96) == ("shard=96", "Shard(0)")
    assert resized("replicate=2, shard=2", "Replicate, Shard(0)", 32) == RECIPES["HSDP"](32)
    assert resized("rank=1", "Replicate", 8) == RECIPES["FSDP"](8)
    assert resized("a=4, b=3", "Shard(1), Replicate", 6) == ("a=2, b=3", "Shard(1), Replicate")
    assert resized("a=4, b=3", "Shard(1), Replicate", 8) == ("a=4, b=2", "Shard(1), Replicate")
    with pytest.raises(LayoutError, match="7 ranks"):
        resized("a=4, b=3", "Shard(1), Replicate", 7)


def test_rules_give_some_keys_their_own_placements():
    rules = [("*embed*", "Shard(1), Replicate"), ("*norm*", "Replicate")]
    chosen = target(SAVED, "dp=2, tp=2", "Shard(0), Replicate", rules)
    told = {fqn: layout.placements for fqn, layout in chosen.items()}
    assert told["model.embed.weight"] == (Shard(1), Replicate())
    assert {told[fqn] for fqn in told if "norm" in fqn} == {(Replicate(), Replicate())}
    assert told["model.layers.0.wq.weight"] == (Shard(0), Replicate())
    assert target(SAVED, "2", "Shard(0)") == Layout.parse("2", "Shard(0)")
    for bad in (("*nothing*", "Replicate"), ("*norm*", "Shrd"), ("*norm*", "Shard(0)")):
        with pytest.raises(LayoutError):
            target(SAVED, "dp=2, tp=2", "Shard(0), Replicate", [bad])


def test_the_facts_are_the_forecasts():
    foretold = foretell(SAVED, target(SAVED, "replicate=2, shard=2", "Replicate, Shard(0)"))
    told = {label: (value, means) for label, value, means in facts(SAVED, foretold)}
    assert told["ranks"][0] == "4"
    assert told["read in all"][0] == human_bytes(foretold.total)
    assert told["read more than once"][0] == human_bytes(foretold.total // 2)
    assert told["amplification"][0] == "1.00x"
    busiest = foretold.bytes_by_file.max()
    assert told["busiest file"][0].startswith(f"{human_bytes(int(busiest))} of ")
    assert told["peak memory"][0] == human_bytes(int(foretold.peak.max()))
    assert told["left empty"][0] == "0 ranks"
    small = metadata_of([Tensor("w", "float32", (3,))], Layout.parse("1", "Shard(0)"))
    assert facts(small, foretell(small, Layout.parse("5", "Shard(0)")))[-1][1] == "2 ranks"


def test_ranks_of_equal_cost_stand_in_one_line():
    foretold = foretell(SAVED, Layout.parse("16384", "Shard(0)"))
    costs, each = Costs(foretold), Costs(foretold, each=True)
    assert len(costs) < 20
    assert len(each) == 16384
    ranks = np.concatenate([costs.ranks(line) for line in range(len(costs))])
    assert sorted(ranks.tolist()) == list(range(16384))
    for line in range(len(costs)):
        mine = costs.ranks(line)
        for column in (foretold.bytes_by_rank, foretold.reads, foretold.memory, foretold.stock):
            assert len(np.unique(column[mine])) == 1
    said = costs.lines(0, 3)
    assert len(said) == 3
    assert said[0].cells[0] == "ranks 0 to 47"
    assert said[0].cells[2] == human_bytes(int(foretold.bytes_by_rank[0]))
    assert [len(costs.lines(first, 3)) for first in (0, len(costs) - 1, len(costs))] == [3, 1, 0]
    assert each.lines(77, 1)[0].cells[0] == "rank 77"


def test_the_table_for_programs_has_every_rank():
    foretold = foretell(SAVED, Layout.parse("5", "Shard(0)"))
    rows = list(csv.DictReader(io.StringIO(csv_text(Costs(foretold)))))
    assert [int(row["bytes"]) for row in rows] == foretold.bytes_by_rank.tolist()
    assert [int(row["files"]) for row in rows] == (foretold.matrix > 0).sum(axis=1).tolist()


def test_what_far_storage_is_asked_for_is_told_of_far_files_alone():
    chosen, far = Layout.parse("4", "Shard(1)"), Far()
    near, foretold = foretell(SAVED, chosen), foretell(SAVED, chosen, far)
    assert not [label for label, *_ in facts(SAVED, near) if label.startswith("far")]
    told = {label: value for label, value, _ in facts(SAVED, foretold)}
    assert told["far requests"] == f"{foretold.requests.sum():,}"
    assert told["far bytes"] == human_bytes(int(foretold.fetched.sum()))
    assert foretold.fetched.sum() > foretold.total
    assert len(Costs(foretold).lines(0, 1)[0].cells) == len(Costs(foretold).columns)
    assert len(Costs(foretold).columns) == len(Costs(near).columns) + 2
    rows = list(csv.DictReader(io.StringIO(csv_text(Costs(foretold)))))
    assert [int(row["far_requests"]) for row in rows] == foretold.requests.tolist()
    assert [int(row["far_bytes"]) for row in rows] == foretold.fetched.tolist()


def test_a_tensor_is_drawn_in_both_layouts():
    chosen = target(SAVED, "dp=2, tp=2", "Shard(0), Shard(1)", [("*embed*", "Replicate")])
    scene = tensor_scene(SAVED, "model.embed.weight", chosen)
    assert [len(panel.marks) for panel in scene.panels] == [2, 1]
    scene = tensor_scene(SAVED, "model.layers.0.wq.weight", chosen)
    assert [len(panel.marks) for panel in scene.panels] == [2, 4]
    assert len({panel.name for panel in scene.panels}) == 2
    strided = tensor_scene(SAVED, "model.layers.0.wq.weight", Layout.parse(*RECIPES["FSDP + TP"](4)))
    assert repr(StridedShard(0, 2)) in strided.text
