"""1:1 verification over folds, as LFW, CFP-FP, AgeDB-30 and their relatives are reported.

Conventions differ, and their numbers must not be mixed:

- ``insightface``: both views of an image are added where the table has them (``embedding_flip``; how, says
  ``flip_fusion``: :mod:`kdbias.evaluation.views`), the score is a squared Euclidean distance of unit vectors,
  the threshold the one of 0, 0.01, ... 3.99 that is most accurate on the other folds; mean and population
  standard deviation over folds.
- ``facex`` (FaceX-Zoo): one view, cosine, the threshold with the largest TPR - FPR on the other folds among
  1,000 steps over the span of their scores; mean and standard error over folds (ddof 1).
- ``exact``: as insightface, but the threshold is the most accurate one between any two scores of the other
  folds (of several, the middle one). A step of 0.01 can cost a fold: on LFW with a good teacher, up to 1 %.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kdbias.errors import KdbiasError
from kdbias.evaluation.pairs import Pairs, read_pairs
from kdbias.evaluation.protocols import Verification
from kdbias.evaluation.resampling import Columns, take, weighted_mean
from kdbias.evaluation.roc import (
    area,
    equal_error_rate,
    roc_curve,
    tar_at_most,
    tar_names,
    threshold_index,
)
from kdbias.evaluation.task import Embeddings, Outcome, Plot, Task
from kdbias.evaluation.views import Views, views_of
from kdbias.progress import say
from kdbias.tables.joins import as_strings, encode


def judge(options: Verification, task: Task) -> Outcome:
    """Accept or reject each pair at the threshold that its fold's complement chooses.

    Options: ``pairs``, the list (see :func:`kdbias.evaluation.pairs.read_pairs`); ``folds``, those to use;
    ``style``; ``flip_fusion``, ``raw`` (default) or ``unit``; ``far``, operating points, of which the last
    gives the one threshold at which ``fmr`` and ``fnmr`` of all groups are taken; ``cluster_by``, the column
    of the subject (pairs are resampled by subject; "" = pair by pair).
    """
    pairs = read_pairs(options.pairs, options.folds)
    fars = sorted(set(options.far))
    rows = pairs.rows(task.model.ids, task.model.name)
    question_labels(task.model, pairs, rows)
    views = views_of(task.model, options.flip_fusion, mirrored=options.style != "facex")
    columns, details = compare_pairs(views, pairs, rows, options.style)
    order = np.argsort(-columns["score"], kind="stable")  # sorted once, so that no resample has to
    columns, pairs, rows = take(columns, order), pairs.take(order), (rows[0][order], rows[1][order])
    roc = roc_curve(columns["score"], columns["same"])
    threshold = float(roc.thresholds[threshold_index(roc, fars[-1])])
    columns["accepted"] = columns["score"] >= threshold
    details["operating_point"] = {
        "far": fars[-1],
        "threshold": threshold if np.isfinite(threshold) else None,
        "note": "fmr and fnmr of all groups: at this threshold, the loosest with FAR <= far over all pairs",
    }
    clusters, resampled = subject_clusters(task.model, rows, options.cluster_by)
    return Outcome(
        ids={"first": pairs.first, "second": pairs.second},
        columns=columns,
        groups={name: common_value(values, rows) for name, values in task.model.groups.items()},
        clusters=clusters,
        resampled=resampled,
        parameters={"far": fars},
        details=details,
        plots=[
            Plot("roc", lambda axes: draw_roc(axes, columns)),
            Plot("scores", lambda axes: _draw_scores(axes, columns, threshold)),
        ],
    )


def score(columns: Columns, weights: np.ndarray, parameters: Mapping[str, Any]) -> dict[str, float]:
    """Mean accuracy over folds, TAR at FAR, AUC, EER, and error rates at the common threshold.

    Pairs sorted by descending score, as :func:`judge` leaves them, spare a sort.
    """
    roc = roc_curve(columns["score"], columns["same"], weights)
    same = columns["same"]
    found = {"accuracy": fold_accuracy(columns, weights)}
    for name, far in zip(tar_names(parameters["far"], "at-most"), parameters["far"], strict=True):
        found[name] = tar_at_most(roc, far) if np.isfinite(roc.tar).all() else float("nan")
    accepted = columns["accepted"].astype(np.float64)
    found |= {
        "auc": area(roc),
        "eer": equal_error_rate(roc),
        "fmr": weighted_mean(accepted[~same], weights[~same]),
        "fnmr": weighted_mean(1 - accepted[same], weights[same]),
    }
    return found


def fold_accuracy(columns: Columns, weights: np.ndarray) -> float:
    """Mean over folds of the weighted share of pairs decided rightly."""
    mass = np.bincount(columns["fold"], weights)
    right = np.bincount(columns["fold"], weights * columns["correct"])
    present = mass > 0
    return float(np.mean(right[present] / mass[present])) if present.any() else float("nan")


def compare_pairs(
    views: Views, pairs: Pairs, rows: tuple[np.ndarray, np.ndarray], style: str
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Per pair ``score`` (cosine), ``same``, ``fold`` (from 0) and ``correct``; details of the folds."""
    scores = pair_cosines(views, *rows)
    _, fold = np.unique(pairs.folds, return_inverse=True)
    correct, thresholds = STYLES[style](scores, pairs.same, fold)
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


def insightface_decisions(
    scores: np.ndarray, same: np.ndarray, folds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Right or wrong decisions by insightface's rule.

    Args:
        scores: (m,) cosines.
        same: (m,) bool.
        folds: (m,) fold numbers 0 ... F - 1, F >= 2.

    Returns:
        (m,) bool, and (F,) thresholds on the squared distance, below which a pair counts as the same.
    """
    distances = 2 - 2 * scores
    return _decide(distances, same, folds, lambda _: np.arange(400) / 100, below=True, rate=_accuracy)


def facex_decisions(scores: np.ndarray, same: np.ndarray, folds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Right or wrong decisions by FaceX-Zoo's rule; thresholds are cosines, arguments as above."""
    return _decide(scores, same, folds, _span_steps, below=False, rate=_youden)


def exact_decisions(scores: np.ndarray, same: np.ndarray, folds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Right or wrong decisions at the most accurate threshold of all; thresholds are cosines."""
    return _decide(scores, same, folds, _midpoints, below=False, rate=_accuracy, middle=True)


def _decide(
    values: np.ndarray,
    same: np.ndarray,
    folds: np.ndarray,
    grid: Callable[[np.ndarray], np.ndarray],
    *,
    below: bool,
    rate: Callable[..., np.ndarray],
    middle: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    count = int(folds.max()) + 1
    if count < 2:
        raise KdbiasError("verification needs two folds or more: the threshold of one comes from the others")
    correct = np.zeros(len(values), dtype=bool)
    chosen = np.empty(count)
    for fold in range(count):
        test, train = folds == fold, folds != fold
        steps = grid(values[train])
        genuine, impostor = np.sort(values[train & same]), np.sort(values[train & ~same])
        sides = [np.searchsorted(part, steps, side="left") for part in (genuine, impostor)]
        accepted = sides if below else [len(genuine) - sides[0], len(impostor) - sides[1]]
        rates = rate(accepted[0], accepted[1], len(genuine), len(impostor))
        equal = np.flatnonzero(rates == rates.max())
        best = equal[len(equal) // 2 if middle else 0]
        chosen[fold] = steps[best]
        said_same = values[test] < steps[best] if below else values[test] >= steps[best]
        correct[test] = said_same == same[test]
    return correct, chosen


def _accuracy(tp: np.ndarray, fp: np.ndarray, genuine: int, impostor: int) -> np.ndarray:
    return tp + impostor - fp  # of a fixed number of pairs


def _youden(tp: np.ndarray, fp: np.ndarray, genuine: int, impostor: int) -> np.ndarray:
    return tp / max(genuine, 1) - fp / max(impostor, 1)


STYLES = {"insightface": insightface_decisions, "facex": facex_decisions, "exact": exact_decisions}


def _span_steps(train: np.ndarray) -> np.ndarray:
    low, high = train.min(), train.max()
    return low + (high - low) / 1000 * np.arange(1, 1001)


def _midpoints(train: np.ndarray) -> np.ndarray:
    levels = np.unique(train)
    return np.concatenate([levels[:1], (levels[:-1] + levels[1:]) / 2, levels[-1:] + 1])


def pair_cosines(views: Views, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(m,) float64 cosines of the rows ``first`` and ``second``."""
    used, places = np.unique(np.concatenate([first, second]), return_inverse=True)
    vectors = views.unit(used)
    left, right = places[: len(first)], places[len(first) :]
    cosines = np.empty(len(first))
    for start in range(0, len(first), 65536):
        part = slice(start, start + 65536)
        cosines[part] = np.einsum("ij,ij->i", vectors[left[part]], vectors[right[part]])
    return np.clip(cosines, -1, 1)


def question_labels(model: Embeddings, pairs: Pairs, rows: tuple[np.ndarray, np.ndarray]) -> None:
    """Say how many pairs the list calls the same person's and the labels do not."""
    equal = pc.equal(*(model.labels.take(pa.array(side)) for side in rows))
    differ = pc.fill_null(pc.invert(equal), False).to_numpy(zero_copy_only=False) & pairs.same
    if differ.any():
        say(
            f"{differ.sum():,} of {pairs.same.sum():,} pairs that the list calls the same have two labels in "
            f"{model.name}; the list counts"
        )


def subject_clusters(
    model: Embeddings, rows: tuple[np.ndarray, np.ndarray], column: str
) -> tuple[np.ndarray | None, str]:
    """(m, 2) codes of both subjects of each pair; None where no subjects are known."""
    if not column or (column == "label" and model.labels.null_count == model.n):
        return None, "pair"
    codes, names = encode(model.column(column))
    alone = codes < 0
    codes[alone] = len(names) + np.arange(alone.sum())
    # Subjects that no pair has would be drawn in vain.
    _, dense = np.unique(np.concatenate([codes[rows[0]], codes[rows[1]]]), return_inverse=True)
    return dense.reshape(2, -1).T.copy(), f"{column} (both subjects of a pair)"


def common_value(values: pa.Array, rows: tuple[np.ndarray, np.ndarray]) -> pa.Array:
    """The value that both samples of a pair share, null where they differ."""
    first, second = (as_strings(values).take(pa.array(side)) for side in rows)
    return pc.if_else(pc.equal(first, second), first, pa.scalar(None, first.type))


def draw_roc(axes: Any, columns: Columns) -> None:
    roc = roc_curve(columns["score"], columns["same"])
    least = 1 / max(1, int((~columns["same"]).sum()))
    far = np.maximum(roc.far, least / 2)
    # A few thousand points, evenly over the logarithmic axis, draw millions.
    shown = np.searchsorted(far, np.geomspace(least / 2, 1, 4000), side="right") - 1
    shown = np.unique(np.clip(shown, 0, len(far) - 1))
    axes.plot(far[shown], roc.tar[shown], drawstyle="steps-post")
    axes.set_xscale("log")
    axes.set_xlabel("false accept rate")
    axes.set_ylabel("true accept rate")


def _draw_scores(axes: Any, columns: Columns, threshold: float) -> None:
    bins = np.linspace(columns["score"].min(), columns["score"].max() + 1e-9, 60)
    for kind, chosen in (("different", ~columns["same"]), ("same", columns["same"])):
        axes.hist(columns["score"][chosen], bins=bins, alpha=0.6, label=kind)
    if np.isfinite(threshold):
        axes.axvline(threshold, color="black", linewidth=1, label="operating point")
    axes.set_xlabel("cosine")
    axes.set_ylabel("pairs")
    axes.legend()
