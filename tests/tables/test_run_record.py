"""Runs: the same command resumes, another is refused by the names of what differs."""

import os
import shutil
from pathlib import Path

import pytest

from kdbias.errors import ConfigChangedError, KdbiasError
from kdbias.tables.documents import read_json
from kdbias.tables.files import atomic_path
from kdbias.tables.run_record import Run
from kdbias.tables.temporaries import clean_temporaries
from tests.stages import EMBED, EVALUATE, TRAIN, UNIFORMITY, WEIGHTS


def test_new_resumed_finished(tmp_path):
    out = tmp_path / "out"
    assert Run.open(out, EMBED, {"k": 1}, {"data": "f"}).state == "new"
    run = Run.open(out, EMBED, {"k": 1}, {"data": "f"})
    assert run.state == "resumed"
    run.finish({"samples": 3}, 1.23456, fingerprint="abc")
    again = Run.open(out, EMBED, {"k": 1}, {"data": "f"})
    assert again.state == "finished"
    assert again.record["counts"] == {"samples": 3}
    assert read_json(out / "run.json")["fingerprint"] == "abc"


def test_changes_are_refused_by_name(tmp_path):
    Run.open(tmp_path / "out", UNIFORMITY, {"k": 64, "t": "auto"}, {"embeddings": "f"})
    (tmp_path / "out" / "pass.npz").write_text("a snapshot")
    with pytest.raises(ConfigChangedError, match=r"\(k: 64 -> 10; input embeddings is another one\)"):
        Run.open(tmp_path / "out", UNIFORMITY, {"k": 10, "t": "auto"}, {"embeddings": "g"})
    (tmp_path / "out" / "density.parquet").write_text("PAR1 old")
    run = Run.open(tmp_path / "out", UNIFORMITY, {"k": 10, "t": "auto"}, {"embeddings": "g"}, overwrite=True)
    assert run.state == "new"
    assert not (tmp_path / "out" / "density.parquet").exists()


def test_a_refusal_names_only_what_differs_and_stays_short(tmp_path):
    out, options = tmp_path / "out", {"k": 5, "far": [1e-3, 1e-4], "style": None}
    config = {"protocol": "knn", "options": options, "embedding": None}
    Run.open(out, EVALUATE, config, {"model": "f" * 32, "gallery": "g" * 32}).finish({}, 0.0)
    changed = config | {"options": options | {"k": 20, "style": "facex" * 40}}
    with pytest.raises(ConfigChangedError) as caught:
        Run.open(out, EVALUATE, changed, {"model": "h" * 32, "pairs": "p" * 32})
    said = str(caught.value).partition("(")[2]
    assert said.startswith("options.k: 5 -> 20; options.style: None -> 'facexfacex")
    assert "input gallery was given; input model is another one; input pairs was not given)" in said
    assert "far" not in said
    assert len(said) < 300
    Run.open(tmp_path / "n", TRAIN, {f"{i:03d}": 0 for i in range(100)}, {}).finish({}, 0.0)
    with pytest.raises(ConfigChangedError, match="005: 0 -> 1; 94 more"):
        Run.open(tmp_path / "n", TRAIN, {f"{i:03d}": 1 for i in range(100)}, {})


def test_what_an_earlier_record_lacks_was_as_by_default(tmp_path):
    old = {"k": 5, "embedding": None, "options": {"far": [0.1]}}
    Run.open(tmp_path / "d", EVALUATE, old, {}).finish({}, 0.0)
    config = {**old, "options": {"far": (0.1,), "folds": (1, 2)}, "style": "exact"}
    defaults = {"k": 7, "options": {"folds": (1, 2)}, "style": "exact", "gone": 1}
    assert Run.open(tmp_path / "d", EVALUATE, config, {}, defaults=defaults).state == "finished"
    changed = config | {"options": {"far": [0.1], "folds": [1]}, "style": "facex"}
    with pytest.raises(
        ConfigChangedError, match=r"\(style: 'exact' -> 'facex'; options.folds: \[1, 2\] -> \["
    ):
        Run.open(tmp_path / "d", EVALUATE, changed, {}, defaults=defaults)
    with pytest.raises(ConfigChangedError, match=r"\(k: 5 -> 7\)"):  # it has that
        Run.open(tmp_path / "d", EVALUATE, config | {"k": 7}, {}, defaults=defaults)
    now = config | {"embedding": {"flip": False}}  # a table that was none is no table that lacks a key
    with pytest.raises(ConfigChangedError, match=r"\(embedding.flip: None -> False\)"):
        Run.open(tmp_path / "d", EVALUATE, now, {}, defaults=defaults | {"embedding": {"flip": False}})


def test_another_stage_and_a_foreign_folder_are_refused(tmp_path):
    Run.open(tmp_path / "out", EMBED, {}, {})
    with pytest.raises(KdbiasError, match="kdbias embed, not of train"):
        Run.open(tmp_path / "out", TRAIN, {}, {}, overwrite=True)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").write_text("precious")
    with pytest.raises(KdbiasError, match="not empty"):
        Run.open(tmp_path / "photos", EMBED, {}, {}, overwrite=True)
    assert (tmp_path / "photos" / "me.jpg").read_text() == "precious"
    with pytest.raises(KdbiasError, match="is a file"):
        Run.open(tmp_path / "photos" / "me.jpg", EMBED, {}, {})


def test_a_failed_write_leaves_the_old_file_and_no_trace(tmp_path):
    target = tmp_path / "t.txt"
    target.write_text("old")

    def failing_write():
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        failing_write()
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["t.txt"]


def test_starting_over_removes_only_what_the_stage_wrote(tmp_path):
    Run.open(tmp_path / "d", UNIFORMITY, {"k": 1}, {}).finish({}, 0.0)
    (tmp_path / "d" / "density.parquet").write_text("PAR1 old")
    (tmp_path / "d" / "best.parquet").write_text("a manifest")
    (tmp_path / "d" / "run1").mkdir()
    (tmp_path / "d" / "run1" / "student.pt").write_text("a model")
    Run.open(tmp_path / "d", UNIFORMITY, {"k": 2}, {}, overwrite=True).finish({}, 0.0)
    left = sorted(str(p.relative_to(tmp_path / "d")) for p in (tmp_path / "d").rglob("*"))
    assert left == ["best.parquet", "run.json", "run1", "run1/student.pt"]


def test_a_run_without_a_result_claims_nothing(tmp_path):
    Run.open(tmp_path / "d", EVALUATE, {"k": 1}, {}).unlock()
    Run.open(tmp_path / "d" / "embeddings", EMBED, {}, {}).unlock()
    assert Run.open(tmp_path / "d", EVALUATE, {"k": 1}, {}).state == "resumed"
    run = Run.open(tmp_path / "d", EVALUATE, {"k": 2}, {"gallery": "x"})
    assert (run.state, run.record["config"]) == ("new", {"k": 2})
    assert (tmp_path / "d" / "embeddings" / "run.json").exists()
    (tmp_path / "d" / "units.parquet").write_text("a result")
    run.unlock()
    with pytest.raises(ConfigChangedError, match="k: 2 -> 3"):
        Run.open(tmp_path / "d", EVALUATE, {"k": 3}, {"gallery": "x"})


def test_options_are_compared_as_they_are_stored(tmp_path):
    Run.open(tmp_path / "d", EVALUATE, {"far": (0.1, 0.2)}, {}).finish({}, 0.0)
    assert Run.open(tmp_path / "d", EVALUATE, {"far": (0.1, 0.2)}, {}).state == "finished"


# Cut short: of a Parquet file without a footer nobody can tell who wrote it, and nothing is lost.
OLD = {"density.parquet": "PAR1 old", "intervals.parquet": "PAR1 old"}


def _finished(out: Path, config: dict) -> dict:
    run = Run.open(out, UNIFORMITY, config, {})
    for name, text in OLD.items():
        (out / name).write_text(text)
    run.finish({"samples": 2}, 0.0)
    return run.record


def _content(out: Path) -> dict[str, str]:
    """Every file of a folder but its record and lock."""
    files = (p for p in out.rglob("*") if p.is_file() and p.name not in ("run.json", ".lock"))
    return {str(p.relative_to(out)): p.read_text() for p in files}


def test_a_refusal_puts_back_what_was_to_be_replaced(tmp_path):
    old = _finished(tmp_path / "d", {"k": 1})
    run = Run.open(tmp_path / "d", UNIFORMITY, {"k": 2}, {}, overwrite=True)
    assert (run.state, read_json(tmp_path / "d" / "run.json")["status"]) == ("new", "running")
    (run.stage() / "density.parquet").write_text("PAR1 half")
    run.forget()
    assert read_json(tmp_path / "d" / "run.json") == old
    assert _content(tmp_path / "d") == OLD
    assert not (tmp_path / "d" / ".replaced").exists()
    run = Run.open(tmp_path / "d", UNIFORMITY, {"k": 2}, {}, overwrite=True)
    (tmp_path / "d" / "density.parquet").write_text("PAR1 new")
    run.finish({}, 0.0)
    assert _content(tmp_path / "d") == {"density.parquet": "PAR1 new"}


def test_a_refusal_keeps_results_to_go_on_from(tmp_path):
    Run.open(tmp_path / "d", TRAIN, {"lr": 1}, {}).finish({}, 0.0)
    run = Run.open(tmp_path / "d", TRAIN, {"lr": 2}, {}, overwrite=True)
    (tmp_path / "d" / "checkpoint.pt").write_text("hours of work")
    run.forget()
    again = Run.open(tmp_path / "d", TRAIN, {"lr": 2}, {})
    assert (again.state, _content(tmp_path / "d")) == ("resumed", {"checkpoint.pt": "hours of work"})


def test_a_killed_replacement_goes_on_or_gives_way(tmp_path):
    """Killed before its first result, and called again: as it was, with a mistake, as the old run was."""
    old = _finished(tmp_path / "d", {"k": 1})
    Run.open(tmp_path / "d", UNIFORMITY, {"k": 2}, {}, overwrite=True).unlock()
    run = Run.open(tmp_path / "d", UNIFORMITY, {"k": 2}, {})
    assert (run.state, _content(tmp_path / "d").keys()) == ("resumed", {f".replaced/{name}" for name in OLD})
    run.forget()
    assert (read_json(tmp_path / "d" / "run.json"), _content(tmp_path / "d")) == (old, OLD)

    Run.open(tmp_path / "d", UNIFORMITY, {"k": 2}, {}, overwrite=True).unlock()
    (tmp_path / "d" / "pass.npz").write_text("a snapshot of k = 2")
    Run.open(tmp_path / "d", UNIFORMITY, {"k": 3}, {}, overwrite=True).forget()
    assert (read_json(tmp_path / "d" / "run.json"), _content(tmp_path / "d")) == (old, OLD)

    Run.open(tmp_path / "d", UNIFORMITY, {"k": 2}, {}, overwrite=True).unlock()
    with pytest.raises(ConfigChangedError, match="k: 1 -> 3"):
        Run.open(tmp_path / "d", UNIFORMITY, {"k": 3}, {})
    assert Run.open(tmp_path / "d", UNIFORMITY, {"k": 1}, {}, mends=True).state == "finished"
    assert _content(tmp_path / "d") == OLD


@pytest.mark.parametrize("moves", range(7))
def test_a_kill_while_files_move_never_mixes_two_runs(tmp_path, monkeypatch, moves: int):
    old = _finished(tmp_path / "d", {"k": 1})
    real, left = os.replace, iter(range(moves))

    def dies(source, target):
        if next(left, None) is None:
            raise KeyboardInterrupt
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dies)
        with pytest.raises(KeyboardInterrupt):
            Run.open(tmp_path / "d", UNIFORMITY, {"k": 2}, {}, overwrite=True).forget()
    run = Run.open(tmp_path / "d", UNIFORMITY, {"k": 2}, {}, overwrite=True)
    assert (run.state, _content(tmp_path / "d").keys()) == ("new", {f".replaced/{name}" for name in OLD})
    run.forget()
    assert (read_json(tmp_path / "d" / "run.json"), _content(tmp_path / "d")) == (old, OLD)


def test_a_kill_while_the_replaced_is_removed_leaves_the_new(tmp_path, monkeypatch):
    _finished(tmp_path / "d", {"k": 1})
    run = Run.open(tmp_path / "d", UNIFORMITY, {"k": 2}, {}, overwrite=True)

    def dies(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", dies)
        with pytest.raises(KeyboardInterrupt):
            run.finish({}, 0.0)
    assert Run.open(tmp_path / "d", UNIFORMITY, {"k": 2}, {}).state == "finished"
    assert not (tmp_path / "d" / ".replaced").exists()


def test_staged_files_are_put_in_place_together(tmp_path, monkeypatch):
    out = tmp_path / "d"
    run = Run.open(out, UNIFORMITY, {}, {})
    staged = run.stage()
    for name in ("density.parquet", "schemes.parquet"):
        (staged / name).write_text("PAR1 new")
    real = os.replace

    def died(source, target):
        if "schemes" in str(target):
            raise KeyboardInterrupt
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", died)
        with pytest.raises(KeyboardInterrupt):
            run.finish({"samples": 1}, 0.0)
    assert read_json(out / "run.json")["status"] == "running"
    run.unlock()
    again = Run.open(out, UNIFORMITY, {}, {}, mends=True)
    assert (again.state, again.record["counts"]) == ("finished", {"samples": 1})
    again.unlock()
    assert read_json(out / "run.json") == again.record
    assert sorted(p.name for p in out.iterdir()) == ["density.parquet", "run.json", "schemes.parquet"]


def test_a_refusal_leaves_nothing_staged(tmp_path):
    run = Run.open(tmp_path / "d", UNIFORMITY, {}, {})
    (run.stage() / "density.parquet").write_text("PAR1 half")
    run.forget()
    assert not (tmp_path / "d").exists()


def test_a_refused_run_leaves_no_record_and_a_finished_one_keeps_its_own(tmp_path):
    run = Run.open(tmp_path / "a", UNIFORMITY, {}, {})
    run.forget()
    assert not (tmp_path / "a").exists()
    run = Run.open(tmp_path / "b", UNIFORMITY, {}, {})
    run.finish({}, 0.0)
    run.forget()
    assert (tmp_path / "b" / "run.json").exists()


def test_temporaries_of_the_dead_are_removed_and_of_the_living_kept(tmp_path):
    with atomic_path(tmp_path / "t.txt") as alive:
        alive.write_text("being written")
        dead = alive.with_name(alive.name.replace(f"-{os.getpid()}-", "-999999999-"))
        dead.write_text("left behind")
        assert clean_temporaries(tmp_path) == 1
        assert not dead.exists()
    assert (tmp_path / "t.txt").read_text() == "being written"


def test_as_a_context_a_refusal_is_forgotten_and_a_crash_can_be_resumed(tmp_path):
    with pytest.raises(KdbiasError), Run.open(tmp_path / "d", WEIGHTS, {}, {}):
        raise KdbiasError("no")
    assert not (tmp_path / "d").exists()
    with pytest.raises(ZeroDivisionError), Run.open(tmp_path / "d", WEIGHTS, {}, {}):
        raise ZeroDivisionError
    with Run.open(tmp_path / "d", WEIGHTS, {}, {}) as run:  # the lock is free again
        assert run.state == "resumed"
        assert not run.already_finished()
        run.finish({}, 0.0)
    with Run.open(tmp_path / "d", WEIGHTS, {}, {}) as run:
        assert run.already_finished()
