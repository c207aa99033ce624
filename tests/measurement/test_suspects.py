"""Suspects: the right verdict about each sample, and none about good images."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image
from sklearn.datasets import load_digits

import kdbias
from kdbias import progress
from kdbias.cli import main
from kdbias.data.decode import decode_image
from kdbias.data.image_facts import facts_of
from kdbias.errors import KdbiasError
from kdbias.measurement.density import hardness
from kdbias.measurement.settings import IMAGE_WORDS, SUSPECT_WORDS
from kdbias.measurement.suspects import image_flags, isolated, misfits, nearest_other_label
from kdbias.sphere.near_chains import near_chains, near_groups
from kdbias.tables.embedding_table import write_embedding_table
from tests import reference

GREY = """
import numpy as np

class Grey:
    preprocessing = {"size": [8, 8], "color": "L", "mean": [0], "std": [1]}

    def embed(self, batch):
        return batch.reshape(len(batch), -1).astype(np.float32) + 1

def factory(device):
    return Grey()
"""
RNG = np.random.default_rng(0)


def words_of(images: list[np.ndarray]) -> list[list[str]]:
    shaped = [one[:, :, None] if one.ndim == 2 else one for one in images]
    flags = image_flags(np.stack([facts_of(one) for one in shaped]), len(images))
    return [[word for word, set_ in zip(IMAGE_WORDS, row, strict=True) if set_] for row in flags]


def noise(level: float, spread: float, shape: tuple[int, ...] = (64, 64, 3)) -> np.ndarray:
    return np.clip(np.random.default_rng(1).normal(level, spread, shape), 0, 255).astype(np.uint8)


def photo(height: int = 64, width: int = 64) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_each_kind_of_bad_image_gets_its_word():
    lamps = np.zeros((64, 64, 3), np.uint8)
    lamps[5:9, 5:9] = 255  # 0.4 % of the pixels
    drawing = 255 - lamps
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 0] = noise(120, 9)[..., 0]  # dark by its luma, but lit
    cases = [
        (np.full((64, 64, 3), 130, np.uint8), ["blank"]),
        (np.zeros((64, 64), np.uint8), ["blank"]),
        (noise(90, 1.0), ["blank"]),
        (noise(15, 6), ["dark"]),
        (noise(254, 4), ["overexposed"]),
        (photo(15, 15), ["tiny"]),
        (photo(20, 200), ["odd-sized"]),
        (photo(700, 700), ["odd-sized"]),
        (np.zeros((10, 10), np.uint8), ["blank", "tiny"]),
        (lamps, []),
        (drawing, []),
        (red, []),
    ]
    found = words_of([image for image, _ in cases] + [photo() for _ in range(30)])
    assert found == [words for _, words in cases] + [[]] * 30


def test_sizes_are_judged_by_the_data_not_by_a_number():
    assert words_of([photo(8, 8) for _ in range(9)]) == [[]] * 9
    assert words_of([photo(20, 200) for _ in range(9)]) == [[]] * 9
    tall_and_wide = [photo(36, 64) for _ in range(5)] + [photo(64, 36) for _ in range(5)]
    assert words_of(tall_and_wide) == [[]] * 10


def test_digits_on_black_are_neither_dark_nor_blank():
    images = (load_digits().images * 15.9).astype(np.uint8)
    assert not any(words_of(list(images)))
    if folder := os.environ.get("KDBIAS_DATA"):
        stored = np.load(Path(folder) / "fashion_mnist_12k" / "fashion_mnist_12k.npz")["x_train"]
        assert not any(words_of(list(stored[::5])))


@pytest.mark.parametrize(
    ("file", "rows"),
    [
        ("lfw112/lfw_arc112.parquet", 1500),
        ("fairface8k/fairface_112.parquet", 8000),
        ("market1501_train/market1501_train.parquet", 1500),
        ("cifar10_30k/cifar10_jpeg.parquet", 3000),
    ],
)
def test_real_photographs_are_no_suspects(file, rows):
    folder = os.environ.get("KDBIAS_DATA")
    if not folder:
        pytest.skip("KDBIAS_DATA names no folder of real data")
    images = pq.read_table(Path(folder) / file, columns=["image"])["image"][:rows].to_pylist()
    found = words_of([decode_image(image) for image in images[:: max(1, rows // 1500)]])
    assert not any(found)


def test_unknown_images_are_no_suspects():
    facts = np.stack([facts_of(np.zeros((9, 9, 1), np.uint8)), np.full(6, np.nan, np.float32)])
    assert image_flags(facts, 2).sum(axis=1).tolist() == [1, 0]
    assert not image_flags(None, 3).any()
    assert not image_flags(np.full((3, 6), np.nan), 3).any()


@pytest.mark.parametrize("k", [1, 4, 60])
def test_near_groups_are_the_components_of_all_pairs_whatever_k(k):
    rng = np.random.default_rng(3)
    x = reference.unit_rows(rng.normal(size=(90, 16)))
    x[10:40] = reference.unit_rows(x[10] + 0.002 * rng.normal(size=(30, 16)))  # a burst, longer than k
    x[50] = x[20]
    x[60] = reference.unit_rows(x[61:62] + 0.003)[0]
    x = x.astype(np.float32)
    cosines = x @ x.T
    np.fill_diagonal(cosines, -2)
    ids = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    first = np.arange(90)
    first[50] = 20
    found = near_groups(x, first, ids, np.take_along_axis(cosines, ids, axis=1), 0.999)
    np.testing.assert_array_equal(found, near_chains(x, first, np.arange(90), 0.999))
    assert (found[10:40] == 10).all()
    assert (found[50], found[61]) == (10, 60)


@pytest.mark.parametrize("device", ["cpu", "cpu:0"])  # by numpy, and by torch as on a GPU
def test_misfit_labels_are_those_that_brute_force_finds(device):
    rng = np.random.default_rng(4)
    codes = np.repeat(np.arange(6), 15)
    codes[-5:] = -1
    centres = rng.normal(size=(6, 8))
    x = reference.unit_rows(centres[codes] + 0.5 * rng.normal(size=(90, 8))).astype(np.float32)
    codes[[3, 40]] = [2, 5]  # wrong ones
    wide, expected = x.astype(np.float64), np.full(90, -1)
    for i in np.flatnonzero(codes >= 0):
        means = {c: wide[(codes == c) & (np.arange(90) != i)].mean(axis=0) for c in range(6)}
        near = {c: float(wide[i] @ m / np.linalg.norm(m)) for c, m in means.items()}
        best = max(near, key=near.__getitem__)
        expected[i] = best if best != codes[i] else -1
    assert (expected[3], expected[40]) == (0, 2)
    np.testing.assert_array_equal(misfits(x, codes, hardness(x, codes), device), expected)
    other, cosines = nearest_other_label(x, codes, device)
    assert other[3] == 0
    assert cosines[3] == pytest.approx(
        float(wide[3] @ (m := wide[codes == 0].mean(axis=0)) / np.linalg.norm(m))
    )


def test_without_two_labels_or_two_samples_of_one_nothing_is_misfit():
    x = np.eye(4, dtype=np.float32)
    for codes in ([-1] * 4, [0] * 4, [0, 1, 2, 3]):
        assert misfits(x, np.array(codes), hardness(x, np.array(codes)), "cpu") is None


def test_isolated_is_beyond_the_outer_fence():
    distances = np.array([1.0, 1.1, 1.2, 1.3, 2.0, 1.7, np.nan])
    low, high = np.quantile(distances[:6], [0.25, 0.75])
    assert isolated(distances).tolist() == [d > high + 3 * (high - low) for d in distances[:6]] + [False]
    assert isolated(np.array([1.0, 1.0, 1.0, 1.0, 1.5])).tolist() == [False] * 4 + [True]
    assert not isolated(np.array([1.0, 9.0, np.nan])).any()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures of each of three people, with a blank, a dark and a copied one; and a teacher."""
    root = tmp_path_factory.mktemp("suspects")
    (root / "grey.py").write_text(GREY)
    rng = np.random.default_rng(5)
    for person in "abc":
        (root / "data" / person).mkdir(parents=True)
        face = rng.integers(0, 256, (8, 8))
        for i in range(12):
            pixels = np.clip(face + rng.normal(0, 25, (8, 8)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).resize((48, 48), 0).save(root / "data" / person / f"{i:02d}.png")
    Image.new("L", (48, 48), 128).save(root / "data" / "a" / "blank.png")
    Image.fromarray(noise(12, 6, (48, 48))).save(root / "data" / "b" / "dark.png")
    (root / "data" / "c" / "broken.png").write_bytes(b"no image")
    (root / "data" / "c" / "copy.png").write_bytes((root / "data" / "c" / "03.png").read_bytes())
    teacher = f"python:{root / 'grey.py'}:factory"
    with progress.quiet():
        kdbias.embed(root / "data", root / "emb", teacher=teacher, workers=0, device="cpu", rows_per_part=10)
        kdbias.uniformity(root / "emb", root / "density", k=5, t=2)
    return root


def test_embed_records_what_each_image_looks_like(folder):
    table = kdbias.EmbeddingTable.open(folder / "emb")
    facts, ids = table.image_facts(), table.ids().to_pylist()
    assert facts.shape == (39, 6)
    blank = dict(zip(ids, facts, strict=True))["a/blank.png"]
    np.testing.assert_allclose(blank, [48, 48, *[128 / 255] * 3, 0], atol=1e-6)
    for name in ("c/03.png", "b/07.png"):  # behind the image that failed, and in other parts
        pixels = decode_image((folder / "data" / name).read_bytes(), "L")
        np.testing.assert_array_equal(dict(zip(ids, facts, strict=True))[name], facts_of(pixels))
    assert table.group_columns == []
    frame = pd.read_parquet(folder / "emb" / "part-00000.parquet")
    assert frame["image_width"].dtype == "int32"


def test_parts_without_facts_go_with_parts_that_have_them(folder, tmp_path):
    for source in (folder / "emb").rglob("*"):
        if source.is_file():
            (target := tmp_path / source.relative_to(folder / "emb")).parent.mkdir(exist_ok=True)
            target.write_bytes(source.read_bytes())
    old = pq.read_table(tmp_path / "part-00001.parquet")
    pq.write_table(
        old.select([n for n in old.column_names if "image_" not in n]), tmp_path / "part-00001.parquet"
    )
    facts = kdbias.EmbeddingTable.open(tmp_path).image_facts()
    known = np.isfinite(facts).all(axis=1)
    assert known.tolist() == [True] * 10 + [False] * old.num_rows + [True] * (39 - 10 - old.num_rows)
    with progress.quiet():
        result = kdbias.uniformity(tmp_path, tmp_path / "density", k=5, t=2)
    assert f"{old.num_rows} images were not looked at" in result.summary()


def test_the_density_table_says_who_is_suspect(folder):
    frame = pd.read_parquet(folder / "density" / "density.parquet").set_index("sample_id")
    assert "blank" in frame.suspect["a/blank.png"].split()
    assert "dark" in frame.suspect["b/dark.png"].split()
    assert frame.near_duplicate_of.dropna().to_dict() == {"c/copy.png": "c/03.png"}
    assert frame.duplicate_of.dropna().to_dict() == {"c/copy.png": "c/03.png"}
    assert frame.nearest_label.dropna().index.isin(["a/blank.png", "b/dark.png"]).all()
    clean = frame.drop(["a/blank.png", "b/dark.png"])
    assert clean.suspect.isna().all()
    entry = kdbias.uniformity(folder / "emb", folder / "density", k=5, t=2).document["suspects"]
    assert entry["seen"] == 39
    assert (entry["words"]["blank"], entry["words"]["dark"]) == (1, 1)
    assert entry["near"] == {"groups": 1, "samples": 2, "largest": 2}


def test_the_list_is_written_edited_and_obeyed(folder, tmp_path):
    file, manifest = tmp_path / "suspects.csv", tmp_path / "w.parquet"
    run = CliRunner().invoke
    shown = run(main, ["suspects", str(folder / "density"), "-o", str(file)])
    assert shown.exit_code == 0, shown.output
    assert "1 blank, 1 dark" in shown.output
    frame = pd.read_csv(file).set_index("sample_id")
    assert list(frame.index) == ["a/blank.png", "b/dark.png", "c/03.png", "c/copy.png"]
    assert frame.exclude.tolist() == [True, True, False, False]
    again = run(main, ["suspects", str(folder / "density"), "-o", str(file)])
    assert again.exit_code == 2
    assert "you may have edited it" in again.output
    frame.loc["b/dark.png", "exclude"] = False
    frame.loc["c/copy.png", "exclude"] = True
    frame.to_csv(file)
    made = run(main, ["weights", str(folder / "density"), "-o", str(manifest), "--exclude", str(file)])
    assert made.exit_code == 0, made.output
    assert "2 samples of" in made.output
    weights = pd.read_parquet(manifest).set_index("sample_id").weight
    assert weights.sum() == pytest.approx(39)
    assert weights[["a/blank.png", "c/copy.png"]].tolist() == [0, 0]
    assert weights["b/dark.png"] <= 1 + 1e-9


def test_bad_images_come_before_copies_and_each_row_says_what_it_is(tmp_path):
    x = reference.random_sphere(60, 8, 1)
    x[:40] = x[40]  # more copies than rows are shown
    ids = [f"s{i:02d}" for i in range(60)]
    write_embedding_table(tmp_path / "emb", ids, x)
    with progress.quiet():
        kdbias.uniformity(tmp_path / "emb", tmp_path / "density", k=5, t=2)
    path = tmp_path / "density" / "density.parquet"
    table = pq.read_table(path)
    # One of the copies is tiny, too.
    words = {"s59": "dark", "s55": "blank isolated", "s50": "label", "s20": "tiny"}
    suspect = pa.array([words.get(name) for name in ids], pa.string())
    place = table.column_names.index("suspect")
    pq.write_table(table.set_column(place, "suspect", suspect), path)
    listed = kdbias.suspects(tmp_path / "density")
    copies = [name for name in ids[:41] if name != "s20"]
    assert listed.table.column("sample_id").to_pylist() == ["s55", "s59", "s20", "s50", *copies]
    rows = listed.blocks()[-1].rows
    assert [row[2].text for row in rows[:4]] == ["blank isolated", "dark", "tiny", "label"]
    assert {row[2].text for row in rows[4:]} == {"near-duplicate"}


def test_kinds_and_other_peoples_files(folder, tmp_path):
    only = kdbias.suspects(folder / "density", kind="near-duplicate")
    assert only.table.column("sample_id").to_pylist() == ["c/03.png", "c/copy.png"]
    assert kdbias.suspects(folder / "density", kind=["tiny"]).table.num_rows == 0
    listed = kdbias.suspects(folder / "density")
    assert listed.to_pandas()["sample_id"].tolist() == listed.table["sample_id"].to_pylist()
    assert {text.get_text() for text in listed.plot().axes[0].get_yticklabels()} == set(SUSPECT_WORDS)
    assert listed.write(tmp_path / "s.parquet").exists()
    assert pd.read_parquet(tmp_path / "s.parquet").attrs["kdbias"]["stage"] == "suspects"
    for name, content in (("mine.csv", "exclude,who\nx,y\n"), ("mine.parquet", "PAR?")):
        (tmp_path / name).write_text(content)
        with pytest.raises(KdbiasError, match="is not by kdbias suspects"):
            listed.write(tmp_path / name, overwrite=True)
        assert (tmp_path / name).read_text() == content
    with pytest.raises(KdbiasError, match=r"\.csv or \.parquet"):
        listed.write(tmp_path / "s.txt")


def test_of_vectors_alone_it_says_that_no_images_were_seen(tmp_path):
    x = reference.clustered_sphere(40, 8, 4, seed=1)
    write_embedding_table(tmp_path / "emb", [f"s{i}" for i in range(40)], x)
    assert kdbias.EmbeddingTable.open(tmp_path / "emb").image_facts() is None
    with progress.quiet():
        result = kdbias.uniformity(tmp_path / "emb", tmp_path / "density", k=5, t=2)
    assert "no images were seen" in result.summary()
    assert result.document["suspects"]["labels"] == {"judged": 0, "misfit": 0}


def test_labels_that_the_teacher_does_not_tell_apart_make_no_suspects(tmp_path):
    x = reference.clustered_sphere(60, 8, 4, seed=1)
    labels = [str(v) for v in np.random.default_rng(0).integers(0, 3, 60)]
    write_embedding_table(tmp_path / "emb", [f"s{i}" for i in range(60)], x, labels)
    with progress.quiet():
        result = kdbias.uniformity(tmp_path / "emb", tmp_path / "density", k=5, t=2)
    assert "label" not in result.document["suspects"]["words"]
    assert "does not tell these labels apart" in result.summary()
    frame = pd.read_parquet(tmp_path / "density" / "density.parquet")
    assert frame.nearest_label.notna().sum() == result.document["suspects"]["labels"]["misfit"] > 6


def test_an_addition_keeps_the_suspects_and_an_older_folder_has_none(folder, tmp_path):
    with progress.quiet():
        kdbias.uniformity(folder / "emb", tmp_path / "d", k=5, t=2)
        before = pd.read_parquet(tmp_path / "d" / "density.parquet")
        kdbias.uniformity(folder / "emb", tmp_path / "d", k=5, t=2, estimator="knn")
    after = pd.read_parquet(tmp_path / "d" / "density.parquet")
    columns = ["suspect", "near_duplicate_of", "nearest_label"]
    pd.testing.assert_frame_equal(before[columns], after[columns])
    assert not after.log_density.equals(before.log_density)
    file = tmp_path / "d" / "density.parquet"
    pq.write_table(pq.read_table(file).drop_columns(columns), file)
    with pytest.raises(KdbiasError, match=r"kdbias uniformity EMB -o .*d --overwrite"):
        kdbias.suspects(tmp_path / "d")
    with progress.quiet():
        weights = kdbias.weights(tmp_path / "d", tmp_path / "w.parquet")
    assert "suspects" not in weights.facts
    assert pa.types.is_floating(pq.read_schema(tmp_path / "w.parquet").field("weight").type)
