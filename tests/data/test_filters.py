"""--where."""

from dataclasses import dataclass

import pyarrow as pa
import pytest

from kdbias.data.filters import matching, spelled
from kdbias.errors import KdbiasError


@dataclass
class Columns:
    values: dict

    def columns(self):
        return self.values


TABLE = Columns(
    {
        "split": pa.array(["train", "train", "test", None], pa.large_string()),
        "cam": pa.array([1, 2, 3, None]),
        "seen": pa.array([True, False, True, None]),
        "score": pa.array([0.5, 1.0, float("nan"), 2.0]),
        "half": pa.array([0.5, 1.1, None, 2.0], pa.float16()),
        "note": pa.array(["a=b", "", "x!=y", "c"], pa.large_string()),
    }
)


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        (["split=train"], [0, 1]),
        (["split!=train"], [2, 3]),
        (["split=train", "split=test"], [0, 1, 2]),
        (["split=train", "cam=2"], [1]),
        (["cam=01"], [0]),
        (["seen=yes"], [0, 2]),
        (["seen!=False"], [0, 2, 3]),
        (["score=1"], [1]),
        (["half=1.1"], [1]),
        (["split="], [3]),
        (["note="], [1]),
        (["note!="], [0, 2, 3]),
        (["note=a=b"], [0]),
        (["note=x!=y"], [2]),
        ([" split = test"], [2]),
    ],
)
def test_conditions(where, rows):
    assert matching(TABLE, where).nonzero()[0].tolist() == rows


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (["seen=yes"], ["seen = TRUE"], True),
        (["cam=01", "split=train"], ["split=train", "cam=1"], True),
        (["score=1", "score=1.0"], ["score=1e0"], True),
        (["split=yes"], ["split=true"], False),
        (["seen=yes"], ["seen!=yes"], False),
        (["note="], ["note=None"], False),
        (["unknown=1"], ["unknown=01"], False),
    ],
)
def test_conditions_that_mean_the_same_are_spelled_the_same(one, other, same):
    types = {name: values.type for name, values in TABLE.columns().items()}
    assert (spelled(one, types) == spelled(other, types)) is same


@pytest.mark.parametrize(
    "where", [["seen=yes"], ["cam=01", "split=train"], ["half=1.1"], ["note=a=b"], ["note!="]]
)
def test_conditions_keep_their_meaning_as_they_are_spelled(where):
    types = {name: values.type for name, values in TABLE.columns().items()}
    assert matching(TABLE, spelled(where, types)).tolist() == matching(TABLE, where).tolist()


def test_no_conditions():
    assert matching(TABLE, []) is None


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("splt=train", "no column 'splt'; there are split, cam, seen, score, half, note"),
        ("split=tran", r"no sample has this value; split has train, test, \(missing\)"),
        ("split!=tran", "no sample has this value"),
        ("cam=one", "cam has 1, 2, 3"),
        ("seen=maybe", "no sample has this value; seen has true, false|True, False"),
        ("cam=99999999999999999999999", "no sample has this value"),
        ("split", "write column=value"),
        ("=train", "write column=value"),
    ],
)
def test_mistakes_name_what_there_is(condition, message):
    with pytest.raises(KdbiasError, match=message):
        matching(TABLE, [condition])
