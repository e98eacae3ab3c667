"""What the benchmarks save and load: a transformer of about 1 GB, or many small tensors."""

from ckptlab.metadata import Tensor

WIDTH, HIDDEN, WORDS = 1024, 2730, 32003


def transformer(layers):
    """291 tensors and 1 GB for 32 layers; sizes that 4 ranks cut unevenly, norms and head in float32."""
    tensors = [Tensor("embed.weight", "bfloat16", (WORDS, WIDTH))]
    for i in range(layers):
        name = f"layers.{i}"
        tensors += [Tensor(f"{name}.attention.{p}", "bfloat16", (WIDTH, WIDTH)) for p in ("q", "k", "v", "o")]
        tensors += [Tensor(f"{name}.mlp.{p}", "bfloat16", (HIDDEN, WIDTH)) for p in ("gate", "up")]
        tensors += [Tensor(f"{name}.mlp.down", "bfloat16", (WIDTH, HIDDEN))]
        tensors += [Tensor(f"{name}.norm{n}", "float32", (WIDTH,)) for n in (1, 2)]
    return [
        *tensors,
        Tensor("norm", "float32", (WIDTH,)),
        Tensor("head.weight", "float32", (WORDS // 2, WIDTH)),
    ]


def small(count):
    """`count` tensors of 4 KB a rank of four."""
    return [Tensor(f"block.{i}.scale", "float32", (64, 64)) for i in range(count)]


def llama(layers, width, hidden):
    """The tensors of a model with Adam's two moments, bfloat16 and float32."""
    kv, words = 1024, 128256
    model = [("embed", (words, width)), ("norm", (width,)), ("head", (words, width))]
    for i in range(layers):
        parts = {
            "q": (width, width), "k": (kv, width), "v": (kv, width), "o": (width, width),
            "gate": (hidden, width), "up": (hidden, width), "down": (width, hidden),
            "norm1": (width,), "norm2": (width,),
        }  # fmt: skip
        model += [(f"layers.{i}.{name}", shape) for name, shape in parts.items()]
    kinds = {"model": "bfloat16", "optim.exp_avg": "float32", "optim.exp_avg_sq": "float32"}
    return [Tensor(f"{kind}.{fqn}", dtype, shape) for kind, dtype in kinds.items() for fqn, shape in model]


def llama405b():
    """The 3,411 tensors of a 405B model with Adam's two moments."""
    return llama(126, 16384, 53248)
