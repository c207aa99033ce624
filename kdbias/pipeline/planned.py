"""What a run would take, stage by stage."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kdbias.device import resolve_device
from kdbias.measurement.planned import plan_uniformity
from kdbias.measurement.settings import UniformitySettings
from kdbias.pipeline.steps import Steps
from kdbias.planning import Planned
from kdbias.weighting.planned import plan_weights
from kdbias.weighting.settings import WeightsSettings


def plan_run(steps: Steps) -> Iterator[Planned]:
    """The plans of the stages, with what they would be given; only images are looked at."""
    sizes: list[tuple[int, int]] = []
    for step in steps.all():
        if step.stage == "embed":
            found: Any = step.run(plan=True)
            sizes.append((found.samples, found.dim))
            yield found.planned
            continue
        n, d = sizes[-1]
        if step.stage == "uniformity":
            again = {"rectification": "none"} if "weights" in step.options else {}  # it is known by then
            settings = UniformitySettings.of({**step.options, **again})
            yield plan_uniformity(n, d, settings, resolve_device(settings.device), step.output)
        else:
            yield plan_weights(n, d, WeightsSettings.of(step.options), step.output)
    yield Planned("report", "one page", None, "some seconds", None, [steps.page])
