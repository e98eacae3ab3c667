"""A real server that speaks S3, and a gate before it that counts, fails, cuts and waits as it is told.

The server is moto's, in a process of its own. The gate is a small proxy in the test's process; all that
goes through it is kept as `Request`s.
"""

from __future__ import annotations

import atexit
import http.client
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

import pytest

from ckptlab.storage.remote import FsspecFiles

Fault = Literal["500", "503", "403", "reset", "cut", "stall"]
"""An answer of the gate's own; a connection that breaks before or in the middle of an answer; none at all."""

_START_LIMIT = 60.0
_SERVE = (
    "import os, sys, threading, warnings; warnings.simplefilter('ignore')\n"
    # Whoever started it holds the other end: it ends with them, however they end.
    "threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()\n"
    "from moto.server import main; main(['-H', '127.0.0.1', '-p', sys.argv[1]])\n"
)


@dataclass(frozen=True)
class Request:
    """One request that went through the gate; `sent` bytes of its answer's body went back."""

    method: str
    path: str
    query: str
    start: int | None
    length: int | None
    """The range that was asked for, if one was."""
    sent: int
    status: int


@dataclass
class Gate:
    """The way to the server; `fault` says for each request whether it goes well (None)."""

    url: str = ""
    requests: list[Request] = field(default_factory=list)
    fault: Callable[[str, str, str], Fault | None] = lambda method, path, query: None
    opened: threading.Event = field(default_factory=threading.Event)
    """Lets stalled requests go."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def keep(self, request: Request) -> None:
        with self._lock:
            self.requests.append(request)

    def fail(self, fault: Fault, times: int, method: str = "", path: str = "", query: str = "") -> list[str]:
        """Let the next `times` requests with these words in them fail; what failed is in the list given."""
        failed: list[str] = []

        def decide(m: str, p: str, q: str) -> Fault | None:
            with self._lock:
                if len(failed) < times and method in m and path in p and query in q:
                    failed.append(f"{m} {p}?{q}")
                    return fault
            return None

        self.fault = decide
        return failed

    def clear(self) -> None:
        """No faults, and nothing counted yet."""
        self.fault = lambda method, path, query: None
        self.requests.clear()

    def asked(self, word: str = "") -> list[Request]:
        """Reads of objects whose path has the word in it."""
        with self._lock:
            return [
                r
                for r in self.requests
                if r.method == "GET" and word in r.path and "list-type" not in r.query
            ]

    def environment(self) -> dict[str, str]:
        """What a process needs to know to come this way: nobody's credentials."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "nobody",
            "AWS_SECRET_ACCESS_KEY": "nothing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            # So that it is our own patience that is tested.
            "AWS_MAX_ATTEMPTS": "1",
        }


@contextmanager
def s3_server() -> Iterator[Gate]:
    """A fresh server with a gate before it, and no buckets in it."""
    port = _free_port()
    with subprocess.Popen(
        [sys.executable, "-c", _SERVE, str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        try:
            _wait(port, server)
            with gate_to(port) as gate:
                yield gate
        finally:
            server.kill()


@contextmanager
def gate_to(port: int) -> Iterator[Gate]:
    """A gate before a server on this machine."""
    gate = Gate()
    proxy = _Proxy(("127.0.0.1", 0), _handler(gate, port))
    gate.url = f"http://127.0.0.1:{proxy.server_address[1]}"
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        yield gate
    finally:
        gate.opened.set()
        proxy.shutdown()
        thread.join()
        proxy.server_close()


class _Proxy(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request, client_address):
        """A client that goes away in the middle is what some tests are about."""


def _handler(gate: Gate, port: int) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            """Nobody reads it."""

        def pass_on(self):
            path, _, query = self.path.partition("?")
            body = self._body()
            fault = gate.fault(self.command, path, query)
            if fault == "stall":
                gate.opened.wait(120)
                fault = "reset"
            if fault == "reset":
                return self._reset()
            if fault in ("403", "500", "503"):
                return self._answer(int(fault), {}, b"" if self.command == "HEAD" else _XML[fault])
            status, headers, data = self._forward(body)
            return self._answer(status, headers, data, cut=fault == "cut")

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = pass_on

        def _body(self) -> bytes:
            if "chunked" in self.headers.get("Transfer-Encoding", ""):
                chunks = []
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    chunks.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(chunks)
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def _forward(self, body: bytes):
            server = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
            headers = {k: v for k, v in self.headers.items() if k.lower() not in _OWN}
            server.request(
                self.command, self.path, body or None, {**headers, "Content-Length": str(len(body))}
            )
            answer = server.getresponse()
            data = answer.read()
            server.close()
            return answer.status, dict(answer.getheaders()), data

        def _answer(self, status: int, headers: dict[str, str], data: bytes, cut: bool = False) -> None:
            sent = data[: len(data) // 2] if cut else data
            # Before anything is sent: who has the answer may look at once.
            self._keep(status, len(sent))
            self.send_response_only(status)
            for key, value in headers.items():
                if key.lower() not in _OWN:
                    self.send_header(key, value)
            length = headers.get("Content-Length") if self.command == "HEAD" else None
            self.send_header("Content-Length", length or str(len(data)))
            self.end_headers()
            self.wfile.write(sent)
            if cut:
                self._reset()

        def _reset(self) -> None:
            """End the connection as a broken network does."""
            self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True

        def _keep(self, status: int, sent: int) -> None:
            path, _, query = self.path.partition("?")
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            start, length = (int(asked[1]), int(asked[2]) - int(asked[1]) + 1) if asked else (None, None)
            gate.keep(Request(self.command, path, query, start, length, sent, status))

    return Handler


_OWN = {"content-length", "transfer-encoding", "connection"}
_XML = {
    "403": b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>",
    "500": b"<Error><Code>InternalError</Code><Message>We broke</Message></Error>",
    "503": b"<Error><Code>ServiceUnavailable</Code><Message>Come again</Message></Error>",
}


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _wait(port: int, server: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + _START_LIMIT
    while True:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        assert server.poll() is None, "the S3 server did not start"
        assert time.monotonic() < until, f"no S3 server after {_START_LIMIT} s"
        time.sleep(0.05)


@cache
def _bucket() -> Gate:
    """One server for the whole run, with a bucket named `bucket`; each room that asks has the same."""
    running = ExitStack()
    atexit.register(running.close)
    gate = running.enter_context(s3_server())
    made = http.client.HTTPConnection(gate.url.removeprefix("http://"))
    made.request("PUT", "/bucket")
    assert made.getresponse().status == 200
    made.close()
    return gate


@pytest.fixture(scope="session")
def server() -> Gate:
    """The server; nothing is set for this process yet."""
    return _bucket()


@pytest.fixture
def gate(server: Gate, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """The way to the server for this process; nothing fails yet and nothing is counted yet."""
    for key, value in server.environment().items():
        monkeypatch.setenv(key, value)
    server.clear()
    yield server
    server.clear()


@pytest.fixture
def far(gate: Gate, request: pytest.FixtureRequest) -> str:
    """A URL for this test alone."""
    return f"s3://bucket/{re.sub(r'[^A-Za-z0-9]+', '-', request.node.name)}"


@pytest.fixture
def s3(far: str) -> Iterator[FsspecFiles]:
    """The files at `far`, by a client that gives up after five seconds."""
    made = FsspecFiles(far, patience=5.0)
    yield made
    made.close()


def pending(files: FsspecFiles) -> list[str]:
    """Names under the root of these files whose upload was begun and neither finished nor given up."""
    under = files.root.removeprefix("s3://bucket/").rstrip("/") + "/"
    found: list[dict[str, str]] = FsspecFiles(files.root)._fs.list_multipart_uploads("bucket")
    return [upload["Key"].removeprefix(under) for upload in found if upload["Key"].startswith(under)]
