"""All stages at once: the same files as by separate commands, resumed, refused, made again."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import kdbias
from kdbias.advice import evidence
from kdbias.cli import main
from kdbias.errors import ConfigChangedError, KdbiasError
from kdbias.measurement.files import read_uniformity
from tests.cli.test_interrupt import SLOW

TEACHER = "python:tests.pinned.teacher:factory"
STAGES = ["embed", "embed", "uniformity", "weights", "uniformity", "report"]
OPTIONS = {"teacher": TEACHER, "workers": 0, "device": "cpu", "threads": 1, "pictures": 0}


def pictures(folder: Path, count: int, bright: float, seed: int, name: str = "IMG") -> None:
    """Images of noise, brighter or darker on average."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for i in range(count):
        pixels = rng.normal(bright, 60, (12, 12)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}_{i:04d}.png")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """60 dark and 12 bright photographs, a deployment of as many of both, and a run of them."""
    root = tmp_path_factory.mktemp("made")
    pictures(root / "photos" / "dark", 60, 80, 0)
    pictures(root / "photos" / "bright", 12, 180, 1)
    pictures(root / "deployed" / "a", 40, 80, 2)
    pictures(root / "deployed" / "b", 40, 180, 3)
    (root / "photos" / "dark" / "broken.png").write_bytes(b"no image")
    here = os.getcwd()
    os.chdir(root)
    try:
        words = shlex.join(["run", "photos", "-o", "out", "--teacher", TEACHER, "--towards", "deployed"])
        result = CliRunner().invoke(main, [*shlex.split(words), "--workers", "0", "--device", "cpu"])
    finally:
        os.chdir(here)
    assert result.exit_code == 0, result.output
    return root, result


@pytest.fixture
def there(made, monkeypatch):
    monkeypatch.chdir(made[0])
    return made[0]


def files(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def commands(result) -> list[str]:
    return re.findall(r"^  \$ (kdbias .*)$", result.stderr, re.MULTILINE)


def test_it_ends_with_the_verdict_and_what_to_type(made):
    _, result = made
    lines = result.stdout.splitlines()
    assert lines[0].startswith(
        "verdict    rectify: your data differ from out/reference (of deployed, p = 0.001, 80 samples)"
    )
    assert any("72 samples (1 image could not be read: out/embeddings/failures.parquet)" in x for x in lines)
    assert lines[-1].split() == ["page", "out/report.html", "opens", "in", "any", "browser"]
    train = "kdbias train photos -o student --embeddings out/embeddings --weights out/weights.parquet"
    assert lines[-3].endswith(train)
    assert lines[-2].endswith("kdbias.ManifestSampler.from_manifest('out/weights.parquet', dataset)")


@pytest.mark.parametrize(("bright", "said"), [(120, None), (95, "darker"), (150, "brighter")])
def test_images_of_another_light_than_all_of_the_data_are_told(tmp_path, bright, said):
    pictures(tmp_path / "photos", 120, 120, 0)
    pictures(tmp_path / "deployed", 40, bright, 1, "D")
    for name in ("photos", "deployed"):
        kdbias.embed(tmp_path / name, tmp_path / f"emb-{name}", teacher=TEACHER, workers=0, device="cpu")
    advice = kdbias.advise(tmp_path / "emb-photos", towards=tmp_path / "emb-deployed", threads=1)
    told = [fact.text for fact in advice.facts if "of its images are" in fact.text]
    if said is None:
        assert told == []
    else:
        assert f"100.0 % of its images are {said} than 99 % of the data's: weights choose" in told[0]


def test_its_commands_make_the_same_files_one_by_one(made, there):
    printed = commands(made[1])
    assert [line.split()[1] for line in printed] == STAGES
    for line in printed:
        done = CliRunner().invoke(main, shlex.split(line.replace("out/", "apart/"))[1:])
        assert done.exit_code == 0, done.output
    for name in ("embeddings", "reference"):
        ours, theirs = (kdbias.EmbeddingTable.open(there / out / name) for out in ("out", "apart"))
        assert ours.fingerprint == theirs.fingerprint
    ours, theirs = (kdbias.read_density(there / out / "density").table for out in ("out", "apart"))
    assert ours.equals(theirs)
    ours, theirs = (read_uniformity(there / out / "density") for out in ("out", "apart"))
    natural, weighted = ours["schemes"]
    assert (natural["name"], weighted["name"]) == ("natural", "weights")
    assert [scheme["bandwidths"] for scheme in theirs["schemes"]] == [
        scheme["bandwidths"] for scheme in ours["schemes"]
    ]
    ours, theirs = (kdbias.read_manifest(there / out / "weights.parquet") for out in ("out", "apart"))
    assert np.array_equal(ours.weights, theirs.weights)
    assert (there / "apart" / "report.html").is_file()


def test_the_same_call_again_does_nothing(there, capsys):
    before = files(there / "out")
    result = kdbias.run("photos", "out", teacher=TEACHER, towards="deployed", workers=0, device="cpu")
    after = files(there / "out")
    assert {p: t for p, t in before.items() if not p.endswith("out/run.json")} == {
        p: t for p, t in after.items() if not p.endswith("out/run.json")
    }
    said = capsys.readouterr().err
    assert said.count("is finished already; nothing to do") == 6
    assert result.advice.choice == "matched"
    assert result.reference == Path("out/reference")


def test_other_options_are_refused_and_made_again_when_asked(there, capsys):
    kdbias.run("photos", "other", **OPTIONS)
    embeddings, density = files(there / "other" / "embeddings"), files(there / "other" / "density")
    given = {**OPTIONS, "towards": "deployed"}
    with pytest.raises(
        ConfigChangedError, match=r"method: '[a-z-]+' -> 'matched'.*--overwrite makes again only"
    ):
        kdbias.run("photos", "other", **given)
    result = kdbias.run("photos", "other", overwrite=True, **given)
    assert result.advice.choice == "matched"
    assert files(there / "other" / "embeddings") == embeddings
    with pytest.raises(ConfigChangedError, match="store: 'float16' -> 'float32'"):
        kdbias.run("photos", "other", store="float32", **given)
    kdbias.run("photos", "other", store="float32", overwrite=True, **given)
    assert files(there / "other" / "embeddings") != embeddings
    assert files(there / "other" / "density") != density
    assert "other/embeddings was made differently: made again" in capsys.readouterr().err
    table = kdbias.EmbeddingTable.open("other/embeddings")
    assert table.provenance["config"]["store"] == "float32"
    assert kdbias.read_density("other/density").provenance["inputs"]["embeddings"] == table.fingerprint
    measured = read_uniformity(there / "other" / "density")["schemes"][1]
    assert measured["fingerprint"] == kdbias.read_manifest("other/weights.parquet").fingerprint


@pytest.mark.parametrize("first", [{}, {"towards": "deployed"}])
def test_another_target_is_refused_before_anything_is_changed(there, first):
    out = f"kept-{len(first)}"
    kdbias.run("photos", out, **OPTIONS | first)
    before = {path: at for path, at in files(there / out).items() if path != str(there / out / "run.json")}
    with pytest.raises(ConfigChangedError, match=r"weights.parquet was made differently .*--overwrite makes"):
        kdbias.run("photos", out, towards="balanced:label", **OPTIONS)
    after = files(there / out)
    assert {path: at for path, at in after.items() if path != str(there / out / "run.json")} == before
    kdbias.run("photos", out, **OPTIONS | first)


def test_without_a_target_it_asks_for_one(there):
    result = kdbias.run("photos", "plain", **OPTIONS)
    assert result.advice.choice == "unknown"
    assert result.reference is None
    again = (
        f"kdbias run photos -o plain --teacher {TEACHER} --workers 0 --device cpu --threads 1 --pictures 0"
    )
    command = result.advice.commands[0].partition("   #")[0]
    assert set(shlex.split(again)) | {"--towards", "DEPLOYED/", "--overwrite"} == set(shlex.split(command))


def test_a_table_serves_as_reference_as_it_is(there):
    result = kdbias.run("photos", "table", towards="out/reference", **OPTIONS)
    assert result.reference is None
    assert not (there / "table" / "reference").exists()
    assert result.advice.choice == "matched"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"towards": "deploid"}, "--towards: deploid: no such file or folder; did you mean 'deployed'"),
        ({"towards": "out/density"}, "holds no embedding table"),
        ({"towards": "balanced:labe"}, "photos has no column 'labe'; it has: label; did you mean 'label'"),
        ({"group_by": ["race"]}, "photos has no column 'race'"),
        ({"memory": "much"}, "'much' is not an amount of memory"),
        ({"teacher": "precomputed:x.npy", "towards": "deployed"}, "embeds none: name the embedding table"),
        ({"with_column": "label"}, "name one with --towards"),
        ({"teacher": "oracle:x"}, "oracle"),
    ],
)
def test_what_later_stages_would_refuse_is_refused_first(there, given, said):
    with pytest.raises(KdbiasError, match=re.escape(said) if "'" in said else said):
        kdbias.run("photos", "refused", **{**OPTIONS, **given})
    assert not (there / "refused").exists()


@pytest.fixture(scope="module")
def awry(made):
    """Files that a target may wrongly be named with."""
    root = made[0]
    (root / "shares.csv").write_text("label,share\nbright,0.5\ndusk,0.5\n")
    (root / "note.txt").write_text("no data")
    pictures(root / "lone", 1, 80, 4)
    (root / "few.csv").write_text(
        "path,camera\n" + "".join(f"deployed/a/IMG_{i:04d}.png,left\n" for i in range(40))
    )
    ids = kdbias.EmbeddingTable.open(root / "out" / "embeddings").ids()
    kdbias.write_embedding_table(root / "seven", ids, np.eye(len(ids), 7) + 1)
    return root


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"towards": "photos"}, "--towards photos are the data themselves"),
        ({"towards": "./photos/"}, "--towards ./photos/ are the data themselves"),
        ({"towards": "deployed/../photos"}, "are the data themselves"),
        ({"towards": "note.txt"}, "not a kind of data kdbias reads"),
        ({"towards": "note.txt/x"}, "no such file"),
        ({"towards": "lone"}, "the reference lone has a single sample"),
        ({"towards": "deployed@absent.parquet"}, "absent.parquet"),
        ({"towards": "deployed@note.txt"}, "note.txt"),
        ({"towards": "deployed@out/weights.parquet"}, r"reference deployed.*out/weights.parquet"),
        ({"towards": "out/reference@absent.csv"}, "absent.csv"),
        ({"towards": "out/reference@out/weights.parquet"}, r"reference out/reference.*out/weights.parquet"),
        ({"towards": "seven"}, "have 7 and .* dimensions"),
        ({"towards": "balanced:label@absent.csv"}, "absent.csv: no such file"),
        ({"towards": "balanced:label@note.txt"}, "note.txt"),
        ({"towards": "balanced:label@shares.csv"}, "shares for 'dusk', which no sample of photos has"),
        ({"towards": "deployed", "with_column": "camera"}, "the reference deployed has no column 'camera'"),
        ({"towards": "few.csv", "with_column": "camera"}, "photos has no column 'camera'; it has: label"),
        ({"towards": "few.csv", "with_column": "label"}, "few.csv has no value in column 'label'"),
        ({"towards": "deployed", "cluster_by": "scene"}, "deployed has no column 'scene' to cluster by"),
        ({"towards": "few.csv", "cluster_by": "camera"}, "few.csv has a single value in column 'camera'"),
        ({"towards": "out/reference", "cluster_by": "scene"}, "no column 'scene' to cluster by"),
    ],
)
def test_targets_that_later_stages_would_refuse_are_refused_before_anything_is_embedded(
    awry, monkeypatch, given, said
):
    monkeypatch.chdir(awry)
    with pytest.raises(KdbiasError, match=said) as refused:
        kdbias.run("photos", "refused", **OPTIONS | given)
    assert "\n" not in str(refused.value)
    assert not (awry / "refused").exists()


@pytest.mark.parametrize("given", [{"towards": "deployed"}, {"towards": "out/reference"}, {}])
def test_data_that_are_not_there_are_refused_before_anything_is_opened(there, monkeypatch, given):
    monkeypatch.setattr("kdbias.embedding.inputs.open_network", lambda *_: pytest.fail("opened the teacher"))
    with pytest.raises(KdbiasError, match="fotos: no such file or folder; did you mean 'photos'"):
        kdbias.run("fotos", "refused", **OPTIONS | given)
    assert not (there / "refused").exists()


def test_a_reference_by_another_teacher_is_refused_before_anything_is_embedded(there):
    (there / "mine.py").write_text("from tests.pinned.teacher import factory")
    with pytest.raises(KdbiasError, match="out/reference and the data photos are by different teachers"):
        kdbias.run(
            "photos", "refused", towards="out/reference", **OPTIONS | {"teacher": "python:mine.py:factory"}
        )
    assert not (there / "refused").exists()


def test_an_output_that_cannot_be_written_is_refused_before_anything_is_embedded(there):
    (there / "note.txt").write_text("no folder")
    words = ["run", "photos", "-o", "note.txt/out", "--teacher", TEACHER]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 1, result.output
    assert "cannot write to note.txt/out" in result.stderr.splitlines()[-1]
    assert "[1/" not in result.stderr


def test_somebody_elses_folder_is_left_alone(there):
    (there / "mine").mkdir()
    (there / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(KdbiasError, match="is not empty and holds no kdbias run"):
        kdbias.run("photos", "mine", **OPTIONS)
    with pytest.raises(KdbiasError, match="holds a run of kdbias embed, not of run"):
        kdbias.run("photos", "out/embeddings", **OPTIONS)


def test_of_several_processes_it_is_refused(there, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(KdbiasError, match="is one process; embed with torchrun first"):
        kdbias.run("photos", "two", **OPTIONS)


def test_a_plan_says_what_each_stage_takes_and_does_nothing(there):
    result = kdbias.run("photos", "planned", towards="deployed", plan=True, **OPTIONS)
    assert not (there / "planned").exists()
    assert [plan.stage for plan in result.plans] == STAGES
    assert "73 samples" in result.plans[1].work
    assert all(plan.seconds > 0 for plan in result.plans[:5])
    assert result.advice is None
    assert result.summary().splitlines()[-1].endswith("; nothing was done")


def test_a_plan_of_what_is_there_says_that_nothing_is_to_do(there, monkeypatch):
    given = {**OPTIONS, "towards": "deployed"}
    kdbias.run("photos", "halves", **given)
    before = files(there / "halves")
    monkeypatch.setattr("kdbias.embedding.planned._timed", lambda *_: pytest.fail("embedded to plan"))
    result = kdbias.run("photos", "halves", plan=True, **given)
    assert [plan.stage for plan in result.plans] == STAGES
    assert all(plan.work.endswith("is finished already; nothing to do") for plan in result.plans[:5])
    assert sum(plan.seconds or 0.0 for plan in result.plans) == 0
    os.remove(there / "halves" / "weights.parquet")
    *_, weighed, _, _ = kdbias.run("photos", "halves", plan=True, **given).plans
    assert weighed.work == "method matched of 72 samples"
    other = kdbias.run("photos", "halves", plan=True, min_ess=0.9, **given).plans
    assert [plan.work.endswith("nothing to do") for plan in other[:5]] == [True, True, True, False, False]
    assert files(there / "halves") == {p: at for p, at in before.items() if not p.endswith("weights.parquet")}


def test_columns_of_the_data_are_looked_for_in_a_reference_that_has_them(there):
    for name, columns in (("data", "file,person"), ("few", "file,camera")):
        source = sorted((there / ("photos" if name == "data" else "deployed")).rglob("IMG*.png"))
        rows = [f"{path},{i % 2}" for i, path in enumerate(source)]
        (there / f"{name}.csv").write_text("\n".join([columns, *rows]) + "\n")
    asked = {"path_column": "file", "label_column": "person", "id_column": "file"}
    result = kdbias.run("data.csv", "columns", towards="few.csv", **asked, **OPTIONS)
    table = kdbias.EmbeddingTable.open(result.reference)
    assert (table.n, table.labels().null_count, table.group_columns) == (80, 80, ["camera"])


def test_inspect_and_report_know_the_folder(there):
    assert kdbias.inspect("out")["kind"] == "run"
    assert kdbias.report("out", "again.html", pictures=0).inputs >= 3


def test_of_other_values_altogether_changes_tells_no_shares_of_the_target(there):
    """The data are dark and bright, the reference is of a and b: neither lacks all of the other's."""
    groups = kdbias.what_changed("out/weights.parquet").groups
    assert groups.column("value").to_pylist() == ["dark", "bright"]
    assert groups.column("share_reference").to_pylist() == [None, None]


def test_the_page_of_a_run_is_not_replaced_without_a_word(there, capsys):
    kdbias.run("photos", "paged", **OPTIONS)
    assert "is replaced" not in capsys.readouterr().err
    kdbias.report("paged/density", "paged/report.html", pictures=0)
    said = "paged/report.html, the page of the kdbias run in paged, is replaced"
    assert said in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="no POSIX signals")
def test_interrupted_the_same_command_goes_on(there):
    (there / "slow.py").write_text(SLOW)
    words = ["run", "photos", "-o", "stopped", "--teacher", "python:slow.py:factory", "--batch-size", "1"]
    words += [
        "--workers",
        "0",
        "--device",
        "cpu",
        "--rows-per-part",
        "10",
        "--threads",
        "1",
        "--pictures",
        "0",
    ]
    line = [sys.executable, "-m", "kdbias.cli", *words]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    calls = 0
    for text in process.stderr:
        calls += text.startswith("embed: at work")
        if calls == 25:
            process.send_signal(signal.SIGINT)
            break
    _, rest = process.communicate()
    assert process.returncode == 130
    assert (
        rest.splitlines()[-1] == "Error: interrupted; run the same command again to go on from what is saved"
    )
    parts = files(there / "stopped" / "embeddings" / "parts")
    assert parts
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"resuming: \d of 8 parts are done", done.stderr)
    assert done.stdout.startswith("verdict    no target, no verdict")
    now = files(there / "stopped" / "embeddings" / "parts")
    assert {path: now[path] for path in parts} == parts
    kdbias.embed(
        "photos", "whole", teacher="python:slow.py:factory", batch_size=1, workers=0, rows_per_part=10
    )
    whole = kdbias.EmbeddingTable.open("whole")
    assert kdbias.EmbeddingTable.open("stopped/embeddings").fingerprint == whole.fingerprint


def test_the_advice_is_about_the_weights_that_are_made(there):
    result = kdbias.run("photos", "spread", towards="deployed", min_ess=0.9, **OPTIONS)
    weights = kdbias.read_manifest("spread/weights.parquet").weights
    advised = result.advice.advised
    assert advised.min_ess == 0.9
    share = weights.sum() ** 2 / (weights**2).sum() / len(weights)
    assert advised.ess_share == pytest.approx(share, abs=1e-12)
    measured = read_uniformity(there / "spread" / "density")["schemes"][1]
    assert advised.removed == measured["discrepancy"]["removed"]
    never = int((weights == 0).sum())
    told = [fact.text for fact in result.advice.facts if fact.topic == "weights"]
    own = next(text for text in told if "; that is spread/weights.parquet" in text)
    assert (f", by which {never} of 72 samples are never drawn" in own) == (never > 0)
    assert kdbias.advise("spread/density").lines() == result.advice.lines()
    text = (there / "spread" / "report.html").read_text()
    assert f"take away {100 * advised.removed:.1f} % of that and keep" in text
    assert f"keep an effective sample size of {100 * share:.1f} %" in result.advice.verdict
    labels = kdbias.read_manifest("spread/weights.parquet").table["label"].to_pylist()
    bright = weights[np.asarray(labels) == "bright"].sum() / weights.sum()
    after = {row.value: row.after for row in result.advice.groups}
    assert after["bright"] == pytest.approx(bright, abs=1e-12)


@pytest.mark.parametrize("gone", [True, False])
def test_a_folder_that_was_moved_or_copied_goes_on_by_what_is_in_it(there, gone):
    """Whether the one that it was copied from is there or not; a new target takes the old one's place."""
    name = f"moved-{gone}"
    (there / name).mkdir()
    os.chdir(there / name)
    shutil.copytree(there / "photos", "photos")
    shutil.copytree(there / "deployed", "deployed")
    kdbias.run("photos", "first", towards="deployed", **OPTIONS)
    told = kdbias.advise("first/density").lines()
    if gone:
        os.rename("first", "second")
    else:
        shutil.copytree("first", "second")
    before = files(Path("second/embeddings")) | files(Path("second/density"))
    again = kdbias.run("photos", "second", towards="deployed", **OPTIONS).advice
    assert files(Path("second/embeddings")) | files(Path("second/density")) == before
    assert again.commands[0].endswith("--embeddings second/embeddings --weights second/weights.parquet")
    assert kdbias.advise("second/density").lines() == [line.replace("first/", "second/") for line in told]
    assert kdbias.what_changed("second/weights.parquet").hardness.num_rows == 4
    old = kdbias.read_manifest("second/weights.parquet").weights
    kdbias.run("photos", "second", towards="balanced:label", overwrite=True, **OPTIONS)
    new = kdbias.read_manifest("second/weights.parquet")
    assert not np.allclose(new.weights, old)
    _, weighted = read_uniformity(Path("second/density"))["schemes"]
    assert weighted["fingerprint"] == new.fingerprint
    assert weighted["weights"] == "second/weights.parquet"
    if not gone:
        assert np.array_equal(kdbias.read_manifest("first/weights.parquet").weights, old)


def typed(commands) -> None:
    """Type them; what follows # is no part of them, and a pilot would take its time."""
    for line in commands:
        words = shlex.split(line, comments=True)
        if words and "--pilot" not in words:
            done = CliRunner().invoke(main, words[1:])
            assert done.exit_code == 0, f"{line}: {done.output}"


def test_what_a_comparison_tells_to_type_works_as_typed(there):
    """With labels that the teacher does not tell apart, towards images without any."""
    for name in "ab":
        pictures(there / "mixed" / name, 30, 80, ord(name), "dark")
        pictures(there / "mixed" / name / "deep", 6, 180, 5 + ord(name), "bright")
    pictures(there / "use", 40, 80, 2, "dark")
    pictures(there / "use" / "some", 40, 180, 3, "bright")
    advice = kdbias.run("mixed", "unsure", towards="use", **OPTIONS).advice
    assert advice.choice == "compare"
    assert "does not tell your labels apart" in advice.verdict
    typed(advice.commands)
    found = kdbias.compare("score-natural", ["score"]).document
    assert (found["protocol"], found["n"]) == ("fidelity", 80)
    assert advice.commands[-1].startswith("kdbias advise unsure/density --pilot 10m -o pilot")


def test_of_a_balanced_column_students_are_compared_on_the_data(there, monkeypatch):
    monkeypatch.setattr(evidence, "TIMES", 1.0)
    kdbias.run("photos", "plain", **OPTIONS)
    advice = kdbias.advise("plain/density", towards="balanced:label")
    assert advice.choice == "compare"
    judged = [shlex.split(line, comments=True) for line in advice.commands if "kdbias evaluate" in line]
    data = ["--data", "photos", "--protocol", "fidelity", "--reference", "plain/embeddings"]
    assert [words[2:] for words in judged] == [
        ["run:student-natural", "-o", "score-natural", *data],
        ["run:student", "-o", "score", *data],
    ]
    assert "kdbias advise plain/density --towards balanced:label --pilot" in advice.commands[-1]


def test_a_target_that_is_no_longer_named_is_no_longer_advised_on(there):
    kdbias.run("photos", "dropped", towards="deployed", **OPTIONS)
    with pytest.raises(ConfigChangedError, match=r"measured against .*reference, and no target is named now"):
        kdbias.run("photos", "dropped", **OPTIONS)
    result = kdbias.run("photos", "dropped", overwrite=True, **OPTIONS)
    assert result.advice.choice == "unknown"
    assert kdbias.read_manifest("dropped/weights.parquet").provenance["config"]["method"] != "matched"
    assert "DEPLOYED/" in result.advice.commands[0]
