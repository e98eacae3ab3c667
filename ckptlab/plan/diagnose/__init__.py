"""Why a checkpoint does not load into a target, found from names, shapes and dtypes alone.

`diagnose(stored, wanted)` takes two `Side`s and gives a `Diagnosis`: findings, each with its cause, how
sure that is, and a remedy that is a load transform. It reads no bytes and knows neither torch nor files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ckptlab.plan.diagnose import dialect, dtypes, fused, leftover, names, optimizer, shapes
from ckptlab.plan.diagnose.case import Case
from ckptlab.plan.diagnose.finding import SURE, Finding, Kind
from ckptlab.plan.diagnose.report import Diagnosis, joined
from ckptlab.plan.diagnose.side import Side, side_of
from ckptlab.plan.transform import Transform

__all__ = ["SURE", "Diagnosis", "Finding", "Kind", "Side", "diagnose", "side_of"]


def diagnose(stored: Side, wanted: Side, checkpoint: str = "", target: str = "") -> Diagnosis:
    r"""Everything that keeps `stored` from loading into `wanted`, each key told of once for each cause.

    >>> from ckptlab.metadata import Tensor
    >>> def side(*names):
    ...     return Side({name: Tensor(name, "float32", (4, 2)) for name in names})
    >>> found = diagnose(side("module.a.w", "module.b.w"), side("a.w", "b.w"))
    >>> [finding.kind for finding in found]
    ['nothing', 'wrapper']
    >>> print(found.transform)
    Transform
      rename  '(?<![^.])(?:module)\\.' -> ''
    """
    case = Case.of(stored, wanted)
    _find(case)
    fitting = sum(
        stored.shape(key) == wanted.shape(key)
        and (key not in wanted.tensors or stored.tensors[key].dtype == wanted.tensors[key].dtype)
        for key in wanted.keys
        if key in stored
    )
    findings = [replace(it, order=i) for i, it in enumerate(_doubted(case.found))]
    findings = [_mended(it, stored, case.pairs) if it.pairs else it for it in findings]
    findings.sort(key=lambda it: (it.kind != "nothing", -it.nbytes, -len(it.keys)))
    # One finding tells that nothing fits; if nothing is wrong either, there is nothing to load.
    return Diagnosis(
        tuple(findings),
        fitting,
        len(wanted.keys),
        checkpoint or "the checkpoint",
        target or "the target",
        stored,
        wanted,
        case.pairs,
    )


def _find(case: Case) -> None:
    """Names first, from what is plain to what is guessed; then what paired tensors are to each other."""
    case.found += leftover.nothing(case.stored, case.wanted)
    for pairing in _PAIRING:
        if case.open and case.free:
            pairing(case)
    for looking in (leftover.kinds, shapes.shapes, dtypes.dtypes):
        looking(case)
    for explaining in _EXPLAINING:
        if case.open or case.free:
            explaining(case)


_PAIRING: tuple[Callable[[Case], None], ...] = (
    names.wrappers,
    names.separators,
    optimizer.numbers,
    names.votes,
    fused.fused,
    fused.stacked,
    dialect.dialects,
    fused.tied,
    names.exchanges,
    dialect.guesses,
)
_EXPLAINING: tuple[Callable[[Case], None], ...] = (
    fused.tied,
    optimizer.states,
    optimizer.groups,
    leftover.lists,
    leftover.missing,
    leftover.unexpected,
)


def _doubted(found: list[Finding]) -> list[Finding]:
    """Findings that are no surer than the names that brought their keys together."""
    doubt = {key: it.sure for it in found if it.sure < SURE or it.cost for key in it.pairs}
    if not doubt:
        return found
    return [
        it if it.pairs else replace(it, sure=min([it.sure, *(doubt[key] for key in it.keys if key in doubt)]))
        for it in found
    ]


def _mended(finding: Finding, stored: Side, pairs: dict[str, str]) -> Finding:
    """The finding, its renames as a transform."""
    empty = replace(finding, remedy=finding.remedy or Transform())
    return replace(finding, remedy=joined([empty], stored, pairs))
