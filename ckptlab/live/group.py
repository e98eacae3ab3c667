"""A rank's process group: the one place where live runs touch torch.

Imported on ranks only. Knows nothing of the driver.
"""

from __future__ import annotations

import logging
import os
import socket
import sys

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import Store

from ckptlab.live.ranks import Seat


def join(seat: Seat, meeting: str) -> None:
    """Join the default group at `meeting` (`file://path`, `tcp://host:port`). Raises what torch raises."""
    _quiet()
    if seat.local_world == seat.world:
        _stay_on_loopback()
    os.environ |= {
        "RANK": str(seat.rank),
        "WORLD_SIZE": str(seat.world),
        "LOCAL_RANK": str(seat.local_rank),
        "LOCAL_WORLD_SIZE": str(seat.local_world),
    }
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // seat.local_world))
    device = torch.device(seat.own_device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        seat.backend,
        store=_reach_store(meeting, seat.world),
        rank=seat.rank,
        world_size=seat.world,
        device_id=device if device.type == "cuda" and "nccl" in seat.backend else None,
    )


def host_store(world: int) -> tuple[Store, int]:
    """A meeting place served by this process, which need not be a rank, and the free port that it took."""
    store = dist.TCPStore(  # type: ignore[attr-defined]
        "0.0.0.0", 0, world, is_master=True, wait_for_workers=False
    )
    return store, store.port


def _reach_store(meeting: str, world: int) -> Store:
    """A file for ranks that share a machine: no port that another could take first."""
    kind, _, place = meeting.partition("://")
    if kind == "file":
        return dist.FileStore(place, world)  # type: ignore[attr-defined]
    host, _, port = place.rpartition(":")
    return dist.TCPStore(host, int(port), world, is_master=False)  # type: ignore[attr-defined]


def _stay_on_loopback() -> None:
    """Ranks of one machine need no network, nor a host name that resolves."""
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    if hasattr(socket, "if_nameindex") and loopback in {name for _, name in socket.if_nameindex()}:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", loopback)


def _quiet() -> None:
    """Drop DTensor's note on gloo's missing alltoall: true, harmless, and said by every rank."""
    logger = logging.getLogger("torch.distributed.tensor._collective_utils")
    logger.addFilter(lambda record: "does not support alltoall" not in record.getMessage())
