"""A real Ray cluster of two nodes on this machine, once for all tests that need one."""

import os
from collections.abc import Iterator
from typing import Any

import pytest

STORE = 80 << 20  # bytes of object store a node, about the least that Ray takes


def add_node(cluster: Any) -> Any:
    """A further node with one CPU."""
    return cluster.add_node(num_cpus=1, object_store_memory=STORE)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """A head without CPUs and two nodes with one each; this process has joined it."""
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    from ray.cluster_utils import Cluster

    os.environ |= {"RAY_raylet_start_wait_time_s": "120", "RAY_USAGE_STATS_ENABLED": "0"}
    head = {"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False}
    head["_system_config"] = {"health_check_period_ms": 500, "health_check_failure_threshold": 4}
    made = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        add_node(made)
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()
