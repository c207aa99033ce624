"""What every stage writes and prints for the small world: records, numbers and texts, as recorded."""

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.pinned.conftest import masked
from tests.pinned.world import STAGES, TIMES

DIGESTS = ("fingerprint", "digest", "kdbias", "version")
TABLES = ("density.parquet", "units.parquet", "part-*.parquet", "schemes.parquet", "neighbors.parquet")
EVERY = 13  # rows of a column are recorded one in so many


def without(value: Any, *keys: str) -> Any:
    """A document without these keys, at any depth."""
    if isinstance(value, dict):
        return {k: without(v, *keys) for k, v in value.items() if k not in keys}
    return [without(v, *keys) for v in value] if isinstance(value, list) else value


def relative(value: Any, root: Path) -> Any:
    """A document with paths as seen from the world."""
    return json.loads(json.dumps(value).replace(str(root), "WORLD"))


def outline(document: dict[str, Any]) -> dict[str, Any]:
    """What a record says of how an output was made: its configuration key by key, and which inputs."""
    keys = sorted(document.keys() - {"fingerprint"})
    inputs = sorted(document.get("inputs") or {})
    return {"keys": keys, "config": document.get("config"), "inputs": inputs}


def provenance(file: Path) -> dict[str, Any] | None:
    text = (pq.read_schema(file).metadata or {}).get(b"kdbias")
    return json.loads(text) if text else None


def test_records(world, recorded):
    """The configuration that run.json, metrics.json and the footers of tables keep."""
    found = {}
    for file in sorted(world.rglob("*")):
        document = None
        if file.name in ("run.json", "metrics.json"):
            document = json.loads(file.read_text())
        elif file.suffix == ".parquet":
            document = provenance(file)
        if document is not None:
            found[str(file.relative_to(world))] = outline(relative(document, world))
    recorded("records", found)


def test_the_config_of_a_run_as_toml(world, recorded):
    runs = ("run", "run-options", "run-config")
    recorded("configs", {run: masked((world / run / "config.toml").read_text(), world) for run in runs})


def test_what_lies_in_each_folder(world, recorded):
    outputs = sorted({file.parent for file in world.rglob("*") if file.is_file()} - {world / "printed"})
    recorded(
        "files",
        {str(f.relative_to(world)): sorted(e.name for e in f.iterdir() if e.is_file()) for f in outputs},
    )


def numbers(column: pa.ChunkedArray) -> Any:
    """The type of a column and some of its values, all of few."""
    kind, values = str(column.type), column.to_pylist()
    rows = values if len(values) <= 40 else values[::EVERY]
    summary = {}
    if pa.types.is_floating(column.type):
        x = np.array([np.nan if v is None else v for v in values], dtype=float)
        x = x[np.isfinite(x)]
        if len(x):
            summary = {"sum": x.sum(), "squares": (x * x).sum(), "least": x.min(), "most": x.max()}
    return {"type": kind, "rows": len(values), "nulls": column.null_count, "values": rows, **summary}


def columns(file: Path) -> dict[str, Any]:
    table = pq.read_table(file)
    return {name: numbers(table.column(name)) for name in table.column_names}


def test_uniformity(world, recorded):
    paths = sorted(world.glob("density*/uniformity.json"))
    left_out = (*TIMES, *DIGESTS, "gap")
    found = {p.parent.name: without(json.loads(p.read_text()), *left_out) for p in paths}
    recorded("uniformity", relative(found, world))


def test_evaluations(world, recorded):
    left_out = (*TIMES, *DIGESTS, "config", "inputs", "sources")
    paths = sorted(world.glob("score/*/metrics.json"))
    found = {p.parent.name: without(json.loads(p.read_text()), *left_out) for p in paths}
    compared = without(json.loads((world / "compared.json").read_text()), *left_out)
    recorded("evaluations", relative(found | {"compared": compared}, world))


def test_weights(world, recorded):
    recorded("weights", {f.stem: columns(f) for f in sorted(world.glob("weights/*.parquet"))})


@pytest.mark.parametrize("name", ["emb", "density", "score"])
def test_tables(world, recorded, name):
    files = [f for pattern in TABLES for f in sorted(world.glob(f"{name}*/**/{pattern}"))]
    files = [f for f in files if f.parent.name != "embeddings"]  # a student's, rounded to float16
    recorded(f"tables-{name}", {str(f.relative_to(world)): columns(f) for f in files})


def test_frontier_and_changes(world, recorded):
    files = [*world.glob("frontier*/frontier.*"), *world.glob("changes/*.csv")]
    tables: dict[str, Any] = {}
    for file in sorted(files):
        if file.suffix == ".csv":
            tables[str(file.relative_to(world))] = pd.read_csv(file).astype(object).to_dict("list")
        elif file.suffix == ".parquet":
            tables[str(file.relative_to(world))] = columns(file)
    tables = without(tables, "gap")
    recorded("frontier", json.loads(json.dumps(tables).replace("NaN", "null")))


def test_students(world, recorded):
    """The losses, and each tensor's size and norm."""
    from kdbias.networks.saved import load_network

    found = {}
    for run in ("run", "run-options", "run-config"):
        history = pd.read_csv(world / run / "metrics.csv")
        timeless = history.drop(columns=history.columns.intersection(TIMES))
        network, about = load_network(world / run)
        state = network.state_dict()
        tensors = {k: [list(v.shape), float(v.double().norm())] for k, v in state.items()}
        about = without(relative(about, world), *TIMES, *DIGESTS, "inputs")
        found[run] = {"metrics": timeless.to_dict("list"), "tensors": tensors, "about": about}
    recorded("students", found)


def test_printed(world, recorded):
    """The terminal's summaries; numbers keep their digits."""
    texts = {name: masked((world / "printed" / f"{name}.txt").read_text(), world) for name in STAGES}
    # of the rows of metrics.csv, rates and times set the widths of columns, too
    rows = re.compile(r"^(    \d+ +\d+ ).*$", flags=re.MULTILINE)
    texts["inspect-run"] = re.sub(" +", " ", rows.sub(r"\1#", texts["inspect-run"]))
    recorded("printed", {name: text.splitlines() for name, text in texts.items()})


TAG = re.compile(r"<[^>]+>")


def page_text(page: str) -> list[str]:
    """Headings, facts, captions, tables (a row a line) and explanations of a page; no plots, no images."""
    page = re.sub(
        r'<section class="verdict".*?</section>', "", page, flags=re.DOTALL
    )  # the advice times this machine
    page = re.sub(
        r"<(style|script|svg|head)\b.*?</\1>|<img[^>]*>|<details.*?</details>", "", page, flags=re.DOTALL
    )
    page = re.sub(r'<t([hd])[^>]*title="([^"]*)"[^>]*>', r"<t\1>{\2} ", page)
    page = re.sub(r"</(td|th)>", " | ", page)
    lines = re.split(r"</(?:tr|p|h\d|li|thead|caption|figcaption)>", page)
    return [text for line in lines if (text := " ".join(unescape(TAG.sub("", line)).split()))]


@pytest.mark.parametrize("name", ["page", "short"])
def test_page(world, recorded, name):
    text = (world / f"{name}.html").read_text()
    recorded(f"page-{name}", [masked(line, world) for line in page_text(text)])
