"""Person (and object) re-identification: CMC, mAP and mINP with same-camera exclusion.

For each query the gallery is ranked by cosine after dropping the images of the same identity taken by the
same camera or by one that is not known (and the query image itself). A query of no known camera, or without
any match left, is not judged. AP is the mean of the
precision at every match (not interpolated); INP is the number of matches over the rank of the last one (Ye et
al., "Deep learning for person re-identification: a survey and outlook", 2021).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kdbias.errors import KdbiasError
from kdbias.evaluation.inputs import rows_in, strangers
from kdbias.evaluation.resampling import Columns, weighted_mean
from kdbias.evaluation.settings import Reid
from kdbias.evaluation.task import Embeddings, Outcome, Task, of_samples
from kdbias.progress import say
from kdbias.tables.joins import as_strings, encode
from kdbias.wording import counted

JUNK_LABEL = "-1"

_CAMERA_NAMES = ("camera", "cam", "camid", "camera_id", "cam_id")
_NONE = "give --camera-column none to exclude nothing"
_RANKS = (1, 5, 10)
_BLOCK = 1 << 24  # scores held at once


def judge(options: Reid, task: Task) -> Outcome:
    """Rank the gallery for every query.

    Options: ``camera_column`` (default: a column named camera, cam or camid; ``"none"`` drops nothing but the
    query itself); ``cluster_by``, the column to resample by (default the identity). Gallery rows labelled -1
    are junk and dropped; unlabelled ones stay as distractors. Without a gallery the queries are ranked among
    themselves.
    """
    queries = task.model
    gallery = queries if task.gallery is None else task.gallery
    _, names = encode(queries.labels)
    if not len(names):
        raise KdbiasError(
            f"{queries.name} has no labels; re-ID needs the identity of each query (--label-column)"
        )
    junk = pc.fill_null(pc.equal(gallery.labels, JUNK_LABEL), False).to_numpy(zero_copy_only=False)
    if junk.any():
        gallery = gallery.take(np.flatnonzero(~junk))
    camera = _camera_column(options.camera_column, queries, gallery)
    people, _ = encode(queries.labels, names)
    others, _ = encode(gallery.labels, names)
    where = (queries.name, f"the gallery {gallery.name}")
    absent = strangers(queries.labels, gallery.labels, "identities", where, "are they of the same data?")
    cameras, blind, facts = _cameras(camera, queries, gallery, where)
    unlabelled = people < 0
    people[blind] = -1
    own = rows_in(queries, gallery)
    found = rank(queries.vectors, gallery.vectors, people, others, *cameras, own)
    judged = np.flatnonzero(found["matches"] > 0)
    if not len(judged):
        raise KdbiasError(
            f"no query of {queries.name} has a match from another camera "
            f"among the {gallery.n:,} gallery images"
        )
    columns = {name: values[judged] for name, values in found.items()}
    kept = queries.take(judged)
    curve = cmc(columns["first_rank"], min(50, gallery.n))
    return Outcome(
        **of_samples(kept, options.cluster_by),
        columns=columns,
        test_data={
            role: (e.ids, e.labels, *([] if camera is None else [e.column(camera)]))
            for role, e in (("gallery", gallery), ("queries", kept))
        },
        details={
            "gallery": {"n": gallery.n, "d": gallery.d},
            "camera_column": camera,
            **facts,
            "queries_of_absent_identities": int(absent.sum()),
            "identities": len(set(kept.labels.to_pylist())),
            "cmc": curve,
        },
        left_out={
            "no_label": int(unlabelled.sum()),
            "no_camera": int((blind & ~unlabelled).sum()),
            "no_match_in_gallery": int(((found["matches"] == 0) & (people >= 0)).sum()),
        },
        plots={"cmc": lambda axes: _draw(axes, curve)},
    )


def score(columns: Columns, weights: np.ndarray, parameters: Mapping[str, Any]) -> dict[str, float]:
    """CMC at ranks 1, 5 and 10, mean average precision, mean inverse negative penalty."""
    found = {f"rank{r}": (columns["first_rank"] <= r).astype(np.float64) for r in _RANKS}
    found |= {"mAP": columns["ap"], "mINP": columns["inp"]}
    return {name: weighted_mean(values, weights) for name, values in found.items()}


def rank(
    queries: np.ndarray,
    gallery: np.ndarray,
    people: np.ndarray,
    others: np.ndarray,
    cameras: np.ndarray,
    other_cameras: np.ndarray,
    own: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Ranks of the matches of every query.

    Args:
        queries: (q, d) float32 unit rows.
        gallery: (g, d) float32 unit rows.
        people, others: identity codes of queries (q,) and gallery (g,); negative = unknown, matches nothing.
        cameras, other_cameras: camera codes; a query of a negative one drops nothing, a gallery image of a
            negative one is dropped as if it were the query's camera's.
        own: (q,) gallery row of the query itself, -1 where it is not there.

    Returns:
        (q,) arrays: ``matches``, their number; ``ap``; ``inp``; ``first_rank``, from 1. The last three are
        zero where there is no match. Of a match and another image at the very same cosine the other ranks
        first, so that a model that maps everything to one point gains nothing.
    """
    n = len(queries)
    matches, first = np.zeros(n, np.int64), np.zeros(n, np.int64)
    precision, penalty = np.zeros(n), np.zeros(n)
    rows = max(1, _BLOCK // max(1, len(gallery)))
    for start in range(0, n, rows):
        cosines = queries[start : start + rows] @ gallery.T
        for i in range(start, min(start + rows, n)):
            if people[i] < 0:
                continue
            found = cosines[i - start]
            same = others == people[i]
            dropped = same & ((other_cameras == cameras[i]) | (other_cameras < 0)) & (cameras[i] >= 0)
            if own is not None and own[i] >= 0:
                dropped[own[i]] = True
                found[own[i]] = -np.inf
            hits = np.sort(found[same & ~dropped])[::-1]
            if not len(hits):
                continue
            rivals = np.sort(found[~same & (found >= hits[-1])])
            ahead = len(rivals) - np.searchsorted(rivals, hits, side="left")
            places = np.arange(1, len(hits) + 1)
            ranks = places + ahead
            matches[i], first[i] = len(hits), ranks[0]
            precision[i] = np.mean(places / ranks)
            penalty[i] = len(hits) / ranks[-1]
    return {"matches": matches, "ap": precision, "inp": penalty, "first_rank": first}


def cmc(first_ranks: np.ndarray, ranks: int) -> list[float]:
    """Share of queries whose first match is at rank 1, 2, ... ``ranks`` or better."""
    counts = np.bincount(first_ranks, minlength=ranks + 1)[1 : ranks + 1]
    return (np.cumsum(counts) / len(first_ranks)).tolist()


def _camera_column(wanted: str | None, queries: Embeddings, gallery: Embeddings) -> str | None:
    """Column with the cameras, found by its name or as asked for; None for none."""
    if wanted == "none":
        return None
    if wanted is not None:
        queries.column(wanted)
        gallery.column(wanted)
        return wanted
    for name in _CAMERA_NAMES:
        if name in queries.groups and name in gallery.groups:
            return name
    raise KdbiasError(
        f"{queries.name} has no camera column (its groups: {', '.join(queries.groups) or '-'}); "
        "give --camera-column NAME, or none to exclude nothing"
    )


def _cameras(
    camera: str | None, queries: Embeddings, gallery: Embeddings, where: tuple[str, str]
) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray, dict[str, int]]:
    """Codes for `rank`, which queries (q,) have no camera, and facts for the reader.

    Raises KdbiasError where no camera of the queries is one of the gallery's: nothing would be excluded.
    """
    if camera is None:
        return (np.full(queries.n, -1), np.full(gallery.n, -1)), np.zeros(queries.n, bool), {}
    mine, theirs = as_strings(queries.column(camera)), as_strings(gallery.column(camera))
    if not len(mine.drop_null()) or not len(theirs.drop_null()):
        raise KdbiasError(f"column {camera!r} of {where[not len(theirs.drop_null())]} is empty; {_NONE}")
    unknown = strangers(mine, theirs, f"cameras (column {camera!r})", where, f"spell them alike, or {_NONE}")
    both, _ = encode(pa.concat_arrays([mine, theirs]))
    codes = both[: queries.n], both[queries.n :]
    facts = {
        "queries_of_cameras_not_in_gallery": int(unknown.sum()),
        "gallery_images_without_camera": int((codes[1] < 0).sum()),
    }
    if unknown.any():
        say(
            f"{counted(unknown.sum(), 'query', 'is/are')} of cameras that the gallery lacks: of them "
            "nothing is excluded"
        )
    if facts["gallery_images_without_camera"]:
        say(
            f"{counted(facts['gallery_images_without_camera'], 'gallery image', 'has/have')} no camera: they "
            "are no match of their person, since they may be of the query's camera"
        )
    return codes, codes[0] < 0, facts


def _draw(axes: Any, curve: list[float]) -> None:
    """Draw the share of matched queries by rank."""
    axes.plot(np.arange(1, len(curve) + 1), curve)
    axes.set(xlabel="rank", ylabel="share of queries matched")
