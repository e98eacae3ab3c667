"""What only local files do: mapped views, any order of writes, files kept open, names given in one step."""

import errno
import os
import threading
import zlib

import pytest

from ckptlab.errors import CorruptError
from ckptlab.storage import local as module
from ckptlab.storage.local import LocalFiles


@pytest.fixture
def files(tmp_path):
    made = LocalFiles(tmp_path / "new")
    yield made
    made.close()


def test_what_is_written_in_pieces_is_read_back(files):
    with files.create("a.bin") as out:
        out.write_at(3, [b"abc", memoryview(b"defg"), b"", bytearray(b"h")])
        out.write_at(0, [b"xyz"])
        out.sync()
    assert files.read("a.bin", 0, 11) == b"xyzabcdefgh"
    into = bytearray(4)
    files.read_into("a.bin", 5, memoryview(into))
    assert into == b"cdef"
    assert files.size("a.bin") == 11
    assert files.names() == ("a.bin",)


def test_more_buffers_than_one_call_takes_and_partial_writes(files, monkeypatch):
    calls = []

    def stingy(fd, buffers, offset):
        calls.append(len(buffers))
        data = b"".join(bytes(b) for b in buffers)
        return os.pwrite(fd, data[: max(1, len(data) * 2 // 3)], offset)

    monkeypatch.setattr(module.os, "pwritev", stingy)
    pieces = [bytes([i % 251]) * (i % 5) for i in range(3000)]
    with files.create("a.bin") as out:
        out.write_at(7, pieces)
    assert files.read("a.bin", 7, files.size("a.bin") - 7) == b"".join(pieces)
    assert max(calls) <= os.sysconf("SC_IOV_MAX")


def test_short_reads_are_repeated(files, monkeypatch):
    files.publish("a", bytes(range(200)), sync=False)
    real = os.preadv
    monkeypatch.setattr(module.os, "preadv", lambda fd, bufs, at: real(fd, [bufs[0][:7]], at))
    into = bytearray(150)
    files.read_into("a", 20, memoryview(into))
    assert into == bytes(range(20, 170))


@pytest.mark.parametrize("trouble", [errno.EAGAIN, errno.EOPNOTSUPP, None])
def test_what_is_not_in_memory_is_asked_of_the_disk_at_once(files, monkeypatch, trouble):
    data = os.urandom(5 << 20)
    files.publish("a", data, sync=False)
    real, asked = os.preadv, []

    def second_block_is_far(fd, buffers, at, flags=0):
        if flags and at and trouble:
            raise OSError(trouble, os.strerror(trouble))
        asked.append(sum(len(buffer) for buffer in buffers))
        return real(fd, buffers, at, 0)

    monkeypatch.setattr(module.os, "preadv", second_block_is_far)
    into = bytearray(len(data) - 8)
    behind = bytearray(8)
    crc = files.read_checked("a", 0, memoryview(into), memoryview(behind))
    assert into == data[:-8]
    assert behind == data[-8:]
    assert crc == zlib.crc32(data[:-8])
    wanted = [1 << 20, (4 << 20) - 8, 8] if trouble == errno.EAGAIN else [1 << 20] * 5
    assert asked == wanted


def test_a_disk_that_fails_while_a_crc_is_taken_is_told_of(files, monkeypatch):
    files.publish("a", bytes(100), sync=False)

    def broken(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(module.os, "preadv", broken)
    with pytest.raises(CorruptError, match="cannot read bytes 0 to 90: Input/output error"):
        files.read_checked("a", 0, memoryview(bytearray(90)), memoryview(bytearray(4)))


def test_view(files):
    files.publish("a", b"hello", sync=False)
    files.publish("empty", b"", sync=False)
    with files.view("a") as view:
        assert view.readonly
        assert bytes(view[1:3]) == b"el"
    with files.view("a") as view:
        kept = view[1:3]
    assert bytes(kept) == b"el"
    with files.view("empty") as view:
        assert len(view) == 0


def test_view_of_a_part(files):
    files.publish("a", b"hello", sync=False)
    with files.view("a", 1, 3) as view:
        assert view.readonly
        assert bytes(view) == b"ell"
    with files.view("a", 2) as view:
        assert bytes(view) == b"llo"
    with files.view("a", 5) as view:
        assert bytes(view) == b""
    for start, length in [(3, 3), (6, 0), (6, None), (-1, 2), (0, -1)]:
        with pytest.raises(CorruptError, match="a: "), files.view("a", start, length):
            pass


def test_entries_tell_files_from_folders_and_follow_no_link(files, tmp_path):
    assert files.entries() == {}
    files.publish("b", b"1", sync=False)
    files.publish("folder/a", b"1", sync=False)
    os.symlink(tmp_path, os.path.join(files.root, "link"))
    os.symlink("b", os.path.join(files.root, "a"))
    assert list(files.entries().items()) == [
        ("a", "other"),
        ("b", "file"),
        ("folder", "folder"),
        ("link", "other"),
    ]


def test_folders_are_made_when_something_is_written_there(files):
    below = files.folder("in/here")
    below.publish("a", b"12", sync=False)
    assert (below.root, below.sizes()) == (f"{files.root}/in/here", {"a": 2})


def test_a_failed_publish_leaves_the_old_file_and_nothing_beside(files, monkeypatch):
    files.publish("a", b"old", sync=False)
    monkeypatch.setattr(module.os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(5, "disk")))
    with pytest.raises(OSError, match="disk"):
        files.publish("a", b"newer", sync=True)
    assert files.read("a", 0, 3) == b"old"
    assert files.names() == ("a",)


def test_reserved_size(files):
    with files.create("sub/a", 5000) as out:
        out.write_at(0, [b"x"])
    assert files.size("sub/a") == 5000


def test_only_so_many_files_stay_open(files):
    for i in range(100):
        files.publish(f"f{i}", bytes([i]), sync=False)
    for _ in range(2):
        assert [files.read(f"f{i}", 0, 1)[0] for i in range(100)] == list(range(100))
    assert len(files._open) == 64
    files.close()
    assert not files._open
    assert files.read("f3", 0, 1) == b"\3"


def test_open_files_are_let_go_with_the_object(tmp_path):
    files = LocalFiles(tmp_path)
    files.publish("a", b"1", sync=False)
    files.read("a", 0, 1)
    (held,) = files._open.values()
    del files
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(held)


def test_threads_read_the_same_files(files):
    for i in range(80):
        files.publish(f"f{i}", bytes([i]) * 100, sync=False)
    wrong = []

    def work():
        for _ in range(20):
            for i in range(80):
                if files.read(f"f{i}", 50, 10) != bytes([i]) * 10:
                    wrong.append(i)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
