"""Pickles that try to get something run, for tests of what may open them.

Each takes the path of a canary file, which appears if the attempt succeeds.
"""

import pickle
import struct
from collections.abc import Callable, Mapping


def _text(value: str) -> bytes:
    body = value.encode()
    return b"X" + struct.pack("<I", len(body)) + body


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _stacked(module: str, name: str) -> bytes:
    return _text(module) + _text(name) + b"\x93"


def _touch(canary: str) -> bytes:
    return _text(f"touch {canary}")


def _reduced(canary: str) -> bytes:
    class Runs:
        def __reduce__(self):
            import os

            return os.system, (f"touch {canary}",)

    return pickle.dumps({"state_dict_metadata": Runs()})


def _opened(canary: str) -> bytes:
    return _text(f"open({canary!r}, 'w').close()")


def _called(function: bytes, argument: bytes) -> bytes:
    return b"\x80\x04" + function + argument + b"\x85R."


_META = "torch.distributed.checkpoint.metadata"
_SYSTEM = _stacked("os", "system")

ATTEMPTS: Mapping[str, Callable[[str], bytes]] = {
    "reduce": _reduced,
    "global": lambda c: _called(_global("os", "system"), _touch(c)),
    "stack global": lambda c: _called(_SYSTEM, _touch(c)),
    "posix": lambda c: _called(_stacked("posix", "system"), _touch(c)),
    "inst": lambda c: b"(" + _touch(c) + b"ios\nsystem\n.",
    "obj": lambda c: b"(" + _global("os", "system") + _touch(c) + b"o.",
    "eval": lambda c: _called(_stacked("builtins", "eval"), _opened(c)),
    "eval of old": lambda c: b"\x80\x02" + _global("__builtin__", "eval") + _opened(c) + b"\x85R.",
    "getattr": lambda c: _called(_stacked("builtins", "getattr"), _text(c)),
    "dotted": lambda c: _called(_stacked("os", "path.os.system"), _touch(c)),
    "dotted from an allowed module": lambda c: _called(_stacked(_META, "os.system"), _touch(c)),
    "dotted from an allowed name": lambda c: _called(_stacked("torch", "Size.count"), _text(c)),
    "newobj": lambda c: b"\x80\x04" + _stacked("subprocess", "Popen") + _touch(c) + b"\x85\x81.",
    "newobj with keywords": lambda c: (
        _stacked("subprocess", "Popen") + _touch(c) + b"\x85}" + _text("shell") + b"\x88s\x92."
    ),
    "partial": lambda c: _called(_stacked("functools", "partial"), _SYSTEM),
    "copyreg": lambda c: _called(_stacked("copyreg", "_reconstructor"), _touch(c)),
    "torch.load": lambda c: _called(_stacked("torch", "load"), _text(c)),
    "nested in storage_data": lambda c: b"".join(
        [b"\x80\x04", _global(_META, "Metadata"), b")\x81}(", _text("state_dict_metadata"), b"}",
         _text("storage_data"), b"}(", _text("w"), _SYSTEM, _touch(c), b"\x85Ruub."]
    ),
    "state of a class": lambda c: b"".join(
        [b"\x80\x04", _global(_META, "Metadata"), b"N}", _text("__setstate__"), _SYSTEM, b"s\x86b."]
    ),
    "extension 1": lambda c: b"\x80\x02\x82\x01.",
    "extension 2": lambda c: b"\x80\x02\x83\x01\x00.",
    "extension 4": lambda c: b"\x80\x02\x84\x01\x00\x00\x00.",
    "persistent id": lambda c: _text("os") + b"Q.",
    "persistent id of old": lambda c: b"Pos\n.",
}  # fmt: skip


def proven(attempt: str, canary: str) -> bool:
    """Whether the plain unpickler runs it (else it proves nothing that the canary stays away)."""
    import os

    pickle.loads(ATTEMPTS[attempt](canary))
    return os.path.exists(canary)
