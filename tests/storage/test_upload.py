import pytest

from ckptlab.storage import upload as module
from ckptlab.storage.upload import BLOCK, Upload, block_for


class File:
    """As what fsspec opens, kept in memory."""

    def __init__(self):
        self.sent, self.done = [], []

    def write(self, data):
        self.sent.append(bytes(data))

    def flush(self):
        self.done.append("flush")

    def close(self):
        self.done.append("close")

    def commit(self):
        self.done.append("commit")

    def discard(self):
        self.done.append("discard")


class Buffered(File):
    blocksize, offset, closed = 5, 0, False


def told(what, step):
    return step()


def test_buffers_are_sent_in_blocks_and_in_order(monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 4)
    file = File()
    out = Upload(file, told)
    out.write_at(0, [b"0123456789", memoryview(b"ab"), b""])
    out.write_at(12, [bytearray(b"c")])
    assert file.sent == [b"0123", b"4567", b"89", b"ab", b"c"]
    assert out.at == 13
    out.keep()
    assert file.done == ["close", "commit"]


def test_what_must_last_leaves_every_buffer():
    file = File()
    Upload(file, told).sync()
    assert file.done == ["flush"]


def test_what_comes_out_of_order_is_our_own_mistake():
    out = Upload(File(), told)
    out.write_at(0, [b"abc"])
    for offset in (0, 2, 4):
        with pytest.raises(AssertionError, match=f"byte {offset} of a stream that stands at byte 3"):
            out.write_at(offset, [b"x"])


def test_a_buffered_file_that_is_dropped_is_never_closed():
    """Closing it would send what it still holds."""
    file, removed = Buffered(), []
    Upload(file, told).drop(lambda: removed.append(1))
    assert (file.done, file.closed, removed) == (["discard"], True, [])


def test_a_file_that_shows_while_it_grows_is_removed():
    file, removed = File(), []
    Upload(file, told).drop(lambda: removed.append(1))
    assert (file.done, removed) == (["discard", "close"], [1])


def test_what_fails_is_told_with_its_place():
    heard = []

    def listening(what, step):
        heard.append(what)
        return step()

    out = Upload(File(), listening)
    out.write_at(0, [b"abc"])
    out.write_at(3, [b"d"])
    out.keep()
    assert heard == ["write byte 0", "write byte 3", "write it"]


@pytest.mark.parametrize("size", [0, 1, BLOCK, 9_000 * BLOCK, 9_000 * BLOCK + 1, 5 << 40])
def test_a_file_of_any_size_has_fewer_than_ten_thousand_parts(size):
    assert block_for(size) >= BLOCK
    assert -(-size // block_for(size)) <= 9_000
