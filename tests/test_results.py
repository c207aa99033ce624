"""Results as people meet them in a notebook: HTML, frames and figures."""

import inspect
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image

import kdbias
from kdbias.display.result import Result
from kdbias.embedding.stage import EmbedResult
from kdbias.pipeline.stage import RunResult
from kdbias.progress import bar, say
from kdbias.tables.embedding_table import EmbeddingTable, write_embedding_table
from kdbias.training.loop import TrainingResult

EVIL = "<script>alert('x')</script>"
LABELS = [EVIL, "b & c", "$d_1", "\x1b[31mred"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Results of the public functions on 80 samples whose ids and labels are markup; by name."""
    root = tmp_path_factory.mktemp("results")
    rng = np.random.default_rng(0)
    for name, n in (("emb", 80), ("reference", 40)):
        codes = rng.integers(0, 4, n)
        x = np.eye(4, 8)[codes] * 2 + rng.normal(size=(n, 8))
        ids, labels = [f"{EVIL}-{name}-{i}" for i in range(n)], [LABELS[c] for c in codes]
        columns = {EVIL: pa.array([LABELS[c] for c in codes[::-1]])}
        x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
        write_embedding_table(root / name, pa.array(ids), x, pa.array(labels), columns)
    (root / "w").mkdir()
    weights = kdbias.weights
    found = {
        "embed": EmbedResult(root / "emb", "finished", 80, 0, 8, 1),
        "uniformity": kdbias.uniformity(
            root / "emb", root / "density", k=5, towards=str(root / "reference"), group_by=(EVIL,), threads=1
        ),
        "weights": weights(
            root / "density", root / "w" / f"{EVIL[:8]}.parquet", towards=str(root / "reference")
        ),
        "frontier": kdbias.frontier(root / "density", root / "frontier", floors=(0.5, 0.9), threads=1),
    }
    found["changes"] = kdbias.what_changed(found["weights"].path)
    for side in "ab":
        options = {
            "protocol": "knn",
            "gallery": str(root / "emb"),
            "group_by": (EVIL,),
            "k": {"a": 1, "b": 3}[side],
        }
        found[side] = kdbias.evaluate(root / "reference", root / side, bootstrap=100, **options)
    found["compare"] = kdbias.compare(root / "a", root / "a", bootstrap=100)
    found["report"] = kdbias.report([root / "density"], root / "page.html")
    found["inspect"] = kdbias.inspect(root / "density")
    found["embedding table"] = EmbeddingTable.open(root / "emb")
    found["manifest"] = kdbias.read_manifest(found["weights"].path)
    found["density"] = kdbias.read_density(root / "density")
    found["advise"] = kdbias.advise(root / "density", group_by=(EVIL,))
    run = (root, root / "emb", None, root / "density", found["weights"].path, root / "page.html")
    found["run"] = RunResult(*run, found["advise"])
    found["suspects"] = kdbias.suspects(root / "density", root / "suspects.csv")
    (root / "photos" / "a&b").mkdir(parents=True)
    for i in range(4):
        Image.new("L", (8, 8), 60 * i).save(root / "photos" / "a&b" / f"{i}.png")
    spec = "torchvision:resnet18@random"
    found["new study"] = kdbias.new_study(root / "photos", root / "s.toml", teacher=spec)
    found["data"] = kdbias.open_data(root / "photos")
    return found


def test_whatever_comes_from_data_is_text_in_a_notebook(made: dict[str, Any]) -> None:
    for name, result in made.items():
        html = result._repr_html_()
        assert "<script" not in html, name
        assert "\x1b" not in html, name
        assert re.fullmatch(r'<div class="kdbias">.*</div>', html, re.DOTALL)
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in made["changes"]._repr_html_()


def test_an_interactive_session_shows_the_summary(made: dict[str, Any]) -> None:
    for name, result in made.items():
        assert repr(result) == result.summary(), name
    for block in made["uniformity"].blocks():
        assert (block if isinstance(block, str) else block.text()) in made["uniformity"].summary()


def test_a_result_whose_files_are_gone_still_has_a_repr(made: dict[str, Any], tmp_path: Path) -> None:
    gone = type(made["report"])(tmp_path / "gone.html", 1, ())
    assert "ReportResult" in repr(gone)


def test_every_table_is_shown_as_one(made: dict[str, Any]) -> None:
    rows = ElementTree.fromstring(made["frontier"]._repr_html_()).findall("table/tbody/tr")
    assert [row[0].text for row in rows] == made["frontier"].table["scheme"].to_pylist()


def test_frames_hold_what_lies_on_disk(made: dict[str, Any]) -> None:
    weights = made["weights"].to_pandas()
    stored = pd.read_parquet(made["weights"].path)
    pd.testing.assert_frame_equal(weights, stored)
    assert weights.attrs["kdbias"]["config"]["method"] == "matched"
    pd.testing.assert_frame_equal(made["manifest"].to_pandas(), stored)
    density = pd.read_parquet(made["uniformity"].density_path)
    pd.testing.assert_frame_equal(made["uniformity"].to_pandas(), density)
    embedded = made["embed"].to_pandas()
    assert list(embedded.columns) == ["sample_id", "label", EVIL, "norm"]
    assert len(embedded) == 80
    assert made["frontier"].to_pandas()["ess_share"].is_monotonic_decreasing
    assert made["changes"].to_pandas()["samples"].sum() == 2 * 80


def test_frames_of_metrics_have_a_row_for_each_group(made: dict[str, Any]) -> None:
    document, frame = made["a"].document, made["a"].to_pandas()
    whole = frame[frame["column"].isna()].set_index("metric")
    for name, entry in document["metrics"].items():
        assert whole.loc[name, "value"] == pytest.approx(entry["value"] or np.nan, nan_ok=True)
    group = document["groups"][EVIL][LABELS[1]]
    row = frame[(frame["group"] == LABELS[1]) & (frame["metric"] == "knn_accuracy")].iloc[0]
    assert row["value"] == group["metrics"]["knn_accuracy"]["value"]
    assert row["n"] == group["n"]
    compared = made["compare"].to_pandas()
    assert (compared["difference"].dropna() == 0).all()
    assert set(compared["column"].dropna()) == {EVIL}


@pytest.mark.parametrize(
    ("name", "panels"),
    [
        ("embed", 1),
        ("uniformity", 2),
        ("weights", 2),
        ("frontier", 3),
        ("changes", 2),
        ("a", 1),
        ("embedding table", 1),
        ("manifest", 2),
        ("density", 1),
        ("advise", 1),
        ("run", 2),
        ("compare", 1),
    ],
)
def test_figures_are_drawn_without_pyplot(made: dict[str, Any], name: str, panels: int) -> None:
    figure = made[name].plot()
    assert len(figure.axes) == panels
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_the_figure_of_weights_has_every_sample_in_it(made: dict[str, Any]) -> None:
    histogram, lorenz = made["weights"].plot().axes
    drawn = (made["weights"].to_pandas()["weight"] > 0).sum()
    assert sum(bar.get_height() for bar in histogram.patches) == drawn
    assert lorenz.lines[0].get_ydata()[-1] == pytest.approx(100)


NEITHER = {
    "ReportResult": ("to_pandas", "plot"),
    "Description": ("plot",),
    "NewStudy": ("plot",),
    "Source": ("plot",),
}
"""What these results have not, and say where it is."""


def test_every_public_function_hands_back_a_result_with_rows_and_a_figure() -> None:
    functions = [value for name in kdbias.__all__ if inspect.isfunction(value := getattr(kdbias, name))]
    kinds = {kind.__name__: kind for kind in [TrainingResult, *Result.__subclasses__()]}
    assert len(functions) > 20
    for function in functions:
        kind = inspect.signature(function).return_annotation
        kind = kinds[kind] if isinstance(kind, str) else kind
        assert issubclass(kind, Result), function
        assert kind.blocks is not Result.blocks, kind
        lacks = tuple(n for n in ("to_pandas", "plot") if getattr(kind, n) is getattr(Result, n))
        assert lacks == NEITHER.get(kind.__name__, ()), kind


def test_what_a_result_has_not_is_said_with_where_it_is(made: dict[str, Any]) -> None:
    for result in made.values():
        for name in NEITHER.get(type(result).__name__, ()):
            with pytest.raises(kdbias.KdbiasError, match=r" has no (rows|figure)[:;] .*\b(it|has|have)\b"):
                getattr(result, name)()


def test_frames_of_what_is_not_stored_as_such(made: dict[str, Any]) -> None:
    pd.testing.assert_frame_equal(made["run"].to_pandas(), made["weights"].to_pandas())
    assert made["new study"].to_pandas()["arm"].tolist() == ["natural", "inverse-density"]
    assert made["data"].to_pandas()["label"].tolist() == ["a&b"] * 4
    axes = made["advise"].plot().axes[0]
    assert {line.get_label() for line in axes.lines} == {"before", "target"}  # nothing is advised here
    assert len(axes.get_yticklabels()) == len(made["advise"].to_pandas())


def test_in_a_notebook_lines_go_to_its_output_and_bars_are_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    import tqdm.auto

    monkeypatch.setattr("kdbias.progress.in_notebook", lambda: True)
    say("one \x1b[31m")
    with bar(10, "rows", "reading") as shown:
        assert isinstance(shown, tqdm.auto.tqdm)
        shown.update(10)
    captured = capsys.readouterr()
    assert captured.out.startswith("one \\x1b[31m\n")
    assert captured.err == ""
