"""The files behind a path: which kind of storage it names.

It knows no format and opens nothing.
"""

from __future__ import annotations

import os

from ckptlab.storage.files import Files
from ckptlab.storage.local import LocalFiles


def files_at(path: str | os.PathLike[str]) -> Files:
    """The files under `path`, a local directory, which need not exist yet."""
    return LocalFiles(path)
