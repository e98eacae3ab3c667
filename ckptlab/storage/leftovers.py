"""Files beside a checkpoint that no load looks at, and files whose times do not fit together.

Names and times only; it reads nothing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping

from ckptlab.storage.dcp import METADATA_FILE, writer
from ckptlab.storage.finding import Finding, count
from ckptlab.storage.safetensors import SUFFIX
from ckptlab.storage.sidecar import SIDECAR_PREFIX

LATER = 60.0
"""Seconds: a data file that is younger than `.metadata` by more was likely written by another save."""

APART = 3600.0
"""Seconds: data files of one save are hardly further apart."""

_UNFINISHED = re.compile(r"(__\d+)?\.metadata\.tmp")
_NAMELESS = re.compile(rf"({re.escape(METADATA_FILE)}|{re.escape(SIDECAR_PREFIX)}.*)\.[0-9a-f]{{32}}\.tmp")


def check_names(names: Collection[str], used: Collection[str], save_id: str | None) -> Iterator[Finding]:
    """Files that saves left which are not this checkpoint's; a user's own files are none of ours."""
    stale = [name for name in names if name.endswith(".distcp") and name not in used]
    ranks = sorted({writer(name) for name in stale})
    if stale:
        told = f" by rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))}" if min(ranks) >= 0 else ""
        yield Finding(
            "note",
            "stale",
            f"{count(len(stale), 'data file')} of another save{told}: {', '.join(stale[:3])}"
            f"{', ...' if len(stale) > 3 else ''}",
            "No load of this checkpoint looks there; such files may be deleted.",
            stale[0],
        )
    for name in names:
        if _UNFINISHED.fullmatch(name):
            yield Finding(
                "doubt",
                "unfinished",
                f"{name} is there: a save was cut off while it published",
                "If that save wrote over this one in place, as stock DCP does, data files may be the later "
                "save's; what `mixed` and `time` find tells.",
                name,
            )
        ours = name.startswith(SIDECAR_PREFIX) and not name.startswith(f"{SIDECAR_PREFIX}{save_id}.")
        if _NAMELESS.fullmatch(name) or ours:
            yield Finding(
                "note",
                "stale",
                f"{name} belongs to another save, or one that was cut off",
                "Nothing looks at it; it may be deleted.",
                name,
            )


def check_parts(names: Collection[str], used: Collection[str]) -> Iterator[Finding]:
    """Parts of safetensors that the index does not name."""
    stale = [name for name in names if name.endswith(SUFFIX) and name not in used]
    if stale:
        yield Finding(
            "note",
            "stale",
            f"{count(len(stale), 'file')} that the index does not name: {', '.join(stale[:3])}"
            f"{', ...' if len(stale) > 3 else ''}",
            "No load of this checkpoint looks there.",
            stale[0],
        )


def check_times(times: Mapping[str, float]) -> Iterator[Finding]:
    """Hints in the times (seconds) at which `.metadata` and the data files were last written."""
    data = {name: when for name, when in times.items() if name != METADATA_FILE}
    if not data or METADATA_FILE not in times:
        return
    later = {name: when - times[METADATA_FILE] for name, when in data.items()}
    first, last = min(data, key=data.__getitem__), max(data, key=data.__getitem__)
    remedy = "A hint, no proof: a copy without its times looks so too."
    if later[last] > LATER:
        n = sum(seconds > LATER for seconds in later.values())
        detail = (
            f"{count(n, 'data file')} younger than {METADATA_FILE}, {last} by {_human(later[last])}: "
            "a later save may have begun to write over this one"
        )
        yield Finding("doubt", "time", detail, remedy, last)
    elif data[last] - data[first] > APART:
        detail = (
            f"{first} is older than {last} by {_human(data[last] - data[first])}: it may be another save's"
        )
        yield Finding("doubt", "time", detail, remedy, first)


def _human(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"
