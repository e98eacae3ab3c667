"""Two tensors of one name whose shapes differ: what the one is of the other.

It looks at pairs that names have made; it reads no bytes.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations

from ckptlab.plan.diagnose.case import Case
from ckptlab.plan.diagnose.finding import Finding, Kind, number
from ckptlab.plan.diagnose.leaving import leaving, literal
from ckptlab.plan.diagnose.side import Shape
from ckptlab.plan.diagnose.words import concepts
from ckptlab.plan.transform import Part, Transform

_MOST_RANKS = 65536
_MOST_DIMS = 5


@dataclass(frozen=True)
class Change:
    """What two shapes are to each other; those that are alike in it are one finding."""

    kind: Kind
    detail: tuple[int, ...] = ()


def shapes(case: Case) -> None:
    """A finding for each way in which shapes differ."""
    differ = {
        wanted: stored
        for wanted, stored in case.pairs.items()
        if wanted in case.wanted.tensors and stored in case.stored.tensors and not case.fits(wanted, stored)
    }
    if not differ:
        return
    ranks = _ranks(case, differ)
    groups: dict[Change, dict[str, str]] = defaultdict(dict)
    for wanted, stored in differ.items():
        change = _change(wanted, case.stored.tensors[stored].shape, case.wanted.tensors[wanted].shape, ranks)
        groups[change][wanted] = stored
    for change, pairs in groups.items():
        case.found.append(_told(case, change, pairs))
    turned = [pairs for change, pairs in groups.items() if change == Change("transposed", (1, 0))]
    if turned:
        _squares(case, set(differ), turned[0])


def _ranks(case: Case, differ: Mapping[str, str]) -> int:
    """Of how many ranks the target's flat tensors are shards; 0 if they are none."""
    found: Counter[int] = Counter()
    for wanted, stored in differ.items():
        whole, flat = case.stored.tensors[stored].shape, case.wanted.tensors[wanted].shape
        if len(whole) > 1 and len(flat) == 1:
            found[_parts(math.prod(whole), flat[0])] += 1
    del found[0]
    return found.most_common(1)[0][0] if found else 0


def _parts(whole: int, shard: int) -> int:
    """Into how many equal shards, the last one filled up, `whole` elements were cut; 0 if not.

    >>> _parts(257152 * 2048, 131661824)
    4
    """
    ranks = -(-whole // shard) if shard else 0
    return ranks if 2 <= ranks <= _MOST_RANKS and -(-whole // ranks) == shard else 0


def _change(name: str, stored: Shape, wanted: Shape, ranks: int) -> Change:
    if math.prod(stored) == math.prod(wanted):
        return _regrouped(stored, wanted)
    if len(wanted) == 1 and ranks and _parts(math.prod(stored), wanted[0]) == ranks:
        return Change("flat", (ranks,))
    if len(stored) == 1 and len(wanted) > 1 and (of := _parts(math.prod(wanted), stored[0])):
        return Change("flat", (-of,))
    if len(stored) == len(wanted):
        dims = [d for d, (a, b) in enumerate(zip(stored, wanted, strict=True)) if a != b]
        if dims == [0] and _words_rows(name) and 2 * min(stored[0], wanted[0]) > max(stored[0], wanted[0]):
            return Change("padded", (stored[0], wanted[0]))
        if len(dims) == 1 and (ratio := _ratio(stored[dims[0]], wanted[dims[0]])):
            return Change("size", (ratio,))
    return Change("size")


def _regrouped(stored: Shape, wanted: Shape) -> Change:
    """The same number of elements, in another shape."""
    if [n for n in stored if n != 1] == [n for n in wanted if n != 1]:
        return Change("scalar" if math.prod(stored) == 1 else "reshaped", (1,))
    if len(stored) == len(wanted) <= _MOST_DIMS and sorted(stored) == sorted(wanted):
        orders = [d for d in permutations(range(len(stored))) if tuple(stored[i] for i in d) == wanted]
        if len(orders) == 1:
            return Change("transposed", orders[0])
    return Change("reshaped")


def _words_rows(name: str) -> bool:
    """Whether a tensor has a row for each word of a vocabulary."""
    return not {"embed", "head"}.isdisjoint(concepts(name.split(".")))


def _ratio(stored: int, wanted: int) -> int:
    """How many times the one is the other: above 0 if the target has less, below if the checkpoint has."""
    if wanted and stored % wanted == 0:
        return stored // wanted
    return -(wanted // stored) if stored and wanted % stored == 0 else 0


def _told(case: Case, change: Change, pairs: Mapping[str, str]) -> Finding:
    match change.kind:
        case "transposed":
            return _transposed(case, change.detail, pairs)
        case "flat":
            return _flat(case, change.detail[0], pairs)
        case "padded":
            return _padded(case, change.detail, pairs)
        case "scalar" | "reshaped":
            return _reshaped(case, change, pairs)
    return _size(case, change, pairs)


def _between(case: Case, pairs: Mapping[str, str]) -> str:
    """The shapes of the first of them."""
    wanted, stored = next(iter(pairs.items()))
    return f"{list(case.stored.tensors[stored].shape)} against {list(case.wanted.tensors[wanted].shape)}"


def _transposed(case: Case, dims: tuple[int, ...], pairs: Mapping[str, str]) -> Finding:
    swapped = dims == (1, 0)
    return Finding(
        "transposed",
        tuple(pairs),
        f"{'rows and columns are' if swapped else f'dims are in the order {dims},'} exchanged: "
        f"{_between(case, pairs)}",
        0.95 if len(pairs) > 1 and swapped else 0.85,
        f"the sizes of {number(len(pairs), 'key')} are the same in another order",
        "Load them transposed." if swapped else "Load them with their dims in that order.",
        remedy=Transform(parts={wanted: (Part(stored, dims=dims),) for wanted, stored in pairs.items()}),
        nbytes=case.nbytes(pairs),
    )


def _squares(case: Case, differ: set[str], turned: Mapping[str, str]) -> None:
    """Square matrices beside transposed ones: no shape tells whether they are, too."""
    ends = {wanted.rpartition(".")[2] for wanted in turned}
    squares = {
        wanted: stored
        for wanted, stored in case.pairs.items()
        if wanted not in differ
        and wanted.rpartition(".")[2] in ends
        and len(shape := case.wanted.shape(wanted) or ()) == 2
        and shape[0] == shape[1] > 1
        and not _words_rows(wanted)
    }
    if squares:
        case.found.append(
            Finding(
                "square",
                tuple(squares),
                "these are square, so that no shape tells whether they are transposed as others are",
                0.5,
                f"rows and columns of {number(len(turned), 'other key')} beside them are exchanged",
                "Look how the writer made them; take this remedy if it transposed every matrix.",
                remedy=Transform(parts={w: (Part(s, dims=(1, 0)),) for w, s in squares.items()}),
                nbytes=case.nbytes(squares),
            )
        )


def _flat(case: Case, ranks: int, pairs: Mapping[str, str]) -> Finding:
    count = number(len(pairs), "key")
    if ranks < 0:
        return Finding(
            "flat",
            tuple(pairs),
            f"the checkpoint has a flat FSDP1 shard of one of {-ranks} ranks, not the whole: "
            f"{_between(case, pairs)}",
            0.9,
            f"for {count} the target has {-ranks} times as many elements",
            "The rest is not in it. Save again with SHARDED_STATE_DICT, or by ckptlab.save, on every rank.",
            nbytes=case.nbytes(pairs),
        )
    rank = case.wanted.rank
    parts, rest = {}, []
    for wanted, stored in pairs.items():
        (size,), whole = case.wanted.tensors[wanted].shape, math.prod(case.stored.tensors[stored].shape)
        low, high = min(rank * size, whole), min((rank + 1) * size, whole)
        into = None if high - low == size else ((0, high - low),)
        rest += [] if into is None else [wanted]
        parts[wanted] = (Part(stored, stored=((low, high),), into=into),)
    return Finding(
        "flat",
        tuple(pairs),
        f"the target has a flat FSDP1 shard, that of one of {ranks} ranks: {_between(case, pairs)}",
        0.97,
        f"for {count} the checkpoint has {ranks} times as many elements",
        "Take the model's state with SHARDED_STATE_DICT (or get_model_state_dict), which has whole shapes; "
        f"or load on each rank the elements of its own shard, as this remedy does for rank {rank}.",
        cost=f"it is for rank {rank}: every other rank needs its own (rank=)",
        remedy=Transform(parts=parts, leave=tuple(map(literal, rest))),
        nbytes=case.nbytes(pairs),
    )


def _padded(case: Case, sizes: tuple[int, ...], pairs: Mapping[str, str]) -> Finding:
    stored, wanted = sizes
    more, low, high = wanted > stored, min(sizes), max(sizes)
    parts = {}
    for key, theirs in pairs.items():
        rows = ((0, low), *((0, n) for n in case.wanted.tensors[key].shape[1:]))
        parts[key] = (Part(theirs, into=rows) if more else Part(theirs, stored=rows),)
    for_size = next((n for n in (1024, 512, 256, 128, 64, 32, 16, 8) if high % n == 0), 0)
    return Finding(
        "padded",
        tuple(pairs),
        f"the vocabulary was padded: the checkpoint has {stored:,} rows, the target {wanted:,}",
        0.93 if for_size >= 8 and low % for_size else 0.8,
        (f"{high:,} is a multiple of {for_size}; " if for_size else "")
        + "only the first dim of what has a row a word differs",
        f"Load the first {low:,} rows.",
        cost=f"rows {low:,} to {high - 1:,} {'stay as the target has them' if more else 'are not loaded'}",
        remedy=Transform(parts=parts, leave=tuple(map(literal, pairs)) if more else ()),
        nbytes=case.nbytes(pairs),
    )


def _reshaped(case: Case, change: Change, pairs: Mapping[str, str]) -> Finding:
    ones = bool(change.detail)
    cause = f"the same elements in another shape: {_between(case, pairs)}"
    if change.kind == "scalar":
        cause = f"a scalar here, a tensor of one element there: {_between(case, pairs)}"
    parts = {w: (Part(s, shape=case.wanted.tensors[w].shape),) for w, s in pairs.items()}
    return Finding(
        change.kind,
        tuple(pairs),
        cause,
        0.97 if ones else 0.6,
        "the shapes differ only in dims of one element" if ones else "there are as many elements",
        "Load them in the target's shape.",
        remedy=Transform(parts=parts),
        nbytes=case.nbytes(pairs),
    )


def _size(case: Case, change: Change, pairs: Mapping[str, str]) -> Finding:
    ratio = change.detail[0] if change.detail else 0
    cause, why, sure = f"sizes differ: {_between(case, pairs)}", "no cause fits the numbers", 0.5
    if abs(ratio) > 1 and len(pairs) > 1:
        who = "target" if ratio > 0 else "checkpoint"
        cause = f"the {who} has one part of {abs(ratio)} of each tensor: {_between(case, pairs)}"
        why, sure = f"for {number(len(pairs), 'key')} one dim is {abs(ratio)} times as long", 0.7
        advice = (
            "If these are local shards, give DTensors, which tell their whole shapes."
            if ratio > 0
            else "If these are the shards of one rank, those of the others are not in it."
        )
    else:
        advice = "Build the model with the checkpoint's sizes."
    return Finding(
        "size",
        tuple(pairs),
        cause,
        sure,
        why,
        advice,
        cost=f"{number(len(pairs), 'key')} would stay as the target has them",
        remedy=Transform(leave=leaving(case.wanted, pairs)),
        nbytes=case.nbytes(pairs),
    )
