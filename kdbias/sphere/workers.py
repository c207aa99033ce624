"""Python threads over blocks of work, BLAS on one thread in each, scratch memory used again."""

import math
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

Item = TypeVar("Item")


class Workspace:
    """The scratch arrays of one thread; asking again for a name gives the same memory."""

    def __init__(self) -> None:
        self._buffers: dict[str, np.ndarray] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: type = np.float32) -> np.ndarray:
        """An uninitialised C-contiguous array of this shape; its content lasts until the next call."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        buffer = self._buffers.get(name)
        if buffer is None or buffer.size < size:
            buffer = self._buffers[name] = np.empty(size, np.uint8)
        return buffer[:size].view(dtype).reshape(shape)


class InTurn:
    """Does things one at a time in the order of their numbers 0, 1, 2 ..., whichever thread comes first.

    So sums of floating-point numbers come out the same for any number of threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._early: dict[int, Callable[[], object]] = {}
        self._next = 0

    def do(self, turn: int | None, action: Callable[[], object]) -> None:
        """Do an action now, or leave it to whoever does the one before; without a number, now."""
        with self._lock:
            if turn is None:
                action()
                return
            self._early[turn] = action
            while self._next in self._early:
                self._early.pop(self._next)()
                self._next += 1


def available_threads() -> int:
    """CPUs this process may use: its affinity, and at most OMP_NUM_THREADS where that is set."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        count = os.cpu_count() or 1
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return min(count, int(wanted)) if wanted.isdigit() and int(wanted) else count


def each(
    items: Iterable[Item], work: Callable[[Item, Workspace], object], threads: int | None = None
) -> None:
    """Do ``work`` on every item, several at a time.

    Threads take items from one queue; this scales better than BLAS calls on all cores, because NumPy releases
    the interpreter lock in everything that costs. An error in one thread stops the others after the item they
    are at and is raised.
    """
    queue = iter(items)
    lock, stopped = threading.Lock(), threading.Event()

    def run() -> None:
        workspace = Workspace()
        try:
            while not stopped.is_set():
                with lock:
                    try:
                        item = next(queue)
                    except StopIteration:
                        return
                work(item, workspace)
        except BaseException:
            stopped.set()
            raise

    workers = threads or available_threads()
    with threadpool_limits(limits=1, user_api="blas"):
        if workers == 1:
            run()
            return
        with ThreadPoolExecutor(workers, thread_name_prefix="kdbias") as pool:
            futures = [pool.submit(run) for _ in range(workers)]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                stopped.set()
                raise


def over_rows(
    n: int, work: Callable[[slice, Workspace], object], threads: int | None = None, rows: int = 1024
) -> None:
    """`each` over runs of ``rows`` rows."""
    each((slice(start, min(n, start + rows)) for start in range(0, n, rows)), work, threads)
