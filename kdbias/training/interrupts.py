"""Ctrl-C between two steps, so that what was learned is saved before the run ends."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def deferred_interrupts(wanted: bool = True) -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed, to be asked after each step; pressed again, it interrupts at once.

    Where it is not `wanted`, outside the main thread and where SIGINT does not raise KeyboardInterrupt,
    nothing changes and the answer is always no.
    """
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not wanted or not usual or threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    pressed = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
