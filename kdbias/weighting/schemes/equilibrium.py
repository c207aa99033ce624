"""The best weights there are: the distribution that sees its samples most evenly spread."""

import time

import numpy as np

from kdbias import progress
from kdbias.sphere.equilibrium import solve
from kdbias.weighting.case import Case, Scheme

_LINE_EVERY_SECONDS = 10.0


def equilibrium(case: Case) -> Scheme:
    """The minimiser of p'Kp at bandwidth t under the floor on the ESS and the cap."""
    began = last = time.monotonic()
    kernel = case.kernel
    progress.say(f"equilibrium of {case.m:,} distinct samples at t={case.t:g}: {kernel.description}")

    def tell(iteration: int, energy: float, gap: float) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > _LINE_EVERY_SECONDS:
            last = now
            progress.say(
                f"equilibrium: {iteration:,} iterations in {now - began:,.0f} s, energy {energy:.6g}, "
                f"at most {gap:.2g} above the best"
            )

    result = solve(
        kernel,
        min_ess=case.min_ess,
        cap=case.cap,
        duplicates=case.groups,
        tolerance=case.tolerance,
        max_seconds=case.max_seconds,
        progress=tell,
    )

    def energy(masses: np.ndarray) -> float:
        return float(masses @ kernel.apply(masses, exact=True))

    return Scheme(case.groups.collapse(result.p), {"kernel": kernel.description}, result, energy)
