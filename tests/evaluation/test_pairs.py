"""Lists of pairs as other tools and people write them."""

import pyarrow as pa
import pytest

from kdbias.errors import KdbiasError
from kdbias.evaluation.pairs import read_pairs


def test_one_missing_id_is_one(tmp_path):
    file = tmp_path / "pairs.csv"
    rows = [f"a/{i}.jpg,b/{i}.jpg,{i % 2}" for i in range(12)]
    file.write_text("\n".join(["first,second,same", *rows]))
    ids = [f"{folder}/{i}.jpg" for folder in "ab" for i in range(12)]
    with pytest.raises(KdbiasError, match=r"^1 of the 24 ids .* among the 23 .*\('b/7.jpg'\)"):
        read_pairs(file).rows(pa.array([i for i in ids if i != "b/7.jpg"], pa.large_string()), "table")
    mixed = pa.array([i.replace("a/", "other/") for i in ids], pa.large_string())
    with pytest.raises(KdbiasError, match="12 of the 24 ids"):  # a stem would fit two samples
        read_pairs(file).rows(mixed, "table")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    "line",
    ["a {0}.jpg\tb/{0}.jpg\t{1}", "{1}\ta {0}.jpg\tb/{0}.jpg", "a {0}.jpg\t b/{0}.jpg\t {1}\r"],
)
def test_lists_of_two_paths_and_a_flag(tmp_path, encoding, line):
    file = tmp_path / "pairs.txt"
    file.write_bytes("".join(line.format(i, i % 2) + "\n" for i in range(20)).encode(encoding))
    pairs = read_pairs(file)
    assert pairs.first.to_pylist() == [f"a {i}.jpg" for i in range(20)]
    assert pairs.second.to_pylist() == [f"b/{i}.jpg" for i in range(20)]
    assert pairs.same.tolist() == [False, True] * 10
    assert pairs.folds.tolist() == [i // 2 + 1 for i in range(20)]


@pytest.mark.parametrize("line", ["a/{0}.jpg b/{0}.jpg {1}", "{1} a/{0}.jpg  b/{0}.jpg ", "{0} 1{0} {1}"])
def test_lists_of_two_words_and_a_flag(tmp_path, line):
    file = tmp_path / "pairs.txt"
    file.write_text("".join(line.format(i, i % 2) + "\n" for i in range(20)))
    pairs = read_pairs(file)
    assert pairs.same.tolist() == [False, True] * 10
    assert pairs.second.to_pylist()[3] in ("b/3.jpg", "13")


def test_lfw_names_with_marks_and_blanks(tmp_path):
    lines = ["10\t1"] + ["Ada B\t1\t2", "Ada B\t1\tC D\t1"] * 10
    (tmp_path / "pairs.txt").write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    pairs = read_pairs(tmp_path / "pairs.txt")
    assert pairs.second.to_pylist()[:2] == ["Ada B_0002", "C D_0001"]
    assert pairs.folds.tolist() == [i // 2 + 1 for i in range(20)]


@pytest.mark.parametrize(
    "content", ["first;second;same\n{0};{1};{2}\n", "first, second, same\n{0}, {1}, {2}\n"]
)
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_tables_of_pairs_in_any_csv(tmp_path, content, encoding):
    header, row = content.splitlines()
    text = "\n".join([header, *(row.format(f"a {i}", f"b{i}", i % 2) for i in range(10))])
    (tmp_path / "pairs.csv").write_bytes(text.encode(encoding))
    pairs = read_pairs(tmp_path / "pairs.csv")
    assert pairs.first.to_pylist() == [f"a {i}" for i in range(10)]
    assert pairs.same.tolist() == [False, True] * 5
