"""IJB-C: pooling worked by hand, the benchmark's files, a plain loop over templates."""

import numpy as np
import pyarrow as pa
import pytest

from kdbias.errors import KdbiasError
from kdbias.evaluation import evaluate
from kdbias.evaluation.ijbc import image_names, pool, subjects
from kdbias.tables.embedding_table import write_embedding_table


def test_media_are_averaged_then_summed():
    vectors = np.array([[1, 0], [0, 1], [1, 0], [0, 1]], dtype=np.float32)
    # template 5: medium 1 = images 0 and 1, medium 2 = image 2; template 9: image 3
    pooled, names = pool(
        vectors, None, np.arange(4), np.ones(4), np.array([5, 5, 5, 9]), np.array([1, 1, 2, 1])
    )
    assert names.tolist() == [5, 9]
    np.testing.assert_allclose(pooled[0], np.array([1.5, 0.5]) / np.hypot(1.5, 0.5), rtol=1e-6)
    np.testing.assert_allclose(pooled[1], [0, 1])


def test_quality_weighs_images_and_mirrors_are_added():
    vectors = np.array([[1, 0, 0], [0, 1, 0]], dtype=np.float32)
    flips = np.array([[0, 0, 1], [0, 1, 0]], dtype=np.float32)
    pooled, _ = pool(vectors, flips, np.arange(2), np.array([3.0, 1.0]), np.zeros(2, int), np.zeros(2, int))
    expected = np.array([3, 2, 3]) / 2
    np.testing.assert_allclose(pooled[0], expected / np.linalg.norm(expected), rtol=1e-6)


def test_raw_mirrors_have_factors_of_their_own():
    vectors = np.array([[1, 0, 0], [0, 1, 0]], dtype=np.float32)
    flips = np.array([[0, 0, 1], [0, 1, 0]], dtype=np.float32)
    own, mirror = np.array([3.0, 1.0]), np.array([1.0, 2.0])
    same = np.zeros(2, int)
    pooled, _ = pool(vectors, flips, np.arange(2), own, same, same, mirror=mirror)
    np.testing.assert_allclose(pooled[0], np.array([3, 3, 1]) / np.sqrt(19), rtol=1e-6)


@pytest.mark.parametrize("rows_at_once", [1, 7, 64, 10_000])
def test_pooling_equals_a_loop_over_templates_whatever_the_block(rows_at_once):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(200, 8)).astype(np.float32)
    templates, media = rng.integers(30, size=300) * 3, rng.integers(4, size=300)
    images, quality = rng.integers(200, size=300), rng.random(300) + 0.1
    pooled, names = pool(vectors, None, images, quality, templates, media, rows_at_once)
    for row, template in zip(pooled, names, strict=True):
        total = np.zeros(8)
        for medium in np.unique(media[templates == template]):
            used = (templates == template) & (media == medium)
            total += (vectors[images[used]] * quality[used, None]).mean(axis=0)
        np.testing.assert_allclose(row, total / np.linalg.norm(total), rtol=1e-5, atol=1e-6)


def test_subjects_are_what_genuine_pairs_connect():
    first, second = np.array([0, 1, 3, 0]), np.array([1, 2, 4, 3])
    codes = subjects(first, second, np.array([True, True, True, False]), 6)
    assert codes[0, 0] == codes[0, 1] == codes[1, 1]
    assert codes[2, 0] == codes[2, 1]
    assert codes[3, 0] == codes[0, 0]
    assert codes[3, 1] == codes[2, 0] != codes[0, 0]


def test_names_lose_folder_and_suffix_only():
    found = image_names(pa.array(["loose_crop/12.jpg", "12", "a.b/3.PNG", "img.v2"]))
    assert found.to_pylist() == ["12", "12", "3", "img.v2"]


@pytest.fixture
def ijbc_files(tmp_path):
    """12 subjects with 3 templates each, 1 to 4 images a template, in the benchmark's own files."""
    rng = np.random.default_rng(3)
    centres = rng.normal(size=(12, 16))
    tid_mid, points, vectors = [], [], []
    for template in range(36):
        for i in range(1 + template % 4):
            name = f"{len(vectors) + 1}.jpg"
            tid_mid.append(f"{name} {template + 100} {i // 2 + 1}")
            points.append(" ".join([name, *["1.5"] * 10, f"{0.5 + rng.random() / 2:.4f}"]))
            vectors.append(rng.uniform(1, 5) * (centres[template // 3] + 1.0 * rng.normal(size=16)))
    pairs = [f"{100 + a} {100 + b} {int(a // 3 == b // 3)}" for a in range(36) for b in range(a + 1, 36)]
    for file, lines in (("tid_mid", tid_mid), ("pairs", pairs), ("points", points)):
        (tmp_path / f"{file}.txt").write_text("\n".join(lines) + "\n")
    ids = pa.array([f"loose_crop/{i + 1}.jpg" for i in range(len(vectors))])
    write_embedding_table(tmp_path / "emb", ids, np.array(vectors), dtype="float32")
    return tmp_path, np.array(vectors)


def test_benchmark_s_files_give_what_a_plain_program_gives(ijbc_files):
    from sklearn.metrics import roc_curve

    folder, vectors = ijbc_files
    result = evaluate(
        folder / "emb",
        folder / "out",
        protocol="ijbc",
        templates=folder / "tid_mid.txt",
        pairs=folder / "pairs.txt",
        detector_scores=folder / "points.txt",
        far=[1e-2, 1e-1],
        bootstrap=50,
    )
    scores = [float(line.split()[-1]) for line in (folder / "points.txt").read_text().splitlines()]
    rows = [list(map(int, line.split()[1:])) for line in (folder / "tid_mid.txt").read_text().splitlines()]
    templates = {}
    for template in sorted({row[0] for row in rows}):
        media = {}
        for i, (t, m) in enumerate(rows):
            if t == template:
                media.setdefault(m, []).append(vectors[i] * scores[i])
        total = sum(np.mean(images, axis=0) for images in media.values())
        templates[template] = total / np.linalg.norm(total)
    pairs = [list(map(int, line.split())) for line in (folder / "pairs.txt").read_text().splitlines()]
    far, tar, _ = roc_curve([p[2] for p in pairs], [templates[p[0]] @ templates[p[1]] for p in pairs])
    far, tar = far[::-1], tar[::-1]
    for x, name in ((1e-2, "1e-2"), (1e-1, "0.1")):
        nearest = min((abs(f - x), i) for i, f in enumerate(far))[1]
        assert result.value(f"tar@far={name}") == pytest.approx(tar[nearest])
        assert result.value(f"tar@far<={name}") == pytest.approx(tar[far <= x].max())
    details = result.document["details"]
    assert (details["templates"], details["genuine"], details["impostor"]) == (36, 36, 594)
    assert result.document["metrics"]["tar@far<=0.1"]["low"] is not None


def test_columns_serve_instead_of_the_file(ijbc_files):
    folder, vectors = ijbc_files
    rows = [line.split()[1:] for line in (folder / "tid_mid.txt").read_text().splitlines()]
    groups = {"template": pa.array([int(r[0]) for r in rows]), "media": pa.array([int(r[1]) for r in rows])}
    ids = pa.array([str(i) for i in range(len(vectors))])
    write_embedding_table(folder / "columns", ids, vectors, groups=groups, dtype="float32")
    call = dict(protocol="ijbc", pairs=folder / "pairs.txt", far=[1e-1], bootstrap=0)
    one = evaluate(folder / "columns", folder / "o1", **call)
    two = evaluate(folder / "emb", folder / "o2", templates=folder / "tid_mid.txt", **call)
    assert one.document["metrics"] == two.document["metrics"]
    alike = evaluate(folder / "columns", folder / "o3", keep_norm=False, **call)
    assert alike.document["details"]["norm_kept"] is False


def test_foreign_templates_and_files_are_refused(ijbc_files):
    folder, _ = ijbc_files
    call = dict(protocol="ijbc", templates=folder / "tid_mid.txt", bootstrap=0)
    (folder / "more.txt").write_text("100 101 1\n100 999 0\n")
    with pytest.raises(KdbiasError, match=r"1 template has no image among the 36 .*999"):
        evaluate(folder / "emb", folder / "o", pairs=folder / "more.txt", **call)
    (folder / "signed.txt").write_text("100 101 1\n100 102 -1\n100 103 0\n")
    with pytest.raises(KdbiasError, match=r"labelled '-1'; 1 means same, 0 different"):
        evaluate(folder / "emb", folder / "o", pairs=folder / "signed.txt", **call)
    (folder / "wide.txt").write_text("100 101\n")
    with pytest.raises(KdbiasError, match="lines of 3 words"):
        evaluate(folder / "emb", folder / "o", pairs=folder / "wide.txt", **call)
    with pytest.raises(KdbiasError, match="give --templates"):
        evaluate(folder / "emb", folder / "o", protocol="ijbc", pairs=folder / "pairs.txt")
