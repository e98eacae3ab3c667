"""Far files when something fails: what passes is tried again, what lasts is told, nothing half is seen."""

import os
import re
import subprocess
import sys
import time

import fsspec
import pytest
from s3server import far, gate, pending, s3, server

from ckptlab.errors import PathError
from ckptlab.storage import upload
from ckptlab.storage.remote import FsspecFiles

__all__ = ["far", "gate", "s3", "server"]

MIB = 1 << 20


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
    assert not pending(s3)


def test_an_upload_whose_end_fails_is_given_up(s3, gate):
    gate.fail("403", 1000, "POST", "/a", "uploadId")
    with pytest.raises(PathError, match=r"/a: cannot write it: .*Denied"), s3.create("a") as out:
        out.write_at(0, [b"12345"])
    assert s3.names() == ()
    assert not pending(s3)


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
    assert pending(s3) == ["a"]
    fsspec.filesystem("s3", skip_instance_cache=True).clear_multipart_uploads("bucket")
