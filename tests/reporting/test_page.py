"""The page: everything in one file, no script but its own, nothing user-provided unescaped, right numbers."""

import base64
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import kdbias
from kdbias.display.quantities import write
from kdbias.display.table import Cell, cell
from kdbias.errors import KdbiasError
from kdbias.measurement.stage import uniformity
from kdbias.measurement.target_summary import verdict
from kdbias.reporting import report, thumbnails
from kdbias.reporting.gathering import collect
from kdbias.tables import provenance
from kdbias.tables.density_table import read_density
from kdbias.tables.documents import read_json, write_json
from kdbias.tables.embedding_table import write_embedding_table
from kdbias.tables.parquet_file import write_table
from tests import reference

_VOID = {"meta", "img", "br", "link", "input", "hr"}


class Outline(HTMLParser):
    """Collects tags, attributes and text, and checks that every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


@pytest.fixture(scope="module")
def page(outputs, tmp_path_factory) -> tuple[str, Outline]:
    target = tmp_path_factory.mktemp("page") / "report.html"
    result = report(outputs.root, target, title="Digits & <b>more</b>", pictures=3)
    assert result.path == target
    assert result.notices == ()
    html = target.read_text(encoding="utf-8")
    return html, Outline(html)


def test_the_page_loads_nothing_and_runs_no_script_but_its_own(page):
    html, outline = page
    tags = {tag for tag, _ in outline.tags}
    assert not tags & {"link", "iframe", "object", "embed", "base", "form"}
    assert [a.get("type") for tag, a in outline.tags if tag == "script"] == ["application/json", "module"]
    policy = next(a["content"] for _, a in outline.tags if a.get("http-equiv") == "Content-Security-Policy")
    own = {
        kind: base64.b64encode(
            hashlib.sha256(re.search(rf"<{tag}>(.*?)</{end}>", html, re.DOTALL).group(1).encode()).digest()
        ).decode()
        for kind, tag, end in (
            ("script-src", 'script type="module"', "script"),
            ("style-src", "style", "style"),
        )
    }
    assert dict(part.split(" ", 1) for part in policy.split("; ")) == {
        "default-src": "'none'",
        **{kind: f"'sha256-{digest}'" for kind, digest in own.items()},
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    for tag, attributes in outline.tags:
        assert "style" not in attributes, tag  # the policy would leave it out
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "href", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:image/")), (tag, name, value)
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)


def test_only_tables_scroll_sideways(page):
    html, _ = page
    assert html.count("<table>") == html.count('role="region"') > 0
    assert re.search(r"^\.wide {[^}]*overflow-x: auto", html, re.MULTILINE)
    assert re.search(r"^body {[^}]*overflow-wrap: break-word", html, re.MULTILINE)


def test_user_text_is_escaped_everywhere(page, outputs):
    html, outline = page
    assert html.count("<script") == 2  # the map's numbers and the page's own
    assert "<b>more</b>" not in html
    assert "\\u003cscript\\u003ealert(" in html  # the label among the map's numbers
    assert "Digits & <b>more</b>" in outline.text  # shown as it was given
    assert '<script>alert("x")</script>&' in outline.text  # a label of the fixture, under its pictures


def test_numbers_in_the_tables_are_those_of_the_files(page, outputs):
    _, outline = page
    numbers = read_json(outputs["density"] / "uniformity.json")
    for scheme in numbers["schemes"]:
        for b in scheme["bandwidths"]:
            assert f"{b['uniformity']:.4f}" in outline.text
            assert f"{b['effective_distinct']:,.1f}" in outline.text
        assert f"{100 * scheme['ess'] / numbers['n']:.1f} %" in outline.text
    assert "62.5 %" in outline.text  # rectification of the fixture's equilibrium at t = 4
    assert "n/a" in outline.text  # and at t = 2, where it is null
    assert "72.0 ± 2.0" in outline.text  # mean and ddof-1 spread of .70 .72 .74
    assert "82.0 ± 2.6" in outline.text
    assert "0.4100 ± 0.0100" in outline.text
    assert "72.0 ± 2.0 → 82.0 ± 2.6" in outline.text  # the first thing to see of students


@pytest.mark.parametrize(
    ("equilibrium", "bold"),
    [((0.70, 0.72, 0.74), ["72.0 ± 2.0", "72.0 ± 2.0"]), ((0.60, 0.61, 0.62), ["72.0 ± 2.0"])],
)
def test_where_natural_is_best_or_tied_the_page_says_that_nothing_beats_it(
    outputs, tmp_path, equilibrium, bold
):
    for seed, value in enumerate(equilibrium):
        for scheme in ("natural", "equilibrium"):
            shutil.copytree(outputs["evaluations"] / f"{scheme}-{seed}", tmp_path / f"{scheme}-{seed}")
        file = tmp_path / f"equilibrium-{seed}" / "metrics.json"
        found = read_json(file)
        found["metrics"]["centroid_balanced_accuracy"]["value"] = value
        write_json(file, found)
    manifests = [outputs["natural.parquet"], outputs["equilibrium.parquet"]]
    report([outputs["students"], *manifests, *sorted(tmp_path.iterdir())], tmp_path / "r.html")
    html = (tmp_path / "r.html").read_text()
    assert "natural → “equilibrium”, mean ± standard deviation over seeds; no other sampling beats" in html
    table = html.partition("<h3>Students</h3>")[2].partition("</table>")[0]
    marked = re.findall(r'<td class="[^"]*best[^"]*">\s*([^<]*?)\s*</td>', table)
    assert [text for text in marked if len(text) == len(bold[0])] == bold


def rectification(value, reason=None):
    return cell({"rectification": value, "rectification_reason": reason}, "rectification")


def test_a_rectification_far_below_natural_is_shown_short_and_noted_in_full():
    assert rectification(-216.981) == Cell("< -999 %", True, note="-21,698.1 %")
    assert rectification(None, "why") == Cell("n/a", True, note="why")
    assert rectification(0.625) == Cell("62.5 %", True)


def test_every_figure_has_axis_labels_and_a_caption(page):
    html, _ = page
    figures = re.findall(r"<figure.*?</figure>", html, re.DOTALL)
    assert len(figures) == 9
    for figure in figures:
        assert len(re.search(r"<figcaption>(.*?)</figcaption>", figure, re.DOTALL).group(1)) > 80
        for panel in re.findall(r"<svg.*?</svg>", figure, re.DOTALL):
            texts = re.findall(r"<text[^>]*>([^<]*)</text>", panel)
            assert len([t for t in texts if re.search(r"[a-z]{3}", t)]) >= 2, figure[:80]
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))


def test_placeholder_colours_never_reach_the_page(page):
    assert not re.search(r"#0101\d\d|#0102\d\d", page[0])
    assert "prefers-color-scheme: dark" in page[0]


def test_pictures_show_the_extremes_and_skip_the_unreadable(page, outputs):
    html, _ = page
    strips = re.findall(r'<section class="strip">.*?</section>', html, re.DOTALL)
    titles = [re.search(r"<h3>(.*?)</h3>", s).group(1) for s in strips]
    assert titles == [
        "Most crowded",
        "Most isolated",
        "Most drawn by “equilibrium”",
        "Least drawn by “equilibrium”",
    ]
    ids = [re.findall(r'alt="sample ([^"]+)"', s) for s in strips]
    order = [i for i in np.argsort(-outputs.log_density, kind="stable") if i != 5]  # picture 5 is broken
    assert ids[0][0] == outputs.ids[order[0]]
    assert ids[1][0] == outputs.ids[order[-1]]
    assert ids[2][0] == outputs.ids[int(np.argmax(outputs.weights["equilibrium"]))]
    assert ids[3][0] == outputs.ids[0]  # its weight is zero
    tenth = {outputs.ids[i] for i in [*order, 5][:9]}
    assert set(ids[0]) < tenth  # not the first three, but of the most crowded tenth
    assert len({outputs.labels[outputs.ids.index(i)] for i in ids[2]}) == 2  # both labels of that tenth
    assert outputs.ids[5] not in {i for strip in ids for i in strip}


def test_pictures_of_equal_weight_are_chosen_by_density():
    log_density, w = np.array([-2.0, -1.0, -4.0, -3.0]), {"w": np.array([0.0, 0.0, 2.0, 2.0])}
    found = thumbnails.telling(log_density, w, np.arange(4), 1)
    assert [strip.rows.tolist() for strip in found] == [[1], [2], [2], [1]]


def test_pictures_can_be_left_out(outputs, tmp_path):
    report(outputs.root, tmp_path / "r.html", pictures=0)
    html = (tmp_path / "r.html").read_text()
    assert "<img" not in html
    assert "data:image" not in html
    assert "Most crowded" not in html


def test_provenance_names_version_config_fingerprint_and_counts(page, outputs):
    _, outline = page
    record = read_json(outputs["density"] / "run.json")
    assert record["inputs"]["embeddings"] in outline.text
    assert str(outputs["density"]) in outline.text
    assert '"k": 5' in outline.text
    assert "count: samples" in outline.text


def test_a_density_folder_brings_its_manifests_and_embeddings_along(outputs, tmp_path):
    found = collect([outputs["density"]])
    assert [m.name for m in found.manifests] == ["equilibrium"]
    assert [e.path for e in found.embeddings] == [outputs["emb"]]
    moved = tmp_path / "moved"
    shutil.copytree(outputs["density"], moved)
    table = read_density(moved).table
    doc = provenance.from_schema(table.schema, "table")
    write_table(moved / "density.parquet", table, {**doc, "embeddings": "/gone"})
    result = report(moved, tmp_path / "r.html")
    assert result.inputs == 1
    assert "its embedding table is not here" in result.notices[0]


def test_runs_and_evaluations_are_linked_to_their_manifest(outputs):
    found = collect([outputs.root])
    assert {run.scheme for run in found.runs} == {"natural", "equilibrium"}
    for evaluation in found.evaluations:
        assert evaluation.run is not None
        assert evaluation.run.path.name == evaluation.path.name


def test_an_evaluation_of_a_table_is_linked_to_the_run_that_made_it(outputs, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(outputs.root, moved)
    made_by = moved / "students" / "natural-0"
    table = read_json(moved / "emb" / "run.json")
    write_json(moved / "emb" / "run.json", {**table, "teacher": f"run:{made_by}"})
    file = moved / "evaluations" / "equilibrium-1" / "run.json"
    record = read_json(file)
    judged = {"paths": {}, "inputs": {"model": table["fingerprint"]}}
    write_json(file, {**record, **judged})
    linked = [e.run.path for e in collect([moved]).evaluations if e.path == file.parent]
    assert linked == [made_by]


def test_links_survive_moving_the_whole_folder(outputs, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(outputs.root, moved)
    for record in moved.glob("evaluations/*/run.json"):  # as if the first place were gone
        document = read_json(record)
        document["paths"]["model"] = document["paths"]["model"].replace(str(outputs.root), "/gone")
        write_json(record, document)
    found = collect([moved])
    assert all(e.run is not None and e.run.path.is_relative_to(moved) for e in found.evaluations)


def test_a_single_manifest_or_run_is_enough(outputs, tmp_path):
    assert report(outputs["equilibrium.parquet"], tmp_path / "a.html").inputs == 1
    assert report(outputs["students"] / "natural-0", tmp_path / "b.html").inputs == 1
    assert report([outputs["emb"], outputs["evaluations"] / "natural-0"], tmp_path / "c.html").inputs == 2
    assert "0.7000" in (tmp_path / "c.html").read_text()


def test_unfinished_outputs_are_named_not_shown(outputs, tmp_path):
    shutil.copytree(outputs["density"], tmp_path / "half")
    record = read_json(tmp_path / "half" / "run.json")
    write_json(tmp_path / "half" / "run.json", {**record, "status": "running"})
    result = report([outputs["emb"], tmp_path / "half"], tmp_path / "r.html")
    assert result.notices == (f"unfinished, not shown: {tmp_path / 'half'}",)
    with pytest.raises(KdbiasError, match="nothing finished"):
        report(tmp_path / "half", tmp_path / "r.html")


def test_bad_input_is_one_line(outputs, tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    for wrong, message in [
        (tmp_path / "missing", "no such file"),
        (tmp_path / "notes.txt", "nothing that kdbias knows"),
        (outputs["density"] / "uniformity.json", "no output to report on"),
        (tmp_path, "no output of kdbias"),
    ]:
        with pytest.raises(KdbiasError, match=message) as caught:
            report(wrong, tmp_path / "r.html")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "r.html").exists()
    with pytest.raises(KdbiasError, match="is a folder"):
        report(outputs["emb"], tmp_path)
    existing = Path(tmp_path / "there.html")
    existing.write_text("mine")
    with pytest.raises(KdbiasError, match="exists already"):
        report(outputs["emb"], existing, overwrite=False)
    assert existing.read_text() == "mine"


def test_no_file_but_an_own_page_is_ever_replaced(outputs, tmp_path):
    manifest = tmp_path / "w.parquet"
    shutil.copy(outputs["equilibrium.parquet"], manifest)
    before = manifest.read_bytes()
    with pytest.raises(KdbiasError, match=r"w\.parquet: the report is an HTML page; name it .*w\.html"):
        report(outputs["emb"], manifest)
    assert manifest.read_bytes() == before
    with pytest.raises(KdbiasError, match="an HTML page"):
        report(outputs["emb"], tmp_path / "r.pdf")
    foreign = tmp_path / "thesis.html"
    foreign.write_text("<!doctype html><title>mine</title>")
    with pytest.raises(KdbiasError, match="no page that kdbias report wrote"):
        report(outputs["emb"], foreign)
    assert foreign.read_text() == "<!doctype html><title>mine</title>"
    for _ in range(2):  # its own page is replaced
        report(outputs["emb"], tmp_path / "page.HTM")


def _map(page: Path) -> dict:
    """What the page's script reads of its map."""
    found = re.search(r'<script type="application/json"[^>]*>(.*?)</script>', page.read_text(), re.DOTALL)
    return json.loads(found.group(1))


def _decoded(text: str, kind: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), kind)


def measured_witness(folder: Path) -> np.ndarray:
    return read_density(folder / "density").witness


def test_a_target_comes_first_with_its_shares_and_its_map(tmp_path):
    x, other = reference.clustered_sphere(60, 6, 3, seed=1), reference.random_sphere(80, 6, 2)
    camera = {"camera": ["left"] * 50 + ["right"] * 10}
    data = write_embedding_table(tmp_path / "emb", [f"a{i}" for i in range(60)], x, groups=camera)
    ref = write_embedding_table(
        tmp_path / "ref", [f"b{i}" for i in range(80)], other, groups={"camera": ["left", "right"] * 40}
    )
    measured = uniformity(data.path, tmp_path / "density", towards=ref.path, rectification="none")
    report([tmp_path / "density"], tmp_path / "r.html", pictures=0)
    text = Outline((tmp_path / "r.html").read_text()).text
    target, natural = (measured.document["target"], measured.document["schemes"][0]["discrepancy"])
    assert verdict(target, natural)[1:] in text
    assert text.index("Against ") < text.index("Uniformity of density")
    assert f"natural {write('discrepancy', natural['value'])}" in text
    assert "right 16.7 % 50.0 % short" in text
    witness = next(f for f in _map(tmp_path / "r.html")["fields"] if f["kind"] == "witness")
    np.testing.assert_allclose(_decoded(witness["values"], "<f4"), measured_witness(tmp_path), rtol=1e-6)
    assert (witness["least"], witness["most"]) == ("short", "over-full")
    ratio = write("noise_ratio", natural["noise_ratio"])
    assert f"{ratio} × the noise of such a reference: how far the data are from “{ref.path}”" in text
    assert "distinct samples they are worth" not in text
    again = uniformity(data.path, tmp_path / "plain", rectification="none")
    report([again.out], tmp_path / "p.html", pictures=0)
    assert "the target" not in Outline((tmp_path / "p.html").read_text()).text


def test_with_a_target_nearness_is_what_is_drawn_and_named_once(tmp_path):
    x, other = reference.clustered_sphere(60, 6, 3, seed=1), reference.random_sphere(80, 6, 2)
    data = write_embedding_table(tmp_path / "emb", [f"a{i}" for i in range(60)], x)
    ref = write_embedding_table(tmp_path / "ref", [f"b{i}" for i in range(80)], other)
    density, spread = tmp_path / "density", tmp_path / "spread.parquet"
    uniformity(data.path, density, towards=ref.path)
    kdbias.weights(density, spread, towards=ref.path)
    measured = uniformity(data.path, density, towards=ref.path, weights=[spread]).document["schemes"][1]
    report([density, spread], tmp_path / "r.html", pictures=0)
    text = Outline((tmp_path / "r.html").read_text()).text
    assert "Distance to the target against effective sample size" in text
    assert "more like the target" in text
    assert "Matching moves mass to where the target has more of it" in text
    assert "above 0 they are over-full of its like, below 0 short of it" in text
    for even in ("Uniformity against effective", "Effective number of distinct", "Rectifying moves"):
        assert even not in text
    # Both shares of a best are there, each under its own name.
    towards = measured["discrepancy"]["rectification"]
    (own,) = (b["rectification"] for b in measured["bandwidths"] if b["rectification"] is not None)
    assert abs(towards - own) > 0.01
    first, second = (text.index(f" {heading} ") for heading in ("of the best", "rectified"))
    assert write("of_the_best", towards) in text[first:second]
    assert write("rectification", own) in text[second:]


def test_the_advice_comes_before_all(tmp_path):
    x, other = reference.clustered_sphere(60, 6, 3, seed=1), reference.random_sphere(80, 6, 2)
    data = write_embedding_table(tmp_path / "emb", [f"a{i}" for i in range(60)], x)
    ref = write_embedding_table(tmp_path / "ref", [f"b{i}" for i in range(80)], other)
    uniformity(data.path, tmp_path / "density", towards=ref.path, rectification="none")
    report(tmp_path / "density", tmp_path / "r.html", pictures=0)
    advice, text = kdbias.advise(tmp_path / "density"), Outline((tmp_path / "r.html").read_text()).text
    assert text.index(" ".join(advice.verdict.split())) < text.index("samples measured")
    assert all(" ".join(command.split()) in text for command in advice.commands)


def test_the_advice_is_about_the_manifest_on_the_page_where_that_is_the_advised_one(tmp_path):
    x, other = reference.clustered_sphere(60, 6, 3, seed=1), reference.random_sphere(80, 6, 2)
    data = write_embedding_table(tmp_path / "emb", [f"a{i}" for i in range(60)], x)
    ref = write_embedding_table(tmp_path / "ref", [f"b{i}" for i in range(80)], other)
    density = uniformity(data.path, tmp_path / "density", towards=ref.path, rectification="none").out
    spread, even = tmp_path / "spread.parquet", tmp_path / "even.parquet"
    made = kdbias.weights(density, spread, towards=ref.path, min_ess=0.9)
    assert made.numbers["ess_share"] == pytest.approx(0.9, abs=1e-3)
    kdbias.weights(density, even)
    report([density, even, spread], tmp_path / "r.html", pictures=0)
    text = Outline((tmp_path / "r.html").read_text()).text
    assert "keep an effective sample size of 90.0 %" in text
    assert f"--weights {spread}" in text
    assert "-o weights.parquet" not in text[: text.index("samples measured")]
    report([density, even], tmp_path / "e.html", pictures=0)
    text = Outline((tmp_path / "e.html").read_text()).text
    assert "keep an effective sample size of 90.0 %" not in text
    assert "-o weights.parquet" in text[: text.index("samples measured")]
