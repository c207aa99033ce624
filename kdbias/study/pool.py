"""Tasks in worker processes, with a line for each and the time left."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

from kdbias.errors import KdbiasError
from kdbias.progress import quiet, say


def run_tasks(
    what: str,
    tasks: Sequence[tuple[str, Callable[[], Any]]],
    workers: int,
    threads: int,
    expected: Sequence[float] | None = None,
    networks: bool = True,
) -> dict[str, str]:
    """Run picklable tasks in spawned processes; returns the errors of those that failed, by label.

    `expected` are guesses of each task's seconds, for the time left only: their ratios count once tasks end.
    `networks` says that tasks run networks, so that torch has to be told its threads.
    A worker ends with its parent, so a killed study leaves nobody behind that still writes.
    """
    if not tasks:
        return {}
    guesses = list(expected or [1.0] * len(tasks))
    failed: dict[str, str] = {}
    began, done, spent = time.monotonic(), 0, 0.0
    context = multiprocessing.get_context("spawn")
    workers = min(workers, len(tasks))
    with ProcessPoolExecutor(workers, context, _begin_worker, (threads, networks)) as pool:
        waiting = {pool.submit(_timed, task): i for i, (_, task) in enumerate(tasks)}
        try:
            for future in as_completed(waiting):
                i = waiting[future]
                label, seconds, error = tasks[i][0], *future.result()
                done, spent = done + 1, spent + guesses[i]
                left = (time.monotonic() - began) / spent * (sum(guesses) - spent)
                if error is not None:
                    failed[label] = error
                how = f"{seconds:.1f} s" if error is None else f"FAILED: {error}"
                say(f"{what} [{done}/{len(tasks)}] {label}: {how}; about {left / 60:,.1f} min left")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
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
