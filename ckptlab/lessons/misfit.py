"""Lesson 6: checkpoints that do not load into a model, one cause each.

Each is really saved, loaded and mended, in this process. It does not know how causes are found.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptlab.errors import CheckpointError, MismatchError
from ckptlab.explorer.scene import Key, Mark, Note, Panel, Scene, collect
from ckptlab.lessons.ask import WAITING, Guess, Verdict, guess, right, wrong
from ckptlab.plan.diagnose import Diagnosis
from ckptlab.plan.transform import Ranges, Transform, human_ranges

if TYPE_CHECKING:
    import torch

    State = dict[str, torch.Tensor]

CAUSES = {
    "wrapper": "a wrapper",
    "split": "fused weights",
    "transposed": "transposed",
    "narrowed": "a dtype",
    "lazy": "optimizer state",
}
"""What may be wrong, by the doctor's word and by ours."""

_SHOWN = 4


@dataclass(frozen=True)
class Tried:
    """What stock DCP and ckptlab said when a checkpoint was loaded as it is."""

    stock: str
    ckptlab: str

    def __repr__(self) -> str:
        return f"stock DCP: {self.stock}\n\nckptlab: {self.ckptlab}"


@dataclass(frozen=True, eq=False)
class Case:
    """A checkpoint at `path` that does not fit a model; `truth` is what the model should hold in the end."""

    path: str
    kind: str
    truth: State
    dtype: str
    asked: Guess

    def target(self) -> State:
        """The model's state, fresh: all zeros."""
        import torch

        return {
            fqn: torch.zeros_like(value, dtype=getattr(torch, self.dtype))
            for fqn, value in self.truth.items()
        }

    def tried(self) -> Tried:
        """Load it as it is, by both."""
        from torch.distributed.checkpoint.api import CheckpointException
        from torch.distributed.checkpoint.state_dict_loader import load as load_by_stock

        from ckptlab import engine

        stock = ours = "loaded, and said nothing"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                load_by_stock(dict(self.target()), checkpoint_id=self.path, no_dist=True)
        except CheckpointException as error:
            stock = str(next(iter(error.failures.values()))[0])
        try:
            engine.load(dict(self.target()), self.path, no_dist=True)
        except MismatchError as error:
            lines = str(error).replace(self.path, "the checkpoint").splitlines()
            more = [f"  ... and {len(lines) - 1 - _SHOWN} more"] if len(lines) > _SHOWN + 1 else []
            ours = "\n".join([*lines[: _SHOWN + 1], *more])
        return Tried(stock, ours)

    def answer(self) -> Verdict:
        """The guess beside the cause."""
        return self.asked.beside(CAUSES[self.kind])

    def heals(self, found: Diagnosis) -> Verdict:
        """Load it with the doctor's remedy for this cause, the sure ones, and no others."""
        return self.loads(found.transform_with([it for it in found if it.kind == self.kind]))

    def loads(self, transform: Transform) -> Verdict:
        """Load it through a transform into zeros, and compare every element with what it should be."""
        from ckptlab import engine

        state = self.target()
        try:
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                engine.load(state, self.path, transform=transform, no_dist=True)
        except CheckpointError as error:
            return wrong(f"it still does not load. {error}".replace(self.path, "The checkpoint"))
        for fqn, value in self.truth.items():
            if not state[fqn].equal(value.to(state[fqn].dtype)):
                return wrong(
                    f"it loads without an error, but {fqn} is wrong: it begins with {_begin(state[fqn])} and "
                    f"should begin with {_begin(value)}."
                )
        warned = f" It warned: {said[0].message}" if said else ""
        return right(f"it loads, and all {len(state)} tensors hold what they should.{warned}")


def case(letter: str, folder: str) -> Case:
    """Save one of the broken checkpoints, A to E, below `folder`."""
    kind = dict(zip("ABCDE", CAUSES, strict=True))[letter]
    truth = _model()
    if kind == "lazy":
        truth |= _moments(truth)
    return _saved(f"{folder}/{letter}", kind, truth, _BREAK[kind](truth))


def _wrapped(state: State) -> State:
    return {f"_orig_mod.{fqn}": value for fqn, value in state.items()}


def _fused(state: State) -> State:
    import torch

    parts = [f"attn.{part}.weight" for part in "qkv"]
    rest = {fqn: value for fqn, value in state.items() if fqn not in parts}
    return {**rest, "attn.qkv.weight": torch.cat([state[part] for part in parts])}


def _transposed(state: State) -> State:
    return {**state, "mlp.up.weight": state["mlp.up.weight"].T.contiguous()}


def _without_state(state: State) -> State:
    return {fqn: value for fqn, value in state.items() if not fqn.startswith("optim.state.embed")}


_BREAK: Mapping[str, Callable[[State], State]] = {
    "wrapper": _wrapped,
    "split": _fused,
    "transposed": _transposed,
    "narrowed": dict,
    "lazy": _without_state,
}


def _saved(path: str, kind: str, truth: State, stored: State) -> Case:
    from ckptlab import engine

    engine.save(stored, path, no_dist=True)
    asked = guess("What is wrong?", list(CAUSES.values()))
    return Case(path, kind, truth, "bfloat16" if kind == "narrowed" else "float32", asked)


def _model() -> State:
    """The weights of one small block, no two of them alike."""
    shapes = {"embed.weight": (12, 4), "attn.q.weight": (4, 4), "attn.k.weight": (4, 4),
              "attn.v.weight": (4, 4), "mlp.up.weight": (8, 4), "norm.weight": (4,)}  # fmt: skip
    return {fqn: _numbers(shape, i) for i, (fqn, shape) in enumerate(shapes.items())}


def _moments(model: State) -> State:
    """Adam's state: nothing happened to the embedding, which was frozen."""
    return {
        f"optim.state.{fqn}.{moment}": value * (not fqn.startswith("embed")) / 10
        for fqn, value in model.items()
        for moment in ("exp_avg", "exp_avg_sq")
    }


def _numbers(shape: tuple[int, ...], begin: int) -> torch.Tensor:
    import torch

    return begin + torch.arange(float(torch.Size(shape).numel())).reshape(shape) / 100


def _begin(value: torch.Tensor) -> str:
    return ", ".join(f"{number:.4g}" for number in value.flatten()[:2].tolist())


# ---------------------------------------------------------------- picture


def parts_scene(transform: Transform) -> Scene:
    """The stored matrices of which a transform takes ranges, and which target each range fills."""
    taken: dict[str, list[tuple[str, Ranges]]] = {}
    for target, parts in transform.parts.items():
        for part in parts:
            if part.stored:
                taken.setdefault(part.fqn, []).append((target, part.stored))
    panels = tuple(_panel(i, fqn, rows) for i, (fqn, rows) in enumerate(taken.items()))
    lines = [
        f"  {target} is {human_ranges(of)} of {fqn}" for fqn, rows in taken.items() for target, of in rows
    ]
    title = "What becomes of its rows"
    legend = (Key("colour: the target's tensor that it fills", 0),)
    return Scene(title, panels, legend, "\n".join([title, *lines]))


def _panel(number: int, fqn: str, rows: Sequence[tuple[str, Ranges]]) -> Panel:
    marks = [
        Mark(
            (columns[0], lines[0], columns[1] - columns[0], lines[1] - lines[0]),
            (i,),
            i,
            label=target.removesuffix(".weight"),
            facts={"fills": target, "is": human_ranges((lines, columns))},
        )
        for i, (target, (lines, columns)) in enumerate(rows)
    ]
    height, width = (max(stored[dim][1] for _, stored in rows) for dim in (0, 1))
    edges = sorted({edge for _, (lines, _) in rows for edge in lines})
    notes = tuple(Note(-0.1, edge, str(edge), "end") for edge in edges)
    caption = f"{height} rows, as stored."
    return Panel(f"stored{number}", "tiles", fqn, caption, width, height, collect(marks), notes)


# ---------------------------------------------------------------- puzzle


def secret(folder: str) -> Case:
    """A checkpoint with two causes at once: wrapped, and `up` and `gate` in one tensor, in this order."""
    import torch

    truth = {**_model(), "mlp.gate.weight": _numbers((8, 4), 9)}
    parts = [truth["mlp.up.weight"], truth["mlp.gate.weight"]]
    rest = {fqn: value for fqn, value in truth.items() if not fqn.startswith("mlp")}
    stored = {
        f"module.{fqn}": value for fqn, value in {**rest, "mlp.gate_up.weight": torch.cat(parts)}.items()
    }
    return _saved(f"{folder}/secret", "split", truth, stored)


def check_mend(broken: Case, answer: Transform | None) -> Verdict:
    """A transform with which the secret checkpoint loads right; it is loaded with it now."""
    return WAITING if answer is None else broken.loads(answer)
