import re
import subprocess
import sys
from pathlib import Path

import pytest

from ckptlab.errors import PathError
from ckptlab.storage.local import LocalFiles
from ckptlab.storage.remote import FsspecFiles
from ckptlab.storage.where import files_at, is_url, parted


@pytest.mark.parametrize(
    "path", ["run/step-1", "/a/b", "a:b/c", "c:/x", "a//b", "./s3://x", "://x", "1s3://b", Path("run"), "~"]
)
def test_what_is_no_url_is_local(path):
    files = files_at(path)
    assert isinstance(files, LocalFiles)
    assert files.root == str(path)
    assert not is_url(path)


@pytest.mark.parametrize(
    ("url", "root"),
    [
        ("file:///tmp/a%20b", "/tmp/a b"),
        ("file://localhost/tmp/x", "/tmp/x"),
        ("FILE:///tmp/x", "/tmp/x"),
        ("local:///tmp/x", "/tmp/x"),
    ],
)
def test_a_file_url_is_local(url, root):
    files = files_at(url)
    assert isinstance(files, LocalFiles)
    assert files.root == root
    assert is_url(url)


def test_a_chain_is_a_url_and_a_file_in_an_archive_lies_in_it():
    assert is_url("simplecache::s3://bucket/run")
    assert is_url("zip://run::s3://bucket/runs.zip")
    assert not is_url("a::b/c")
    assert parted("simplecache::s3://bucket/run") == ("simplecache::s3://bucket", "run")
    assert parted("zip://run/m.pt::s3://bucket/r.zip") == ("zip://run::s3://bucket/r.zip", "m.pt")
    assert parted("zip://m.pt::s3://bucket/r.zip") == ("zip://::s3://bucket/r.zip", "m.pt")


def test_a_file_url_with_a_host_is_refused():
    with pytest.raises(PathError, match=r"names the host 'tmp'.*three slashes"):
        files_at("file://tmp/x")


def test_other_urls_are_fsspecs():
    files = files_at("memory://where/x/")
    assert isinstance(files, FsspecFiles)
    assert files.root == "memory://where/x"


def test_an_unknown_scheme_is_named():
    with pytest.raises(PathError, match=r"nosuch://b/x: .*nosuch") as caught:
        files_at("nosuch://b/x")
    assert caught.value.problems == ("nosuch://b/x",)


@pytest.mark.parametrize(
    ("url", "module", "words"),
    [("s3://b/x", "s3fs", r"s3fs.*pip install 'ckptlab\[s3\]'"), ("gs://b/x", "gcsfs", "gcsfs")],
)
def test_a_missing_library_is_named_with_what_to_install(url, module, words):
    code = (
        f"import sys; sys.modules[{module!r}] = None\n"
        f"from ckptlab.storage.where import files_at; files_at({url!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert re.search(rf"PathError: {url}: .*{words}", done.stderr), done.stderr


@pytest.mark.parametrize("path", [Path("s3://bucket/run"), "gs:/bucket/run"])
def test_a_url_that_went_through_pathlib_is_told(path):
    with pytest.raises(PathError, match=r"give it as a string, '(s3|gs)://bucket/run'"):
        files_at(path)


def test_a_folder_that_only_looks_like_it_is_local(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s3:").mkdir()
    assert isinstance(files_at("s3:/run"), LocalFiles)


def test_options_are_for_urls():
    assert isinstance(files_at("memory://x", auto_mkdir=True), FsspecFiles)
    with pytest.raises(PathError, match=r"takes no options \['anon'\]"):
        files_at("/tmp/x", anon=True)


def test_local_paths_import_no_fsspec():
    code = (
        "import sys; from ckptlab.storage.where import files_at; files_at('x'); files_at('file:///x')\n"
        "assert 'fsspec' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("a/b.pt", ("a", "b.pt")), (Path("/a/b/"), ("/a", "b")), ("b.pt", (".", "b.pt")), ("/", ("/", "")),
        ("s3://bucket/a/b.pt", ("s3://bucket/a", "b.pt")), ("s3://bucket/a/", ("s3://bucket", "a")),
        ("memory://a", ("memory://", "a")), ("file:///a/b", ("file:///a", "b")),
    ],
)  # fmt: skip
def test_what_something_lies_in(path, parts):
    assert parted(path) == parts
