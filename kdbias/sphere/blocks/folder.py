"""The folder of jobs in blocks: arrays that all processes map, and jobs that any of them helps with."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kdbias import progress
from kdbias.engine.opening import Engine
from kdbias.errors import KdbiasError, MachineError
from kdbias.sphere.all_pairs import require_memory
from kdbias.sphere.blocks.job import Job
from kdbias.sphere.blocks.plan import planned_rows
from kdbias.sphere.tiles import TILE
from kdbias.tables.documents import read_json, write_json
from kdbias.tables.embedding_table import EmbeddingTable
from kdbias.tables.files import atomic_path, remove, remove_tree
from kdbias.tables.folder_lock import LOCK, FolderLock
from kdbias.tables.mirrors import lock_folder

_PLAN, _CURRENT = "plan.json", "current.json"
_PATIENCE = 600.0  # seconds without a change in the folder
_LOOK = 0.5
_ALIVE_EVERY = 30.0  # seconds between signs of life


class Patience:
    """How long a process waits for what the first of them does in a folder."""

    def __init__(self, rank: int, folder: Path) -> None:
        self.rank, self.folder = rank, folder
        self._seen, self._there = time.monotonic(), None

    def wait(self, there: Any) -> None:
        """Sleep a moment; ``there`` is what the folder holds, in whatever form.

        Raises:
            KdbiasError: that is the same as ten minutes ago.
        """
        if there != self._there:
            self._seen, self._there = time.monotonic(), there
        if time.monotonic() - self._seen > _PATIENCE:
            raise KdbiasError(
                f"process {self.rank} waited ten minutes for work in {self.folder}; did process 0 start, and "
                "does it see the same folder?"
            )
        time.sleep(_LOOK)


@dataclass(frozen=True)
class BlockFolder:
    """Where jobs in blocks lie, and by what they are done.

    Attributes:
        folder: made when it is needed, removed by `clean`.
        key: digest of what is done; what lies in the folder under another one is removed.
        memory: bytes of a unit.
        threads: of a unit.
        asked: rows of a block, where the user says so.
        locks: of the folder, once this process has opened it.
    """

    folder: Path
    key: str
    engine: Engine
    memory: int
    threads: int
    asked: int | None = None
    locks: list[FolderLock | None] = field(default_factory=list, compare=False)

    @property
    def slots(self) -> int:
        """How many units run at once."""
        return self.engine.world * self.engine.slots

    @property
    def begun(self) -> bool:
        """Whether blocks are planned already, by a run that was killed."""
        return self._plan().get("rows") is not None

    def rows(self, n: int, needed: Callable[[int], int], most: int | None = None) -> int:
        """As of `planned`, of work that begins now: the folder is made, and is this run's."""
        rows = self.planned(n, needed, most)
        self._open(rows)
        return rows

    def planned(self, n: int, needed: Callable[[int], int], most: int | None = None) -> int:
        """Rows of a block: planned, or those that the folder's work was begun with.

        Args:
            n: rows of all blocks.
            needed: bytes of a unit at so many rows of a block.
            most: rows, unless others were asked for.

        Raises:
            KdbiasError: blocks other than those it was begun with are asked for, or they need more memory.
        """
        known = self._plan().get("rows")
        if known is not None and self.asked not in (None, known):
            raise KdbiasError(
                f"{self.folder} was begun with --block-rows {known}, not {self.asked}; leave that out to go "
                "on, or remove the folder to begin anew"
            )
        fitting = planned_rows(n, self.slots, needed, self.memory)
        rows = int(known or self.asked or min(fitting, most or fitting))
        at_least = max(rows, TILE)
        require_memory(needed(at_least), self.memory, f"a unit of two blocks of {at_least:,} samples")
        return rows

    def _plan(self) -> dict[str, Any]:
        found = self._read(_PLAN)
        return found if found.get("key") == self.key else {}

    def _open(self, rows: int | None = None) -> None:
        """Make the folder this run's, without what lies there of another one.

        Raises:
            KdbiasError: another process works there.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.locks:
            self.locks.append(lock_folder(self.folder))
        known = self._plan()
        if not known:
            for entry in self.folder.iterdir():
                if entry.name != LOCK:
                    remove(entry)
        if not known or (rows is not None and known["rows"] != rows):
            write_json(self.folder / _PLAN, {"key": self.key, "rows": rows})

    def lay(
        self, name: str, shape: tuple[int, ...], chunks: Iterable[tuple[Any, np.ndarray]], kind: str = "f4"
    ) -> np.ndarray:
        """As of `lay`, in the folder."""
        self._open()
        return lay(self.folder / f"{name}.npy", shape, chunks, kind)

    def held(self, table: EmbeddingTable) -> np.ndarray:
        """(n, d) float32 unit rows of a table, mapped where they do not fit the memory of a unit."""
        if 4 * table.n * table.d <= self.memory:
            return table.vectors()
        return self.lay(f"vectors-{table.fingerprint[:16]}", (table.n, table.d), placed(table))

    def run(self, job: Job, what: str, counted: str = "Mpairs", many: float = 1e6) -> None:
        """Do all units of a job that are not done.

        Args:
            what: is done, for people.
            counted: what the bar counts; many: how many of a unit's size are one.
        """
        units = job.units()
        left = [unit for unit in units if not job.done(unit)]
        total = sum(map(job.size, units))
        done = total - sum(map(job.size, left))
        if self.engine.world > 1:
            write_json(self.folder / _CURRENT, {"kind": type(job).__name__} | job.fields())
        with progress.bar(total / many, counted, what, done=done / many) as bar:
            for size in self.engine.settle(job.do, left, job.done):
                bar.update(size / many)

    @contextlib.contextmanager
    def alive(self) -> Iterator[None]:
        """While this process works alone, tell those that wait for its next job that it does."""
        if self.engine.world == 1:
            yield
            return
        over = threading.Event()

        def touch() -> None:
            while not over.wait(_ALIVE_EVERY):
                with contextlib.suppress(OSError):
                    os.utime(self.folder / _PLAN)

        thread = threading.Thread(target=touch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def assist(self, kinds: Sequence[type[Job]], over: Callable[[], bool]) -> int:
        """As one of several processes: do a share of each job of the first, until it is ``over``.

        Args:
            kinds: of jobs that may come.

        Returns:
            The units that were done here.

        Raises:
            KdbiasError: nothing came of the first process for ten minutes.
        """
        units, last, patience = 0, dict[str, Any](), Patience(self.engine.rank, self.folder)
        by_name = {kind.__name__: kind for kind in kinds}
        while not over():
            current = self._read(_CURRENT)
            if current and current != last and current["kind"] in by_name:
                job = by_name[current["kind"]].of(self.folder, current, self.threads)
                try:
                    units += sum(1 for _ in self.engine.settle(job.do, job.units(), job.done))
                except (MachineError, OSError, KdbiasError):
                    if self._read(_CURRENT) == current:  # else the first process went on meanwhile
                        raise
                last = current
            patience.wait(self._state())
        self.clean()  # of what came after the first process had done so
        return units

    def clean(self) -> None:
        """Remove all of it."""
        for lock in filter(None, self.locks):
            lock.release()
        self.locks.clear()
        remove_tree(self.folder)

    def _state(self) -> list[tuple[str, float]]:
        """The names and times of its files."""
        try:
            with os.scandir(self.folder) as entries:
                return sorted((entry.name, entry.stat().st_mtime) for entry in entries)
        except OSError:
            return []

    def _read(self, name: str) -> dict[str, Any]:
        """A document of the folder; empty where there is none, or a damaged one."""
        try:
            found = read_json(self.folder / name)
        except (KdbiasError, OSError):
            return {}
        return found if isinstance(found, dict) else {}


def lay(
    file: Path, shape: tuple[int, ...], chunks: Iterable[tuple[Any, np.ndarray]], kind: str = "f4"
) -> np.ndarray:
    """An array in a file, mapped; made of ``chunks`` (where they go, values) if it is not there.

    Raises:
        MachineError: there is no room for it.
    """
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        require_disk(file.parent, int(np.prod(shape)) * np.dtype(kind).itemsize, file.stem)
        with atomic_path(file) as temporary:
            laid = np.lib.format.open_memmap(temporary, "w+", np.dtype(kind), shape)
            for where, values in chunks:
                laid[where] = values
            laid.flush()
            del laid
    return np.load(file, mmap_mode="r")


def placed(table: EmbeddingTable) -> Iterator[tuple[slice, np.ndarray]]:
    """The vectors of a table as (rows, (c, d) float32 unit rows), for `BlockFolder.lay`."""
    for start, some in table.batches():
        yield slice(start, start + len(some)), some


def require_disk(folder: Path, needed: int, what: str) -> None:
    """Refuse to lay out more bytes than are free where a folder lies.

    Raises:
        MachineError: there is too little room.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise MachineError(
            f"{folder}: {free / 2**30:.3g} GiB are free, the {what} laid out need {needed / 2**30:.3g} GiB; "
            "make room, or choose another -o"
        )
