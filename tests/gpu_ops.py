"""What ranks do in the tests on GPUs: save, then load into zeros on the rank's own device, and compare.

Written for any device, so that a machine without a GPU can try them, too.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from importlib import import_module

import torch
import torch.distributed as dist
from async_ops import held_back
from crosswise_ops import DCP, DTYPES, cut, full
from engine_ops import failure
from seed_ops import fsdp2, kind_of, leaves, local, network, quiet, same, zeroed
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

import ckptlab
from ckptlab.live.ops import reshard

module = import_module("ckptlab.engine.async_save")

VIEWS = {
    "whole": lambda t: t,
    "turned": lambda t: t.t(),
    "steps": lambda t: t[1:, ::2],
    "column": lambda t: t[:, 1],
    "rows": lambda t: t[2:5],
    "none": lambda t: t[:0],
    "one": lambda t: t[5, 3],
}


@dataclass(frozen=True)
class Loaded:
    """What a load made of zeros: how many tensors, where they lie, and which are not as wanted.

    `vacuous` are those that were as wanted before the load: of them it shows nothing.
    """

    devices: tuple[str, ...]
    tensors: int
    vacuous: tuple[str, ...]
    different: tuple[str, ...]


def loaded(wanted, target, load):
    """Load a target of zeros, and compare it with what is `wanted`; both may be nested."""
    asked = leaves(wanted)
    before = {fqn: local(value) for fqn, value in leaves(target).items()}
    load(target)
    now = {fqn: local(value) for fqn, value in leaves(target).items()}
    return Loaded(
        tuple(sorted({str(value.device) for value in now.values()})),
        len(now),
        tuple(fqn for fqn, v in asked.items() if local(v).numel() and same(before[fqn], local(v))),
        tuple(fqn for fqn in asked.keys() | now.keys() if not same(now[fqn], local(asked[fqn]))),
    )


def _by(loader, path):
    return lambda target: DCP[loader].load(target, checkpoint_id=path)


def _row(ctx):
    key = kind_of(ctx), ctx.world
    if key not in _ROWS:
        _ROWS[key] = DeviceMesh(kind_of(ctx), list(range(ctx.world)))
    return _ROWS[key]


_ROWS = {}


def _rows(ctx, name, shape, dtype="float32"):
    """A DTensor, its bits cut by torch into rows."""
    bits = full(name, shape, dtype).view(torch.uint8).to(ctx.device)
    part = distribute_tensor(bits, _row(ctx), [Shard(0)], src_data_rank=None).to_local()
    part = part.clone().view(getattr(torch, dtype))
    shape, strides = torch.Size(shape), full(name, shape, dtype).stride()
    return DTensor.from_local(part, _row(ctx), [Shard(0)], run_check=False, shape=shape, stride=strides)


# ---------------------------------------------------------------- layouts


def _model_and_adam(ctx, seed, how):
    """An FSDP2 model, and Adam's moments of it as if it had trained."""
    model, _ = fsdp2(ctx, "uneven", seed, how)
    weights = model.state_dict()
    moments = {f: {"exp_avg": w * 0.5, "exp_avg_sq": w * w} for f, w in weights.items()}
    steps = {f: torch.full((), 3.0 * seed, device=ctx.device) for f in weights}
    return {"model": weights, "adam": moments, "step": steps}


def from_layout_to_layout(ctx, path, saver, loader, source, target):
    with quiet(), torch.no_grad():
        DCP[saver].save(_model_and_adam(ctx, 1, source), checkpoint_id=path)
        wanted = _model_and_adam(ctx, 1, target)
        return loaded(wanted, zeroed(_model_and_adam(ctx, 2, target)), _by(loader, path))


def by_the_explorer(ctx, path, layout):
    """As the explorer has ranks load a checkpoint; also where a tensor of it lies."""
    outcome = reshard(ctx, path, layout)
    return outcome, torch.empty(0, device=ctx.device).device.type


def save_model(ctx, path):
    with quiet(), torch.no_grad():
        ckptlab.save(_model_and_adam(ctx, 1, "hsdp"), path)


def load_model(ctx, path, loader):
    """Load on this device what was saved from another."""
    with quiet(), torch.no_grad():
        return loaded(
            _model_and_adam(ctx, 1, "fsdp"), zeroed(_model_and_adam(ctx, 2, "fsdp")), _by(loader, path)
        )


# ---------------------------------------------------------------- tensors of all kinds


def views_of_every_dtype(ctx, path, saver, loader):
    """Plain tensors, most of them no one run of memory, into targets that are none either."""

    def state(blank):
        made = {}
        for dtype in DTYPES:
            whole = full(f"views {dtype}", (6, 4), dtype).view(torch.uint8).to(ctx.device)
            whole = (torch.zeros_like(whole) if blank else whole).view(getattr(torch, dtype))
            made[dtype] = {name: view(whole.clone()) for name, view in VIEWS.items()}
        return made

    with quiet():
        DCP[saver].save(state(False), checkpoint_id=path)
        return loaded(state(False), state(True), _by(loader, path))


def much_and_many(ctx, path, saver, loader):
    """Chunks of many MiB, whole and in parts, beside thousands of bytes; a box that is no run."""

    def state(layout):
        big = {f"big {n}": cut(ctx, full(f"big {n}", (1031, 2051)), layout) for n in range(3)}
        small = {f"small {n}": cut(ctx, full(f"small {n}", (8, 8), "bfloat16"), layout) for n in range(60)}
        return {**big, **small, "plain": full("plain", (9, 333_333), "bfloat16").to(ctx.device)}

    with quiet():
        DCP[saver].save(state("hsdp"), checkpoint_id=path)
        return [
            loaded(state(layout), zeroed(state(layout)), _by(loader, path)) for layout in ("tiles", "columns")
        ]


# ---------------------------------------------------------------- training that goes on


def _trainer(ctx, seed):
    torch.manual_seed(seed)
    model = network("even", seed).to(ctx.device)
    adam = torch.optim.AdamW(model.parameters(), lr=0.1, capturable=kind_of(ctx) == "cuda")
    return model, adam


def _train(ctx, model, adam):
    """A step on numbers that the device draws."""
    batch = torch.rand(6, 8, device=ctx.device)
    adam.zero_grad()
    model(batch).square().sum().backward()
    adam.step()


def _draws(ctx):
    """The states of the random numbers, each rank's under a key of its own."""
    states = {"cpu": torch.get_rng_state()}
    if kind_of(ctx) == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(ctx.device)
    return {str(ctx.rank): states}


def resumed(ctx, path, saver, loader):
    """Train, save, train on; then another process's state is loaded, and trains on to the same weights.

    Weights are the same on all ranks, draws are not. Gives what was loaded, and whether it went on alike.
    """
    model, adam = _trainer(ctx, 1)
    _train(ctx, model, adam)
    torch.manual_seed(100 + ctx.rank)
    own = f"{path}/{ctx.rank}"
    state = {"model": model.state_dict(), "adam": adam.state_dict(), "rng": _draws(ctx)}
    wanted = {key: {f: local(v) for f, v in leaves(value).items()} for key, value in state.items()}
    with quiet():
        DCP[saver].save(state, checkpoint_id=own, no_dist=True)
    for _ in range(3):
        _train(ctx, model, adam)
    expected = [p.detach().clone() for p in model.parameters()]

    model, adam = _trainer(ctx, 2)
    _train(ctx, model, adam)
    target = zeroed({"model": model.state_dict(), "adam": adam.state_dict(), "rng": _draws(ctx)})

    def load(state):
        with quiet():
            DCP[loader].load(state, checkpoint_id=own, no_dist=True)

    flat = {key: leaves(value) for key, value in target.items()}
    found = loaded(wanted, flat, lambda _: load(target))
    model.load_state_dict(target["model"])
    adam.load_state_dict(target["adam"])
    torch.set_rng_state(target["rng"][str(ctx.rank)]["cpu"])
    if kind_of(ctx) == "cuda":
        torch.cuda.set_rng_state(target["rng"][str(ctx.rank)]["cuda"], ctx.device)
    for _ in range(3):
        _train(ctx, model, adam)
    alike = all(same(a, b) for a, b in zip(expected, model.parameters(), strict=True))
    return found, alike


def changed_while_saved(ctx, path, loader):
    """Two async saves; tensors come to their values just before each call, and change right after it."""

    def state():
        return {
            "rows": _rows(ctx, "rows", (9, 1001)),
            "half": _rows(ctx, "half", (8, 64), "bfloat16"),
            "plain": full("plain", (300, 7)).to(ctx.device),
            "turned": full("turned", (64, 48)).to(ctx.device).t(),
            "cpu": full("cpu", (5,)),
        }

    wanted, found = state(), []
    size = 4096 if kind_of(ctx) == "cuda" else 64
    factor = torch.full((size, size), 1.0 / size, device=ctx.device)
    for seed in (1, 2):
        for value in wanted.values():
            local_bits(value).add_(seed)
        now = state()
        for value, right in zip(now.values(), wanted.values(), strict=True):
            busy = factor
            for _ in range(10):
                busy = factor @ busy
            # Nothing changes, but the device is only here when it has done all of the above.
            late = (busy[0, 0] * 0).to(torch.uint8)
            local_bits(value).copy_(local_bits(right) + late.to(local_bits(right).device))
        with held_back() as go:
            future = ckptlab.async_save(now, f"{path}/{seed}")
            for value in now.values():
                local_bits(value).fill_(0xA5)
            go.set()
            future.result(60)
        found.append(loaded(wanted, zeroed(wanted), _by(loader, f"{path}/{seed}")))
    return found, module._DESK.stage._slab._raw.is_pinned()


def on_another_stream(ctx, path):
    """A save and a load by several threads, while a stream of the caller has still to make the state."""
    names = [f"w{n}" for n in range(3)]
    state = {name: torch.zeros(3 << 20, 4, device=ctx.device) for name in names}
    target = {name: torch.ones(3 << 20, 4, device=ctx.device) for name in names}
    wanted = {name: torch.full_like(value, 5) for name, value in state.items()}
    busy = torch.full((4096, 4096), 1.0 / 4096, device=ctx.device)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        for value in (*state.values(), *target.values()):
            for _ in range(40):
                busy = busy @ busy
            value.fill_(5 if any(value is one for one in state.values()) else 0)
        ckptlab.save(state, path, threads=2)
        for value in target.values():
            for _ in range(40):
                busy = busy @ busy
            value.zero_()
        ckptlab.load(target, path, threads=2)
        torch.cuda.synchronize()
    return [name for name in names if not same(target[name], wanted[name])]


def local_bits(value):
    """The bytes of a rank's part, to be changed in place."""
    part = value.to_local() if isinstance(value, DTensor) else value
    return (part if part.is_contiguous() else part.t()).view(torch.uint8)


# ---------------------------------------------------------------- what is refused, what is converted


def diverged(ctx, path):
    """Replicas that differ on one rank in one element; a plain tensor that does; then none."""
    state = {"w": cut(ctx, full("w", (64, 33)), "hsdp"), "same": torch.ones(3, device=ctx.device)}
    state["w"].to_local().fill_(ctx.rank % 2)
    if ctx.rank == 3:
        state["w"].to_local()[2, 5] += 0.25
    replicas = failure(lambda: ckptlab.save(state, path))
    state["w"].to_local().fill_(ctx.rank % 2 + 1)
    if ctx.rank == 2:
        state["same"][1] = 7
    plain = failure(lambda: ckptlab.save(state, path))
    state["same"].fill_(1)
    ckptlab.save(state, path)
    return replicas.message, plain.message, loaded(state, zeroed(state), _by("ours", path))


def converted(ctx, path, stored, asked, how):
    """What was stored in one dtype, loaded in another; and the words of the warning, if any."""
    generator = torch.Generator().manual_seed(3)
    whole = torch.randn(13, 70, generator=generator).to(getattr(torch, stored))

    def rows(tensor):
        return distribute_tensor(tensor.to(ctx.device), _row(ctx), [Shard(0)], src_data_rank=None)

    ckptlab.save({"w": rows(whole), "plain": whole[:5].to(ctx.device)}, path)
    other = whole.to(getattr(torch, asked))
    wanted = {"w": rows(other), "plain": other[:5].to(ctx.device)}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = loaded(wanted, zeroed(wanted), lambda t: ckptlab.load(t, path, dtype=how))
    return found, [str(one.message) for one in said]


def made_of_nothing(ctx, path):
    """A sharded model without memory is loaded; where its parameters are then, and which are wrong."""
    with quiet():
        first = network("uneven", 1).to(ctx.device)
        for layer in (first[0], first[2], first[4], first):
            fully_shard(layer, mesh=_row(ctx))
        ckptlab.save({"model": first}, path)
        with torch.device("meta"):
            second = network("uneven", 2)
        for layer in (second[0], second[2], second[4], second):
            fully_shard(layer, mesh=_row(ctx))
        assert all(p.is_meta for p in second.parameters())
        ckptlab.load({"model": second}, path)
    wanted = {fqn: local(value) for fqn, value in first.state_dict().items()}
    now = {fqn: local(value) for fqn, value in second.state_dict().items()}
    plain = {"free": torch.empty(3, 2, device="meta")}
    ckptlab.save({"free": torch.arange(6.0, device=ctx.device).reshape(3, 2)}, f"{path}/free")
    ckptlab.load(plain, f"{path}/free", device=ctx.device)
    return (
        {str(value.device) for value in [*now.values(), *plain.values()]},
        [fqn for fqn in wanted if not same(wanted[fqn], now[fqn])],
        plain["free"].tolist(),
    )


def one_fails(ctx, path, rank):
    """A rank whose device has no room for what it is to make; the others learn of it."""
    ckptlab.save({"w": torch.ones(4, device=ctx.device)}, path)
    target = {"w": torch.empty(4, device="meta")}
    place = "cuda:99" if ctx.rank == rank else ctx.device
    failed = failure(lambda: ckptlab.load(target, path, device=place))
    dist.barrier()
    return failed.rank, failed.message, target["w"].is_meta
