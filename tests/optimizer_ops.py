"""What ranks do in the tests of optimizer state: groups of parameters, frozen, idle and never seen ones.

The state is that of torch's own state_dict helpers; targets are emptied, and lie under another sharding.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import torch
from crosswise_ops import DCP
from engine_ops import failure
from seed_ops import hsdp_mesh, leaves, quiet, row_mesh, same, whole, zeroed
from torch import nn
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard

import ckptlab

MESHES = {"fsdp": row_mesh, "hsdp": hsdp_mesh}
KINDS = {
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.1, betas=(0.8, 0.95)),
    "amsgrad": lambda groups: torch.optim.Adam(groups, lr=0.1, amsgrad=True),
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9),
}


@dataclass(frozen=True)
class Came:
    """How a rank's state came back: keys of tensors saved, those that were the same before the load, those
    that are wrong after it; whether the groups came back; whether both models then take the same step.
    """

    tensors: tuple[str, ...]
    same_before: tuple[str, ...]
    wrong: tuple[str, ...]
    groups_before: bool
    groups: bool
    same_step: bool


class Net(nn.Module):
    """Two layers that learn round a frozen one; `idle` learns, but takes no part."""

    def __init__(self, seed):
        torch.manual_seed(seed)
        super().__init__()
        self.body, self.frozen, self.idle, self.head = (
            nn.Linear(7, 10),
            nn.Linear(10, 10),
            nn.Linear(3, 5),
            nn.Linear(10, 6),
        )
        self.frozen.requires_grad_(False)

    def forward(self, x):
        return self.head(torch.tanh(self.frozen(torch.tanh(self.body(x)))))


def _built(ctx, seed, how, kind):
    """The net under FSDP2, and its optimizer, which treats biases and weights differently."""
    model = Net(seed).to(ctx.device)
    for layer in (*model.children(), model):
        fully_shard(layer, mesh=MESHES[how](ctx))
    named = list(model.named_parameters())
    groups = [
        {"params": [p for n, p in named if n.endswith("weight")], "weight_decay": 0.01},
        {"params": [p for n, p in named if n.endswith("bias")], "weight_decay": 0.0, "lr": 0.05},
    ]
    return model, KINDS[kind](groups)


def _step(ctx, model, optimizer, seed, width=7):
    generator = torch.Generator().manual_seed(100 * seed + ctx.rank)
    optimizer.zero_grad()
    model(torch.rand(6, width, generator=generator).to(ctx.device)).square().sum().backward()
    optimizer.step()


def _told(model, optimizer, flat=False):
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    model_state, optimizer_state = get_state_dict(model, optimizer, options=options)
    return {"model": model_state, "optim": optimizer_state}


def _groups(told):
    """The settings of the groups: whatever in an optimizer's state is no tensor."""
    optim = told["optim"]
    return optim.get("param_groups", {k: v for k, v in optim.items() if k.startswith("param_groups")})


def _no_groups(told):
    """The same groups with all numbers forgotten."""

    def forget(value):
        if isinstance(value, dict):
            return {key: forget(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [forget(inner) for inner in value]
        return -1.0 if isinstance(value, int | float | tuple) and not isinstance(value, bool) else value

    optim = told["optim"]
    if "param_groups" in optim:
        return {**told, "optim": {**optim, "param_groups": forget(optim["param_groups"])}}
    forgotten = {k: forget(v) if k.startswith("param_groups") else v for k, v in optim.items()}
    return {**told, "optim": forgotten}


def _load(loader, target, path, partial):
    """Load by the common names; `partial` leaves what is not there."""
    planner = DefaultLoadPlanner(allow_partial_load=True) if partial else None
    DCP[loader].load(target, checkpoint_id=path, planner=planner)


def groups_of_parameters(ctx, path, saver, loader, source, target, kind, flat):
    """Model and optimizer from one sharding to another; the second optimizer has never taken a step."""
    with quiet():
        first, optimizer = _built(ctx, 1, source, kind)
        for seed in (1, 2):
            _step(ctx, first, optimizer, seed)
        optimizer.param_groups[0]["lr"] = 0.025
        saved = _told(first, optimizer, flat)
        DCP[saver].save(saved, checkpoint_id=path)

        second, other = _built(ctx, 2, target, kind)
        told = _told(second, other, flat)
        before = _seen(told)
        loaded = _no_groups(zeroed(told))
        # Of a fresh optimizer torch makes state for what is idle, too, which nobody saved.
        _load(loader, loaded, path, partial=True)
        options = StateDictOptions(flatten_optimizer_state_dict=flat)
        set_state_dict(
            second, other, model_state_dict=loaded["model"], optim_state_dict=loaded["optim"], options=options
        )
        now = _told(second, other, flat)
        return _compared(
            saved, before, loaded, now, lambda: _both_step(ctx, (first, optimizer), (second, other))
        )


def _seen(told):
    """All tensors, gathered, and the groups, as they are now."""
    return {key: whole(value) for key, value in leaves(told).items()}, deepcopy(_groups(told))


def _compared(saved, before, loaded, now, step):
    (was, groups), (seen, groups_seen), (came, groups_came) = _seen(saved), before, _seen(now)
    return Came(
        tuple(was),
        tuple(key for key in was if same(was[key], seen[key])),
        tuple(key for key in was if not same(was[key], came[key])),
        groups == groups_seen,
        groups == _groups(loaded) == groups_came,
        step(),
    )


def _both_step(ctx, one, two, width=7):
    for model, optimizer in (one, two):
        _step(ctx, model, optimizer, 3, width)
    pairs = zip(one[0].parameters(), two[0].parameters(), strict=True)
    return all(same(whole(a.detach()), whole(b.detach())) for a, b in pairs)


# ---------------------------------------------------------------- experts


class Experts(nn.Module):
    """A layer that all ranks share in shards, and experts of this rank's own, of which one is asked."""

    def __init__(self, ctx, seed):
        torch.manual_seed(seed)
        super().__init__()
        self.shared = nn.Linear(5, 5)
        torch.manual_seed(10 * seed + ctx.rank)
        self.experts = nn.ModuleDict({f"{ctx.rank}_{i}": nn.Linear(5, 5) for i in range(2)})
        self.asked = ctx.rank % 3

    def forward(self, x):
        x = self.shared(x)
        for i, expert in enumerate(self.experts.values()):
            x = expert(x) if i < self.asked else x
        return x


def _experts(ctx, seed):
    model = Experts(ctx, seed).to(ctx.device)
    fully_shard(model.shared, mesh=row_mesh(ctx))
    return model, torch.optim.AdamW(model.parameters(), lr=0.1)


def lazy_state(ctx, path, saver, loader, fresh):
    """Experts of which some were never asked, so that there is no state of theirs; other ones on each rank.

    A fresh optimizer asks for more than was saved, one that took a step for the same.
    """
    with quiet():
        first, optimizer = _experts(ctx, 1)
        for seed in (1, 2):
            _step(ctx, first, optimizer, seed, 5)
        saved = _told(first, optimizer, flat=True)
        DCP[saver].save(saved, checkpoint_id=path)

        second, other = _experts(ctx, 2)
        if not fresh:
            _step(ctx, second, other, 4, 5)
        told = _told(second, other, flat=True)
        before = _seen(told)
        loaded = _no_groups(zeroed(told))
        _load(loader, loaded, path, partial=fresh)
        set_state_dict(
            second,
            other,
            model_state_dict=loaded["model"],
            optim_state_dict=loaded["optim"],
            options=StateDictOptions(strict=fresh, flatten_optimizer_state_dict=True),
        )
        now = _told(second, other, flat=True)
        return _compared(
            saved, before, loaded, now, lambda: _both_step(ctx, (first, optimizer), (second, other), 5)
        )


def groups_that_differ(ctx, path):
    """A save of the same as torch tells it unasked: the list of a group's parameters, other on each rank."""
    with quiet():
        model, optimizer = _experts(ctx, 1)
        _step(ctx, model, optimizer, 1, 5)
        return failure(lambda: ckptlab.save(_told(model, optimizer), path))


def model_without_memory(ctx, path, saver):
    """A model on the meta device, cut by FSDP2, loaded from another's checkpoint: how that came out."""
    with quiet():
        first, _ = _built(ctx, 1, "hsdp", "sgd")
        DCP[saver].save({"model": first}, checkpoint_id=path)
        with torch.device("meta"):
            second = Net(2)
        for layer in (*second.children(), second):
            fully_shard(layer, mesh=row_mesh(ctx))
        empty = all(parameter.is_meta for parameter in second.parameters())
        ckptlab.load({"model": second}, path)
        pairs = list(zip(first.named_parameters(), second.parameters(), strict=True))
        wrong = [name for (name, a), b in pairs if not same(whole(a.detach()), whole(b.detach()))]
        kept = all(type(b) is type(a) and b.requires_grad == a.requires_grad for (_, a), b in pairs)
        batch = torch.ones(2, 7, device=ctx.device)
        return empty, wrong, kept, len(pairs), same(first(batch).detach(), second(batch).detach())
