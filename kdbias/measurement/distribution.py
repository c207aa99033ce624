"""Numbers about one sampling distribution over embedded samples."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from kdbias.display.quantities import write
from kdbias.measurement.density import Measured
from kdbias.sphere.null import log_null
from kdbias.sphere.vectors import second_moment
from kdbias.tables.joins import encode_all
from kdbias.tables.weight_manifest import never_drawn
from kdbias.wording import counted


@dataclass
class Sampling:
    """A sampling distribution of the data and what was measured about it.

    Attributes:
        name: ``natural``, or the stem of the manifest's file name.
        p: (n,) float64 probabilities, sum 1.
        weights: the manifest's path; None for natural sampling.
        fingerprint: the manifest's; None for natural sampling.
        log_density: (n,) float64, log of the potential under p at the chosen bandwidth; NaN where that is
            below the smallest float (a sample of weight 0, far from all others for this bandwidth).
        bandwidths: one entry a bandwidth, as in ``uniformity.json``.
        witness: (n,) float64, how much more (> 0) or less than the target it draws around each sample; None
            without a target.
        discrepancy: from the target, as in ``uniformity.json``; None without one.
    """

    name: str
    p: np.ndarray
    weights: str | None = None
    fingerprint: str | None = None
    log_density: np.ndarray = field(default_factory=lambda: np.empty(0))
    bandwidths: list[dict[str, Any]] = field(default_factory=list)
    witness: np.ndarray | None = None
    discrepancy: dict[str, Any] | None = None


def ess(p: np.ndarray) -> float:
    """Kish's effective sample size of probabilities (n,): 1 / sum p_i^2, from 1 to n."""
    return float(1.0 / (p @ p))


def top_mass(p: np.ndarray, share: float = 0.01) -> float:
    """Mass of the ``share`` of samples (at least one) that are drawn most."""
    count = max(1, round(share * len(p)))
    return float(np.partition(p, len(p) - count)[len(p) - count :].sum())


def effective_identities(p: np.ndarray, codes: np.ndarray) -> float | None:
    """exp of the entropy of the mass of each label (codes (n,), -1 for none); None without labels."""
    labelled = codes >= 0
    mass = np.bincount(codes[labelled], weights=p[labelled])
    mass = mass[mass > 0]
    if not len(mass):
        return None
    mass = mass / mass.sum()
    return float(np.exp(-(mass * np.log(mass)).sum()))


def vendi_score(x: np.ndarray, p: np.ndarray) -> float:
    """exp of the entropy of the eigenvalues of sum_i p_i x_i x_i' (Friedman & Dieng 2023, linear kernel).

    That d x d matrix has the same non-zero eigenvalues as the n x n kernel. Between 1 and min(n, d).
    """
    values = np.linalg.eigvalsh(second_moment(x, p))
    values = values[values > 0] / values[values > 0].sum()
    return float(np.exp(-(values * np.log(values)).sum()))


def koleo_entropy(nearest: np.ndarray, p: np.ndarray) -> float | None:
    """sum p_i log(distance to the nearest different sample), in nats; larger = more spread.

    The part of the Kozachenko-Leonenko entropy that depends on the data (Sablayrolles et al. 2019 use its
    negative as a loss). Samples without such a distance (NaN) are left out; None if none is left.
    """
    known = np.isfinite(nearest) & (nearest > 0) & (p > 0)
    mass = p[known].sum()
    if mass <= 0:
        return None
    terms = nearest[known]
    np.log(terms, out=terms)
    terms *= p[known]
    return float(terms.sum() / mass)


def bandwidth_entry(
    d: int,
    t: float | tuple[float, ...],
    p: np.ndarray,
    energy: float,
    pair_energy: float,
    standard_error: float | None = None,
) -> dict[str, Any]:
    """One entry of ``bandwidths`` in ``uniformity.json``.

    Args:
        d: dimension of the embedding.
        t: bandwidth, or several whose kernels are averaged.
        p: (n,) probabilities.
        energy: sum over all i, j of p_i p_j K_ij.
        pair_energy: the same over i != j.
        standard_error: of the uniformity, where it is an estimate.
    """
    null = log_null(d, t)
    different = float((p * (1 - p)).sum())  # mass of pairs of different samples
    drawn = int((p > 0).sum())
    value, reason = None, None
    if drawn < 2 or different <= 0:
        reason = "all mass is on one sample, so there is no pair of different samples"
    elif pair_energy <= 0:
        reason = f"at t={write('t', t)} the kernel of every pair is below the smallest float"
    else:
        value = math.log(pair_energy) - math.log(different)
    return {
        "t": t,
        "uniformity": value,
        "null": null,
        "excess": None if value is None else value - null,
        "energy": energy,
        "effective_distinct": 1 / energy,
        "distinct_ceiling": math.exp(-null) if null > -700 else None,
        "rectification": None,
        "rectification_reason": "not computed",
        "pairs": drawn * (drawn - 1) // 2,
        "standard_error": standard_error,
        "interval": None
        if value is None or standard_error is None
        else [value - 1.96 * standard_error, value + 1.96 * standard_error],
        "reason": reason,
    }


def group_rows(values: pa.Array, sampling: Sampling) -> list[dict[str, Any]]:
    """One row for each value of a column, by falling share: how many samples, how much mass, how dense.

    ``share`` is the part of the samples, ``mass`` the part of the draws, ``weight`` their ratio, and
    ``log_density`` the mean over the group's samples of the log density under this scheme; None, with the
    reason, where the potential of one of them is below the smallest float. ``witness`` is the mean over the
    group's samples, None without a target.
    """
    codes, texts = encode_all(values)
    names = texts.to_pylist()
    count = np.bincount(codes, minlength=len(names))
    mass = np.bincount(codes, weights=sampling.p, minlength=len(names))
    density = np.bincount(codes, weights=sampling.log_density, minlength=len(names)) / count
    unseen = np.bincount(codes, weights=~np.isfinite(sampling.log_density), minlength=len(names)).astype(int)
    share = count / len(codes)
    witness = None
    if sampling.witness is not None:
        witness = np.bincount(codes, weights=sampling.witness, minlength=len(names)) / count
    return [
        {
            "value": names[i],
            "count": int(count[i]),
            "share": float(share[i]),
            "mass": float(mass[i]),
            "weight": float(mass[i] / share[i]),
            "log_density": None if unseen[i] else float(density[i]),
            "log_density_reason": "the potential of "
            f"{counted(unseen[i], 'sample')} is below the smallest float"
            if unseen[i]
            else None,
            "witness": None if witness is None else float(witness[i]),
        }
        for i in np.argsort(-count, kind="stable")
    ]


def regroup(
    schemes: Sequence[dict[str, Any]], samplings: Mapping[str, Sampling], groups: Mapping[str, pa.Array]
) -> None:
    """Tell entries what their samplings say now of the target and of these columns."""
    for entry in schemes:
        sampling = samplings[entry["name"]]
        entry["discrepancy"] = sampling.discrepancy
        entry["groups"] |= {name: group_rows(values, sampling) for name, values in groups.items()}


def hardness_quarters(hardness: np.ndarray) -> list[np.ndarray]:
    """Rows of the quarter of the samples that is easiest, of the next two and of the hardest.

    By rank, not by value: equal hardness (duplicates) must not empty a quarter.

    Args:
        hardness: (n,), NaN where a sample has no other of its label.

    Returns:
        Four arrays of rows, each by rising hardness; none where fewer than four samples have a hardness.
    """
    known = np.count_nonzero(np.isfinite(hardness))
    if known < 4:
        return []
    return np.array_split(np.argsort(hardness, kind="stable")[:known], 4)


def hardness_mass(hardness: np.ndarray, p: np.ndarray) -> dict[str, Any] | None:
    """How much mass the easy and the hard samples get, in quarters of the samples by hardness.

    Args:
        hardness: (n,), NaN where a sample has no other of its label.
        p: (n,) probabilities.

    Returns:
        ``edges`` (the quartiles), ``mass`` of each quarter and ``easy``/``hard`` (the first and the last), as
        shares of the mass of all samples with a hardness; None where fewer than four have one.
    """
    masses = np.array([p[rows].sum() for rows in hardness_quarters(hardness)])
    if masses.sum() <= 0:
        return None
    shares = (masses / masses.sum()).tolist()
    known = hardness[np.isfinite(hardness)]
    return {
        "edges": np.quantile(known, np.linspace(0, 1, 5), overwrite_input=True).tolist(),
        "mass": shares,
        "easy": shares[0],
        "hard": shares[-1],
        "samples": len(known),
    }


def scheme_entry(
    sampling: Sampling, x: np.ndarray, codes: np.ndarray, groups: Mapping[str, pa.Array], measured: Measured
) -> dict[str, Any]:
    """One entry of ``schemes`` in ``uniformity.json`` (its ``bandwidths`` are taken over as they are).

    Args:
        x: (n, d) float32 unit rows.
        codes: (n,) label codes, -1 for none.
        groups: columns to report by.
        measured: hardness and nearest different vectors of the samples.
    """
    p = sampling.p
    size = ess(p)
    return {
        "name": sampling.name,
        "weights": sampling.weights,
        "fingerprint": sampling.fingerprint,
        "ess": size,
        "ess_share": size / len(p),
        "effective_identities": effective_identities(p, codes),
        "groups": {name: group_rows(values, sampling) for name, values in groups.items()},
        "hardness": hardness_mass(measured.hardness, p),
        "top_mass": top_mass(p),
        "max_weight": float(p.max() * len(p)),
        "zero_weights": never_drawn(p),
        "vendi_score": vendi_score(x, p),
        "koleo_entropy": koleo_entropy(measured.nearest, p),
        "discrepancy": sampling.discrepancy,
        "bandwidths": sampling.bandwidths,
    }


def rectify(
    schemes: Sequence[dict[str, Any]], natural: Sequence[dict[str, Any]], best: Sequence[dict[str, Any]]
) -> None:
    """Fill in ``rectification`` of every scheme's bandwidths.

    R = (E(natural) - E(p)) / (E(natural) - E(best)), null unless the best is certified to within 1 % of the
    denominator.

    Args:
        schemes: entries with ``bandwidths``.
        natural: the natural scheme's bandwidths.
        best: for each bandwidth ``energy``, ``gap`` and ``reason`` (why there is none); ``natural_energy``
            where it is known better than ``natural`` has it, which may be an estimate.
    """
    for scheme in schemes:
        for entry, start, end in zip(scheme["bandwidths"], natural, best, strict=True):
            before = end.get("natural_energy") or start["energy"]
            entry["rectification"], entry["rectification_reason"] = rectification(
                entry["energy"], before, end, entry is start, "at this bandwidth"
            )


def rectification(
    energy: float, before: float, best: Mapping[str, Any], natural: bool, where: str
) -> tuple[float | None, str | None]:
    """R = (E(natural) - E(p)) / (E(natural) - E(best)), or why there is none.

    Args:
        energy, before: of p, and of natural sampling.
        best: ``energy``, ``gap`` and ``reason`` (why there is none).
        natural: p is natural sampling itself, whatever an estimate says.
        where: at which bandwidth, or from which target, for the reason.
    """
    if best["energy"] is None:
        return None, best["reason"]
    gain = before - best["energy"]
    if gain <= max(1e-6 * before, 0.0):
        return None, f"no re-weighting beats natural sampling {where}"
    if best["gap"] >= 0.01 * gain:
        share = f"{best['gap'] / gain:.1%}"
        return None, f"the best energy is only certified to {share} of what can be gained"
    return 0.0 if natural else float((before - energy) / gain), None
