"""The metadata that a save would leave: chunks back to back in one file a rank."""

import numpy as np
from hypothesis import given, settings
from plan_cases import layouts, tensors

from ckptlab.metadata import ITEMSIZE
from ckptlab.plan.holding import fitted
from ckptlab.plan.metadata_of import metadata_of


@settings(max_examples=100, deadline=None)
@given(tensors(), layouts())
def test_chunks_cover_each_tensor_and_fill_the_files(some, layout):
    saved = metadata_of(some, layout)
    assert saved.tensors == tuple(some)
    assert saved.writers == tuple(range(layout.mesh.size))
    assert saved.layouts == {t.fqn: fitted(layout, t.shape) for t in some}
    for row, tensor in enumerate(some):
        count = np.zeros(tensor.shape, int)
        boxes = saved.boxes(row)
        for i in range(len(boxes)):
            count[boxes[i].slices] += 1
        assert (count == 1).all()
        assert (saved.chunks.length[saved.chunk_rows(row)] == boxes.numel * ITEMSIZE[tensor.dtype]).all()
    for file in range(len(saved.files)):
        rows = np.flatnonzero(saved.chunks.file == file)
        rows = rows[np.argsort(saved.chunks.start[rows])]
        ends = saved.chunks.start[rows] + saved.chunks.length[rows]
        assert saved.chunks.start[rows].tolist() == [0, *ends.tolist()][: len(rows)]
    assert saved.nbytes == saved.chunks.length.sum()
