"""Every mismatch between a checkpoint and a target, before a byte is read.

All of them at once, each with its cause and what to do. It reads no bytes and knows no
ranks of this process.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from ckptlab.errors import MismatchError
from ckptlab.metadata import Metadata, Tensor, near
from ckptlab.plan.widen import widens

Kind = Literal["missing", "unexpected", "shape", "dtype", "type"]


@dataclass(frozen=True)
class Mismatch:
    """One thing that does not fit. `stored` and `wanted` are in words; `remedy` says what to do."""

    kind: Kind
    fqn: str
    stored: str
    wanted: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.kind:10} {self.fqn}: checkpoint {self.stored}, target {self.wanted}. {self.remedy}"


class Form(Protocol):
    """What tells whether a tensor fits: a `Tensor`, or all that many of them have in common."""

    @property
    def dtype(self) -> str:
        """Named as torch names it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the whole tensor, over all ranks."""


def check(metadata: Metadata, target: Mapping[str, Form | None]) -> tuple[Mismatch, ...]:
    """Every key that does not fit, in the target's order, then what the target does not ask for.

    `target` has dtype and shape of a tensor under each of its keys, or None for an object.

    `unexpected` findings are of keys that the checkpoint has and the target has not: a load
    leaves them aside, as stock does.

    >>> from ckptlab.layout import Layout
    >>> from ckptlab.plan.metadata_of import metadata_of
    >>> saved = metadata_of([Tensor("w", "float32", (4, 4))], Layout.parse("2", "Shard(0)"))
    >>> [m.kind for m in check(saved, {"w": Tensor("w", "float32", (4, 5))})]
    ['shape']
    """
    found: list[Mismatch] = []
    rows, tensors = metadata.rows, metadata.tensors
    forms = [tensors.forms[kind] for kind in tensors.kinds.tolist()]
    for fqn, wanted in target.items():
        row = rows.get(fqn)
        if row is not None:
            if wanted is None or forms[row] != (wanted.dtype, wanted.shape):
                found += fit(tensors[row], wanted)
        elif fqn in metadata.objects:
            if wanted is not None:
                found.append(
                    Mismatch("type", fqn, "object", say(wanted), "Load it as an object, not a tensor.")
                )
        else:
            names = [*metadata.rows, *metadata.objects]
            remedy = f"The checkpoint has no such key{near(fqn, names)}".removesuffix("?") + "."
            found.append(Mismatch("missing", fqn, "nothing", say(wanted), remedy))
    for fqn in (*rows, *metadata.objects):
        if fqn not in target:
            left = tensors[rows[fqn]] if fqn in rows else None
            found.append(Mismatch("unexpected", fqn, say(left), "nothing", "It stays in the checkpoint."))
    return tuple(found)


def fit(stored: Tensor, wanted: Form | None) -> list[Mismatch]:
    """What does not fit between a stored tensor and the target of the same name; None for an object."""
    if wanted is None:
        return [Mismatch("type", stored.fqn, say(stored), "object", "Give a tensor to load it into.")]
    found = []
    if stored.shape != wanted.shape:
        found.append(
            Mismatch(
                "shape", stored.fqn, str(list(stored.shape)), str(list(wanted.shape)), _why(stored, wanted)
            )
        )
    if stored.dtype != wanted.dtype:
        policy = "widen" if widens(stored.dtype, wanted.dtype) else "narrow"
        remedy = f"Make the target {stored.dtype}, or load with dtype='{policy}'."
        found.append(Mismatch("dtype", stored.fqn, stored.dtype, wanted.dtype, remedy))
    return found


def _why(stored: Tensor, wanted: Form) -> str:
    """The likeliest cause of two shapes that differ."""
    if stored.shape == wanted.shape[::-1]:
        return "One is the transpose of the other."
    if len(stored.shape) == len(wanted.shape):
        dims = [d for d, (a, b) in enumerate(zip(stored.shape, wanted.shape, strict=True)) if a != b]
        return f"They differ in dim {', '.join(map(str, dims))}: was the model built with the same sizes?"
    return f"The checkpoint has {len(stored.shape)} dims, the target {len(wanted.shape)}."


def say(tensor: Form | None) -> str:
    """A tensor in words, or an object if it is None."""
    return "object" if tensor is None else f"{tensor.dtype}{list(tensor.shape)}"


def errors(
    found: Iterable[Mismatch],
    strict: bool | Literal["both"] = True,
    dtype: Literal["exact", "widen", "narrow"] = "exact",
) -> list[Mismatch]:
    """What of it a load must refuse; the rules are those of `ckptlab.load`."""
    allowed = {True: {"unexpected"}, False: {"unexpected", "missing"}, "both": set[str]()}[strict]
    allowed |= {"dtype"} if dtype == "narrow" else set()
    wrong = [m for m in found if m.kind not in allowed]
    if dtype == "widen":
        return [m for m in wrong if m.kind != "dtype" or not widens(m.stored, m.wanted)]
    return wrong


def refuse(path: str, found: Iterable[Mismatch]) -> None:
    """Raise one `MismatchError` that lists every finding; return if there is none."""
    wrong = list(found)
    if not wrong:
        return
    shown = "\n".join(f"  {m}" for m in wrong[:20])
    more = f"\n  ... and {len(wrong) - 20} more in .problems" if len(wrong) > 20 else ""
    count = f"{len(wrong)} mismatch{'es' if len(wrong) > 1 else ''}"
    raise MismatchError(f"{path} does not fit the target, nothing was loaded; {count}:\n{shown}{more}", wrong)
