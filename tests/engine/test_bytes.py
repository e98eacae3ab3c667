"""Bytes read are bytes wanted, to the byte, and as foretold; stock DCP reads more."""

import crosswise_ops
import engine_ops as ops
import pytest
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.placement_types import _StridedShard

from ckptlab import Layout, Mesh, open_checkpoint
from ckptlab import Replicate as OurReplicate
from ckptlab import Shard as OurShard
from ckptlab.metadata import Tensor
from ckptlab.plan.forecast import forecast
from ckptlab.plan.holding import holdings
from ckptlab.storage.template import template

SIDE = 2048
SHAPE = (SIDE, SIDE)
NBYTES = SIDE * SIDE * 4
CRC = 4


def layout(name):
    """One of the ops' layouts, in ckptlab's words."""
    shape, placements = crosswise_ops.LAYOUTS[name]
    assert not any(isinstance(p, _StridedShard) for p in placements)
    ours = [OurReplicate() if isinstance(p, Replicate) else OurShard(p.dim) for p in placements]
    return Layout(Mesh(shape), tuple(ours))


def foretold(path, target):
    return forecast(
        open_checkpoint(path).metadata, holdings([Tensor("w", "float32", SHAPE)], layout(target)), 4
    )


@pytest.mark.parametrize(
    ("source", "target", "chunks_a_rank", "stock_factor"),
    [("rows", "columns", 4, 4), ("hsdp", "rows", 1, 2), ("rows", "tiles", 2, 2)],
)
def test_a_16_mib_tensor_is_read_once_by_those_who_want_it(
    ranks4, tmp_path, source, target, chunks_a_rank, stock_factor
):
    path = str(tmp_path)
    ranks4.run(ops.save_one, path, SHAPE, source)
    seen = foretold(path, target)
    out = ranks4.run(ops.load_counted, path, SHAPE, target)
    rows = SIDE // (2 if source == "hsdp" else 4)
    header = chunks_a_rank * len(template("float32", (rows, SIDE)).before)
    for rank, one in enumerate(out):
        assert one.equal
        assert one.report.nbytes == NBYTES // 4 == seen.bytes_by_rank[rank] == seen.memory[rank]
        assert one.report.reads == chunks_a_rank == seen.reads[rank]
        assert one.report.header_bytes == header
        # Runs of rows are asked of the file; other boxes are copied out of a mapping.
        assert one.asked == header + (0 if one.mapped else NBYTES // 4)
        assert bool(one.mapped) == (source == "rows")
    assert sum(one.report.nbytes for one in out) == seen.total == NBYTES
    assert header < NBYTES // 4 // 1000

    by_stock = ranks4.run(ops.load_counted_by_stock, path, SHAPE, target)
    assert all(equal for _, equal in by_stock)
    read = sum(n for n, _ in by_stock)
    assert read == pytest.approx(stock_factor * NBYTES, rel=0.01)
    assert seen.stock.sum() == stock_factor * NBYTES
    assert (seen.amplification, seen.stock_amplification) == (1.0, stock_factor)


def test_a_whole_chunk_costs_its_crc_too(ranks4, tmp_path):
    path = str(tmp_path)
    ranks4.run(ops.save_one, path, SHAPE, "hsdp")
    for one in ranks4.run(ops.load_counted, path, SHAPE, "hsdp"):
        assert one.equal
        assert (one.report.nbytes, one.report.reads) == (NBYTES // 2, 1)
        # Four bytes of signature stand before it.
        assert one.report.header_bytes == 4 + CRC
        assert one.asked == one.report.nbytes + one.report.header_bytes


def test_verify_reads_all_of_a_chunk_that_is_wanted_in_part(ranks4, tmp_path):
    path = str(tmp_path)
    ranks4.run(ops.save_one, path, (64, 64), "rows")
    for one in ranks4.run(ops.load_counted, path, (64, 64), "columns", True):
        assert one.equal
        assert one.report.nbytes == 64 * 64
        chunk = template("float32", (16, 64))
        assert one.report.header_bytes == 4 * (len(chunk.before) + CRC + chunk.nbytes)


def test_each_replica_is_written_once_and_the_ranks_share_the_work(ranks4, tmp_path):
    reports = ranks4.run(ops.save_one, str(tmp_path), SHAPE, "copies")
    assert sorted(report.chunks for report in reports) == [0, 0, 0, 1]
    reports = ranks4.run(ops.save_one, str(tmp_path), SHAPE, "hsdp")
    assert sum(report.chunks for report in reports) == 2
    assert max(report.chunks for report in reports) == 1
    lengths = open_checkpoint(tmp_path).metadata.chunks.length
    assert sum(report.nbytes for report in reports) == lengths.sum()
