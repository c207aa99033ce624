"""Lists of comparisons: which two samples, same or not, which fold."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kdbias.errors import KdbiasError
from kdbias.tables.csv_file import read_csv, read_text
from kdbias.tables.files import absent
from kdbias.tables.joins import align, as_strings, shown
from kdbias.tables.parquet_file import read_table
from kdbias.wording import counted

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
        """How many pairs there are."""
        return len(self.same)

    def rows(self, ids: pa.Array, where: str) -> np.ndarray:
        """(m, 2) positions of both samples in ``ids``.

        An id that is not there as it stands is looked up by its stem, so that ``Name_0001`` finds
        ``Name/Name_0001.jpg``.

        Raises:
            KdbiasError: ids are missing (counts and some of them), or a stem fits two samples.
        """
        both = pa.concat_arrays([self.first, self.second])
        rows = align(both, ids, "the pairs", where, allow_missing=True)
        stems = pc.replace_substring_regex(ids, r"^.*[/\\]", "")
        stems = pc.replace_substring_regex(stems, r"\.[A-Za-z]{3,4}$", "")
        if (rows < 0).any() and pc.count_distinct(stems).as_py() == len(stems):
            rows = np.where(rows < 0, align(both, stems, "the pairs", where, allow_missing=True), rows)
        if (rows < 0).any():
            missing = pc.unique(both.filter(pa.array(rows < 0)))
            raise KdbiasError(
                f"{len(missing):,} of the {pc.count_distinct(both).as_py():,} ids of the pairs "
                f"({(rows < 0).sum():,} of the {len(both):,} ids as listed) are not among the {len(ids):,} "
                f"ids of {where} ({shown(missing)}); are they from the same data?"
            )
        return rows.reshape(2, -1).T

    def take(self, rows: np.ndarray) -> "Pairs":
        """The pairs at `rows`, int (m,)."""
        wanted = pa.array(rows)
        return Pairs(self.first.take(wanted), self.second.take(wanted), self.same[rows], self.folds[rows])


def read_pairs(path: str | os.PathLike[str], folds: Sequence[int] | None = None) -> Pairs:
    """Read a list of pairs.

    Args:
        path: LFW's ``pairs.txt`` (names and image numbers; ids become ``Name_0001``; RFW's lists, which
            lack the line with the number of folds, likewise), lines of two paths and 0 or 1 (before or after
            them; by tabs where a path has blanks), insightface's ``.bin`` (ids as its data source gives
            them), or a ``.csv``/``.parquet``/``.txt`` table with the columns ``first``, ``second``, ``same``
            (0/1) and optionally ``fold``; without folds, ten of equal size are made in the order of the list.
        folds: keep these folds only.

    Raises:
        KdbiasError: no such file, a line that does not parse (its number), or a fold that is not there.
    """
    file = Path(path)
    if not file.is_file():
        raise absent(file, "file of pairs")
    kinds = {".bin": _from_bin, ".csv": _from_table, ".parquet": _from_table}
    pairs = kinds.get(file.suffix.lower(), _from_text)(file)
    require_both_kinds(pairs.same, str(file))
    if folds is None:
        return pairs
    unknown = sorted(set(folds) - set(np.unique(pairs.folds).tolist()))
    if unknown:
        raise KdbiasError(f"{file} has no fold {unknown[0]}; its folds are 1 to {pairs.folds.max()}")
    return pairs.take(np.flatnonzero(np.isin(pairs.folds, list(folds))))


def require_both_kinds(same: np.ndarray, where: str) -> None:
    """Refuse (m,) pairs that are all of one person, or all of two."""
    if not same.any() or same.all():
        kind = "different" if same.any() else "same"
        raise KdbiasError(
            f"{where}: no pair of the {kind} person among its {len(same):,} pairs; both kinds are needed"
        )


def joined(parts: Sequence[Pairs]) -> Pairs:
    """All pairs of several lists, one list after the other."""
    return Pairs(
        pa.concat_arrays([part.first for part in parts]),
        pa.concat_arrays([part.second for part in parts]),
        np.concatenate([part.same for part in parts]),
        np.concatenate([part.folds for part in parts]),
    )


def contiguous_folds(n: int, folds: int = _FOLDS) -> np.ndarray:
    """(n,) int64 fold numbers from 1, in order, of the sizes that KFold without shuffling makes."""
    if n < folds:
        raise KdbiasError(f"{n} pairs cannot make {folds} folds; give a column fold")
    return np.repeat(np.arange(1, folds + 1), [len(part) for part in np.array_split(np.arange(n), folds)])


def _from_text(file: Path) -> Pairs:
    """Pairs of a text file, in the format that its first lines show."""
    lines = _lines(file)
    filled = [words for words in lines if words]
    flag = _flag_of(filled)
    if flag is not None:
        return _from_paths(filled, flag)
    header = lines[0] if lines else []
    counts = header if len(header) <= 2 and all(word.isdigit() for word in header) else []
    if counts or _names_a_pair(header):
        return _from_lfw(file, counts, lines)
    if len(header) > 2 and {header[0], header[-1]} & {"0", "1"}:
        odd = (n for n, words in enumerate(lines, start=1) if words and _flag_of([words]) is None)
        number = next(odd, len(lines))
        raise KdbiasError(
            f"{file}, line {number}: not two paths and 0 or 1; separate them by tabs where a path has blanks"
        )
    return _from_table(file)


def _names_a_pair(words: list[str]) -> bool:
    """NAME I J, two images of one person, or NAME I NAME J."""
    numbers = words[1:] if len(words) == 3 else words[1::2]
    return len(words) in (3, 4) and all(word.isdigit() for word in numbers)


def _lines(file: Path) -> list[list[str]]:
    """The words of each line, by tabs where there are any (names may then hold blanks), else by blanks."""
    try:
        lines = [line.strip() for line in read_text(file).splitlines()]
    except UnicodeDecodeError as error:
        raise KdbiasError(f"{file}: not a list of pairs in UTF-8 ({error})") from None
    return [[w.strip() for w in line.split("\t")] if "\t" in line else line.split() for line in lines]


def _flag_of(lines: list[list[str]]) -> int | None:
    """Which of three words, the last or the first, is 0 or 1 (different or same) in every line; None if none.

    LFW's lists are none of these: they hold lines of four words.
    """
    if not lines or any(len(words) != 3 for words in lines):
        return None
    return next((place for place in (2, 0) if {words[place] for words in lines} <= {"0", "1"}), None)


def _from_paths(lines: list[list[str]], flag: int) -> Pairs:
    """PATH PATH 0/1, or 0/1 PATH PATH."""
    columns = list(zip(*lines, strict=True))
    same = np.array(columns.pop(flag)) == "1"
    return _made(columns[0], columns[1], same)


def _from_lfw(file: Path, header: list[str], lines: list[list[str]]) -> Pairs:
    """LFW: the header says folds and pairs of each kind in a fold; a fold is its same, then its different.

    RFW has no header, and the same order: ten folds.
    """
    first, second, same = [], [], []
    for number, words in enumerate(lines, start=1):
        if not words or (header and number == 1):
            continue
        if not _names_a_pair(words):
            raise KdbiasError(
                f"{file}, line {number}: {' '.join(words)!r} is neither NAME I J nor NAME I NAME J"
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
    return _made(first, second, np.array(same), np.arange(len(same)) // size + 1 if folds > 1 else None)


def _from_bin(file: Path) -> Pairs:
    """Pairs of a verification .bin."""
    from kdbias.data.verification_bin import read_pairs as read_bin_pairs

    return _made(*read_bin_pairs(file))


def _made(first: Any, second: Any, same: np.ndarray, folds: np.ndarray | None = None) -> Pairs:
    """Pairs of lists or columns of ids; without folds ten of equal size."""
    folds = contiguous_folds(len(same)) if folds is None else folds
    return Pairs(as_strings(first), as_strings(second), same, folds)


def _from_table(file: Path) -> Pairs:
    """Pairs of a Parquet or CSV table with columns first, second and same."""
    columns = ("first", "second")
    table = read_table(file) if file.suffix.lower() == ".parquet" else read_csv(file, columns)
    missing = [name for name in (*columns, "same") if name not in table.column_names]
    if missing:
        raise KdbiasError(f"{file} has no column {missing[0]!r} (it has: {', '.join(table.column_names)})")
    same = table["same"].to_numpy()
    if same.dtype.kind not in "biuf" or not np.isin(same, (0, 1)).all():
        raise KdbiasError(f"{file}: the column same must hold 0 and 1 alone")
    folds = None
    if "fold" in table.column_names:
        if table["fold"].null_count:
            raise KdbiasError(f"{file}: {counted(table['fold'].null_count, 'pair', 'has/have')} no fold")
        _, folds = np.unique(table["fold"].to_numpy(), return_inverse=True)
        folds = folds.astype(np.int64) + 1
    return _made(table["first"], table["second"], same.astype(bool), folds)
