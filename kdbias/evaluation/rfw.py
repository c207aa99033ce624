"""Fairness of verification as RFW reports it: accuracy in each group, its spread, the skewed error ratio.

Every group has its own pairs and its own folds, hence its own thresholds (Wang et al., "Racial faces in the
wild", ICCV 2019; evaluated as insightface and TFace do). ``std_percent`` is the standard deviation (ddof 1)
of the groups' accuracies in percent; ``ser`` their largest error divided by their smallest.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kdbias.errors import KdbiasError
from kdbias.evaluation.meeting import refuse_two_spellings
from kdbias.evaluation.pairs import Pairs, contiguous_folds, read_pairs
from kdbias.evaluation.protocols import Rfw
from kdbias.evaluation.resampling import Columns
from kdbias.evaluation.task import Embeddings, Outcome, Plot, Task
from kdbias.evaluation.verification import (
    common_value,
    compare_pairs,
    fold_accuracy,
    question_labels,
    subject_clusters,
)
from kdbias.evaluation.views import views_of
from kdbias.progress import say
from kdbias.tables.joins import as_strings, encode

GROUP = "group"

_LISTS = frozenset({".txt", ".bin", ".csv", ".parquet"})
_NAMED = re.compile("_(pairs|test)$")


def judge(options: Rfw, task: Task) -> Outcome:
    """Verify each group's pairs over its own folds.

    Options: ``pairs``, a folder with one list a group, in it or in its sub-folders (``African_pairs.txt``,
    ``Asian_test.bin``: the group is what stands before ``_pairs`` or ``_test``), or one list, split by
    ``group_column``, a column of the table (pairs across groups are left out); ``folds``, ``style``,
    ``flip_fusion``, ``cluster_by`` as for verification.
    """
    views = views_of(task.model, options.flip_fusion, mirrored=options.style != "facex")
    groups, left_out = _groups(options, task.model)
    if len(groups) < 2:
        raise KdbiasError(f"rfw compares groups, and the pairs hold only {list(groups) or 'none'}")
    parts: list[dict[str, np.ndarray]] = []
    firsts, seconds, sides = [], [], []
    details: dict[str, Any] = {}
    for code, (name, (pairs, rows)) in enumerate(groups.items()):
        question_labels(task.model, pairs, rows)
        columns, facts = compare_pairs(views, pairs, rows, options.style)
        parts.append({**columns, "group": np.full(pairs.n, code)})
        details[name] = facts
        firsts.append(pairs.first)
        seconds.append(pairs.second)
        sides.append(rows)
    columns = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    rows = (np.concatenate([side[0] for side in sides]), np.concatenate([side[1] for side in sides]))
    clusters, resampled = subject_clusters(task.model, rows, options.cluster_by)
    names = list(groups)
    first, second = pa.concat_arrays(firsts), pa.concat_arrays(seconds)
    group = pa.array([names[code] for code in columns["group"]], pa.large_string())
    return Outcome(
        ids={"first": first, "second": second},
        columns=columns,
        groups={GROUP: group},
        test_data={"groups": (first, second, group)},
        clusters=clusters,
        resampled=resampled,
        details={"groups": details},
        left_out=left_out,
        always_grouped=(GROUP,),
        plots=[Plot("accuracy_per_group", lambda axes: _draw(axes, columns, names))],
    )


def score(columns: Columns, weights: np.ndarray, parameters: Mapping[str, Any]) -> dict[str, float]:
    """Mean accuracy of the groups, and how it spreads over them (left out for one group alone)."""
    codes = np.unique(columns["group"])
    accuracies = []
    for code in codes:
        rows = columns["group"] == code
        accuracies.append(
            fold_accuracy({name: columns[name][rows] for name in ("fold", "correct")}, weights[rows])
        )
    values = np.array(accuracies)
    found = {"accuracy": float(values.mean())}
    if len(values) == 1:
        return found
    defined = bool(np.isfinite(values).all())
    return found | {
        "std_percent": float(100 * values.std(ddof=1)) if defined else float("nan"),
        "gap": float(values.max() - values.min()) if defined else float("nan"),
        "ser": skewed_error_ratio(values) if defined else float("nan"),
    }


def skewed_error_ratio(accuracies: np.ndarray) -> float:
    """Largest error over smallest error; NaN (undefined) where the best group makes none."""
    errors = 1 - accuracies
    return float(errors.max() / errors.min()) if errors.min() > 0 else float("nan")


def _groups(
    options: Rfw, model: Embeddings
) -> tuple[dict[str, tuple[Pairs, tuple[np.ndarray, np.ndarray]]], dict[str, int]]:
    source, column = Path(options.pairs), options.group_column
    if source.is_dir():
        if column is not None:
            raise KdbiasError(f"{source} has one list a group already; leave out --group-column")
        found = {}
        for group, file in lists_of(source).items():
            pairs = read_pairs(file, options.folds)
            found[group] = (pairs, pairs.rows(model.ids, model.name))
        return found, {"pairs_across_groups": 0}
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
    unknown = values.is_null().to_numpy(zero_copy_only=False)
    nowhere = int((unknown[rows[0]] | unknown[rows[1]]).sum())
    found = {}
    for code, name in enumerate(names.to_pylist()):
        chosen = np.flatnonzero(codes == code)
        part = pairs.take(chosen)
        found[name] = (_refolded(part, name), (rows[0][chosen], rows[1][chosen]))
    left_out = {"pairs_across_groups": int((codes < 0).sum()) - nowhere, "pairs_of_unknown_group": nowhere}
    return found, left_out


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
    if not pairs.same.any() or pairs.same.all():
        raise KdbiasError(
            f"group {group!r} has no pair of one kind among its {pairs.n:,} pairs; it cannot be verified"
        )
    if len(np.unique(pairs.folds)) > 1:
        return pairs
    return Pairs(pairs.first, pairs.second, pairs.same, contiguous_folds(pairs.n))


def _draw(axes: Any, columns: Columns, names: list[str]) -> None:
    values = []
    for code in range(len(names)):
        rows = columns["group"] == code
        values.append(fold_accuracy({n: columns[n][rows] for n in ("fold", "correct")}, np.ones(rows.sum())))
    axes.bar(names, values)
    axes.set_ylim(max(0, min(values) - 0.05), 1)
    axes.set_ylabel("accuracy")
