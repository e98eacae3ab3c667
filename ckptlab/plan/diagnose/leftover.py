"""What no rule has explained: kinds that differ, lists, keys that are missing, keys that are left.

The last to look, so that each key is told of once. It reads no bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ckptlab.plan.diagnose.case import Case
from ckptlab.plan.diagnose.families import families
from ckptlab.plan.diagnose.finding import Finding, Kind, number, shortened, staying
from ckptlab.plan.diagnose.leaving import leaving
from ckptlab.plan.diagnose.side import Side
from ckptlab.plan.diagnose.words import ANEW, STATES
from ckptlab.plan.transform import Transform


def kinds(case: Case) -> None:
    """Pairs of which one is a tensor and the other an object."""
    for tensor_wanted in (True, False):
        keys = [
            wanted
            for wanted, stored in case.pairs.items()
            if (wanted in case.wanted.tensors) is tensor_wanted
            and (stored in case.stored.tensors) is not tensor_wanted
        ]
        if not keys:
            continue
        told = {what for key in keys if (what := case.stored.objects.get(case.pairs[key]))}
        is_ = f" ({', '.join(sorted(told)[:3])})" if told else ""
        cause = f"the checkpoint has an object{is_} where the target wants a tensor"
        advice = "Load it under a key of its own as an object, and make the tensor from it."
        if any(name in what for what in told for name in ("ShardedTensor", "DTensor")):
            advice = (
                "A sharded tensor was pickled whole: load it as its writer would, on as many ranks, and save "
                "it again as a tensor of the state, not inside another object."
            )
        if not tensor_wanted:
            cause = "the checkpoint has a tensor where the target has an object"
            advice = "Give the target a tensor to load it into."
        case.found.append(
            Finding(
                "object",
                tuple(keys),
                cause,
                0.95,
                "the checkpoint tells the kind of each key",
                advice,
                cost=staying(len(keys), "key", "as the target has them"),
                remedy=Transform(leave=leaving(case.wanted, keys)),
                nbytes=case.nbytes(keys),
            )
        )


def lists(case: Case) -> None:
    """A list that is one object on one side, and a key an element on the other."""
    for key in [key for key in case.open if key in case.wanted.objects]:
        inside = [stored for stored, name in case.free.items() if name.startswith(f"{key}.")]
        if inside:
            length = 1 + max(
                (int(n) for s in inside if (n := _first(case.free[s], key)).isdigit()), default=-1
            )
            what = f"a list of {length}" if length else "a dict"
            case.settle([key], inside)
            _list(
                case,
                key,
                f"{key} is one value in the target, and {what} of more than plain values in the checkpoint, "
                f"stored as {shortened(inside, 1)}",
                f"Give the target {what} with the same keys within (None where an object is).",
            )
    inner = {name: key for key, name in case.free.items() if key in case.stored.objects}
    below: dict[str, list[str]] = {}
    for key in case.open:
        parts = key.split(".")
        whole = next((p for n in range(1, len(parts)) if (p := ".".join(parts[:n])) in inner), None)
        if whole is not None:
            below.setdefault(whole, []).append(key)
    for whole, keys in below.items():
        case.settle(keys, [inner[whole]])
        _list(
            case,
            keys[0],
            f"{whole} is one object in the checkpoint, and {number(len(keys), 'key')} in the target",
            f"Load {whole} by itself, as {{{whole!r}: None}}, and put its values in their places.",
            keys,
        )


def _first(name: str, key: str) -> str:
    return name[len(key) + 1 :].partition(".")[0]


def _list(case: Case, key: str, cause: str, advice: str, keys: Sequence[str] = ()) -> None:
    those = tuple(keys) or (key,)
    case.found.append(
        Finding(
            "list",
            those,
            cause,
            0.9,
            "a list (or dict) is taken apart if a tensor or a dict is in it, and is one object if not",
            advice,
            cost=staying(len(those), "key", "as the target has them"),
            remedy=Transform(leave=leaving(case.wanted, those)),
            nbytes=case.nbytes(those),
        )
    )


def missing(case: Case) -> None:
    """Keys of the target that the checkpoint has nothing for."""
    extra = [key for key in case.open if "_extra_state" in key]
    if extra:
        case.settle(extra)
        _absent(
            case,
            "extra_state",
            extra,
            f"the checkpoint has no {shortened(extra, 1)}",
            "a module keeps it besides its tensors (Transformer Engine: scales of fp8), and not all save it",
            "Leave it, if it is made anew in the first steps.",
        )
    for word, why in ANEW.items():
        keys = [key for key in case.open if any(part.startswith(word) for part in key.split("."))]
        if keys:
            case.settle(keys)
            _absent(
                case,
                "anew",
                keys,
                f"the checkpoint has no {word!r}: {why}",
                "its name tells",
                "Leave it as the model makes it.",
            )
    deeper = _layers(case, list(case.open), list(case.pairs))
    if deeper:
        case.settle(deeper)
        _absent(
            case,
            "layers",
            deeper,
            f"the target has more layers than the checkpoint: {shortened(deeper, 1)}",
            "others of the same name, with lower numbers, are there",
            "Build the model with as many layers as were saved.",
        )
    if case.open:
        keys = list(case.open)
        case.settle(keys)
        tensors = [key for key in keys if key in case.wanted.tensors]
        what = number(len(tensors) or len(keys), "tensor" if tensors else "object")
        _absent(
            case,
            "missing",
            keys,
            f"the checkpoint has nothing for {what}: {shortened(tensors or keys)}",
            "no rule, no meaning and no shape leads from its names to these",
            "Find the checkpoint that has them, or leave them on purpose.",
        )


def _absent(case: Case, kind: Kind, keys: Sequence[str], cause: str, why: str, advice: str) -> None:
    case.found.append(
        Finding(
            kind,
            tuple(keys),
            cause,
            0.95,
            why,
            advice,
            cost=staying(len(keys), "key", "at the target's initial values"),
            remedy=Transform(leave=leaving(case.wanted, keys)),
            nbytes=case.nbytes(keys),
        )
    )


def _layers(case: Case, keys: Sequence[str], known: Sequence[str]) -> list[str]:
    """Those of some keys that are like known ones but for a higher number."""
    there = families((key, key) for key in known)
    return [
        key
        for words, family in families((key, key) for key in keys).items()
        if "#" in words and words in there
        for key in family.members.values()
    ]


def unexpected(case: Case) -> None:
    """Tensors of the checkpoint that nobody asks for, in branches of which the target asks for others."""
    asked = {key.partition(".")[0] for key in case.pairs.values()}
    left = [key for key in case.free if key.partition(".")[0] in asked]
    deeper = _layers(case, left, list(case.pairs.values()))
    rest = [key for key in left if key not in set(deeper)]
    for kind, keys, cause, advice in (
        ("layers", deeper, "the checkpoint has more layers than the target", _FEWER),
        ("unexpected", rest, "the target does not ask for all that the checkpoint has", _LEFT),
    ):
        if keys:
            _unasked(case, "layers" if kind == "layers" else "unexpected", keys, cause, advice)


_FEWER = "Build the model with as many layers as were saved; or drop these on purpose."
_LEFT = "If the target should have them, it is built otherwise than the model that was saved."


def _unasked(case: Case, kind: Kind, keys: Sequence[str], cause: str, advice: str) -> None:
    case.settle(stored=keys)
    why = {word: why for word, why in ANEW.items() if all(word in key for key in keys)}
    case.found.append(
        Finding(
            kind,
            tuple(keys),
            f"{cause}: {shortened(keys)}",
            0.6,
            next(iter(why.values()), "a load leaves them in the checkpoint and does not fail"),
            advice,
            cost=staying(len(keys), "key", "in the checkpoint"),
            remedy=Transform(drop=leaving(case.stored, keys)),
            side="checkpoint",
            nbytes=case.stored.nbytes(keys),
        )
    )


def nothing(stored: Side, wanted: Side) -> list[Finding]:
    """A load that would find nothing at all, which fails only if it is strict."""
    parameters = [key for key in wanted.tensors if key.rpartition(".")[2] not in STATES]
    keys = parameters or list(wanted.keys)
    fitting = _count(keys, lambda key: stored.shape(key) == wanted.shape(key) and key in stored)
    if fitting or not keys:
        return []
    what = "tensor" if parameters else "key"
    return [
        Finding(
            "nothing",
            tuple(keys),
            f"as it is, none of the target's {number(len(keys), what)} would be loaded",
            1.0,
            "no key is in the checkpoint in its shape; a load that is not strict would leave all at initial "
            "values, and say nothing",
            "Take the remedies below; without them do not load with strict=False or allow_partial_load.",
            nbytes=wanted.nbytes(keys),
        )
    ]


def _count(keys: Sequence[str], holds: Callable[[str], bool]) -> int:
    return sum(map(holds, keys))
