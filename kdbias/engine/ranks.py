"""Units in the processes that a launcher started, torchrun or Slurm's srun: each does its share.

They exchange nothing but files, and need a file system that shows them each other's.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbias.device import rank_and_world
from kdbias.engine.here import Here
from kdbias.errors import KdbiasError
from kdbias.progress import say
from kdbias.tables.run_record import RECORD, Run, Stage, State, record_of, refuse_changes

if TYPE_CHECKING:
    from kdbias.engine.opening import Engine

_PATIENCE = timedelta(minutes=10)
_LOOK = 0.2  # seconds between looks for others' files
_STALE = 60.0  # seconds without a file of another process, at least, before its units are done here
_SLOWER = 5  # or as many times as the longest unit of this process took


def announced(explicit: bool) -> tuple[int, int]:
    """(rank, world size) of RANK and WORLD_SIZE; where ranks were asked for, also of Slurm's variables.

    A shell within a Slurm job has those too, without being one of several processes.

    Raises:
        KdbiasError: they do not fit together, or ranks were asked for and no launcher speaks of any.
    """
    known = {"RANK", "WORLD_SIZE"} & os.environ.keys()
    if explicit and len(known) == 1:
        missing = ({"RANK", "WORLD_SIZE"} - known).pop()
        raise KdbiasError(f"--engine ranks: {known.pop()} is set, but {missing} is not; set both")
    if not explicit or known:
        return rank_and_world()
    with contextlib.suppress(KeyError, ValueError):
        rank, world = int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_NTASKS"])
        if 0 <= rank < world:
            return rank, world
    raise KdbiasError(
        "--engine ranks: neither RANK and WORLD_SIZE nor SLURM_PROCID and SLURM_NTASKS say which of how many "
        "processes this is; start it with torchrun --no-python or srun, or leave the option out"
    )


class Ranks(Here):
    """An engine that is one of several processes; `map` does what it is given, `settle` its share."""

    def __init__(self, explicit: bool = True) -> None:
        self.rank, self.world = announced(explicit)
        self._longest = 0.0

    def settle(
        self, work: Callable[..., Iterator[Any]], items: Sequence[Any], done: Callable[[Any], bool]
    ) -> Iterator[Any]:
        """This process's share, then a wait for the others'.

        Where none of the others' files comes for a minute (or five times the longest unit here), the
        units that lack one are done here, one after another, until one comes again: whose process died or has
        not begun is not waited for for ever.
        Doing a unit twice costs time alone.
        """
        yield from self._timed(work, [item for item in items[self.rank :: self.world] if not done(item)])
        left, seen = [item for item in items if not done(item)], time.monotonic()
        while left:
            time.sleep(_LOOK)
            still = [item for item in left if not done(item)]
            if len(still) < len(left):
                left, seen = still, time.monotonic()
            elif time.monotonic() - seen > max(_STALE, _SLOWER * self._longest):
                say(f"process {self.rank}: nothing came from others; one of {len(left):,} units is done here")
                own = left[self.rank * len(left) // self.world]  # another one than each other process takes
                yield from self._timed(work, [own])
                left.remove(own)  # so that it is no sign of others, and the next one follows at once

    def _timed(self, work: Callable[..., Iterator[Any]], items: list[Any]) -> Iterator[Any]:
        for item in items:
            begun = time.monotonic()
            yield from work([item])
            self._longest = max(self._longest, time.monotonic() - begun)


def open_run(
    engine: Engine,
    out: Path,
    stage: Stage,
    config: dict[str, Any],
    inputs: dict[str, str],
    overwrite: bool,
    defaults: dict[str, Any],
    clean: Callable[[], object] = lambda: None,
    **more: Any,
) -> contextlib.AbstractContextManager[Run]:
    """`Run.open` for an engine's processes, as a context: after a refusal one that is alone forgets it.

    Of several processes the first opens the folder and cleans what a killed run left there. Under torchrun
    the others wait at a barrier. Other launchers give nothing to meet at: there they wait until the folder
    holds this very run, and a killed run is resumed only after all have stopped.

    Args:
        engine: of which rank and world are looked at.
        clean: what the first does beside, before the others go on.
        more: as `Run.open` takes it.
    """
    if engine.rank == 0:
        try:
            run = Run.open(out, stage, config, inputs, overwrite, defaults=defaults, **more)
            clean()
        finally:
            if engine.world > 1:
                _meet(engine)
        return run if engine.world == 1 else contextlib.nullcontext(run)
    met = _meet(engine)
    if overwrite and not met:
        raise KdbiasError(
            "--overwrite with several processes needs torchrun; without it, delete the output folder first"
        )
    return contextlib.nullcontext(joined(engine.rank, out, stage, config, inputs, defaults, met))


def joined(
    rank: int,
    out: Path,
    stage: Stage,
    config: dict[str, Any],
    inputs: dict[str, str],
    defaults: dict[str, Any],
    opened: bool = False,
) -> Run:
    """The run that another process opens, or has ``opened``, in the folder; without its lock.

    Raises:
        KdbiasError: there is none within ten minutes, or it is of something else.
    """
    deadline = time.monotonic() + _PATIENCE.total_seconds()
    while not (out / RECORD).exists():
        if opened or time.monotonic() > deadline:
            raise KdbiasError(f"process {rank} found no run in {out}; did process 0 start?")
        time.sleep(_LOOK)
    record = record_of(out, stage)
    refuse_changes(out, record, {"config": config, "inputs": inputs}, defaults)
    state: State = "finished" if record.get("status") == "finished" else "resumed"
    return Run(out, state, record, stage)


def _meet(engine: Engine) -> bool:
    """Wait for all processes; False where no address was given to meet at."""
    if "MASTER_ADDR" not in os.environ or "MASTER_PORT" not in os.environ:
        return False
    import torch.distributed as dist

    if not dist.is_available():
        return False
    ours = not dist.is_initialized()
    if ours:
        dist.init_process_group("gloo", rank=engine.rank, world_size=engine.world, timeout=_PATIENCE)
    dist.barrier()
    if ours:
        dist.destroy_process_group()
    return True
