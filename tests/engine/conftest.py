"""A real Ray cluster of two nodes on this machine, once for all tests that need one."""

import os
from collections.abc import Iterator
from typing import Any

import pytest

STORE = 80 << 20  # bytes of object store a node, about the least that Ray takes


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """A head without CPUs and two nodes with one each; this process has joined it."""
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    from ray.cluster_utils import Cluster

    os.environ |= {"RAY_raylet_start_wait_time_s": "120", "RAY_USAGE_STATS_ENABLED": "0"}
    made = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False},
    )
    for _ in range(2):
        made.add_node(num_cpus=1, object_store_memory=STORE)
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()
