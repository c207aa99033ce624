"""The weights that an advice speaks of, where they lie in a file already: they have numbers of their own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from kdbias.advice.data import Data
from kdbias.advice.matching import Comparison, Offer
from kdbias.errors import KdbiasError
from kdbias.sphere.equilibrium.kernel_matrix import LADDER
from kdbias.tables.provenance import inputs_in, options_in
from kdbias.tables.weight_manifest import WeightManifest, read_manifest
from kdbias.weighting.diagnostics import current, edited

_USUAL = {"method": "matched", "t": list(LADDER), "temper": 1.0, "clip": None, "mix": 0.0, "cap": None}
_USUAL |= {"collapse": "exact", "near": None, "suspects": None, "penalty": "square", "stop": "noise"}
"""What weights that an advice speaks of are made with, whatever their floor."""


@dataclass(frozen=True)
class Written:
    """A manifest of the advised draws.

    Attributes:
        manifest: as it was read.
        measured: its entry of ``schemes`` in `uniformity.json`; None where it was not measured.
    """

    manifest: WeightManifest
    measured: dict[str, Any] | None

    @cached_property
    def offer(self) -> Offer:
        """What it does: as it was measured, so that every table says the same, else as it was made."""
        made = self.manifest.provenance["target"]
        seen = None if self.measured is None else self.measured["discrepancy"]
        value, removed = (made["discrepancy"] if seen is None else seen["value"]), (seen or made)["removed"]
        return Offer(
            min_ess=self.manifest.provenance["config"]["min_ess"] or 0.0,
            ess_share=current(self.manifest)["ess_share"],
            discrepancy=value,
            removed=removed or 0.0,
            bound=made["bound"],
        )

    @property
    def masses(self) -> np.ndarray:
        """(n,) probabilities of all samples, in the manifest's order."""
        return self.manifest.weights / self.manifest.weights.sum()

    @property
    def path(self) -> Path:
        """The file."""
        return self.manifest.path


def written(candidates: Iterable[Path], data: Data, against: Comparison | None) -> Written | None:
    """The first of some files that holds the advised weights of the measured data; None where none does."""
    document, target = data.measured, None if against is None else against.remembered
    if document is None or target is None or data.density is None:
        return None
    for path in candidates:
        try:
            manifest = read_manifest(path)
        except KdbiasError:  # gone since it was measured, or another file by now
            continue
        if _is_advised(manifest, data.density.fingerprint, target):
            same = (s for s in document["schemes"] if s["fingerprint"] == manifest.fingerprint)
            return Written(manifest, next(same, None))
    return None


def measured_manifests(data: Data) -> list[Path]:
    """The files of the schemes that the data were measured by, where they lie now."""
    if data.measured is None or data.density is None:
        return []
    named = [scheme["weights"] for scheme in data.measured["schemes"] if scheme["weights"]]
    beside = data.density.path.parent.parent
    return [place for text in named for place in (beside / Path(text).name, Path(text)) if place.exists()]


def _is_advised(manifest: WeightManifest, density: str, target: dict[str, Any]) -> bool:
    """Whether a manifest is of these data, towards this target, and as it was made by the usual options."""
    record, config = manifest.provenance, options_in(manifest.provenance)
    inputs = inputs_in(record)
    given = {name: value for name, value in inputs.items() if name.startswith("towards")}
    made = record.get("target") or {}
    return (
        inputs.get("density") == density
        and not edited(manifest, current(manifest))
        and all(config.get(name, value) == value for name, value in _USUAL.items())
        and (given, *(made.get(k) for k in ("kind", "with", "cluster_by")))
        == (target["fingerprints"], *(target.get(k) for k in ("kind", "with", "cluster_by")))
    )
