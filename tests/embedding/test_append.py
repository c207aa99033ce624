"""embed(append=True): the table that a fresh run would give, of which only the new images are embedded."""

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import kdbias
from kdbias import progress
from kdbias.embedding.growth import NEXT
from kdbias.errors import ConfigChangedError, KdbiasError
from kdbias.tables.embedding_table import EmbeddingTable
from tests.endings import ending_after

TEACHER = """
import pathlib

import numpy as np

LOG = pathlib.Path(__file__).with_name("seen.txt")

class Pixels:
    preprocessing = {"size": [6, 8], "color": "L", "mean": [0], "std": [1]}

    def embed(self, batch):
        with open(LOG, "a") as log:
            log.writelines(f"{int(image.sum())}\\n" for image in batch)
        return batch.reshape(len(batch), -1).astype(np.float32) + 1

def factory(device):
    return Pixels()

def other(device):
    found = Pixels()
    found.preprocessing = {**Pixels.preprocessing, "mean": [9]}
    return found
"""
OPTIONS = {"rows_per_part": 9, "batch_size": 4, "workers": 0, "device": "cpu"}


class Lab:
    """A folder of 30 images with their table, then as it has grown."""

    def __init__(self, root: Path) -> None:
        self.root, self.data, self.out = root, root / "data", root / "emb"
        (root / "pixels.py").write_text(TEACHER)
        self.teacher = f"python:{root / 'pixels.py'}:factory"
        rng = np.random.default_rng(0)
        self.images = rng.integers(0, 256, (60, 6, 8), dtype=np.uint8)
        for i in range(30):
            self.put(f"{'ab'[i % 2]}/{i:02d}.png", i)
        (self.data / "a" / "04.png").write_bytes(b"no image")

    def put(self, name: str, which: int) -> None:
        (self.data / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(self.images[which]).save(self.data / name)

    def grow(self) -> list[int]:
        """Four more images, one mended, one replaced, two gone; returns those that are new to the teacher."""
        for name, which in [("a/00b.png", 40), ("b/31.png", 41), ("c/01.png", 42), ("c/02.png", 43)]:
            self.put(name, which)
        self.put("a/04.png", 44)
        self.put("b/07.png", 45)
        (self.data / "a" / "10.png").unlink()
        (self.data / "b" / "29.png").unlink()
        return [40, 41, 42, 43, 44, 45]

    def embed(self, out: Path | None = None, **more):
        with progress.quiet():
            options = {"teacher": self.teacher, **OPTIONS, **more}
            return kdbias.embed(self.data, out or self.out, **options)

    def seen(self) -> set[int]:
        """Sums of the images that the teacher has seen since the last call."""
        log = self.root / "seen.txt"
        found = {int(line) for line in log.read_text().split()} if log.exists() else set()
        log.unlink(missing_ok=True)
        return found - {0}  # the black one that a teacher is tried with

    def fresh(self, **more) -> EmbeddingTable:
        self.embed(self.root / "fresh", overwrite=True, **more)
        self.seen()
        return EmbeddingTable.open(self.root / "fresh")


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def assert_same(out: Path, expected: EmbeddingTable) -> None:
    table = EmbeddingTable.open(out)
    assert table.fingerprint == expected.fingerprint  # of every id, label, group, norm and bit of a vector
    assert [part.name for part in table.parts] == [part.name for part in expected.parts]
    np.testing.assert_array_equal(table.image_facts(), expected.image_facts())
    np.testing.assert_array_equal(table.image_digests(), expected.image_digests())
    failed = [pd.read_parquet(path / "failures.parquet") for path in (out, expected.path)]
    pd.testing.assert_frame_equal(*failed)
    leftover = {entry.name for entry in out.iterdir()} - {entry.name for entry in expected.path.iterdir()}
    assert not leftover


@pytest.mark.parametrize("options", [{}, {"flip": True, "store": "float32", "workers": 2}])
def test_only_what_is_new_is_embedded_and_the_table_is_as_if_made_anew(lab, options, capsys):
    lab.embed(**options)
    lab.seen()
    new = lab.grow()
    options_ = {**OPTIONS, **options}
    result = kdbias.embed(lab.data, lab.out, teacher=lab.teacher, append=True, **options_)
    said = capsys.readouterr().err
    assert (
        "grows: 26 kept, 5 added ('a/00b.png', 'a/04.png', 'b/31.png', ...), 1 changed ('b/07.png'), " in said
    )
    assert "2 removed ('a/10.png', 'b/29.png')" in said
    seen = lab.seen()
    assert seen == {int(lab.images[i].sum()) for i in new}
    assert (result.path, result.state, result.samples) == (lab.out, "finished", 32)
    assert_same(lab.out, lab.fresh(**options))
    grown = EmbeddingTable.open(lab.out).provenance["grown"]
    assert {k: v for k, v in grown.items() if k != "from"} == {
        "kept": 26, "added": 5, "changed": 1, "removed": 2
    }  # fmt: skip


def test_the_same_command_again_does_nothing_with_or_without_it(lab):
    lab.embed(append=True)  # nothing is there yet: as without
    lab.grow()
    lab.embed(append=True)
    lab.seen()
    assert lab.embed(append=True).state == "already finished"
    assert lab.embed().state == "already finished"
    assert not lab.seen()


@pytest.mark.parametrize("listed", [False, True])
def test_a_replaced_image_of_the_same_size_is_seen(lab, listed):
    data = lab.root / "m.csv" if listed else lab.data
    for i in range(6):
        Image.fromarray(lab.images[i]).save(lab.data / f"{i}.bmp")  # all bitmaps of a size are equally long
    paths = [f"data/{i}.bmp" for i in range(6)]
    pd.DataFrame({"sample_id": paths, "path": paths}).to_csv(lab.root / "m.csv", index=False)

    def embed(out, **more):
        return kdbias.embed(data, out, teacher=lab.teacher, **OPTIONS, **more)

    with progress.quiet():
        embed(lab.out)
        Image.fromarray(lab.images[50]).save(lab.data / "3.bmp")
        lab.seen()
        with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch, ending_after(6, patch):
            embed(lab.out, append=True)
        Image.fromarray(lab.images[51]).save(lab.data / "3.bmp")
        lab.seen()
        assert embed(lab.out, append=True).state == "finished"
        assert lab.seen() == {int(lab.images[51].sum())}
        assert embed(lab.out, append=True).state == "already finished"
        embed(lab.root / "fresh")
    assert_same(lab.out, EmbeddingTable.open(lab.root / "fresh"))


def test_what_is_said_is_of_what_was_embedded(lab, capsys):
    lab.embed()
    lab.put("c/01.png", 42)
    (lab.data / "a" / "06.png").write_bytes(b"no image")
    result = kdbias.embed(lab.data, lab.out, teacher=lab.teacher, append=True, **OPTIONS)
    told = re.search("2 images failed; see (.*)", capsys.readouterr().err)
    assert told is not None
    assert len(pq.read_table(told[1])) == 2
    assert (result.samples, result.kept) == (29, 28)
    assert result.images_per_second == pytest.approx(1 / result.seconds["elapsed"])


def test_it_grows_again_and_shrinks(lab):
    lab.embed()
    lab.grow()
    lab.embed(append=True)
    shutil.rmtree(lab.data / "b")
    lab.put("a/99.png", 50)
    lab.seen()
    lab.embed(append=True)
    assert lab.seen() == {int(lab.images[50].sum())}
    assert_same(lab.out, lab.fresh())


def test_labels_groups_and_order_are_the_new_ones(lab):
    frame = pd.DataFrame({"sample_id": [f"s{i:02d}" for i in range(30)], "label": "x", "age": range(30)})
    frame["path"] = [f"data/{'ab'[i % 2]}/{i:02d}.png" for i in range(30)]
    frame.to_csv(lab.root / "m.csv", index=False)
    with progress.quiet():
        kdbias.embed(lab.root / "m.csv", lab.out, teacher=lab.teacher, **OPTIONS)
        frame["label"] = [f"y{i % 3}" for i in range(30)]
        shuffled = frame.sample(frac=1, random_state=1).drop(columns="age")
        shuffled.to_csv(lab.root / "m.csv", index=False)
        lab.seen()
        kdbias.embed(lab.root / "m.csv", lab.out, teacher=lab.teacher, append=True, **OPTIONS)
        assert not lab.seen()
        kdbias.embed(lab.root / "m.csv", lab.root / "fresh", teacher=lab.teacher, **OPTIONS)
    assert_same(lab.out, EmbeddingTable.open(lab.root / "fresh"))
    assert EmbeddingTable.open(lab.out).group_columns == EmbeddingTable.open(lab.root / "fresh").group_columns


def self_said(out: Path) -> str | None:
    """The fingerprint of a table; None while another one takes its place, which is then said."""
    try:
        return EmbeddingTable.open(out).fingerprint
    except KdbiasError as error:
        return None if re.search("run that kdbias embed command again|is unfinished", str(error)) else "?"


def test_killed_at_any_moment_the_table_is_the_old_or_the_new_one(lab, monkeypatch):
    lab.embed(rows_per_part=40)
    old = EmbeddingTable.open(lab.out).fingerprint
    shutil.copytree(lab.out, lab.root / "before")
    lab.grow()
    expected = lab.fresh(rows_per_part=40)
    states, renames = [], 0
    while True:
        shutil.rmtree(lab.out)
        shutil.copytree(lab.root / "before", lab.out)
        try:
            with ending_after(renames, monkeypatch):
                lab.embed(append=True, rows_per_part=40)
            break
        except KeyboardInterrupt:
            pass
        states.append(self_said(lab.out))
        assert states[-1] in (old, expected.fingerprint, None), renames
        lab.embed(append=True, rows_per_part=40)
        assert_same(lab.out, expected)
        renames += 1
    assert_same(lab.out, expected)
    assert states[:6] == [old] * 6  # while it works the old table is there
    assert states[-1] is None  # but for its last renames


def test_a_kill_costs_the_parts_at_work_alone(lab, monkeypatch):
    lab.embed()
    lab.grow()
    with pytest.raises(KeyboardInterrupt), ending_after(6, monkeypatch):
        lab.embed(append=True)
    finished = sorted(path.name for path in (lab.out / NEXT).glob("part-*.parquet"))
    assert finished
    stamps = {name: (lab.out / NEXT / name).stat().st_mtime_ns for name in finished[:1]}
    lab.embed(append=True)
    assert {name: (lab.out / name).stat().st_mtime_ns for name in stamps} == stamps


def test_other_data_since_the_kill_begin_anew(lab, monkeypatch):
    lab.embed()
    lab.grow()
    with pytest.raises(KeyboardInterrupt), ending_after(6, monkeypatch):
        lab.embed(append=True)
    lab.put("a/98.png", 51)
    lab.embed(append=True)
    assert_same(lab.out, lab.fresh())


def test_a_plain_run_over_a_killed_one_leaves_nothing_of_it(lab, monkeypatch):
    lab.embed()
    lab.grow()
    with pytest.raises(KeyboardInterrupt), ending_after(6, monkeypatch):
        lab.embed(append=True)
    lab.embed(overwrite=True)
    assert_same(lab.out, lab.fresh())


def test_a_table_without_digests_is_taken_by_its_ids_with_a_word(lab, capsys):
    lab.embed()
    for part in lab.out.glob("part-*.parquet"):
        table = pq.read_table(part)
        pq.write_table(table.select([n for n in table.column_names if "image_" not in n]), part)
    lab.grow()
    kdbias.embed(lab.data, lab.out, teacher=lab.teacher, append=True, **OPTIONS)
    assert "of 27 an earlier version kept no digest" in capsys.readouterr().err
    table = EmbeddingTable.open(lab.out)
    digests = dict(zip(table.ids().to_pylist(), table.image_digests().tolist(), strict=True))
    assert digests["b/07.png"] == 0  # replaced, which nobody can know
    assert digests["c/01.png"] > 0
    facts = dict(zip(table.ids().to_pylist(), table.image_facts(), strict=True))
    assert np.isnan(facts["b/07.png"]).all()
    assert facts["c/01.png"][0] == 8


def test_an_image_that_cannot_be_read_any_more_is_a_failure(lab):
    lab.embed()
    lab.grow()
    (lab.data / "b" / "03.png").write_bytes(b"gone bad")
    lab.embed(append=True)
    assert pd.read_parquet(lab.out / "failures.parquet").sample_id.tolist() == ["b/03.png"]
    assert_same(lab.out, lab.fresh())


def test_what_it_refuses(lab, monkeypatch):
    lab.embed()
    lab.grow()
    with pytest.raises(ConfigChangedError, match="--append embeds only what is new"):
        lab.embed()
    with pytest.raises(ConfigChangedError, match=r"flip: False -> True"):
        lab.embed(append=True, flip=True)
    with pytest.raises(ConfigChangedError, match="teacher is another one"):
        lab.embed(append=True, teacher=lab.teacher.replace("factory", "other"))
    with pytest.raises(KdbiasError, match="give one"):
        lab.embed(append=True, overwrite=True)
    with pytest.raises(KdbiasError, match="no network runs"):
        lab.embed(append=True, teacher="precomputed:vectors.npy")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(KdbiasError, match="runs in one process, not in 2"):
        lab.embed(append=True)
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.delenv("RANK")
    shutil.rmtree(lab.data)
    for i in range(3):
        lab.put(f"z/{i}.png", i)
    with pytest.raises(KdbiasError, match="holds none of the 3 samples"):
        lab.embed(append=True)
    assert EmbeddingTable.open(lab.out).n == 29


def test_an_unfinished_table_of_other_data_is_no_start(lab, monkeypatch):
    with pytest.raises(KeyboardInterrupt), ending_after(4, monkeypatch):
        lab.embed()
    lab.grow()
    with pytest.raises(KdbiasError, match="unfinished, and of other data"):
        lab.embed(append=True)


def test_what_was_made_of_the_table_says_that_it_is_outdated(lab, capsys):
    lab.embed()
    density, file = lab.root / "density", lab.root / "w.parquet"
    with progress.quiet():
        kdbias.uniformity(lab.out, density, k=3, t=2)
        lab.grow()
        lab.embed(append=True)
        command = f"kdbias uniformity {lab.out} -o {density} --overwrite"
        with pytest.raises(ConfigChangedError) as refused:
            kdbias.uniformity(lab.out, density, k=3, t=2)
        assert f"has grown since {density} was measured (5 added, 1 changed, 2 removed)" in str(refused.value)
        assert command in str(refused.value)
        with pytest.raises(KdbiasError) as refused:
            kdbias.weights(density, file, method="equilibrium")
        assert command in str(refused.value)
        result = kdbias.weights(density, file, method="class-balanced", min_ess=0)
        assert any(command in line for line in result.warnings)
        kdbias.uniformity(lab.out, density, k=3, t=2, overwrite=True)
        assert not kdbias.weights(density, file, method="class-balanced", min_ess=0, overwrite=True).warnings
    with progress.quiet():
        lab.put("a/97.png", 52)
        lab.embed(append=True)
    capsys.readouterr()
    options = {"embeddings": lab.out, "weights": file, "epochs": 1, "workers": 0, "device": "cpu"}
    kdbias.train(lab.data, lab.root / "run", image_size=32, student="convnet", **options)
    assert "1 sample of it without a weight" in capsys.readouterr().err
    assert pa.types.is_uint64(pq.read_schema(lab.out / "part-00000.parquet").field("image_digest").type)
