"""Samples that weights leave out, or draw no more often than they come."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kdbias.errors import KdbiasError
from kdbias.measurement.settings import IMAGE_WORDS
from kdbias.measurement.suspects import has_word
from kdbias.sphere.equilibrium.solution import Groups
from kdbias.tables import fingerprints
from kdbias.tables.columns import SUSPECT
from kdbias.tables.csv_file import DELIMITERS, read_csv
from kdbias.tables.density_table import DensityTable
from kdbias.tables.files import require_there
from kdbias.tables.joins import align, as_strings, shown
from kdbias.tables.parquet_file import read_table
from kdbias.weighting.hygiene import held
from kdbias.weighting.settings import WeightsSettings
from kdbias.wording import counted

_YES, _NO = ("true", "yes", "1", "x"), ("false", "no", "0", "")
MANY = 0.1
"""Share of suspect images above which they are what the data are like."""


class Exclusion:
    """What a call of `weights` does with suspects.

    Attributes:
        out: (n,) bool, the samples that are never drawn.
        suspect: (n,) bool, the images that look wrong, of those that the list keeps.
        counts: how many of them there are by word.
        cap: whether these have a weight of 1 at most.
        inputs: fingerprint of the list, for the manifest.
        lines: what is done, for people.
    """

    def __init__(self, density: DensityTable, settings: WeightsSettings) -> None:
        self.out, self.inputs, self.lines = np.zeros(density.n, dtype=bool), dict[str, str](), list[str]()
        self.cap = settings.suspects == "cap" or settings.suspects is None
        if settings.exclude is not None:
            ids = excluded_ids(settings.exclude)
            self.inputs = {"exclude": fingerprints.of_arrays(ids)}
            self.out[align(ids, density.id_parts, f"--exclude {settings.exclude}", str(density.path))] = True
            self.lines.append(f"{counted(int(self.out.sum()), 'sample')} of {settings.exclude} left out")
        self.suspect, self.counts = suspect_images(density, self.out)
        self._judge(density.n - int(self.out.sum()), settings.suspects)
        if self.out.all():
            raise KdbiasError(
                f"all {density.n:,} samples of {density.path} would be left out; nothing is drawn"
            )

    def _judge(self, n: int, asked: str | None) -> None:
        """Decide about suspect images, and say so."""
        if not self.counts:
            return
        known = counted(int(self.suspect.sum()), "suspect image")
        about = f"{known} ({', '.join(f'{count:,} {word}' for word, count in self.counts.items())})"
        listed = "kdbias suspects lists them"
        if asked == "exclude":
            self.out |= self.suspect
            self.lines.append(f"{about} left out; {listed}")
        elif asked == "keep":
            self.cap = False
        elif asked is None and self.suspect.sum() > MANY * n:
            self.cap = False
            self.lines.append(
                f"{about} of {n:,}: so many are what the data are like, and are weighed as any; --suspects "
                f"cap or exclude does otherwise, {listed}"
            )
        else:
            self.lines.append(
                f"{about}: drawn once an epoch at most; --suspects keep or exclude does otherwise, {listed}"
            )

    @property
    def counted(self) -> dict[str, int]:
        """How many are left out, for the manifest; nothing where none is."""
        return {"excluded": int(self.out.sum())} if self.out.any() else {}

    def held(
        self, masses: np.ndarray, groups: Groups, limit: float | None, floor: float | None
    ) -> tuple[np.ndarray, int]:
        """Masses (m,) of the distinct samples with those of suspect images capped, and how many that changed.

        Args:
            groups: of the samples that are not left out.
            limit: of any sample's weight, None for none.
            floor: least ESS / distinct samples, kept as far as the caps allow.
        """
        suspect = np.zeros(groups.distinct, dtype=bool)
        suspect[groups.group[self.suspect[~self.out]]] = True
        draws, over = len(self.out), 1 + 1e-9
        limits = np.where(suspect, groups.sizes, draws if limit is None else limit) / draws
        changed = int(np.count_nonzero(suspect & (masses > limits * over)))
        if not self.cap or not changed:
            return masses, 0
        if limits.sum() < 1 / over:
            raise KdbiasError(
                f"{int(suspect.sum()):,} of {groups.distinct:,} distinct samples are suspect images: too "
                "many to draw each once an epoch at most; use --suspects keep, or exclude"
            )
        return held(masses, limits, floor), changed


def suspect_images(density: DensityTable, out: np.ndarray) -> tuple[np.ndarray, dict[str, int]]:
    """(n,) bool: whose image looks wrong, and how many by word; none where no image was seen.

    Args:
        out: (n,) bool, samples that are left out anyway.
    """
    if SUSPECT[0] not in density.table.column_names:
        return np.zeros(density.n, dtype=bool), {}
    words = as_strings(density.table.column(SUSPECT[0]))
    counts = {word: int((has_word(words, (word,)) & ~out).sum()) for word in IMAGE_WORDS}
    return has_word(words, IMAGE_WORDS) & ~out, {word: count for word, count in counts.items() if count}


def excluded_ids(path: str | os.PathLike[str]) -> pa.Array:
    """Ids (m,) of the samples that a list leaves out: those whose ``exclude`` says so, all where it has none.

    Raises:
        KdbiasError: no Parquet or CSV file, no ``sample_id``, an ``exclude`` that is neither yes nor no or
            both of one sample, or nothing to leave out.
    """
    require_there(path)
    if Path(path).is_dir():
        raise KdbiasError(
            f"--exclude {path} is a folder; name a list, as kdbias suspects {path} -o FILE writes"
        )
    delimiter = DELIMITERS.get(Path(path).suffix.lower())
    texts = ("sample_id", "label")
    table = read_table(path) if delimiter is None else read_csv(path, texts, delimiter=delimiter)
    if "sample_id" not in table.column_names:
        raise KdbiasError(
            f"--exclude {path} has no column 'sample_id' (it has: {', '.join(table.column_names)}); kdbias "
            "suspects writes such a list"
        )
    ids = as_strings(table.column("sample_id"))
    if "exclude" in table.column_names:
        yes = _yes(table.column("exclude"), path)
        ids, stay = ids.filter(yes), ids.filter(pc.invert(yes))
        both = pc.unique(ids.filter(pc.is_in(ids, value_set=stay)))
        if len(both):
            raise KdbiasError(
                f"--exclude {path} says both true and false of {shown(both)}; keep one row of each"
            )
    if not len(ids):
        raise KdbiasError(
            f"--exclude {path} leaves nothing out: none of its {counted(table.num_rows, 'row')} has exclude "
            "= true"
        )
    return ids


def _yes(values: Any, path: str | os.PathLike[str]) -> pa.Array:
    """(m,) bool of what people write for yes and no."""
    if not pa.types.is_boolean(values.type):
        texts = pc.utf8_lower(pc.utf8_trim_whitespace(pc.fill_null(as_strings(values), "")))
        unknown = texts.filter(pc.invert(pc.is_in(texts, value_set=pa.array(_YES + _NO, texts.type))))
        if len(unknown):
            raise KdbiasError(
                f"--exclude {path}: the column 'exclude' says {unknown[0].as_py()!r}; write true or false"
            )
        values = pc.is_in(texts, value_set=pa.array(_YES, texts.type))
    filled = pc.fill_null(values, False)
    return filled.combine_chunks() if isinstance(filled, pa.ChunkedArray) else filled
