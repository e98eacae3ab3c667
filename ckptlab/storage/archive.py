"""The records of a `torch.save` archive, a zip in which nothing is compressed.

Reads its directory and small records, never the payload. It knows no pickle and no tensor.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ckptlab.errors import CheckpointError, CorruptError

Read = Callable[[int, int], bytes]
"""`read(offset, n)` gives n bytes of an archive, `offset` counted from its beginning."""


@contextmanager
def reading_zip(where: str) -> Iterator[None]:
    """What `zipfile` and `struct` say of a damaged archive, said as `CorruptError`."""
    try:
        yield
    except CheckpointError:
        raise
    # zipfile has no one error for damage: BadZipFile, struct.error, KeyError, NotImplementedError and more.
    except Exception as error:
        raise CorruptError(f"{where}: no torch.save archive, or a damaged one: {error}") from error


class _Window(io.RawIOBase):
    """An archive as the file that `zipfile` wants."""

    def __init__(self, read: Read, length: int) -> None:
        self._read, self._length, self._at = read, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + (0, self._at, self._length)[whence]
        if self._at < 0:
            raise ValueError(f"byte {self._at}")
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        rest = max(0, self._length - self._at)
        wanted = rest if size is None or size < 0 else min(size, rest)
        data = self._read(self._at, wanted) if wanted else b""
        self._at += len(data)
        return data


class Archive:
    """The records of a `torch.save` archive, whatever name its writer gave it; the payload is not read."""

    def __init__(self, read: Read, length: int) -> None:
        self._read, self._length = read, length
        self._zip = zipfile.ZipFile(_Window(read, length))
        pickles = [name for name in self._zip.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError(f"no torch.save archive: records {self._zip.namelist()[:5]}")
        self._prefix = pickles[0].removesuffix("data.pkl")

    @property
    def names(self) -> tuple[str, ...]:
        """Every record."""
        return tuple(
            name.removeprefix(self._prefix) for name in self._zip.namelist() if name.startswith(self._prefix)
        )

    def __contains__(self, name: str) -> bool:
        return self._prefix + name in self._zip.NameToInfo

    def record(self, name: str) -> zipfile.ZipInfo:
        """A record, if it is stored as it is."""
        info = self._zip.getinfo(self._prefix + name)
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise ValueError(f"record {name} is compressed")
        return info

    def start(self, name: str) -> int:
        """Where the bytes of a record begin."""
        info = self.record(name)
        header = struct.unpack("<4s22xHH", self._read(info.header_offset, 30))
        start = info.header_offset + 30 + int(header[1]) + int(header[2])
        if header[0] != b"PK\x03\x04" or start + info.file_size > self._length:
            raise ValueError(f"record {name} is not where the directory says")
        return start

    def content(self, name: str) -> bytes:
        """The bytes of a record."""
        start = self.start(name)
        return self._read(start, self.record(name).file_size)
