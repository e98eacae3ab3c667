"""The files behind a path: which kind of storage it names.

It knows no format and opens nothing.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ckptlab.errors import PathError
from ckptlab.storage.files import Files
from ckptlab.storage.local import LocalFiles

_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]*"
_URL = re.compile(rf"({_SCHEME}::)*{_SCHEME}://")
_SQUEEZED = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/[^/]")


def is_url(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a URL, such as `s3://bucket/run`; what is no string is a local path.

    fsspec's chains are, too: `simplecache::s3://bucket/run`, `zip://run::s3://bucket/runs.zip`.
    """
    return isinstance(path, str) and _URL.match(path) is not None


def files_at(path: str | os.PathLike[str], **storage_options: Any) -> Files:
    """The files under `path`, which need not exist yet: a local directory or a URL.

    A URL goes to fsspec together with `storage_options`, except `file://`, which is local. Raises
    `PathError` for a URL that cannot be opened, with what to install.
    """
    if is_url(path):
        url = str(path)
        if urlsplit(url).scheme.lower() not in ("file", "local"):
            from ckptlab.storage.remote import FsspecFiles

            return FsspecFiles(url, **storage_options)
        path = _local(url)
    if storage_options:
        raise PathError(f"{path} is a local path: it takes no options {sorted(storage_options)}", [path])
    local = os.fspath(path)
    squeezed = _SQUEEZED.match(local)
    if squeezed and not Path(local).parents[-2].exists():
        raise PathError(
            f"{local}: a URL has two slashes, of which pathlib.Path leaves one; "
            f"give it as a string, '{local.replace(':/', '://', 1)}'",
            [local],
        )
    return LocalFiles(path)


def parted(path: str | os.PathLike[str]) -> tuple[str, str]:
    """The directory or URL that something lies in, and its name there."""
    if is_url(path):
        inner, chained, outer = str(path).partition("::")
        if chained and "://" in inner:
            # A name inside of what the rest of the chain leads to.
            head, name = parted(inner)
            return f"{head}::{outer}", name
        head, _, name = str(path).rstrip("/").rpartition("/")
        return (f"{head}/" if head.endswith(":/") else head), name
    local = Path(path)
    return os.fspath(local.parent), local.name


def _local(url: str) -> str:
    """The path of a `file://` URL."""
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise PathError(
            f"{url} names the host {parts.netloc!r}; a local path has three slashes, 'file:///...'", [url]
        )
    return unquote(parts.path)
