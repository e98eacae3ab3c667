"""The same ops on a real ipyparallel cluster, and the seats of engines without one."""

import os
import signal
import threading
import time

import live_ops as ops
import pytest

from ckptlab.errors import CancelledError, CheckpointError, LayoutError, MismatchError, RankError
from ckptlab.live import ClusterRanks, cluster
from ckptlab.live.cluster import seat_engines
from ckptlab.live.node import Host


@pytest.fixture
def client(monkeypatch):
    ipyparallel = pytest.importorskip("ipyparallel")
    here = os.path.dirname(os.path.dirname(__file__))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.path.dirname(here), here]))
    with ipyparallel.Cluster(n=2, log_level=40) as client:
        client.wait_for_engines(2, timeout=60)
        yield client


def test_the_same_ops_run_on_a_cluster(client):
    told = []
    with ClusterRanks(client) as ranks:
        assert ranks.run(ops.whoami) == [(rank, 2, "cpu", "gloo", "hi") for rank in range(2)]
        assert ranks.run(ops.total) == [[3.0] * 3] * 2
        ranks.run(ops.count_up, 50, progress=lambda rank, what: told.append(what))
        assert [what for what in told if what[0] == 1] == [(1, i) for i in range(50)]

        with pytest.raises(MismatchError, match="they do not fit"):
            ranks.run(ops.mismatch)
        with pytest.raises(RankError, match="rank 1 died: killed by SIGKILL"):
            ranks.run(ops.dies, 1)
        with pytest.raises(RankError, match="in oversleep") as caught:
            ranks.run(ops.stuck, 1, deadline=0.5)
        assert caught.value.rank == 1
        threading.Timer(0.5, ranks.cancel).start()
        with pytest.raises(CancelledError):
            ranks.run(ops.slow_tell, 100)
        assert ranks.run(ops.total) == [[3.0] * 3] * 2

        engine = client[1].apply_sync(os.getpid)
        threading.Timer(0.5, os.kill, (engine, signal.SIGKILL)).start()
        began = time.perf_counter()
        with pytest.raises(RankError, match="rank 1 died") as caught:
            ranks.run(ops.slow_tell, 100)
        assert time.perf_counter() - began < 5.0
        with pytest.raises(CheckpointError, match=r"engines \[1\] are gone: restart the cluster"):
            ranks.run(ops.total)


def test_without_ipyparallel_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(cluster.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match=r"pip install ckptlab\[cluster\]"):
        ClusterRanks(None)


def test_engines_of_a_host_share_its_gpus_out():
    hosts = [Host("a", 2), Host("b", 1), Host("a", 2)]
    seats = seat_engines(hosts, None, None)
    assert [(s.rank, s.own_device, s.local_world, s.backend) for s in seats] == [
        (0, "cuda:0", 2, "nccl"),
        (1, "cuda:0", 1, "nccl"),
        (2, "cuda:1", 2, "nccl"),
    ]
    assert {s.own_device for s in seat_engines(hosts, "cpu", None)} == {"cpu"}


def test_a_host_with_fewer_gpus_than_engines_is_named():
    hosts = [Host("a", 1), Host("a", 1)]
    assert {s.device for s in seat_engines(hosts, None, None)} == {"cpu"}
    with pytest.raises(LayoutError, match=r"hosts \['a'\] have fewer GPUs than engines"):
        seat_engines(hosts, "cuda", None)
