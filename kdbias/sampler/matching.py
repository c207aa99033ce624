"""Which sample of a data set each id of a manifest is: the same text, or the same path below one folder."""

from __future__ import annotations

import os

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kdbias.errors import KdbiasError
from kdbias.progress import say
from kdbias.tables.joins import align
from kdbias.wording import counted

_TRIED = 16  # folders that are tried at most


def rows_of(
    ids: pa.Array, have: pa.Array, what: str, root: str | os.PathLike[str] | None = None
) -> np.ndarray:
    """Position in a data set of each id.

    Args:
        ids: (m,) large_string, the manifest's.
        have: (n,) large_string, unique: the data set's ids or paths, in its order.
        what: what the ids belong to, for messages.
        root: the folder that is left out of ids and paths that lie below it. By default none, where that
            finds all ids, or else the one with which all are found; it is said.

    Returns:
        (m,) int64.

    Raises:
        KdbiasError: an id is not found, several folders would do, or what is left of the paths repeats.
    """
    if os.sep != "/":
        have = pc.replace_substring(have, os.sep, "/")
    if root is None and len(ids) and not _missing(ids, have):
        root = ""
    if root is None and len(ids):
        folders = _folders(ids, have)
        lacking = {folder: _missing(_below(folder, ids), _below(folder, have)) for folder in folders}
        fitting = [folder for folder, missing in lacking.items() if not missing]
        if len(fitting) > 1:
            named = " and ".join(map(repr, fitting[:3]))
            raise KdbiasError(f"the ids of {what} fit below {named}, too: say which is meant with root=")
        if not fitting:
            raise _mismatch(ids, have, what, min(lacking, key=lacking.__getitem__, default=""))
        root = fitting[0]
        say(f"the ids of {what} and the data set's paths are taken as they are below {root}")
    base = os.fspath(root or "").replace(os.sep, "/")
    where = f"the data set below {base}" if base else "data set"
    return align(_below(base, ids), _below(base, have), what, where)


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
    # Of the id with the most folders the fewest paths are ends.
    depth = pc.count_substring(ids, "/")
    deepest = ids[pc.index(depth, pc.max(depth)).as_py()].as_py()
    paths = have.filter(pc.ends_with(have, f"/{deepest}"))
    longer = pc.unique(pc.utf8_slice_codeunits(paths, 0, -len(deepest) - 1)).to_pylist()
    if len(longer) > _TRIED:
        raise KdbiasError(
            f"{counted(len(longer), 'folder')} of the data set hold a file {deepest!r}: say with root= from "
            "which one the ids start"
        )
    parts = deepest.split("/")
    ends = pa.array(["/".join(parts[i:]) for i in range(1, len(parts))], have.type)
    found = pc.is_in(ends, value_set=have).to_pylist()
    return [folder or "/" for folder in longer] + [
        "/".join(parts[:i]) or "/" for i, hit in enumerate(found, 1) if hit
    ]


def _mismatch(ids: pa.Array, have: pa.Array, what: str, likely: str) -> KdbiasError:
    """The error of ids that are not all there, with both sides as they look."""
    known = _below(likely, have)
    missing = ids.filter(pc.invert(pc.is_in(_below(likely, ids), value_set=known)))
    sample = repr(have[0].as_py()) if len(have) else "nothing"
    way_out = f"; the others are found with root={likely!r}" if likely else "; are they from the same data?"
    return KdbiasError(
        f"{len(missing):,} of the {len(ids):,} ids of {what} are not among the {counted(len(have), 'id')} of "
        f"the data set: ids look like {missing[0].as_py()!r}, the data set's like {sample}{way_out}"
    )
