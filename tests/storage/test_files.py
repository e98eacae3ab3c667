"""What every kind of storage does: a local directory, and by fsspec an object store, memory and files."""

import os
import random
import uuid
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from s3server import server

from ckptlab.errors import CorruptError, PathError
from ckptlab.plan.spans import PART
from ckptlab.storage.files import inside
from ckptlab.storage.local import LocalFiles
from ckptlab.storage.remote import FsspecFiles

__all__ = ["server"]


@pytest.fixture(scope="module", params=["local", "s3", "memory", "file"])
def open_at(request, server, tmp_path_factory):
    """What opens a root of this name in a kind of storage; and a second client for each kind."""
    top = tmp_path_factory.mktemp("files")
    if request.param == "local":
        yield lambda name, client=0: LocalFiles(top / name)
        return
    url = {"s3": "s3://bucket", "memory": "memory://files", "file": f"file://{top}"}[request.param]
    with pytest.MonkeyPatch.context() as patch:
        for key, value in server.environment().items():
            patch.setenv(key, value)
        # To connect takes far longer than all else that is done here.
        clients = [FsspecFiles(url), FsspecFiles(url)]
        yield lambda name, client=0: clients[client].folder(name)


@pytest.fixture
def files(open_at):
    """A new root in each kind of storage."""
    made = open_at(f"{uuid.uuid4().hex}-run")
    made.make()
    yield made
    made.close()


def last(files):
    """The name of the root itself."""
    return files.root.rsplit("/", 1)[1]


def test_what_is_written_is_read_back(files):
    with files.create("a.bin") as out:
        out.write_at(0, [b"xyz"])
        out.write_at(3, [b"abc", memoryview(b"defg"), b"", bytearray(b"h")])
        out.sync()
    assert files.read("a.bin", 0, 11) == b"xyzabcdefgh"
    into = bytearray(4)
    files.read_into("a.bin", 5, memoryview(into))
    assert into == b"cdef"
    assert files.size("a.bin") == 11
    assert files.names() == ("a.bin",)


def test_large_files(files):
    data = os.urandom(2 * PART + 12345)
    with files.create("a") as out:
        out.write_at(0, [data[:7], memoryview(data)[7 : PART + 3]])
        out.write_at(PART + 3, [data[PART + 3 :]])
    assert files.size("a") == len(data)
    assert files.read("a", 0, len(data)) == data
    assert files.read("a", 3, PART + 5) == data[3 : PART + 8]
    into = bytearray(len(data) - 9)
    files.read_into("a", 9, memoryview(into))
    assert into == data[9:]
    with files.view("a") as view:
        assert view.readonly
        assert view == data
    with files.view("a", 100, 10) as view:
        assert view == data[100:110]


@pytest.mark.parametrize("length", [1, 1 << 20, (2 << 20) + 5, PART - 3])
def test_bytes_come_with_their_crc_and_what_is_behind_them(files, length):
    data = random.Random(length).randbytes(length + 30)
    files.publish("a", data, sync=False)
    into, behind = bytearray(length), bytearray(8)
    crc = files.read_checked("a", 11, memoryview(into), memoryview(behind))
    assert (into, behind) == (data[11 : 11 + length], data[11 + length : 19 + length])
    assert crc == zlib.crc32(data[11 : 11 + length])
    with pytest.raises(CorruptError, match=f"{length + 30}"):
        files.read_checked("a", 23, memoryview(into), memoryview(behind))
    with pytest.raises(CorruptError, match=r"[Nn]o such file"):
        files.read_checked("b", 0, memoryview(into), memoryview(behind))


def test_empty_files_and_reads_of_nothing(files):
    with files.create("empty"):
        pass
    files.publish("also", b"", sync=True)
    assert files.size("empty") == files.size("also") == 0
    assert files.read("empty", 0, 0) == b""
    with files.view("also") as view:
        assert view == b""
    assert files.read("no such file", 5, 0) == b""
    files.read_into("no such file", 5, memoryview(bytearray()))


@pytest.mark.parametrize(
    ("start", "length"),
    [(0, 11), (8, 3), (10, 1), (50, 1), (0, 3 * PART), (0, 1 << 50), (1 << 40, 1)],
)
def test_a_short_file_is_named_with_what_was_wanted_and_its_size(files, start, length):
    files.publish("a.bin", b"0123456789", sync=False)
    with pytest.raises(CorruptError, match=rf"a\.bin: wanted bytes {start} to {start + length}.*only 10"):
        files.read("a.bin", start, length)
    if length <= 3 * PART:
        with pytest.raises(CorruptError, match=r"wanted bytes .*only 10"):
            files.read_into("a.bin", start, memoryview(bytearray(length)))


@pytest.mark.parametrize(
    "act",
    [lambda f: f.read("no", 3, 4), lambda f: f.size("no"), lambda f: f.view("no").__enter__()],
    ids=["read", "size", "view"],
)
def test_a_missing_file_is_named(files, act):
    with pytest.raises(CorruptError, match=r"/no: .*[Nn]o such file") as caught:
        act(files)
    assert caught.value.problems == ("no",)
    assert "\n" not in str(caught.value)


def test_a_senseless_range(files):
    files.publish("a", b"123", sync=False)
    for start, length in [(-1, 2), (1, -2)]:
        with pytest.raises(CorruptError, match="make no sense"):
            files.read("a", start, length)


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", "", ".", "a\0b"])
def test_names_must_stay_inside(files, name):
    for act in (
        lambda: files.read(name, 0, 1),
        lambda: files.remove(name),
        lambda: files.size(name),
        lambda: files.folder(name).names(),
        lambda: files.publish(name, b"1", sync=False),
        lambda: files.rename(name, "a", sync=False),
        lambda: files.rename("a", name, sync=False),
        lambda: files.create(name).__enter__(),
        lambda: files.view(name).__enter__(),
    ):
        with pytest.raises(CorruptError, match="not inside"):
            act()
    with pytest.raises(CorruptError, match="meta: names the file"):
        inside(name, "meta")


@pytest.mark.parametrize("sync", [False, True])
def test_to_publish_or_to_rename_replaces(files, sync):
    files.publish("a", b"old", sync=sync)
    assert files.read("a", 0, 3) == b"old"
    files.publish("a", b"newer", sync=sync)
    assert files.read("a", 0, 5) == b"newer"
    assert files.names() == ("a",)
    files.publish("b", b"newest", sync=sync)
    files.rename("b", "a", sync=sync)
    assert files.read("a", 0, 6) == b"newest"
    assert files.names() == ("a",)


def test_what_is_removed_or_made_anew_is_not_read_from_what_was_open(files):
    files.publish("a", b"old", sync=False)
    assert files.read("a", 0, 3) == b"old"
    with files.create("a") as out:
        out.write_at(0, [b"new"])
    assert files.read("a", 0, 3) == b"new"
    files.remove("a")
    files.remove("a")
    assert files.names() == ()
    for act in (lambda: files.size("a"), lambda: files.read("a", 0, 1)):
        with pytest.raises(CorruptError, match=r"[Nn]o such file"):
            act()


def test_only_files_directly_under_the_root_are_named(files, open_at):
    below = files.folder("folder")
    below.make()
    below.publish("x", b"12", sync=False)
    files.publish("b", b"123", sync=False)
    files.publish("a", b"1", sync=False)
    beside = open_at(f"{last(files)}2")
    beside.make()
    beside.publish("y", b"1", sync=False)
    assert files.names() == ("a", "b")
    assert list(files.entries().items()) == [("a", "file"), ("b", "file"), ("folder", "folder")]
    assert files.sizes() == {"a": 1, "b": 3}
    assert (below.root, below.sizes()) == (f"{files.root}/folder", {"x": 2})
    same = open_at(f"{last(files)}/folder", client=1)
    assert same.read("x", 0, 2) == below.read("x", 0, 2) == files.read("folder/x", 0, 2) == b"12"
    for nothing in (files.folder("nothing"), open_at(f"{last(files)}/nothing", client=1)):
        assert (nothing.names(), nothing.sizes(), nothing.entries()) == ((), {}, {})


def test_what_others_write_and_remove_is_seen_at_once(files, open_at):
    other = open_at(last(files), client=1)
    assert files.names() == ()
    for i in range(3):
        other.publish(f"f{i}", b"1", sync=False)
        assert files.names() == tuple(f"f{j}" for j in range(i + 1))
        other.publish("f0", b"1" * i, sync=False)
        assert files.size("f0") == i
    other.remove("f1")
    assert files.names() == ("f0", "f2")


def test_a_root_that_is_a_file_is_refused(files):
    files.publish("a", b"1", sync=False)
    with pytest.raises(PathError, match=r"/a is a file; a checkpoint is a directory"):
        files.folder("a").make()


def test_a_root_goes_when_it_is_empty(files, open_at):
    files.publish("a", b"1", sync=False)
    files.unmake()
    assert files.names() == ("a",)
    files.remove("a")
    files.unmake()
    files.unmake()
    above = open_at("x", client=1)
    assert last(files) not in type(above)(files.root.rsplit("/", 1)[0]).entries()


def test_threads_read_and_write(files):
    for i in range(8):
        files.publish(f"f{i}", bytes([i]) * 1000, sync=False)
    large = os.urandom(3 * PART)
    files.publish("large", large, sync=False)

    def work(seed):
        for i in range(8):
            if files.read(f"f{i}", 500, 10) != bytes([i]) * 10:
                return f"f{i}"
        files.publish(f"own{seed}", bytes([seed]) * 100, sync=False)
        with files.create(f"stream{seed}") as out:
            out.write_at(0, [bytes([seed])] * 100)
        if files.read(f"own{seed}", 0, 100) != files.read(f"stream{seed}", 0, 100):
            return f"own{seed}"
        return "" if files.read("large", seed, len(large) - 10) == large[seed : seed - 10] else "large"

    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(work, range(6))) == {""}
