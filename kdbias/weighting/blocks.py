"""Weights in blocks: which schemes see pairs in blocks, where their files lie, and by which engine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from kdbias.engine.opening import open_engine
from kdbias.sphere.blocks.folder import BlockFolder
from kdbias.sphere.workers import available_threads
from kdbias.weighting.schemes.scheme import InBlocks, Solving
from kdbias.weighting.settings import WeightsSettings


@contextlib.contextmanager
def opened_ground(settings: WeightsSettings, folder: Path, key: str) -> Iterator[BlockFolder | None]:
    """Where a scheme that sees all pairs may lay out what does not fit, with its engine; None for others.

    Args:
        folder: made when it is needed.
        key: digest of what is weighed and how.

    Raises:
        KdbiasError: as of `open_engine`.
    """
    scheme = settings.chosen
    if not isinstance(scheme, InBlocks) or (isinstance(scheme, Solving) and _on_gpu(scheme.device)):
        yield None
        return
    with open_engine(scheme, memory=scheme.memory, places=(str(folder),)) as engine:
        threads = engine.unit_cpus or settings.threads or available_threads()
        yield BlockFolder(folder, key, engine, scheme.memory, threads, scheme.block_rows)


def _on_gpu(device: str) -> bool:
    if device == "cpu":
        return False
    from kdbias.sphere.equilibrium.device_kernel import product_device

    return product_device(device) != "cpu"
