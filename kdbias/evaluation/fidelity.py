"""How far embeddings are from their teacher's, sample by sample."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from kdbias.errors import KdbiasError
from kdbias.evaluation.inputs import compare_labels
from kdbias.evaluation.resampling import Columns, weighted_mean
from kdbias.evaluation.settings import Fidelity
from kdbias.evaluation.task import Embeddings, Outcome, Task, of_samples
from kdbias.tables.density_table import read_density
from kdbias.tables.joins import align

DECILE = "density_decile"


def judge(options: Fidelity, task: Task) -> Outcome:
    """Cosine and Euclidean distance of each unit embedding to the reference's of the same id.

    Options: ``density``, a density table over the same ids: its deciles of ``log_density`` (1 = the most
    isolated tenth of the judged samples) become the group ``density_decile``; ``cluster_by``, the column to
    resample by (see :func:`kdbias.evaluation.task.clusters_of`).
    """
    model = task.model
    assert task.reference is not None
    columns = fidelity_columns(model, task.reference)
    common = of_samples(model, options.cluster_by)
    details: dict[str, Any] = {"reference": {"n": task.reference.n, "d": model.d}}
    if options.density is not None:
        log_density = _log_density(options.density, model)
        deciles = density_deciles(log_density)
        common["groups"][DECILE] = pa.array([f"{d:02d}" for d in deciles], pa.large_string())
        details["density_deciles"] = [
            {
                "decile": d,
                "n": int((deciles == d).sum()),
                "mean_log_density": float(log_density[deciles == d].mean()),
                "cosine": float(columns["cosine"][deciles == d].mean()),
                "distance": float(columns["distance"][deciles == d].mean()),
            }
            for d in np.unique(deciles).tolist()
        ]
    return Outcome(
        **common,
        columns=columns,
        details=details,
        always_grouped=() if options.density is None else (DECILE,),
        plots={"distance_to_teacher": lambda axes: _draw(axes, columns, details)},
    )


def score(columns: Columns, weights: np.ndarray, parameters: Mapping[str, Any]) -> dict[str, float]:
    """Mean cosine, mean distance |s - t| (the embedding error) and mean squared distance."""
    values = {name: columns[name] for name in ("cosine", "distance")}
    values["squared_distance"] = columns["distance"] ** 2
    return {name: weighted_mean(each, weights) for name, each in values.items()}


def fidelity_columns(model: Embeddings, reference: Embeddings) -> dict[str, np.ndarray]:
    """Per sample ``cosine`` in [-1, 1] and ``distance`` = |s - t| of unit vectors, in [0, 2], float64.

    Raises:
        KdbiasError: a sample is missing in the reference.
    """
    rows = align(model.ids, reference.ids, "the model", reference.name)
    compare_labels(model, reference, rows)
    cosine, distance = np.empty(model.n), np.empty(model.n)
    for start in range(0, model.n, 65536):
        part = slice(start, start + 65536)
        student = model.vectors[part].astype(np.float64)
        teacher = reference.vectors[rows[part]].astype(np.float64)
        # The difference itself: 2 - 2 cos loses all digits where the student is good.
        distance[part] = np.linalg.norm(student - teacher, axis=1)
        cosine[part] = np.clip(np.einsum("ij,ij->i", student, teacher), -1, 1)
    return {"cosine": cosine, "distance": distance}


def density_deciles(log_density: np.ndarray) -> np.ndarray:
    """Decile of each sample, 1 (most isolated) to 10 (most crowded), sizes equal within one."""
    from scipy.stats import rankdata

    return (rankdata(log_density, "ordinal") - 1) * 10 // len(log_density) + 1


def _log_density(path: str, model: Embeddings) -> np.ndarray:
    """Log densities of the model's samples, float64 (n,)."""
    density = read_density(path)
    rows = align(model.ids, density.ids, "the model", f"density table {path}")
    values = density.numbers("log_density")[rows]
    if not np.isfinite(values).all():
        raise KdbiasError(
            f"density table {path}: log_density of {int((~np.isfinite(values)).sum())} samples is missing"
        )
    return values


def _draw(axes: Any, columns: Columns, details: Mapping[str, Any]) -> None:
    """Draw the distance to the teacher by density, or its histogram."""
    deciles = details.get("density_deciles")
    if deciles:
        axes.plot([row["decile"] for row in deciles], [row["distance"] for row in deciles], "o-")
        axes.set(xlabel="density decile (1 = most isolated)", ylabel="mean distance to the teacher")
    else:
        axes.hist(columns["distance"], bins=50)
        axes.set(xlabel="distance to the teacher", ylabel="samples")
