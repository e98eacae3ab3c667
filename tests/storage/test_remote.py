import os
import re
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from s3server import far, gate, server

from ckptlab.errors import CheckpointError, CorruptError, PathError
from ckptlab.storage import upload
from ckptlab.storage.remote import PART, FsspecFiles

__all__ = ["far", "gate", "server"]

MIB = 1 << 20


@pytest.fixture(params=["s3", "memory", "file"])
def files(request, tmp_path):
    """A new root in each kind of storage."""
    url = {
        "s3": lambda: request.getfixturevalue("far"),
        "memory": lambda: f"memory://{uuid.uuid4().hex}/run",
        "file": lambda: f"file://{tmp_path}/run",
    }[request.param]()
    made = FsspecFiles(url)
    made.make()
    yield made
    made.close()


@pytest.fixture
def s3(far):
    made = FsspecFiles(far, patience=5.0)
    yield made
    made.close()


def pending():
    """Uploads that were begun and neither finished nor given up."""
    fs = fsspec.filesystem("s3", skip_instance_cache=True)
    return fs.list_multipart_uploads("bucket")


# ---------------------------------------------------------------- what every kind of storage does


def test_what_is_streamed_is_read_back(files):
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
    assert files.fetched == 15


def test_large_files_go_and_come_in_parts(files, monkeypatch):
    monkeypatch.setattr(upload, "BLOCK", 5 * MIB)
    data = os.urandom(2 * PART + 12345)
    with files.create("a") as out:
        out.write_at(0, [data[:7], memoryview(data)[7 : 11 * MIB]])
        out.write_at(11 * MIB, [data[11 * MIB :]])
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


def test_empty_files(files):
    with files.create("empty"):
        pass
    files.publish("also", b"", sync=True)
    assert files.size("empty") == files.size("also") == 0
    assert files.read("empty", 0, 0) == b""
    with files.view("also") as view:
        assert view == b""


def test_reads_of_nothing_ask_nobody(files):
    assert files.read("no such file", 5, 0) == b""
    files.read_into("no such file", 5, memoryview(bytearray()))


@pytest.mark.parametrize(("start", "length"), [(0, 11), (8, 3), (10, 1), (50, 1), (0, 1 << 50), (1 << 40, 1)])
def test_short_file_is_named_with_what_was_wanted_and_its_size(files, start, length):
    files.publish("a.bin", b"0123456789", sync=False)
    with pytest.raises(CorruptError, match=rf"a\.bin: wanted bytes {start} to {start + length}.*only 10"):
        files.read("a.bin", start, length)


def test_short_file_into(files):
    files.publish("a.bin", b"0123456789", sync=False)
    with pytest.raises(CorruptError, match=r"wanted bytes 8 to 12.*only 10"):
        files.read_into("a.bin", 8, memoryview(bytearray(4)))
    with pytest.raises(CorruptError, match="only 10"):
        files.read_into("a.bin", 0, memoryview(bytearray(3 * PART)))


@pytest.mark.parametrize(
    "act",
    [lambda f: f.read("no", 3, 4), lambda f: f.size("no"), lambda f: f.view("no").__enter__()],
    ids=["read", "size", "view"],
)
def test_missing_file_is_named(files, act):
    with pytest.raises(CorruptError, match=r"/no: .*no such file") as caught:
        act(files)
    assert caught.value.problems == ("no",)
    assert "\n" not in str(caught.value)


def test_senseless_range(files):
    files.publish("a", b"123", sync=False)
    for start, length in [(-1, 2), (1, -2)]:
        with pytest.raises(CorruptError, match="make no sense"):
            files.read("a", start, length)


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", "", ".", "a\0b"])
def test_names_must_stay_inside(files, name):
    for act in (lambda: files.read(name, 0, 1), lambda: files.remove(name), lambda: files.size(name)):
        with pytest.raises(CorruptError, match="not inside"):
            act()
    with pytest.raises(CorruptError, match="not inside"), files.create(name):
        pass


def test_publish_replaces(files):
    files.publish("a", b"old", sync=False)
    files.publish("a", b"newer", sync=True)
    assert files.read("a", 0, 5) == b"newer"
    assert files.names() == ("a",)


def test_rename_replaces(files):
    files.publish("a", b"old", sync=False)
    files.publish("b", b"newer", sync=False)
    files.rename("b", "a", sync=True)
    assert files.read("a", 0, 5) == b"newer"
    assert files.names() == ("a",)
    with pytest.raises(CorruptError, match="no such file"):
        files.rename("b", "a", sync=True)


def test_remove(files):
    files.publish("a", b"old", sync=False)
    files.remove("a")
    files.remove("a")
    assert files.names() == ()
    with pytest.raises(CorruptError):
        files.size("a")


def test_only_files_directly_under_the_root_are_named(files):
    below = files.folder("folder")
    below.make()
    below.publish("x", b"12", sync=False)
    files.publish("b", b"123", sync=False)
    files.publish("a", b"1", sync=False)
    beside = FsspecFiles(f"{files.root}2")
    beside.make()
    beside.publish("y", b"1", sync=False)
    assert files.names() == ("a", "b")
    assert list(files.entries().items()) == [("a", "file"), ("b", "file"), ("folder", "folder")]
    assert files.sizes() == {"a": 1, "b": 3}
    assert (below.root, below.sizes()) == (f"{files.root}/folder", {"x": 2})
    assert FsspecFiles(below.root).read("x", 0, 2) == below.read("x", 0, 2) == b"12"
    assert files.folder("nothing").names() == ()
    with pytest.raises(CorruptError, match="not inside"):
        files.folder("../x")
    assert FsspecFiles(f"{files.root}/nothing").names() == ()
    assert FsspecFiles(f"{files.root}/a").names() == ()


def test_what_others_write_and_remove_is_seen_at_once(files):
    other = FsspecFiles(files.root)
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
        FsspecFiles(f"{files.root}/a").make()


def test_a_root_goes_when_it_is_empty(files):
    files.publish("a", b"1", sync=False)
    files.unmake()
    assert files.names() == ("a",)
    files.remove("a")
    files.unmake()
    files.unmake()
    name = files.root.rsplit("/", 1)[1]
    assert name not in FsspecFiles(files.root.rsplit("/", 1)[0]).entries()


def test_a_block_that_fails_leaves_no_file(files, monkeypatch):
    monkeypatch.setattr(upload, "BLOCK", 5 * MIB)

    def write():
        with files.create("a") as out:
            out.write_at(0, [bytes(12 * MIB)])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert files.names() == ()
    if files.root.startswith("s3"):
        assert not pending()


def test_a_stream_is_written_in_order(files):
    def write():
        with files.create("a") as out:
            out.write_at(0, [b"abc"])
            out.write_at(5, [b"x"])

    with pytest.raises(AssertionError, match="byte 5 of a stream that stands at byte 3"):
        write()
    assert files.names() == ()


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


# ---------------------------------------------------------------- what fails and passes, or lasts


@pytest.mark.parametrize("fault", ["500", "503", "reset", "cut"])
def test_reads_are_tried_again(s3, gate, fault):
    data = os.urandom(100_000)
    s3.publish("a", data, sync=False)
    failed = gate.fail(fault, 3, "GET")
    assert s3.read("a", 10, 90_000) == data[10:90_010]
    assert len(failed) == 3
    assert s3.fetched == 90_000


@pytest.mark.parametrize("fault", ["500", "reset"])
@pytest.mark.parametrize(
    ("method", "act", "result"),
    [
        ("GET", lambda f: f.names(), ("a",)),
        ("GET", lambda f: dict(f.entries()), {"a": "file"}),
        ("HEAD", lambda f: f.size("a"), 5),
        ("PUT", lambda f: f.publish("a", b"12345", sync=True), None),
        ("DELETE", lambda f: f.remove("b"), None),
        ("PUT", lambda f: f.rename("a", "a2", sync=True), None),
        ("HEAD", lambda f: f.make(), None),
    ],
    ids=["names", "entries", "size", "publish", "remove", "rename", "make"],
)
def test_all_else_is_tried_again(s3, gate, fault, method, act, result):
    s3.publish("a", b"12345", sync=False)
    failed = gate.fail(fault, 2, method)
    assert act(s3) == result
    assert len(failed) == 2


def test_a_server_that_says_nothing_is_asked_again(far, gate):
    files = FsspecFiles(far, config_kwargs={"read_timeout": 0.5})
    files.publish("a", b"12345", sync=False)
    failed = gate.fail("stall", 1, "GET")
    assert files.read("a", 1, 3) == b"234"
    assert len(failed) == 1


def test_the_parts_of_a_file_are_sent_again(far, gate, monkeypatch):
    monkeypatch.delenv("AWS_MAX_ATTEMPTS")
    monkeypatch.setattr(upload, "BLOCK", 5 * MIB)
    files, data = FsspecFiles(far), os.urandom(11 * MIB)
    failed = gate.fail("500", 2, "PUT", "/a", "partNumber=2")
    with files.create("a") as out:
        out.write_at(0, [data])
    assert len(failed) == 2
    assert files.read("a", 0, len(data)) == data


@pytest.mark.parametrize(
    "act",
    [
        lambda f: f.read("a", 1, 3),
        lambda f: f.size("a"),
        lambda f: f.names(),
        lambda f: f.publish("a", b"1", sync=True),
        lambda f: f.remove("a"),
    ],
    ids=["read", "size", "names", "publish", "remove"],
)
def test_what_is_forbidden_is_told_at_once(s3, gate, act):
    s3.publish("a", b"12345", sync=False)
    gate.clear()
    failed = gate.fail("403", 100)
    with pytest.raises(PathError) as caught:
        act(s3)
    assert len(failed) == 1
    message = str(caught.value)
    assert message.startswith(s3.root)
    assert re.search("Access Denied|Forbidden", message)
    assert "\n" not in message


def test_a_read_that_is_forbidden_names_file_and_range(s3, gate):
    s3.publish("a", b"12345", sync=False)
    gate.fail("403", 100)
    with pytest.raises(PathError, match=rf"{s3.root}/a: cannot read bytes 1 to 4: PermissionError"):
        s3.read("a", 1, 3)


def test_patience_ends_in_one_clear_error(far, gate):
    files = FsspecFiles(far, patience=1.0)
    files.publish("a", b"12345", sync=False)
    failed = gate.fail("503", 1000)
    began = time.monotonic()
    with pytest.raises(
        PathError, match=rf"{far}/a: cannot read bytes 0 to 5: .*Service Unavailable"
    ) as caught:
        files.read("a", 0, 5)
    assert time.monotonic() - began < 30
    assert len(failed) >= 2
    assert "\n" not in str(caught.value)


def test_no_server_is_one_clear_error(monkeypatch, gate):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(PathError, match=r"s3://bucket/x: cannot list it: .*127\.0\.0\.1:9"):
        FsspecFiles("s3://bucket/x", patience=0.5).names()


def test_no_credentials_are_one_clear_error(monkeypatch, gate):
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(key)
    with pytest.raises(PathError, match=r"s3://bucket/x/a: cannot write it: .*credentials"):
        FsspecFiles("s3://bucket/x", patience=0.5).publish("a", b"1", sync=True)


def test_an_option_that_is_unknown_is_one_clear_error(gate):
    with pytest.raises(PathError, match="nonsense"):
        FsspecFiles("s3://bucket/x", nonsense=1).names()


@pytest.mark.parametrize(("query", "fault"), [("partNumber=2", "403"), ("partNumber=1", "reset")])
def test_an_upload_that_fails_is_given_up(s3, gate, monkeypatch, query, fault):
    monkeypatch.setattr(upload, "BLOCK", 5 * MIB)
    gate.fail(fault, 1000, "PUT", "/a", query)
    with pytest.raises(PathError, match=r"/a: cannot write"), s3.create("a") as out:
        out.write_at(0, [bytes(16 * MIB)])
    assert s3.names() == ()
    assert not pending()


def test_an_upload_whose_end_fails_is_given_up(s3, gate):
    gate.fail("403", 1000, "POST", "/a", "uploadId")
    with pytest.raises(PathError, match=r"/a: cannot write it: .*Denied"), s3.create("a") as out:
        out.write_at(0, [b"12345"])
    assert s3.names() == ()
    assert not pending()


def test_an_upload_that_is_killed_leaves_no_file(s3, gate):
    code = (
        "import os, signal, sys\n"
        "from ckptlab.storage import remote, upload\n"
        "upload.BLOCK = 5 << 20\n"
        "with remote.FsspecFiles(sys.argv[1]).create('a') as out:\n"
        "    out.write_at(0, [bytes(16 << 20)])\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    s3.publish("b", b"older", sync=False)
    done = subprocess.run([sys.executable, "-c", code, s3.root], check=False, timeout=120)
    assert done.returncode == -9
    assert [r.query.split("&")[0] for r in gate.requests if "partNumber" in r.query][:2] == [
        "partNumber=1",
        "partNumber=2",
    ]
    assert s3.names() == ("b",)
    # Its parts stay with the server, unseen, until the bucket's own rules clear them.
    assert [u["Key"].rsplit("/", 1)[1] for u in pending()] == ["a"]
    fsspec.filesystem("s3", skip_instance_cache=True).clear_multipart_uploads("bucket")


def test_a_process_that_used_it_ends_without_a_word(far):
    code = (
        "import sys; from ckptlab.storage.where import files_at\n"
        "f = files_at(sys.argv[1]); f.publish('a', bytes(20 << 20), True); f.read('a', 0, 20 << 20)\n"
        "print(f.names())"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, far],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "('a',)\n", "")


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


def test_files_that_are_written_are_not_kept(files):
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
    import pickle

    with pytest.raises(CheckpointError) as caught:
        FsspecFiles("memory://none").size("a")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
