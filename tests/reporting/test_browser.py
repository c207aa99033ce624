"""The page as readers meet it: pointed at, enlarged, lassoed, sorted, filtered; by mouse or keys."""

import io
import re
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from kdbias.measurement.stage import uniformity
from kdbias.reporting import report
from kdbias.tables.embedding_table import write_embedding_table
from tests import reference
from tests.reporting.browser import browser, opened

ATTACKS = [
    '</script><script>alert("x")</script>',
    '"><img src=x onerror=alert(1)>',
    "<svg onload=alert(1)>",
    "]]><!--",
    "{{ 7*7 }}",
    "javascript:alert(1)",
    "\u202egnp.exe",
    "'; DROP TABLE samples; --",
    "</style><style>*{display:none}</style>",
    "\u2028\u2029",
]


@pytest.fixture(scope="module")
def chromium():
    with browser() as running:
        yield running


@pytest.fixture(scope="module")
def page(outputs, tmp_path_factory):
    """A page about all outputs of the fixture."""
    target = tmp_path_factory.mktemp("browser") / "report.html"
    report(outputs.root, target, map_pictures=40)
    return target


def dots(tab):
    """Every sample's place on the screen, as the script computes it: from its own coordinates."""
    return tab.evaluate(
        """() => {
      const given = JSON.parse(document.querySelector('script[type="application/json"]').textContent);
      const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
      const read = (text) => Array.from(new Uint16Array(bytes(text).buffer));
      const [x, y] = [read(given.x), read(given.y)];
      const box = document.querySelector('.stage canvas').getBoundingClientRect();
      const unit = Math.min(box.width, box.height) - 24;
      return x.map((v, i) => [box.left + box.width / 2 + (v / 65535 - .5) * unit,
                              box.top + box.height / 2 - (y[i] / 65535 - .5) * unit]);
    }"""
    )


def into_view(tab):
    tab.locator(".stage").scroll_into_view_if_needed()
    tab.evaluate("document.querySelector('.stage').scrollIntoView({block: 'center'})")
    return dots(tab)


def rows(tab):
    """Texts of the sample table."""
    return tab.locator(".tall tbody tr").evaluate_all(
        "rows => rows.map(r => [...r.cells].map(c => c.innerText))"
    )


def shaded(element, column):
    """Whether a column of an element's pixels, most of them ground, is of another colour than most of it."""
    pixels = np.asarray(Image.open(io.BytesIO(element.screenshot())).convert("L")).astype(float)
    return abs(np.median(pixels[:, column]) - np.median(pixels)) > 8


def lasso(tab, points):
    tab.mouse.move(*points[0])
    tab.mouse.down()
    for point in [*points[1:], points[0]]:
        tab.mouse.move(*point, steps=3)
    tab.mouse.up()


def test_pointing_at_a_dot_says_what_it_is(chromium, page, outputs):
    with opened(chromium, page) as tab:
        alone = max(range(len(outputs.ids)), key=lambda i: -outputs.log_density[i])  # the most isolated one
        place = into_view(tab)[alone]
        tab.mouse.move(*place)
        tip = tab.locator(".tip")
        text = tip.inner_text()
        assert outputs.ids[alone] in text
        assert f"label: {outputs.labels[alone]}" in text
        assert f"log density: {outputs.log_density[alone]:.3f}" in text
        assert f"×{outputs.weights['equilibrium'][alone]:.3g}" in text
        assert "camera: cam" in text
        tab.mouse.move(place[0], place[1] - 500)
        assert tip.is_hidden()


def test_a_lasso_lists_what_it_caught_with_its_groups(chromium, page, outputs):
    with opened(chromium, page) as tab:
        places = np.array(into_view(tab))
        x0 = float(np.median(places[:, 0]))
        box = tab.locator(".stage canvas").bounding_box()
        left, top, bottom = box["x"] + 2, box["y"] + 2, box["y"] + box["height"] - 2
        lasso(tab, [(left, top), (x0, top), (x0, bottom), (left, bottom)])
        caught = [outputs.ids[i] for i in range(len(places)) if places[i, 0] < x0]
        heading = tab.locator(".caught h4").inner_text()
        assert heading.startswith(f"{len(caught)} of 90 samples selected")
        column = 1  # after the picture
        assert sorted(line[column] for line in rows(tab)) == sorted(caught)[:50]
        cameras = (
            tab.get_by_role("region", name="Selected samples by camera").locator("tbody tr").all_inner_texts()
        )
        told = {line.split()[0]: int(line.split()[1]) for line in cameras}
        assert told == {f"cam{k}": sum(int(i[4:7]) % 2 == k for i in caught) for k in (0, 1)}
        mean = np.mean([outputs.log_density[outputs.ids.index(i)] for i in caught])
        assert f"{mean:.3f}" in tab.locator(".caught").inner_text()
        with tab.expect_download() as saved:
            tab.get_by_role("button", name="Save the ids").click()
        assert sorted(saved.value.path().read_text().split()) == sorted(caught)
        tab.get_by_role("button", name="Clear selection").click()
        assert tab.locator(".caught h4").count() == 0


def test_the_map_is_enlarged_and_moved(chromium, page, outputs):
    with opened(chromium, page) as tab:
        places = into_view(tab)
        alone = int(np.argmin(outputs.log_density))
        tab.mouse.move(*places[alone])
        tab.keyboard.down("Control")
        tab.mouse.wheel(0, -600)
        tab.keyboard.up("Control")
        tab.mouse.move(places[alone][0] + 1, places[alone][1])
        assert outputs.ids[alone] in tab.locator(".tip").inner_text()  # it stays under the pointer
        tab.get_by_role("button", name="Move").click()
        lasso(tab, [places[alone], (places[alone][0] + 25, places[alone][1])][:2])
        tab.get_by_role("button", name="Show all").click()
        tab.mouse.move(*places[alone])
        assert outputs.ids[alone] in tab.locator(".tip").inner_text()


def test_the_colours_on_the_screen_are_those_of_the_key(chromium, page, outputs):
    """The dot of the most isolated sample has the colour at the end that the key calls isolated."""
    with opened(chromium, page) as tab:
        place = into_view(tab)[int(np.argmin(outputs.log_density))]
        seen = tab.evaluate(
            """([x, y]) => {
          const canvas = document.querySelector('.stage canvas');
          const box = canvas.getBoundingClientRect();
          const ratio = canvas.width / box.width;
          const at = [(x - box.left) * ratio, (y - box.top) * ratio];
          return [...canvas.getContext('2d').getImageData(...at, 1, 1).data];
        }""",
            place,
        )
        ends = tab.locator(".scale canvas").evaluate(
            """c => { const seen = [...c.getContext('2d').getImageData(0, 0, c.width, 1).data];
                      return [seen.slice(0, 4), seen.slice(-4)]; }"""
        )
        assert tab.locator(".scale span").all_inner_texts()[0].startswith("isolated (")
        assert np.abs(np.subtract(seen[:3], ends[0][:3])).max() < 12
        assert np.abs(np.subtract(seen[:3], ends[1][:3])).max() > 60
        tab.get_by_label("Colour by").select_option(label="weight: equilibrium")
        assert tab.locator(".scale span").all_inner_texts()[0].startswith("drawn less (÷")
        tab.get_by_label("Colour by").select_option(label="camera")
        tab.get_by_role("button", name="cam1 (45)").click()
        assert tab.locator(".caught h4").inner_text().startswith("45 of 90")


def test_samples_are_sorted_filtered_and_turned_over(chromium, page, outputs):
    with opened(chromium, page) as tab:
        region = tab.get_by_role("region", name="Samples of the map")
        region.get_by_role("button", name="log density").click()
        order = np.argsort(-outputs.log_density, kind="stable")
        assert [line[1] for line in rows(tab)] == [outputs.ids[i] for i in order[:50]]
        region.get_by_role("button", name="log density").click()
        assert region.locator("th[aria-sort]").get_attribute("aria-sort") == "ascending"
        assert [line[1] for line in rows(tab)] == [outputs.ids[i] for i in order[::-1][:50]]
        tab.get_by_role("button", name="Next").click()
        assert [line[1] for line in rows(tab)] == [outputs.ids[i] for i in order[::-1][50:]]
        tab.get_by_label("Filter the samples").fill("rare cam1")
        wanted = [i for i in order[::-1] if outputs.labels[i] == "rare" and i % 2]
        assert [line[1] for line in rows(tab)] == [outputs.ids[i] for i in wanted]
        tab.get_by_label("Filter the samples").fill("no such thing")
        assert rows(tab) == []


def test_the_tables_of_the_page_are_sorted_and_filtered(chromium, page):
    with opened(chromium, page) as tab:
        table = tab.get_by_role("region", name="Uniformity of density")
        read = "rows => rows.filter(r => !r.hidden).map(r => r.cells[2].innerText)"
        table.get_by_role("button", name=re.compile("^U")).click()
        values = [float(text) for text in table.locator("tbody tr").evaluate_all(read)]
        assert values == sorted(values, reverse=True)
        table.get_by_role("button", name=re.compile("^U")).press("Enter")
        assert [float(text) for text in table.locator("tbody tr").evaluate_all(read)] == sorted(values)
        many = tab.get_by_role("region", name="All evaluations")
        if many.count():
            assert many.locator("tbody tr:visible").count() <= 12


def test_the_map_is_read_by_keys_alone(chromium, page, outputs):
    with opened(chromium, page) as tab:
        map_ = tab.get_by_role("application")
        map_.focus()
        seen = set()
        for key in ("ArrowRight", "ArrowRight", "ArrowUp", "ArrowLeft", "ArrowDown"):
            tab.keyboard.press(key)
            told = tab.locator(".explorer p[role=status]").inner_text()
            assert told.split(",")[0] in outputs.ids  # said to a screen reader
            seen.add(told.split(",")[0])
        assert len(seen) >= 2
        tab.keyboard.press("+")
        tab.keyboard.press(" ")
        assert tab.locator(".caught h4").inner_text().startswith("50 of 90")
        tab.keyboard.press("Escape")
        assert tab.locator(".caught h4").count() == 0
        tab.keyboard.press("Enter")
        assert tab.locator(".caught h4").inner_text().startswith("1 of 90")
        reached = set()
        for _ in range(60):
            tab.keyboard.press("Tab")
            reached.add(tab.evaluate("document.activeElement.tagName"))
        assert {"BUTTON", "INPUT", "DIV"} <= reached  # nothing holds the focus back
        unnamed = tab.evaluate(
            """[...document.querySelectorAll('button, input, select, canvas, img, [role=region]')]
               .filter(e => !e.hidden && e.getAttribute('aria-hidden') !== 'true')
               .filter(e => !e.textContent.trim() && !e.getAttribute('aria-label') && !e.alt)
               .filter(e => !e.labels?.length).map(e => e.outerHTML.slice(0, 90))"""
        )
        assert unnamed == []


@pytest.mark.parametrize("look", [{"color_scheme": "light"}, {"color_scheme": "dark"}])
def test_on_a_telephone_nothing_hangs_over_the_edge(chromium, page, look):
    with opened(chromium, page, width=390, has_touch=True, is_mobile=True, **look) as tab:
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
        into_view(tab)
        tab.get_by_label("Colour by").select_option(label="label")
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
        cut = "[...document.querySelectorAll('pre')].filter(e => e.scrollWidth > e.clientWidth).length"
        assert tab.evaluate(cut) == 0


@pytest.mark.parametrize("look", [{"color_scheme": "light"}, {"color_scheme": "dark"}])
def test_a_shade_tells_at_which_end_a_table_goes_on(chromium, page, look):
    with opened(chromium, page, width=390, **look) as tab:
        table = tab.locator(".explorer .wide").first
        assert table.evaluate("e => e.scrollWidth > e.clientWidth")
        assert [shaded(table, edge) for edge in (3, -4)] == [False, True]
        table.evaluate("e => e.scrollLeft = e.scrollWidth")
        assert [shaded(table, edge) for edge in (3, -4)] == [True, False]


def test_on_paper_the_colours_are_those_of_paper_and_nothing_is_cut(chromium, page, tmp_path):
    with opened(chromium, page, color_scheme="dark") as tab:
        tab.emulate_media(media="print", color_scheme="dark")
        assert tab.evaluate("getComputedStyle(document.body).color") == "rgb(29, 33, 38)"
        assert tab.locator(".explorer .tools").first.is_hidden()
        assert tab.get_by_text("Nothing is selected").first.is_hidden()
        folded = "document.querySelectorAll('details:not([open]):not(.keys)').length"
        before = tab.evaluate(folded)
        assert before
        tab.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert tab.evaluate(folded) == 0
        wide = "[...document.querySelectorAll('pre')].filter(e => e.scrollWidth > e.clientWidth).length"
        tab.set_viewport_size({"width": 718, "height": 1000})  # A4
        assert tab.evaluate(wide) == 0
        tab.evaluate("dispatchEvent(new Event('afterprint'))")
        assert tab.evaluate(folded) == before
        tab.pdf(path=tmp_path / "r.pdf")
    assert (tmp_path / "r.pdf").read_bytes().startswith(b"%PDF")


def test_ids_labels_and_groups_are_never_markup(chromium, tmp_path):
    n = len(ATTACKS) * 4
    ids = [f"{ATTACKS[i % len(ATTACKS)]} {i}" for i in range(n)]
    labels = [ATTACKS[i % len(ATTACKS)] for i in range(n)]
    groups = {ATTACKS[0]: [ATTACKS[(i + 3) % len(ATTACKS)] for i in range(n)]}
    x = reference.clustered_sphere(n, 6, 3, seed=1)
    pictures = pa.array([b"none"] * n, pa.binary())
    pq.write_table(pa.table({"sample_id": ids, "image": pictures}), tmp_path / "data.parquet")
    data = write_embedding_table(tmp_path / ATTACKS[2], ids, x, labels, groups=groups)
    uniformity(data.path, tmp_path / "density", rectification="none")
    report(tmp_path / "density", tmp_path / "r.html", title=ATTACKS[0])
    with opened(chromium, tmp_path / "r.html") as tab:
        for i, place in enumerate(into_view(tab)[:10]):
            tab.mouse.move(*place)
            tab.mouse.click(*place)
            assert i >= 0
        for k in range(tab.get_by_label("Colour by").locator("option").count()):
            tab.get_by_label("Colour by").select_option(index=k)
        tab.get_by_role("button", name="Clear selection").click()
        assert tab.locator(".explorer img, .explorer svg, .explorer script").count() == 0
        assert tab.evaluate("document.scripts.length") == 2
        assert tab.locator("h1").inner_text() == ATTACKS[0]
        shown = [line[0] for line in rows(tab)]
        assert shown[:5] == ids[:5]  # as they were given


def test_without_its_script_the_page_still_tells(chromium, page):
    with opened(chromium, page, java_script_enabled=False) as tab:
        assert tab.get_by_text("does not run here").is_visible()
        assert tab.get_by_role("region", name="Uniformity of density").is_visible()


def test_the_largest_page_stays_small(tmp_path, monkeypatch):
    """10,000 samples on the map, each with a picture that compresses badly."""
    n, rng = 12_000, np.random.default_rng(0)
    from kdbias.reporting import sheets

    x = rng.normal(size=(n, 3)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    ids = [
        f"a/rather/long/path/of/a/photograph/{i % 97}/{rng.integers(1 << 60):x}-{i:06d}.jpeg"
        for i in range(n)
    ]
    groups = {name: [f"{name}{i % 9}" for i in range(n)] for name in ("camera", "site", "age")}
    data = write_embedding_table(
        tmp_path / "emb", ids, x, [f"person {i % 4000}" for i in range(n)], groups=groups
    )
    uniformity(data.path, tmp_path / "density", rectification="none", k=5)
    from PIL import Image

    noise = [Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)) for _ in range(8)]
    monkeypatch.setattr(sheets, "_tile", lambda source, row: noise[row % 8])
    found = sheets.sheets(None, np.arange(10_000), 10_000)
    size = sum(map(len, found.document["sheets"]))
    report(tmp_path / "density", tmp_path / "r.html", pictures=0)
    size += (tmp_path / "r.html").stat().st_size
    assert size < 4.5e6
    assert "10,000 of 12,000 samples" in (tmp_path / "r.html").read_text()
    shutil.rmtree(tmp_path / "emb")
