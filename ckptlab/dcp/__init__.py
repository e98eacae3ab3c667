"""The public names of `torch.distributed.checkpoint`, on ckptlab's engine.

`import ckptlab.dcp as dcp` in place of `import torch.distributed.checkpoint as dcp`; submodules
have the same names too. Readers, writers and planners as torch made them go through the engine;
whatever else speaks torch's protocol is driven by torch. It makes no plan and opens no file
itself.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    LoadPlanner,
    ReadItem,
    SavePlan,
    SavePlanner,
    WriteItem,
)
from torch.distributed.checkpoint.quantized_hf_storage import QuantizedHuggingFaceStorageReader
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter

from ckptlab.dcp import torchs
from ckptlab.dcp.api import CheckpointException
from ckptlab.dcp.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from ckptlab.dcp.filesystem import FileSystemReader, FileSystemWriter
from ckptlab.dcp.optimizer import load_sharded_optimizer_state_dict
from ckptlab.dcp.state_dict_loader import load, load_state_dict
from ckptlab.dcp.state_dict_saver import async_save, save, save_state_dict
from ckptlab.dcp.transform_planner import TransformPlanner

torchs.install()

__all__ = [
    "BytesStorageMetadata",
    "CheckpointException",
    "ChunkStorageMetadata",
    "DefaultLoadPlanner",
    "DefaultSavePlanner",
    "FileSystemReader",
    "FileSystemWriter",
    "HuggingFaceStorageReader",
    "HuggingFaceStorageWriter",
    "LoadPlan",
    "LoadPlanner",
    "Metadata",
    "QuantizedHuggingFaceStorageReader",
    "ReadItem",
    "SavePlan",
    "SavePlanner",
    "StorageReader",
    "StorageWriter",
    "TensorStorageMetadata",
    "TransformPlanner",
    "WriteItem",
    "async_save",
    "load",
    "load_sharded_optimizer_state_dict",
    "load_state_dict",
    "save",
    "save_state_dict",
]


def __getattr__(name: str) -> ModuleType:
    """A submodule that nobody imported yet; torch imports most of its own at once."""
    try:
        return import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{name}":
            raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
