"""Lesson 8: what a rank that dies in mid-save leaves behind.

Ranks are really killed, and what is left is really loaded. Torch is imported where ranks run.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ckptlab.errors import RankError
from ckptlab.explorer.scene import Key, Mark, Note, Panel, Scene, collect
from ckptlab.layout import Layout
from ckptlab.lessons.ask import WAITING, Verdict, right, wrong
from ckptlab.live import Context, Ranks

ROWS = 10
"""Rows of the weight that is saved; four ranks hold 3, 3, 3 and 1 of them."""

HOUR = 3600.0

Save = Callable[[Context, str, int, int], None]


# ---------------------------------------------------------------- on ranks


def save_by_stock(context: Context, path: str, number: int, dead: int = -1) -> None:
    """Save a state of which every number is `number` by stock DCP; rank `dead` is killed before it writes."""
    import torch.distributed as dist
    from torch.distributed.checkpoint.filesystem import FileSystemWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    class Writer(FileSystemWriter):
        """Stock's own, but for the one that dies, when all others have written."""

        def write_data(self, plan: Any, planner: Any) -> Any:
            written = None if context.rank == dead else super().write_data(plan, planner)
            if dead >= 0:
                dist.barrier()
            if context.rank == dead:
                os.kill(os.getpid(), signal.SIGKILL)
            return written

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save(_state(context, number), storage_writer=Writer(path))


def save_by_ckptlab(context: Context, path: str, number: int, dead: int = -1) -> None:
    """The same by ckptlab."""
    from ckptlab import engine
    from ckptlab.events import Event

    def told(event: Event) -> None:
        if context.rank == dead and event.phase == "write":
            # The others are to be well on their way.
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGKILL)

    engine.save(_state(context, number), path, progress=told)


@dataclass(frozen=True)
class Loaded:
    """What a load gave: the number in each row of the weight, and the step."""

    rows: tuple[int, ...]
    step: int

    def __repr__(self) -> str:
        return f"rows {', '.join(map(str, self.rows))}; step {self.step}"


def load_by_stock(context: Context, path: str) -> Loaded:
    """The whole weight and the step, loaded by stock DCP."""
    from torch.distributed.checkpoint.state_dict_loader import load

    state = _blank(context)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        load(state, checkpoint_id=path, no_dist=True)
    return _loaded(state)


def load_by_ckptlab(context: Context, path: str) -> Loaded:
    """The same by ckptlab."""
    from ckptlab import engine

    state = _blank(context)
    engine.load(state, path)
    return _loaded(state)


def _state(context: Context, number: int) -> dict[str, object]:
    import torch
    from torch.distributed.tensor import distribute_tensor

    from ckptlab.engine.made import device_mesh, torch_placements

    layout = _layout(context.world)
    mesh = device_mesh(layout.mesh, context.device.partition(":")[0])
    weight = torch.full((ROWS, 3), float(number), device=context.device)
    return {"weight": distribute_tensor(weight, mesh, torch_placements(layout)), "step": number}


def _blank(context: Context) -> dict[str, Any]:
    import torch

    return {"weight": torch.zeros(ROWS, 3, device=context.device), "step": 0}


def _loaded(state: dict[str, Any]) -> Loaded:
    return Loaded(tuple(int(row) for row in state["weight"][:, 0].tolist()), state["step"])


def _layout(world: int) -> Layout:
    return Layout.parse(str(world), "Shard(0)")


# ---------------------------------------------------------------- torn


def killed(ranks: Ranks, save: Save, path: str, number: int, dead: int) -> Verdict:
    """Begin a save in which rank `dead` is killed; how the run ended."""
    try:
        ranks.run(save, path, number, dead)
    except RankError as error:
        return Verdict(None, f"The save ended: {str(error).partition(' (')[0]}.")
    raise AssertionError("nobody died")


def an_hour_ago(path: str) -> None:
    """Set the times of all files of a checkpoint back, as if an hour had passed since."""
    for file in Path(path).iterdir():
        when = file.stat().st_mtime - HOUR
        os.utime(file, (when, when))


def listed(path: str) -> list[str]:
    """The names of the files of a checkpoint."""
    return sorted(file.name for file in Path(path).iterdir())


def saves_scene(loaded: Mapping[str, Loaded]) -> Scene:
    """The rows of the weight as they were loaded, each in the colour of the save that it is of."""
    panels = tuple(_rows_panel(f"loaded{i}", name, it) for i, (name, it) in enumerate(loaded.items()))
    numbers = sorted({row for it in loaded.values() for row in it.rows})
    lines = [f"  {name}: {it}" for name, it in loaded.items()]
    return Scene(
        "Of which save is each row?",
        panels,
        tuple(Key(f"of save {number}", number - 1) for number in numbers),
        "\n".join(["Of which save is each row?", *lines]),
    )


def _rows_panel(name: str, title: str, loaded: Loaded) -> Panel:
    shards = _layout(4).shards((ROWS, 3))
    owner = [rank for rank, n in zip(shards.rank.tolist(), shards.boxes.shapes[:, 0].tolist(), strict=True)
             for _ in range(n)]  # fmt: skip
    marks = [
        Mark((0, row, 4, 1), (rank,), number - 1, label=f"save {number}",
             facts={"row": str(row), "written by": f"rank {rank}", "of": f"save {number}"})
        for row, (number, rank) in enumerate(zip(loaded.rows, owner, strict=True))
    ]  # fmt: skip
    caption = f"{ROWS} rows; the step says {loaded.step}."
    # The name of each rank beside the middle of its rows.
    notes = tuple(
        Note(-0.1, sum(rows) / len(rows) + 0.5, f"rank {rank}", "end")
        for rank in sorted(set(owner))
        if (rows := [row for row, its in enumerate(owner) if its == rank])
    )
    return Panel(name, "tiles", title, caption, 4, ROWS, collect(marks), notes)


def check_tear(ranks: Ranks, answer: int | None) -> Verdict:
    """The rank whose death tears a stock save so that as few rows as can be, but some, are of the old one."""
    if answer is None:
        return WAITING
    if answer not in range(ranks.world):
        return wrong(f"there is no rank {answer}; they are 0 to {ranks.world - 1}.")
    with tempfile.TemporaryDirectory() as path:
        ranks.run(save_by_stock, path, 1)
        killed(ranks, save_by_stock, path, 2, answer)
        found = ranks.run(load_by_stock, path)[0]
    old = [row for row, number in enumerate(found.rows) if number == 1]
    rank_rows = [_layout(ranks.world).local_shape((ROWS, 3), rank)[0] for rank in range(ranks.world)]
    told = f"rank {answer} was killed, and {_rows(old)} {'is' if len(old) == 1 else 'are'} of save 1"
    if len(old) == min(n for n in rank_rows if n):
        return right(f"{told}; the step says {found.step}, and no error was raised.")
    return wrong(f"{told}: {len(old)} of {ROWS}. Another rank holds fewer rows.")


def _rows(rows: Sequence[int]) -> str:
    return f"row{'s' * (len(rows) > 1)} {', '.join(map(str, rows))}"
