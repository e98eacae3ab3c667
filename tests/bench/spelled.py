"""Stock's `.metadata` of a model that no machine here could save, byte for byte, without stock's objects.

What a coordinator pickles has one object for each chunk and each place: 6.8 GB for 1,024 ranks. Here the same
bytes are put together from the few stretches that repeat.
"""

from ckptlab.layout import Layout
from ckptlab.plan.holding import holdings
from ckptlab.storage.opcodes import integer
from ckptlab.storage.template import template

FRAME = 64 << 10
BATCH = 1000
RECORDS = "torch.distributed.checkpoint.metadata"


class Speller:
    """Opcodes of protocol 4 as the pickler writes them: objects are numbered when made, then fetched."""

    def __init__(self):
        self.parts, self.count, self.known = [], 0, {}

    def put(self, opcodes, made=0):
        """Opcodes that make `made` numbered objects."""
        self.parts.append(opcodes)
        self.count += made

    def fetch(self, what):
        at = self.known[what]
        return b"h" + bytes([at]) if at < 256 else b"j" + at.to_bytes(4, "little")

    def word(self, text):
        """A text that is one object wherever it stands."""
        if text in self.known:
            self.put(self.fetch(text))
        else:
            self.known[text] = self.count
            self.put(spelled(text), 1)

    def name(self, module, name):
        """A class or a function."""
        if (module, name) in self.known:
            self.put(self.fetch((module, name)))
        else:
            self.word(module)
            self.word(name)
            self.known[module, name] = self.count
            self.put(b"\x93\x94", 1)

    def new(self, name, module=RECORDS):
        """An object whose state is about to follow, as a dict."""
        self.name(module, name)
        self.put(b")\x81\x94}\x94(", 2)

    def size(self, dims):
        self.name("torch", "Size")
        self.put(tupled(dims), 3 if dims else 2)


def spelled(text):
    body = text.encode()
    return b"\x8c" + bytes([len(body)]) + body + b"\x94"


def tupled(dims):
    """The arguments of a Size, and the call."""
    inner = (
        b")" if not dims else b"".join(map(integer, dims)) + {1: b"\x85", 2: b"\x86", 3: b"\x87"}[len(dims)]
    )
    return inner + b"\x94" * bool(dims) + b"\x85\x94R\x94"


def stock_metadata(tensors, ranks):
    """The bytes, for FSDP over so many ranks."""
    held = holdings(tensors, Layout.parse(str(ranks), "Shard(0)"))
    spell = Speller()
    spell.new("Metadata")
    spell.word("state_dict_metadata")
    spell.put(b"}\x94", 1)
    cached = {}
    batched(spell, [lambda h=h: entry(spell, h, cached) for h in held], b"u")
    spell.word("planner_data")
    spell.put(b"}\x94", 1)
    batched(spell, [lambda t=h.tensor: path(spell, t.fqn) for h in held], b"u")
    spell.word("storage_data")
    spell.put(b"}\x94", 1)
    places(spell, held, ranks)
    spell.word("storage_meta")
    spell.new("StorageMeta")
    for key in ("checkpoint_id", "save_id", "load_id"):
        spell.word(key)
        spell.put(b"N")
    spell.word("modules")
    spell.put(b"]\x94ub", 1)
    spell.word("version")
    spell.word("1.0.0")
    spell.put(b"ub.")
    return framed(spell.parts)


def batched(spell, makers, end):
    """Items a thousand at a time."""
    for low in range(0, len(makers), BATCH):
        some = makers[low : low + BATCH]
        single = len(some) == 1
        spell.put(b"" if single else b"(")
        for make in some:
            make()
        spell.put({b"u": b"s", b"e": b"a"}[end] if single else end)


def entry(spell, holding, cached):
    """What is said of one tensor."""
    tensor = holding.tensor
    spell.put(spelled(tensor.fqn), 1)
    spell.new("TensorStorageMetadata")
    spell.word("properties")
    spell.name(RECORDS, "TensorProperties")
    spell.put(b")\x81\x94(", 1)
    spell.name("torch", tensor.dtype)
    called(spell, "torch.serialization", "_get_layout", lambda: spell.word("torch.strided"))
    spell.put(b"\x89")
    called(spell, RECORDS, "_MEM_FORMAT_ENCODING", lambda: spell.put(b"K\x00"))
    spell.put(b"\x89t\x94b", 1)
    spell.word("size")
    spell.size(tensor.shape)
    spell.word("chunks")
    spell.put(b"]\x94", 1)
    boxes = holding.shards.boxes
    ready = ("ChunkStorageMetadata" in spell.known, tensor.shape)
    if ready in cached and ready[0]:
        spell.put(*cached[ready])
        spell.put(b"ub")
        return
    begin, before = len(spell.parts), spell.count
    rows = zip(boxes.offsets.tolist(), boxes.shapes.tolist(), strict=True)
    batched(spell, [lambda o=o, n=n: chunk(spell, o, n) for o, n in rows], b"e")
    # Nothing in it tells where it stands, so it is the same for every tensor cut alike.
    cached[ready] = (b"".join(spell.parts[begin:]), spell.count - before)
    spell.put(b"ub")


def called(spell, module, name, argument):
    """What a function makes of a constant, one object wherever it stands."""
    made = (module, name, "called")
    if made in spell.known:
        spell.put(spell.fetch(made))
        return
    spell.name(module, name)
    argument()
    spell.put(b"\x85\x94R\x94", 2)
    spell.known[made] = spell.count - 1


def chunk(spell, offset, shape):
    spell.new("ChunkStorageMetadata")
    spell.word("offsets")
    spell.size(offset)
    spell.word("sizes")
    spell.size(shape)
    spell.put(b"ub")


def path(spell, fqn):
    spell.put(spelled(fqn), 1)
    steps = fqn.split(".", 1)
    for step in steps:
        spell.put(spelled(step), 1)
    spell.put(b"\x86\x94", 1)


def places(spell, held, ranks):
    """An index and a place for each chunk, rank by rank; every text but the file's name spelled anew."""
    mine = [[] for _ in range(ranks)]
    for holding in held:
        rows = holding.shards
        first = {}
        for i, (rank, offset, shape) in enumerate(
            zip(rows.rank.tolist(), rows.boxes.offsets.tolist(), rows.boxes.shapes.tolist(), strict=True)
        ):
            size = first.setdefault(tuple(shape), None) or template(holding.tensor.dtype, tuple(shape)).length
            first[tuple(shape)] = size
            mine[rank].append((spelled(holding.tensor.fqn), i, tupled(offset), size))
    rows, turn, total = [], 0, sum(map(len, mine))
    for rank, items in enumerate(mine):
        at, name = 0, f"__{rank}_0.distcp"
        for fqn, i, offset, length in items:
            if turn % BATCH == 0:
                rows.append(b"(")
            if turn == 0:
                one_place(spell, rows, fqn, offset, name, length)
                head = spell.fetch((RECORDS, "MetadataIndex")) + b")\x81\x94}\x94(" + spell.fetch("fqn")
                index = spell.fetch("index")
                where = spell.fetch("offset") + spell.fetch(("torch", "Size"))
                info = b"ub" + spell.fetch((RECORDS.replace("metadata", "filesystem"), "_StorageInfo"))
                info += b")\x81\x94}\x94(" + spell.fetch("relative_path")
                start, size = spell.fetch("offset"), spell.fetch("length")
            else:
                said = spell.fetch(name) if name in spell.known else spelled(name)
                rows.append(
                    b"".join((
                        head, fqn, index, integer(i), where, offset, info, said,
                        start, integer(at), size, integer(length), b"ub",
                    ))
                )  # fmt: skip
                if name not in spell.known:
                    spell.known[name] = spell.count + 8
                    spell.count += 1
                spell.count += 8
            at += length
            turn += 1
            if turn % BATCH == 0 or turn == total:
                rows.append(b"u")
    spell.parts += rows


def one_place(spell, rows, fqn, offset, name, length):
    """The first, in which all names stand for the first time."""
    before, spell.parts = spell.parts, rows
    spell.new("MetadataIndex")
    spell.word("fqn")
    spell.put(fqn, 1)
    spell.word("index")
    spell.put(b"K\x00")
    spell.word("offset")
    spell.name("torch", "Size")
    spell.put(offset + b"ub", 3)
    spell.new("_StorageInfo", RECORDS.replace("metadata", "filesystem"))
    spell.word("relative_path")
    spell.word(name)
    spell.word("offset")
    spell.put(b"K\x00")
    spell.word("length")
    spell.put(integer(length) + b"ub")
    spell.parts = before


def framed(parts):
    """A pickle of protocol 4, in frames of 64 KiB at least."""
    out, frame, size = [b"\x80\x04"], [], 0
    for part in [*parts, None]:
        if part is not None:
            frame.append(part)
            size += len(part)
        if size >= FRAME or part is None:
            out += [b"\x95", size.to_bytes(8, "little"), *frame]
            frame, size = [], 0
    return b"".join(out)
