"""The contestants of ``all_pairs.py``: each returns how long it took and what it computed on a few rows.

Each runs in a process of its own (torch and faiss bring thread pools that disturb each other) and imports its
library inside the function, before the clock starts.
"""

import math
import time
from collections.abc import Callable

import numpy as np

K = 64
BANDWIDTHS = (2.0, 4.0, 5.0, 10.0)
TILE = 512  # of the torch contestants: the fastest of 256, 512, 1024 and 2048


def clustered(n: int, d: int, seed: int = 0) -> np.ndarray:
    """(n, d) unit vectors in long-tailed clusters of 50 on average, cosine about 0.8 within a cluster."""
    rng = np.random.default_rng(seed)
    clusters = max(1, n // 50)
    shares = 1 / np.arange(1, clusters + 1) ** 0.7
    member = rng.choice(clusters, n, p=shares / shares.sum())
    centres = rng.standard_normal((clusters, d), dtype=np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    x = centres[member] + (0.5 / math.sqrt(d)) * rng.standard_normal((n, d), dtype=np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


class Clock:
    """Seconds of a block: wall-clock, or CPU time of the process where other jobs share the machine."""

    def __init__(self, cpu: bool) -> None:
        self.now = time.process_time if cpu else time.perf_counter
        self.seconds = 0.0

    def __enter__(self) -> "Clock":
        self.started = self.now()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = self.now() - self.started


def gemm_rate(d: int, threads: int, cpu: bool) -> float:
    """Floating-point operations a second of this machine's float32 product, the best of three."""
    from threadpoolctl import threadpool_limits

    side = 3072
    a = np.random.default_rng(0).random((side, d), dtype=np.float32)
    out = np.empty((side, side), np.float32)
    best = math.inf
    with threadpool_limits(threads, "blas"):
        for _ in range(4):
            with Clock(cpu) as clock:
                np.matmul(a, a.copy().T, out=out)
            best = min(best, clock.seconds)
    return 2 * side * side * d / best


def _kdbias(x: np.ndarray, threads: int, clock: Clock, bandwidths: tuple[float, ...], k: int) -> dict:
    from kdbias.sphere.neighbors import Neighbors
    from kdbias.sphere.potentials import Potentials
    from kdbias.sphere.tiles import Epilogue, traverse

    with clock:
        found = Neighbors(len(x), k) if k else None
        sums = Potentials(len(x), bandwidths) if bandwidths else None
        epilogues: list[Epilogue] = [e for e in (found, sums) if e is not None]
        traverse(x, epilogues, threads=threads)
    result = {}
    if sums is not None:
        result["potentials"] = sums.potentials[0]
    if found is not None:
        result["cosines"] = found.cosines
    return result


def kdbias_bare(x: np.ndarray, threads: int, clock: Clock) -> dict:
    return _kdbias(x, threads, clock, (), 0)


def kdbias_one_bandwidth(x: np.ndarray, threads: int, clock: Clock) -> dict:
    return _kdbias(x, threads, clock, BANDWIDTHS[:1], 0)


def kdbias_four_bandwidths(x: np.ndarray, threads: int, clock: Clock) -> dict:
    return _kdbias(x, threads, clock, BANDWIDTHS, 0)


def kdbias_neighbours(x: np.ndarray, threads: int, clock: Clock) -> dict:
    return _kdbias(x, threads, clock, (), K)


def kdbias_both(x: np.ndarray, threads: int, clock: Clock) -> dict:
    return _kdbias(x, threads, clock, BANDWIDTHS, K)


def faiss_flat(x: np.ndarray, threads: int, clock: Clock) -> dict:
    """IndexFlatIP with k + 1, because the sample itself is among its neighbours."""
    import faiss

    faiss.omp_set_num_threads(threads)
    with clock:
        index = faiss.IndexFlatIP(x.shape[1])
        index.add(x)
        cosines, ids = index.search(x, K + 1)
    keep = ids != np.arange(len(x))[:, None]
    keep[keep.all(axis=1), -1] = False
    return {"cosines": cosines[keep].reshape(len(x), K)}


def _torch_tiles(x: np.ndarray, threads: int, clock: Clock, bandwidths: tuple[float, ...]) -> dict:
    import torch

    torch.set_num_threads(threads)
    y = torch.from_numpy(x)
    n = len(y)
    with torch.inference_mode(), clock:
        total = torch.zeros(len(bandwidths), n, dtype=torch.float64)
        product, kernel = torch.empty(TILE, TILE), torch.empty(TILE, TILE)
        for i in range(0, n, TILE):
            a = y[i : i + TILE]
            for j in range(0, n, TILE):
                b = y[j : j + TILE]
                s, e = product[: len(a), : len(b)], kernel[: len(a), : len(b)]
                torch.mm(a, b.T, out=s)
                for index, t in enumerate(bandwidths):
                    torch.mul(s, 2 * t / math.log(2), out=e)
                    e.exp2_()
                    total[index, i : i + TILE] += e.sum(dim=1)
        for index, t in enumerate(bandwidths):
            total[index] *= math.exp(-2 * t) / n
    return {"potentials": total.numpy()}


def torch_tiles_one(x: np.ndarray, threads: int, clock: Clock) -> dict:
    return _torch_tiles(x, threads, clock, BANDWIDTHS[:1])


def torch_tiles_four(x: np.ndarray, threads: int, clock: Clock) -> dict:
    return _torch_tiles(x, threads, clock, BANDWIDTHS)


def torch_row_blocks(x: np.ndarray, threads: int, clock: Clock) -> dict:
    """The loop most people write: a block of rows against everything."""
    import torch

    torch.set_num_threads(threads)
    y = torch.from_numpy(x)
    t = BANDWIDTHS[0]
    with torch.inference_mode(), clock:
        parts = [torch.exp(-t * (2 - 2 * block @ y.T)).mean(dim=1) for block in y.split(1024)]
        potentials = torch.cat(parts)
    return {"potentials": potentials.numpy()[None]}


def torch_cdist(x: np.ndarray, threads: int, clock: Clock) -> dict:
    import torch

    torch.set_num_threads(threads)
    y = torch.from_numpy(x)
    t = BANDWIDTHS[0]
    with torch.inference_mode(), clock:
        parts = [torch.cdist(block, y).pow_(2).mul_(-t).exp_().mean(dim=1) for block in y.split(1024)]
        potentials = torch.cat(parts)
    return {"potentials": potentials.numpy()[None]}


def torch_pdist(x: np.ndarray, threads: int, clock: Clock) -> dict:
    """The published line for uniformity; its memory is n^2 / 2 floats several times over."""
    import torch

    torch.set_num_threads(threads)
    y = torch.from_numpy(x)
    with torch.inference_mode(), clock:
        value = torch.pdist(y).pow(2).mul(-BANDWIDTHS[0]).exp().mean().log()
    return {"uniformity": value.item()}


def sklearn_kernel_density(x: np.ndarray, threads: int, clock: Clock) -> dict:
    from sklearn.neighbors import KernelDensity

    with clock:
        tree = KernelDensity(bandwidth=1 / math.sqrt(2 * BANDWIDTHS[0]), rtol=1e-2).fit(x)
        tree.score_samples(x)
    return {}


def keops_gaussian(x: np.ndarray, threads: int, clock: Clock) -> dict:
    from pykeops.numpy import LazyTensor

    def run() -> np.ndarray:
        rows, columns = LazyTensor(x[:, None, :]), LazyTensor(x[None, :, :])
        kernel = (-BANDWIDTHS[0] * ((rows - columns) ** 2).sum(-1)).exp()
        return kernel.sum(axis=1)

    run()  # compiles
    with clock:
        sums = run()
    return {"potentials": sums.reshape(1, -1) / len(x)}


Contestant = Callable[[np.ndarray, int, Clock], dict]
# name: (function, number of samples it is limited to; its time is then scaled by the square)
CONTESTANTS: dict[str, tuple[Contestant, int | None]] = {
    "kdbias: products alone": (kdbias_bare, None),
    "kdbias: potentials, 1 bandwidth": (kdbias_one_bandwidth, None),
    "kdbias: potentials, 4 bandwidths": (kdbias_four_bandwidths, None),
    "kdbias: neighbours": (kdbias_neighbours, None),
    "kdbias: neighbours + 4 bandwidths": (kdbias_both, None),
    "faiss IndexFlatIP": (faiss_flat, None),
    "torch tiles, 1 bandwidth": (torch_tiles_one, None),
    "torch tiles, 4 bandwidths": (torch_tiles_four, None),
    "torch row blocks, 1 bandwidth": (torch_row_blocks, None),
    "torch.cdist, 1 bandwidth": (torch_cdist, None),
    "torch.pdist, uniformity": (torch_pdist, 4000),
    "sklearn KernelDensity": (sklearn_kernel_density, 4000),
    "KeOps Gaussian": (keops_gaussian, 4000),
}
