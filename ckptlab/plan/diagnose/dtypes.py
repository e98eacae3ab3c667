"""Tensors that fit but for their dtype: what a load would make of the elements.

It looks at pairs that names have made; it reads no bytes.
"""

from __future__ import annotations

from collections import defaultdict

from ckptlab.plan.diagnose.case import Case
from ckptlab.plan.diagnose.finding import Finding, Kind, number
from ckptlab.plan.transform import Transform
from ckptlab.plan.widen import widens

_SCALES = ("_scale_inv", "_scale")
_SCALES_BESIDE = ("scale", "scale_inv", "scales")


def dtypes(case: Case) -> None:
    """A finding for each pair of dtypes, and one for numbers that are to be multiplied by a scale."""
    groups: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    scaled: dict[str, str] = {}
    for wanted, stored in case.pairs.items():
        ours, theirs = case.wanted.tensors.get(wanted), case.stored.tensors.get(stored)
        if ours is None or theirs is None or ours.dtype == theirs.dtype:
            continue
        scale = _scale(case, stored) if theirs.dtype.startswith(("float8", "int8", "uint8")) else None
        if scale is not None and ours.dtype.startswith(("float", "bfloat")):
            scaled[wanted] = scale
        else:
            groups[theirs.dtype, ours.dtype][wanted] = stored
    if scaled:
        case.found.append(_scaled(case, scaled))
        case.settle(stored=scaled.values())
    for (theirs_, ours_), pairs in groups.items():
        case.found.append(_converted(case, theirs_, ours_, tuple(pairs)))


def _scale(case: Case, key: str) -> str | None:
    """The tensor by which this one is to be multiplied, if the checkpoint has it."""
    place = key.rpartition(".")[0]
    names = [key + end for end in _SCALES] + [f"{place}.{end}" if place else end for end in _SCALES_BESIDE]
    return next((name for name in names if name in case.stored.tensors and name not in case.pairs), None)


def _scaled(case: Case, scaled: dict[str, str]) -> Finding:
    wanted, scale = next(iter(scaled.items()))
    stored = case.stored.tensors[case.pairs[wanted]].dtype
    return Finding(
        "scaled",
        tuple(scaled),
        f"the checkpoint has {stored} numbers that are to be multiplied by a scale ({scale})",
        0.97,
        f"{number(len(scaled), 'tensor')} have a scale beside them",
        "Multiply before loading: a conversion of the dtype alone would give numbers that are off by the "
        "scale. Or give the target the same dtype, and the scales too.",
        nbytes=case.nbytes(scaled),
    )


def _converted(case: Case, stored: str, wanted: str, keys: tuple[str, ...]) -> Finding:
    exact = widens(stored, wanted)
    whole, fractions = _whole(stored), not _whole(wanted)
    kind: Kind = "widened" if exact else "narrowed"
    cost = "" if exact else _loss(stored, wanted)
    verb = "is" if len(keys) == 1 else "are"
    cause = f"{number(len(keys), 'tensor')} {verb} stored as {stored}, the target has {wanted}"
    if whole == fractions:
        return Finding(
            "number",
            keys,
            f"{cause}: {'integers' if whole else 'fractions'} in the checkpoint, not in the target",
            0.9,
            "a dtype of the other kind is rarely meant",
            "Give the target the checkpoint's dtype, if the numbers are the same thing.",
            cost=cost,
            remedy=Transform(dtype="widen" if exact else "narrow"),
            nbytes=case.nbytes(keys),
        )
    return Finding(
        kind,
        keys,
        cause,
        1.0,
        "both sides tell their dtypes",
        f"Load with dtype={'widen' if exact else 'narrow'!r}, or make the target {stored}.",
        cost=cost,
        remedy=Transform(dtype="widen" if exact else "narrow"),
        nbytes=case.nbytes(keys),
    )


def _whole(dtype: str) -> bool:
    """Whether a dtype has no fractions."""
    return dtype.startswith(("int", "uint", "bool"))


def _loss(stored: str, wanted: str) -> str:
    if _whole(wanted):
        return "fractions are cut off" if not _whole(stored) else "numbers that are too large change"
    return f"each element is rounded to what {wanted} can say"
