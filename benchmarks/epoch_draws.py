"""What it costs to draw an epoch by weights: kdbias's sampler against torch's.

    python benchmarks/epoch_draws.py --n 1e7 --rounds 3
    python benchmarks/epoch_draws.py --n 16777217,1e8 --rounds 1

n rows, n draws, log-normal weights. Every contestant runs in a process of its own; times are CPU seconds of
one thread (medians over rounds), so that other jobs on the machine move them little. "first" is the time
until the first 256 draws are there, "memory" the peak above the weights (float64, 8 bytes a row), in bytes a
draw.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

BATCH = 256


def torch_draws(weights: np.ndarray) -> Iterator[int]:
    import torch
    from torch.utils.data import WeightedRandomSampler

    sampler = WeightedRandomSampler(torch.from_numpy(weights), len(weights), replacement=True)
    yield from ([index] for index in sampler)


def kdbias_draws(weights: np.ndarray, mode: str, compiled: bool, size: int = BATCH) -> Iterator[np.ndarray]:
    from kdbias.sampler import epoch_order
    from kdbias.sampler.manifest_sampler import ManifestSampler

    if not compiled:
        epoch_order._COMPILED_FROM = 1 << 62
    yield from ManifestSampler(weights, mode=mode, seed=1).blocks(size)


def kdbias_integers(weights: np.ndarray) -> Iterator[list[int]]:
    from kdbias.sampler.manifest_sampler import ManifestSampler

    yield from ([index] for index in ManifestSampler(weights, seed=1))


CONTESTANTS = {
    "torch WeightedRandomSampler": torch_draws,
    "kdbias systematic, NumPy": lambda w: kdbias_draws(w, "systematic", False, 8192),
    "kdbias systematic, numba": lambda w: kdbias_draws(w, "systematic", True, 8192),
    "kdbias systematic, numba, one by one": kdbias_integers,
    "kdbias iid, NumPy": lambda w: kdbias_draws(w, "iid", False, 8192),
    "kdbias iid, numba": lambda w: kdbias_draws(w, "iid", True, 8192),
}


def run_one(name: str, n: int) -> dict[str, float]:
    contestant = CONTESTANTS[name]
    for _ in contestant(np.ones(1 << 21)):  # imports and compiles
        pass
    weights = np.random.default_rng(0).lognormal(size=n)
    Path("/proc/self/clear_refs").write_text("5")
    resident, started = memory("VmRSS"), time.process_time()
    draws = contestant(weights)
    seen = sum(len(block) for block in islice(draws, 1))
    first = time.process_time() - started
    seen += sum(len(block) for block in draws)
    seconds = time.process_time() - started
    assert seen == n
    return {
        "ns": seconds / n * 1e9,
        "first": first,
        "bytes": (memory("VmHWM") - resident) / n,
        "seconds": seconds,
    }


def memory(field: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at its highest (Linux)."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(field)) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", default="1e7", help="rows and draws, one or more numbers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="run contestants whose name contains this")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = [int(float(part)) for part in options.n.split(",")]
    if options.one:
        print(json.dumps(run_one(options.one, sizes[0])))
        return
    for n in sizes:
        print(f"\nn = draws = {n:,}\n{'':38} ns/draw   first (s)   bytes/draw   epoch (s)")
        results: dict[str, list[dict[str, float]]] = {}
        names = [name for name in CONTESTANTS if options.only in name]
        for _ in range(options.rounds):
            for name in names:
                call = [sys.executable, __file__, "--n", str(n), "--one", name]
                done = subprocess.run(call, capture_output=True, text=True, check=False)
                if done.returncode == 0:
                    results.setdefault(name, []).append(json.loads(done.stdout))
                else:
                    print(f"{name:38} {done.stderr.strip().splitlines()[-1][:90]}")
        for name, rounds in results.items():
            ns, first, size, seconds = (
                statistics.median(r[k] for r in rounds) for k in ("ns", "first", "bytes", "seconds")
            )
            print(f"{name:38} {ns:7.0f} {first:11.3f} {size:12.1f} {seconds:11.1f}")


if __name__ == "__main__":
    main()
