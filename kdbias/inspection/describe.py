"""What is this file? Schema, counts, provenance and first rows of anything that kdbias reads or writes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbias.data.access import without_scheme
from kdbias.data.opening import kind_of, open_data, shipped_descriptions
from kdbias.display.quantities import write
from kdbias.display.result import Result
from kdbias.display.table import Table
from kdbias.errors import KdbiasError
from kdbias.evaluation.stage import read_metrics
from kdbias.inspection import files
from kdbias.inspection.files import short
from kdbias.inspection.printed import as_text
from kdbias.inspection.recognition import CHANGES, recognise, stage_folders
from kdbias.placing import placed
from kdbias.tables.csv_file import DELIMITERS, csv_head
from kdbias.tables.documents import read_document, read_toml, require_shape
from kdbias.tables.listing import located
from kdbias.tables.mirrors import in_use
from kdbias.tables.parted_table import read_head
from kdbias.tables.provenance import from_schema
from kdbias.tables.run_record import RECORD, read_record, require_digest
from kdbias.wording import counted

if TYPE_CHECKING:
    import pandas as pd

_STUDY = {"name": str, "planned": int, "finished": int, "failed": {str: str}}
_TEXTS = ("sample_id", "label", "path", "first", "second")  # columns that every reader of a CSV keeps as text
_AGAIN = "run the same command again to complete it"


class Description(Result, dict[str, Any]):
    """What `inspect` found: a dictionary of JSON values that shows itself."""

    _elsewhere = "; EmbeddingTable.open, read_density or read_manifest opens what lies there, which has one"

    @property
    def document(self) -> dict[str, Any]:
        """The values as they are."""
        return dict(self)

    def blocks(self) -> list[str | Table]:
        """All of it, in lines of at most 110 columns."""
        return [as_text(self)]

    def to_pandas(self) -> pd.DataFrame:
        """The first rows."""
        import pandas as pd

        return pd.DataFrame(self.get("first_rows") or [])


def inspect(path: str | os.PathLike[str], rows: int = 5) -> Description:
    """Describe what lies at ``path``.

    Args:
        path: an output of any stage (folder or file), a data manifest, any other data that `open_data` reads
            or its description, a ``.pt`` model, a ``.npy``/``.npz`` array, a network or image file.
        rows: how many first rows to show of a table.

    Returns:
        A dictionary of JSON values only: ``path``, ``kind``, ``summary`` (one sentence), and where they apply
        ``stage``, ``status``, ``counts``, ``columns`` ([{"name", "type"}]), ``provenance``,
        ``files``, ``first_rows``.

    Raises:
        KdbiasError: nothing there, unreadable, or nothing that kdbias knows.
    """
    return Description(_found(without_scheme(os.fspath(placed("path", path))), rows))


def _found(name: str, rows: int) -> dict[str, Any]:
    """What lies at a path or under a name."""
    place = Path(name)
    if not place.exists():
        place = shipped_descriptions().get(str(place), place)
    if not place.exists():
        kind_of(name)  # refuses what is no data set by its name either
        return {"path": name, "kind": "data set", **_data(name, rows)}
    kind = recognise(place)
    found = {"path": str(place), "kind": kind}
    if kind not in _FOLDERS:
        return found | _FILES.get(kind, _table)(place, rows)
    record = _record(place)
    describe, main = _FOLDERS[kind]
    if main and (record["status"] != "finished" or not located(place / main).exists()):
        return found | {"summary": f"unfinished: {_AGAIN}"} | record
    return found | describe(place, rows, record) | record


def _table(path: Path, rows: int) -> dict[str, Any]:
    """Rows, columns and first rows of a Parquet, CSV or TSV table."""
    if path.suffix.lower() in DELIMITERS:
        head, n = csv_head(path, rows, _TEXTS, DELIMITERS[path.suffix.lower()])
        schema = head.schema
    else:
        head, n, schema = read_head(path, rows)
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
    shown = {name: write(name, value) for name, value in now.items()}
    summary = (
        f"{counted(manifest.n, 'sample')}; effective sample size {shown['ess']} ({shown['ess_share']}), "
        f"weights {manifest.weights.min():.3g} to {shown['max_weight']}, {shown['zero_weights']} never drawn"
    )
    if not edited(manifest, now):
        return {"summary": summary}
    summary += "; edited since kdbias weights wrote it, so the provenance is of the original"
    return {"summary": summary, "counts": None}


def _record(folder: Path) -> dict[str, Any]:
    """What the record of a stage's folder says, where there is one, and the files beside it."""
    paths = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.endswith("-tmp"))
    files = {"files": [{"name": p.name, "bytes": p.stat().st_size} for p in paths]}
    if not (folder / RECORD).exists():
        return files
    record = read_record(folder)
    told = {"stage": record.get("stage"), "status": _status(folder, record), "counts": record.get("counts")}
    return {**told, "provenance": record, **files}


def _status(folder: Path, record: dict[str, Any]) -> str | None:
    """A run that was cut short cannot record that; without a process in its folder it is not running."""
    status = record.get("status")
    return "unfinished" if status == "running" and not in_use(folder) else status


def _embedding_table(path: Path, rows: int, record: dict[str, Any]) -> dict[str, Any]:
    """An embedding table: columns and first rows."""
    parts = sorted(path.glob("part-*.parquet"))
    if not parts:
        return {"summary": f"no part yet; status {record['status']}"}
    found, many = _table(parts[0], rows), counted(len(parts), "part")
    if record["status"] != "finished":
        return {**found, "summary": f"unfinished, {many} so far: {_AGAIN}"}
    from kdbias.tables.embedding_table import EmbeddingTable

    table = EmbeddingTable.open(path)
    groups = f"; groups: {', '.join(table.group_columns)}" if table.group_columns else ""
    vectors = f"{counted(table.n, 'unit vector')} of {counted(table.d, 'dimension')}"
    return {**found, "rows": table.n, "summary": f"{vectors} in {many}{groups}"}


def _density_folder(path: Path, rows: int, record: dict[str, Any]) -> dict[str, Any]:
    """What `kdbias uniformity` wrote: its densities and what was measured."""
    from kdbias.measurement.files import read_uniformity
    from kdbias.measurement.target_summary import verdict
    from kdbias.tables.density_table import density_file

    found, measured = _table(density_file(path), rows), read_uniformity(path)
    schemes = measured["schemes"]
    bandwidths = ", ".join(f"{at['t']:g}" for at in schemes[0]["bandwidths"])
    summary = (
        f"{counted(found['rows'], 'sample')}, d = {measured['d']}, t = {bandwidths}; "
        f"schemes: {', '.join(scheme['name'] for scheme in schemes)}"
    )
    if measured["target"] is not None:
        summary += f"; {verdict(measured['target'], schemes[0]['discrepancy'])}"
    return {**found, "summary": summary}


def _frontier(path: Path, rows: int, record: dict[str, Any]) -> dict[str, Any]:
    """What `kdbias weights --frontier` wrote."""
    found = _table(path / "frontier.parquet", rows)
    require_shape(record["provenance"], {"config": {"t": (float, [float])}}, path / RECORD)
    summary = (
        f"what {counted(found['rows'], 'weight scheme', 'reaches and costs/reach and cost')} at t = "
        f"{write('t', record['provenance']['config']['t'])} (kdbias weights --frontier); the picture is "
        "frontier.png"
    )
    return {**found, "summary": summary}


def _training_run(path: Path, rows: int, record: dict[str, Any]) -> dict[str, Any]:
    """A training run: the last rows of its metrics."""
    summary, metrics = f"training run, {record['status']}", path / "metrics.csv"
    if not metrics.exists() or not metrics.stat().st_size:
        return {"summary": summary}
    require_digest(path, record["provenance"], metrics.name)
    table = _table(metrics, 10**9)
    last = table["first_rows"][-rows:] if rows else []
    summary += f", {counted(table['rows'], 'row')} of metrics"
    return {"summary": summary, "columns": table["columns"], "rows": table["rows"], "last_rows": last}


def _evaluation(path: Path, rows: int, record: dict[str, Any]) -> dict[str, Any]:
    """An evaluation: its metrics."""
    metrics = {"metrics": read_metrics(path)} if (path / "metrics.json").exists() else {}
    return {"summary": f"evaluation, {record['status']}", **metrics}


def _study(path: Path, rows: int, record: dict[str, Any]) -> dict[str, Any]:
    """A study: how many of its runs are done."""
    if not (path / "study.json").exists():
        return {"summary": f"study, {record['status']}; {_AGAIN}"}
    document = read_document(path / "study.json", _STUDY)
    summary = (
        f"study {document['name']}: {document['finished']:,} of {document['planned']:,} runs finished, "
        f"{len(document['failed']):,} failed; read results.md, every number is in results.parquet"
    )
    return {"summary": summary}


def _changes(path: Path, rows: int, record: dict[str, Any]) -> dict[str, Any]:
    """What `kdbias changes -o` wrote: its tables with their rows."""
    rows_of = ", ".join(f"{name} {counted(_table(path / name, 0)['rows'], 'row')}" for name in CHANGES)
    return {"summary": f"what a weight manifest changes (kdbias changes -o): {rows_of}"}


def _outputs(path: Path, rows: int, record: dict[str, Any]) -> dict[str, Any]:
    """A folder of outputs: each one's path, stage and status."""
    inside = [(folder, read_record(folder)) for folder in stage_folders(path)]
    stages = [of.get("stage") for _, of in inside]
    outputs = [
        {"path": str(folder.relative_to(path)), "stage": of.get("stage"), "status": _status(folder, of)}
        for folder, of in inside
    ]
    by_stage = ", ".join(f"{stages.count(s)} {s}" for s in dict.fromkeys(stages))
    return {"summary": f"a folder of outputs: {by_stage or 'weight manifests'}", "outputs": outputs}


def _data(path: str | Path, rows: int) -> dict[str, Any]:
    """Data that `kdbias embed` reads: size and first samples."""
    source = open_data(path)
    columns = {"sample_id": source.ids, **({} if source.labels is None else {"label": source.labels})}
    columns |= {name: column for name, column in source.groups.items() if name not in columns}
    first = [
        {name: short(column[i].as_py()) for name, column in columns.items()}
        for i in range(min(rows, source.n))
    ]
    return {"summary": source.describe(), "rows": source.n, "first_rows": first}


def _toml(path: Path, rows: int) -> dict[str, Any]:
    """A TOML file's content, and the data where it describes any."""
    content = read_toml(path)
    plain = json.loads(json.dumps(content, default=str))  # dates become text
    found = {"summary": "a TOML file with " + ", ".join(content), "content": plain}
    try:
        return {**found, **_data(path, rows)}
    except KdbiasError as error:  # a training configuration, or a description whose data is not here
        return {**found, "data": f"not opened as data: {error}"}


# Kind of `recognise` -> what describes it, and the file without which a folder of the kind is unfinished.
_FOLDERS: dict[str, tuple[Callable[[Path, int, dict[str, Any]], dict[str, Any]], str]] = {
    "embedding table": (_embedding_table, ""),
    "density folder": (_density_folder, "density.parquet"),
    "frontier": (_frontier, "frontier.parquet"),
    "training run": (_training_run, ""),
    "evaluation": (_evaluation, ""),
    "study": (_study, ""),
    "changes": (_changes, ""),
    **dict.fromkeys(("demo", "run", "outputs"), (_outputs, "")),
}
# All others are tables.
_FILES: dict[str, Callable[[Path, int], dict[str, Any]]] = {
    **dict.fromkeys(("image folder", "data set"), _data),
    **dict.fromkeys(
        ("run record", "uniformity numbers", "study summary", "metrics", "JSON document"), files.json_document
    ),
    "TOML document": _toml,
    "demo results": files.demo_results,
    "model": files.model,
    "array": files.array,
    "arrays": files.arrays,
    "network": files.network,
    "image": files.image,
    "report": files.page,
    "commands": files.commands,
}
