"""Archives that are sound and that are not: bits flipped in every byte, torch's own reader the judge."""

import io
from itertools import product

import pytest
import torch

from ckptlab.storage.crc import crc32
from ckptlab.storage.sound import archives, check_archive, check_tensor


def saved(value, **options):
    stream = io.BytesIO()
    torch.save(value, stream, **options)
    return stream.getvalue()


def of(data):
    return lambda at, n: data[at : at + n], lambda at, n: crc32(data[at : at + n])


def check(data, dtype, shape):
    return check_tensor(*of(data), len(data), dtype, shape)


def loads_the_same(data, wanted):
    try:
        return torch.equal(torch.load(io.BytesIO(data), weights_only=True), wanted)
    except Exception:
        return False


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(6.0).reshape(2, 3),
        torch.arange(12).reshape(3, 4).t(),
        torch.arange(10.0)[2:9:3],
        torch.tensor(3, dtype=torch.bfloat16),
        torch.zeros(0, 4, dtype=torch.uint16),
        torch.nn.Parameter(torch.ones(3)),
    ],
    ids=lambda t: f"{t.dtype}{list(t.shape)}",
)
def test_what_torch_writes_is_sound(tensor):
    found = check(saved(tensor), str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
    assert (found.state, found.why) == ("sound", "")


@pytest.mark.parametrize(
    "tensor", [torch.arange(3.0), torch.arange(6).reshape(2, 3).t()], ids=["plain", "turned"]
)
def test_no_flipped_byte_that_matters_goes_unseen(tensor):
    data, dtype = saved(tensor), str(tensor.dtype).removeprefix("torch.")
    unseen = 0
    for at, turn in product(range(len(data)), (0, 3)):
        bit = (at + turn) % 8
        flipped = bytearray(data)
        flipped[at] ^= 1 << bit
        if check(bytes(flipped), dtype, tuple(tensor.shape)).state == "sound":
            unseen += 1
            assert loads_the_same(bytes(flipped), tensor), (at, bit)
    # Padding, and fields of the zip that nobody reads.
    assert unseen < 2 * len(data) * 0.6


def test_a_flip_in_the_elements_names_their_record():
    data = bytearray(saved(torch.zeros(5)))
    data[data.index(bytes(20), 700)] ^= 1
    found = check(bytes(data), "float32", (5,))
    assert found.state == "crc"
    assert found.why.startswith("record data/0, 20 bytes, has crc ")
    assert found.bit == (data.index(b"\x01", 700), 0)


def test_cut_short_or_no_archive_at_all():
    data = saved(torch.zeros(5))
    for cut in (4, 30, len(data) // 2, len(data) - 1):
        assert check(data[:cut], "float32", (5,)).state == "wrapping"
    assert check(data[9:], "float32", (5,)).state == "wrapping"
    for none in (b"", b"P", bytes(2000)):
        assert check(none, "float32", (5,)).state == "alien"


def test_another_tensor_is_a_whole_archive():
    data = saved(torch.zeros(5))
    found = check(data, "float32", (7,))
    assert found.state == "other"
    assert found.why == "holds a float32 tensor of shape [5], but the metadata says float32 [7]"
    assert check(data, "int32", (5,)).state == "other"


def test_what_only_torch_can_read_is_not_damaged():
    assert check(saved(torch.eye(3).to_sparse()), "float32", (3, 3)).state == "foreign"
    assert check(saved([1, 2]), "float32", (3,)).state == "foreign"


def test_crcs_that_were_not_computed():
    torch.serialization.set_crc32_options(False)
    try:
        data = saved(torch.ones(3))
    finally:
        torch.serialization.set_crc32_options(True)
    assert check(data, "float32", (3,)).state == "unchecked"
    assert check(data, "float32", (4,)).state == "other"
    damaged = bytearray(data)
    damaged[damaged.index(b"PK\x01\x02")] ^= 1
    assert check(bytes(damaged), "float32", (3,)).state == "wrapping"


def test_objects_of_any_kind():
    data = saved({"a": [torch.ones(300_000), 3], "b": "text"})
    assert check_archive(*of(data), len(data)).state == "sound"
    flipped = bytearray(data)
    flipped[600_000] ^= 1
    assert check_archive(*of(bytes(flipped)), len(data)).state == "crc"


def test_archives_in_a_file_are_found_wherever_they_are():
    one, two = saved(torch.arange(9.0)), saved(torch.zeros(1 << 20, dtype=torch.uint8))
    inner = saved({"nested": one})
    data = one + b"padding" + two[:500] + two + inner + two[:-1]
    whole = len(one) + 7 + 500
    found = list(archives(lambda at, n: data[at : at + n], len(data)))
    assert (0, len(one)) in found
    assert (whole, whole + len(two)) in found
    assert (whole + len(two), whole + len(two) + len(inner)) in found
    assert all(end <= whole + len(two) + len(inner) for _, end in found)
    assert all(data[start : start + 4] == b"PK\x03\x04" for start, _ in found)


def test_an_end_across_two_blocks_is_found_once():
    from ckptlab.storage import sound

    one = saved(torch.zeros(3))
    end = one.rindex(b"PK\x05\x06")
    for shift in range(6):
        data = bytes(sound._BLOCK - end - 5 + shift) + one
        assert list(archives(lambda at, n, data=data: data[at : at + n], len(data))) == [
            (len(data) - len(one), len(data))
        ]
