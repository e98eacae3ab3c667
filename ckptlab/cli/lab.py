"""`ckptlab lab`: JupyterLab on the index of the lessons, with the explorer on the checkpoint that was named.

It knows no notebook.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from ckptlab.errors import CheckpointError
from ckptlab.live.first import ASKED
from ckptlab.storage import open_checkpoint
from ckptlab.storage.where import is_url


def lab(
    context: typer.Context,
    path: Annotated[str, typer.Argument(help="A folder to work in, or a checkpoint to open.")] = "",
) -> None:
    """Open JupyterLab on the lessons and the explorer.

    Options that are not its own go to JupyterLab.

    The notebooks are copied once into ckptlab-notebooks, where you may change them.
    Example: ckptlab lab --no-browser --port 8889
    """
    path, extra = path_and_options([path, *context.args])
    environment = dict(os.environ)
    folder = Path.cwd()
    if path and _is_checkpoint(path):
        environment[ASKED] = path if is_url(path) else str(Path(path).resolve())
    elif path:
        folder = Path(path)
        if not folder.is_dir():
            raise CheckpointError(f"{path} is neither a folder nor a checkpoint", [path])
    first = copy_notebooks(folder / "ckptlab-notebooks")
    command = [sys.executable, "-m", "jupyterlab", str(first), *extra]
    print(f"ckptlab: opening {first} in JupyterLab; stop it with Ctrl-C", flush=True)
    os.execvpe(command[0], command, environment)


def path_and_options(arguments: list[str]) -> tuple[str, list[str]]:
    """Our own path, first or last, told from JupyterLab's options; "" if there is none.

    A last word is not ours if it is the value of the option before it.
    """
    words = [word for word in arguments if word]
    if words and not words[0].startswith("-"):
        return words[0], words[1:]
    if len(words) > 1 and not words[-1].startswith("-"):
        before = words[-2]
        if not before.startswith("-") or "=" in before or before in _FLAGS:
            return words[-1], words[:-1]
    return "", words


_FLAGS = ("--no-browser", "--allow-root", "--debug", "--dev-mode", "--core-mode", "-y")
"""Options of JupyterLab that take no value."""


def _is_checkpoint(path: str) -> bool:
    """Whether it is one to open, not a folder to work in; `CheckpointError` for a file that is none."""
    if Path(path).is_file() or is_url(path):
        open_checkpoint(path)
        return True
    return (Path(path) / ".metadata").exists()


def copy_notebooks(target: Path) -> Path:
    """The notebooks of this version in `target`, but never over one that is there; the first of them."""
    here = Path(__file__).parent.parent
    source = next(folder for folder in (here / "notebooks", here.parent / "notebooks") if folder.is_dir())
    target.mkdir(exist_ok=True)
    books = sorted(source.glob("*.ipynb"))
    for book in books:
        if not (target / book.name).exists():
            shutil.copy(book, target / book.name)
    return target / books[0].name
