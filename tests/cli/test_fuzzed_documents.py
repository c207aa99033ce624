"""Documents that parse but are wrong, and some that do not: each command says so in one line.

``KDBIAS_FUZZ`` sets how many inputs are tried in all.
"""

import copy
import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from kdbias.errors import KdbiasError
from kdbias.evaluation.stage import EvaluationResult, read_metrics
from kdbias.inspection.describe import inspect
from kdbias.inspection.printed import as_text
from kdbias.measurement.files import read_measured, read_samplings, read_uniformity
from kdbias.measurement.summary import summary_table
from kdbias.networks.saved import load_network
from kdbias.reporting import report
from kdbias.tables import provenance
from kdbias.tables.density_table import read_density
from kdbias.tables.embedding_table import EmbeddingTable
from kdbias.tables.weight_manifest import read_manifest
from tests.cli.outputs import run

FUZZ = int(os.environ.get("KDBIAS_FUZZ", "400"))
STRANGE = [
    *(None, True, False, 0, -1, 1.5, 1e308, -1e308, 2**70, 10**400, float("nan"), float("inf")),
    *("", "x", "\ud800", "a\0b", "\x1b[31m", "nan", "../../etc", "\u202e", "9" * 5000),
    *([], {}, [None], [[]], [{}], {"": None}, {"t": "x"}, [1, "x", None]),
]


def deep(levels: int) -> Any:
    found: Any = 1
    for _ in range(levels):
        found = [found]
    return found


def places(document: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value below the root."""
    items = document.items() if isinstance(document, dict) else enumerate(document)
    found = []
    for key, value in items:
        found.append((*here, key))
        if isinstance(value, dict | list):
            found += places(value, (*here, key))
    return found


def mutated(document: Any, rng: random.Random) -> Any:
    """The document with up to three of its values gone, replaced, doubled or buried."""
    document = copy.deepcopy(document)
    for _ in range(rng.randint(1, 3)):
        known = places(document)
        if not known:
            break
        *way, last = rng.choice(known)
        parent = document
        for key in way:
            parent = parent[key]
        what = rng.randrange(5)
        if what == 0:
            del parent[last]
        elif what == 1:
            parent[last] = deep(rng.choice([3, 70]))
        elif what == 2 and isinstance(parent, list):
            parent.append(copy.deepcopy(parent[last]))
        else:
            parent[last] = copy.deepcopy(rng.choice(STRANGE))
    return document


def written(document: Any, rng: random.Random) -> bytes:
    """JSON, now and then with damage that is no JSON any more."""
    text = json.dumps(document).encode()
    if rng.random() < 0.1:
        place = rng.randrange(len(text))
        extra = rng.choice([b"\xff", b"\0", b"[" * 100_000, b"1" * 5000, b'"', b"{", b""])
        text = text[:place] + extra + text[place + rng.randrange(3) :]
    return text


def tried(count: int, fuzzed: Any) -> None:
    """Nothing but a refusal in one line, whatever is read."""
    read = 0
    for seed in range(count):
        try:
            fuzzed(random.Random(seed))
            read += 1
        except KdbiasError as error:
            assert "\n" not in str(error), seed  # noqa: PT017
        except Exception as error:
            raise AssertionError(f"seed {seed}") from error
    assert read < count


def uniformity_of(folder: Path) -> None:
    document = read_uniformity(folder)
    summary_table(document)
    read_measured(folder, document, read_density(folder).ids)
    read_samplings(folder, document)


def table_of(folder: Path) -> None:
    EmbeddingTable.open(folder).vectors()


def seen(file: Path) -> None:
    as_text(inspect(file))
    as_text(inspect(file.parent))


DOCUMENTS = {
    "emb/run.json": [table_of, lambda folder: seen(folder / "run.json")],
    "density/uniformity.json": [uniformity_of, lambda folder: seen(folder / "uniformity.json")],
    "frontier/run.json": [lambda folder: seen(folder / "run.json")],
    "run/run.json": [lambda folder: seen(folder / "run.json")],
    "knn/metrics.json": [
        lambda folder: EvaluationResult(read_metrics(folder), folder).summary(),
        lambda folder: seen(folder / "metrics.json"),
    ],
    "knn/run.json": [lambda folder: seen(folder / "run.json")],
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_json_documents(outputs: Path, tmp_path: Path, name: str) -> None:
    root = shutil.copytree(outputs, tmp_path / "outputs")
    file, document = root / name, json.loads((outputs / name).read_text())

    def fuzzed(rng: random.Random) -> None:
        file.write_bytes(written(mutated(document, rng), rng))
        rng.choice(DOCUMENTS[name])(file.parent)

    tried(FUZZ // 10, fuzzed)


@pytest.mark.parametrize("name", ["density/density.parquet", "w.parquet", "emb/part-00000.parquet"])
def test_footers(outputs: Path, tmp_path: Path, name: str) -> None:
    root = shutil.copytree(outputs, tmp_path / "outputs")
    file, table = root / name, pq.read_table(root / name)
    document = provenance.from_schema(table.schema, file)
    readers = {"density": read_density, "w.parquet": read_manifest, "emb": table_of}
    read = readers[name.partition("/")[0]]

    def fuzzed(rng: random.Random) -> None:
        text, key = written(mutated(document, rng), rng), rng.choice([b"kdbias", b"PANDAS_ATTRS"])
        wrapped = b'{"kdbias": ' + text + b"}" if key == b"PANDAS_ATTRS" else text
        pq.write_table(table.replace_schema_metadata({key: wrapped}), file)
        read(file if name == "w.parquet" else file.parent)
        seen(file)

    tried(FUZZ // 20, fuzzed)


def test_students(outputs: Path, tmp_path: Path) -> None:
    file = Path(shutil.copy(outputs / "run" / "student.pt", tmp_path))
    content = torch.load(file, weights_only=True)
    del content["digest"]
    state = content["state"]

    def fuzzed(rng: random.Random) -> None:
        changed = mutated({**content, "state": dict.fromkeys(state)}, rng)
        if isinstance(changed.get("state"), dict):
            changed["state"] = {k: state.get(k, v) if v is None else v for k, v in changed["state"].items()}
        torch.save(changed, file)
        load_network(file)
        seen(file)

    tried(FUZZ // 20, fuzzed)


def test_reports(outputs: Path, tmp_path: Path) -> None:
    root = shutil.copytree(outputs, tmp_path / "outputs")
    names = list(DOCUMENTS)

    def fuzzed(rng: random.Random) -> None:
        file = root / rng.choice(names)
        whole = file.read_bytes()
        file.write_bytes(written(mutated(json.loads(whole), rng), rng))
        try:
            report([root], tmp_path / "r.html", pictures=0)
        finally:
            file.write_bytes(whole)

    tried(max(4, FUZZ // 100), fuzzed)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", b"[" * 200_000),
        ("a.json", b'{"a": ' + b"[" * 500 + b"]" * 500 + b"}"),
        ("a.json", b'{"a": ' + b"1" * 5000 + b"}"),
        ("a.json", b'{"a": "\\ud800"}'),
        ("a.json", b'{"a": 1, "a": 2}'),
        ("a.json", b'{"a": NaN}'),
        ("a.toml", b"a = " + b"[" * 100_000),
        ("a.toml", b"a = " + b"1" * 5000),
        ("a.toml", b'a = "\xff"'),
    ],
)
def test_the_command_line_names_the_file(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    result = run("inspect {file}", file=tmp_path / name)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1), result.output
    assert name in result.stderr


def test_texts_that_are_no_utf8(tmp_path: Path) -> None:
    buffers = [*pa.array(["aa", "bb"]).buffers()[:2], pa.py_buffer(b"a\xffbb")]
    texts = pa.Array.from_buffers(pa.string(), 2, buffers)
    for table in (pa.table({"sample_id": texts, "weight": [1.0, 2.0]}), pa.table({"label": texts})):
        pq.write_table(table, tmp_path / "w.parquet")
        result = run("inspect {file}", file=tmp_path / "w.parquet")
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1), result.output
        assert "w.parquet" in result.stderr
        assert "UTF" in result.stderr


def test_what_no_reader_foresaw_is_one_line(small: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("bandwidths")

    monkeypatch.setattr("kdbias.inspect", broken)
    result = run("inspect {data}", **small)
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert "KeyError ('bandwidths')" in result.stderr
    assert "data.parquet" in result.stderr
