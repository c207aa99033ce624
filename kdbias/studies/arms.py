"""What a study compares, and what it judges by. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kdbias.errors import KdbiasError
from kdbias.nested_settings import Named, keys
from kdbias.settings import option
from kdbias.targets.settings import SPHERE

BASELINE = "natural"
REFERENCE = "@reference"
_BY_LABEL = ("class-balanced", "effective-number", "hard")


@dataclass(frozen=True, kw_only=True)
class Arm(Named):
    """One way to draw and train."""

    weights: Mapping[str, Any] = keys(
        "options of `kdbias.weights`; the method is natural by default, matched where `towards` is named: "
        "`@reference` (the data set's first), `@reference:NAME`, balanced:COLUMN or sphere"
    )
    train: Mapping[str, Any] = keys("options of `kdbias.train` that this arm alone has")
    scratch: bool = option(False, "learn from labels alone, with the data set's `scratch` options")

    @property
    def manifest(self) -> dict[str, Any]:
        """Options of `kdbias.weights`, the method among them."""
        return {"method": "natural" if self.towards is None else "matched", **self.weights}

    @property
    def towards(self) -> str | None:
        """The target as it is named; None for none."""
        return self.weights.get("towards")

    @property
    def needs(self) -> str:
        """What it must be given beside the data: "labels" (or another column), "a reference" or "nothing"."""
        of_labels = self.manifest["method"] in _BY_LABEL or "with_column" in self.weights
        if self.scratch or of_labels or (self.towards or "").startswith("balanced:"):
            return "labels"
        return "nothing" if self.towards in (None, SPHERE) else "a reference"

    def check(self) -> None:
        """Refuse a target whose file would not count in the name of a run."""
        require_target(self.towards, self.place)


@dataclass(frozen=True, kw_only=True)
class Judge(Named):
    """One evaluation of every student: a protocol of `kdbias.evaluate`, its options, maybe own data."""

    protocol: str = option(text="of `kdbias.evaluate`")
    data: str | None = option(None, "another data set to embed and judge on")
    options: Mapping[str, Any] = keys(
        "of `kdbias.evaluate`; `@teacher`: the teacher's embeddings of all samples, `@draw`: of the biased "
        "training samples, `@density`: the density table of all samples"
    )

    @property
    def in_teacher_space(self) -> bool:
        """Whether a student that never saw the teacher cannot be judged."""
        return "@teacher" in (self.options.get("reference"), self.options.get("gallery"))


def require_target(towards: Any, place: str) -> None:
    """Refuse a target that names a file: its content would not count in the name of a run."""
    if towards is None:
        return
    kind, _, what = str(towards).partition(":")
    if not (kind in (REFERENCE, SPHERE) or (kind == "balanced" and what and "@" not in what)):
        raise KdbiasError(
            f"{place}: towards {towards!r} should be @reference, @reference:NAME, balanced:COLUMN or sphere"
        )
