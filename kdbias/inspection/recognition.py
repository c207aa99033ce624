"""What lies at a path: tells outputs of the stages, data, models and plain tables apart by their content."""

from __future__ import annotations

import os
from collections.abc import Set
from pathlib import Path

from kdbias.data import OF_SUFFIX
from kdbias.data.folder import EXTENSIONS
from kdbias.data.opening import kind_of
from kdbias.errors import KdbiasError
from kdbias.tables.csv_file import DELIMITERS, csv_columns
from kdbias.tables.documents import read_json
from kdbias.tables.files import absent
from kdbias.tables.listing import part_names
from kdbias.tables.run_record import RECORD, read_record

FOLDER_KINDS = {
    "embed": "embedding table",
    "uniformity": "density folder",
    "train": "training run",
    "evaluate": "evaluation",
    "demo": "demo",
    "frontier": "frontier",
    "study": "study",
    "run": "run",
}
CHANGES = ("groups.csv", "hardness.csv", "samples.csv")  # what `kdbias changes -o` writes
_IMAGE_SUFFIXES = {f".{extension}" for extension in EXTENSIONS}
_OF_SUFFIX = {
    **dict.fromkeys(OF_SUFFIX, "data set"),
    ".toml": "TOML document",
    **dict.fromkeys((".pt", ".pth"), "model"),
    ".npy": "array",
    ".npz": "arrays",
    **dict.fromkeys((".onnx", ".xml"), "network"),
    **dict.fromkeys((".html", ".htm"), "report"),
    ".sh": "commands",
    **dict.fromkeys(_IMAGE_SUFFIXES, "image"),
}
_OF_COLUMNS = {
    "embedding part": {"sample_id", "embedding", "norm"},
    "density table": {"sample_id", "knn_distance", "log_density"},
    "weight manifest": {"sample_id", "weight"},
}
_OF_KEYS = {
    "run record": {"stage", "status"},
    "uniformity numbers": {"n", "d", "schemes"},
    "demo results": {"seeds", "teacher", "schemes", "students"},
    "study summary": {"planned", "finished", "learning_rates"},
}
MARK = "kdbias report"
"""What the head of a page of `kdbias report` names as its generator."""
_HEAD = 1024  # bytes of a page in which its mark stands
_LOOKED_AT = 2000  # files of a folder that are looked at before giving up on finding an image


def recognise(path: str | os.PathLike[str]) -> str:
    """One of: embedding table, embedding part, density folder, density table, weight manifest, training run,
    evaluation, demo, run, frontier, study, changes, outputs, neighbour table, failures, table, run record,
    uniformity numbers, demo results, study summary, metrics, JSON document, TOML document, model, network,
    array, arrays, image folder, image, data set, report, commands.

    Raises:
        KdbiasError: nothing there, or nothing that kdbias knows.
    """
    place = Path(path)
    if place.is_dir():
        return _folder_kind(place)
    if not place.exists():
        raise absent(place, "file or folder")
    suffix = place.suffix.lower()
    if suffix in (".parquet", *DELIMITERS):
        return _table_kind(place)
    if suffix == ".json":
        return _json_kind(place)
    if suffix not in _OF_SUFFIX:
        known = {".parquet", ".json", *DELIMITERS, *_OF_SUFFIX} - _IMAGE_SUFFIXES
        raise KdbiasError(
            f"{place} is nothing that kdbias knows; it reads folders of its stages, image folders and "
            f"{', '.join(sorted(known))} and image files"
        )
    return _OF_SUFFIX[suffix]


def _folder_kind(folder: Path) -> str:
    """Kind of a folder, by its record or its files."""
    if (folder / RECORD).exists():
        stage = read_record(folder).get("stage")
        if stage not in FOLDER_KINDS:
            raise KdbiasError(
                f"{folder}: run.json names the stage {stage!r}, which this version does not know"
            )
        return FOLDER_KINDS[stage]
    parts = part_names(folder)
    if parts and (kind := _table_kind(folder / parts[0])) in ("weight manifest", "density table"):
        return kind
    if all((folder / name).exists() for name in CHANGES):
        return "changes"
    if stage_folders(folder) or any(
        recognise_quietly(f) == "weight manifest" for f in folder.glob("*.parquet")
    ):
        return "outputs"
    if kind_of(str(folder)) != "folder":
        return "data set"
    for seen, file in enumerate(folder.rglob("*")):
        if file.suffix.lower() in _IMAGE_SUFFIXES:
            return "image folder"
        if seen > _LOOKED_AT:
            break
    raise KdbiasError(f"{folder} is no output of kdbias and holds no images")


def stage_folders(folder: Path, depth: int = 3) -> list[Path]:
    """Folders at most ``depth`` levels below ``folder`` that hold a run record, sorted by path."""
    found: list[Path] = []
    for child in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
        if (child / RECORD).exists():
            found.append(child)
        elif depth > 1:
            found += stage_folders(child, depth - 1)
    return found


def recognise_quietly(path: Path) -> str | None:
    """The kind, or None where ``recognise`` would refuse."""
    try:
        return recognise(path)
    except KdbiasError:
        return None


def is_page(path: Path) -> bool:
    """Whether ``kdbias report`` wrote this file: its head names it as the generator."""
    try:
        with open(path, "rb") as file:
            return f'<meta name="generator" content="{MARK}">'.encode() in file.read(_HEAD)
    except OSError:
        return False


def _table_kind(path: Path) -> str:
    """Kind of a table, by its columns or its name."""
    if path.suffix.lower() in DELIMITERS:
        names = set(csv_columns(path, DELIMITERS[path.suffix.lower()]))
        return "weight manifest" if _OF_COLUMNS["weight manifest"] <= names else "table"
    from kdbias.tables.parquet_file import read_schema

    names = set(read_schema(path).names)
    by_name = {"neighbors": "neighbour table", "failures": "failures"}
    return _first(_OF_COLUMNS, names) or by_name.get(path.stem, "table")


def _json_kind(path: Path) -> str:
    """Kind of a JSON file, by its keys or its name."""
    content = read_json(path)
    if not isinstance(content, dict):
        return "JSON document"
    by_name = "metrics" if path.name == "metrics.json" else "JSON document"
    return _first(_OF_KEYS, content.keys()) or by_name


def _first(kinds: dict[str, set[str]], found: Set[str]) -> str | None:
    """The first kind of which all names are there."""
    return next((kind for kind, names in kinds.items() if names <= found), None)
