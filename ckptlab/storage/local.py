"""The files of a local directory.

It knows no format: not what a name means, nor what the bytes are.
"""

from __future__ import annotations

import errno
import mmap
import os
import threading
import uuid
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ckptlab.errors import CorruptError, PathError
from ckptlab.storage.crc import crc32
from ckptlab.storage.files import Buffer, Ints, Kind, Writer, inside

_IOV_MAX = min(os.sysconf("SC_IOV_MAX"), 1024)
_OPEN_FILES = 64
_SMALL = 1 << 20
_BLOCK = 1 << 20
_NOWAIT = getattr(os, "RWF_NOWAIT", 0)


class LocalFiles:
    """The files of a local directory, which need not exist before something is written.

    Up to 64 files stay open for reading until `close`. Safe from several threads, as long as
    nobody closes, replaces or removes what another is reading.
    """

    mapped, private = True, False
    requests = fetched = 0

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root: str = os.fspath(root)
        self._open: dict[str, int] = {}
        self._lock = threading.Lock()
        weakref.finalize(self, _close_all, self._open)

    def folder(self, name: str) -> LocalFiles:
        """The files of a directory under the root."""
        return LocalFiles(self._path(name))

    def make(self) -> None:
        """Create the directory; `PathError` if something else is there."""
        try:
            Path(self.root).mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:
            raise PathError(f"{self.root} is a file; a checkpoint is a directory", [self.root]) from error

    def names(self) -> tuple[str, ...]:
        """Every file directly under the root, sorted; none if there is no such directory."""
        try:
            with os.scandir(self.root) as entries:
                return tuple(sorted(entry.name for entry in entries if entry.is_file()))
        except FileNotFoundError:
            return ()

    def sizes(self) -> Mapping[str, int]:
        """Bytes of every file directly under the root, by name, sorted."""
        return {name: self.size(name) for name in self.names()}

    def entries(self) -> Mapping[str, Kind]:
        """What stands directly under the root, by name, sorted; nothing if there is no such directory."""
        try:
            with os.scandir(self.root) as entries:
                return {entry.name: _kind(entry) for entry in sorted(entries, key=lambda e: e.name)}
        except FileNotFoundError:
            return {}

    def size(self, name: str) -> int:
        """Bytes of a file; `CorruptError` if it is missing."""
        try:
            return self._path(name).stat().st_size
        except OSError as error:
            raise CorruptError(f"{self._path(name)}: {error.strerror}", [name]) from error

    def read(self, name: str, start: int, length: int) -> bytes:
        """Exactly `length` bytes from byte `start`; `CorruptError` if the file has not got them."""
        if not 0 <= length <= _SMALL:
            # The size says whether there is so much before memory is taken for it.
            self._require(name, start, length)
        whole = bytearray(length)
        self.read_into(name, start, memoryview(whole))
        return bytes(whole)

    def read_into(self, name: str, start: int, into: memoryview) -> None:
        """Fill a buffer (contiguous bytes) from byte `start`; `CorruptError` if the file has not enough."""
        length = into.nbytes
        if not length:
            return
        with _Reading(self, name, start, length) as file:
            done = os.preadv(file, [into], start)
            while done < length:
                got = os.preadv(file, [into.cast("B")[done:]], start + done)
                if not got:
                    self._require(name, start, length)
                    raise CorruptError(f"{self._path(name)}: changed while it was read", [name])
                done += got

    def read_checked(self, name: str, start: int, into: memoryview, behind: memoryview) -> int:
        """Fill two buffers that follow each other from byte `start`; the crc32 of the first."""
        crc = done = 0
        with _Reading(self, name, start, len(into)) as file:
            while done < len(into):
                block = into[done : done + _BLOCK]
                last = done + len(block) == len(into)
                got = _at_hand(file, [block, behind] if last and behind else [block], start + done)
                if not got:
                    # The disk is quickest with one request for all of it.
                    block = into[done:]
                    self.read_into(name, start + done, block)
                    got = len(block)
                crc = crc32(block[:got], crc)
                done += got
        if done < len(into) + len(behind):
            self.read_into(name, start + len(into), behind)
        return crc

    def expect(self, name: str, starts: Ints, lengths: Ints) -> None:
        """Nothing to do: the kernel reads ahead."""

    @contextmanager
    def view(self, name: str, start: int = 0, length: int | None = None) -> Iterator[memoryview]:
        """`length` bytes from byte `start`, or all that follow, mapped, read-only."""
        with _Reading(self, name, start, length or 0) as file:
            size = os.fstat(file).st_size
            stop = size if length is None else start + length
            self._require(name, start, max(0, stop - start))
            mapped = mmap.mmap(file, size, prot=mmap.PROT_READ) if size else None
        whole = memoryview(mapped if mapped is not None else b"")
        view = whole[start:stop]
        try:
            yield view
        finally:
            whole.release()
            # Whoever still holds a slice keeps the mapping alive; it goes when they let go.
            with suppress(BufferError):
                view.release()
                if mapped is not None:
                    mapped.close()

    @contextmanager
    def create(self, name: str, size: int = 0) -> Iterator[Writer]:
        """An empty file to write, its `size` bytes of disk reserved if that is known beforehand."""
        self._forget(name)
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        try:
            if size:
                _reserve(file, size)
            yield _LocalWriter(file)
        finally:
            os.close(file)

    def publish(self, name: str, data: bytes, sync: bool) -> None:
        """Put a whole file in place in one step, over an old one if there is one."""
        self._forget(name)
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name.removeprefix('.')}.{uuid.uuid4().hex}.tmp")
        try:
            with beside.open("xb") as file:
                file.write(data)
                if sync:
                    file.flush()
                    os.fsync(file.fileno())
            beside.replace(path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
        if sync:
            _sync_directory(path.parent)

    def rename(self, old: str, new: str, sync: bool) -> None:
        """Give a whole file its final name in one step, over an old file if there is one."""
        self._forget(old)
        self._forget(new)
        self._path(old).replace(self._path(new))
        if sync:
            _sync_directory(self._path(new).parent)

    def remove(self, name: str) -> None:
        """Delete a file; nothing happens if there is none."""
        self._forget(name)
        self._path(name).unlink(missing_ok=True)

    def unmake(self) -> None:
        """Delete the directory itself if nothing is left in it."""
        try:
            Path(self.root).rmdir()
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST):
                raise

    def close(self) -> None:
        """Close what is open; reading again opens it again."""
        with self._lock:
            _close_all(self._open)

    def _path(self, name: str) -> Path:
        return Path(self.root, inside(name, self.root))

    def _forget(self, name: str) -> None:
        with self._lock:
            if name in self._open:
                os.close(self._open.pop(name))

    def _require(self, name: str, start: int, length: int) -> None:
        if min(start, length) < 0:
            raise CorruptError(f"{self._path(name)}: {length} bytes from byte {start} make no sense", [name])
        size = self.size(name)
        if start + length > size:
            raise CorruptError(
                f"{self._path(name)}: wanted bytes {start} to {start + length}, but it has only {size}",
                [name],
            )

    def _opened(self, name: str) -> tuple[int, bool]:
        """The file, and whether it is open for one call only."""
        file = self._open.get(name)
        if file is not None:
            return file, False
        with self._lock:
            if name in self._open:
                return self._open[name], False
            file = os.open(self._path(name), os.O_RDONLY | os.O_CLOEXEC)
            if len(self._open) >= _OPEN_FILES:
                return file, True
            self._open[name] = file
            return file, False

    def __repr__(self) -> str:
        return f"LocalFiles({self.root!r})"


class _Reading:
    """The open file, for one call; says which bytes were wanted if there is no such file."""

    def __init__(self, files: LocalFiles, name: str, start: int, length: int) -> None:
        self._files, self._name, self._start, self._length = files, name, start, length

    def __enter__(self) -> int:
        if self._start < 0 or self._length < 0:
            self._files._require(self._name, self._start, self._length)
        try:
            self._file, self._passing = self._files._opened(self._name)
        except OSError as error:
            raise self._unreadable(error) from error
        return self._file

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._passing:
            os.close(self._file)
        if isinstance(error, OSError):
            raise self._unreadable(error) from error

    def _unreadable(self, error: OSError) -> CorruptError:
        stop, path = self._start + self._length, self._files._path(self._name)
        return CorruptError(
            f"{path}: cannot read bytes {self._start} to {stop}: {error.strerror}", [self._name]
        )


class _LocalWriter:
    def __init__(self, file: int) -> None:
        self._file = file

    def write_at(self, offset: int, buffers: Sequence[Buffer]) -> None:
        for first in range(0, len(buffers), _IOV_MAX):
            batch = buffers[first : first + _IOV_MAX]
            length, done = sum(memoryview(buffer).nbytes for buffer in batch), 0
            while done < length:
                done += os.pwritev(self._file, _rest(batch, done) if done else batch, offset + done)
            offset += length

    def sync(self) -> None:
        os.fsync(self._file)


def _at_hand(file: int, into: Sequence[memoryview], start: int) -> int:
    """Read what is in memory already; how many bytes that were, 0 if the disk has to be asked."""
    try:
        return os.preadv(file, into, start, _NOWAIT)
    except BlockingIOError:
        return 0
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        # Such files, as those of tmpfs, may be nowhere but in memory.
        return os.preadv(file, into, start)


def _rest(buffers: Sequence[Buffer], done: int) -> list[memoryview]:
    """Buffers that follow each other, less the first `done` bytes."""
    rest = []
    for view in (memoryview(buffer).cast("B") for buffer in buffers):
        if done < view.nbytes:
            rest.append(view[done:])
        done = max(0, done - view.nbytes)
    return rest


def _kind(entry: os.DirEntry[str]) -> Kind:
    if entry.is_file(follow_symlinks=False):
        return "file"
    return "folder" if entry.is_dir(follow_symlinks=False) else "other"


def _reserve(file: int, size: int) -> None:
    try:
        os.posix_fallocate(file, 0, size)
    except OSError as error:
        # Reserving is a favour to the disk; only a full disk is worth failing for, and early.
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _close_all(opened: dict[str, int]) -> None:
    while opened:
        os.close(opened.popitem()[1])
