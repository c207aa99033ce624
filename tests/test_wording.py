"""Counts agree with their nouns, and no text of others commands a terminal, a spreadsheet or an eye."""

import io
import re
import threading

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from click.testing import CliRunner

from kdbias import progress
from kdbias.cli import main
from kdbias.embedding.stage import EmbedResult
from kdbias.errors import KdbiasError
from kdbias.inspection.describe import inspect
from kdbias.progress import bar, say
from kdbias.reporting import report
from kdbias.tables.joins import require_unique
from kdbias.tables.weight_manifest import read_manifest, write_manifest
from kdbias.weighting.changes import what_changed
from kdbias.wording import counted, plural, visible, visible_lines

EVIL = "\x1b]0;owned\x07\x1b[2J\u202egnp.exe\x9b31m\r\nError: all is well\t\x7f\u2028\udc80"
HIDDEN = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]"
)


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        (["a", None], "1 row has no sample_id"),
        ([None, None], "2 rows have no sample_id"),
        (["a", "a"], "1 sample_id value occurs more than once"),
        (["a", "a", "b", "b"], "2 sample_id values occur more than once"),
    ],
)
def test_one_is_singular_in_a_refusal(ids, said):
    with pytest.raises(KdbiasError, match=said):
        require_unique(pa.array(ids), "it")


def test_one_is_singular():
    assert [counted(n, "part") for n in (0, 1, 2, 2000)] == ["0 parts", "1 part", "2 parts", "2,000 parts"]
    assert [counted(n, "row", "has/have") for n in (1, 3)] == ["1 row has", "3 rows have"]
    assert plural("key") == "keys"
    assert list(map(plural, ("query", "class", "process", "sample"))) == [
        "queries",
        "classes",
        "processes",
        "samples",
    ]
    one = EmbedResult("emb", "finished", 1, 1, 64, 1).summary()
    assert one == "emb: finished, 1 sample of 64 numbers in 1 part, 1 failure"


def test_what_a_terminal_obeys_is_escaped_and_other_writing_stays():
    shown = visible(EVIL)
    assert shown == (
        "\\x1b]0;owned\\x07\\x1b[2J\\u202egnp.exe\\x9b31m\\r\\nError: all is well\\t\\x7f\\u2028\\udc80"
    )
    for text in ("Zoë Ångström", "張三", "می\u200cخواهم", "👩\u200d🚀", "a\u00a0b", "=1+1"):
        assert visible(text) == text
    assert visible_lines("a\nb\r") == "a\nb\\r"


def test_lines_of_progress_are_escaped(capsys):
    say(f"{EVIL} is finished")
    assert capsys.readouterr().err.count("\n") == 1
    say(f"{EVIL} is finished")
    assert not HIDDEN.search(capsys.readouterr().err.rstrip("\n"))


@pytest.fixture
def manifest(tmp_path):
    ids = [f"{EVIL[:-1]}{i}" for i in range(2)] + [
        "=1+1",
        "'=1+1",
        "+49",
        "-7",
        "@SUM(A1)",
        "\tx",
        "'plain",
        "\rz",
    ]
    labels = ["=cmd|'/C calc'!A0"] * 5 + [EVIL[:-1]] * 5
    file = tmp_path / "w.parquet"
    write_manifest(
        file,
        pa.array(ids),
        pa.array(labels),
        {f"=c{EVIL[:-1]}": pa.array(ids)},
        np.zeros(10),
        np.arange(1.0, 11),
        {},
    )
    return file, ids, labels


def test_ids_labels_and_column_names_command_no_terminal(manifest, tmp_path):
    file, ids, _ = manifest
    odd = tmp_path / f"{EVIL[:-1].replace('/', '')}.parquet"
    odd.write_bytes(file.read_bytes())
    no_sum = tmp_path / "w.csv"
    pd.DataFrame({"sample_id": [ids[0], ids[0]], "weight": [1, 2]}).to_csv(no_sum, index=False)
    for words in (
        ["inspect", file],
        ["changes", file],
        ["inspect", odd],
        ["changes", odd],
        ["inspect", no_sum],
        ["changes", file, "--group-by", EVIL[:-1]],
        ["inspect", odd, odd],
        ["inspect", f"--{EVIL[:-1]}"],
    ):
        done = CliRunner().invoke(main, list(map(str, words)))
        text = done.output.replace("\n", "")
        assert text
        assert not HIDDEN.search(text), (words, ascii(text))
        assert "\nError: all is well" not in done.output
        assert done.exception is None or isinstance(done.exception, SystemExit)


def test_no_cell_of_a_csv_is_a_formula_and_kdbias_reads_what_was_meant(manifest, tmp_path):
    file, ids, labels = manifest
    what_changed(file, top=10).write(tmp_path / "out")
    for name in ("groups", "samples"):
        frame = pd.read_csv(tmp_path / "out" / f"{name}.csv", dtype=str, keep_default_na=False, quotechar='"')
        texts = frame.select_dtypes(exclude="number")
        shares = [c for c in frame if c.startswith(("share", "weight", "log", "ess", "samples"))]
        cells = texts.drop(columns=shares).to_numpy().ravel()
        assert not [cell for cell in cells if cell and cell[0] in "=+-@\t\r\n"]
    again = read_manifest(tmp_path / "out" / "samples.csv")
    assert sorted(again.ids.to_pylist()) == sorted(ids)
    assert dict(zip(again.ids.to_pylist(), again.labels.to_pylist(), strict=True)) == dict(
        zip(ids, labels, strict=True)
    )
    assert again.weights.sum() == pytest.approx(10)
    rows = inspect(tmp_path / "out" / "groups.csv", rows=30)["first_rows"]
    assert "'plain" in {row["value"] for row in rows}
    assert "=1+1" in {row["value"] for row in rows}


def test_a_users_own_csv_is_read_to_the_letter(tmp_path):
    pd.DataFrame({"sample_id": ["'=1", "=1"], "weight": [1, 3]}).to_csv(tmp_path / "w.csv", index=False)
    assert read_manifest(tmp_path / "w.csv").ids.to_pylist() == ["'=1", "=1"]


def test_a_page_shows_what_would_turn_its_writing(manifest, tmp_path):
    report(manifest[0], tmp_path / "r.html", title=f"A {EVIL[:-1]}")
    html = (tmp_path / "r.html").read_text()
    assert "A \\x1b]0;owned" in html
    assert not HIDDEN.search(html.replace("\t", ""))


def test_a_bar_counts_in_whole_numbers(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    err = Terminal()
    monkeypatch.setattr("sys.stderr", err)
    with bar(1e6, "Mpairs", "all pairs") as progress:
        progress.update(45.08876799999997)
        progress.refresh()
    assert " 45/1,000,000 Mpairs [" in err.getvalue()
    assert "08876" not in err.getvalue()


def test_a_quiet_bar_is_quiet_in_other_threads_too(capsys, monkeypatch) -> None:
    monkeypatch.setattr(progress, "_LINE_EVERY_SECONDS", 0.0)
    for quiet, lines in ((False, 1), (True, 0)):
        with progress.quiet(quiet), progress.bar(10, "units", "done") as bar:
            thread = threading.Thread(target=bar.update)
            thread.start()
            thread.join()
        assert capsys.readouterr().err.count("done: 1/10 units") == lines
