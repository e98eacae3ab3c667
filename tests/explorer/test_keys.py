"""The keys as a table: what is seen when branches fold, a query is typed, a key is chosen."""

import pytest
from saved import hsdp_metadata

from ckptlab.errors import CheckpointError
from ckptlab.explorer.keys import Keys
from ckptlab.explorer.table import CLOSED, LEAF, OPEN, csv_text, table_text
from ckptlab.layout import Layout
from ckptlab.metadata import Tensor
from ckptlab.plan.metadata_of import metadata_of


@pytest.fixture
def keys():
    return Keys(hsdp_metadata())


def seen(keys):
    return [line.cells[0].strip() for line in keys.lines(0, 100)]


def line(keys, name):
    return next(i for i, cell in enumerate(seen(keys)) if cell.partition("  (")[0] == name)


def test_lines_carry_folds_columns_and_the_choice(keys):
    keys.choose("model.embed.weight")
    lines = keys.lines(0, 100)
    assert seen(keys) == ["model  (4 keys)", "embed.weight", "layers  (3 keys)", "optimizer.step"]
    assert [one.fold for one in lines] == [OPEN, LEAF, CLOSED, LEAF]
    assert [one.depth for one in lines] == [0, 1, 1, 0]
    assert [one.chosen for one in lines] == [False, True, False, False]
    assert keys.chosen == 1
    shown = dict(zip([column.label for column in keys.columns], lines[1].cells, strict=True))
    assert shown["shape or value"] == "1003 x 96"
    assert shown["dtype"] == "float32"
    assert shown["bytes"] == "376 KiB"
    assert lines[1].hint == "model.embed.weight"


def test_a_page_is_a_part_of_the_lines(keys):
    keys.fold_all(False)
    assert [one.cells[0] for one in keys.lines(2, 3)] == ["layers  (3 keys)", "0  (2 keys)", "norm.weight"]
    assert len(keys.lines(6, 10)) == 2
    assert keys.lines(100, 10) == []


def test_bars_are_beside_the_largest_sibling(keys):
    keys.fold_all(False)
    share = {one.hint: one.share for one in keys.lines(0, 100)}
    assert share["model"] == share["model.embed.weight"] == 1.0
    assert 0 < share["optimizer.step"] < 0.001
    assert 0 < share["model.layers"] < 0.1
    assert share["model.layers.0.wq.weight"] == 1.0


def test_as_much_is_unfolded_as_there_is_room_for(keys):
    keys.unfold(3)
    assert len(keys) == 2
    keys.unfold(4)
    assert seen(keys) == ["model  (4 keys)", "embed.weight", "layers  (3 keys)", "optimizer.step"]
    keys.unfold(100)
    assert len(keys) == 8


def test_branches_fold_one_by_one_and_all_at_once(keys):
    assert seen(keys) == ["model  (4 keys)", "optimizer.step"]
    keys.fold(0)
    assert len(keys) == 4
    keys.fold(line(keys, "layers"))
    assert len(keys) == 6
    keys.fold(0)
    assert len(keys) == 2
    keys.fold(1)  # a key has nothing to unfold
    assert len(keys) == 2
    keys.fold_all(False)
    assert len(keys) == 8
    keys.fold_all(True)
    assert len(keys) == 2


def test_a_search_narrows_the_tree_and_folds_there_by_itself(keys):
    keys.search("norm")
    assert seen(keys) == [
        "model  (2 keys)", "layers  (2 keys)", "0  (1 key)", "norm.weight", "1.norm.weight",
    ]  # fmt: skip
    assert keys.caption == "2 of 5 keys, 768 B"
    keys.fold(line(keys, "layers"))
    assert seen(keys) == ["model  (2 keys)", "layers  (2 keys)"]
    keys.search("")
    assert seen(keys) == ["model  (4 keys)", "optimizer.step"]
    assert keys.caption == "5 keys, 395 KiB"
    keys.search("norm")
    assert len(keys) == 5


def test_a_query_that_is_none_changes_nothing(keys):
    keys.search("norm")
    before = seen(keys)
    with pytest.raises(CheckpointError):
        keys.search("/(/")
    assert (keys.query, seen(keys)) == ("norm", before)


def test_nothing_found_is_said(keys):
    keys.search("no such")
    assert len(keys) == 0
    assert keys.caption == "No key has that in its name."


def test_what_is_chosen_need_not_be_seen(keys):
    keys.choose("model.layers.0.wq.weight")
    keys.search("norm")
    assert keys.chosen == -1
    keys.search("w")
    assert keys.lines(keys.chosen, 1)[0].hint == "model.layers.0.wq.weight"


def test_optimizer_state_moves_to_its_parameter_and_back():
    tensors = [Tensor(key, "float32", (2,)) for key in ("model.w", "model.b", "optim.state.w.exp_avg")]
    keys = Keys(metadata_of(tensors, Layout.parse("1", "Replicate")))
    assert keys.keeps_state
    keys.choose("optim.state.w.exp_avg")
    assert seen(keys) == ["model  (2 keys)", "optim.state.w.exp_avg"]
    keys.group(True)
    assert seen(keys) == ["model  (3 keys)", "w", "exp_avg", "b"]
    assert keys.lines(keys.chosen, 1)[0].hint == "optim.state.w.exp_avg"
    keys.group(False)
    assert seen(keys)[-1] == "optim.state.w.exp_avg"
    assert not Keys(hsdp_metadata()).keeps_state


def test_csv_has_every_key_that_is_found_folded_or_not(keys):
    lines = csv_text(keys).splitlines()
    assert lines[0] == "key,kind,dtype,shape,bytes,chunks,files"
    assert len(lines) == 6
    assert lines[1].startswith("model.embed.weight,tensor,float32,1003 x 96,385152,")
    keys.search("step")
    assert csv_text(keys).splitlines()[1:] == ["optimizer.step,tensor,float32,,4,1,rank 2"]


def test_no_key_is_a_formula_to_a_spreadsheet():
    keys = Keys(metadata_of([Tensor("=1+1", "float32", ())], Layout.parse("1", "Replicate")))
    assert csv_text(keys).splitlines()[1].startswith("'=1+1,tensor")


def test_the_first_lines_in_words(keys):
    keys.fold_all(False)
    text = table_text(keys, 3)
    assert "  embed.weight       376 KiB  1003 x 96" in text
    assert text.endswith("... and 5 more\n5 keys, 395 KiB")
