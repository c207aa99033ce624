"""Locks of folders in stores: one process works in a folder at a time, wherever it runs.

A store has no locks, and not every store (nor pyarrow) writes a file only where there is none. So whoever
wants a folder writes a claim of its own to ``FOLDER/.lock/`` and then lists what is there: it has the folder
if no other claim is alive, else it takes its own back. Of two that come at once, one at least sees the other,
as listings of these stores show what was written before. A claim lives while its owner renews it, each
minute; one that was not renewed for ten minutes by the store's own clock, or whose process is known to be
gone, is dead and is taken over. An owner that slept through its time finds its claim gone, and ends.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import random
import socket
import threading
import time
import uuid
from typing import Any

from pyarrow import fs

from kdbias.errors import KdbiasError, MachineError
from kdbias.tables.folder_lock import LOCK
from kdbias.tables.provenance import now
from kdbias.tables.stores import located, told
from kdbias.wording import duration

_RENEW, _DEAD = 60.0, 600.0  # seconds
_UNSURE = _DEAD - 2 * _RENEW  # without a renewal for so long, the claim is looked at before anything is done
_TRIES, _APART = 4, 1.0  # of those that come at once; seconds between them, at most


class Claim:
    """This process's claim of a folder in a store, renewed until `release`.

    Args:
        uri: of the folder.

    Raises:
        KdbiasError: another process has it (named), or as the store refuses.
        MachineError: the store failed.
    """

    def __init__(self, uri: str) -> None:
        self.uri, self._pid, self._lost = uri, os.getpid(), False
        self._filesystem, inner = located(uri)
        self._folder = f"{inner}/{LOCK}"
        self._file = f"{self._folder}/{uuid.uuid4().hex}"
        self._over, self._looking = threading.Event(), threading.Lock()
        self._renewed = time.time()
        with told(uri):
            self._take()
        atexit.register(self.release)
        threading.Thread(target=self._renew, name="kdbias-claim", daemon=True).start()

    def require(self) -> None:
        """Raise MachineError where another process has taken the folder over."""
        if not self._lost and time.time() - self._renewed > _UNSURE:  # it slept, or the store is away
            with told(self.uri):
                self._look()
        if self._lost:
            raise MachineError(
                f"{self.uri} was taken over by another kdbias process, as nothing was heard of this one for "
                "ten minutes; run the same command again once that one is done"
            )

    def release(self) -> None:
        """Take the claim back; again, or in a forked process, does nothing."""
        if self._over.is_set() or self._pid != os.getpid():
            return
        self._over.set()
        atexit.unregister(self.release)
        with self._looking, contextlib.suppress(Exception):  # else it dies by itself
            self._filesystem.delete_dir(self._folder) if self._alone() else self._drop(self._file)

    def _take(self) -> None:
        for trial in range(_TRIES):
            self._write()
            others = self._others()
            if not others:
                return
            self._drop(self._file)
            if trial < _TRIES - 1 and min(others.values()) < _APART:
                time.sleep(random.uniform(0.1, _APART))
        path, age = min(others.items(), key=lambda other: other[1])
        raise KdbiasError(
            f"{self.uri} is in use by another kdbias process ({_owner(self._content(path))}, last heard of "
            f"{duration(age)} ago): wait for it or stop it (its claim dies within {duration(_DEAD)}), or "
            "choose another -o"
        )

    def _write(self) -> None:
        content = {"pid": self._pid, "host": socket.gethostname(), "machine": _machine(), "time": now()}
        with self._filesystem.open_output_stream(self._file) as stream:
            stream.write(json.dumps(content).encode())
        self._renewed = time.time()

    def _listed(self) -> dict[str, int]:
        """All claims of the folder, and when they were written, in nanoseconds by the store's clock."""
        infos = self._filesystem.get_file_info(fs.FileSelector(self._folder, allow_not_found=True))
        return {info.path: info.mtime_ns or 0 for info in infos if info.type is fs.FileType.File}

    def _others(self) -> dict[str, float]:
        """The age in seconds of each other claim that is alive; the dead are removed."""
        claims = self._listed()
        if self._file not in claims:
            raise MachineError(f"{self.uri}: a claim that was written is not listed; run the command again")
        mine = claims.pop(self._file)
        ages = {path: max(0.0, (mine - written) / 1e9) for path, written in claims.items()}
        dead = {path for path, age in ages.items() if age > _DEAD or _is_gone(self._content(path))}
        for path in dead:
            self._drop(path)
        return {path: age for path, age in ages.items() if path not in dead}

    def _content(self, path: str) -> dict[str, Any]:
        try:
            with self._filesystem.open_input_file(path) as stream:
                found = json.loads(stream.read())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _drop(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._filesystem.delete_file(path)

    def _alone(self) -> bool:
        return self._listed().keys() == {self._file}

    def _look(self) -> None:
        """Renew the claim, unless it is gone; one that is overdue, and may be taken over, as a new one."""
        with self._looking:
            if self._over.is_set():
                return
            overdue = time.time() - self._renewed > _UNSURE
            if self._file not in self._listed():
                self._lost = True
                return
            self._write()
            if overdue and (self._file not in self._listed() or self._others()):
                self._lost = True
                self._drop(self._file)

    def _renew(self) -> None:
        while not self._over.wait(_RENEW) and not self._lost:
            with contextlib.suppress(Exception):  # `require` tells of it in time
                self._look()


def claimed(uri: str) -> bool:
    """Whether a process seems to work in a folder of a store: it has a claim there."""
    filesystem, inner = located(uri)
    with told(uri):
        infos = filesystem.get_file_info(fs.FileSelector(f"{inner}/{LOCK}", allow_not_found=True))
    return any(info.type is fs.FileType.File and _is_recent(info) for info in infos)


def _is_recent(info: fs.FileInfo) -> bool:
    return info.mtime is not None and time.time() - info.mtime.timestamp() < _DEAD


def _owner(content: dict[str, Any]) -> str:
    return f"pid {content.get('pid', 'unknown')} on {content.get('host', 'an unknown host')}"


def _machine() -> str:
    """What processes have in common that see each other's ids; empty where that is not known."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _is_gone(content: dict[str, Any]) -> bool:
    """Whether the process of a claim is known to have ended."""
    pid = content.get("pid")
    if not _machine() or content.get("machine") != _machine() or not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
