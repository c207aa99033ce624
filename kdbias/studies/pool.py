"""Tasks in worker processes, with a line for each and the time left."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from kdbias.errors import KdbiasError
from kdbias.progress import quiet, say
from kdbias.wording import counted

Task = tuple[str, Callable[[], Any]]
_MASKS = hasattr(signal, "pthread_sigmask")  # not on Windows
Outcome = tuple[float, str | None, bool]


class Workers:
    """Spawned processes, kept from one call of `run` to the next; use as a context.

    A worker ends with its parent, so a killed study leaves nobody behind that still writes. Tasks that run
    networks and tasks that measure get processes of their own: torch and faiss stay apart.
    """

    def __init__(self, count: int, threads: int) -> None:
        self.count, self.threads = count, threads
        self._started: list[ProcessPoolExecutor] = []
        self._idle: dict[bool, list[ProcessPoolExecutor]] = {True: [], False: []}

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:  # Ctrl-C may have reached us alone
            self._interrupt(self._started)
        for worker in self._started:
            worker.shutdown(wait=error is None, cancel_futures=True)

    @staticmethod
    def _interrupt(workers: Sequence[ProcessPoolExecutor]) -> None:
        """End the tasks of these processes as by Ctrl-C."""
        for worker in workers:
            for pid, process in (worker._processes or {}).items():
                if process.is_alive():
                    os.kill(pid, signal.SIGINT)

    def _worker(self, networks: bool) -> ProcessPoolExecutor:
        """An idle process, or a new one. Each is an executor of its own: its death costs its task alone."""
        if self._idle[networks]:
            return self._idle[networks].pop()
        context = multiprocessing.get_context("spawn")
        self._started.append(ProcessPoolExecutor(1, context, _begin_worker, (self.threads, networks)))
        return self._started[-1]

    def run(
        self,
        what: str,
        tasks: Sequence[Task],
        expected: Sequence[float] | None = None,
        networks: bool = True,
        until: float = math.inf,
    ) -> dict[str, str]:
        """Run picklable tasks; returns the errors of those that failed, by label, whatever they were.

        `expected` are guesses of each task's seconds: their ratios count once tasks have ended. `networks`
        says that tasks run networks. A task that would end after `until`, by the monotonic clock, is not
        begun, nor are those after it; one that is at work then is interrupted, as by Ctrl-C.
        """
        guesses = list(expected or [1.0] * len(tasks))
        failed: dict[str, str] = {}
        began, done, spent, worked = time.monotonic(), 0, 0.0, 0.0
        todo = deque(range(len(tasks)))
        running: dict[Future[Outcome], tuple[int, ProcessPoolExecutor]] = {}
        while todo or running:
            while todo and len(running) < self.count:
                due = guesses[todo[0]] * (worked / spent if spent else 1)
                if time.monotonic() + due > until:
                    say(f"{what}: {counted(len(todo), 'task')} left out, as the time is over")
                    todo.clear()
                    break
                i, worker = todo.popleft(), self._worker(networks)
                with _sigint_blocked():
                    running[worker.submit(_timed, tasks[i][1])] = i, worker
            left = None if until == math.inf else max(0.0, until - time.monotonic())
            ended = wait(running, left, return_when=FIRST_COMPLETED).done
            if running and not ended:
                say(f"{what}: {counted(len(running), 'task')} interrupted, as the time is over")
                self._interrupt([worker for _, worker in running.values()])
                break
            for future in ended:
                i, worker = running.pop(future)
                seconds, error = self._outcome(future, worker, networks)
                label = tasks[i][0]
                done, spent, worked = done + 1, spent + guesses[i], worked + seconds
                left = (time.monotonic() - began) / spent * (sum(guesses) - spent)
                if error is not None:
                    failed[label] = error
                how = f"{seconds:.1f} s" if error is None else f"FAILED: {error}"
                say(f"{what} [{done}/{len(tasks)}] {label}: {how}; about {left / 60:,.1f} min left")
        return failed

    def _outcome(
        self, future: Future[Outcome], worker: ProcessPoolExecutor, networks: bool
    ) -> tuple[float, str | None]:
        """Seconds and error of a task that has ended; its process is idle then, or is given up."""
        try:
            seconds, error, sound = future.result()
        except BrokenProcessPool:
            seconds, error, sound = 0.0, _died(), False
        if sound:
            self._idle[networks].append(worker)
        else:
            worker.shutdown(wait=False)
        return seconds, error


@contextmanager
def _sigint_blocked() -> Iterator[None]:
    """A process that starts in this block inherits it: Ctrl-C waits until the process can take it."""
    if not _MASKS:
        yield
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _timed(task: Callable[[], Any]) -> Outcome:
    """Seconds, the error if there was one, and whether this process may run the next task."""
    began = time.perf_counter()
    error, sound = None, True
    waiting = signal.signal(signal.SIGINT, signal.default_int_handler)
    with quiet():
        try:
            task()
        except KdbiasError as refusal:
            error = str(refusal)
        except Exception as accident:  # a device that failed once may fail every later task of the process
            reason = str(accident).partition("\n")[0]
            error, sound = ": ".join(filter(None, (type(accident).__name__, reason))), False
        finally:
            signal.signal(signal.SIGINT, waiting)
    return time.perf_counter() - began, error, sound


def _begin_worker(threads: int, networks: bool) -> None:
    """Prepare a worker process: signals, threads and what it imports."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(1))  # starting or idle: the parent says it in one line
    if _MASKS:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    from threadpoolctl import threadpool_limits

    threading.Thread(target=_end_with_parent, daemon=True).start()
    threadpool_limits(threads)
    if networks:
        import torch

        torch.set_num_threads(threads)


def _end_with_parent() -> None:
    """End this process when its parent has ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _died() -> str:
    """Why a process may have ended without a word; a script is run by each of its own first."""
    main = sys.modules["__main__"]
    script = Path(getattr(main, "__file__", None) or "")
    if main.__spec__ is None and script.is_file() and "__main__" not in script.read_text(errors="replace"):
        return f"its process died: it ran {script} first; put its calls under if __name__ == '__main__':"
    return "its process died; was it out of memory?"
