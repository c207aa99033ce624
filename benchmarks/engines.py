"""The exact pass of `kdbias uniformity` as units: here, in ranks, and on a Ray cluster of two nodes.

    python benchmarks/engines.py --n 163840 --d 128 --block-rows 81920    # units of some 20 s on one core
    python benchmarks/engines.py --n 60000 --block-rows 16384             # of about a second

Rows run in turn; `memory` is the pass in one block. CPU seconds are those of all processes from the start
of the command to its end: its own, its ranks', Ray's workers' and, of the cluster, all that it takes
meanwhile (an idle one takes some as well; the last line says how much a second). The driver's memory is the
most that it held of its own (Linux's RssAnon: without the libraries' files). Needs `psutil`.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
from contestants import clustered

HEARTBEAT = 0.2  # seconds between two looks at the processes: so much of a process's last CPU time is missed
STORE = 80 << 20  # bytes of object store a node, about the least that Ray takes


class Watch:
    """CPU seconds of all processes below this one, also of those that end, and the peak memory of one."""

    def __init__(self, driver: int | None = None) -> None:
        self.driver, self.peak = driver, 0.0  # whose memory, at most so many MiB
        self.seen: dict[tuple[int, float], float] = {}
        self.first: dict[tuple[int, float], float] = {}
        self.ended = threading.Event()
        self.look(first=True)
        self.thread = threading.Thread(target=self._keep_looking, daemon=True)
        self.thread.start()

    def look(self, first: bool = False) -> None:
        for process in psutil.Process().children(recursive=True):
            try:
                key, used = (process.pid, process.create_time()), process.cpu_times()
            except psutil.Error:
                continue
            self.seen[key] = used.user + used.system
            self.first.setdefault(key, self.seen[key] if first else 0.0)
        with suppress(OSError, StopIteration):
            lines = Path(f"/proc/{self.driver}/status").read_text().splitlines()
            own = next(line for line in lines if line.startswith("RssAnon"))
            self.peak = max(self.peak, int(own.split()[1]) / 1024)

    def _keep_looking(self) -> None:
        while not self.ended.wait(HEARTBEAT):
            self.look()

    def seconds(self) -> float:
        self.ended.set()
        self.thread.join()
        self.look()
        return sum(self.seen.values()) - sum(self.first.values())


def measure(words: list[str], processes: list[dict[str, str]]) -> tuple[float, float, float]:
    """Wall-clock seconds, CPU seconds of all processes, and peak MiB of the first."""
    started, watch = time.perf_counter(), Watch()
    command = [sys.executable, "-m", "kdbias.cli", *words]
    running = [
        subprocess.Popen(command, env=os.environ | more, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for more in processes
    ]
    watch.driver = running[0].pid
    for process in running:
        said = process.communicate()[1].decode()
        if process.returncode:
            sys.exit(said)
    return time.perf_counter() - started, watch.seconds(), watch.peak


@contextmanager
def cluster() -> Iterator[str]:
    """The address of a head without CPUs and two nodes with one each."""
    from ray.cluster_utils import Cluster

    os.environ |= {"RAY_raylet_start_wait_time_s": "120", "RAY_USAGE_STATS_ENABLED": "0"}
    head: dict[str, Any] = {"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        made.add_node(num_cpus=1, object_store_memory=STORE)
    try:
        yield made.address
    finally:
        made.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=163_840)
    parser.add_argument("--d", type=int, default=128)
    parser.add_argument("--k", type=int, default=16)
    parser.add_argument("--block-rows", type=int, default=81_920)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--engine", action="append", choices=["memory", "here", "ranks", "ray"])
    options = parser.parse_args()
    from kdbias.tables.embedding_table import write_embedding_table

    engines = options.engine or ["memory", "here", "ranks", "ray"]
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "table"
        ids = pa.array([f"{i:08}" for i in range(options.n)])
        write_embedding_table(table, ids, clustered(options.n, options.d))
        print(f"n={options.n:,}, d={options.d}, blocks of {options.block_rows:,} rows")
        print(f"{'':8}{'wall s':>9}{'CPU s':>9}{'driver MiB':>12}")

        def row(engine: str, number: int, address: str = "") -> None:
            out = Path(folder) / f"density-{engine}-{number}"
            words = ["uniformity", str(table), "-o", str(out), "--t", "2,4,8", "--k", str(options.k)]
            words += ["--rectification", "none", "--threads", "1"]
            words += (
                [] if engine == "memory" else ["--block-rows", str(options.block_rows), "--engine", "here"]
            )
            processes = [{}]
            if engine == "ranks":
                words[-1] = "ranks"
                processes = [{"RANK": str(i), "WORLD_SIZE": "2"} for i in range(2)]
            if engine == "ray":
                words[-1] = f"ray:{address}"
            wall, cpu, peak = measure(words, processes)
            print(f"{engine:8}{wall:9.1f}{cpu:9.1f}{peak:12.0f}", flush=True)

        for number in range(options.rounds):
            for engine in engines:
                if engine != "ray":
                    row(engine, number)
                    continue
                with cluster() as address:
                    time.sleep(10)  # what a cluster does at its start is its own
                    row(engine, number, address)
                    idle, started = Watch(), time.perf_counter()
                    time.sleep(20)
                    print(
                        f"idle cluster: {idle.seconds() / (time.perf_counter() - started):.3f} CPU s a second"
                    )


if __name__ == "__main__":
    main()
