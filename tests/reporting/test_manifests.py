"""A page shows what a weight manifest says of itself where uniformity did not measure it."""

import re
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from kdbias.reporting import report
from kdbias.tables import provenance
from kdbias.tables.density_table import read_density
from kdbias.tables.documents import read_json, write_json
from kdbias.tables.joins import encode
from kdbias.tables.weight_manifest import mean_one, write_manifest
from kdbias.weighting.diagnostics import summary


@pytest.fixture(params=[4.0])
def walk(outputs, tmp_path, request):
    """A density that measured natural sampling only, and an equilibrium that was made from it."""
    shutil.copytree(outputs["density"], tmp_path / "density")
    numbers = read_json(tmp_path / "density" / "uniformity.json")
    numbers["schemes"] = numbers["schemes"][:1]
    write_json(tmp_path / "density" / "uniformity.json", numbers)
    weights = mean_one(np.r_[np.zeros(7), np.linspace(0.5, 2, len(outputs.ids) - 7)])
    ids, labels = pa.array(outputs.ids), pa.array(outputs.labels)
    doc = provenance.document(
        "weights",
        {"method": "equilibrium", "t": request.param},
        {"density": read_density(outputs["density"]).fingerprint},
        {"samples": len(ids)},
        0.1,
        numbers=summary(weights, weights, encode(labels)[0]),
        solver={"energy_before": 1 / 62.9, "energy": 1 / 381.8},
    )
    write_manifest(tmp_path / "w.parquet", ids, labels, {}, outputs.log_density, weights, doc)
    return tmp_path


def cells_of(html):
    """The only row of the table of manifests."""
    body = html.partition("<h3>Weight manifests</h3>")[2].partition("<tbody>")[2].partition("</tbody>")[0]
    return [re.sub("<.*?>", "", cell).strip() for cell in re.findall("<td.*?</td>", body, re.DOTALL)]


def test_before_and_after_stand_in_the_tiles_and_a_table(walk):
    report([walk / "density", walk / "w.parquet"], walk / "r.html", pictures=0)
    html = (walk / "r.html").read_text()
    assert "<b>381.8</b><span>distinct samples under “w” (t = 4; ESS/n 82 %)</span>" in html
    assert cells_of(html) == ["w", "equilibrium", "4", "62.9", "381.8", "82.1 %", "1.73", "7", "2.8"]
    assert 'id="ess0"' not in html  # natural alone trades nothing off
    assert "sample size below" not in html


@pytest.mark.parametrize("walk", [[2.0, 4.0]], indirect=True)
def test_a_mean_kernel_is_named_and_not_taken_for_the_densitys_bandwidth(walk):
    report([walk / "density", walk / "w.parquet"], walk / "r.html", pictures=0)
    html = (walk / "r.html").read_text()
    assert cells_of(html)[:5] == ["w", "equilibrium", "2,4", "62.9", "381.8"]
    assert "<b>381.8</b>" not in html


def test_a_measured_manifest_is_shown_once(walk):
    numbers = read_json(walk / "density" / "uniformity.json")
    numbers["schemes"].append({**numbers["schemes"][0], "name": "w"})
    write_json(walk / "density" / "uniformity.json", numbers)
    report([walk / "density", walk / "w.parquet"], walk / "r.html", pictures=0)
    assert "<h3>Weight manifests</h3>" not in (walk / "r.html").read_text()


def test_an_edited_manifest_is_shown_as_it_is_now(walk):
    """D is not known of it, and what pandas carried along of the original is not said of it."""
    frame = pd.read_parquet(walk / "w.parquet")
    frame.loc[frame.label == "common", "weight"] = 0
    frame.to_parquet(walk / "w.parquet")
    report([walk / "density", walk / "w.parquet"], walk / "r.html", pictures=0)
    html = (walk / "r.html").read_text()
    cells = cells_of(html)
    assert cells[:5] == ["w", "equilibrium, edited since", "4", "n/a", "n/a"]
    share = frame.weight.sum() ** 2 / (frame.weight**2).sum() / len(frame)
    assert cells[5] == f"{100 * share:.1f} %"
    assert cells[7] == "60"
    assert "381.8" not in html
    assert "<dt>edited since</dt>" in html


def test_a_manifest_with_rows_left_out_is_an_edited_one(walk):
    frame = pd.read_parquet(walk / "w.parquet")
    frame[frame.weight > 1].to_parquet(walk / "w.parquet")
    report([walk / "density", walk / "w.parquet"], walk / "r.html", pictures=0)
    cells = cells_of((walk / "r.html").read_text())
    assert cells[1] == "equilibrium, edited since"
    assert cells[7] == "0"
