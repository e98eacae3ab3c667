"""Ours saves and stock loads and back: every layout to every layout, every dtype, every kind of value."""

import crosswise_ops as ops
import pytest
from ranks_fixture import DEVICES, pool

CROSSWISE = [("ours", "ours"), ("ours", "stock"), ("stock", "ours")]
IN_ONE_PIECE = [name for name in ops.LAYOUTS if name != "stripes"]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("saver", "loader"), CROSSWISE)
def test_from_any_layout_to_any(tmp_path, saver, loader, device):
    sources = IN_ONE_PIECE if saver == "stock" else list(ops.LAYOUTS)
    targets = IN_ONE_PIECE if loader == "stock" else list(ops.LAYOUTS)
    ranks = pool(4, device, shared=True)
    out = ranks.run(ops.from_any_to_any, str(tmp_path), saver, loader, sources, targets)
    for found in out:
        assert list(found) == targets
        for one in found.values():
            assert one.tensors == len(sources) * len(ops.SHAPES)
            assert one.elements > 0
            assert one.different == ()
    # The target "copies" holds all on every rank; the others hold every element at least once.
    whole = out[0]["copies"].elements
    assert all(sum(found[target].elements for found in out) >= whole for target in targets)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("saver", "loader"), CROSSWISE)
def test_every_dtype_bit_for_bit(tmp_path, saver, loader, device):
    for sharded, plain in pool(4, device, shared=True).run(ops.every_dtype, str(tmp_path), saver, loader):
        assert (sharded.tensors, sharded.different) == (len(ops.DTYPES), ())
        assert plain == []


@pytest.mark.parametrize(("saver", "loader"), CROSSWISE)
def test_nested_state_objects_and_stateful(ranks4, tmp_path, saver, loader):
    for saved, before, loaded in ranks4.run(ops.all_kinds, str(tmp_path), saver, loader):
        assert before != saved
        assert loaded == saved


def test_stock_reads_what_ours_says_of_a_checkpoint(ranks4, tmp_path):
    ours = ranks4.run(ops.said_by_stock, str(tmp_path / "ours"), "ours")[0]
    stock = ranks4.run(ops.said_by_stock, str(tmp_path / "stock"), "stock")[0]
    assert ours.planner_data == stock.planner_data
    assert ours.version == stock.version
    assert list(ours.state_dict_metadata) != []
    assert ours.state_dict_metadata.keys() == stock.state_dict_metadata.keys()
    for fqn, entry in stock.state_dict_metadata.items():
        mine = ours.state_dict_metadata[fqn]
        assert type(mine) is type(entry)
        if hasattr(entry, "chunks"):
            assert (mine.size, mine.properties) == (entry.size, entry.properties)
            # Stock stores empty chunks too, ours does not.
            assert spans(mine) == [(o, s) for o, s in spans(entry) if all(s)], fqn
    full = {i for i in stock.storage_data if i.offset is None or i.offset in offsets(ours, i.fqn)}
    assert {(i.fqn, i.offset) for i in ours.storage_data} == {(i.fqn, i.offset) for i in full}


def spans(entry):
    return sorted((tuple(chunk.offsets), tuple(chunk.sizes)) for chunk in entry.chunks)


def offsets(metadata, fqn):
    return [chunk.offsets for chunk in metadata.state_dict_metadata[fqn].chunks]


def test_pieces_that_do_not_touch_are_refused_by_stock_and_saved_by_ours(ranks4, tmp_path):
    """Stock takes such a shard for one box, sees boxes overlap, and refuses; ours is read by stock."""
    for words in ranks4.run(ops.saved_stripes, str(tmp_path / "stock")):
        assert "overlapping chunks" in words
    arguments = str(tmp_path / "ours"), "ours", "stock", ["stripes"], ["rows", "copies"]
    for found in ranks4.run(ops.from_any_to_any, *arguments):
        assert all(one.different == () and one.elements for one in found.values())


def test_several_files_a_rank_that_nobody_waited_for(ranks4, tmp_path):
    for rank, (names, found) in enumerate(ranks4.run(ops.several_files, str(tmp_path))):
        assert names == [f"__{rank}_{i}.distcp" for i in range(3)]
        assert (found.tensors, found.different) == (2 * len(ops.SHAPES), ())
        assert found.elements
