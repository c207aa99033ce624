"""What is this file? Schema, counts, provenance and first rows of anything that kdbias reads or writes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kdbias.data.access import without_scheme
from kdbias.data.opening import kind_of, open_data
from kdbias.display.quantities import write
from kdbias.errors import KdbiasError
from kdbias.evaluation.stage import read_metrics
from kdbias.inspection import files
from kdbias.inspection.files import short
from kdbias.inspection.recognition import CHANGES, recognise, stage_folders
from kdbias.tables.csv_file import DELIMITERS, csv_head
from kdbias.tables.documents import read_document, read_toml, require_shape
from kdbias.tables.folder_lock import in_use
from kdbias.tables.parquet_file import open_parquet
from kdbias.tables.provenance import from_schema
from kdbias.tables.run_record import RECORD, read_record, require_digest
from kdbias.wording import counted

_STUDY = {"name": str, "planned": int, "finished": int, "failed": {str: str}}
_TEXTS = ("sample_id", "label", "path", "first", "second")  # columns that every reader of a CSV keeps as text
_AGAIN = "run the same command again to complete it"


def inspect(path: str | os.PathLike[str], rows: int = 5) -> dict[str, Any]:
    """Describe what lies at ``path``.

    Args:
        path: an output of any stage (folder or file), a data manifest, any other data that `open_data` reads
            or its description, a ``.pt`` model, a ``.npy``/``.npz`` array, a network or image file.
        rows: how many first rows to show of a table.

    Returns:
        JSON values only: ``path``, ``kind``, ``summary`` (one sentence), and where they apply ``stage``,
        ``status``, ``counts``, ``columns`` ([{"name", "type"}]), ``provenance``, ``files``, ``first_rows``.

    Raises:
        KdbiasError: nothing there, unreadable, or nothing that kdbias knows.
    """
    name = without_scheme(os.fspath(path))
    place = _shipped(Path(name))
    if not place.exists():
        kind_of(name)  # refuses what is no data set by its name either
        return {"path": name, "kind": "data set", **_data(name, rows)}
    kind = recognise(place)
    return {"path": str(place), "kind": kind, **_DESCRIBERS.get(kind, _table)(place, rows)}


def _shipped(path: Path) -> Path:
    """The bare name of a description that ships with kdbias stands for that file."""
    from importlib.resources import files

    if path.exists() or path.suffix != ".toml" or path.name != str(path):
        return path
    shipped = Path(str(files("kdbias.data_manifests") / path.name))
    return shipped if shipped.exists() else path


def _table(path: Path, rows: int) -> dict[str, Any]:
    """Rows, columns and first rows of a Parquet, CSV or TSV table."""
    if path.suffix.lower() in DELIMITERS:
        head, n = csv_head(path, rows, _TEXTS, DELIMITERS[path.suffix.lower()])
        schema = head.schema
    else:
        with open_parquet(path) as table:
            head, n, schema = table.head(rows), table.file.metadata.num_rows, table.schema
    found: dict[str, Any] = {
        "summary": f"{counted(n, 'row')}, {counted(len(schema.names), 'column')}",
        "rows": n,
        "columns": [{"name": f.name, "type": str(f.type)} for f in schema],
        "first_rows": [{k: short(v) for k, v in row.items()} for row in head.to_pylist()],
    }
    document = from_schema(schema, path)
    if document:
        found |= {"stage": document.get("stage"), "counts": document.get("counts"), "provenance": document}
    if "weight" in schema.names and "sample_id" in schema.names:
        found |= _weights(path)
    return found


def _weights(path: Path) -> dict[str, Any]:
    """A weight manifest, with how evenly it draws."""
    from kdbias.tables.weight_manifest import read_manifest
    from kdbias.weighting.diagnostics import current, edited

    manifest = read_manifest(path)
    now = current(manifest)
    summary = (
        f"{counted(manifest.n, 'sample')}; effective sample size {now['ess']:,.1f} "
        f"({100 * now['ess_share']:.1f} %), weights {manifest.weights.min():.3g} to {now['max_weight']:.3g}, "
        f"{now['zero_weights']:,} never drawn"
    )
    if not edited(manifest, now):
        return {"summary": summary}
    summary += "; edited since kdbias weights wrote it, so the provenance is of the original"
    return {"summary": summary, "counts": None}


def _record(folder: Path) -> dict[str, Any]:
    """What the record of a stage's folder says, and the files beside it."""
    record = read_record(folder)
    return {
        "stage": record.get("stage"),
        "status": _status(folder, record),
        "counts": record.get("counts"),
        "provenance": record,
        "files": _files(folder),
    }


def _status(folder: Path, record: dict[str, Any]) -> str | None:
    """A run that was cut short cannot record that; without a process in its folder it is not running."""
    status = record.get("status")
    return "unfinished" if status == "running" and not in_use(folder) else status


def _files(folder: Path) -> list[dict[str, Any]]:
    """Name and size in bytes of each of a folder's files, sorted."""
    files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.endswith("-tmp"))
    return [{"name": p.name, "bytes": p.stat().st_size} for p in files]


def _finished(path: Path, rows: int, table: str) -> dict[str, Any]:
    """The record and the main table of a stage's folder; without ``rows`` where it is not finished."""
    record = _record(path)
    if record["status"] != "finished" or not (path / table).exists():
        return {"summary": f"unfinished: {_AGAIN}", **record}
    return {**_table(path / table, rows), **record}


def _embedding_table(path: Path, rows: int) -> dict[str, Any]:
    """An embedding table: its record, columns and first rows."""
    record = _record(path)
    parts = sorted(path.glob("part-*.parquet"))
    if not parts:
        return {"summary": f"no part yet; status {record['status']}", **record}
    found, many = {**_table(parts[0], rows), **record}, counted(len(parts), "part")
    if record["status"] != "finished":
        return {**found, "summary": f"unfinished, {many} so far: {_AGAIN}"}
    from kdbias.tables.embedding_table import EmbeddingTable

    table = EmbeddingTable.open(path)
    groups = f"; groups: {', '.join(table.group_columns)}" if table.group_columns else ""
    summary = f"{counted(table.n, 'unit vector')} of {counted(table.d, 'dimension')} in {many}{groups}"
    return {**found, "rows": table.n, "summary": summary}


def _density_folder(path: Path, rows: int) -> dict[str, Any]:
    """What `kdbias uniformity` wrote: its densities and what was measured."""
    found = _finished(path, rows, "density.parquet")
    if "rows" in found:
        from kdbias.measurement.files import read_uniformity

        measured = read_uniformity(path)
        schemes = [s["name"] for s in measured.get("schemes", [])]
        bandwidths = [f"{b['t']:g}" for b in (measured["schemes"][0]["bandwidths"] if schemes else [])]
        found["summary"] = (
            f"{counted(found['rows'], 'sample')}, d = {measured.get('d')}, t = {', '.join(bandwidths)}; "
            f"schemes: {', '.join(schemes)}"
        )
    return found


def _frontier(path: Path, rows: int) -> dict[str, Any]:
    """What `kdbias weights --frontier` wrote."""
    found = _finished(path, rows, "frontier.parquet")
    if "rows" in found:
        require_shape(found["provenance"], {"config": {"t": (float, [float])}}, path / RECORD)
        t = write("t", found["provenance"]["config"]["t"])
        found["summary"] = (
            f"what {counted(found['rows'], 'weight scheme', 'reaches and costs/reach and cost')} at t = {t} "
            "(kdbias weights --frontier); the picture is frontier.png"
        )
    return found


def _training_run(path: Path, rows: int) -> dict[str, Any]:
    """A training run: its record and the last rows of its metrics."""
    record = _record(path)
    found: dict[str, Any] = {"summary": f"training run, {record['status']}", **record}
    metrics = path / "metrics.csv"
    if metrics.exists() and metrics.stat().st_size:
        require_digest(path, record["provenance"], metrics.name)
        table = _table(metrics, 10**9)
        last = table["first_rows"][-rows:] if rows else []
        found |= {"columns": table["columns"], "rows": table["rows"], "last_rows": last}
        found["summary"] += f", {counted(table['rows'], 'row')} of metrics"
    return found


def _evaluation(path: Path, rows: int) -> dict[str, Any]:
    """An evaluation: its record and metrics."""
    record = _record(path)
    metrics = {"metrics": read_metrics(path)} if (path / "metrics.json").exists() else {}
    return {"summary": f"evaluation, {record['status']}", **record, **metrics}


def _study(path: Path, rows: int) -> dict[str, Any]:
    """A study: its record and how many of its runs are done."""
    record = _record(path)
    summary = f"study, {record['status']}; {_AGAIN}"
    if (path / "study.json").exists():
        document = read_document(path / "study.json", _STUDY)
        summary = (
            f"study {document['name']}: {document['finished']:,} of {document['planned']:,} runs finished, "
            f"{len(document['failed']):,} failed; read results.md, every number is in results.parquet"
        )
    return {"summary": summary, **record}


def _changes(path: Path, rows: int) -> dict[str, Any]:
    """What `kdbias changes -o` wrote: its tables with their rows."""
    rows_of = ", ".join(f"{name} {counted(_table(path / name, 0)['rows'], 'row')}" for name in CHANGES)
    summary = f"what a weight manifest changes (kdbias changes -o): {rows_of}"
    return {"summary": summary, "files": _files(path)}


def _outputs(path: Path, rows: int) -> dict[str, Any]:
    """A folder of outputs: each one's path, stage and status."""
    found: dict[str, Any] = _record(path) if (path / RECORD).exists() else {"files": _files(path)}
    inside = [(folder, read_record(folder)) for folder in stage_folders(path)]
    found["outputs"] = [
        {"path": str(f.relative_to(path)), "stage": r.get("stage"), "status": _status(f, r)}
        for f, r in inside
    ]
    stages = [o["stage"] for o in found["outputs"]]
    by_stage = ", ".join(f"{stages.count(s)} {s}" for s in dict.fromkeys(stages))
    return {"summary": f"a folder of outputs: {by_stage or 'weight manifests'}", **found}


def _data(path: str | Path, rows: int) -> dict[str, Any]:
    """Data that `kdbias embed` reads: size and first samples."""
    source = open_data(path)
    columns = {"label": source.labels} if source.labels is not None else {}
    first = [
        {
            "sample_id": source.ids[i].as_py(),
            **{name: column[i].as_py() for name, column in columns.items()},
            **{name: short(column[i].as_py()) for name, column in source.groups.items()},
        }
        for i in range(min(rows, source.n))
    ]
    return {"summary": source.describe(), "rows": source.n, "first_rows": first}


def _toml(path: Path, rows: int) -> dict[str, Any]:
    """A TOML file's content, and the data where it describes any."""
    content = read_toml(path)
    found: dict[str, Any] = {
        "summary": "a TOML file with " + ", ".join(content),
        "content": files.plain(content),
    }
    try:
        return {**found, **_data(path, rows)}
    except KdbiasError as error:  # a training configuration, or a description whose data is not here
        return {**found, "data": f"not opened as data: {error}"}


_DESCRIBERS: dict[str, Callable[[Path, int], dict[str, Any]]] = {
    "embedding table": _embedding_table,
    "density folder": _density_folder,
    "training run": _training_run,
    "evaluation": _evaluation,
    "frontier": _frontier,
    "study": _study,
    "changes": _changes,
    **dict.fromkeys(("demo", "outputs"), _outputs),
    **dict.fromkeys(("image folder", "data set"), _data),
    "TOML document": _toml,
    "demo results": files.demo_results,
    **dict.fromkeys(
        ("run record", "uniformity numbers", "study summary", "metrics", "JSON document"), files.json_document
    ),
    "model": files.model,
    "array": files.array,
    "arrays": files.arrays,
    "network": files.network,
    "image": files.image,
    "report": files.page,
    "commands": files.commands,
}
"""Kind of `recognise` -> what describes it; all others are tables."""
