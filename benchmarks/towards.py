"""What a target costs: its kernel means beside the bare product, and matching beside the equilibrium.

    python benchmarks/towards.py --n 100000 --m 1000 --d 512 --solver-n 10000

The bare product is x y' of n data and m reference vectors, block by block, on the same threads: what any way
to compare them has to do. The solvers' times include their kernel, which is kept.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np

from kdbias.sphere.equilibrium.kernel_matrix import LADDER, TiledKernel, kernel_matrix
from kdbias.sphere.equilibrium.matching import match
from kdbias.sphere.equilibrium.solve import solve
from kdbias.sphere.equilibrium.target import kernel_means, reference_target
from kdbias.sphere.workers import Workspace, over_rows

ROWS = 1024


def unit(n: int, d: int, seed: int, clusters: int = 20) -> np.ndarray:
    """(n, d) float32 unit rows around a few centres."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((clusters, d)).astype(np.float32)
    x = rng.standard_normal((n, d), dtype=np.float32)
    x += centres[(rng.random(n) ** (seed + 1) * clusters).astype(int)]
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def bare(x: np.ndarray, y: np.ndarray, threads: int) -> None:
    """The product alone."""

    def block(rows: slice, workspace: Workspace) -> None:
        np.matmul(x[rows], y.T, out=workspace.array("tile", (rows.stop - rows.start, len(y))))

    over_rows(len(x), block, threads, ROWS)


def seconds(work: Callable[[], object], rounds: int) -> float:
    """Least CPU seconds over rounds: other jobs only ever add to them."""
    found = []
    for _ in range(rounds):
        began = time.process_time()
        work()
        found.append(time.process_time() - began)
    return min(found)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (("n", 100_000), ("m", 1000), ("d", 512), ("solver-n", 10_000)):
        parser.add_argument(f"--{name}", type=lambda text: int(float(text)), default=default)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    threads, rounds = options.threads, options.rounds
    x, y = unit(options.n, options.d, 2), unit(options.m, options.d, 0)
    q = np.full(len(y), 1 / len(y))
    print(f"n = {options.n:,}, m = {options.m:,}, d = {options.d}, {threads} thread(s): CPU s, ratio")
    base = seconds(lambda: bare(x, y, threads), rounds)
    print(f"  bare product                  {base:8.2f}  1.00")
    for name, t in (("one bandwidth", 2.0), ("ladder", LADDER)):
        found = seconds(lambda t=t: kernel_means(x, y, q, t, threads), rounds)  # type: ignore[misc]
        print(f"  kernel means, {name:15} {found:8.2f}  {found / base:.2f}")
    x = x[: options.solver_n]
    target = reference_target(x, y, LADDER, threads=threads)

    def kernel() -> TiledKernel:
        return kernel_matrix(x, LADDER, threads=threads)

    base = seconds(lambda: solve(kernel(), min_ess=0.5), rounds)
    print(f"solvers with their kernel, n = {len(x):,}: CPU s, ratio")
    print(f"  equilibrium, ESS >= 50 %      {base:8.2f}  1.00")
    for name, stop, floor in (("the floor", False, 0.5), ("the noise", True, 0.1)):
        found = seconds(lambda s=stop, f=floor: match(kernel(), target, min_ess=f, stop=s), rounds)  # type: ignore[misc]
        print(f"  matched, to {name:17} {found:8.2f}  {found / base:.2f}")


if __name__ == "__main__":
    main()
