"""What a manifest would take, and what it would write."""

from kdbias.measurement.best import search_seconds
from kdbias.planning import Planned
from kdbias.sphere.tiles import TILE, seconds_estimate
from kdbias.sphere.workers import available_threads
from kdbias.weighting.schemes.density import Searching
from kdbias.weighting.schemes.scheme import InBlocks
from kdbias.weighting.settings import WeightsSettings
from kdbias.wording import counted, human_bytes

_PASSES = 4  # over all pairs, where the kernel does not fit (docs/weights.md: 2.8 were measured)
_FROM_TABLE = ("natural", "class-balanced", "effective-number")
_COLUMNS = 12  # of numbers that a search holds
_ROW = 60  # bytes of a sample in the manifest


def in_blocks(scheme: InBlocks, n: int, d: int) -> bool:
    """Whether n samples of d dimensions are seen in blocks, rather than held by this process."""
    return scheme.engine_kind != "here" or 4 * n * d > scheme.memory or (scheme.block_rows or n) < n


def plan_weights(n: int, d: int, settings: WeightsSettings, out: object) -> Planned:
    """The plan of a manifest.

    Args:
        n, d: samples and dimensions.
        out: the file that it would write.
    """
    threads, scheme = settings.threads or available_threads(), settings.chosen
    work, files = (
        f"method {settings.method} of {counted(n, 'sample')}",
        [f"{out} (about {human_bytes(_ROW * n)})"],
    )
    seconds, memory, timed = 0.0, 16 * n, "reads the density table alone"
    blocks = isinstance(scheme, InBlocks) and in_blocks(scheme, n, d)
    if isinstance(scheme, Searching):
        halves = n * (n + TILE) // 2
        sizes = () if blocks else (4, 2)
        kept = next((size * halves for size in sizes if size * halves <= scheme.memory), 0)
        seconds = search_seconds(n, d, threads) if kept else _PASSES * seconds_estimate(n, d, threads)
        memory = 4 * n * d + kept
        timed = f"a timed tile on cpu, {counted(threads, 'thread')}"
        if scheme.device != "cpu":
            timed += "; --device may be faster"
    elif settings.method not in _FROM_TABLE:
        seconds, memory = seconds_estimate(n, d, threads), 4 * n * d
        timed = f"a timed tile on cpu, {counted(threads, 'thread')}"
    if isinstance(scheme, InBlocks) and blocks:
        work += ", in blocks"
        memory = scheme.memory + _COLUMNS * 8 * n
        files.append(f"{out}.pairs while it runs (about {human_bytes(4 * n * d)} and the sums of blocks)")
    return Planned("weights", work, seconds, timed, memory, files)
