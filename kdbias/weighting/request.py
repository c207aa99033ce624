"""What a user asks of a scheme, validated before anything is computed."""

import inspect
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from kdbias.errors import KdbiasError
from kdbias.sphere.solution import Groups
from kdbias.tables.density_table import DensityTable
from kdbias.weighting.case import Scheme
from kdbias.weighting.hygiene import Hygiene
from kdbias.weighting.measurements import chosen_bandwidth
from kdbias.weighting.schemes import METHODS

EQUILIBRIUM_MIN_ESS = 0.5
_USE_BANDWIDTH = ("inverse-density", "equilibrium")


@dataclass(frozen=True)
class Request:
    """What a user asked for, validated; `config` is the part of it that decides the weights."""

    method: str
    t: float | None
    hygiene: Hygiene
    cap: float | None
    collapse: str
    near: float
    seed: int
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def min_ess(self) -> float | None:
        """The floor on the ESS, None for none."""
        return self.hygiene.min_ess or None

    @property
    def config(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "t": self.t,
            "temper": self.hygiene.temper,
            "clip": self.hygiene.clip,
            "mix": self.hygiene.mix,
            "min_ess": self.min_ess,
            "cap": self.cap,
            "collapse": self.collapse,
            **({"near": self.near} if self.collapse == "near" else {}),
            **({"seed": self.seed} if self.method == "cluster-balanced" else {}),
            **self.options,
        }


def parse_request(
    density: DensityTable,
    method: str,
    t: float | None,
    hygiene: Hygiene,
    cap: float | None,
    collapse: str | None,
    near: float,
    seed: int,
    given: dict[str, Any],
) -> Request:
    if method not in METHODS:
        raise KdbiasError(f"unknown method {method!r}; choose one of {', '.join(METHODS)}")
    if t is not None and not (np.isfinite(t) and t > 0):
        raise KdbiasError(f"t {t:g} is not a bandwidth; choose a number > 0")
    if cap is not None and method != "equilibrium":
        raise KdbiasError(f"cap {cap:g} is a constraint of the equilibrium; for method {method} use clip")
    options = {name: value for name, value in given.items() if value is not None}
    known = list(inspect.signature(METHODS[method]).parameters)[1:]
    foreign = [name for name in options if name not in known]
    if foreign:
        raise KdbiasError(
            f"method {method} has no option {foreign[0]} (it has: {', '.join(known) or 'none'}); leave it out"
        )
    if method == "equilibrium" and hygiene.min_ess is None:
        hygiene = replace(hygiene, min_ess=EQUILIBRIUM_MIN_ESS)
    if method not in _USE_BANDWIDTH:
        if t is not None:
            raise KdbiasError(f"method {method} has no bandwidth; leave out t={t:g}")
    elif t is None:
        t = chosen_bandwidth(density)
    if "clusters" in options:
        options["clusters"] = [int(k) for k in options["clusters"]]
    return Request(
        method=method,
        t=t,
        hygiene=hygiene,
        cap=cap,
        collapse=collapse or ("none" if method == "natural" else "exact"),
        near=near,
        seed=seed,
        options=options,
    )


def solver_cap(cap: float | None, groups: Groups) -> float | None:
    """The cap as a multiple of 1 / distinct: no sample, copies together, is drawn more than ``cap`` times."""
    if cap is None:
        return None
    n = len(groups.group)
    if not cap > n / groups.distinct * (1 - 1e-12) or cap <= 1:
        raise KdbiasError(
            f"cap {cap:g} cannot hold: {groups.distinct:,} distinct samples share {n:,} draws, "
            f"{n / groups.distinct:.4g} each; choose a cap above that"
        )
    return max(cap * groups.distinct / n, 1.0)


def masses_of(request: Request, scheme: Scheme, groups: Groups) -> np.ndarray:
    """(m,) masses of the distinct samples after hygiene.

    An equilibrium of which nothing more is asked stays as it was solved. Else its cap and its floor are
    restored where other steps broke them (a temper above 1 does), so that its gap remains a proof.
    """
    hygiene = request.hygiene
    if scheme.equilibrium is not None:
        if replace(hygiene, min_ess=None) == Hygiene():
            return scheme.values
        limits = [limit for limit in (hygiene.clip, request.cap) if limit is not None]
        hygiene = replace(hygiene, clip=min(limits, default=None))
    return hygiene.apply(scheme.values, len(groups.group))
