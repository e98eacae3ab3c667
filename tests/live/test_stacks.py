"""Stacks out of a faulthandler dump, without processes."""

from ckptlab.live import wire
from ckptlab.live.stacks import NO_STACK, op_stack

DUMP = f"""Thread 0x00000000000000aa (most recent call first):
  File "threading.py", line 1 in wait

Current thread 0x00000000000000bb (most recent call first):
  File "op.py", line 7 in deep
  File "op.py", line 3 in op
  File "{wire.__file__}", line 1 in call
  File "rank.py", line 2 in main
"""


def test_the_main_threads_frames_down_to_the_op():
    assert op_stack(DUMP, 0xBB) == '  File "op.py", line 7 in deep\n  File "op.py", line 3 in op'


def test_no_dump_is_said():
    assert op_stack("", 0xBB) == NO_STACK
    assert op_stack(DUMP, 0xCC) == NO_STACK
