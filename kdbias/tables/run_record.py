"""The record of one run of a stage in its output folder: same command again = resume or nothing to do."""

import glob
import json
import os
import shutil
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from kdbias.errors import ConfigChangedError, KdbiasError
from kdbias.tables.files import clean_temporaries, read_document, sync_folder, write_json
from kdbias.tables.folder_lock import NAME as LOCK
from kdbias.tables.folder_lock import FolderLock, lock_folder
from kdbias.version import __version__

RECORD = "run.json"
_STAGED = "staged"
_REPLACED = ".replaced"  # what --overwrite starts over from, until the new run has finished
_OWN = {
    "embed": ("part-*.parquet", "failures.parquet", "parts"),
    "uniformity": (
        *("density.parquet", "uniformity.json", "schemes.parquet", "neighbors.parquet"),
        *("intervals.parquet", "pass.npz", _STAGED),
    ),
    "frontier": ("frontier.*",),
    "train": ("checkpoint.pt", "student.*", "metrics.csv", "config.toml", "failures.parquet", "tensorboard"),
    "evaluate": ("metrics.json", "units.parquet", "embeddings"),
    "demo": (
        *("data", "teacher", "embeddings", "density", "weights", "students", "evaluations"),
        *("results.*", "commands.sh", "report.html"),
    ),
}
"""What each stage writes into its folder: starting over replaces this, the ``plots`` that the record lists,
and nothing else."""
_NAMED = 6  # differences that a refusal names
_LONG = 40  # characters of a value in it
State = Literal["new", "resumed", "finished"]


def read_record(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The ``run.json`` of a folder.

    Raises:
        KdbiasError: there is none, or it is damaged.
    """
    return read_document(Path(folder) / RECORD, "stage")


def stage_of(folder: str | os.PathLike[str]) -> str | None:
    """The stage whose output a folder is; None for any other folder, whatever its run.json may be."""
    try:
        return read_document(Path(folder) / RECORD, "kdbias", "stage")["stage"]
    except (KdbiasError, OSError):
        return None


def refuse_changes(where: object, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Raise ConfigChangedError where two documents differ in ``config`` or ``inputs``, naming the keys."""
    differences = _differing(old.get("config") or {}, new.get("config") or {})
    inputs = [old.get("inputs") or {}, new.get("inputs") or {}]
    for role in sorted(inputs[0].keys() | inputs[1].keys()):
        before, now = (known.get(role) for known in inputs)
        if before != now:
            how = "is another one" if before and now else "was given" if before else "was not given"
            differences.append(f"input {role} {how}")
    if differences:
        more = f"; {len(differences) - _NAMED:,} more" if len(differences) > _NAMED else ""
        raise ConfigChangedError(
            f"{where} was made differently ({'; '.join(differences[:_NAMED])}{more}); "
            "use the same options, another output, or --overwrite to start over"
        )


def _differing(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """``key: old -> new`` for each value that differs, those of nested keys last."""
    before, now = _flat(old), _flat(new)
    keys = sorted(before.keys() | now.keys(), key=lambda key: (key.count("."), key))
    changed = [key for key in keys if before.get(key) != now.get(key)]
    return [f"{key}: {_short(before.get(key))} -> {_short(now.get(key))}" for key in changed]


def _flat(document: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONG else f"{text[: _LONG - 1]}…"


@dataclass
class Run:
    """One run of a stage and its ``run.json``.

    Attributes:
        out: the output folder.
        state: ``new``, ``resumed`` (begun before with the same configuration and input) or ``finished``.
        record: the content of ``run.json``.

    As long as it lives and is not finished, no other process can open a run in the folder.
    """

    out: Path
    state: State
    record: dict[str, Any]
    _lock: FolderLock | None = field(default=None, repr=False, compare=False)
    _staged: Path | None = field(default=None, repr=False, compare=False)

    @classmethod
    def open(
        cls,
        out: str | os.PathLike[str],
        stage: str,
        config: dict[str, Any],
        inputs: dict[str, str],
        overwrite: bool = False,
    ) -> "Run":
        """Begin, resume or find finished the run of ``stage`` in folder ``out``.

        With ``overwrite`` what is there is set aside: `finish` removes it, `forget` puts it back.

        Raises:
            ConfigChangedError: the folder holds a run with other options or inputs (keys named).
            KdbiasError: the folder holds something else, or another process is at work in it.
        """
        folder = Path(out)
        if folder.exists() and not folder.is_dir():
            raise KdbiasError(
                f"{folder} is a file; the output of kdbias {stage} is a folder: choose another -o"
            )
        folder.mkdir(parents=True, exist_ok=True)
        lock = lock_folder(folder)
        try:
            return cls._open(folder, stage, config, inputs, overwrite, lock)
        except BaseException:
            if lock is not None:
                lock.release()
            raise

    @classmethod
    def _open(
        cls,
        folder: Path,
        stage: str,
        config: dict[str, Any],
        inputs: dict[str, str],
        overwrite: bool,
        lock: FolderLock | None,
    ) -> "Run":
        config = json.loads(json.dumps(config))  # as it is read back: lists, not tuples
        if not (folder / RECORD).exists():
            _put_back(folder, stage)  # a kill came between
        found = cls._existing(folder, stage)
        if found is not None and _STAGED in found:
            found = _put_in_place(folder, found)
        if found is not None and found.get("status") == "finished":
            shutil.rmtree(folder / _REPLACED, ignore_errors=True)
        if found is not None and overwrite:
            _set_aside(folder, stage, found)
            found = None
        elif found is not None:
            try:
                refuse_changes(folder, found, {"config": config, "inputs": inputs})
            except ConfigChangedError:
                if not _barren(folder, stage, found):
                    raise
                # A mistyped command claims nothing, and what it was to replace is there again.
                if _put_back(folder, stage):
                    return cls._open(folder, stage, config, inputs, overwrite, lock)
                found = None
        if found is None:
            record = {
                "kdbias": __version__,
                "stage": stage,
                "status": "running",
                "started": datetime.now(UTC).isoformat(timespec="seconds"),
                "config": config,
                "inputs": inputs,
            }
            write_json(folder / RECORD, record)
            return cls(folder, "new", record, lock)
        clean_temporaries(folder)
        return cls(folder, "finished" if found.get("status") == "finished" else "resumed", found, lock)

    @staticmethod
    def _existing(folder: Path, stage: str) -> dict[str, Any] | None:
        if not (folder / RECORD).exists():
            clean_temporaries(folder)
            if any(entry.name != LOCK for entry in folder.iterdir()):
                raise KdbiasError(f"{folder} is not empty and holds no kdbias run; choose another -o")
            return None
        try:
            record = read_record(folder)
        except KdbiasError as error:
            raise KdbiasError(f"{error} in another -o") from None
        if record.get("stage") != stage:
            raise KdbiasError(
                f"{folder} holds a run of kdbias {record.get('stage')}, not of {stage}; choose another -o"
            )
        return record

    def forget(self) -> None:
        """After a refusal, leave no record behind that would refuse the mended command as a change.

        What the run was to replace is put back, unless it has results of its own to go on from.
        """
        if self._staged is not None:
            shutil.rmtree(self._staged)
        stage = self.record["stage"]
        restored = _barren(self.out, stage, self.record) and _put_back(self.out, stage)
        self.unlock()
        if restored:
            return
        if self.state == "new" and [entry.name for entry in self.out.iterdir()] == [RECORD]:
            (self.out / RECORD).unlink()
            self.out.rmdir()

    def stage(self) -> Path:
        """An empty folder for files that belong together: `finish` puts all of them in place, or none."""
        self._staged = self.out / _STAGED
        shutil.rmtree(self._staged, ignore_errors=True)
        self._staged.mkdir()
        return self._staged

    def finish(self, counts: dict[str, Any], seconds: float, **more: Any) -> None:
        """Mark the run finished; written last, so that nothing half-done reads as whole."""
        self.record = {
            **self.record,
            "status": "finished",
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "counts": counts,
            "seconds": round(seconds, 3),
            **more,
        }
        if self._staged is None:
            write_json(self.out / RECORD, self.record)
        else:
            # From here to the end the folder reads as running, and whoever opens it next completes it.
            pending = {**self.record, "status": "running", _STAGED: self.record}
            write_json(self.out / RECORD, pending)
            _put_in_place(self.out, pending)
            self._staged = None
        shutil.rmtree(self.out / _REPLACED, ignore_errors=True)
        self.state = "finished"
        self.unlock()

    def unlock(self) -> None:
        """Let other processes into the folder."""
        if self._lock is not None:
            self._lock.release()


def _put_in_place(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Move what is staged into the folder, then write and return the record that was to stand at the end."""
    staged = folder / _STAGED
    if staged.exists():
        for file in staged.iterdir():
            os.replace(file, folder / file.name)
        staged.rmdir()
    sync_folder(folder)
    write_json(folder / RECORD, record[_STAGED])
    return record[_STAGED]


def _barren(folder: Path, stage: str, record: dict[str, Any]) -> bool:
    """Whether a run ended before its first result; what has a record of its own (embeddings) is not its."""
    if record.get("status") == "finished":
        return False
    left = (entry for pattern in _OWN.get(stage, ()) for entry in folder.glob(pattern))
    return not any(entry.name != "config.toml" and not (entry / RECORD).exists() for entry in left)


def _own(folder: Path, stage: str, record: dict[str, Any]) -> list[Path]:
    """What the stage wrote beside its record; whatever else lies in the folder is somebody's and stays."""
    patterns = (*_OWN.get(stage, ()), *map(glob.escape, record.get("plots", ())))
    return list(dict.fromkeys(entry for pattern in patterns for entry in folder.glob(pattern)))


def _set_aside(folder: Path, stage: str, record: dict[str, Any]) -> None:
    """Make room for a new run.

    The record moves first and returns last (`_put_back`): cut short in between, the folder has none, so that
    no part of an output ever reads as the whole.
    """
    aside = folder / _REPLACED
    if (aside / RECORD).exists():  # this run was to replace another and has not: that one is kept
        _empty(folder, stage, record)
        return
    aside.mkdir(exist_ok=True)
    for entry in (folder / RECORD, *_own(folder, stage, record)):
        os.replace(entry, aside / entry.name)


def _put_back(folder: Path, stage: str) -> bool:
    """Undo `_set_aside`, removing what the new run wrote; False where nothing is set aside."""
    aside = folder / _REPLACED
    if not (aside / RECORD).exists():
        return False
    if (folder / RECORD).exists():
        _empty(folder, stage, read_record(folder))
    for entry in sorted(aside.iterdir(), key=lambda entry: entry.name == RECORD):
        os.replace(entry, folder / entry.name)
    aside.rmdir()
    return True


def _empty(folder: Path, stage: str, record: dict[str, Any]) -> None:
    """Remove an unfinished run, its record last."""
    for entry in _own(folder, stage, record):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    (folder / RECORD).unlink()
