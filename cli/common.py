"""What all commands share: the error boundary, --quiet, --json, --debug, and printing.

A command returns the result object of the library function it called; `summary()` is printed for people, the
object's document for machines. None prints nothing: under torchrun one process speaks for all.
"""

import contextlib
import dataclasses
import errno
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import click

from kdbias.cli.completion import complete
from kdbias.errors import KdbiasError, MachineError, UnwritableError, first_line
from kdbias.scratch import named, recorded
from kdbias.wording import is_utf8, visible, visible_lines

BAD_INPUT = 2
FAILED = 1
INTERRUPTED = 128  # and the number of the signal: 130 for Ctrl-C
AS_JSON = "kdbias.as_json"  # in the context's `meta`: whether stdout is one JSON document
_MAY_BE_EMPTY = ("cluster_by",)  # which then stands for no column
_AGAIN_SECONDS = 0.02  # until it is out of what ignores it


class StageCommand(click.Command):
    """A command whose expected failures are one line and a status, never a traceback.

    Status 2: something in the input or the options is to be mended; 1: the machine failed (disk full, no
    memory, no permission); 130 (Ctrl-C), 143 (SIGTERM), 129 (SIGHUP): interrupted, where the same command
    resumes.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += [
            click.Option(["--json", "as_json"], is_flag=True, help="Print the result as JSON; no progress."),
            click.Option(["-q", "--quiet"], is_flag=True, help="No progress on stderr."),
            click.Option(["--debug"], is_flag=True, help="Show the traceback of an error."),
        ]
        complete(self.params)

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """The context of the parsed arguments; an error quotes what was typed visibly."""
        try:
            return super().make_context(*args, **kwargs)
        except click.ClickException as error:  # it quotes what was typed, a file's name perhaps
            error.message = visible(error.message)  # type: ignore[misc]
            raise

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; errors end it with one line and their exit code."""
        from kdbias.progress import quiet

        debug, silent = ctx.params.pop("debug"), ctx.params.pop("quiet")
        as_json = ctx.meta[AS_JSON] = ctx.params.pop("as_json")
        with _stops() as stopped, _heard():
            try:
                self._refuse_texts(ctx)
                with quiet(silent or as_json):
                    result = super().invoke(ctx)
                if result is not None:
                    told = recorded(as_document(result)) if as_json else None
                    document = json.dumps(told, indent=2, allow_nan=False) if as_json else None
                    click.echo(document or visible_lines(named(result.summary())))
            except (Exception, KeyboardInterrupt) as error:
                failure = _failure(error, stopped, ctx.params)
                if failure is None or debug:
                    raise
                click.echo(f"Error: {visible(named(failure[0]))}", err=True)
                for note in getattr(error, "__notes__", ()):  # lines to be copied
                    click.echo(visible_lines(named(note)), err=True)
                sys.exit(failure[1])

    def _refuse_texts(self, ctx: click.Context) -> None:
        """Refuse what is no path: an empty text (mostly a shell's variable that was never set), one that is
        not UTF-8, a FIFO or device, or an output on the web.
        """
        from kdbias.device import LEAST_MEMORY, parse_bytes
        from kdbias.tables.files import refuse_special, refuse_web

        for parameter in self.params:
            given = ctx.params.get(str(parameter.name))
            hint = parameter.get_error_hint(ctx)
            if given == "" and parameter.name not in _MAY_BE_EMPTY:
                raise KdbiasError(f"{hint} is empty; is a variable of the shell not set?")
            for text in given if isinstance(given, tuple) else (given,):
                if not isinstance(text, str):
                    continue
                if not is_utf8(text):
                    raise KdbiasError(f"{hint} is {os.fsencode(text)!r}, which is not UTF-8; rename it")
                if parameter.name == "memory" and parse_bytes(text) < LEAST_MEMORY:
                    raise KdbiasError(
                        f"--memory {text} cannot be kept: whatever the data, more is taken; give "
                        f"{LEAST_MEMORY >> 20}MiB or more"
                    )
                refuse_special(text)
                if parameter.name == "output":
                    refuse_web(text)


@contextlib.contextmanager
def _stops() -> Iterator[list[int]]:
    """SIGTERM and SIGHUP do what Ctrl-C does in the block; the list gets their numbers.

    What ignores one of them (nohup) goes on to. Of several processes that train together each may wait for
    the others where it cannot hear: they are left to the system.
    """
    came: list[int] = []
    owner = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a forked worker, which its parent ends
            if number == signal.SIGTERM:
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)
            return
        came.append(number)
        press = signal.getsignal(signal.SIGINT)
        if not callable(press):
            raise KeyboardInterrupt
        press(signal.SIGINT, frame)

    taken = []
    with contextlib.suppress(ValueError):  # not in the main thread
        for name in () if int(os.environ.get("WORLD_SIZE") or 1) > 1 else ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, stop)
                taken.append(number)
    try:
        yield came
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def _heard() -> Iterator[None]:
    """Ctrl-C comes again where Python has to ignore it: in destructors, callbacks, around forks."""
    usual, owner, again = sys.unraisablehook, os.getpid(), list[threading.Timer]()

    def press() -> None:
        if hasattr(signal, "pthread_kill"):  # which wakes a thread that waits
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        else:
            signal.raise_signal(signal.SIGINT)

    def ignored(what: Any) -> None:
        if not issubclass(what.exc_type, KeyboardInterrupt):
            usual(what)
        elif os.getpid() == owner:  # not a forked worker, which its parent ends
            again.append(threading.Timer(_AGAIN_SECONDS, press))
            again[-1].daemon = True
            again[-1].start()

    sys.unraisablehook = ignored
    try:
        yield
    finally:
        sys.unraisablehook = usual
        for timer in again:
            timer.cancel()


def _failure(error: BaseException, stopped: list[int], given: dict[str, Any]) -> tuple[str, int] | None:
    """The message and the status of an error, or None for one that click itself tells."""
    if stopped or isinstance(error, KeyboardInterrupt):  # whatever a worker that was stopped, too, led to
        status = INTERRUPTED + (stopped[0] if stopped else signal.SIGINT)
        return "interrupted; run the same command again to go on from what is saved", status
    if isinstance(error, KdbiasError):
        return " ".join(str(error).split("\n")), FAILED if isinstance(error, MachineError) else BAD_INPUT
    if isinstance(error, MemoryError):
        return "out of memory; give a smaller --memory, --batch-size or --cache", FAILED
    if isinstance(error, OSError):
        return _os_failure(error, given.get("output"))
    if isinstance(error, click.ClickException | click.exceptions.Exit | click.Abort):
        return None
    return _unforeseen(error, given), FAILED


_OF_WRITING = (errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _os_failure(error: OSError, output: str | None) -> tuple[str, int]:
    """What the machine refused, by the name of the output where it was writing, and the status."""
    reason = error.strerror or first_line(error)
    named = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else None
    writing = isinstance(error, UnwritableError) or error.errno in _OF_WRITING
    if output is not None and named is not None and not writing:
        target, place = Path(output).absolute(), Path(named).absolute()
        writing = place == target or place in target.parents or target in place.parents
    if not writing:
        absent = isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError)
        return f"{reason} ({named or 'no file named'})", BAD_INPUT if absent and named else FAILED
    way_out = "mend that and run the same command again, or choose another -o"
    return f"cannot write to {named or output or 'the disk'} ({reason}); {way_out}", FAILED


def _unforeseen(error: BaseException, given: dict[str, Any]) -> str:
    """The last net: a fault that no reader foresaw, with the inputs that led to it."""
    texts = [text for value in given.values() for text in (value if isinstance(value, tuple) else (value,))]
    named = ", ".join(text for text in texts if isinstance(text, str) and os.path.exists(text))
    return (
        f"{type(error).__name__} ({first_line(error)}) with {named or 'these options'}: an input is damaged "
        "in a way that kdbias does not know, or kdbias has a fault; --debug shows where"
    )


def as_document(result: Any) -> Any:
    """A result object as JSON values: its own document where it has one, else its fields."""
    if hasattr(result, "document"):
        return result.document
    return json.loads(json.dumps(dataclasses.asdict(result), default=str))


def options(*decorators: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """One decorator out of several, in the order in which they should show in --help."""

    def apply(function: Any) -> Any:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


output_folder = click.option("-o", "--output", required=True, metavar="OUT", help="Folder to write.")
# Where a teacher is named, --output is its: the folder has the short name alone.
teacher_folder = click.option("-o", "output", required=True, metavar="OUT", help="Folder to write.")
overwrite = click.option("--overwrite", is_flag=True, help="Start over where the output exists already.")
plan = click.option("--plan", is_flag=True, help="Say what it would take and write, then stop.")
