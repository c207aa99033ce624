"""All exact results over all pairs, on the device at hand: one call, whatever computes it."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from kdbias.errors import KdbiasError
from kdbias.sphere import reservoirs
from kdbias.sphere.duplicates import RadiusCounts
from kdbias.sphere.neighbors import Neighbors
from kdbias.sphere.potentials import Potentials, probabilities
from kdbias.sphere.snapshots import Snapshots
from kdbias.sphere.tiles import TILE, Epilogue, traverse
from kdbias.sphere.vectors import require_unit_rows
from kdbias.tables import fingerprints

SMALLEST_TILE = 64


@dataclass(frozen=True)
class AllPairs:
    """What one pass over all pairs gave; a result that was not asked for is None.

    Attributes:
        bandwidths: T numbers.
        weights: (m, n) float64 sampling probabilities.
        without_self: (m, T, n) float64, sum over j != i of p_j K_ij.
        ids, cosines: (n, k) int64 and float32, the nearest others, nearest first.
        counts: (n,) int64, others at a cosine of at least ``near``.
    """

    bandwidths: list[float]
    weights: np.ndarray
    without_self: np.ndarray
    ids: np.ndarray | None
    cosines: np.ndarray | None
    counts: np.ndarray | None

    @property
    def potentials(self) -> np.ndarray:
        """(m, T, n): self included."""
        return self.without_self + self.weights[:, None, :]

    def first_potentials(self) -> np.ndarray:
        """(T, n): self included, under the first weights; takes their sums over."""
        first = self.without_self[0]
        first += self.weights[0]
        return first

    @property
    def pair_energies(self) -> np.ndarray:
        """(m, T): sum over i != j of p_i p_j K_ij."""
        return np.einsum("mn,mtn->mt", self.weights, self.without_self)

    @property
    def energies(self) -> np.ndarray:
        """(m, T): sum over all i, j of p_i p_j K_ij."""
        return self.pair_energies + np.einsum("mn,mn->m", self.weights, self.weights)[:, None]


def all_pairs(
    x: np.ndarray,
    bandwidths: Sequence[float] = (),
    weights: np.ndarray | None = None,
    *,
    k: int = 0,
    near: float | None = None,
    device: str = "cpu",
    precision: str = "float32",
    memory: int = 4 << 30,
    tile: int | None = None,
    threads: int | None = None,
    progress: Callable[[int], object] | None = None,
    snapshot: str | os.PathLike[str] | None = None,
) -> AllPairs:
    """Kernel sums, neighbours and radius counts in one pass over all pairs.

    Args:
        x: (n, d) float32 unit rows.
        bandwidths: T numbers > 0; none for no potentials.
        weights: (m, n) sampling probabilities; by default one uniform row.
        k: neighbours a sample; 0 for none.
        near: cosine to count others at; None for no counts.
        device: ``cpu`` (NumPy tiles) or a torch device such as ``cuda:0``: fused kernels where Triton is (see
            `triton_pairs`), else torch tiles, and neighbours by FAISS where its CUDA build is installed.
        precision: of the product behind the potentials: ``float32``; on a torch device also ``tf32`` (cosines
            off by up to 1e-3) and ``bf16`` (by up to 8e-3), by torch tiles: the relative error of a potential
            is up to 2t times that, much less on average. Neighbours and counts are float32 always. Only where
            there is no Triton may they pay.
        memory: bytes on the device for the vectors that FAISS searches at once.
        tile, threads, progress: as in `tiles.traverse`.
        snapshot: file to save the state of a pass on the CPU in every five minutes, and to go on from; the
            caller removes it.

    Raises:
        KdbiasError: bad vectors, weights, bandwidths or k, or a precision the device does not have.
    """
    require_unit_rows(x)
    n = len(x)
    p = probabilities(n, weights)
    if device != "cpu":
        return _by_torch(x, bandwidths, p, k, near, device, precision, memory, tile, progress)
    if precision != "float32":
        raise KdbiasError(f"precision {precision!r} needs a CUDA device; on the CPU it is float32")
    potentials = Potentials(n, bandwidths, p) if len(bandwidths) else None
    found = Neighbors(n, k) if k else None
    within = RadiusCounts(n, near) if near is not None else None
    epilogues: list[Epilogue] = [e for e in (potentials, found, within) if e is not None]
    side = tile or TILE
    snapshots = None
    if snapshot is not None:
        key = fingerprints.of_arrays(x, p, np.array([*bandwidths, k, near if near is not None else -2, side]))
        snapshots = Snapshots(snapshot, key)
    traverse(x, epilogues, tile=side, threads=threads, progress=progress, snapshots=snapshots)
    return AllPairs(
        list(bandwidths),
        p,
        potentials.without_self if potentials else np.empty((len(p), 0, n)),
        found.ids if found else None,
        found.cosines if found else None,
        within.counts if within else None,
    )


def _by_torch(
    x: np.ndarray,
    bandwidths: Sequence[float],
    p: np.ndarray,
    k: int,
    near: float | None,
    device: str,
    precision: str,
    memory: int,
    tile: int | None,
    progress: Callable[[int], object] | None,
) -> AllPairs:
    """`all_pairs` on a torch device, the neighbours by FAISS where that is the fastest."""
    from kdbias.sphere.faiss_search import LARGEST_GPU_K, flat_neighbors, gpu_count
    from kdbias.sphere.torch_pairs import fused, torch_pairs

    by_faiss = (
        0 < k < min(len(x), LARGEST_GPU_K)
        and device.startswith("cuda")
        and not fused(device, precision)
        and gpu_count() > 0
    )
    in_tiles = 0 if by_faiss else k
    sums, best, counts = torch_pairs(x, bandwidths, p, in_tiles, near, device, precision, tile, progress)
    if by_faiss:
        best = flat_neighbors(x, k, gpu=int(device.partition(":")[2] or 0), memory=memory)
    return AllPairs(list(bandwidths), p, sums, *best, counts)


def bytes_needed(n: int, k: int, schemes: int, bandwidths: int, threads: int, tile: int = TILE) -> int:
    """Most memory that a pass on the CPU takes beside the vectors, to within a few MiB.

    A thread holds a float32 tile, its kernels (float64 above t = 32), a mask and candidates.
    """
    sums = n * schemes * (8 * bandwidths + 4 + 8)
    return reservoirs.bytes_needed(n, k) + sums + threads * ((4 + 8 + 1) * tile * tile + 128 * tile * k)


def fitting_tile(needed: Callable[[int], int], budget: int, what: str) -> int:
    """The largest tile, up to the default, with which a pass stays within ``budget`` bytes.

    Args:
        needed: bytes at a given tile.
        what: needs them, for the message.

    Raises:
        KdbiasError: not even the smallest tile does; the message says how much memory would.
    """
    tile = TILE
    while needed(tile) > budget:
        if tile <= SMALLEST_TILE:
            require_memory(needed(tile), budget, what)
        tile //= 2
    return tile


def require_memory(needed: int, budget: int, what: str) -> None:
    """Refuse what needs more bytes beside the vectors than there are."""
    if needed > budget:
        raise KdbiasError(
            f"{what} need {needed / 2**30:.3g} GiB beside the vectors, more than --memory "
            f"{budget / 2**30:.3g} GiB; give more memory or a smaller --k"
        )
