"""Every option of `uniformity`: its default, its meaning and its limits. Imports nothing heavy."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kdbias import shared_options as shared
from kdbias.engine.settings import Engines
from kdbias.errors import KdbiasError
from kdbias.settings import Settings, option
from kdbias.targets.settings import Aiming

# Below, float32 hardly tells exp(-t |x - y|^2) from 1; beyond, cosines that are rounded to float32 are not
# exact enough for it any more, and the null's series gets long.
_LEAST, _MOST = 1e-3, 1e3
_USUAL_K = 64
IMAGE_WORDS = ("blank", "dark", "overexposed", "tiny", "odd-sized")
"""What an image may look like that is suspect by itself."""
SUSPECT_WORDS = (*IMAGE_WORDS, "isolated", "label")
"""What stands in the column ``suspect`` of a density table, separated by blanks."""
_LATER = {declared.name for declared in Aiming.declared()}


def parse_bandwidths(t: str | float | Sequence[float], word: str = "auto") -> str | tuple[float, ...]:
    """``word``, or ``"2,5,10"``, a number or a sequence of numbers as distinct floats in that order.

    Raises:
        KdbiasError: something that is not a number from 0.001 to 1,000.
    """
    parts: Any = t
    if isinstance(t, str):
        if t.strip().lower() == word:
            return word
        parts = [part for part in t.split(",") if part.strip()]
    try:
        given = [parts] if isinstance(parts, numbers.Real) else list(parts)
        values = [] if bool in map(type, given) else [float(part) for part in given]
    except (TypeError, ValueError):
        values = []
    if not values:
        raise KdbiasError(f"--t {t!r} is neither {word} nor a list of numbers such as 2,5,10")
    for value in values:
        check_bandwidth(value)
    # Columns are named by six digits; two bandwidths that differ by less are the same.
    return tuple(dict.fromkeys(float(f"{v:g}") for v in values))


def check_bandwidth(t: float) -> None:
    """Refuse a bandwidth at which float32 measures nothing."""
    if not _LEAST <= t <= _MOST:
        raise KdbiasError(f"--t {t:g} is not a bandwidth from {_LEAST:g} to {_MOST:g}, such as 2, 5 or 10")


@dataclass(frozen=True, kw_only=True)
class SuspectsSettings(Settings):
    """Which suspects to list."""

    name = "suspects"

    kind: tuple[str, ...] = option(
        (),
        "those of this kind alone; repeatable",
        choices=(*SUSPECT_WORDS, "near-duplicate"),
        shown="all",
    )


@dataclass(frozen=True, kw_only=True)
class _Measuring(Aiming):
    weights: tuple[str, ...] = option(
        (),
        "measure the data as this manifest would sample it, too; repeatable",
        metavar="W.parquet",
        path=True,
    )
    k: int | None = option(None, "neighbours a sample", least=1, shown="64, or n-1 if smaller")
    t: str | tuple[float, ...] = option(
        "auto",
        "bandwidth(s), the first of which is that of log_density",
        parse=parse_bandwidths,
        metavar="auto|2,5,10",
        accepts="str | float | Sequence[float]",
    )
    search: str = option(
        "exact",
        "how pairs are seen; exact: all; ivf: estimates with intervals, which pay from some 30,000 samples; "
        "hnsw: the same by a graph that may miss isolated samples",
        choices=("exact", "ivf", "hnsw"),
    )
    estimator: str | None = option(
        None,
        "what log_density is; another one is computed from what is stored",
        choices=("potential", "knn", "vmf"),
        shown="potential",
        operational=True,
    )
    exponent: float | None = option(
        None,
        "power of the distance of estimator knn",
        above=0,
        shown="the intrinsic dimension",
        operational=True,
    )
    device: str = shared.device("where to compute")
    precision: str = option(
        "float32",
        "of potentials on CUDA; tf32 and bf16 are less exact, and for GPUs without Triton",
        choices=("float32", "tf32", "bf16"),
    )
    memory: int = shared.memory()
    threads: int | None = shared.threads()
    group_by: tuple[str, ...] = shared.group_by(operational=True)
    rectification: str = option(
        "auto",
        "at which bandwidths to search the best re-weighting; auto: the chosen one, nothing more in a folder "
        "that is finished. all and chosen may be asked for later",
        choices=("auto", "all", "chosen", "none"),
    )
    keep_neighbors: bool = option(False, "write neighbors.parquet", operational=True)
    seed: int = option(0, "seed of the samples that are drawn", least=0)
    block_rows: int | None = shared.block_rows(
        "as many as --memory and 8 units a slot allow; one block where that is all and runs here"
    )
    plan: bool = option(False, "print units, bytes and hours of the pass, then stop", operational=True)

    def check(self) -> None:
        """Refuse options that contradict each other."""
        super().check()
        if self.exponent is not None and self.estimator != "knn":
            raise KdbiasError(
                f"--exponent {self.exponent:g} is of --estimator knn; add that, or leave it out"
            )
        shared.refuse_off_grid(self.block_rows)
        if self.search != "exact":
            self.refuse_idle({"precision": "an estimate is float32"})
        if self.search == "hnsw":
            without = "a graph is not made in blocks"
            self.refuse_idle({"plan": without, "block_rows": without})
            if self.device.startswith("cuda"):
                raise KdbiasError("--search hnsw runs on the CPU; use --device cpu, or --search exact or ivf")

    def neighbours(self, n: int) -> int:
        """k of n samples; raises KdbiasError where they have fewer others."""
        if self.k is not None and self.k >= n:
            raise KdbiasError(
                f"--k {self.k} neighbours of {n:,} samples do not exist; choose 1 <= k <= {n - 1:,}"
            )
        return min(_USUAL_K, n - 1) if self.k is None else self.k

    def record(self) -> dict[str, Any]:
        """What a run records; its target may be another one later."""
        return {key: value for key, value in super().record().items() if key not in _LATER}


@dataclass(frozen=True, kw_only=True)
class UniformitySettings(Engines, _Measuring):
    """How a table is measured; under which weights, by which groups and against what may be added later."""

    name = "uniformity"

    def check(self) -> None:
        """Refuse an engine for what has no units, and an estimate's units on a GPU."""
        super().check()
        units = self.engine_kind != "here" or self.block_rows is not None
        if self.search == "ivf" and units and self.device.startswith("cuda"):
            raise KdbiasError(
                f"--device {self.device} takes a whole estimate, and its units run on CPUs: leave out "
                "--device, or --engine and --block-rows"
            )
        if self.engine is not None and self.search == "hnsw" and self.engine_kind != "here":
            raise KdbiasError(
                f"--engine {self.engine} has no units of --search {self.search}; leave it out, or use "
                "--search exact or ivf"
            )
