"""Conversions that are killed at one file operation after the other; run as a program, without torch.

`python convert_ops.py SOURCE TARGET FORMAT [OLD]` prints, for every operation, what is at the target
after a process was killed right before it: "nothing", "old" or "new", as JSON.
"""

import hashlib
import json
import os
import shutil
import signal
import sys

from ckptlab.errors import PathError
from ckptlab.storage import open_checkpoint
from ckptlab.storage.convert import convert
from ckptlab.storage.local import LocalFiles, _LocalWriter

OPERATIONS = [
    (LocalFiles, "create"), (LocalFiles, "publish"), (LocalFiles, "rename"), (LocalFiles, "remove"),
    (LocalFiles, "make"), (_LocalWriter, "write_at"), (_LocalWriter, "sync"),
]  # fmt: skip


def digest(checkpoint):
    found = hashlib.sha256()
    for fqn in sorted(checkpoint.keys()):
        value = checkpoint[fqn]
        found.update(
            fqn.encode() + (value.numpy().tobytes() if hasattr(value, "numpy") else repr(value).encode())
        )
    return found.hexdigest()


def kill_before(operation):
    """Kill this process right before the file operation of this number (from 0)."""
    left = [operation]

    def counted(real):
        def call(*args, **kwargs):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return call

    for owner, name in OPERATIONS:
        setattr(owner, name, counted(getattr(owner, name)))


def copied(source, target):
    shutil.rmtree(target, ignore_errors=True)
    if os.path.isfile(target):
        os.unlink(target)
    if source:
        (shutil.copytree if os.path.isdir(source) else shutil.copy)(source, target)


def main(source, target, format, old=""):
    options = {"format": format, "max_shard_size": 300, "overwrite": bool(old), "objects": "drop"}
    found = []
    for operation in range(200):
        copied(old, target)
        child = os.fork()
        if not child:
            kill_before(operation)
            convert(source, target, **options)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        try:
            seen = digest(open_checkpoint(target))
        except PathError:
            seen = "nothing"
        found.append(seen)
        if not os.WIFSIGNALED(status):
            assert os.WEXITSTATUS(status) == 0
            break
    names = {found[-1]: "new", "nothing": "nothing"}
    if old:
        names[digest(open_checkpoint(old))] = "old"
    left = sorted(os.listdir(target)) if os.path.isdir(target) else []
    print(json.dumps({"seen": [names[seen] for seen in found], "left": left}))


if __name__ == "__main__":
    main(*sys.argv[1:])
