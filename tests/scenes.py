"""Sample scenes for tests of painters: an HSDP mesh beside a tensor, many tiles, bars, and every value."""

from __future__ import annotations

import numpy as np

from ckptlab.explorer.scene import (
    FILLED,
    HATCHED,
    NEUTRAL,
    OUTLINED,
    Fact,
    Key,
    Marks,
    Note,
    Panel,
    Scene,
    marks,
)


def mesh_panel() -> Panel:
    """Ranks 0 to 3 on a 2x2 mesh; the two replica groups {0, 2} and {1, 3} are framed columns."""
    devices = [(10 + 110 * (r % 2), 10 + 80 * (r // 2), 90, 60) for r in range(4)]
    frames = [(2 + 110 * g, 2, 106, 156) for g in range(2)]
    ranks = [[0], [1], [2], [3], [0, 2], [1, 3]]
    place = (*(f"replicate {r // 2}, shard {r % 2}" for r in range(4)), "replica group")
    return Panel(
        "mesh",
        "devices",
        "Mesh (replicate=2, shard=2)",
        "4 ranks; the ranks of a frame hold the same shards",
        220,
        160,
        marks(
            devices + frames,
            [0, 1, 2, 3, NEUTRAL, NEUTRAL],
            [FILLED] * 4 + [OUTLINED] * 2,
            ranks,
            [f"rank {r}" for r in range(4)] + ["replicas 0, 2", "replicas 1, 3"],
            [
                Fact("on the mesh", "word", np.array([0, 1, 2, 3, 4, 4]), place),
                Fact("holds", "bytes", np.full(6, 8 << 20)),
                Fact("elements", "count", np.full(6, 2 << 20)),
            ],
        ),
        (
            Note(110, -10, "shard"),
            Note(-20, 80, "replicate", turned=True),
            Note(-8, 40, "0", "end"),
            Note(-8, 120, "1", "end"),
        ),
        rigid=True,
    )


def hsdp() -> Scene:
    """A 2x2 mesh beside a tensor of two chunks, each held by two ranks."""
    tensor = Panel(
        "tensor",
        "tiles",
        "layers.0.mlp.weight  [2048, 1024] float32",
        "2 chunks; each was written by the rank of its colour and is held by one replica group",
        1024,
        2048,
        marks(
            [(0, 0, 1024, 1024), (0, 1024, 1024, 1024)],
            [0, 1],
            [FILLED, HATCHED],
            [[0, 2], [1, 3]],
            ["rank 0", "rank 1"],
            [
                Fact("box", "box", np.array([[0, 0, 1024, 1024], [1024, 0, 1024, 1024]])),
                Fact("bytes", "bytes", np.full(2, 4 << 20)),
                Fact("file", "word", np.array([0, 1]), ("__0_0.distcp", "__1_0.distcp")),
            ],
        ),
        (
            Note(0, -1, "0", "start"),
            Note(1024, -1, "1024", "end"),
            Note(512, -1, "dim 1"),
            Note(-60, 1024, "dim 0", turned=True),
            Note(-1, 0, "0", "end"),
            Note(-1, 2048, "2048", "end"),
        ),
    )
    legend = (
        *(Key(f"rank {r}", r) for r in range(4)),
        Key("written twice", 1, HATCHED),
        Key("same shards", NEUTRAL, OUTLINED),
    )
    text = "layers.0.mlp.weight [2048, 1024] float32: 2 chunks on Mesh(replicate=2, shard=2)"
    return Scene("Who holds layers.0.mlp.weight", (mesh_panel(), tensor), legend, text)


def tiles(n: int = 16_384, ranks: int = 8) -> Scene:
    """A square tensor of `n` chunks (a square number), dealt out cyclically, beside its devices."""
    side = round(n**0.5)
    row, column = np.divmod(np.arange(n), side)
    owner = (row // 2 + column // 3) % ranks
    box = np.stack([column, row, np.ones(n), np.ones(n)], 1).astype(np.float32)
    corner = np.stack([row * 8, column * 8, np.full(n, 8), np.full(n, 8)], 1)
    chunks = Marks(
        box,
        owner.astype(np.int16),
        np.full(n, FILLED, np.uint8),
        np.arange(n + 1, dtype=np.int32),
        owner.astype(np.int32),
        tuple(f"chunk {i}" for i in range(n)),
        (
            Fact("rank", "count", owner.astype(np.int64)),
            Fact("box", "box", corner.astype(np.int64)),
            Fact("bytes", "bytes", np.full(n, 256)),
        ),
    )
    devices = marks(
        [(10 * (r % 4), 10 * (r // 4), 9, 9) for r in range(ranks)],
        list(range(ranks)),
        [FILLED] * ranks,
        [[r] for r in range(ranks)],
        [f"rank {r}" for r in range(ranks)],
        [Fact("chunks", "count", np.bincount(owner, minlength=ranks))],
    )
    return Scene(
        f"A tensor of {n:,} chunks",
        (
            Panel("mesh", "devices", f"{ranks} ranks", "", 39, 10 * -(-ranks // 4) - 1, devices, rigid=True),
            Panel("tensor", "tiles", "embed.weight", f"{n:,} chunks", side, side, chunks, rigid=True),
        ),
        tuple(Key(f"rank {r}", r) for r in range(ranks)),
        f"embed.weight: {n:,} chunks over {ranks} ranks",
    )


def bars(done: float = 0.6) -> Scene:
    """Bytes foretold (outlined) and read so far (filled) of four ranks."""
    foretold = [16 << 20, 12 << 20, 16 << 20, 4 << 20]
    read = [int(n * min(1.0, done * (1 + r / 4))) for r, n in enumerate(foretold)]
    most = max(foretold)
    boxes = [(0, 1.5 * r, 100 * n / most, 1) for r, n in enumerate(foretold)]
    boxes += [(0, 1.5 * r + 0.15, 100 * n / most, 0.7) for r, n in enumerate(read)]
    panel = Panel(
        "forecast",
        "bars",
        "Bytes a rank reads",
        "outline: foretold; filled: read so far",
        100,
        5.5,
        marks(
            boxes,
            [0, 1, 2, 3] * 2,
            [OUTLINED] * 4 + [FILLED] * 4,
            [[r] for r in range(4)] * 2,
            [],
            [
                Fact("rank", "count", np.array([0, 1, 2, 3] * 2)),
                Fact("what", "word", np.array([0] * 4 + [1] * 4), ("foretold", "read so far")),
                Fact("bytes", "bytes", np.array(foretold + read)),
            ],
        ),
        tuple(Note(-1, 1.5 * r + 0.5, f"rank {r}", "end") for r in range(4))
        + tuple(
            Note(101, 1.5 * r + 0.5, f"{read[r] / 2**20:.1f} of {n / 2**20:.1f} MiB", "start")
            for r, n in enumerate(foretold)
        ),
    )
    legend = (Key("foretold", NEUTRAL, OUTLINED), Key("read", NEUTRAL, FILLED))
    return Scene("Shard(0) to Shard(1)", (panel,), legend, "rank 0 reads 16.0 MiB ...")


def values(numbers: list[int]) -> Scene:
    """One device for each number, which says it as bytes, as a count, as a box and as a word."""
    n = len(numbers)
    column = np.array(numbers, np.int64)
    small = column % 1000
    facts = [
        Fact("bytes", "bytes", column),
        Fact("count", "count", column),
        Fact("box", "box", np.stack([small, small * 7, small + 1, small + 2], 1)),
        Fact("point", "box", np.zeros((n, 0), np.int64)),
        Fact("word", "word", np.arange(n) % 3, ("one", "zwei, ja", "trois: é")),
    ]
    devices = marks(
        [(i, 0, 0.9, 1) for i in range(n)], [0] * n, [FILLED] * n, [[i] for i in range(n)], [], facts
    )
    return Scene("Values", (Panel("values", "devices", "Values", "", n, 1, devices),), (), "values")


def nothing() -> Scene:
    """A panel without marks and with words, and one without either."""
    none = marks([], [], [], [])
    return Scene(
        "Nothing",
        (
            Panel("a", "tiles", "optimizer step", "an object: no elements to draw", 1, 1, none),
            Panel("b", "devices", "ranks", "", 1, 1, none),
        ),
        (),
        "nothing",
    )
