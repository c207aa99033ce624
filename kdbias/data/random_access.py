"""Reading spans of bytes out of large files, in any order, from any thread or process."""

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from kdbias.data.decode import UnreadableImage

_OPEN_FILES = 64


class _Handle:
    """A file descriptor that closes when nobody holds it any more."""

    def __init__(self, path: str) -> None:
        self.number = -1
        self.number = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def __del__(self) -> None:
        if self.number >= 0:
            os.close(self.number)


class RandomAccess:
    """Spans of bytes of a list of files.

    Every read names its position, so threads and forked processes may share the object; a pickled copy opens
    the files for itself. At most 64 files are open at a time.

    Args:
        files: absolute paths.
    """

    def __init__(self, files: Sequence[str]) -> None:
        self.files = tuple(files)
        self._forget()

    def _forget(self) -> None:
        self._process = os.getpid()
        self._handles: OrderedDict[int, _Handle] = OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"files": self.files}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.files = state["files"]
        self._forget()

    def read(self, file: int, offset: int, length: int) -> bytes:
        """``length`` bytes at ``offset`` of file number ``file``.

        Raises:
            UnreadableImage: the file is gone, cannot be read, or ends before.
        """
        try:
            handle = self._handle(file)
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

    def _handle(self, file: int) -> _Handle:
        if self._process != os.getpid():  # a thread may have held the lock when this process was forked
            self._forget()
        with self._lock:
            handle = self._handles.get(file)
            if handle is None:
                handle = self._handles[file] = _Handle(self.files[file])
                if len(self._handles) > _OPEN_FILES:
                    self._handles.popitem(last=False)  # closes once the last reader drops it
            else:
                self._handles.move_to_end(file)
            return handle
