"""Folders in stores and their mirrors in the scratch folder, kept alike.

What is given by URI is brought here before a stage sees it (`local_path`), and whatever a stage puts into a
mirror is put into the store at once, whole, in the same order (`put`, `drop`, `rename`; they do nothing for
other local files). So the store holds at any moment what a local folder would hold, and a run that is killed
anywhere goes on from there, on any machine. While a process here works in a folder, its mirror is the newest
there is, and nobody brings it up to date.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from pyarrow import fs

from kdbias import scratch
from kdbias.errors import KdbiasError, MachineError
from kdbias.scratch import mirror_of, store_uri, uri_of
from kdbias.tables import folder_lock, stores
from kdbias.tables.claims import Claim, claimed
from kdbias.tables.folder_lock import LOCK, FolderLock
from kdbias.tables.scratch_folder import require_room, require_root, turn
from kdbias.tables.stores import Version, listing, located, told
from kdbias.tables.temporaries import SUFFIX, done_with, may_be_alive, temporary_beside

_RECORD = "run.json"
_FILE = re.compile(r"file:/+")
_AT_ONCE, _CHUNK = 8, 8 << 20  # files that are copied at once, bytes of each in memory
_STEADY = 5  # times that a folder may change while it is read
_here = fs.LocalFileSystem()


def local_path(path: str | os.PathLike[str]) -> Path:
    """Where a path is worked on: a local one as it is; of a place in a store its mirror, brought up to date.

    Of a single file comes what may belong to it: the files beside it that share its name up to the suffix, or
    in a run's folder all but the parts.

    Raises:
        KdbiasError: a URI without a bucket, or with a password or ``..``; no such bucket, or no right to it.
        MachineError: the store cannot be reached, or the scratch folder has no room.
    """
    uri = store_uri(path)
    if uri is None:
        found = _FILE.match(text := os.fspath(path))
        return Path(unquote("/" + text[found.end() :]) if found else path)
    bucket, _, key = uri.partition("?")[0].partition("://")[2].partition("/")
    if "@" in bucket or not bucket or ".." in key.split("/"):
        shown = uri.replace(bucket, bucket.rpartition("@")[2]) if "@" in bucket else uri
        raise KdbiasError(f"{shown}: name a bucket and a path in it, without .., users or passwords")
    require_root(uri)
    mirror = mirror_of(uri)
    with turn():
        _pull(mirror)
    return mirror


def lock_folder(folder: Path) -> FolderLock | None:
    """Lock an existing folder for this process; within it, the same lock serves again.

    A folder in a store is then brought up to date.

    Raises:
        KdbiasError: another process holds it (named), or what lies there is somebody's.
    """
    uri = uri_of(folder)
    if uri is None:
        return folder_lock.lock_folder(folder)
    with turn():
        lock = folder_lock.lock_folder(folder)
        if lock is None or lock.claim is not None:
            return lock
        try:
            lock.claim = Claim(uri)
            _pull(folder, mine=True)
        except BaseException:
            lock.release()
            raise
    return lock


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """An existing folder is this process's for so long; see `lock_folder`."""
    lock = lock_folder(folder)
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def in_use(folder: Path) -> bool:
    """Whether a process has locked the folder; False where there are no locks to tell it by."""
    uri = uri_of(folder)
    return folder_lock.in_use(folder) or (uri is not None and claimed(uri))


def put(file: Path, path: Path) -> None:
    """Put a file into the store as what ``path`` mirrors, whole or not at all."""
    if (found := _stored(path)) is None:
        return
    uri, filesystem, inner = found
    with told(uri):
        # One call, which no signal interrupts: a stream that was would be closed, and lie there cut short.
        fs.copy_files(os.fspath(file), inner, _here, filesystem, chunk_size=_CHUNK, use_threads=False)
        _mark(file, filesystem.get_file_info(inner), uri)


def drop(path: Path) -> None:
    """Remove a file or folder of a mirror from the store, if it is there."""
    if (found := _stored(path)) is None:
        return
    uri, filesystem, inner = found
    with told(uri), contextlib.suppress(FileNotFoundError):
        kind = filesystem.get_file_info(inner).type
        if kind is fs.FileType.Directory:
            filesystem.delete_dir(inner)
        elif kind is fs.FileType.File:
            filesystem.delete_file(inner)


def rename(old: Path, new: Path) -> None:
    """Follow a rename within a mirror: copies by the new names, then none by the old ones."""
    if (found := _stored(new)) is None:
        return
    uri, filesystem, inner = found
    source = located(uri_of(old) or "")[1]
    for file in _files_below(new):
        end = "" if file == new else f"/{file.relative_to(new).as_posix()}"
        try:
            filesystem.copy_file(source + end, inner + end)
            _mark(file, filesystem.get_file_info(inner + end), uri)
        except (OSError, NotImplementedError):  # it was never there, or is more than a store copies at once
            put(file, file)
    drop(old)


def settle(folder: Path) -> None:
    """Put into the store what lies in a mirror's folder and is not alike there, but for the record."""
    if (uri := uri_of(folder)) is None:
        return
    there = listing(uri)
    for file in _files_below(folder):
        name = file.relative_to(folder).as_posix()
        if file.name != _RECORD and there.get(name) != _version(file):
            put(file, file)


def _stored(path: Path) -> tuple[str, fs.FileSystem, str] | None:
    """URI, filesystem and path there of a path in a mirror, which this process may change."""
    uri = uri_of(path)
    if uri is None:
        return None
    for folder in (path, *path.parents):
        lock = folder_lock.mine(folder)
        if lock is not None and lock.claim is not None:
            lock.claim.require()
    return uri, *located(uri)


def _mark(path: Path, info: fs.FileInfo, uri: str) -> None:
    """Give a file of a mirror the time of what the store holds, by which the two are known to be alike."""
    if info.type is not fs.FileType.File or info.size != path.stat().st_size:
        raise MachineError(f"{uri} is not what was written there; does another program write to it?")
    if info.mtime_ns is not None:
        os.utime(path, ns=(info.mtime_ns, info.mtime_ns))


def _version(path: Path) -> Version | None:
    """Of a file of a mirror; None where there is none."""
    if not path.is_file():
        return None
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _files_below(place: Path) -> list[Path]:
    """A file, or those in a folder that are whole: neither locks nor what is being written."""
    files = [place] if place.is_file() else sorted(place.rglob("*"))
    return [file for file in files if file.is_file() and file.name != LOCK and file.suffix != SUFFIX]


def _pull(mirror: Path, mine: bool = False) -> None:
    """Bring a mirror up to what the store holds; with ``mine`` this process has just locked it.

    A folder is listed again after it was read, so that what comes was there together.

    Raises:
        MachineError: it never holds still, or the scratch folder has no room.
    """
    home = Path(scratch.root() or "")
    above = [folder for folder in (mirror, *mirror.parents) if folder.is_relative_to(home)]
    if any(folder_lock.in_use(folder) for folder in above[mine:]):
        return
    uri = uri_of(mirror) or ""
    seen: dict[str, Version] | None = None
    for _ in range(_STEADY):
        there = {name: v for name, v in listing(uri).items() if LOCK not in name.split("/")}
        if there == seen:
            return
        if there.keys() == {""}:
            _fetch(uri, mirror, there)
            _pull_beside(mirror)
        elif not _fetch(uri, mirror, there) and seen is None:
            return
        seen = there
    raise MachineError(f"{uri} changes faster than it is read: another program writes to it; try again later")


def _pull_beside(file: Path) -> None:
    """Bring what may belong to a file of a mirror."""
    uri = uri_of(file.parent) or ""
    filesystem, inner = located(uri)
    with told(uri):
        infos = filesystem.get_file_info(fs.FileSelector(inner, allow_not_found=True))
    names = {PurePosixPath(info.path).name: info for info in infos if info.type is fs.FileType.File}
    names.pop(file.name, None)
    is_run = _RECORD in names
    wanted = {
        name: stores.version(info)
        for name, info in names.items()
        if (is_run and not name.startswith("part-")) or name.startswith(f"{file.stem}.")
    }
    _fetch(uri, file.parent, wanted, alone=False)


def _fetch(uri: str, mirror: Path, there: dict[str, Version], alone: bool = True) -> int:
    """Bring the files that differ, and remove those that are gone where ``there`` names all; their number."""
    inner = {lock.parent for lock in mirror.rglob(LOCK)} - {mirror}
    locked = [folder for folder in inner if folder_lock.in_use(folder)]

    def free(path: Path) -> bool:
        return not any(path.is_relative_to(folder) or folder.is_relative_to(path) for folder in locked)

    wanted = {mirror / name: version for name, version in there.items()}
    gone = [file for file in _files_below(mirror) if file not in wanted and free(file)] if alone else []
    for file in gone:
        file.unlink()
    if alone:
        _tidy(filter(free, sorted(mirror.rglob("*"), reverse=True)))
    due = [file for file, version in wanted.items() if free(file) and _version(file) != version]
    require_room(uri, sum(wanted[file][0] for file in due))
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(_bring, due))
    return len(gone) + len(due)


def _tidy(entries: Iterable[Path]) -> None:
    """Remove empty folders, which no store has, and what killed processes left half-written."""
    for entry in entries:
        with contextlib.suppress(OSError):
            if entry.suffix == SUFFIX and not may_be_alive(entry):
                entry.unlink()
            elif entry.is_dir():
                entry.rmdir()


def _bring(file: Path) -> None:
    """Copy a file from the store into its mirror, whole; of one that is gone meanwhile nothing comes."""
    uri = uri_of(file) or ""
    filesystem, inner = located(uri)
    for parent in file.parents:
        if parent.is_file():  # what is a folder now
            parent.unlink()
            break
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(file)
    try:
        with told(uri), contextlib.suppress(FileNotFoundError):
            for _ in range(_STEADY):
                before = filesystem.get_file_info(inner)
                fs.copy_files(
                    inner, os.fspath(temporary), filesystem, _here, chunk_size=_CHUNK, use_threads=False
                )
                after = filesystem.get_file_info(inner)
                if stores.version(before) == stores.version(after):
                    _mark(temporary, after, uri)
                    if file.is_dir():
                        shutil.rmtree(file)
                    os.replace(temporary, file)
                    return
    finally:
        temporary.unlink(missing_ok=True)
        done_with(temporary)
