"""Python stacks of ranks as text: out of faulthandler's dump, down to what the op was doing.

Knows nothing of processes.
"""

from __future__ import annotations

from ckptlab.live import wire

NO_STACK = "  (it did not show its stack: stopped, or in a call that the kernel does not interrupt)"


def op_stack(dump: str, thread: int) -> str:
    """The frames of `thread` in a faulthandler `dump`, most recent first, as far as the op's own."""
    for section in dump.split("\n\n"):
        head, _, frames = section.partition("\n")
        if f"0x{thread:016x}" in head and frames:
            return _below_ours(frames.splitlines())
    return NO_STACK


def _below_ours(frames: list[str]) -> str:
    ours = next((i for i, frame in enumerate(frames) if f'"{wire.__file__}"' in frame), len(frames))
    return "\n".join(frame for frame in frames[:ours] if frame.strip()) or NO_STACK
