"""What the estimate over cells costs and how far off it is, against the exact pass.

    python benchmarks/cell_estimate.py --n 50000 --n 100000 --d 256
    python benchmarks/cell_estimate.py --n 200000 --d 128 --zipf 4000 --t 2,3.2,4,6.4,12.8 --rows 2000
    python benchmarks/cell_estimate.py --embeddings lfw112/lfw_ov0095_f16.npy
    python benchmarks/cell_estimate.py --n 1000000 --d 128 --rows 2000

For every bandwidth: the root-mean-square relative error of the potentials, the share of samples whose exact
potential lies in the stated 95 % interval, and the error of uniformity beside its stated standard error.
With ``--rows`` only that many random samples are computed exactly, and uniformity is not judged.
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np
from contestants import clustered

from kdbias.measurement.density import choose_bandwidths
from kdbias.sphere.all_pairs import all_pairs
from kdbias.sphere.cells.estimate import estimate_pairs
from kdbias.sphere.cells.job import Estimate


def load(path: str) -> np.ndarray:
    file = Path(path) if Path(path).exists() else Path(os.environ.get("KDBIAS_DATA", ".")) / path
    x = np.load(file).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def compare(name: str, x: np.ndarray, options: argparse.Namespace) -> None:
    bandwidths = choose_bandwidths(x, None, options.t).values
    started = time.process_time()
    how = Estimate(k=options.k, share=options.share, threads=options.threads, seed=options.seed)
    estimate = estimate_pairs(x, bandwidths, how=how)
    estimate_seconds = time.process_time() - started
    started = time.process_time()
    if options.rows:
        rows = np.random.default_rng(options.seed + 1).choice(len(x), options.rows, replace=False)
        truth, pair_energies = exact_rows(x, rows, bandwidths), None
    else:
        exact = all_pairs(x, bandwidths, k=options.k, threads=options.threads)
        rows, truth, pair_energies = np.arange(len(x)), exact.without_self[0], exact.pair_energies[0]
    exact_seconds = (time.process_time() - started) * len(x) / len(rows)
    off = estimate.pairs.without_self[0][:, rows] - truth
    rms = np.sqrt(((off / (truth + 1 / len(x))) ** 2).mean(axis=1))
    covered = (np.abs(off) <= estimate.half_widths[0][:, rows]).mean(axis=1)
    energies, errors = estimate.pair_energies[0], estimate.energy_errors[0]
    quality = estimate.quality
    print(
        f"\n{name}: n={len(x):,}, d={x.shape[1]}; {quality['probes']} of {quality['cells']} cells "
        f"({quality['pairs_share']:.1%} of the pairs), recall {quality['recall']:.3f}; CPU seconds: estimate "
        f"{estimate_seconds:.1f}, exact {exact_seconds:.1f}{' (rows, scaled)' if options.rows else ''}"
    )
    print(f"{'t':>8}{'rms error':>12}{'covered':>10}{'U off by':>12}{'stated error':>14}")
    for i, t in enumerate(bandwidths):
        value = "" if pair_energies is None else f"{np.log(energies[i] / pair_energies[i]):.1e}"
        print(f"{t:8g}{rms[i]:12.2e}{covered[i]:10.1%}{value:>12}{errors[i] / energies[i]:14.1e}")


def zipf(n: int, d: int, clusters: int, seed: int = 0) -> np.ndarray:
    """(n, d) unit vectors in clusters of sizes 1, 1/2, 1/3 ..., cosine about 0.5 within a cluster."""
    rng = np.random.default_rng(seed)
    shares = 1 / np.arange(1, clusters + 1)
    member = rng.choice(clusters, n, p=shares / shares.sum())
    centres, rest = (rng.standard_normal((count, d), dtype=np.float32) for count in (clusters, n))
    for rows in (centres, rest):
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    x = centres[member] + rest
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def exact_rows(x: np.ndarray, rows: np.ndarray, bandwidths: list[float]) -> np.ndarray:
    """(T, rows) float64 potentials of some rows without their own kernel, in blocks of 4,096 columns."""
    sums = np.zeros((len(bandwidths), len(rows)))
    for start in range(0, len(x), 4096):
        cosines = x[rows] @ x[start : start + 4096].T
        cosines[rows[:, None] == np.arange(start, start + cosines.shape[1])] = -np.inf
        for total, t in zip(sums, bandwidths, strict=True):
            total += np.exp(2 * t * (cosines - 1)).sum(axis=1, dtype=np.float64)
    return sums / len(x)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, action="append", help="samples; repeatable [20000]")
    parser.add_argument("--d", type=int, default=256)
    parser.add_argument("--zipf", type=int, help="so many clusters of Zipf's sizes instead")
    parser.add_argument("--embeddings", action="append", help=".npy file to take instead; repeatable")
    parser.add_argument("--t", default="auto")
    parser.add_argument("--k", type=int, default=64)
    parser.add_argument("--share", type=float, help="part of the pairs to look at [chosen]")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rows", type=int, help="compute only that many samples exactly")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for path in options.embeddings or []:
        compare(path, load(path), options)
    for n in options.n or ([] if options.embeddings else [20_000]):
        if options.zipf:
            compare(f"{options.zipf:,} Zipf clusters", zipf(n, options.d, options.zipf), options)
        else:
            compare("clustered unit vectors", clustered(n, options.d), options)


if __name__ == "__main__":
    main()
