"""What says that a folder is an embedding table: its record, and that its parts are all there."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdbias.errors import KdbiasError
from kdbias.tables import fingerprints
from kdbias.tables.files import nearest_path
from kdbias.tables.given import command_for
from kdbias.tables.listing import LISTING, PART_PATTERN, part_names
from kdbias.tables.mirrors import local_path
from kdbias.tables.run_files import REPLACED, STAGED
from kdbias.tables.run_record import RECORD, Stage, inside, read_record
from kdbias.wording import counted

STAGE = Stage("embed", files=(PART_PATTERN, "failures.parquet", LISTING), folders=("parts",))


def require_table(path: str | os.PathLike[str]) -> None:
    """Refuse a folder that is no finished embedding table, by its record alone."""
    record_of_table(local_path(path), require_finished=True)


def record_of_table(folder: Path, require_finished: bool) -> dict[str, Any]:
    """The run record of an embedding table's folder; raises KdbiasError where it is none, or unfinished."""
    if not folder.is_dir():
        raise KdbiasError(
            f"{folder} is not an embedding table (a folder written by kdbias embed)"
            f"{_way_in(folder) or ('' if folder.exists() else nearest_path(folder))}"
        )
    record = read_record(folder) if (folder / RECORD).exists() else {}
    if not record and any((folder / name / RECORD).exists() for name in (STAGED, REPLACED)):
        raise KdbiasError(
            f"{folder} was taking another table's place when a command was killed; run that kdbias embed "
            "command again"
        )
    if record.get("stage") != STAGE.name:
        raise KdbiasError(
            f"{folder} holds no embedding table ({record.get('stage') or 'no run.json'})"
            f"{_way_in(folder) or inside(folder, STAGE.name) or '; make one with kdbias embed'}"
        )
    if require_finished and record.get("status") != "finished":
        raise KdbiasError(f"{folder} is unfinished; run the same kdbias embed command again to complete it")
    return record


def require_parts(folder: Path) -> None:
    """Refuse a table without any part."""
    if not part_names(folder):
        raise _empty(folder)


def _empty(folder: Path) -> KdbiasError:
    return KdbiasError(f"{folder} holds no embeddings; run kdbias embed again with --overwrite")


def require_rows(folder: Path, rows: int, record: dict[str, Any]) -> None:
    """Refuse a table that holds no rows, or another number of them than its record says."""
    if not rows:
        raise _empty(folder)
    expected = (record.get("counts") or {}).get("samples")
    if expected is not None and expected != rows:
        raise KdbiasError(
            f"{folder}: its parts hold {counted(rows, 'sample')}, its record says {expected:,}; "
            "a part is missing or foreign: run kdbias embed again with --overwrite"
        )


def are_recorded(contents: Sequence[str], known: str | None) -> bool:
    """Whether parts of these contents are those of the recorded fingerprint, as far as it and they say."""
    # Parts by earlier versions do not say what is in them.
    return not known or not all(contents) or fingerprints.of_json(list(contents)) == known


def _way_in(path: Path) -> str:
    """What to say of a path that is no embedding table but holds vectors; nothing of others."""
    command = command_for(path)
    return f"; make one of its vectors with: {command}" if command else ""
