"""Bad input gets one line with the offending values and the way out, status 2, and no traceback."""

import io
import os

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from kdbias.cli import main
from kdbias.tables.embedding_table import write_embedding_table

N, DIM = 24, 6


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((12, 12, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def run(*arguments: object):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def refused(result, *fragments: str) -> None:
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error")]
    assert len(lines) == 1, result.output
    assert "Traceback" not in result.output
    for fragment in fragments:
        assert fragment in result.stderr, result.stderr


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Images, an embedding table and a density folder on which every command would work."""
    root = tmp_path_factory.mktemp("work")
    ids = [f"s{i:02d}" for i in range(N)]
    frame = pd.DataFrame({"sample_id": ids, "label": [f"c{i % 3}" for i in range(N)]})
    frame["image"] = [png(10 * i) for i in range(N)]
    frame.to_parquet(root / "data.parquet")
    vectors = np.random.default_rng(0).normal(size=(N, DIM)).astype(np.float32)
    np.save(root / "vectors.npy", vectors)
    write_embedding_table(root / "emb", pa.array(ids), vectors, pa.array(frame.label.tolist()))
    write_embedding_table(root / "unlabelled", pa.array(ids), vectors)
    for name in ("emb", "unlabelled"):
        result = run("uniformity", root / name, "-o", root / f"{name}_density", "--k", 5, "--t", "2,5", "-q")
        assert result.exit_code == 0, result.output
    pd.DataFrame({"sample_id": ids, "weight": 1.0}).to_parquet(root / "weights.parquet")
    return root


def test_everything_works_before_it_is_broken(work, tmp_path):
    data, emb = work / "data.parquet", work / "emb"
    assert run("weights", work / "emb_density", "-o", tmp_path / "w.parquet", "-q").exit_code == 0
    arguments = ["--embeddings", emb, "--weights", tmp_path / "w.parquet", "--epochs", 1, "-q"]
    result = run("train", data, "-o", tmp_path / "run", *arguments)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("data", "arguments", "fragments"),
    [
        ("nowhere", [], ["nowhere"]),
        ("data.parquet", ["--teacher", "oracle:x"], ["oracle"]),
        ("data.parquet", ["--teacher", "run:demo/techer"], ["--teacher", "run:demo/techer", "no such"]),
        ("data.parquet", ["--teacher", "precomputed:techer.npy"], ["--teacher", "techer.npy: no such file"]),
        ("data.parquet", ["--label-column", "race"], ["race", "label"]),
        ("data.parquet", ["--where", "split=train"], ["split"]),
        ("data.parquet", ["--where", "label=c9"], ["c9"]),
        ("data.parquet", ["--teacher", "precomputed:{work}/vectors.npy"], ["--same-order"]),
        ("data.parquet", ["--device", "tpu"], ["tpu"]),
    ],
)
def test_embed(work, tmp_path, data, arguments, fragments):
    arguments = [a.format(work=work) for a in arguments]
    teacher = [] if "--teacher" in arguments else ["--teacher", "torchvision:resnet18@random"]
    refused(run("embed", work / data, "-o", tmp_path / "out", *teacher, *arguments), *fragments)


def test_embed_refuses_repeated_ids_missing_columns_wrong_counts_and_nan(work, tmp_path):
    frame = pd.read_parquet(work / "data.parquet")
    teacher = ["--teacher", f"precomputed:{work / 'vectors.npy'}", "--same-order"]
    pd.concat([frame, frame[:1]]).to_parquet(tmp_path / "twice.parquet")
    refused(run("embed", tmp_path / "twice.parquet", "-o", tmp_path / "o", *teacher), "s00")
    frame[["sample_id"]].to_parquet(tmp_path / "ids.parquet")
    refused(
        run("embed", tmp_path / "ids.parquet", "-o", tmp_path / "o", "--teacher", "torchvision:resnet18"),
        "image",
    )
    frame[:20].to_parquet(tmp_path / "short.parquet")
    refused(run("embed", tmp_path / "short.parquet", "-o", tmp_path / "o", *teacher), "20", "24")
    frame[:0].to_parquet(tmp_path / "empty.parquet")
    refused(run("embed", tmp_path / "empty.parquet", "-o", tmp_path / "o", *teacher), "empty.parquet")
    vectors = np.load(work / "vectors.npy")
    vectors[3] = np.nan
    np.save(tmp_path / "nan.npy", vectors)
    teacher = ["--teacher", f"precomputed:{tmp_path / 'nan.npy'}", "--same-order"]
    refused(run("embed", work / "data.parquet", "-o", tmp_path / "o", *teacher), "s03")


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (["--k", N], [f"--k {N}"]),
        (["--t", "warm"], ["warm"]),
        (["--t", "-1"], ["-1"]),
        (["--memory", "much"], ["much"]),
        (["--memory", "64MiB"], ["--memory 64MiB cannot be kept", "256MiB or more"]),
        (["--group-by", "race"], ["race"]),
        (["--weights", "{work}/data.parquet"], ["weight"]),
        (["--device", "cuda:9"], ["cuda:9"]),
    ],
)
def test_uniformity(work, tmp_path, arguments, fragments):
    arguments = [str(a).format(work=work) for a in arguments]
    refused(run("uniformity", work / "emb", "-o", tmp_path / "out", *arguments), *fragments)


@pytest.fixture(scope="module")
def references(work, tmp_path_factory):
    """Tables that no data of ``work`` can be compared with, each for a reason of its own."""
    root = tmp_path_factory.mktemp("references")
    ids, x = pa.array([f"r{i}" for i in range(N)]), np.random.default_rng(1).normal(size=(N, DIM))

    def made(name, ids=ids, x=x, teacher="aa", size=32, **more):
        config = {"teacher": "torchvision:resnet18", "preprocessing": {"size": size}}
        write_embedding_table(
            root / name, ids, x, config=config, inputs={"data": name, "teacher": teacher}, **more
        )

    made("data", pa.array([f"s{i}" for i in range(N)]), groups={"camera": ["left"] * N})
    made("good", groups={"camera": ["left", "right"] * (N // 2)})
    made("dimension", x=np.random.default_rng(1).normal(size=(N, DIM + 1)))
    made("teacher", teacher="bb")
    made("preprocessing", size=28)
    made("one", ids[:1], x[:1])
    made("identical", pa.array([f"s{i}" for i in range(N)]))
    (root / "empty").mkdir()
    command = ["uniformity", root / "data", "-o", root / "measured", "--towards", root / "good", "-q"]
    assert run(*command).exit_code == 0
    return root


@pytest.mark.parametrize(
    ("target", "fragments"),
    [
        ("{root}/dimension", ["7 and 6 dimensions"]),
        ("{root}/teacher", ["different teachers", "fingerprint bb"]),
        ("{root}/preprocessing", ["preprocessed differently", "size: 28 and 32"]),
        ("{root}/data", ["are the same table"]),
        ("{root}/identical", ["the same 24 samples"]),
        ("{root}/one", ["a single sample"]),
        ("{root}/empty", ["holds no embedding table"]),
        ("{root}/nowhere", ["nowhere"]),
        ("balanced:camera", ["the value 'left' alone"]),
        ("balanced:race", ["no column 'race'"]),
        ("balanced:", ["is no target"]),
        ("{root}/good --with race", ["'race'"]),
        ("{root}/good --with camera", ["the value 'left' alone"]),
        ("sphere --with camera", ["--with camera"]),
    ],
)
def test_targets(references, tmp_path, target, fragments):
    data, arguments = references / "data", target.format(root=references).split()
    refused(run("uniformity", data, "-o", tmp_path / "new", "--towards", *arguments), *fragments)
    assert not (tmp_path / "new").exists()
    before = (references / "measured" / "uniformity.json").read_bytes()
    refused(run("uniformity", data, "-o", references / "measured", "--towards", *arguments), *fragments)
    assert (references / "measured" / "uniformity.json").read_bytes() == before


def test_a_column_without_a_target(references, tmp_path):
    result = run("uniformity", references / "data", "-o", tmp_path / "o", "--with", "camera")
    refused(result, "--with camera", "--towards")


def test_uniformity_refuses_what_is_no_table_and_changed_options(work, tmp_path):
    refused(run("uniformity", work / "data.parquet", "-o", tmp_path / "o"), "not an embedding table")
    refused(run("uniformity", work / "emb", "-o", work / "emb_density", "--k", 4, "--t", "2,5"), "k: 5 -> 4")
    pd.DataFrame({"sample_id": ["s00", "zz"], "weight": [1.0, 1.0]}).to_parquet(tmp_path / "w.parquet")
    result = run("uniformity", work / "emb", "-o", tmp_path / "o", "--weights", tmp_path / "w.parquet")
    refused(result, "s01", "24", "2 ids")


def test_a_manifest_of_some_samples_is_told_how_to_be_measured(work, tmp_path):
    w = pd.read_parquet(work / "weights.parquet")
    w[w.sample_id != "s07"].to_parquet(tmp_path / "some.parquet")
    arguments = ["uniformity", work / "emb", "-o", tmp_path / "o", "--k", 5, "--t", 2, "--weights"]
    way_out = "keep all rows and give those that are not to be drawn the weight 0"
    refused(run(*arguments, tmp_path / "some.parquet"), "lacks 1 of the 24 samples", "('s07')", way_out)
    w.loc[w.sample_id == "s07", "weight"] = 0
    w.to_parquet(tmp_path / "zero.parquet")
    assert run(*arguments, tmp_path / "zero.parquet").exit_code == 0


@pytest.mark.parametrize(
    ("density", "arguments", "fragments"),
    [
        ("emb_density", ["--method", "magic"], ["magic", "equilibrium"]),
        ("emb_density", ["--min-ess", "1.5"], ["1.5"]),
        ("emb_density", ["--clip", "0.5"], ["0.5"]),
        ("emb_density", ["--mix", "2"], ["2"]),
        ("unlabelled_density", ["--method", "class-balanced"], ["label"]),
        ("emb", [], ["density.parquet"]),
        ("nowhere", [], ["nowhere"]),
    ],
)
def test_weights(work, tmp_path, density, arguments, fragments):
    refused(run("weights", work / density, "-o", tmp_path / "w.parquet", *arguments), *fragments)


@pytest.mark.parametrize(
    ("weights", "fragments"),
    [([1.0] * (N - 1) + [-2.0], ["-2", "s23"]), ([np.nan] + [1.0] * (N - 1), ["s00"]), ([0.0] * N, ["zero"])],
)
def test_train_refuses_weights_before_the_first_step(work, tmp_path, weights, fragments):
    frame = pd.read_parquet(work / "data.parquet", columns=["sample_id"])
    frame.assign(weight=weights).to_parquet(tmp_path / "w.parquet")
    arguments = ["--embeddings", work / "emb", "--weights", tmp_path / "w.parquet"]
    refused(run("train", work / "data.parquet", "-o", tmp_path / "run", *arguments), *fragments)
    assert not (tmp_path / "run" / "metrics.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        ([], ["embeddings"]),
        (["--loss", "hinge"], ["hinge"]),
        (["--loss", "softmax", "--where", "label=c1"], ["c1"]),
        (["--embeddings", "{work}/emb", "--student", "giant"], ["giant"]),
        (["--embeddings", "{work}/emb", "--config", "{work}/data.parquet"], ["data.parquet"]),
        (["--embeddings", "{work}/emb", "--epochs", "0"], ["epochs"]),
        (["--embeddings", "{work}/emb", "--resume"], ["--resume"]),
    ],
)
def test_train(work, tmp_path, arguments, fragments):
    arguments = [str(a).format(work=work) for a in arguments]
    refused(run("train", work / "data.parquet", "-o", tmp_path / "run", *arguments), *fragments)


def test_train_names_unknown_keys_and_uncovered_ids(work, tmp_path):
    (tmp_path / "c.toml").write_text("epocs = 3\n")
    arguments = ["--embeddings", work / "emb", "--config", tmp_path / "c.toml"]
    refused(run("train", work / "data.parquet", "-o", tmp_path / "run", *arguments), "epocs")
    frame = pd.read_parquet(work / "data.parquet")
    frame.assign(sample_id=[f"x{i}" for i in range(N)]).to_parquet(tmp_path / "other.parquet")
    refused(
        run("train", tmp_path / "other.parquet", "-o", tmp_path / "run", "--embeddings", work / "emb"), "x0"
    )


def test_evaluate_report_and_inspect(work, tmp_path):
    refused(run("evaluate", work / "emb", "-o", tmp_path / "o", "--protocol", "taste"), "taste", "knn")
    refused(run("evaluate", work / "emb", "-o", tmp_path / "o", "--protocol", "fidelity"), "reference")
    refused(run("report", work / "vectors.npy", "-o", tmp_path / "r.html"), "vectors.npy")
    refused(run("inspect", work / "nowhere"), "nowhere")


def test_unreadable_images_are_listed_and_the_rest_is_kept(work, tmp_path):
    frame = pd.read_parquet(work / "data.parquet")
    images = frame.image.tolist()
    images[1], images[2], images[5] = b"", images[2][:40], b"not an image"
    frame.assign(image=images).to_parquet(tmp_path / "data.parquet")
    arguments = ["--teacher", "torchvision:resnet18@random", "--workers", 0, "--batch-size", 8]
    result = run("embed", tmp_path / "data.parquet", "-o", tmp_path / "out", *arguments)
    assert result.exit_code == 0, result.output
    failures = pd.read_parquet(tmp_path / "out" / "failures.parquet")
    assert failures.sample_id.tolist() == ["s01", "s02", "s05"]
    assert failures.reason.str.len().min() > 0
    assert pq.read_table(tmp_path / "out" / "part-00000.parquet").num_rows == N - 3
    frame.assign(image=b"junk").to_parquet(tmp_path / "junk.parquet")
    refused(run("embed", tmp_path / "junk.parquet", "-o", tmp_path / "none", *arguments), str(N))


def test_a_manifest_is_parquet_and_its_precision_is_part_of_it(work, tmp_path):
    refused(run("weights", work / "emb_density", "-o", tmp_path / "w.csv"), "w.parquet")
    assert (
        run("weights", work / "emb_density", "-o", tmp_path / "w.parquet", "--tolerance", 0.1).exit_code == 0
    )
    again = run("weights", work / "emb_density", "-o", tmp_path / "w.parquet", "--tolerance", 1e-6)
    refused(again, "tolerance: 0.1 -> 1e-06")


def test_two_manifests_of_one_name_are_two_schemes(work, tmp_path):
    out = tmp_path / "density"
    for folder, method in {"a": "inverse-density", "b": "knn-distance"}.items():
        (tmp_path / folder).mkdir()
        w = tmp_path / folder / "w.parquet"
        assert run("weights", work / "emb_density", "-o", w, "--method", method).exit_code == 0
    arguments = ["uniformity", work / "emb", "-o", out, "--k", 5, "--t", "2", "--weights"]
    assert run(*arguments, tmp_path / "a" / "w.parquet").exit_code == 0
    refused(run(*arguments, tmp_path / "b" / "w.parquet"), "scheme 'w'", "rename")


def test_an_output_that_cannot_be_written_is_named_with_the_way_out(work, tmp_path):
    blocker = tmp_path / "blocker"
    blocker.write_text("mine")
    emb, density = work / "emb", work / "emb_density"
    commands = {
        blocker / "w.parquet": ["weights", density],
        blocker / "frontier": ["weights", density, "--frontier"],
        blocker / "d": ["uniformity", emb, "--k", 5],
        blocker / "r.html": ["report", density, "--pictures", 0],
        blocker / "ev": ["evaluate", emb, "--protocol", "knn"],
        blocker / "run": ["train", work / "data.parquet", "--embeddings", emb],
        blocker / "c": ["changes", work / "weights.parquet"],
    }
    for target, arguments in commands.items():
        result = run(*arguments, "-o", target, "-q")
        assert result.exit_code == 1, (arguments, result.output)
        (line,) = result.stderr.splitlines()
        assert line.startswith(f"Error: cannot write to {target}"), line
        assert line.endswith("mend that and run the same command again, or choose another -o")
        assert "kdbias-tmp" not in line
    assert blocker.read_text() == "mine"


def test_an_input_that_cannot_be_read_is_not_called_an_output(work, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise PermissionError(13, "Permission denied", str(work / "emb"))

    monkeypatch.setattr("kdbias.uniformity", broken)
    result = run("uniformity", work / "emb", "-o", tmp_path / "d")
    assert result.exit_code == 1
    assert result.stderr == f"Error: Permission denied ({work / 'emb'})\n"


def test_changes_says_that_its_output_is_a_folder(work, tmp_path):
    (tmp_path / "story.html").write_text("mine")
    result = run("changes", work / "weights.parquet", "-o", tmp_path / "story.html")
    refused(result, "story.html is a file", "groups.csv")


@pytest.mark.parametrize("folder", ["emb_density", "emb"])
def test_a_folder_is_no_manifest(work, tmp_path, folder):
    way_out = f"kdbias weights {work / folder} -o weights.parquet" if folder == "emb_density" else ".csv"
    arguments = ["train", work / "data.parquet", "-o", tmp_path / "run", "--embeddings", work / "emb"]
    refused(run(*arguments, "--weights", work / folder), str(work / folder), way_out)
    refused(run("changes", work / folder), way_out)


def test_a_mistyped_command_is_told_the_nearest():
    result = run("embd", "photos")
    assert result.exit_code == 2
    assert "No such command 'embd'; did you mean 'embed'?" in result.stderr
    assert "you mean" not in run("zzz").stderr


def test_debug_shows_the_traceback(work):
    result = run("inspect", work / "nowhere", "--debug")
    assert result.exception is not None
    assert "nowhere" in str(result.exception)


@pytest.mark.parametrize(
    "arguments",
    [
        ["uniformity", "", "-o", "{out}"],
        ["train", "{work}/data.parquet", "-o", "{out}", "--embeddings", ""],
        ["weights", "{work}/emb_density", "-o", ""],
    ],
)
def test_an_empty_text_is_refused(work, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    refused(run(*(a.format(work=work, out=tmp_path / "out") for a in arguments)), "is empty", "variable")
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_is_not_utf8_is_refused(work, tmp_path):
    odd = os.fsdecode(b"bad\xff")
    teacher = ["--teacher", f"precomputed:{work / 'vectors.npy'}", "--same-order"]
    refused(run("embed", work / "data.parquet", "-o", tmp_path / odd, *teacher), r"bad\xff", "not UTF-8")
    refused(run("report", work / odd, "-o", tmp_path / "r.html"), r"bad\xff", "not UTF-8")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_place_of_a_file(work, tmp_path):
    arguments = ["train", work / "data.parquet", "-o", tmp_path / "run", "--embeddings", work / "emb"]
    refused(run(*arguments, "--config", work / "emb"), "emb is a folder")
    refused(run("study", work / "emb", "-o", tmp_path / "study"), "emb is a folder")


def test_a_comparison_replaces_nothing_but_a_comparison(work, tmp_path):
    for seed in (0, 1):
        arguments = ["evaluate", work / "emb", "-o", tmp_path / f"{seed}", "--bootstrap", 100, "--seed", seed]
        assert run(*arguments).exit_code == 0
    precious = tmp_path / "w.parquet"
    precious.write_bytes((work / "weights.parquet").read_bytes())
    arguments = ["compare", tmp_path / "0", "--to", tmp_path / "1", "--bootstrap", 100, "-o"]
    refused(run(*arguments, precious), "w.parquet exists and is no comparison", "another -o")
    refused(run(*arguments, tmp_path / "0" / "metrics.json"), "metrics.json exists and is no comparison")
    refused(run(*arguments, tmp_path / "0"), "is a folder")
    assert precious.read_bytes() == (work / "weights.parquet").read_bytes()
    for _ in range(2):
        assert run(*arguments, tmp_path / "difference.json").exit_code == 0


def test_a_list_of_pairs_that_is_no_text(work, tmp_path):
    arguments = ["evaluate", work / "emb", "-o", tmp_path / "o", "--protocol", "verification", "--pairs"]
    refused(run(*arguments, work / "vectors.npy"), "vectors.npy: not a list of pairs")
