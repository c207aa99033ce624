"""The record of one run of a stage in its output folder: same command again = resume or nothing to do."""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from kdbias.errors import ConfigChangedError, KdbiasError, MachineError
from kdbias.progress import say
from kdbias.scratch import recorded
from kdbias.tables import fingerprints, run_files
from kdbias.tables.documents import read_document, require_shape, write_json
from kdbias.tables.files import MEND, remove, remove_tree
from kdbias.tables.folder_lock import LOCK, FolderLock
from kdbias.tables.mirrors import lock_folder
from kdbias.tables.provenance import MADE_FROM, inputs_in, now, options_in
from kdbias.tables.run_files import RECORD, REPLACED, STAGED, Stage, barren, put_back, put_in_place
from kdbias.tables.temporaries import clean_temporaries
from kdbias.version import __version__
from kdbias.wording import cut

__all__ = ["RECORD", "Run", "Stage", "read_record", "refuse_changes", "require_digest", "stage_of"]

_SHAPE = MADE_FROM | {
    "stage": str,
    **dict.fromkeys(("status?", "kdbias?", "started?", "finished?", "teacher?", "data?"), str),
    **dict.fromkeys(("fingerprint?", "root?"), (str, None)),
    **{key: [str] for key in ("plots?", "files?")},
    "counts?": ({str: (int, None)}, None),
    "paths?": ({str: (str, None)}, None),
    "digests?": {str: str},
    STAGED + "?": {"stage": str, "status": str},
}
_NAMED = 6  # differences that a refusal names
_LONG = 40  # characters of a value in it
State = Literal["new", "resumed", "finished"]


def read_record(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The ``run.json`` of a folder.

    Raises:
        KdbiasError: there is none, or it is damaged.
    """
    return read_document(Path(folder) / RECORD, _SHAPE)


def require_digest(folder: Path, record: dict[str, Any], name: str) -> None:
    """Refuse a file of a folder whose digest the record has, where it is not what was written.

    Raises:
        KdbiasError: it is not.
    """
    known = (record.get("digests") or {}).get(name)
    if known is not None and fingerprints.of_file(folder / name) != known:
        raise KdbiasError(f"{folder / name} is damaged: its content is not what was written; {MEND}")


def stage_of(folder: str | os.PathLike[str]) -> str | None:
    """The stage whose output a folder is; None for any other folder, whatever its run.json may be."""
    try:
        return read_document(Path(folder) / RECORD, {"kdbias": str, "stage": str})["stage"]
    except (KdbiasError, OSError):
        return None


def inside(folder: str | os.PathLike[str], stage: str) -> str:
    """The end of a message about a folder that is no output of a stage but holds one; else nothing."""
    try:
        held = sorted(path for path in Path(folder).iterdir() if path.is_dir() and stage_of(path) == stage)
    except OSError:
        return ""
    return f"; {held[0]} is one" if held else ""


def refuse_changes(
    where: object, old: dict[str, Any], new: dict[str, Any], defaults: dict[str, Any] | None = None
) -> None:
    """Raise ConfigChangedError where two documents differ in ``config`` or ``inputs``, naming the keys.

    ``defaults`` stand for what ``old`` lacks, which was made before there was such an option; see
    :meth:`kdbias.settings.Settings.defaults`.
    """
    before, asked = (recorded(options_in(known)) for known in (old, new))
    differences = _differing(before, asked, defaults or {})
    inputs = [inputs_in(old), inputs_in(new)]
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


def finished_alike(
    folder: Path, stage: Stage, config: dict[str, Any], inputs: dict[str, str], defaults: dict[str, Any]
) -> bool:
    """Whether a folder holds a finished run of the stage by these options and inputs; changes nothing."""
    try:
        record = read_record(folder)
        refuse_changes(folder, record, {"config": json.loads(json.dumps(config)), "inputs": inputs}, defaults)
    except (KdbiasError, OSError):
        return False
    return record.get("stage") == stage.name and record.get("status") == "finished"


def _differing(old: dict[str, Any], new: dict[str, Any], defaults: dict[str, Any]) -> list[str]:
    """``key: old -> new`` for each value that differs, those of nested keys last."""
    before, now, usual = _flat(old), _flat(new), _flat(json.loads(json.dumps(defaults)))
    for key in now.keys() - before.keys():
        if not any(key.startswith(f"{known}.") for known in before):  # in a table that was none
            before[key] = usual.get(key)
    keys = sorted(before.keys() | now.keys(), key=lambda key: (key.count("."), key))
    changed = [key for key in keys if before.get(key) != now.get(key)]
    return [f"{key}: {' -> '.join(cut(repr(of.get(key)), _LONG) for of in (before, now))}" for key in changed]


def _flat(document: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of a document by their dotted keys."""
    found: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _kept(
    folder: Path,
    stage: Stage,
    asked: dict[str, Any],
    defaults: dict[str, Any] | None,
    overwrite: bool,
    reads: tuple[object, ...],
) -> dict[str, Any] | None:
    """The record of the run to go on with; None where one begins, in place of whatever is set aside.

    Raises:
        KdbiasError: what is there is not to be gone on with, or must not be replaced.
    """
    if not (folder / RECORD).exists():
        put_back(folder, stage)  # a kill came between
    clean_temporaries(folder)
    if not (folder / RECORD).exists():
        if any(entry.name != LOCK for entry in folder.iterdir()):
            raise KdbiasError(f"{folder} is not empty and holds no kdbias run; choose another -o")
        return None
    found = record_of(folder, stage)
    if STAGED in found:
        found = put_in_place(folder, found)
    if found.get("status") == "finished":
        remove_tree(folder / REPLACED)
    if overwrite:
        run_files.set_aside(folder, stage, found, reads)
        return None
    try:
        # Of these options a folder holds what was asked for so far.
        old = {**options_in(found), **{key: asked["config"][key] for key in stage.later}}
        refuse_changes(folder, found | {"config": old}, asked, defaults)
    except ConfigChangedError:
        if not barren(folder, stage, found):
            raise
        # A mistyped command claims nothing, and what it was to replace is there again.
        return _kept(folder, stage, asked, defaults, overwrite, reads) if put_back(folder, stage) else None
    return found


def record_of(folder: Path, stage: Stage) -> dict[str, Any]:
    """The record in a folder; raises KdbiasError where it is damaged, or of another stage."""
    try:
        record = read_record(folder)
    except KdbiasError as error:
        raise KdbiasError(f"{error} in another -o") from None
    if record.get("stage") != stage.name:
        raise KdbiasError(
            f"{folder} holds a run of kdbias {record.get('stage')}, not of {stage}; choose another -o"
        )
    return record


@dataclass
class Run:
    """One run of a stage and its ``run.json``.

    Attributes:
        out: the output folder.
        state: ``new``, ``resumed`` (begun before with the same configuration and input) or ``finished``.
        record: the content of ``run.json``.
        of: the stage.

    As long as it lives and is not finished, no other process can open a run in the folder. As a context it
    forgets itself after a refusal.
    """

    out: Path
    state: State
    record: dict[str, Any]
    of: Stage
    _lock: FolderLock | None = field(default=None, repr=False, compare=False)
    _staged: Path | None = field(default=None, repr=False, compare=False)

    @classmethod
    def open(
        cls,
        out: str | os.PathLike[str],
        stage: Stage,
        config: dict[str, Any],
        inputs: dict[str, str],
        overwrite: bool = False,
        *,
        defaults: dict[str, Any] | None = None,
        reads: Iterable[object] = (),
        mends: bool = False,
    ) -> "Run":
        """Begin, resume or find finished the run of ``stage`` in folder ``out``.

        With ``overwrite`` what is there is set aside: `finish` removes it, `forget` puts it back.

        Args:
            defaults: what a record stands for that lacks a key of ``config``, see `refuse_changes`.
            reads: paths that the run will read, which ``overwrite`` must not replace.
            mends: the stage itself makes again what a finished run has lost.

        Raises:
            ConfigChangedError: the folder holds a run with other options or inputs (keys named).
            KdbiasError: the folder holds something else or a finished run that lacks a file, or another
                process is at work in it.
        """
        folder = run_files.output_folder(out, stage)
        # Lists, as they are read back.
        asked = {"config": json.loads(json.dumps(recorded(config))), "inputs": inputs}
        lock = lock_folder(folder)
        try:
            record = _kept(folder, stage, asked, defaults, overwrite, tuple(reads))
            state: State = "new" if record is None else "resumed"
            if record is None:
                record = {"kdbias": __version__, "stage": stage.name, "status": "running", "started": now()}
                record |= asked
                write_json(folder / RECORD, record)
            elif record.get("status") == "finished":
                state = "finished"
                if not mends:
                    run_files.refuse_holes(folder)
            return cls(folder, state, record, stage, lock)
        except BaseException:
            if lock is not None:
                lock.release()
            raise

    def require(self, shape: dict[str, Any]) -> None:
        """Refuse a record that is not of a shape, see :mod:`kdbias.tables.documents`."""
        require_shape(self.record, shape, self.out / RECORD)

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """A refusal leaves no run behind; whatever else ends the work leaves it to be resumed."""
        if isinstance(error, KdbiasError):
            self.forget()
        self.unlock()

    def already_finished(self) -> bool:
        """Whether there is nothing to do, which is then said."""
        if self.state == "finished":
            say(f"{self.out} is finished already; nothing to do")
        return self.state == "finished"

    def forget(self) -> None:
        """After a refusal, leave no record behind that would refuse the mended command as a change.

        What the run was to replace is put back, unless it has results of its own to go on from.
        """
        if not self.out.is_dir():
            return
        if self._staged is not None:
            remove_tree(self._staged)
        restored = barren(self.out, self.of, self.record) and put_back(self.out, self.of)
        self.unlock()
        if restored:
            return
        if self.state == "new" and os.listdir(self.out) == [RECORD]:
            remove(self.out / RECORD)
            self.out.rmdir()

    def stage(self) -> Path:
        """An empty folder for files that belong together: `finish` puts all of them in place, or none."""
        self._staged = self.out / STAGED
        remove_tree(self._staged)
        self._staged.mkdir()
        return self._staged

    def finish(self, counts: dict[str, Any], seconds: float, **more: Any) -> None:
        """Mark the run finished; written last, so that nothing half-done reads as whole.

        Raises:
            MachineError: the folder has vanished meanwhile.
            KdbiasError: a staged file would replace one that is not the run's.
        """
        self.require_folder()
        staged = os.listdir(self._staged) if self._staged else []
        known = {entry.name for entry in run_files.own(self.out, self.of, self.record)}
        foreign = [name for name in staged if (self.out / name).exists() and name not in known]
        if foreign:
            self.forget()
            raise KdbiasError(
                f"{self.out / foreign[0]} was not written by kdbias {self.of}; move it away, or choose "
                "another -o"
            )
        self.record = {
            **self.record,
            "status": "finished",
            "finished": now(),
            "counts": counts,
            "seconds": round(seconds, 3),
            **more,
        }
        self.record["files"] = sorted({*run_files.listed(self.out, self.of, self.record), *staged})
        if self._staged is None:
            write_json(self.out / RECORD, self.record)
        else:
            # From here to the end the folder reads as running, and whoever opens it next completes it.
            pending = {**self.record, "status": "running", STAGED: self.record}
            write_json(self.out / RECORD, pending)
            put_in_place(self.out, pending)
            self._staged = None
        remove_tree(self.out / REPLACED)
        self.state = "finished"
        self.unlock()

    def require_folder(self) -> None:
        """Raises MachineError where the folder was removed or emptied under the run's hands."""
        if not (self.out / RECORD).exists():
            raise MachineError(
                f"{self.out} was removed or emptied while kdbias {self.of} ran; remove what is left "
                "there and run the same command again"
            )

    def unlock(self) -> None:
        """Let other processes into the folder."""
        if self._lock is not None:
            self._lock.release()
