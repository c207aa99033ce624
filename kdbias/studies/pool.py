"""Tasks in worker processes, with a line for each and the time left."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from types import TracebackType
from typing import Any

from kdbias.errors import KdbiasError
from kdbias.progress import quiet, say

Task = tuple[str, Callable[[], Any]]


class Workers:
    """Spawned processes, kept from one call of `run` to the next; use as a context.

    A worker ends with its parent, so a killed study leaves nobody behind that still writes. Tasks that run
    networks and tasks that measure get processes of their own: torch and faiss stay apart.
    """

    def __init__(self, count: int, threads: int) -> None:
        self.count, self.threads = count, threads
        self._pools: dict[bool, ProcessPoolExecutor] = {}

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pool in self._pools.values():
            pool.shutdown(wait=error is None, cancel_futures=True)

    def _pool(self, networks: bool) -> ProcessPoolExecutor:
        if networks not in self._pools:
            context = multiprocessing.get_context("spawn")
            self._pools[networks] = ProcessPoolExecutor(
                self.count, context, _begin_worker, (self.threads, networks)
            )
        return self._pools[networks]

    def run(
        self, what: str, tasks: Sequence[Task], expected: Sequence[float] | None = None, networks: bool = True
    ) -> dict[str, str]:
        """Run picklable tasks; returns the errors of those that failed, by label.

        `expected` are guesses of each task's seconds, for the time left only: their ratios count once tasks
        have ended. `networks` says that tasks run networks.
        """
        guesses = list(expected or [1.0] * len(tasks))
        failed: dict[str, str] = {}
        began, done, spent = time.monotonic(), 0, 0.0
        waiting = {self._pool(networks).submit(_timed, task): i for i, (_, task) in enumerate(tasks)}
        for future in as_completed(waiting):
            i = waiting[future]
            label, (seconds, error) = tasks[i][0], future.result()
            done, spent = done + 1, spent + guesses[i]
            left = (time.monotonic() - began) / spent * (sum(guesses) - spent)
            if error is not None:
                failed[label] = error
            how = f"{seconds:.1f} s" if error is None else f"FAILED: {error}"
            say(f"{what} [{done}/{len(tasks)}] {label}: {how}; about {left / 60:,.1f} min left")
        return failed


def _timed(task: Callable[[], Any]) -> tuple[float, str | None]:
    began = time.perf_counter()
    with quiet():
        try:
            task()
        except KdbiasError as error:
            return time.perf_counter() - began, str(error)
    return time.perf_counter() - began, None


def _begin_worker(threads: int, networks: bool) -> None:
    from threadpoolctl import threadpool_limits

    threading.Thread(target=_end_with_parent, daemon=True).start()
    threadpool_limits(threads)
    if networks:
        import torch

        torch.set_num_threads(threads)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
