"""`torch.distributed.checkpoint._fsspec_filesystem`: checkpoints wherever fsspec reaches.

Torch's own storage, read as safely as a local one. It knows no process group.
"""

from __future__ import annotations

import inspect
import os
from typing import Any

from torch.distributed.checkpoint import _fsspec_filesystem as torchs

from ckptlab.dcp.filesystem import SafeReading, WholeWriting
from ckptlab.dcp.torchs import rest_of

__all__ = ["FileSystem", "FsspecReader", "FsspecWriter"]

FileSystem = torchs.FileSystem
__getattr__ = rest_of(__name__)


class FsspecWriter(WholeWriting, torchs.FsspecWriter):
    """Where to save: a URL that fsspec understands, with torch's own parameters.

    Further arguments are options of the storage; with them torch's own protocol does the work.
    """

    def __init__(self, path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        super().__init__(path, *args, **kwargs)
        self.options = {name: it for name, it in kwargs.items() if name not in _PARAMETERS}


class FsspecReader(SafeReading, torchs.FsspecReader):
    """Where to load from: a URL that fsspec understands; further arguments are options of the storage."""

    def __init__(self, path: str | os.PathLike[str], **kwargs: Any) -> None:
        super().__init__(path, **kwargs)
        self.options = kwargs


_PARAMETERS = inspect.signature(torchs.FsspecWriter).parameters
