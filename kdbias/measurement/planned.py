"""What a measurement would take, and what it would write."""

from functools import partial
from pathlib import Path

from kdbias.measurement import best
from kdbias.measurement.passes import SNAPSHOT, PassPlan
from kdbias.measurement.settings import UniformitySettings
from kdbias.planning import Planned
from kdbias.sphere.all_pairs import SMALLEST_TILE, bytes_needed
from kdbias.sphere.cells.estimate import estimate_bytes
from kdbias.sphere.tiles import TILE
from kdbias.wording import counted, human_bytes

_BANDWIDTHS = 10  # at most: five of the sweep and five of the mean kernel
_ROW = 120  # bytes of a sample in density.parquet, and about as many in schemes.parquet


def plan_uniformity(n: int, d: int, settings: UniformitySettings, device: str, out: object) -> Planned:
    """The plan of a first measurement.

    Args:
        n, d: samples and dimensions.
        device: cpu, or a torch device.
        out: the folder that it would write.
    """
    plan = PassPlan(settings, device, Path(str(out)) / SNAPSHOT)
    k = settings.neighbours(n)
    schemes = 1 + len(settings.weights) + (1 if settings.towards else 0)
    seconds, timed = plan.seconds(n, d), "a timed tile" if device == "cpu" else "a timed small pass"
    work = f"{counted(n, 'sample')} x {counted(d, 'dimension')}, {settings.search} search, k={k}"
    if settings.rectification != "none":
        seconds += plan.resources.seconds(n, d)
        work += ", the best re-weighting"
    if settings.towards and best.wants_nearest(settings.rectification, n):
        seconds += plan.resources.seconds(n, d)
    if settings.search == "exact":
        needed = partial(bytes_needed, n, k, schemes, _BANDWIDTHS, plan.threads)
    else:
        needed = partial(estimate_bytes, n, d, k, schemes, _BANDWIDTHS, plan.threads)
    tile = TILE
    while tile > SMALLEST_TILE and needed(tile) > settings.memory:
        tile //= 2
    kept = settings.rectification != "none" and not plan.resources.on_device
    kernel = 2 * n * (n + TILE) if kept else 0
    memory = 4 * n * d + max(needed(tile), kernel if kernel <= settings.memory else 0)
    files = [
        f"{out}/density.parquet and schemes.parquet (about {human_bytes(2 * _ROW * n)})",
        "uniformity.json, run.json",
        *(["neighbors.parquet"] if settings.keep_neighbors else []),
    ]
    where = f"{device}, {counted(plan.threads, 'thread')}"
    return Planned("uniformity", work, seconds, f"{timed} on {where}", memory, files)
