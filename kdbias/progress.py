"""What a person sees while kdbias works: lines and bars on stderr; results alone go to stdout."""

import contextlib
import sys
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from kdbias.wording import visible

_QUIET: ContextVar[bool] = ContextVar("kdbias_quiet", default=False)
_LINE_EVERY_SECONDS = 10.0
# tqdm's own, but for whole numbers where a bar counts in millions.
_COUNT = "{n:,.0f}/{total:,.0f}{unit}"
_BAR = "{desc}: {percentage:3.0f}%|{bar}| " + _COUNT + " [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


@contextlib.contextmanager
def quiet(enabled: bool = True) -> Iterator[None]:
    """Silence lines and bars inside the block (errors still raise)."""
    token = _QUIET.set(enabled)
    try:
        yield
    finally:
        _QUIET.reset(token)


def is_quiet() -> bool:
    """Whether progress is kept silent."""
    return _QUIET.get()


def say(message: str) -> None:
    """Print one line to stderr unless quiet; what a terminal would obey is escaped."""
    if is_quiet():
        return
    message = visible(message)
    if sys.stderr.isatty():
        from tqdm import tqdm

        tqdm.write(message, file=sys.stderr)
    else:
        sys.stderr.write(message + "\n")
        sys.stderr.flush()


class _LineBar:
    """The bar's stand-in where stderr is a file: a line now and then, with rate and time left."""

    def __init__(self, total: float, unit: str, label: str, done: float = 0) -> None:
        self.total, self.unit, self.label = total, unit, label
        self.before = self.done = done
        self.started = self.last_line = time.monotonic()

    def update(self, n: float = 1) -> None:
        self.done += n
        now = time.monotonic()
        if now - self.last_line < _LINE_EVERY_SECONDS:
            return
        self.last_line = now
        rate = (self.done - self.before) / (now - self.started)
        left = (self.total - self.done) / rate if rate > 0 else float("inf")
        done = f"{self.done:,.0f}/{self.total:,.0f} {self.unit}"
        say(f"{self.label}: {done}, {rate:,.1f} {self.unit}/s, {left:,.0f} s left")

    def set_postfix_str(self, text: str) -> None:
        """Accepted for the sake of the terminal bar's interface; lines stay short."""


@contextlib.contextmanager
def bar(total: float, unit: str, label: str, done: float = 0) -> Iterator[Any]:
    """A progress bar with rate and ETA; call ``.update(n)`` on what it yields.

    On a terminal this is a tqdm bar on stderr; elsewhere a line every ten seconds; nothing when quiet. An
    earlier session may have ``done`` a part of the total already, which the rate leaves out.
    """
    if is_quiet() or not sys.stderr.isatty():
        yield _LineBar(total, unit, label, done)
        return
    from tqdm import tqdm

    options = {"file": sys.stderr, "leave": False, "smoothing": 0.1, "bar_format": _BAR}
    with tqdm(total=total, initial=done, unit=f" {unit}", desc=label, **options) as shown:
        yield shown
