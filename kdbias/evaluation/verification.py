"""1:1 verification over folds, as LFW, CFP-FP, AgeDB-30 and their relatives are reported.

Conventions differ, and their numbers must not be mixed:

- ``insightface``: both views of an image are added where the table has them (``embedding_flip``; how, says
  ``flip_fusion``: :mod:`kdbias.evaluation.task`), the score is a squared Euclidean distance of unit vectors,
  the threshold the one of 0, 0.01, ... 3.99 that is most accurate on the other folds; mean and population
  standard deviation over folds.
- ``facex`` (FaceX-Zoo): one view, cosine, the threshold with the largest TPR - FPR on the other folds among
  1,000 steps over the span of their scores; mean and standard error over folds (ddof 1).
- ``exact``: as insightface, but the threshold is the most accurate one between any two scores of the other
  folds (of several, the middle one). A step of 0.01 can cost a fold: on LFW with a good teacher, up to 1 %.

RFW's fairness is verification in groups: accuracy in each, its spread, the skewed error ratio. Every group
has its own pairs and its own folds, hence its own thresholds (Wang et al., "Racial faces in the wild", ICCV
2019; evaluated as insightface and TFace do). ``std_percent`` is the standard deviation (ddof 1) of their
accuracies in percent; ``ser`` their largest error divided by their smallest.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kdbias.errors import KdbiasError
from kdbias.evaluation import roc as curves
from kdbias.evaluation.inputs import refuse_two_spellings
from kdbias.evaluation.pairs import Pairs, contiguous_folds, joined, read_pairs, require_both_kinds
from kdbias.evaluation.resampling import Columns, take, weighted_mean
from kdbias.evaluation.settings import Rfw, Verification
from kdbias.evaluation.task import Embeddings, Outcome, Task, Views, codes_of, products, views_of
from kdbias.progress import say
from kdbias.tables.joins import as_strings, encode

GROUP = "group"

_LISTS = frozenset({".txt", ".bin", ".csv", ".parquet"})
_NAMED = re.compile("_(pairs|test)$")


def judge(options: Verification | Rfw, task: Task) -> Outcome:
    """The pairs as one list, or for rfw each group's by itself."""
    return _judge_groups(options, task) if isinstance(options, Rfw) else _judge_list(options, task)


def score(columns: Columns, weights: np.ndarray, parameters: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of one list or, where units have a group, of how groups differ."""
    if GROUP in columns:
        return _group_scores(columns, weights)
    return _list_scores(columns, weights, parameters["far"])


def _judge_list(options: Verification, task: Task) -> Outcome:
    """Accept or reject each pair at the threshold that its fold's complement chooses.

    Options: ``pairs``, the list (see :func:`kdbias.evaluation.pairs.read_pairs`); ``folds``, those to use;
    ``style``; ``flip_fusion``, ``raw`` (default) or ``unit``; ``far``, operating points, of which the last
    gives the one threshold at which ``fmr`` and ``fnmr`` of all groups are taken; ``cluster_by``, the column
    of the subject (pairs are resampled by subject; "" = pair by pair).
    """
    fars = sorted(set(options.far))
    pairs = read_pairs(options.pairs, options.folds)
    rows = pairs.rows(task.model.ids, task.model.name)
    columns, details = compare_pairs(options, task.model, pairs, rows)
    order = np.argsort(-columns["score"], kind="stable")  # sorted once, so that no resample has to
    columns, pairs, rows = take(columns, order), pairs.take(order), rows[order]
    roc = curves.roc_curve(columns["score"], columns["same"])
    threshold = float(roc.thresholds[curves.threshold_index(roc, fars[-1])])
    columns["accepted"] = columns["score"] >= threshold
    details["operating_point"] = {
        "far": fars[-1],
        "threshold": threshold if np.isfinite(threshold) else None,
        "note": "fmr and fnmr of all groups: at this threshold, the loosest with FAR <= far over all pairs",
    }
    return Outcome(
        **of_pairs(options, task.model, pairs, rows),
        columns=columns,
        groups={name: common_value(values, rows) for name, values in task.model.groups.items()},
        parameters={"far": fars},
        details=details,
        plots={
            "roc": lambda axes: draw_roc(axes, columns),
            "scores": lambda axes: _draw_scores(axes, columns, threshold),
        },
    )


def _list_scores(columns: Columns, weights: np.ndarray, fars: Sequence[float]) -> dict[str, float]:
    """Mean accuracy over folds, TAR at FAR, AUC, EER, and error rates at the common threshold.

    Pairs sorted by descending score, as `_judge_list` leaves them, spare a sort.
    """
    roc = curves.roc_curve(columns["score"], columns["same"], weights)
    same = columns["same"]
    found = {"accuracy": fold_accuracy(columns, weights)}
    both_kinds = np.isfinite(roc.far).all() and np.isfinite(roc.tar).all()
    for name, far in zip(curves.tar_names(fars, "<="), fars, strict=True):
        found[name] = curves.tar_at_most(roc, far) if both_kinds else float("nan")
    accepted = columns["accepted"].astype(np.float64)
    found |= {
        "auc": curves.area(roc),
        "eer": curves.equal_error_rate(roc),
        "fmr": weighted_mean(accepted[~same], weights[~same]),
        "fnmr": weighted_mean(1 - accepted[same], weights[same]),
    }
    return found


def _judge_groups(options: Rfw, task: Task) -> Outcome:
    """Verify each group's pairs over its own folds.

    ``pairs`` is a folder with one list a group, in it or in its sub-folders (``African_pairs.txt``,
    ``Asian_test.bin``: the group is what stands before ``_pairs`` or ``_test``), or one list, split by
    ``group_column``, a column of the table (pairs across groups are left out).
    """
    lists, left_out = _groups(options, task.model)
    names = list(lists)
    if len(names) < 2:
        raise KdbiasError(f"rfw compares groups, and the pairs hold only {names or 'none'}")
    pairs = joined(list(lists.values()))
    rows = pairs.rows(task.model.ids, task.model.name)
    code = np.repeat(np.arange(len(names)), [part.n for part in lists.values()])
    found = [compare_pairs(options, task.model, lists[n], rows[code == i]) for i, n in enumerate(names)]
    columns = {key: np.concatenate([part[key] for part, _ in found]) for key in found[0][0]} | {GROUP: code}
    group = pa.array(names, pa.large_string()).take(pa.array(code))
    return Outcome(
        **of_pairs(options, task.model, pairs, rows),
        columns=columns,
        groups={GROUP: group},
        test_data={"groups": (pairs.first, pairs.second, group)},
        details={"groups": {name: facts for name, (_, facts) in zip(names, found, strict=True)}},
        left_out=left_out,
        always_grouped=(GROUP,),
        plots={"accuracy_per_group": lambda axes: _draw_groups(axes, columns, names)},
    )


def _group_scores(columns: Columns, weights: np.ndarray) -> dict[str, float]:
    """Mean accuracy of the groups, and how it spreads over them (left out for one group alone).

    The skewed error ratio is NaN, undefined, where the best group makes no error.
    """
    values = group_accuracies(columns, weights)
    found = {"accuracy": float(values.mean())}
    if len(values) == 1:
        return found
    errors = 1 - values
    spread = {
        "std_percent": float(100 * values.std(ddof=1)),
        "gap": float(values.max() - values.min()),
        "ser": float(errors.max() / errors.min()) if errors.min() > 0 else float("nan"),
    }
    return found | (spread if np.isfinite(values).all() else dict.fromkeys(spread, float("nan")))


def fold_accuracy(columns: Columns, weights: np.ndarray) -> float:
    """Mean over folds of the weighted share of pairs decided rightly."""
    mass = np.bincount(columns["fold"], weights)
    right = np.bincount(columns["fold"], weights * columns["correct"])
    present = mass > 0
    return float(np.mean(right[present] / mass[present])) if present.any() else float("nan")


def compare_pairs(
    options: Verification | Rfw, model: Embeddings, pairs: Pairs, rows: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Per pair ``score`` (cosine), ``same``, ``fold`` (from 0) and ``correct``; details of the folds.

    Says how many pairs the list calls the same person's and the labels do not.
    """
    equal = pc.equal(*(model.labels.take(pa.array(side)) for side in rows.T))
    differ = pc.fill_null(pc.invert(equal), False).to_numpy(zero_copy_only=False) & pairs.same
    if differ.any():
        say(
            f"{differ.sum():,} of {pairs.same.sum():,} pairs that the list calls the same have two labels in "
            f"{model.name}; the list counts"
        )
    style = options.style
    views = views_of(model, options.flip_fusion, mirrored=style != "facex")
    scores = pair_cosines(views, *rows.T)
    _, fold = np.unique(pairs.folds, return_inverse=True)
    correct, thresholds = curves.decisions(style, scores, pairs.same, fold)
    accuracies = np.bincount(fold, correct) / np.bincount(fold)
    spread = (
        {"fold_standard_error": float(accuracies.std(ddof=1) / np.sqrt(len(accuracies)))}
        if style == "facex"
        else {"fold_std": float(accuracies.std())}
    )
    details = {
        "style": style,
        **views.details(),
        "genuine": int(pairs.same.sum()),
        "impostor": int((~pairs.same).sum()),
        "folds": [
            {"fold": int(name), "accuracy": float(accuracy), "threshold": float(threshold)}
            for name, accuracy, threshold in zip(np.unique(pairs.folds), accuracies, thresholds, strict=True)
        ],
        **spread,
    }
    columns = {"score": scores, "same": pairs.same, "fold": fold, "correct": correct}
    return columns, details


def pair_cosines(views: Views, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(m,) float64 cosines of the rows ``first`` and ``second``."""
    used, places = np.unique(np.concatenate([first, second]), return_inverse=True)
    vectors = views.unit(used)
    cosines = products(vectors, vectors, places[: len(first)], places[len(first) :])
    return np.clip(cosines.astype(np.float64), -1, 1)


def of_pairs(
    options: Verification | Rfw, model: Embeddings, pairs: Pairs, rows: np.ndarray
) -> dict[str, Any]:
    """What outcomes of pairs have in common: ids, and both subjects of each pair as (m, 2) clusters."""
    found = {"ids": {"first": pairs.first, "second": pairs.second}}
    column = options.cluster_by
    if not column or (column == "label" and model.labels.null_count == model.n):
        return {**found, "resampled": "pair"}
    # Subjects that no pair has would be drawn in vain.
    _, dense = np.unique(codes_of(model.column(column))[rows.T], return_inverse=True)
    clusters = dense.reshape(2, -1).T.copy()
    return {**found, "clusters": clusters, "resampled": f"{column} (both subjects of a pair)"}


def common_value(values: pa.Array, rows: np.ndarray) -> pa.Array:
    """The value that both samples of a pair share, null where they differ."""
    first, second = (as_strings(values).take(pa.array(side)) for side in rows.T)
    return pc.if_else(pc.equal(first, second), first, pa.scalar(None, first.type))


def group_accuracies(columns: Columns, weights: np.ndarray) -> np.ndarray:
    """Mean accuracy over folds of each group, in the order of their codes; NaN without weight."""
    found = []
    for code in np.unique(columns[GROUP]):
        rows = np.flatnonzero(columns[GROUP] == code)
        found.append(fold_accuracy(take(columns, rows), weights[rows]))
    return np.array(found)


def _groups(options: Rfw, model: Embeddings) -> tuple[dict[str, Pairs], dict[str, int]]:
    """Pairs of each group, and how many are left out, by reason."""
    source, column = Path(options.pairs), options.group_column
    if source.is_dir():
        if column is not None:
            raise KdbiasError(f"{source} has one list a group already; leave out --group-column")
        lists = {group: read_pairs(file, options.folds) for group, file in lists_of(source).items()}
        return lists, {"pairs_across_groups": 0}
    if column is None:
        known = ", ".join(model.groups) or "no group columns"
        raise KdbiasError(f"one list of pairs needs --group-column; {model.name} has {known}")
    pairs = read_pairs(source, options.folds)
    rows = pairs.rows(model.ids, model.name)
    values = as_strings(model.column(column))
    kinds = pc.unique(values.drop_null()).to_pylist()
    refuse_two_spellings(kinds, f"column {column!r} of {model.name}")
    codes, names = encode(common_value(values, rows))
    if unpaired := sorted(set(kinds) - set(names.to_pylist())):
        say(f"no pair within {', '.join(unpaired)}: such groups are not compared")
    nowhere = int(values.is_null().to_numpy(zero_copy_only=False)[rows].any(axis=1).sum())
    across = int((codes < 0).sum()) - nowhere
    found = {
        name: _refolded(pairs.take(np.flatnonzero(codes == code)), name)
        for code, name in enumerate(names.to_pylist())
    }
    return found, {"pairs_across_groups": across, "pairs_of_unknown_group": nowhere}


def lists_of(folder: Path) -> dict[str, Path]:
    """Group -> its list of pairs, of those in a folder or directly in its sub-folders.

    Where some files are named ``*_pairs`` or ``*_test``, the others are none (RFW has lists of people and
    images beside them) and are named on stderr.

    Raises:
        KdbiasError: two lists of one group.
    """
    files = sorted(
        file
        for file in (*folder.glob("*"), *folder.glob("*/*"))
        if file.suffix.lower() in _LISTS and not file.name.startswith(".")
    )
    named = [file for file in files if _NAMED.search(file.stem)]
    others = [file.name for file in files if named and file not in named]
    if others:
        say(f"{folder}: {', '.join(others)} left out, as lists of pairs there are named *_pairs or *_test")
    found: dict[str, Path] = {}
    for file in named or files:
        group = _NAMED.sub("", file.stem)
        if group in found:
            raise KdbiasError(f"{found[group]} and {file} both list pairs of {group!r}; keep one of them")
        found[group] = file
    return found


def _refolded(pairs: Pairs, group: str) -> Pairs:
    """Folds stay as listed; a group must have pairs of both kinds."""
    require_both_kinds(pairs.same, f"group {group!r}")
    return pairs if len(np.unique(pairs.folds)) > 1 else replace(pairs, folds=contiguous_folds(pairs.n))


def draw_roc(axes: Any, columns: Columns) -> None:
    """Draw the true by the false accept rate (logarithmic) from columns score and same, (pairs,)."""
    roc = curves.roc_curve(columns["score"], columns["same"])
    least = 1 / max(1, int((~columns["same"]).sum()))
    far = np.maximum(roc.far, least / 2)
    # A few thousand points, evenly over the logarithmic axis, draw millions.
    shown = np.searchsorted(far, np.geomspace(least / 2, 1, 4000), side="right") - 1
    shown = np.unique(np.clip(shown, 0, len(far) - 1))
    axes.plot(far[shown], roc.tar[shown], drawstyle="steps-post")
    axes.set(xscale="log", xlabel="false accept rate", ylabel="true accept rate")


def _draw_scores(axes: Any, columns: Columns, threshold: float) -> None:
    """Draw histograms of both kinds of pairs and the operating point, a cosine."""
    bins = np.linspace(columns["score"].min(), columns["score"].max() + 1e-9, 60)
    for kind, chosen in (("different", ~columns["same"]), ("same", columns["same"])):
        axes.hist(columns["score"][chosen], bins=bins, alpha=0.6, label=kind)
    if np.isfinite(threshold):
        axes.axvline(threshold, color="black", linewidth=1, label="operating point")
    axes.set(xlabel="cosine", ylabel="pairs")
    axes.legend()


def _draw_groups(axes: Any, columns: Columns, names: list[str]) -> None:
    """Draw the accuracy of each group."""
    values = group_accuracies(columns, np.ones(len(columns["group"])))
    axes.bar(names, values)
    axes.set(ylim=(max(0, values.min() - 0.05), 1), ylabel="accuracy")
