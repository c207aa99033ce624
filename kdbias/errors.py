"""The errors kdbias raises on purpose."""

from kdbias.scratch import named


class KdbiasError(ValueError):
    """A problem its reader can mend.

    The message is one line: what was found (with the offending values) and what to do. A note (`add_note`)
    holds lines to be copied. The command line prints both without a traceback and exits with status 2. What
    lies in a store is named by its URI.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(named(str(message)))


class ConfigChangedError(KdbiasError):
    """An output exists that was made with another configuration or from other input."""


class DivergedError(KdbiasError):
    """A training's loss or weights are no finite numbers any more."""


class MachineError(KdbiasError):
    """The machine failed (disk, memory, a process), not the command: the same call goes on later.

    The command line exits with status 1.
    """


class UnwritableError(OSError):
    """An output cannot be written: ``filename`` is the output that was asked for."""


def first_line(error: BaseException) -> str:
    """The message of another library's error on one line."""
    return " ".join(str(error).strip().splitlines()[:1]) or type(error).__name__
