"""A checkpoint's passport: one HTML page below 1 MB, without weights, to attach to a bug report.

It needs no kernel and no network, and forbids itself any. What it says, `explorer` decides; here it
is put on a page, and cut with a count where it is too much for one.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path

import numpy as np

from ckptlab.errors import CheckpointError, PathError
from ckptlab.explorer.files import Files
from ckptlab.explorer.inventory import Inventory, Node, Sums, inventory
from ckptlab.explorer.passport import (
    Row,
    clip,
    directory_name,
    environment,
    facts,
    mesh,
    object_words,
    totals,
    verifying,
)
from ckptlab.explorer.scene import count
from ckptlab.explorer.scenes import stored_scene
from ckptlab.layout.box import Ints
from ckptlab.metadata import Metadata, human_bytes, human_shape
from ckptlab.storage import Checkpoint, open_checkpoint
from ckptlab.storage.listing import listing
from ckptlab.widgets.view import STYLE, drawing

LIMIT = 1_000_000
"""Bytes that no passport has more of."""

_DRAWN = 400_000
_FILES, _NOTES, _LISTED = 100, 12, 1000
_FEWER = (np.iinfo(np.int64).max, 2048, 128)
"""Chunks of the tensors of which the largest is drawn, if all are too much for the page."""

_HERE = Path(__file__).parent
_LOOK = (_HERE / "passport.css").read_text(encoding="utf-8")

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'">
<title>{name}: passport</title>
<style>
{css}
{look}</style></head><body><main>
<h1>{name}</h1>
<p class="quiet">A checkpoint's passport: what it says of itself. No weights are in it.</p>
{body}
</main></body></html>
"""


def write_passport(
    checkpoint: str | os.PathLike[str] | Checkpoint, path: str | os.PathLike[str] | None = None
) -> Path:
    """Write the passport of a checkpoint, given by path or open; where it was written.

    By itself that is `NAME-passport.html` in the working directory. The page tells the checkpoint's
    directory by its name alone. Raises `PathError` where there is no checkpoint, or nothing can be written.
    """
    opened = checkpoint if isinstance(checkpoint, Checkpoint) else open_checkpoint(checkpoint)
    return _written(passport(opened), opened.path, path)


def write_unreadable(
    error: CheckpointError, checkpoint: str | os.PathLike[str], path: str | os.PathLike[str] | None = None
) -> Path:
    """The same for what cannot be opened, as `error` says: what is wrong, and which files are there."""
    where = os.fspath(checkpoint)
    return _written(unreadable(error, where), where, path)


def _written(page: bytes, name: str, path: str | os.PathLike[str] | None) -> Path:
    out = Path(path if path is not None else f"{directory_name(name)}-passport.html")
    try:
        out.write_bytes(page)
    except OSError as error:
        raise PathError(f"cannot write {out}: {error.strerror}", [os.fspath(out)]) from error
    return out


def unreadable(error: CheckpointError, path: str) -> bytes:
    """The page of what cannot be opened; the directories above it are not on it."""
    name = directory_name(path)
    said = str(error)
    for above in sorted({path, os.path.realpath(path), str(Path(path).absolute())}, key=len, reverse=True):
        said = said.replace(above.rstrip("/"), name)
    found = listing(path)
    more = f"<p class='quiet'>and {len(found) - _LISTED:,} more</p>" if len(found) > _LISTED else ""
    rows = [(clip(file, 120), size) for file, size in found[:_LISTED]]
    body = [
        f"<div class='bad' role='note'><b>It cannot be opened: {escape(type(error).__name__)}</b>"
        f"<p>{escape(clip(said, 4000))}</p></div>",
        _section("Files", (_table(("name", ">size"), rows) if rows else "<p>None.</p>") + more),
        _section("Environment", _table(("", ""), environment(), "facts")),
    ]
    return _page(escape(clip(name, 120)), "\n".join(body))


def passport(checkpoint: Checkpoint) -> bytes:
    """The page, as UTF-8, of at most `LIMIT` bytes."""
    name, files = escape(clip(directory_name(checkpoint.path), 120)), Files(checkpoint)
    # What is inferred of the mesh here, the picture below is drawn on.
    how, told = mesh(checkpoint.metadata)
    before = [_troubles(files), _table(("", ""), facts(checkpoint), "facts"), _picture(checkpoint.metadata)]
    after = [
        _totals(checkpoint.metadata),
        _section("Mesh", f"<p>{escape(how)}</p>{_pre(told)}"),
        _files(files),
        _verify(checkpoint, files, name),
        _section("Environment", _table(("", ""), environment(), "facts")),
    ]
    around = "\n".join([*before, *after])
    used = len(_page(name, around))
    body = [*before, _keys(checkpoint, LIMIT - used, name), *after]
    page = _page(name, "\n".join(body))
    assert len(page) <= LIMIT, len(page)
    return page


def _page(name: str, body: str) -> bytes:
    page = _PAGE.format(name=name, css=STYLE, look=_LOOK, body=body)
    # Names of keys and files may hold what UTF-8 cannot.
    return page.encode("utf-8", "backslashreplace")


# ---- the parts


def _troubles(files: Files) -> str:
    """What is wrong with the files, or worth telling, before all else."""
    notes = files.notes
    if not notes:
        return "<p class='good'>Every data file is there, and long enough.</p>"
    lines = "".join(f"<li>{escape(clip(note))}</li>" for note in notes[:_NOTES])
    more = f"<li>and {len(notes) - _NOTES:,} more</li>" if len(notes) > _NOTES else ""
    kind = "bad" if {"missing", "short"} & {*files.stands} else "note"
    return f"<div class='{kind}' role='note'><b>Its files</b><ul>{lines}{more}</ul></div>"


def _picture(metadata: Metadata) -> str:
    """The largest tensor that the page has room for, and how it was chosen."""
    pieces = np.diff(metadata.chunks.first)
    order = sorted(range(len(metadata.tensors)), key=lambda row: -metadata.tensors[row].nbytes)
    for tried, most in enumerate(_FEWER):
        row = next((row for row in order if pieces[row] <= most), None)
        if row is None:
            continue
        scene = stored_scene(metadata, metadata.tensors[row].fqn)
        drawn = drawing(scene)
        if len(drawn) <= _DRAWN:
            which = "The largest tensor" if not tried else f"The largest tensor of at most {most:,} chunks"
            words = f"<noscript>{_pre(scene.text.splitlines())}</noscript>"
            return _section(which, f"{drawn}{words}")
    said = "No tensor." if not order else "Its tensors are in too many chunks to draw one here."
    return _section("The largest tensor", f"<p>{said}</p>")


def _totals(metadata: Metadata) -> str:
    dtypes, shapes, left = totals(metadata)
    more = f"<p class='quiet'>and {count(left, 'shape')} more</p>" if left else ""
    by_dtype = _table(("dtype", ">tensors", ">bytes"), dtypes)
    by_shape = _table(("dtype", "shape", ">tensors", ">bytes"), shapes)
    return _section("Dtypes and shapes", f"<div class='beside'>{by_dtype}<div>{by_shape}{more}</div></div>")


def _files(files: Files) -> str:
    """The first files, those in trouble before the others; the rest by how they stand."""
    kinds = ("file", ">size", "stands", ">chunks", ">objects", ">in neither", "written by")
    lines = [[clip(cell, 120) for cell in line.cells] for line in files.lines(0, _FILES)]
    rest = Counter(files.stands[i] for i in files.order[_FILES:])
    said = ", ".join(f"{n:,} {stands}" for stands, n in rest.items())
    more = f"<p class='quiet'>and {count(rest.total(), 'file')} more: {said}</p>" if rest else ""
    held = f"<details><summary>{escape(files.caption)}</summary>{_table(kinds, lines)}{more}</details>"
    return _section("Files", held)


def _verify(checkpoint: Checkpoint, files: Files, name: str) -> str:
    troubled = sum(stands in ("missing", "short") for stands in files.stands)
    lines = "".join(f"<p>{escape(line)}</p>" for line in verifying(checkpoint, troubled))
    return _section("To verify it", f"<p><code>ckptlab verify {name}</code></p>{lines}")


# ---- the tree of keys


def _keys(checkpoint: Checkpoint, room: int, name: str) -> str:
    """The tree, folded, in `room` bytes: whole levels first, so that what is cut is deep."""
    tree = inventory(checkpoint.metadata)
    if not len(tree):
        return _section("Keys", "<p>None.</p>")
    sums = tree.sums()
    whole = f"{count(len(tree.keys), 'key')}, {human_bytes(checkpoint.metadata.nbytes)}"
    frame = _section("Keys", f"<p>{whole}</p>{_cut(len(tree.keys), len(tree.keys), name)}")
    words = _fitting(checkpoint, tree, sums, room - len(frame.encode()) - 64)
    listed = np.zeros(len(tree), bool)
    listed[list(words)] = True
    told = int(((tree.key >= 0) & listed).sum())
    cut = _cut(told, len(tree.keys), name) if told < len(tree.keys) else ""
    lines = "".join(_nested(tree, words, sums.keys - tree.sums(listed).keys))
    return _section("Keys", f"<p>{whole}</p>{cut}<div class='tree'>{lines}</div>")


def _cut(listed: int, keys: int, name: str) -> str:
    return (
        f"<p class='bad'>{listed:,} of {keys:,} keys are listed; the page has no room for the others. "
        f"<code>ckptlab show {name}</code> lists all.</p>"
    )


def _fitting(checkpoint: Checkpoint, tree: Inventory, sums: Sums, room: int) -> dict[int, str]:
    """The lines that there is room for, rendered, level by level."""
    words: dict[int, str] = {}
    for i in np.argsort(tree.depth, kind="stable").tolist():
        line = _line(tree.node(i, sums), checkpoint)
        room -= len(line.encode("utf-8", "backslashreplace"))
        room -= _BRANCH if tree.has_below[i] else _LEAF
        if room < 0:
            break
        words[i] = line
    return words


_LEAF = len("<p></p>")
_BRANCH = len("<details><summary></summary><p class=cut>1,000,000 below not listed</p></details>")
"""Bytes that a line takes besides its words, at most."""


def _line(node: Node, checkpoint: Checkpoint) -> str:
    """A line: name; dtype and shape, or what object it is, or how many keys; bytes and chunks."""
    if node.kind == "tensor":
        about = f"{node.dtype} {clip(human_shape(node.shape), 80)}"
    elif node.kind == "object":
        about = escape(object_words(checkpoint, node.fqn))
    else:
        about = count(node.keys, "key")
    chunks = count(node.chunks, "chunk") if node.kind != "object" else ""
    return f"<b>{escape(clip(node.name))}</b><i>{about}</i><u>{human_bytes(node.nbytes)}</u><s>{chunks}</s>"


def _nested(tree: Inventory, words: dict[int, str], hidden: Ints) -> Iterator[str]:
    """The lines, each in the one above; a branch says how many keys below it are left out."""
    ends: list[int] = []
    for i in sorted(words):
        while ends and i >= ends[-1]:
            ends.pop()
            yield "</details>"
        if not tree.has_below[i]:
            yield f"<p>{words[i]}</p>"
            continue
        yield f"<details{' open' if len(tree) < 40 else ''}><summary>{words[i]}</summary>"
        if hidden[i]:
            yield f"<p class=cut>{int(hidden[i]):,} below not listed</p>"
        ends.append(int(tree.end[i]))
    yield from ["</details>"] * len(ends)


# ---- pieces of HTML


def _section(title: str, inner: str) -> str:
    return f"<section><h2>{title}</h2>{inner}</section>"


def _pre(lines: Sequence[str]) -> str:
    return f"<pre>{escape(chr(10).join(lines))}</pre>" if lines else ""


def _table(labels: Sequence[str], rows: Iterable[Row | Sequence[str]], kind: str = "") -> str:
    """A table; a label that begins with `>` is a column of numbers. Without labels, facts by name."""
    numbers = [label.startswith(">") for label in labels]
    head = "".join(
        f"<th{' class=n' if n else ''}>{escape(label.removeprefix('>'))}</th>"
        for label, n in zip(labels, numbers, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{' class=n' if n else ''}>{escape(cell)}</td>" for cell, n in zip(row, numbers, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    shown = f"<thead><tr>{head}</tr></thead>" if any(labels) else ""
    return f"<div class='wide'><table class='{kind}'>{shown}<tbody>{body}</tbody></table></div>"
