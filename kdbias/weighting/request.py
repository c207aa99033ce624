"""What a user asks of a scheme, validated before anything is computed."""

import inspect
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from kdbias.device import parse_bytes
from kdbias.errors import KdbiasError
from kdbias.measurement.density import check_bandwidth
from kdbias.sphere.solution import Groups
from kdbias.tables.density_table import DensityTable
from kdbias.weighting.case import Scheme
from kdbias.weighting.collapse import NEAR
from kdbias.weighting.hygiene import Hygiene
from kdbias.weighting.measurements import chosen_bandwidth
from kdbias.weighting.schemes import METHODS

EQUILIBRIUM_MIN_ESS = 0.5
# Options that only some methods have, beside those of their own functions.
_ONLY_OF = {
    "t": ("inverse-density", "equilibrium"),
    "cap": ("equilibrium",),
    "tolerance": ("equilibrium",),
    "max_seconds": ("equilibrium",),
    "memory": ("equilibrium",),
    "seed": ("cluster-balanced",),
}


@dataclass(frozen=True)
class Request:
    """What a user asked for, validated; `config` is the part of it that decides the weights.

    Attributes:
        method: a name in `METHODS`.
        hygiene: with the floor on the ESS that the equilibrium has by default.
        collapse, near: which samples count as one.
        options: those that the method's own function takes.
        t: None where the method has no bandwidth.
        cap: as a multiple of the mean weight.
        tolerance, max_seconds, memory, seed: as in `Case`.
    """

    method: str
    hygiene: Hygiene
    collapse: str
    near: float = NEAR
    options: dict[str, Any] = field(default_factory=dict)
    t: float | None = None
    cap: float | None = None
    tolerance: float = 1e-3
    max_seconds: float | None = None
    memory: str | int = "4GiB"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.t is not None:
            check_bandwidth(self.t)
        require_tolerance(self.tolerance)
        parse_bytes(self.memory)
        seconds = self.max_seconds
        if seconds is not None and not 0 <= seconds < np.inf:
            raise KdbiasError(f"max_seconds {seconds:g} is not a time; choose a number >= 0, or leave it out")
        if self.cap is not None and not self.cap < np.inf:
            raise KdbiasError(f"cap {self.cap:g} limits nothing; leave it out")

    @property
    def min_ess(self) -> float | None:
        """The floor on the ESS, None for none."""
        return self.hygiene.min_ess or None

    @property
    def config(self) -> dict[str, Any]:
        config = {
            "method": self.method,
            "t": self.t,
            "temper": self.hygiene.temper,
            "clip": self.hygiene.clip,
            "mix": self.hygiene.mix,
            "min_ess": self.min_ess,
            "cap": self.cap,
            "collapse": self.collapse,
            **self.options,
        }
        if self.collapse == "near":
            config["near"] = self.near
        if self.method == "cluster-balanced":
            config["seed"] = self.seed
        if self.method == "equilibrium":  # how far it is solved is part of what it is
            config |= {"tolerance": self.tolerance, "max_seconds": self.max_seconds}
        return config


def parse_request(
    density: DensityTable,
    method: str,
    hygiene: Hygiene,
    collapse: str | None,
    near: float | None,
    given: dict[str, Any],
) -> Request:
    """Validate what was asked for, and fill in the defaults.

    Args:
        given: options that only some methods have, None where the user gave none.

    Raises:
        KdbiasError: a bad value, or an option that would be without effect.
    """
    if method not in METHODS:
        raise KdbiasError(f"unknown method {method!r}; choose one of {', '.join(METHODS)}")
    given = {name: value for name, value in given.items() if value is not None}
    own = list(inspect.signature(METHODS[method]).parameters)[1:]
    common = [name for name, methods in _ONLY_OF.items() if method in methods]
    foreign = [name for name in given if name not in own + common]
    if foreign:
        known = ", ".join(common + own) or "none"
        way_out = "use clip" if foreign[0] == "cap" else "leave it out"
        raise KdbiasError(f"method {method} has no option {foreign[0]} (it has: {known}); {way_out}")
    collapse = collapse or ("none" if method == "natural" else "exact")
    if near is not None and collapse != "near":
        raise KdbiasError(f"near {near:g} is for collapse near, not {collapse}; choose that or leave it out")
    if method == "equilibrium" and hygiene.min_ess is None:
        hygiene = replace(hygiene, min_ess=EQUILIBRIUM_MIN_ESS)
    if "clusters" in given:
        given["clusters"] = [int(k) for k in given["clusters"]]
    request = Request(
        method,
        hygiene,
        collapse,
        NEAR if near is None else near,
        options={name: given[name] for name in own if name in given},
        **{name: given[name] for name in common if name in given},
    )
    if "t" in common and request.t is None:
        request = replace(request, t=chosen_bandwidth(density))
    return request


def require_tolerance(tolerance: float) -> None:
    if not 0 < tolerance < np.inf:
        raise KdbiasError(
            f"tolerance {tolerance:g} is not a share of the gain; choose a number > 0, such as 0.001"
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
    restored where other steps broke them (a temper above 1 does), so that its gap remains a proof. No mass is
    left so small that it would never be drawn.
    """
    n, hygiene = len(groups.group), request.hygiene
    if scheme.equilibrium is not None:
        if replace(hygiene, min_ess=None) == Hygiene():
            return scheme.values
        limits = [limit for limit in (hygiene.clip, request.cap) if limit is not None]
        hygiene = replace(hygiene, clip=min(limits, default=None))
    return hygiene.limits(groups.distinct, n).without_noise(hygiene.apply(scheme.values, n), groups.least)
