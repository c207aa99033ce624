"""Verification over folds: an independent evaluation, file formats, LFW."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdbias.errors import KdbiasError
from kdbias.evaluation import evaluate
from kdbias.evaluation.pairs import contiguous_folds, read_pairs
from kdbias.evaluation.roc import decisions
from kdbias.evaluation.settings import Verification
from kdbias.evaluation.task import views_of
from kdbias.evaluation.verification import common_value
from kdbias.tables.embedding_table import EmbeddingTable, write_embedding_table


def _pairs(n, seed, gap=2.0):
    rng = np.random.default_rng(seed)
    same = np.arange(n) % 2 == 0
    scores = np.tanh(0.4 * (rng.normal(size=n) + gap * same))
    return scores, same, np.arange(n) * 10 // n


def test_insightface_rule_equals_a_loop_over_folds_and_thresholds():
    from sklearn.model_selection import KFold

    scores, same, folds = _pairs(600, 0)
    distances = 2 - 2 * scores
    correct, thresholds = decisions("insightface", scores, same, folds)
    for fold, (train, test) in enumerate(KFold(10, shuffle=False).split(distances)):
        assert np.array_equal(np.flatnonzero(folds == fold), test)
        accuracy = [np.mean((distances[train] < t) == same[train]) for t in np.arange(0, 4, 0.01)]
        best = np.arange(0, 4, 0.01)[int(np.argmax(accuracy))]
        assert thresholds[fold] == pytest.approx(best)
        assert np.array_equal(correct[test], (distances[test] < best) == same[test])


def test_facex_rule_equals_a_loop_over_its_thresholds():
    scores, same, folds = _pairs(600, 1)
    correct, thresholds = decisions("facex", scores, same, folds)
    for fold in range(10):
        train, test = folds != fold, folds == fold
        low, high = scores[train].min(), scores[train].max()
        steps = [low + (high - low) / 1000 * i for i in range(1, 1001)]
        rates = [np.mean(scores[train & same] >= t) - np.mean(scores[train & ~same] >= t) for t in steps]
        assert thresholds[fold] == pytest.approx(steps[int(np.argmax(rates))])
        assert np.array_equal(correct[test], (scores[test] >= thresholds[fold]) == same[test])


def test_exact_rule_beats_any_grid_on_the_folds_it_chose_from():
    scores, same, folds = _pairs(600, 2)
    _, thresholds = decisions("exact", scores, same, folds)
    for fold in range(10):
        train = folds != fold
        mine = np.mean((scores[train] >= thresholds[fold]) == same[train])
        grid = [np.mean((scores[train] >= t) == same[train]) for t in np.linspace(-1, 1, 2001)]
        assert mine >= max(grid)


def test_lfw_list_is_read_by_its_header(tmp_path):
    file = tmp_path / "pairs.txt"
    file.write_text("2\t1\nAda\t1\t2\nAda\t1\tBob\t3\nBob\t1\t3\nCy_Z\t10\tAda\t2\n")
    pairs = read_pairs(file)
    assert pairs.first.to_pylist() == ["Ada_0001", "Ada_0001", "Bob_0001", "Cy_Z_0010"]
    assert pairs.second.to_pylist() == ["Ada_0002", "Bob_0003", "Bob_0003", "Ada_0002"]
    assert pairs.same.tolist() == [True, False, True, False]
    assert pairs.folds.tolist() == [1, 1, 2, 2]
    assert read_pairs(file, [2]).first.to_pylist() == ["Bob_0001", "Cy_Z_0010"]
    with pytest.raises(KdbiasError, match="no fold 3"):
        read_pairs(file, [2, 3])


def test_paths_as_ids_are_found_by_their_stem(tmp_path):
    file = tmp_path / "pairs.txt"
    file.write_text("2\t1\nAda\t1\t2\nAda\t1\tBob\t1\nAda\t2\t1\nAda\t2\tBob\t1\n")
    ids = pa.array(["Bob/Bob_0001.jpg", "Ada/Ada_0002.jpg", "Ada/Ada_0001.png"], pa.large_string())
    first, second = read_pairs(file).rows(ids, "table").T
    assert first.tolist() == [2, 2, 1, 1]
    assert second.tolist() == [1, 0, 2, 0]
    with pytest.raises(KdbiasError, match=r"1 of the 3 ids .*\(3 of the 8 .* among the 2 .*'Ada_0002'"):
        read_pairs(file).rows(ids.take(pa.array([0, 2])), "table")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a b.jpg c.jpg 1\na.jpg c.jpg 0\n", "line 1: not two paths and 0 or 1; separate them by tabs"),
        ("a.jpg c.jpg 0\na b.jpg c.jpg 1\n", "line 2: not two paths and 0 or 1; separate them by tabs"),
        ("a.jpg c.jpg 0\na.jpg c.jpg 2\n", "line 2: not two paths"),
        ("first,second,same,fold\na,b,1,1\na,c,0,\n", "1 pair has no fold"),
        ("2\t1\nAda\t1\t2\n", "promises 2 x 2 pairs, it has 1"),
        ("1\nAda\tone\t2\nBob\t1\tAda\t1\n", "line 2"),
        ("Ada\t1\t2\nBob\tone\tAda\t1\n", "line 2"),
        ("first,second,same\na,b,2\n", "0 and 1"),
        ("first,second\na,b\n", "no column 'same'"),
        ("first,second,same,fold\na,b,1,1\na,c,1,2\n", "different person"),
    ],
)
def test_bad_lists_are_refused_by_line_or_column(tmp_path, text, says):
    file = tmp_path / "pairs.txt"
    file.write_text(text)
    with pytest.raises(KdbiasError, match=says):
        read_pairs(file)


def test_tables_of_pairs_may_have_folds_or_get_ten(tmp_path):
    same = [1, 0] * 12
    ids = [f"i{k}" for k in range(24)]
    table = pa.table({"first": ids, "second": ids[::-1], "same": same, "fold": [5, 9] * 12})
    pq.write_table(table, tmp_path / "pairs.parquet")
    assert read_pairs(tmp_path / "pairs.parquet").folds.tolist() == [1, 2] * 12
    table.drop_columns(["fold"]).to_pandas().to_csv(tmp_path / "pairs.csv", index=False)
    assert np.bincount(read_pairs(tmp_path / "pairs.csv").folds).tolist() == [0, 3, 3, 3, 3, *[2] * 6]
    with pytest.raises(KdbiasError, match="9 pairs cannot make 10 folds"):
        contiguous_folds(9)


def test_groups_of_pairs_are_shared_values_only():
    values = pa.array(["F", "F", "M", None])
    rows = (np.array([0, 0, 2, 3]), np.array([1, 2, 2, 3]))
    assert common_value(values, np.transpose(rows)).to_pylist() == ["F", None, "M", None]


@pytest.fixture
def people(tmp_path):
    """40 people with 6 images each and a mirrored view; the list has 5 folds."""
    rng = np.random.default_rng(5)
    who = np.repeat(np.arange(40), 6)
    x = rng.normal(size=(40, 32))[who] + 1.2 * rng.normal(size=(240, 32))
    ids = [f"P{p:02d}_{i % 6 + 1:04d}" for i, p in enumerate(who)]
    groups = {"kind": pa.array(["even" if p % 2 == 0 else "odd" for p in who])}
    write_embedding_table(tmp_path / "emb", pa.array(ids), x, pa.array([f"P{p:02d}" for p in who]), groups)
    lines = ["5\t40"]
    for fold in range(5):
        for i in range(40):
            lines.append(f"P{i:02d}\t{fold + 1}\t{fold + 2}")
        for i in range(40):
            lines.append(f"P{i:02d}\t{fold + 1}\tP{(i + 1 + fold) % 40:02d}\t{fold + 2}")
    (tmp_path / "pairs.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_document_of_a_whole_run(people):
    result = evaluate(
        people / "emb",
        people / "out",
        protocol="verification",
        pairs=people / "pairs.txt",
        group_by=["kind"],
        bootstrap=100,
    )
    document = result.document
    assert document["unit"] == "pair"
    assert document["n"] == 400
    assert document["interval"]["resampled"].startswith("label")
    folds = [fold["accuracy"] for fold in document["details"]["folds"]]
    assert result.value("accuracy") == pytest.approx(np.mean(folds))
    assert document["details"]["fold_std"] == pytest.approx(np.std(folds))
    assert 0.7 < result.value("accuracy") < 1
    assert result.value("fmr") <= 0.01
    assert "\nfmr@far<=1e-2   " in result.summary()
    assert " fnmr@far<=1e-2\n" in result.summary().partition("\nkind ")[2]
    assert result.value("fnmr") == pytest.approx(1 - result.value("tar@far<=1e-2"))
    assert sum(group["n"] for group in document["groups"]["kind"].values()) < 400
    assert {"roc.png", "scores.png"} == set(document["plots"])
    table, units = EmbeddingTable.open(people / "emb"), pq.read_table(people / "out" / "units.parquet")
    x = dict(zip(table.ids().to_pylist(), table.vectors(), strict=True))
    pairs = list(zip(units["first"].to_pylist(), units["second"].to_pylist(), strict=True))
    assert units["result_score"].to_pylist() == pytest.approx([x[a] @ x[b] for a, b in pairs], abs=1e-6)
    assert units["result_same"].to_pylist() == [a[:3] == b[:3] for a, b in pairs]
    assert (np.diff(units["result_score"].to_numpy()) <= 0).all()  # sorted, as every resample wants them


@pytest.mark.parametrize("same", [True, False])
def test_a_group_of_pairs_of_one_kind_has_no_rate_that_needs_both(same):
    columns = {"score": np.array([0.9, 0.5, 0.1]), "same": np.full(3, same), "fold": np.zeros(3, int)}
    columns |= {"correct": np.array([True, True, False]), "accepted": np.array([True, False, False])}
    found = Verification.score(columns, np.ones(3), {"far": [0.1]})
    assert np.isnan([found[name] for name in ("tar@far<=0.1", "auc", "eer")]).all()
    assert np.isnan(found["fmr" if same else "fnmr"])
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["fnmr" if same else "fmr"] == pytest.approx(2 / 3 if same else 1 / 3)


def test_each_group_has_its_own_folds_in_rfw(people):
    result = evaluate(
        people / "emb",
        people / "rfw",
        protocol="rfw",
        pairs=people / "pairs.txt",
        group_column="kind",
        bootstrap=50,
    )
    accuracy = {k: g["metrics"]["accuracy"]["value"] for k, g in result.document["groups"]["group"].items()}
    values = np.array(list(accuracy.values()))
    assert result.value("accuracy") == pytest.approx(values.mean())
    assert result.value("std_percent") == pytest.approx(100 * values.std(ddof=1))
    assert result.value("ser") == pytest.approx((1 - values.min()) / (1 - values.max()))
    assert result.document["left_out"]["pairs_across_groups"] + result.document["n"] == 400
    with pytest.raises(KdbiasError, match=r"needs --group-column; .* has kind"):
        evaluate(people / "emb", people / "o", protocol="rfw", pairs=people / "pairs.txt")


def test_rfw_takes_a_folder_with_one_list_a_group(people):
    lists = people / "lists"
    lists.mkdir()
    lines = (people / "pairs.txt").read_text().splitlines()[1:]
    for name, parity in (("Even", 0), ("Odd", 1)):
        kept = [w for w in (line.split() for line in lines) if int(w[0][1:]) % 2 == parity]
        genuine = [w for w in kept if len(w) == 3][:50]
        impostor = [w for w in kept if len(w) == 4][:50]
        rows = [
            "\t".join(w)
            for i in range(5)
            for w in genuine[10 * i : 10 * i + 10] + impostor[10 * i : 10 * i + 10]
        ]
        (lists / f"{name}_pairs.txt").write_text("5\t10\n" + "\n".join(rows) + "\n")
    result = evaluate(people / "emb", people / "out", protocol="rfw", pairs=lists, bootstrap=0)
    assert {k: g["n"] for k, g in result.document["groups"]["group"].items()} == {"Even": 100, "Odd": 100}


def test_rfw_s_own_lists_have_no_header_and_lie_in_folders_with_other_lists(people, capsys):
    lines = (people / "pairs.txt").read_text().splitlines()[1:]
    for name, parity in (("East_Asian", 0), ("East_African", 1)):
        kept = [line for line in lines if int(line[1:3]) % 2 == parity]
        folder = people / "txts" / name
        folder.mkdir(parents=True)
        (folder / f"{name}_pairs.txt").write_text("\n".join(kept) + "\n")
        (folder / f"{name}_people.txt").write_text("P00\t6\nP01\t6\n")
    call = dict(protocol="rfw", pairs=people / "txts", bootstrap=0)
    result = evaluate(people / "emb", people / "out", **call)
    groups = result.document["groups"]["group"]
    assert {k: g["n"] for k, g in groups.items()} == {"East_African": 200, "East_Asian": 200}
    assert len(result.document["details"]["groups"]["East_Asian"]["folds"]) == 10
    assert "East_African_people.txt, East_Asian_people.txt left out" in capsys.readouterr().err
    (people / "txts" / "East_Asian_test.csv").write_text("first,second,same\n")
    with pytest.raises(KdbiasError, match=r"both list pairs of 'East_Asian'"):
        evaluate(people / "emb", people / "other", **call)
    with pytest.raises(KdbiasError, match="input pairs"):
        evaluate(people / "emb", people / "out", **call)


def test_both_views_are_added_by_insightface_s_rule_alone(tmp_path):
    from kdbias.evaluation.task import Embeddings
    from kdbias.evaluation.verification import pair_cosines

    a, b = np.eye(4, dtype=np.float32)[:2], np.eye(4, dtype=np.float32)[[2, 2]]
    ids = pa.array(["x", "y"], pa.large_string())
    model = Embeddings("t", ids, ids, {}, np.ones(2), a, "", flips=b)
    rows = (np.array([0]), np.array([1]))
    assert pair_cosines(views_of(model, mirrored=False), *rows)[0] == 0
    assert pair_cosines(views_of(model, "unit"), *rows)[0] == pytest.approx(0.5)


def test_raw_views_are_added_as_long_as_they_were(capsys):
    from kdbias.evaluation.task import Embeddings
    from kdbias.evaluation.verification import pair_cosines

    rng = np.random.default_rng(0)
    raw = rng.normal(size=(2, 6, 5)) * rng.uniform(1e-3, 1e3, (2, 6, 1))
    lengths = np.linalg.norm(raw, axis=2)
    unit = (raw / lengths[..., None]).astype(np.float32)
    ids = pa.array(list("abcdef"), pa.large_string())
    model = Embeddings("t", ids, ids, {}, lengths[0], unit[0], "", flips=unit[1], flip_norms=lengths[1])
    rows = (np.array([0, 1, 2]), np.array([3, 4, 5]))
    for fusion, views in (("raw", raw), ("unit", unit)):
        added = views.sum(axis=0)
        expected = [
            a @ b / np.linalg.norm(a) / np.linalg.norm(b)
            for a, b in zip(added[rows[0]], added[rows[1]], strict=True)
        ]
        found = views_of(model, fusion)
        np.testing.assert_allclose(pair_cosines(found, *rows), expected, atol=1e-5)
        np.testing.assert_allclose(found.lengths(), np.linalg.norm(added, axis=1), rtol=1e-5)
    assert views_of(model).details() == {"views": "image + mirror", "flip_fusion": "raw"}
    old = replace(model, flip_norms=None)
    assert views_of(old).fusion == "unit"
    assert "no norm_flip" in capsys.readouterr().err
    with pytest.raises(KdbiasError, match="no norm_flip, which raw fusion needs"):
        views_of(old, "raw")
    with pytest.raises(KdbiasError, match="the style facex takes one"):
        Verification(pairs="pairs.csv", style="facex", flip_fusion="raw")
    with pytest.raises(KdbiasError, match="flip_fusion is 'sum', should be one of raw, unit"):
        Verification(pairs="pairs.csv", flip_fusion="sum")


def test_missing_or_wrong_options_are_refused(people):
    table, pairs = people / "emb", people / "pairs.txt"
    for options, says in (
        ({}, "pairs is missing"),
        ({"pairs": people / "none.txt"}, "no such file"),
        ({"pairs": pairs, "style": "mine"}, "insightface, facex, exact"),
        ({"pairs": pairs, "far": [0.0]}, "above 0"),
        ({"pairs": pairs, "far": []}, "far is empty"),
        ({"pairs": pairs, "folds": []}, "folds is empty"),
        ({"pairs": pairs, "folds": [1]}, "two folds"),
    ):
        with pytest.raises(KdbiasError, match=says):
            evaluate(table, people / "out", protocol="verification", **options)


def test_lfw_with_the_stored_teacher_embeddings(real_data, tmp_path):
    """0.9925 and 0.9940 also come out of a plain loop; the list holds folds 1 to 8."""
    folder = real_data / "lfw112"
    table = pq.read_table(folder / "lfw_arc112.parquet", columns=["name", "person", "gender"])
    write_embedding_table(
        tmp_path / "emb",
        table["name"].combine_chunks(),
        np.load(folder / "lfw_ov0095_f16.npy"),
        table["person"].combine_chunks(),
        {"gender": table["gender"].combine_chunks()},
    )
    found = {
        style: evaluate(
            tmp_path / "emb",
            tmp_path / style,
            protocol="verification",
            pairs=folder / "pairs_folds1-8.txt",
            style=style,
            bootstrap=0,
        ).value("accuracy")
        for style in ("insightface", "exact")
    }
    assert found["insightface"] == pytest.approx(0.9925, abs=6e-4)
    assert found["exact"] == pytest.approx(0.9940, abs=6e-4)
