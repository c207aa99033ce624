"""What the readers of images share: finding part and row, and opening files in each process for itself."""

import math
import os
import threading
from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from kdbias.data.decode import UnreadableImage

T = TypeVar("T")


class Lazy(Generic[T]):
    """Numbered things, each opened when it is first asked for.

    May be pickled, forked and shared by threads: a copy, or a forked child, opens anew what it needs, unless
    what is opened lies in memory and `survives_fork`. At most `at_once` are kept, those last used.
    """

    at_once: ClassVar[float] = math.inf
    survives_fork: ClassVar[bool] = False

    def __init__(self) -> None:
        self._forget()

    def _open(self, number: int) -> T:
        """Open one; called by one thread at a time."""
        raise NotImplementedError

    def _too_many(self, held: Collection[T]) -> bool:
        """Whether the one used longest ago is to be dropped."""
        return len(held) > self.at_once

    def _forget(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._held: OrderedDict[int, T] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_process", "_lock", "_held")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def opened(self, number: int) -> T:
        """The thing of this number, as this process opened it."""
        if self._process != os.getpid():  # a thread may have held the lock when this process was forked
            held = self._held
            self._forget()
            if self.survives_fork:
                self._held = held
        with self._lock:
            if number in self._held:
                self._held.move_to_end(number)
            else:
                self._held[number] = self._open(number)
                while len(self._held) > 1 and self._too_many(self._held.values()):
                    self._held.popitem(last=False)  # closes once the last reader drops it
            return self._held[number]


class Sharded(Lazy[T]):
    """Images in parts (files, row groups, arrays, splits), one part after another.

    Args:
        lengths: images of each part.
        names: what to call each part, for people.
    """

    def __init__(self, lengths: Sequence[int] | np.ndarray, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        super().__init__()

    def place(self, row: int) -> tuple[int, int]:
        """The part that holds a row, and where in it."""
        part = int(np.searchsorted(self._starts, row, side="right")) - 1
        return part, row - int(self._starts[part])

    def location(self, row: int) -> str:
        """SHARD#PLACE of a row."""
        part, at = self.place(row)
        return f"{self.names[part]}#{at}"


class _Handle:
    """A file descriptor that closes when nobody holds it any more."""

    def __init__(self, path: str) -> None:
        self.number = -1
        self.number = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def __del__(self) -> None:
        if self.number >= 0:
            os.close(self.number)


class RandomAccess(Lazy[_Handle]):
    """Spans of bytes of a list of files, in any order; every read names its position.

    Args:
        files: absolute paths.
    """

    at_once = 64

    def __init__(self, files: Sequence[str]) -> None:
        self.files = tuple(files)
        super().__init__()

    def _open(self, number: int) -> _Handle:
        return _Handle(self.files[number])

    def read(self, file: int, offset: int, length: int) -> bytes:
        """``length`` bytes at ``offset`` of file number ``file``.

        Raises:
            UnreadableImage: the file is gone, cannot be read, or ends before.
        """
        try:
            handle = self.opened(file)
            parts: list[bytes] = []
            missing = offset + length - os.fstat(handle.number).st_size
            if missing <= 0:  # else a damaged length would be asked of the memory
                missing = length
                while missing and (part := os.pread(handle.number, missing, offset + length - missing)):
                    parts.append(part)
                    missing -= len(part)
        except OSError as error:
            raise UnreadableImage(f"cannot read {self.files[file]}: {error.strerror or error}") from None
        if missing:
            raise UnreadableImage(
                f"truncated: {self.files[file]} ends {missing:,} bytes before the end of this image"
            )
        return parts[0] if len(parts) == 1 else b"".join(parts)
