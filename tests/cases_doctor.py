"""Loads that failed, or went wrong in silence, as people reported them: small, and at their real sizes.

Each case is a state that was saved, the target it did not load into, what the doctor should say, which of
the offered remedies a reader takes, and what the target then holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from ckptlab.metadata import Tensor
from ckptlab.plan.diagnose import Side

LR = {"lr": 0.1, "betas": (0.9, 0.95)}


@dataclass(frozen=True)
class Case:
    """`saved` and `target` make nested states; `filled` is what the target's keys then are, flat."""

    ref: str
    saved: Callable[[], dict[str, Any]]
    target: Callable[[], dict[str, Any]]
    kinds: tuple[str, ...]
    filled: Callable[[], dict[str, Any]]
    take: tuple[str, ...] = ()
    rank: int = 0
    says: str = ""


def values(name: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Elements that no other name has."""
    seed = sum((i + 1) * ord(c) for i, c in enumerate(name))
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


SHAPES = {
    "embed_tokens.weight": (12, 4),
    "layers.0.attn.wq.weight": (4, 4),
    "layers.0.mlp.up.weight": (8, 4),
    "layers.1.attn.wq.weight": (4, 4),
    "layers.1.mlp.up.weight": (8, 4),
    "norm.weight": (4,),
}


def model(rename: Callable[[str], str] = lambda name: name, like: Any = None) -> dict[str, torch.Tensor]:
    """The model's state under other names; of the elements' own, or all `like` something."""
    return {
        rename(name): values(name, shape) if like is None else torch.full(shape, like)
        for name, shape in SHAPES.items()
    }


def adam(name: Callable[[int, str], object], like: Any = None) -> dict[Any, dict[str, torch.Tensor]]:
    """What Adam keeps of each parameter, by the names that `name` gives."""
    state = {}
    for i, (fqn, shape) in enumerate(SHAPES.items()):
        made = {w: values(f"{fqn} {w}", shape) for w in ("exp_avg", "exp_avg_sq")} | {
            "step": torch.tensor(7.0 + i)
        }
        state[name(i, fqn)] = made if like is None else {w: torch.full_like(t, like) for w, t in made.items()}
    return state


def flat(state: Mapping[Any, Any], before: str = "") -> dict[str, Any]:
    """Leaves by dotted names."""
    found: dict[str, Any] = {}
    for key, value in state.items():
        name = f"{before}{key}"
        found |= flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return found


def by_name(_: int, fqn: str) -> str:
    return fqn


def middle(name: str) -> str:
    return name.replace(".attn.", "._orig_mod.attn.").replace(".mlp.", "._checkpoint_wrapped_module.mlp.")


def shard(rank: int, of: int) -> dict[str, torch.Tensor]:
    """A rank's flat FSDP1 shards."""
    found = {}
    for name, tensor in model().items():
        size = -(-tensor.numel() // of)
        found[name] = tensor.reshape(-1)[rank * size : (rank + 1) * size].clone()
    return found


def zeros(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: torch.zeros_like(tensor) for name, tensor in state.items()}


CASES = {
    "orig_mod in the middle": Case(
        "pytorch/torchtitan#2622, pytorch/pytorch#158519",
        lambda: {"model": model(middle)},
        lambda: {"model": model(like=0.0)},
        ("wrapper",),
        lambda: flat({"model": model()}),
        says="torch.compile and activation checkpointing",
    ),
    "doubled model": Case(
        "fla-org/flame PR#48",
        lambda: {"model": {"model": model()}},
        lambda: {"model": model(like=0.0)},
        ("nothing", "prefix"),
        lambda: flat({"model": model()}),
        says="twice",
    ),
    "strict=False": Case(
        "pytorch/pytorch#148252",
        lambda: (
            model() | {"layers.2.mlp.up.weight": values("more", (8, 4)), "layers.0.bias": values("b", (4,))}
        ),
        lambda: model(like=0.0) | {"head.weight": torch.zeros(5, 4)},
        ("layers", "missing", "unexpected"),
        lambda: model() | {"head.weight": torch.zeros(5, 4)},
        take=("missing", "unexpected", "layers"),
        says="head.weight",
    ),
    "a flat shard": Case(
        "RLinf/RLinf#655",
        model,
        lambda: zeros(shard(2, 4)),
        ("nothing", "flat"),
        lambda: shard(2, 4),
        take=("flat",),
        rank=2,
        says="one of 4 ranks",
    ),
    "optimizer keys by number": Case(
        "pytorch/pytorch#192202, Lightning and DeepSpeed conversions",
        lambda: {
            "model": model(),
            "optim": {"state": adam(lambda i, _: i), "param_groups": [LR | {"params": [0, 1]}]},
        },
        lambda: {
            "model": model(like=0.0),
            "optim": {
                "state": adam(by_name, 0.0),
                "param_groups": [{"lr": 1.0, "betas": None, "params": ["w"]}],
            },
        },
        ("index",),
        lambda: (
            flat({"model": model(), "optim": {"state": adam(by_name)}})
            | {"optim.param_groups.0.lr": 0.1, "optim.param_groups.0.params": ["w"]}
        ),
    ),
    "state that was never made": Case(
        "NVIDIA-NeMo/Automodel PR#2071, PrimeIntellect-ai/prime-rl PR#2800",
        lambda: {"optim": {"state": {k: v for k, v in adam(by_name).items() if "wq" not in k}}},
        lambda: {"optim": {"state": adam(by_name, 0.0)}},
        ("lazy",),
        lambda: flat({"optim": {"state": {k: adam(by_name, 0.0 if "wq" in k else None)[k] for k in SHAPES}}}),
        take=("lazy",),
    ),
    "param_groups lost": Case(
        "pytorch/pytorch#143828, #140900",
        lambda: {"optim": {"state": adam(by_name)}},
        lambda: {"optim": {"state": adam(by_name, 0.0), "param_groups": [dict(LR)]}},
        ("param_groups",),
        lambda: flat({"optim": {"state": adam(by_name)}}) | {"optim.param_groups.0.lr": 0.1},
        take=("param_groups",),
    ),
    "an option that is new": Case(
        "pytorch/torchtitan#886, pytorch/pytorch#146157",
        lambda: {"optim": {"state": adam(by_name), "param_groups": [dict(LR)]}},
        lambda: {
            "optim": {
                "state": adam(by_name, 0.0),
                "param_groups": [{"lr": 1.0, "betas": None, "decoupled_weight_decay": True}],
            }
        },
        ("param_groups",),
        lambda: (
            flat({"optim": {"state": adam(by_name)}})
            | {"optim.param_groups.0.lr": 0.1, "optim.param_groups.0.decoupled_weight_decay": True}
        ),
        take=("param_groups",),
        says="decoupled_weight_decay",
    ),
    "lists flattened": Case(
        "pytorch/pytorch#137327",
        lambda: {"model": model(), "my_key": [{"key_1": 1}, {"key_2": 2}]},
        lambda: {"model": model(like=0.0), "my_key": []},
        ("list",),
        lambda: flat({"model": model()}) | {"my_key": []},
        take=("list",),
        says="a list of 2",
    ),
    "fp32 into bf16": Case(
        "pytorch/pytorch#187138",
        model,
        lambda: {name: torch.zeros(shape, dtype=torch.bfloat16) for name, shape in SHAPES.items()},
        ("narrowed",),
        lambda: {name: tensor.bfloat16() for name, tensor in model().items()},
        take=("narrowed",),
    ),
    "bf16 into fp32": Case(
        "the other way round",
        lambda: {name: tensor.bfloat16() for name, tensor in model().items()},
        lambda: model(like=0.0),
        ("widened",),
        lambda: {name: tensor.bfloat16().float() for name, tensor in model().items()},
    ),
    "a partial load of a wrong prefix": Case(
        "NVIDIA/Megatron-LM PR#6271, NVIDIA-NeMo/Megatron-Bridge PR#6032",
        lambda: {"policy": {"actor": model()}},
        lambda: model(like=0.0),
        ("nothing", "prefix"),
        model,
        says="none of the target's 6 tensors",
    ),
    "a padded vocabulary": Case(
        "NVIDIA/Megatron-LM#4129 and every GPT-2",
        model,
        lambda: model(like=0.0) | {"embed_tokens.weight": torch.zeros(16, 4)},
        ("padded",),
        lambda: (
            model()
            | {"embed_tokens.weight": torch.cat([values("embed_tokens.weight", (12, 4)), torch.zeros(4, 4)])}
        ),
        take=("padded",),
    ),
    "q, k and v in one": Case(
        "every vLLM and every Phi-3",
        lambda: {f"attn.{w}_proj.weight": values(w, (n, 4)) for w, n in (("q", 4), ("k", 2), ("v", 2))},
        lambda: {"attn.qkv_proj.weight": torch.zeros(8, 4)},
        ("nothing", "fused"),
        lambda: {
            "attn.qkv_proj.weight": torch.cat([values("q", (4, 4)), values("k", (2, 4)), values("v", (2, 4))])
        },
    ),
    "rows and columns exchanged": Case(
        "every GPT-2 that was trained with Conv1D; NVIDIA-NeMo/Automodel PR#1691",
        lambda: {
            "a.weight": values("a", (8, 4)).T.contiguous(),
            "b.weight": values("b", (8, 2)).T.contiguous(),
        },
        lambda: {"a.weight": torch.zeros(8, 4), "b.weight": torch.zeros(8, 2)},
        ("nothing", "transposed"),
        lambda: {"a.weight": values("a", (8, 4)), "b.weight": values("b", (8, 2))},
    ),
    "a scalar and one element": Case(
        "pytorch/pytorch#132366",
        lambda: {"w": values("w", (3,)), "scale": values("s", ())},
        lambda: {"w": torch.zeros(3), "scale": torch.zeros(1)},
        ("scalar",),
        lambda: {"w": values("w", (3,)), "scale": values("s", (1,))},
    ),
    "no extra state": Case(
        "NVIDIA/cosmos#69",
        model,
        lambda: model(like=0.0) | {"layers.0.attn._extra_state": 5},
        ("extra_state",),
        lambda: model() | {"layers.0.attn._extra_state": 5},
        take=("extra_state",),
    ),
    "a step that is a number": Case(
        "optimizers of torch before 1.12",
        lambda: {"state": {"w": {"step": 5, "exp_avg": values("w", (3,))}}},
        lambda: {"state": {"w": {"step": torch.tensor(0.0), "exp_avg": torch.zeros(3)}}},
        ("object",),
        lambda: {"state.w.step": torch.tensor(0.0), "state.w.exp_avg": values("w", (3,))},
        take=("object",),
        says="int 5",
    ),
    "another separator": Case(
        "names with slashes",
        lambda: {name.replace(".", "/"): tensor for name, tensor in model().items()},
        lambda: model(like=0.0),
        ("nothing", "separator"),
        model,
        says="a slash",
    ),
}


@dataclass(frozen=True)
class Real:
    """A report at its real sizes, as names and shapes alone."""

    stored: Mapping[str, tuple[int, ...]]
    wanted: Mapping[str, tuple[int, ...]]
    kind: str
    says: str
    rank: int = 0
    extra: Mapping[str, str] = field(default_factory=dict)


PALI = "fsdp_checkpoint.model.paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"
REAL = {
    "RLinf#655": Real({PALI: (257152, 2048)}, {PALI: (131661824,)}, "flat", "one of 4 ranks", rank=3),
    "Lightning#20373": Real(
        {f"model.{w}.weight": (1571, n) for w, n in (("a", 3072), ("b", 5))},
        {f"model.{w}.weight": (1571 * 8, n) for w, n in (("a", 3072), ("b", 5))},
        "size",
        "one part of 8",
    ),
    "GPT-2": Real(
        {"transformer.wte.weight": (50257, 768)}, {"transformer.wte.weight": (50304, 768)}, "padded", "50,257"
    ),
}


def side(shapes: Mapping[str, tuple[int, ...]], dtype: str = "float32", rank: int = 0) -> Side:
    """Names and shapes as a side."""
    return Side({name: Tensor(name, dtype, shape) for name, shape in shapes.items()}, rank=rank)


def elements(shapes: Mapping[str, tuple[int, ...]]) -> int:
    return sum(map(math.prod, shapes.values()))
