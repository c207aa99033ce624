"""Every stage with all it reads and writes on a store, against the same on a disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

import kdbias
from kdbias.cli import main
from kdbias.data.access import read_at
from kdbias.data.decode import UnreadableImage
from kdbias.errors import KdbiasError, MachineError
from kdbias.scratch import recorded
from kdbias.tables import listing, parted_table, stores
from kdbias.tables.mirrors import local_path
from kdbias.tables.parquet_file import read_table
from kdbias.tables.weight_manifest import read_manifest, write_manifest

_OF_TIME = ("created", "seconds", "started", "finished", "digest", "timings", "images_per_second")


@pytest.fixture
def inputs(bucket, tmp_path) -> dict[str, str]:
    """A list of 90 samples in crowds and their vectors: in a folder, and the same on the store."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, 8))
    x = (centres[np.arange(90) % 3] + 0.3 * rng.normal(size=(90, 8))).astype(np.float32)
    rows = [f"s{i:03},{'abc'[i % 3]},{'xy'[i % 2]}" for i in range(90)]
    files = {"d.csv": "\n".join(["sample_id,label,group", *rows]).encode()}
    np.save(tmp_path / "x.npy", x)
    files["x.npy"] = (tmp_path / "x.npy").read_bytes()
    for name, content in files.items():
        (tmp_path / "disk").mkdir(exist_ok=True)
        (tmp_path / "disk" / name).write_bytes(content)
        bucket.write(f"in/{name}", content)
    return {"disk": str(tmp_path / "disk"), "store": bucket.uri("in")}


def stages(root: str) -> str:
    """All of them; what they say that is not of time or place."""
    kdbias.embed(f"{root}/d.csv", f"{root}/emb", teacher=f"precomputed:{root}/x.npy", same_order=True)
    kdbias.uniformity(f"{root}/emb", f"{root}/density", k=8, group_by=["group"], keep_neighbors=True)
    said = [kdbias.weights(f"{root}/density", f"{root}/w.parquet", method="equilibrium")]
    said += [kdbias.uniformity(f"{root}/emb", f"{root}/density", k=8, weights=[f"{root}/w.parquet"])]
    said += [kdbias.frontier(f"{root}/density", f"{root}/frontier")]
    said += [kdbias.suspects(f"{root}/density", f"{root}/suspects.csv")]
    changes = kdbias.what_changed(f"{root}/w.parquet")
    changes.write(f"{root}/changes")
    said += [changes, kdbias.advise(f"{root}/density")]
    said += [kdbias.evaluate(f"{root}/emb", f"{root}/score", protocol="fidelity", reference=f"{root}/emb")]
    said += [kdbias.report([f"{root}/density", f"{root}/score"], f"{root}/page.html")]
    assert str(kdbias.inspect(f"{root}/w.parquet")).startswith(f"{root}/w.parquet: weight manifest")
    said += [kdbias.EmbeddingTable.open(f"{root}/emb")]
    return "\n".join(map(str, said))


def plain(value: object) -> object:
    """A document without times."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items() if key not in _OF_TIME}
    return [plain(each) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize("rows", [None, 20])
def test_every_stage_gives_the_same_on_a_store(bucket, inputs, rows, monkeypatch):
    if rows is not None:  # tables in parts
        monkeypatch.setattr(listing, "FILE_ROWS", rows)
    told = {where: stages(root).replace(root, "ROOT") for where, root in inputs.items()}
    assert [line for line in told["disk"].splitlines() if " s" not in line] == [
        line for line in told["store"].splitlines() if " s" not in line
    ]
    disk = Path(inputs["disk"])
    names = sorted(str(file.relative_to(disk)) for file in disk.rglob("*") if file.is_file())
    assert bucket.names("in") == names
    for name in names:
        content = bucket.read(f"in/{name}")
        assert os.environ["KDBIAS_SCRATCH"].encode() not in content, name
        if name.endswith((".json", ".csv")):
            on_disk = (disk / name).read_text().replace(str(disk), inputs["store"])
            if name.endswith(".json"):
                assert plain(json.loads(content)) == plain(json.loads(on_disk)), name
            else:
                assert content.decode() == on_disk
    weights = [read_manifest(f"{root}/w.parquet").weights for root in inputs.values()]
    assert np.array_equal(*weights)


def test_the_same_call_on_another_machine_finds_its_work_done(bucket, inputs, monkeypatch, tmp_path, capsys):
    root = inputs["store"]
    call = [f"{root}/d.csv", f"{root}/emb"]
    options = {"teacher": f"precomputed:{root}/x.npy", "same_order": True}
    kdbias.embed(*call, **options)
    kdbias.uniformity(f"{root}/emb", f"{root}/density", k=8)
    monkeypatch.setenv("KDBIAS_SCRATCH", str(tmp_path / "another machine"))
    assert kdbias.embed(*call, **options).state == "already finished"
    capsys.readouterr()
    assert kdbias.uniformity(f"{root}/emb", f"{root}/density", k=8).state == "finished"
    assert f"{root}/density is finished already" in capsys.readouterr().err
    for name in bucket.names("in/emb"):
        if name != "run.json":
            bucket.files.delete_file(f"{bucket.name}/in/emb/{name}")
    with pytest.raises(KdbiasError, match=f"^{root}/emb holds no embeddings"):
        kdbias.uniformity(f"{root}/emb", f"{root}/density2", k=8)


def test_the_whole_demo_on_a_store(bucket, tmp_path):
    kdbias.demo(tmp_path / "demo", quick=True, seeds=1)
    result = kdbias.demo(bucket.uri("demo"), quick=True, seeds=1)
    results = (tmp_path / "demo" / "results.parquet", local_path(bucket.uri("demo/results.parquet")))
    on_disk, on_store = (read_table(file).to_pylist() for file in results)
    assert on_disk == on_store
    disk = tmp_path / "demo"
    names = sorted(str(file.relative_to(disk)) for file in disk.rglob("*") if file.is_file())
    assert bucket.names("demo") == names
    assert not [
        name for name in names if os.environ["KDBIAS_SCRATCH"].encode() in bucket.read(f"demo/{name}")
    ]
    assert os.environ["KDBIAS_SCRATCH"] not in result.summary()
    assert kdbias.demo(bucket.uri("demo"), quick=True, seeds=1).document == recorded(result.document)


def run(*words: str):
    return CliRunner().invoke(main, list(words))


def refused(result, status: int, *fragments: str) -> None:
    assert result.exit_code == status, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error")]
    for fragment in fragments:
        assert fragment in line, line


@pytest.mark.parametrize(
    ("words", "fragments"),
    [
        (
            "embed {}/none.csv -o {}/o --teacher precomputed:{}/x.npy",
            ("{}/none.csv: no such file or folder",),
        ),
        ("embed {}/none -o {}/o --teacher precomputed:{}/x.npy", ("{}/none: no such file or folder",)),
        ("embed {}/none.parquet -o {}/o --teacher precomputed:{}/x.npy", ("{}/none.parquet: no such file",)),
        ("embed {}/d.csv -o {}/o --teacher precomputed:{}/no.npy", ("precomputed:{}/no.npy: no such file",)),
        ("embed {}/d.csv -o {}/o --teacher run:{}/no", ("run:{}/no: no such file or folder",)),
        ("embed {}/d.csv -o {}/o --teacher onnx:{}/no.onnx", ("{}/no.onnx",)),
        ("uniformity {}/no -o {}/o", ("{}/no is not an embedding table",)),
        ("uniformity s3://no-bucket/emb -o {}/o", ("s3://no-bucket/emb: there is no such bucket",)),
        ("weights {}/no -o {}/w.parquet", ("{}/no: no such file or folder",)),
        (
            "weights {}/d.csv -o s3://no-bucket/w.parquet",
            ("s3://no-bucket/w.parquet: there is no such bucket",),
        ),
        ("changes {}/no.parquet", ("{}/no.parquet: no such file",)),
        ("suspects {}/no", ("{}/no",)),
        ("report {}/no -o {}/r.html", ("{}/no: no such file or folder",)),
        ("inspect {}/no", ("{}/no: no such file or folder",)),
        ("study {}/no.toml -o {}/o", ("{}/no.toml: no such file",)),
        ("compare {}/no --to {}/no", ("{}/no",)),
        (
            "embed {}/d.csv -o https://h/o --same-order --teacher precomputed:{}/x.npy",
            ("https://h/o cannot be written to",),
        ),
        (
            "embed {}/d.csv -o nosuch://h/o --teacher precomputed:{}/x.npy",
            ("nosuch://h: cannot reach this store",),
        ),
    ],
)
def test_what_is_not_there_is_one_line_with_its_uri(bucket, inputs, words, fragments):
    root = inputs["store"]
    result = run(*words.replace("{}", root).split())
    refused(result, 2, *(fragment.replace("{}", root) for fragment in fragments))
    assert bucket.names("in") == ["d.csv", "x.npy"]


def test_wrong_keys_and_endpoints_are_one_line_and_soon(bucket, inputs, monkeypatch):
    from moto import settings
    from moto.core.responses import ActionAuthenticatorMixin

    root = inputs["store"]
    monkeypatch.setattr(settings, "INITIAL_NO_AUTH_ACTION_COUNT", 0)
    monkeypatch.setattr(ActionAuthenticatorMixin, "request_count", 0)
    for words in (("uniformity", f"{root}/emb", "-o", f"{root}/o"), ("inspect", f"{root}/d.csv")):
        refused(run(*words), 2, f"{root}/", "the store refuses access", "AWS_ACCESS_KEY_ID")
    with pytest.raises(UnreadableImage, match="refuses access"):
        read_at(root, "a.png")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    stores._connect.cache_clear()
    refused(
        run("inspect", f"{root}/d.csv"), 1, f"{root}/d.csv: the store cannot be reached", "AWS_ENDPOINT_URL"
    )
    with pytest.raises(MachineError, match="cannot be reached"):
        read_at(root, "a.png")  # which says nothing of the image


def test_a_uri_may_name_its_endpoint(bucket, inputs, address, monkeypatch):
    options = f"?endpoint_override={address}&scheme=http"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    stores._connect.cache_clear()
    out, teacher = bucket.uri(f"o{options}"), bucket.uri(f"in/x.npy{options}")
    kdbias.embed(bucket.uri(f"in/d.csv{options}"), out, teacher=f"precomputed:{teacher}", same_order=True)
    kdbias.uniformity(out, bucket.uri(f"density{options}"), k=8)
    assert json.loads(bucket.read("o/run.json"))["data"] == bucket.uri(f"in/d.csv{options}")
    # The measurement remembers its table with all that leads to it.
    kdbias.weights(bucket.uri(f"density{options}"), bucket.uri(f"w.parquet{options}"), method="equilibrium")
    assert "w.parquet" in bucket.names()


def test_a_description_and_its_data_lie_together(bucket, inputs):
    bucket.write("in/d.toml", b'name = "d"\nsource = "d.csv"\n[expect]\nsamples = 90\n')
    source = kdbias.open_data(f"{inputs['store']}/d.toml", images=False)
    assert source.n == 90


def test_a_manifest_in_parts_cut_short_while_it_is_replaced_says_so(bucket, monkeypatch, tmp_path):
    """In a store, where nothing is renamed, also to those who read it elsewhere."""
    monkeypatch.setattr(listing, "FILE_ROWS", 10)
    ids, real, calls = pa.array([f"s{i}" for i in range(23)]), parted_table.parquet_writer, iter(range(9))

    def write(weights):
        path = local_path(bucket.uri("w"))
        write_manifest(path, ids, None, {}, np.zeros(23), weights, {"stage": "weights"}, [10, 10, 3])

    def killed(*given, **more):
        if next(calls) == 2:
            raise KeyboardInterrupt
        return real(*given, **more)

    write(np.ones(23))
    with monkeypatch.context() as patch:
        patch.setattr(parted_table, "parquet_writer", killed)
        with pytest.raises(KeyboardInterrupt):
            write(np.arange(23.0))
    monkeypatch.setenv("KDBIAS_SCRATCH", str(tmp_path / "another machine"))
    with pytest.raises(KdbiasError, match="holds 2 of the 3 parts that were to be written: run the command"):
        read_manifest(bucket.uri("w"))
    write(np.arange(23.0))
    assert read_manifest(bucket.uri("w")).weights[0] == 0
    assert bucket.names() == [f"w/{name}" for name in (listing.LISTING, *map(listing.part_name, range(3)))]


_DIES = """
import os, sys
import kdbias
left, replace = int(sys.argv[3]), os.replace

def counted(*args, **kwargs):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), 9)
    replace(*args, **kwargs)

os.replace = counted
kdbias.weights(*sys.argv[1:3], method="equilibrium", block_rows=1024, threads=1)
"""


def test_weights_in_blocks_go_on_from_a_store_wherever_they_died(bucket, tmp_path):
    """Each time on another machine, which has nothing of what was done but the store."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2500, 6)) + 3 * rng.normal(size=(5, 6))[np.arange(2500) % 5]
    for root in (str(tmp_path / "disk"), bucket.uri("in")):
        kdbias.write_embedding_table(f"{root}/emb", [f"s{i}" for i in range(2500)], x)
        kdbias.uniformity(f"{root}/emb", f"{root}/density", k=4, t=(2.0,), rectification="none", threads=1)
    how = {"method": "equilibrium", "block_rows": 1024, "threads": 1}
    kdbias.weights(f"{tmp_path}/disk/density", f"{tmp_path}/disk/w.parquet", **how)
    units, status, root = [], -9, bucket.uri("in")
    for machine in range(20):
        scratch = {"KDBIAS_SCRATCH": str(tmp_path / f"machine {machine}")}
        call = [sys.executable, "-c", _DIES, f"{root}/density", f"{root}/w.parquet", str(12 + 8 * machine)]
        status = subprocess.run(call, env=os.environ | scratch, capture_output=True).returncode
        if status != -9:
            break
        units.append({name for name in bucket.names("in/w.parquet.pairs") if name.endswith(".npz")})
    assert status == 0
    assert len(units) >= 2
    assert units[1] - units[0]
    assert not [name for name in bucket.names("in") if ".pairs" in name]
    found = [read_manifest(f"{root}/w.parquet").weights for root in (f"{tmp_path}/disk", root)]
    assert np.array_equal(*found)


def test_units_of_several_processes_share_a_scratch_folder(bucket, inputs, monkeypatch, tmp_path):
    root = inputs["store"]
    alone = kdbias.embed(f"{root}/d.csv", f"{root}/emb", teacher=f"precomputed:{root}/x.npy", same_order=True)
    kdbias.uniformity(f"{root}/emb", f"{root}/density", k=8)
    words = [f"{root}/d.csv", "-o", f"{root}/emb2", "--teacher", f"precomputed:{root}/x.npy", "--same-order"]
    words += ["--rows-per-part", "40"]
    commands = [["embed", *words], ["uniformity", f"{root}/emb", "-o", f"{root}/density2", "--k", "8"]]
    for command in commands:
        environment = [os.environ | {"RANK": str(rank), "WORLD_SIZE": "2"} for rank in range(2)]
        call = [sys.executable, "-m", "kdbias.cli", *command, "--engine", "ranks"]
        processes = [
            subprocess.Popen(call, env=each, stderr=subprocess.PIPE, text=True) for each in environment
        ]
        assert [(each.wait(), each.stderr.read())[0] for each in processes] == [0, 0]
    both = [kdbias.EmbeddingTable.open(f"{root}/{name}") for name in ("emb", "emb2")]
    assert np.array_equal(both[0].vectors(), both[1].vectors())
    assert alone.samples == both[1].n
    density = [
        kdbias.read_density(f"{root}/{name}").numbers("log_density") for name in ("density", "density2")
    ]
    np.testing.assert_allclose(*density, rtol=1e-12)
    monkeypatch.delenv("KDBIAS_SCRATCH")
    result = run("uniformity", f"{root}/emb", "-o", f"{root}/density3", "--k", "8", "--engine", "ray")
    refused(result, 2, "set KDBIAS_SCRATCH")
