"""Checkpoints at all kinds of URLs, ours and stock DCP's: they work, or are refused in clear words."""

import functools
import http.server
import shutil
import threading
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as stock_dcp
from engine_ops import failure
from seed_ops import quiet
from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader, FsspecWriter

import ckptlab
from ckptlab.errors import PathError

STATE = {"w": torch.arange(600_000.0).reshape(1000, 600), "b": torch.ones(3), "o": {"step": 4}}


def loaded(url, load=ckptlab.load):
    """Whether what is loaded into an empty state is all of it."""
    target = {"w": torch.zeros(1000, 600), "b": torch.zeros(3), "o": {"step": 0}}
    load(target, url)
    return (
        torch.equal(target["w"], STATE["w"]) and target["b"].tolist() == [1] * 3 and target["o"]["step"] == 4
    )


def stock_load(target, url):
    with quiet():
        stock_dcp.load(target, storage_reader=FsspecReader(url), no_dist=True)


def stock_save(url):
    with quiet():
        stock_dcp.save(STATE, storage_writer=FsspecWriter(url), no_dist=True)


class Handler(http.server.SimpleHTTPRequestHandler):
    """Sends files, and parts of files if it is told to."""

    def log_message(self, *args):
        """Nobody reads it."""

    def do_GET(self):
        path, asked = Path(self.translate_path(self.path)), self.headers.get("Range")
        if not (self.server.parts and asked and path.is_file()):
            return super().do_GET()
        start, end = map(int, asked.removeprefix("bytes=").split("-"))
        data = path.read_bytes()[start : end + 1]
        self.send_response(206)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        return None


@pytest.fixture
def web(tmp_path):
    """A web server that lists and sends what is in `tmp_path`."""
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=str(tmp_path))
    )
    server.parts = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    "kind", ["memory://{name}", "file://{folder}/{name}", "simplecache::file://{folder}/{name}"]
)
def test_ours_and_stocks_cross_over(kind, tmp_path):
    ours, stocks = (
        kind.format(name=f"{tmp_path.name}-{name}", folder=tmp_path) for name in ("ours", "stock")
    )
    ckptlab.save(STATE, ours)
    assert loaded(ours)
    assert loaded(ours, stock_load)
    # Stock cannot rename behind a cache.
    stock_save(stocks.removeprefix("simplecache::"))
    assert loaded(stocks)
    assert ckptlab.open_checkpoint(stocks)["w"][3, :2].tolist() == [1800, 1801]


def test_a_checkpoint_in_a_zip_is_read(tmp_path, web):
    ckptlab.save(STATE, tmp_path / "run")
    torch.save({"w": STATE["w"]}, tmp_path / "run" / "model.pt")
    shutil.make_archive(tmp_path / "runs", "zip", tmp_path, "run")
    assert loaded(f"zip://run::file://{tmp_path}/runs.zip")
    assert loaded(f"zip://run::http://127.0.0.1:{web.server_address[1]}/runs.zip")
    single = ckptlab.open_checkpoint(f"zip://run/model.pt::file://{tmp_path}/runs.zip")
    assert single["w"][0, :2].tolist() == [0, 1]
    with pytest.raises(
        PathError, match=r"zip://new::file://.*runs\.zip.*only be open for reading or writing"
    ):
        ckptlab.save(STATE, f"zip://new::file://{tmp_path}/runs.zip")


def test_a_web_server_is_read_and_not_written_to(tmp_path, web):
    url = f"http://127.0.0.1:{web.server_address[1]}"
    ckptlab.save(STATE, tmp_path / "run")
    assert loaded(f"{url}/run")
    with pytest.raises(PathError, match=r"/new can only be read, not written to"):
        ckptlab.save(STATE, f"{url}/new")
    with pytest.raises(PathError, match=r"/none does not exist"):
        ckptlab.open_checkpoint(f"{url}/none")
    web.parts = False
    with pytest.raises(PathError, match=r"distcp: the server sends no parts of files, only all"):
        loaded(f"{url}/run")


def save_in_memory(ctx):
    return failure(lambda: ckptlab.save({"w": torch.ones(3)}, "memory://ranks"))


def test_ranks_do_not_save_where_each_sees_but_its_own(ranks4):
    for told in ranks4.run(save_in_memory):
        assert told.kind == "PathError"
        assert "memory of one process" in told.message


@pytest.mark.parametrize(
    ("url", "words"), [("gs://b/x", "gcsfs"), ("az://b/x", "adlfs"), ("hf://org/x", "huggingface_hub")]
)
def test_what_is_not_installed_is_named(url, words, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, words, None)
    for act in (lambda: ckptlab.open_checkpoint(url), lambda: ckptlab.save(STATE, url)):
        with pytest.raises(PathError, match=rf"{url}: .*[Ii]nstall .*{words}"):
            act()
