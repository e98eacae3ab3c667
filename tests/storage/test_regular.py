"""Large `.metadata` read as columns: the same, to the last number, as read object by object."""

import pickle
from dataclasses import fields
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.distributed.checkpoint import metadata as stock
from torch.distributed.checkpoint.filesystem import _StorageInfo

from ckptlab.errors import CheckpointError
from ckptlab.metadata import Chunks, Metadata
from ckptlab.storage import dcp
from ckptlab.storage.dcp_names import STOCK, IndexEntry, PlaceEntry
from ckptlab.storage.lockstep import Irregular, Records, Shape
from ckptlab.storage.regular import read_regular

WHERE = "x/.metadata"
PLACES = Shape(IndexEntry, PlaceEntry, tuple, "fqn", "index", "offset", "relative_path", "offset", "length")


def one_by_one(data, monkeypatch):
    monkeypatch.setattr(dcp, "_LARGE", 1 << 60)
    return outcome(data)


def outcome(data):
    try:
        return dcp.read_metadata(data, WHERE)
    except CheckpointError as error:
        return type(error), str(error)


def same(a, b):
    if not isinstance(a, Metadata) or not isinstance(b, Metadata):
        return a == b
    columns = all(
        getattr(a.chunks, f.name).dtype == getattr(b.chunks, f.name).dtype
        and np.array_equal(getattr(a.chunks, f.name), getattr(b.chunks, f.name))
        for f in fields(Chunks)
    )
    rest = (f.name for f in fields(Metadata) if f.name != "chunks")
    return columns and all(getattr(a, name) == getattr(b, name) for name in rest)


def records_of(data):
    """How many places were read in lockstep, and one by one."""
    top = read_regular(data, STOCK, PLACES)
    keys = list(top.storage_data)
    return sum(len(k.text) for k in keys if type(k) is Records), sum(type(k) is IndexEntry for k in keys)


def fresh(text):
    """The same text as an object of its own, as each rank's plan brings it."""
    return "".join(list(text))


def model(shapes, ranks, shared=False, hints=True, objects=(), lists=True):
    """Stock's metadata: every tensor cut along its first dim into one chunk a rank."""
    entries, storage = {}, {}
    name = "layers.{}.weight".format
    for t, shape in enumerate(shapes):
        rows = -(-shape[0] // ranks) if shape else 1
        cuts = [min(r * rows, shape[0]) for r in range(ranks + 1)] if shape else [0, 1]
        boxes = [
            ((low, *(0 for _ in shape[1:])), (high - low, *shape[1:])) if shape else ((), ())
            for low, high in pairwise(cuts)
            if high > low
        ]
        chunks = [stock.ChunkStorageMetadata(torch.Size(o), torch.Size(n)) for o, n in boxes]
        properties = stock.TensorProperties(dtype=torch.bfloat16)
        entries[name(t)] = stock.TensorStorageMetadata(properties, torch.Size(shape), chunks)
    for key in objects:
        entries[key] = stock.BytesStorageMetadata()
    for rank in range(ranks):
        at, file = 0, fresh(f"__{rank}_0.distcp")
        for t in range(len(shapes)):
            chunks = entries[name(t)].chunks
            if rank < len(chunks):
                fqn = name(t) if not shared else next(k for k in entries if k == name(t))
                size = chunks[rank].offsets if shared else torch.Size(tuple(chunks[rank].offsets))
                index = stock.MetadataIndex(fqn if shared else fresh(fqn), size, rank if hints else None)
                storage[index] = _StorageInfo(file, at, 1000 + 70_000 * t)
                at += 1000 + 70_000 * t
            if t < len(objects) and rank == 0:
                storage[stock.MetadataIndex(objects[t])] = _StorageInfo(file, at, 77)
                at += 77
    return stock.Metadata(entries, {k: tuple(k.split(".")) for k in entries}, storage, stock.StorageMeta())


SHAPES = [(64, 4), (64,), (64, 4), (7, 300), (64, 2, 3), (), (64, 4, 5, 6), (70_000, 2), (64, 1, 1, 1, 2)]


@pytest.mark.parametrize("protocol", [4, 5, 2])
@pytest.mark.parametrize("hints", [True, False])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("objects", [(), ("step", "lr", "rng")])
def test_what_stock_pickles_is_read_the_same(monkeypatch, protocol, hints, shared, objects):
    data = pickle.dumps(model(SHAPES, 40, shared, hints, objects), protocol)
    monkeypatch.setattr(dcp, "_LARGE", 0)
    found = outcome(data)
    assert isinstance(found, Metadata)
    assert set(found.objects) == set(objects)
    assert same(found, one_by_one(data, monkeypatch))


@pytest.mark.parametrize("protocol", [4, 5])
def test_nearly_all_places_are_read_in_lockstep(protocol):
    together, alone = records_of(pickle.dumps(model([(200, 4), (200,), (100, 9)] * 20, 200), protocol))
    assert together + alone == 200 * 40 + 100 * 20
    assert alone < 10


def test_objects_between_places_end_a_stretch_and_no_more():
    together, alone = records_of(
        pickle.dumps(model([(50, 4)] * 30, 50, objects=[f"o{i}" for i in range(9)]), 4)
    )
    assert alone < 30
    assert together + alone == 50 * 30 + 9


@st.composite
def models(draw):
    shapes = draw(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=12))
    objects = draw(
        st.lists(st.sampled_from(["a", "b.c", "ω", "fqn", "offset", "x" * 300]), unique=True, max_size=4)
    )
    return model(shapes, draw(st.integers(1, 30)), draw(st.booleans()), draw(st.booleans()), objects)


@settings(max_examples=60, deadline=None)
@given(models(), st.sampled_from([4, 5]))
def test_any_model_is_read_the_same(made, protocol):
    with pytest.MonkeyPatch.context() as patch:
        data = pickle.dumps(made, protocol)
        patch.setattr(dcp, "_LARGE", 0)
        assert same(outcome(data), one_by_one(data, patch))


WHOLE = pickle.dumps(model(SHAPES, 12, objects=("step",)), 4)


@settings(max_examples=250, deadline=None)
@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 255))
@example(len(WHOLE) - 1, 0)
def test_a_damaged_byte_is_found_or_not_as_it_would_be_one_by_one(at, byte):
    data = WHOLE[:at] + bytes([byte]) + WHOLE[at + 1 :]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dcp, "_LARGE", 0)
        found = outcome(data)
        assert same(found, one_by_one(data, patch))


@pytest.mark.parametrize("cut", [1, 100, 5000])
def test_a_cut_file_is_an_error(monkeypatch, cut):
    monkeypatch.setattr(dcp, "_LARGE", 0)
    found = outcome(WHOLE[:-cut])
    assert found == one_by_one(WHOLE[:-cut], monkeypatch)
    assert not isinstance(found, Metadata)


class Boom:
    def __reduce__(self):
        return (eval, ("1/0",))


def test_nothing_is_run(monkeypatch):
    made = model(SHAPES, 12)
    made.planner_data["boom"] = Boom()
    data = pickle.dumps(made, 4)
    with pytest.raises(Irregular):
        read_regular(data, STOCK, PLACES)
    monkeypatch.setattr(dcp, "_LARGE", 0)
    kind, said = outcome(data)
    assert kind.__name__ == "UnsafeError"
    assert "eval" in said


def test_places_that_make_no_sense_are_said(monkeypatch):
    made = model(SHAPES, 12)
    place = list(made.storage_data.values())[40]
    for field, value in (("offset", -1), ("length", -5), ("offset", 2**63 - 1), ("relative_path", "../etc")):
        before = getattr(place, field)
        object.__setattr__(place, field, value)
        data = pickle.dumps(made, 4)
        monkeypatch.setattr(dcp, "_LARGE", 0)
        found = outcome(data)
        assert found == one_by_one(data, monkeypatch)
        assert found[0].__name__ == "CorruptError"
        object.__setattr__(place, field, before)
