"""The demo's digits."""

from collections import Counter

import numpy as np
import pytest

from kdbias.data.decode import decode_image
from kdbias.data.opening import open_data
from kdbias.demonstration.digits import write_digits
from kdbias.demonstration.steps import QUICK

HELD_OUT = ("reference", "test")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    file = tmp_path_factory.mktemp("demo") / "digits.parquet"
    return file, write_digits(file)


def test_counts_agree_with_the_shipped_description(digits):
    file, counts = digits
    assert counts == {
        **{"digits": 5280, "test": 700, "reference": 300, "train": 4000, "copies": 280},
        "biased": 1310,
    }
    assert open_data("demo.toml", root=file.parent).n == 5280  # checks the expected counts


def test_balanced_held_out_digits_and_long_tail(digits):
    file, _ = digits
    parts = [Counter(open_data(file, where=[f"split={name}"]).labels.to_pylist()) for name in HELD_OUT]
    assert set(sum(parts, Counter()).values()) == {100}
    assert all(20 <= count <= 40 for count in parts[0].values())  # drawn without a look at classes
    assert set(Counter(open_data(file, where=["split=train"]).labels.to_pylist()).values()) == {400}
    biased = open_data(file, where=["biased=yes"])
    sizes = Counter(biased.labels.to_pylist())
    assert [sizes[str(c)] for c in range(10)] == [400, 246 + 280, 151, 93, 57, 35, 22, 13, 8, 5]
    assert not any(id.startswith("test") for id in biased.column("split").to_pylist())


def test_held_out_digits_never_occur_in_training(digits):
    file, _ = digits
    for name in HELD_OUT:
        part = open_data(file, where=[f"split={name}"])
        rest = open_data(file, where=[f"split!={name}"])
        held_out = {part.read(i) for i in range(part.n)}
        assert not held_out & {rest.read(i) for i in range(rest.n)}
        originals = {name.split("-copy")[0] for name in rest.ids.to_pylist()}
        assert not originals & set(part.ids.to_pylist())


def test_a_small_cut_holds_nothing_that_the_teacher_learned_from(digits, tmp_path):
    """The demo's teacher knows the train digits of the full cut, whatever the size of the students' data."""
    small = tmp_path / "small.parquet"
    write_digits(small, **QUICK.digits)
    learned = set(open_data(digits[0], where=["split=train"]).ids.to_pylist())
    shown = {name.split("-copy")[0] for name in open_data(small).ids.to_pylist()}
    assert len(shown) == 800
    assert not shown & learned


def test_copies_are_near_their_originals_but_not_equal(digits):
    file, _ = digits
    biased = open_data(file, where=["biased=yes"])
    rows = {name: i for i, name in enumerate(biased.ids.to_pylist())}
    copies = [name for name in rows if "copy" in name]
    assert len(copies) == 280
    for name in copies[::17]:
        copy = decode_image(biased.read(rows[name]), "L").astype(float).ravel()
        original = decode_image(biased.read(rows[name.split("-copy")[0]]), "L").astype(float).ravel()
        assert (copy != original).any()
        assert np.corrcoef(copy, original)[0, 1] > 0.9


def test_same_seed_same_file(digits, tmp_path):
    file, _ = digits
    write_digits(tmp_path / "again.parquet")
    assert (tmp_path / "again.parquet").read_bytes() == file.read_bytes()
    small = {"limit_per_class": 60, "held_out_per_class": 20, "reference": 50}
    counts = write_digits(tmp_path / "other.parquet", seed=1, copies=2, **small)
    assert (counts["test"], counts["reference"]) == (150, 50)
    assert open_data(tmp_path / "other.parquet").fingerprint != open_data(file).fingerprint
