"""A small model, really trained for a step under HSDP and saved: the first checkpoint to look at.

Runs on ranks. No pictures.
"""

from __future__ import annotations

import warnings

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from ckptlab import engine
from ckptlab.live.ranks import Context


class Block(nn.Module):
    """Attention without heads and a feed-forward of a width that no mesh divides."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.wq, self.wk, self.wv, self.wo = (nn.Linear(dim, dim, bias=False) for _ in range(4))
        self.w1, self.w2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(batch, length, dim)` to the same."""
        y = self.norm(x)
        scores = self.wq(y) @ self.wk(y).transpose(-1, -2) / y.shape[-1] ** 0.5
        x = x + self.wo(scores.softmax(-1) @ self.wv(y))
        out: torch.Tensor = x + self.w2(torch.relu(self.w1(x)))
        return out


class Demo(nn.Module):
    """A language model of 1,003 words: about 400,000 parameters."""

    def __init__(self, words: int = 1003, dim: int = 96, hidden: int = 258, depth: int = 2) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, dim)
        self.layers = nn.ModuleList(Block(dim, hidden) for _ in range(depth))
        self.head = nn.Linear(dim, words, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens `(batch, length)` to scores `(batch, length, words)`."""
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x)
        scores: torch.Tensor = self.head(x)
        return scores


def train_and_save(context: Context, path: str) -> int:
    """Shard the model over 2 x (world / 2) ranks, take an Adam step, save both; the bytes written here.

    A world that is odd is one row of shards.
    """
    rows = 2 if context.world % 2 == 0 else 1
    kind = context.device.partition(":")[0]
    mesh = init_device_mesh(kind, (rows, context.world // rows), mesh_dim_names=("replicate", "shard"))
    torch.manual_seed(0)
    model = Demo().to(context.device)
    for layer in model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    tokens = torch.randint(0, 1003, (4, 16), generator=torch.Generator().manual_seed(context.rank))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model(tokens.to(context.device)).logsumexp(-1).mean().backward()
        optimizer.step()
        state = {
            "model": get_model_state_dict(model),
            "optimizer": get_optimizer_state_dict(model, optimizer),
            "step": 1,
        }
    return engine.save(state, path, progress=context.tell).nbytes
