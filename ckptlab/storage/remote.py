"""The files under a URL, by whatever fsspec names: object stores, and file systems of other machines.

It knows no format: not what a name means, nor what the bytes are.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any, TypeVar

from fsspec.core import url_to_fs

from ckptlab.errors import CheckpointError, CorruptError, PathError
from ckptlab.plan.spans import PART, SMALL, Spans
from ckptlab.storage.clients import forget, shared
from ckptlab.storage.crc import crc32
from ckptlab.storage.files import Ints, Kind, Writer, inside
from ckptlab.storage.kept import Kept
from ckptlab.storage.patience import PATIENCE, patiently
from ckptlab.storage.upload import Upload, block_for

T = TypeVar("T")

_AT_ONCE = 8
_NOTHING = memoryview(bytearray())
_READ_ONLY = ("http://", "https://")
_EXTRAS = {"s3": "s3", "s3a": "s3"}


class FsspecFiles:
    """The files under a URL such as `s3://bucket/run/step-100`.

    `storage_options` go to the file system as fsspec documents them; without them the environment and
    fsspec's own configuration say who we are. What fails and may pass (a busy server, a broken
    connection) is tried again for `patience` seconds. Safe from several threads; a process makes its
    own. `fetched` counts the bytes that came from there, in `requests` ranged reads.

    Raises `PathError` for a URL that fsspec cannot open, with what to install; for what is forbidden
    or cannot be reached; `CorruptError` for a file that is missing or too short.
    """

    mapped = False

    def __init__(self, url: str, *, patience: float = PATIENCE, **storage_options: Any) -> None:
        self.root: str = url.rstrip("/")
        self.fetched = self.requests = 0
        self._patience = patience
        fs, top = _connect(url, storage_options)
        # Only fsspec's asynchronous file systems say that threads may share one.
        self._fs = shared(fs) if fs.async_impl else fs
        self._top = top.rstrip("/")
        self.private: bool = "memory" in (fs.protocol, *fs.protocol)
        self._lock = threading.Lock()
        self._turn: AbstractContextManager[Any] = nullcontext() if fs.async_impl else threading.RLock()
        self._pool: ThreadPoolExecutor | None = None
        self._spans: dict[str, Spans] = {}
        self._kept = Kept()

    def folder(self, name: str) -> FsspecFiles:
        """The files of a folder under the root, by the same connection."""
        below = copy.copy(self)
        below.root, below._top = self._where(name), self._path(name)
        below.fetched = below.requests = 0
        below._lock, below._pool = threading.Lock(), None
        below._spans, below._kept = {}, Kept()
        return below

    def make(self) -> None:
        """Make the root ready to be written into; `PathError` if it is a file or its bucket is missing."""
        try:
            there = self._try("look at it", lambda: self._fs.info(self._top), "")["type"]
        except CorruptError:
            there = None
        if there == "file":
            raise PathError(f"{self.root} is a file; a checkpoint is a directory", [self.root])
        if self.root.startswith(_READ_ONLY):
            raise PathError(f"{self.root} can only be read, not written to", [self.root])
        if not self._fs.async_impl:
            self._try("make it", lambda: self._fs.makedirs(self._top, exist_ok=True), "")
        elif there is None:
            # Folders of an object store need no making. A bucket has an owner, a place and a price.
            bucket = self._top.split("/", 1)[0]
            if not self._try("look for its bucket", lambda: self._fs.exists(bucket), ""):
                raise PathError(f"{self.root}: there is no bucket {bucket!r}; make it first", [self.root])

    def names(self) -> tuple[str, ...]:
        """Every file directly under the root, sorted; none if there is no such root."""
        return tuple(name for name, entry in self._list().items() if entry["type"] == "file")

    def sizes(self) -> Mapping[str, int]:
        """Bytes of every file directly under the root, by name, sorted."""
        files = {name: entry["size"] for name, entry in self._list().items() if entry["type"] == "file"}
        # A web server lists names alone.
        return {name: self.size(name) if size is None else int(size) for name, size in files.items()}

    def entries(self) -> Mapping[str, Kind]:
        """What stands directly under the root, by name, sorted; nothing if there is no such root."""
        return {name: _kind(entry) for name, entry in self._list().items()}

    def size(self, name: str) -> int:
        """Bytes of a file; `CorruptError` if it is missing."""
        path = self._path(name)
        entry = self._try("look at it", lambda: self._fs.info(path), name)
        if entry["type"] != "file":
            raise CorruptError(f"{self._where(name)}: no such file", [name])
        return int(entry["size"])

    def read(self, name: str, start: int, length: int) -> bytes:
        """Exactly `length` bytes from byte `start`; `CorruptError` if the file has not got them."""
        if length <= PART:
            near = self._near(name, start, length)
            return self._fetch(name, start, length) if near is None else near
        # That its last part is there says that memory may be taken for all of it.
        most = (length - 1) // PART * PART
        try:
            tail = self._fetch(name, start + most, length - most)
        except CorruptError:
            self._try("look at it", lambda: self._require(name, start, length), name)
            raise
        whole = bytearray(length)
        self._read_parts(name, start, memoryview(whole)[:most])
        whole[most:] = tail
        return bytes(whole)

    def read_into(self, name: str, start: int, into: memoryview) -> None:
        """Fill a buffer (contiguous bytes) from byte `start`; `CorruptError` if the file has not enough."""
        self._read_both(name, start, into, _NOTHING)

    def read_checked(self, name: str, start: int, into: memoryview, behind: memoryview) -> int:
        """Fill two buffers that follow each other from byte `start`; the crc32 of the first."""
        self._read_both(name, start, into, behind)
        return crc32(into)

    def _read_both(self, name: str, start: int, into: memoryview, behind: memoryview) -> None:
        """Fill two buffers that follow each other, as if they were one."""
        if not (into.nbytes or behind.nbytes):
            return
        into, behind = into.cast("B"), behind.cast("B")
        near = self._near(name, start, len(into) + len(behind))
        if near is None:
            self._read_parts(name, start, into, behind)
        else:
            into[:] = near[: len(into)]
            if behind:
                behind[:] = near[len(into) :]

    def _read_parts(self, name: str, start: int, into: memoryview, behind: memoryview = _NOTHING) -> None:
        length = len(into) + len(behind)

        def part(at: int) -> None:
            end = min(at + PART, length)
            data = memoryview(self._fetch(name, start + at, end - at))
            first = into[at:end]
            first[:] = data[: len(first)]
            if len(first) < len(data):
                behind[max(0, at - len(into)) : end - len(into)] = data[len(first) :]

        parts = range(0, length, PART)
        if len(parts) == 1:
            part(0)
        else:
            for _ in self._workers().map(part, parts):
                pass

    def expect(self, name: str, starts: Ints, lengths: Ints) -> None:
        """Say which extents of a file will be read; small neighbours are then fetched together, and kept."""
        with self._lock:
            self._spans[name] = Spans.of(starts, lengths)

    @contextmanager
    def view(self, name: str, start: int = 0, length: int | None = None) -> Iterator[memoryview]:
        """`length` bytes from byte `start`, or all that follow, fetched into memory, read-only."""
        wanted = max(0, self.size(name) - start) if length is None else length
        yield memoryview(self.read(name, start, wanted))

    @contextmanager
    def create(self, name: str, size: int = 0) -> Iterator[Writer]:
        """A file to write from its beginning to its end.

        In an object store it appears, whole, when the block ends well; when it does not, or the process
        dies, it never appears (parts that were sent before a process died stay unseen until the bucket's
        own rules clear them). Elsewhere it may be seen while it grows; a block that fails removes it.
        `size`, if known, lets a file of more than 280 GB be sent in parts that are large enough.
        """
        path = self._path(name)
        self._forget(name)
        file = self._try("create it", lambda: self._open(path, block_for(size)), name)
        upload = Upload(file, lambda what, step: self._told(what, step, name))
        try:
            yield upload
            upload.keep()
        except BaseException:
            # What went wrong is more worth telling than that clearing up failed, too.
            with suppress(Exception), self._turn:
                upload.drop(lambda: self._fs.rm_file(path))
            raise
        if (came := self.size(name)) != upload.at:
            self.remove(name)
            raise CorruptError(f"{self._where(name)}: {upload.at} bytes were sent, {came} arrived", [name])

    def publish(self, name: str, data: bytes, sync: bool) -> None:
        """Put a whole file in place in one step, over an old one if there is one."""

        path = self._path(name)
        self._forget(name)

        def put() -> None:
            if self._fs.async_impl:
                self._fs.pipe_file(path, data)
                return
            with self.create(name, len(data)) as file:
                file.write_at(0, [data])
                if sync:
                    file.sync()

        self._try("write it", put, name)

    def rename(self, old: str, new: str, sync: bool) -> None:
        """Give a whole file its final name in one step, over an old file; object stores copy it."""
        del sync
        before, after = self._path(old), self._path(new)
        self._forget(old)
        self._forget(new)
        if not self._fs.async_impl:
            self._try(f"rename it to {new}", lambda: self._fs.mv(before, after), old)
            return
        self._try(f"copy it to {new}", lambda: self._fs.cp_file(before, after), old)
        self.remove(old)

    def remove(self, name: str) -> None:
        """Delete a file; nothing happens if there is none."""
        path = self._path(name)
        self._forget(name)

        def remove() -> None:
            with suppress(FileNotFoundError):
                self._fs.rm_file(path)

        self._try("delete it", remove, name)

    def unmake(self) -> None:
        """Delete the root itself if nothing is left in it; an object store has no root to delete."""
        if not self._fs.async_impl and not self._list():
            with suppress(CorruptError):
                self._try("delete it", lambda: self._fs.rmdir(self._top), "")

    def close(self) -> None:
        """End the threads that read, and keep nothing; reading again starts new ones."""
        with self._lock:
            pool, self._pool = self._pool, None
            self._spans = {}
        self._kept.clear()
        if pool is not None:
            pool.shutdown()

    def _path(self, name: str) -> str:
        return f"{self._top}/{inside(name, self.root)}"

    def _where(self, name: str) -> str:
        return f"{self.root}/{name}" if name else self.root

    def _list(self) -> dict[str, Any]:
        try:
            found = self._try("list it", lambda: self._fs.ls(self._top, detail=True), "")
        except CorruptError:
            return {}
        below = f"{self._top}/"
        named = {entry["name"].removeprefix(below).rstrip("/"): entry for entry in found}
        # A file that has the root's name is listed as itself, a folder's marker as a file without a name.
        return {name: named[name] for name in sorted(named) if name and "/" not in name}

    def _near(self, name: str, start: int, length: int) -> bytes | None:
        """The bytes out of the span in which they are expected to be read, if they are."""
        spans = self._spans.get(name)
        around = spans.around(start, length) if spans and 0 < length <= SMALL else None
        if around is None:
            return None
        low, high = around
        try:
            span = self._kept.get((spans, low), lambda: self._span(name, low, high - low))
        except CorruptError:
            # Those who ask for what is not there are to hear of it in their own numbers.
            return None
        return span[start - low : start - low + length]

    def _forget(self, name: str) -> None:
        with self._lock:
            self._spans.pop(name, None)

    def _span(self, name: str, start: int, length: int) -> bytes:
        whole = bytearray(length)
        self._read_parts(name, start, memoryview(whole))
        return bytes(whole)

    def _fetch(self, name: str, start: int, length: int) -> bytes:
        if min(start, length) < 0:
            raise CorruptError(f"{self._where(name)}: {length} bytes from byte {start} make no sense", [name])
        if not length:
            return b""
        path = self._path(name)

        def fetch() -> bytes:
            try:
                data: bytes = self._fs.cat_file(path, start=start, end=start + length)
            except (OSError, ValueError) as error:
                # A range that begins behind the end is refused, each service in its own words.
                if not isinstance(error, FileNotFoundError | PermissionError | TimeoutError):
                    self._require(name, start, length)
                raise
            if len(data) > length:
                raise PathError(f"{self._where(name)}: the server sends no parts of files, only all", [name])
            if len(data) != length:
                self._require(name, start, length)
                raise ConnectionError(f"only {len(data)} of {length} bytes came")
            return data

        data = self._try(f"read bytes {start} to {start + length}", fetch, name)
        with self._lock:
            self.fetched += len(data)
            self.requests += 1
        return data

    def _require(self, name: str, start: int, length: int) -> None:
        size = int(self._fs.info(self._path(name))["size"])
        if start + length > size:
            raise CorruptError(
                f"{self._where(name)}: wanted bytes {start} to {start + length}, but it has only {size}",
                [name],
            )

    def _open(self, path: str, block: int) -> Any:
        file = self._fs.open(path, "wb", block_size=block, autocommit=False)
        # We commit each file by itself; fsspec would keep it for a transaction that never ends.
        with suppress(ValueError):
            self._fs.transaction.files.remove(file)
        return file

    def _workers(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(_AT_ONCE, "ckptlab-read")
            return self._pool

    def _try(self, what: str, step: Callable[[], T], name: str) -> T:
        return self._told(what, lambda: patiently(step, self._patience), name)

    def _told(self, what: str, step: Callable[[], T], name: str) -> T:
        """What the step gives; what it raises, in words that say where and what was wanted."""
        try:
            with self._turn:
                return step()
        except CheckpointError:
            raise
        except FileNotFoundError as error:
            raise CorruptError(f"{self._where(name)}: cannot {what}: no such file", [name]) from error
        except NotImplementedError as error:
            raise PathError(
                f"{self._where(name)}: cannot {what}: this storage has no way to", [name]
            ) from error
        except Exception as error:
            if isinstance(error, PermissionError):
                forget(self._fs)
            words = " ".join(str(error).split()) or "no reason given"
            raise PathError(
                f"{self._where(name)}: cannot {what}: {type(error).__name__}: {words}", [name]
            ) from error

    def __repr__(self) -> str:
        return f"FsspecFiles({self.root!r})"


def _connect(url: str, storage_options: Mapping[str, Any]) -> tuple[Any, str]:
    """The file system of a URL, with no memory of listings, and the path of the URL in it.

    fsspec's own memory of instances would answer with a client of an environment that is no more.
    """
    scheme = url.split("://", 1)[0]
    try:
        found: tuple[Any, str] = url_to_fs(
            url, skip_instance_cache=True, use_listings_cache=False, **storage_options
        )
    except ImportError as error:
        extra = f": pip install 'ckptlab[{_EXTRAS[scheme]}]'" if scheme in _EXTRAS else ""
        raise PathError(f"{url}: {error}{extra}", [url]) from error
    except (ValueError, TypeError) as error:
        raise PathError(f"{url}: cannot be opened: {error}", [url]) from error
    return found


def _kind(entry: Mapping[str, Any]) -> Kind:
    if entry.get("islink") or entry["type"] not in ("file", "directory"):
        return "other"
    return "file" if entry["type"] == "file" else "folder"
