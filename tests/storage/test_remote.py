"""Files by fsspec: what goes over the line, and storage that misbehaves in its own way."""

import os
import pickle
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from s3server import far, gate, pending, s3, server

from ckptlab.errors import CheckpointError, CorruptError, PathError
from ckptlab.plan.spans import PART
from ckptlab.storage import upload
from ckptlab.storage.remote import FsspecFiles

__all__ = ["far", "gate", "s3", "server"]

MIB = 1 << 20


# ---------------------------------------------------------------- what goes over the line


def test_only_the_bytes_wanted_are_asked_for(s3, gate):
    s3.publish("a", os.urandom(3 * MIB), sync=False)
    gate.clear()
    s3.read("a", 1000, 17)
    s3.read_into("a", MIB, memoryview(bytearray(MIB)))
    with s3.view("a", 5, 6):
        pass
    assert [(r.start, r.length, r.sent) for r in gate.asked()] == [
        (1000, 17, 17),
        (MIB, MIB, MIB),
        (5, 6, 6),
    ]
    assert s3.fetched == 17 + MIB + 6
    assert len(gate.requests) == 3


def test_a_long_read_is_parts_at_the_same_time(s3, gate):
    data = os.urandom(3 * PART + 5)
    s3.publish("a", data, sync=False)
    gate.clear()
    waiting = threading.Barrier(4)

    def meet(method, path, query):
        if method == "GET":
            waiting.wait(60)

    gate.fault = meet
    into = bytearray(len(data))
    s3.read_into("a", 0, memoryview(into))
    assert into == data
    assert sorted((r.start, r.sent) for r in gate.asked()) == [
        (0, PART),
        (PART, PART),
        (2 * PART, PART),
        (3 * PART, 5),
    ]


def test_small_neighbours_that_are_expected_are_one_request(s3, gate):
    data = os.urandom(4 * MIB)
    s3.publish("a", data, sync=False)
    s3.expect("a", np.array([0, 5000, 3 * MIB, MIB]), np.array([5000, 100, 10, MIB + 1]))
    gate.clear()
    assert s3.read("a", 10, 20) == data[10:30]
    into = bytearray(100)
    s3.read_into("a", 5000, memoryview(into))
    assert into == data[5000:5100]
    with s3.view("a", 4990, 20) as view:
        assert view == data[4990:5010]
    assert s3.read("a", 3 * MIB + 2, 5) == data[3 * MIB + 2 : 3 * MIB + 7]
    assert s3.read("a", MIB, MIB + 1) == data[MIB : 2 * MIB + 1]
    assert [(r.start, r.sent) for r in gate.asked()] == [(0, 5100), (3 * MIB, 10), (MIB, MIB + 1)]
    assert s3.fetched == 5100 + 10 + MIB + 1
    s3.close()
    s3.read("a", 10, 20)
    assert gate.asked()[-1].sent == 20


def test_what_is_expected_and_not_there_is_told_in_the_readers_numbers(s3):
    s3.publish("a", bytes(100), sync=False)
    s3.expect("a", np.array([50, 100]), np.array([50, 50]))
    with pytest.raises(CorruptError, match="wanted bytes 120 to 130, but it has only 100"):
        s3.read("a", 120, 10)
    assert s3.read("a", 60, 10) == bytes(10)


def test_what_is_written_anew_is_not_read_from_what_was_kept(s3):
    expected = np.array([0]), np.array([5])
    s3.publish("a", b"older", sync=False)
    s3.expect("a", *expected)
    assert s3.read("a", 0, 5) == b"older"
    for name, act in {
        "publish": lambda: s3.publish("a", b"newer", sync=False),
        "rename": lambda: (s3.publish("b", b"named", sync=False), s3.rename("b", "a", sync=False)),
    }.items():
        act()
        assert s3.read("a", 0, 5) == {"publish": b"newer", "rename": b"named"}[name]
        s3.expect("a", *expected)
        s3.read("a", 0, 5)
    s3.remove("a")
    with pytest.raises(CorruptError, match="no such file"):
        s3.read("a", 0, 5)


def test_a_small_file_is_published_by_one_request(s3, gate):
    s3.publish("a", b"whole", sync=True)
    assert [(r.method, r.path.rsplit("/", 1)[1], r.query) for r in gate.requests] == [("PUT", "a", "")]


def test_a_bucket_that_is_missing_is_told_and_not_made(gate):
    with pytest.raises(PathError, match="there is no bucket 'nobucket'; make it first"):
        FsspecFiles("s3://nobucket/x").make()
    assert not [r for r in gate.requests if r.method == "PUT"]
    FsspecFiles("s3://bucket").make()


@pytest.mark.parametrize("scheme", ["s3", "memory"])
def test_a_stream_is_written_in_order_and_one_that_fails_leaves_no_file(s3, monkeypatch, scheme):
    monkeypatch.setattr(upload, "BLOCK", 5 * MIB)
    files = s3 if scheme == "s3" else FsspecFiles("memory://streams")

    def skips():
        with files.create("a") as out:
            out.write_at(0, [b"abc"])
            out.write_at(5, [b"x"])

    def breaks_off():
        with files.create("a") as out:
            out.write_at(0, [bytes(12 * MIB)])
            raise KeyboardInterrupt

    with pytest.raises(AssertionError, match="byte 5 of a stream that stands at byte 3"):
        skips()
    with pytest.raises(KeyboardInterrupt):
        breaks_off()
    assert files.names() == ()
    if scheme == "s3":
        assert not pending(s3)


def test_a_large_file_is_sent_in_parts(s3, gate, monkeypatch):
    monkeypatch.setattr(upload, "BLOCK", 5 * MIB)
    data = os.urandom(11 * MIB)
    with s3.create("a") as out:
        out.write_at(0, [data[: 6 * MIB]])
        out.write_at(6 * MIB, [data[6 * MIB :]])
    assert [r.query.split("&")[0] for r in gate.requests if "partNumber" in r.query] == [
        f"partNumber={i}" for i in (1, 2)
    ]
    assert s3.read("a", 0, len(data)) == data


def test_a_missing_file_is_not_renamed(s3):
    with pytest.raises(CorruptError, match="no such file"):
        s3.rename("b", "a", sync=True)


def test_a_root_that_is_a_file_has_no_files(s3):
    s3.publish("a", b"1", sync=False)
    assert s3.folder("a").names() == ()


def test_a_process_that_used_it_may_fork_and_ends_without_a_word(far):
    code = (
        "import sys; from ckptlab.storage.where import files_at\n"
        "f = files_at(sys.argv[1]); f.publish('a', bytes(20 << 20), True); f.read('a', 0, 20 << 20)\n"
        "import os, warnings; warnings.simplefilter('ignore')\n"
        "child = os.fork()\n"
        "if not child: os._exit(files_at(sys.argv[1]).names() != ('a',))\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "print(f.names(), files_at(sys.argv[1])._fs is f._fs)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, far],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "('a',) True\n", "")


# ---------------------------------------------------------------- storage that misbehaves in its own way


class Odd(MemoryFileSystem):
    """In memory, and wrong in the way that a test wants."""

    protocol = "odd"
    wrong = None

    def cat_file(self, path, start=None, end=None, **kwargs):
        if self.wrong == "never":
            raise NotImplementedError
        data = super().cat_file(path, start, end, **kwargs)
        if self.wrong == "short":
            type(self).wrong = None
            return data[:-1]
        return data


class Dropping(Odd):
    protocol = "dropping"

    def open(self, path, mode="rb", **kwargs):
        file = super().open(path, mode, **kwargs)
        if mode == "wb":
            real = file.write
            file.write = lambda data: real(data[:-1])
        return file


@pytest.fixture(autouse=True)
def odd_schemes():
    for kind in (Odd, Dropping):
        fsspec.register_implementation(kind.protocol, kind, clobber=True)
    Odd.wrong = None


class OneAtATime(Odd):
    """What two threads must not use together, as most of fsspec's file systems."""

    protocol = "one"
    inside = threading.Lock()

    def cat_file(self, path, start=None, end=None, **kwargs):
        assert self.inside.acquire(blocking=False), "two at once"
        time.sleep(0.001)
        self.inside.release()
        return super().cat_file(path, start, end, **kwargs)


def test_what_threads_must_not_share_is_used_by_one_at_a_time(monkeypatch):
    fsspec.register_implementation("one", OneAtATime, clobber=True)
    files, data = FsspecFiles("one://x"), os.urandom(5 * PART)
    files.publish("a", data, sync=False)
    with ThreadPoolExecutor(4) as pool:
        assert all(part == b"1" for part in pool.map(lambda _: files.read("a", 5, 1) and b"1", range(40)))
    assert files.read("a", 0, len(data)) == data


def test_files_that_are_written_are_not_kept():
    files = FsspecFiles("memory://kept")
    for i in range(3):
        with files.create(f"f{i}") as out:
            out.write_at(0, [b"1"])
    assert not files._fs.transaction.files


def test_an_answer_that_is_short_is_asked_for_again():
    files = FsspecFiles("odd://x")
    files.publish("a", b"12345", sync=False)
    Odd.wrong = "short"
    assert files.read("a", 0, 5) == b"12345"


def test_bytes_that_got_lost_on_the_way_are_noticed():
    files = FsspecFiles("dropping://x")
    with pytest.raises(CorruptError, match="a: 5 bytes were sent, 4 arrived"), files.create("a") as out:
        out.write_at(0, [b"12345"])
    assert files.names() == ()


def test_what_a_storage_cannot_do_is_told():
    files = FsspecFiles("odd://x")
    files.publish("a", b"12345", sync=False)
    Odd.wrong = "never"
    with pytest.raises(PathError, match="a: cannot read bytes 0 to 1: this storage has no way to"):
        files.read("a", 0, 1)


def test_errors_can_travel_between_processes():
    with pytest.raises(CheckpointError) as caught:
        FsspecFiles("memory://none").size("a")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
