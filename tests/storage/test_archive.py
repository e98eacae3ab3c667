import io
import zipfile

import pytest
import torch

from ckptlab.errors import CorruptError
from ckptlab.storage.archive import Archive, reading_zip


def zipped(records, compression=zipfile.ZIP_STORED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, data in records.items():
            archive.writestr(name, data)
    return out.getvalue()


def opened(data, asked=None):
    def read(start, n):
        if asked is not None:
            asked.append((start, n))
        return data[start : start + n]

    return Archive(read, len(data))


def test_records_under_any_name():
    archive = opened(zipped({"model_1/data.pkl": b"P", "model_1/data/0": b"xyz", "model_1/version": b"3"}))
    assert archive.content("data.pkl") == b"P"
    assert archive.content("data/0") == b"xyz"
    assert "version" in archive
    assert "byteorder" not in archive


def test_the_payload_is_not_read():
    out = io.BytesIO()
    torch.save(torch.zeros(1_000_000), out)
    asked = []
    archive = opened(out.getvalue(), asked)
    start = archive.start("data/0")
    archive.content("data.pkl")
    inside = range(start, start + 4_000_000)
    assert sum(len(range(max(a, inside.start), min(a + n, inside.stop))) for a, n in asked) < 1000
    assert sum(n for _, n in asked) < 4000


def test_compressed_records_are_refused():
    data = zipped({"a/data.pkl": b"P" * 100, "a/data/0": bytes(1000)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(CorruptError, match=r"here: .*compressed"), reading_zip("here"):
        opened(data).content("data/0")


@pytest.mark.parametrize("records", [{}, {"a/x": b""}, {"a/data.pkl": b"", "b/data.pkl": b""}])
def test_other_zips_are_refused(records):
    with pytest.raises(CorruptError, match=r"here: .*no torch\.save archive"), reading_zip("here"):
        opened(zipped(records))


@pytest.mark.parametrize("data", [b"", b"no zip", b"PK\x05\x06", bytes(100)])
def test_no_zip(data):
    with pytest.raises(CorruptError, match="here"), reading_zip("here"):
        opened(data)


def test_a_directory_that_points_elsewhere():
    good = zipped({"a/data.pkl": b"P", "a/data/0": b"xyz"})
    assert opened(good).start("data/0")
    moved = good.replace(b"PK\x03\x04", b"PK\x03\x05")
    with pytest.raises(CorruptError, match="not where the directory says"), reading_zip("here"):
        opened(moved).start("data/0")
