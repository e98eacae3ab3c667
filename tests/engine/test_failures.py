"""What fails, fails alike on every rank, soon, in words that name what is at fault, and leaves no half."""

import dataclasses
import os
from pathlib import Path

import engine_ops as ops
import pytest

from ckptlab import open_checkpoint
from ckptlab.errors import LayoutError, RankError
from ckptlab.layout import Layout
from ckptlab.live.ops import reshard
from ckptlab.storage.sidecar import sidecar_file
from ckptlab.storage.template import template

SOON = 10.0
"""Seconds: far more than any of this takes, far less than a collective's timeout."""


@pytest.fixture
def saved(ranks4, tmp_path):
    """The path of a checkpoint that four ranks saved."""
    ranks4.run(ops.save_state, str(tmp_path))
    return str(tmp_path)


def agreed(failures):
    """The one failure that every rank raised."""
    assert {dataclasses.replace(f, seconds=0, untouched=True) for f in failures} == {
        dataclasses.replace(failures[0], seconds=0, untouched=True)
    }
    assert max(f.seconds for f in failures) < SOON
    return failures[0]


def chunk(path, fqn, which=0):
    """File, start and payload start of a chunk."""
    metadata = open_checkpoint(path).metadata
    row = metadata.rows[fqn]
    i = metadata.chunk_rows(row).start + which
    before = template("float32", tuple(metadata.boxes(row)[which].shape)).before
    start = int(metadata.chunks.start[i])
    return Path(path, metadata.files[metadata.chunks.file[i]]), start, start + len(before)


def flip(file, at):
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


# ---------------------------------------------------------------- files that are not what they were


def test_a_missing_file_is_named_before_anything_is_loaded(ranks4, saved):
    file, _, _ = chunk(saved, "v", 2)
    file.unlink()
    failures = ranks4.run(ops.load_fails, saved)
    assert file.name in agreed(failures).message
    assert "missing" in failures[0].message
    assert all(f.untouched for f in failures)


def test_a_short_file_is_named_before_anything_is_loaded(ranks4, saved):
    file, _, _ = chunk(saved, "v", 2)
    os.truncate(file, file.stat().st_size - 1)
    failures = ranks4.run(ops.load_fails, saved)
    assert file.name in agreed(failures).message
    assert str(file.stat().st_size) in failures[0].message
    assert all(f.untouched for f in failures)


def test_a_flipped_byte_of_a_tensor_is_found_by_its_crc(ranks4, saved):
    file, _, payload = chunk(saved, "v", 2)
    flip(file, payload + 5)
    failure = agreed(ranks4.run(ops.load_fails, saved))
    assert "CorruptError" in failure.kind + failure.message
    assert "crc" in failure.message
    assert "'v'" in failure.message
    assert file.name in failure.message
    assert (failure.rank, failure.phase) == (2, "read")


def test_a_flipped_byte_of_a_chunk_read_in_part_is_found_when_asked_to_verify(ranks4, tmp_path):
    path = str(tmp_path)
    ranks4.run(ops.save_one, path, (8, 8), "hsdp")
    file, _, payload = chunk(path, "w")
    flip(file, payload)
    out = ranks4.run(ops.load_counted, path, (8, 8), "rows")
    assert [one.equal for one in out] == [False, True, True, True]
    with pytest.raises(RankError, match=r"crc .* the file is damaged") as caught:
        ranks4.run(ops.load_counted, path, (8, 8), "rows", True)
    assert "'w'" in str(caught.value)
    assert file.name in str(caught.value)


def test_a_flipped_byte_round_a_tensor_is_found_before_anything_is_loaded(ranks4, saved):
    file, start, payload = chunk(saved, "v", 2)
    Path(saved, sidecar_file(open_checkpoint(saved).metadata.save_id)).unlink()
    for at in (start, start + 70, payload - 1):
        flip(file, at)
        if at == payload - 1:
            # Padding, which means nothing: the chunk is still found, the longer way.
            assert ranks4.run(ops.which_is_there, saved, "ours") == [1] * 4
            continue
        failures = ranks4.run(ops.load_fails, saved)
        failure = agreed(failures)
        assert "'v'" in failure.message
        assert file.name in failure.message
        assert all(f.untouched for f in failures)
        flip(file, at)


def test_a_hole_where_a_chunk_was_is_found(ranks4, saved):
    # As a power cut leaves it: the file is as long as it was, and nothing is in it.
    file, start, _ = chunk(saved, "v", 2)
    data = bytearray(file.read_bytes())
    data[start:] = bytes(len(data) - start)
    file.write_bytes(data)
    for verify in (False, True):
        assert "'v'" in agreed(ranks4.run(ops.load_fails, saved, verify)).message


def test_a_flipped_byte_round_a_tensor_is_no_harm_to_a_whole_chunk_of_ours(ranks4, saved):
    # Its crc says that the elements are right; `ckptlab verify` finds the flip.
    file, start, _ = chunk(saved, "v", 2)
    flip(file, start)
    assert ranks4.run(ops.which_is_there, saved, "ours") == [1] * 4


# ---------------------------------------------------------------- targets that do not fit


def test_every_mismatch_is_said_once_and_nothing_is_loaded(ranks4, saved):
    failures = ranks4.run(ops.load_misfits_fails, saved)
    failure = agreed(failures)
    assert failure.kind == "MismatchError"
    assert all(f.untouched for f in failures)
    found = sorted(problem.partition(":")[0].split() for problem in failure.problems)
    assert found == [["dtype", "v"], ["missing", "step"], ["missing", "u"], ["shape", "w"]]
    for words in ("[9, 4]", "[9, 5]", "bfloat16", "float32"):
        assert failure.message.count(words) >= 1
    assert failure.message.count("  shape") == failure.message.count("  dtype") == 1


@pytest.mark.parametrize("mesh", ["2", "8"])
def test_a_mesh_of_another_size_than_the_world_is_refused(ranks4, saved, mesh):
    with pytest.raises(LayoutError, match=rf"{mesh}.*4|4.*{mesh}"):
        ranks4.run(reshard, saved, Layout.parse(mesh, "Shard(0)"))


# ---------------------------------------------------------------- one rank fails


def test_a_failing_disk_on_one_rank_stops_the_load_on_all(ranks4, saved):
    failure = agreed(ranks4.run(ops.disk_fails_on, saved, 2, "load"))
    assert (failure.kind, failure.rank, failure.phase) == ("RankError", 2, "read")
    assert "Input/output error" in failure.message


def test_a_failing_disk_on_one_rank_stops_the_save_on_all_and_keeps_the_old(ranks4, saved):
    failure = agreed(ranks4.run(ops.disk_fails_on, saved, 3, "save"))
    assert (failure.kind, failure.rank, failure.phase) == ("RankError", 3, "write")
    assert "Input/output error" in failure.message
    assert ranks4.run(ops.which_is_there, saved, "ours") == [1] * 4
    assert ranks4.run(ops.which_is_there, saved, "stock") == [1] * 4


def test_a_bad_tensor_on_one_rank_stops_the_save_on_all_and_keeps_the_old(ranks4, saved):
    failure = agreed(ranks4.run(ops.bad_tensor_on, saved, 1))
    assert (failure.kind, failure.rank, failure.phase) == ("RankError", 1, "plan")
    assert "'extra'" in failure.message
    assert "sparse" in failure.message
    assert ranks4.run(ops.which_is_there, saved, "ours") == [1] * 4


@pytest.mark.parametrize(
    ("kind", "key"), [("object", "nested.own"), ("tensor", "nested.own"), ("list", "nested.own.1")]
)
def test_a_plain_value_that_differs_is_refused_by_name(ranks4, saved, kind, key):
    failure = agreed(ranks4.run(ops.differing_on, saved, 2, kind))
    assert failure.problems == (key,)
    assert f"{key}: ranks 0, 2 differ" in failure.message
    assert "same:" not in failure.message
    assert ranks4.run(ops.which_is_there, saved, "ours") == [1] * 4


def test_equal_values_that_are_pickled_apart_are_taken(ranks4, tmp_path):
    out = ranks4.run(ops.same_but_pickled_apart, str(tmp_path))
    assert out == [(["b", "a"], True), (["a", "b"], True)] * 2


def test_an_older_checkpoint_is_left_alone_when_asked(ranks4, saved):
    failure = agreed(ranks4.run(ops.save_again_refused, saved))
    assert failure.kind == "PathError"
    assert saved in failure.message
    assert ranks4.run(ops.which_is_there, saved, "ours") == [1] * 4


# ---------------------------------------------------------------- a rank dies


@pytest.mark.parametrize(
    ("rank", "operation", "there"),
    [
        (1, "create", 1),
        (0, "publish .ckptlab-", 1),
        (0, "publish .metadata", 1),
        (0, "replace .metadata", 1),
        (0, "remove __0", 2),
        (0, "remove __3", 2),
    ],
)
def test_a_save_that_is_killed_leaves_the_old_or_the_new_whole(ranks4, saved, rank, operation, there):
    with pytest.raises(RankError, match=f"rank {rank} .*SIGKILL"):
        ranks4.run(ops.killed_at, saved, rank, operation)
    assert ranks4.run(ops.which_is_there, saved, "ours") == [there] * 4
    assert ranks4.run(ops.which_is_there, saved, "stock") == [there] * 4
    assert open_checkpoint(saved).metadata.layouts, "what was recorded of its mesh is gone"
    # The next save works, and clears what was left lying.
    ranks4.run(ops.save_state, saved, 2)
    assert ranks4.run(ops.which_is_there, saved, "ours") == [2] * 4
    metadata = open_checkpoint(saved).metadata
    assert set(os.listdir(saved)) == {*metadata.files, ".metadata", sidecar_file(metadata.save_id)}
