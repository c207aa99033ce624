"""What a run would take, stage by stage."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from kdbias.device import resolve_device
from kdbias.measurement.planned import plan_uniformity
from kdbias.measurement.settings import UniformitySettings
from kdbias.pipeline.steps import Steps
from kdbias.planning import Planned
from kdbias.targets.settings import Named
from kdbias.weighting.planned import plan_weights
from kdbias.weighting.settings import WeightsSettings


def plan_run(steps: Steps) -> Iterator[Planned]:
    """The plans of the stages, with what they would be given; only images are looked at."""
    sizes: list[tuple[int, int]] = []
    for step in steps.all():
        named = [step.source, *step.options.get("weights", ()), *_table_of(step.options.get("towards"))]
        if step.stage != "embed" and all(map(os.path.exists, named)):
            yield step.run(plan=True).planned
        elif step.stage == "embed":
            found: Any = step.run(plan=True)
            sizes.append((found.samples, found.dim))
            yield found.planned
        elif step.stage == "uniformity":
            n, d = sizes[-1]
            again = {"rectification": "none"} if "weights" in step.options else {}  # it is known by then
            settings = UniformitySettings.of({**step.options, **again})
            yield plan_uniformity(n, d, settings, resolve_device(settings.device), step.output)
        else:
            yield plan_weights(*sizes[-1], WeightsSettings.of(step.options), step.output)
    yield Planned("report", "one page", None, "some seconds", None, [steps.page])


def _table_of(towards: str | None) -> list[str]:
    """The embedding table that a target is."""
    named = None if towards is None else Named.of(towards)
    return [named.what] if named is not None and named.kind == "reference" else []
