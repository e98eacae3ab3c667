"""Memory at its highest: what was taken since, though it is given back, and nothing from before."""

import sys
from pathlib import Path

import pytest

from ckptlab.live.peak import UNKNOWN, Peak

MIB = 1 << 20


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_what_was_taken_and_given_back_is_seen_once():
    peak = Peak()
    taken = bytearray(b"\x01") * (96 * MIB)
    del taken
    assert 90 * MIB < peak.nbytes < 140 * MIB
    assert Peak().nbytes < 30 * MIB


def test_where_nobody_tells_it_is_unknown(monkeypatch):
    def refuse(path, text):
        raise PermissionError

    monkeypatch.setattr(Path, "write_text", refuse)
    assert Peak().nbytes == UNKNOWN
    monkeypatch.setattr(sys, "platform", "darwin")
    assert Peak().nbytes == UNKNOWN
