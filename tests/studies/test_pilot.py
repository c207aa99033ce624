"""How much a pilot trains in its time, what its runs say, and a real one."""

import json
import re
import shlex
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from kdbias.cli import main
from kdbias.embedding.stage import embed
from kdbias.errors import KdbiasError
from kdbias.kinds import seconds_of
from kdbias.measurement.stage import uniformity
from kdbias.studies.pilot import Timed, drafted, effort, pilot
from kdbias.studies.pilot_findings import conclude_pilot
from kdbias.studies.pilot_settings import PilotSettings
from kdbias.studies.settings import read_study
from kdbias.studies.stage import study
from kdbias.tables.weight_manifest import read_manifest
from tests.studies.conftest import write_study

ARMS = ("natural", "matched", "inverse-density")
ONE = Timed(fixed=10.0, step=0.1, workers=1)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (9 * (10 + 0.1 * 237), (ARMS, 230, 3)),  # all that fits, in two digits
        (9 * (10 + 0.1 * 50), (ARMS, 50, 3)),
        (6 * (10 + 0.1 * 60), (ARMS[:2], 60, 3)),  # then fewer arms,
        (4 * (10 + 0.1 * 60), (ARMS[:2], 60, 2)),  # then fewer seeds
        (2 * (10 + 0.1 * 60), (ARMS[:2], 60, 1)),
        (12 * (10 + 0.1 * 400), (ARMS, 400, 4)),  # steps are enough: more seeds
        (10_000_000, (ARMS, 400, 10)),
    ],
)
def test_the_time_decides_arms_steps_and_seeds(seconds, expected):
    found = effort(ARMS, seconds + 1e-6, ONE, enough=400, most_seeds=10)
    assert (found.arms, found.steps, found.seeds) == expected


def test_workers_share_the_students():
    assert effort(ARMS, 5 * 30.0 + 1e-6, replace(ONE, workers=2), 1000, 10).steps == 200
    with pytest.raises(KdbiasError, match="two students of 50 steps take about 30 s here, and 20 s are left"):
        effort(ARMS, 20.0, ONE, 400, 10)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10m", 600), ("1.5 h", 5400), (30, 30), ("45", 45)]
)
def test_times(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["10x", "", "-3m", "0m", 0, True, None, float("inf")])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ValueError, match="should be a time"):
        seconds_of(text)


def seeds(distances, group):
    return [
        {"fidelity.distance": d, "fidelity.distance[race=A]": d, "fidelity.distance[race=B]": g}
        for d, g in zip(distances, group, strict=True)
    ]


NATURAL = seeds((0.50, 0.52, 0.48), (0.6, 0.61, 0.62))


def told(folder, arms):
    return conclude_pilot(write_study(folder, {"natural": NATURAL, **arms}), 60.0, 90.0, "kdbias study x")


def test_a_pilot_names_the_best_and_whom_it_harms(tmp_path):
    best = seeds((0.40, 0.42, 0.38), (0.70, 0.71, 0.72))
    found = told(tmp_path, {"matched": best, "even": seeds((0.45, 0.47, 0.43), (0.6, 0.6, 0.62))})
    entry = found.document["differences"][0]
    assert entry["removed_percent"] == pytest.approx(20)  # 0.1 of 0.5, in each seed
    assert (entry["low"], entry["high"], entry["decided"]) == (pytest.approx(20), pytest.approx(20), 1)
    assert (
        found.document["verdict"]
        == "verdict: matched takes away 20.0 % of the distance to the teacher; but farther for race=B"
    )
    assert re.search(r"all +\+20\.0 \[\+20\.0, \+20\.0\] ▲ +\+10\.0", found.summary())
    assert len(found.to_pandas()) == 6
    assert found.plot().axes


def test_a_pilot_says_that_nothing_is_shown_and_what_harms(tmp_path):
    found = told(tmp_path, {"matched": seeds((0.60, 0.62, 0.58), (0.6, 0.61, 0.62))})
    assert found.document["verdict"] == (
        "verdict: stay natural: nothing is shown to bring students nearer to the teacher; "
        "matched brought them farther away"
    )


def test_students_that_have_hardly_begun_to_learn_are_said_to(tmp_path):
    near, far = ({"natural": seeds((x, x, x + 0.01), (x, x, x))} for x in (0.9, 1.2))
    for name, arms in (("near", near), ("far", far)):
        arms["matched"] = [{key: value - 0.1 for key, value in row.items()} for row in arms["natural"]]
        found = conclude_pilot(write_study(tmp_path / name, arms), 60.0, 90.0, "kdbias study x")
        assert ("after 10 steps students have hardly begun to learn" in found.summary()) == (name == "far")


def test_two_seeds_have_no_verdict(tmp_path):
    few = {"natural": NATURAL[:2], "matched": seeds((0.40, 0.42), (0.5, 0.51))}
    found = conclude_pilot(write_study(tmp_path, few), 60.0, 90.0, "kdbias study x")
    assert "2 seeds: too few to tell" in found.document["verdict"]
    assert "▲" not in found.summary().partition("judged on")[2]


def test_a_real_pilot_keeps_its_file_and_goes_on(deployed, tmp_path):
    table = pq.read_table(deployed.data)
    unlabelled = tmp_path / "unlabelled.parquet"
    pq.write_table(table.drop_columns(["label"]), unlabelled)
    embed(unlabelled, tmp_path / "emb", teacher=f"precomputed:{deployed.folder / 'biased.npz'}")
    options = {"within": "20m", "most_seeds": 1, "workers": 1, "device": "cpu"}
    found = pilot(tmp_path / "emb", tmp_path / "pilot", **options)
    assert found.document["arms"] == ["natural", "inverse-density"]
    assert (found.document["seeds"], found.document["steps"]) == (1, 50)
    assert found.document["samples"] == round(0.8 * table.num_rows)
    assert "1 seed: too few to tell" in found.document["verdict"]
    described = read_study(tmp_path / "pilot" / "study.toml")
    assert described.rounds["pilot"].seeds == (0,)
    first = (tmp_path / "pilot" / "study.toml").read_text().partition("\n")[0]
    call = (
        f"kdbias advise {tmp_path / 'emb'} --pilot 1200s -o {tmp_path / 'pilot'} --most-seeds 1 --workers 1"
    )
    assert first == f"# Written by `{call} --device cpu`."
    again = study(tmp_path / "pilot" / "study.toml", tmp_path / "pilot", device="cpu", dry_run=True)
    assert again.document["todo"] == 0
    before = (tmp_path / "pilot" / "results.parquet").read_bytes()
    same = pilot(tmp_path / "emb", tmp_path / "pilot", **options)
    assert same.document["differences"] == found.document["differences"]
    assert len(before) == len((tmp_path / "pilot" / "results.parquet").read_bytes())
    with pytest.raises(KdbiasError, match="is of another pilot, or yours"):
        pilot(deployed.embeddings, tmp_path / "pilot", **options)
    # The command says what to do first, and goes on with the pilot.
    density, described = tmp_path / "density", tmp_path / "pilot" / "study.toml"
    uniformity(tmp_path / "emb", density, rectification="none")
    known, remembered = f"{tmp_path / 'emb'} --pilot", f"{density} --pilot"
    described.write_text(described.read_text().replace(known, remembered, 1))
    words = ["advise", str(density), "--pilot", "20m", "-o", str(tmp_path / "pilot"), "--most-seeds", "1"]
    words += ["--workers", "1", "--device", "cpu"]
    shown = CliRunner().invoke(main, words)
    assert shown.exit_code == 0, shown.output
    advice, _, told = shown.stdout.partition("\n\npilot: 1 seed of natural, inverse-density; 50 steps")
    assert advice.startswith("verdict    no target, no verdict: leave the data as they come")
    assert "verdict: none (1 seed: too few to tell" in told
    document = json.loads(CliRunner().invoke(main, [*words, "--json"]).stdout)
    assert document["pilot"]["differences"] == found.document["differences"]
    assert document["verdict"].startswith("no target, no verdict")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--most-seeds", "2"], "--most-seeds is of a pilot: add --pilot 10m, or leave it out"),
        (["-o", "out"], "--output is of a pilot"),
        (["--pilot", "10x"], "pilot: within"),
        (["--pilot", "10m", "--with", "race"], "name one with --towards"),
    ],
)
def test_options_of_a_pilot_are_refused_before_the_advice(words, said):
    result = CliRunner().invoke(main, ["advise", "nowhere", *words])
    assert result.exit_code == 2
    assert said in result.output


@pytest.fixture(scope="module")
def persons(deployed, tmp_path_factory):
    """Digits by several writers, in data and deployment, with columns to compare and to cluster by."""
    folder = tmp_path_factory.mktemp("persons")
    for name, data in (("data", deployed.data), ("ref", deployed.reference_data)):
        table = pq.read_table(data)
        rows = range(table.num_rows)
        table = table.append_column("writer", [[f"{name}{i // 4}" for i in rows]])
        table = table.append_column("light", [["day" if i % 3 else "night" for i in rows]])
        pq.write_table(table, folder / f"{name}.parquet")
        vectors = deployed.folder / f"{'biased' if name == 'data' else 'deployed'}.npz"
        embed(folder / f"{name}.parquet", folder / name, teacher=f"precomputed:{vectors}")
    return folder


def test_how_a_target_is_compared_is_the_pilot_s_as_well(persons, tmp_path):
    aim = {"towards": str(persons / "ref"), "with_column": "light", "cluster_by": "writer"}
    density = tmp_path / "density"
    uniformity(persons / "data", density, rectification="none", **aim)
    named = drafted(persons / "data", tmp_path / "p", PilotSettings.of(aim))
    remembered = drafted(density, tmp_path / "p", PilotSettings.of({}))
    assert named[0].text("", "") == remembered[0].text("", "")
    named[0].write(tmp_path / "s.toml", "", "")
    described = read_study(tmp_path / "s.toml")
    how = {"with_column": "light", "cluster_by": "writer"}
    assert described.arms["matched"].manifest == {
        "method": "matched",
        "towards": "@reference",
        "min_ess": 0.5,
        **how,
    }
    (data,) = described.data.values()
    assert dict(data.measure) == {"rectification": "none", **how}
    assert data.reserve_by == "writer"  # nobody is matched to and judged
    words = shlex.split(remembered[1])
    assert words[words.index("--with") + 1] == "light"
    assert words[words.index("--cluster-by") + 1] == "writer"
    text = (tmp_path / "s.toml").read_text()
    (tmp_path / "s.toml").write_text(
        text.replace("steps = 200", "steps = 3").replace(
            "seeds = [0, 1, 2]", 'seeds = [0]\narms = ["natural", "matched"]'
        )
    )
    found = study(tmp_path / "s.toml", device="cpu")
    assert found.document["failed"] == {}
    (manifest,) = found.path.glob("data/**/matched-*.parquet")
    target = read_manifest(manifest).provenance["target"]
    assert (target["with"], target["cluster_by"]) == ("light", "writer")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--towards", "ref@weights.parquet"], "leave @weights.parquet out"),
        (["--towards", "ref", "--with", "mood"], "has no column 'mood'"),
        (["--towards", "ref", "--cluster-by", "scene"], "no column 'scene' to cluster by"),
        (["--towards", "balanced:mood"], "has no column 'mood'"),
        (["--group-by", "mood"], "--group-by mood: no such column"),
    ],
)
def test_what_a_pilot_would_refuse_is_refused_before_the_advice(persons, monkeypatch, more, said):
    monkeypatch.chdir(persons)
    result = CliRunner().invoke(main, ["advise", "data", "--pilot", "10m", *more])
    assert result.exit_code == 2
    assert said in result.stderr
    assert not result.stdout
    assert not (persons / "pilot").exists()


def test_too_little_time_is_refused_before_students_train_for_nothing(deployed, tmp_path):
    data, aim = deployed.embeddings, deployed.reference
    with pytest.raises(KdbiasError, match=r"15 s are too few: .* some 18 s pass; give some minutes"):
        pilot(data, tmp_path / "none", towards=aim, within=15)
    assert not (tmp_path / "none").exists()
    with pytest.raises(KdbiasError, match=r"first 1 student of 40 steps were not judged within .* give more"):
        pilot(data, tmp_path / "few", towards=aim, within=18.5, workers=1, device="cpu")
    assert not (tmp_path / "few" / "study.toml").exists()
