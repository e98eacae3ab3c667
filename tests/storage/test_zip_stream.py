import io
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptlab.storage.crc import crc32
from ckptlab.storage.zip_stream import ALIGNMENT, ZipStream


def written(records):
    zipped = ZipStream()
    parts = [
        part
        for name, data in records
        for part in (zipped.begin(name, len(data)), data, zipped.end(crc32(data)))
    ]
    return b"".join([*parts, zipped.finish()])


@given(st.lists(st.binary(max_size=200), max_size=8))
def test_a_zip_that_others_read(records):
    named = [(f"archive/é{i}", data) for i, data in enumerate(records)]
    with zipfile.ZipFile(io.BytesIO(written(named))) as found:
        assert [(info.filename, found.read(info)) for info in found.infolist()] == named
        assert found.testzip() is None


def test_every_record_begins_at_a_multiple_of_64():
    zipped, at = ZipStream(), 0
    for i in range(200):
        at += len(zipped.begin("x" * i, i))
        assert at % ALIGNMENT == 0
        at += i + len(zipped.end(0))


def test_where_the_directory_has_each_crc():
    zipped = ZipStream()
    for name, size in [("é", 0), ("a/b", 7)]:
        zipped.begin(name, size)
        zipped.end(0x01020304 + size)
    end = zipped.finish()
    assert {name: int.from_bytes(end[at : at + 4], "little") for name, at in zipped.crc_at.items()} == {
        "é": 0x01020304, "a/b": 0x0102030B,
    }  # fmt: skip


def test_more_records_than_two_bytes_count():
    data = written([(str(i), b"") for i in range(70_000)])
    with zipfile.ZipFile(io.BytesIO(data)) as found:
        assert len(found.namelist()) == 70_000
    # The end says that the count stands elsewhere.
    assert data[-22 + 8 : -22 + 12] == b"\xff\xff\xff\xff"


@pytest.mark.parametrize("size", [2**32 - 2, 2**32 - 1, 2**32, 5 * 2**30])
def test_sizes_and_places_of_more_than_four_bytes(tmp_path, size):
    zipped = ZipStream()
    with (tmp_path / "big.zip").open("wb") as out:
        for name, length in [("big", size), ("small", 3)]:
            out.write(zipped.begin(name, length))
            out.seek(length - 3, io.SEEK_CUR)
            out.write(b"end")
            out.write(zipped.end(crc32(b"end") if length == 3 else 0))
        out.write(zipped.finish())
    with zipfile.ZipFile(tmp_path / "big.zip") as found:
        assert [info.file_size for info in found.infolist()] == [size, 3]
        assert found.read("small") == b"end"
