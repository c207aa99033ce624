"""The learning rate as a function of the step: warm-up, then a decay."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from kdbias.errors import KdbiasError

# name -> factor at progress 0 <= x <= 1 of the steps after the warm-up
DECAYS: dict[str, Callable[[float, Sequence[float]], float]] = {
    "cosine": lambda x, milestones: 0.5 * (1 + math.cos(math.pi * x)),
    "linear": lambda x, milestones: 1 - x,
    "step": lambda x, milestones: 0.1 ** sum(x >= m for m in milestones),
    "constant": lambda x, milestones: 1.0,
}


def rate_factor(
    step: int, steps: int, schedule: str, warmup_steps: int = 0, milestones: Sequence[float] = ()
) -> float:
    """Factor in (0, 1] on the learning rate for `step` (0 .. steps-1).

    The rate rises linearly over the first `warmup_steps`, by 1 / (warmup_steps + 1) a step, so that the first
    step after them has the whole of it; then "cosine" and "linear" fall to nearly 0 at the end, "step"
    divides by ten at each milestone (fractions of the whole run).
    """
    if schedule not in DECAYS:
        raise KdbiasError(f"unknown schedule {schedule!r}; known: {', '.join(DECAYS)}")
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if schedule == "step":
        return DECAYS["step"](step / steps, milestones)
    return DECAYS[schedule]((step - warmup_steps) / max(1, steps - warmup_steps), milestones)
