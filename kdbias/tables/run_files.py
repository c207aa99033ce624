"""The files of a run in its folder: which are its own, whether they are whole, and setting them aside."""

import glob
import os
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdbias.errors import KdbiasError
from kdbias.tables.documents import read_document, read_json, write_json
from kdbias.tables.files import (
    MEND,
    aside_of,
    move,
    refuse_special,
    refuse_web,
    remove,
    remove_tree,
    sync_folder,
)
from kdbias.tables.listing import LISTING, head_of, put_parts
from kdbias.tables.mirrors import local_path
from kdbias.tables.parquet_file import read_footer, read_provenance
from kdbias.tables.parted_table import PartedTable
from kdbias.tables.temporaries import clean_temporaries

RECORD = "run.json"
STAGED = "staged"
REPLACED = ".replaced"  # what --overwrite starts over from, until the new run has finished


@dataclass(frozen=True)
class Stage:
    """A stage that writes a folder, and what it writes there beside ``run.json``.

    Starting over replaces that, the ``plots`` which the record lists, and nothing else.

    Attributes:
        name: of its command.
        files: patterns of the names of its files and folders.
        folders: further folders, which it writes into by itself: none of them may be a link.
        passing: further files, needed to go on alone: a finished run may lack them.
        later: options of which a finished run may be asked for more.
    """

    name: str
    files: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    passing: tuple[str, ...] = ()
    later: tuple[str, ...] = ()

    @property
    def owns(self) -> tuple[str, ...]:
        """Patterns of all names that are the stage's."""
        return (*self.files, *self.folders, *self.passing, STAGED)

    def __str__(self) -> str:
        return self.name


def output_folder(out: str | os.PathLike[str], stage: Stage) -> Path:
    """The folder to write, made where it is not there.

    Raises:
        KdbiasError: a file, a URI, or a folder in which a link stands where the stage would write.
    """
    refuse_web(out)
    folder = local_path(out)
    if not folder.is_dir() and (folder.exists() or folder.is_symlink()):
        kind = "a file" if folder.exists() else "a link to nothing"
        raise KdbiasError(f"{folder} is {kind}; the output of kdbias {stage} is a folder: choose another -o")
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*stage.folders, STAGED, REPLACED):
        if (folder / name).is_symlink():
            raise KdbiasError(f"{folder / name} is a link, which kdbias did not make; choose another -o")
    return folder


def is_whole(path: Path) -> bool:
    """Whether a file that kdbias wrote, or a table in parts, is there and not cut short, by its ends."""
    try:
        if path.is_dir():
            return PartedTable.open(path).listed
        if path.suffix == ".parquet":
            read_footer(path)
        elif path.suffix == ".json":
            read_json(path)
        elif path.suffix in (".pt", ".npz"):
            return zipfile.is_zipfile(path)
    except KdbiasError:
        return False
    return path.is_file()


def made_by(path: Path, stage: str) -> bool:
    """Whether a table, in one file or parts, says that this stage wrote it; a damaged one is no loss."""
    path = head_of(path)
    if path.is_dir():
        return False
    try:
        doc = read_provenance(path)
    except KdbiasError:
        with open(path, "rb") as file:
            return file.read(4) in (b"", b"PAR1")
    return isinstance(doc, dict) and doc.get("stage") == stage


def holes(folder: Path) -> list[str]:
    """Which files of a finished run are gone or cut short."""
    listed = read_document(folder / RECORD, {"files?": [str]}).get("files", [])
    return [name for name in listed if not is_whole(folder / name)]


def refuse_holes(folder: Path) -> None:
    """Raises KdbiasError naming the files that a finished run has lost."""
    lost = holes(folder)
    if lost:
        raise KdbiasError(f"{folder / lost[0]} is missing or damaged; {MEND}")


def claim(path: str | os.PathLike[str]) -> Path:
    """A file to write, without what killed runs left of it.

    Raises:
        KdbiasError: it is a URI, a link, or no plain file.
    """
    refuse_web(path)
    path = local_path(path)
    refuse_special(path)
    if path.is_symlink():
        raise KdbiasError(f"{path} is a link; name the file to write itself, or choose another -o")
    if not path.exists() and aside_of(path).is_dir():
        move(aside_of(path), path)
    clean_temporaries(path.parent, path.name)
    return path


def own(folder: Path, stage: Stage, record: dict[str, Any]) -> list[Path]:
    """What the stage wrote beside its record; whatever else lies there or elsewhere is somebody's."""
    plots = (n for n in record.get("plots", ()) if n == os.path.basename(n))  # of this folder alone
    patterns = (*stage.owns, *map(glob.escape, plots))
    return list(dict.fromkeys(entry for pattern in patterns for entry in folder.glob(pattern)))


def listed(folder: Path, stage: Stage, record: dict[str, Any]) -> list[str]:
    """Names of the files that a finished run keeps; parts, of which there may be many, have own records."""
    files = [e.name for e in own(folder, stage, record) if e.is_file() or (e / LISTING).is_file()]
    return sorted(name for name in files if name not in stage.passing and not name.startswith("part-"))


def barren(folder: Path, stage: Stage, record: dict[str, Any]) -> bool:
    """Whether a run ended before its first result; what has a record of its own (embeddings) is not its."""
    if record.get("status") == "finished":
        return False
    left = (entry for pattern in stage.owns for entry in folder.glob(pattern))
    return not any(entry.name != "config.toml" and not (entry / RECORD).exists() for entry in left)


def put_in_place(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Move what is staged into the folder, then write and return the record that was to stand at the end."""
    staged = folder / STAGED
    if staged.exists():
        for file in staged.iterdir():
            if file.name != RECORD:
                (put_parts if file.is_dir() else move)(file, folder / file.name)
        remove(staged / RECORD)
        remove_tree(staged)
    sync_folder(folder)
    write_json(folder / RECORD, record[STAGED])
    return record[STAGED]


def put_forward(folder: Path, stage: Stage, successor: Path) -> None:
    """Let a finished run of the stage, in a folder within ``folder``, take the place of the one there.

    Killed at any moment, `complete` or `put_back` leads to one of the two, whole.
    """
    remove_tree(folder / STAGED)
    remove_tree(folder / REPLACED)
    set_aside(folder, stage, read_json(folder / RECORD))
    move(successor, folder / STAGED)
    sync_folder(folder)
    complete(folder, stage)


def complete(folder: Path, stage: Stage) -> None:
    """Go on with `put_forward` once the successor is staged."""
    record = read_json(folder / STAGED / RECORD)
    if not (folder / RECORD).exists():
        write_json(folder / RECORD, {**record, "status": "running", STAGED: record})
    put_in_place(folder, read_json(folder / RECORD))
    remove_tree(folder / REPLACED)


def set_aside(folder: Path, stage: Stage, record: dict[str, Any], reads: Iterable[object] = ()) -> None:
    """Make room for a new run, which ``reads`` these paths.

    The record moves first and returns last (`put_back`): cut short in between, the folder has none, so that
    no part of an output ever reads as the whole.

    Raises:
        KdbiasError: a file is not the stage's, or one that the new run is to read.
    """
    entries = own(folder, stage, record)
    inputs = [Path(str(path)).resolve() for path in reads if path is not None]
    for entry in entries:
        if any(place.is_relative_to(entry.resolve()) for place in inputs):
            raise KdbiasError(f"{entry} is an input and would be replaced by --overwrite; choose another -o")
        in_parts = f"{entry.name}.parquet" in stage.files and entry.is_dir()
        in_file = entry.suffix == ".parquet" and entry.is_file()
        if (in_file or in_parts) and not made_by(entry, stage.name):
            raise KdbiasError(
                f"{entry} was not written by kdbias {stage}; move it away, or choose another -o"
            )
    aside = folder / REPLACED
    if (aside / RECORD).exists():  # this run was to replace another and has not: that one is kept
        _empty(folder, stage, record)
        return
    aside.mkdir(exist_ok=True)
    for entry in (folder / RECORD, *entries):
        move(entry, aside / entry.name)


def put_back(folder: Path, stage: Stage) -> bool:
    """Undo `set_aside`, removing what the new run wrote; False where nothing is set aside."""
    aside = folder / REPLACED
    if not (aside / RECORD).exists():
        return False
    if (folder / RECORD).exists():
        _empty(folder, stage, read_document(folder / RECORD, {"plots?": [str]}))
    for entry in sorted(aside.iterdir(), key=lambda entry: entry.name == RECORD):
        move(entry, folder / entry.name)
    remove_tree(aside)
    return True


def _empty(folder: Path, stage: Stage, record: dict[str, Any]) -> None:
    """Remove an unfinished run, its record last."""
    for entry in own(folder, stage, record):
        if entry.is_dir() and not entry.is_symlink():
            remove_tree(entry, wholly=True)
        else:
            remove(entry)
    remove(folder / RECORD)
