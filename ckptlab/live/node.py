"""What a cluster's engine does for its rank: start the rank's process, pass calls and answers on.

The rank is a process of its own, the same as a local one, since nothing can free an engine that is
itself stuck in a collective. What a rank tells goes out as marked lines on the engine's stdout,
which ipyparallel passes on in order and in full. Knows nothing of the driver nor of other engines.
"""

from __future__ import annotations

import base64
import pickle
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptlab.live.gang import Gang
from ckptlab.live.gpus import attached_gpus, torch_has_cuda
from ckptlab.live.ranks import Seat
from ckptlab.live.wire import Done, Failure, Message, Told

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

MARK = "<ckptlab told> "


@dataclass(frozen=True, slots=True)
class Host:
    """Where an engine runs, and the GPUs that torch could use there."""

    name: str
    gpus: int


@dataclass
class _Post:
    """What this engine keeps between calls."""

    gang: Gang | None = None
    store: Store | None = None


_post = _Post()


def survey() -> Host:
    """What this engine has to offer."""
    return Host(socket.gethostname(), attached_gpus() if torch_has_cuda() else 0)


def open_meeting(world: int) -> int:
    """Serve the meeting place of a new group from here; return its port."""
    from ckptlab.live import group  # torch, on the one engine that serves

    _post.store, port = group.host_store(world)
    return port


def start(seat: Seat, meeting: str) -> bytes:
    """Start this engine's rank, in place of an older one; the packed answer to having joined."""
    end()
    _post.gang = Gang([seat], meeting)
    message = _hear_out(_post.gang)
    if isinstance(message, Done) and isinstance(message.value, int):
        _post.gang.threads = [message.value]
    return pickle.dumps(message)


def serve(_: Seat, packed: bytes) -> bytes:
    """Have the rank make a packed call; the packed answer. An interrupt ends the wait with its stack."""
    gang = _post.gang
    assert gang is not None
    gang.send(packed)
    return pickle.dumps(_hear_out(gang))


def pid() -> int:
    """The process id of this engine's rank."""
    return _post.gang.pids[0] if _post.gang else -1


def end() -> None:
    """End this engine's rank."""
    gang, _post.gang = _post.gang, None
    if gang is not None:
        gang.end()


def _hear_out(gang: Gang) -> Message:
    """Pass on what the rank tells until it answers."""
    try:
        while True:
            for _, message in gang.listen():
                if not isinstance(message, Told):
                    return message
                print(f"{MARK}{base64.b64encode(pickle.dumps(message)).decode()}\n", end="", flush=True)
    except KeyboardInterrupt:
        return Failure("interrupted", gang.stacks([0])[0])
