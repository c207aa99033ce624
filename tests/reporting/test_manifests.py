"""A page shows what a weight manifest says of itself where uniformity did not measure it."""

import shutil

import numpy as np
import pyarrow as pa
import pytest

from kdbias.reporting import report
from kdbias.tables import provenance
from kdbias.tables.density_table import read_density
from kdbias.tables.files import read_json, write_json
from kdbias.tables.weight_manifest import write_manifest


@pytest.fixture
def walk(outputs, tmp_path):
    """A density that measured natural sampling only, and an equilibrium that was made from it."""
    shutil.copytree(outputs["density"], tmp_path / "density")
    numbers = read_json(tmp_path / "density" / "uniformity.json")
    numbers["schemes"] = numbers["schemes"][:1]
    write_json(tmp_path / "density" / "uniformity.json", numbers)
    doc = provenance.document(
        "weights",
        {"method": "equilibrium", "t": 4.0},
        {"density": read_density(outputs["density"]).fingerprint},
        {},
        0.1,
        numbers={"ess_share": 0.55, "max_weight": 3.25, "zero_weights": 7, "effective_identities": 2.0},
        solver={"energy_before": 1 / 62.9, "energy": 1 / 381.8},
    )
    weights = np.linspace(0.5, 2, len(outputs.ids))
    ids, labels = pa.array(outputs.ids), pa.array(outputs.labels)
    write_manifest(tmp_path / "w.parquet", ids, labels, {}, outputs.log_density, weights, doc)
    return tmp_path


def test_before_and_after_stand_in_the_tiles_and_a_table(walk):
    report([walk / "density", walk / "w.parquet"], walk / "r.html", pictures=0)
    html = (walk / "r.html").read_text()
    assert "<b>381.8</b><span>distinct samples under “w” (t = 4; ESS 55 %)</span>" in html
    table = html.partition("<h3>Weight manifests</h3>")[2].partition("</table>")[0]
    for shown in ("62.9", "381.8", "55.0 %", "3.25", ">7<"):
        assert shown in table
    assert 'id="ess0"' not in html  # natural alone trades nothing off
    assert "sample size below" not in html


def test_a_measured_manifest_is_shown_once(walk):
    numbers = read_json(walk / "density" / "uniformity.json")
    numbers["schemes"].append({**numbers["schemes"][0], "name": "w"})
    write_json(walk / "density" / "uniformity.json", numbers)
    report([walk / "density", walk / "w.parquet"], walk / "r.html", pictures=0)
    assert "<h3>Weight manifests</h3>" not in (walk / "r.html").read_text()
