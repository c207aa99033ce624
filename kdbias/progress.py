"""What a person sees while kdbias works: lines and bars on stderr; results alone go to stdout."""

import contextlib
import sys
import time
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from kdbias.scratch import named
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


def in_notebook() -> bool:
    """Whether this process is a notebook's kernel."""
    shell = sys.modules.get("IPython")
    return shell is not None and type(shell.get_ipython()).__name__ == "ZMQInteractiveShell"


def say(message: str) -> None:
    """Print one line unless quiet, to stderr or in a notebook; what a terminal would obey is escaped."""
    if is_quiet():
        return
    message = visible(named(message))
    if in_notebook():  # where stderr looks like an error
        sys.stdout.write(message + "\n")
    elif sys.stderr.isatty():
        from tqdm import tqdm

        tqdm.write(message, file=sys.stderr)
    else:
        sys.stderr.write(message + "\n")
        sys.stderr.flush()


class _LineBar:
    """The bar's stand-in where stderr is a file: a line now and then, with rate and time left."""

    def __init__(self, total: float, unit: str, label: str, done: float = 0) -> None:
        self.total, self.unit, self.label = total, unit, label
        self.quiet = is_quiet()  # here: a thread that moves it on knows nothing of that
        self.before = self.done = done
        self.started = self.last_line = time.monotonic()

    def update(self, n: float = 1) -> None:
        self.done += n
        now = time.monotonic()
        if self.quiet or now - self.last_line < _LINE_EVERY_SECONDS:
            return
        self.last_line = now
        rate = (self.done - self.before) / (now - self.started)
        left = f"{(self.total - self.done) / rate:,.0f} s left" if rate > 0 else "time left not known yet"
        done = f"{self.done:,.0f}/{self.total:,.0f} {self.unit}"
        say(f"{self.label}: {done}, {rate:,.1f} {self.unit}/s, {left}")

    def set_postfix_str(self, text: str) -> None:
        """Accepted for the sake of the terminal bar's interface; lines stay short."""


@contextlib.contextmanager
def bar(total: float, unit: str, label: str, done: float = 0) -> Iterator[Any]:
    """A progress bar with rate and ETA; call ``.update(n)`` on what it yields.

    On a terminal this is a tqdm bar on stderr, in a notebook its widget; elsewhere a line every ten seconds;
    nothing when quiet. An earlier session may have ``done`` a part of the total already, which the rate
    leaves out.
    """
    notebook = in_notebook()
    if is_quiet() or not (notebook or sys.stderr.isatty()):
        yield _LineBar(total, unit, label, done)
        return
    if notebook:
        with warnings.catch_warnings():  # without ipywidgets it is text
            warnings.simplefilter("ignore")
            from tqdm.auto import tqdm
    else:
        from tqdm import tqdm

    place = sys.stdout if notebook else sys.stderr
    options = {"file": place, "leave": False, "smoothing": 0.1, "bar_format": _BAR}
    with tqdm(total=total, initial=done, unit=f" {unit}", desc=label, **options) as shown:
        yield shown
