"""`torch.distributed.checkpoint._fsspec_filesystem`: checkpoints wherever fsspec reaches.

Torch's own storage, read as safely as a local one. It knows no process group.
"""

from __future__ import annotations

from torch.distributed.checkpoint import _fsspec_filesystem as torchs

from ckptlab.dcp.filesystem import SafeReading, WholeWriting
from ckptlab.dcp.torchs import rest_of

__all__ = ["FileSystem", "FsspecReader", "FsspecWriter"]

FileSystem = torchs.FileSystem
__getattr__ = rest_of(__name__)


class FsspecWriter(WholeWriting, torchs.FsspecWriter):
    """Where to save: a URL that fsspec understands, with torch's own parameters."""


class FsspecReader(SafeReading, torchs.FsspecReader):
    """Where to load from: a URL that fsspec understands, with torch's own parameters."""
