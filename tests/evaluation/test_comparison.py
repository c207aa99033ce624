"""Comparisons: what is real is found, what is not is not, and unlike things are refused."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdbias.errors import KdbiasError
from kdbias.evaluation import compare, evaluate
from kdbias.evaluation.comparison import ComparisonResult
from kdbias.tables.documents import read_json
from kdbias.tables.embedding_table import write_embedding_table


@pytest.fixture
def make(tmp_path):
    """Build an evaluation of a student that misses its teacher by ``noise``."""
    rng = np.random.default_rng(0)
    teacher = rng.normal(size=(300, 8))
    ids = pa.array([f"s{i:03d}" for i in range(300)])
    groups = {"half": pa.array(["x"] * 150 + ["y"] * 150)}
    write_embedding_table(tmp_path / "teacher", ids, teacher, groups=groups, dtype="float32")

    def build(name, noise, seed=1, rows=slice(None), **options):
        # Hard samples are hard for every student: that is what pairing takes out.
        hardness = np.linspace(0.2, 3, 300)[:, None]
        student = teacher + noise * hardness * np.random.default_rng(seed).normal(size=(300, 8))
        keep = pa.array(np.arange(300)[rows])
        write_embedding_table(
            tmp_path / f"emb_{name}",
            ids.take(keep),
            student[rows],
            groups={"half": groups["half"].take(keep)},
            dtype="float32",
        )
        call = dict(protocol="fidelity", reference=tmp_path / "teacher", group_by=["half"], bootstrap=0)
        evaluate(tmp_path / f"emb_{name}", tmp_path / name, **(call | options))
        return tmp_path / name

    return build


def test_a_real_difference_is_found_and_a_lucky_one_is_not(make, tmp_path):
    base, better, twin = make("base", 0.30), make("better", 0.27, seed=2), make("twin", 0.30, seed=3)
    result = compare(base, better, tmp_path / "c.json", bootstrap=150)
    entry = result.document["metrics"]["distance"]
    assert entry["real"] is True
    assert entry["better"] == "b"
    assert entry["low"] <= entry["difference"] <= entry["high"] < 0
    assert entry["p_value"] < 0.05
    assert entry["difference"] == pytest.approx(entry["b"] - entry["a"])
    assert result.document["metrics"]["cosine"]["better"] == "b"
    assert read_json(tmp_path / "c.json") == result.document
    assert "real, B is better" in result.summary()
    assert "not for other seeds" in result.summary()
    same = compare(base, twin, bootstrap=150).document["metrics"]["distance"]
    assert same["real"] is False
    assert same["better"] is None
    assert same["low"] < 0 < same["high"]
    assert set(result.document["groups"]["half"]) == {"x", "y"}


def test_pairing_is_sharper_than_two_separate_intervals(make):
    base, better = make("base", 0.30, bootstrap=150), make("better", 0.27, seed=2, bootstrap=150)
    paired = compare(base, better, bootstrap=150).document["metrics"]["distance"]["standard_error"]
    alone = [
        json.loads((path / "metrics.json").read_text())["metrics"]["distance"] for path in (base, better)
    ]
    assert paired < 0.75 * np.hypot(*(entry["standard_error"] for entry in alone))


def test_a_model_compared_with_itself_does_not_differ(make):
    base = make("base", 0.3)
    for entry in compare(base, base, bootstrap=100).document["metrics"].values():
        assert entry["difference"] == entry["low"] == entry["high"] == 0
        assert entry["real"] is False
        assert entry["p_value"] == 1.0


def test_swapping_the_sides_mirrors_the_answer(make):
    a, b = make("a", 0.30), make("b", 0.25, seed=2)
    one = compare(a, b, bootstrap=150).document["metrics"]["distance"]
    two = compare(b, a, bootstrap=150).document["metrics"]["distance"]
    assert one["difference"] == pytest.approx(-two["difference"])
    assert one["low"] == pytest.approx(-two["high"])
    assert (one["better"], two["better"]) == ("b", "a")


def test_several_runs_a_side_widen_the_interval_by_their_variance(make):
    left = [make(f"l{s}", 0.30, seed=s) for s in (1, 2, 3)]
    right = [make(f"r{s}", noise, seed=s) for s, noise in ((4, 0.2), (5, 0.3), (6, 0.4))]
    many = compare(left, right, bootstrap=150)
    single = compare(left[0], right[1], bootstrap=150).document["metrics"]["distance"]
    # Runs that differ this much say nothing for sure, and the interval shows it.
    found = many.document["metrics"]["distance"]
    assert found["standard_error"] > 2 * single["standard_error"]
    assert found["real"] is False
    assert found["high"] - found["difference"] > 3.5 * found["standard_error"]  # t of few runs, not 1.96
    assert "3 against 3 runs: the intervals cover" in many.summary()
    for side, paths in (("A", left), ("B", right)):
        assert f"  {side}: {', '.join(map(str, paths))}\n" in many.summary()
    assert "A is one run: real for that very model" in compare(left[0], right, bootstrap=100).summary()
    with pytest.raises(KdbiasError, match="given twice on one side"):
        compare([left[0], left[0]], right, bootstrap=100)


def test_of_many_groups_the_real_differences_are_shown_first():
    entry = dict(a=0.1, b=0.2, difference=0.1, low=-0.1, high=0.3, p_value=0.5, real=False, better=None)
    real = entry | dict(low=0.05, high=0.15, p_value=0.01, real=True, better="b")
    groups = {f"g{i:02d}": {"accuracy": real if i == 30 else entry} for i in range(40)}
    document = {"protocol": "knn", "unit": "query", "n": 9, "a": ["one"], "b": ["two"]}
    document |= {"metrics": {}, "groups": {"who": groups}, "interval": {"resampled": "query"}}
    lines = ComparisonResult(document).summary().splitlines()
    who = lines.index("who=g00: no real difference")
    assert lines[who - 2].split()[:3] == ["who", "metric", "A"]
    shown = "g30 accuracy 0.1000 0.2000 +0.1000 0.0500 0.1500 0.010 real, B is better"
    assert " ".join(lines[who - 1].split()) == shown
    assert sum(line.endswith("no real difference") for line in lines) == 11
    assert "... and 28 more: -o FILE.json has them all" in lines


def test_unlike_evaluations_are_refused(make, tmp_path):
    base = make("base", 0.3)
    with pytest.raises(KdbiasError, match=r"judged 300 units, .* 200; 100 of the former"):
        compare(base, make("few", 0.3, rows=slice(0, 200)), bootstrap=100)
    with pytest.raises(KdbiasError, match=r"different group_by .*'half'.*judge both alike"):
        compare(base, make("plain", 0.3, group_by=[]), bootstrap=100)
    with pytest.raises(KdbiasError, match=r"holds no metrics\.json"):
        compare(base, tmp_path / "teacher", bootstrap=100)
    with pytest.raises(KdbiasError, match="bootstrap is 10, should be at least 100"):
        compare(base, base, bootstrap=10)


@pytest.fixture
def market(tmp_path):
    """20 people under 4 cameras; the seed decides the order of the rows and the noise, nothing else."""

    def build(name, seed):
        order = np.random.default_rng(seed).permutation(160)
        who, cam = order // 8, order % 4
        x = np.random.default_rng(0).normal(size=(20, 16))[who]
        x += np.random.default_rng(seed).normal(size=x.shape)
        groups = {
            "cam": pa.array(cam),
            "role": pa.array(["query" if i % 8 < 2 else "gallery" if i % 8 < 6 else "extra" for i in order]),
            "sex": pa.array([str(p % 2) for p in who]),
        }
        ids, labels = (pa.array([f"{letter}{i}" for i in of]) for letter, of in (("s", order), ("p", who)))
        return write_embedding_table(tmp_path / name, ids, x, labels, groups).path

    return build


@pytest.mark.parametrize("protocol", ["reid", "knn"])
def test_other_galleries_are_refused_and_a_model_s_own_is_not(market, tmp_path, protocol):
    one, two = market("one", 1), market("two", 2)
    call = dict(protocol=protocol, where=["role=query"], bootstrap=0)
    whole = [
        evaluate(table, tmp_path / f"w{i}", gallery_where=["role!=query"], **call).path
        for i, table in enumerate((one, two))
    ]
    assert compare(*whole, bootstrap=100).document["n"] == 40
    part = evaluate(two, tmp_path / "part", gallery_where=["role=gallery"], **call).path
    with pytest.raises(KdbiasError, match=r"different gallery \(120 and 80 rows\)"):
        compare(whole[0], part, bootstrap=100)
    document = json.loads((part / "metrics.json").read_text())
    del document["test_data"]
    (part / "metrics.json").write_text(json.dumps(document))
    with pytest.raises(KdbiasError, match=r"part does not say which test data .* evaluate again"):
        compare(whole[0], part, bootstrap=100)


def test_other_labels_of_the_same_samples_are_refused(market, tmp_path):
    from kdbias.tables.embedding_table import EmbeddingTable

    one = market("one", 1)
    table = EmbeddingTable.open(one)
    by_sex = write_embedding_table(tmp_path / "sex", table.ids(), table.vectors(), table.column("sex")).path
    runs = [evaluate(t, tmp_path / f"o{t.name}", protocol="knn", bootstrap=0).path for t in (one, by_sex)]
    with pytest.raises(KdbiasError, match=r"different gallery \(160 and 160 rows\)"):
        compare(*runs, bootstrap=100)


def test_order_of_rows_does_not_matter(make):
    base, mixed = make("base", 0.3), make("mixed", 0.3, rows=np.random.default_rng(0).permutation(300))
    found = compare(base, mixed, bootstrap=100).document["metrics"]["distance"]
    assert found["difference"] == pytest.approx(0, abs=1e-12)
    assert max(abs(found["low"]), abs(found["high"])) < 1e-12


@pytest.fixture
def faces(tmp_path):
    """Two models of 60 people with 4 images; the second sees less noise. Pairs of both kinds."""
    rng = np.random.default_rng(0)
    who = np.repeat(np.arange(60), 4)
    centres, noise = rng.normal(size=(60, 24)), rng.normal(size=(240, 24))
    ids = pa.array([f"{i}.jpg" for i in range(240)])
    for name, scale in (("worse", 2.0), ("better", 1.2)):
        x = centres[who] + scale * noise
        groups = {"template": pa.array(np.arange(240) // 2), "media": pa.array(np.zeros(240, np.int64))}
        write_embedding_table(tmp_path / name, ids, x, pa.array([f"p{p}" for p in who]), groups)
    rows = ["first,second,same"]
    for i in range(300):
        a = 4 * (i % 60)
        b = a + 1 + i // 60 % 3 if i % 2 == 0 else (a + 4 * (1 + i % 50)) % 240
        rows.append(f"{a}.jpg,{b}.jpg,{int(i % 2 == 0)}")
    (tmp_path / "pairs.csv").write_text("\n".join(dict.fromkeys(rows)) + "\n")
    templates = [(a, b, int(a // 2 == b // 2)) for a in range(120) for b in range(a + 1, 120)]
    (tmp_path / "templates.txt").write_text("".join(f"{a} {b} {s}\n" for a, b, s in templates))
    return tmp_path


@pytest.mark.parametrize(
    ("protocol", "pairs", "metric"),
    [("verification", "pairs.csv", "accuracy"), ("ijbc", "templates.txt", "tar@far<=1e-2")],
)
def test_pairs_are_matched_whatever_the_order_of_the_files(faces, protocol, pairs, metric):
    runs = [
        evaluate(faces / name, faces / f"out_{name}", protocol=protocol, pairs=faces / pairs, bootstrap=0)
        for name in ("worse", "better")
    ]
    found = compare(runs[0].path, runs[1].path, bootstrap=100).document["metrics"]
    assert found[metric]["a"] == pytest.approx(runs[0].value(metric))
    assert found[metric]["b"] == pytest.approx(runs[1].value(metric))
    assert found[metric]["better"] == "b"
    units = pq.read_table(runs[1].path / "units.parquet")
    mixed = units.take(pa.array(np.random.default_rng(0).permutation(units.num_rows)))
    if protocol == "verification":  # IJB's rows are in order of score, which is what makes it quick
        pq.write_table(mixed, runs[1].path / "units.parquet")
        assert compare(runs[0].path, runs[1].path, bootstrap=100).document["metrics"] == found
