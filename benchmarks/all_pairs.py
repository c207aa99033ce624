"""How fast all pairs are seen: kdbias and its peers in one table.

    python benchmarks/all_pairs.py --n 20000 --d 512 --threads 2 --rounds 3
    python benchmarks/all_pairs.py --embeddings lfw112/lfw_ov0095_f16.npy --cpu-time --threads 1

1.00 is a full n x n float32 matrix product at the machine's own best rate, which is measured anew around
every run, so that other jobs move both. Every round runs every contestant once, each in a process of
its own; the table has medians over rounds. ``--cpu-time`` with one thread is the way on a shared machine.
An embedding file is found below the folder KDBIAS_DATA, or as a path.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
from contestants import BANDWIDTHS, CONTESTANTS, Clock, K, clustered, gemm_rate


def load(options: argparse.Namespace) -> np.ndarray:
    if not options.embeddings:
        return clustered(options.n, options.d)
    path = Path(options.embeddings)
    if not path.exists():
        path = Path(os.environ.get("KDBIAS_DATA", ".")) / path
    x = np.load(path).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return np.ascontiguousarray(x[: options.n]) if options.n else x


def run_one(name: str, options: argparse.Namespace) -> None:
    """One contestant in this process: its numbers as a line of JSON."""
    contestant, limit = CONTESTANTS[name]
    x = load(options)
    n, d = x.shape
    part = x[:limit] if limit else x
    before = gemm_rate(d, options.threads, options.cpu_time)
    resident = forget_peak()
    clock = Clock(options.cpu_time)
    result = contestant(np.ascontiguousarray(part), options.threads, clock)
    extra = memory("VmHWM") - resident
    rate = max(before, gemm_rate(d, options.threads, options.cpu_time))
    seconds = clock.seconds * (n / len(part)) ** 2
    line = {
        "seconds": seconds,
        "ratio": 2 * n * n * d / seconds / rate,
        "extra_MiB": extra,
        "error": None if limit else worst_error(x, result),
    }
    print(json.dumps(line))


def memory(field: str) -> float:
    """MiB of this process: VmRSS now, VmHWM at its highest (Linux)."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(field)) / 1024


def forget_peak() -> float:
    """Restart the record of peak memory; returns MiB in use now."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory("VmRSS")


def worst_error(x: np.ndarray, result: dict) -> float | None:
    """Largest relative error of potentials, or absolute error of cosines, on 100 rows in float64."""
    rows = np.random.default_rng(1).choice(len(x), min(100, len(x)), replace=False)
    cosines = np.clip(x[rows].astype(np.float64) @ x.T.astype(np.float64), -1, 1)
    errors = []
    if "potentials" in result:
        for t, found in zip(BANDWIDTHS, result["potentials"], strict=False):
            exact = np.exp(-2 * t * (1 - cosines)).mean(axis=1)
            errors.append(float(np.abs(found[rows] / exact - 1).max()))
    if "cosines" in result:
        cosines[np.arange(len(rows)), rows] = -2
        exact = -np.sort(-cosines, axis=1)[:, :K]
        errors.append(float(np.abs(result["cosines"][rows] - exact).max()))
    return max(errors, default=None)


def run_all(options: argparse.Namespace) -> None:
    names = [n for n in CONTESTANTS if not options.only or any(part in n for part in options.only)]
    runs: dict[str, list[dict]] = {name: [] for name in names}
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(options.threads),
        "MKL_NUM_THREADS": str(options.threads),
    }
    for round_ in range(options.rounds):
        for name in names:
            command = [sys.executable, __file__, *sys.argv[1:], "--one", name]
            done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
            if done.returncode:
                reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
                print(f"{name}: left out ({reason})", file=sys.stderr)
                continue
            runs[name].append(json.loads(done.stdout.strip().splitlines()[-1]))
            print(f"round {round_ + 1}: {name}: {runs[name][-1]['seconds']:.2f} s", file=sys.stderr)
    report(runs, options)


def report(runs: dict[str, list[dict]], options: argparse.Namespace) -> None:
    median = {n: {k: _median(r, k) for k in r[0]} for n, r in runs.items() if r}
    what = options.embeddings or "clustered unit vectors"
    x = load(options)
    clock = "CPU seconds" if options.cpu_time else "seconds"
    print(
        f"\n{what}: n={len(x):,}, d={x.shape[1]}, k={K}, t={BANDWIDTHS}; {options.threads} thread(s), "
        f"median of {options.rounds} round(s)\n"
    )
    print(f"{'':36}{clock:>12}{'ratio':>8}{'extra MiB':>11}{'max error':>11}")
    for name, row in median.items():
        scaled = " *" if CONTESTANTS[name][1] else ""
        error = "" if row["error"] is None else f"{row['error']:.1e}"
        print(
            f"{name + scaled:36}{row['seconds']:12.2f}{row['ratio']:8.2f}{row['extra_MiB']:11.0f}{error:>11}"
        )
    print("\nratio: speed against one full float32 matrix product; * measured at n=4,000 and scaled by n^2")
    both, flat = median.get("kdbias: neighbours + 4 bandwidths"), median.get("faiss IndexFlatIP")
    tiles, alone = median.get("torch tiles, 4 bandwidths"), median.get("kdbias: neighbours")
    if both and flat and tiles:
        peer = 1 / flat["ratio"] + 1 / tiles["ratio"]
        print(f"neighbours + 4 bandwidths: {both['ratio'] * peer:.2f} x the speed of faiss, then torch tiles")
    if both and alone:
        print(
            f"neighbours + 4 bandwidths cost {alone['ratio'] / both['ratio']:.2f} times the neighbours alone"
        )


def _median(rows: list[dict], key: str) -> float | None:
    values = [row[key] for row in rows if row[key] is not None]
    return statistics.median(values) if values else None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, help="samples [20000, or all of --embeddings]")
    parser.add_argument("--d", type=int, default=512, help="dimensions [512]")
    parser.add_argument("--embeddings", help=".npy file to take instead of synthetic vectors")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--cpu-time", action="store_true", help="count CPU time of the process instead of seconds"
    )
    parser.add_argument("--only", action="append", metavar="TEXT", help="contestants whose name has TEXT")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.embeddings:
        options.n = options.n or 20_000
    if options.one:
        run_one(options.one, options)
    else:
        run_all(options)


if __name__ == "__main__":
    main()
