"""What crosses between driver and rank: a call one way, told things and one answer the other.

Knows nothing of how it travels.
"""

from __future__ import annotations

import io
import pickle
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType
from typing import Any

from ckptlab.errors import CheckpointError
from ckptlab.live.ranks import Context


@dataclass(frozen=True, slots=True)
class Told:
    """Something that a rank tells on the way."""

    what: object


@dataclass(frozen=True, slots=True)
class Done:
    """The op returned `value`."""

    value: object


@dataclass(frozen=True, slots=True)
class Failure:
    """The op raised, or the rank died; `error` is the exception itself where it is ckptlab's own."""

    what: str
    trace: str = ""
    died: bool = False
    error: CheckpointError | None = None


Message = Told | Done | Failure


class _CallPickler(pickle.Pickler):
    """Refuses by name what a rank could not import."""

    def reducer_override(self, obj: object) -> Any:
        if isinstance(obj, type | FunctionType) and getattr(obj, "__module__", None) == "__main__":
            raise CheckpointError(
                f"`{obj.__qualname__}` is defined in __main__ (a notebook cell or the script itself), which "
                "the ranks cannot import: put it in a module (a .py file beside the notebook) and import it",
                [obj.__qualname__],
            )
        return NotImplemented


def pack_call(op: Callable[..., object], args: tuple[object, ...]) -> bytes:
    """Pickle a call; raises `CheckpointError` for what the ranks could not import or receive."""
    buffer = io.BytesIO()
    try:
        _CallPickler(buffer).dump((op, args))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        name = getattr(op, "__qualname__", repr(op))
        raise CheckpointError(
            f"the call of `{name}` cannot be sent to the ranks ({error}): "
            "the op must be a function at the top of a module, and its arguments picklable",
            [name],
        ) from error
    return buffer.getvalue()


def call(context: Context, packed: bytes) -> object:
    """Make a packed call on this rank."""
    op, args = pickle.loads(packed)
    result: object = op(context, *args)
    return result


def answer(work: Callable[[], object]) -> bytes:
    """Do some work; the packed `Done` or `Failure`, whatever it did."""
    try:
        value = work()
    except BaseException as error:  # the driver waits for an answer, also to SystemExit
        return pickle.dumps(failure_of(error))
    try:
        return pickle.dumps(Done(value))
    except Exception as error:  # pickling runs the value's own code
        return pickle.dumps(Failure(f"its result, a {type(value).__name__}, cannot be sent: {error}"))


def failure_of(error: BaseException) -> Failure:
    """The record of an exception, with its traceback as text."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return Failure(text, "".join(traceback.format_exception(error)), error=_sendable(error))


def _sendable(error: BaseException) -> CheckpointError | None:
    """The error itself where it is ckptlab's own and survives the journey."""
    if not isinstance(error, CheckpointError):
        return None
    try:
        copy = pickle.loads(pickle.dumps(error))
    except Exception:  # a problem record of any type may refuse in any way
        return None
    assert isinstance(copy, CheckpointError)
    return copy


def unpack(packed: bytes) -> Message:
    """Read a rank's message; one that cannot be read here is a `Failure` of that rank."""
    try:
        message: Message = pickle.loads(packed)
    except Exception as error:  # unpickling runs the value's own code
        return Failure(f"what it sent cannot be read by the driver: {type(error).__name__}: {error}")
    return message
