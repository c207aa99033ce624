"""Lists of comparisons: which two samples, same or not, which fold."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kdbias.errors import KdbiasError
from kdbias.tables.csv_file import read_csv
from kdbias.tables.joins import align, as_strings
from kdbias.tables.parquet_file import read_table

_FOLDS = 10


@dataclass(frozen=True)
class Pairs:
    """m comparisons.

    Attributes:
        first, second: (m,) sample ids.
        same: (m,) bool.
        folds: (m,) int64, 1 ... number of folds.
    """

    first: pa.Array
    second: pa.Array
    same: np.ndarray
    folds: np.ndarray

    @property
    def n(self) -> int:
        return len(self.same)

    def rows(self, ids: pa.Array, where: str) -> tuple[np.ndarray, np.ndarray]:
        """Positions of both samples in ``ids``.

        An id that is not there as it stands is looked up by its stem, so that ``Name_0001`` finds
        ``Name/Name_0001.jpg``.

        Raises:
            KdbiasError: ids are missing (counts and some of them), or a stem fits two samples.
        """
        both = pa.concat_arrays([self.first, self.second])
        if pc.all(pc.is_in(both, value_set=ids)).as_py():
            rows = align(both, ids, "the pairs", where)
        else:
            stems = pc.replace_substring_regex(ids, r"^.*[/\\]", "")
            stems = pc.replace_substring_regex(stems, r"\.[A-Za-z]{3,4}$", "")
            if pc.count_distinct(stems).as_py() != len(stems):
                rows = align(both, ids, "the pairs", where)
            else:
                rows = align(both, stems, "the pairs", where)
        return rows[: self.n], rows[self.n :]

    def take(self, rows: np.ndarray) -> "Pairs":
        wanted = pa.array(rows)
        return Pairs(self.first.take(wanted), self.second.take(wanted), self.same[rows], self.folds[rows])


def read_pairs(path: str | os.PathLike[str], folds: Sequence[int] | None = None) -> Pairs:
    """Read a list of pairs.

    Args:
        path: LFW's ``pairs.txt`` (names and image numbers; ids become ``Name_0001``; RFW's lists, which
            lack the line with the number of folds, likewise), insightface's ``.bin`` (ids as its data source
            gives them), or a ``.csv``/``.parquet``/``.txt`` table with the columns ``first``, ``second``,
            ``same`` (0/1) and optionally ``fold``; without folds, ten of equal size are made in the order of
            the list.
        folds: keep these folds only.

    Raises:
        KdbiasError: no such file, a line that does not parse (its number), or a fold that is not there.
    """
    file = Path(path)
    if not file.is_file():
        raise KdbiasError(f"{file}: no such file of pairs")
    suffix = file.suffix.lower()
    if suffix == ".bin":
        pairs = _from_bin(file)
    elif suffix in {".csv", ".parquet"}:
        pairs = _from_table(file)
    else:
        pairs = _from_text(file)
    if not pairs.same.any() or pairs.same.all():
        kind = "different" if pairs.same.any() else "same"
        raise KdbiasError(
            f"{file}: no pair of the {kind} person among its {pairs.n:,} pairs; both kinds are needed"
        )
    if folds is None:
        return pairs
    unknown = sorted(set(folds) - set(np.unique(pairs.folds).tolist()))
    if unknown:
        raise KdbiasError(f"{file} has no fold {unknown[0]}; its folds are 1 to {pairs.folds.max()}")
    return pairs.take(np.flatnonzero(np.isin(pairs.folds, list(folds))))


def contiguous_folds(n: int, folds: int = _FOLDS) -> np.ndarray:
    """(n,) int64 fold numbers from 1, in order, of the sizes that KFold without shuffling makes."""
    if n < folds:
        raise KdbiasError(f"{n} pairs cannot make {folds} folds; give a column fold")
    return np.repeat(np.arange(1, folds + 1), [len(part) for part in np.array_split(np.arange(n), folds)])


def _from_text(file: Path) -> Pairs:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise KdbiasError(f"{file}: not a list of pairs in UTF-8 ({error})") from None
    header = lines[0].split() if lines else []
    if header and all(word.isdigit() for word in header) and len(header) <= 2:
        return _from_lfw(file, header, lines)
    return _from_lfw(file, [], lines) if _names_a_pair(header) else _from_table(file)


def _names_a_pair(words: list[str]) -> bool:
    """NAME I J, two images of one person, or NAME I NAME J."""
    numbers = words[1:] if len(words) == 3 else words[1::2]
    return len(words) in (3, 4) and all(word.isdigit() for word in numbers)


def _from_lfw(file: Path, header: list[str], lines: list[str]) -> Pairs:
    """LFW: the header says folds and pairs of each kind in a fold; a fold is its same, then its different.

    RFW has no header, and the same order: ten folds.
    """
    first, second, same = [], [], []
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words or (header and number == 1):
            continue
        if not _names_a_pair(words):
            raise KdbiasError(
                f"{file}, line {number}: {line.strip()!r} is neither NAME I J nor NAME I NAME J"
            )
        other, last = (words[0], words[2]) if len(words) == 3 else (words[2], words[3])
        first.append(f"{words[0]}_{int(words[1]):04d}")
        second.append(f"{other}_{int(last):04d}")
        same.append(len(words) == 3)
    folds, size = int(header[0]) if len(header) == 2 else 1, len(same)
    if header:
        size = 2 * int(header[-1])
        if len(same) != folds * size:
            raise KdbiasError(f"{file}: its header promises {folds} x {size} pairs, it has {len(same):,}")
    return Pairs(
        pa.array(first, pa.large_string()),
        pa.array(second, pa.large_string()),
        np.array(same),
        np.arange(len(same)) // size + 1 if folds > 1 else contiguous_folds(len(same)),
    )


def _from_bin(file: Path) -> Pairs:
    from kdbias.data.bin_pairs import read_pairs as read_bin_pairs

    first, second, same = read_bin_pairs(file)
    return Pairs(as_strings(first), as_strings(second), same, contiguous_folds(len(same)))


def _from_table(file: Path) -> Pairs:
    if file.suffix.lower() == ".parquet":
        table = read_table(file)
    else:
        with file.open("rb") as handle:
            delimiter = "\t" if b"\t" in handle.readline() else ","
        table = read_csv(file, ("first", "second"), delimiter=delimiter)
    missing = [name for name in ("first", "second", "same") if name not in table.column_names]
    if missing:
        raise KdbiasError(f"{file} has no column {missing[0]!r} (it has: {', '.join(table.column_names)})")
    same = table["same"].to_numpy()
    if same.dtype.kind not in "biuf" or not np.isin(same, (0, 1)).all():
        raise KdbiasError(f"{file}: the column same must hold 0 and 1 alone")
    if "fold" in table.column_names:
        _, folds = np.unique(table["fold"].to_numpy(), return_inverse=True)
        folds = folds.astype(np.int64) + 1
    else:
        folds = contiguous_folds(len(same))
    return Pairs(as_strings(table["first"]), as_strings(table["second"]), same.astype(bool), folds)
