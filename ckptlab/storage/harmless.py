"""Which names a checkpoint's pickles may ask for, and what some others are known to do.

Names that build tensors and plain values, whoever unpickles them: those that ckptlab reads, and those
that torch's own careful reader (`weights_only=True`) takes. It knows names alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ckptlab.storage.dcp_names import STOCK
from ckptlab.storage.plain import FAITHFUL
from ckptlab.storage.torch_save import TENSOR

Name = tuple[str, str]

_KINDS = (
    "Double", "Float", "Half", "Long", "Int", "Short", "Char", "Byte", "Bool", "BFloat16", "ComplexFloat",
    "ComplexDouble", "QInt8", "QUInt8", "QInt32", "QUInt4x2", "QUInt2x4",
)  # fmt: skip


def _of(module: str, names: Iterable[str]) -> set[Name]:
    return {(module, name) for name in names}


_SPEC = ("DTensorSpec", "TensorMeta", "ShardOrderEntry")
_PLACEMENTS = ("Shard", "Replicate", "Partial", "_Partial", "_StridedShard", "_MaskPartial", "Placement")

METADATA: frozenset[Name] = frozenset(STOCK)
"""What a `.metadata` may ask for."""

VALUES: frozenset[Name] = frozenset(
    {
        *TENSOR,
        *FAITHFUL,
        *_of("torch._utils", (
            "_rebuild_tensor", "_rebuild_sparse_tensor", "_rebuild_sparse_csr_tensor", "_rebuild_qtensor",
            "_rebuild_nested_tensor", "_rebuild_meta_tensor_no_storage", "_rebuild_parameter_with_state",
            "_rebuild_wrapper_subclass", "_rebuild_device_tensor_from_cpu_tensor",
            "_rebuild_device_tensor_from_numpy",
        )),
        *_of("torch", (f"{kind}Storage" for kind in _KINDS)),
        *_of("torch.cuda", (f"{kind}Storage" for kind in _KINDS)),
        *_of("torch", (f"{kind}Tensor" for kind in _KINDS)),
        *_of("torch.cuda", (f"{kind}Tensor" for kind in _KINDS)),
        *_of("torch", ("Tensor", "per_tensor_affine", "per_tensor_symmetric", "per_channel_affine",
                       "per_channel_symmetric", "per_channel_affine_float_qparams", "strided")),
        ("torch._tensor", "_rebuild_from_type_v2"),
        ("torch.storage", "TypedStorage"),
        ("torch.serialization", "_get_layout"),
        *_of("torch.nn.parameter", ("Parameter", "Buffer")),
        *_of("torch.distributed.tensor", ("DTensor",)),
        *_of("torch.distributed._tensor.api", ("DTensor",)),
        *_of("torch.distributed.tensor._dtensor_spec", _SPEC),
        *_of("torch.distributed._tensor.placement_types", (*_SPEC, *_PLACEMENTS)),
        *_of("torch.distributed.tensor.placement_types", _PLACEMENTS),
        *_of("torch.distributed.device_mesh", ("DeviceMesh",)),
        *_of("numpy.core.numeric", ("_frombuffer",)),
        *_of("numpy._core.numeric", ("_frombuffer",)),
        *_of("collections", ("deque", "defaultdict")),
        *_of("builtins", ("int", "float", "bool", "str", "list", "dict", "tuple")),
        *_of("__builtin__", ("int", "long", "float", "bool", "str", "unicode", "list", "dict", "tuple")),
        ("_io", "BytesIO"),
        ("io", "BytesIO"),
    }
)  # fmt: skip
"""What the pickle of a tensor, of an object or of a whole state_dict may ask for."""

_RUNS = "runs commands"
_CODE = "runs code"
_LOADS = "unpickles more, unchecked"
_NET = "talks to the network"
_FILES = "reads, writes or deletes files"

DANGERS: Mapping[str, str] = {
    "os": _RUNS, "posix": _RUNS, "nt": _RUNS, "subprocess": _RUNS, "pty": _RUNS, "commands": _RUNS,
    "popen2": _RUNS, "multiprocessing": _RUNS, "concurrent": _RUNS, "asyncio": _RUNS, "distutils": _RUNS,
    "builtins": _CODE, "__builtin__": _CODE, "__builtins__": _CODE, "runpy": _CODE, "importlib": _CODE,
    "code": _CODE, "codeop": _CODE, "types": _CODE, "timeit": _CODE, "pdb": _CODE, "bdb": _CODE,
    "cProfile": _CODE, "profile": _CODE, "trace": _CODE, "doctest": _CODE, "ctypes": _CODE, "cffi": _CODE,
    "sys": _CODE, "threading": _CODE, "_thread": _CODE, "signal": _CODE, "atexit": _CODE, "pip": _CODE,
    "operator": _CODE, "_operator": _CODE, "functools": _CODE, "pydoc": _CODE, "idlelib": _CODE,
    "torch.jit": _CODE, "torch.hub": _CODE, "torch._inductor": _CODE,
    "torch.utils.collect_env": _CODE, "torch.utils.bottleneck": _CODE, "torch.utils._config_module": _CODE,
    "numpy.testing": _CODE, "numpy.f2py": _CODE, "pickletools": _CODE, "lib2to3": _CODE, "venv": _RUNS,
    "pickle": _LOADS, "_pickle": _LOADS, "cPickle": _LOADS, "dill": _LOADS, "cloudpickle": _LOADS,
    "joblib": _LOADS, "marshal": _LOADS, "shelve": _LOADS, "torch.load": _LOADS,
    "torch.storage._load_from_bytes": _LOADS, "torch.serialization": _LOADS, "numpy.load": _LOADS,
    "socket": _NET, "_socket": _NET, "ssl": _NET, "urllib": _NET, "urllib2": _NET, "http": _NET,
    "httplib": _NET, "requests": _NET, "aiohttp": _NET, "ftplib": _NET, "smtplib": _NET, "telnetlib": _NET,
    "webbrowser": _NET, "xmlrpc": _NET,
    "shutil": _FILES, "io": _FILES, "_io": _FILES, "tempfile": _FILES, "pathlib": _FILES, "glob": _FILES,
    "linecache": _FILES, "logging": _FILES, "zipfile": _FILES, "tarfile": _FILES,
}  # fmt: skip
"""What modules, or single names, can be made to do; a name that is not here may do the same."""


_REACHED = ("os", "sys", "subprocess", "posix", "builtins", "importlib", "shutil", "socket", "ctypes")


def danger(name: Name) -> str:
    """What a name that is not harmless is known to do, in words; "" if nobody knows."""
    parts = f"{name[0]}.{name[1]}".split(".")
    known = (DANGERS.get(".".join(parts[:n])) for n in range(len(parts), 0, -1))
    if found := next((words for words in known if words), ""):
        return found
    # Any module will do to reach another that it imported, or what holds its functions together.
    reached = any(part in _REACHED or part.startswith("__") for part in name[1].split(".")[:-1])
    return "reaches through a module into another" if reached else ""
