"""What a manifest would take, and what it would write."""

import time

import numpy as np

from kdbias.measurement.best import search_seconds
from kdbias.planning import Planned
from kdbias.sphere.blocks.folder import BlockFolder
from kdbias.sphere.blocks.plan import BlockPlan
from kdbias.sphere.equilibrium.block_kernel import needed_by
from kdbias.sphere.equilibrium.kernel_matrix import Bandwidth, TiledKernel
from kdbias.sphere.equilibrium.near_kernel import pairs_a_row
from kdbias.sphere.tiles import TILE, seconds_estimate
from kdbias.sphere.workers import available_threads
from kdbias.weighting.schemes.density import Searching
from kdbias.weighting.schemes.scheme import AtBandwidth, InBlocks
from kdbias.weighting.settings import WeightsSettings
from kdbias.wording import counted, human_bytes

_PASSES = 4  # over all pairs, where the kernel does not fit (docs/weights.md: 2.8 were measured)
_PRODUCTS = 3  # in blocks: a first pass, and two exact ones (docs/beyond-one-machine.md)
_FROM_TABLE = ("natural", "class-balanced", "effective-number")
_COLUMNS = 12  # of numbers that a search holds
_ROW = 60  # bytes of a sample in the manifest
_TIMED = 2 * TILE  # samples of the product that is timed


def in_blocks(scheme: InBlocks, n: int, d: int) -> bool:
    """Whether n samples of d dimensions are seen in blocks, rather than held by this process."""
    return scheme.engine_kind != "here" or 4 * n * d > scheme.memory or (scheme.block_rows or n) < n


def plan_weights(
    n: int,
    d: int,
    settings: WeightsSettings,
    out: object,
    ground: BlockFolder | None = None,
    from_table: bool = False,
) -> Planned:
    """The plan of a manifest.

    Args:
        n, d: samples and dimensions.
        out: the file that it would write.
        ground: where pairs would be seen in blocks, if they are.
        from_table: whether all that the scheme needs was measured.
    """
    threads, scheme = settings.threads or available_threads(), settings.chosen
    work = f"method {settings.method} of {counted(n, 'sample')}"
    files = [f"{out} (about {human_bytes(_ROW * n)})"]
    if settings.method in _FROM_TABLE or from_table:
        return Planned("weights", work, 0.0, "reads the density table alone", 16 * n, files)
    timed = f"a timed tile on cpu, {counted(threads, 'thread')}"
    if isinstance(scheme, InBlocks) and in_blocks(scheme, n, d):
        memory = scheme.memory + _COLUMNS * 8 * n
        if ground is None:
            return Planned("weights", f"{work}, in blocks", None, timed, memory, files)
        assert isinstance(scheme, AtBandwidth)
        searched = isinstance(scheme, Searching)
        units, seconds, temporary = _of_blocks(n, d, ground, scheme.bandwidth, searched)
        files.append(f"{out}.pairs while it runs (about {human_bytes(temporary)})")
        timed = f"a timed product on {counted(ground.threads, 'thread')}, {ground.slots:,} at a time"
        return Planned("weights", f"{work}, {units}", seconds, timed, memory, files)
    if not isinstance(scheme, Searching):
        return Planned("weights", work, seconds_estimate(n, d, threads), timed, 4 * n * d, files)
    halves = n * (n + TILE) // 2
    kept = next((size * halves for size in (4, 2) if size * halves <= scheme.memory), 0)
    seconds = search_seconds(n, d, threads) if kept else _PASSES * seconds_estimate(n, d, threads)
    timed += "; --device may be faster" if scheme.device != "cpu" else ""
    return Planned("weights", work, seconds, timed, 4 * n * d + kept, files)


def _of_blocks(n: int, d: int, ground: BlockFolder, t: Bandwidth, searched: bool) -> tuple[str, float, int]:
    """Units in words, seconds and temporary bytes of the products of a scheme that sees pairs in blocks."""
    plan = BlockPlan(n, ground.planned(n, needed_by(d, ground.threads, n, ground.memory)))
    products, vectors = _PRODUCTS if searched else 1, 4 * n * d
    read = products * vectors * (plan.blocks + 1)
    pairs = 2 * 12 * n * pairs_a_row(n, ground.memory) if searched else 0  # of units, and joined
    words = (
        f"{counted(plan.blocks, 'block')} of {plan.rows:,} -> {counted(plan.units, 'unit')} a product, "
        f"{counted(products, 'product')}, {human_bytes(read)} read"
    )
    seconds = products * _product_seconds(d, t, ground.threads) * n * n / ground.slots
    return words, seconds, vectors + 8 * n * (plan.blocks + 1) + pairs


def _product_seconds(d: int, t: Bandwidth, threads: int) -> float:
    """How long an exact product takes for an ordered pair of samples, by one that is timed."""
    x = np.random.default_rng(0).normal(size=(_TIMED, d)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    kernel, spent = TiledKernel(x, t, kept=None, threads=threads), 0.0
    for _ in range(2):  # the first one pays for page faults
        began = time.perf_counter()
        kernel.product(np.ones((_TIMED, 1)), exact=True)
        spent = time.perf_counter() - began
    return spent / _TIMED**2
