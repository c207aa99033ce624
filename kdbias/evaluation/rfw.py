"""Fairness of verification as RFW reports it: accuracy in each group, its spread, the skewed error ratio.

Every group has its own pairs and its own folds, hence its own thresholds (Wang et al., "Racial faces in the
wild", ICCV 2019; evaluated as insightface and TFace do). ``std_percent`` is the standard deviation (ddof 1)
of the groups' accuracies in percent; ``ser`` their largest error divided by their smallest.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kdbias.errors import KdbiasError
from kdbias.evaluation.inputs import refuse_two_spellings
from kdbias.evaluation.pairs import Pairs, contiguous_folds, joined, read_pairs, require_both_kinds
from kdbias.evaluation.resampling import Columns, take
from kdbias.evaluation.settings import Rfw
from kdbias.evaluation.task import Embeddings, Outcome, Plot, Task
from kdbias.evaluation.verification import common_value, compare_pairs, fold_accuracy, of_pairs
from kdbias.progress import say
from kdbias.tables.joins import as_strings, encode

GROUP = "group"

_LISTS = frozenset({".txt", ".bin", ".csv", ".parquet"})
_NAMED = re.compile("_(pairs|test)$")


def judge(options: Rfw, task: Task) -> Outcome:
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
        plots=[Plot("accuracy_per_group", lambda axes: _draw(axes, columns, names))],
    )


def score(columns: Columns, weights: np.ndarray, parameters: Mapping[str, Any]) -> dict[str, float]:
    """Mean accuracy of the groups, and how it spreads over them (left out for one group alone)."""
    values = group_accuracies(columns, weights)
    found = {"accuracy": float(values.mean())}
    if len(values) == 1:
        return found
    spread = {"std_percent": float(100 * values.std(ddof=1)), "gap": float(values.max() - values.min())}
    spread["ser"] = skewed_error_ratio(values)
    return found | (spread if np.isfinite(values).all() else dict.fromkeys(spread, float("nan")))


def group_accuracies(columns: Columns, weights: np.ndarray) -> np.ndarray:
    """Mean accuracy over folds of each group, in the order of their codes; NaN without weight."""
    found = []
    for code in np.unique(columns[GROUP]):
        rows = np.flatnonzero(columns[GROUP] == code)
        found.append(fold_accuracy(take(columns, rows), weights[rows]))
    return np.array(found)


def skewed_error_ratio(accuracies: np.ndarray) -> float:
    """Largest error over smallest error; NaN (undefined) where the best group makes none."""
    errors = 1 - accuracies
    return float(errors.max() / errors.min()) if errors.min() > 0 else float("nan")


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


def _draw(axes: Any, columns: Columns, names: list[str]) -> None:
    """Draw the accuracy of each group."""
    values = group_accuracies(columns, np.ones(len(columns["group"])))
    axes.bar(names, values)
    axes.set(ylim=(max(0, values.min() - 0.05), 1), ylabel="accuracy")
