import hashlib
import io
import math
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptlab.metadata import ITEMSIZE
from ckptlab.storage.crc import crc32, crcs
from ckptlab.storage.template import contiguous, template

pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")


def saved(tensor):
    out = io.BytesIO()
    torch.save(tensor, out)
    return out.getvalue()


def filled(dtype, shape):
    """A tensor of random bytes (bools are made of 0 and 1)."""
    n = math.prod(shape) * ITEMSIZE[dtype]
    raw = torch.randint(0, 2 if dtype == "bool" else 256, (max(n, 16),), dtype=torch.uint8)
    return raw.view(getattr(torch, dtype))[: math.prod(shape)].clone().reshape(shape).contiguous()


def ours(dtype, shape, tensor):
    wrap = template(dtype, shape)
    payload = tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if wrap.nbytes else b""
    assert len(payload) == wrap.nbytes
    return wrap.before + payload + wrap.after(crc32(payload))


@pytest.mark.parametrize("dtype", ITEMSIZE)
@pytest.mark.parametrize(
    "shape", [(), (1,), (3,), (0,), (4, 0, 5), (2, 3), (1, 1), (2, 3, 4, 1, 2), (300, 3)]
)
def test_what_torch_writes_bit_for_bit(dtype, shape):
    tensor = filled(dtype, shape)
    want = saved(tensor)
    assert ours(dtype, shape, tensor) == want
    assert template(dtype, shape).length == len(want)


@settings(deadline=None, max_examples=200)
@given(
    st.sampled_from(sorted(ITEMSIZE)),
    st.lists(st.integers(0, 7) | st.sampled_from([255, 256, 1000]), max_size=4).filter(
        lambda shape: math.prod(shape) < 100_000
    ),
)
def test_any_dtype_and_shape(dtype, shape):
    tensor = filled(dtype, tuple(shape))
    assert ours(dtype, tuple(shape), tensor) == saved(tensor)


@settings(max_examples=50, deadline=None)
@given(
    dtype=st.sampled_from(sorted(ITEMSIZE)),
    shape=st.lists(st.integers(0, 9), max_size=3),
    n=st.integers(1, 5),
)
def test_many_at_once_are_as_one_by_one(dtype, shape, n):
    tensors = [filled(dtype, shape) for _ in range(n)]
    payloads = [t.reshape(-1).view(torch.uint8).numpy() for t in tensors]
    frame = template(dtype, tuple(shape))
    chunks = frame.blank(n)
    for rows in (np.stack(payloads[::-1]), np.stack(payloads)):  # each time in the place of what was there
        frame.fill(chunks, rows, crcs(rows))
    for chunk, tensor in zip(chunks, tensors, strict=True):
        assert chunk.tobytes() == ours(dtype, tuple(shape), tensor) == saved(tensor)


@given(dtype=st.sampled_from(sorted(ITEMSIZE)), shape=st.lists(st.integers(1, 9), max_size=3))
def test_where_the_crc_stands(dtype, shape):
    tensor, wrap = filled(dtype, shape), template(dtype, tuple(shape))
    crc = crc32(tensor.reshape(-1).view(torch.uint8).numpy().data)
    assert saved(tensor)[wrap.crc_at : wrap.crc_at + 4] == crc.to_bytes(4, "little")


def test_sizes_that_need_wider_numbers_in_the_pickle():
    for shape in [(70_000,), (65_535,), (65_536,), (0, 2**31), (0, 2**31 - 1), (2**40, 0)]:
        tensor = torch.zeros(shape, dtype=torch.uint8)
        assert ours("uint8", shape, tensor) == saved(tensor)


@pytest.mark.parametrize(
    ("n", "crc", "digest"),
    [
        (2**32 - 1025, 0x5A0D21F4, "7a8973c91d031b7180c97a3c635076067d088b04e513ea41c106fc4fd1233a88"),
        (2**32 - 2, 0x0F6A7026, "90a3e4eda027d4f570f632dc85023b26826e79575db1b1f96625d5f7d29668d0"),
        (2**32 - 1, 0x00000000, "b73ed3a0aa1c67a55bdec14c814b745f56158470431b304e4b7849288c399f1a"),
        (2**32, 0xD202EF8D, "35ebc759928255c225a668cafb3c7f95a3457ae88c3f4c2b2be825993bdb2220"),
        (2**32 + 64, 0x1DCDF777, "39ba4274527bcbb5c7f49027aa5b436ddc7af9628e719fea2fb8bc4b50dad233"),
    ],
)
def test_4_gib_as_torch_wrote_it(n, crc, digest):
    # sha256 of all but the payload of torch.save(torch.zeros(n, dtype=torch.uint8), "archive.pt"), torch 2.13
    wrap = template("uint8", (n,))
    assert hashlib.sha256(wrap.before + wrap.after(crc)).hexdigest() == digest


def test_4_gib_is_read_by_torch_and_zipfile(tmp_path):
    n = 2**32 + 100
    wrap = template("uint8", (n,))
    with (tmp_path / "big.pt").open("wb") as out:
        out.write(wrap.before)
        out.seek(len(wrap.before) + n - 1)
        out.write(b"\x07" + wrap.after(0x12345678))
    with zipfile.ZipFile(tmp_path / "big.pt") as archive:
        info = archive.getinfo("archive/data/0")
        assert (info.file_size, info.compress_size, info.CRC) == (n, n, 0x12345678)
        assert archive.read("archive/version") == b"3\n"
    tensor = torch.load(tmp_path / "big.pt", mmap=True)
    assert tensor.shape == (n,)
    assert tensor[-1] == 7
    assert tensor[-2] == 0


@given(st.lists(st.integers(0, 5), max_size=5))
def test_contiguous_strides_are_torchs(shape):
    assert contiguous(shape) == torch.empty(shape).stride()
