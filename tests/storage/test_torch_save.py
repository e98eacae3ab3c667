import contextlib
import copyreg
import gc
import io
import os
import pickle
import zipfile
from collections import OrderedDict, namedtuple

import pytest
import torch
from hostile import ATTEMPTS, proven
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptlab.errors import CheckpointError, CorruptError, UnsafeError
from ckptlab.metadata import ITEMSIZE
from ckptlab.storage.crc import crc32
from ckptlab.storage.template import template
from ckptlab.storage.torch_save import (
    Payload,
    StandIn,
    gc_paused,
    locate,
    peek_object,
    restricted_load,
    stored_crc,
)

pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")


def saved(value, **options):
    out = io.BytesIO()
    torch.save(value, out, **options)
    return out.getvalue()


def reader(data, asked=None):
    def read(start, n):
        if asked is not None:
            asked.append((start, n))
        return data[start : start + n]

    return read


def located(data, dtype, shape):
    return locate(reader(data), len(data), dtype, tuple(shape), "'w' in __0_0.distcp at byte 7")


def elements(data, payload):
    """The tensor that a `Payload` describes."""
    raw = torch.frombuffer(bytearray(data), dtype=torch.uint8)[
        payload.start : payload.start + payload.nbytes
    ].clone()
    flat = raw.view(getattr(torch, payload.dtype))
    return torch.as_strided(flat, payload.shape, payload.strides, payload.storage_offset)


def as_bytes(tensor):
    # A fresh one: contiguous() keeps odd strides of dims of size 1.
    return torch.empty(tensor.numel(), dtype=tensor.dtype).copy_(tensor.reshape(-1)).view(torch.uint8)


# ---------------------------------------------------------------- where the bytes are


def test_what_torch_writes_takes_one_short_read():
    data = saved(torch.arange(1000.0))
    asked = []
    payload = locate(reader(data, asked), len(data), "float32", (1000,), "w")
    assert asked == [(0, payload.start)]
    assert payload == Payload(payload.start, 4000, "float32", (1000,), (1,), 0)
    assert torch.equal(elements(data, payload), torch.arange(1000.0))


BASE = torch.arange(210).reshape(5, 6, 7)
VIEWS = {
    "transposed": lambda t: t.transpose(0, 2),
    "part of a storage": lambda t: t[1:3],
    "columns": lambda t: t[:, 2:4, 1:],
    "strided": lambda t: t[::2, ::3],
    "expanded": lambda t: t[:1].expand(4, 6, 7),
    "one element": lambda t: t[2, 3, 4],
    "none": lambda t: t[2:2],
    "parameter": lambda t: torch.nn.Parameter(t.clone(), requires_grad=t.is_floating_point()),
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize(
    "dtype", ["int64", "float32", "bfloat16", "uint16", "float8_e5m2", "complex64", "bool"]
)
def test_views_that_torch_wrote_as_they_were(view, dtype):
    tensor = VIEWS[view](BASE.to(torch.float32).to(getattr(torch, dtype)))
    data = saved(tensor)
    found = elements(data, located(data, dtype, tensor.shape))
    assert torch.equal(as_bytes(found), as_bytes(tensor.detach()))


@given(st.sampled_from(sorted(ITEMSIZE)), st.data())
@settings(deadline=None)
def test_random_views(dtype, draw):
    base = torch.randint(0, 2, (4, 5, 6)).to(torch.float32).to(getattr(torch, dtype))
    view = base.permute(draw.draw(st.permutations(range(3))))
    for dim in range(3):
        start = draw.draw(st.integers(0, view.shape[dim]))
        view = view.narrow(dim, start, draw.draw(st.integers(0, view.shape[dim] - start)))
    data = saved(view)
    found = elements(data, located(data, dtype, view.shape))
    assert torch.equal(as_bytes(found), as_bytes(view))


def rezipped(data, rename=lambda name: name, drop=(), change=None):
    """The same archive as another writer would lay it out."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            short = name.split("/", 1)[1]
            if short not in drop:
                new.writestr(rename(name), (change or {}).get(short, old.read(name)))
    return out.getvalue()


def test_older_layouts_and_other_archive_names():
    tensor = torch.arange(24.0).reshape(4, 6)
    old = (".format_version", ".storage_alignment", "byteorder", ".data/serialization_id")
    data = rezipped(saved(tensor), lambda name: name.replace("archive", "model_7"), old)
    assert torch.equal(torch.load(io.BytesIO(data)), tensor)
    assert torch.equal(elements(data, located(data, "float32", (4, 6))), tensor)


@pytest.mark.parametrize(
    ("dtype", "shape"), [("float32", (6, 4)), ("float32", (24,)), ("int32", (4, 6)), ("float64", (2, 6))]
)
def test_another_tensor_than_claimed(dtype, shape):
    with pytest.raises(
        CorruptError, match=r"'w' in __0_0\.distcp at byte 7: holds a float32 tensor of shape \[4, 6\]"
    ):
        located(saved(torch.zeros(4, 6)), dtype, shape)


class Odd(torch.Tensor):
    pass


NO_PLAIN_TENSOR = {
    "list": lambda: [torch.zeros(3), torch.zeros(3)],
    "dict": lambda: {"a": 1},
    "none": lambda: None,
    "sparse": lambda: torch.zeros(3).to_sparse(),
    "conjugate": lambda: torch.ones(3, dtype=torch.complex64).conj(),
    "quantised": lambda: torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.quint8),
    "subclass": lambda: torch.zeros(3).as_subclass(Odd),
    "meta": lambda: torch.zeros(3, device="meta"),
}


@pytest.mark.parametrize("value", NO_PLAIN_TENSOR)
@pytest.mark.filterwarnings("ignore")
def test_what_is_no_dense_tensor_is_refused(value):
    dtype = "complex64" if value == "conjugate" else "float32"
    with pytest.raises((CorruptError, UnsafeError), match=r"'w' in __0_0\.distcp at byte 7"):
        located(saved(NO_PLAIN_TENSOR[value]()), dtype, (3,))


def test_big_endian_is_refused():
    data = rezipped(saved(torch.zeros(3)), change={"byteorder": b"big"})
    with pytest.raises(CorruptError, match="big-endian"):
        located(data, "float32", (3,))


def test_storage_too_small_is_refused():
    data = rezipped(saved(torch.zeros(3)), change={"data/0": bytes(11)})
    with pytest.raises(CorruptError, match="needs 12 bytes, its storage has 11"):
        located(data, "float32", (3,))


def test_the_template_must_match_to_the_byte():
    data = saved(torch.zeros(3))
    wrong = data.replace(b"_rebuild_tensor_v2", b"_rebuild_tensor_v9", 1)
    with pytest.raises(UnsafeError, match="_rebuild_tensor_v9"):
        located(wrong, "float32", (3,))


def test_the_old_format_of_torch_is_refused():
    with pytest.raises(CorruptError, match=r"no torch\.save archive"):
        located(saved(torch.zeros(3), _use_new_zipfile_serialization=False), "float32", (3,))


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_hostile_chunks(attempt, tmp_path):
    canary = str(tmp_path / "canary")
    data = rezipped(saved(torch.zeros(3)), change={"data.pkl": ATTEMPTS[attempt](canary)})
    with pytest.raises(CheckpointError):
        located(data, "float32", (3,))
    assert not os.path.exists(canary)


DAMAGED = saved(torch.arange(24.0).reshape(4, 6).t())


@given(st.data())
@settings(deadline=None, max_examples=400)
def test_damage_raises_nothing_but_our_errors(data):
    whole = bytearray(DAMAGED)
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        whole = whole[: data.draw(st.integers(0, len(whole)))]
    try:
        payload = located(bytes(whole), "float32", (6, 4))
        assert payload.start + payload.nbytes <= len(whole)
        assert payload.start >= 0
    except CheckpointError:
        pass
    for act in (lambda: stored_crc(reader(bytes(whole)), len(whole)), lambda: peek_object(bytes(whole))):
        with contextlib.suppress(CheckpointError):
            act()


@pytest.mark.parametrize("tensor", [torch.arange(100), torch.zeros(0), torch.arange(24).reshape(4, 6).t()])
def test_stored_crc(tensor):
    data = saved(tensor)
    storage = bytes(tensor.untyped_storage())
    assert stored_crc(reader(data), len(data)) == crc32(storage)


# ---------------------------------------------------------------- pickles


@pytest.mark.parametrize("attempt", ["reduce", "stack global", "inst", "obj", "eval", "dotted"])
def test_the_attempts_would_work_elsewhere(attempt, tmp_path):
    assert proven(attempt, str(tmp_path / "canary"))


class Record(StandIn):
    pass


ALLOWED = {
    ("torch.distributed.checkpoint.metadata", "Metadata"): Record,
    ("collections", "OrderedDict"): dict,
    ("torch", "Size"): tuple,
}


@pytest.mark.parametrize("padding", [0, 2 << 20])
@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_every_attempt_is_refused(attempt, padding, tmp_path):
    canary = str(tmp_path / "canary")
    code = ATTEMPTS[attempt](canary)
    if padding:
        head = code[:2] if code[:1] == b"\x80" else b""
        code = head + b"X" + padding.to_bytes(4, "little") + b" " * padding + b"0" + code[len(head) :]
    # Beyond what is looked through beforehand, an extension that nobody registered is no name at all.
    error = CorruptError if padding and attempt.startswith("extension") else UnsafeError
    with pytest.raises(error, match=r"here\.metadata"):
        restricted_load(code, ALLOWED, "here.metadata")
    assert not os.path.exists(canary)
    assert "__setstate__" not in vars(Record)


@pytest.mark.parametrize("padding", [0, 2 << 20])
def test_a_registered_extension_is_refused_though_it_is_cached(padding, tmp_path):
    copyreg.add_extension("os", "system", 77)
    try:
        pickle.loads(b"\x80\x02\x82\x4d.")
        code = b"\x80\x02" + b"X" + padding.to_bytes(4, "little") + b" " * padding + b"0"
        code += b"\x82\x4d" + b"X\x04\x00\x00\x00true\x85R."
        assert pickle.loads(code) == 0
        with pytest.raises(UnsafeError, match="extension"):
            restricted_load(code, ALLOWED, "w")
    finally:
        copyreg.remove_extension("os", "system", 77)
        copyreg.clear_extension_cache()


def test_the_name_that_was_asked_for_is_told():
    with pytest.raises(UnsafeError, match=r"f: asks for os\.system") as caught:
        restricted_load(b"\x80\x02cos\nsystem\n.", ALLOWED, "f")
    assert caught.value.problems == ("os.system",)


META = b"ctorch.distributed.checkpoint.metadata\nMetadata\n"


@pytest.mark.parametrize(
    "state",
    [
        b"}X\x01\x00\x00\x00aK\x01s",  # the class's own dict
        b"N}X\x01\x00\x00\x00aK\x01s\x86",  # attributes of the class
    ],
)
def test_a_stand_in_class_cannot_be_altered(state):
    with pytest.raises(CorruptError):
        restricted_load(b"\x80\x02" + META + state + b"b.", ALLOWED, "w")
    assert not hasattr(Record, "a")


def test_a_stand_in_takes_state_and_no_attributes():
    made = restricted_load(b"\x80\x02" + META + b")\x81}X\x01\x00\x00\x00aK\x01sb.", ALLOWED, "w")
    assert type(made) is Record
    assert vars(made) == {"a": 1}
    with pytest.raises(CorruptError):
        restricted_load(
            b"\x80\x02" + META + b")\x81N}X\x09\x00\x00\x00__class__" + META + b"s\x86b.", ALLOWED, "w"
        )


def test_a_huge_memo_number_takes_no_memory():
    with pytest.raises(CorruptError, match="numbers a value"):
        restricted_load(b"\x80\x02Nr\xff\xff\xff\x0f.", ALLOWED, "w")


@pytest.mark.parametrize(
    "data", [b"", b".", b"\x80", b"\x80\x02", b"\x80\x09N.", b"no pickle", b"\x80\x02(.", b"\xff" * 50]
)
def test_no_pickle(data):
    with pytest.raises(CorruptError, match="w: damaged"):
        restricted_load(data, ALLOWED, "w")


@pytest.mark.parametrize("on", [True, False])
@pytest.mark.parametrize("data", [pickle.dumps([1]), b"broken"])
def test_garbage_collection_is_as_before(on, data):
    was = gc.isenabled()
    try:
        gc.enable() if on else gc.disable()
        with contextlib.suppress(CorruptError):
            restricted_load(data, {}, "w")
        assert gc.isenabled() == on
        with gc_paused():
            assert not gc.isenabled()
        assert gc.isenabled() == on
    finally:
        gc.enable() if was else gc.disable()


# ---------------------------------------------------------------- objects

PLAIN = [
    None, True, 7, -(2**80), 2.5, "text", b"", b"bytes\xff\x00", [1, [2]], (1, (2,)), {"a": {1: 2}},
    {1, 2}, set(),
]  # fmt: skip


@pytest.mark.parametrize("value", PLAIN)
def test_plain_objects(value):
    found = peek_object(saved(value))
    assert found == value
    assert type(found) is type(value)


def test_plain_objects_of_torch():
    value = {"size": torch.Size([2, 3]), "dtype": torch.bfloat16, "groups": OrderedDict(lr=0.1)}
    assert peek_object(saved(value)) == {"size": (2, 3), "dtype": "torch.bfloat16", "groups": {"lr": 0.1}}


Pair = namedtuple("Pair", "a b")


@pytest.mark.parametrize(
    "value", [torch.zeros(2), [torch.zeros(2)], torch.device("cpu"), print, Pair(1, 2), Odd]
)
def test_other_objects_are_refused(value):
    with pytest.raises(UnsafeError, match="here"):
        peek_object(saved(value), "here")


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_hostile_objects(attempt, tmp_path):
    canary = str(tmp_path / "canary")
    with pytest.raises(UnsafeError):
        peek_object(rezipped(saved(3), change={"data.pkl": ATTEMPTS[attempt](canary)}))
    assert not os.path.exists(canary)


def test_bytes_are_made_of_nothing_else():
    with pytest.raises(CorruptError):
        peek_object(rezipped(saved(3), change={"data.pkl": b"\x80\x02c__builtin__\nbytes\nK\xff\x85R."}))
    spelled = b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R."
    with pytest.raises(CorruptError):
        peek_object(rezipped(saved(3), change={"data.pkl": spelled}))


def test_template_is_at_hand_here():
    assert template("float32", (2,)).nbytes == 8
