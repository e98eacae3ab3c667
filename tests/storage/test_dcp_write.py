import pickle

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as stock
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.metadata import Metadata as StockMetadata

from ckptlab.layout import Boxes
from ckptlab.metadata import ITEMSIZE, ChunkColumns, Extent, Metadata, Tensor, Tensors
from ckptlab.storage.dcp import read_metadata
from ckptlab.storage.dcp_write import write_metadata

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


def sample():
    """A tensor in two chunks, a scalar, an empty one and a large one in two files, and an object."""
    columns = ChunkColumns()
    columns.add(
        Boxes(np.array([[0, 0], [2, 0]]), np.array([[2, 4], [1, 4]])), [0, 1], [0, 70_000], [1577, 1577]
    )
    columns.add(Boxes(np.zeros((1, 0), np.int64), np.zeros((1, 0), np.int64)), [0], [1577], [1500])
    columns.add(Boxes(np.array([[0]]), np.array([[0]])), [1], [2**40], [1513])
    columns.add(Boxes(np.array([[0, 0, 0, 0]]), np.array([[2**33, 1, 1, 300]])), [1], [2**41], [2**42])
    tensors = (
        Tensor("a", "float32", (3, 4)),
        Tensor("b.c", "bfloat16", ()),
        Tensor("é", "float32", (0,)),
        Tensor("big", "uint8", (2**33, 1, 1, 300)),
    )
    return Metadata(
        Tensors.of(tensors), columns.build(), ("__0_0.distcp", "__1_0_abc.distcp"), (0, 1),
        {"b.n": Extent(1, 5, 1261)}, {"a": ("a",), "b.c": ("b", "c"), "b.n": ("b", 0, 300, "n")}, {}, "an-id",
    )  # fmt: skip


def stock_sample():
    size = torch.Size

    def tensor(dtype, shape, *chunks):
        boxes = [ChunkStorageMetadata(size(o), size(s)) for o, s in chunks]
        return TensorStorageMetadata(TensorProperties(dtype=dtype), size(shape), boxes)

    shape = (2**33, 1, 1, 300)
    return StockMetadata(
        {
            "b.n": BytesStorageMetadata(),
            "a": tensor(torch.float32, (3, 4), ((0, 0), (2, 4)), ((2, 0), (1, 4))),
            "b.c": tensor(torch.bfloat16, (), ((), ())),
            "é": tensor(torch.float32, (0,), ((0,), (0,))),
            "big": tensor(torch.uint8, shape, ((0, 0, 0, 0), shape)),
        },
        {"a": ("a",), "b.c": ("b", "c"), "b.n": ("b", 0, 300, "n")},
        {
            MetadataIndex("b.n"): _StorageInfo("__1_0_abc.distcp", 5, 1261),
            MetadataIndex("a", (0, 0), 0): _StorageInfo("__0_0.distcp", 0, 1577),
            MetadataIndex("a", (2, 0), 1): _StorageInfo("__1_0_abc.distcp", 70_000, 1577),
            MetadataIndex("b.c", (), 0): _StorageInfo("__0_0.distcp", 1577, 1500),
            MetadataIndex("é", (0,), 0): _StorageInfo("__1_0_abc.distcp", 2**40, 1513),
            MetadataIndex("big", (0, 0, 0, 0), 0): _StorageInfo("__1_0_abc.distcp", 2**41, 2**42),
        },
        StorageMeta("/some/where", "an-id"),
        "1.0.0",
    )


def test_equal_to_what_stock_would_write():
    made, want = pickle.loads(write_metadata(sample(), "/some/where")), stock_sample()
    assert made == want
    assert list(made.state_dict_metadata) == list(want.state_dict_metadata)
    for (index, place), (index2, place2) in zip(
        made.storage_data.items(), want.storage_data.items(), strict=True
    ):
        assert vars(index) == vars(index2)
        assert type(index.offset) is type(index2.offset)
        assert place.__getstate__() == place2.__getstate__()
        assert place.transform_descriptors is None
    entry = made.state_dict_metadata["a"]
    assert type(entry.size) is torch.Size
    assert {type(d) for c in entry.chunks for d in (c.offsets, c.sizes)} == {torch.Size}
    assert vars(entry.properties) == vars(TensorProperties(dtype=torch.float32))


def test_tensors_do_not_share_their_lists():
    entries = pickle.loads(write_metadata(sample(), "x")).state_dict_metadata
    lists = [id(entry.chunks) for entry in entries.values() if isinstance(entry, TensorStorageMetadata)]
    assert len(set(lists)) == len(lists) == 4


@pytest.mark.parametrize("dtype", ITEMSIZE)
def test_every_dtype(dtype):
    columns = ChunkColumns()
    columns.add(Boxes(np.array([[0]]), np.array([[1]])), [0], [0], [9])
    made = Metadata(Tensors.of([Tensor("w", dtype, (1,))]), columns.build(), ("f",), (-1,))
    assert pickle.loads(write_metadata(made, "x")).state_dict_metadata["w"].properties.dtype == getattr(
        torch, dtype
    )


def test_an_empty_checkpoint():
    made = pickle.loads(write_metadata(Metadata(Tensors.of([]), ChunkColumns().build(), (), ()), "x"))
    assert made == StockMetadata({}, {}, {}, StorageMeta("x", None), "1.0.0")


def test_read_back():
    made = read_metadata(write_metadata(sample(), "x"), "w")
    want = sample()
    assert made.tensors == want.tensors
    assert made.files[made.objects["b.n"].file] == "__1_0_abc.distcp"
    assert made.paths == want.paths
    assert made.save_id == "an-id"
    for name in ("first", "corner", "offsets", "shapes", "start", "length"):
        assert getattr(made.chunks, name).tolist() == getattr(want.chunks, name).tolist()
    assert [made.files[f] for f in made.chunks.file] == [want.files[f] for f in want.chunks.file]
    assert dict(zip(made.files, made.writers, strict=True)) == {"__0_0.distcp": 0, "__1_0_abc.distcp": 1}


def test_stock_loads_through_it(tmp_path):
    state = {"w": torch.randn(7, 5), "deep": {"list": [torch.arange(3), 5]}, "none": torch.zeros(0)}
    stock.save(state, checkpoint_id=tmp_path, no_dist=True)
    old = (tmp_path / ".metadata").read_bytes()
    (tmp_path / "__0_0.distcp").rename(tmp_path / "__0_0_new.distcp")
    read = read_metadata(old, "w")
    moved = Metadata(
        read.tensors, read.chunks, ("__0_0_new.distcp",), (0,), read.objects, read.paths, {}, read.save_id
    )
    (tmp_path / ".metadata").write_bytes(write_metadata(moved, str(tmp_path)))
    target = {
        "w": torch.zeros(7, 5),
        "deep": {"list": [torch.zeros(3, dtype=torch.int64), 0]},
        "none": torch.ones(0),
    }
    stock.load(target, checkpoint_id=tmp_path, no_dist=True)
    assert torch.equal(target["w"], state["w"])
    assert torch.equal(target["deep"]["list"][0], state["deep"]["list"][0])
    assert target["deep"]["list"][1] == 5
