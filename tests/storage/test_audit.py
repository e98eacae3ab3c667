"""Every pickle judged, none run: a corpus of malicious files without a miss, of clean ones without alarm."""

import argparse
import datetime
import io
import pickle
import zipfile
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from damage import STATE, alone, place, put
from hostile import ATTEMPTS
from tensors import TORCH_DTYPES, made

from ckptlab import save
from ckptlab.errors import CancelledError, PathError
from ckptlab.storage.audit import audit
from ckptlab.storage.convert import convert

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled", "ignore:Detected an existing")

PLAIN = {
    "numbers": [1, 2**70, 1.5, None, True, 2j],
    "bytes": b"bytes",
    "dtype": torch.bfloat16,
    "size": torch.Size([3]),
    "device": torch.device("cpu"),
    "collections": [OrderedDict(a=1), Counter("aab"), defaultdict(list, x=[1])],
    "sets": [{1, 2}, frozenset([3]), range(3), slice(1, 2), bytearray(b"x")],
    "times": [datetime.datetime(2020, 1, 2), datetime.timedelta(1), datetime.UTC],
    "places": [Path("a/b"), argparse.Namespace(lr=0.1)],
    "numpy": [np.arange(3.0), np.float32(2), np.dtype("int8")],
    "stream": io.BytesIO(b"raw"),
}


class Tagged(torch.Tensor):
    """A tensor with an attribute, which torch rebuilds by its type."""


def tensors():
    plain = {name: made(name, (4, 3)) for name in TORCH_DTYPES}
    odd = {
        "parameter": torch.nn.Parameter(torch.ones(3)),
        "view": torch.arange(20)[3:15:2],
        "turned": torch.ones(3, 4).t(),
        "sparse": torch.eye(3).to_sparse(),
        "scalar": torch.tensor(1),
        "none": torch.zeros(0, 3),
        "quantised": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8),
    }
    attributed = torch.ones(2)
    attributed.note = "kept"
    return {**plain, **odd, "attributed": attributed}


# ---------------------------------------------------------------- clean files


def by(saver, state):
    return lambda path: alone(saver, state, path / "step")


def rezipped(path):
    """As Python's own zipfile writes it."""
    torch.save(tensors(), path / "by-torch")
    with zipfile.ZipFile(path / "by-torch") as old, zipfile.ZipFile(path / "by-python.pt", "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    (path / "by-torch").unlink()


def optimizer(path):
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4))
    adam = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 4)).sum().backward()
    adam.step()
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, 10)
    state = {"model": model.state_dict(), "optim": adam.state_dict(), "schedule": schedule.state_dict()}
    torch.save(state, path / "training.ckpt")
    alone("stock", {**state, "rng": torch.get_rng_state(), "numpy": np.random.get_state()}, path / "step")


def others_files(path):
    np.savez(path / "arrays.npz", x=np.ones(3), y=np.array([{"a": 1}], object))
    (path / "notes.json").write_text("{}")
    (path / "raw.bin").write_bytes(bytes(range(256)) * 40)
    (path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    with zipfile.ZipFile(path / "source.zip", "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("src/train.py", "print()" * 100)
    (path / "empty.pt").write_bytes(b"")


CLEAN = {
    "ours": by("ours", {**STATE, **{name: made(name, (4, 3)) for name in TORCH_DTYPES}}),
    "stock": by("stock", {**STATE, **{name: made(name, (4, 3)) for name in TORCH_DTYPES}}),
    "objects of ours": by("ours", {key: (value,) for key, value in PLAIN.items()}),
    "objects of stock": by("stock", {key: (value,) for key, value in PLAIN.items()}),
    "odd tensors of stock": by("stock", {"views": torch.arange(20)[3:15:2], "turned": torch.ones(3, 4).t()}),
    "a file": lambda path: torch.save({**tensors(), **PLAIN}, path / "f.pt"),
    "a file of old": lambda path: torch.save(
        {**PLAIN, "w": torch.ones(9), "p": torch.nn.Parameter(torch.ones(3))},
        path / "f.bin",
        _use_new_zipfile_serialization=False,
    ),
    "a file by zipfile": rezipped,
    "every protocol": lambda path: [
        torch.save({**PLAIN, "w": torch.ones(9)}, path / f"{n}.pt", pickle_protocol=n) for n in (2, 3, 4, 5)
    ],
    "a model and its optimizer": optimizer,
    "files of others": others_files,
    "random bytes": by(
        "stock",
        {f"b{i}": torch.tensor([0x80, 2 + i % 4, *range(i, 200)], dtype=torch.uint8) for i in range(50)},
    ),
    "state in a tensor of bytes": by(
        "stock", {"_extra_state": torch.frombuffer(bytearray(pickle.dumps({"a": [1.5]})), dtype=torch.uint8)}
    ),
}


@pytest.mark.filterwarnings("ignore:.*uantize", "ignore:Sparse", "ignore:TypedStorage", "ignore:To copy")
@pytest.mark.parametrize("name", CLEAN)
def test_nothing_is_said_of_clean_files(tmp_path, name):
    CLEAN[name](tmp_path)
    told = []
    found = audit(tmp_path, progress=told.append)
    assert found.refused == ()
    assert found.clean
    assert told[-1].done == told[-1].total
    assert found.pickles or name == "files of others"
    assert "REFUSED" not in repr(found)


# ---------------------------------------------------------------- malicious files


def archived(pickled, **records):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        made.writestr("x/data.pkl", pickled)
        made.writestr("x/version", b"3\n")
        for name, data in records.items():
            made.writestr(f"x/{name}", data)
    return out.getvalue()


def metadata(path, data):
    alone("ours", STATE, path / "step")
    (path / "step" / ".metadata").write_bytes(data)


def legacy(path, data):
    """A file of torch before 1.6 that is the attempt where the values should be."""
    out = io.BytesIO()
    torch.save({"w": torch.ones(3)}, out, _use_new_zipfile_serialization=False)
    whole = out.getvalue()
    at = 0
    for _ in range(3):
        stream = io.BytesIO(whole[at:])
        pickle.Unpickler(stream).load()
        at += stream.tell()
    (path / "old.bin").write_bytes(whole[:at] + data)


WRAPPINGS = {
    "metadata": metadata,
    "a file of pickle": lambda path, data: (path / "x.pkl").write_bytes(data),
    "a file of torch": lambda path, data: (path / "x.pt").write_bytes(archived(data)),
    "a file without a suffix": lambda path, data: (path / "x").write_bytes(archived(data)),
    "a file of old torch": legacy,
    "a folder below": lambda path, data: (
        (path / "a" / "b").mkdir(parents=True),
        (path / "a/b/x.bin").write_bytes(archived(data)),
    ),
    "another save's data": lambda path, data: (
        alone("stock", STATE, path / "step"),
        (path / "step" / "__7_0.distcp").write_bytes(b"junk" + archived(data) + b"junk"),
    ),
    "a second pickle": lambda path, data: (path / "x.pkl").write_bytes(
        pickle.dumps([1]) + b"\x80\x02" + data.removeprefix(b"\x80\x04").removeprefix(b"\x80\x02")
    ),
    "another record": lambda path, data: (path / "x.pt").write_bytes(
        archived(pickle.dumps(1), **{"extra.PKL": data})
    ),
    "bytes in plain values": lambda path, data: torch.save({"a": [archived(data)]}, path / "x.pt"),
    "bytes in bytes in an object": lambda path, data: alone(
        "stock", {"o": (archived(pickle.dumps([archived(data)])),)}, path / "step"
    ),
    "an archive in a storage": lambda path, data: torch.save(
        {"_extra_state": torch.frombuffer(bytearray(archived(data)), dtype=torch.uint8)}, path / "x.pt"
    ),
    "an archive in a tensor of bytes": lambda path, data: alone(
        "stock",
        {"_extra_state": torch.frombuffer(bytearray(archived(data)), dtype=torch.uint8)},
        path / "step",
    ),
    "an archive in a tensor of bytes of ours": lambda path, data: save(
        {"_extra_state": torch.frombuffer(bytearray(archived(data)), dtype=torch.uint8)},
        path / "step",
        no_dist=True,
    ),
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_no_attempt_is_missed_wherever_it_is(tmp_path, wrapping):
    canary, missed = tmp_path / "canary", []
    for number, attempt in enumerate(ATTEMPTS):
        path = tmp_path / str(number)
        path.mkdir()
        WRAPPINGS[wrapping](path, ATTEMPTS[attempt](str(canary)))
        if audit(path).clean:
            missed.append(attempt)
    assert missed == []
    assert not canary.exists()


# ---------------------------------------------------------------- in the places of chunks and objects


@pytest.fixture
def stocks(tmp_path):
    """A checkpoint of stock's, and how to put other bytes in the place of a chunk or an object."""
    path = tmp_path / "step"
    alone(
        "stock", {"w": torch.ones(900), "bytes": torch.ones(900, dtype=torch.uint8), "o": ("x" * 5000,)}, path
    )
    places = {key: place(path, key) for key in ("w", "bytes", "o")}
    file = places["w"][0]
    whole = file.read_bytes()

    def store(key, data):
        _, start, length = places[key]
        assert len(data) <= length
        put(file, whole[:start] + data.ljust(length, b"\0") + whole[start + length :])
        return audit(path)

    store.length = {key: length for key, (_, _, length) in places.items()}
    return store


def as_long(pickled, length):
    """An archive of exactly so many bytes."""
    short = len(archived(pickled, filler=b""))
    return archived(pickled, filler=bytes(length - short))


@pytest.mark.parametrize("key", ["w", "bytes", "o"])
def test_no_attempt_in_a_chunk_or_an_object_is_missed(stocks, tmp_path, key):
    canary, missed = tmp_path / "canary", []
    for attempt in ATTEMPTS:
        data = ATTEMPTS[attempt](str(canary))
        if stocks(key, as_long(data, stocks.length[key])).clean:
            missed.append(attempt)
        # torch takes what does not begin as an archive for a pickle; without names it runs into nothing.
        if stocks(key, data).clean and attempt != "persistent id of old":
            missed.append(f"{attempt}, bare")
    assert missed == ["persistent id, bare"]
    assert not canary.exists()


def test_what_it_says(stocks, tmp_path):
    data = ATTEMPTS["global"](str(tmp_path / "canary"))
    found = stocks("w", as_long(data, stocks.length["w"]))
    (refused,) = found.refused
    assert (refused.severity, refused.file, refused.names) == ("danger", "__0_0.distcp", ("os.system",))
    assert refused.places == ("chunk Box[0:900] of tensor 'w', record data.pkl",)
    assert refused.detail == "asks for os.system, which runs commands"
    words = repr(found)
    assert f"{tmp_path / 'step'}: REFUSED: 1 pickle, 1 of them to run something\n" in words
    assert (
        "danger  __0_0.distcp, chunk Box[0:900] of tensor 'w', record data.pkl: asks for os.system" in words
    )


def test_a_class_of_somebodys_is_unknown_and_told_once_a_file(tmp_path):
    alone(
        "stock",
        {f"part{i}": {"_extra_state": (argparse.ArgumentParser,)} for i in range(5)},
        tmp_path / "step",
    )
    (refused,) = audit(tmp_path / "step").refused
    assert (refused.severity, refused.names, len(refused.places)) == (
        "unknown",
        ("argparse.ArgumentParser",),
        5,
    )
    assert "object 'part0._extra_state', record data.pkl and 4 more: asks for argparse" in str(refused)


# ---------------------------------------------------------------- archives that mislead


def zipped(*records, compress=zipfile.ZIP_STORED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compress) as made:
        for name, data in records:
            made.writestr(name, data)
    return out.getvalue()


FINE, BAD = pickle.dumps([1]), ATTEMPTS["global"]("x")

MISLEADING = {
    "compressed": zipped(("x/data.pkl", BAD * 50), compress=zipfile.ZIP_DEFLATED),
    "two of one name": lambda: zipped(("x/data.pkl", BAD), ("x/data.pkl", FINE)),
    "large letters": zipped(("x/data.pkl", FINE), ("x/DATA.PKL", BAD)),
    "one name in two spellings": zipped(("x/data.pkl", FINE), ("x/DATA.PKL", FINE)),
    "large letters alone": zipped(("x/DATA.PKL", BAD)),
    "two folders": zipped(("x/data.pkl", FINE), ("y/data.pkl", BAD)),
    "another name in front": zipped(("x/data.pkl", BAD)).replace(b"x/data.pkl", b"x/data/12", 1),
    "bytes behind": zipped(("x/data.pkl", FINE)) + b"more",
    "bytes in front": b"more" + zipped(("x/data.pkl", FINE)),
    "a pickle in front": BAD + zipped(("x/data.pkl", FINE)),
    "cut off": zipped(("x/data.pkl", BAD))[:-9],
    "a program": zipped(("x/data.pkl", FINE), ("x/code/__torch__.py", b"import os")),
    "no pickle to its end": zipped(("x/data.pkl", FINE[:-1])),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", MISLEADING)
def test_archives_that_readers_may_read_otherwise_are_refused(tmp_path, name):
    data = MISLEADING[name]
    (tmp_path / "x.pt").write_bytes(data() if callable(data) else data)
    assert not audit(tmp_path / "x.pt").clean


def test_a_chunk_that_begins_as_torch_writes_it_is_known_by_its_end_too(tmp_path):
    alone("stock", {"w": torch.ones(900)}, tmp_path / "step")
    file, start, length = place(tmp_path / "step", "w")
    data = file.read_bytes()
    at = data.rindex(b"data.pkl", start, start + length)
    put(file, data[:at] + b"data.pkk" + data[at + 8 :])
    (refused,) = audit(tmp_path / "step").refused
    assert "readers may not agree on what is in this archive" in refused.detail


def test_metadata_that_refers_to_something_outside(tmp_path):
    (tmp_path / ".metadata").write_bytes(b"\x80\x04)Q.")
    assert audit(tmp_path).refused[0].detail == "refers to something outside itself"


def test_nested_without_end(tmp_path):
    data = pickle.dumps([1])
    for _ in range(20):
        data = pickle.dumps([data])
    (tmp_path / "x.pkl").write_bytes(data)
    assert any("nested deeper" in refused.detail for refused in audit(tmp_path).refused)


def test_metadata_that_cannot_be_read_is_no_clean_bill(tmp_path):
    alone("stock", STATE, tmp_path / "step")
    (tmp_path / "step" / ".metadata").write_bytes(pickle.dumps({"fine": 1}))
    (refused,) = audit(tmp_path / "step").refused
    assert "so not every pickle behind it was found" in refused.detail


def test_a_long_metadata_is_judged_by_its_own_list(tmp_path, monkeypatch):
    monkeypatch.setattr("ckptlab.storage.judge._LONG", 10)
    alone("stock", STATE, tmp_path / "step")
    assert audit(tmp_path).clean
    (tmp_path / "step" / ".metadata").write_bytes(ATTEMPTS["nested in storage_data"]("x"))
    assert audit(tmp_path).refused[0].names[0] == "os.system"


# ---------------------------------------------------------------- where and how


def test_places_without_pickles_and_without_anything(tmp_path):
    pytest.importorskip("safetensors")
    alone("ours", {"w": torch.ones(3)}, tmp_path / "step")
    convert(tmp_path / "step", tmp_path / "m.safetensors")
    found = audit(tmp_path / "m.safetensors")
    assert (found.clean, found.pickles) == (True, 0)
    assert "there is no pickle in it" in repr(found)
    with pytest.raises(PathError, match="does not exist"):
        audit(tmp_path / "nothing")


def test_far_files_and_cancel(tmp_path):
    alone("stock", {**STATE, "o": (argparse.ArgumentParser,)}, tmp_path / "step")
    fsspec = pytest.importorskip("fsspec")
    far = fsspec.filesystem("memory")
    far.put(str(tmp_path / "step"), "/audit/step", recursive=True)
    assert [refused.names for refused in audit("memory://audit/step").refused] == [
        ("argparse.ArgumentParser",)
    ]
    assert not audit("memory://audit").clean
    (tmp_path / "x.pkl").write_bytes(FINE)
    far.put(str(tmp_path / "x.pkl"), "/audit/x.pkl")
    assert audit("memory://audit/x.pkl").pickles == 1

    def stop(event):
        raise CancelledError("enough")

    with pytest.raises(CancelledError):
        audit(tmp_path, progress=stop)
