"""Tables that spell one thing in two ways, or speak of other things: refused or said, never flattering."""

import numpy as np
import pyarrow as pa
import pytest

from kdbias.errors import KdbiasError
from kdbias.evaluation import evaluate
from kdbias.evaluation.inputs import strangers
from kdbias.evaluation.reid import rank
from kdbias.tables.embedding_table import write_embedding_table

WHERE = ("table A", "table B")


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        (["0", "1"], ["00", "01"]),
        ([1.0, 1.5], ["1", "2"]),  # 1.0 is written as 1, but 1.5 nowhere
        (["1.0", "2"], ["1", "2"]),
        (["c1", "c2"], ["C01", "c2"]),
        ([" a", "b"], ["a", "b"]),
        (["id007", "x"], ["id7", "x"]),
    ],
)
def test_two_spellings_of_one_thing_are_refused_or_counted(mine, theirs) -> None:
    if mine[0] == 1.0:
        assert strangers(pa.array(mine), pa.array(theirs), "cameras", WHERE, "").tolist() == [False, True]
        return
    with pytest.raises(KdbiasError, match=r"differ in their spelling alone|none of the 2 cameras"):
        strangers(pa.array(mine), pa.array(theirs), "cameras", WHERE, "mend it")


def test_values_that_never_meet_are_shown_with_the_way_out() -> None:
    with pytest.raises(KdbiasError) as caught:
        strangers(pa.array(["c1", "c2"]), pa.array([1, 2, 3]), "cameras", WHERE, "mend it")
    assert str(caught.value) == (
        "none of the 2 cameras of table A ('c1', 'c2') occurs among the 3 of table B ('1', '2', '3'); mend it"
    )


def test_numbers_and_texts_meet_and_nulls_are_no_strangers() -> None:
    found = strangers(pa.array([1, None, 3]), pa.array(["1", "2", None]), "cameras", WHERE, "")
    assert found.tolist() == [False, False, True]


def _people(folder, name, cameras, labels=None, ids=None, seed=0, who=None):
    """Six people; of each an image a camera, which looks more like its camera than like its person."""
    who = np.repeat(np.arange(6), 4) if who is None else who
    places = np.tile(np.arange(4), 6)
    rng = np.random.default_rng(1)
    people, rooms = rng.normal(size=(6, 16)), rng.normal(size=(6, 4, 16))
    x = people[who] + 0.8 * rooms[who, places] + 0.3 * np.random.default_rng(seed).normal(size=(24, 16))
    write_embedding_table(
        folder / name,
        pa.array(ids or [f"{name}{i}" for i in range(24)]),
        x,
        pa.array([f"p{p}" for p in who] if labels is None else labels),
        {"cam": pa.array([cameras[place] for place in places])},
    )
    return folder / name


def _reid(folder, queries, gallery, out="out", **more):
    return evaluate(queries, folder / f"out_{out}", protocol="reid", gallery=gallery, bootstrap=0, **more)


@pytest.mark.parametrize(
    "cameras", [["00", "01", "02", "03"], ["c0", "c1", "c2", "c3"], ["0.0", "1.0", "2.0", "3.0"]]
)
def test_cameras_that_never_meet_exclude_nothing_and_are_refused(tmp_path, cameras) -> None:
    queries = _people(tmp_path, "q", [0, 1, 2, 3], seed=2)
    right = _reid(tmp_path, queries, _people(tmp_path, "right", ["0", "1", "2", "3"]), "right")
    gallery = _people(tmp_path, "g", cameras)
    with pytest.raises(KdbiasError, match=r"none of the 4 cameras .column 'cam'.*--camera-column none"):
        _reid(tmp_path, queries, gallery)
    easier = _reid(tmp_path, queries, gallery, camera_column="none")
    assert easier.value("rank1") > right.value("rank1")  # what a silent miss would have shown


def test_one_camera_in_two_spellings_is_refused(tmp_path) -> None:
    queries = _people(tmp_path, "q", ["0", "1", "2", "3"], seed=2)
    with pytest.raises(KdbiasError, match=r"cameras .*: '1' in .* and '01' in .* differ in their spelling"):
        _reid(tmp_path, queries, _people(tmp_path, "g", ["0", "01", "2", "3"]))


def test_a_camera_that_the_gallery_lacks_is_none_without_name(tmp_path, capsys) -> None:
    gallery = _people(tmp_path, "g", ["0", "1", "2", "3"])
    whole = _reid(tmp_path, _people(tmp_path, "q", ["0", "1", "2", "3"], seed=2), gallery, "whole")
    lacking = _reid(tmp_path, _people(tmp_path, "q7", ["0", "1", "2", "7"], seed=2), gallery, "lacking")
    assert lacking.document["n"] == 24
    assert lacking.document["details"]["queries_of_cameras_not_in_gallery"] == 6
    assert "6 queries are of cameras that the gallery lacks" in capsys.readouterr().err
    nameless = _reid(tmp_path, _people(tmp_path, "q0", ["0", "1", "2", None], seed=2), gallery, "nameless")
    assert nameless.document["n"] == 18
    assert nameless.document["left_out"] == {"no_label": 0, "no_camera": 6, "no_match_in_gallery": 0}
    assert whole.document["left_out"]["no_camera"] == 0
    blind = _reid(
        tmp_path,
        _people(tmp_path, "q2", ["0", "1", "2", "3"], seed=2),
        _people(tmp_path, "g0", ["0", "1", "2", None]),
        "blind",
    )
    assert blind.document["details"]["gallery_images_without_camera"] == 6
    assert "6 gallery images have no camera" in capsys.readouterr().err


def test_a_gallery_image_of_no_known_camera_is_no_match() -> None:
    gallery = np.array([[0.9, 0.1], [0.8, 0.6], [0.6, 0.8]], np.float32)
    found = rank(
        np.array([[1, 0]], np.float32),
        gallery,
        np.array([0]),
        np.array([0, 5, 0]),
        np.array([1]),
        np.array([-1, 1, 2]),
    )
    assert found["matches"][0] == 1
    assert found["first_rank"][0] == 2


def test_people_that_the_gallery_lacks_are_counted_and_none_met_is_refused(tmp_path) -> None:
    cameras = ["0", "1", "2", "3"]
    queries = _people(tmp_path, "q", cameras, seed=2)
    half = [f"p{p}" if p < 3 else f"other{p}" for p in np.repeat(np.arange(6), 4)]
    found = _reid(tmp_path, queries, _people(tmp_path, "half", cameras, labels=half), "half")
    assert (found.document["n"], found.document["left_out"]["no_match_in_gallery"]) == (12, 12)
    assert found.document["details"]["queries_of_absent_identities"] == 12
    with pytest.raises(KdbiasError, match="none of the 6 identities"):
        _reid(tmp_path, queries, _people(tmp_path, "n", cameras, labels=[f"x{i}" for i in range(24)]))
    zeros = [f"p0{p}" for p in np.repeat(np.arange(6), 4)]
    with pytest.raises(KdbiasError, match="none of the 6 identities"):
        _reid(tmp_path, queries, _people(tmp_path, "z", cameras, labels=zeros))


@pytest.mark.parametrize("protocol", ["knn", "linear"])
def test_classes_of_test_and_gallery_that_do_not_meet(tmp_path, protocol, capsys) -> None:
    cameras = ["0"] * 4
    model = _people(tmp_path, "model", cameras, seed=2)

    def judged(name, labels, **more):
        gallery = _people(tmp_path, name, cameras, labels=labels)
        return evaluate(model, tmp_path / f"o{name}", protocol=protocol, gallery=gallery, bootstrap=0, **more)

    who = np.repeat(np.arange(6), 4)
    with pytest.raises(KdbiasError, match="none of the 6 labels"):
        judged("never", [f"x{p}" for p in who])
    with pytest.raises(KdbiasError, match=r"'p5' in .* and 'p05' in the gallery differ in their spelling"):
        judged("twice", [f"p{p}" if p < 5 else "p05" for p in who])
    result = judged("some", [f"p{p}" if p < 4 else f"x{p}" for p in who])
    assert result.document["n"] == 24
    assert result.value("knn_accuracy" if protocol == "knn" else "accuracy") <= 16 / 24
    assert "8 of 24 samples are of classes that the gallery lacks" in capsys.readouterr().err


@pytest.mark.parametrize("protocol", ["knn", "fidelity"])
def test_an_id_names_one_sample_in_both_tables(tmp_path, protocol, capsys) -> None:
    ids, who = [str(i) for i in range(24)], np.repeat(np.arange(6), 4)
    model = _people(tmp_path, "model", ["0"] * 4, ids=ids)
    role = {"knn": "gallery", "fidelity": "reference"}[protocol]

    def judged(name, labels):
        other = _people(tmp_path, name, ["0"] * 4, ids=ids, labels=labels)
        return evaluate(model, tmp_path / f"o{name}", protocol=protocol, bootstrap=0, **{role: other})

    with pytest.raises(KdbiasError, match=r"24 of 24 ids that .* share have another label there"):
        judged("shifted", [f"p{(p + 1) % 6}" for p in who])
    judged("corrected", [f"p{p}" if i else "p3" for i, p in enumerate(who)])
    assert "1 of 24 ids that" in capsys.readouterr().err
    judged("unlabelled" if protocol == "fidelity" else "equal", [f"p{p}" for p in who])
    assert "ids that" not in capsys.readouterr().err


def test_rare_classes_are_counted_by_the_same_names(tmp_path, capsys) -> None:
    who = np.repeat(np.arange(6), 4)
    model = _people(tmp_path, "model", ["0"] * 4)
    counted = _people(tmp_path, "counted", ["0"] * 4, labels=[f"p{p}" if p else "p00" for p in who])
    with pytest.raises(KdbiasError, match="'p0' in the judged samples and 'p00' in"):
        evaluate(model, tmp_path / "o", protocol="knn", tail_from=counted, bootstrap=0)
    some = _people(tmp_path, "some", ["0"] * 4, labels=[f"p{max(p, 1)}" for p in who])
    evaluate(model, tmp_path / "o2", protocol="knn", tail_from=some, bootstrap=0)
    assert "1 of 6 classes have no row in" in capsys.readouterr().err


def _pairs(folder, table, races, same_of=None):
    rng = np.random.default_rng(0)
    who = np.arange(40) // 2
    x = rng.normal(size=(20, 16))[who] + 0.4 * rng.normal(size=(40, 16))
    labels = pa.array([f"p{p}" for p in who])
    groups = {"race": pa.array([races[(p // 5) % 4] for p in who])}
    write_embedding_table(folder / table, pa.array([f"i{i}" for i in range(40)]), x, labels, groups)
    first = [f"i{2 * p}" for p in range(20)] * 2
    second = [f"i{2 * p + 1}" for p in range(20)] + [
        f"i{2 * (5 * (p // 5) + (p + 1) % 5)}" for p in range(20)
    ]
    same = [1] * 20 + [0] * 20
    frame = {"first": first, "second": second, "same": same, "fold": [1 + p % 2 for p in range(40)]}
    return frame


def _write_csv(file, frame):
    lines = [",".join(frame), *(",".join(map(str, row)) for row in zip(*frame.values(), strict=True))]
    file.write_text("\n".join(lines) + "\n")
    return file


def test_groups_that_do_not_meet(tmp_path, capsys) -> None:
    frame = _pairs(tmp_path, "emb", ["Asian", "African", "Indian", "Caucasian"])
    file = _write_csv(tmp_path / "pairs.csv", frame)
    call = dict(protocol="rfw", pairs=file, group_column="race", bootstrap=0)
    whole = evaluate(tmp_path / "emb", tmp_path / "whole", **call)
    assert len(whole.document["groups"]["group"]) == 4
    _pairs(tmp_path, "twice", ["Asian", "African", "Indian", "asian"])
    with pytest.raises(KdbiasError, match=r"column 'race' of .* has both 'Asian' and 'asian'"):
        evaluate(tmp_path / "twice", tmp_path / "o", **call)
    _pairs(tmp_path, "null", ["Asian", "African", "Indian", None])
    found = evaluate(tmp_path / "null", tmp_path / "null_o", **call)
    assert found.document["left_out"] == {"pairs_across_groups": 0, "pairs_of_unknown_group": 10}
    fewer = {name: [v for i, v in enumerate(column) if i % 20 < 15] for name, column in frame.items()}
    call["pairs"] = _write_csv(tmp_path / "fewer.csv", fewer)
    evaluate(tmp_path / "emb", tmp_path / "fewer", **call)
    assert "no pair within Caucasian" in capsys.readouterr().err


def test_pairs_that_contradict_the_labels_are_said(tmp_path, capsys) -> None:
    frame = _pairs(tmp_path, "emb", list("abcd"))
    frame["same"][20] = 1
    call = dict(protocol="verification", pairs=_write_csv(tmp_path / "pairs.csv", frame), bootstrap=0)
    evaluate(tmp_path / "emb", tmp_path / "out", **call)
    assert "1 of 21 pairs that the list calls the same have two labels" in capsys.readouterr().err


def test_a_sample_that_is_in_the_gallery_under_another_id_is_said(tmp_path, capsys) -> None:
    cameras = ["0"] * 4
    model = _people(tmp_path, "model", cameras, ids=[f"{i:03}.jpg" for i in range(24)])
    same = _people(tmp_path, "same", cameras, ids=[f"{i}.jpg" for i in range(24)])
    evaluate(model, tmp_path / "o1", protocol="knn", gallery=same, bootstrap=0)
    assert "24 of 24 judged samples have the very vector of a gallery sample" in capsys.readouterr().err
    other = _people(tmp_path, "other", cameras, seed=2)
    evaluate(model, tmp_path / "o2", protocol="knn", gallery=other, bootstrap=0)
    assert "very vector" not in capsys.readouterr().err
