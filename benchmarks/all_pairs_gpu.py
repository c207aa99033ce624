"""How fast a CUDA device sees all pairs: kdbias, FAISS, torch and KeOps in one table.

    python benchmarks/all_pairs_gpu.py --n 100000 --n 400000 --d 512 --shapes --large 5180000 \\
        --estimate 2000000
    TRITON_INTERPRET=1 python benchmarks/all_pairs_gpu.py --device cpu --n 300 --d 16 --rounds 1 --shapes \\
        --large 400 --estimate 1500

Ten minutes on an H200 by what is expected of it. The second line shows that everything runs, where there is
no GPU, in Triton's interpreter, and times nothing.

1.00 is a full n x n float32 product at the device's own rate, measured around every run; TFLOP/s count n^2 d
operations, those of half of the pairs. Every round runs every contestant once, in turn, in one process;
seconds are wall-clock from vectors in the host's memory to results in the host's memory, the medians of
rounds after one warm-up on 8,192 samples (which compiles). From 200,000 samples on there is one round. Errors
are against float64 on 100 samples: relative for potentials, absolute for cosines. Rows are those of a float16
table, unless a contestant says float32. The estimate past exact is held against an exact pass on the device,
over all samples; that of --estimate samples has 128 dimensions.
"""

import argparse
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from all_pairs import worst_error
from contestants import BANDWIDTHS, K, clustered

from kdbias.sphere import triton_pairs, triton_tiles

DEVICE = "cuda:0"
ROWS = 8192
SIDE = 16_384  # of the product that is the yardstick
SHAPED, SOLVED = 100_000, 60  # rows of the shapes' comparison, seconds of an equilibrium
FLOAT32 = ", float32 rows"
ONE, FOUR = BANDWIDTHS[:1], BANDWIDTHS
SHAPES = ((128, 8, 2), (128, 8, 3), (128, 8, 4), (128, 4, 3), (64, 4, 3), (64, 4, 5))

Contestant = Callable[[np.ndarray], dict]


@contextmanager
def torch_tiles() -> Iterator[None]:
    """As if there were no Triton."""
    before, triton_pairs.trusted = triton_pairs.trusted, lambda device: False
    try:
        yield
    finally:
        triton_pairs.trusted = before


def without_gpu() -> None:
    """Everything on the CPU, and as small as that has to be."""
    global DEVICE, ROWS, SIDE, SHAPED, SOLVED
    DEVICE, ROWS, SIDE, SHAPED, SOLVED = "cpu:0", 128, 256, 256, 2
    interpreted = os.environ.get("TRITON_INTERPRET") == "1" and triton_tiles.installed()
    triton_pairs.trusted = lambda device: interpreted
    triton_tiles.SHAPES.update(dict.fromkeys((False, True), (64, 4, 3)))


def synchronize() -> None:
    if DEVICE.startswith("cuda"):
        torch.cuda.synchronize()


def peak_mib(forget: bool = False) -> float:
    """The most that torch has held on the device since this was asked to forget."""
    if not DEVICE.startswith("cuda"):
        return math.nan
    if forget:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return torch.cuda.max_memory_allocated() / 2**20


def kdbias_pass(
    bandwidths: tuple[float, ...], k: int, near: float | None = None, precision: str = "float32"
) -> Contestant:
    """A pass as a user gets it, but never by FAISS."""

    def run(x: np.ndarray) -> dict:
        from kdbias.sphere.torch_pairs import torch_pairs

        p = np.full((1, len(x)), 1 / len(x))
        sums, (_, cosines), _ = torch_pairs(x, bandwidths, p, k, near, DEVICE, precision=precision)
        result = {"potentials": sums[0] + 1 / len(x)} if bandwidths else {}
        return result | ({"cosines": cosines} if k else {})

    return run


def by_torch_tiles(contestant: Contestant) -> Contestant:
    def run(x: np.ndarray) -> dict:
        with torch_tiles():
            return contestant(x)

    return run


def faiss_flat(x: np.ndarray) -> dict:
    """GpuIndexFlatIP with k + 1, because the sample itself is among its neighbours."""
    import faiss

    index = faiss.GpuIndexFlatIP(faiss.StandardGpuResources(), x.shape[1])
    index.add(x)
    cosines, ids = index.search(x, K + 1)
    keep = ids != np.arange(len(x))[:, None]
    keep[keep.all(axis=1), -1] = False
    return {"cosines": cosines[keep].reshape(len(x), K)}


def torch_potentials(bandwidths: tuple[float, ...]) -> Contestant:
    """The loop most people write: a block of rows against everything."""

    def run(x: np.ndarray) -> dict:
        y = torch.from_numpy(x).to(DEVICE)
        rows = max(1, ROWS * 100_000 // max(len(y), 100_000))
        sums = torch.zeros(len(bandwidths), len(y), device=DEVICE)
        for start in range(0, len(y), rows):
            squared = 2 - 2 * (y[start : start + rows] @ y.T)
            for i, t in enumerate(bandwidths):
                sums[i, start : start + rows] = torch.exp(-t * squared).mean(dim=1)
        return {"potentials": sums.cpu().numpy()}

    return run


def torch_topk(x: np.ndarray) -> dict:
    y = torch.from_numpy(x).to(DEVICE)
    found, rows = [], max(1, ROWS * 100_000 // max(len(y), 100_000))
    for start in range(0, len(y), rows):
        cosines = y[start : start + rows] @ y.T
        cosines[torch.arange(len(cosines)), torch.arange(start, start + len(cosines))] = -2
        found.append(cosines.topk(K, dim=1).values)
    return {"cosines": torch.cat(found).cpu().numpy()}


def keops(x: np.ndarray) -> dict:
    from pykeops.torch import LazyTensor

    y = torch.from_numpy(x).to(DEVICE)
    kernel = (-ONE[0] * ((LazyTensor(y[:, None, :]) - LazyTensor(y[None, :, :])) ** 2).sum(-1)).exp()
    return {"potentials": kernel.sum(dim=1).reshape(1, -1).cpu().numpy() / len(x)}


def contestants() -> dict[str, Contestant]:
    every: dict[str, Contestant] = {
        "torch row blocks, 1 bandwidth": torch_potentials(ONE),
        "torch row blocks, 4 bandwidths": torch_potentials(FOUR),
        "torch row blocks, topk": torch_topk,
        "torch tiles: 4 bandwidths": by_torch_tiles(kdbias_pass(FOUR, 0)),
        "torch tiles: 4 bandwidths, tf32": kdbias_pass(FOUR, 0, precision="tf32"),
        "torch tiles: both": by_torch_tiles(kdbias_pass(FOUR, K)),
    }
    if triton_pairs.trusted(DEVICE):
        every |= {
            "fused: potentials, 1 bandwidth": kdbias_pass(ONE, 0),
            "fused: potentials, 4 bandwidths": kdbias_pass(FOUR, 0),
            f"fused: 4 bandwidths{FLOAT32}": kdbias_pass(FOUR, 0),
            f"fused: both{FLOAT32}": kdbias_pass(FOUR, K),
            "fused: neighbours": kdbias_pass((), K),
            "fused: both": kdbias_pass(FOUR, K),
            "fused: both and near duplicates": kdbias_pass(FOUR, K, 0.999),
        }
    try:
        import faiss

        if faiss.get_num_gpus():
            every["faiss GpuIndexFlatIP"] = faiss_flat
    except (ImportError, AttributeError):
        print("FAISS's CUDA build is not installed")
    try:
        import pykeops.torch  # noqa: F401

        every["KeOps, 1 bandwidth"] = keops
    except ImportError:
        print("KeOps is not installed (pip install pykeops)")
    return every


def product_seconds(n: int, d: int, dtype: torch.dtype = torch.float32) -> float:
    """Of a full n x n product at the device's rate."""
    a = torch.randn(SIDE, d, device=DEVICE, dtype=dtype)
    out = torch.empty(SIDE, SIDE, device=DEVICE, dtype=dtype)
    best = math.inf
    for _ in range(5):
        best = min(best, timed(lambda: torch.mm(a, a.T, out=out)))
    return best * (n / SIDE) ** 2


def stored_as_half(x: np.ndarray) -> np.ndarray:
    """Rows as an embedding table with float16 storage gives them."""
    x = x.astype(np.float16).astype(np.float32)
    x /= np.sqrt(np.einsum("ij,ij->i", x, x))[:, None]
    return x


def race(n: int, d: int, rounds: int, only: list[str] | None) -> None:
    """The table of one size."""
    every = {
        name: run for name, run in contestants().items() if not only or any(part in name for part in only)
    }
    full, small = clustered(n, d), clustered(ROWS, d)
    x, small_x = stored_as_half(full), stored_as_half(small)
    seconds: dict[str, list[float]] = {name: [] for name in every}
    ratios: dict[str, list[float]] = {name: [] for name in every}
    errors, peaks = {}, {}
    for name, contestant in list(every.items()):
        try:
            contestant(small if name.endswith(FLOAT32) else small_x)
        except Exception as error:  # one that does not run here leaves the others their turn
            print(f"{name}: {type(error).__name__}: {str(error)[:200]}")
            del every[name]
    for attempt in range(rounds if n < 200_000 else 1):
        for name, contestant in every.items():
            limit, given = product_seconds(n, d), full if name.endswith(FLOAT32) else x
            peak_mib(forget=True)
            synchronize()
            begun = time.perf_counter()
            result = contestant(given)
            seconds[name].append(time.perf_counter() - begun)
            limit = min(limit, product_seconds(n, d))
            ratios[name].append(limit / seconds[name][-1])
            if not attempt:
                errors[name], peaks[name] = worst_error(given, result), peak_mib()
    print(
        f"\nclustered unit vectors, n={n:,}, d={d}, k={K}, t={BANDWIDTHS}\n"
        f"{'':36}{'seconds':>9}{'ratio':>7}{'TFLOP/s':>9}{'torch MiB':>11}{'max error':>11}"
    )
    for name in every:
        spent = statistics.median(seconds[name])
        print(
            f"{name:36}{spent:9.3f}{statistics.median(ratios[name]):7.2f}{n * n * d / spent / 1e12:9.0f}"
            f"{peaks[name]:11.0f}{errors[name]:11.1e}",
            flush=True,
        )
    if triton_pairs.trusted(DEVICE):
        solver(x)
    estimate(x)


def timed(work: Callable[[], object]) -> float:
    synchronize()
    begun = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - begun


def solver(x: np.ndarray) -> None:
    """Products with the mean kernel, vectors on the device, and the equilibrium at an ESS of a half."""
    from kdbias.sphere.equilibrium.device_kernel import DeviceKernel
    from kdbias.sphere.equilibrium.kernel_matrix import LADDER
    from kdbias.sphere.equilibrium.solve import solve

    kernel, p = DeviceKernel(x, LADDER, DEVICE), np.random.default_rng(0).dirichlet(np.ones(len(x)))
    kernel.apply(p)
    kernel.apply(p, exact=True)
    product, exact = (timed(lambda e=e: kernel.apply(p, exact=e)) for e in (False, True))
    print(f"kernel product over the ladder of five: {product:.3f} s, summed in float64 {exact:.3f} s")
    for t in (2.0, LADDER):
        kernel = DeviceKernel(x, t, DEVICE)
        kernel.apply(p)
        one = timed(lambda kernel=kernel: kernel.apply(p))
        begun = time.perf_counter()
        found = solve(kernel, min_ess=0.5, max_seconds=SOLVED)
        spent = time.perf_counter() - begun
        share = found.gap / (found.start_energy - found.energy)
        print(
            f"equilibrium, t={t}: {spent:.2f} s = {spent / one:.0f} products' time, {found.products} taken, "
            f"gap {100 * share:.2g} % of the gain",
            flush=True,
        )


def estimate(x: np.ndarray) -> None:
    """The estimate past exact, and how far it is off what an exact pass on the device gives."""
    from kdbias.sphere.all_pairs import all_pairs
    from kdbias.sphere.cells.device import device_tile
    from kdbias.sphere.cells.estimate import estimate_pairs
    from kdbias.sphere.cells.job import Estimate

    begun = time.perf_counter()
    exact = all_pairs(x, FOUR, k=K, device=DEVICE)
    spent, told = time.perf_counter() - begun, []
    how = Estimate(k=K, device=DEVICE, tile=device_tile(DEVICE, *x.shape))
    peak_mib(forget=True)
    begun = time.perf_counter()
    found = estimate_pairs(
        x, FOUR, how=how, progress=lambda share: told.append((share, time.perf_counter() - begun))
    )
    shares, times = np.transpose(told)
    # A tenth of the progress each, the last eight of which are the pairs.
    cells, checked = times[np.searchsorted(shares.cumsum(), (0.0999, 0.1999))]
    end = times[-1]
    off = found.pairs.potentials[0] / exact.potentials[0] - 1
    covered = np.abs(found.pairs.without_self[0] - exact.without_self[0]) <= found.half_widths[0]
    recall = (found.pairs.cosines >= exact.cosines[:, -1:] - 1e-6).mean()
    print(
        f"estimate of {len(x):,} x {x.shape[1]}: {end:.2f} s, of which cells {cells:.2f}, samples computed "
        f"exactly {checked - cells:.2f}; exact pass {spent:.2f} s; {found.quality['pairs_share']:.2%} of the "
        f"pairs, recall {recall:.3f}, {peak_mib():.0f} MiB"
    )
    for t, error, rate in zip(FOUR, np.sqrt((off**2).mean(axis=1)), covered.mean(axis=1), strict=True):
        print(f"  t={t:g}: off by {error:.3%} rms, intervals hold for {rate:.1%}", flush=True)


def shapes(n: int, d: int) -> None:
    """Blocks, warps and stages of the fused kernel; four bandwidths, vectors on the device."""
    from kdbias.sphere.half_terms import HalfTerms
    from kdbias.sphere.kernels import Kernels

    terms = HalfTerms.of(stored_as_half(clustered(n, d)), DEVICE)
    before, tile = dict(triton_tiles.SHAPES), min(n, triton_tiles.TILE)
    for shape in SHAPES:
        triton_tiles.SHAPES[False] = shape
        fused = triton_tiles.FusedTiles(terms, Kernels(FOUR), torch.ones(1, n, device=DEVICE))
        launch = partial(fused.tile, fused.every[:tile], slice(n - tile, n), False)
        try:
            timed(launch)
            spent = min(timed(launch) for _ in range(5))
        except Exception as error:
            print(f"block {shape}: {type(error).__name__}: {str(error)[:120]}")
            continue
        print(f"block, warps, stages {shape}: {2 * tile**2 * d / spent / 1e12:.0f} TFLOP/s", flush=True)
    triton_tiles.SHAPES.update(before)


def large(n: int, d: int) -> None:
    """Potentials at four bandwidths."""
    x = made_there(n, d)
    begun = time.perf_counter()
    kdbias_pass(FOUR, 0)(x)
    spent = time.perf_counter() - begun
    rate = n * n * d / spent / 1e12
    print(f"\npotentials, 4 bandwidths, {n:,} x {d}: {spent:.1f} s, {rate:.0f} TFLOP/s", flush=True)


def made_there(n: int, d: int) -> np.ndarray:
    """(n, d) float32 unit rows in clusters, made on the device, as a float16 table gives them."""
    x = np.empty((n, d), np.float32)
    centres = torch.randn(n // 50, d, device=DEVICE)
    for start in range(0, n, 1 << 18):
        member = torch.randint(len(centres), (min(1 << 18, n - start),), device=DEVICE)
        rows = centres[member] + 0.5 * torch.randn(len(member), d, device=DEVICE)
        rows = (rows / rows.norm(dim=1, keepdim=True)).half().float()
        x[start : start + len(rows)] = (rows / rows.norm(dim=1, keepdim=True)).cpu().numpy()
    return x


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, action="append", help="repeatable; 100,000")
    parser.add_argument("--d", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", action="append", metavar="TEXT", help="contestants whose name has TEXT")
    parser.add_argument("--shapes", action="store_true", help="compare shapes of the fused kernel, too")
    parser.add_argument("--large", type=int, metavar="N", help="potentials of so many samples, too")
    parser.add_argument("--estimate", type=int, metavar="N", help="the estimate of so many x 128, too")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: only whether it runs")
    options = parser.parse_args()
    if options.device == "cpu":
        without_gpu()
    rates = ", ".join(
        f"{label} {2 * SIDE**2 * options.d / product_seconds(SIDE, options.d, dtype) / 1e12:.3g}"
        for label, dtype in (
            ("float32", torch.float32), ("float16", torch.float16), ("bfloat16", torch.bfloat16)
        )
    )  # fmt: skip
    where = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    print(f"{where}, torch {torch.__version__}: products at {rates} TFLOP/s")
    for n in options.n or [100_000]:
        race(n, options.d, options.rounds, options.only)
    if options.shapes:
        shapes(SHAPED, options.d)
    if options.estimate:
        estimate(made_there(options.estimate, min(128, options.d)))
    if options.large:
        large(options.large, options.d)


if __name__ == "__main__":
    main()
