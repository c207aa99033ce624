"""How fast a CUDA device sees all pairs: kdbias, FAISS and torch in one table.

    python benchmarks/all_pairs_gpu.py --n 100000 --d 512 --rounds 3

1.00 is a full n x n float32 product at the device's own rate, measured around every run. Every round runs
every contestant once, in turn, in one process; seconds are wall-clock from vectors in the host's memory to
results in the host's memory, the medians of rounds after one warm-up on 8,192 samples. Errors are against
float64 on 100 samples: relative for potentials, absolute for cosines.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from all_pairs import worst_error
from contestants import BANDWIDTHS, K, clustered

ROWS = 8192

Contestant = Callable[[np.ndarray], dict]


def kdbias_pass(bandwidths: tuple[float, ...], k: int, precision: str, faiss: bool) -> Contestant:
    """`all_pairs` as a user gets it, with neighbours by FAISS or, without its CUDA build, in the tiles."""

    def run(x: np.ndarray) -> dict:
        from kdbias.sphere.faiss_search import flat_neighbors
        from kdbias.sphere.torch_pairs import torch_pairs

        p = np.full((1, len(x)), 1 / len(x))
        sums, (_, cosines), _ = torch_pairs(
            x, bandwidths, p, 0 if faiss else k, None, "cuda:0", precision=precision
        )
        if k and faiss:
            _, cosines = flat_neighbors(x, k, gpu=0)
        result = {"potentials": sums[0] + 1 / len(x)} if bandwidths else {}
        return result | ({"cosines": cosines} if k else {})

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
        y = torch.from_numpy(x).cuda()
        sums = torch.zeros(len(bandwidths), len(y), device="cuda")
        for start in range(0, len(y), ROWS):
            squared = 2 - 2 * (y[start : start + ROWS] @ y.T)
            for i, t in enumerate(bandwidths):
                sums[i, start : start + ROWS] = torch.exp(-t * squared).mean(dim=1)
        return {"potentials": sums.cpu().numpy()}

    return run


def torch_topk(x: np.ndarray) -> dict:
    y = torch.from_numpy(x).cuda()
    found = []
    for start in range(0, len(y), ROWS):
        cosines = y[start : start + ROWS] @ y.T
        cosines[torch.arange(len(cosines)), torch.arange(start, start + len(cosines))] = -2
        found.append(cosines.topk(K, dim=1).values)
    return {"cosines": torch.cat(found).cpu().numpy()}


def contestants() -> dict[str, Contestant]:
    one, four = BANDWIDTHS[:1], BANDWIDTHS
    every: dict[str, Contestant] = {
        "kdbias: potentials, 1 bandwidth": kdbias_pass(one, 0, "float32", False),
        "kdbias: potentials, 4 bandwidths": kdbias_pass(four, 0, "float32", False),
        "kdbias: 4 bandwidths, tf32": kdbias_pass(four, 0, "tf32", False),
        "kdbias: 4 bandwidths, bf16": kdbias_pass(four, 0, "bf16", False),
        "kdbias: neighbours in tiles": kdbias_pass((), K, "float32", False),
        "kdbias: both in tiles": kdbias_pass(four, K, "float32", False),
        "torch row blocks, 1 bandwidth": torch_potentials(one),
        "torch row blocks, 4 bandwidths": torch_potentials(four),
        "torch row blocks, topk": torch_topk,
    }
    try:
        import faiss

        if faiss.get_num_gpus():
            every["kdbias: both, neighbours by FAISS"] = kdbias_pass(four, K, "float32", True)
            every["faiss GpuIndexFlatIP"] = faiss_flat
    except (ImportError, AttributeError):
        pass
    return every


def product_seconds(n: int, d: int, dtype: torch.dtype = torch.float32) -> float:
    """Of a full n x n product at the device's rate."""
    side = 16_384
    a = torch.randn(side, d, device="cuda", dtype=dtype)
    out = torch.empty(side, side, device="cuda", dtype=dtype)
    best = math.inf
    for _ in range(5):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        torch.mm(a, a.T, out=out)
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begun)
    return best * (n / side) ** 2


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=100_000)
    parser.add_argument("--d", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", action="append", metavar="TEXT", help="contestants whose name has TEXT")
    options = parser.parse_args()
    every = {n: c for n, c in contestants().items() if not options.only or any(t in n for t in options.only)}
    x, small = clustered(options.n, options.d), clustered(8192, options.d)
    seconds: dict[str, list[float]] = {name: [] for name in every}
    ratios: dict[str, list[float]] = {name: [] for name in every}
    errors, peaks = {}, {}
    for contestant in every.values():
        contestant(small)
    for attempt in range(options.rounds):
        for name, contestant in every.items():
            limit = product_seconds(*x.shape)
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            torch.cuda.synchronize()
            begun = time.perf_counter()
            result = contestant(x)
            seconds[name].append(time.perf_counter() - begun)
            limit = min(limit, product_seconds(*x.shape))
            ratios[name].append(limit / seconds[name][-1])
            if not attempt:
                errors[name], peaks[name] = worst_error(x, result), torch.cuda.max_memory_allocated() / 2**20
    fast = " and ".join(
        f"{2 * options.n**2 * options.d / product_seconds(*x.shape, dtype) / 1e12:.0f} TFLOP/s {label}"
        for label, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16))
    )
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}: products at {fast}\n"
        f"clustered unit vectors, n={options.n:,}, d={options.d}, k={K}, t={BANDWIDTHS}; "
        f"median of {options.rounds} rounds\n\n"
        f"{'':36}{'seconds':>9}{'ratio':>7}{'torch MiB':>11}{'max error':>11}"
    )
    for name in every:
        print(
            f"{name:36}{statistics.median(seconds[name]):9.2f}{statistics.median(ratios[name]):7.2f}"
            f"{peaks[name]:11.0f}{errors[name]:11.1e}"
        )


if __name__ == "__main__":
    main()
