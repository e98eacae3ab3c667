import zlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ckptlab.storage.crc import crc32, crcs


@given(st.binary(max_size=3000), st.binary(max_size=50))
def test_crc32_is_that_of_zip_archives_and_goes_on(data, more):
    assert crc32(data) == zlib.crc32(data)
    assert crc32(more, crc32(data)) == zlib.crc32(data + more)


def test_each_row_has_its_own():
    rows = np.arange(4 * 7, dtype=np.uint8).reshape(7, 4)
    for some in (rows, rows[::2], rows.T):
        assert crcs(some).tolist() == [zlib.crc32(row.tobytes()) for row in some]
