"""Joins by id: of few ids, and of so many that they go into buckets."""

import numpy as np
import pyarrow as pa
import pytest

from kdbias.errors import KdbiasError
from kdbias.tables import joins
from kdbias.tables.joins import Ids, align, require_unique


@pytest.fixture
def many_buckets(monkeypatch: pytest.MonkeyPatch) -> pa.Array:
    """(300,) ids of several alphabets, in 7 buckets."""
    monkeypatch.setattr(joins, "BUCKET_ROWS", 45)
    return pa.array([f"{'aé✓'[i % 3] * (i % 5)}/{i}" for i in range(300)], pa.large_string())


def test_aligns_in_buckets(many_buckets: pa.Array) -> None:
    order = np.random.default_rng(0).permutation(300)
    shuffled = many_buckets.take(pa.array(order))
    np.testing.assert_array_equal(align(shuffled, many_buckets, "weights", "table"), order)
    np.testing.assert_array_equal(
        align(shuffled, many_buckets.slice(0, 200), "weights", "table", allow_missing=True),
        np.where(order < 200, order, -1),
    )
    np.testing.assert_array_equal(align(shuffled.slice(3, 9), many_buckets, "few", "table"), order[3:12])
    absent = order[order >= 200]
    with pytest.raises(
        KdbiasError, match="100 of the 300 ids of weights are not among the 200 ids of"
    ) as error:
        align(shuffled, many_buckets.slice(0, 200), "weights", "table")
    assert repr(many_buckets[int(absent[0])].as_py()) in str(error.value)


def test_repeats_and_nulls_are_found_in_buckets(many_buckets: pa.Array) -> None:
    require_unique(many_buckets, "table")
    twice = pa.concat_arrays([many_buckets, many_buckets.slice(7, 2)])
    with pytest.raises(KdbiasError, match="table: 2 sample_id values occur more than once"):
        require_unique(twice, "table")
    nameless = pa.concat_arrays([many_buckets, pa.nulls(2, pa.large_string())])
    with pytest.raises(KdbiasError, match="table: 2 rows have no sample_id"):
        require_unique(nameless, "table")
    with pytest.raises(KdbiasError, match="weights: 2 rows have no sample_id"):
        align(nameless, many_buckets, "weights", "table")


def test_every_id_is_in_one_bucket_wherever_it_stands(many_buckets: pa.Array) -> None:
    alone = [joins.buckets_of(many_buckets.slice(i, 1), 7)[0] for i in range(300)]
    np.testing.assert_array_equal(joins.buckets_of(many_buckets, 7), alone)
    assert np.bincount(alone, minlength=7).min() > 20


def test_ids_are_taken_from_parts(many_buckets: pa.Array) -> None:
    reads = []

    def read(part: int) -> pa.Array:
        reads.append(part)
        return many_buckets.slice(100 * part, 100)

    ids = Ids((100, 100, 100), read)
    rows = np.array([250, 3, 299, 0, 3])
    assert ids.take(rows).equals(many_buckets.take(pa.array(rows)))
    assert reads == [0, 2]
    assert ids.slice(95, 110).equals(many_buckets.slice(95, 110))
    assert ids.same(Ids.of(many_buckets))
    assert not ids.same(Ids.of(many_buckets.take(pa.array([*range(298), 299, 298]))))
    assert not ids.same(Ids.of(many_buckets.slice(0, 299)))
