"""One table made by several processes (torchrun, or any launcher that sets RANK and WORLD_SIZE).

Each process takes every world-th unit; nothing is exchanged but files. Only the first one opens the output
folder (and cleans what a killed run left there), the others wait for it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from kdbias.embedding.units import open_run
from kdbias.errors import KdbiasError
from kdbias.tables.embedding_table import STAGE
from kdbias.tables.run_record import RECORD, Run, read_record, refuse_changes

_PATIENCE = timedelta(minutes=10)


def open_shared_run(
    out: Path,
    config: dict[str, Any],
    inputs: dict[str, str],
    overwrite: bool,
    reads: Sequence[Any],
    rank: int,
    world: int,
) -> Run:
    """The run in `out`, for process `rank` of `world`; process 0 makes or resumes it.

    Under torchrun the others wait at a barrier. Other launchers give nothing to meet at: there they
    wait until the folder holds this very run, and a killed run is resumed only after all have stopped.
    """
    if rank == 0:
        try:
            return open_run(out, config, inputs, overwrite, reads)
        finally:
            _meet(world)
    met = _meet(world)
    if overwrite and not met:
        raise KdbiasError(
            "--overwrite with several processes needs torchrun; without it, delete the output folder first"
        )
    deadline = time.monotonic() + _PATIENCE.total_seconds()
    while not (out / RECORD).exists():
        if met or time.monotonic() > deadline:
            raise KdbiasError(f"process {rank} found no run in {out}; did process 0 start?")
        time.sleep(0.2)
    record = read_record(out)
    if record.get("stage") != STAGE:
        raise KdbiasError(
            f"{out} holds a run of kdbias {record.get('stage')}, not of {STAGE}; choose another -o"
        )
    refuse_changes(out, record, {"config": config, "inputs": inputs})
    return Run(out, "finished" if record.get("status") == "finished" else "resumed", record)


def _meet(world: int) -> bool:
    """Wait for all processes; False where no address was given to meet at."""
    if "MASTER_ADDR" not in os.environ or "MASTER_PORT" not in os.environ:
        return False
    import torch.distributed as dist

    if not dist.is_available():
        return False
    ours = not dist.is_initialized()
    if ours:
        dist.init_process_group("gloo", world_size=world, timeout=_PATIENCE)
    dist.barrier()
    if ours:
        dist.destroy_process_group()
    return True
