"""What the equilibrium costs and how well it is proven: one table.

    python benchmarks/equilibrium.py --embeddings lfw112/lfw_ov0095_f16.npy --t 2 5 --min-ess 0 0.5
    python benchmarks/equilibrium.py --n 50000 --d 512 --t 5 --memory 4GiB 1GiB

``--memory`` decides the form of the kernel: kept as float32 or float16 tiles, or a few recomputed products
with a stand-in between them. The gap is relative to what natural sampling could gain; the last column is how
far the iteration p <- p / Kp ends above the same optimum after 300 steps (kept float32 kernels only).
"""

import argparse
import resource
import time
from typing import Any

import numpy as np
from all_pairs import load

from kdbias.sphere.equilibrium.kernel_matrix import TiledKernel, kernel_matrix
from kdbias.sphere.equilibrium.solution import Equilibrium
from kdbias.sphere.equilibrium.solve import solve

COLUMNS = (
    "n",
    "d",
    "t",
    "floor",
    "kernel",
    "gain",
    "gap",
    "ESS/n",
    "steps",
    "products",
    "CPU s",
    "wall s",
    "GiB",
)


def multiplicative(kernel: TiledKernel, result: Equilibrium, steps: int = 300) -> float:
    """How far ``steps`` of p <- p / Kp end above the solver's energy, relative to the gain."""
    p = np.full(kernel.n, 1 / kernel.n)
    for _ in range(steps):
        p /= kernel.apply(p)
        p /= p.sum()
    gain = result.start_energy - result.energy
    return (float(p @ kernel.apply(p, exact=True)) - result.energy) / gain


def row(x: np.ndarray, t: float, floor: float, memory: str, options: argparse.Namespace) -> dict[str, Any]:
    began, cpu = time.perf_counter(), time.process_time()
    kernel = kernel_matrix(x, t, memory, options.threads)
    found = solve(kernel, min_ess=floor or None, tolerance=options.tolerance)
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    line = {
        "n": len(x),
        "d": x.shape[1],
        "t": t,
        "floor": floor,
        "kernel": kernel.kept.__name__ if kernel.kept else "recomputed",
        "gain": f"{1 - found.energy / found.start_energy:.2%}",
        "gap": f"{found.relative_gap:.1e}" if found.relative_gap is not None else "-",
        "ESS/n": f"{found.ess:.1%}",
        "steps": found.iterations,
        "products": found.products,
        "CPU s": f"{cpu:.1f}",
        "wall s": f"{wall:.1f}",
        "GiB": f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f}",
    }
    if options.peer and kernel.kept is np.float32 and not floor:
        line["p/Kp x 300"] = f"{multiplicative(kernel, found):.1e}"
    return line


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--embeddings", help=".npy of vectors, a path or below KDBIAS_DATA")
    parser.add_argument(
        "--n", type=int, default=0, help="samples (of synthetic clusters without --embeddings)"
    )
    parser.add_argument("--d", type=int, default=512)
    parser.add_argument("--t", type=float, nargs="+", default=[2.0, 5.0])
    parser.add_argument("--min-ess", type=float, nargs="+", default=[0.0, 0.5])
    parser.add_argument("--memory", nargs="+", default=["4GiB"])
    parser.add_argument("--tolerance", type=float, default=1e-3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--peer", action="store_true", help="also run 300 steps of p <- p / Kp")
    options = parser.parse_args()
    if not options.embeddings and not options.n:
        options.n = 10_000
    x = load(options)
    columns = (*COLUMNS, "p/Kp x 300") if options.peer else COLUMNS
    print("| " + " | ".join(columns) + " |")
    print("|" + "---|" * len(columns))
    for memory in options.memory:
        for t in options.t:
            for floor in options.min_ess:
                line = row(x, t, floor, memory, options)
                print("| " + " | ".join(str(line.get(name, "-")) for name in columns) + " |", flush=True)


if __name__ == "__main__":
    main()
