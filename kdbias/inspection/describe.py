"""What is this file? Schema, counts, provenance and first rows of anything that kdbias reads or writes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kdbias.data.opening import kind_of, open_data
from kdbias.data.stores import without_scheme
from kdbias.errors import KdbiasError
from kdbias.evaluation.stage import read_metrics
from kdbias.inspection import numbers, plain
from kdbias.inspection.recognition import CHANGES, recognise, stage_folders
from kdbias.inspection.values import short
from kdbias.tables.csv_file import DELIMITERS, csv_head
from kdbias.tables.documents import read_document, read_json, read_toml, require_shape
from kdbias.tables.folder_lock import in_use
from kdbias.tables.parquet_file import open_parquet
from kdbias.tables.provenance import from_schema
from kdbias.tables.run_record import RECORD, read_record, require_digest
from kdbias.wording import counted

_ROWS = 5
_STUDY = {"name": str, "planned": int, "finished": int, "failed": {str: str}}
_DEMO = {"seeds": int, "students": [object], "schemes": [{"scheme": str}]}
_TEXTS = ("sample_id", "label", "path", "first", "second")  # columns that every reader of a CSV keeps as text


def inspect(path: str | os.PathLike[str], rows: int = _ROWS) -> dict[str, Any]:
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
    describe: Callable[[Path, int], dict[str, Any]] = {
        "embedding table": _embedding_table,
        "density folder": _density_folder,
        "training run": _training_run,
        "evaluation": _evaluation,
        "demo": _outputs,
        "outputs": _outputs,
        "image folder": _data,
        "data set": _data,
        "model": numbers.model,
        "array": numbers.array,
        "arrays": numbers.arrays,
        "frontier": _frontier,
        "study": _study,
        "changes": _changes,
        "network": plain.network,
        "image": plain.image,
        "report": plain.page,
        "commands": plain.commands,
        "TOML document": _toml,
        "run record": _json,
        "uniformity numbers": _json,
        "demo results": _demo_results,
        "study summary": _json,
        "metrics": _json,
        "JSON document": _json,
    }.get(kind, _table)
    return {"path": str(place), "kind": kind, **describe(place, rows)}


def _shipped(path: Path) -> Path:
    """The bare name of a description that ships with kdbias stands for that file."""
    from importlib.resources import files

    if path.exists() or path.suffix != ".toml" or path.name != str(path):
        return path
    shipped = Path(str(files("kdbias.data_manifests") / path.name))
    return shipped if shipped.exists() else path


def _table(path: Path, rows: int) -> dict[str, Any]:
    head_of = _csv_head if path.suffix.lower() in DELIMITERS else _parquet_head
    head, n, schema = head_of(path, rows)
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


def _parquet_head(path: Path, rows: int) -> tuple[Any, int, Any]:
    with open_parquet(path) as table:
        return table.head(rows), table.file.metadata.num_rows, table.schema


def _csv_head(path: Path, rows: int) -> tuple[Any, int, Any]:
    head, n = csv_head(path, rows, _TEXTS, DELIMITERS[path.suffix.lower()])
    return head, n, head.schema


def _weights(path: Path) -> dict[str, Any]:
    from kdbias.tables.weight_manifest import read_manifest
    from kdbias.weighting.diagnostics import current, edited

    manifest = read_manifest(path)
    now = current(manifest)
    found: dict[str, Any] = {
        "summary": f"{counted(manifest.n, 'sample')}; effective sample size {now['ess']:,.1f} "
        f"({100 * now['ess_share']:.1f} %), weights {manifest.weights.min():.3g} to {now['max_weight']:.3g}, "
        f"{now['zero_weights']:,} never drawn"
    }
    if edited(manifest, now):
        found["summary"] += "; edited since kdbias weights wrote it, so the provenance is of the original"
        found["counts"] = None
    return found


def _record(folder: Path) -> dict[str, Any]:
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
    files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.endswith("-tmp"))
    return [{"name": p.name, "bytes": p.stat().st_size} for p in files]


def _embedding_table(path: Path, rows: int) -> dict[str, Any]:
    record = _record(path)
    parts = sorted(path.glob("part-*.parquet"))
    if not parts:
        return {"summary": f"no part yet; status {record['status']}", **record}
    first = _table(parts[0], rows)
    if record["status"] != "finished":
        done = f"{counted(len(parts), 'part')} so far"
        return {
            **first,
            **record,
            "summary": f"unfinished, {done}: run the same command again to complete it",
        }
    from kdbias.tables.embedding_table import EmbeddingTable

    table = EmbeddingTable.open(path)
    groups = f"; groups: {', '.join(table.group_columns)}" if table.group_columns else ""
    return {
        **first,
        **record,
        "rows": table.n,
        "summary": f"{counted(table.n, 'unit vector')} of {table.d} dimensions in "
        f"{counted(len(parts), 'part')}{groups}",
    }


def _density_folder(path: Path, rows: int) -> dict[str, Any]:
    record = _record(path)
    if record["status"] != "finished" or not (path / "density.parquet").exists():
        return {"summary": "unfinished: run the same command again to complete it", **record}
    found = {**_table(path / "density.parquet", rows), **record}
    from kdbias.measurement.files import read_uniformity

    measured = read_uniformity(path)
    schemes = [s["name"] for s in measured.get("schemes", [])]
    bandwidths = [f"{b['t']:g}" for b in (measured["schemes"][0]["bandwidths"] if schemes else [])]
    found["summary"] = (
        f"{counted(found['rows'], 'sample')}, d = {measured.get('d')}, t = {', '.join(bandwidths)}; "
        f"schemes: {', '.join(schemes)}"
    )
    return found


def _training_run(path: Path, rows: int) -> dict[str, Any]:
    record = _record(path)
    found: dict[str, Any] = {"summary": f"training run, {record['status']}", **record}
    metrics = path / "metrics.csv"
    if metrics.exists() and metrics.stat().st_size:
        require_digest(path, record["provenance"], metrics.name)
        table = _table(metrics, 10**9)
        found["columns"] = table["columns"]
        found["rows"] = table["rows"]
        found["last_rows"] = table["first_rows"][-rows:] if rows else []
        found["summary"] += f", {counted(table['rows'], 'row')} of metrics"
    return found


def _evaluation(path: Path, rows: int) -> dict[str, Any]:
    record = _record(path)
    metrics = path / "metrics.json"
    found: dict[str, Any] = {"summary": f"evaluation, {record['status']}", **record}
    if metrics.exists():
        found["metrics"] = read_metrics(path)
    return found


def _frontier(path: Path, rows: int) -> dict[str, Any]:
    record = _record(path)
    table = path / "frontier.parquet"
    if record["status"] != "finished" or not table.exists():
        return {"summary": "unfinished: run the same command again to complete it", **record}
    found = {**_table(table, rows), **record}
    require_shape(record["provenance"], {"config": {"t": float}}, path / RECORD)
    t = record["provenance"]["config"]["t"]
    found["summary"] = (
        f"what {found['rows']:,} weight schemes reach and cost at t = {t:g} (kdbias weights --frontier); "
        "the picture is frontier.png"
    )
    return found


def _study(path: Path, rows: int) -> dict[str, Any]:
    record = _record(path)
    found: dict[str, Any] = {
        "summary": f"study, {record['status']}; run the same command again to complete it"
    }
    if (path / "study.json").exists():
        document = read_document(path / "study.json", _STUDY)
        found["summary"] = (
            f"study {document['name']}: {document['finished']:,} of {document['planned']:,} runs finished, "
            f"{len(document['failed']):,} failed; read results.md, every number is in results.parquet"
        )
    return {**found, **record}


def _changes(path: Path, rows: int) -> dict[str, Any]:
    rows_of = ", ".join(f"{name} {counted(_table(path / name, 0)['rows'], 'row')}" for name in CHANGES)
    return {
        "summary": f"what a weight manifest changes (kdbias changes -o): {rows_of}",
        "files": _files(path),
    }


def _outputs(path: Path, rows: int) -> dict[str, Any]:
    inside = [(folder, read_record(folder)) for folder in stage_folders(path)]
    found: dict[str, Any] = _record(path) if (path / RECORD).exists() else {"files": _files(path)}
    found["outputs"] = [
        {"path": str(f.relative_to(path)), "stage": r.get("stage"), "status": _status(f, r)}
        for f, r in inside
    ]
    stages = [o["stage"] for o in found["outputs"]]
    by_stage = ", ".join(f"{stages.count(s)} {s}" for s in dict.fromkeys(stages))
    return {"summary": f"a folder of outputs: {by_stage or 'weight manifests'}", **found}


def _data(path: str | Path, rows: int) -> dict[str, Any]:
    source = open_data(path)
    first: list[dict[str, Any]] = []
    for i in range(min(rows, source.n)):
        labels = {"label": source.labels[i].as_py()} if source.labels is not None else {}
        groups = {name: short(column[i].as_py()) for name, column in source.groups.items()}
        first.append({"sample_id": source.ids[i].as_py(), **labels, **groups})
    return {"summary": source.describe(), "rows": source.n, "first_rows": first}


def _toml(path: Path, rows: int) -> dict[str, Any]:
    content = read_toml(path)
    found: dict[str, Any] = {"summary": "a TOML file with " + ", ".join(content), "content": _plain(content)}
    try:
        return {**found, **_data(path, rows)}
    except KdbiasError as error:  # a training configuration, or a description whose data is not here
        return {**found, "data": f"not opened as data: {error}"}


def _json(path: Path, rows: int) -> dict[str, Any]:
    content = read_json(path)
    keys = ", ".join(content) if isinstance(content, dict) else counted(len(content), "entry")
    return {"summary": f"JSON: {keys}", "content": content}


def _demo_results(path: Path, rows: int) -> dict[str, Any]:
    content = read_document(path, _DEMO)
    schemes = ", ".join(entry["scheme"] for entry in content["schemes"])
    students = counted(len(content["students"]), "student")
    summary = f"what kdbias demo found: {students} over {counted(content['seeds'], 'seed')}"
    return {"summary": f"{summary}; schemes: {schemes}", "content": content}


def _plain(value: Any) -> Any:
    """TOML values as JSON (dates become text)."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return value if isinstance(value, str | int | float | bool) else str(value)
