"""Which sample of a data set each id of a manifest is: the same text, or the same path below one folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kdbias.errors import KdbiasError
from kdbias.progress import say
from kdbias.sampler.data_ids import ids_of
from kdbias.tables.joins import Ids, align, as_strings, shown
from kdbias.tables.weight_manifest import WeightManifest, read_manifest
from kdbias.wording import counted

_TRIED = 16  # folders that are tried at most


@dataclass(frozen=True)
class Joined:
    """What a manifest says of the positions of a data set.

    Attributes:
        weights: (n,) float64, 0 for a position that the manifest lacks.
        draws: positions that it has: what an epoch draws.
    """

    weights: np.ndarray
    draws: int
    _manifest: WeightManifest
    _row_of: np.ndarray

    @property
    def labels(self) -> pa.Array:
        """(n,) large_string, null where the manifest has none."""
        return as_strings(self._manifest.labels).take(pa.array(self._row_of, mask=self._row_of < 0))


def joined(
    manifest: str | os.PathLike[str],
    sample_ids: Any,
    root: str | os.PathLike[str] | None = None,
    subset: bool = False,
) -> Joined:
    """A manifest joined to the ids or paths of a data set; says how many on either side the other lacks.

    Raises:
        KdbiasError: as `rows_of` and `ids_of`.
    """
    table, have = read_manifest(manifest), ids_of(sample_ids)
    what = f"the weights {manifest}"
    rows = rows_of(table.id_parts, have, what, root, subset)
    inside = np.flatnonzero(rows >= 0)
    row_of = np.full(len(have), -1)
    row_of[rows[inside]] = inside
    lacking = np.flatnonzero(row_of < 0)
    if len(inside) < len(rows):
        say(
            f"{len(rows) - len(inside):,} of the {len(rows):,} ids of {what} are not in the data set and are "
            f"left out; an epoch has {counted(len(inside), 'draw')}"
        )
    if len(lacking):
        say(
            f"{len(lacking):,} of the {counted(len(have), 'sample')} of the data set are not in {what} and "
            f"never drawn ({shown(have, lacking)})"
        )
    weights = np.where(row_of >= 0, table.weights[row_of], 0.0)
    return Joined(weights, len(inside), table, row_of)


def rows_of(
    ids: pa.Array | Ids,
    have: pa.Array,
    what: str,
    root: str | os.PathLike[str] | None = None,
    subset: bool = False,
) -> np.ndarray:
    """Position in a data set of each id.

    Args:
        ids: (m,) large_string, the manifest's; read a part at a time where all are found as they are.
        have: (n,) large_string, unique: the data set's ids or paths, in its order.
        what: what the ids belong to, for messages.
        root: the folder that is left out of ids and paths that lie below it. By default none, where that
            finds all ids, or else the one with which all are found, or most; it is said.
        subset: the data set may lack ids; at least one is to be there.

    Returns:
        (m,) int64, -1 for an id that is not there (with `subset`).

    Raises:
        KdbiasError: an id is not found, several folders would do, or what is left of the paths repeats.
    """
    if os.sep != "/":
        have = pc.replace_substring(have, os.sep, "/")
    if root is None:
        rows = align(ids, have, what, "data set", allow_missing=True)
        if (rows >= 0).all():
            return rows
    ids = as_strings(ids)
    base = _base(ids, have, what) if root is None else os.fspath(root).replace(os.sep, "/")
    where = f"the data set below {base}" if base else "the data set"
    inner, outer = _below(base, ids), _below(base, have)
    rows = align(inner, outer, what, where, allow_missing=True)
    found = int(np.count_nonzero(rows >= 0))
    if found < len(rows) and not (subset and found):
        raise _mismatch(inner.filter(pa.array(rows < 0)), inner, outer, what, where)
    if root is None and base:
        say(f"ids of {what} and the data set's paths are compared without the folder {base!r} before them")
    return rows


def _base(ids: pa.Array, have: pa.Array, what: str) -> str:
    """The one folder without which most ids are found: all, all that the data have, or else half of these.

    In the last case it has to stand before all paths of one side: what stands before some is a folder within.
    """
    outer, inner = _folders(ids, have), _folders(have, ids)
    if len(outer) > _TRIED:
        raise KdbiasError(
            f"{counted(len(outer), 'folder')} of the data set hold a file {_deepest(ids)!r}: say with root= "
            "from which one the ids start"
        )
    tried = dict.fromkeys(["", *outer, *(inner if len(inner) <= _TRIED else [])])
    found = {folder: len(ids) - _missing(_below(folder, ids), _below(folder, have)) for folder in tried}
    few, most = min(len(ids), len(have)), max(found.values())
    fitting = [folder for folder in found if found[folder] == most]
    if most < few:
        fitting = [f for f in fitting if _is_before(f, ids) or _is_before(f, have)]
    if 2 * most < few or "" in fitting or not fitting:
        return ""
    if len(fitting) > 1:
        named = " and ".join(map(repr, fitting[:3]))
        raise KdbiasError(f"the ids of {what} fit below {named}, too: say which is meant with root=")
    return fitting[0]


def _is_before(folder: str, paths: pa.Array) -> bool:
    """Whether all paths lie below a folder."""
    return bool(pc.all(pc.starts_with(paths, folder.rstrip("/") + "/")).as_py())


def _missing(ids: pa.Array, have: pa.Array) -> int:
    """How many of the ids the data set lacks."""
    return len(ids) - int(pc.sum(pc.is_in(ids, value_set=have)).as_py())


def _below(folder: str, paths: pa.Array) -> pa.Array:
    """The paths, less the folder where they lie below it."""
    if not folder:
        return paths
    start = folder.rstrip("/") + "/"
    return pc.if_else(pc.starts_with(paths, start), pc.utf8_slice_codeunits(paths, len(start)), paths)


def _folders(ids: pa.Array, have: pa.Array) -> list[str]:
    """Folders that one id's path goes through on one of the two sides and not on the other."""
    deepest = _deepest(ids)
    paths = have.filter(pc.ends_with(have, f"/{deepest}"))
    longer = pc.unique(pc.utf8_slice_codeunits(paths, 0, -len(deepest) - 1)).to_pylist()
    parts = deepest.split("/")
    ends = pa.array(["/".join(parts[i:]) for i in range(1, len(parts))], have.type)
    found = pc.is_in(ends, value_set=have).to_pylist()
    return [folder or "/" for folder in longer] + [
        "/".join(parts[:i]) or "/" for i, hit in enumerate(found, 1) if hit
    ]


def _deepest(ids: pa.Array) -> str:
    """The id with the most folders, of which the fewest paths are ends; empty where there is none."""
    depth = pc.count_substring(ids, "/")
    return ids[pc.index(depth, pc.max(depth)).as_py()].as_py() if len(ids) else ""


def _mismatch(missing: pa.Array, ids: pa.Array, have: pa.Array, what: str, where: str) -> KdbiasError:
    """The error of ids that are not all there, with both sides as they look."""
    sample = repr(have[0].as_py()) if len(have) else "nothing"
    names = pc.replace_substring_regex(ids, r"^.*/", "")
    if found := len(ids) - len(missing):
        way_out = (
            f"; {found:,} are there: if the data set is meant to be a part of what the weights are for, as a "
            "train split is, subset=True leaves the other ids out"
        )
    elif _missing(have, names) < len(have):
        way_out = "; file names alone are not enough: give paths, with the folders that the ids have"
    else:
        way_out = "; are they from the same data?"
    return KdbiasError(
        f"{len(missing):,} of the {len(ids):,} ids of {what} are not among the {counted(len(have), 'id')} of "
        f"{where}: ids look like {missing[0].as_py()!r}, the data set's like {sample}{way_out}"
    )
