"""Neighbours by FAISS: flat on a GPU (or the CPU), and HNSW.

FAISS answers queries, so every sample's own row comes back too and is removed by its position. torch is not
needed here and not imported: both bring an OpenMP runtime.
"""

from typing import Any

import numpy as np

from kdbias import optional
from kdbias.errors import KdbiasError
from kdbias.sphere.reservoirs import EMPTY, nearest_first, pack, require_k

LARGEST_GPU_K = 2048
_QUERIES = 16_384
_HNSW_LINKS = 32
_HNSW_BUILD = 80


def gpu_count() -> int:
    """CUDA devices that the installed FAISS can use: 0 with its build for the CPU or with none."""
    try:
        faiss = optional.faiss()
    except KdbiasError:
        return 0
    return faiss.get_num_gpus() if hasattr(faiss, "StandardGpuResources") else 0


def flat_neighbors(
    x: np.ndarray, k: int, *, gpu: int | None = None, memory: int = 4 << 30, threads: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Exact neighbours with IndexFlatIP, the data in blocks that fit in ``memory``.

    Args:
        x: (n, d) float32 unit rows.
        k: neighbours a sample, 1 <= k < n; on a GPU at most 2,047.
        gpu: CUDA device; None for the CPU.
        memory: bytes for the vectors of one block. A device that runs out of memory gets smaller blocks.

    Returns:
        (n, k) int64 positions and (n, k) float32 cosines, nearest first. Equal cosines go by the smaller
        position, but where they tie for the last places FAISS decides which are found.
    """
    n = len(x)
    require_k(n, k)
    if gpu is not None and k + 1 > LARGEST_GPU_K:
        raise KdbiasError(f"FAISS on a GPU finds at most {LARGEST_GPU_K - 1:,} neighbours; got k={k:,}")
    rows = max(1, min(n, memory // (2 * 4 * x.shape[1])))
    while True:
        try:
            return _flat(x, k, gpu, rows, threads)
        except RuntimeError as error:  # how FAISS reports cudaMalloc errors
            if gpu is None or "memory" not in str(error).lower() or rows <= 1024:
                raise
        rows //= 2


def _flat(
    x: np.ndarray, k: int, gpu: int | None, rows: int, threads: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """`flat_neighbors` with so many vectors of x in an index at a time."""
    faiss = optional.faiss()
    if threads:
        faiss.omp_set_num_threads(threads)
    resources = faiss.StandardGpuResources() if gpu is not None else None
    n, d = x.shape
    best = np.full((n, k), EMPTY, dtype=np.int64)
    for start in range(0, n, rows):
        block = x[start : start + rows]
        index = (
            faiss.IndexFlatIP(d)
            if resources is None
            else faiss.GpuIndexFlatIP(resources, d, _gpu_config(gpu))
        )
        index.add(block)
        found = min(k + 1, len(block))
        for first in range(0, n, _QUERIES):
            queries = slice(first, min(n, first + _QUERIES))
            cosines, ids = index.search(x[queries], found)
            keys = _keys(cosines, ids + start, queries.start)
            if start or found < k:
                keys = np.concatenate([best[queries], keys], axis=1)
            keys.partition(keys.shape[1] - k, axis=1)
            best[queries] = keys[:, keys.shape[1] - k :]
    return nearest_first(best, k)


def hnsw_neighbors(
    x: np.ndarray, k: int, *, effort: int | None = None, threads: int | None = None, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Approximate neighbours by a hierarchical navigable small world graph (Malkov & Yashunin 2018).

    It misses isolated samples, whose density it then gets wrong; prefer cells for densities.

    Args:
        effort: candidates kept in a search (efSearch); default the larger of 128 and 2 (k + 1).

    Returns:
        As `flat_neighbors`; where fewer than k were found, positions -1 and cosines -2.
    """
    n, d = x.shape
    require_k(n, k)
    faiss = optional.faiss()
    if threads:
        faiss.omp_set_num_threads(threads)
    index = faiss.IndexHNSWFlat(d, _HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = _HNSW_BUILD
    index.hnsw.efSearch = effort or max(128, 2 * (k + 1))
    index.hnsw.rng = faiss.RandomGenerator(seed)
    index.add(x)
    best = np.empty((n, k), dtype=np.int64)
    for first in range(0, n, _QUERIES):
        cosines, ids = index.search(x[first : first + _QUERIES], k + 1)
        keys = _keys(cosines, ids, first)
        keys.partition(1, axis=1)
        best[first : first + _QUERIES] = keys[:, 1:]
    return nearest_first(best, k)


def hnsw_bytes(n: int, d: int, k: int) -> int:
    """Memory that `hnsw_neighbors` takes beside the vectors: its own copy of them, links and results."""
    return n * (4 * d + 8 * _HNSW_LINKS + 64 + 20 * k)


def _keys(cosines: np.ndarray, ids: np.ndarray, first_query: int) -> np.ndarray:
    """Candidates as sortable keys; the query itself, and what FAISS did not find (-1), as empty ones."""
    keys = pack(np.clip(cosines, -1.0, 1.0), np.maximum(ids, 0))
    queries = np.arange(first_query, first_query + len(ids))[:, None]
    keys[(ids == queries) | (ids < 0) | (cosines < -2)] = EMPTY
    return keys


def _gpu_config(gpu: int | None) -> Any:
    """FAISS's options of a flat index of float32 on a GPU."""
    config = optional.faiss().GpuIndexFlatConfig()
    config.device = gpu or 0
    config.useFloat16 = False
    return config
