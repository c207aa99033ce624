"""IJB-B / IJB-C 1:1: templates pooled from media, TAR at FAR over millions of template pairs.

As insightface evaluates it: the views of an image (image + mirror, where the table has both) are added with
their length kept, since a long embedding is one of a good image, and multiplied by the face detector's
score; images of one medium are averaged within a template, media are summed, the template is normalised, and
the score of a pair is the dot product. TAR is read twice: ``tar@far=x`` at the ROC point with the FAR
nearest to x, as published tables do, and ``tar@far<=x`` strictly.

The benchmark's files serve as they are (``--templates ijbc_face_tid_mid.txt --pairs
ijbc_template_pair_label.txt --detector-scores ijbc_name_5pts_score.txt``); sample ids are image names, with
or without folder and suffix. Instead of the first file the table may have the columns ``template`` and
``media``.
"""

import os
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kdbias.errors import KdbiasError, first_line
from kdbias.evaluation.pairs import require_both_kinds
from kdbias.evaluation.resampling import Columns
from kdbias.evaluation.roc import roc_curve, tar_at_nearest, tar_names, tars, without_intermediate
from kdbias.evaluation.settings import Ijbc
from kdbias.evaluation.task import Embeddings, Outcome, Task, products, views_of
from kdbias.evaluation.verification import draw_roc
from kdbias.tables.files import absent
from kdbias.tables.joins import align, as_strings, encode, shown
from kdbias.wording import counted


def judge(options: Ijbc, task: Task) -> Outcome:
    """Pool images to templates and compare the listed pairs of templates.

    Options: ``templates``, lines ``NAME TEMPLATE MEDIA``; ``pairs``, lines ``TEMPLATE TEMPLATE 0|1``;
    ``detector_scores``, lines ``NAME x y x y x y x y x y SCORE``; ``keep_norm`` (False: every image counts
    the same); ``flip_fusion``, ``raw`` (default: both embeddings added as they are) or ``unit`` (unit
    vectors, added and given the image's own length); ``far``; ``cluster_by``: "subject" resamples both
    subjects of a pair (subjects are the sets of templates that genuine pairs connect), "" resamples pairs.
    """
    fars = sorted(set(options.far))
    images, templates, media = _assignment(task.model, options.templates)
    quality = _quality(task.model, options.detector_scores)
    views = views_of(task.model, options.flip_fusion)
    if not options.keep_norm:
        quality = quality / np.maximum(views.lengths(), np.finfo(np.float64).tiny)
    elif views.fusion != "raw":
        quality = quality * task.model.norms
    own, mirror = ((quality * factors)[images] for factors in (views.own, views.mirror))
    pooled, names = pool(views.vectors, views.flips, images, own, templates, media, mirror=mirror)
    first, second, same = _read_template_pairs(options.pairs, names)
    scores = products(pooled, pooled, first, second)
    order = np.argsort(-scores, kind="stable")  # sorted once, so that no resample has to
    first, second, same, scores = first[order], second[order], same[order], scores[order]
    columns = {"score": scores, "same": same}
    clusters = subjects(first, second, same, len(names)) if options.cluster_by else None
    shown = pa.array(names)
    return Outcome(
        ids={"first": shown.take(pa.array(first)), "second": shown.take(pa.array(second))},
        columns=columns,
        clusters=clusters,
        resampled="subject (both of a pair)" if options.cluster_by else "pair",
        parameters={"far": fars},
        test_data={"templates": (image_names(task.model.ids).take(pa.array(images)), templates, media)},
        details={
            "images": len(images),
            "templates": len(names),
            "genuine": int(same.sum()),
            "impostor": int((~same).sum()),
            **views.details(),
            "norm_kept": options.keep_norm,
            "detector_scores": options.detector_scores is not None,
        },
        left_out={"images_in_no_template": task.model.n - len(np.unique(images))},
        plots={"roc": lambda axes: draw_roc(axes, columns)},
    )


def score(columns: Columns, weights: np.ndarray, parameters: Mapping[str, Any]) -> dict[str, float]:
    """TAR at each FAR, at the nearest ROC point and strictly; the units are sorted by descending score."""
    scores, same, fars = columns["score"], columns["same"], parameters["far"]
    nearest, strict = tars(scores, same, weights, fars)
    if (weights == 1).all() and np.isfinite(nearest).all():
        # The figure itself is read as published ones are; for intervals the quicker reading will do.
        drawn = without_intermediate(roc_curve(scores, same))
        nearest = [tar_at_nearest(drawn, far) for far in fars]
    names = [*tar_names(fars, "="), *tar_names(fars, "<=")]
    return dict(zip(names, [*nearest, *strict], strict=True))


def pool(
    vectors: np.ndarray,
    flips: np.ndarray | None,
    images: np.ndarray,
    quality: np.ndarray,
    templates: np.ndarray,
    media: np.ndarray,
    rows_at_once: int = 1 << 12,
    mirror: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Templates from images: mean within a medium, sum over media, unit length.

    Args:
        vectors, flips: (n, d) unit rows of images and, where known, of their mirrors.
        images: (m,) rows of ``vectors``; an image may serve several templates.
        quality: (m,) factors (norm times detector score) of the images; mirror: of the mirrors, if others.
        templates, media: (m,) int64 codes; a medium counts within its template alone.

    Returns:
        (T, d) float32 unit rows and the (T,) sorted template codes.
    """
    order = np.lexsort((media, templates))
    images, quality, templates, media = images[order], quality[order], templates[order], media[order]
    mirror = None if mirror is None else mirror[order]
    names, firsts = np.unique(templates, return_index=True)
    pooled = np.empty((len(names), vectors.shape[1]), dtype=np.float32)
    edges = np.append(firsts, len(images))
    # Whole templates at a time, together about rows_at_once images.
    cuts = np.unique(np.append(np.searchsorted(firsts, np.arange(0, len(images), rows_at_once)), len(names)))
    for start, stop in pairwise(cuts):
        part = slice(edges[start], edges[stop])
        block = vectors[images[part]] * quality[part, None]
        if flips is not None:
            block += flips[images[part]] * (quality if mirror is None else mirror)[part, None]
        changed = np.ones(len(block), dtype=bool)
        changed[1:] = (np.diff(templates[part]) != 0) | (np.diff(media[part]) != 0)
        media_starts = np.flatnonzero(changed)
        sizes = np.diff(np.append(media_starts, len(block)))
        means = np.add.reduceat(block, media_starts) / sizes[:, None]
        template_starts = np.searchsorted(media_starts, edges[start:stop] - edges[start])
        pooled[start:stop] = np.add.reduceat(means, template_starts)
    lengths = np.linalg.norm(pooled, axis=1, keepdims=True)
    if not lengths.all():
        raise KdbiasError(f"template {names[np.argmin(lengths)]} has no direction (all its factors are zero)")
    return pooled / lengths, names


def subjects(first: np.ndarray, second: np.ndarray, same: np.ndarray, templates: int) -> np.ndarray:
    """(m, 2) subject codes of both sides: templates joined by genuine pairs, directly or through others."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = (np.ones(int(same.sum()), np.int8), (first[same], second[same]))
    _, codes = connected_components(coo_array(links, shape=(templates, templates)), directed=False)
    used, dense = np.unique(np.stack([codes[first], codes[second]], axis=1), return_inverse=True)
    return dense.reshape(-1, 2).astype(np.int32 if len(used) < 2**31 else np.int64)


def _assignment(
    model: Embeddings, path: str | os.PathLike[str] | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image row, template and medium of each use of an image."""
    names = ["template", "media"]
    if path is None:
        rows, columns, where = np.arange(model.n), model.groups, f"{model.name}, column "
        if missing := [name for name in names if name not in columns]:
            raise KdbiasError(
                f"{model.name} has no column {missing[0]!r}; add template and media, or give --templates FILE"
            )
    else:
        columns, where = _read_words(path, ["name", *names]), f"{path}, "
        rows = align(image_names(columns["name"]), image_names(model.ids), "the templates", model.name)
    templates, media = (_integers(as_strings(columns[name]), where + name) for name in names)
    return rows, templates, media


def _quality(model: Embeddings, path: str | os.PathLike[str] | None) -> np.ndarray:
    """Detector score of each image, float64 (n,); 1 without a file."""
    if path is None:
        return np.ones(model.n)
    points = [f"p{i}" for i in range(10)]
    table = _read_words(path, ["name", *points, "score"])
    rows = align(image_names(model.ids), image_names(table["name"]), "the images", str(path))
    scores = table["score"].cast(pa.float64()).to_numpy()[rows]
    if not (np.isfinite(scores).all() and (scores >= 0).all()):
        raise KdbiasError(f"{path}: detector scores must be numbers >= 0")
    return scores


def _read_template_pairs(
    path: str | os.PathLike[str], names: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places of both templates in `names` and whether they are one person, each (pairs,)."""
    table = _read_words(path, ["first", "second", "same"])
    sides = []
    for side in ("first", "second"):
        codes = _integers(table[side], f"{path}, column {side}")
        places = np.minimum(np.searchsorted(names, codes), len(names) - 1)
        missing = np.unique(codes[names[places] != codes])
        if len(missing):
            raise KdbiasError(
                f"{path}: {counted(len(missing), 'template', 'has/have')} no image among the {len(names):,} "
                f"embedded ({', '.join(map(str, missing[:3]))})"
            )
        sides.append(places)
    labels = pc.unique(table["same"]).to_pylist()
    strange = sorted(set(labels) - {"0", "1"})
    if strange:
        raise KdbiasError(f"{path}: pairs are labelled {shown(pa.array(strange))}; 1 means same, 0 different")
    same = pc.equal(table["same"], "1").to_numpy(zero_copy_only=False)
    require_both_kinds(same, str(path))
    return sides[0], sides[1], same


def image_names(values: pa.Array) -> pa.Array:
    """Names without folder and suffix: ``loose_crop/12.jpg`` and ``12`` are the same image."""
    return pc.replace_substring_regex(as_strings(values), r"^.*[/\\]|\.[A-Za-z]{3,4}$", "")


def _integers(values: pa.Array, where: str) -> np.ndarray:
    """Whole numbers, int64 (rows,); KdbiasError for anything else."""
    try:
        return values.cast(pa.int64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:
        codes, _ = encode(values)
        if (codes < 0).any():
            raise KdbiasError(f"{where}: a value is missing") from None
        raise KdbiasError(f"{where}: templates and media are whole numbers in IJB's files") from None


def _read_words(path: str | os.PathLike[str], names: list[str]) -> pa.Table:
    """A text file of words separated by single blanks, all columns as strings."""
    from pyarrow import csv

    if not Path(path).is_file():
        raise absent(path)
    try:
        table = csv.read_csv(
            path,
            read_options=csv.ReadOptions(column_names=names),
            parse_options=csv.ParseOptions(delimiter=" "),
            convert_options=csv.ConvertOptions(column_types=dict.fromkeys(names, pa.large_string())),
        )
    except pa.ArrowInvalid as error:
        raise KdbiasError(f"{path}: expected lines of {len(names)} words ({first_line(error)})") from None
    return table.combine_chunks() if table.num_rows else table
