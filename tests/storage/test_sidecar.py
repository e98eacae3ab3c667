"""The file beside `.metadata`: it gives back all that was saved, or counts as none."""

import json
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_cases import layouts, tensors

import ckptlab
from ckptlab import open_checkpoint
from ckptlab.errors import CorruptError
from ckptlab.layout import Layout, Mesh, Replicate, Shard, StridedShard
from ckptlab.metadata import Extent, Tensor
from ckptlab.plan.metadata_of import metadata_of
from ckptlab.storage.crc import crc32
from ckptlab.storage.sidecar import belongs, read_sidecar, sidecar_file, sidecars, write_sidecar
from ckptlab.storage.verify import verify

HSDP = Layout(Mesh((2, 2), ("replicate", "shard")), (Replicate(), Shard(0)))
TP = Layout(Mesh((2, 3), ranks=(9, 8, 7, 1, 2, 3)), (StridedShard(0, split_factor=3), Shard(0)))
NAME = sidecar_file("an-id-of-a-save")
RECORD = b"a .metadata"
HEAD = struct.Struct("<8sQQII")


def sample(some=None, layout=HSDP):
    some = some or [
        Tensor("a", "float32", (4, 4)),
        Tensor("b.c", "int8", (6,)),
        Tensor("d", "float32", (4, 4)),
    ]
    made = metadata_of(some, layout)
    return replace(
        made,
        files=tuple(f"__{i}_0.distcp" for i in range(len(made.files))),
        objects={"step": Extent(0, 99, 7)},
        paths={t.fqn: (t.fqn,) for t in some} | {"b.c": ("b", "c"), "step": ("step",)},
        save_id="an-id-of-a-save",
    )


def assert_same(found, wanted):
    for field in ("tensors", "files", "writers", "objects", "paths", "layouts", "save_id"):
        assert getattr(found, field) == getattr(wanted, field), field
    for field in ("first", "corner", "offsets", "shapes", "file", "start", "length"):
        assert getattr(found.chunks, field).tolist() == getattr(wanted.chunks, field).tolist(), field


def test_all_comes_back():
    wanted = replace(sample(), layouts={"a": TP, "d": HSDP})
    found = read_sidecar(write_sidecar(wanted, RECORD), NAME, len(RECORD))
    assert found.sound()
    assert_same(found.metadata, wanted)
    assert found.record_crc == crc32(RECORD)


@settings(max_examples=100, deadline=None)
@given(tensors(), layouts())
def test_any_checkpoint_comes_back(some, layout):
    wanted = sample(some, layout)
    wanted = replace(wanted, paths={**dict.fromkeys([t.fqn for t in some], ("x", 1)), "step": ("step",)})
    assert_same(read_sidecar(write_sidecar(wanted, b"1"), NAME, 1).metadata, wanted)


def test_a_key_without_a_path_stays_without():
    wanted = replace(sample(), paths={"a": ("a",)})
    assert read_sidecar(write_sidecar(wanted, b"1"), NAME, 1).metadata.paths == {"a": ("a",)}


def test_of_another_save_or_another_record_counts_as_none():
    data = write_sidecar(sample(), bytes(1234))
    assert read_sidecar(data, sidecar_file("another-save-id"), 1234) is None
    assert read_sidecar(data, NAME, 1235) is None
    assert read_sidecar(data, NAME, 1234) is not None


def test_which_may_belong():
    assert sidecars([NAME, ".metadata", "__0_0.distcp", ".ckptlab-x.json"]) == [NAME]
    assert belongs(NAME, b"...an-id-of-a-save...")
    assert not belongs(NAME, b"...another-id...")
    assert not belongs(sidecar_file(""), b"anything")


def changed(change):
    """The sidecar with something else in its header, and a crc that says that all is well."""
    data = write_sidecar(sample(), b"1")
    magic, length, ahead, _, places_crc = HEAD.unpack_from(data)
    head = json.loads(data[HEAD.size : HEAD.size + length])
    change(head)
    header = json.dumps(head).encode()
    front = header + bytes(-len(header) % 8) + data[HEAD.size + length + -length % 8 : HEAD.size + ahead]
    made = HEAD.pack(magic, len(header), len(front), crc32(front), places_crc)
    return made + front + data[HEAD.size + ahead :]


def test_what_is_changed_to_the_same_is_read():
    assert read_sidecar(changed(lambda head: None), NAME, 1) is not None


@pytest.mark.parametrize(
    "change",
    [
        lambda head: head.update(names=head["names"][:-1]),
        lambda head: head.update(names=["a"] * 3),
        lambda head: head.update(kinds=head["kinds"][:-1]),
        lambda head: head["kinds"][0].__setitem__(0, "float1"),
        lambda head: head["kinds"][0].__setitem__(1, [2, 4]),
        lambda head: head["kinds"][0].__setitem__(1, [-4, 4]),
        lambda head: head["kinds"][0].__setitem__(1, [1 << 40, 1 << 40]),
        lambda head: head.update(files=head["files"][:1]),
        lambda head: head["files"].__setitem__(0, "../secret"),
        lambda head: head["objects"].update(step=[9, 0, 0]),
        lambda head: head["objects"].update(step=[0, -1, 0]),
        lambda head: head["layouts"][0]["mesh"].update(shape=[0]),
        lambda head: head["layouts"][0]["mesh"].update(shape=[1 << 60]),
        lambda head: head["layouts"][0].update(placements="Q"),
        lambda head: head["lengths"].__setitem__(0, -1),
        lambda head: head["lengths"].__setitem__(8, 1 << 40),
        lambda head: head["lengths"].__setitem__(6, 1),
        lambda head: head["lengths"].__setitem__(8, head["lengths"][8] - 1),
        lambda head: head["paths"].update(a=3),
        lambda head: head["paths"].update(a=[[]]),
        lambda head: head.pop("paths"),
        lambda head: head.update(record=1),
        lambda head: head.update(record=[1]),
        lambda head: head.update(record=[1, None]),
    ],
)
def test_what_contradicts_itself_counts_as_none(change):
    assert read_sidecar(changed(change), NAME, 1) is None


def column(wanted, name, at, value):
    array = getattr(wanted.chunks, name).copy()
    array[at] = value
    return replace(wanted, chunks=replace(wanted.chunks, **{name: array}))


@pytest.mark.parametrize(
    ("name", "at", "value"),
    [
        ("first", 0, 1), ("first", 1, 99), ("first", -1, 0), ("corner", 0, -1), ("corner", 1, 1 << 40),
        ("offsets", 0, -1), ("offsets", 0, 4), ("shapes", 0, 5), ("shapes", 0, -1), ("file", 0, 4),
        ("file", 0, -1), ("start", 0, -1), ("length", 0, -1), ("start", 0, (1 << 63) - 1),
    ],
)  # fmt: skip
def test_columns_that_lie_count_as_none(name, at, value):
    assert read_sidecar(write_sidecar(column(sample(), name, at, value), b"1"), NAME, 1) is None


@pytest.mark.parametrize("data", [b"", b"ckptlab1", b"{}", bytes(24), b"ckptlab1" + bytes(16), bytes(1000)])
def test_something_else_counts_as_none(data):
    assert read_sidecar(data, NAME, 1) is None


@settings(deadline=None)
@given(st.data())
def test_any_cut_counts_as_none_and_any_flip_is_found(data):
    whole = bytearray(write_sidecar(sample(), b"1"))
    ahead = HEAD.size + HEAD.unpack_from(whole)[2]
    at = data.draw(st.integers(0, len(whole) - 1))
    assert read_sidecar(bytes(whole[:at]), NAME, 1) is None
    whole[at] ^= data.draw(st.integers(1, 255))
    found = read_sidecar(bytes(whole), NAME, 1)
    assert found is None or not found.sound()
    # What says where chunks lie waits until somebody asks; the crc of it stands at the end of HEAD.
    assert found is None or at >= ahead or HEAD.size - 4 <= at < HEAD.size


@pytest.fixture
def long(monkeypatch):
    """Every index is a long one: of millions of chunks."""
    monkeypatch.setattr("ckptlab.storage.checkpoint._LONG", 0)


def alike(path):
    """Two tensors that are alike in all but their elements, in two files; and the sidecar's name."""
    state = {"a": torch.full((64,), 1.0), "b": torch.full((64,), 2.0), "c": torch.full((64,), 3.0)}
    ckptlab.save(state, path)
    return path / sidecar_file(open_checkpoint(path).metadata.save_id)


def loaded(path):
    target = {key: torch.zeros(64) for key in "abc"}
    ckptlab.load(target, path)
    return [target[key].unique().tolist() for key in "abc"]


@pytest.mark.parametrize("name", ["first", "corner", "offsets", "shapes", "file", "start", "length"])
@pytest.mark.usefixtures("long")
def test_a_flipped_bit_of_a_long_index_never_loads_wrongly(tmp_path, name):
    """Where chunks lie is checked before they are read: refused. All else at once: right, without it."""
    beside = alike(tmp_path)
    whole = beside.read_bytes()
    chunks = open_checkpoint(tmp_path).metadata.chunks
    end = len(whole)
    behind = {"length": end - 24, "start": end - 48, "file": end - 64}
    at = behind[name] if name in behind else whole.index(getattr(chunks, name).tobytes())
    for bit in (0, 5):
        beside.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
        opened = open_checkpoint(tmp_path)
        if opened.ours:
            with pytest.raises(CorruptError, match="Remove it"):
                loaded(tmp_path)
            with pytest.raises(CorruptError, match="Remove it"):
                opened["a"][3]
        else:
            assert loaded(tmp_path) == [[1.0], [2.0], [3.0]]
        assert opened.ours == (name in ("start", "length"))
        assert any(beside.name in str(finding) for finding in verify(tmp_path).findings)
    beside.unlink()
    assert loaded(tmp_path) == [[1.0], [2.0], [3.0]]


@pytest.mark.usefixtures("long")
def test_a_chunk_taken_for_another_of_its_kind_is_refused(tmp_path):
    """Elements of b where a should be: their own crc is right, and so is all that is round them."""
    beside = alike(tmp_path)
    whole, start = beside.read_bytes(), open_checkpoint(tmp_path).metadata.chunks.start
    at = whole.rindex(start.tobytes())
    beside.write_bytes(whole[:at] + whole[at + 8 : at + 16] + whole[at + 8 :])
    assert open_checkpoint(tmp_path).metadata.chunks.start[0] == start[1]
    with pytest.raises(CorruptError, match="Remove it"):
        loaded(tmp_path)
    assert {finding.severity for finding in verify(tmp_path).findings} >= {"damage", "doubt"}


@pytest.mark.usefixtures("long")
def test_a_long_metadata_that_was_changed_is_refused_before_it_is_read_by(tmp_path):
    alike(tmp_path)
    record = tmp_path / ".metadata"
    whole = record.read_bytes()
    record.write_bytes(whole.replace(b"X\x01\0\0\0a", b"X\x01\0\0\0z"))
    assert record.read_bytes() != whole
    opened = open_checkpoint(tmp_path)
    assert opened.ours
    with pytest.raises(CorruptError, match=r"was changed after it was saved.*remove \.ckptlab-"):
        opened["a"][3]
    with pytest.raises(CorruptError, match="was changed after it was saved"):
        loaded(tmp_path)


def test_columns_are_views_of_what_was_mapped():
    data = write_sidecar(sample(), b"1")
    found = read_sidecar(memoryview(data), NAME, 1)
    assert np.shares_memory(found.metadata.chunks.start, np.frombuffer(data, np.uint8))


def test_a_checkpoint_opens_the_same_with_and_without(tmp_path):
    ckptlab.save({"model": {"w": torch.ones(4, 3), "b": [torch.ones(2), {"c": 1}]}, "step": 3}, tmp_path)
    beside = tmp_path / sidecar_file(open_checkpoint(tmp_path).metadata.save_id)
    with_it = open_checkpoint(tmp_path).metadata
    beside.unlink()
    without = open_checkpoint(tmp_path).metadata
    assert_same(replace(with_it, layouts={}), without)


def test_a_metadata_that_was_changed_is_refused_with_both_ways_out(tmp_path):
    """Of the same size and of the same save; stock DCP would take it as it is."""
    ckptlab.save({"model": {"w": torch.ones(4, 3), "v": torch.zeros(4, 3)}}, tmp_path)
    beside = tmp_path / sidecar_file(open_checkpoint(tmp_path).metadata.save_id)
    record = tmp_path / ".metadata"
    whole = record.read_bytes()
    changed = whole.replace(b"model.w", b"model.?").replace(b"model.v", b"model.w").replace(b"?", b"v")
    assert len(changed) == len(whole)
    record.write_bytes(changed)
    with pytest.raises(CorruptError, match=r"was changed after it was saved.*remove \.ckptlab-") as caught:
        open_checkpoint(tmp_path)
    assert set(caught.value.problems) == {"model.v", "model.w"}
    [finding] = verify(tmp_path).findings
    assert (finding.severity, finding.what) == ("damage", "metadata")
    beside.unlink()
    assert open_checkpoint(tmp_path)["model.w"][0, 0] == 0

    record.write_bytes(whole)
    assert open_checkpoint(tmp_path)["model.w"][0, 0] == 1


def test_a_metadata_that_is_damaged_beyond_reading_opens_by_the_file_beside_it(tmp_path):
    ckptlab.save({"w": torch.ones(4, 3)}, tmp_path)
    record = tmp_path / ".metadata"
    whole = record.read_bytes()
    record.write_bytes(b"?" + whole[1:])
    assert open_checkpoint(tmp_path)["w"][0, 0] == 1
    assert [finding.severity for finding in verify(tmp_path).findings] == ["damage"]
