"""A whole study: what it writes, that it goes on after a kill, and what a changed file re-runs."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from kdbias.errors import KdbiasError
from kdbias.studies.conclusions import results_text
from kdbias.studies.results import read_results
from kdbias.studies.stage import StudyResult, study

ARMS = {"natural", "equilibrium", "scratch"}


def runs(out: Path) -> dict[str, int]:
    """Every finished run with the time at which its result was written."""
    found = (out / "runs").glob("*/*/*/result-*.json")
    return {str(path.relative_to(out)): path.stat().st_mtime_ns for path in found}


def values(out: Path) -> pd.DataFrame:
    """What must not depend on the clock or on how often the study was interrupted."""
    table = pd.read_parquet(out / "results.parquet").drop(columns=["seconds", "train_seconds", "command"])
    return table.sort_values(["arm", "seed", "metric"]).reset_index(drop=True)


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("study")
    file = tiny.write(folder / "study.toml")
    study(file, folder / "out", device="cpu")
    return file, folder / "out"


def test_one_row_for_each_run_and_metric(finished):
    _, out = finished
    table = pd.read_parquet(out / "results.parquet")
    assert not table.duplicated(["round", "dataset", "bias", "arm", "seed", "metric"]).any()
    assert set(zip(table.arm, table.seed, strict=True)) == {(arm, seed) for arm in ARMS for seed in (0, 1)}
    assert set(table.steps) == {4}  # as asked, less than an epoch
    assert table[table.method == "natural"].ess_share.to_numpy() == pytest.approx(1)
    even, natural = (table[table.arm == arm].uniformity.iloc[0] for arm in ("equilibrium", "natural"))
    assert even < natural
    scratch = table[table.arm == "scratch"]
    assert set(scratch.metric.str.partition(".")[0]) == {"own"}  # its space is not the teacher's
    assert not table.command.str.contains(str(out)).any()


def test_tables_and_plots_are_written(finished):
    _, out = finished
    text = (out / "results.md").read_text()
    assert "| equilibrium |" in text
    assert "2 seeds: too few to tell" in text
    assert not any(
        mark in line for line in text.splitlines() if line.startswith("|") for mark in (" ▲ |", " ▼ |")
    )
    assert "digits | natural | fidelity.distance | 0.003:" in text
    assert "1e+30: diverged | 0.0" in text  # and another rate is chosen
    assert sorted(path.name for path in (out / "plots").iterdir()) == [
        "screen-density.svg",
        "screen-gains.svg",
        "screen-groups.svg",
        "screen-uniformity.svg",
    ]


def test_the_files_hold_all_that_the_tables_are_made_of(finished):
    _, out = finished
    outline, rows, document = read_results(out)
    assert (len(rows), document["finished"]) == (6, 6)
    assert results_text(outline, rows, document) == (out / "results.md").read_text()


def test_a_study_is_a_frame_and_a_figure(finished):
    result = StudyResult(finished[1], {}, ("done",))
    table = result.to_pandas()
    pd.testing.assert_frame_equal(table, pd.read_parquet(finished[1] / "results.parquet"))
    axes = result.plot("fidelity.distance").axes[0]
    drawn = {
        tick.get_text(): x for tick, x in zip(axes.get_yticklabels(), axes.lines[0].get_xdata(), strict=True)
    }
    means = table[table.metric == "fidelity.distance"].groupby("arm").value.mean()
    assert drawn == pytest.approx(means.to_dict())
    with pytest.raises(KdbiasError, match="no finished run has accuracies; there are"):
        result.plot("accuracies")


def test_the_same_call_again_runs_nothing(finished):
    file, out = finished
    before = runs(out)
    result = study(file, out, device="cpu")
    assert runs(out) == before
    assert result.document["missing"] == 0


def test_data_that_changed_since_the_last_call_are_read_again(tiny, tmp_path):
    source = Path(shutil.copy(tiny.source, tmp_path / "digits.parquet"))
    file = tiny.write(tmp_path / "study.toml", (str(tiny.source), str(source)))
    study(file, tmp_path / "out", device="cpu", dry_run=True)
    source.write_bytes(b"no table any more")
    with pytest.raises(KdbiasError, match=r"digits\.parquet"):
        study(file, tmp_path / "out", device="cpu", dry_run=True)


@pytest.mark.parametrize("damaged", [b"", b'{"seconds": 1.0, "met', b"{}", b"[]"])
def test_a_damaged_result_is_named(finished, tmp_path, damaged):
    file, out = finished
    copy = shutil.copytree(out, tmp_path / "out")
    for name in runs(copy):
        (copy / name).write_bytes(damaged)
    with pytest.raises(KdbiasError, match=r"result-\w+\.json"):
        study(file, copy, device="cpu")


def test_a_dry_run_runs_nothing(tiny, finished, tmp_path):
    file, out = finished
    assert study(file, out, dry_run=True).document["todo"] == 0
    more = tiny.write(tmp_path / "more.toml", ("seeds = [0, 1]", "seeds = [0, 1, 2]"))
    result = study(more, out, dry_run=True)
    assert result.document == {"todo": 3, "finished": 6, "seconds": result.document["seconds"]}
    assert "digits/tail equilibrium seed 2" in result.summary()
    fresh = study(file, tmp_path / "fresh", dry_run=True)
    assert fresh.document["todo"] == 6
    assert not (tmp_path / "fresh").exists()


def test_a_changed_arm_alone_is_run_again(tiny, finished, tmp_path):
    _, out = finished
    before = runs(out)
    changed = tiny.write(tmp_path / "changed.toml", ("min_ess = 0.5", "min_ess = 0.7"))
    study(changed, out, device="cpu")
    after = runs(out)
    assert {name: after[name] for name in before} == before
    new = after.keys() - before.keys()
    assert len(new) == 2
    assert all(Path(name).parent.name.startswith("equilibrium-seed") for name in new)
    study(tiny.write(tmp_path / "back.toml"), out, device="cpu")
    assert runs(out) == after


def test_a_killed_study_goes_on_and_ends_alike(finished, tmp_path):
    file, reference = finished
    out = tmp_path / "out"
    command = [sys.executable, "-m", "kdbias.cli", "study", str(file), "-o", str(out), "--device", "cpu"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("run [2/"):
            break
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stderr.read()  # ends once no worker holds the pipe any more
    done = runs(out)
    assert 0 < len(done) < len(runs(reference))
    assert not (out / "results.parquet").exists()
    subprocess.run(command, check=True, capture_output=True)
    after = runs(out)
    assert {name: after[name] for name in done} == done
    pd.testing.assert_frame_equal(values(out), values(reference))


def test_a_failing_run_is_reported_and_left_missing(tiny, finished, tmp_path):
    _, out = finished
    broken = tiny.write(
        tmp_path / "broken.toml",
        (
            "[arms.scratch]",
            '[arms.broken]\ntrain = { embeddings = "nowhere" }\n[arms.scratch]',
        ),
    )
    result = study(broken, out, device="cpu")
    assert result.document["missing"] == 2
    assert len(result.document["failed"]) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"only": ["faces"]}, "--only faces: no such data set or case; there are digits/tail"),
        ({"rounds": ["final"]}, "--rounds final: no such round; there are screen"),
        ({"workers": 0}, "workers is 0, should be at least 1"),
    ],
)
def test_names_that_do_not_exist_are_refused(finished, options, message):
    file, out = finished
    with pytest.raises(KdbiasError, match=message):
        study(file, out, **options)


def test_an_arm_without_its_library_is_refused_before_anything_is_computed(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    changed = tiny.write(
        tmp_path / "tiny.toml",
        ("[arms.equilibrium]", "[arms.equal]"),
        ('"equilibrium", min_ess = 0.5', '"cluster-balanced"'),
    )
    with pytest.raises(KdbiasError, match=r"pip install 'kdbias\[cpu\]'"):
        study(changed, tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_bad_keys_are_one_line_on_the_command_line(tiny, tmp_path):
    file = tiny.write(tmp_path / "s.toml", ("steps = 4", "stepps = 4"))
    command = [sys.executable, "-m", "kdbias.cli", "study", str(file), "-o", str(tmp_path / "o")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "unknown key stepps" in done.stderr
    assert not (tmp_path / "o").exists()
