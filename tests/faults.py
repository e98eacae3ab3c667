"""What the tests of faults ask of the answers that ranks give."""

from __future__ import annotations

import dataclasses

SOON = 5.0
"""Seconds: far more than any of this takes, far less than a collective's timeout."""


def agreed(failures):
    """The one failure that every rank raised, soon."""
    alike = {dataclasses.replace(f, seconds=0, untouched=True) for f in failures}
    assert alike == {dataclasses.replace(failures[0], seconds=0, untouched=True)}
    assert max(f.seconds for f in failures) < SOON
    return failures[0]
