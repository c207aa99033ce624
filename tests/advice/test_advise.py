"""Advice on small tables: the choice, and its numbers against direct computation."""

import json
import shlex
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

import kdbias
from kdbias.advice import evidence
from kdbias.cli import main
from kdbias.errors import KdbiasError
from kdbias.measurement.files import read_uniformity
from kdbias.sphere.equilibrium.kernel_matrix import LADDER
from kdbias.tables.embedding_table import write_embedding_table
from tests import reference

D = 16


def mean_kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(n, m) float64 mean kernel over the ladder."""
    cosines = np.clip(reference.unit_rows(x) @ reference.unit_rows(y).T, -1, 1)
    return np.mean([np.exp(-2 * t * (1 - cosines)) for t in LADDER], axis=0)


def squared_discrepancy(x: np.ndarray, p: np.ndarray, y: np.ndarray) -> float:
    q = np.full(len(y), 1 / len(y))
    return float(p @ mean_kernel(x, x) @ p - 2 * p @ mean_kernel(x, y) @ q + q @ mean_kernel(y, y) @ q)


def classes(counts: tuple[int, ...], seed: int, spread: float = 0.8) -> tuple[np.ndarray, list[str]]:
    """Points around one centre a class, and their classes."""
    centres = reference.random_sphere(len(counts), D, 99)
    of = np.repeat(np.arange(len(counts)), counts)
    noise = reference.unit_rows(np.random.default_rng(seed).normal(size=(len(of), D)))
    return reference.unit_rows(centres[of] + spread * noise).astype(np.float32), [f"c{i}" for i in of]


def table(folder, x, labels, name="x", **groups):
    ids = [f"{name}{i}" for i in range(len(x))]
    return write_embedding_table(folder, ids, x, labels, groups=groups, dtype="float32").path


@pytest.fixture(scope="module")
def skewed(tmp_path_factory):
    """Data with a long tail of classes, a reference of even ones, and one that is drawn like the data."""
    root = tmp_path_factory.mktemp("skewed")
    x, labels = classes((150, 40, 10), 0)
    table(root / "emb", x, labels, one=["same"] * 200, name_of=[f"n{i}" for i in range(200)])
    table(root / "even", *classes((50, 50, 50), 1), "e")
    table(root / "alike", *classes((113, 30, 7), 2), "a")
    kdbias.uniformity(root / "emb", root / "density", towards=root / "even", rectification="none")
    return root


def test_differing_data_are_matched(skewed):
    advice = kdbias.advise(skewed / "density")
    assert advice.choice == "matched"
    assert advice.verdict.startswith("rectify: your data differ from ")
    x, y = (kdbias.EmbeddingTable.open(skewed / name).vectors() for name in ("emb", "even"))
    natural, target = np.full(200, 1 / 200), advice.target
    assert target.discrepancy == pytest.approx(squared_discrepancy(x, natural, y), rel=1e-4)
    off_diagonal = (mean_kernel(y, y).sum() - 150) / (150 * 149)
    assert target.noise == pytest.approx((1 - off_diagonal) / 150, rel=1e-4)
    assert target.noise_ratio == pytest.approx(target.discrepancy / target.noise, rel=1e-6)
    assert target.p_value < 0.05


def test_what_weights_could_remove_is_what_they_remove(skewed, tmp_path):
    advice = kdbias.advise(skewed / "density")
    made = kdbias.weights(skewed / "density", tmp_path / "w.parquet", towards=skewed / "even")
    offer = advice.advised
    assert offer.min_ess == 0.5
    assert offer.removed == pytest.approx(made.target["removed"], abs=2e-3)
    assert offer.ess_share == pytest.approx(made.numbers["ess_share"], abs=2e-3)
    x, y = (kdbias.EmbeddingTable.open(skewed / name).vectors() for name in ("emb", "even"))
    p = kdbias.read_manifest(made.path).weights / 200
    assert offer.discrepancy == pytest.approx(squared_discrepancy(x, p, y), rel=2e-2)
    assert [o.min_ess for o in advice.offers] == [0.75, 0.5, 0.25]
    assert advice.offers[0].removed <= advice.offers[1].removed <= advice.offers[2].removed + 1e-3
    after = {row["value"]: row for row in kdbias.what_changed(made.path).groups.to_pylist()}
    rows = {row.value: row for row in advice.groups if row.column == "label"}
    assert {value: row.before for value, row in rows.items()} == {"c0": 0.75, "c1": 0.2, "c2": 0.05}
    for value, row in rows.items():
        assert row.after == pytest.approx(after[value]["share_after"], abs=2e-3)
        assert row.target == pytest.approx(1 / 3)


def test_written_weights_are_told_of_by_their_own_numbers(skewed, tmp_path):
    """Of all samples, however few are looked at; a copy that somebody edited is no longer the advised one."""
    shutil.copytree(skewed / "density", tmp_path / "density")
    made = kdbias.weights(tmp_path / "density", tmp_path / "w.parquet", towards=skewed / "even")
    kdbias.uniformity(skewed / "emb", tmp_path / "density", weights=made.path)
    measured = read_uniformity(tmp_path / "density")["schemes"][1]["discrepancy"]
    manifest = kdbias.read_manifest(made.path)
    labels, p = np.asarray(manifest.labels.to_pylist()), manifest.weights / 200
    never = int((p == 0).sum())
    for most in (8192, 100):
        advice = kdbias.advise(tmp_path / "density", most=most)
        assert advice.advised.removed == measured["removed"]
        assert advice.advised.ess_share == made.numbers["ess_share"]
        for row in advice.groups:
            assert row.after == pytest.approx(p[labels == row.value].sum(), abs=1e-12)
            assert row.samples == (labels == row.value).sum()
        own = [fact.text for fact in advice.facts if f"that is {made.path}" in fact.text]
        assert own[0].endswith(f"by which {never} of 200 samples are never drawn")
        assert not any("kdbias weights" in command for command in advice.commands)
    table = manifest.table.set_column(
        manifest.table.column_names.index("weight"), "weight", pa.array(np.arange(1.0, 201))
    )
    pq.write_table(table.replace_schema_metadata(manifest.table.schema.metadata), made.path)
    advice = kdbias.advise(tmp_path / "density")
    assert any("kdbias weights" in command for command in advice.commands)


def test_an_offer_is_a_line_and_two_alike_are_one(skewed):
    """Where the noise ends the matching, a lower floor changes nothing."""
    advice = kdbias.advise(skewed / "emb", towards="balanced:label")
    assert [offer.bound for offer in advice.offers] == ["noise"] * 3
    (head, told) = [fact.text for fact in advice.facts if fact.topic == "weights"]
    assert head.startswith("scheme matched (kdbias weights --towards)")
    removed, ess = (f"{100 * getattr(advice.advised, name):.1f} %" for name in ("removed", "ess_share"))
    assert told.startswith(f"at ESS {ess} it removes {removed} of the difference, no more than the noise of ")
    several = [f.text for f in kdbias.advise(skewed / "density").facts if f.topic == "weights"]
    assert [text.count("%") for text in several] == [0, 2, 2, 2]


def test_columns_that_make_no_groups_are_left_out(skewed):
    advice = kdbias.advise(skewed / "density")
    assert {row.column for row in advice.groups} == {"label"}
    text = "left out, as no groups: one (one value for all samples); name_of (another value for each sample)"
    assert text in [fact.text for fact in advice.facts]
    asked = kdbias.advise(skewed / "density", group_by=["one"])
    assert [(row.value, row.before) for row in asked.groups] == [("same", 1.0)]


def test_data_like_the_target_stay_natural(skewed):
    advice = kdbias.advise(skewed / "emb", towards=skewed / "alike")
    assert advice.choice == "natural"
    assert advice.verdict.startswith("stay natural: your data do not differ measurably from ")
    assert advice.offers == advice.expected == ()
    assert {row.after for row in advice.groups} == {None}
    assert len(advice.commands) == 1
    assert "--weights" not in advice.commands[0]


def test_without_a_target_there_is_no_verdict(skewed):
    advice = kdbias.advise(skewed / "emb")
    assert advice.choice == "unknown"
    assert advice.verdict.startswith("no target, no verdict")
    assert advice.target is None
    asked = next(fact.text for fact in advice.facts if fact.topic == "to ask")
    assert asked.startswith("300 unlabelled images")
    assert "balanced:label" in asked
    assert advice.commands[1] == f"kdbias advise {skewed / 'emb'} --towards deployed"
    assert {expected.tried for expected in advice.expected} == {"inverse-density"}


def test_a_target_that_is_named_wins_over_the_measured_one(skewed):
    assert kdbias.advise(skewed / "density", towards=skewed / "alike").choice == "natural"
    balanced = kdbias.advise(skewed / "density", towards="balanced:label")
    assert balanced.choice == "matched"
    assert {expected.tried for expected in balanced.expected} == {"labels"}
    assert [row.target for row in balanced.groups] == [pytest.approx(1 / 3)] * 3


def test_copies_alone_are_to_be_drawn_as_one(tmp_path):
    x, labels = classes((60, 60), 3)
    copies = np.concatenate([x, np.repeat(x[:1], 120, axis=0)])
    table(tmp_path / "emb", copies, labels + ["c0"] * 120)
    table(tmp_path / "reference", *classes((60, 60), 4), "r")
    advice = kdbias.advise(tmp_path / "emb", towards=tmp_path / "reference")
    assert advice.choice == "copies"
    assert advice.verdict.startswith("draw copies as one sample")
    assert advice.counts.copies == 120
    assert [row.after for row in advice.groups] == [pytest.approx(0.5)] * 2
    assert "--towards" in advice.commands[1]


def test_of_many_samples_some_are_drawn_and_that_is_said(skewed):
    whole = kdbias.advise(skewed / "density")
    drawn = kdbias.advise(skewed / "density", most=100)
    assert drawn.target == whole.target  # as it was measured on all
    assert drawn.counts == whole.counts
    assert "(of 100 samples drawn from 200)" in " ".join(drawn.lines())
    unmeasured = kdbias.advise(skewed / "emb", towards=skewed / "even", most=100)
    assert unmeasured.counts.samples == 100
    assert unmeasured.target.discrepancy == pytest.approx(whole.target.discrepancy, rel=0.5)


def test_it_says_what_no_weights_can_bring_in(tmp_path):
    x, labels = classes((150, 50), 5)
    table(tmp_path / "emb", x, labels)
    table(tmp_path / "reference", *classes((40, 40, 40), 6), "r")
    advice = kdbias.advise(tmp_path / "emb", towards=tmp_path / "reference")
    absent = next(row for row in advice.groups if row.value == "c2")
    assert (absent.samples, absent.before, absent.target) == (0, 0.0, pytest.approx(1 / 3))
    assert any("no weights bring it: c2 (33.3 %)" in line for line in advice.lines())


def test_a_case_is_cited_only_for_data_that_are_like_its_own():
    differing = [case for case in evidence.cases() if case.differs]
    for case in differing:
        own = case.discrepancy, case.removed, case.ess_share, case.repeated, case.clustered
        found = evidence.comparable(evidence.cases(), evidence.Situation(*own))
        assert all(one.differs for one in found)
        assert (found[0].discrepancy, found[0].removed) == own[:2]
        d, removed, ess, repeated, clustered = own
        for i, other in enumerate((d / 5, removed - 0.3, ess + 0.4, repeated + 0.3, not clustered)):
            changed = [*own[:i], other, *own[i + 1 :]]
            assert case not in evidence.comparable(evidence.cases(), evidence.Situation(*changed))


def test_without_near_duplicates_data_are_not_likened_to_some_that_half_consist_of_them():
    """Its difference and what weights remove of it are those of the clothes, half of them near duplicates."""
    clothes = next(case for case in evidence.cases() if case.name == "fashion/bursts")
    own = clothes.discrepancy, clothes.removed, clothes.ess_share
    assert evidence.comparable(evidence.cases(), evidence.Situation(*own, 0.5, False)) == [clothes]
    assert clothes not in evidence.comparable(evidence.cases(), evidence.Situation(*own, 0.0, False))


def test_what_a_case_like_the_data_was_harmed_by_is_compared(tmp_path, monkeypatch):
    """What the reference has and the data lack, no weights bring in: as in the case that matching harmed."""
    table(tmp_path / "far", classes((200, 200), 7, spread=2.0)[0], None, "f")
    strange = classes((100, 100), 8, spread=2.0)[0]
    strange[:20] = reference.unit_rows(
        reference.random_sphere(1, D, 5) + 0.5 * reference.random_sphere(20, D, 6)
    )
    table(tmp_path / "strange", strange, None, "s")
    advice = kdbias.advise(tmp_path / "far", towards=tmp_path / "strange")
    assert advice.choice == "compare"
    assert advice.verdict.startswith("compare before you rectify: ")
    assert advice.verdict.endswith("no case of our study is like yours")  # of less of it weights are the cure
    monkeypatch.setattr(evidence, "REMOVED", 0.4)
    advice = kdbias.advise(tmp_path / "far", towards=tmp_path / "strange")
    assert (advice.choice, advice.expected[0].case) == ("compare", "fairface/black")
    assert advice.verdict.endswith("such weights harmed in a case of our study like yours")


def promises(advice) -> bool:
    """Whether any line but those of the data promises a share of error."""
    return "error removed" in advice.expectation or "[" in advice.expectation or advice.expected != ()


def test_where_the_teacher_does_not_tell_labels_apart_nothing_is_promised(tmp_path):
    """The same vectors as rectified, with labels that have nothing to do with where they lie."""
    x, labels = classes((150, 40, 10), 0)
    table(tmp_path / "even", *classes((50, 50, 50), 1), "e")
    shuffled = np.random.default_rng(0).permutation(labels).tolist()
    for name, known in (("told", labels), ("untold", shuffled), ("none", None)):
        table(tmp_path / name, x, known)
        unmeasured = kdbias.advise(tmp_path / name, towards=tmp_path / "even")
        kdbias.uniformity(tmp_path / name, tmp_path / f"d-{name}", rectification="none")
        measured = kdbias.advise(tmp_path / f"d-{name}", towards=tmp_path / "even")
        for advice in (unmeasured, measured):
            assert advice.choice == ("compare" if name == "untold" else "matched")
            assert promises(advice) == (name != "untold")
        assert (measured.counts.judged, measured.counts.misfit) == (
            unmeasured.counts.judged,
            unmeasured.counts.misfit,
        )
    said = kdbias.advise(tmp_path / "d-untold", towards=tmp_path / "even")
    counts = said.counts
    assert counts.judged == 200
    assert counts.misfit > 60
    assert f"does not tell your labels apart ({counts.misfit} of 200 samples are nearer" in said.verdict
    suspects = next(fact.text for fact in said.facts if fact.topic == "suspects")
    assert "the teacher does not tell these labels apart" in suspects
    table(tmp_path / "alike", *classes((113, 30, 7), 2), "a")
    alike = kdbias.advise(tmp_path / "untold", towards=tmp_path / "alike")
    assert alike.choice == "natural"
    assert any("a difference in them would not show" in fact.text for fact in alike.facts)


def test_data_unlike_every_case_of_the_study_are_told_so(tmp_path):
    """With near duplicates for most of the data, which no case with such a difference had."""
    x, labels = classes((150, 40, 10), 0)
    near = reference.unit_rows(x[:120] + 0.001 * np.random.default_rng(5).normal(size=(120, D)))
    table(tmp_path / "emb", np.concatenate([x, near.astype(np.float32)]), labels + labels[:120])
    table(tmp_path / "even", *classes((50, 50, 50), 1), "e")
    advice = kdbias.advise(tmp_path / "emb", towards=tmp_path / "even")
    assert advice.choice == "compare"
    assert advice.verdict.endswith("but no case of our study is like yours")
    assert advice.expectation.startswith("no case of our study is like yours (")
    assert not promises(advice)


def test_references_that_count_otherwise_than_those_of_the_study_promise_nothing(tmp_path):
    x, labels = classes((150, 40, 10), 0)
    table(tmp_path / "emb", x, labels, side=["l", "r"] * 100)
    even = classes((50, 50, 50), 1)
    table(tmp_path / "even", *even, "e", side=["l", "l", "r"] * 50, scene=[f"{i // 3}" for i in range(150)])
    few = np.r_[0:3, 50:53, 100:103]
    table(tmp_path / "few", even[0][few], [even[1][i] for i in few], "f")
    for given in ({"with_column": "side"}, {"cluster_by": "scene"}, {"towards": tmp_path / "few"}):
        advice = kdbias.advise(tmp_path / "emb", **{"towards": tmp_path / "even", **given})
        assert advice.choice in ("compare", "natural")
        assert not promises(advice)


def test_what_harmed_is_told_beside_what_helped(skewed):
    advice = kdbias.advise(skewed / "density")
    harm = next(case for case in evidence.cases() if case.gains["matched"].sign < 0)
    assert harm.what in advice.expectation
    assert harm.gains["matched"].text in advice.expectation
    least = min(advice.expected, key=lambda case: case.value)
    assert f"least for {least.what}: {100 * least.value:+.1f} %" in advice.expectation
    assert evidence.file() in advice.expectation


def test_what_cannot_be_advised_on_is_refused(skewed, tmp_path):
    for given, said in (
        ({"measured": tmp_path / "nowhere"}, "no such embedding table or density folder"),
        ({"measured": tmp_path}, "holds no embedding table"),
        ({"measured": skewed / "emb", "group_by": ["shoe"]}, "no column 'shoe'; it has: label, one, name_of"),
        ({"measured": skewed / "emb", "embeddings": skewed / "emb"}, "--embeddings goes with DENSITY"),
        ({"measured": skewed / "emb", "towards": skewed / "emb"}, "are the same table"),
        ({"measured": skewed / "emb", "most": 1}, "most is 1, should be at least 100"),
    ):
        with pytest.raises(KdbiasError, match=said):
            kdbias.advise(**given)


def test_it_writes_nothing(skewed):
    before = {path: path.stat().st_mtime_ns for path in skewed.rglob("*")}
    kdbias.advise(skewed / "density", towards=skewed / "alike")
    assert {path: path.stat().st_mtime_ns for path in skewed.rglob("*")} == before


def test_the_command_says_the_verdict_first_and_commands_whole(skewed):
    result = CliRunner().invoke(main, ["advise", str(skewed / "density")])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("verdict    rectify: ")
    advice = kdbias.advise(skewed / "density")
    for command in advice.commands:
        assert any(line.endswith(command) for line in lines)
    words = shlex.split(advice.commands[0])
    assert words[:3] == ["kdbias", "weights", str(skewed / "density")]
    told = json.loads(CliRunner().invoke(main, ["advise", str(skewed / "density"), "--json"]).stdout)
    assert told["lines"][0] == f"verdict: {advice.verdict}"
    assert told["advised"]["removed"] == advice.advised.removed


def test_a_single_sample_and_one_without_labels(tmp_path):
    one = write_embedding_table(tmp_path / "one", pa.array(["a"]), np.eye(1, D)).path
    advice = kdbias.advise(one)
    assert advice.choice == "unknown"
    assert "1 sample, no labels; no exact copies" in advice.facts[0].text


def test_suspects_of_the_measurement_are_told_with_the_command_that_lists_them(skewed, tmp_path):
    """Two of 40 pictures have no content; nothing is known of pictures that nobody looked at."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (40, 8, 8), dtype=np.uint8)
    pictures[0], pictures[1] = 0, 130
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / f"{i:02d}.png")
    kdbias.embed(tmp_path, tmp_path / "emb", teacher="python:tests.pinned.teacher:factory", workers=0)
    kdbias.uniformity(tmp_path / "emb", tmp_path / "a density", rectification="none")
    advice = kdbias.advise(tmp_path / "a density")
    told = next(fact.text for fact in advice.facts if fact.topic == "suspects")
    listing = f"kdbias suspects '{tmp_path / 'a density'}'"
    assert told.startswith("2 blank")
    assert told.endswith(f"; {listing} lists them")
    assert advice.commands[0].startswith(f"{listing} -o suspects.csv   # ")
    assert "far from all others" not in advice.facts[0].text
    listed = kdbias.suspects(tmp_path / "a density", kind=["isolated"]).table.num_rows
    assert advice.counts.isolated == listed
    unseen = kdbias.advise(skewed / "density")
    text = next(fact.text for fact in unseen.facts if fact.topic == "suspects")
    assert text.endswith("no images were seen: kdbias embed looks at those that it decodes, at no others")
    assert not any(command.startswith("kdbias suspects") for command in unseen.commands)
    unmeasured = kdbias.advise(skewed / "emb")
    assert "far from all others" in unmeasured.facts[0].text
    assert not any(fact.topic == "suspects" for fact in unmeasured.facts)


def test_vectors_of_a_file_are_advised_a_file_for_the_reference_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    np.save("v.npy", rng.standard_normal((30, 6)).astype(np.float32))
    (tmp_path / "list.csv").write_text("path\n" + "".join(f"{i}.png\n" for i in range(30)))
    run = kdbias.run("list.csv", "out", teacher="precomputed:v.npy", same_order=True, pictures=0, threads=1)
    embed, again, _ = run.advice.commands
    assert embed == "kdbias embed DEPLOYED/ -o deployed --teacher precomputed:ITS_FILE"
    assert again.startswith("kdbias run list.csv -o out --teacher precomputed:v.npy")
    assert "--towards deployed --overwrite" in again
    assert kdbias.advise("out/density").commands[0] == embed


def test_shares_have_noise_and_a_reference_has_it(skewed, tmp_path):
    told = {fact.topic: fact.text for fact in kdbias.advise(skewed / "density").facts}
    assert "times the noise that a reference of this size has by itself" in told["target"]
    told = {f.topic: f.text for f in kdbias.advise(skewed / "emb", towards="balanced:label").facts}
    assert "times the noise that such shares have by itself" not in told["target"]
    assert "times the noise that such shares have by themselves" in told["target"]
