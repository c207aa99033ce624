"""What the estimate over cells costs and how far off it is, against the exact pass.

    python benchmarks/cell_estimate.py --n 50000 --n 100000 --d 256
    python benchmarks/cell_estimate.py --embeddings lfw112/lfw_ov0095_f16.npy

For every bandwidth: the root-mean-square relative error of the potentials, the share of samples whose exact
potential lies in the stated 95 % interval, and the error of uniformity beside its stated standard error.
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np
from contestants import clustered

from kdbias.measurement.density import choose_bandwidths
from kdbias.sphere.all_pairs import all_pairs
from kdbias.sphere.cell_estimate import estimate_pairs


def load(path: str) -> np.ndarray:
    file = Path(path) if Path(path).exists() else Path(os.environ.get("KDBIAS_DATA", ".")) / path
    x = np.load(file).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def compare(name: str, x: np.ndarray, options: argparse.Namespace) -> None:
    bandwidths = choose_bandwidths(x, None, options.t).values
    started = time.process_time()
    estimate = estimate_pairs(
        x, bandwidths, k=options.k, probes=options.probes, threads=options.threads, seed=options.seed
    )
    estimate_seconds = time.process_time() - started
    started = time.process_time()
    exact = all_pairs(x, bandwidths, k=options.k, threads=options.threads)
    exact_seconds = time.process_time() - started
    off = estimate.pairs.without_self[0] - exact.without_self[0]
    rms = np.sqrt(((off / exact.potentials[0]) ** 2).mean(axis=1))
    covered = (np.abs(off) <= estimate.half_widths[0]).mean(axis=1)
    energies, errors = estimate.pair_energies[0], estimate.energy_errors[0]
    quality = estimate.quality
    print(
        f"\n{name}: n={len(x):,}, d={x.shape[1]}; {quality['probes']} of {quality['cells']} cells "
        f"({quality['pairs_share']:.1%} of the pairs), recall {quality['recall']:.3f}; CPU seconds: estimate "
        f"{estimate_seconds:.1f}, exact {exact_seconds:.1f}"
    )
    print(f"{'t':>8}{'rms error':>12}{'covered':>10}{'U off by':>12}{'stated error':>14}")
    for i, t in enumerate(bandwidths):
        value = np.log(energies[i] / exact.pair_energies[0, i])
        print(f"{t:8g}{rms[i]:12.2e}{covered[i]:10.1%}{value:12.1e}{errors[i] / energies[i]:14.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, action="append", help="samples; repeatable [20000]")
    parser.add_argument("--d", type=int, default=256)
    parser.add_argument("--embeddings", action="append", help=".npy file to take instead; repeatable")
    parser.add_argument("--t", default="auto")
    parser.add_argument("--k", type=int, default=64)
    parser.add_argument("--probes", type=int)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for path in options.embeddings or []:
        compare(path, load(path), options)
    for n in options.n or ([] if options.embeddings else [20_000]):
        compare("clustered unit vectors", clustered(n, options.d), options)


if __name__ == "__main__":
    main()
