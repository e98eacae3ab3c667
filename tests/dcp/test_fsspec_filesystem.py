"""Checkpoints at URLs: through the engine, or by torch where the storage has options of its own."""

import pytest
import torch
import torch.distributed.checkpoint as stock
from torch.distributed.checkpoint import _fsspec_filesystem as theirs

import ckptlab.dcp as dcp
from ckptlab import engine
from ckptlab.dcp._fsspec_filesystem import FsspecReader, FsspecWriter
from ckptlab.errors import UnsafeError

# Torch warns whenever it works without a process group, and when it saves over an older checkpoint.
pytestmark = [
    pytest.mark.filterwarnings("ignore:torch.distributed is "),
    pytest.mark.filterwarnings("ignore:Detected an existing checkpoint"),
]
STATE = {"w": torch.arange(6.0).reshape(2, 3), "n": {"k": 5}}
PLACES = ["memory://saved", "file://{}/saved"]


def loaded(load=dcp.load, **kwargs):
    target = {"w": torch.zeros(2, 3), "n": {"k": 0}}
    load(target, **kwargs)
    return torch.equal(target["w"], STATE["w"]) and target["n"] == STATE["n"]


@pytest.fixture(params=PLACES)
def url(request, tmp_path):
    return request.param.format(tmp_path)


@pytest.fixture
def engine_used(monkeypatch):
    calls = []
    for name in ("save", "load"):
        real = getattr(engine, name)
        monkeypatch.setattr(
            engine, name, lambda *a, name=name, real=real, **k: calls.append(name) or real(*a, **k)
        )
    return calls


@pytest.mark.parametrize("by", ["id", "storage"])
def test_a_url_goes_through_the_engine(url, by, engine_used):
    if by == "id":
        dcp.save(STATE, checkpoint_id=url)
        assert loaded(checkpoint_id=url)
    else:
        dcp.save(STATE, storage_writer=FsspecWriter(url, sync_files=False))
        assert loaded(storage_reader=FsspecReader(url))
    assert engine_used == ["save", "load"]
    assert loaded(stock.load, storage_reader=theirs.FsspecReader(url))


def test_what_torch_saved_there_is_read(url):
    stock.save(STATE, storage_writer=theirs.FsspecWriter(url))
    assert loaded(checkpoint_id=url)


@pytest.mark.parametrize("kinds", ["ours", "torch's"])
def test_options_of_the_storage_are_honoured_by_torch(tmp_path, kinds, engine_used):
    writer, reader = (
        (FsspecWriter, FsspecReader) if kinds == "ours" else (theirs.FsspecWriter, theirs.FsspecReader)
    )
    url = f"file://{tmp_path}/deep/saved"
    options = {"auto_mkdir": True} if kinds == "ours" else {}
    dcp.save(STATE, storage_writer=writer(url, **options))
    assert loaded(storage_reader=reader(url, **options))
    assert engine_used == []


def test_no_code_of_a_metadata_is_run(tmp_path):
    dcp.save(STATE, checkpoint_id=tmp_path)
    (tmp_path / ".metadata").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(UnsafeError, match="system"):
        FsspecReader(f"file://{tmp_path}").read_metadata()
