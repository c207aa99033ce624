"""Linear probe: logistic regression on frozen embeddings."""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow.compute as pc

from kdbias.errors import KdbiasError
from kdbias.evaluation.knn import balanced_accuracy, class_scores, classes_of, classified, say_absent_classes
from kdbias.evaluation.resampling import Columns
from kdbias.evaluation.settings import Linear
from kdbias.evaluation.task import Outcome, Task, labelled
from kdbias.progress import say
from kdbias.tables.joins import encode

_PENALTIES = (0.01, 0.1, 1.0, 10.0)
_HELD_OUT = 0.2
_MOST_STEPS = 1000


def judge(options: Linear, task: Task) -> Outcome:
    """Fit a probe on the gallery's labels and predict the model's.

    Features are standardised by the gallery's mean and deviation; the inverse penalty C is the one of
    0.01 ... 10 that is best on a held-out fifth of the gallery, after which the probe is fitted on all of it.
    A sample that is judged is left out of the gallery, by id: the probe never learns its answer.
    Options: ``tail_from`` and ``cluster_by`` as for knn.
    """
    assert task.gallery is not None
    model, train, left_out = labelled(task.model), labelled(task.gallery), 0
    judged = pc.is_in(train.ids, value_set=model.ids).to_numpy(zero_copy_only=False)
    if judged.all():
        raise KdbiasError(
            f"all {train.n:,} labelled rows of the gallery ({train.name}) are judged (in {model.name}), so "
            "that none is left to learn from; take a table of other samples, or split one by --where and "
            "--gallery-where"
        )
    if judged.any():
        left_out = int(judged.sum())
        say(f"{left_out:,} of the gallery's {train.n:,} rows are judged, and left out of it")
        train = train.take(np.flatnonzero(~judged))
    codes, names = classes_of(train)
    truth, _ = encode(model.labels, names)
    say_absent_classes(model, names)
    predicted, chosen = probe(train.vectors, codes, model.vectors)
    facts = {"n": train.n, "classes": len(names), "judged_samples_left_out": left_out}
    outcome, _ = classified(options, model, train, {"correct": predicted == truth})
    unlabelled = {"no_label": task.model.n - model.n}
    return replace(outcome, details={"gallery": facts, "C": chosen}, left_out=unlabelled)


def score(columns: Columns, weights: np.ndarray, parameters: Mapping[str, Any]) -> dict[str, float]:
    """Accuracy, balanced accuracy, and balanced accuracy of the tail classes."""
    return class_scores(columns, weights, parameters)


def probe(train: np.ndarray, codes: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, float]:
    """Predicted class codes of (m, d) test rows, and the C that was chosen."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def fitted(c: float, rows: np.ndarray) -> Any:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=_MOST_STEPS))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            model.fit(train[rows], codes[rows])
        if any(issubclass(w.category, ConvergenceWarning) for w in caught):
            say(f"the probe with C={c:g} has not converged in {_MOST_STEPS:,} steps")
        return model

    shuffled = np.random.default_rng(0).permutation(len(codes))
    held = shuffled[: int(_HELD_OUT * len(codes))]
    rest = shuffled[len(held) :]
    chosen = 1.0
    if len(held) and len(np.unique(codes[rest])) > 1:
        answers = [fitted(c, rest).predict(train[held]) == codes[held] for c in _PENALTIES]
        ones = np.ones(len(held))
        rates = [balanced_accuracy(right.astype(np.float64), codes[held], ones) for right in answers]
        chosen = _PENALTIES[int(np.argmax(rates))]
    return fitted(chosen, np.arange(len(codes))).predict(test), chosen
