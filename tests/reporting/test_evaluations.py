"""Results by group and the plots of an evaluation are on the page."""

import base64
import re
import shutil

import pytest

from kdbias.reporting import report
from kdbias.reporting.gathering import collect
from kdbias.reporting.tables import group_tables, shown_measures, students_table
from kdbias.reporting.thumbnails import plots
from kdbias.tables.documents import read_json, write_json

PNG = b"\x89PNG\r\n\x1a\n" + b"pixels"


def estimate(value, low=None, high=None):
    return {"value": value, "low": low, "high": high, "standard_error": None}


def group(n, accuracy, fmr):
    return {"n": n, "metrics": {"accuracy": accuracy, "fmr": fmr, "hopeless": estimate(None)}}


@pytest.fixture
def evaluation(outputs, tmp_path):
    """An evaluation of no known run, by gender, with a plot, a plot that is gone and one that is none."""
    folder = tmp_path / "ver"
    shutil.copytree(outputs["evaluations"] / "natural-0", folder)
    record = read_json(folder / "run.json")
    write_json(folder / "run.json", {**record, "paths": {"model": "faces"}})
    found = read_json(folder / "metrics.json")
    found["groups"] = {
        "gender": {
            "F": group(40, estimate(0.91, 0.85, 0.95), estimate(0.021, 0.01, 0.03)),
            "<M>": group(50, estimate(0.97), estimate(None)),
        }
    }
    found["spread"] = {
        "gender": {"accuracy": {"worst": "F", "gap": 0.06}, "fmr": {"worst": None, "gap": None}}
    }
    found["unit"] = "query"
    found["plots"] = ["roc.png", "gone.png", "../secret.png", "text.png"]
    write_json(folder / "metrics.json", found)
    (folder / "roc.png").write_bytes(PNG)
    (folder / "text.png").write_text("no picture")
    (tmp_path / "secret.png").write_bytes(PNG)
    return folder


def test_groups_with_intervals_and_gap(evaluation):
    (table,) = group_tables(collect([evaluation]).evaluations[0])
    assert table.title == "ver by gender"
    assert [name for name, _ in table.columns] == ["gender", "F", "<M>", "gap"]
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["n", "40", "50", ""],
        ["accuracy", "0.9100 [0.850, 0.950]", "0.9700", "0.0600 (worst: F)"],
        ["fmr", "0.0210 [0.010, 0.030]", "n/a", "n/a"],
    ]


def test_many_groups_are_rows(evaluation):
    found = read_json(evaluation / "metrics.json")
    deciles = {f"{i:02d}": group(9, estimate(i / 10), estimate(0.5)) for i in range(1, 11)}
    write_json(evaluation / "metrics.json", {**found, "groups": {"density_decile": deciles}, "spread": {}})
    (table,) = group_tables(collect([evaluation]).evaluations[0])
    assert [name for name, _ in table.columns] == ["density_decile", "n", "accuracy", "fmr"]
    assert [cell.text for cell in table.rows[3]] == ["04", "9", "0.4000", "0.5000"]
    assert len(table.rows) == 10


def test_plots_of_the_folder_are_in_the_page_itself(evaluation, tmp_path):
    (image,) = plots(collect([evaluation]).evaluations[0])
    assert image.title == "ver: roc"
    assert image.caption == "Drawn by kdbias evaluate: protocol knn, 90 queries."
    report(evaluation, tmp_path / "r.html")
    html = (tmp_path / "r.html").read_text()
    sources = re.findall(r'<img src="([^"]*)"', html)
    assert sources == [f"data:image/png;base64,{base64.b64encode(PNG).decode()}"]
    assert "ver by gender" in html
    assert "&lt;M&gt;" in html
    assert '<h2 id="students">Evaluations</h2>' in html


def test_many_students_are_put_together_by_scheme(outputs, tmp_path):
    shutil.copytree(outputs.root, tmp_path / "all")
    for file in (tmp_path / "all").glob("evaluations/*/metrics.json"):
        scheme, seed = file.parent.name.split("-")
        value = {"natural": 0.5, "equilibrium": 0.7}[scheme] + 0.01 * int(seed)
        tail = {"n": 9, "metrics": {"centroid_balanced_accuracy": estimate(value)}}
        write_json(file, {**read_json(file), "groups": {"frequency": {"tail": tail}}})
        record = file.with_name("run.json")
        moved = read_json(record)
        moved["paths"]["model"] = str(tmp_path / "all" / "students" / file.parent.name)
        write_json(record, moved)
    report(tmp_path / "all", tmp_path / "r.html", pictures=0)
    html = (tmp_path / "r.html").read_text()
    table = html.partition("<h3>Students by frequency</h3>")[2].partition("</table>")[0]
    assert re.findall(r"<td[^>]*>([^<]*)</td>", table) == [
        *("tail", "natural", "51.0 ± 1.0"),
        *("tail", "equilibrium", "71.0 ± 1.0"),
    ]


@pytest.mark.parametrize(
    ("metric", "better"),
    [(name, "lower") for name in ("std_percent", "ser", "gap", "fmr", "fnmr", "eer", "squared_distance")]
    + [(name, "higher") for name in ("accuracy", "mAP", "rank1", "tar_0.001")],
)
def test_the_best_student_is_the_one_that_the_protocol_calls_better(metric, better):
    values = {metric: {"natural": [2.0], "even": [1.0]}}
    assert shown_measures(values)[metric].better == better
    table = students_table(values)
    assert table is not None
    best = {row[0].text: row[2].best for row in table.rows}
    assert best == {"natural": better == "higher", "even": better == "lower"}
