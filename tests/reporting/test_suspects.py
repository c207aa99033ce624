"""What looks wrong, on the page: counted, with pictures, on the map; and why there is no verdict."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

import kdbias
from tests.reporting.browser import browser, opened

TEACHER = "python:tests.pinned.teacher:factory"
BLANK = ("b/blank_0.png", "b/blank_1.png")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Sixty pictures of noise, two of one colour, and two that are the same but for their ids."""
    root = tmp_path_factory.mktemp("suspects")
    rng = np.random.default_rng(0)
    for folder in "ab":
        (root / "photos" / folder).mkdir(parents=True)
        for i in range(30):
            pixels = rng.normal(100, 60, (12, 12)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / "photos" / folder / f"{i:02d}.png")
    for i, name in enumerate(BLANK):
        Image.new("L", (12, 12), 90 + 80 * i).save(root / "photos" / name)
    shutil.copy(root / "photos" / "a" / "00.png", root / "photos" / "a" / "again.png")
    options = {"teacher": TEACHER, "workers": 0, "device": "cpu", "threads": 1}
    kdbias.run(root / "photos", root / "out", **options)
    return root


@pytest.fixture(scope="module")
def page(made):
    return (made / "out" / "report.html").read_text()


def test_the_page_lists_suspects_with_their_pictures(page):
    assert re.search(r"<h3[^>]*>Suspects</h3>", page)
    assert "b/blank_0.png, b/blank_1.png" in page
    strip = page[page.index("Suspects: blank") :][:20_000]
    assert "2 samples, of one colour" in strip
    assert strip.count("data:image/") >= 2


def test_the_map_knows_who_is_suspect_and_whose_copy(page):
    found = re.search(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.DOTALL)
    columns = {column["name"]: column for column in json.loads(found[1])["columns"]}
    assert columns["suspect"]["colours"]
    assert columns["suspect"]["quiet"]
    assert any(value and "blank" in value for value in columns["suspect"]["values"])
    copies = columns["near duplicate of"]
    assert not copies["colours"]
    assert set(copies["values"]) == {None, "a/00.png"}


def test_suspects_are_hovered_filtered_and_coloured(made):
    with browser() as running, opened(running, made / "out" / "report.html") as tab:
        tab.get_by_placeholder("filter samples").fill("blank")
        rows = tab.locator(".tall tbody tr")
        tab.wait_for_function("document.querySelectorAll('.tall tbody tr').length === 2")
        assert {rows.nth(i).locator("button.id").inner_text() for i in range(2)} == set(BLANK)
        rows.first.locator("button.id").click()
        assert re.search(r"suspect: .*blank", tab.locator(".tip").inner_text())
        tab.get_by_placeholder("filter samples").fill("a/03.png")
        tab.locator(".tall tbody tr button.id").first.click()
        assert "suspect:" not in tab.locator(".tip").inner_text()
        tab.locator("select").first.select_option(label="suspect")
        chip = tab.locator(".values button").filter(has_text="blank").first
        chip.click()
        assert "selected" in tab.locator(".caught h4").inner_text()


def test_without_a_verdict_the_page_says_why(made, tmp_path):
    shutil.copytree(made / "out" / "density", tmp_path / "density")
    record = json.loads((tmp_path / "density" / "run.json").read_text())
    assert record
    (made / "out" / "embeddings").rename(made / "out" / "moved")
    try:
        kdbias.report(tmp_path / "density", tmp_path / "page.html")
    finally:
        (made / "out" / "moved").rename(made / "out" / "embeddings")
    page = (tmp_path / "page.html").read_text()
    (line,) = re.findall(r"<p>(no verdict: .*?)</p>", page)
    assert "embeddings" in line
    assert "\n" not in line
